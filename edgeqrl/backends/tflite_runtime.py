"""tflite-runtime 2.14 with its reference kernels: the second witness.

It equals TFLite Micro but for three cases, each one unit apart and rare. FULLY_CONNECTED with a single
weight scale and RELU as an operator of its own: it computes their multiplier in float32, TFLite Micro in
double. LOGISTIC: it tabulates the float function, TFLite Micro computes in fixed point.
"""

from edgeqrl.backends.runtime_network import RuntimeNetwork


def open_network(tflite: bytes) -> RuntimeNetwork:
    """Open a `.tflite` in tflite-runtime, BUILTIN_REF."""
    return RuntimeNetwork("tflite-runtime", "tflite-runtime", tflite)
