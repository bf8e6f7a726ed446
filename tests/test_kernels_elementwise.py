"""Kernels of one or two activations, element by element, against the layers' own arithmetic."""

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.functions import Factor
from edgeqrl.network.ir import IntegerNetwork, Layer, Tensor
from edgeqrl.network.layers import Interpolation, InverseRoot, Lookup, Pair, Rescale, Sigmoid
from edgeqrl.network.layers.pairs import FUNCTIONS, broadcast_strides
from firmware_export.emit.arena import in_place_inputs
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.lookup import (
    PackedRescale,
    unpack_knots,
    unpack_lookup,
    unpack_rescale,
    unpack_rsqrt,
    unpack_sigmoid,
)
from firmware_export.emit.kernels.pairs import PackedPair, unpack_pair
from tests.c_kernels import Case, cases, compile_runtime, require_clean, require_equal
from tests.firmware import one_by_default

FILES = ("eqrl_lookup.c", "eqrl_rescale.c", "eqrl_pairs.c")
SMALL, LARGE = 60, 3000  # random layers a test
COUNTS = [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)]
DTYPES = ("int8", "int16")


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str = "int8") -> Tensor:
    zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)])) if dtype == "int8" else 0
    return Tensor(name, shape, 1.0, zero_point, dtype)


def random_values(rng: np.random.Generator, tensor: Tensor, count: int) -> NDArray[Any]:
    """Values of all sizes around the zero point, the ends of the range among them."""
    low, high = tensor.range
    size = (count, *tensor.shape)
    spread = rng.integers(-(2**15), 2**15, size) >> rng.integers(0, 16, size)
    ends = rng.choice([low, high, tensor.zero_point], size)
    values = np.where(rng.random(size) < 0.2, ends, spread + tensor.zero_point)
    return values.clip(low, high).astype(tensor.dtype)


