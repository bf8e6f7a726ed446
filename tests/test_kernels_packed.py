"""Weights of 4, 3 and 2 bits: packed by proof, unpacked in the kernels, equal to the reference everywhere."""

import ctypes
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import EmulatedNetwork
from edgeqrl.backends.host_c import HostCNetwork, policy_of_network
from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, DepthwiseConv2D, Linear, TransposeConv
from edgeqrl.network.reference import Reference
from firmware_export.emit import export_sources
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.kernels.linear import packed_bits, unpack_linear
from firmware_export.emit.orders import groups_of
from firmware_export.emit.params import build_params, params_for, plan_params, read_params
from firmware_export.emit.weights import (
    UNITS,
    UNPACKED,
    choose_bits,
    fewest_bits,
    pack_weights,
    unpack_weights,
    weight_bytes,
)
from firmware_export.emulators.unicorn_engine import UNICORN_CORES
from tests.c_kernels import (
    RUNTIME,
    Case,
    compile_runtime,
    compile_traced,
    on_all_cores,
    require_clean,
    require_equal,
    require_same_trace,
    undefined_symbols,
)
from tests.c_policies import random_policy
from tests.firmware import board, cross_compiler, gcc_of, one_by_default, require_qemu
from tests.packed_networks import network_of, stack
from tests.test_kernels_linear import (
    DTYPES,
    of_scale,
    random_cases,
    random_linear,
    random_values,
    random_weights,
    random_window,
)

FILES = ("eqrl_dense_packed.c", "eqrl_conv_packed.c")
BITS = sorted(UNITS)
KINDS = [Dense, Conv2D]
COUNTS = [pytest.param(20, id="few"), pytest.param(1500, id="many", marks=pytest.mark.slow)]
ALL = list(product(KINDS, DTYPES, BITS))


@pytest.fixture(scope="module", params=(1, 0), ids=["long", "halves"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_runtime(tmp_path_factory.mktemp("runtime"), FILES, long_multiply=request.param)


def drawn(kind: type, dtype: str, bits: int, count: int) -> list[Case]:
    """Return `count` random layers on three inputs each; half of them have weights with zero points."""
    rng = np.random.default_rng(ALL.index((kind, dtype, bits)))
    networks = [random_linear(rng, kind, dtype, bits=bits, is_asymmetric=i % 2 > 0) for i in range(count)]
    return [case for network in networks for case in random_cases(rng, network, bits=bits)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("kind", "dtype", "bits"), ALL)
def test_packed_kernels_equal_the_reference(
    runtime: ctypes.CDLL, kind: type, dtype: str, bits: int, count: int
) -> None:
    found = drawn(kind, dtype, bits, count)
    names = {case.code.kernel.name for case in found[:30]}
    assert names == {f"{'DENSE' if kind is Dense else 'CONV'}_P{bits}_{dtype.replace('int', 'S')}"}
    assert require_equal(runtime, found) > 10 * count


@pytest.mark.parametrize("bits", BITS)
def test_long_rows_of_int16_stay_inside_their_sums(runtime: ctypes.CDLL, bits: int) -> None:
    """Ends of all ranges, around the runs of 4096 that are summed in 32 bits."""
    rng = np.random.default_rng(bits)
    for columns in (4095, 4096, 4097, 8193):
        source, target = Tensor("a", (columns,), 1.0, 0, "int16"), Tensor("b", (7,), 1.0, 0, "int16")
        weights = np.full((7, columns), -(2 ** (bits - 1)), np.int8)
        weights[3:] = random_weights(rng, (4, columns), bits)
        numbers = (np.zeros(7, np.int64), np.full(7, 2**30, np.int32), np.full(7, -14, np.int32))
        layer = Dense("b", "a", "b", weights, *numbers, -32768, 32767, is_wide=True)
        network = IntegerNetwork({"a": source, "b": target}, ("a",), ("b",), (layer,))
        require_equal(runtime, random_cases(rng, network, bits=bits))


@pytest.mark.parametrize("bits", BITS)
def test_unpacking_inverts_packing_for_all_shapes(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for groups, out, terms in product((1, 2, 3), (1, 2, 4, 5, 6, 11), (1, 2, 9)):
        weights = random_weights(rng, (groups * out, terms, 2), bits)
        packed = pack_weights(weights, bits, groups)
        np.testing.assert_array_equal(unpack_weights(packed, weights.shape, bits, groups), weights)


@pytest.mark.parametrize(("kind", "dtype", "bits"), ALL)
def test_unpacking_inverts_a_whole_block(kind: type, dtype: str, bits: int) -> None:
    network = random_linear(np.random.default_rng(bits), kind, dtype, bits=bits, is_asymmetric=True)
    (layer,) = network.layers
    assert isinstance(layer, Linear)
    code = layer_code(layer, network, bits)
    block = unpack_linear(
        code.block, code.kernel, layer.weights.shape, groups=groups_of(layer),
        has_zero_points=not layer.is_symmetric,
    )  # fmt: skip
    for name in ("weights", "bias", "multiplier", "shift", "output_min", "output_max", "is_wide"):
        np.testing.assert_array_equal(getattr(block, name), getattr(layer, name))
    assert packed_bits(code.kernel) == bits
    assert f"{code.function}(" in RUNTIME[code.source].decode()


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-1, 1, 2), (-2, 1, 2), (0, 0, 2), (0, 2, 3), (-3, 3, 3), (-4, 3, 3), (-5, 0, 4), (-7, 7, 4), (-8, 7, 4),
     (-8, 8, 8), (-9, 0, 8), (-128, 127, 8)],
)  # fmt: skip
def test_the_weights_say_how_many_bits_they_need(low: int, high: int, bits: int) -> None:
    assert fewest_bits(np.array([[low, high, 0]], np.int8)) == bits


