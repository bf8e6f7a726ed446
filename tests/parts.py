"""Toys with observations of several parts and actions of several choices."""

from typing import Any

import gymnasium
import numpy as np

from tests.toys import ChaosEnv


class PartsEnv(ChaosEnv):
    """The same chaos, of a dict of everything; the action has three choices."""

    observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
        joints=gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64),
        image=gymnasium.spaces.Box(0, 255, (2, 2), np.uint8),
        more=gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(3), gymnasium.spaces.MultiBinary(4)]),
    )

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.MultiDiscrete([2, 3, 4], start=[0, -1, 5])  # type: ignore[assignment]

    def observe(self) -> Any:
        bits = np.array([(self.hidden >> k) & 1 for k in range(4)], np.int8)
        joints = np.array([self.hidden % 97 / 97, self.hidden % 83 / 83])
        image = np.array([self.hidden % k for k in (251, 241, 239, 233)], np.uint8).reshape(2, 2)
        return {"joints": joints, "image": image, "more": (self.hidden % 3, bits)}

    def step(self, action: Any) -> Any:
        assert action.shape == (3,)
        assert self.action_space.contains(action)
        result = super().step(int(action @ [100, 10, 1]))
        action[:] = 77
        return result


class MaskedPartsEnv(PartsEnv):
    """With masks of all choices, one after another."""

    def action_masks(self) -> Any:
        bits = np.array([(self.hidden >> k) & 1 for k in range(9)], np.bool_)
        bits[[0, 2, 5]] = True
        return bits

    def step(self, action: Any) -> Any:
        assert self.action_masks()[np.add(action, [0, 3, 0])].all(), "a forbidden action"
        return super().step(action)


class TupleMaskEnv(MaskedPartsEnv):
    """With masks in a tuple, as spaces of Gymnasium take them."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, _ = super().reset(seed=seed)
        return observation, self.info()

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        return *rest, self.info()

    def info(self) -> dict[str, Any]:
        return {"action_mask": tuple(np.split(self.action_masks().astype(np.int8), [2, 5]))}


class BinaryEnv(ChaosEnv):
    """Four switches."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.MultiBinary(4)  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return super().step(int(action @ [1, 2, 4, 8]))


class PartsPolicy:
    """Folds every part into its memory, draws, and obeys the mask."""

    name = "parts"
    has_memory = True

    def act(
        self, observations: Any, state: Any, *, episode_start: Any, action_masks: Any = None, rng: Any = None
    ) -> Any:
        assert list(observations) == ["joints", "image", "more_0", "more_1"]
        assert [str(batch.dtype) for batch in observations.values()] == ["float32", "uint8", "int32", "uint8"]
        count = len(episode_start)
        before = np.zeros(count, np.int64) if state is None else state[0]
        folded = sum(
            np.rint(v.reshape(count, -1) * 97).astype(np.int64).sum(axis=1) for v in observations.values()
        )
        memory = (np.where(episode_start, 1, before) * 31 + folded) % 10_007
        drawn = np.array([generator.integers(1000) for generator in rng])
        indices = np.stack([(memory + drawn) // k % n for k, n in ((1, 2), (7, 3), (41, 4))], axis=1)
        if action_masks is not None:
            for column, (first, n) in enumerate(((0, 2), (2, 3), (5, 4))):
                allowed = action_masks[:, first : first + n]
                is_allowed = np.take_along_axis(allowed, indices[:, column : column + 1], axis=1)[:, 0]
                indices[:, column] = np.where(is_allowed, indices[:, column], allowed.argmax(axis=1))
        return np.add(indices, [0, -1, 5]), (memory,)

    def network_inputs(self, observations: Any, state: Any, *, episode_start: Any) -> Any:
        memory = np.zeros(len(episode_start)) if state is None else np.where(episode_start, 0, state[0])
        return {"image": observations["image"] / 255.0, "memory": memory[:, None]}
