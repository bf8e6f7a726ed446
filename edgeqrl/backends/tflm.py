"""TFLite Micro: the oracle, which every integer backend but LiteRT must equal bit for bit."""

from edgeqrl.backends.runtime_network import RuntimeNetwork


def open_network(tflite: bytes) -> RuntimeNetwork:
    """Open a `.tflite` in TFLite Micro's Python interpreter."""
    return RuntimeNetwork("tflm", "tflm", tflite)