@pytest.mark.parametrize(
    ("needed", "sizes", "chosen"),
    [
        ((4, 4), (64, 64, 64), (4, 4)),
        ((2, 8), (64, 64, 64), (2, 8)),
        ((2,), (64, 64), (2,)),
        ((3,), (2, 2), (8,)),  # nothing to gain
        ((8, 4, 8), (64, 64, 16, 64), (8, 8, 8)),  # what it saves costs more code
        ((4, 2), (64, 64, 4), (4, 4)),  # a kernel for one small layer costs more than the other's bits
        ((4, 2), (64, 256, 256), (4, 2)),
        ((2,), (4096, 1), (8,)),  # units of 8 channels for one: nothing
    ],
)
def test_packing_is_chosen_where_the_whole_is_smaller(
    needed: tuple[int, ...], sizes: tuple[int, ...], chosen: tuple[int, ...]
) -> None:
    network = stack(np.random.default_rng(0), needed, sizes)
    assert choose_bits(network.layers, network) == chosen


@pytest.mark.parametrize("kind", [DepthwiseConv2D, TransposeConv])
def test_layers_without_a_packed_kernel_say_why(kind: type) -> None:
    network = random_linear(np.random.default_rng(1), kind, "int8", bits=2)
    (layer,) = network.layers
    assert choose_bits((layer,), network) == (UNPACKED,)
    assert "stay int8" in layer_code(layer, network).reason


def test_the_generated_file_says_which_bits_and_why() -> None:
    network = stack(np.random.default_rng(0), (4, 8), (64, 64, 64))
    policy = policy_of_network(network)
    files = export_sources(policy, b"")
    text = files["network_params.c"].decode()
    assert (
        "eqrl_dense_p4_s8: no weight outside [-8, 7], so 4 bits, 8 channels in 32 bits: 2,048 bytes" in text
    )
    assert "not 4,096" in text
    assert {"eqrl_dense.c", "eqrl_dense_packed.c"} <= set(files)
    unpacked = export_sources(replace(policy, weight_bits=()), b"")
    assert "eqrl_dense_packed.c" not in unpacked
    assert "weights of 4 bits stay int8" in unpacked["network_params.c"].decode()
    assert len(files["network_params.bin"]) == len(unpacked["network_params.bin"]) - 2048


def test_new_weights_of_no_more_bits_go_into_the_old_code() -> None:
    sizes, rng = (64, 64, 64), np.random.default_rng(0)
    old, new = (policy_of_network(stack(rng, bits, sizes)) for bits in ((4, 8), (2, 3)))
    blob = build_params(old, sequence=7)
    assert plan_params(new).contract != plan_params(old).contract
    found = read_params(params_for(new, blob))
    assert (found.sequence, found.contract) == (8, read_params(blob).contract)
    first = unpack_linear(found.blocks[1], found.entries[1].kernel, (64, 64))
    np.testing.assert_array_equal(first.weights, new.network.layers[0].weights)
    assert params_for(old, blob, sequence=7) == blob


def test_new_weights_of_more_bits_are_refused_with_the_layer_and_both_numbers() -> None:
    sizes, rng = (64, 64, 64), np.random.default_rng(0)
    old, new = (policy_of_network(stack(rng, bits, sizes)) for bits in ((3, 8), (4, 8)))
    with pytest.raises(UsageError, match=r"Layer '1' has weights from -8 to 7.*unpacks 3 bits"):
        params_for(new, build_params(old))


def test_params_of_another_network_are_refused() -> None:
    rng = np.random.default_rng(0)
    old = policy_of_network(stack(rng, (4,), (64, 64)))
    for other in (stack(rng, (4,), (64, 60)), stack(rng, (4, 4), (64, 64, 64))):
        with pytest.raises(DataError, match="Export the code again"):
            params_for(policy_of_network(other), build_params(old))


