"""The stage that makes a policy integer by a scheme that is chosen: by returns, under a board's budget.

What was chosen for an agent, an environment and a board stays in the manifest and is taken again.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeqrl.agents.heads import ValueHead
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BoardFitError, DataError, UsageError
from edgeqrl.files import sha256
from edgeqrl.interfaces import Policy
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.tflite_model import parse_tflite
from edgeqrl.quantize.learned import Learning
from edgeqrl.quantize.matching import float_twins
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.trained import is_fake_quantized, require_trained_scheme, trained_scheme
from edgeqrl.search.candidate import Built, Task
from edgeqrl.search.choice import Choice, facts_of
from edgeqrl.search.costs import Costs, core_of, costs_of
from edgeqrl.search.episodes import ChoosingEpisodes
from edgeqrl.search.ladder import climb
from edgeqrl.search.options import SearchOptions
from edgeqrl.search.study import require_study, run_study
from edgeqrl.stages.artefacts import (
    CALIBRATION,
    CHOICE_SECTION,
    read_head,
    read_preprocessing,
    read_report,
    write_report,
)
from edgeqrl.stages.contract import read_contract_facts
from edgeqrl.stages.conversion import add_quantized, keep_quantized, require_policy_fits
from edgeqrl.stages.ledger import find_choice, judged_seeds, judgements_of, record_choice, record_learned
from edgeqrl.stages.packing import order_for_board
from edgeqrl.stages.settings import Progress, Settings, silent
from edgeqrl.validate.verdict import baseline_seeds_of, require_disjoint

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent
    from edgeqrl.quantize.tflite import Converter
    from firmware_export.board import Board


def choose_quantized(
    bundle: Bundle,
    agent: "Agent",
    float_policy: Policy,
    calibration: CalibrationSet,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    board: "Board | None" = None,
    converter: "Converter | None" = None,
    progress: Progress = silent,
) -> QuantizedPolicy:
    """Quantize by the scheme of the settings or, if they ask for a search, by the one that it finds.

    Raises UsageError where there is no return to choose by, and BoardFitError where nothing fits the board.
    """
    require_possible(bundle, agent, settings, make_env)
    if settings.search is None:
        return add_quantized(
            bundle, agent, calibration, settings, make_env=make_env, converter=converter, progress=progress
        )
    key = choice_key(bundle, settings, board)
    assert make_env is not None
    learning = replace(settings.learning, make_env=make_env)
    make = partial(_quantize, agent, calibration, converter, learning, progress)
    reused = None if settings.search.study is not None else _chosen_before(bundle, key, make)
    if reused is not None:
        quantized, section = reused
    else:
        choice = _search(
            bundle,
            float_policy,
            calibration,
            settings,
            make,
            key,
            make_env=make_env,
            board=board,
            progress=progress,
        )
        section = choice.to_json()
        quantized = choice.built.quantized
        record_choice(bundle, key, section, is_kept=settings.search.study is None)
    if quantized.scheme.learned:
        record_learned(bundle, learning.seeds)
    keep_quantized(bundle, quantized)
    write_report(bundle, read_report(bundle) | {CHOICE_SECTION: section})
    return quantized


def require_possible(bundle: Bundle, agent: "Agent", settings: Settings, make_env: MakeEnv | None) -> None:
    """Raise UsageError for a scheme that this agent cannot have, or that cannot be chosen: it says no more
    once it has calibrated.
    """
    if settings.search is not None:
        require_choosable(bundle, agent, make_env)
    elif not is_fake_quantized(agent):
        settings.require_few_bits()
    elif settings.scheme is not None:
        require_trained_scheme(agent, settings.scheme)


def choice_key(bundle: Bundle, settings: Settings, board: "Board | None") -> dict[str, Any]:
    """Return what a choice is for, as plain JSON values: the same gives the same."""
    assert settings.search is not None
    learning = settings.learning
    return {
        "agent": bundle.fact("weights_sha256"),
        "head": bundle.fact("head"),
        "environment": bundle.fact("environment"),
        "board": None if board is None else _budget_of(board),
        "control_period_s": read_contract_facts(bundle).control_period_s,
        "terms": settings.declared.canonical(),
        "calibration": bundle.sha256_of(CALIBRATION),
        "preprocessing": read_preprocessing(bundle).to_json(),
        "learned": [learning.rounds, learning.steps, learning.episodes, learning.seed],
        "is_unpacked": settings.is_unpacked,
        **({} if board is None else _placement_of(board, settings)),
        **settings.search.asked(),
    }


def _placement_of(board: "Board", settings: Settings) -> dict[str, Any]:
    """Return where parts of the policy go that do not lie with the image: it decides on room and time."""
    placed = {**dict(board.placement), **settings.placement}
    return {"placement": placed} if placed else {}


def _budget_of(board: "Board") -> dict[str, Any]:
    """Return what a choice depends on of a board: its file may change, or be another's of the same name."""
    return {
        "name": board.name,
        "core": board.core,
        "clock_hz": board.clock_hz,
        "flash_bytes": board.flash_bytes,
        "ram_bytes": board.ram_bytes,
    }


def require_choosable(bundle: Bundle, agent: "Agent", make_env: MakeEnv | None) -> None:
    """Raise UsageError where there is nothing to choose, or nothing to choose by."""
    if make_env is None:
        raise UsageError(
            "A scheme is chosen by the return, and recorded observations tell none: give an environment with "
            "--env, or name a scheme."
        )
    if isinstance(read_head(bundle), ValueHead):
        raise UsageError("A value network has no return to choose a scheme by: name one with --scheme.")
    trained = trained_scheme(agent)
    if trained is not None:
        raise UsageError(
            f"The agent was trained with fake quantization, so its scheme is fixed ({trained.label}): there "
            "is nothing to choose. Leave out --scheme."
        )


