"""Wrappers: each is recognised or refused, and what goes to the board does there what it did in Python."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers as w
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqrl.absorbed import ActionTransform, Normalization, read_normalization
from edgeqrl.environments import EnvironmentSpec, bare_maker, spaces
from edgeqrl.errors import DataError, EnvironmentFailure, UsageError
from edgeqrl.preprocessing import preprocessing_of
from edgeqrl.rollout import Rollout, rollout
from edgeqrl.wrappers import ABSORBED, ENVIRONMENT, NEUTRAL, REFUSED, absorb, treatment_of
from tests.toys import BoxChaosEnv, ChaosEnv

LAZY = ("ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch")  # need jax or torch to be imported

CLASSES = {
    "AddRenderObservation": ENVIRONMENT,
    "AddWhiteNoise": NEUTRAL,
    "AtariPreprocessing": ENVIRONMENT,
    "Autoreset": NEUTRAL,
    "ClipAction": ABSORBED,
    "ClipReward": NEUTRAL,
    "DelayObservation": ENVIRONMENT,
    "DiscretizeAction": REFUSED,
    "DiscretizeObservation": REFUSED,
    "DtypeObservation": ABSORBED,
    "FilterObservation": ENVIRONMENT,
    "FlattenObservation": ABSORBED,
    "FrameStackObservation": ABSORBED,
    "GrayscaleObservation": ABSORBED,
    "HumanRendering": NEUTRAL,
    "MaxAndSkipObservation": ENVIRONMENT,
    "NormalizeObservation": ABSORBED,
    "NormalizeReward": NEUTRAL,
    "ObstructView": NEUTRAL,
    "OrderEnforcing": NEUTRAL,
    "PassiveEnvChecker": NEUTRAL,
    "RecordEpisodeStatistics": NEUTRAL,
    "RecordVideo": NEUTRAL,
    "RenderCollection": NEUTRAL,
    "RepeatAction": ENVIRONMENT,
    "RescaleAction": ABSORBED,
    "RescaleObservation": ABSORBED,
    "ReshapeObservation": ABSORBED,
    "ResizeObservation": ABSORBED,
    "StickyAction": ENVIRONMENT,
    "TimeAwareObservation": REFUSED,
    "TimeLimit": NEUTRAL,
    "TransformAction": REFUSED,
    "TransformObservation": REFUSED,
    "TransformReward": NEUTRAL,
}


def installed() -> dict[str, type]:
    """Every wrapper class of the installed Gymnasium that imports without jax and torch."""
    named = (getattr(w, name) for name in w.__all__ if name not in LAZY and hasattr(w, name))
    found = [thing for thing in named if inspect.isclass(thing) and issubclass(thing, gymnasium.Wrapper)]
    return {wrapper.__name__: wrapper for wrapper in found}


def test_every_wrapper_of_the_installed_gymnasium_is_classified() -> None:
    found = {name: treatment_of(wrapper).kind for name, wrapper in installed().items()}
    assert found == {name: kind for name, kind in CLASSES.items() if name in found}
    assert len(found) >= 30


@pytest.mark.parametrize("name", LAZY)
def test_wrapper_that_needs_another_library_is_classified_by_name(name: str) -> None:
    stand_in = type(name, (gymnasium.Wrapper,), {"__module__": "gymnasium.wrappers.array_conversion"})
    assert treatment_of(stand_in).kind == (ENVIRONMENT if name == "JaxToNumpy" else REFUSED)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("stable_baselines3.common.monitor:Monitor", NEUTRAL),
        ("stable_baselines3.common.atari_wrappers:WarpFrame", ENVIRONMENT),
        ("stable_baselines3.common.atari_wrappers:EpisodicLifeEnv", ENVIRONMENT),
        ("stable_baselines3.common.atari_wrappers:Unheard", REFUSED),
        ("elsewhere.monitor:Monitor", REFUSED),
    ],
)
def test_wrappers_of_stable_baselines_are_known_by_name(place: str, kind: str) -> None:
    module, _, name = place.partition(":")
    members = {"__module__": module, "step": lambda self, action: self.env.step(action)}
    stand_in = type(name, (gymnasium.Wrapper,), members)
    assert treatment_of(stand_in).kind == kind


def test_vector_wrappers_wrap_no_single_environment() -> None:
    vector = [thing for _, thing in inspect.getmembers(w.vector, inspect.isclass)]
    assert vector
    assert not any(issubclass(thing, gymnasium.Env) for thing in vector)
    many = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(UsageError, match=r"which is not a gymnasium\.Env"):
        spaces(bare_maker(lambda: many))
    many.close()


# Classes of the user's own.


class Quiet(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes nothing."""

    def render(self) -> Any:
        return None


