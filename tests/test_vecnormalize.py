"""What Stable-Baselines3's vectorised wrappers do to observations is done by the exported policy."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.load import compose, open_agent
from edgeqrl.agents.vecnormalize import followed_by, normalized, read_vecnormalize
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.edges import ObservationEdge
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing, preprocessing_of
from tests.sb3_agents import (
    Case,
    SpacesEnv,
    actions,
    make_model,
    needs_sb3,
    random_observations,
    require_same_actions,
)

needs_sb3()

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
FOUR = spaces.Discrete(4)
TORQUES = spaces.Box(-2.0, 2.0, (2,), np.float32)


class EndingEnv(SpacesEnv):
    """Episodes of random length."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.observation_space.seed(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, bool(self.np_random.random() < 0.2), False, info


def vectorized(space: Any, action_space: Any = FOUR, num_envs: int = 1) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([lambda: EndingEnv(space, action_space)] * num_envs)


def normalizing(env: Any, **options: Any) -> Any:
    """Wrap in VecNormalize and let it see observations of everyday mean and spread."""
    from stable_baselines3.common.vec_env import VecNormalize

    wrapped = VecNormalize(env, clip_obs=2.0, **options)
    raw = random_observations(env.observation_space, 1000, seed=5)
    if not wrapped.norm_obs:
        return wrapped
    rows = wrapped.obs_rms if isinstance(wrapped.obs_rms, dict) else {"": wrapped.obs_rms}
    for key, statistics in rows.items():
        statistics.update((raw[key] if key else raw) * 0.4 + 1.5)
    return wrapped


def saved(env: Any, folder: Path) -> Path:
    path = folder / "vecnormalize.pkl"
    env.save(path)
    return path


@pytest.mark.parametrize("action_space", [FOUR, TORQUES], ids=["discrete", "box"])
def test_agents_trained_on_normalized_observations_act_on_raw_ones(action_space: Any, tmp_path: Path) -> None:
    env = normalizing(vectorized(VECTOR, action_space))
    model = make_model(Case("PPO", VECTOR, action_space), env)
    model.save(tmp_path / "agent.zip")
    agent = open_agent(tmp_path / "agent.zip", VECTOR, action_space, vecnormalize=saved(env, tmp_path))
    raw = random_observations(VECTOR)
    theirs, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    require_same_actions(actions(agent, raw), theirs, action_space)
    again = open_agent(
        tmp_path / "agent.zip", VECTOR, action_space, preprocessing=agent.preprocessing, is_complete=True
    )
    assert again.preprocessing == agent.preprocessing


def test_dict_observations_are_normalized_by_their_keys(tmp_path: Path) -> None:
    space = spaces.Dict(
        gear=spaces.Discrete(3), joints=spaces.Box(-9.0, 9.0, (2, 2)), speed=spaces.Box(-9.0, 9.0, (2,))
    )
    env = normalizing(vectorized(space), norm_obs_keys=["joints"])
    model = make_model(Case("PPO", space, FOUR, "MultiInputPolicy"), env)
    model.save(tmp_path / "agent.zip")
    agent = open_agent(tmp_path / "agent.zip", space, FOUR, vecnormalize=saved(env, tmp_path))
    raw = random_observations(space)
    theirs, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    require_same_actions(actions(agent, raw), theirs, FOUR)


def test_bytes_that_are_normalized_each_by_numbers_of_its_own_are_numbers_on_the_board(
    tmp_path: Path,
) -> None:
    space = spaces.Box(0, 255, (4,), np.uint8)
    env = normalizing(vectorized(space))
    model = make_model(Case("PPO", space, FOUR), env)
    model.save(tmp_path / "agent.zip")
    agent = open_agent(tmp_path / "agent.zip", space, FOUR, vecnormalize=saved(env, tmp_path))
    raw = random_observations(space)
    theirs, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    require_same_actions(actions(agent, raw), theirs, FOUR)
    (part,) = agent.preprocessing.parts
    columns = {name: getattr(part, name) for name in ("source", "gain", "offset", "low", "high")}
    assert ObservationEdge.of(part.shape, 0.05, 0, **columns).is_affine


def test_statistics_that_are_not_used_change_nothing(tmp_path: Path) -> None:
    env = normalizing(vectorized(VECTOR), norm_obs=False)
    before = preprocessing_of(VECTOR)
    assert compose(before, vecnormalize=saved(env, tmp_path)) == before


