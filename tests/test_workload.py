"""Instructions that are estimated from bits, activations and core, against those of real builds."""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.emulated import EmulatedNetwork, open_policy
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Conv2D, Dense, Window
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import random_inputs
from firmware_export.board import CORES
from firmware_export.emit.orders import ORDERS, order_of
from firmware_export.fit import estimate_instructions
from firmware_export.rates import rates_of
from firmware_export.toolchain import find_compiler
from firmware_export.workload import work_of, workload
from tests.c_policies import random_observations, random_policy
from tests.firmware import board, one_by_default, require_qemu
from tests.packed_networks import network_of
from tests.test_kernels_linear import linear_numbers

DATA = Path(__file__).parent / "data"
TOLERANCE = 0.15  # of the counted instructions

MODELS = {"a": "a_cartpole", "c": "c_cheetah_ppo", "d": "d_cheetah_sac", "e": "e_minatar"}
# docs/benchmarks.md, built by clang: (model, core, bits) -> instructions
COUNTED = {
    ("a", "cortex-m0plus", 8): 22_564,
    ("a", "cortex-m4", 8): 6_337,
    ("a", "cortex-m55", 8): 1_672,
    ("c", "cortex-m0plus", 8): 28_002,
    ("c", "cortex-m3", 8): 16_205,
    ("c", "rv32imac", 8): 32_852,
    ("d", "cortex-m0plus", 8): 271_870,
    ("d", "cortex-m0plus", 4): 366_005,
    ("d", "cortex-m0plus", 3): 345_333,
    ("d", "cortex-m0plus", 2): 360_724,
    ("d", "cortex-m3", 8): 174_686,
    ("d", "cortex-m4", 8): 73_806,
    ("d", "cortex-m4", 4): 95_109,
    ("d", "cortex-m4", 3): 102_802,
    ("d", "cortex-m4", 2): 95_108,
    ("d", "cortex-m7", 8): 73_817,
    ("d", "cortex-m33", 8): 73_806,
    ("d", "cortex-m55", 8): 14_134,
    ("d", "cortex-m55", 4): 16_648,
    ("d", "cortex-m55", 3): 19_962,
    ("d", "cortex-m55", 2): 16_678,
    ("d", "rv32imac", 8): 322_084,
    ("d", "rv32imac", 4): 248_481,
    ("d", "rv32imac", 3): 230_012,
    ("d", "rv32imac", 2): 242_989,
    ("e", "cortex-m0plus", 8): 652_991,
    ("e", "cortex-m4", 8): 186_818,
    ("e", "cortex-m4", 4): 239_958,
    ("e", "cortex-m4", 3): 260_568,
    ("e", "cortex-m4", 2): 239_958,
    ("e", "cortex-m55", 8): 36_198,
    ("e", "rv32imac", 8): 756_229,
}


def estimated(policy: IntegerPolicy, core: str) -> int:
    """Estimate NAME_infer: the edges are not in it."""
    ordered = replace(policy, order=order_of(core))
    return estimate_instructions(workload(ordered)[1:], core)


@lru_cache
def model(name: str, bits: int) -> IntegerPolicy:
    """Return a network of docs/benchmarks.md, its weights cut to so many bits."""
    network, top = read_tflite((DATA / f"{MODELS[name]}.tflite").read_bytes()), 2 ** (bits - 1) - 1
    layers = [
        replace(layer, weights=np.clip(layer.weights, -top, top))
        if isinstance(layer, Dense | Conv2D)
        else layer
        for layer in network.layers
    ]
    return policy_of_network(replace(network, layers=tuple(layers)))


@pytest.mark.parametrize(("name", "core", "bits"), COUNTED)
def test_estimate_is_near_what_was_counted(name: str, core: str, bits: int) -> None:
    counted = COUNTED[name, core, bits]
    assert abs(estimated(model(name, bits), core) / counted - 1) < 0.08


def dense_stack(dtype: str, bits: int) -> IntegerNetwork:
    """Return 20-48-48-5 with weights of so many bits."""
    rng, sizes, names = np.random.default_rng(bits), (20, 48, 48, 5), "abcd"
    tensors = {n: Tensor(n, (size,), 1.0, 0, dtype) for n, size in zip(names, sizes, strict=True)}
    layers = []
    for source, target in pairwise(names):
        shape = (tensors[target].size, tensors[source].size)
        _, bias, multiplier, shift, *ends = linear_numbers(rng, shape, dtype)
        weights = rng.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1), shape).astype(np.int8)
        numbers = (weights, bias, multiplier, shift + 5 - bits, *ends)
        layers.append(Dense(target, source, target, *numbers, is_wide=dtype == "int16"))
    return IntegerNetwork(tensors, ("a",), ("d",), tuple(layers))