class Bonus(gymnasium.RewardWrapper[Any, Any]):
    """Changes rewards."""

    def reward(self, reward: Any) -> Any:
        return float(reward) + 1.0


class Shift(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Changes observations."""

    def observation(self, observation: Any) -> Any:
        return observation + 1.0


class Invert(gymnasium.ActionWrapper[Any, Any, Any]):
    """Changes actions."""

    def action(self, action: Any) -> Any:
        return -action


class Stepper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """May change anything."""

    def step(self, action: Any) -> Any:
        return super().step(action)


class LongLimit(w.TimeLimit):
    """A known wrapper, as it is."""


class ShiftedRescale(w.RescaleObservation):
    """A known wrapper, changed."""

    def observation(self, observation: Any) -> Any:
        return super().observation(observation) + 1.0


class WideQuiet(gymnasium.Wrapper[Any, Any, Any, Any]):
    """States another space than it has."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,), np.float32)


def shift(env: Any) -> Any:
    """A wrapper of the command line."""
    return Bonus(Shift(env))


OWN = {
    "Quiet": (Quiet, NEUTRAL, ""),
    "Bonus": (Bonus, NEUTRAL, ""),
    "Shift": (Shift, REFUSED, "observation()"),
    "Invert": (Invert, REFUSED, "action()"),
    "Stepper": (Stepper, REFUSED, "step()"),
    "LongLimit": (LongLimit, NEUTRAL, ""),
    "ShiftedRescale": (ShiftedRescale, REFUSED, "observation()"),
}


@pytest.mark.parametrize("name", OWN)
def test_wrapper_of_ones_own_is_judged_by_what_it_redefines(name: str) -> None:
    wrapper, kind, reason = OWN[name]
    found = treatment_of(wrapper)
    assert found.kind == kind
    assert reason in found.reason


@pytest.mark.parametrize("wrapper", [Shift, Invert, Stepper, WideQuiet])
def test_refused_wrapper_is_named_with_the_option_that_keeps_it(wrapper: Any) -> None:
    name = f"tests.test_wrappers:{wrapper.__name__}"
    spec = EnvironmentSpec("CartPole-v1", wrappers=(name,))
    if wrapper is WideQuiet:
        spec = EnvironmentSpec("MountainCar-v0", wrappers=(name,))
    with pytest.raises(UsageError) as caught:
        spec.make()
    assert f"--keep-wrapper {name}" in str(caught.value)
    kept = EnvironmentSpec(spec.env_id, wrappers=(name,), keep_wrappers=(name,)).make()
    assert isinstance(kept, wrapper)
    kept.close()


def test_kept_function_keeps_every_wrapper_it_put_there() -> None:
    name = "tests.test_wrappers:shift"
    env = EnvironmentSpec("CartPole-v1", wrappers=(name,), keep_wrappers=(name,)).make()
    assert isinstance(env, Bonus)
    assert isinstance(env.env, Shift)
    with pytest.raises(UsageError, match="Wrapper Shift cannot go to the board"):
        EnvironmentSpec("CartPole-v1", wrappers=(name,)).make()


def test_keeping_what_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"names no wrapper.*there is: gymnasium.wrappers:TimeLimit"):
        EnvironmentSpec("CartPole-v1", keep_wrappers=("gymnasium.wrappers:ClipAction",)).make()


def test_what_make_put_under_order_enforcing_is_the_environment() -> None:
    gymnasium.register("Shifted-v0", lambda **_: Shift(ChaosEnv()), max_episode_steps=9)
    env = EnvironmentSpec("Shifted-v0").make()
    assert isinstance(env, w.TimeLimit)
    assert isinstance(env.env.env, Shift)
    env.close()
    gymnasium.registry.pop("Shifted-v0")


