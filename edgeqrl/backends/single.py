"""One inference of compiled C a call, with nothing around it that can be done before: for control loops."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.rows import RowLayout
from edgeqrl.network.integer_policy import IntegerPolicy

SingleInference = Callable[..., tuple[NDArray[Any], ...]]


def single_inference(library: ctypes.CDLL, policy: IntegerPolicy) -> SingleInference:
    """Return a function from arrays of all network inputs [*shape] to new arrays of all its outputs.

    Both are in the network's order. The function has a state of its own, holds the interpreter's lock while
    it runs and is for one thread at a time. It raises ValueError for arrays of another shape or dtype.
    """
    network, name = policy.network, policy.name
    inputs = [network.tensors[key] for key in network.inputs]
    expected = [(np.dtype(tensor.dtype), tensor.shape) for tensor in inputs]
    layout = RowLayout([network.tensors[key] for key in network.outputs])
    row = np.zeros(layout.num_bytes, np.uint8)
    copies = [
        row[at : at + tensor.num_bytes].view(tensor.dtype).reshape(tensor.shape).copy
        for tensor, at in zip(layout.tensors, layout.offsets, strict=True)
    ]
    holding = ctypes.PyDLL(
        library._name, handle=library._handle
    )  # keeps the lock: to take it again takes time
    state = _state(holding, name)
    buffers = (ctypes.c_void_p * 2)(ctypes.addressof(state), row.ctypes.data)
    run, address = holding[f"{name}_single"], ctypes.addressof(buffers)
    run.argtypes, run.restype = (ctypes.c_void_p, ctypes.c_char_p), None
    kept = (library, state, buffers)  # as long as the functions below

    def infer(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        if len(arrays) != len(expected):
            raise ValueError(f"the network has {len(expected)} inputs, got {len(arrays)}")
        for tensor, (dtype, shape), values in zip(inputs, expected, arrays, strict=True):
            if values.dtype != dtype or values.shape != shape:
                wanted, found = f"{dtype} {list(shape)}", f"{values.dtype} {list(values.shape)}"
                raise ValueError(f"'{tensor.name}' must be {wanted}, got {found}")
        assert kept
        run(address, b"".join(values.tobytes() for values in arrays))
        return tuple([copy() for copy in copies])

    if len(inputs) > 1 or len(copies) > 1:
        return infer
    (only_dtype, only_shape), copy = expected[0], copies[0]

    def infer_one(values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        if values.dtype is not only_dtype or values.shape != only_shape:
            return infer(values)
        run(address, values.tobytes())
        return (copy(),)

    return infer_one


def _state(library: ctypes.PyDLL, name: str) -> Any:
    """Return a new state of the policy, initialised."""
    size = library[f"{name}_batch_state_bytes"]
    size.restype = ctypes.c_size_t
    state = ctypes.create_string_buffer(size())
    status = library[f"{name}_init"](state, None)
    assert status == 0, f"{name}_init returned {status}"
    return state
