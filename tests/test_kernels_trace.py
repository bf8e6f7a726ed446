"""Elementwise layers, softmax and copies in one policy: the same answers and addresses everywhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.host_c import HostC
from edgeqrl.network.edges import ArgmaxEdge, ObservationEdge
from edgeqrl.network.functions import Factor
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import (
    ArgExtreme,
    Interpolation,
    InverseRoot,
    LogSoftmax,
    Lookup,
    Move,
    Pair,
    Piece,
    Rescale,
    Sigmoid,
    Softmax,
    Softmax16,
)
from edgeqrl.network.reference import Reference
from firmware_export.board import load_board
from firmware_export.build import compile_firmware
from firmware_export.emit import c_sources, export_sources
from firmware_export.emit.arena import plan_arena
from firmware_export.emulators.emulator import EmulatedFirmware
from firmware_export.toolchain import Compiler, find_compilers
from tests.c_build import C_ONLY_WARNINGS, WARNINGS, c_compiler, compile_objects, cxx_compiler, write_files
from tests.c_policies import random_observations
from tests.firmware import one_by_default

BOARDS = Path(__file__).parent.parent / "boards"
ROWS, DEPTH = 4, 8
SIZE = ROWS * DEPTH
HALF = Factor(2**30 + 12345, 0)


def pairs_policy(rng: np.random.Generator) -> IntegerPolicy:
    """Copies and all functions of two tensors, in int8."""
    network = _Builder(rng)
    network.move("moved", ["x", "offsets"], fill=-3)
    functions = ("ADD", "SUB", "SQUARED_DIFFERENCE", "MUL", "PRELU", "MAXIMUM", "MINIMUM")
    for function in functions:
        network.pair(function, "moved", "weights", "int8")
    network.join("joined", [f"{function}8" for function in functions])
    return network.policy("joined")


def rows_policy(rng: np.random.Generator) -> IntegerPolicy:
    """Functions of rows and tables, in int8."""
    network = _Builder(rng)
    network.move("moved", ["x", "offsets"], fill=-3)
    network.add(Softmax("s", "moved", "soft", ROWS, DEPTH, _table(0.03)), "int8")
    log_table = (_table(0.03) >> 12).astype(np.int32)
    factors = Factor.of(0.03 * 2.0**26), Factor.of(1.0 / (0.03 * 2.0**26))
    network.add(LogSoftmax("l", "moved", "log", ROWS, DEPTH, *factors, 300, log_table), "int8")
    table = rng.permutation(np.arange(-128, 128)).astype(np.int8)
    network.add(Lookup("t", "TANH", "moved", "looked", table), "int8")
    network.join("joined", ["soft", "log", "looked"])
    network.add(ArgExtreme("a", "ARG_MAX", "joined", "best", 3, DEPTH, ROWS), "int32", (3 * ROWS,))
    return network.policy("joined", "best")


def wide_policy(rng: np.random.Generator) -> IntegerPolicy:
    """What int16 has, and the ways there and back."""
    network = _Builder(rng)
    network.move("moved", ["x", "offsets"], fill=-3)
    wider, narrower = Factor(2**30 + 77, 8), Factor(-(2**30) - 777, -6)
    network.add(Rescale("w", "QUANTIZE", "moved", "wide", wider, wider, -32768, 32767), "int16")
    for function in ("ADD", "MUL", "MAXIMUM"):
        network.pair(function, "wide", "wide_weights", "int16")
    knots = np.clip(np.arange(-256, 257) * 100, -32768, 32767).astype(np.int16)
    network.add(Interpolation("i", "EXP", "ADD16", "knotted", knots), "int16")
    sigmoid = np.round(65535 / (1 + np.exp(-np.arange(256) / 24))).astype(np.uint16)
    network.add(Sigmoid("h", "TANH", "knotted", "tanh", 3 * 2**10, 9, sigmoid), "int16")
    network.add(Sigmoid("g", "LOGISTIC", "MUL16", "logistic", 2**14, 13, sigmoid), "int16")
    network.add(InverseRoot("q", "tanh", "root", Factor(2**30, 13)), "int16")
    network.add(Softmax16("k", "root", "soft16", ROWS, DEPTH, HALF, abs(knots), abs(knots)), "int16")
    network.join("joined", ["soft16", "logistic", "MAXIMUM16"])
    network.add(Rescale("n", "LEAKY_RELU", "joined", "back", Factor(2**30, -6), narrower, -128, 127), "int8")
    network.add(ArgExtreme("b", "ARG_MIN", "joined", "worst", 1, 3 * SIZE, 1), "int32", (1,))
    return network.policy("back", "worst")


Maker = Callable[[np.random.Generator], IntegerPolicy]
POLICIES = (pairs_policy, rows_policy, wide_policy)
IDS = ("pairs", "rows", "wide")
# By default each policy is built by zig for one of the boards, and for both by all compilers in the full run.
TRACED = [
    pytest.param(
        make, compiler, name, id=f"{kind}-{compiler.name}-{name}", marks=[] if is_kept else pytest.mark.slow
    )
    for i, (kind, make) in enumerate(zip(IDS, POLICIES, strict=True))
    for compiler in find_compilers()
    if compiler.builds_for("cortex-m4")
    for j, name in enumerate(("rpi-pico", "mps2-an386"))
    for is_kept in [compiler.name == "zig" and i % 2 == j]
]


class _Builder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.tensors = {
            "x": Tensor("x", (ROWS, 6), 0.05, -7),
            "offsets": Tensor("offsets", (ROWS,), 1.0, 3),
            "weights": Tensor("weights", (DEPTH,), 1.0, 5),
            "wide_weights": Tensor("wide_weights", (DEPTH,), 1.0, 0, "int16"),
        }
        self.constants = {
            name: rng.integers(-100, 100, self.tensors[name].shape).astype(self.tensors[name].dtype)
            for name in ("offsets", "weights", "wide_weights")
        }
        self.layers: list[Layer] = []

    def add(self, layer: Layer, dtype: str, shape: tuple[int, ...] = (ROWS, DEPTH)) -> None:
        shape = (3, ROWS, DEPTH) if layer.output == "back" else shape
        zero_point = 11 if dtype == "int8" else 0
        self.tensors[layer.output] = Tensor(layer.output, shape, 0.1, zero_point, dtype)
        self.layers.append(layer)

    def pair(self, function: str, a: str, b: str, dtype: str) -> None:
        """Combine rows with one row that is repeated."""
        bits = 8 if dtype == "int8" else 16
        factor = Factor(2**30 + 999, -19 if bits == 8 else -12)
        if function in ("MUL", "PRELU", "SQUARED_DIFFERENCE"):
            factor = Factor(2**30 + 5, -8 if function == "SQUARED_DIFFERENCE" else -6)
        left = 0 if function == "SQUARED_DIFFERENCE" else 20 if dtype == "int8" else 13
        output = f"{function}{bits}"
        low, high = (-128, 127) if bits == 8 else (-32768, 32767)
        layer = Pair(
            function, function, (a, b), output, (ROWS, DEPTH), (DEPTH, 1), (0, 1), low, high,
            left_shift=left, factor_a=HALF, factor_b=factor if function == "PRELU" else HALF, factor=factor,
        )  # fmt: skip
        self.add(layer, dtype)

    def move(self, output: str, inputs: Sequence[str], *, fill: int) -> None:
        """Turn the first input, put the second beside it and leave a column to be filled."""
        turned = Piece(0, (ROWS, 6), 23, (-6, -1), 0, (DEPTH, 1))
        column = Piece(1, (ROWS,), 0, (1,), 6, (DEPTH,))
        self.add(Move("m", "PAD", tuple(inputs), output, (turned, column), fill), "int8")

    def join(self, output: str, inputs: Sequence[str]) -> None:
        pieces = tuple(Piece(i, (SIZE,), 0, (1,), i * SIZE, (1,)) for i in range(len(inputs)))
        dtype = self.tensors[inputs[0]].dtype
        layer = Move(output, "CONCATENATION", tuple(inputs), output, pieces, None)
        self.add(layer, dtype, (len(inputs), ROWS, DEPTH))

    def policy(self, *outputs: str) -> IntegerPolicy:
        network = IntegerNetwork(self.tensors, ("x",), outputs, tuple(self.layers), self.constants)
        source, scores = self.tensors["x"], self.tensors[outputs[0]]
        edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
        return IntegerPolicy("robot", edge, network, ArgmaxEdge(scores.size, 0))


def _table(real: float) -> np.ndarray:
    return np.minimum(np.round(np.exp(-real * np.arange(256)) * 2.0**31), 2**31 - 1).astype(np.int32)


@pytest.mark.parametrize("make", POLICIES, ids=IDS)
def test_the_host_answers_as_the_reference_does(make: Maker) -> None:
    rng = np.random.default_rng(0)
    policy = make(rng)
    values = {"x": rng.integers(-128, 128, (300, ROWS, 6)).astype(np.int8)}
    expected = Reference(policy.network).run_all(values)
    assert all(len(np.unique(expected[layer.output])) > 3 for layer in policy.network.layers)
    found = HostC(policy).infer(values)
    for name in policy.network.outputs:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_elementwise_layers_share_their_input_in_the_arena() -> None:
    offsets = plan_arena(wide_policy(np.random.default_rng(0)).network).offsets
    assert offsets["knotted"] == offsets["ADD16"]
    assert offsets["logistic"] == offsets["MUL16"]
    assert offsets["tanh"] == offsets["knotted"] == offsets["root"] == offsets["soft16"]
    assert offsets["wide"] not in (offsets["moved"], offsets["ADD16"])


@pytest.mark.parametrize(("make", "compiler", "board_name"), TRACED)
def test_every_observation_takes_the_same_instructions(
    make: Maker, compiler: Compiler, board_name: str
) -> None:
    rng = np.random.default_rng(1)
    policy = make(rng)
    board = load_board(board_name, BOARDS)
    firmware = compile_firmware(export_sources(policy, b""), board, compiler=compiler)
    observations = random_observations(rng, policy, 30)
    observations[0], observations[1], observations[2] = 0.0, 1e30, -1e30
    rows = np.ascontiguousarray(observations.reshape(30, -1)).view(np.uint8)
    with EmulatedFirmware(firmware.elf, firmware.name, board) as emulated:
        assert len({emulated.profile(row).trace_sha256 for row in rows[:8]}) == 1
        actions, _ = emulated.step(rows)
    expected, _ = HostC(policy).step(observations)
    np.testing.assert_array_equal(actions.view("<i4")[:, 0], expected)


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_the_export_compiles_without_a_warning(tmp_path: Path, compiler: str) -> None:
    policies = [replace(make(np.random.default_rng(2)), name=f"robot{i}") for i, make in enumerate(POLICIES)]
    files = {name: text for policy in policies for name, text in export_sources(policy, b"").items()}
    write_files(tmp_path, files)
    flags = ["-O2", *WARNINGS, "-I."]
    for standard in ("c99", "c11"):
        argv = [*c_compiler(compiler), f"-std={standard}", *flags, *C_ONLY_WARNINGS]
        compile_objects(argv, c_sources(files), tmp_path)
    compile_objects([*cxx_compiler(compiler), "-std=c++17", *flags, "-x", "c++"], c_sources(files), tmp_path)
