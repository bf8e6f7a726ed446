"""Weights of 4, 3 and 2 bits in the orders of cores: equal to the reference, small and fast as promised."""

import ctypes
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine.measure import cut
from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.bench import bench_network
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.backends.rows import RowLayout
from edgeqrl.errors import UsageError
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Linear
from edgeqrl.network.reference import Reference
from firmware_export.bare_image import compile_bare
from firmware_export.emit import export_sources
from firmware_export.emit.export import export_network
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.linear import packed_bits
from firmware_export.emit.orders import ORDERS, groups_of, order_of, order_of_kernel, unpack_tiles
from firmware_export.emit.params import (
    arena_bytes_of,
    build_params,
    orders_of,
    params_for,
    plan_params,
    plan_program_arena,
    read_params,
)
from firmware_export.emit.weights import UNPACKED, choose_bits, weight_bytes
from firmware_export.emulators.bare_engine import BareEngine
from tests.c_kernels import (
    RUNTIME,
    Case,
    cases,
    compile_runtime,
    compile_traced,
    on_all_cores,
    require_clean,
    require_equal,
    require_same_trace,
    undefined_symbols,
)
from tests.firmware import board, cross_compiler, one_by_default, require_tool
from tests.packed_networks import stack
from tests.test_kernels_linear import random_linear, random_values, random_weights

DATA = Path(__file__).resolve().parent / "data"
FILES = ("eqrl_copy.c", "eqrl_lanes_packed.c", "eqrl_vectors_packed.c")
BASES = ("lanes", "vectors")
PACKED = [name for name, order in ORDERS.items() if order.bits < 8]
KINDS = [Dense, Conv2D]
ALL = list(product(KINDS, PACKED))
COUNTS = [pytest.param(20, id="few"), pytest.param(1500, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def cases_of(rng: np.random.Generator, network: IntegerNetwork, order: str, count: int = 3) -> list[Case]:
    values = {"a": random_values(rng, network.tensors["a"], count)}
    return cases(network, values, ORDERS[order].bits, order)


def drawn(kind: type, order: str, count: int) -> list[Case]:
    """Return `count` random layers on three inputs each."""
    rng = np.random.default_rng(ALL.index((kind, order)))
    networks = [random_linear(rng, kind, "int8", bits=ORDERS[order].bits) for _ in range(count)]
    return [case for network in networks for case in cases_of(rng, network, order)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("kind", "order"), ALL)
def test_the_definition_equals_the_reference(
    runtime: ctypes.CDLL, kind: type, order: str, count: int
) -> None:
    found = drawn(kind, order, count)
    family = "DENSE" if kind is Dense else "CONV"
    assert {case.code.kernel.name for case in found[:30]} == {f"{family}_{order.upper()}_S8"}
    assert require_equal(runtime, found) > 10 * count


@pytest.mark.parametrize("order", PACKED)
def test_a_block_says_what_was_packed(order: str) -> None:
    rng = np.random.default_rng(0)
    for kind, _ in product(KINDS, range(20)):
        network = random_linear(rng, kind, "int8", bits=ORDERS[order].bits)
        (layer,) = network.layers
        assert isinstance(layer, Linear)
        code = layer_code(layer, network, ORDERS[order].bits, order)
        found = unpack_tiles(code.block, layer.weights.shape, order, groups_of(layer))
        np.testing.assert_array_equal(found.weights, layer.weights)
        np.testing.assert_array_equal(found.multiplier, layer.multiplier)
        np.testing.assert_array_equal(found.shift, layer.shift)
        assert (packed_bits(code.kernel), order_of_kernel(code.kernel)) == (ORDERS[order].bits, order)
        assert f"{code.function}(" in RUNTIME[code.source].decode()


@pytest.mark.parametrize("order", PACKED)
def test_unpacking_inverts_packing_for_all_columns(order: str) -> None:
    rng, bits = np.random.default_rng(0), ORDERS[order].bits
    for columns in {ORDERS[order].columns_of(terms) for terms in range(1, 100)}:
        tiles = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 4, columns))
        data = np.ascontiguousarray(ORDERS[order].pack(tiles)).view(np.uint8).reshape(3, -1)
        assert data.shape[1] == ORDERS[order].tile_bytes(columns)
        np.testing.assert_array_equal(ORDERS[order].unpack(data, columns), tiles)


@pytest.mark.parametrize(("order", "bits_of_flash"), zip(PACKED, (4, 3, 2, 4, 3, 2), strict=True))
def test_weights_take_the_flash_that_was_promised(order: str, bits_of_flash: float) -> None:
    network = stack(np.random.default_rng(0), (ORDERS[order].bits,), (256, 256))
    (layer,) = network.layers
    assert isinstance(layer, Linear)
    assert weight_bytes(layer, ORDERS[order].bits, order) == 256 * 256 * bits_of_flash / 8
    block = layer_code(layer, network, ORDERS[order].bits, order).block
    assert len(block) == 256 * 256 * bits_of_flash / 8 + 9 * 256 + 12


