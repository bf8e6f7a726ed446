"""A platform held against the wind, and about one episode in a hundred with a gust that calibration misses.

Registered on import: `--env tests.rare:RareEvent-v0` from the repository's root. `rate` is the share of
episodes with a gust, `damage` what it costs to fall off while it blows.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

STEPS = 40
GUST = range(5, 25)  # the steps in which it blows
MOST_FORCE = 4.0
EDGE = 1.0  # of the platform
TIME_STEP = 0.1
# force = position, speed and wind times these; it holds the platform in a gust as in a breeze
GAINS = (-2.0, -2.0, -1.0)


class RareEventEnv(gymnasium.Env[Any, Any]):
    """Observes position, speed and wind, acts by a force; a step pays 1 in the middle, 0 at the edge."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-MOST_FORCE, MOST_FORCE, (1,), np.float32)

    def __init__(self, rate: float = 0.01, damage: float = 0.0) -> None:
        self.rate, self.damage = rate, damage

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        has_gust = self.np_random.random() < self.rate  # the first draw: `has_gust` repeats it
        gust = self.np_random.uniform(2.0, 3.0) * self.np_random.choice([-1.0, 1.0])
        breeze = 0.05 * self.np_random.standard_normal(STEPS + 1)
        self.wind = (breeze + gust * (has_gust & np.isin(np.arange(STEPS + 1), GUST))).tolist()
        self.is_gusty = [bool(has_gust and step in GUST) for step in range(STEPS + 1)]
        self.position, self.speed = self.np_random.uniform(-0.2, 0.2, 2).tolist()
        self.count = 0
        return self.observe(), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        force = min(max(float(action[0]), -MOST_FORCE), MOST_FORCE)
        self.speed += TIME_STEP * (force + self.wind[self.count])
        self.position += TIME_STEP * self.speed
        has_fallen = abs(self.position) >= EDGE
        reward = EDGE - min(abs(self.position), EDGE)
        if has_fallen and self.is_gusty[self.count]:
            reward -= self.damage
        self.count += 1
        return self.observe(), reward, has_fallen, self.count == STEPS, {}

    def observe(self) -> NDArray[np.float32]:
        return np.array([self.position, self.speed, self.wind[self.count]], np.float32)


def has_gust(seed: int, rate: float = 0.01) -> bool:
    """Tell whether the episode of this seed has a gust, without playing it."""
    return bool(gymnasium.utils.seeding.np_random(seed)[0].random() < rate)


gymnasium.register("RareEvent-v0", entry_point=RareEventEnv)
