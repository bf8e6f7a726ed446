"""Learning: the loss falls, killed or not the same bytes come out, and what students meet counts."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.agents.agent import StateSpec
from edgeqrl.agents.heads import BoxHead, DiscreteHead, GaussianHead, Head, MultiBinaryHead, ValueHead
from edgeqrl.errors import UsageError
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.grids import apply_weight_grids
from edgeqrl.quantize.learned import Learning, learn
from edgeqrl.quantize.learned.checkpoint import Checkpoint, Standing, States
from edgeqrl.quantize.learned.loss import LossScales, loss_of
from edgeqrl.quantize.learned.training import Moments
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.quantize.samples import run_both
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.weights_file import read_weights, write_weights
from tests.float_twins import float_twin
from tests.gru_network import gru_step
from tests.test_correction import SIZES, float_layers, float_tflite, int8_tflite, observations
from tests.toys import ChaosEnv

W3 = Scheme(weight_bits=3, learned=True)


def dense_policy(head: Head | None = None, middle: str = "RELU") -> QuantizedPolicy:
    """Return a policy of 5 numbers and 3 outputs at 3 bits, with its float twin."""
    layers = float_layers(3)
    exact = float_tflite(layers, middle)
    integer = apply_weight_grids(int8_tflite(layers, middle), exact, W3)
    chosen = head or DiscreteHead.single(SIZES[-1])
    return QuantizedPolicy(
        integer, exact, chosen, W3, Preprocessing.plain(SIZES[:1]), "policy", "0" * 64, "1" * 64
    )


def gru_policy() -> QuantizedPolicy:
    integer = gru_step(np.random.default_rng(3))
    gentle = {
        name: replace(layer, scales=layer.scales * np.float32(0.1))
        for name, layer in read_weights(integer).items()
    }
    integer = write_weights(integer, gentle)
    return QuantizedPolicy(
        apply_weight_grids(integer, float_twin(integer), W3),
        float_twin(integer),
        DiscreteHead.single(3),
        W3,
        Preprocessing.plain((6,)),
        "policy",
        "0" * 64,
        "1" * 64,
        states=(StateSpec("state", (8,)),),
    )


def samples(count: int = 400) -> dict[str, Any]:
    return {"observation": observations(4, count)}


def loss_on(policy: QuantizedPolicy, given: dict[str, Any]) -> float:
    """Return the mean loss of the integer network's answers."""
    exact, integers = run_both(policy, given)
    network = policy.integer_policy().network
    answers = []
    for name, values in integers.items():
        tensor = network.tensors[name]
        real = (values.reshape(len(values), -1).astype(np.float32) - tensor.zero_point) * tensor.scale
        answers.append(real.astype(np.float32))
    wanted = [exact[name].reshape(len(answers[0]), -1) for name in integers]
    loss = loss_of(policy.head, LossScales.of(policy.head, wanted), num_states=len(policy.states))
    return float(np.mean(loss(answers, wanted)))


BOX = BoxHead((3,), (-2.0,) * 3, (2.0,) * 3, (1.0,) * 3, (0.0,) * 3)
GAUSSIAN = GaussianHead((3,), (-2.0,) * 3, (2.0,) * 3, (1.0,) * 3, (0.0,) * 3, log_std=(-1.0,) * 3)


@pytest.mark.parametrize(
    ("head", "middle"), [(DiscreteHead.single(3), "RELU"), (BOX, "TANH"), (GAUSSIAN, "RELU6")]
)
def test_a_learned_policy_answers_as_the_float_one(head: Head, middle: str) -> None:
    policy = dense_policy(head, middle)
    learned = learn(policy, samples(), Learning(steps=300, rounds=1))
    fresh = {"observation": observations(9, 300)}
    assert loss_on(learned, fresh) < 0.8 * loss_on(policy, fresh)
    assert learned.scheme == policy.scheme


def test_a_recurrent_step_is_learned_with_its_state() -> None:
    policy, rng = gru_policy(), np.random.default_rng(0)
    given = {
        "observation": rng.uniform(-3, 3, (400, 6)).astype(np.float32),
        "state": rng.uniform(-0.9, 0.9, (400, 8)).astype(np.float32),
    }
    learned = learn(policy, given, Learning(steps=300, rounds=1))
    assert loss_on(learned, given) < 0.95 * loss_on(policy, given)


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    policy = dense_policy()
    first, second, other = (
        learn(policy, samples(), Learning(steps=60, rounds=1, seed=seed)).tflite for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


class Killed(Exception):
    """Ctrl-C, as a test can catch it."""


@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 3))])
def test_what_was_killed_goes_on_to_the_same_result(tmp_path: Path, at: int) -> None:
    policy = replace(dense_policy(), preprocessing=chaos_preprocessing())
    learning = Learning(make_env=ChaosEnv5, steps=540, rounds=2, episodes=3, seed=7)
    told: list[int] = []

    def kill(done: int, total: int) -> None:
        told.append(done)
        assert total == 540
        if len(told) == at:
            raise Killed

    whole = learn(policy, samples(), learning).tflite
    kept = replace(learning, checkpoint=tmp_path / "learning")
    with pytest.raises(Killed):
        learn(policy, samples(), kept, progress=kill)
    told_after: list[int] = []
    gone_on = learn(policy, samples(), kept, progress=lambda done, total: told_after.append(done))
    assert gone_on.tflite == whole
    assert told_after == [250, 270, 520, 540][at:]


