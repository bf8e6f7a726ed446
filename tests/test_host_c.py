import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgeqrl.backends.host_c as host_c
from edgeqrl.backends.host_c import HostC, HostCPolicy, open_network, policy_of_network
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.errors import MissingToolError, UnsupportedOperatorError
from edgeqrl.interfaces import ScoringPolicy
from edgeqrl.network.edges import decode_actions, quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.toolchain import HostCompiler
from tests.c_policies import random_observations, random_policy
from tests.tflite_writer import random_dense_tflite

ACTIVATIONS = ("NONE", "RELU", "RELU6", "TANH", "LOGISTIC")


def require_equal_to_reference(policy: IntegerPolicy, rng: np.random.Generator, count: int = 300) -> None:
    host = HostC(policy)
    observations = random_observations(rng, policy, count)
    inputs, flags = quantize_observations(policy.observation, observations)
    outputs = Reference(policy.network).run({policy.network.inputs[0]: inputs})[policy.network.outputs[0]]
    masks = rng.random((count, outputs[0].size)) < 0.4
    is_masked = getattr(policy.action, "is_masked", False)
    expected = decode_actions(policy.action, outputs, masks if is_masked else None)
    actions, status = host.step(observations, masks)
    inferred = host.infer({policy.network.inputs[0]: inputs})[policy.network.outputs[0]]
    np.testing.assert_array_equal(inferred, outputs)
    np.testing.assert_array_equal(status, flags)
    np.testing.assert_array_equal(actions, expected)
    assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize(
    ("sizes", "shape", "head"),
    [
        ((4, 64, 64, 2), None, "argmax"),
        ((1, 1), None, "affine"),
        ((5,), None, "argmax"),  # no layers: the outputs are the inputs
        ((6, 5, 9), (2, 3), "masked"),
        ((24, 3), (2, 3, 4), "affine"),
        ((17, 130, 6), None, "affine"),
    ],
)
def test_host_c_equals_the_reference(
    sizes: tuple[int, ...], shape: tuple[int, ...] | None, head: str
) -> None:
    rng = np.random.default_rng(sum(sizes))
    require_equal_to_reference(random_policy(rng, sizes, head=head, shape=shape, lookups=0.5), rng)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 70), min_size=1, max_size=6),
    st.sampled_from(["argmax", "masked", "affine"]),
)
def test_host_c_equals_the_reference_on_any_policy(seed: int, sizes: list[int], head: str) -> None:
    rng = np.random.default_rng(seed)
    require_equal_to_reference(random_policy(rng, sizes, head=head, lookups=0.4), rng)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 300), min_size=1, max_size=9),
    st.sampled_from(["argmax", "masked", "affine"]),
)
def test_host_c_equals_the_reference_on_many_policies(seed: int, sizes: list[int], head: str) -> None:
    rng = np.random.default_rng(seed)
    require_equal_to_reference(random_policy(rng, sizes, head=head, lookups=0.4), rng)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.data())
def test_networks_read_from_tflite_run_as_the_reference(seed: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=2, max_size=5))
    count = len(sizes) - 1
    activations = data.draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=count, max_size=count))
    rng = np.random.default_rng(seed)
    tflite = random_dense_tflite(rng, sizes, activations, per_channel=data.draw(st.booleans()))
    reference = Reference(read_tflite(tflite))
    network = open_network(tflite)
    inputs = {reference.network.inputs[0]: rng.integers(-128, 128, (100, sizes[0])).astype(np.int8)}
    expected, found = reference.run(inputs), network.run(inputs)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == np.int8


def test_policy_acts_on_any_batch_as_on_single_rows() -> None:
    rng = np.random.default_rng(0)
    policy = HostCPolicy(random_policy(rng, (4, 8, 3), head="affine"))
    observations = random_observations(rng, policy.host.policy, 50)
    start = np.zeros(50, np.bool_)
    actions, state = policy.act(observations, None, episode_start=start)
    assert state == ()
    for i in range(50):
        alone, _ = policy.act(observations[i : i + 1].astype(np.float64), (), episode_start=start[:1])
        np.testing.assert_array_equal(alone[0], actions[i])
    nobody, _ = policy.act(observations[:0], (), episode_start=start[:0])
    assert nobody.shape == (0, 3)