@pytest.mark.parametrize("base", BASES)
def test_packing_is_chosen_where_the_whole_is_smaller(base: str) -> None:
    rng = np.random.default_rng(0)
    network = stack(rng, (4, 2), (64, 256, 256))
    assert choose_bits(network.layers, network, base) == (4, 2)
    network = stack(rng, (3,), (2, 2))
    assert choose_bits(network.layers, network, base) == (UNPACKED,)


@pytest.mark.parametrize("base", BASES)
def test_the_generated_file_says_which_bits_and_why(base: str) -> None:
    network = stack(np.random.default_rng(0), (4, 8), (64, 64, 64))
    program = replace(policy_of_network(network), order=base)
    files = export_sources(program, b"")
    text = files["network_params.c"].decode()
    assert f"eqrl_dense_{base}_p4_s8: no weight outside [-8, 7], so 4 bits, in {base}: 2,048 bytes" in text
    assert {f"eqrl_{base}_packed.c", "eqrl_lanes.h"} <= set(files)
    assert "eqrl_dense_packed.c" not in files


@pytest.mark.parametrize("base", BASES)
def test_weights_with_zero_points_and_int16_keep_units(base: str) -> None:
    rng = np.random.default_rng(0)
    asymmetric = random_linear(rng, Dense, "int8", bits=4, is_asymmetric=True)
    wide = random_linear(rng, Dense, "int16", bits=4)
    for network in (asymmetric, wide):
        (layer,) = network.layers
        assert isinstance(layer, Linear)
        if layer.is_symmetric and network is asymmetric:
            continue
        program = BareNetwork("network", network, weight_bits=(4,), order=base)
        assert orders_of(program) == ("rows",)
        assert packed_bits(plan_params(program).codes[0].kernel) == 4


@pytest.mark.parametrize("base", BASES)
def test_new_weights_of_no_more_bits_go_into_the_old_code(base: str) -> None:
    """Those with other scales and clamps, too."""
    sizes, rng = (64, 64, 64), np.random.default_rng(0)
    old, new = (policy_of_network(stack(rng, bits, sizes)) for bits in ((4, 4), (2, 3)))
    first = new.network.layers[0]
    assert isinstance(first, Dense)
    unusual = replace(first, shift=first.shift * 0, output_min=-5)
    new = replace(new, network=replace(new.network, layers=(unusual, *new.network.layers[1:])))
    blob = build_params(replace(old, order=base), sequence=7)
    found = read_params(params_for(new, blob))
    assert (found.sequence, found.contract) == (8, read_params(blob).contract)
    assert found.entries[1].kernel.name == f"DENSE_{base.upper()}_P4_S8"
    unpacked = unpack_tiles(found.blocks[1], (64, 64), f"{base}_p4")
    np.testing.assert_array_equal(unpacked.weights, first.weights)
    np.testing.assert_array_equal(unpacked.shift, 0)
    too_many = policy_of_network(stack(rng, (8, 4), sizes))
    with pytest.raises(UsageError, match=r"Layer '1' has weights from .*unpacks 4 bits"):
        params_for(too_many, blob)


def test_outputs_of_no_whole_tile_have_room_behind_them() -> None:
    """Each row writes four outputs: the last one two beyond them all."""
    source, target = Tensor("a", (3, 8), 1.0, 0), Tensor("b", (3, 2), 1.0, 0)
    numbers = (np.zeros(2, np.int64), np.full(2, 2**30, np.int32), np.full(2, -1, np.int32))
    layer = Dense("b", "a", "b", np.ones((2, 8), np.int8), *numbers, -128, 127, rows=3)
    network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
    program = BareNetwork("network", network, weight_bits=(4,), order="vectors")
    layout = plan_params(program)
    column = 16
    assert layout.codes[0].behind_output == 2
    assert plan_program_arena(program, layout.codes).total_bytes == 24 + 8 + column
    assert arena_bytes_of(replace(program, order="rows")) == 24 + 8


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
@pytest.mark.parametrize(
    "count", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
)
def test_definitions_pass_under_sanitizers(tmp_path: Path, compiler: str, count: int) -> None:
    found = [case for kind, order in ALL for case in drawn(kind, order, count)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1)


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("gcc",)))
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, "-O2")
    rng = np.random.default_rng(0)
    for kind, order in ALL:
        network = random_linear(rng, kind, "int8", bits=ORDERS[order].bits)
        require_same_trace(library, cases_of(rng, network, order, 8))


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    assert undefined_symbols(tmp_path, FILES, level, targets) == {}


def many_layers(rng: np.random.Generator, count: int) -> tuple[IntegerNetwork, tuple[int, ...]]:
    """Return `count` layers beside each other, dense and convolutions of all scales; and the bits of each."""
    tensors: dict[str, Tensor] = {}
    layers: list[Dense | Conv2D] = []
    all_bits = []
    for i in range(count):
        bits = (4, 3, 2)[i % 3]
        is_odd = i % 4 < 2  # in its sizes and scales
        network = random_linear(rng, KINDS[i % 2], "int8", bits=bits) if is_odd else usual_dense(rng, bits)
        (layer,) = network.layers
        assert isinstance(layer, Dense | Conv2D)
        tensors |= {f"{name}{i}": replace(t, name=f"{name}{i}") for name, t in network.tensors.items()}
        layers.append(replace(layer, name=f"layer{i}", input=f"a{i}", output=f"b{i}"))
        all_bits.append(bits)
    inputs, outputs = (tuple(f"{name}{i}" for i in range(count)) for name in "ab")
    return IntegerNetwork(tensors, inputs, outputs, tuple(layers)), tuple(all_bits)