def _search(
    bundle: Bundle,
    float_policy: Policy,
    calibration: CalibrationSet,
    settings: Settings,
    make: Callable[[Scheme], QuantizedPolicy],
    key: Mapping[str, Any],
    *,
    make_env: MakeEnv,
    board: "Board | None",
    progress: Progress,
) -> Choice:
    options = settings.search
    assert options is not None
    _require_fresh(bundle, calibration, options, replace(settings.learning, make_env=make_env))
    if options.study is not None:
        require_study(options.study, {**key, "calibration": _source_of(calibration, settings, key)})
    period = read_contract_facts(bundle).control_period_s
    episodes = ChoosingEpisodes(
        float_policy,
        make_env,
        declared=settings.declared,
        seed=options.seed,
        most=options.episodes,
        judged_episodes=settings.episodes,
        judgement=len(judgements_of(bundle)) + 1,
        tell=partial(progress, "choose"),
    )
    build = partial(
        _build,
        make,
        is_masked=bundle.fact("is_masked"),
        is_unpacked=settings.is_unpacked,
        board=board,
        period=period,
        placement=settings.placement,
    )
    task = Task(build, episodes, options, bool(bundle.facts.get("states")), progress)
    facts = facts_of(task, board=None if board is None else board.name, core=core_of(board))
    if options.study is None or not episodes.is_worth_preserving:
        return climb(task, facts)
    return run_study(task, options.study, facts)


def _require_fresh(
    bundle: Bundle, calibration: CalibrationSet, options: SearchOptions, learning: Learning
) -> None:
    """Raise UsageError where a seed that chooses has calibrated or judged, or is learned on."""
    choosing = [range(options.seed, options.seed + options.episodes), baseline_seeds_of(options.seed)]
    taken: list[int | range] = [*calibration.seeds, *judged_seeds(bundle)]
    taken += [learning.seeds] if options.learning else []
    require_disjoint({"choosing": choosing, "calibration, learning or a judgement": taken})


def _quantize(
    agent: "Agent",
    calibration: CalibrationSet,
    converter: "Converter | None",
    learning: Learning,
    progress: Progress,
    scheme: Scheme,
) -> QuantizedPolicy:
    return quantize(
        agent,
        calibration,
        scheme=scheme,
        converter=converter,
        learning=learning,
        progress=partial(progress, "learn"),
    )


def _build(
    make: Callable[[Scheme], QuantizedPolicy],
    scheme: Scheme,
    *,
    is_masked: bool,
    is_unpacked: bool,
    board: "Board | None",
    period: float | None,
    placement: Mapping[str, str],
) -> Built:
    """Make a candidate, and hold it against the board."""
    quantized = make(scheme)
    policy = quantized.integer_policy(is_masked=is_masked)
    if is_unpacked:
        policy = replace(policy, weight_bits=())
    costs = costs_of(policy, board)
    return Built(
        costs=costs,
        over_budget=budget_problem(
            replace(policy, order=order_for_board(board)), costs, board, period, placement
        ),
        sha256=sha256(quantized.tflite),
        layers=weighted_layers(quantized),
        open=lambda: HostCPolicy(policy),
        quantized=quantized,
    )


def budget_problem(
    policy: IntegerPolicy,
    costs: Costs,
    board: "Board | None",
    period: float | None,
    placement: Mapping[str, str] = MappingProxyType({}),
) -> str | None:
    """Return why a policy does not fit the board, or None; code and stack are counted by their allowance."""
    from firmware_export.fit import estimate_sizes, require_fits

    if board is None:
        return None
    try:
        require_policy_fits(policy, board, control_period_s=period, placement=placement)
        if board.kind == "mcu":
            require_fits(estimate_sizes(costs.flash_bytes, costs.ram_bytes, board, placement), board)
    except BoardFitError as error:
        return str(error)
    return None


def weighted_layers(quantized: QuantizedPolicy) -> tuple[str, ...]:
    """Return the layers that have weights, in order, by the tensor that each writes in the float network."""
    named = {twin.name for twin in float_twins(quantized.tflite, quantized.float_tflite).values()}
    model = parse_tflite(quantized.float_tflite)
    written = (model.tensors[i].name for op in model.operators for i in op.outputs)
    return tuple(name for name in written if name in named)


def _source_of(calibration: CalibrationSet, settings: Settings, key: Mapping[str, Any]) -> Any:
    """Return what tells a study's calibration: how it was played, for machines differ in the last bit."""
    if not calibration.seeds:  # recorded: the very observations
        return key["calibration"]
    states = [settings.calibration_source, settings.calibration_episodes, settings.calibration_states]
    return [*states, settings.calibration_seed]


def _chosen_before(
    bundle: Bundle, key: Mapping[str, Any], make: Callable[[Scheme], QuantizedPolicy]
) -> tuple[QuantizedPolicy, dict[str, Any]] | None:
    """Return the policy by the scheme that was chosen for the same before, and the section that says why.

    None: nothing was chosen, or another network comes of it now than the one that was played.
    """
    section = find_choice(bundle, key)
    if section is None:
        return None
    try:
        scheme, name = Scheme.from_json(section["scheme"]), section["winner"]
        played = next(tried["sha256"] for tried in section["candidates"] if tried["name"] == name)
    except (DataError, KeyError, StopIteration, TypeError) as error:
        raise DataError(f"The manifest of '{bundle}' states a damaged choice: {error!r}.") from error
    quantized = make(scheme)
    if sha256(quantized.tflite) != played:
        return None
    return quantized, {**section, "is_reused": True}
