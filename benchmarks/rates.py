"""What multiply-accumulates and elements cost each core, by kernel: the table of firmware_export/rates.py.

    python benchmarks/rates.py [--core CORE ...] [--compiler zig]

Every kernel is called alone in an emulated firmware, on layers of many shapes, and its instructions are
counted. A row is the fit of these counts by what the layers do (`firmware_export/workload.py`), so that the
relative error is least; beside it stands the largest one.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from struct import pack
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.data import data_folder
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Interpolation, Lookup
from edgeqrl.network.layers.window import Window
from firmware_export.board import load_board
from firmware_export.build import compile_firmware
from firmware_export.emit import export_sources
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.orders import ANY, ORDERS, ROWS, order_for, order_of
from firmware_export.emit.packing import LayerCode, Rows
from firmware_export.emit.weights import UNPACKED
from firmware_export.emulators.emulator import EmulatedFirmware
from firmware_export.toolchain import find_compiler
from firmware_export.workload import Work, work_of

# The others have the same code, or nearly.
CLASSES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55", "rv32imac")
DENSE = ((4, 64), (17, 64), (64, 64), (64, 2), (64, 6), (128, 32), (256, 32), (32, 128))
# input side, input channels, output channels, kernel, stride, padding
CONV: tuple[tuple[int, int, int, int, int, int], ...] = (
    (10, 4, 16, 3, 1, 0),
    (6, 2, 6, 3, 1, 1),
    (8, 4, 8, 3, 2, 1),
    (5, 16, 16, 3, 1, 1),
    (4, 8, 16, 1, 1, 0),
    (8, 1, 8, 4, 2, 0),
    (6, 4, 32, 3, 1, 0),
    (5, 8, 64, 3, 1, 1),
    (4, 2, 2, 2, 1, 0),
    (9, 3, 24, 5, 2, 2),
    (8, 4, 10, 3, 1, 0),
    (6, 8, 18, 3, 1, 1),
    (7, 12, 7, 3, 2, 0),
)
TABLES = (8, 64, 256)
BITS = (8, 4, 3, 2)


def layers(dtype: str) -> Iterator[tuple[IntegerNetwork, int]]:
    """Yield networks of one layer, and the bits of its weights in flash."""
    for bits in BITS:
        for inputs, outputs in DENSE:
            yield single(Dense, (outputs, inputs), (inputs,), (outputs,), dtype), bits
        for side, channels, outputs, kernel, stride, padding in CONV:
            shape = (outputs, kernel, kernel, channels)
            yield convolution(Conv2D, shape, side, channels, stride, padding, dtype), bits
    for side, _, channels, kernel, stride, padding in CONV:
        yield (
            convolution(DepthwiseConv2D, (channels, kernel, kernel), side, channels, stride, padding, dtype),
            UNPACKED,
        )
    for size in TABLES:
        source, target = tensors((size,), (size,), dtype)
        layer: Any = Lookup("y", "RELU", "x", "y", np.zeros(256, np.int8))
        if dtype == "int16":
            layer = Interpolation("y", "RELU", "x", "y", np.zeros(513, np.int16))
        yield IntegerNetwork({"x": source, "y": target}, ("x",), ("y",), (layer,)), UNPACKED


def convolution(
    kind: Any, shape: tuple[int, ...], side: int, channels: int, stride: int, padding: int, dtype: str
) -> IntegerNetwork:
    kernel = shape[1]
    size = (side + 2 * padding - kernel) // stride + 1
    ends = (1, side, side, channels), (1, size, size, shape[0])
    window = Window(*ends, (kernel, kernel), (stride, stride), (1, 1), (padding, padding))
    return single(kind, shape, *ends, dtype, window)


def single(
    kind: Any,
    shape: tuple[int, ...],
    source: tuple[int, ...],
    target: tuple[int, ...],
    dtype: str,
    *more: Any,
) -> IntegerNetwork:
    ends, out = tensors(source, target, dtype), shape[0]
    weights = np.tile(np.array([-1, 0, 1], np.int8), -(-int(np.prod(shape)) // 3))[: int(np.prod(shape))]
    numbers = (np.zeros(out, np.int64), np.full(out, 2**30, np.int32), np.full(out, -6, np.int32))
    limits = ends[1].range
    layer: Layer = kind(
        "y", "x", "y", weights.reshape(shape), *numbers, *limits, *more, is_wide=dtype == "int16"
    )
    return IntegerNetwork({"x": ends[0], "y": ends[1]}, ("x",), ("y",), (layer,))


def tensors(source: tuple[int, ...], target: tuple[int, ...], dtype: str) -> tuple[Tensor, Tensor]:
    point = 3 if dtype == "int8" else 0
    return Tensor("x", source, 1.0, point, dtype), Tensor("y", target, 1.0, point, dtype)


def measure(core: str, compiler: str) -> Iterator[tuple[Work, int]]:
    """Yield what each layer does on a core, and how many instructions that takes."""
    for dtype in ("int8", "int16"):
        found = [(*one, order) for one in layers(dtype) for order in orders(*one, core)]
        for name, board in images(found, core, compiler):
            with board as emulated:
                for network, bits, order in found:
                    code = layer_code(network.layers[0], network, bits, order)
                    if code.function != name:
                        continue
                    source, target = (network.tensors[name].num_bytes for name in ("x", "y"))
                    given = [code.block, bytes(source), bytes(target + code.behind_output)]
                    given += [] if code.scratch_bytes is None else [bytes(code.scratch_bytes)]
                    profile = emulated.profile_function(name, *given, *map(as_argument, code.arguments))
                    yield work_of(network.layers[0], network, bits, order), profile.instructions


def orders(network: IntegerNetwork, bits: int, core: str) -> Iterator[str]:
    """Yield plain rows, and the core's order where the layer can have it: usual and not."""
    yield ROWS
    layer = network.layers[0]
    if isinstance(layer, Dense | Conv2D):
        order = order_for(layer, network.tensors["x"], order_of(core), bits)
        if order != ROWS:
            yield order
            if ORDERS[order].has_any:
                yield order + ANY


