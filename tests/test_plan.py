"""What an emulator is said to prove of a board: the plan for every board, and the engines for real."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeqrl.cli.main import run
from edgeqrl.errors import DeviceError, UsageError
from firmware_export.board import Board
from firmware_export.device.client import Device
from firmware_export.emulators.emulator import EmulatedFirmware
from firmware_export.emulators.machine import find_rp2040js
from firmware_export.emulators.memory_link import MemoryLink
from firmware_export.emulators.plan import CHIP, CPU_AND_UART, ISA, emulations, plan_emulation
from firmware_export.emulators.unicorn_engine import UNICORN_CORES
from tests.firmware import EVERY_BOARD, board, firmware, require_qemu, require_tool

QEMU_LEVELS = {
    "microbit": CHIP,
    "netduinoplus2": CHIP,
    "stm32vldiscovery": CHIP,
}  # else CPU_AND_UART or a twin
UNPLAYED = [name for name in EVERY_BOARD if not emulations(board(name))]
PLAYED = [name for name in EVERY_BOARD if name not in UNPLAYED]
WRONG = [("microbit-v2", "rp2040js"), ("rpi-pico", "qemu"), ("mps3-an547", "unicorn"), ("rpi4", "unicorn")]


def expected_levels(target: Board) -> dict[str, str]:
    """By hand: who models what, and how much of it."""
    if target.kind == "linux":
        return {"qemu": ISA}
    levels = {"unicorn": ISA} if target.core in UNICORN_CORES else {}
    if target.emulation.qemu_machine:
        levels["qemu"] = QEMU_LEVELS.get(target.name, CPU_AND_UART)
    elif target.emulation.twin:
        levels["qemu"] = ISA
    if target.name == "rpi-pico":
        levels["rp2040js"] = CHIP
    return levels


@pytest.mark.parametrize("name", PLAYED)
def test_levels_and_the_default_engine_of_every_board(name: str) -> None:
    plans = emulations(board(name))
    assert {plan.engine: plan.level for plan in plans} == expected_levels(board(name))
    has_unicorn = board(name).core in UNICORN_CORES
    assert plan_emulation(board(name)) == plans[0]
    assert plans[0].engine == ("unicorn" if has_unicorn else "qemu")
    for plan in plans:
        assert plan_emulation(board(name), plan.engine) == plan


@pytest.mark.parametrize("name", PLAYED)
def test_sentence_of_what_is_not_the_board_does_not_claim_it(name: str) -> None:
    for plan in emulations(board(name)):
        if plan.twin is not None:
            assert plan.level == ISA
            assert plan.sentence.startswith(f"a twin linked for {plan.twin} ")
            assert plan.sentence.endswith(": not this board")
            assert name not in plan.sentence.replace(plan.twin, "")
            assert board(plan.twin).core in (board(name).core, f"{board(name).core[:-1]}ac")  # rv32imc
        elif plan.level == ISA:
            assert "booted" not in plan.sentence
            assert name not in plan.sentence
        else:
            assert "booted" in plan.sentence
            assert "twin" not in plan.sentence


@pytest.mark.parametrize("name", UNPLAYED)
def test_board_without_an_emulator_says_so(name: str) -> None:
    with pytest.raises(DeviceError, match=f"No emulator here runs the .* of {name}: only a board can"):
        plan_emulation(board(name))


@pytest.mark.parametrize(("name", "engine"), WRONG)
def test_engine_without_the_board_names_those_that_have_it(name: str, engine: str) -> None:
    there = " or ".join(plan.engine for plan in emulations(board(name)))
    with pytest.raises(UsageError, match=f"{engine} can run nothing of {name}; engines that can: {there}"):
        plan_emulation(board(name), engine)
    with pytest.raises(UsageError, match="did you mean 'qemu'"):
        plan_emulation(board(name), "qemo")


def test_rp2040js_is_found_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tmp_path / "mine" / "dist" / "esm" / "index.js"
    entry.parent.mkdir(parents=True)
    entry.write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RP2040JS", str(tmp_path / "mine"))
    assert find_rp2040js() == entry.resolve()
    shutil.copytree(tmp_path / "mine", tmp_path / "node_modules" / "rp2040js")
    monkeypatch.setenv("RP2040JS", str(tmp_path / "absent"))
    assert find_rp2040js() == (tmp_path / "node_modules/rp2040js/dist/esm/index.js").resolve()


@pytest.mark.parametrize("name", ["mps2-an386", "riscv-virt"])
def test_device_in_the_very_elf_passes_its_self_test(name: str) -> None:
    built = firmware(name)
    link = MemoryLink(EmulatedFirmware(built.elf, built.name, board(name)))
    with Device(link, "the emulated core") as device:
        assert device.facts.has_selftest
        found = device.selftest()
        assert found.rows > 4  # the observations that were given, and those at the edges
        assert found.crc_found == found.crc_expected
        device.reset()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "cartpole"
    lenient = ["--episodes", "16", "--margin", "200", "--worst-loss", "500", "--calibration-episodes", "2"]
    lenient += ["--max-failures", "none", "--max-chatter", "none"]
    assert run(["convert", "zoo:cartpole-dqn", "--env", "CartPole-v1", "-o", str(folder), *lenient]) == 0
    return folder


def emulated(
    bundle: Path, name: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, Any, str]:
    """Build for a board and emulate; return the exit code, the report's section, and what was complained."""
    assert run(["build", str(bundle), "--board", name]) == 0
    capsys.readouterr()
    code = run(["emulate", str(bundle), "--engine", engine, "--episodes", "1", "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out)["emulation"] if code == 0 else None, shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine", "level"),
    [
        ("mps2-an386", "qemu", CPU_AND_UART),
        ("microbit-v2", "qemu", ISA),
        ("rpi-pico", "rp2040js", CHIP),
    ],
)
def test_bundle_plays_and_the_report_says_what_ran(
    made: Path, name: str, engine: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine == "qemu":
        require_qemu("mps2-an386")
    else:
        require_tool("node")
    code, found, errors = emulated(made, name, engine, capsys)
    assert code == 0, errors
    assert (found["engine"], found["level"], found["episodes"]) == (engine, level, 1)
    assert found["ran"] == plan_emulation(board(name), engine).sentence
    assert found["num_steps"] == found["episode_returns"][0] > 100  # CartPole gives 1 a step
    assert found["acts_as"] == "host-c"
    assert found["self_test_rows"] > 0


@pytest.mark.slow
def test_wrong_engine_for_a_board_is_one_sentence(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = emulated(made, "rpi-pico", "qemu", capsys)
    assert code == UsageError.exit_code
    assert "error: qemu can run nothing of rpi-pico; engines that can: unicorn or rp2040js." in errors
