"""The NumPy reference as a backend."""

from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference


def open_network(tflite: bytes) -> Reference:
    """Lower a `.tflite` and run it in NumPy."""
    return Reference(read_tflite(tflite))