@pytest.mark.parametrize("name", [name for name, kind in CLASSES.items() if kind == REFUSED])
def test_refused_wrappers_of_gymnasium_say_what_to_do(name: str) -> None:
    reason = treatment_of(getattr(w, name)).reason
    assert len(reason) > 20


# What is absorbed plays the same episodes.


class FreshEnv(ChaosEnv):
    """Returns another array each time: Gymnasium's stacks keep what they are given."""

    def observe(self) -> Any:
        return super().observe().copy()


class FreshBoxEnv(BoxChaosEnv):
    """Leaves actions as they are: StickyAction keeps what it is given."""

    def step(self, action: Any) -> Any:
        return super().step(np.array(action, self.dtype))


class CameraEnv(ChaosEnv):
    """The same chaos seen as bytes."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 3), np.uint8)

    def observe(self) -> Any:
        return np.array([self.hidden * k % 256 for k in range(1, 7)], np.uint8).reshape(2, 3)


class StateEnv(ChaosEnv):
    """The same chaos seen as a class."""

    observation_space = gymnasium.spaces.Discrete(7, start=2)  # type: ignore[assignment]

    def observe(self) -> Any:
        return 2 + self.hidden % 7


class SwitchEnv(ChaosEnv):
    """The same chaos seen as two classes."""

    observation_space = gymnasium.spaces.MultiDiscrete([3, 4])  # type: ignore[assignment]

    def observe(self) -> Any:
        return np.array([self.hidden % 3, self.hidden % 4])


LOW, HIGH = np.array([-2, 0, 1], np.float32), np.array([1, 4, 3], np.float32)


def frozen(
    env: Any, mean: Any = (0.1, -0.3, 0.2), var: Any = (0.5, 0.25, 2.0), *, is_fitted: bool = True
) -> Any:
    normalized = w.NormalizeObservation(env)
    if is_fitted:
        normalized.obs_rms.mean = np.array(mean, np.float32)
        normalized.obs_rms.var = np.array(var, np.float32)
        normalized.obs_rms.count = 1000.0
    normalized.update_running_mean = False
    return normalized


STACKS: dict[str, Callable[[], Any]] = {
    "stack": lambda: w.FrameStackObservation(FreshEnv(), 3),
    "zero stack": lambda: w.FrameStackObservation(FreshEnv(), 4, padding_type="zero"),
    "stack of one": lambda: w.FrameStackObservation(FreshEnv(), 1),
    "rescale": lambda: w.RescaleObservation(FreshEnv(), LOW, HIGH),
    "rescale twice": lambda: w.RescaleObservation(
        w.RescaleObservation(FreshEnv(), LOW, HIGH), HIGH * 0, HIGH
    ),
    "normalize": lambda: frozen(FreshEnv()),
    "normalize, stack": lambda: w.FrameStackObservation(frozen(FreshEnv()), 3),
    "rescale, zero stack": lambda: w.FrameStackObservation(
        w.RescaleObservation(FreshEnv(), np.float32(-3), np.float32(7)), 3, padding_type="zero"
    ),
    "stack, rescale": lambda: w.RescaleObservation(
        w.FrameStackObservation(FreshEnv(), 2), np.float32(0), np.float32(1)
    ),
    "stack, flatten": lambda: w.FlattenObservation(w.FrameStackObservation(FreshEnv(), 3)),
    "stack, reshape": lambda: w.ReshapeObservation(w.FrameStackObservation(FreshEnv(), 4), (4, 3, 1)),
    "stack, join": lambda: w.ReshapeObservation(w.FrameStackObservation(FreshEnv(), 4), (12, 1)),
    "rescale, reshape, stack": lambda: w.FrameStackObservation(
        w.ReshapeObservation(w.RescaleObservation(FreshEnv(), LOW, HIGH), (3, 1)), 2
    ),
    "flatten": lambda: w.FlattenObservation(FreshEnv()),
    "float64": lambda: w.DtypeObservation(w.TimeLimit(FreshEnv(), 6), np.float64),
    "neutral between": lambda: w.RecordEpisodeStatistics(
        w.FrameStackObservation(w.TimeLimit(Bonus(w.RescaleObservation(FreshEnv(), LOW, HIGH)), 6), 2)
    ),
    "delayed, stack": lambda: w.FrameStackObservation(w.DelayObservation(FreshEnv(), 1), 2),
    "bytes": lambda: w.FrameStackObservation(CameraEnv(), 3),
    "bytes as float, rescaled": lambda: w.RescaleObservation(
        w.DtypeObservation(CameraEnv(), np.float32), np.float32(0), np.float32(1)
    ),
    "bytes each by its own": lambda: frozen(CameraEnv(), np.arange(6.0).reshape(2, 3), np.ones((2, 3)) * 9),
    "bytes alike": lambda: frozen(CameraEnv(), np.full((2, 3), 99.0), np.full((2, 3), 400.0)),
    "bytes flat": lambda: w.FlattenObservation(w.FrameStackObservation(CameraEnv(), 2)),
    "class": lambda: w.FlattenObservation(StateEnv()),
    "class, stack": lambda: w.FrameStackObservation(w.FlattenObservation(StateEnv()), 3),
    "class, zero stack": lambda: w.FrameStackObservation(
        w.FlattenObservation(StateEnv()), 3, padding_type="zero"
    ),
    "class, stack, flatten": lambda: w.FlattenObservation(w.FrameStackObservation(StateEnv(), 3)),
    "classes": lambda: w.FlattenObservation(SwitchEnv()),
    "class as number": lambda: w.DtypeObservation(StateEnv(), np.float32),
}


class Choose:
    """A function policy: a fixed random layer of what it sees, and the last bits of it decide."""

    name = "choose"

    def __init__(self, size: int, num_actions: int = 5) -> None:
        self.weights = np.random.default_rng(size).normal(size=(size, num_actions)).astype(np.float64)
        self.seen: list[Any] = []

    def act(self, observations: Any, state: Any, **_: Any) -> Any:
        flat = np.asarray(observations, np.float64).reshape(len(observations), -1)
        self.seen.append(flat)
        return (flat @ self.weights).argmax(axis=1), ()


class OnBoard:
    """The same policy after the preprocessing that the board does."""

    name = "board"

    def __init__(self, inner: Any, preprocessing: Any, transform: ActionTransform | None = None) -> None:
        self.inner, self.preprocessing, self.transform = inner, preprocessing, transform

    def act(self, observations: Any, state: Any, *, episode_start: Any, **_: Any) -> Any:
        inputs, memory = self.preprocessing.inputs(observations, state or None, episode_start)
        actions, _ = self.inner.act(inputs[0], ())
        if self.transform is not None:
            actions = self.transform.apply(actions).astype(np.float32)
        return actions, memory


def assert_same_returns(ours: Rollout, theirs: Rollout) -> None:
    assert np.array_equal(ours.episode_lengths, theirs.episode_lengths)
    assert np.array_equal(ours.is_truncated, theirs.is_truncated)
    assert np.allclose(ours.episode_returns, theirs.episode_returns, rtol=1e-6)


def stacked_size(env: Any) -> int:
    size = int(gymnasium.spaces.flatdim(env.observation_space))
    env.close()
    return size


@pytest.mark.parametrize("name", STACKS)
def test_absorbed_wrappers_play_the_same_episodes(name: str) -> None:
    make_env = STACKS[name]
    size = stacked_size(make_env())
    known = spaces(bare_maker(make_env))
    preprocessing = known.absorbed.preprocessing() or preprocessing_of(known.observation_space)
    wrapped, board = Choose(size), Choose(size)
    theirs = rollout(wrapped, make_env, range(30), num_envs=7)
    ours = rollout(OnBoard(board, preprocessing), bare_maker(make_env), range(30), num_envs=7)
    assert_same_returns(ours, theirs)
    for one, other in zip(board.seen, wrapped.seen, strict=True):
        assert np.allclose(one, other, rtol=2e-6, atol=2e-6)


LAYERS: dict[str, Callable[[Any, Any], Any]] = {
    "rescale": lambda env, rng: w.RescaleObservation(env, *np.sort(rng.normal(0, 3, 2)).astype(np.float32)),
    "rescale each": lambda env, rng: w.RescaleObservation(
        env, *np.sort(rng.normal(0, 3, (2, *env.observation_space.shape)), axis=0).astype(np.float32)
    ),
    "normalize": lambda env, rng: frozen(
        env, rng.normal(size=env.observation_space.shape), rng.random(env.observation_space.shape) + 0.1
    ),
    "stack": lambda env, rng: w.FrameStackObservation(
        env, int(rng.integers(1, 4)), padding_type=("reset", "zero")[rng.integers(2)]
    ),
    "flatten": lambda env, _: w.FlattenObservation(env),
    "reshape": lambda env, rng: w.ReshapeObservation(
        env, tuple(int(n) for n in rng.permutation([*env.observation_space.shape, 1]))
    ),
    "float64": lambda env, _: w.DtypeObservation(env, np.float64),
    "float32": lambda env, _: w.DtypeObservation(env, np.float32),
    "delay": lambda env, _: w.DelayObservation(env, 1),
    "limit": lambda env, _: w.TimeLimit(env, 7),
}


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5),
    base=st.sampled_from([FreshEnv, CameraEnv, StateEnv, SwitchEnv]),
    seed=st.integers(0, 10_000),
)
def test_any_stack_of_wrappers_is_refused_or_plays_the_same_episodes(
    names: list[str], base: type[ChaosEnv], seed: int
) -> None:
    def make_env() -> Any:
        rng, env = np.random.default_rng(seed), base()
        for name in names:
            env = LAYERS[name](env, rng)
        return env

    try:
        env = make_env()
    except (TypeError, ValueError, RuntimeWarning):
        return  # Gymnasium refuses the stack itself, or divides by a range of 0
    size = stacked_size(env)
    try:
        known = spaces(bare_maker(make_env))
        preprocessing = known.absorbed.preprocessing() or preprocessing_of(known.observation_space)
    except UsageError:
        return
    if preprocessing.network_shapes[0] != known.absorbed.observation_space.shape:
        assert (
            known.absorbed.observation_space.dtype.kind == "i"
        )  # classes, which wrapped policies make one-hot
        return
    wrapped, board = Choose(size), Choose(size)
    try:
        theirs = rollout(wrapped, make_env, range(4))
    except EnvironmentFailure:
        return  # DtypeObservation makes an array of one number a number
    ours = rollout(OnBoard(board, preprocessing), bare_maker(make_env), range(4))
    assert np.array_equal(ours.episode_lengths, theirs.episode_lengths)
    for one, other in zip(board.seen, wrapped.seen, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


class Steer:
    """A function policy with real actions, also far out of bounds."""

    name = "steer"

    def act(self, observations: Any, state: Any, **_: Any) -> Any:
        return (np.asarray(observations, np.float64)[:, :2] * [3.0, -5.0]).astype(np.float32), ()


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "clip": w.ClipAction,
    "rescale": lambda env: w.RescaleAction(env, np.float32(-1), np.float32(1)),
    "rescale each": lambda env: w.RescaleAction(
        env, np.array([-1, 0], np.float32), np.array([1, 5], np.float32)
    ),
    "clip, rescale": lambda env: w.RescaleAction(w.ClipAction(env), -np.inf, np.inf),
    "rescale, clip": lambda env: w.ClipAction(w.RescaleAction(env, np.float32(-1), np.float32(1))),
    "rescale, clip, stick": lambda env: w.StickyAction(
        w.ClipAction(w.RescaleAction(env, np.float32(-1), np.float32(1))), 0.25
    ),
    "clip, observed in stacks": lambda env: w.ReshapeObservation(
        w.FrameStackObservation(w.ClipAction(env), 1), (3,)
    ),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_absorbed_actions_play_the_same_episodes(name: str) -> None:
    def make_env() -> Any:
        return ACTIONS[name](FreshBoxEnv())

    absorbed = spaces(bare_maker(make_env)).absorbed
    assert absorbed.action is not None
    preprocessing = absorbed.preprocessing() or preprocessing_of(BoxChaosEnv.observation_space)
    theirs = rollout(Steer(), make_env, range(40), keep_actions=True)
    ours = rollout(
        OnBoard(Steer(), preprocessing, absorbed.action), bare_maker(make_env), range(40), keep_actions=True
    )
    assert_same_returns(ours, theirs)


def test_a_head_takes_the_action_wrappers_into_its_own_numbers() -> None:
    absorbed = spaces(
        bare_maker(lambda: w.ClipAction(w.RescaleAction(BoxChaosEnv(), np.float32(-1), np.float32(1))))
    ).absorbed
    assert absorbed.action is not None
    columns = absorbed.action.head_columns((-np.inf, -np.inf), (np.inf, np.inf), (1.0, 0.5), (0.0, 0.25))
    assert columns == ((-2.0, -2.0), (2.0, 2.0), (2.0, 1.0), (0.0, 0.5))


# What a board cannot repeat is refused, at once.


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "delay above": (lambda: w.DelayObservation(w.RescaleObservation(ChaosEnv(), LOW, HIGH), 1), "lies above"),
    "skip above stack": (
        lambda: w.MaxAndSkipObservation(w.FrameStackObservation(ChaosEnv(), 2)),
        "lies above",
    ),
    "two stacks": (
        lambda: w.FrameStackObservation(w.FrameStackObservation(ChaosEnv(), 2), 2),
        "two frame stacks",
    ),
    "own padding": (
        lambda: w.FrameStackObservation(ChaosEnv(), 2, padding_type=np.full(3, 0.5, np.float32)),
        "pads with an observation of its own",
    ),
    "zero stack, rescaled": (
        lambda: w.RescaleObservation(
            w.FrameStackObservation(ChaosEnv(), 2, padding_type="zero"), np.float32(0), np.float32(1)
        ),
        "pads with zeros",
    ),
    "zero classes": (
        lambda: w.FlattenObservation(w.FrameStackObservation(StateEnv(), 2, padding_type="zero")),
        "zero is no observation",
    ),
    "frames unlike": (
        lambda: w.RescaleObservation(
            w.FrameStackObservation(ChaosEnv(), 2),
            np.zeros((2, 3), np.float32),
            np.arange(1, 7, dtype=np.float32).reshape(2, 3),
        ),
        "treats the stacked frames unlike",
    ),
    "cut frames": (
        lambda: w.ReshapeObservation(w.FrameStackObservation(ChaosEnv(), 2), (3, 2)),
        "cuts through them",
    ),
    "bytes rescaled": (
        lambda: w.RescaleObservation(CameraEnv(), np.uint8(0), np.uint8(100)),
        "rounded to uint8",
    ),
    "rounded": (lambda: w.DtypeObservation(ChaosEnv(), np.int32), "rounds float32 to int32"),
    "halved": (lambda: w.DtypeObservation(ChaosEnv(), np.float16), "rounds float32 to float16"),
    "classes rescaled": (
        lambda: w.RescaleObservation(
            w.DtypeObservation(w.FlattenObservation(StateEnv()), np.float32), np.float32(-1), np.float32(1)
        ),
        "scales one-hot numbers",
    ),
    "large image": (lambda: w.ResizeObservation(PhotoEnv(), (400, 4)), "cannot be enlarged"),
    "time": (lambda: w.TimeAwareObservation(w.TimeLimit(ChaosEnv(), 9)), "counts no steps"),
    "joined parts": (lambda: w.FlattenObservation(PartsEnv()), "joins one-hot numbers with others"),
    "stack of parts": (lambda: w.FrameStackObservation(PartsEnv(), 2), "several parts"),
}


class PhotoEnv(ChaosEnv):
    """An image in colours."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class PartsEnv(ChaosEnv):
    """Several parts."""

    observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
        joints=gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), mode=gymnasium.spaces.Discrete(3)
    )

    def observe(self) -> Any:
        joints = np.array([self.hidden % 97 / 97, self.hidden % 83 / 83], np.float32)
        return {"joints": joints, "mode": self.hidden % 3}


