"""The stage `validate`: a verdict, its place in the ledger of judgements, and what to try next."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edgeqrl import stages
from edgeqrl.agents.heads import ValueHead
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.diagnose.advice import advise
from edgeqrl.diagnose.case import PLACE, Case
from edgeqrl.environments import EnvironmentSpec, MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.interfaces import Policy
from edgeqrl.network.edges import AffineEdge, decode_actions
from edgeqrl.quantize.samples import network_samples, run_both
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.stages import Progress, Settings, silent
from edgeqrl.stages.artefacts import APPLIED_REWRITES, CALIBRATION_FACTS, CHOICE_SECTION, CONTRACT_SECTION
from edgeqrl.stages.ledger import (
    chosen_seeds,
    diagnosed_seeds,
    find_judgement,
    judged_seeds,
    judgements_of,
    learned_seeds,
    record_judgement,
)
from edgeqrl.stages.ranges import COVERAGE_SECTION, WatchedPolicy
from edgeqrl.validate.criteria import Verdict
from edgeqrl.validate.values import value_agreement
from edgeqrl.validate.verdict import agreement_on, validate

_STATES = {"random": "random actions", "minari": "recorded"}  # what the report calls a source
_NO_ACTIONS = (
    "A value network chooses no actions, so there is no return to judge and no verdict; "
    "the section `values` says how far its values and their order differ."
)


def add_validation(
    bundle: Bundle,
    float_policy: Policy,
    quantized_policy: Policy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    calibration: CalibrationSet,
    stated: Mapping[str, Any] | None = None,
    more: Callable[[], Mapping[str, Any]] = dict,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Judge the quantized policy, on episodes or, without an environment, on recorded observations.

    A judgement on episodes goes into the bundle's ledger: the next one has fresh seeds and half the level.
    `stated` is the environment that the command line named, as EnvironmentSpec.to_json, for commands.
    `more` is asked after the episodes for further sections of the report.
    """
    progress("validate", 0, 0)
    earlier = stages.read_report(bundle)
    report: dict[str, Any]
    if isinstance(stages.read_head(bundle), ValueHead):
        names = {"backend": quantized_policy.name, "float_backend": float_policy.name}
        report = {"verdict": None, "sentence": _NO_ACTIONS, **names}
    elif make_env is None:
        report = agreement_on(float_policy, quantized_policy, calibration.observations).to_json()
    else:
        report = _judged(
            bundle,
            float_policy,
            quantized_policy,
            settings,
            make_env,
            calibration=calibration,
            environment=stated or bundle.fact("environment"),
            progress=progress,
        )
    report |= {"head": bundle.fact("head"), "scheme": bundle.fact("scheme"), **more()}
    report |= value_facts(bundle, calibration)
    of_bundle = (CALIBRATION_FACTS, APPLIED_REWRITES)  # those of earlier versions have none
    report |= {name: bundle.facts[name] for name in of_bundle if name in bundle.facts}
    advice = advise(case_of(bundle, calibration, stated), report)
    report["next"] = {"sentence": advice.sentence, "command": advice.command}
    if not earlier.get(CHOICE_SECTION, {"holds": True})["holds"]:  # never silently
        report["sentence"] = f"{report['sentence']} {earlier[CHOICE_SECTION]['sentence']}"
    others = (CHOICE_SECTION, CONTRACT_SECTION, *stages.FIRMWARE_SECTIONS)
    kept = {name: found for name, found in earlier.items() if name in others}
    stages.write_report(bundle, report | kept)
    return report


def _judged(
    bundle: Bundle,
    float_policy: Policy,
    quantized_policy: Policy,
    settings: Settings,
    make_env: MakeEnv,
    *,
    calibration: CalibrationSet,
    environment: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Judge by episodes, as the ledger says which judgement it is, and write it there."""
    declared = settings.declared
    judgement = find_judgement(
        bundle,
        policy_sha256=bundle.sha256_of(stages.TFLITE),
        environment=environment,
        backends=(quantized_policy.name, float_policy.name),
        declared=declared,
        seed=settings.validation_seed,
    )
    others = (
        *judged_seeds(bundle, but=judgement.number),
        *diagnosed_seeds(bundle),
        *chosen_seeds(bundle),
        *learned_seeds(bundle),
    )
    policy = stages.read_quantized(bundle).integer_policy(is_masked=bundle.fact("is_masked"))
    watched = WatchedPolicy(quantized_policy, policy)
    report = validate(
        float_policy,
        watched,
        make_env,
        declared=declared,
        num_episodes=max(settings.episodes, judgement.num_played),
        judgement=judgement.number,
        seed=judgement.seed,
        other_seeds=[*calibration.seeds, *others],
        progress=partial(progress, "validate"),
    ).to_json()
    if report["verdict"] != Verdict.NOTHING_TO_PRESERVE:  # else nothing was judged
        record_judgement(bundle, judgement, declared, report["seeds"], report["verdict"])
    report["judgements"] = len(judgements_of(bundle))
    report[COVERAGE_SECTION] = watched.coverage()
    return report


def value_facts(bundle: Bundle, calibration: CalibrationSet) -> dict[str, Any]:
    """Return the section `values`: how the integer network's values differ, on the calibration's rows.

    The networks are given the same rows, states included. Empty for policies without values.
    """
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    edges = {value.name: (value.output, value.edge) for value in policy.values}
    if isinstance(quantized.head, ValueHead):
        assert isinstance(policy.action, AffineEdge)
        edges = {quantized.head.output_names[0]: (policy.network.outputs[0], policy.action), **edges}
    if not edges:
        return {}
    samples = network_samples(quantized, calibration)
    in_float, integers = run_both(quantized, samples)
    agreements, is_alone = {}, isinstance(quantized.head, ValueHead)
    source = "random" if is_alone and calibration.seeds else calibration.source
    states = _STATES.get(source, source)
    for name, (output, edge) in edges.items():
        decoded = decode_actions(edge, integers[output])
        columns = decoded.reshape(len(decoded), -1).T
        wanted = in_float[output].reshape(len(decoded), -1).T
        step = policy.network.tensors[output].scale
        for at, (exact, found) in enumerate(zip(wanted, columns, strict=True)):
            label = name if len(columns) == 1 else f"{name}_{at}"
            agreements[label] = value_agreement(label, exact, found, step=step, states=states).to_json()
    return {"values": agreements}


def case_of(bundle: Bundle, calibration: CalibrationSet, stated: Mapping[str, Any] | None = None) -> Case:
    """Return what advice needs to know of a bundle; `stated` is the environment of the command line."""
    facts = bundle.facts.get("environment")
    if stated is None and facts is not None and not facts.get("is_callable"):
        try:
            EnvironmentSpec.from_json(facts)
        except UsageError:
            stated = facts  # imports code, so every command must name it
    manifest = bundle.manifest()
    again = Scheme.from_json(manifest["scheme"]).options() if "scheme" in manifest else []
    return Case.of_manifest(PLACE, manifest, len(calibration.seeds) or None, stated, again)
