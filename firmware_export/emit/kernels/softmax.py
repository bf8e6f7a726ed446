"""Functions of rows: SOFTMAX, LOG_SOFTMAX, ARG_MAX and ARG_MIN."""

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers.softmax import ArgExtreme, LogSoftmax, Softmax, Softmax16
from firmware_export.emit.kernels.lookup import pack_int16, unpack_knots
from firmware_export.emit.packing import Kernel, LayerCode, unpack_words, words

_KNOTS_BYTES = 1028  # 513 int16 numbers, padded


def softmax_code(layer: Softmax, network: IntegerNetwork) -> LayerCode:
    """Return the call of SOFTMAX in int8."""
    return _rows_code(Kernel.SOFTMAX_S8, pack_table(layer.table), layer)


def softmax_s16_code(layer: Softmax16, network: IntegerNetwork) -> LayerCode:
    """Return the call of SOFTMAX in int16."""
    return _rows_code(Kernel.SOFTMAX_S16, pack_softmax_s16(layer), layer)


def log_softmax_code(layer: LogSoftmax, network: IntegerNetwork) -> LayerCode:
    """Return the call of LOG_SOFTMAX in int8."""
    return _rows_code(Kernel.LOG_SOFTMAX_S8, pack_log_softmax(layer), layer)


def arg_extreme_code(layer: ArgExtreme, network: IntegerNetwork) -> LayerCode:
    """Return the call of ARG_MAX and ARG_MIN; nothing of it depends on weights."""
    element_bytes = int(np.dtype(network.tensors[layer.input].dtype).itemsize)
    is_minimum = int(layer.function == "ARG_MIN")
    return LayerCode(
        kernel=Kernel.ARG_EXTREME,
        function="eqrl_arg_extreme",
        block=b"",
        arguments=(element_bytes, layer.outer, layer.size, layer.inner, is_minimum),
        source="eqrl_softmax.c",
    )


def pack_table(table: NDArray[np.int32]) -> bytes:
    """Pack a table of int32."""
    return table.astype("<i4").tobytes()


def unpack_table(block: bytes) -> NDArray[np.int32]:
    """Invert `pack_table`."""
    return np.frombuffer(block, "<i4", 256).astype(np.int32)


def pack_softmax_s16(layer: Softmax16) -> bytes:
    """Pack SOFTMAX in int16."""
    knots = pack_int16(layer.exp_knots) + pack_int16(layer.reciprocal_knots)
    return words(layer.factor.multiplier, layer.factor.shift) + knots


def unpack_softmax_s16(block: bytes) -> tuple[Factor, NDArray[np.int16], NDArray[np.int16]]:
    """Return the factor, the knots of exp and those of 1 / (1 + x)."""
    return Factor(*unpack_words(block[:8])), unpack_knots(block[8:]), unpack_knots(block[8 + _KNOTS_BYTES :])


def pack_log_softmax(layer: LogSoftmax) -> bytes:
    """Pack LOG_SOFTMAX in int8."""
    factors = [n for factor in (layer.factor, layer.reverse) for n in (factor.multiplier, factor.shift)]
    return words(*factors, layer.limit) + pack_table(layer.table)


def unpack_log_softmax(block: bytes) -> tuple[Factor, Factor, int, NDArray[np.int32]]:
    """Return factor, reverse factor, limit and table."""
    numbers = unpack_words(block[:20])
    return Factor(*numbers[:2]), Factor(*numbers[2:4]), numbers[4], unpack_table(block[20:])


def _rows_code(kernel: Kernel, block: bytes, layer: Softmax | Softmax16 | LogSoftmax) -> LayerCode:
    return LayerCode(
        kernel=kernel,
        function=f"eqrl_{kernel.name.lower()}",
        block=block,
        arguments=(layer.rows, layer.depth),
        source="eqrl_softmax.c",
    )
