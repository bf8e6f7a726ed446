"""Operators that only move values: bit for bit as the witnesses, at every shape, in few copies."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.layers import Move, Reshape
from edgeqrl.network.operators.movement import SUPPORT
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.oracles import Case, many_answers, require_equal
from tests.tflite_writer import single_operator

Array = NDArray[Any]
# From a generator and the quantization of all activations: inputs, outputs and options of an operator.
Maker = Callable[[np.random.Generator, dict[str, Any]], tuple[list[Any], list[Any], dict[str, Any]]]

_SIZES = (1, 2, 3, 4, 5, 7)


def numbers(values: Any, dtype: str = "INT32") -> dict[str, Any]:
    """Describe a constant of plain numbers."""
    array = np.asarray(values, np.int64 if dtype == "INT64" else np.int32)
    return {"shape": array.shape, "dtype": dtype, "data": array}


def shape_of(rng: np.random.Generator, least: int = 1, most: int = 4, batch: int | None = 1) -> list[int]:
    """Draw a shape of `least` to `most` axes, the first of `batch` elements."""
    shape = [int(n) for n in rng.choice(_SIZES, int(rng.integers(least, most + 1)))]
    return shape if batch is None else [batch, *shape[1:]]


def concatenation(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    axis = int(rng.integers(0, len(shape)))
    parts = [int(n) for n in rng.choice(_SIZES, int(rng.integers(1, 5)))]
    shapes = [[part if i == axis else n for i, n in enumerate(shape)] for part in parts]
    if axis == 0:
        shapes = [[1, *s[1:]] for s in shapes]
    total = [sum(s[axis] for s in shapes) if i == axis else n for i, n in enumerate(shapes[0])]
    axis -= len(shape) * int(rng.integers(0, 2))
    return [{"shape": s, **q} for s in shapes], [{"shape": total, **q}], {"axis": axis}


def pack(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 1, 3)
    axis, count = int(rng.integers(0, len(shape) + 1)), int(rng.integers(1, 5))
    out = [*shape[:axis], count, *shape[axis:]]
    axis -= len(out) * int(rng.integers(0, 2))
    return [{"shape": shape, **q}] * count, [{"shape": out, **q}], {"values_count": count, "axis": axis}


def unpack(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 2, 4)
    axis = int(rng.integers(0, len(shape)))
    out = [n for i, n in enumerate(shape) if i != axis]
    options = {"num": shape[axis], "axis": axis - len(shape) * int(rng.integers(0, 2))}
    return [{"shape": shape, **q}], [{"shape": out, **q}] * shape[axis], options


def split(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    axis, count = int(rng.integers(0, len(shape))), int(rng.integers(1, 5))
    count = 1 if axis == 0 else count
    whole = [n * count if i == axis else n for i, n in enumerate(shape)]
    axis -= len(shape) * int(rng.integers(0, 2))
    return [numbers(axis), {"shape": whole, **q}], [{"shape": shape, **q}] * count, {"num_splits": count}


def split_v(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 2)
    axis = int(rng.integers(1, len(shape)))
    sizes = [int(n) for n in rng.choice(_SIZES, int(rng.integers(1, 5)))]
    shapes = [[size if i == axis else n for i, n in enumerate(shape)] for size in sizes]
    whole = [sum(sizes) if i == axis else n for i, n in enumerate(shape)]
    told = list(sizes)
    if rng.integers(0, 2):
        told[int(rng.integers(0, len(sizes)))] = -1
    axis -= len(shape) * int(rng.integers(0, 2))
    operands = [{"shape": whole, **q}, numbers(told), numbers(axis)]
    return operands, [{"shape": s, **q} for s in shapes], {"num_splits": len(sizes)}


def slice_(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 1, 5)
    begin = [int(rng.integers(0, n)) for n in shape]
    size = [int(rng.integers(1, n - b + 1)) for n, b in zip(shape, begin, strict=True)]
    left = [n - b for n, b in zip(shape, begin, strict=True)]
    told = [-1 if s == n and rng.integers(0, 2) else s for s, n in zip(size, left, strict=True)]
    dtype = str(rng.choice(["INT32", "INT64"]))
    operands = [{"shape": shape, **q}, numbers(begin, dtype), numbers(told, dtype)]
    return operands, [{"shape": size, **q}], {}


def strided_slice(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    """Draw a slice as Python writes it, then NumPy says what comes out."""
    shape = shape_of(rng, 1, 4)
    begin, end, strides, index = [], [], [], []
    masks = dict.fromkeys(("begin_mask", "end_mask", "shrink_axis_mask"), 0)
    for i, n in enumerate(shape):
        step = int(rng.choice([1, 1, 2, 3, -1, -2]))
        first, last = sorted(int(v) for v in rng.integers(0, n, 2))
        start, stop = (first, last + 1) if step > 0 else (last, first - 1)
        kind = int(rng.integers(0, 4))
        open_begin, open_end = int(rng.integers(0, 2)), int(rng.integers(0, 2)) or stop < 0
        masks["begin_mask"] |= bool(open_begin and kind) << i
        masks["end_mask"] |= bool(open_end and kind) << i
        if kind == 0:
            masks["shrink_axis_mask"] |= 1 << i
            start, stop, step = first, first + 1, 1
            index.append(slice(first, first + 1))
        else:
            index.append(slice(None if open_begin else start, None if open_end else stop, step))
        begin.append(start - n * int(rng.integers(0, 2)))
        end.append(stop - n if kind and stop < n and stop >= 0 and rng.integers(0, 2) else stop)
        if kind == 0:
            end[-1] = begin[-1] + 1
        strides.append(step)
    taken = np.empty(shape)[tuple(index)].shape
    out = [n for i, n in enumerate(taken) if not masks["shrink_axis_mask"] >> i & 1]
    operands = [{"shape": shape, **q}, numbers(begin), numbers(end), numbers(strides)]
    return operands, [{"shape": out, **q}], masks


def pad(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    paddings = rng.integers(0, 4, (len(shape), 2))
    paddings[0] = 0
    out = [int(n + a + b) for n, (a, b) in zip(shape, paddings, strict=True)]
    return [{"shape": shape, **q}, numbers(paddings)], [{"shape": out, **q}], {}


def padv2(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    inputs, outputs, options = pad(rng, q)
    value = rng.integers(-128, 128, (), np.int8).astype(q["dtype"].lower())
    return [*inputs, {"shape": (), "data": value, **q}], outputs, options


def mirror_pad(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    mode = str(rng.choice(["REFLECT", "SYMMETRIC"]))
    most = [n - (mode == "REFLECT") for n in shape]
    paddings = np.array([[rng.integers(0, m + 1), rng.integers(0, m + 1)] for m in most])
    paddings[0] = 0
    out = [int(n + a + b) for n, (a, b) in zip(shape, paddings, strict=True)]
    return [{"shape": shape, **q}, numbers(paddings)], [{"shape": out, **q}], {"mode": mode}


def transpose(rng: np.random.Generator, q: dict[str, Any], most: int = 5) -> Any:
    shape = shape_of(rng, 1, most)
    order = rng.permutation(len(shape))
    return [{"shape": shape, **q}, numbers(order)], [{"shape": [shape[i] for i in order], **q}], {}


def reverse(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    axis = int(rng.integers(0, len(shape)))
    return [{"shape": shape, **q}, numbers([axis])], [{"shape": shape, **q}], {}


def broadcast_to(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    out = shape_of(rng, 1, 5)
    shape = [1 if i == 0 or rng.integers(0, 2) else n for i, n in enumerate(out)]
    return [{"shape": shape, **q}, numbers(out)], [{"shape": out, **q}], {}


def tile(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    times = [int(n) for n in rng.integers(1, 4, len(shape))]
    out = [n * m for n, m in zip(shape, times, strict=True)]
    return [{"shape": shape, **q}, numbers(times)], [{"shape": out, **q}], {}


def gather(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    axis = int(rng.integers(0, len(shape)))
    indices = rng.integers(0, shape[axis], rng.integers(1, 9))
    out = [*shape[:axis], len(indices), *shape[axis + 1 :]]
    axis -= len(shape) * int(rng.integers(0, 2))
    return [{"shape": shape, **q}, numbers(indices)], [{"shape": out, **q}], {"axis": axis}


def depth_to_space(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    (h, w, c), b = rng.integers(1, 5, 3), rng.integers(1, 4)
    deep, wide = [1, h, w, b * b * c], [1, h * b, w * b, c]
    return [{"shape": deep, **q}], [{"shape": wide, **q}], {"block_size": int(b)}


def space_to_depth(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    inputs, outputs, options = depth_to_space(rng, q)
    return outputs, inputs, options


def resize_nearest(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    h, w, c = (int(n) for n in rng.integers(1, 6, 3))
    new = [int(n) for n in rng.integers(1, 12, 2)]
    options = [{}, {"half_pixel_centers": True}, {"align_corners": True}][int(rng.integers(0, 3))]
    return [{"shape": [1, h, w, c], **q}, numbers(new)], [{"shape": [1, *new, c], **q}], options


def reshape(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 2)
    out = [1, *(shape[i] for i in rng.permutation(range(1, len(shape))))]
    return [{"shape": shape, **q}, numbers(out)], [{"shape": out, **q}], {}


def squeeze(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng, 2)
    axis = int(rng.integers(1, len(shape) + 1))
    wide = [*shape[:axis], 1, *shape[axis:]]
    return [{"shape": wide, **q}], [{"shape": shape, **q}], {"squeeze_dims": [axis]}


def expand_dims(rng: np.random.Generator, q: dict[str, Any]) -> Any:
    shape = shape_of(rng)
    axis = int(rng.integers(0, len(shape) + 1))
    wide = [*shape[:axis], 1, *shape[axis:]]
    return [{"shape": shape, **q}, numbers(axis)], [{"shape": wide, **q}], {}


MAKERS: dict[str, Maker] = {
    "RESHAPE": reshape,
    "SQUEEZE": squeeze,
    "EXPAND_DIMS": expand_dims,
    "CONCATENATION": concatenation,
    "PACK": pack,
    "UNPACK": unpack,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "SLICE": slice_,
    "STRIDED_SLICE": strided_slice,
    "PAD": pad,
    "PADV2": padv2,
    "MIRROR_PAD": mirror_pad,
    "TRANSPOSE": transpose,
    "REVERSE_V2": reverse,
    "BROADCAST_TO": broadcast_to,
    "TILE": tile,
    "GATHER": gather,
    "DEPTH_TO_SPACE": depth_to_space,
    "SPACE_TO_DEPTH": space_to_depth,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}


def case(name: str, dtype: str, rng: np.random.Generator, samples: int = 2) -> Case:
    """Draw a network of one operator and inputs for it."""
    zero_point = int(rng.integers(-128, 128)) if dtype == "INT8" else 0
    q = {"dtype": dtype, "scale": float(rng.uniform(0.01, 1.0)), "zero_point": zero_point}
    inputs, outputs, options = MAKERS[name](rng, q)
    tflite = single_operator(name, inputs, outputs, **options)
    info = np.iinfo(dtype.lower())
    shapes = [tuple(t["shape"]) for t in inputs if "data" not in t]
    return tflite, [
        rng.integers(info.min, info.max, (samples, *s[1:]), endpoint=True, dtype=info.dtype) for s in shapes
    ]


def cases(name: str, dtype: str, count: int, samples: int = 2) -> list[Case]:
    rng = np.random.default_rng(zlib.crc32(f"{name} {dtype}".encode()))
    return [case(name, dtype, rng, samples) for _ in range(count)]


def witnesses(name: str, dtype: str) -> list[str]:
    support = SUPPORT[name]
    told = support.oracle if dtype == "INT8" else support.oracle_int16
    return told.split(", ") if told else []


CONFIRMED = [
    (name, dtype, runtime)
    for name in SUPPORT
    for dtype in ("INT8", "INT16")
    for runtime in witnesses(name, dtype)
]


def test_every_operator_has_a_maker() -> None:
    assert MAKERS.keys() == SUPPORT.keys()


@pytest.mark.parametrize("runtime", ["tflm", "tflite-runtime"])
def test_equals_the_witnesses(runtime: str) -> None:
    drawn = [
        each
        for name, dtype, confirmed_by in CONFIRMED
        if confirmed_by == runtime
        for each in cases(name, dtype, 12)
    ]
    assert require_equal(runtime, drawn) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "runtime"), CONFIRMED)
def test_equals_the_witness_on_a_million_values(name: str, dtype: str, runtime: str) -> None:
    samples = 1000 if "SLICE" in name else 200  # of which little is left
    assert require_equal(runtime, cases(name, dtype, 400, samples)) >= 10**6


@pytest.mark.parametrize("name", sorted(name for name in SUPPORT if not SUPPORT[name].oracle_int16))
def test_int16_is_refused_where_no_witness_has_it(name: str) -> None:
    (tflite, _), *_ = cases(name, "INT16", 1)
    with pytest.raises(UnsupportedOperatorError, match="no runtime has an int16 kernel"):
        read_tflite(tflite)


Q = {"dtype": "INT8", "scale": 0.1, "zero_point": 3}


def move(name: str, inputs: list[Any], shape: list[int], **options: Any) -> tuple[bytes, Any]:
    tflite = single_operator(name, inputs, [{"shape": shape, **Q}], **options)
    (layer,) = read_tflite(tflite).layers
    return tflite, layer


@pytest.mark.parametrize(
    ("name", "shape", "operands", "out", "count"),
    [
        ("TRANSPOSE", [1, 4, 5, 3], [[0, 2, 1, 3]], [1, 5, 4, 3], 1),
        ("TILE", [1, 4, 5], [[1, 3, 2]], [1, 12, 10], 1),
        ("STRIDED_SLICE", [1, 9, 4], [[0, 8, 0], [1, 0, 4], [1, -2, 1]], [1, 4, 4], 1),
        ("RESIZE_NEAREST_NEIGHBOR", [1, 4, 5, 3], [[8, 10]], [1, 8, 10, 3], 1),
        ("GATHER", [1, 9], [[1, 3, 5, 7]], [4, 9], None),
        ("MIRROR_PAD", [1, 3, 3], [[[0, 0], [1, 1], [1, 1]]], [1, 5, 5], 9),
    ],
)
def test_a_regular_pattern_is_few_copies(
    name: str, shape: list[int], operands: list[Any], out: list[int], count: int | None
) -> None:
    inputs = [{"shape": shape, **Q}, *map(numbers, operands)]
    if count is None:  # along axis 1
        _, layer = move(name, inputs, [1, 4], axis=1)
        count = 1
    else:
        _, layer = move(name, inputs, out)
    assert isinstance(layer, Move)
    assert len(layer.pieces) == count


@pytest.mark.parametrize(
    ("name", "shape", "operands", "out"),
    [
        ("TRANSPOSE", [1, 4, 1], [[0, 2, 1]], [1, 1, 4]),
        ("PAD", [1, 4], [[[0, 0], [0, 0]]], [1, 4]),
        ("SLICE", [1, 4], [[0, 0], [1, 4]], [1, 4]),
        ("BROADCAST_TO", [4], [[1, 4]], [1, 4]),
    ],
)
def test_what_keeps_all_values_in_order_costs_nothing(
    name: str, shape: list[int], operands: list[Any], out: list[int]
) -> None:
    _, layer = move(name, [{"shape": shape, **Q}, *map(numbers, operands)], out)
    assert isinstance(layer, Reshape)
    assert layer.operator == name


# Operator, input shape, operands, output shape, options, who runs it.
WIDE: list[tuple[str, list[int], list[Any], list[int], dict[str, Any], str]] = [
    ("TRANSPOSE", [1, 2, 3, 2, 3, 2], [[0, 5, 4, 3, 2, 1]], [1, 2, 3, 2, 3, 2], {}, "tflite-runtime"),
    ("TRANSPOSE", [1, 4, 5], [[0, -1, 1]], [1, 5, 4], {}, "tflite-runtime"),
    ("STRIDED_SLICE", [1, 4, 5], [[0, 1], [0, 3], [1, 1]], [1, 4, 2], {"ellipsis_mask": 1}, "tflite-runtime"),
    (
        "STRIDED_SLICE",
        [1, 4, 5],
        [[0, 0, 1], [1, 0, 3], [1, 1, 1]],
        [1, 1, 2, 5],
        {"new_axis_mask": 2},
        "tflite-runtime",
    ),
    ("STRIDED_SLICE", [1, 4, 5], [[0, 1], [1, 3], [1, 1]], [1, 2, 5], {}, "tflite-runtime"),
    ("STRIDED_SLICE", [1, 4], [[0, -9], [9, 9], [1, 2]], [1, 2], {}, "tflm"),
    ("PAD", [1, 2, 3, 2, 2], [[[0, 0], [0, 1], [1, 2], [0, 0], [3, 0]]], [1, 3, 6, 2, 5], {}, "tflm"),
    ("REVERSE_V2", [1, 2, 3], [[1, 2]], [1, 2, 3], {}, "tflm"),
    ("GATHER", [1, 3, 4], [[[1, 2], [0, 1]]], [1, 2, 2, 4], {"axis": 1}, "tflm"),
    ("RESIZE_NEAREST_NEIGHBOR", [1, 3, 5, 2], [[17, 31]], [1, 17, 31, 2], {}, "tflm"),
]


@pytest.mark.parametrize(
    ("name", "shape", "operands", "out", "options", "runtime"),
    WIDE,
    ids=[f"{w[0]}-{i}" for i, w in enumerate(WIDE)],
)
def test_corners_equal_the_witness_that_runs_them(
    name: str, shape: list[int], operands: list[Any], out: list[int], options: dict[str, Any], runtime: str
) -> None:
    inputs = [{"shape": shape, **Q}, *map(numbers, operands)]
    tflite = single_operator(name, inputs, [{"shape": out, **Q}], **options)
    values = np.random.default_rng(0).integers(-128, 128, (3, *shape[1:]), np.int8)
    require_equal(runtime, [(tflite, [values])])


def test_tflite_runtime_reverses_one_axis_of_two() -> None:
    axes = [{"shape": [1, 2, 3], **Q}, numbers([1, 2])]
    tflite = single_operator("REVERSE_V2", axes, [{"shape": [1, 2, 3], **Q}])
    values = np.arange(6, dtype=np.int8).reshape(1, 2, 3)
    theirs, micros = (many_answers(r, [(tflite, [values])])[0][0] for r in ("tflite-runtime", "tflm"))
    assert np.array_equal(micros, values[:, ::-1, ::-1])
    assert not np.array_equal(theirs, micros)


def test_a_split_has_as_many_parts_as_it_says() -> None:
    operands = [numbers(1), {"shape": [1, 4], **Q}]
    with pytest.raises(DataError, match="contradicts itself"):
        read_tflite(single_operator("SPLIT", operands, [{"shape": [1, 2], **Q}] * 2, num_splits=3))


@pytest.mark.parametrize(
    ("name", "operands", "out", "options"),
    [
        ("RESHAPE", [], [1, 20], {}),
        ("RESHAPE", [], [1, 20], {"new_shape": [-1, 20]}),
        ("RESHAPE", [[-1, 20]], [1, 20], {}),
        ("RESHAPE", [[1, 20]], [1, 20], {"new_shape": [20, 1]}),  # the operand counts
        ("SQUEEZE", [], [4, 5], {}),
        ("SQUEEZE", [], [4, 5], {"squeeze_dims": [-3]}),
        ("EXPAND_DIMS", [-1], [1, 4, 5, 1], {}),
    ],
)
def test_a_shape_may_be_told_in_many_ways(
    name: str, operands: list[Any], out: list[int], options: dict[str, Any]
) -> None:
    _, layer = move(name, [{"shape": [1, 4, 5], **Q}, *map(numbers, operands)], out, **options)
    assert isinstance(layer, Reshape)


@pytest.mark.parametrize("shape", [[], [4]])
def test_an_image_to_resize_has_four_axes(shape: list[int]) -> None:
    inputs = [{"shape": shape, **Q}, numbers([2, 2])]
    with pytest.raises(DataError, match="contradicts itself: 'output_0' is "):
        read_tflite(single_operator("RESIZE_NEAREST_NEIGHBOR", inputs, [{"shape": shape, **Q}]))


def test_constants_join_and_one_tensor_may_come_twice() -> None:
    x = {"shape": [1, 3], **Q}
    tflite = single_operator(
        "CONCATENATION", [x, x | {"data": np.array([[1, 2, 3]], np.int8)}], [{"shape": [1, 6], **Q}], axis=1
    )
    network = read_tflite(tflite)
    assert list(network.constants) == ["input_1"]
    values = np.array([[7, 8, 9], [4, 5, 6]], np.int8)
    answer = Reference(network).run({"input_0": values})["output_0"]
    assert answer.tolist() == [[7, 8, 9, 1, 2, 3], [4, 5, 6, 1, 2, 3]]
    require_equal("tflm", [(tflite, [values])])


@pytest.mark.parametrize(
    ("name", "inputs", "out", "options", "why"),
    [
        ("CONCATENATION", [[1, 3], {"scale": 0.2}], [1, 6], {"axis": 1}, "one quantization for all"),
        (
            "CONCATENATION",
            [[1, 3], {}],
            [1, 6],
            {"axis": 1, "fused_activation": "RELU"},
            "activation is NONE",
        ),
        ("GATHER", [[1, 3], numbers([[0]])], [1, 1], {"axis": 1, "batch_dims": 1}, "`batch_dims` is 0"),
        (
            "STRIDED_SLICE",
            [[1, 3], *map(numbers, ([0, 1], [1, 1], [1, 1]))],
            [1, 1],
            {"offset": True},
            "not an offset",
        ),
        ("PADV2", [[1, 3], numbers([[0, 0], [1, 0]]), {"shape": ()}], [1, 4], {}, "value to pad with"),
        ("TRANSPOSE", [[1, 3], {"dtype": "INT32", "shape": (2,)}], [3, 1], {}, "known in the file"),
        ("RESHAPE", [[1, 3]], [1, 4], {}, "plain INT32 numbers"),
        ("GATHER", [[1, 999], numbers(np.arange(999) ** 2 % 998)], [1, 999], {"axis": 1}, "more than 256"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_rule(
    name: str, inputs: list[Any], out: list[int], options: dict[str, Any], why: str
) -> None:
    tensors = [{"shape": [1, 3], **Q, **t} if isinstance(t, dict) else {"shape": t, **Q} for t in inputs]
    with pytest.raises(UnsupportedOperatorError, match=why):
        read_tflite(single_operator(name, tensors, [{"shape": out, **Q}], **options))


@pytest.mark.parametrize(
    ("name", "operands", "out", "options"),
    [
        ("TRANSPOSE", [[0, 0, 1]], [1, 4, 5], {}),
        ("SLICE", [[0, 3, 0], [1, 4, 5]], [1, 4, 5], {}),
        ("STRIDED_SLICE", [[0, 0, 0], [1, 4, 5], [1, 0, 1]], [1, 4, 5], {}),
        ("PAD", [[[0, 0], [0, -1], [0, 0]]], [1, 3, 5], {}),
        ("PAD", [[[0, 0], [2**31 - 1] * 2, [0, 0]]], [1, 3, 5], {}),
        ("GATHER", [[7]], [1, 1, 5], {"axis": 1}),
        ("GATHER", [[0]], [1, 1, 5], {"axis": 3}),
        ("TILE", [[1, 1]], [1, 4, 5], {}),
        ("BROADCAST_TO", [[1, 8, 5]], [1, 8, 5], {}),
        ("DEPTH_TO_SPACE", [], [1, 4, 5], {"block_size": 2}),
        ("MIRROR_PAD", [[[0, 0], [9, 0], [0, 0]]], [1, 13, 5], {}),
        ("RESIZE_NEAREST_NEIGHBOR", [[4, 5]], [1, 4, 5], {}),
        ("UNPACK", [], [1, 5], {"axis": 1, "num": 4}),
        ("REVERSE_V2", [[3]], [1, 4, 5], {}),
        ("UNPACK", [], [1, 5], {"axis": 0, "num": 4}),
        ("PACK", [], [1, 1, 4, 5], {"axis": 1, "values_count": 2}),
        ("SPLIT_V", [[5], 2], [1, 4, 5], {"num_splits": 2}),
        ("RESHAPE", [[20, 1]], [1, 20], {}),
        ("RESHAPE", [[0, 20]], [1, 20], {}),
        ("RESHAPE", [[1, -1, -1]], [1, 20, 1], {}),
        ("RESHAPE", [[-1, 3]], [1, 20], {}),
        ("RESHAPE", [], [1, 20], {"new_shape": [20]}),
        ("SQUEEZE", [], [1, 4, 5], {"squeeze_dims": [0]}),
        ("SQUEEZE", [], [1, 20], {"squeeze_dims": [1]}),
        ("EXPAND_DIMS", [1], [1, 4, 1, 5], {}),
        ("BROADCAST_TO", [[2, 4, 5]], [1, 4, 5], {}),
        ("TRANSPOSE", [[0, -1, 2]], [1, 5, 5], {}),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    name: str, operands: list[Any], out: list[int], options: dict[str, Any]
) -> None:
    inputs = [{"shape": [1, 4, 5], **Q}, *map(numbers, operands)]
    with pytest.raises(DataError, match="contradicts itself"):
        read_tflite(single_operator(name, inputs, [{"shape": out, **Q}], **options))
