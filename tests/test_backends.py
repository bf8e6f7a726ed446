"""Backends by name: integer networks, policies around them, the float policy without TensorFlow."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.agents.heads import BoxHead, DiscreteHead, Scale
from edgeqrl.backends import NETWORK_BACKENDS, open_float_policy, open_network, open_policy
from edgeqrl.backends.float_litert import open_float_network
from edgeqrl.backends.network_policy import close_network
from edgeqrl.backends.runtime_network import Interpreter
from edgeqrl.backends.worker import Worker
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import DataError, MissingToolError, UnsupportedOperatorError, UsageError
from edgeqrl.network.edges import ObservationEdge, decode_actions, quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.rollout import rollout
from tests.oracles import skip_unless_ci
from tests.tflite_writer import random_dense_tflite, random_float_tflite

ROOT = Path(__file__).parent.parent
RUNTIMES = ["litert", "litert-ref", "tflm", "tflite-runtime"]
TFLITE = random_dense_tflite(np.random.default_rng(2), [3, 8, 4], ["RELU", "NONE"])
FLOAT_TFLITE = random_float_tflite(np.random.default_rng(2), [3, 8, 4], ["RELU", "TANH"])


def policy_of(network: IntegerNetwork) -> IntegerPolicy:
    source = network.tensors[network.inputs[0]]
    target = network.tensors[network.outputs[0]]
    edge = DiscreteHead.single(target.size).edge(Scale(target.scale, target.zero_point), is_masked=True)
    return IntegerPolicy(
        "p", ObservationEdge.of(source.shape, source.scale, source.zero_point), network, edge
    )


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_take_batches_of_any_size(name: str) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.integers(-128, 128, (9, 3), np.int8)
    try:
        network = open_network(name, TFLITE)
    except MissingToolError as missing:
        skip_unless_ci(name, missing)
    expected = Reference(read_tflite(TFLITE)).run({"observation": inputs})
    assert network.name == name
    for rows in (slice(0, 9), slice(4, 5), slice(0, 0)):
        (answer,) = network.run({"observation": inputs[rows]}).values()
        assert answer.dtype == np.int8
        (whole,) = expected.values()
        assert answer.shape == whole[rows].shape
        assert np.max(np.abs(answer.astype(int) - whole[rows]), initial=0) <= (1 if "litert" in name else 0)
    with pytest.raises(ValueError, match="must be int8"):
        network.run({"observation": inputs.astype(np.float32)})
    close_network(network)


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_we_cannot_lower_never_reaches_a_runtime(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match="Convert with full-integer"):
        open_network(name, FLOAT_TFLITE)
    with pytest.raises(DataError, match="damaged"):
        open_network(name, TFLITE[:500])


def test_an_unknown_backend_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'reference'"):
        open_network("refrence", TFLITE)
    with pytest.raises(UsageError, match="did you mean 'tflm'"):
        open_policy("tfml", policy_of(read_tflite(TFLITE)), TFLITE)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("tflite_micro", "tflm", "runtimes"),
        ("ai_edge_litert", "litert", "runtimes"),
        ("tflite_runtime", "tflite-runtime", "tflite-runtime"),
    ],
)
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(
    package: str, name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker imports from where its parent does.
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingToolError) as caught:
        open_network(name, TFLITE)
    assert f"pip install 'edgeqrl[{extra}]'" in str(caught.value)


def test_every_backend_names_a_module_of_ours() -> None:
    for target in NETWORK_BACKENDS.values():
        module, _, function = target.partition(":")
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert path.is_file(), target
        assert f"def {function}(" in path.read_text(), target


@pytest.mark.parametrize("name", ["reference", "tflm"])
def test_a_network_policy_is_the_edges_around_the_network(name: str) -> None:
    policy = policy_of(read_tflite(TFLITE))
    rng = np.random.default_rng(1)
    observations = rng.normal(0, 5, (20, 3)).astype(np.float32)
    observations[3, 1] = np.nan
    masks = rng.random((20, 4)) < 0.5
    quantized, _ = quantize_observations(policy.observation, observations)
    (outputs,) = Reference(policy.network).run({"observation": quantized}).values()
    with open_policy(name, policy, TFLITE) as opened:
        starts = np.zeros(20, np.bool_)
        actions, state = opened.act(observations, None, episode_start=starts)
        masked, _ = opened.act(observations, state, episode_start=starts, action_masks=masks)
        real = opened.outputs(observations)
        assert opened.name == name
    assert state == ()
    np.testing.assert_array_equal(actions, decode_actions(policy.action, outputs))
    np.testing.assert_array_equal(masked, decode_actions(policy.action, outputs, masks))
    target = policy.network.tensors[policy.network.outputs[0]]
    expected = (outputs.astype(np.float64) - target.zero_point) * target.scale
    np.testing.assert_array_equal(real, expected.astype(np.float32))


def test_the_float_network_computes_what_its_weights_say_row_by_row() -> None:
    observations = np.random.default_rng(1).normal(0, 1, (50, 3)).astype(np.float32)
    rng = np.random.default_rng(2)
    values = observations.astype(np.float64)
    for columns, rows, function in ((3, 8, lambda x: np.maximum(x, 0)), (8, 4, np.tanh)):
        weights = rng.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)
        bias = rng.normal(0.0, 0.1, rows).astype(np.float32)
        values = function(values @ weights.T + bias)
    with open_float_network(FLOAT_TFLITE) as network:
        (outputs,) = network.run({"observation": observations}).values()
        (alone,) = network.run({"observation": observations[7:8]}).values()
        (none,) = network.run({"observation": observations[:0]}).values()
    assert (outputs.dtype, none.shape) == (np.float32, (0, 4))
    np.testing.assert_allclose(outputs, values, atol=1e-6)
    assert alone.tobytes() == outputs[7:8].tobytes()


def test_a_rollout_asks_the_float_policy_once_a_step_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = Worker.send

    def counted(worker: Worker, command: str, *others: Any) -> None:
        asked.append(command)
        send(worker, command, *others)

    monkeypatch.setattr(Worker, "send", counted)
    tflite = random_float_tflite(np.random.default_rng(2), [4, 8, 2], ["RELU", "NONE"])
    with open_float_policy(tflite, DiscreteHead.single(2)) as policy:
        played = rollout(policy, EnvironmentSpec("CartPole-v1").make, range(6), num_envs=6)
    assert asked == ["open", *["run"] * played.episode_lengths.max()]


@pytest.mark.parametrize("runtime", ["litert", "tflite-runtime"])
def test_a_row_of_a_float_network_never_depends_on_its_batch(runtime: str) -> None:
    rng = np.random.default_rng(3)
    tflite = random_float_tflite(rng, [5, 33, 17, 3], ["RELU", "TANH", "NONE"])
    rows = rng.normal(0, 2, (70, 5)).astype(np.float32)
    try:
        interpreter = Interpreter(runtime, tflite, is_reference=False, num_outputs=1)
    except MissingToolError as missing:
        skip_unless_ci(runtime, missing)
    (together,) = interpreter.run([rows])
    for batch in (rows[:1], rows[69:], rows[::-1], rows[3:40]):
        (answers,) = interpreter.run([batch])
        places = [np.flatnonzero((rows == row).all(axis=1))[0] for row in batch]
        assert answers.tobytes() == together[places].tobytes()
    interpreter.close()


def test_the_float_policy_acts_by_its_head() -> None:
    observations = np.random.default_rng(1).normal(0, 1, (5, 3)).astype(np.float32)
    head = BoxHead((4,), (-2.0,) * 4, (2.0,) * 4, (2.0,) * 4, (0.0,) * 4)
    with open_float_policy(FLOAT_TFLITE, head) as policy:
        actions, state = policy.act(observations, None, episode_start=np.ones(5, np.bool_))
        np.testing.assert_array_equal(actions, head.actions(policy.outputs(observations)))
        assert (policy.name, state) == ("litert-float32", ())


def test_the_float_policy_falls_back_to_tflite_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tflite_runtime")
    (tmp_path / "ai_edge_litert.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with open_float_policy(FLOAT_TFLITE, DiscreteHead.single(4)) as policy:
        policy.act(np.zeros((1, 3), np.float32), None, episode_start=np.ones(1, np.bool_))
        assert policy.name == "tflite-runtime-float32"


@pytest.mark.parametrize(
    ("tflite", "head", "why"),
    [
        (FLOAT_TFLITE, DiscreteHead.single(5), "outputs of sizes"),
        (TFLITE, DiscreteHead.single(4), "must be FLOAT32"),
        (FLOAT_TFLITE[:600], DiscreteHead.single(4), "damaged"),
    ],
)
def test_a_float_network_that_does_not_fit_is_refused(tflite: bytes, head: DiscreteHead, why: str) -> None:
    with pytest.raises(DataError, match=why):
        open_float_policy(tflite, head)


def test_importing_the_backends_imports_no_runtime() -> None:
    script = (
        "import sys, edgeqrl.backends, edgeqrl.network.compare, edgeqrl.backends.float_litert\n"
        "heavy = ('tensorflow', 'ai_edge_litert', 'tflite_runtime', 'tflite_micro', 'gymnasium', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
