"""Bias correction: give back the mean that quantization takes from each layer.

Rounded weights and activations shift a layer's mean output. Layer by layer, on observations that the
policy meets, the shift is measured before the activation and subtracted from the int32 bias (Nagel et
al., arXiv:1906.04721, section 4.2, with real observations in place of batch statistics). The file
stays a standard `.tflite`: only bias values change.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import ConverterError
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Dense, accumulator_bound
from edgeqrl.network.read_tflite import parse_tflite, read_tflite, replace_buffers
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, tensors_sharing

_INT32_MAX = 2**31 - 1
_ACTIVATIONS = {"NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH", "LOGISTIC"}
_CHAIN = {"FULLY_CONNECTED", "RESHAPE", *_ACTIVATIONS}


def correct_biases(tflite_int8: bytes, tflite_float: bytes, observations: NDArray[np.float32]) -> bytes:
    """Return the int8 network with corrected biases.

    tflite_float  the same network in float32, from the same conversion
    observations  [N, *observation_shape], N >= 1

    Raises ConverterError where the two networks do not match layer by layer. A bias whose bytes the
    file shares with another constant stays as it was, as do layers without a bias.
    """
    model = parse_tflite(tflite_int8)
    network = read_tflite(tflite_int8)
    exact = dense_sums(FloatReference(tflite_float), observations)
    operators = [op for op in model.operators if op.name == "FULLY_CONNECTED"]
    layers = [layer for layer in network.layers if isinstance(layer, Dense)]
    shapes = [layer.weights.shape[0] for layer in layers]
    if shapes != [sums.shape[1] for sums in exact] or len(operators) != len(layers):
        raise ConverterError(
            "The int8 and the float network differ in their layers, so biases cannot be corrected. "
            "Convert with --no-rewrites."
        )
    targets = dict(zip((layer.name for layer in layers), zip(operators, exact, strict=True), strict=True))
    values = {network.inputs[0]: _quantized(network, observations)}
    biases: dict[int, bytes] = {}
    for layer in network.layers:
        if isinstance(layer, Dense):
            operator, sums = targets[layer.name]
            index = _bias_index(model, operator)
            if index is not None:
                layer = _corrected(network, layer, values[layer.input], sums, _bias_scales(model, operator))
                biases[index] = layer.bias.astype("<i4").tobytes()
        values[layer.output] = layer.run([values[name] for name in layer.inputs], network.tensors)
    return replace_buffers(tflite_int8, biases)


def is_correctable(tflite_float: bytes) -> bool:
    """Tell whether a float network is a chain of what correction knows: dense layers and activations."""
    model = parse_tflite(tflite_float)
    chain = [op.inputs[0] for op in model.operators] == [
        *model.inputs,
        *(op.outputs[0] for op in model.operators[:-1]),
    ]
    return chain and all(op.name in _CHAIN and op.fused_activation in _ACTIVATIONS for op in model.operators)


def dense_sums(reference: FloatReference, observations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run a float network; return what each FULLY_CONNECTED gives before its activation, [rows, out]."""
    ((name, shape),) = reference.inputs.items()
    dense = {layer.name for layer in reference.layers if layer.operator == "FULLY_CONNECTED"}
    found: list[NDArray[np.float32]] = []

    def collect(name: str, sums: NDArray[np.float32]) -> None:
        if name in dense:
            found.append(sums.reshape(-1, sums.shape[-1]))

    reference.run({name: observations.reshape(len(observations), *shape)}, on_sums=collect)
    return found


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


def _quantized(network: IntegerNetwork, observations: NDArray[np.float32]) -> NDArray[np.int8]:
    source = network.tensors[network.inputs[0]]
    edge = ObservationEdge(source.shape, source.scale, source.zero_point)
    return quantize_observations(edge, observations.reshape(len(observations), *source.shape))[0]


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
