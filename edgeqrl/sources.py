"""What a conversion starts from, and how the agent in it is loaded, at first and from a bundle."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqrl import stages
from edgeqrl.agents.heads import BoxHead, GaussianHead, stated_head
from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.bundle import Bundle
from edgeqrl.environments import EnvironmentSpec, MakeEnv, bare_maker, spaces
from edgeqrl.errors import DataError, UsageError
from edgeqrl.recordings import Recorded

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent
    from edgeqrl.preprocessing import Preprocessing

AGENT_HASH = "agent/agent.sha256"  # stands for an agent whose classes cannot be saved


@dataclass(frozen=True)
class Source:
    """What a conversion starts from: an agent, and an environment or recorded observations."""

    model: Any  # path, `zoo:NAME`, or a live Keras model
    environment: EnvironmentSpec | MakeEnv | None = None
    observations: Any = None  # path of an npz file, an array [N, *shape], or a mapping of such by part
    trust: bool = False
    name: str | None = None
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    options: AgentOptions = field(default_factory=AgentOptions)

    def __post_init__(self) -> None:
        if self.environment is None and self.observations is None:
            raise UsageError("Give an environment with --env, or recorded observations with --observations.")
        if not (isinstance(self.environment, EnvironmentSpec | None) or callable(self.environment)):
            raise UsageError(
                f"The environment is a {type(self.environment).__name__}, and every episode takes a "
                "fresh one: give an ID or a callable, such as `lambda: gymnasium.make(ID)`."
            )
        if self.preprocessing.normalization is not None and self.environment is None:
            raise UsageError("--normalization goes with an environment in a NormalizeObservation wrapper.")
        if self.preprocessing.keep_wrappers and not callable(self.environment):
            raise UsageError("An EnvironmentSpec says by itself which wrappers belong to it: keep_wrappers.")

    @property
    def make_env(self) -> MakeEnv | None:
        """Return the callable that makes the environment, if there is one, without absorbed wrappers."""
        if isinstance(self.environment, EnvironmentSpec):
            return self.environment.make
        if self.environment is None:
            return None
        return bare_maker(self.environment, self.preprocessing.keep_wrappers)

    def environment_facts(self) -> dict[str, Any] | None:
        """Return what the manifest says of the environment."""
        if self.environment is None:
            return None
        if isinstance(self.environment, EnvironmentSpec):
            return self.environment.to_json()
        make_env = self.make_env
        assert make_env is not None
        return EnvironmentSpec(spaces(make_env).name).to_json() | {"is_callable": True}


def open_source(source: Source, recorded: Recorded | None) -> tuple["Agent", dict[str, bytes]]:
    """Load the agent of a source, for its environment or recording; return it and its files."""
    from edgeqrl.agents.from_keras import agent_from_model
    from edgeqrl.agents.load import compose, open_agent
    from edgeqrl.preprocessing import preprocessing_of

    source = _as_its_card_says(source)
    stated = source.preprocessing
    preprocessing: Preprocessing | None = None
    transform = None
    if source.make_env is not None:
        known = spaces(source.make_env).absorbed
        observation_space, action_space = known.observation_space, known.action_space
        preprocessing, transform = known.preprocessing(_statistics(stated.normalization)), known.action
    else:
        assert recorded is not None
        observation_space, action_space = _recorded_space(recorded), None
    if isinstance(source.model, str | Path):
        path = Path(source.model)
        agent = open_agent(
            path,
            observation_space,
            action_space,
            options=source.options,
            preprocessing=preprocessing,
            frame_stack=stated.frame_stack,
            vecnormalize=stated.vecnormalize,
            trust=source.trust,
            name=source.name,
        )
        return _transformed(agent, transform), agent_files(path)
    if stated.frame_stack is not None or stated.vecnormalize is not None:
        preprocessing = compose(
            preprocessing or preprocessing_of(observation_space),
            frame_stack=stated.frame_stack,
            vecnormalize=stated.vecnormalize,
            observation_space=observation_space,
        )
    agent = agent_from_model(
        source.model,
        observation_space,
        action_space,
        options=source.options,
        preprocessing=preprocessing,
        name=source.name or "policy",
    )
    return _transformed(agent, transform), _saved(agent)


def reload_agent(bundle: Bundle, make_env: MakeEnv | None, *, trust: bool) -> "Agent":
    """Load the agent that the bundle holds, with the head and preprocessing that the bundle states."""
    from edgeqrl.agents.load import open_agent

    paths = [path for path in bundle.artefacts if path.startswith("agent/")]
    for path in paths:
        bundle.read(path)  # checks its sha256
    if not paths or paths == [AGENT_HASH]:
        raise DataError(f"The bundle '{bundle}' holds no agent file. Run convert from Python again.")
    is_folder = paths[0].startswith("agent/saved_model/")
    place = bundle.folder / ("agent/saved_model" if is_folder else paths[0])
    head, options = stages.read_head(bundle), stages.read_agent_options(bundle)
    preprocessing = stages.read_preprocessing(bundle)
    shapes = {part.name: (1, *part.shape) for part in preprocessing.parts}
    observation_space, action_space = _space_of_shapes(shapes), None
    if make_env is not None:
        known = spaces(make_env).absorbed
        observation_space, action_space = known.observation_space, known.action_space
        options = replace(options, action_bounds=None)  # of a recording; now the environment says them
    elif options.head is None:
        options = replace(options, head=stated_head(head))
    agent = open_agent(
        place,
        observation_space,
        action_space,
        options=options,
        preprocessing=preprocessing,
        is_complete=True,
        trust=trust,
        name=bundle.fact("name"),
    )
    return replace(agent, head=head)


def _as_its_card_says(source: Source) -> Source:
    """Return a `zoo:NAME` source as its file, with what the card says of it where nothing else is stated."""
    if not (isinstance(source.model, str) and source.model.startswith("zoo:")):
        return source
    from edgeqrl.zoo import find_zoo_agent

    found = find_zoo_agent(source.model.removeprefix("zoo:"))
    options, before = source.options, source.preprocessing
    is_drawn = options.stochastic
    if is_drawn is None and found.is_stochastic and options.head is None:
        is_drawn = True
    return replace(
        source,
        model=found.path,
        name=source.name or found.name,
        options=replace(options, stochastic=is_drawn, outputs=options.outputs or found.outputs),
        preprocessing=replace(before, vecnormalize=before.vecnormalize or found.vecnormalize),
    )


def agent_files(path: Path) -> dict[str, bytes]:
    """Read an agent's file, or every file of a SavedModel folder [relative path -> bytes]."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
        return {str(Path("saved_model") / p.relative_to(path)): p.read_bytes() for p in files}
    return {f"agent{path.suffix.lower()}": path.read_bytes()}


