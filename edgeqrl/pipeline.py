"""`convert`: the stages called in order, no logic."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from edgeqrl import __version__, stages
from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle, new_bundle, require_ours
from edgeqrl.calibration_sources import chosen_recording
from edgeqrl.contract import ContractOptions, contract_facts, require_fail_safe
from edgeqrl.data import data_folder
from edgeqrl.environments import EnvironmentSpec, MakeEnv, spaces
from edgeqrl.errors import UsageError, require_name
from edgeqrl.files import sha256, staged_folder, to_json_bytes
from edgeqrl.interfaces import Policy
from edgeqrl.quantize.quantize import QuantizedPolicy
from edgeqrl.quantize.tflite import Converter
from edgeqrl.requirements import require_tools
from edgeqrl.sources import AGENT_HASH, Source, agent_files, open_source, reload_agent
from edgeqrl.stages import Progress, Settings, silent
from edgeqrl.stages.choice import choose_quantized, require_possible
from edgeqrl.stages.ledger import earlier_facts, judgements_of
from edgeqrl.stages.validation import add_validation
from firmware_export.board import Board, load_board
from firmware_export.placement import require_placeable

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent


__all__ = [
    "AGENT_HASH",
    "Conversion",
    "Source",
    "agent_files",
    "begin",
    "calibrate_zoo_agent",
    "convert",
    "environment_of",
    "open_board",
    "reload_agent",
    "validate_bundle",
    "validate_played",
    "zoo_environment",
]

FLOAT_BACKENDS = ("keras", "litert")


@dataclass(frozen=True, eq=False)
class Conversion:
    """A finished conversion: where it lies and what was found."""

    folder: Path
    report: Mapping[str, Any] = field(repr=False)  # report.json

    @property
    def verdict(self) -> str | None:
        """PASS, FAIL, INCONCLUSIVE or NOTHING_TO_PRESERVE; None where no return was measured."""
        verdict = self.report.get("verdict")
        return None if verdict is None else str(verdict)


def convert(
    model: Any,
    environment: EnvironmentSpec | MakeEnv | str | None = None,
    *,
    board: str | Path | Board | None = None,
    output: str | Path,
    observations: Any = None,
    head: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    trust: bool = False,
    name: str | None = None,
    preprocessing: PreprocessingOptions | None = None,
    options: AgentOptions | None = None,
    contract: ContractOptions | None = None,
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Conversion:
    """Calibrate, quantize, validate, export, build and emulate; leave a bundle at `output`.

    `model` is a live Keras model, a path or `zoo:NAME`; `environment` an ID, a spec or a callable that
    makes a Gymnasium environment. Without an environment, `observations` [N, *shape] calibrate and no
    return is measured. Without a board the bundle ends with the C sources; with one the policy needs a
    fail-safe, known of the environment or stated in `contract`. A failed verdict leaves the bundle complete.
    `options` says how the model is to be read, `preprocessing` what happens before it; `head` and
    `action_bounds` are options by themselves, and go over those of `options`.
    Raises EdgeQRLError subclasses; `output` is then as it was before.
    """
    if isinstance(environment, str):
        environment = EnvironmentSpec(environment)
    options = options or AgentOptions()
    source = Source(
        model,
        environment,
        observations,
        trust,
        name,
        preprocessing or PreprocessingOptions(),
        replace(options, head=head or options.head, action_bounds=action_bounds or options.action_bounds),
    )
    settings = settings or Settings()
    if contract is not None:
        settings = replace(settings, contract=contract)
    target = open_board(board) if isinstance(board, str | Path) else board
    require_placeable(target, settings.placement)
    require_tools(target, settings.compiler)
    require_ours(Path(output))
    facts = contract_facts(source.make_env, settings.contract)
    if target is not None and target.kind != "library" and source.options.wants_policy:
        require_fail_safe(facts)
    with ExitStack() as stack:
        converter = stack.enter_context(Converter())  # imports TensorFlow beside us, meanwhile
        bundle = stack.enter_context(new_bundle(Path(output), earlier_facts(Path(output))))
        _convert(bundle, source, target, settings, converter, progress)
        report = stages.read_report(bundle)
    return Conversion(Path(output), report)


def _convert(
    bundle: Bundle,
    source: Source,
    target: Board | None,
    settings: Settings,
    converter: Converter,
    progress: Progress,
) -> None:
    """Call the stages in their order."""
    agent, float_policy = begin(bundle, source, settings, progress=progress)
    calibration = stages.read_calibration(bundle)
    quantized = choose_quantized(
        bundle,
        agent,
        float_policy,
        calibration,
        settings,
        make_env=source.make_env,
        board=target,
        converter=converter,
        progress=progress,
    )
    quantized = stages.add_int4(bundle, quantized, settings)
    policy = quantized.integer_policy(is_masked=bundle.facts["is_masked"])
    policy = stages.state_packing(bundle, policy, settings, target)
    if target is not None:
        period = stages.read_contract_facts(bundle).control_period_s
        stages.require_policy_fits(policy, target, control_period_s=period, placement=settings.placement)
    progress("validate", 0, 0)
    host = HostCPolicy(policy)
    stages.require_backends_agree(policy, host, calibration)
    add_validation(
        bundle,
        float_policy,
        host,
        settings,
        make_env=source.make_env,
        calibration=calibration,
        progress=progress,
    )
    stages.add_sources(bundle, policy, quantized.tflite, calibration, settings)
    if target is not None:
        stages.add_target(
            bundle,
            policy,
            target,
            host,
            settings,
            make_env=source.make_env,
            calibration=calibration,
            progress=progress,
        )


def begin(
    bundle: Bundle, source: Source, settings: Settings, *, progress: Progress = silent
) -> tuple["Agent", Any]:
    """Load the agent, roll it out, and start the bundle; return the agent and its float policy."""
    progress("load", 0, 0)
    recorded = chosen_recording(source.observations, settings.calibration_source)
    agent, files = open_source(source, None if recorded is None else recorded.observations)
    from edgeqrl.backends.keras import KerasPolicy

    float_policy = KerasPolicy(agent)
    bundle.facts |= {"environment": source.environment_facts(), "is_masked": False}
    if source.make_env is not None and agent.head.takes_masks:
        bundle.facts["is_masked"] = spaces(source.make_env).has_action_masks
    stages.add_agent(bundle, agent, files)
    stages.add_contract_facts(bundle, source.make_env, agent.head, settings)
    require_possible(bundle, agent, settings, source.make_env)
    progress("load", 1, 1)
    stages.add_calibration(
        bundle, float_policy, settings, make_env=source.make_env, recorded=recorded, progress=progress
    )
    return agent, float_policy


def open_board(board: str | Path) -> Board:
    """Return the board of this name, or of a .toml file."""
    return load_board(board, data_folder("boards"))


def environment_of(bundle: Bundle) -> EnvironmentSpec | None:
    """Return the environment that the manifest names; what would import code is refused."""
    facts = bundle.fact("environment")
    if facts is None:
        return None
    if facts.get("is_callable"):
        raise UsageError(f"The bundle '{bundle}' was made with a callable environment. Say which with --env.")
    return EnvironmentSpec.from_json(facts)


def quantize_bundle(
    bundle: Bundle,
    agent: "Agent",
    make_env: MakeEnv | None,
    settings: Settings,
    *,
    board: str | Path | None = None,
    converter: Converter,
    progress: Progress = silent,
) -> QuantizedPolicy:
    """Quantize the agent of a bundle on its calibration set.

    board  for which a scheme is chosen; by default the one that the bundle was last built for
    """
    from edgeqrl.backends.keras import KerasPolicy

    if board is not None and settings.search is None:
        raise UsageError("--board goes with --scheme auto: a scheme that is named is for any board.")
    quantized = choose_quantized(
        bundle,
        agent,
        KerasPolicy(agent),
        stages.read_calibration(bundle),
        settings,
        make_env=make_env,
        board=None if settings.search is None else board_of(bundle, board),
        converter=converter,
        progress=progress,
    )
    return stages.add_int4(bundle, quantized, settings)


def board_of(bundle: Bundle, stated: str | Path | None) -> Board | None:
    """Return the board that is stated, or else that of the bundle, if it was ever built for one."""
    if stated is not None:
        return open_board(stated)
    known = stages.last_board(bundle)
    if known is None:
        return None
    try:
        return open_board(known)
    except UsageError as error:
        raise UsageError(
            f"'{bundle}' was built for the board '{known}', which is none of ours: say where its file is, "
            "with --board FILE."
        ) from error


def validate_bundle(
    bundle: Bundle,
    make_env: MakeEnv | None,
    backend: str,
    settings: Settings,
    *,
    float_backend: str | None = None,
    trust: bool = False,
    stated: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Judge a bundle again; its float side is the float `.tflite` without TensorFlow, or its Keras agent.

    Without a stated `float_backend` it is that of the last judgement, if it can be had here.
    `stated` is the environment that the command line named, as EnvironmentSpec.to_json, for commands.
    """
    from edgeqrl.backends import open_policy

    stages.require_environment_fits(bundle, make_env)
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    with open_policy(backend, policy, quantized.tflite) as played:
        return validate_played(
            bundle,
            quantized,
            played,
            make_env,
            settings,
            float_backend=float_backend,
            trust=trust,
            stated=stated,
            progress=progress,
        )


