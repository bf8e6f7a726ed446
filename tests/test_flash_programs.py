"""Programs are ended with all that they started, and one that is not done in time is never a success."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError, MissingToolError, UsageError
from firmware_export.board import load_board
from firmware_export.flashers.programs import Said, run_program
from firmware_export.flashers.runner import Choice, flash
from tests.flash_fakes import some_firmware, written_images


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files NAME.pid say what must be gone in the end."""
    monkeypatch.setattr("firmware_export.flashers.programs._GRACE_S", 0.3)
    yield tmp_path
    for path in tmp_path.glob("*.pid"):
        assert is_gone(int(path.read_text())), f"{path.name} survived"


def is_gone(number: int) -> bool:
    """Tell whether a process ends soon; one that nobody has waited for is dead, too."""
    for _ in range(100):
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                return True
        time.sleep(0.02)
    return False


def shell(script: str, place: Path, timeout_s: float) -> Said:
    return run_program(["sh", "-c", script], timeout_s=timeout_s, folder=place)


def test_what_a_program_said_and_how_it_ended(place: Path) -> None:
    heard: list[str] = []
    said = run_program(["sh", "-c", "echo one; echo two >&2; exit 3"], timeout_s=20, watch=heard.append)
    assert (said.code, said.text, heard) == (3, "one\ntwo\n", ["one", "two"])


def test_child_that_holds_the_output_is_late_and_ended(place: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"sh did not end within 0\.5 s\. Its last words: hi"):
        shell("sleep 60 & echo $! > child.pid; echo hi", place, 0.5)
    assert time.monotonic() - begun < 20


def test_child_that_ignores_the_end_is_killed(place: Path) -> None:
    with pytest.raises(DeviceError, match="did not end within"):
        shell("(trap '' TERM; sleep 60; sleep 60) & echo $! > child.pid; echo hi", place, 0.5)


def test_program_that_ignores_the_end_is_killed(place: Path) -> None:
    with pytest.raises(DeviceError, match="did not end within"):
        shell("trap '' TERM; echo $$ > leader.pid; sleep 60; sleep 60", place, 0.5)


def test_silent_child_of_a_program_that_succeeded_ends_with_it(place: Path) -> None:
    said = shell("sleep 60 >/dev/null 2>&1 & echo $! > child.pid; echo hi", place, 20)
    assert (said.code, said.text) == (0, "hi\n")


def test_interrupted_program_is_ended_with_its_child(place: Path) -> None:
    def stop(_line: str) -> None:
        raise KeyboardInterrupt

    script = "sleep 60 & echo $! > child.pid; echo $$ > leader.pid; echo hi; sleep 60"
    with pytest.raises(KeyboardInterrupt):
        run_program(["sh", "-c", script], timeout_s=20, folder=place, watch=stop)


def test_program_that_is_not_there_or_does_not_start_is_said(place: Path) -> None:
    with pytest.raises(MissingToolError, match="no-such-program is not installed"):
        run_program(["no-such-program"], timeout_s=1)


@pytest.mark.parametrize("dry_run", [False, True])
def test_system_without_groups_of_processes_is_refused(
    dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = load_board("stm32f4discovery", data_folder("boards"))
    firmware = some_firmware(board)
    folder = written_images(firmware, board, tmp_path / "firmware")
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(UsageError, match=r"runs on Linux and macOS only; .*docs/flashing\.md"):
        flash(firmware, board, folder, Choice(dry_run=dry_run))