def usual_dense(rng: np.random.Generator, bits: int) -> IntegerNetwork:
    """Return a layer of many outputs which rescales as most do."""
    shape = int(rng.integers(1, 60)), int(rng.integers(1, 200))
    weights, end = random_weights(rng, shape, bits), 2 ** (bits - 1)
    spread = shape[1] ** 0.5 * 74 * end * 0.6
    mantissa, shift = np.frexp(rng.uniform(20, 200, shape[0]) / spread)
    numbers = ((mantissa * 2**31).astype(np.int32), shift.astype(np.int32))
    points = [int(n) for n in rng.integers(-128, 128, 2)]
    tensors = {name: Tensor(name, (n,), 1.0, p) for name, n, p in zip("ab", shape[::-1], points, strict=True)}
    layer = Dense("b", "a", "b", weights, rng.integers(-500, 500, shape[0]), *numbers, -128, 127)
    return IntegerNetwork(tensors, ("a",), ("b",), (layer,))


class Core:
    """A network in an order on an emulated core."""

    def __init__(self, network: IntegerNetwork, bits: tuple[int, ...], core: str, compiler: str) -> None:
        program = BareNetwork("network", network, weight_bits=bits, order=order_of(core))
        layout = plan_params(program)
        assert set(orders_of(program)) == {f"{order_of(core)}_p{some}" for some in bits}
        sizes = layout.total_bytes, 4 + plan_program_arena(program, layout.codes).total_bytes
        self.network = network
        self.image = compile_bare(
            export_network(program, b""),
            board(EMULATED_CORES[core]),
            compiler=cross_compiler(compiler),
            params_bytes=sizes[0],
            state_bytes=sizes[1],
        )
        self.inputs, self.outputs = (
            RowLayout([network.tensors[name] for name in names], alignment=4)
            for names in (network.inputs, network.outputs)
        )
        self.places = {"input_offsets": self.inputs.offsets, "output_offsets": self.outputs.offsets}

    def require_equal(self, rng: np.random.Generator, count: int) -> int:
        """Compare `count` inferences with the reference, and their traces; return the number of outputs."""
        values = {name: random_values(rng, self.network.tensors[name], count) for name in self.network.inputs}
        expected = Reference(self.network).run(values)
        rows, traces = self.inputs.pack(values), set()
        with BareEngine(self.image) as engine:
            for i, row in enumerate(rows):
                found = engine.infer(row, output_bytes=self.outputs.num_bytes, **self.places)
                for name, answer in self.outputs.unpack(found[None]).items():
                    np.testing.assert_array_equal(answer[0], expected[name][i], err_msg=name)
            for row in rows[:3]:
                traces.add(engine.trace(row, **self.places).addresses.tobytes())
        assert len(traces) == 1
        return sum(answer.size for answer in expected.values())


CORES = ("cortex-m4", "cortex-m55")
COMPILERS = [pytest.param("zig"), pytest.param("arm-none-eabi-gcc", marks=pytest.mark.slow)]


def require_core(core: str) -> None:
    if core == "cortex-m55":
        require_tool("qemu-system-arm")


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_core_equals_the_reference_in_one_trace(core: str, compiler: str) -> None:
    require_core(core)
    rng = np.random.default_rng(1)
    assert Core(*many_layers(rng, 48), core, compiler).require_equal(rng, 4) > 4000


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("compiler", ["zig", "arm-none-eabi-gcc"])
def test_a_million_outputs_of_each_bits_of_a_core_equal_the_reference(core: str, compiler: str) -> None:
    require_core(core)
    rng, outputs = np.random.default_rng(2), 0
    while outputs < 3 * 10**6:
        outputs += Core(*many_layers(rng, 96), core, compiler).require_equal(rng, 200)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m7", "cortex-m33"])
def test_other_cores_of_lanes_equal_the_reference(core: str) -> None:
    rng = np.random.default_rng(3)
    assert Core(*many_layers(rng, 48), core, "zig").require_equal(rng, 4) > 4000


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("model", ["d_cheetah_sac", "e_minatar"])
def test_few_bits_cost_at_most_1_6_times_the_instructions_of_int8(
    core: str, compiler: str, model: str
) -> None:
    require_core(core)
    tflite, chosen = (DATA / f"{model}.tflite").read_bytes(), cross_compiler(compiler).name
    rows = {bits: bench_network(cut(tflite, bits), core, compiler=chosen) for bits in (8, 4, 3, 2)}
    for bits in (4, 3, 2):
        assert rows[bits]["instructions"] <= 1.6 * rows[8]["instructions"]
        assert rows[bits]["flash_bytes"]["total"] < rows[8]["flash_bytes"]["total"] * (bits + 1) / 8
        assert rows[bits]["stack_bytes"] <= 256
