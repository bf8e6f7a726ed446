"""The kernel that only moves values: strided copies of every layout, element size and direction."""

import ctypes
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Move, Piece
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.movement import pack_fill, unpack_fill
from firmware_export.emit.packing import BLOCK, Rows
from tests.c_kernels import Case, cases, compile_runtime, require_clean, require_equal

FILES = ("eqrl_move.c",)
COUNTS = [300, pytest.param(20_000, marks=pytest.mark.slow)]
DTYPES = ("int8", "int16", "int32")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=1)


def random_piece(
    rng: np.random.Generator, number: int, shape: tuple[int, ...], output_offset: int, steps: tuple[int, ...]
) -> tuple[Piece, int]:
    """Return a copy to a part of the output, and how many elements its input must have.

    The input is read in any order of axes, forwards or backwards, repeated, or with gaps.
    """
    strides = [0] * len(shape)
    step = 1
    order = range(len(shape) - 1, -1, -1) if rng.random() < 0.5 else rng.permutation(len(shape))
    for axis in order:
        if rng.random() < 0.15:
            continue  # repeated
        gap = int(rng.choice([1, 1, 1, 2, 4]))
        strides[axis] = step * gap * (-1 if rng.random() < 0.2 else 1)
        step *= gap * shape[axis]
    lowest = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    offset = int(rng.choice([0, 0, 1, 4])) - lowest
    reach = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    return Piece(number, shape, offset, tuple(strides), output_offset, steps), reach + 1


def random_move(rng: np.random.Generator) -> IntegerNetwork:
    """Cut the output along one axis into parts, each from an input of its own or one before, or filled."""
    dtype = str(rng.choice(DTYPES))
    rank = int(rng.integers(1, 7))
    sizes = [1, 2, 3, 4, 8] if rank > 3 else [1, 2, 3, 4, 5, 8, 12, 16]
    shape = [int(n) for n in rng.choice(sizes, rank)]
    axis = int(rng.integers(rank))
    steps = tuple(math.prod(shape[i + 1 :]) for i in range(rank))
    cuts = sorted({0, shape[axis], *(int(c) for c in rng.integers(0, shape[axis] + 1, 2))})
    pieces: list[Piece] = []
    needed: list[int] = []
    has_fill = rng.random() < 0.4
    for first, last in pairwise(cuts):
        if has_fill and rng.random() < 0.4:
            continue
        part = (*shape[:axis], last - first, *shape[axis + 1 :])
        number = int(rng.integers(len(needed) + 1)) if len(needed) < 3 else int(rng.integers(3))
        piece, size = random_piece(rng, number, part, first * steps[axis], steps)
        needed = [*needed, 0] if number == len(needed) else needed
        needed[number] = max(needed[number], size)
        pieces.append(piece)
    needed = needed or [3]
    target = Tensor("out", tuple(shape), 1.0, 0, dtype)
    sources = [Tensor(f"in{i}", (size,), 1.0, 0, dtype) for i, size in enumerate(needed)]
    names = tuple(tensor.name for tensor in sources)
    low, high = target.range
    fill = int(rng.integers(low, high + 1)) if has_fill else None
    layer = Move("m", "CONCATENATION", names, "out", tuple(pieces), fill)
    return IntegerNetwork({t.name: t for t in (*sources, target)}, names, ("out",), (layer,))


def random_cases(rng: np.random.Generator, network: IntegerNetwork, count: int = 1) -> list[Case]:
    tensors = [network.tensors[name] for name in network.inputs]
    values = {t.name: rng.integers(t.range[0], t.range[1] + 1, (count, *t.shape)) for t in tensors}
    return cases(network, {t.name: values[t.name].astype(t.dtype) for t in tensors})


@pytest.mark.parametrize("count", COUNTS)
def test_any_strided_copies_equal_the_reference(runtime: ctypes.CDLL, count: int) -> None:
    rng = np.random.default_rng(count)
    compared = sum(require_equal(runtime, random_cases(rng, random_move(rng))) for _ in range(count))
    assert compared > 100 * count


