"""Answers for many small networks in one request; the worker process behind `oracles.many_answers`.

Cases run in a forked child, which sends each answer when it has it: where an interpreter ends its process,
that case is reported so, and the next child goes on after it.
"""

import os
import pickle
import signal
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.runtime_worker import import_runtime, open_interpreter, run_rows
from edgeqrl.backends.worker import Arrays, Options, serve

Answer = list[NDArray[Any]] | str  # outputs, or why there are none


def many(options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
    """Run `cases`, a pickled list of (model, number of outputs, inputs); the reply is pickled alike.

    The kernels are the reference ones, unless the option `is_reference` is False.
    """
    cases = pickle.loads(arrays["cases"].tobytes())
    import_runtime(options["runtime"])  # once, before the children
    answers: list[Answer] = []
    while len(answers) < len(cases):
        answers += _in_a_child(options, cases[len(answers) :])
    return {}, {"answers": np.frombuffer(pickle.dumps(answers), np.uint8)}


def _in_a_child(options: Options, cases: Sequence[Any]) -> list[Answer]:
    """Return the answers up to and with that of the first case that ends the process."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        with os.fdopen(target, "wb") as pipe:
            for case in cases:
                pickle.dump(_answer(options, *case), pipe)
                pipe.flush()
        os._exit(0)
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        answers = _read_all(pipe)
    _, status = os.waitpid(child, 0)
    if len(answers) < len(cases):
        code = os.waitstatus_to_exitcode(status)
        answers.append(f"the process ended: {signal.Signals(-code).name if code < 0 else code}")
    return answers


def _answer(options: Options, model: bytes, num_outputs: int, inputs: list[NDArray[Any]]) -> Answer:
    runtime, is_reference = options["runtime"], options.get("is_reference", True)
    try:
        interpreter = open_interpreter(runtime, model, is_reference=is_reference, num_outputs=num_outputs)
        return run_rows(interpreter, inputs)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def _read_all(pipe: IO[bytes]) -> list[Answer]:
    answers: list[Answer] = []
    while True:
        try:
            answers.append(pickle.load(pipe))
        except (EOFError, pickle.UnpicklingError):
            return answers


if __name__ == "__main__":
    serve({"many": many})
