import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firmware_export
from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network import layers
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge, MultiDiscreteEdge, make_gaussian_edge
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.layers import Dense, Lookup
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.read_tflite import read_tflite
from firmware_export.emit import params
from firmware_export.emit.kernels import LAYER_CODES
from firmware_export.emit.kernels.linear import PackedLinear, pack_linear, unpack_linear
from firmware_export.emit.packing import Kernel, unpack_words
from firmware_export.emit.params import build_params, executed_layers, plan_params, read_params
from tests.c_policies import random_policy
from tests.c_whole_policies import HEADS, any_whole_policy, random_whole_policy
from tests.tflite_writer import single_operator

RUNTIME = Path(firmware_export.__file__).parent / "runtime"


def with_field(blob: bytes, at: int, value: int) -> bytes:
    """Write a header word and make the checksum right again."""
    changed = bytearray(blob)
    struct.pack_into("<I", changed, at, value)
    crc = zlib.crc32(changed[128:], zlib.crc32(changed[:56]))
    struct.pack_into("<I", changed, 56, crc)
    return bytes(changed)


def test_constants_are_those_of_the_runtime() -> None:
    header = (RUNTIME / "eqrl.h").read_text()
    kernels = re.findall(r"EQRL_KERNEL_(\w+) = (\d+)", header)
    assert {name: int(value) for name, value in kernels} == {k.name: k.value for k in Kernel}
    assert f"#define EQRL_ABI {params.ABI}u" in header
    fields = re.search(r"typedef struct \{([^}]*)\} eqrl_params_header;", header)
    assert fields is not None
    words = [int(n or 1) for n in re.findall(r"uint32_t \w+(?:\[(\d+)\])?;", fields[1])]
    assert sum(words) * 4 == params.HEADER_BYTES


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 33), min_size=2, max_size=5),
    st.sampled_from(["argmax", "masked", "affine"]),
)
def test_reading_inverts_building(seed: int, sizes: list[int], head: str) -> None:
    policy = random_policy(np.random.default_rng(seed), sizes, head=head)
    blob = build_params(policy, sequence=seed)
    found = read_params(blob)
    assert (found.sequence, found.contract) == (seed, plan_params(policy).contract)
    assert found.entries == plan_params(policy).entries
    for layer, block in zip(executed_layers(policy), found.blocks[1:-1], strict=True):
        if isinstance(layer, Lookup):
            assert block == layer.table.tobytes()
        else:
            assert isinstance(layer, Dense)
            rows, columns = layer.weights.shape
            require_same_dense(policy.network, layer, unpack_linear(block, Kernel.DENSE_S8, (rows, columns)))
    edge = policy.observation
    multiplier, bias = edge.inverse
    assert [v % 2**32 for v in unpack_words(found.blocks[0])] == [multiplier, bias, edge.zero_point % 2**32]
    assert unpack_words(found.blocks[-1]) == expected_action(policy.action)


def require_same_dense(network: IntegerNetwork, layer: Dense, block: PackedLinear) -> None:
    for field in ("weights", "bias", "multiplier", "shift", "output_min", "output_max"):
        np.testing.assert_array_equal(getattr(block, field), getattr(layer, field))
    assert block.input_zero_point == network.tensors[layer.input].zero_point
    assert block.output_zero_point == network.tensors[layer.output].zero_point


def expected_action(action: object) -> tuple[int, ...]:
    if isinstance(action, ArgmaxEdge):
        return (action.start,)
    assert isinstance(action, AffineEdge)
    rows = zip(action.gain, action.offset, action.low, action.high, action.fraction_bits, strict=True)
    return tuple(value for row in rows for value in row)


def test_blocks_are_words_in_a_row_without_gaps() -> None:
    layout = plan_params(random_policy(np.random.default_rng(1), (3, 5, 7, 2), head="affine"))
    ends = [entry.offset + entry.num_bytes for entry in layout.entries]
    assert [entry.offset for entry in layout.entries[1:]] + [layout.total_bytes] == ends
    assert all(entry.offset % 4 == 0 for entry in layout.entries)


def test_contract_is_the_same_for_other_weights_of_the_same_shapes() -> None:
    contracts = {
        plan_params(random_policy(np.random.default_rng(i), (4, 8, 3), lookups=0)).contract for i in range(20)
    }
    # The first action's number differs between these policies, and code relies on its meaning.
    starts = {
        random_policy(np.random.default_rng(i), (4, 8, 3), lookups=0).action.start  # type: ignore[union-attr]
        for i in range(20)
    }
    assert len(contracts) == len(starts)


