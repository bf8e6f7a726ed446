"""Weights in the order of a core: what is proved and packed, and that cores answer as the reference."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import EmulatedNetwork
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Linear
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.board import CORES
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.orders import (
    ORDERS,
    ROWS,
    groups_of,
    lane_run,
    order_for,
    order_of,
    order_of_kernel,
    unpack_tiles,
)
from firmware_export.emit.params import build_params, orders_of, params_for, plan_params, read_params
from firmware_export.fit import estimate_instructions
from firmware_export.workload import workload
from tests import firmware
from tests.c_kernels import (
    cases,
    compile_runtime,
    compile_traced,
    require_clean,
    require_equal,
    require_same_trace,
)
from tests.core_kernels import (
    DATA,
    Drawn,
    Kernels,
    draw,
    every_shift,
    image_of,
    random_layer,
    require_emulated,
)
from tests.firmware import one_by_default
from tests.test_kernels_linear import random_linear, random_values

INT8 = ("quads", "biased", "lanes")  # test_vectors.py has the fourth
FILES = tuple(f"eqrl_{order}.c" for order in INT8)
COUNTS = [pytest.param(30, id="few"), pytest.param(2600, id="many", marks=pytest.mark.slow)]
COMPILERS = ("zig", "arm-none-eabi-gcc")
VARIANTS = [
    ("cortex-m0plus", "biased", "zig"),
    ("cortex-m3", "quads", "zig"),
    ("cortex-m4", "lanes", "zig"),
    ("cortex-m0plus", "biased", "arm-none-eabi-gcc"),
    ("cortex-m3", "quads", "arm-none-eabi-gcc"),
    ("cortex-m4", "lanes", "arm-none-eabi-gcc"),
    ("cortex-m0", "biased", "zig"),
    ("cortex-m7", "lanes", "zig"),
    ("cortex-m33", "lanes", "zig"),
    ("rv32imac", "quads", "zig"),
    ("rv32imac", "quads", "riscv64-unknown-elf-gcc"),
]


def test_every_core_has_an_order_that_is_there() -> None:
    assert {order_of(core) for core in CORES} == {"biased", "quads", "lanes", "vectors"}
    assert order_of("xtensa-lx6") == order_of("x86-64") == ROWS


@pytest.mark.parametrize("order", INT8)
def test_a_block_says_what_was_packed(order: str) -> None:
    for one in draw(0, 60, order):
        layer, code = one.layer, one.code
        found = unpack_tiles(code.block, layer.weights.shape, order, groups_of(layer))
        np.testing.assert_array_equal(found.weights, layer.weights)
        np.testing.assert_array_equal(found.multiplier, layer.multiplier)
        np.testing.assert_array_equal(found.shift, layer.shift)
        assert found.is_usual == (order_of_kernel(code.kernel) == order)
        source, target = one.network.tensors["a"], one.network.tensors["b"]
        assert found.ranges == (source.zero_point, target.zero_point, layer.output_min, layer.output_max)
        rows = layer.weights.reshape(len(layer.weights), -1).astype(np.int64)
        np.testing.assert_array_equal(found.folded, layer.bias - rows.sum(axis=1) * source.zero_point)


@pytest.mark.parametrize("order", INT8)
def test_unpacking_inverts_packing_for_all_columns(order: str) -> None:
    rng = np.random.default_rng(0)
    for columns in range(4, 100, 4):
        tiles = rng.integers(-127, 128, (3, 4, columns))
        data = np.ascontiguousarray(ORDERS[order].pack(tiles)).view(np.uint8).reshape(3, -1)
        assert data.shape[1] == ORDERS[order].tile_bytes(columns) == 4 * columns
        np.testing.assert_array_equal(ORDERS[order].unpack(data, columns), tiles)


def dense(weights: np.ndarray, **more: object) -> IntegerNetwork:
    """Return a layer alone with usual scales."""
    out, terms = weights.shape
    source, target = Tensor("a", (terms,), 1.0, 3), Tensor("b", (out,), 1.0, -128)
    numbers = (np.zeros(out, np.int64), np.full(out, 2**30 + 12345, np.int32), np.full(out, -9, np.int32))
    layer = Dense("b", "a", "b", weights.astype(np.int8), *numbers, -128, 127)
    layer = replace(layer, **more)  # type: ignore[arg-type]
    return IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))


def program(network: IntegerNetwork, order: str | tuple[str, ...]) -> BareNetwork:
    return BareNetwork("network", network, weight_bits=(8,) * len(network.layers), order=order)


def test_lanes_that_would_leave_int16_keep_their_rows() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (4, 8))
    assert orders_of(program(dense(weights), "lanes")) == ("lanes",)
    weights[1, 3], weights[0, 3] = -128, -1  # 256 * -128 - 1
    assert orders_of(program(dense(weights), "lanes")) == (ROWS,)
    weights[0, 3] = 0
    assert orders_of(program(dense(weights), "lanes")) == ("lanes",)


@pytest.mark.parametrize("order", [*INT8, "vectors"])
def test_asymmetric_and_int16_layers_keep_their_rows(order: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        for network in (
            random_linear(rng, Dense, "int8", is_asymmetric=True),
            random_linear(rng, Dense, "int16"),
        ):
            (layer,) = network.layers
            assert isinstance(layer, Linear)
            if network.tensors["a"].dtype == "int16" or not layer.is_symmetric:
                assert order_for(layer, network.tensors["a"], order) == ROWS


def test_runs_are_as_long_as_24_bits_allow() -> None:
    """Against all ways of cutting the columns, for the largest sum that any run can have."""
    rng = np.random.default_rng(0)
    for columns in (512, 520, 1040, 2592):
        tiles = rng.choice([-127, 127], (1, 4, columns))
        tiles[:, :, rng.random(columns) < 0.2] = 0
        run = lane_run(tiles)
        whole = columns // 16 * 16

        def largest(length: int, tiles: np.ndarray = tiles, whole: int = whole) -> int:
            starts = list(range(0, whole, length))
            ends = [*starts[1:], tiles.shape[2]]
            sums = [
                128 * np.abs(tiles[0, 1::2, a:b]).sum(axis=1).max() for a, b in zip(starts, ends, strict=True)
            ]
            return int(max(sums))

        if largest(whole) < 2**23:
            assert run > columns
        else:
            assert largest(run) < 2**23 <= largest(run + 16)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {
        order: compile_runtime(tmp_path_factory.mktemp(order), (f"eqrl_{order}.c",), long_multiply=0)
        for order in INT8
    }


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("order", INT8)
def test_the_definition_equals_the_reference(runtime: dict[str, object], order: str, count: int) -> None:
    for one in [*draw(1, count, order), *every_shift(order), *long_rows(order)]:
        require_equal(runtime[order], cases(one.network, {"a": one.values}, order=order))  # type: ignore[arg-type]


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
def test_definitions_pass_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    drawn = [one for order in INT8 for one in draw(3, 6, order)]
    found = [case for one in drawn for case in cases(one.network, {"a": one.values}, order=one.order)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1)


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("gcc",)))
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, "-O2")
    rng = np.random.default_rng(0)
    for order, kind in product(INT8, (Dense, Conv2D)):
        one = random_layer(rng, kind, order)
        require_same_trace(library, cases(one.network, {"a": one.values}, order=order))


def long_rows(order: str) -> Iterator[Drawn]:
    """Yield layers whose second channels leave 24 bits in one run, at the ends of weights and inputs."""
    rng = np.random.default_rng(0)
    for terms in (515, 700, 1100, 1603):
        weights = rng.choice([-127, 127], (6, terms))
        weights[1], weights[3] = 127, -127
        network = dense(weights, shift=np.full(6, -18, np.int32))
        values = np.stack([np.full(terms, v) for v in (-128, 127)] + [rng.integers(-128, 128, terms)])
        (layer,) = network.layers
        assert isinstance(layer, Linear)
        yield Drawn(layer, network, values.astype(np.int8), order)


@pytest.fixture(scope="module", params=one_by_default(VARIANTS, VARIANTS[:3]), ids="-".join)
def variant(request: pytest.FixtureRequest) -> Iterator[tuple[Kernels, str]]:
    core, order, compiler = request.param
    if compiler != "zig":
        firmware.require_tool(compiler)
    kernels = Kernels(image_of("e_minatar", core, compiler, order))
    yield kernels, order
    kernels.close()


@pytest.mark.parametrize("count", COUNTS)
def test_a_core_equals_the_reference(variant: tuple[Kernels, str], count: int) -> None:
    kernels, order = variant
    usual = [one for one in draw(0, count, order) if one.is_usual]
    assert len(usual) > 0.6 * count
    outputs = require_emulated(kernels, usual)
    assert outputs > 300 * count
    if count > 1000:
        assert outputs >= 10**6


def test_a_core_rescales_every_usual_shift_as_the_reference(variant: tuple[Kernels, str]) -> None:
    kernels, order = variant
    drawn = [one for one in every_shift(order) if one.is_usual]
    assert len(drawn) >= 24
    require_emulated(kernels, drawn)


def test_all_inputs_take_the_same_instructions(variant: tuple[Kernels, str]) -> None:
    require_one_trace(*variant, is_usual=True)


def require_one_trace(kernels: Kernels, order: str, *, is_usual: bool) -> None:
    rng = np.random.default_rng(2)
    drawn = [random_layer(rng, kind, order) for kind in (Dense, Conv2D) for _ in range(60)]
    drawn = [one for one in drawn if one.is_usual == is_usual][::3]
    assert len(drawn) > 3
    for one in drawn:
        traces = {kernels.trace(one.code, values, one.expected.shape[1]) for values in one.values}
        assert len(traces) == 1


@pytest.mark.parametrize(
    "core", one_by_default(("cortex-m0plus", "cortex-m3", "cortex-m4"), ("cortex-m0plus",))
)
def test_inputs_and_outputs_of_the_user_may_lie_anywhere(core: str) -> None:
    """Whatever their alignment, nothing is read or written unaligned."""
    network = read_tflite((DATA / "c_cheetah_ppo.tflite").read_bytes())
    rng = np.random.default_rng(0)
    (name,), (answer,) = network.inputs, network.outputs
    values = rng.integers(-128, 128, (1, *network.tensors[name].shape)).astype(np.int8)
    expected = Reference(network).run({name: values})[answer].ravel().tobytes()
    with EmulatedNetwork(network, firmware.board(EMULATED_CORES[core])) as device:
        for at in range(4):
            row = np.frombuffer(bytes(at) + values.tobytes(), np.uint8)
            places = {
                "input_offsets": [at],
                "output_offsets": [3 - at],
                "output_bytes": 3 - at + len(expected),
            }
            found, status = device.emulated.infer(row[None], **places)
            assert status[0] >= 0
            assert found[0][3 - at :].tobytes() == expected
            assert device.emulated.profile_infer(row, **places).unaligned == ()


@pytest.fixture(scope="module", params=one_by_default(VARIANTS, VARIANTS[2:3]), ids="-".join)
def unusual(request: pytest.FixtureRequest) -> Iterator[tuple[Kernels, str]]:
    core, order, compiler = request.param
    if compiler != "zig":
        firmware.require_tool(compiler)
    kernels = Kernels(image_of("e_minatar", core, compiler, order, is_any=True))
    yield kernels, order
    kernels.close()


@pytest.mark.parametrize("count", [COUNTS[0], pytest.param(400, id="many", marks=pytest.mark.slow)])
def test_unusual_layers_equal_the_reference_on_a_core(unusual: tuple[Kernels, str], count: int) -> None:
    kernels, order = unusual
    found = [one for one in [*draw(4, 2 * count, order), *every_shift(order)] if not one.is_usual]
    found += [one for one in long_rows(order) if not one.is_usual]
    assert len(found) > count / 2
    if count == 400:
        rng = np.random.default_rng(5)
        found = [replace(one, values=random_values(rng, one.network.tensors["a"], 60)) for one in found]
    assert require_emulated(kernels, found) >= (10**6 if count == 400 else count)


def test_all_inputs_of_unusual_layers_take_the_same_instructions(unusual: tuple[Kernels, str]) -> None:
    require_one_trace(*unusual, is_usual=False)


@pytest.mark.parametrize("order", INT8)
def test_new_weights_go_into_the_old_code_if_they_are_as_usual(order: str) -> None:
    rng = np.random.default_rng(0)
    first, second = (dense(rng.integers(-127, 128, (6, 9))) for _ in range(2))
    blob = build_params(program(first, order), sequence=3)
    found = read_params(params_for(program(second, ROWS), blob))
    assert (found.sequence, found.contract) == (4, read_params(blob).contract)
    (layer,) = second.layers
    assert isinstance(layer, Linear)
    unusual = replace(second, layers=(replace(layer, shift=np.zeros(6, np.int32)),))
    with pytest.raises(UsageError, match=r"code that should take the weights of layer 'b' is for shifts"):
        params_for(program(unusual, ROWS), blob)
    for_all = build_params(program(unusual, order))
    assert read_params(for_all).entries[0].kernel.name == f"DENSE_{order.upper()}_ANY_S8"
    assert read_params(params_for(program(second, ROWS), for_all)).contract == read_params(for_all).contract


def test_weights_that_cannot_be_lanes_are_refused_by_code_that_reads_lanes() -> None:
    rng = np.random.default_rng(0)
    blob = build_params(program(dense(rng.integers(-127, 128, (4, 8))), "lanes"))
    weights = np.full((4, 8), -128)
    with pytest.raises(UsageError, match=r"layer 'b' reads them as lanes"):
        params_for(program(dense(weights), ROWS), blob)


def test_the_generated_file_says_which_kernel_and_why() -> None:
    network = dense(np.random.default_rng(0).integers(-127, 128, (6, 9)))
    (code,) = plan_params(program(network, "lanes")).codes
    assert code.function == "eqrl_dense_lanes_s8"
    assert "no lane leaves int16, no sum of a second channel leaves 24 bits" in code.reason
    (layer,) = network.layers
    (code,) = plan_params(program(replace(network, layers=(replace(layer, output_min=-3),)), "lanes")).codes
    assert code.function == "eqrl_dense_lanes_any_s8"
    assert "unusual" in code.reason
    assert layer_code(layer, network).function == "eqrl_dense_s8"


def test_params_of_another_network_are_refused() -> None:
    rng = np.random.default_rng(0)
    first, other = dense(rng.integers(-127, 128, (6, 9))), dense(rng.integers(-127, 128, (5, 9)))
    blob = build_params(program(first, "lanes"))
    with pytest.raises(DataError, match="not those of a network with the shapes"):
        params_for(program(other, ROWS), blob)
    two = read_tflite((DATA / "e_minatar.tflite").read_bytes())
    for network, code in ((first, build_params(BareNetwork("two", two, order="lanes"))), (two, blob)):
        with pytest.raises(DataError, match="not those of a network with the shapes"):
            params_for(BareNetwork("other", network), code)


def test_instructions_are_estimated_in_the_order_of_another_core_too() -> None:
    made = policy_of_network(dense(np.random.default_rng(0).integers(-127, 128, (64, 64))))
    own, foreign = (workload(replace(made, order=order))[1:] for order in ("lanes", "biased"))
    assert estimate_instructions(foreign, "cortex-m4") > 2 * estimate_instructions(own, "cortex-m4")
