"""Small Stable-Baselines3 agents, made in seconds: random weights, saved as their users save them.

case = Case("PPO", spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4))
model, path = save_agent(case, folder)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent
from edgeqrl.errors import MissingToolError
from tests.oracles import skip_unless_ci

NUM_STATES = 10_000
_CONTRIB = ("QRDQN", "TRPO", "MaskablePPO", "RecurrentPPO", "TQC")
_NO_BUFFER = {"buffer_size": 10}
_OFF_POLICY = ("DQN", "QRDQN", "SAC", "TQC", "TD3", "DDPG")


@dataclass(frozen=True, eq=False)
class Case:
    """An algorithm with its spaces and `policy_kwargs`; `activation_fn` is named as in torch.nn."""

    algorithm: str
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    policy: str = "MlpPolicy"
    settings: Mapping[str, Any] = field(default_factory=dict)
    use_sde: bool | None = None
    num_states: int = NUM_STATES


class SpacesEnv(gymnasium.Env[Any, Any]):
    """An environment of which only the spaces matter."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}

    def action_masks(self) -> NDArray[np.bool_]:
        return np.ones(self.action_space.n, np.bool_)


def import_sb3() -> Any:
    """Return torch and a function that finds an algorithm; where they are missing, skip outside CI."""
    try:
        import sb3_contrib
        import stable_baselines3
        import torch
    except ImportError as error:
        skip_unless_ci("stable-baselines3", MissingToolError(str(error)))
        raise
    torch.set_num_threads(1)
    return torch, lambda name: getattr(sb3_contrib if name in _CONTRIB else stable_baselines3, name)


def make_model(case: Case, env: Any = None) -> Any:
    """Make the model with random weights of everyday size; SB3's own first weights are too tame."""
    torch, algorithm = import_sb3()
    torch.manual_seed(1)
    settings = dict(case.settings)
    if isinstance(settings.get("activation_fn"), str):
        settings["activation_fn"] = getattr(torch.nn, settings["activation_fn"])
    more: dict[str, Any] = dict(_NO_BUFFER) if case.algorithm in _OFF_POLICY else {}
    if case.use_sde is not None:
        more["use_sde"] = case.use_sde
    model = algorithm(case.algorithm)(
        case.policy,
        env or SpacesEnv(case.observation_space, case.action_space),
        policy_kwargs=settings,
        device="cpu",
        seed=1,
        **more,
    )
    with torch.no_grad():
        for values in model.policy.parameters():
            fan_in = 100 if values.ndim == 1 else values[0].numel()
            values += torch.randn_like(values) * fan_in**-0.5
    return model


def save_agent(case: Case, folder: Path) -> tuple[Any, Path]:
    """Make the model and save it; return both."""
    model = make_model(case)
    path = folder / f"{case.algorithm}.zip"
    model.save(path)
    return model, path


def random_observations(space: Any, count: int = NUM_STATES, seed: int = 0) -> Any:
    """Draw observations [N, *shape] uniformly from a space; unbounded axes from -10 to 10."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {key: random_observations(inner, count, seed) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=count)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(space.nvec, size=(count, *space.nvec.shape))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(count, *space.shape)).astype(np.int8)
    assert isinstance(space, spaces.Box)
    if space.dtype.kind == "b":
        return rng.random((count, *space.shape)) < 0.3
    if space.dtype.kind in "ui":
        return rng.integers(space.low, space.high, (count, *space.shape), space.dtype, endpoint=True)
    low, high = np.maximum(space.low, -10), np.minimum(space.high, 10)
    return rng.uniform(low, high, (count, *space.shape)).astype(space.dtype)


def model_outputs(agent: Agent, raw: Any) -> list[NDArray[np.float32]]:
    """Return the outputs of a feed-forward agent's model for raw observations."""
    inputs, _ = agent.preprocessing.inputs(raw)
    outputs = []
    for start in range(0, len(inputs[0]), 500):
        batch = [array[start : start + 500] for array in inputs]
        found = agent.model(batch if len(batch) > 1 else batch[0], training=False)
        outputs.append([np.asarray(f) for f in (found if isinstance(found, list | tuple) else [found])])
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def actions(agent: Agent, raw: Any) -> NDArray[Any]:
    """Return what a deterministic feed-forward agent does for raw observations."""
    return np.asarray(agent.head.actions(model_outputs(agent, raw)))


def require_same_actions(ours: NDArray[Any], theirs: NDArray[Any], action_space: Any) -> None:
    """Assert equal discrete actions, and continuous ones within 1e-5 of what the algorithm takes, -1 to 1."""
    assert ours.shape == theirs.shape
    if isinstance(action_space, spaces.Box):
        unit = np.maximum((action_space.high - action_space.low) / 2.0, 1.0)
        assert (np.abs(ours - theirs) / unit).max() <= 1e-5
        assert len(np.unique(ours)) > 20, "the agent hardly acts"
    else:
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(ours, axis=0)) > 1, "the agent always does the same"


def needs_sb3() -> None:
    """Skip a whole module where Stable-Baselines3 is not installed, but never in CI."""
    try:
        import_sb3()
    except pytest.skip.Exception as skipped:
        pytest.skip(str(skipped), allow_module_level=True)