def move_of(pieces: list[Piece], sizes: tuple[int, ...], out: int, dtype: str = "int8") -> IntegerNetwork:
    names = tuple(f"in{i}" for i in range(len(sizes)))
    tensors = {name: Tensor(name, (n,), 1.0, 0, dtype) for name, n in zip(names, sizes, strict=True)}
    tensors["out"] = Tensor("out", (out,), 1.0, 0, dtype)
    layer = Move("m", "TRANSPOSE", names, "out", tuple(pieces), None)
    return IntegerNetwork(tensors, names, ("out",), (layer,))


def test_each_input_is_one_call_and_whole_words_are_copied_as_words() -> None:
    pieces = [Piece(0, (8,), 0, (1,), 0, (1,)), Piece(1, (3,), 2, (-1,), 8, (1,))]
    network = move_of(pieces, (8, 3), 11)
    calls = layer_code(network.layers[0], network).calls
    assert [(call.function, call.operands) for call in calls] == [("eqrl_move", (0,)), ("eqrl_move", (1,))]
    assert calls[0].arguments == (4, Rows("eqrl_loop", ((1, 0, 0), (2, 1, 1))), 1)
    assert calls[1].arguments == (1, Rows("eqrl_loop", ((1, 2, 8), (3, -1, 1))), 1)


@pytest.mark.parametrize(
    ("dtype", "shape", "offset", "steps", "unit"),
    [
        ("int8", (2, 4), 0, (8, 1), 4),
        ("int8", (2, 4), 4, (8, 1), 4),
        ("int8", (2, 4), 2, (8, 1), 2),
        ("int8", (2, 4), 0, (6, 1), 2),
        ("int8", (2, 2), 0, (8, 1), 2),
        ("int8", (2, 4), 1, (8, 1), 1),
        ("int8", (2, 4), 0, (8, 2), 1),
        ("int16", (2, 4), 2, (8, 1), 4),
        ("int16", (2, 4), 1, (8, 1), 2),
        ("int32", (2, 3), 1, (5, 1), 4),
    ],
)
def test_units_are_as_large_as_offsets_and_strides_allow(
    runtime: ctypes.CDLL, dtype: str, shape: tuple[int, ...], offset: int, steps: tuple[int, ...], unit: int
) -> None:
    size = math.prod(shape)
    network = move_of([Piece(0, shape, offset, steps, 0, (shape[1], 1))], (20,), size, dtype)
    (call,) = layer_code(network.layers[0], network).calls
    assert call.arguments[0] == unit
    require_equal(runtime, random_cases(np.random.default_rng(0), network))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_is_what_depends_on_weights_and_packing_can_be_inverted(dtype: str) -> None:
    target = Tensor("out", (5,), 1.0, 0, dtype)
    for value in (*target.range, 0, 7, -7):
        assert unpack_fill(pack_fill(value, target), dtype) == value
        assert len(pack_fill(value, target)) == 4
    source = Tensor("in", (2,), 1.0, 0, dtype)
    copy = Piece(0, (2,), 0, (1,), 1, (1,))
    layers = [Move("m", "PAD", ("in",), "out", (copy,), fill) for fill in (3, -4)]
    networks = [
        IntegerNetwork({"in": source, "out": target}, ("in",), ("out",), (layer,)) for layer in layers
    ]
    one, other = (layer_code(network.layers[0], network) for network in networks)
    assert one.calls == other.calls
    assert one.calls[0].operands == (BLOCK,)
    assert one.block != other.block


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_kernel_passes_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    rng = np.random.default_rng(3)
    found = [case for _ in range(60) for case in random_cases(rng, random_move(rng))]
    require_clean(tmp_path, compiler, FILES, [case for case in found if case.expected.size < 300])