def _saved(agent: "Agent") -> dict[str, bytes]:
    """Return a live model as a `.keras` file; nothing where its classes cannot be saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.keras"
        try:
            (agent.original or agent.model).save(path)
        except Exception:  # whatever a stranger's get_config raises: the bundle stands without it
            return {"agent.sha256": f"{agent.source_sha256}\n".encode()}
        return agent_files(path)


def _transformed(agent: "Agent", transform: Any) -> "Agent":
    """Put what ClipAction and RescaleAction did to actions behind the agent's head."""
    head = agent.head
    if transform is None or not isinstance(head, BoxHead | GaussianHead):
        return agent
    low, high, gain, offset = transform.head_columns(head.low, head.high, head.gain, head.offset)
    return replace(agent, head=replace(head, low=low, high=high, gain=gain, offset=offset))


def _statistics(path: str | Path | None) -> Any:
    from edgeqrl.absorbed import read_normalization

    return None if path is None else read_normalization(path)


def _recorded_space(recorded: Recorded) -> Any:
    """Return the space of observations of which only the shapes are known."""
    if isinstance(recorded, Mapping):
        return _space_of_shapes({name: values.shape for name, values in recorded.items()})
    return _space_of_shapes({"": recorded.shape})


def _space_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    import gymnasium

    infinity = float("inf")
    boxes: dict[str, Any] = {
        name: gymnasium.spaces.Box(-infinity, infinity, tuple(shape[1:])) for name, shape in shapes.items()
    }
    return next(iter(boxes.values())) if len(boxes) == 1 else gymnasium.spaces.Dict(boxes)