class BoxesEnv(PartsEnv):
    """Several parts of real numbers."""

    observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
        joints=gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
        mode=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
    )

    def observe(self) -> Any:
        return super().observe() | {"mode": np.array([self.hidden % 3], np.float32)}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_board_cannot_repeat_is_refused(name: str) -> None:
    make_env, sentence = REFUSALS[name]
    with pytest.raises(UsageError) as caught:
        spaces(bare_maker(make_env))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_real_parts_that_are_flattened_stay_one_vector() -> None:
    known = spaces(bare_maker(lambda: w.FlattenObservation(BoxesEnv())))
    assert known.observation_space.shape == (3,)
    assert known.absorbed.wrappers == ()


def test_parts_that_are_filtered_out_do_not_reach_the_board() -> None:
    known = spaces(bare_maker(lambda: w.FilterObservation(PartsEnv(), ["mode"])))
    assert list(known.observation_space.spaces) == ["mode"]  # type: ignore[attr-defined]


def test_kept_wrapper_above_absorbed_ones_is_refused() -> None:
    def make_env() -> Any:
        return Shift(w.RescaleObservation(ChaosEnv(), LOW, HIGH))

    with pytest.raises(UsageError, match="say with --keep-wrapper that both"):
        spaces(bare_maker(make_env, ("tests.test_wrappers:Shift",)))
    keep = ("tests.test_wrappers:Shift", "gymnasium.wrappers:RescaleObservation")
    assert spaces(bare_maker(make_env, keep)).absorbed.wrappers == ()