KINDS = {"int8": ("int8", 8), "w4": ("int8", 4), "int16x8": ("int16", 8)}
NETWORKS = {
    "dense": dense_stack,
    "padded convolutions": lambda dtype, bits: network_of(np.random.default_rng(1), dtype, (bits,) * 2, 8),
}


@pytest.mark.parametrize(
    "core",
    one_by_default(("cortex-m4", "cortex-m0plus", "cortex-m55", "rv32imac"), ("cortex-m4", "cortex-m55")),
)
@pytest.mark.parametrize("network", one_by_default(NETWORKS, ("dense",)))
def test_estimate_is_near_a_real_build_and_orders_as_counted(network: str, core: str) -> None:
    target = board(EMULATED_CORES[core])
    if core == "cortex-m55":
        require_qemu(target.name)
    counted, found = {}, {}
    for name, (dtype, bits) in KINDS.items():
        made = NETWORKS[network](dtype, bits)
        with EmulatedNetwork(made, target, compiler=find_compiler("zig", core=core)) as device:
            counted[name] = device.profile(random_inputs(made, np.random.default_rng(0), 1)).instructions
        found[name] = estimated(policy_of_network(made), core)
    for name, count in counted.items():
        assert abs(found[name] / count - 1) < TOLERANCE, (name, found, counted)
    for name, other in ((a, b) for a in KINDS for b in KINDS):
        if counted[name] < counted[other] * (1 - TOLERANCE):
            assert found[name] < found[other], (found, counted)
    if network == "dense":  # plain C multiplies two packed weights at once, the cores' kernels for int8 more
        assert (counted["w4"] < counted["int8"]) == (core == "rv32imac")


def test_a_whole_step_is_near_its_estimate() -> None:
    rng = np.random.default_rng(3)
    made = random_policy(rng, (17, 32, 32, 6), head="affine", lookups=1.0)
    with open_policy(made, "cortex-m4") as device:
        counted = device.profile(random_observations(rng, made, 1)[0]).instructions
    estimate = estimate_instructions(workload(replace(made, order="lanes")), "cortex-m4")
    assert counted * (1 - TOLERANCE) < estimate < 1.3 * counted


def test_bytes_in_place_of_packed_weights_cost_as_int8() -> None:
    made = policy_of_network(dense_stack("int8", 4))
    eight = policy_of_network(dense_stack("int8", 8))
    unpacked = replace(made, weight_bits=())
    assert estimated(unpacked, "cortex-m4") == estimated(eight, "cortex-m4") < estimated(made, "cortex-m4")


def test_every_core_has_rates_of_the_same_kinds() -> None:
    """Of plain rows, and of the core's own order in all its variants."""
    names = [order.name for order in ORDERS.values()]
    plain = {f"{k} w{b} {s}" for k in ("dense", "conv") for b in (8, 4, 3, 2) for s in ("s8", "s16")}
    kinds = {core: set(rates_of(core)) for core in CORES}
    for core, found in kinds.items():
        own = [name for name in names if name.partition("_")[0] == order_of(core)]
        wanted = {f"{k} {name} s8" for k in ("dense", "conv") for name in own}
        if ORDERS[order_of(core)].has_any:
            wanted |= {f"{k} {order_of(core)}_any s8" for k in ("dense", "conv")}
        if ORDERS[order_of(core)].windows == 2:
            wanted.add(f"conv {order_of(core)} by two s8")
        assert plain | wanted <= found
        of_orders = {kind for kind in found if any(f" {name}" in kind for name in names)}
        assert of_orders == wanted
        assert found - of_orders == kinds["cortex-m4"] - {k for k in kinds["cortex-m4"] if " lanes" in k}


def test_work_of_a_padded_convolution_by_hand() -> None:
    """3 x 3 on 2 x 2, padding 1: four positions, each with four places inside, in two rows."""
    made = network_of(np.random.default_rng(1), "int8", (4,), 8)
    layer = made.layers[0]
    assert isinstance(layer, Conv2D)
    window = Window((1, 2, 2, 8), (1, 2, 2, 12), (3, 3), (1, 1), (1, 1), (1, 1))
    found = work_of(replace(layer, window=window), made, 4)
    assert found.kind == "conv w4 s8"
    assert found.macs == 4 * 4 * 8 * 16  # 12 channels are two units of 8
    assert (found.outputs, found.positions) == (4 * 12, 4)
    assert found.runs == 4 * 2 * 2
    assert found.padded == 4 * 5 * 8 * 2
    assert found.summed == 4 * 4 * 8
