"""Backends by name: one file each, imported when it is asked for."""

from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeqrl.errors import require_name

if TYPE_CHECKING:
    from edgeqrl.agents.heads import Head
    from edgeqrl.interfaces import Network
    from edgeqrl.network.integer_policy import IntegerPolicy

NETWORK_BACKENDS = {
    "cortex-m0plus": "edgeqrl.backends.emulated:open_network_m0plus",
    "cortex-m4": "edgeqrl.backends.emulated:open_network_m4",
    "host-c": "edgeqrl.backends.host_c:open_network",
    "litert": "edgeqrl.backends.litert:open_network",
    "litert-ref": "edgeqrl.backends.litert:open_reference_network",
    "reference": "edgeqrl.backends.reference:open_network",
    "tflite-runtime": "edgeqrl.backends.tflite_runtime:open_network",
    "tflm": "edgeqrl.backends.tflm:open_network",
}


def open_network(name: str, tflite: bytes) -> "Network":
    """Open an int8 `.tflite` on the named backend; close it with `close()` where it has one."""
    module, _, function = NETWORK_BACKENDS[require_name("backend", name, NETWORK_BACKENDS)].partition(":")
    network: Network = getattr(import_module(module), function)(tflite)
    return network


def open_policy(name: str, policy: "IntegerPolicy", tflite: bytes) -> AbstractContextManager[Any]:
    """Open an integer policy on the named backend; `tflite` is what its network was lowered from.

    host-c and the emulated cores run the whole exported step; elsewhere the float edges are NumPy's.
    """
    require_name("backend", name, NETWORK_BACKENDS)
    if name == "host-c":
        from edgeqrl.backends.host_c import HostCPolicy

        return HostCPolicy(policy)
    if name.startswith("cortex-"):
        from edgeqrl.backends import emulated

        return emulated.open_policy(policy, name)
    from edgeqrl.backends.network_policy import NetworkPolicy

    network = open_network(name, tflite)
    return NetworkPolicy(
        network, policy.observation, policy.action, name, input_name=policy.network.inputs[0]
    )


def open_float_policy(float_tflite: bytes, head: "Head") -> AbstractContextManager[Any]:
    """Open the float policy by its float32 `.tflite`; needs no TensorFlow."""
    from edgeqrl.backends.float_litert import FloatPolicy, open_float_network

    return FloatPolicy(open_float_network(float_tflite), head)