def test_contract_changes_with_whatever_the_code_relies_on() -> None:
    policy = random_policy(np.random.default_rng(0), (4, 4, 4, 4), lookups=0)
    action = policy.action
    assert isinstance(action, ArgmaxEdge)
    network = policy.network
    first, second, third = network.layers
    rewired = (first, second, replace(third, input=second.input))
    shaped = replace(policy.observation, part=replace(policy.observation.part, shape=(2, 2)))
    tensors = {**network.tensors, "in": replace(network.tensors["in"], shape=(2, 2))}
    others = [
        replace(policy, action=replace(action, start=action.start + 1)),
        replace(policy, action=replace(action, is_masked=True)),
        replace(policy, network=replace(network, layers=rewired)),
        replace(policy, observation=shaped, network=replace(network, tensors=tensors)),
        random_policy(np.random.default_rng(0), (4, 4, 4), lookups=0),
    ]
    contracts = {plan_params(other).contract for other in (policy, *others)}
    assert len(contracts) == len(others) + 1


def test_contract_says_whether_a_draw_is_squashed_which_no_block_does() -> None:
    policy = random_policy(np.random.default_rng(0), (4, 3), lookups=0)
    columns = {"gain": np.ones(3), "offset": np.zeros(3), "low": -np.ones(3), "high": np.ones(3)}
    contracts = set()
    for is_squashed in (False, True):
        action = make_gaussian_edge(scale=0.05, zero_point=0, std=0.5, is_squashed=is_squashed, **columns)
        contracts.add(plan_params(replace(policy, action=action)).contract)
    assert len(contracts) == 2


@pytest.mark.parametrize("where", [0, 4, 8, 12, 16, 20, 52, 56, 128, 200, -1])
def test_damage_is_found_wherever_it_is(where: int) -> None:
    blob = bytearray(build_params(random_policy(np.random.default_rng(2))))
    blob[where] ^= 0x10
    with pytest.raises(DataError, match="Export the policy again"):
        read_params(bytes(blob))


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300])
def test_a_truncated_blob_is_refused(length: int) -> None:
    with pytest.raises(DataError):
        read_params(build_params(random_policy(np.random.default_rng(2)))[:length])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (52, 2**31, "length"),  # number of entries
        (128, 99, "kernel 99"),  # the first entry's kernel
        (132, 2**32 - 4, "outside"),  # its offset
        (132, 241, "outside"),
    ],
)
def test_a_lying_blob_with_a_right_checksum_is_refused(at: int, value: int, message: str) -> None:
    blob = build_params(random_policy(np.random.default_rng(2)))
    with pytest.raises(DataError, match=message):
        read_params(with_field(blob, at, value))


def test_signature_is_not_part_of_the_checksum() -> None:
    blob = bytearray(build_params(random_policy(np.random.default_rng(2))))
    blob[64:128] = b"s" * 64
    read_params(bytes(blob))


def test_a_layer_that_could_overflow_in_the_last_clamp_is_refused() -> None:
    source, target = Tensor("a", (1,), 1.0, 0), Tensor("b", (1,), 1.0, 0)
    one = np.ones(1, np.int32)
    safe = Dense(
        "b", "a", "b", np.zeros((1, 1), np.int8), np.array([2**31 - 600]), one * 2**30, one * 0, -128, 127
    )
    pack_linear(safe, source, target)
    with pytest.raises(UnsupportedOperatorError, match="FULLY_CONNECTED at 'b'"):
        pack_linear(replace(safe, bias=np.array([2**31 - 100])), source, target)


def test_an_action_beyond_int32_is_refused() -> None:
    policy = random_policy(np.random.default_rng(0), (2, 3))
    action = ArgmaxEdge(3, start=2**31)
    with pytest.raises(UnsupportedOperatorError, match="int32"):
        build_params(IntegerPolicy("p", policy.observation, policy.network, action))


def test_every_kind_of_layer_has_a_kernel() -> None:
    """So that "C: yes" in SUPPORTED_OPS.md is true of all rows."""
    kinds = {kind for name in layers.__all__ if hasattr(kind := getattr(layers, name), "run")}
    assert kinds - set(LAYER_CODES) == {layers.Linear, layers.Reshape}  # the base class; the same bytes


def _single(
    name: str, dtype: str, shapes: list[tuple[int, ...]], constants: list[np.ndarray], **options: object
) -> bytes:
    """One operator of activations shapes[:-1] and int32 constants; the output has shapes[-1]."""
    scale = {"INT8": 0.5, "INT16": 2.0**-15}[dtype]
    activations = [
        {"shape": (1, *shape), "dtype": dtype, "scale": scale, "zero_point": 0} for shape in shapes
    ]
    extra = [{"shape": c.shape, "dtype": "INT32", "data": c.astype(np.int32)} for c in constants]
    return single_operator(name, [*activations[:-1], *extra], [activations[-1]], **options)