def test_params_of_an_observation_that_is_scaled_otherwise_are_refused_with_the_cure() -> None:
    policy = random_policy(np.random.default_rng(0), (4, 4, 3), lookups=0)
    part = replace(policy.observation.part, gain=(1.0, 2.0, 0.5, 1.0))
    scaled = replace(policy, observation=replace(policy.observation, part=part))
    for new, old in ((policy, scaled), (scaled, policy)):
        with pytest.raises(
            DataError, match=r"scales its observation otherwise.*scale_inputs.*--set rewrites"
        ):
            params_for(new, build_params(old))
    other = random_policy(np.random.default_rng(0), (4, 5, 3), lookups=0)
    with pytest.raises(DataError, match="not those of a network with the shapes"):
        params_for(other, build_params(scaled))


def require_same(device: Any, network: IntegerNetwork, values: dict[str, Any]) -> None:
    (output,) = network.outputs
    expected = Reference(network).run(values)[output]
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(device.run(values)[output], expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exported_network_of_few_bits_equals_the_reference(dtype: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    network = network_of(rng, dtype, (bits,), 23)
    assert choose_bits(network.layers, network)[0] < UNPACKED
    require_same(HostCNetwork(network), network, {"t0": random_values(rng, network.tensors["t0"], 40)})


@pytest.mark.slow
@pytest.mark.parametrize("board_name", EMULATED_CORES.values())
def test_packed_networks_equal_the_reference_on_a_core_in_one_trace(
    board_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bits, dense and convolution, in one image: int8 by zig, int16 by GCC."""
    target, rng = board(board_name), np.random.default_rng(len(board_name))
    if target.core not in UNICORN_CORES:
        require_qemu(board_name)  # it traps unaligned accesses
    monkeypatch.setattr("firmware_export.emit.params.choose_bits", lambda layers, *_: needed(layers))
    for dtype, compiler in zip(DTYPES, ("zig", gcc_of(board_name)), strict=True):
        network = network_of(rng, dtype, (4, 3, 2), 3)
        values = {"t0": random_values(rng, network.tensors["t0"], 6)}
        with EmulatedNetwork(network, target, compiler=cross_compiler(compiler)) as device:
            require_same(device, network, values)
            profiles = [device.profile({"t0": values["t0"][i : i + 1]}) for i in (0, 2, 5)]
        assert len({profile.trace_sha256 for profile in profiles}) == 1
        assert {profile.unaligned for profile in profiles} == {()}


def needed(layers: tuple[Linear, ...]) -> tuple[int, ...]:
    return tuple(fewest_bits(layer.weights) for layer in layers)


def test_packed_layers_are_as_small_as_promised() -> None:
    """In 256 x 256: 4 bits a half, 3 bits 3.2 of 8 and the last unit, 2 bits a quarter."""
    network = stack(np.random.default_rng(0), (8,), (256, 256))
    (layer,) = network.layers
    assert isinstance(layer, Linear)
    sizes = {bits: weight_bytes(layer, bits) for bits in (8, *BITS)}
    assert sizes == {8: 65536, 4: 32768, 3: 26 * 1024, 2: 16384}


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
@pytest.mark.parametrize(
    "count", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)]
)
def test_kernels_pass_under_sanitizers(tmp_path: Path, compiler: str, count: int) -> None:
    found = [case for kind, dtype, bits in ALL for case in drawn(kind, dtype, bits, count)]
    require_clean(tmp_path, compiler, FILES, found, long_multiply=1)


@pytest.mark.parametrize("level", ["-O2", pytest.param("-Os", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("gcc",)))
def test_all_inputs_take_the_same_blocks(tmp_path: Path, compiler: str, level: str) -> None:
    library = compile_traced(tmp_path, FILES, compiler, level)
    rng = np.random.default_rng(0)
    for kind, dtype, bits in ALL:
        for is_asymmetric in (False, True):
            network = random_linear(rng, kind, dtype, bits=bits, is_asymmetric=is_asymmetric)
            require_same_trace(library, random_cases(rng, network, 8, bits))


@on_all_cores
def test_no_core_needs_a_library(tmp_path: Path, targets: list[tuple[str, ...]], level: str) -> None:
    assert undefined_symbols(tmp_path, FILES, level, targets) == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_window_of_a_usual_size_equals_the_reference(runtime: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(0)
    window = replace(
        random_window(rng, 4, 16), input_shape=(1, 10, 9, 4), output_shape=(1, 10, 9, 16), kernel=(3, 3),
        stride=(1, 1), dilation=(1, 1), padding=(1, 1),
    )  # fmt: skip
    for bits in BITS:
        network = of_scale(rng, window, random_weights(rng, (16, 3, 3, 4), bits), dtype)
        require_equal(runtime, random_cases(rng, network, bits=bits))
