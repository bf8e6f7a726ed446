"""Kernels of layers with weights in a core's order, called alone on that core with any block and inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Linear, Window, accumulator_bound
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.bare_image import BareImage, compile_bare
from firmware_export.emit.arena import plan_arena
from firmware_export.emit.export import export_network
from firmware_export.emit.orders import order_for, order_of_kernel, unpack_tiles
from firmware_export.emit.packing import LayerCode, Rows
from firmware_export.emit.params import plan_params
from firmware_export.emulators.emulator import open_engine
from firmware_export.emulators.unicorn_engine import UNICORN_CORES
from firmware_export.toolchain import find_compiler
from tests import firmware
from tests.c_kernels import CANARY, MARGIN, cases
from tests.test_kernels_linear import (
    random_scales,
    random_tensor,
    random_values,
    random_weights,
    random_window,
)

DATA = Path(__file__).parent / "data"


@lru_cache(maxsize=4)
def image_of(model: str, core: str, compiler: str, order: str, *, is_any: bool = False) -> BareImage:
    """Build a network whose kernels are called: e_minatar has both, c_cheetah_ppo tables.

    is_any  with kernels for unusual layers, all of whose clamps are made narrow
    """
    tflite = (DATA / f"{model}.tflite").read_bytes()
    network = read_tflite(tflite)
    if is_any:
        layers = [replace(one, output_min=-127) if isinstance(one, Linear) else one for one in network.layers]
        network = replace(network, layers=tuple(layers))
    program = BareNetwork("network", network, order=order)
    return compile_bare(
        export_network(program, tflite),
        firmware.board(EMULATED_CORES[core]),
        compiler=find_compiler(compiler, core=core),
        params_bytes=plan_params(program).total_bytes,
        state_bytes=plan_arena(program.network).total_bytes + 1024,
    )


class Kernels:
    """The kernels of an image on the emulated core, called with any layer's block and inputs."""

    def __init__(self, image: BareImage, *, inputs_end: int | None = None) -> None:
        """Start the emulator; `inputs_end`: where memory ends, so that a read beyond an input faults."""
        self._elf = image.elf
        self._free = image.elf.address("__free_start") + 15 & ~15
        self._end = inputs_end
        engine = "unicorn" if image.board.core in UNICORN_CORES else "qemu"
        self._engine = open_engine(engine, image.data, image.elf, image.board)

    def run(self, code: LayerCode, inputs: NDArray[np.int8], output_bytes: int) -> NDArray[np.int8]:
        """Return outputs [N, output_bytes] for inputs [N, in_bytes]; nothing else may be written."""
        call = _Placed(code, inputs.shape[1], output_bytes, self._free, self._end)
        header = {
            **self._called(code, call),
            "inputs": call.chunks,
            "outputs": [[call.written, len(call.room)]],
            "count": len(inputs),
        }
        _, found = self._engine.request("map", header, b"".join(map(call.payload, inputs)))
        rooms = np.frombuffer(found, np.uint8, len(inputs) * len(call.room)).reshape(len(inputs), -1)
        for place in call.margins:
            assert (rooms[:, place] == CANARY).all(), "the kernel wrote beyond its output or its column"
        return rooms[:, MARGIN : MARGIN + output_bytes].copy().view(np.int8)

    def trace(self, code: LayerCode, values: NDArray[np.int8], output_bytes: int) -> bytes:
        """Return the address of every instruction that the call executes."""
        call = _Placed(code, values.size, output_bytes, self._free, self._end)
        header = {**self._called(code, call), "chunks": call.chunks, "stack_bytes": 2048}
        return self._engine.request("trace", header, call.payload(values))[1]

    def close(self) -> None:
        """End the emulator."""
        self._engine.close()

    def _called(self, code: LayerCode, call: "_Placed") -> dict[str, Any]:
        return {"function": self._elf.address(code.function), "arguments": call.arguments}


class _Placed:
    """Where all that a call needs lies: in free RAM, but the input at the end of another one."""

    def __init__(
        self, code: LayerCode, in_bytes: int, output_bytes: int, free: int, inputs_end: int | None
    ) -> None:
        self._block = code.block
        self._shapes = b"".join(words(a) for a in code.arguments if isinstance(a, Rows))
        assert code.scratch_bytes is not None
        padded = output_bytes + code.behind_output
        shapes = free + len(code.block)
        self.written = shapes + len(self._shapes) + 15 & ~15
        output = self.written + MARGIN
        column = output + padded + MARGIN + 15 & ~15
        behind = column + code.scratch_bytes
        self.room = bytes([CANARY]) * (behind + MARGIN - self.written)
        places = (
            (0, MARGIN),
            (MARGIN + padded, column - self.written),
            (behind - self.written, len(self.room)),
        )
        self.margins = [slice(*place) for place in places]
        in_words = in_bytes + -in_bytes % 4
        source = behind + MARGIN + 15 & ~15 if inputs_end is None else inputs_end - in_words
        numbers = [shapes if isinstance(argument, Rows) else argument for argument in code.arguments]
        self.arguments = [free, source, output, column if code.scratch_bytes else 0, *numbers]
        static = [[free, len(code.block)], [shapes, len(self._shapes)]]
        self.chunks = [*(c for c in static if c[1]), [self.written, len(self.room)], [source, in_bytes]]

    def payload(self, values: NDArray[np.int8]) -> bytes:
        return self._block + self._shapes + self.room + values.tobytes()


def words(argument: Rows) -> bytes:
    """Return rows of numbers and tuples of numbers as words."""
    flat = [n for row in argument.rows for v in row for n in (v if isinstance(v, tuple) else (v,))]
    return np.array(flat, np.uint32).tobytes()


