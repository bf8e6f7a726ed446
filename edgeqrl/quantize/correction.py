"""Bias correction: give back the mean that quantization takes from each layer.

Rounded weights and activations shift a layer's mean output. Layer by layer, on observations that the
policy meets, the shift is measured before the activation and subtracted from the int32 bias (Nagel et
al., arXiv:1906.04721, section 4.2, with real observations in place of batch statistics). The file
stays a standard `.tflite`: only bias values change.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import ConverterError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.graph import fold_constants
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Dense, accumulator_bound
from edgeqrl.network.read_tflite import parse_tflite, read_with_edges, replace_buffers
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, tensors_sharing, with_unique_names

_INT32_MAX = 2**31 - 1
_ACTIVATIONS = {"NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH", "LOGISTIC"}
_CHAIN = {"FULLY_CONNECTED", "RESHAPE", *_ACTIVATIONS}
_GATES = {"ADD", "MUL", "SUB", "SPLIT", "SPLIT_V", "STRIDED_SLICE", "SLICE", "CONCATENATION"}


def correct_biases(
    tflite_int8: bytes, tflite_float: bytes, samples: Sequence[NDArray[np.float32]] | NDArray[np.float32]
) -> bytes:
    """Return the int8 network with corrected biases.

    tflite_float  the same network in float32, from the same conversion
    samples       one array [N, *shape] an input, in the files' order, N >= 1; bare for a lone input

    Raises ConverterError where the two networks do not match layer by layer. A bias whose bytes the
    file shares with another constant stays as it was, as do layers without a bias.
    """
    arrays = [samples] if isinstance(samples, np.ndarray) else list(samples)
    model = with_unique_names(parse_tflite(tflite_int8))
    read = read_with_edges(tflite_int8)
    network = read.network
    exact = dense_sums(FloatReference(tflite_float), arrays)
    twins = _matched(model, fold_constants(parse_tflite(tflite_float)))
    operators = {
        model.tensors[op.outputs[0]].name: op for op in model.operators if op.name == "FULLY_CONNECTED"
    }
    layers = {layer.output: layer for layer in network.layers if isinstance(layer, Dense)}
    if twins is None or not all(
        name in operators and twins.get(name) in exact and exact[twins[name]].shape[1] == len(layer.weights)
        for name, layer in layers.items()
    ):
        raise ConverterError(
            "The int8 and the float network differ in their layers, so biases cannot be corrected. "
            "Convert with --no-rewrites."
        )
    names = [edge.tensor for edge in read.inputs]
    values = {name: _quantized(network, name, array) for name, array in zip(names, arrays, strict=True)}
    values |= {name: constant[None] for name, constant in network.constants.items()}
    biases: dict[int, bytes] = {}
    for layer in network.layers:
        if isinstance(layer, Dense):
            operator, sums = operators[layer.output], exact[twins[layer.output]]
            index = _bias_index(model, operator)
            if index is not None:
                layer = _corrected(network, layer, values[layer.input], sums, _bias_scales(model, operator))
                biases[index] = layer.bias.astype("<i4").tobytes()
        values[layer.output] = layer.run([values[name] for name in layer.inputs], network.tensors)
    return replace_buffers(tflite_int8, biases)


def is_correctable(tflite_float: bytes, *, is_recurrent: bool = False) -> bool:
    """Tell whether a float network is made of what correction knows.

    That is: dense layers and activations, each of one input, so that the network is a chain or a tree; of
    recurrent steps also what joins their gates.
    """
    model = fold_constants(parse_tflite(tflite_float))
    known = _CHAIN | _GATES if is_recurrent else _CHAIN
    operators = [op for op in model.operators if op.name in known and op.fused_activation in _ACTIVATIONS]
    return len(operators) == len(model.operators) and any(op.name == "FULLY_CONNECTED" for op in operators)


def dense_sums(
    reference: FloatReference, samples: Sequence[NDArray[np.float32]] | NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Run a float network; return what each FULLY_CONNECTED gives before its activation, [rows, out]."""
    arrays = [samples] if isinstance(samples, np.ndarray) else samples
    inputs = {
        name: array.reshape(len(array), *shape)
        for (name, shape), array in zip(reference.inputs.items(), arrays, strict=True)
    }
    dense = {layer.name for layer in reference.layers if layer.operator == "FULLY_CONNECTED"}
    found: dict[str, NDArray[np.float32]] = {}

    def collect(name: str, sums: NDArray[np.float32]) -> None:
        if name in dense:
            found[name] = sums.reshape(-1, sums.shape[-1])

    reference.run(inputs, on_sums=collect)
    return found


