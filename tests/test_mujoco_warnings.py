"""MuJoCo's warnings are said once, and only where an environment of MuJoCo is made."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgeqrl import mujoco_warnings
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.mujoco_warnings import say_once


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that keeps what is installed for its warnings."""
    found = SimpleNamespace(handler=None)
    found.get_mju_user_warning = lambda: found.handler
    found.set_mju_user_warning = lambda handler: setattr(found, "handler", handler)
    monkeypatch.setitem(sys.modules, "mujoco", found)
    monkeypatch.setattr(mujoco_warnings, "_said", set())
    return found


def test_a_warning_is_said_once_however_often_and_wherever_it_comes(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once("gymnasium.envs.mujoco.hopper_v5:HopperEnv")
    for time in (0.05, 1.25):
        fake.handler(f"Nan, Inf or huge value in QACC at DOF 0. Time = {time}.")
    fake.handler("The attribute is deprecated\n")
    assert capsys.readouterr().err.splitlines() == [
        "MuJoCo: Nan, Inf or huge value in QACC at DOF 0. Time = 0.05.",
        "MuJoCo: The attribute is deprecated",
    ]


@pytest.mark.parametrize("entry_point", [None, object, "gymnasium.envs.classic_control.cartpole:CartPoleEnv"])
def test_other_environments_leave_mujoco_alone(fake: Any, entry_point: Any) -> None:
    say_once(entry_point)
    assert fake.handler is None


def test_what_the_users_code_has_installed_stays(fake: Any) -> None:
    fake.handler = print
    say_once("gymnasium.envs.mujoco.hopper_v5:HopperEnv")
    assert fake.handler is print


def test_a_missing_mujoco_is_left_to_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    say_once("gymnasium.envs.mujoco.hopper_v5:HopperEnv")


def test_environments_of_mujoco_leave_no_log(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mujoco_warnings, "_said", set())
    for _ in range(3):
        EnvironmentSpec("HalfCheetah-v5").make().close()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err.count("settotalmass") <= 1
