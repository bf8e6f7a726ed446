"""The child of tests/test_worker.py: echoes, prints, raises and dies on request."""

import os
import signal
import sys
from typing import Any

import numpy as np

from edgeqrl.backends.worker import serve
from edgeqrl.errors import UnsupportedOperatorError


def echo(options: Any, arrays: Any) -> Any:
    return options, arrays


def chatter(options: Any, arrays: Any) -> Any:
    print("library chatter on standard output")
    os.write(1, b"and from C\n")
    return {}, {"one": np.int8([1])}


def fail(options: Any, arrays: Any) -> Any:
    print(options.get("words", ""), file=sys.stderr, flush=True)
    if options["expected"]:
        raise UnsupportedOperatorError("ELU at 'layer' is not supported.")
    raise KeyError("a bug")


def die(options: Any, arrays: Any) -> Any:
    print("first line\nlast words", file=sys.stderr, flush=True)
    if options["signal"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(3)


def hang(options: Any, arrays: Any) -> Any:
    signal.pause()
    return {}, {}


if __name__ == "__main__":
    serve({"echo": echo, "chatter": chatter, "fail": fail, "die": die, "hang": hang})
