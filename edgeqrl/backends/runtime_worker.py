"""Runs one of LiteRT's interpreters in a process of its own; started by `runtime_network`.

There, because tflite-runtime dies with bad_alloc after TensorFlow was imported, because all of them write
to standard error, and because a crash in their C++ then ends this process and not the user's.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.worker import Arrays, Options, serve
from edgeqrl.errors import MissingToolError

_TFLM_ARENA_BYTES = 2**20  # beside what the model's own size asks for

Row = Sequence[NDArray[Any]]  # one sample: a tensor an input or output


class RowInterpreter(Protocol):
    """A loaded network; inputs [1, *shape] or [*shape] of the file, outputs as the file has them."""

    def run_row(self, inputs: Row) -> Row:
        """Run one sample."""


def open_interpreter(runtime: str, model: bytes, *, is_reference: bool, num_outputs: int) -> RowInterpreter:
    """Load a network; raises MissingToolError where the runtime is not installed."""
    module = import_runtime(runtime)
    if runtime == "tflm":
        return _MicroInterpreter(module, model, num_outputs)
    return _LiteInterpreter(module, model, is_reference)


def import_runtime(runtime: str) -> Any:
    """Import the library of litert, tflite-runtime or tflm; raises MissingToolError where there is none."""
    return _IMPORTS[runtime]()


def run_rows(interpreter: RowInterpreter, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Run each of the samples [N, *shape], one at a time, so that no answer depends on the batch.

    Outputs are [N, *shape]; a first axis of 1 that the file gives them is the samples'.
    """
    rows = [interpreter.run_row(row) for row in zip(*inputs, strict=True)]
    columns = zip(*rows, strict=True)
    return [np.concatenate(c) if c[0].shape[:1] == (1,) else np.stack(c) for c in columns]


class _LiteInterpreter:
    """LiteRT and tflite-runtime share one Python interface."""

    def __init__(self, module: Any, model: bytes, is_reference: bool) -> None:
        kind = module.OpResolverType.BUILTIN_REF if is_reference else module.OpResolverType.AUTO
        self._interpreter = module.Interpreter(
            model_content=model, num_threads=1, experimental_op_resolver_type=kind
        )
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_input_details()
        self._inputs = [(detail["index"], tuple(detail["shape"].tolist())) for detail in details]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def run_row(self, inputs: Row) -> Row:
        for (index, shape), values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, values.reshape(shape))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


class _MicroInterpreter:
    """TFLite Micro by its Python interpreter."""

    def __init__(self, module: Any, model: bytes, num_outputs: int) -> None:
        arena = _TFLM_ARENA_BYTES + 4 * len(model)
        self._interpreter = module.Interpreter.from_bytes(model, arena_size=arena)
        self._num_outputs = num_outputs
        self._shapes: list[tuple[int, ...]] = []  # of the inputs, once one sample was seen

    def run_row(self, inputs: Row) -> Row:
        if not self._shapes:
            details = [self._interpreter.get_input_details(i) for i in range(len(inputs))]
            self._shapes = [tuple(detail["shape"].tolist()) for detail in details]
        for position, (values, shape) in enumerate(zip(inputs, self._shapes, strict=True)):
            self._interpreter.set_input(values.reshape(shape), position)
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_output(i)) for i in range(self._num_outputs)]


def _import_litert() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise _missing("ai-edge-litert", "runtimes", error) from None
    return interpreter


def _import_tflite_runtime() -> Any:
    try:
        from tflite_runtime import interpreter
    except ImportError as error:
        raise _missing("tflite-runtime", "tflite-runtime", error) from None
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        raise MissingToolError(
            f"tflite-runtime does not run with NumPy {np.__version__}; install one below 2 with: "
            "pip install 'numpy<2'."
        )
    return interpreter


def _import_tflm() -> Any:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise _missing("tflite-micro", "runtimes", error) from None
    return runtime


_IMPORTS: dict[str, Callable[[], Any]] = {
    "litert": _import_litert,
    "tflite-runtime": _import_tflite_runtime,
    "tflm": _import_tflm,
}


class _Session:
    """The one interpreter of this process."""

    def __init__(self) -> None:
        self._interpreter: RowInterpreter | None = None

    def open(self, options: Options, arrays: Arrays) -> tuple[Options, Arrays]:
        self._interpreter = open_interpreter(
            options["runtime"],
            arrays["model"].tobytes(),
            is_reference=options["is_reference"],
            num_outputs=options["num_outputs"],
        )
        return {}, {}

    def run(self, _: Options, arrays: Arrays) -> tuple[Options, Arrays]:
        assert self._interpreter is not None
        outputs = run_rows(self._interpreter, list(arrays.values()))
        return {}, {str(i): values for i, values in enumerate(outputs)}


def _missing(package: str, extra: str, error: ImportError) -> MissingToolError:
    return MissingToolError(
        f"The Python package {package} cannot be imported ({error}); "
        f"install it with: pip install 'edgeqrl[{extra}]'."
    )


if __name__ == "__main__":
    session = _Session()
    serve({"open": session.open, "run": session.run})
