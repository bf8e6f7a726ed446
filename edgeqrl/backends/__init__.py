"""Backends by name: one file each, imported when it is asked for."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeqrl.errors import require_name

if TYPE_CHECKING:
    from edgeqrl.agents.agent import StateSpec
    from edgeqrl.agents.heads import Head
    from edgeqrl.interfaces import Network
    from edgeqrl.network.integer_policy import IntegerPolicy
    from edgeqrl.preprocessing import Preprocessing

# core -> the board that stands for it when only the core is named
EMULATED_CORES = {
    "cortex-m0": "mps2-an382",
    "cortex-m0plus": "rpi-pico",
    "cortex-m3": "mps2-an385",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    "cortex-m33": "mps2-an505",
    "cortex-m55": "mps3-an547",
    "rv32imac": "riscv-virt",
    "rv32imc": "esp32c3",
}
NETWORK_BACKENDS = {
    **dict.fromkeys(EMULATED_CORES, "edgeqrl.backends.emulated:open_network"),
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
    core = (name,) if name in EMULATED_CORES else ()
    network: Network = getattr(import_module(module), function)(tflite, *core)
    return network


def open_policy(name: str, policy: "IntegerPolicy", tflite: bytes) -> AbstractContextManager[Any]:
    """Open an integer policy on the named backend; `tflite` is what its network was lowered from.

    host-c and the emulated cores run the whole exported step; elsewhere the float edges are NumPy's.
    """
    require_name("backend", name, NETWORK_BACKENDS)
    if name == "host-c":
        from edgeqrl.backends.host_c import HostCPolicy

        return HostCPolicy(policy)
    if name in EMULATED_CORES:
        from edgeqrl.backends import emulated

        return emulated.open_policy(policy, name)
    from edgeqrl.backends.network_policy import NetworkPolicy

    return NetworkPolicy(open_network(name, tflite), policy, name)


def open_float_policy(
    float_tflite: bytes,
    head: "Head",
    preprocessing: "Preprocessing | None" = None,
    states: "Sequence[StateSpec]" = (),
    value_names: Sequence[str] = (),
) -> AbstractContextManager[Any]:
    """Open the float policy by its float32 `.tflite`; needs no TensorFlow."""
    from edgeqrl.backends.float_litert import FloatPolicy, open_float_network

    return FloatPolicy(open_float_network(float_tflite), head, preprocessing, states, value_names)
