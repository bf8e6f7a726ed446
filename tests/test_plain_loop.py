"""Kernels that are plain C on a core, against the loop that one would write down, built with -O3."""

from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Dense
from edgeqrl.network.reference import Reference
from firmware_export.bare_image import BareImage, compile_bare
from firmware_export.emit.export import export_network
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.params import arena_bytes_of, plan_params
from firmware_export.emulators.emulator import open_engine
from tests.firmware import board, cross_compiler, one_by_default

PLAIN = Path(__file__).parent / "c" / "plain_loop.c"
SHAPES = ((64, 4), (64, 64), (256, 17), (256, 256), (6, 256))
FEW = 64  # inputs, below which rescaling is most of it
# The cores whose kernels are plain C: RV32 by quads, and any core by rows.
CASES = [
    ("rv32imac", "quads", "zig"),
    ("cortex-m4", "rows", "zig"),
    ("rv32imc", "quads", "zig"),
    ("rv32imac", "quads", "riscv64-unknown-elf-gcc"),
    ("rv32imac", "rows", "zig"),
    ("cortex-m4", "rows", "arm-none-eabi-gcc"),
]


def dense(rng: np.random.Generator, out: int, terms: int) -> IntegerNetwork:
    weights = rng.integers(-127, 128, (out, terms)).astype(np.int8)
    numbers = (np.zeros(out, np.int64), np.full(out, 2**30 + 7, np.int32), np.full(out, -9, np.int32))
    layer = Dense("b", "a", "b", weights, *numbers, -128, 127)
    tensors = {"a": Tensor("a", (terms,), 1.0, 0), "b": Tensor("b", (out,), 1.0, 0)}
    return IntegerNetwork(tensors, ("a",), ("b",), (layer,))


def build(network: IntegerNetwork, core: str, order: str, compiler: str, optimize: str) -> BareImage:
    program = BareNetwork("network", network, order=order)
    sources = {**export_network(program, b""), "plain_loop.c": PLAIN.read_bytes()}
    return compile_bare(
        sources,
        board(EMULATED_CORES[core]),
        compiler=cross_compiler(compiler),
        optimize=optimize,
        params_bytes=plan_params(program).total_bytes,
        state_bytes=arena_bytes_of(program) + 4,
    )


class Engine:
    """A bare image whose functions are called with bytes put into free memory."""

    def __init__(self, image: BareImage) -> None:
        self._elf = image.elf
        self._free = image.elf.address("__free_start")
        engine = "qemu" if image.board.core == "cortex-m55" else "unicorn"
        self._engine = open_engine(engine, image.data, image.elf, image.board)

    def count(self, function: str, parts: list[bytes], numbers: list[int], answer: bytes) -> int:
        """Return the instructions of a call with pointers to all parts; the output is the one of zeros."""
        places, chunks, at = [], [], self._free
        for part in parts:
            places.append(at)
            chunks.append([at, len(part)])
            at += -(-len(part) // 16) * 16
        header = {"function": self._elf.address(function), "arguments": [*places, *numbers]}
        payload = b"".join(parts)
        where = next(i for i, part in enumerate(parts) if part == bytes(len(answer)))
        outputs = {"inputs": chunks, "outputs": [[places[where], len(answer)]], "count": 1}
        found = self._engine.request("map", header | outputs, payload)[1]
        assert found[: len(answer)] == answer
        traced = {"chunks": chunks, "stack_bytes": 2048}
        return len(self._engine.request("trace", header | traced, payload)[1]) // 4

    def close(self) -> None:
        self._engine.close()


@pytest.fixture(params=one_by_default(CASES, CASES[:2]), ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    found: tuple[str, str, str] = request.param
    return found


def test_kernels_in_plain_c_take_no_more_instructions_than_a_plain_loop(case: tuple[str, str, str]) -> None:
    core, order, compiler = case
    rng = np.random.default_rng(0)
    first = dense(rng, *SHAPES[3])
    ours = Engine(build(first, core, order, compiler, "O2"))
    plain = Engine(build(first, core, order, compiler, "O3"))
    try:
        for out, terms in SHAPES:
            network = dense(rng, out, terms)
            (layer,) = network.layers
            assert isinstance(layer, Dense)
            values = rng.integers(-128, 128, terms).astype(np.int8)
            answer = Reference(network).run({"a": values[None]})["b"].astype(np.int8).tobytes()
            room = bytes(len(answer))
            scales = np.concatenate([layer.bias, layer.multiplier, -layer.shift]).astype("<i4").tobytes()
            code = layer_code(layer, network, order=order)
            parts = [code.block, values.tobytes(), room]
            column = [] if code.scratch_bytes is None else [bytes(max(code.scratch_bytes, 8))]
            found = ours.count(code.function, [*parts, *column], [1, terms, out], answer)
            parts = [layer.weights.tobytes(), scales, values.tobytes(), room]
            limit = plain.count("plain_dense", parts, [terms, out], answer)
            if order == "quads" or terms >= FEW:  # rows are rescaled in any case alike
                assert found <= limit, (out, terms, found, limit)
    finally:
        ours.close()
        plain.close()
