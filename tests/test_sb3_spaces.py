"""What a zip of Stable-Baselines3 says of its spaces is held against those of the environment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.load import open_agent
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError
from tests.sb3_agents import Case, actions, make_model, needs_sb3, random_observations, save_agent

needs_sb3()

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)


def box(low: list[float], high: list[float]) -> Any:
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_agent_of_other_action_bounds_is_refused(algorithm: str, tmp_path: Path) -> None:
    _, path = save_agent(Case(algorithm, VECTOR, UNIT), tmp_path)
    for other, told in (
        (box([-1, -2], [1, 2]), "low bound 1 is -1, and the environment has -2"),
        (box([-1, -1], [0.5, 1]), "high bound 0 is 1, and the environment has 0.5"),
    ):
        with pytest.raises(AgentError, match=told):
            open_agent(path, VECTOR, other)
    open_agent(path, VECTOR, UNIT)
    open_agent(path, VECTOR, None, options=AgentOptions(head="clip"))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1.3, 2.7, (2,), np.float64),
        spaces.Box(-np.float32(1 / 3), np.float32(1e-7), (2, 3), np.float32),
        spaces.Box(-3e30, 1e9, (40,), np.float32),
        spaces.Box(-2, 2, (), np.float32),
    ],
    ids=["float64", "table", "large", "one number"],
)
def test_bounds_of_every_form_are_read(space: Any, tmp_path: Path) -> None:
    from edgeqrl.agents.sb3_description import read_description
    from edgeqrl.agents.torch_file import Archive

    _, path = save_agent(Case("PPO", VECTOR, space), tmp_path)
    with Archive(path, str(path)) as archive:
        bounds = read_description(archive).action_bounds
    assert bounds is not None
    np.testing.assert_allclose(bounds, [space.low.ravel(), space.high.ravel()], rtol=1e-6)
    open_agent(path, VECTOR, space)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(4, start=2), spaces.MultiDiscrete([4, 3], start=[2, -1])], ids=["one", "two"]
)
def test_choices_count_from_zero_as_predict_does(space: Any, tmp_path: Path) -> None:
    model, path = save_agent(Case("PPO", VECTOR, space), tmp_path)
    raw = random_observations(VECTOR, 200)
    ours = actions(open_agent(path, VECTOR, space), raw)
    np.testing.assert_array_equal(ours, model.predict(raw, deterministic=True)[0])


@pytest.mark.parametrize(("high", "axis"), [(1, "last"), (255, "first")])
def test_frames_of_planes_are_stacked_along_the_axis_of_vec_frame_stack(
    high: int, axis: str, tmp_path: Path
) -> None:
    """Bytes from 0 to 1 are no image to Stable-Baselines3, so its stack goes along the last axis."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    from tests.sb3_agents import SpacesEnv

    planes, choice = spaces.Box(0, high, (2, 3, 5), np.uint8), spaces.Discrete(5)
    stack = VecFrameStack(DummyVecEnv([lambda: SpacesEnv(planes, choice)]), 3)
    model = make_model(Case("PPO", planes, choice), stack)
    model.save(tmp_path / "agent.zip")
    agent = open_agent(tmp_path / "agent.zip", planes, choice, frame_stack="3")
    assert agent.preprocessing.frames is not None
    assert agent.preprocessing.frames.axis == (0 if axis == "first" else 2)
    memory, starts = None, np.array([True])
    stack.seed(0)
    seen = stack.reset()
    cut = slice(-2, None)  # of the newest frame
    for _ in range(20):
        frame = seen[:, cut] if axis == "first" else seen[..., -5:]
        inputs, memory = agent.preprocessing.inputs(frame, memory, starts)
        found = np.asarray(agent.model(inputs[0], training=False))
        wanted = model.predict(seen, deterministic=True)[0]
        assert agent.head.actions([found]) == wanted
        starts[:] = False
        seen = stack.step(wanted)[0]
