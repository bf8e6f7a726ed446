"""Small environments and policies whose every step depends on all that went before."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ObservationEdge, quantize_observations

MODULUS = 10_007


class ChaosEnv(gymnasium.Env[Any, Any]):
    """One wrong action, seed or mixed-up row changes all that follows; episodes last 3 to 12 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    num_open: ClassVar[int] = 0

    def __init__(self, actions: int = 5, start: int = 0) -> None:
        self.action_space = gymnasium.spaces.Discrete(actions, start=start)
        type(self).num_open += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.hidden = int(self.np_random.integers(MODULUS))
        self.steps_left = int(self.np_random.integers(3, 13))
        self.is_timed = bool(self.np_random.integers(2))
        self.buffer = np.zeros(3, np.float32)
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.hidden = (self.hidden * 31 + 17 * int(action) + int(self.np_random.integers(100))) % MODULUS
        self.steps_left -= 1
        ended = self.steps_left == 0
        return self.observe(), self.hidden / 7, ended and not self.is_timed, ended and self.is_timed, {}

    def observe(self) -> NDArray[np.float32]:
        # The same array every time, as careless environments do.
        self.buffer[:] = [self.hidden % k / k * 2 - 1 for k in (97, 89, 83)]
        return self.buffer

    def close(self) -> None:
        type(self).num_open -= 1


class BoxChaosEnv(ChaosEnv):
    """The same with two continuous actions, which it overwrites in place."""

    def __init__(self, dtype: Any = np.float32) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), dtype)  # type: ignore[assignment]
        self.dtype = dtype

    def step(self, action: Any) -> Any:
        assert action.shape == (2,)
        assert action.dtype == self.dtype
        result = super().step(round(float(np.clip(action, -2, 2) @ [100.0, 10.0])))
        action[:] = 99.0
        return result


class InfoMaskEnv(ChaosEnv):
    """Gives masks in `info`, as Gymnasium's toy text environments do; a forbidden action is an error."""

    def mask(self) -> NDArray[np.int8]:
        return np.array([(self.hidden >> k) & 1 or k == self.hidden % 5 for k in range(5)], np.int8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, _ = super().reset(seed=seed)
        return observation, {"action_mask": self.mask()}

    def step(self, action: int) -> Any:
        assert self.mask()[action], f"action {action} is forbidden"
        *rest, _ = super().step(action)
        return *rest, {"action_mask": self.mask()}


class MethodMaskEnv(InfoMaskEnv):
    """Gives the same masks by a method, as sb3-contrib has it."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {}

    def step(self, action: int) -> Any:
        return *super().step(action)[:4], {}

    def action_masks(self) -> NDArray[np.bool_]:
        return self.mask().astype(np.bool_)


class TargetEnv(gymnasium.Env[Any, Any]):
    """20 steps; reward 1 for naming the observed target (of 4), plus a constant of the seed."""

    observation_space = gymnasium.spaces.Box(0.0, 3.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        self.bonus = float(self.np_random.normal()) / 20
        self.target = int(self.np_random.integers(4))
        return np.array([self.target], np.float32), {}

    def step(self, action: int) -> Any:
        reward = float(action == self.target) + self.bonus
        self.target = int(self.np_random.integers(4))
        self.count += 1
        return np.array([self.target], np.float32), reward, False, self.count == 20, {}


class IntegerPolicy:
    """Quantized observations times integer weights: the same on every machine and in any batch."""

    name = "integer"

    def __init__(self, size: int, num_actions: int, start: int = 0) -> None:
        self.edge = ObservationEdge.of((size,), 0.01, 3)
        self.weights = np.random.default_rng(1).integers(-9, 10, (size, num_actions))
        self.start = start

    def act(self, observations: NDArray[Any], state: Any, *, action_masks: Any = None, **_: Any) -> Any:
        outputs = quantize_observations(self.edge, observations)[0].astype(np.int64) @ self.weights
        if action_masks is not None:
            outputs = np.where(action_masks, outputs, -(10**9))
        return outputs.argmax(axis=1) + self.start, ()


class RecurrentPolicy:
    """Folds everything seen in an episode into its state; also draws from the episode's generator."""

    name = "recurrent"

    def __init__(self, num_actions: int = 5, *, draws: bool = True) -> None:
        self.num_actions, self.draws = num_actions, draws
        self.batch_sizes: list[int] = []

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: Any = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> Any:
        self.batch_sizes.append(len(observations))
        before = np.full((len(observations), 1), 77) if state is None else state[0]
        assert len(before) == len(observations) == len(episode_start) == len(rng or observations)
        memory = np.where(episode_start[:, None], 1, before)
        memory = (
            memory * 31 + np.rint(observations * 1000).astype(np.int64).sum(axis=1, keepdims=True)
        ) % MODULUS
        noise = np.array([g.integers(1000) for g in rng]) if self.draws and rng is not None else 0
        choice = (memory[:, 0] + noise) % self.num_actions
        return choice, (memory, np.zeros((len(memory), 2, 2)))


class TargetPolicy:
    """Names the target; `wrong_every` k makes each k-th observation of an episode (by memory) wrong."""

    def __init__(self, name: str, wrong_every: int = 0) -> None:
        self.name, self.wrong_every = name, wrong_every

    def act(self, observations: NDArray[Any], state: Any, *, episode_start: Any, **_: Any) -> Any:
        count = np.zeros(len(observations), np.int64) if state is None else state[0]
        count = np.where(episode_start, 0, count) + 1
        is_wrong = (count % self.wrong_every == 0) if self.wrong_every else np.zeros(len(count), np.bool_)
        target = observations[:, 0].astype(np.int64)
        return np.where(is_wrong, (target + 1) % 4, target), (count,)


class FixedPolicy:
    """Answers whatever it is given."""

    name = "fixed"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def act(self, observations: NDArray[Any], state: Any, **_: Any) -> Any:
        return np.array([self.answer] * len(observations)), ()


def as_target_env(env: Any) -> Any:
    """A wrapper in the command line's sense."""
    return gymnasium.wrappers.TimeLimit(env, 2)


def returns_nothing(env: Any) -> None:
    """Not a wrapper."""


def raises(env: Any) -> Any:
    """A wrapper that fails."""
    raise RuntimeError("no such sensor")
