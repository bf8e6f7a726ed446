"""Bare engines of the networks in tests/data, built once a session."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.rows import RowLayout
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import random_inputs
from firmware_export.bare_image import BareImage, compile_bare
from firmware_export.emit.export import export_network
from firmware_export.emit.orders import order_of
from firmware_export.emit.params import plan_params
from firmware_export.toolchain import find_compiler
from tests.firmware import board

DATA = Path(__file__).parent / "data"
ROOM = 2**17  # for any state of these networks


@lru_cache(maxsize=16)
def bare_image(model: str, core: str, optimize: str = "O2") -> tuple[BareImage, IntegerNetwork]:
    """Build a network as for firmware of the core."""
    tflite = (DATA / f"{model}.tflite").read_bytes()
    program = BareNetwork("network", read_tflite(tflite), order=order_of(core))
    image = compile_bare(
        export_network(program, tflite),
        board(EMULATED_CORES[core]),
        compiler=find_compiler(core=core),
        optimize=optimize,
        params_bytes=plan_params(program).total_bytes,
        state_bytes=ROOM,
    )
    return image, program.network


def row_and_places(network: IntegerNetwork, seed: int = 0) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return a random input as a row of bytes, and where inputs and outputs lie."""
    inputs = RowLayout([network.tensors[name] for name in network.inputs], alignment=4)
    outputs = RowLayout([network.tensors[name] for name in network.outputs], alignment=4)
    row = inputs.pack(random_inputs(network, np.random.default_rng(seed), 1))[0]
    return row, {"input_offsets": inputs.offsets, "output_offsets": outputs.offsets}