@pytest.mark.parametrize("shape", [(3,), (2, 3), (5, 4, 1)])
def test_frames_are_stacked_as_by_vec_frame_stack(shape: tuple[int, ...], tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import VecFrameStack

    space = spaces.Box(-9.0, 9.0, shape, np.float32)
    inner = normalizing(vectorized(space, num_envs=3))
    env = VecFrameStack(inner, 4)
    preprocessing = compose(
        preprocessing_of(space), frame_stack="4", vecnormalize=saved(inner, tmp_path), observation_space=space
    )
    assert preprocessing.network_shapes == (env.observation_space.shape,)
    env.seed(1)
    inner.training = False
    stacked, starts, memory = env.reset(), np.ones(3, np.bool_), None
    num_episodes = 0
    for _ in range(60):
        (ours,), memory = preprocessing.inputs(inner.get_original_obs(), memory, starts)
        np.testing.assert_allclose(ours, stacked, atol=1e-6)
        stacked, _, starts, _ = env.step(np.zeros(3, np.int64))
        num_episodes += starts.sum()
    assert num_episodes > 10


@pytest.mark.parametrize(
    ("shape", "stated", "stacked"),
    [((36, 36, 1), "4", (36, 36, 4)), ((1, 36, 36), "4:first", (4, 36, 36)), ((1, 36, 36), "4", (4, 36, 36))],
)
def test_stacked_pixels_reach_the_convolutions(shape: Any, stated: str, stacked: Any, tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import VecFrameStack

    space = spaces.Box(0, 255, shape, np.uint8)
    settings = {"features_extractor_kwargs": {"features_dim": 16}, "net_arch": [8]}
    model = make_model(Case("DQN", space, FOUR, "CnnPolicy", settings), VecFrameStack(vectorized(space), 4))
    model.save(tmp_path / "agent.zip")
    agent = open_agent(tmp_path / "agent.zip", space, FOUR, frame_stack=stated)
    assert agent.preprocessing.network_shapes == (stacked,)
    raw = random_observations(spaces.Box(0, 255, stacked, np.uint8), 500)
    outputs = agent.model((raw / 255).astype(np.float32), training=False)
    ours = agent.head.actions(np.asarray(outputs))
    np.testing.assert_array_equal(ours, model.predict(raw, deterministic=True)[0])


def test_what_follows_an_affine_map_is_composed_with_it() -> None:
    rng = np.random.default_rng(0)
    part = ObservationPart(
        "observation", (4,), gain=(2.0, 0.5, 1.0, 3.0), offset=(1.0,), low=(-1.0,), high=(2.0,)
    )
    gain, offset = rng.uniform(0.1, 2, 4), rng.normal(size=4)
    both = followed_by(part, gain, offset, -0.7, 0.9)
    raw = rng.uniform(-4, 4, (1000, 4)).astype(np.float32)
    first = part.values(raw).astype(np.float64)
    np.testing.assert_allclose(both.values(raw), np.clip(first * gain + offset, -0.7, 0.9), atol=1e-6)
    plain = ObservationPart("observation", (4,))
    assert followed_by(plain, np.ones(1), np.zeros(1)).low is None


def _set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda env: setattr(env, name, value)


def _mean(values: Any) -> Callable[[Any], None]:
    return lambda env: setattr(env.obs_rms, "mean", np.asarray(values))


def _variance(values: Any) -> Callable[[Any], None]:
    return lambda env: setattr(env.obs_rms, "var", np.asarray(values))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_set("obs_rms", None), "its statistics are missing|where a dict belongs"),
        (_set("epsilon", -1.0), "its epsilon is not a positive number"),
        (_set("clip_obs", float("nan")), "its clip_obs is not a positive number"),
        (_mean([1.0, 2.0]), "not finite numbers of one shape"),
        (_mean([1.0, np.nan, 2.0]), "not finite numbers of one shape"),
        (_variance([1.0, -1.0, 2.0]), "not finite numbers of one shape"),
        (_variance(["a", "b", "c"]), "its elements are not numbers"),
    ],
    ids=["none", "epsilon", "clip", "shape", "nan", "negative", "text"],
)
def test_damaged_statistics_are_refused(edit: Any, sentence: str, tmp_path: Path) -> None:
    env = normalizing(vectorized(VECTOR))
    edit(env)
    path = saved(env, tmp_path)
    with pytest.raises(AgentError, match=sentence):
        read_vecnormalize(path)


class Trap:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.place}",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    env = normalizing(vectorized(VECTOR))
    path = saved(env, tmp_path)
    expected = read_vecnormalize(path)
    env.metadata = Trap(trap)
    found = read_vecnormalize(saved(env, tmp_path))  # beside the statistics it is harmless
    np.testing.assert_array_equal(found.rows[""][0], expected.rows[""][0])
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(AgentError, match=r"holds no VecNormalize statistics: it holds a '?\w+\.system"):
        read_vecnormalize(path)
    env.metadata = None
    env.obs_rms = Trap(trap)
    with pytest.raises(AgentError, match="where a dict belongs"):
        read_vecnormalize(saved(env, tmp_path))
    assert not trap.exists()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = saved(normalizing(vectorized(VECTOR)), tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(AgentError, match="no VecNormalize statistics"):
            read_vecnormalize(path)
    with pytest.raises(AgentError, match="cannot be read"):
        read_vecnormalize(tmp_path / "nothing.pkl")


def test_statistics_of_other_observations_are_refused(tmp_path: Path) -> None:
    path = saved(normalizing(vectorized(VECTOR)), tmp_path)
    statistics = read_vecnormalize(path)
    with pytest.raises(AgentError, match=r"shape \(3,\), and the environment's have shape \(5,\)"):
        normalized(Preprocessing.plain((5,)), statistics, path)
    both = preprocessing_of(spaces.Dict(a=VECTOR, b=VECTOR))
    with pytest.raises(
        AgentError, match="normalizes one array, and the environment's observation is the parts"
    ):
        normalized(both, statistics, path)
    with pytest.raises(AgentError, match="a whole number that becomes one-hot"):
        normalized(preprocessing_of(spaces.MultiDiscrete([2, 3, 4])), statistics, path)


@pytest.mark.parametrize("stated", ["1", "65", "4:middle", "", "four", "-2", "4:last:"])
def test_a_frame_stack_that_is_none_is_refused(stated: str) -> None:
    with pytest.raises(UsageError, match="says no frame stack"):
        compose(preprocessing_of(VECTOR), frame_stack=stated)


def test_frames_are_stacked_once_and_of_one_array() -> None:
    stacked = compose(preprocessing_of(VECTOR), frame_stack="3")
    with pytest.raises(UsageError, match="stack frames already"):
        compose(stacked, frame_stack="3")
    with pytest.raises(UsageError, match="Frames are stacked of a single array"):
        compose(preprocessing_of(spaces.Dict(a=VECTOR, b=VECTOR)), frame_stack="3")