def _matched(integer: TFLiteModel, exact: TFLiteModel) -> dict[str, str] | None:
    """Walk both networks from their outputs; return the float name of what each operator writes.

    The order of operators in a file says nothing: two heads may stand either way round. None where the
    networks differ.
    """
    writers = [{i: op for op in model.operators for i in op.outputs} for model in (integer, exact)]
    if len(integer.outputs) != len(exact.outputs):
        return None
    pending = list(zip(integer.outputs, exact.outputs, strict=True))
    twins: dict[str, str] = {}
    while pending:
        ours, theirs = pending.pop()
        operator, twin = writers[0].get(ours), writers[1].get(theirs)
        if operator is not None and operator.name == "QUANTIZE":
            pending.append((operator.inputs[0], theirs))
            continue
        if operator is None or twin is None:
            if operator is not twin:
                return None
            continue
        name, wanted = integer.tensors[ours].name, exact.tensors[theirs].name
        if name in twins and twins[name] == wanted:
            continue
        if name in twins or operator.name != twin.name:
            return None
        twins[name] = wanted
        both = zip(operator.inputs, twin.inputs, strict=False)  # one may lack a bias
        pending += [(a, b) for a, b in both if a >= 0 and b >= 0 and not integer.tensors[a].is_constant]
    return twins


def _corrected(
    network: IntegerNetwork,
    layer: Dense,
    values: NDArray[np.int8],
    exact: NDArray[np.float32],
    scales: NDArray[np.float64],
) -> Dense:
    """Add the mean error of the sums to the bias, as far as int32 provably holds the result."""
    sums = layer.accumulators(values, network.tensors)
    error = exact.mean(axis=0, dtype=np.float64) / scales - sums.mean(axis=0, dtype=np.float64)
    wanted = layer.bias + np.rint(error)
    zero_point = network.tensors[layer.input].zero_point
    products = accumulator_bound(replace(layer, bias=np.zeros_like(layer.bias)), zero_point)
    room = (_INT32_MAX >> np.maximum(layer.shift, 0)) - products
    is_safe = np.abs(wanted) <= room
    return replace(layer, bias=np.where(is_safe, wanted, layer.bias).astype(np.int64))


def _quantized(network: IntegerNetwork, name: str, values: NDArray[np.float32]) -> NDArray[np.int8]:
    source = network.tensors[name]
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
    return quantize_observations(edge, values.reshape(len(values), *source.shape))[0]


def _bias_index(model: TFLiteModel, operator: OperatorInfo) -> int | None:
    """Return the tensor that holds the bias, or None where there is none of its own."""
    index = operator.inputs[2] if len(operator.inputs) > 2 else -1
    readers = [op for op in model.operators if index in op.inputs]
    is_own = index >= 0 and len(readers) == 1 and not tensors_sharing(model, index)
    return index if is_own else None


def _bias_scales(model: TFLiteModel, operator: OperatorInfo) -> NDArray[np.float64]:
    """Return the real value of one bias step, [out] or [1]."""
    source, weights = (model.tensors[i].scales.astype(np.float64) for i in operator.inputs[:2])
    return np.asarray(source[0] * weights)