# Statistics.


@pytest.mark.parametrize(
    "make_env", [lambda: w.NormalizeObservation(ChaosEnv()), lambda: frozen(ChaosEnv(), is_fitted=False)]
)
def test_running_statistics_are_refused_unless_a_file_gives_them(make_env: Any) -> None:
    absorbed = spaces(bare_maker(make_env)).absorbed
    with pytest.raises(UsageError, match=r"--normalization FILE\.npz"):
        absorbed.preprocessing()
    found = absorbed.preprocessing(Normalization((1.0, 2.0, 3.0), (4.0, 4.0, 16.0), 0.0, 5.0))
    assert found is not None
    part = found.parts[0]
    assert part.gain == (0.5, 0.5, 0.25)
    assert part.offset == (-0.5, -1.0, -0.75)
    assert (part.low, part.high) == ((-5.0,), (5.0,))


def test_statistics_without_their_wrapper_are_refused() -> None:
    absorbed = spaces(bare_maker(ChaosEnv)).absorbed
    with pytest.raises(UsageError, match="NormalizeObservation"):
        absorbed.preprocessing(Normalization((0.0,), (1.0,)))


def test_statistics_of_another_size_are_refused() -> None:
    absorbed = spaces(bare_maker(lambda: w.NormalizeObservation(ChaosEnv()))).absorbed
    with pytest.raises(UsageError, match="of 2 numbers, but the observation has 3"):
        absorbed.preprocessing(Normalization((0.0, 1.0), (1.0, 1.0)))


