"""Environments that zoo agents are trained in and Gymnasium does not register itself.

Importing this registers `edgeqrl/CartPolePosition-v0`, `edgeqrl/BlindMaze-v0` and
`edgeqrl/MinAtarBreakout-v0` (the last needs MinAtar, which whoever plays it installs).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

__all__ = ["BlindMaze", "CartPolePosition", "minatar_breakout"]

# '#' is a wall, 'G' the goal; the goal lies left of one junction and right of the one that looks alike.
MAZE = (
    "#########",
    "#...#...#",
    "#.#...#.#",
    "#.#.#.#.#",
    "#...G...#",
    "#########",
)
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (row, column): up, right, down, left


class CartPolePosition(CartPoleEnv):
    """CartPole that shows where cart and pole are, not how fast they move: memory is needed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        full = self.observation_space
        assert isinstance(full, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(full.low[::2], full.high[::2], dtype=np.float32)

    def reset(self, **kwargs: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; see gymnasium.Env.reset."""
        observation, info = super().reset(**kwargs)
        return observation[::2].copy(), info

    def step(self, action: Any) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        """Push the cart left (0) or right (1); see gymnasium.Env.step."""
        observation, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation[::2].copy(), reward, terminated, truncated, info


class BlindMaze(gym.Env[NDArray[np.float32], Any]):
    """A maze whose robot feels only the four walls next to it, so that different places feel alike.

    Without memory, whoever always does the same where things feel the same runs to and fro for ever from
    some of the starts; whoever draws by the right odds gets out of each. Every step costs 1.
    """

    metadata = {"render_modes": [], "render_fps": 2}  # noqa: RUF012

    def __init__(self) -> None:
        self._walls = np.array([[cell == "#" for cell in row] for row in MAZE])
        self._free = [tuple(place) for place in np.argwhere(~self._walls)]
        self._goal = next((r, row.index("G")) for r, row in enumerate(MAZE) if "G" in row)
        self._place = self._goal
        self.observation_space = gym.spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start anywhere but at the goal; see gymnasium.Env.reset."""
        super().reset(seed=seed)
        starts = [place for place in self._free if place != self._goal]
        self._place = starts[int(self.np_random.integers(len(starts)))]
        return self._feel(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move up, right, down or left (0 to 3), or stay where a wall is; see gymnasium.Env.step."""
        place = self._next(_MOVES[int(action)])
        if not self._walls[place]:
            self._place = place
        return self._feel(), -1.0, self._place == self._goal, False, {}

    def _next(self, move: tuple[int, int]) -> tuple[int, int]:
        return int(self._place[0] + move[0]), int(self._place[1] + move[1])

    def _feel(self) -> NDArray[np.float32]:
        """Return 1 where a wall is, up, right, down and left of here."""
        return np.array([self._walls[self._next(move)] for move in _MOVES], np.float32)


def minatar_breakout(**kwargs: Any) -> Any:
    """Return MinAtar's Breakout with its three actions: 10x10 planes of four kinds of object."""
    from minatar.gym import BaseEnv

    return BaseEnv("breakout", use_minimal_action_set=True, **kwargs)


for _name, _entry, _steps in (
    ("CartPolePosition", "CartPolePosition", 500),
    ("BlindMaze", "BlindMaze", 200),
    ("MinAtarBreakout", "minatar_breakout", 2_500),
):
    gym.register(f"edgeqrl/{_name}-v0", f"edgeqrl.zoo.training.tasks:{_entry}", max_episode_steps=_steps)
