"""The stage `validate`: a verdict, its place in the ledger of judgements, and what to try next."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edgeqrl import stages
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.diagnose.advice import advise
from edgeqrl.diagnose.case import PLACE, Case
from edgeqrl.environments import EnvironmentSpec, MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.interfaces import Policy
from edgeqrl.stages import Progress, Settings, silent
from edgeqrl.stages.artefacts import CONTRACT_SECTION
from edgeqrl.stages.ledger import (
    diagnosed_seeds,
    find_judgement,
    judged_seeds,
    judgements_of,
    record_judgement,
)
from edgeqrl.validate.criteria import Verdict
from edgeqrl.validate.verdict import agreement_on, validate


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
    if make_env is None:
        report = agreement_on(float_policy, quantized_policy, calibration.observations).to_json()
    else:
        declared = settings.declared
        judgement = find_judgement(
            bundle,
            policy_sha256=bundle.sha256_of(stages.TFLITE),
            environment=stated or bundle.fact("environment"),
            backends=(quantized_policy.name, float_policy.name),
            declared=declared,
            seed=settings.validation_seed,
        )
        report = validate(
            float_policy,
            quantized_policy,
            make_env,
            declared=declared,
            num_episodes=max(settings.episodes, judgement.num_played),
            judgement=judgement.number,
            seed=judgement.seed,
            other_seeds=[
                *calibration.seeds,
                *judged_seeds(bundle, but=judgement.number),
                *diagnosed_seeds(bundle),
            ],
            progress=partial(progress, "validate"),
        ).to_json()
        if report["verdict"] != Verdict.NOTHING_TO_PRESERVE:  # else nothing was judged
            record_judgement(bundle, judgement, declared, report["seeds"], report["verdict"])
        report["judgements"] = len(judgements_of(bundle))
    report |= {"head": bundle.fact("head"), "scheme": bundle.fact("scheme"), **more()}
    advice = advise(case_of(bundle, calibration, stated), report)
    report["next"] = {"sentence": advice.sentence, "command": advice.command}
    others = (CONTRACT_SECTION, *stages.FIRMWARE_SECTIONS)
    kept = {name: found for name, found in earlier.items() if name in others}
    stages.write_report(bundle, report | kept)
    return report


def case_of(bundle: Bundle, calibration: CalibrationSet, stated: Mapping[str, Any] | None = None) -> Case:
    """Return what advice needs to know of a bundle; `stated` is the environment of the command line."""
    facts = bundle.facts.get("environment")
    if stated is None and facts is not None and not facts.get("is_callable"):
        try:
            EnvironmentSpec.from_json(facts)
        except UsageError:
            stated = facts  # imports code, so every command must name it
    return Case.of_manifest(PLACE, bundle.manifest(), len(calibration.seeds) or None, stated)
