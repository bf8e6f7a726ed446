"""Same seed, same episode, whatever plays beside it; and every breach of the contract is one sentence."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeqrl.rollout as module
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import AgentError, EnvironmentFailure, UsageError
from edgeqrl.rollout import RandomPolicy, Rollout, rollout
from tests.parts import BinaryEnv, MaskedPartsEnv, PartsEnv, PartsPolicy, TupleMaskEnv
from tests.toys import (
    BoxChaosEnv,
    ChaosEnv,
    FixedPolicy,
    InfoMaskEnv,
    IntegerPolicy,
    MethodMaskEnv,
    RecurrentPolicy,
)

CARTPOLE = EnvironmentSpec("CartPole-v1")


@pytest.fixture(autouse=True)
def _every_environment_is_closed() -> Any:
    ChaosEnv.num_open = 0
    yield
    assert ChaosEnv.num_open == 0


def alone(policy: Any, make_env: Any, seed: int) -> Rollout:
    return rollout(policy, make_env, [seed], keep_observations=True, keep_actions=True)


def assert_same_episode(together: Rollout, index: int, single: Rollout) -> None:
    assert together.episode_returns[index] == single.episode_returns[0]
    assert together.episode_lengths[index] == single.episode_lengths[0]
    assert together.is_truncated[index] == single.is_truncated[0]
    for many, one in ((together.observations, single.observations), (together.actions, single.actions)):
        assert many is not None
        assert one is not None
        assert np.array_equal(many[index], one[0])
        assert many[index].dtype == one[0].dtype


@pytest.mark.parametrize(
    ("make_env", "policy"),
    [
        (ChaosEnv, IntegerPolicy(3, 5)),
        (ChaosEnv, RecurrentPolicy()),
        (lambda: ChaosEnv(7, start=-3), RandomPolicy(ChaosEnv(7, start=-3).action_space)),
        (InfoMaskEnv, IntegerPolicy(3, 5)),
        (MethodMaskEnv, IntegerPolicy(3, 5)),
        (InfoMaskEnv, RandomPolicy(ChaosEnv().action_space)),
        (BoxChaosEnv, RandomPolicy(BoxChaosEnv().action_space)),
        (lambda: BoxChaosEnv(np.float64), RandomPolicy(BoxChaosEnv().action_space)),
    ],
    ids=["integer", "recurrent", "random", "info-mask", "method-mask", "random-mask", "box", "box64"],
)
@settings(max_examples=25, deadline=None)
@given(seeds=st.lists(st.integers(0, 40), min_size=1, max_size=14), num_envs=st.integers(1, 9))
def test_episode_depends_on_its_seed_alone(
    make_env: Any, policy: Any, seeds: list[int], num_envs: int
) -> None:
    played = rollout(policy, make_env, seeds, num_envs=num_envs, keep_observations=True, keep_actions=True)
    assert played.seeds == tuple(seeds)
    for index, seed in enumerate(seeds):
        assert_same_episode(played, index, alone(policy, make_env, seed))


def test_rollout_equals_the_plain_loop_of_gymnasium() -> None:
    policy = IntegerPolicy(4, 2)
    seeds = range(100, 140)
    played = rollout(policy, CARTPOLE.make, seeds, num_envs=7, keep_observations=True, keep_actions=True)
    assert played.observations is not None
    assert played.actions is not None
    for index, seed in enumerate(seeds):
        env = gymnasium.make("CartPole-v1")
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        seen, done, total, ended = [], [], 0.0, False
        while not ended:
            action = int(policy.act(observation[None], None)[0][0])
            seen.append(observation)
            done.append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        assert np.array_equal(played.observations[index], seen)
        assert played.actions[index].tolist() == done
        assert played.episode_returns[index] == total
        assert played.episode_lengths[index] == len(seen)
        assert played.is_truncated[index] == (not terminated)


def test_episodes_of_bipedal_walker_do_not_depend_on_the_one_before() -> None:
    spec = EnvironmentSpec("BipedalWalker-v3", {"max_episode_steps": 60})
    policy = RandomPolicy(spec.make().action_space)
    second = rollout(policy, spec.make, [3, 5], num_envs=1).episode_returns[1]
    assert second == rollout(policy, spec.make, [5]).episode_returns[0]


def test_policy_sees_live_rows_only_and_rows_go_when_no_seed_is_left() -> None:
    policy = RecurrentPolicy()
    played = rollout(policy, ChaosEnv, range(10), num_envs=4)
    assert sum(policy.batch_sizes) == played.episode_lengths.sum()
    assert policy.batch_sizes[0] == 4
    assert policy.batch_sizes == sorted(policy.batch_sizes, reverse=True)
    assert policy.batch_sizes[-1] < 4


def test_batches_given_to_the_policy_are_not_overwritten_later() -> None:
    class Collector(IntegerPolicy):
        def act(self, observations: Any, state: Any, **others: Any) -> Any:
            batches.append((observations, observations.copy()))
            return super().act(observations, state, **others)

    batches: list[Any] = []
    rollout(Collector(3, 5), ChaosEnv, range(5), num_envs=3)
    assert all(np.array_equal(kept, then) for kept, then in batches)
    assert {kept.dtype for kept, _ in batches} == {np.dtype(np.float32)}


def test_a_policy_that_scribbles_on_its_input_does_not_change_what_was_kept() -> None:
    class Vandal(IntegerPolicy):
        def act(self, observations: Any, state: Any, **others: Any) -> Any:
            actions = super().act(observations, state, **others)
            observations[:] = 7.0
            return actions

    ours = rollout(Vandal(3, 5), ChaosEnv, range(5), keep_observations=True)
    theirs = rollout(IntegerPolicy(3, 5), ChaosEnv, range(5), keep_observations=True)
    assert ours.observations is not None
    assert theirs.observations is not None
    assert all(np.array_equal(a, b) for a, b in zip(ours.observations, theirs.observations, strict=True))


def test_the_policys_draws_do_not_repeat_the_environments() -> None:
    class Draws:
        name = "draws"

        def act(self, observations: Any, state: Any, *, rng: Any, **_: Any) -> Any:
            drawn.extend(generator.random() for generator in rng)
            return np.zeros(len(observations), np.int64), ()

    drawn: list[float] = []
    rollout(Draws(), ChaosEnv, [5])
    assert not set(drawn) & set(np.random.default_rng(5).random(1000))


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"), [(True, False, False), (True, True, False), (False, True, True)]
)
def test_episode_is_truncated_where_the_time_limit_alone_ended_it(
    terminated: bool, truncated: bool, expected: bool
) -> None:
    ends = broken(step=lambda self, action: (self.observe(), 1.0, np.bool_(terminated), truncated, {}))
    played = rollout(FixedPolicy(0), ends, [1, 2])
    assert played.is_truncated.tolist() == [expected] * 2
    assert played.episode_lengths.tolist() == [1, 1]


def test_actions_kept_are_those_the_policy_chose_not_what_the_environment_made_of_them() -> None:
    policy = RandomPolicy(BoxChaosEnv().action_space)
    played = rollout(policy, BoxChaosEnv, range(6), num_envs=4, keep_actions=True)
    ChaosEnv.num_open = BoxChaosEnv.num_open = 0
    assert played.actions is not None
    assert max(float(np.abs(actions).max()) for actions in played.actions) <= 2.0


def test_environment_that_draws_from_its_own_action_space_repeats_its_episodes() -> None:
    def step(self: ChaosEnv, action: int) -> Any:
        return ChaosEnv.step(self, int(self.action_space.sample()))

    make_env = broken(step=step)
    first, again = (rollout(FixedPolicy(0), make_env, [1, 2, 3], num_envs=n) for n in (1, 3))
    assert first.episode_returns.tolist() == again.episode_returns.tolist()


def test_nothing_is_kept_unless_asked() -> None:
    played = rollout(IntegerPolicy(3, 5), ChaosEnv, [1])
    assert played.observations is None
    assert played.actions is None


def test_progress_counts_every_episode_once() -> None:
    calls: list[tuple[int, int]] = []
    rollout(IntegerPolicy(3, 5), ChaosEnv, range(7), num_envs=3, progress=lambda *call: calls.append(call))
    assert calls == [(done, 7) for done in range(1, 8)]


def test_classes_arrive_as_int32() -> None:
    played = rollout(
        FixedPolicy(0), EnvironmentSpec("FrozenLake-v1").make, [1], keep_observations=True, num_envs=2
    )
    assert played.observations is not None
    assert played.observations[0].dtype == np.int32
    assert played.observations[0].shape == (played.episode_lengths[0],)


def test_rewards_of_single_precision_are_summed_in_double() -> None:
    class Single(ChaosEnv):
        def step(self, action: int) -> Any:
            observation, _, *rest = super().step(action)
            return observation, np.float32(0.1), *rest

    played = rollout(FixedPolicy(0), Single, [3])
    assert played.episode_returns[0] == sum(float(np.float32(0.1)) for _ in range(played.episode_lengths[0]))


# Environments that break the contract, and what the sentence must say.


def broken(**methods: Callable[..., Any]) -> type[ChaosEnv]:
    return type("BrokenEnv", (ChaosEnv,), methods)


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("motor driver\n  is on fire.")


def step_with(change: Callable[[Any], Any]) -> Any:
    def step(self: ChaosEnv, action: int) -> Any:
        result = ChaosEnv.step(self, action)
        return change(result) if self.steps_left < 2 else result

    return step


ENVIRONMENT_FAULTS = {
    "step raises": (broken(step=fails), "failed in step(), in the episode with seed 4: RuntimeError: motor"),
    "reset raises": (broken(reset=fails), "failed in reset(), in the episode with seed 4"),
    "nan": (broken(step=step_with(lambda r: (np.full(3, np.nan), *r[1:]))), "not finite in float32, in step"),
    "inf": (broken(step=step_with(lambda r: (np.full(3, np.inf), *r[1:]))), "not finite in float32"),
    "overflow": (broken(step=step_with(lambda r: (np.full(3, 1e300), *r[1:]))), "not finite in float32"),
    "shape": (broken(step=step_with(lambda r: (np.zeros(4), *r[1:]))), "shape (3,), (4,), but"),
    "scalar": (broken(step=step_with(lambda r: (0.0, *r[1:]))), "its observation space says (3,)"),
    "text": (broken(step=step_with(lambda r: ("hello", *r[1:]))), "its observation space says (3,)"),
    "old api": (broken(step=step_with(lambda r: r[:4])), "not enough values to unpack"),
    "nan reward": (broken(step=step_with(lambda r: (r[0], np.nan, *r[2:]))), "rewards that are not finite"),
    "vector reward": (broken(step=step_with(lambda r: (r[0], [1, 2], *r[2:]))), "failed in step()"),
    "mask lost": (
        type("Lost", (InfoMaskEnv,), {"step": step_with(lambda r: (*r[:4], {}))}),
        "KeyError: 'action_mask'",
    ),
    "mask short": (
        type("Short", (MethodMaskEnv,), {"action_masks": lambda self: np.ones(4)}),
        "not one value for each of its 5 actions",
    ),
}


@pytest.mark.parametrize("fault", ENVIRONMENT_FAULTS)
def test_environment_that_breaks_its_contract_is_named_in_one_sentence(fault: str) -> None:
    make_env, sentence = ENVIRONMENT_FAULTS[fault]
    with pytest.raises(EnvironmentFailure) as caught:
        rollout(FixedPolicy(0), make_env, [4, 5, 6], num_envs=2)
    assert sentence in str(caught.value)
    assert make_env.__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_failing_close_is_reported() -> None:
    def close(self: ChaosEnv) -> None:
        ChaosEnv.num_open -= self.steps_left <= 0
        self.steps_left = 1
        raise OSError("port is gone")

    ChaosEnv.num_open = 0
    with pytest.raises(EnvironmentFailure, match=r"failed in close\(\).*port is gone"):
        rollout(FixedPolicy(0), broken(close=close), [4])
    ChaosEnv.num_open = 0


def test_environment_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EPISODE_STEPS", 3000)
    endless = broken(step=lambda self, action: (self.observe(), 0.0, False, False, {}))
    with pytest.raises(EnvironmentFailure, match="has not ended the episode with seed 4 after 3000 steps"):
        rollout(FixedPolicy(0), endless, [4])


@pytest.mark.parametrize("num_envs", [1, 2])
def test_make_env_that_returns_one_environment_twice_is_refused(num_envs: int) -> None:
    env = ChaosEnv()
    with pytest.raises(UsageError, match="returned the same ChaosEnv twice"):
        rollout(FixedPolicy(0), lambda: gymnasium.wrappers.TimeLimit(env, 9), [1, 2], num_envs=num_envs)
    ChaosEnv.num_open = 0


@pytest.mark.parametrize("moment", [1, 2, 3, 5, 8])
def test_interrupt_closes_every_environment(moment: int) -> None:
    def step(self: ChaosEnv, action: int) -> Any:
        steps.append(action)
        if len(steps) == moment:
            raise KeyboardInterrupt
        return ChaosEnv.step(self, action)

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        rollout(FixedPolicy(0), broken(step=step), range(5), num_envs=3)
    assert len(steps) == moment


# Policies that break theirs.


@pytest.mark.parametrize(
    ("make_env", "answer", "sentence"),
    [
        (ChaosEnv, 5, "chose action 5, but environment 'ChaosEnv' has actions 0 to 4"),
        (ChaosEnv, -1, "chose action -1"),
        (lambda: ChaosEnv(3, start=2), 1, "has actions 2 to 4"),
        (ChaosEnv, 1.0, "returned float64 actions"),
        (ChaosEnv, True, "returned bool actions"),
        (ChaosEnv, [1], "returned actions of shape (2, 1), but environment 'ChaosEnv' needs (2,)"),
        (BoxChaosEnv, [0.0], "returned actions of shape (2, 1)"),
        (BoxChaosEnv, [0.0, np.nan], "returned an action that is not finite, in the episode with seed 3"),
        (BoxChaosEnv, [-np.inf, 0.0], "returned an action that is not finite"),
    ],
)
def test_policy_whose_actions_do_not_fit_is_named(make_env: Any, answer: Any, sentence: str) -> None:
    with pytest.raises(AgentError) as caught:
        rollout(FixedPolicy(answer), make_env, [3, 4])
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("Policy 'fixed' ")


def test_errors_of_the_policy_are_not_blamed_on_the_environment() -> None:
    class Faulty:
        name = "faulty"

        def act(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rollout(Faulty(), ChaosEnv, [1, 2])


@pytest.mark.parametrize(
    ("seeds", "num_envs", "sentence"),
    [([], 1, "give at least one seed"), ([1, -2], 1, "must not be negative, got -2"), ([1], 0, "num_envs")],
)
def test_options_that_cannot_be_are_refused(seeds: list[int], num_envs: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        rollout(FixedPolicy(0), ChaosEnv, seeds, num_envs=num_envs)


# Random actions.


def draws(space: Any, count: int = 400, mask: Any = None) -> Any:
    rng = [np.random.default_rng(seed) for seed in range(count)]
    masks = None if mask is None else np.array([mask] * count)
    start = np.ones(count, np.bool_)
    return RandomPolicy(space).act(
        np.zeros((count, 1)), None, episode_start=start, rng=rng, action_masks=masks
    )[0]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, {-1, 0, 1, 2}),
        ([True, False, False, True], {-1, 2}),
        ([False, True, False, False], {0}),
        ([False, False, False, False], {-1, 0, 1, 2}),
    ],
)
def test_random_policy_draws_every_allowed_action_and_no_other(mask: Any, expected: set[int]) -> None:
    actions = draws(gymnasium.spaces.Discrete(4, start=-1), mask=None if mask is None else np.array(mask))
    assert set(actions.tolist()) == expected


def test_random_policy_covers_a_box_of_any_bounds() -> None:
    inf = np.inf
    low, high = np.array([[-2, 1], [-inf, -inf]], np.float32), np.array([[3, inf], [5, inf]], np.float32)
    space = gymnasium.spaces.Box(low, high, dtype=np.float32)
    actions = draws(space)
    assert actions.shape == (400, 2, 2)
    assert actions.dtype == np.float32
    assert all(space.contains(action) for action in actions)
    assert actions[:, 0, 0].mean() == pytest.approx(0.5, abs=0.3)
    assert actions[:, 0, 1].mean() == pytest.approx(2.0, abs=0.3)
    assert actions[:, 1, 0].mean() == pytest.approx(4.0, abs=0.3)
    assert actions[:, 1, 1].std() == pytest.approx(1.0, abs=0.2)


def test_random_policy_refuses_spaces_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="not one array but a Dict"):
        RandomPolicy(gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2)))


# Observations of several parts, and actions of several choices.


@pytest.mark.parametrize("make_env", [PartsEnv, MaskedPartsEnv, TupleMaskEnv])
@pytest.mark.parametrize("kind", ["policy", "random"])
def test_episode_of_parts_and_choices_depends_on_its_seed_alone(make_env: Any, kind: str) -> None:
    env = make_env()
    policy = PartsPolicy() if kind == "policy" else RandomPolicy(env.action_space)
    env.close()
    seeds = [3, 1, 4, 1, 5, 9, 2, 6]
    kept: Any = {"keep_observations": True, "keep_actions": True, "keep_inputs": kind == "policy"}
    played = rollout(policy, make_env, seeds, num_envs=3, **kept)
    assert played.observations is not None
    assert played.actions is not None
    for index, seed in enumerate(seeds):
        single = rollout(policy, make_env, [seed], **kept)
        assert single.observations is not None
        assert single.actions is not None
        assert played.episode_returns[index] == single.episode_returns[0]
        assert np.array_equal(played.actions[index], single.actions[0])
        for name, batch in single.observations[0].items():
            assert np.array_equal(played.observations[index][name], batch)
            assert len(batch) == single.episode_lengths[0]
        if kind == "policy":
            assert played.inputs is not None
            assert single.inputs is not None
            for name, batch in single.inputs[0].items():
                assert batch.dtype == np.float32
                assert np.array_equal(played.inputs[index][name], batch)


def test_network_inputs_are_those_of_the_step_that_follows() -> None:
    played = rollout(PartsPolicy(), PartsEnv, [5, 6], keep_inputs=True, keep_observations=True)
    assert played.inputs is not None
    assert played.observations is not None
    for inputs, seen in zip(played.inputs, played.observations, strict=True):
        assert inputs["memory"][0] == 0.0
        assert (inputs["memory"][1:] > 0.0).any()
        assert np.array_equal(inputs["image"], (seen["image"] / 255.0).astype(np.float32))


def test_switches_are_drawn_and_stepped() -> None:
    played = rollout(RandomPolicy(BinaryEnv().action_space), BinaryEnv, range(20), keep_actions=True)
    ChaosEnv.num_open = BinaryEnv.num_open = 0
    assert played.actions is not None
    drawn = np.concatenate(played.actions)
    assert drawn.dtype == np.int8
    assert set(np.unique(drawn)) == {0, 1}
    assert 0.3 < drawn.mean() < 0.7


@pytest.mark.parametrize(
    ("make_env", "answer", "sentence"),
    [
        (PartsEnv, [0, -1, 9], "chose action 9 in choice 2, but environment 'PartsEnv' has actions 5 to 8"),
        (PartsEnv, [-1, 0, 5], "chose action -1 in choice 0"),
        (PartsEnv, [0.0, 0.0, 5.0], "returned float64 actions"),
        (PartsEnv, [0, 0], "returned actions of shape (1, 2)"),
        (BinaryEnv, [0, 1, 2, 0], "chose action 2 in choice 2"),
    ],
)
def test_choice_that_there_is_not_is_named(make_env: Any, answer: Any, sentence: str) -> None:
    class Fixed(FixedPolicy):
        def act(self, observations: Any, state: Any, **_: Any) -> Any:
            return np.array([self.answer]), ()

    with pytest.raises(AgentError) as caught:
        rollout(Fixed(answer), make_env, [3])
    assert sentence in str(caught.value)
    make_env.num_open = ChaosEnv.num_open = 0


def test_part_that_is_missing_or_not_finite_is_named() -> None:
    lost = type("Lost", (PartsEnv,), {"observe": lambda self: {"joints": np.zeros(2)}})
    with pytest.raises(EnvironmentFailure, match="without the part 'image'"):
        rollout(PartsPolicy(), lost, [3])
    nan = type(
        "NoNumber", (PartsEnv,), {"observe": lambda self: PartsEnv.observe(self) | {"joints": [0, np.nan]}}
    )
    with pytest.raises(EnvironmentFailure, match="not finite in float32 as part 'joints', in step 0"):
        rollout(PartsPolicy(), nan, [3])


def test_masks_of_switches_are_refused() -> None:
    masked = type("Masked", (BinaryEnv,), {"action_masks": lambda self: np.ones(8, np.bool_)})
    with pytest.raises(UsageError, match=r"MultiDiscrete\(\[2, ...\]\)"):
        rollout(RandomPolicy(gymnasium.spaces.MultiBinary(4)), masked, [1])


@pytest.mark.parametrize("most_envs", [1, 3])
def test_policy_says_how_many_episodes_it_plays_at_a_time(most_envs: int) -> None:
    policy = RecurrentPolicy()
    policy.most_envs = most_envs  # type: ignore[attr-defined]
    rollout(policy, ChaosEnv, range(6))
    assert max(policy.batch_sizes) == most_envs
