"""The guard, rule by rule: what may be driven after which observations, when, with which fail-safe."""

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from firmware_export.emit import runtime_sources
from tests.c_build import c_compiler, run, write_files
from tests.c_contract import CContract

DRIVE, HELD, FAIL_SAFE, DISABLE, LATE, LOST, RANGE, NOT_FINITE, LATCHED = (1 << i for i in range(9))
NONE, VALUE, HOLD, STOP = range(4)
PERIOD, TIMEOUT, HOLD_STEPS = 100, 200, 2
NAN, INF = float("nan"), float("inf")
OBSERVATION, ACTION, SAFE = (0.5, -0.5), (0.25,), 0.125
BAD_ACTION = (1.5,)


class Guard:
    """One guard of two observations and one action, bounds [-1, 1] each unless given."""

    def __init__(self, library: ctypes.CDLL, fail_safe: int, **facts: Any) -> None:
        self._library = library
        self._state = (ctypes.c_uint32 * 16)()
        self._held = (ctypes.c_uint32 * 1)()
        self._action = (ctypes.c_uint32 * 1)()
        self._is_discrete = bool(facts.get("is_discrete"))
        ends = facts.pop("action_bounds", (-1.0, 1.0))
        self._kept = [
            words([-1.0, -1.0]),
            words([1.0, 1.0]),
            words([SAFE]),
            *(self._words([e]) for e in ends),
        ]
        low, high, safe, action_low, action_high = self._kept
        values = {
            "num_inputs": 2,
            "num_features": 2,
            "low": low,
            "high": high,
            "action_bytes": 4,
            "fail_safe": fail_safe,
            "hold_steps": HOLD_STEPS if fail_safe == HOLD else 0,
            "fail_safe_action": safe if fail_safe == VALUE else None,
            "action_low": action_low,
            "action_high": action_high,
        }
        self._contract = CContract(name=b"robot", **(values | facts))

    def reset(self, now: int = 0, period: int = PERIOD, timeout: int = TIMEOUT) -> None:
        state, contract = ctypes.byref(self._state), ctypes.byref(self._contract)
        self._library.eqrl_guard_reset(state, contract, self._held, period, timeout, ctypes.c_uint32(now))

    def step(
        self,
        now: int,
        observation: Sequence[float] = OBSERVATION,
        action: Sequence[float] = ACTION,
        status: int = 0,
    ) -> tuple[int, float]:
        """Return the flags and the action that is there afterwards."""
        state, contract = ctypes.byref(self._state), ctypes.byref(self._contract)
        self._action[0] = self._words(action)[0]
        flags = self._library.eqrl_guard_step(
            state, contract, ctypes.c_uint32(now), words(observation), status, self._action
        )
        return flags, self._found()

    def idle(self, now: int) -> tuple[int, float]:
        state, contract = ctypes.byref(self._state), ctypes.byref(self._contract)
        flags = self._library.eqrl_guard_idle(state, contract, ctypes.c_uint32(now), self._action)
        return flags, self._found()

    def _found(self) -> float:
        return float(struct.unpack("<i" if self._is_discrete else "<f", bytes(self._action))[0])

    def _words(self, values: Sequence[float]) -> Any:
        return words(values, "i" if self._is_discrete else "f")


def words(values: Sequence[float], kind: str = "f") -> Any:
    data = struct.pack(f"<{len(values)}{kind}", *values)
    return (ctypes.c_uint32 * len(values)).from_buffer_copy(data)