def random_factor(rng: np.random.Generator, farthest: int, *, lowest: int = -31) -> Factor:
    """Any factor that does not shift `farthest` out of int32, now and then 0 or at an end."""
    highest = min((2**31 - 1 - 2**17) // max(farthest, 1), 2**30).bit_length() - 1
    if rng.random() < 0.05:
        return Factor(0, 0)
    multiplier = int(rng.choice([2**30, 2**31 - 1, rng.integers(2**30, 2**31)], p=[0.1, 0.1, 0.8]))
    # Mostly such that results are neither all 0 nor all saturated.
    usual = 8 - max(farthest, 1).bit_length() + int(rng.integers(-4, 5))
    shift = usual if rng.random() < 0.7 else int(rng.integers(lowest, highest + 1))
    return Factor(multiplier, int(np.clip(shift, lowest, highest)))


def random_bounds(rng: np.random.Generator, target: Tensor) -> tuple[int, int]:
    low, high = target.range
    if rng.random() < 0.6:
        return low, high
    first, second = sorted(int(v) for v in rng.integers(low, high + 1, 2))
    return first, second


def of_one(layer: Layer, source: Tensor, target: Tensor) -> IntegerNetwork:
    tensors = {source.name: source, target.name: target}
    return IntegerNetwork(tensors, (source.name,), (target.name,), (layer,))


def random_rescale(rng: np.random.Generator, size: int) -> IntegerNetwork:
    dtypes = (str(rng.choice(DTYPES)), str(rng.choice(DTYPES)))
    source = random_tensor(rng, "a", (size,), dtypes[0])
    target = random_tensor(rng, "b", (size,), dtypes[1])
    farthest = max(abs(bound - source.zero_point) for bound in source.range)
    factors = [random_factor(rng, farthest) for _ in range(2)]
    signs = [int(sign) for sign in rng.choice([1, -1], 2)]
    both = (Factor(sign * f.multiplier, f.shift) for sign, f in zip(signs, factors, strict=True))
    return of_one(Rescale("r", "LEAKY_RELU", "a", "b", *both, *random_bounds(rng, target)), source, target)


def random_knots(rng: np.random.Generator) -> NDArray[np.int16]:
    """Any knots whose steps stay in int16: rising over the whole range, or jumping by half of it."""
    if rng.random() < 0.5:
        return np.clip(np.arange(-256, 257) * 128, -32768, 32767).astype(np.int16)
    return rng.integers(-16384, 16384, 513).astype(np.int16)


def random_int16(rng: np.random.Generator, size: int) -> IntegerNetwork:
    """INTERPOLATION, SIGMOID or RSQRT."""
    source, target = (Tensor(name, (size,), 1.0, 0, "int16") for name in "ab")
    kind = rng.integers(3)
    if kind == 0:
        return of_one(Interpolation("i", "EXP", "a", "b", random_knots(rng)), source, target)
    if kind == 1:
        table = np.round(65536 / (1 + np.exp(-np.arange(256) / 24))).clip(0, 65535).astype(np.uint16)
        if rng.random() < 0.5:
            table = np.sort(rng.integers(2**15, 2**16, 256)).astype(np.uint16)
        function = str(rng.choice(["TANH", "LOGISTIC"]))
        multiplier, shift = int(rng.choice([1, 32767, rng.integers(1, 2**15)])), int(rng.integers(0, 32))
        return of_one(Sigmoid("s", function, "a", "b", multiplier, shift, table), source, target)
    factor = random_factor(rng, 2**20)
    return of_one(InverseRoot("q", "a", "b", Factor(factor.multiplier, factor.shift + 20)), source, target)


def random_shapes(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes that broadcast: equal, or with axes of 1 or none in one or both."""
    rank = int(rng.integers(0, 7))
    full = [int(n) for n in rng.integers(1, 6 if rank > 3 else 12, rank)]
    if rng.random() < 0.4:
        return tuple(full), tuple(full)
    shapes = []
    for _ in range(2):
        shape = [1 if rng.random() < 0.3 else n for n in full]
        shapes.append(tuple(shape[int(rng.integers(0, rank + 1)) :] if rng.random() < 0.3 else shape))
    return shapes[0], shapes[1]


def random_pair(rng: np.random.Generator, function: str) -> IntegerNetwork:
    shape_a, shape_b = random_shapes(rng)
    shape = np.broadcast_shapes(shape_a, shape_b)
    dtype = str(rng.choice(DTYPES))
    alpha = "int8" if function == "PRELU" and rng.random() < 0.5 else dtype
    a, b = random_tensor(rng, "a", shape_a, dtype), random_tensor(rng, "b", shape_b, alpha)
    target = random_tensor(rng, "c", shape, dtype)
    farthest_a, farthest_b = (max(abs(bound - t.zero_point) for bound in t.range) for t in (a, b))
    left_shift, factors = 0, {}
    if function in ("ADD", "SUB", "SQUARED_DIFFERENCE"):
        largest = {"int8": 20, "int16": 13}[dtype] if function != "SQUARED_DIFFERENCE" else 0
        left_shift = int(rng.integers(0, largest + 1))
        if function == "SQUARED_DIFFERENCE" and dtype == "int8":
            left_shift = int(rng.integers(0, 8))
        half = Factor(int(rng.integers(2**30, 2**31)), int(rng.integers(-4, 0)))
        other = Factor(2**30, 0)
        order = [half, other] if rng.random() < 0.5 else [other, half]
        total = (farthest_a + farthest_b) << max(left_shift - 1, 0)
        last = total**2 if function == "SQUARED_DIFFERENCE" else total
        factors = {"factor_a": order[0], "factor_b": order[1], "factor": random_factor(rng, last + 2)}
    elif function == "MUL":
        factors = {"factor": random_factor(rng, farthest_a * farthest_b)}
    elif function == "PRELU":
        factors = {
            "factor_a": random_factor(rng, farthest_a),
            "factor_b": random_factor(rng, farthest_a * farthest_b),
        }
    layer = Pair(
        "p",
        function,
        ("a", "b"),
        "c",
        *broadcast_strides(shape_a, shape_b, shape),
        *random_bounds(rng, target),
        left_shift=left_shift,
        **factors,
    )
    return IntegerNetwork({t.name: t for t in (a, b, target)}, ("a", "b"), ("c",), (layer,))


def random_cases(rng: np.random.Generator, network: IntegerNetwork, count: int = 2) -> list[Case]:
    return cases(network, {name: random_values(rng, network.tensors[name], count) for name in network.inputs})


@pytest.mark.parametrize("count", COUNTS)
def test_straight_lines_equal_the_reference(runtime: ctypes.CDLL, count: int) -> None:
    rng = np.random.default_rng(count)
    compared = 0
    for _ in range(count):
        found = random_cases(rng, random_rescale(rng, int(rng.integers(1, 300))))
        compared += require_equal(runtime, found)
    assert compared > 200 * count


@pytest.mark.parametrize("count", COUNTS)
def test_int16_functions_equal_the_reference(runtime: ctypes.CDLL, count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(count):
        require_equal(runtime, random_cases(rng, random_int16(rng, int(rng.integers(1, 300)))))


@pytest.mark.parametrize("seed", range(3))
def test_int16_functions_of_every_input_equal_the_reference(runtime: ctypes.CDLL, seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    for _ in range(6):
        network = random_int16(rng, len(every))
        assert require_equal(runtime, cases(network, {"a": every[None]}), in_place=0) == 2**16


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_pairs_broadcast_as_the_reference(runtime: ctypes.CDLL, function: str, count: int) -> None:
    rng = np.random.default_rng([count, FUNCTIONS.index(function)])
    spread: set[int] = set()
    for _ in range(count):
        found = random_cases(rng, random_pair(rng, function))
        require_equal(runtime, found)
        spread |= {int(v) for case in found for v in case.expected.ravel()[:50]}
    assert len(spread) > 100, "the factors leave nothing to compare"


@pytest.mark.parametrize("function", ["ADD", "MUL", "MAXIMUM", "PRELU"])
def test_all_pairs_of_int8_equal_the_reference(runtime: ctypes.CDLL, function: str) -> None:
    rng = np.random.default_rng(FUNCTIONS.index(function))
    every = np.arange(-128, 128).astype(np.int8)
    found = 0
    while found < 3:
        network = random_pair(rng, function)
        if any(network.tensors[name].dtype != "int8" for name in "ab"):
            continue
        (layer,) = network.layers
        shapes = {"a": (256, 1), "b": (1, 256), "c": (256, 256)}
        tensors = {name: replace(network.tensors[name], shape=shape) for name, shape in shapes.items()}
        assert isinstance(layer, Pair)
        shape, *strides = broadcast_strides(*shapes.values())
        layer = replace(layer, shape=shape, strides_a=strides[0], strides_b=strides[1])
        network = IntegerNetwork(tensors, ("a", "b"), ("c",), (layer,))
        answers = cases(network, {"a": every.reshape(1, 256, 1), "b": every.reshape(1, 1, 256)})
        assert require_equal(runtime, answers) == 2**16
        found += 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_pairs_run_in_place_wherever_the_arena_may_let_them(runtime: ctypes.CDLL, function: str) -> None:
    rng = np.random.default_rng(FUNCTIONS.index(function))
    places = []
    while len(places) < 30:
        network = random_pair(rng, function)
        (layer,) = network.layers
        for name in in_place_inputs(layer, network):
            places.append(layer.inputs.index(name))
            require_equal(runtime, random_cases(rng, network), in_place=places[-1])
    assert {*places} == {0, 1}


def test_an_input_that_repeats_or_has_another_size_is_never_overwritten() -> None:
    tensors = {name: Tensor(name, (2, 3), 1.0, 0) for name in "ac"} | {"b": Tensor("b", (3,), 1.0, 0)}
    wide = Tensor("w", (2, 3), 1.0, 0, "int16")

    def overwritable(layer: Layer, *more: Tensor) -> tuple[str, ...]:
        known = tensors | {t.name: t for t in more}
        return in_place_inputs(
            layer, IntegerNetwork(known, ("a", "b", *(t.name for t in more)), ("c",), (layer,))
        )

    strides = broadcast_strides((2, 3), (3,), (2, 3))
    assert overwritable(Pair("p", "MAXIMUM", ("a", "b"), "c", *strides, -128, 127)) == ("a",)
    assert overwritable(Pair("p", "MAXIMUM", ("b", "a"), "c", *_swapped(strides), -128, 127)) == ("a",)
    turned = Pair("p", "MAXIMUM", ("a", "a"), "c", (2, 3), (1, 2), (3, 1), -128, 127)
    assert overwritable(turned) == ()
    one = Factor(2**30, 1)
    assert overwritable(Rescale("r", "QUANTIZE", "w", "c", one, one, -128, 127), wide) == ()
    assert overwritable(Rescale("r", "QUANTIZE", "a", "c", one, one, -128, 127)) == ("a",)


def _swapped(strides: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    return strides[0], strides[2], strides[1]


@pytest.mark.parametrize("seed", range(40))
def test_unpacking_inverts_packing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_rescale(rng, 3)
    (layer,) = network.layers
    assert isinstance(layer, Rescale)
    zero_points = [network.tensors[name].zero_point for name in "ab"]
    expected = PackedRescale(
        zero_points[0], layer.positive, layer.negative, layer.output_min, layer.output_max, zero_points[1]
    )
    assert unpack_rescale(layer_code(layer, network).block) == expected
    for function in FUNCTIONS:
        network = random_pair(rng, function)
        (pair,) = network.layers
        assert isinstance(pair, Pair)
        found = unpack_pair(layer_code(pair, network).block)
        assert (found.output_min, found.output_max) == (pair.output_min, pair.output_max)
        if function in ("MAXIMUM", "MINIMUM"):
            continue
        factors = {"MUL": (pair.factor,), "PRELU": (pair.factor_a, pair.factor_b)}
        usual = (pair.factor_a, pair.factor_b, pair.factor)
        a, b, c = (network.tensors[name].zero_point for name in "abc")
        assert found == PackedPair(
            (a, b, c), pair.output_min, pair.output_max, factors.get(function, usual), pair.left_shift
        )


@pytest.mark.parametrize("seed", range(12))
def test_unpacking_inverts_packing_of_int16_functions(seed: int) -> None:
    network = random_int16(np.random.default_rng(seed), 3)
    (layer,) = network.layers
    block = layer_code(layer, network).block
    if isinstance(layer, Interpolation):
        np.testing.assert_array_equal(unpack_knots(block), layer.knots)
    elif isinstance(layer, Sigmoid):
        multiplier, shift, table = unpack_sigmoid(block)
        assert (multiplier, shift) == (layer.multiplier, layer.shift)
        np.testing.assert_array_equal(table, layer.table)
    else:
        assert isinstance(layer, InverseRoot)
        assert unpack_rsqrt(block) == layer.factor


def test_a_lookup_takes_every_int8(runtime: ctypes.CDLL) -> None:
    every = np.arange(-128, 128).astype(np.int8)
    source, target = Tensor("a", (256,), 1.0, 0), Tensor("b", (256,), 1.0, 0)
    table = np.random.default_rng(0).permutation(every)
    network = of_one(Lookup("l", "TANH", "a", "b", table), source, target)
    assert require_equal(runtime, cases(network, {"a": every[None]}), in_place=0) == 256
    np.testing.assert_array_equal(unpack_lookup(layer_code(network.layers[0], network).block), table)


def test_what_the_clamp_could_not_take_is_refused() -> None:
    source, target = Tensor("a", (3,), 1.0, 0), Tensor("b", (3,), 1.0, 0)
    far = Factor(2**31 - 1, 24)  # 128 << 24 is 2**31
    near = replace(far, shift=23)
    line = Rescale("r", "RELU", "a", "b", near, near, -128, 127)
    assert layer_code(line, of_one(line, source, target)).block
    with pytest.raises(UnsupportedOperatorError, match="could overflow 32 bits"):
        of_one(replace(line, positive=far), source, target)
    wide = replace(source, dtype="int16"), replace(target, dtype="int16")
    line = Rescale("r", "RELU", "a", "b", Factor(2**30, 15), Factor(2**30, 15), -32768, 32767)
    assert layer_code(line, of_one(line, *wide)).block


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    rng = np.random.default_rng(7)
    found: list[Case] = []
    for _ in range(4):
        found += random_cases(rng, random_rescale(rng, int(rng.integers(1, 40))), 1)
        found += random_cases(rng, random_int16(rng, int(rng.integers(1, 40))), 1)
        found += [case for f in FUNCTIONS for case in random_cases(rng, random_pair(rng, f), 1)]
    require_clean(tmp_path, compiler, FILES, [case for case in found if case.expected.size < 300])
