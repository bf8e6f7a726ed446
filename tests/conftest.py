"""What all tests share: one converter, as importing TensorFlow takes long, and compiled objects."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from edgeqrl.backends.worker import Worker
from edgeqrl.errors import ConverterError
from edgeqrl.quantize import tflite
from firmware_export import bare_image, build
from firmware_export.linux import package
from tests.compile_cache import build_once

_idle: list[Worker] = []  # of closed converters, warm or getting so


class KeptWorker:
    """Stands for a converter's process; once closed, the process serves the next converter.

    A process that died or is converting is not kept.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        kept = [_idle.pop() for _ in range(len(_idle))]
        alive = [worker for worker in kept if worker._process.poll() is None]
        self._is_new = not alive
        self._worker = alive.pop() if alive else Worker(*arguments, **options)
        self._is_put_back = False
        _idle.extend(alive)

    @property
    def is_closed(self) -> bool:
        return self._is_put_back or self._worker.is_closed

    def close(self) -> None:
        if self.is_closed:
            return
        if self._worker._is_waiting and not self._is_warming:
            self._worker.close()
        else:
            self._is_put_back = True
            _idle.append(self._worker)

    def send(self, command: str, *arguments: Any) -> None:
        """Send a request; "warm" once in the life of a process."""
        self._is_warming = command == "warm"
        if self._is_new or not self._is_warming:
            self._worker.send(command, *arguments)

    def receive(self) -> Any:
        if not self._worker._is_waiting:  # it was warm before
            return {}, {}
        return self._worker.receive()

    def call(self, *request: Any) -> Any:
        if self._is_put_back:
            raise ConverterError("The converter process was closed and cannot be asked again.")
        self.send(*request)
        return self.receive()

    @property
    def _process(self) -> Any:
        return self._worker._process


@pytest.fixture(scope="session", autouse=True)
def _one_converter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "Worker", KeptWorker)
        yield
    for worker in _idle:
        worker.close()


@pytest.fixture(scope="session", autouse=True)
def _objects_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (bare_image, build, package):
            patch.setattr(module, "run_compiler", build_once)
        yield


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Let processes started here heed Ctrl-C, also where a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