@pytest.mark.parametrize("head", ["argmax", "masked", "affine"])
def test_outputs_are_the_networks_in_real_units(head: str) -> None:
    rng = np.random.default_rng(5)
    policy = random_policy(rng, (6, 9, 4), head=head, shape=(2, 3))
    observations = random_observations(rng, policy, 50)
    inputs, _ = quantize_observations(policy.observation, observations)
    integers = Reference(policy.network).run({policy.network.inputs[0]: inputs})[policy.network.outputs[0]]
    tensor = policy.network.tensors[policy.network.outputs[0]]
    expected = np.float32(tensor.scale) * (integers.astype(np.int64) - tensor.zero_point).astype(np.float32)
    host = HostCPolicy(policy)
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    for scoring in (host, reference):
        assert isinstance(scoring, ScoringPolicy)
        outputs = scoring.outputs(observations)
        assert (outputs.dtype, outputs.shape) == (np.float32, (50, 4))
        np.testing.assert_array_equal(outputs, expected)
        np.testing.assert_array_equal(scoring.outputs(observations[7:8].astype(np.float64)), outputs[7:8])
        assert scoring.outputs(observations[:0]).shape == (0, 4)
    actions, _ = host.act(observations, None, episode_start=np.ones(50, np.bool_))
    if head == "affine":
        assert actions.shape == (50, 4)
    else:
        np.testing.assert_array_equal(actions, expected.argmax(axis=1) + policy.action.start)


def test_masks_are_ignored_by_a_policy_that_takes_none() -> None:
    rng = np.random.default_rng(0)
    host = HostC(random_policy(rng, (4, 3)))
    observations = random_observations(rng, host.policy, 20)
    plain, _ = host.step(observations)
    masked, _ = host.step(observations, np.zeros((20, 3), np.bool_))
    np.testing.assert_array_equal(plain, masked)


def test_a_masked_policy_without_masks_allows_everything() -> None:
    rng = np.random.default_rng(0)
    host = HostC(random_policy(rng, (4, 3), head="masked"))
    observations = random_observations(rng, host.policy, 20)
    plain, _ = host.step(observations)
    allowed, _ = host.step(observations, np.ones((20, 3), np.bool_))
    np.testing.assert_array_equal(plain, allowed)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (4, 1, 4)])
def test_observations_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    host = HostC(random_policy(np.random.default_rng(0), (4, 3), head="masked"))
    with pytest.raises(ValueError, match="'observation' must be"):
        host.step(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="masks must be"):
        host.step(np.zeros((2, 4), np.float32), np.ones((2, 4), np.bool_))
    with pytest.raises(ValueError, match=r"'in' must be int8 \[N, \(4,\)\]"):
        host.infer({"in": np.zeros((2, 5), np.int8)})


def test_threads_share_a_policy_without_mixing_their_answers() -> None:
    rng = np.random.default_rng(1)
    host = HostC(random_policy(rng, (8, 64, 64, 4), head="affine"))
    batches = [random_observations(rng, host.policy, 400) for _ in range(4)]
    expected = [host.step(batch)[0] for batch in batches]
    wrong: list[int] = []

    def play(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(host.step(batches[i])[0], expected[i], equal_nan=True):
                wrong.append(i)

    threads = [threading.Thread(target=play, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    host_c.host_compiler()
    before = set(tmp_path.iterdir())
    HostC(random_policy(np.random.default_rng(0), (2, 2)))
    assert {path for path in tmp_path.iterdir() if path.name.startswith("edgeqrl-")} <= before


def test_without_a_compiler_the_one_sentence_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> HostCompiler:
        raise MissingToolError("The host-c backend needs a C compiler; get one with `pip install ziglang`.")

    monkeypatch.setattr(host_c, "host_compiler", nothing)
    with pytest.raises(MissingToolError, match="pip install ziglang"):
        HostC(random_policy(np.random.default_rng(0), (2, 2)))


def test_a_broken_compiler_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = HostCompiler("mycc", ("sh", "-c", "echo some noise >&2; echo no space left >&2; exit 1"))
    monkeypatch.setattr(host_c, "host_compiler", lambda: broken)
    with pytest.raises(MissingToolError, match=r"'mycc' cannot build .* no space left\. Point CC"):
        HostC(random_policy(np.random.default_rng(0), (2, 2)))


def test_networks_that_no_policy_can_have_are_refused() -> None:
    a, b = Tensor("a", (2,), 1.0, 0), Tensor("b", (2,), 1.0, 0)
    constant = {"b": np.zeros(2, np.int8)}
    with pytest.raises(UnsupportedOperatorError, match="no input reaches"):
        policy_of_network(IntegerNetwork({"a": a, "b": b}, ("a",), ("a", "b"), (), constant))
    tiny = Tensor("a", (2,), 2.0**-101, 0)
    with pytest.raises(UnsupportedOperatorError, match="scale is out of range"):
        policy_of_network(IntegerNetwork({"a": tiny}, ("a",), ("a",), ()))
