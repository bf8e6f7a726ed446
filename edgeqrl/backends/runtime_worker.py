"""Runs one of LiteRT's interpreters in a process of its own; started by `runtime_network`.

There, because tflite-runtime dies with bad_alloc after TensorFlow was imported, because all of them write
to standard error, and because a crash in their C++ then ends this process and not the user's.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.worker import Arrays, Options, serve
from edgeqrl.errors import MissingToolError

_TFLM_ARENA_BYTES = 2**20  # beside what the model's own size asks for

Row = list[NDArray[Any]]  # one tensor [1, *shape] an input or output


class _Interpreter(Protocol):
    def run_row(self, inputs: Row) -> Row: ...


class _LiteInterpreter:
    """LiteRT and tflite-runtime share one Python interface."""

    def __init__(self, module: Any, model: bytes, is_reference: bool) -> None:
        kind = module.OpResolverType.BUILTIN_REF if is_reference else module.OpResolverType.AUTO
        self._interpreter = module.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=kind
        )
        self._interpreter.allocate_tensors()
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def run_row(self, inputs: Row) -> Row:
        for index, values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


class _MicroInterpreter:
    """TFLite Micro by its Python interpreter."""

    def __init__(self, module: Any, model: bytes, num_outputs: int) -> None:
        arena = _TFLM_ARENA_BYTES + 4 * len(model)
        self._interpreter = module.Interpreter.from_bytes(model, arena_size=arena)
        self._num_outputs = num_outputs

    def run_row(self, inputs: Row) -> Row:
        for position, values in enumerate(inputs):
            self._interpreter.set_input(values, position)
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_output(i)) for i in range(self._num_outputs)]


def _open_litert(model: bytes, options: Options) -> _Interpreter:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise _missing("ai-edge-litert", "runtimes", error) from None
    return _LiteInterpreter(interpreter, model, options["is_reference"])


def _open_tflite_runtime(model: bytes, options: Options) -> _Interpreter:
    try:
        from tflite_runtime import interpreter
    except ImportError as error:
        raise _missing("tflite-runtime", "tflite-runtime", error) from None
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        raise MissingToolError(
            f"tflite-runtime does not run with NumPy {np.__version__}; install one below 2 with: "
            "pip install 'numpy<2'."
        )
    return _LiteInterpreter(interpreter, model, options["is_reference"])


def _open_tflm(model: bytes, options: Options) -> _Interpreter:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise _missing("tflite-micro", "runtimes", error) from None
    return _MicroInterpreter(runtime, model, options["num_outputs"])


_OPENERS: dict[str, Callable[[bytes, Options], _Interpreter]] = {
    "litert": _open_litert,
    "tflite-runtime": _open_tflite_runtime,
    "tflm": _open_tflm,
}


class _Session:
    """The one interpreter of this process."""

    def __init__(self) -> None:
        self._interpreter: _Interpreter | None = None

    def open(self, options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
        self._interpreter = _OPENERS[options["runtime"]](arrays["model"].tobytes(), options)
        return {}, {}

    def run(self, options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
        """Run each of the samples, one at a time, so that no answer depends on the batch."""
        assert self._interpreter is not None
        inputs = list(arrays.values())
        rows = [
            self._interpreter.run_row([values[i : i + 1] for values in inputs]) for i in range(len(inputs[0]))
        ]
        outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
        return {}, {str(i): values for i, values in enumerate(outputs)}


def _missing(package: str, extra: str, error: ImportError) -> MissingToolError:
    return MissingToolError(
        f"The Python package {package} cannot be imported ({error}); "
        f"install it with: pip install 'edgeqrl[{extra}]'."
    )


if __name__ == "__main__":
    session = _Session()
    serve({"open": session.open, "run": session.run})