@cache
def library(folder: Path) -> ctypes.CDLL:
    write_files(folder, runtime_sources())
    argv = [*c_compiler("gcc"), "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    run([*argv, "eqrl_guard.c", "-o", "guard.so"], folder)
    return ctypes.CDLL(str(folder / "guard.so"))


@pytest.fixture(scope="module")
def guards(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return library(tmp_path_factory.mktemp("guard"))


# fail-safe, events after a reset at 0, and what each gives: flags and the action. An event is a time alone
# (idle), or a time and an observation, or these and an action.
GOOD, WRONG, BROKEN, ENDLESS = OBSERVATION, (1.5, 0.0), (NAN, 0.0), (0.0, -INF)
A, S = ACTION[0], SAFE
RULES: dict[str, tuple[int, list[tuple[tuple[Any, ...], int, float]]]] = {
    "a good step is driven": (VALUE, [((10, GOOD), DRIVE, A)]),
    "value: out of bounds, that step": (
        VALUE,
        [
            ((0, GOOD), DRIVE, A),
            ((100, WRONG), DRIVE | FAIL_SAFE | RANGE, S),
            ((200, GOOD), DRIVE, A),
        ],
    ),
    "value: NaN": (VALUE, [((0, BROKEN), DRIVE | FAIL_SAFE | NOT_FINITE, S)]),
    "value: infinite": (VALUE, [((0, ENDLESS), DRIVE | FAIL_SAFE | NOT_FINITE, S)]),
    "value: both": (VALUE, [((0, (NAN, 2.0)), DRIVE | FAIL_SAFE | NOT_FINITE | RANGE, S)]),
    "value: an action out of bounds": (VALUE, [((0, GOOD, BAD_ACTION), DRIVE | FAIL_SAFE | RANGE, S)]),
    "value: an action not finite": (VALUE, [((0, GOOD, (NAN,)), DRIVE | FAIL_SAFE | NOT_FINITE, S)]),
    "value: lost latches": (
        VALUE,
        [
            ((0, GOOD), DRIVE, A),
            ((200,), 0, A),
            ((201,), DRIVE | FAIL_SAFE | LOST | LATCHED, S),
            ((202,), 0, S),
            ((203, GOOD), LATCHED, A),
        ],
    ),
    "value: lost is seen by the step, too": (
        VALUE,
        [((0, GOOD), DRIVE, A), ((201, GOOD), DRIVE | FAIL_SAFE | LOST | LATCHED, S)],
    ),
    "late is driven": (
        VALUE,
        [
            ((0, GOOD), DRIVE, A),
            ((150, GOOD), DRIVE, A),
            ((301, GOOD), DRIVE | LATE, A),
            ((501, GOOD), DRIVE | LATE, A),
        ],
    ),
    "hold: a few in a row, then stop": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((100, WRONG, (0.75,)), DRIVE | HELD | RANGE, A),
            ((200, BROKEN, (0.75,)), DRIVE | HELD | NOT_FINITE, A),
            ((300, WRONG), DISABLE | RANGE | LATCHED, A),
            ((400, GOOD), LATCHED, A),
        ],
    ),
    "hold: a good one between counts anew": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((100, WRONG), DRIVE | HELD | RANGE, A),
            ((200, WRONG), DRIVE | HELD | RANGE, A),
            ((300, GOOD, (0.5,)), DRIVE, 0.5),
            ((400, WRONG), DRIVE | HELD | RANGE, 0.5),
        ],
    ),
    "hold: nothing to hold": (HOLD, [((0, WRONG), DISABLE | RANGE | LATCHED, A)]),
    "hold: lost, held, stopped": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((201,), HELD | LOST, A),
            ((400,), HELD | LOST, A),
            ((401,), DISABLE | LOST | LATCHED, A),
            ((402,), 0, A),
        ],
    ),
    "hold: it comes back in time": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((201,), HELD | LOST, A),
            ((390, GOOD), DRIVE | LOST, A),
            ((490, GOOD), DRIVE, A),
        ],
    ),
    "hold: it comes back too late": (
        HOLD,
        [((0, GOOD), DRIVE, A), ((401, GOOD), DISABLE | LOST | LATCHED, A)],
    ),
    "hold: bad ones far apart hold no longer": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((190, WRONG), DRIVE | HELD | RANGE | LATE, A),
            ((380, WRONG), DRIVE | HELD | RANGE | LATE, A),
            ((400,), 0, A),
            ((401,), DISABLE | LOST | LATCHED, A),
        ],
    ),
    "hold: a bad one after its time stops": (
        HOLD,
        [
            ((0, GOOD), DRIVE, A),
            ((250, WRONG), DRIVE | HELD | RANGE | LOST, A),
            ((401, WRONG), DISABLE | RANGE | LATE | LATCHED, A),
        ],
    ),
    "disable: out of bounds": (
        STOP,
        [((0, GOOD), DRIVE, A), ((100, WRONG), DISABLE | RANGE | LATCHED, A), ((200, GOOD), LATCHED, A)],
    ),
    "disable: lost": (STOP, [((0, GOOD), DRIVE, A), ((201,), DISABLE | LOST | LATCHED, A), ((202,), 0, A)]),
    "no fail-safe: never": (NONE, [((0, GOOD), LATCHED, A), ((10**6,), 0, A)]),
    "silence before anything is driven": (VALUE, [((10**6,), 0, 0.0), ((10**6 + 1, GOOD), DRIVE, A)]),
    "a bound itself is inside, of either zero": (VALUE, [((0, (1.0, -1.0), (-1.0,)), DRIVE, -1.0)]),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(guards: ctypes.CDLL, rule: str) -> None:
    fail_safe, events = RULES[rule]
    guard = Guard(guards, fail_safe)
    guard.reset(0)
    for event, flags, action in events:
        found = guard.idle(event[0]) if len(event) == 1 else guard.step(*event)
        assert found == (flags, pytest.approx(action, nan_ok=True)), event


