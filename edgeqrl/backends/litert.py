"""LiteRT, which a Raspberry Pi runs: it rounds once and so is now and then a unit from the others."""

from edgeqrl.backends.runtime_network import RuntimeNetwork


def open_network(tflite: bytes) -> RuntimeNetwork:
    """Open a `.tflite` in LiteRT as it comes, with XNNPACK."""
    return RuntimeNetwork("litert", "litert", tflite, is_reference=False)


def open_reference_network(tflite: bytes) -> RuntimeNetwork:
    """Open a `.tflite` in LiteRT with its reference kernels, BUILTIN_REF."""
    return RuntimeNetwork("litert-ref", "litert", tflite)
