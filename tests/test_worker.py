"""The worker process: frames survive, failures are one sentence, nothing outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.worker import Worker
from edgeqrl.errors import ConverterError, DeviceError, UnsupportedOperatorError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker("tests.echo_worker", name="echo", cure="Try again.") as worker:
        yield worker


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 3), np.int8),
        np.array(2.5),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array([np.nan, np.inf, -0.0], np.float32),
        np.array([True, False]),
        np.array(["text", "π"]),
        np.arange(3, dtype=">i4"),
        np.ones(3_000_000, np.int8),  # larger than any pipe buffer
    ],
    ids=lambda values: f"{values.dtype}{list(values.shape)}",
)
def test_arrays_come_back_bit_for_bit(worker: Worker, values: np.ndarray) -> None:
    options, arrays = worker.call("echo", {"text": "π", "list": [1, None]}, {"a": values, "b": values})
    assert options == {"text": "π", "list": [1, None]}
    assert list(arrays) == ["a", "b"]
    assert arrays["a"].dtype == values.dtype
    assert arrays["a"].shape == values.shape
    assert arrays["a"].tobytes() == values.tobytes()


def test_arrays_that_come_back_can_be_changed(worker: Worker) -> None:
    (values,) = worker.call("echo", {}, {"a": np.zeros(3, np.float32)})[1].values()
    values += 1
    assert values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "values",
    [np.array([None]), np.zeros(2, [("a", "i4"), ("b", "f4")]), np.array(["2026-01-01"], "datetime64[D]")],
    ids=["objects", "structs", "dates"],
)
def test_arrays_of_other_kinds_are_refused_and_nothing_else(worker: Worker, values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot travel"):
        worker.call("echo", {}, {"a": values})
    assert worker.call("echo", {"x": 1})[0] == {"x": 1}


def test_what_a_library_prints_does_not_break_the_frames(worker: Worker) -> None:
    for _ in range(3):
        assert worker.call("chatter")[1]["one"].tolist() == [1]


def test_an_expected_error_keeps_its_class_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"^ELU at 'layer' is not supported\.$"):
        worker.call("fail", {"expected": True})
    assert worker.call("echo", {"x": 1})[0] == {"x": 1}


def test_an_unexpected_error_names_worker_and_exception(worker: Worker) -> None:
    with pytest.raises(DeviceError, match="echo process failed: KeyError: 'a bug'"):
        worker.call("fail", {"expected": False})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("first\nDidn't find TILE\r\nNo TILE\n \r\n", "; its last words were: Didn't find TILE; No TILE"),
        ("The cause\nINFO: a delegate\nI0000 00:00:1 a.cc:5] hm", "; its last words were: The cause"),
        ("2026-01-01 10:00:00.1: W tensorflow/a.cc:1] hm", ""),
        ("it was 'a bug'\n'a bug'", "; its last words were: it was 'a bug'; 'a bug'"),
        ("'a bug'", ""),
        ("", ""),
    ],
)
def test_an_unexpected_error_carries_the_last_words(words: str, said: str, worker: Worker) -> None:
    with pytest.raises(DeviceError):
        worker.call("fail", {"expected": False, "words": "of another request"})
    with pytest.raises(DeviceError) as caught:
        worker.call("fail", {"expected": False, "words": words})
    assert str(caught.value) == f"The echo process failed: KeyError: 'a bug'{said}"


@pytest.mark.parametrize(("by_signal", "how"), [(True, "by signal SIGSEGV"), (False, "with exit code 3")])
def test_a_death_says_how_its_last_line_and_the_cure(by_signal: bool, how: str) -> None:
    with (
        Worker("tests.echo_worker", name="echo", cure="Try again.", death=ConverterError) as worker,
        pytest.raises(ConverterError) as caught,
    ):
        worker.call("die", {"signal": by_signal})
    assert str(caught.value) == f"The echo process ended {how}; its last line was: last words. Try again."
    with pytest.raises(ConverterError, match="was closed"):
        worker.call("echo")


def test_a_module_that_does_not_exist_is_one_sentence() -> None:
    with Worker("tests.no_such_worker", name="absent") as worker, pytest.raises(DeviceError) as caught:
        worker.call("echo")
    assert "No module named tests.no_such_worker" in str(caught.value)


def test_close_ends_an_idle_and_a_busy_process() -> None:
    for command in ("echo", "hang"):
        worker = Worker("tests.echo_worker", name="echo")
        worker.call("echo")
        worker.send(command)
        if command == "echo":
            worker.receive()
        worker.close()
        assert worker.is_closed
        assert worker._process.poll() is not None
        worker.close()


@pytest.mark.parametrize("size", [0, 3_000_000], ids=["receiving", "sending"])
def test_an_interrupted_call_ends_the_process_at_once(worker: Worker, size: int) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    worker.call("echo")
    if size:
        worker._process.send_signal(signal.SIGSTOP)  # reads nothing more, and the pipe fills up
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            worker.call("hang", {}, {"a": np.zeros(size, np.int8)})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker._process.returncode == -signal.SIGKILL
    with pytest.raises(DeviceError, match="was closed"):
        worker.call("echo")


def test_a_worker_nobody_closed_ends_with_its_parent() -> None:
    script = (
        "from edgeqrl.backends.worker import Worker\n"
        "worker = Worker('tests.echo_worker', name='echo'); worker.call('echo')\n"
        "print(worker._process.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    _require_gone(int(done.stdout))


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    script = (
        "import os, signal\n"
        "from edgeqrl.backends.worker import Worker\n"
        "worker = Worker('tests.echo_worker', name='echo'); worker.call('echo')\n"
        "print(worker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    _require_gone(int(done.stdout))


def _require_gone(pid: int) -> None:
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # ended, and nobody has collected it yet
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")