def test_a_checkpoint_of_another_learning_is_not_gone_on_with(tmp_path: Path) -> None:
    policy = dense_policy()
    learning = Learning(steps=30, rounds=1, seed=1, checkpoint=tmp_path)
    first = learn(policy, samples(), learning).tflite
    other = learn(policy, samples(), replace(learning, seed=2)).tflite
    assert other != first


def damaged(kind: str, whole: bytes) -> bytes:
    buffer = io.BytesIO()
    if kind == "array":
        np.save(buffer, np.zeros(3))
    elif kind == "list":
        np.savez(buffer, header=np.frombuffer(b"[1, 2]", np.uint8))
    elif kind == "nested":
        np.savez(buffer, header=np.frombuffer(b"[" * 10**5, np.uint8))
    elif kind == "pickle":
        np.savez(buffer, header=np.array([None]))
    return {"text": b"damaged", "zip": b"PK\3\4 damaged", "half": whole[: len(whole) // 2]}.get(
        kind, buffer.getvalue()
    )


@pytest.mark.parametrize("kind", ["text", "zip", "half", "array", "list", "nested", "pickle"])
@pytest.mark.parametrize("name", ["steps.npz", "states_0.npz"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, kind: str, name: str) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    arrays = {"weights": np.ones(3, np.float32)}
    checkpoint.keep_states(
        0, States([np.ones((4, 2), np.float32)], np.zeros(4, np.bool_), np.ones((4, 3), np.bool_))
    )
    checkpoint.keep(Standing(0, 1, Moments.fresh(arrays), arrays, 0.5, 1.0))
    assert checkpoint.load() is not None
    assert Checkpoint(tmp_path, "another").load() is None
    path = tmp_path / name
    path.write_bytes(damaged(kind, path.read_bytes()))
    assert checkpoint.load() is None


def test_a_checkpoint_of_another_environment_or_head_is_not_gone_on_with(tmp_path: Path) -> None:
    played = replace(dense_policy(), preprocessing=chaos_preprocessing())
    learning = Learning(make_env=ChaosEnv5, steps=10, rounds=1, episodes=1)
    given = replace(learning, make_env=None)
    for one, another in [
        ((played, learning), (played, replace(learning, make_env=MirroredEnv5))),
        ((dense_policy(BOX), given), (dense_policy(GAUSSIAN), given)),
    ]:
        kept = []
        for policy, how in (one, one, another):
            learn(policy, samples(50), replace(how, checkpoint=tmp_path))
            kept.append((tmp_path / "steps.npz").read_bytes())
        assert kept[0] == kept[1], "it was done"
        assert kept[0] != kept[2]


@pytest.mark.parametrize("count", [1, 2])
def test_so_few_states_judge_and_are_learned_too(count: int) -> None:
    policy = dense_policy()
    learned = learn(policy, samples(count), Learning(steps=3, rounds=2))
    assert np.isfinite(loss_on(learned, samples()))


class ChaosEnv5(ChaosEnv):
    """Three actions and, repeated, five features."""

    def __init__(self) -> None:
        super().__init__(actions=3)

    @property
    def observation_space(self) -> Any:  # type: ignore[override]
        import gymnasium

        return gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def observe(self) -> Any:
        three = super().observe()
        return np.concatenate([three, three[:2]])


class MirroredEnv5(ChaosEnv5):
    """Another environment of the same spaces."""

    def observe(self) -> Any:
        return -super().observe()


def chaos_preprocessing() -> Preprocessing:
    return Preprocessing((ObservationPart("observation", (5,)),))


def test_states_that_teacher_and_student_meet_are_added(tmp_path: Path) -> None:
    policy = dense_policy()
    learning = Learning(make_env=ChaosEnv5, steps=30, rounds=3, episodes=4, checkpoint=tmp_path)
    num_open = ChaosEnv5.num_open  # by tests before, of the same class
    learn(policy, samples(100), learning)
    assert ChaosEnv5.num_open == num_open
    rows = []
    for number in range(3):
        with np.load(tmp_path / f"states_{number}.npz") as archive:
            rows.append(archive["input_0"])
    assert [len(r) > 100 for r in rows] == [True] * 3
    for before, after in pairwise(rows):
        np.testing.assert_array_equal(after[: len(before)], before)
        assert 4 * 3 <= len(after) - len(before) <= 4 * 12


def test_learning_is_never_worse_than_nothing_by_its_own_loss() -> None:
    """Weights that are exact on their grid cannot be bettered, and a few wild steps are thrown away."""
    integer = int8_tflite(float_layers(3), "RELU")
    policy = replace(dense_policy(), tflite=integer, float_tflite=float_twin(integer))
    policy = replace(policy, scheme=Scheme(learned=True))
    before = loss_on(policy, samples())
    assert loss_on(learn(policy, samples(), Learning(steps=3, rounds=1)), samples()) <= 1.5 * before


@pytest.mark.parametrize(
    "head",
    [
        DiscreteHead.single(3),
        DiscreteHead.single(3, is_stochastic=True),
        DiscreteHead((2, 1), (0, 0)),
        MultiBinaryHead((3,)),
        BOX,
        GAUSSIAN,
        ValueHead(("a", "b", "c")),
    ],
)
def test_a_loss_is_zero_for_the_teacher_and_positive_beside_it(head: Head) -> None:
    rng = np.random.default_rng(0)
    outputs = [rng.normal(0, 1, (50, 3)).astype(np.float32), rng.normal(0, 1, (50, 2)).astype(np.float32)]
    loss = loss_of(head, LossScales.of(head, outputs), num_states=1)
    np.testing.assert_allclose(np.asarray(loss(outputs, outputs)), 0.0, atol=1e-5)
    beside = [outputs[0] + np.array([0.5, -0.5, 0.3], np.float32), outputs[1]]
    assert float(np.mean(loss(beside, outputs))) > 1e-3
    other_state = [outputs[0], outputs[1] + 1.0]
    assert float(np.min(loss(other_state, outputs))) > 0.1


def test_beyond_a_bound_only_what_would_come_back_counts() -> None:
    teacher = [np.array([[5.0, -5.0, 5.0]], np.float32)]
    loss = loss_of(BOX, LossScales.of(BOX, teacher), num_states=0)
    same = [np.array([[2.5, -9.0, 2.0]], np.float32)]
    assert float(loss(same, teacher)[0]) == 0.0
    back = [np.array([[1.0, -9.0, 2.0]], np.float32)]
    assert float(loss(back, teacher)[0]) == pytest.approx((1.0 / 2.0) ** 2 / 3)


@pytest.mark.parametrize("is_stochastic", [False, True])
def test_what_is_forbidden_does_not_count(is_stochastic: bool) -> None:
    """Neither its value nor its rank; and a choice that allows nothing has no mask, as heads have it."""
    import tensorflow as tf

    head, rng = DiscreteHead((3, 2), (0, 0), is_stochastic=is_stochastic), np.random.default_rng(0)
    outputs = rng.normal(0, 1, (50, 5)).astype(np.float32)
    mask = np.tile(np.array([[1, 0, 1, 0, 0]], np.float32), (50, 1))
    scales = LossScales.of(head, [outputs])
    loss = loss_of(head, scales, num_states=0)
    student = outputs + np.array([0, 9, 0, 0, 0], np.float32)
    assert float(np.max(loss([student], [outputs, mask]))) < 1e-5
    assert float(np.min(loss([student], [outputs]))) > 1e-2
    np.testing.assert_array_equal(loss([student], [outputs, np.ones_like(mask)]), loss([student], [outputs]))
    two = loss_of(DiscreteHead((2, 2), (0, 0), is_stochastic=is_stochastic), scales, num_states=0)
    other = outputs + rng.normal(0, 1, outputs.shape).astype(np.float32)
    left = [0, 2, 3, 4]
    wanted = np.asarray(two([other[:, left]], [outputs[:, left]]))
    given = tf.constant(other)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = loss([given], [outputs, mask])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    gradient = np.asarray(tape.gradient(found, given))
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[:, 1] == 0.0)
    assert np.any(gradient[:, 3] != 0.0)


def test_the_head_of_classes_ignores_a_constant_of_a_row() -> None:
    head, rng = DiscreteHead.single(3), np.random.default_rng(0)
    teacher = [rng.normal(90, 0.1, (50, 3)).astype(np.float32)]
    loss = loss_of(head, LossScales.of(head, teacher), num_states=0)
    shifted = [teacher[0] + np.float32(3.0)]
    assert float(np.max(loss(shifted, teacher))) < 1e-3


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"steps": 0}, {"episodes": 0}, {"rounds": 9, "steps": 8}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"[Ll]earn"):
        Learning(**wrong)  # type: ignore[arg-type]