def test_statistics_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    np.savez(path, mean=[1.0, 2.0], var=[4.0, 9.0], epsilon=1e-4, clip=10.0)
    assert read_normalization(path) == Normalization((1.0, 2.0), (4.0, 9.0), 1e-4, 10.0)
    np.savez(path, mean=[1.0, 2.0], var=[4.0, 9.0])
    assert read_normalization(path) == Normalization((1.0, 2.0), (4.0, 9.0))


DAMAGED: dict[str, dict[str, Any]] = {
    "no mean": {"var": [1.0]},
    "unknown": {"mean": [1.0], "var": [1.0], "std": [1.0]},
    "unlike": {"mean": [1.0, 2.0], "var": [1.0]},
    "nan": {"mean": [np.nan], "var": [1.0]},
    "negative": {"mean": [0.0], "var": [-1.0]},
    "clip": {"mean": [0.0], "var": [1.0], "clip": 0.0},
    "text": {"mean": ["a"], "var": [1.0]},
    "objects": {"mean": np.array([{}]), "var": [1.0]},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_statistics_that_say_something_else_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    np.savez(path, **DAMAGED[name])
    with pytest.raises(DataError, match="The statistics"):
        read_normalization(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", None])
def test_damaged_file_of_statistics_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="The statistics"):
        read_normalization(path)


def test_absorbing_changes_nothing_where_there_is_nothing() -> None:
    env = gymnasium.make("CartPole-v1")
    bare, absorbed = absorb(env)
    assert bare is env
    assert absorbed.preprocessing() is None
    assert absorbed.action is None
    env.close()
