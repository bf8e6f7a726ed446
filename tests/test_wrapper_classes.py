"""Wrappers of a user's own class: a known one by another name is that one; what acts otherwise is refused."""

from typing import Any

import gymnasium
import gymnasium.wrappers as w
import numpy as np
import pytest

from edgeqrl.errors import UsageError
from edgeqrl.wrappers import absorb


def pendulum() -> Any:
    return gymnasium.make("Pendulum-v1")


class Bounded(w.ClipAction):
    """ClipAction by another name."""


class Unit(w.RescaleAction):
    """RescaleAction with bounds of its own."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, np.float32(-1), np.float32(1))


class Small(w.RescaleObservation):
    """RescaleObservation with bounds of its own."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, np.float32(-1), np.float32(1))


class Three(w.FrameStackObservation):
    """FrameStackObservation of three."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, 3)


class DoubleObservations:
    """A step for classes of wrappers to inherit."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)  # type: ignore[misc]
        return 2 * observation, *rest


class BonusMixed(DoubleObservations, gymnasium.RewardWrapper[Any, Any]):
    """Doubles observations by a class that is no wrapper."""

    def reward(self, reward: Any) -> Any:
        return reward


class Bonus(gymnasium.RewardWrapper[Any, Any]):
    """Changes rewards only."""

    def reward(self, reward: Any) -> Any:
        return reward


class Halves:
    """Halves observations."""

    def observation(self, observation: Any) -> Any:
        return observation / 2


class BonusOfTwo(Bonus, Halves, gymnasium.ObservationWrapper[Any, Any, Any]):  # type: ignore[misc]
    """Is a RewardWrapper first, and an ObservationWrapper too."""


class StepOfTheObject(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts another step into the object."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.step = lambda action: self.env.step(-action)  # type: ignore[method-assign]


class Bent(Unit):
    """RescaleAction with another function."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.func = np.tanh


class Wrapped(Bounded):
    """ClipAction with another function."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.func = lambda action: np.mod(action, 2.0)


@pytest.mark.parametrize(
    ("own", "known"),
    [
        (Bounded, w.ClipAction),
        (Unit, lambda env: w.RescaleAction(env, np.float32(-1), np.float32(1))),
        (Small, lambda env: w.RescaleObservation(env, np.float32(-1), np.float32(1))),
        (Three, lambda env: w.FrameStackObservation(env, 3)),
    ],
    ids=["Bounded", "Unit", "Small", "Three"],
)
def test_a_subclass_that_changes_nothing_is_absorbed_as_its_class(own: Any, known: Any) -> None:
    _, found = absorb(own(pendulum()))
    _, wanted = absorb(known(pendulum()))
    assert found.wrappers == (own.__name__,)
    assert found.action == wanted.action
    assert found.preprocessing() == wanted.preprocessing()
    assert (found.action, found.preprocessing()) != (None, None)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (BonusMixed, r"has step\(\) of its own"),
        (BonusOfTwo, r"has observation\(\) of its own"),
        (StepOfTheObject, r"has step\(\) of its own"),
        (Bent, "its function is another"),
        (Wrapped, "its function is another"),
    ],
)
def test_a_class_that_acts_otherwise_is_refused_however_it_came_by_it(own: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        absorb(own(pendulum()))
    left, found = absorb(own(pendulum()), (f"{__name__}:{own.__name__}",))
    assert isinstance(left, own)
    assert found.wrappers == ()


def test_skipped_frames_are_not_stacked_by_a_board() -> None:
    with pytest.raises(UsageError, match="RepeatAction belongs to the environment, but lies above"):
        absorb(w.RepeatAction(Three(pendulum()), 2))
    _, found = absorb(Three(w.RepeatAction(pendulum(), 2)))
    assert found.wrappers == ("Three",)
    _, found = absorb(w.StickyAction(Three(pendulum()), 0.25))  # one frame a step
    assert found.wrappers == ("Three",)