@pytest.mark.parametrize("fail_safe", [NONE, VALUE, HOLD, STOP])
def test_nothing_is_driven_before_a_reset(guards: ctypes.CDLL, fail_safe: int) -> None:
    guard = Guard(guards, fail_safe)
    for now in (0, 10, 10**6):
        assert guard.step(now)[0] == LATCHED
        assert guard.idle(now)[0] == 0


@pytest.mark.parametrize("fail_safe", [VALUE, HOLD, STOP])
def test_step_that_failed_stops_and_latches(guards: ctypes.CDLL, fail_safe: int) -> None:
    guard = Guard(guards, fail_safe)
    guard.reset()
    guard.step(0)
    assert guard.step(100, status=-4)[0] == DISABLE | LATCHED
    assert guard.step(200)[0] == LATCHED


def test_reset_unlatches_and_makes_no_held_action_younger(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, VALUE)
    guard.reset(0)
    guard.step(0)
    guard.reset(150)
    assert guard.idle(200)[0] == 0
    assert guard.idle(201)[0] == DRIVE | FAIL_SAFE | LOST | LATCHED
    guard.reset(400)
    assert guard.step(10_000)[0] == DRIVE


def test_reset_forgets_the_action_to_hold(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, HOLD)
    guard.reset(0)
    guard.step(0)
    guard.reset(50)
    assert guard.step(60, WRONG)[0] == DISABLE | RANGE | LATCHED


def test_time_wraps(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, VALUE)
    guard.reset(2**32 - 50)
    assert guard.step(2**32 - 20)[0] == DRIVE
    assert guard.step(80)[0] == DRIVE
    assert guard.idle(281)[0] == DRIVE | FAIL_SAFE | LOST | LATCHED


def test_without_known_times_nothing_is_late_or_lost(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, VALUE)
    guard.reset(0, period=0, timeout=0)
    guard.step(0)
    assert guard.idle(2**31)[0] == 0
    assert guard.step(2**31)[0] == DRIVE


def test_longest_times_do_not_overflow(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, HOLD, hold_steps=2**32 - 1)
    guard.reset(0, period=2**32 - 1, timeout=2**32 - 1)
    guard.step(0)
    assert guard.idle(2**30)[0] == 0
    assert guard.idle(2**30 + 1)[0] == HELD | LOST
    assert guard.idle(2**31)[0] == HELD | LOST
    assert guard.idle(2**31 + 1)[0] == DISABLE | LOST | LATCHED


@pytest.mark.parametrize(
    ("action", "flags"), [(-3, DRIVE), (0, DRIVE), (1, DRIVE), (2, DRIVE | FAIL_SAFE | RANGE)]
)
def test_discrete_actions_are_integers(guards: ctypes.CDLL, action: int, flags: int) -> None:
    """Negative ones would be NaN as float32s."""
    guard = Guard(guards, VALUE, is_discrete=1, action_bounds=(-3, 1))
    guard.reset()
    assert guard.step(0, action=(action,))[0] == flags


def test_actions_without_bounds_must_be_finite_all_the_same(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, VALUE, action_low=None, action_high=None)
    guard.reset()
    assert guard.step(0, action=(3e38,))[0] == DRIVE
    assert guard.step(10, action=(INF,))[0] == DRIVE | FAIL_SAFE | NOT_FINITE


def test_features_repeat_over_the_observation(guards: ctypes.CDLL) -> None:
    guard = Guard(guards, VALUE, num_features=1)
    guard.reset()
    assert guard.step(0, (0.5, 1.5))[0] == DRIVE | FAIL_SAFE | RANGE