def validate_played(
    bundle: Bundle,
    quantized: QuantizedPolicy,
    played: Policy,
    make_env: MakeEnv | None,
    settings: Settings,
    *,
    float_backend: str | None = None,
    trust: bool = False,
    stated: Mapping[str, Any] | None = None,
    more: Callable[[], Mapping[str, Any]] = dict,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Judge a bundle as `validate_bundle` does, by the opened policy `played`; `more` goes to the report."""
    with ExitStack() as stack:
        if (
            require_name("float backend", float_backend or _last_float_backend(bundle), FLOAT_BACKENDS)
            == "keras"
        ):
            from edgeqrl.backends.keras import KerasPolicy

            judge: Any = KerasPolicy(reload_agent(bundle, make_env, trust=trust))
        else:
            judge = stack.enter_context(stages.open_float_side(quantized))
        add_validation(
            bundle,
            judge,
            played,
            settings,
            make_env=make_env,
            calibration=stages.read_calibration(bundle),
            stated=stated,
            more=more,
            progress=progress,
        )
    return stages.read_report(bundle)


def _last_float_backend(bundle: Bundle) -> str:
    judged = judgements_of(bundle)
    has_agent = any(path.startswith("agent/") and path != AGENT_HASH for path in bundle.artefacts)
    is_keras = bool(judged) and judged[-1]["float_backend"] == "keras"
    return "keras" if is_keras and has_agent and find_spec("tensorflow") is not None else "litert"


def calibrate_zoo_agent(name: str, folder: Path, *, progress: Progress = silent) -> Path:
    """Make `folder`/NAME with the agent's calibration set and a manifest that says where it came from."""
    from edgeqrl.zoo import find_zoo_agent

    agent = find_zoo_agent(name)
    source = Source(f"zoo:{name}", EnvironmentSpec(agent.env_id))
    settings = Settings()
    with staged_folder(folder / name, keep=False) as fresh:
        bundle = Bundle(fresh / "bundle")
        begin(bundle, source, settings, progress=progress)
        found = stages.read_calibration(bundle)
        rmtree(bundle.folder)
        data = found.to_bytes()
        (fresh / "observations.npz").write_bytes(data)
        manifest = {
            "agent": name,
            "agent_sha256": found.agent_sha256,
            "env_id": found.env_id,
            "seeds": {"first": found.seeds[0], "count": len(found.seeds)},
            "num_observations": len(found.observations),
            "num_rolled_out": found.num_rolled_out,
            "mean_episode_return": sum(found.episode_returns) / len(found.episode_returns),
            "observations_sha256": sha256(data),
            "edgeqrl": __version__,
        }
        (fresh / "manifest.json").write_bytes(to_json_bytes(manifest))
    return folder / name


def zoo_environment(agent: str) -> EnvironmentSpec | None:
    """Return the environment that a `zoo:NAME` agent was trained in; None for other agents."""
    if not agent.startswith("zoo:"):
        return None
    from edgeqrl.zoo import find_zoo_agent

    return EnvironmentSpec(find_zoo_agent(agent.removeprefix("zoo:")).env_id)