def images(
    found: list[tuple[IntegerNetwork, int, str]], core: str, compiler: str
) -> Iterator[tuple[str, EmulatedFirmware]]:
    """Build one image for each kernel: the first network that has it."""
    seen = set()
    for network, bits, order in found:
        code: LayerCode = layer_code(network.layers[0], network, bits, order)
        if code.function in seen:
            continue
        seen.add(code.function)
        board = load_board(EMULATED_CORES[core], data_folder("boards"))
        policy = replace(policy_of_network(network), weight_bits=(bits,), order=(order,))
        tool = find_compiler(compiler, core=core)
        firmware = compile_firmware(export_sources(policy, b""), board, compiler=tool)
        yield code.function, EmulatedFirmware(firmware.elf, firmware.name, board)


def as_argument(argument: int | Rows) -> int | bytes:
    if isinstance(argument, int):
        return argument
    ((images, channels, outputs, y, x),) = argument.rows
    return pack("<15I", images, channels, outputs, *y, *x)  # type: ignore[misc]


def fit(rows: list[tuple[Work, int]], least: float = 0.0) -> tuple[tuple[float, ...], float]:
    """Return the instructions of each number of `Work`, and the largest error.

    least  instructions that a multiply-accumulate takes at the least
    """
    counts = np.array([work.counts for work, _ in rows], float)
    measured = np.array([instructions for _, instructions in rows], float)
    low = np.zeros(counts.shape[1])
    low[1] = least - 1e-9
    found = lsq_linear(counts / measured[:, None], np.ones(len(rows)), (low, np.inf), method="bvls").x
    rates = np.array([float(f"{rate:.3g}") if rate > 1e-6 else 0.0 for rate in found])
    return tuple(rates), float(np.abs(counts @ rates / measured - 1).max())


def fit_all(measured: Iterable[tuple[Work, int]]) -> dict[str, tuple[tuple[float, ...], float]]:
    """Fit each kind of work. A convolution has the inner loop of a dense layer, so its runs cost no less."""
    rows = defaultdict(list)
    for work, instructions in measured:
        rows[work.kind].append((work, instructions))
    found: dict[str, tuple[tuple[float, ...], float]] = {}
    for kind in sorted(rows, reverse=True):  # dense layers before convolutions
        dense = found.get(kind.replace("conv", "dense"))
        found[kind] = fit(rows[kind], 0.0 if dense is None else dense[0][1])
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core", nargs="+", choices=EMULATED_CORES, default=CLASSES)
    parser.add_argument("--compiler", default="zig", help="of find_compilers (zig)")
    options = parser.parse_args()
    for core in options.core:
        fits = fit_all(measure(core, options.compiler))
        print(f'    "{core}": {{')
        for kind, (rates, error) in fits.items():
            print(f'        "{kind}": ({", ".join(f"{rate:g}" for rate in rates)}),  # {error:.0%}')
        print("    },", flush=True)


if __name__ == "__main__":
    main()