@dataclass(frozen=True, eq=False)
class Drawn:
    """A layer alone in a network, and values for its input [N, *shape]."""

    layer: Linear
    network: IntegerNetwork
    values: NDArray[Any]
    order: str

    @property
    def code(self) -> LayerCode:
        return cases(self.network, {"a": self.values[:1]}, order=self.order)[0].code

    @property
    def expected(self) -> NDArray[Any]:
        return Reference(self.network).run({"a": self.values})["b"].reshape(len(self.values), -1)

    @property
    def is_usual(self) -> bool:
        code, groups = self.code, int(getattr(self.layer, "groups", 1))
        return unpack_tiles(code.block, self.layer.weights.shape, self.order, groups).is_usual


def require_emulated(kernels: Kernels, drawn: Sequence[Drawn]) -> int:
    """Compare the core's answers with the reference's; count them."""
    total = 0
    for one in drawn:
        expected = one.expected
        inputs = one.values.reshape(len(one.values), -1)
        found = kernels.run(one.code, inputs, expected.shape[1])
        np.testing.assert_array_equal(
            found, expected, err_msg=f"{one.layer.operator} {one.layer.weights.shape}"
        )
        total += expected.size
    return total


def random_layer(rng: np.random.Generator, kind: type, order: str, tile: int = 4) -> Drawn:
    """Draw a layer of up to a few vectors and some tiles of channels, with usual scales in two of three."""
    while True:
        window: tuple[Window, ...] = ()
        shape: tuple[int, ...]
        shape_in: tuple[int, ...]
        shape_out: tuple[int, ...]
        sizes = rng.integers(1, 4), rng.integers(1, 100), rng.integers(1, 5 * tile)
        rows, columns, out = map(int, sizes)
        if kind is Dense:
            shape, shape_in, shape_out = (out, columns), (rows, columns), (rows, out)
        else:
            groups = int(rng.choice([1, 1, 1, 2, 3]))
            depth = int(rng.choice([rng.integers(1, 6), rng.integers(1, 40)]))
            out = groups * int(rng.choice([tile, 2 * tile, 3 * tile, rng.integers(1, 3 * tile)]))
            window = (random_window(rng, depth * groups, out),)
            shape = (out, *window[0].kernel, depth)
            shape_in, shape_out = window[0].input_shape, window[0].output_shape
        source, target = (random_tensor(rng, n, s, "int8") for n, s in (("a", shape_in), ("b", shape_out)))
        weights, one = random_weights(rng, shape), np.ones(out, np.int32)
        if order.startswith("lanes"):
            weights = np.maximum(weights, -127)  # two of -128 have no lane
        more: dict[str, Any] = {"rows": rows} if kind is Dense else {}
        bare = kind("b", "a", "b", weights, np.zeros(out, np.int64), one, one, -128, 127, *window, **more)
        bound = accumulator_bound(bare, source.zero_point, source.range)
        bias = (rng.uniform(-1, 1, out) * rng.choice([0, 1, 9]) * bound).astype(np.int64)
        multiplier, shift = random_scales(rng, bound + abs(bias), 127, is_wide=False)
        low = -128
        if rng.random() < 0.7:
            shift = np.clip(shift, -24, -1)
        elif rng.random() < 0.5:
            low = target.zero_point
        layer = replace(bare, bias=bias, multiplier=multiplier, shift=shift, output_min=low)
        try:
            network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
            found = Drawn(layer, network, random_values(rng, source, 4), order)
            assert order_for(layer, source, order.partition("_")[0]) == order.partition("_")[0]
            assert order_of_kernel(found.code.kernel).startswith(order)
        except UnsupportedOperatorError:
            continue
        return found


def draw(seed: int, count: int, order: str) -> list[Drawn]:
    """Return `count` dense layers and as many convolutions."""
    rng = np.random.default_rng(seed)
    return [random_layer(rng, kind, order) for _ in range(count) for kind in (Dense, Conv2D)]


def every_shift(order: str) -> Iterator[Drawn]:
    """Yield dense layers of zero weights, which hand their biases to the rescaling: ends and halves."""
    rng = np.random.default_rng(0)
    for shift in range(-31, 31):
        for is_usual in (False, True):
            limit = (2**31 - 1024 >> max(shift, 0)) - 1 if not is_usual else 2**28
            if is_usual and not -24 <= shift <= -1:
                continue
            bias = rng.integers(-limit, limit + 1, 198) >> rng.integers(0, 31, 198)
            bias[:8] = np.array([0, 1, -1, limit, -limit, limit - 1, 2, -2]).clip(-limit, limit)
            halves = (2 * rng.integers(-140, 140, 80) + 1) << max(-shift, 0)  # times 2^30 / 2^31: exact
            bias[8:88] = halves.clip(-limit, limit)
            multiplier = rng.integers(2**30, 2**31, 198)
            multiplier[8:88] = 2**30
            multiplier[rng.random(198) < 0.1] = rng.choice([0, 2**31 - 1])
            source, target = Tensor("a", (1,), 1.0, 0), Tensor("b", (198,), 1.0, int(rng.integers(-128, 128)))
            low, high = (-128, 127) if is_usual else sorted(rng.integers(-128, 128, 2).tolist())
            numbers = (bias, multiplier.astype(np.int32), np.full(198, shift, np.int32))
            layer = Dense("b", "a", "b", np.zeros((198, 1), np.int8), *numbers, low, high)
            network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
            yield Drawn(layer, network, np.zeros((1, 1), np.int8), order)