def _pooled(kernel: int) -> bytes:
    window = {"filter_height": kernel, "filter_width": kernel, "stride_h": 2, "stride_w": 2}
    return _single("MAX_POOL_2D", "INT8", [(4, 4, 1), (2, 2, 1)], [], padding="VALID", **window)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_single("ADD", "INT8", [(4,)] * 3, []), _single("SUB", "INT8", [(4,)] * 3, [])),
        (_single("MAXIMUM", "INT8", [(4,)] * 3, []), _single("MINIMUM", "INT8", [(4,)] * 3, [])),
        (_single("TANH", "INT16", [(4,)] * 2, []), _single("LOGISTIC", "INT16", [(4,)] * 2, [])),
        (
            _single("SLICE", "INT8", [(4,), (2,)], [np.array([0, 0]), np.array([1, 2])]),
            _single("SLICE", "INT8", [(4,), (2,)], [np.array([0, 1]), np.array([1, 2])]),
        ),
        (
            _pooled(2),
            _pooled(1),
        ),
        (
            _single("MEAN", "INT8", [(3, 3), (3,)], [np.array([1])]),
            _single("MEAN", "INT8", [(3, 3), (3,)], [np.array([2])]),
        ),
    ],
    ids=["sign", "extreme", "function", "pieces", "window", "axes"],
)
def test_contracts_differ_where_the_blocks_do_not(one: bytes, other: bytes) -> None:
    layouts = [plan_params(BareNetwork("net", read_tflite(data))) for data in (one, other)]
    assert layouts[0].entries == layouts[1].entries
    assert layouts[0].contract != layouts[1].contract


def test_contracts_differ_by_inputs_outputs_and_their_sizes() -> None:
    def contract(sizes: dict[str, int], inputs: str, outputs: str, dtype: str = "int8") -> bytes:
        tensors = {name: Tensor(name, (size,), 1.0, 0, dtype) for name, size in sizes.items()}
        network = IntegerNetwork(tensors, tuple(inputs), tuple(outputs), ())
        return plan_params(BareNetwork("net", network)).contract

    contracts = [
        contract({"a": 3, "b": 3}, "ab", "ab"),
        contract({"a": 3, "b": 3}, "ab", "ba"),
        contract({"a": 3, "b": 3}, "ab", "a"),
        contract({"a": 3, "b": 5}, "ab", "a"),
        contract({"a": 3, "b": 3}, "ab", "ab", "int16"),
        contract({"a": 3}, "a", "a"),
    ]
    assert len(set(contracts)) == len(contracts)


@pytest.mark.parametrize("head", HEADS)
def test_reading_inverts_building_for_whole_policies(head: str) -> None:
    rng = np.random.default_rng(len(head))
    policy = any_whole_policy(rng, head)
    layout, found = plan_params(policy), read_params(build_params(policy, sequence=3))
    assert (found.entries, found.blocks) == (layout.entries, layout.blocks)
    assert len(layout.observations) == len(policy.observations)
    assert len(layout.layers) == len(executed_layers(policy))
    assert {entry.kernel for entry in layout.fills} <= {Kernel.FILL}
    begun = [unpack_words(found.blocks[found.entries.index(entry)])[0] for entry in layout.fills]
    frames = [policy.frame_padding] if policy.frames is not None else []
    assert begun == [*frames, *(state.initial for state in policy.recurrent)]
    assert [entry.kernel for entry in layout.values] == [Kernel.AFFINE_F32] * len(policy.values)


def test_the_contract_covers_all_that_the_code_knows_of_edges_and_memory() -> None:
    frames = FrameStack(2, 0, True, "first")
    policy = random_whole_policy(
        np.random.default_rng(1), "multi", ("float", "classes"), frames=frames, states=(3, 3), values=(1,)
    )
    classes = policy.observations[1]
    one_hot = classes.part.one_hot
    assert one_hot is not None
    first, second = policy.recurrent
    moved = (replace(first, output=second.output), replace(second, output=first.output))
    tensors = dict(policy.network.tensors)
    for name in (first.input, first.output):
        tensors[name] = replace(tensors[second.input], name=name)
    tied = replace(policy.network, tensors=tensors)
    counts = ((one_hot[0][0], one_hot[0][1] + 1), (one_hot[1][0], one_hot[1][1] - 1), *one_hot[2:])
    assert counts[1][1] > 0
    recounted = replace(classes, part=replace(classes.part, one_hot=counts))
    action = policy.action
    assert isinstance(action, MultiDiscreteEdge)
    others = [
        policy,
        replace(policy, frames=replace(frames, padding="zero")),
        replace(policy, more_observations=(recounted,)),
        replace(policy, recurrent=moved, network=tied),
        replace(policy, values=()),
        replace(policy, action=replace(action, is_masked=True)),
        replace(policy, action=replace(action, starts=tuple(start + 1 for start in action.starts))),
        replace(policy, recurrent=(first,)),
    ]
    assert len({plan_params(other).contract for other in others}) == len(others)
    begun = replace(policy, recurrent=(replace(first, initial=first.initial ^ 1), second))
    assert plan_params(begun).contract == plan_params(policy).contract
    assert build_params(begun) != build_params(policy)
