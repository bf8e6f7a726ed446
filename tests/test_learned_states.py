"""What is learned on: the states that the integer policy itself comes to, and what was allowed there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.heads import DiscreteHead
from edgeqrl.backends.network_policy import NetworkPolicy, dequantize_outputs
from edgeqrl.network.edges import ObservationEdge, quantize_observations
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.reference import Reference
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.learned import Learning, learn
from edgeqrl.quantize.learned.states import Student, Teacher, visited
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.rollout import Rollout, rollout
from tests.test_learned import dense_policy, gru_policy, samples
from tests.toys import ChaosEnv, InfoMaskEnv

SEEDS = range(6)


def chaos_of(size: int, base: type[ChaosEnv] = ChaosEnv) -> Callable[[], ChaosEnv]:
    """Return how an environment of three actions and `size` features is made."""

    class Sized(base):  # type: ignore[valid-type,misc]
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)

        def __init__(self) -> None:
            super().__init__(actions=3)

        def observe(self) -> Any:
            return np.resize(super().observe(), size)

    return Sized


class MaskedEnv(InfoMaskEnv):
    """Forbids up to two of three actions; a forbidden one is an error."""

    def mask(self) -> Any:
        mask = super().mask()[:3]
        mask[self.hidden % 3] = 1
        return mask


class DeafEnv(ChaosEnv):
    """Goes its way whatever is done, and allows the first action or the second."""

    gives_masks: ClassVar[bool] = False

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(0)
        return *rest, self.info()

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0], self.info()

    def info(self) -> dict[str, Any]:
        return {"action_mask": np.array([1, 1, 0], np.int8)} if self.gives_masks else {}


class DeafMaskedEnv(DeafEnv):
    gives_masks = True


def stacked_policy() -> QuantizedPolicy:
    part, frames = ObservationPart("observation", (1,)), FrameStack(5, 0, is_new_axis=False, padding="zero")
    return replace(dense_policy(), preprocessing=Preprocessing((part,), frames))


def drawing(policy: QuantizedPolicy) -> QuantizedPolicy:
    return replace(policy, head=DiscreteHead.single(3, is_stochastic=True))


KINDS: dict[str, tuple[Callable[[], QuantizedPolicy], Callable[[], ChaosEnv]]] = {
    "plain": (dense_policy, chaos_of(5)),
    "masks": (dense_policy, chaos_of(5, MaskedEnv)),
    "frames": (stacked_policy, chaos_of(1)),
    "state": (gru_policy, chaos_of(6)),
    "draws": (lambda: drawing(dense_policy()), chaos_of(5)),
    "state, draws and masks": (lambda: drawing(gru_policy()), chaos_of(6, MaskedEnv)),
}


def played_by_the_integer_policy(
    policy: QuantizedPolicy, make_env: Callable[[], ChaosEnv], seeds: range
) -> Rollout:
    """Play as backends do, which know nothing of learning."""
    integers = policy.integer_policy(is_masked=True)
    player = NetworkPolicy(Reference(integers.network), integers, "integer")
    return rollout(player, make_env, seeds, keep_observations=True, keep_masks=True)


def joined(played: Rollout) -> NDArray[np.float32]:
    assert played.observations is not None
    return np.concatenate(played.observations)


def following_states(policy: QuantizedPolicy, inputs: list[Any]) -> NDArray[np.float32]:
    """Return the real next states of the integer network for its real inputs."""
    read = read_with_edges(policy.tflite)
    tensors, given = read.network.tensors, {}
    for edge, values in zip(read.inputs, inputs, strict=True):
        tensor = tensors[edge.tensor]
        plain = ObservationEdge.of(tensor.shape, tensor.scale, tensor.zero_point, tensor.dtype)
        given[edge.tensor], _ = quantize_observations(plain, values.reshape(len(values), *tensor.shape))
    name = read.outputs[-1].tensor
    return dequantize_outputs(tensors[name], Reference(read.network).run(given)[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_meets_what_the_integer_policy_meets(kind: str) -> None:
    policy, make_env = KINDS[kind][0](), KINDS[kind][1]
    student = Student(policy, Teacher(policy))
    inputs, masks = visited(student, make_env, SEEDS, np.random.default_rng(0))
    wanted = played_by_the_integer_policy(policy, make_env, SEEDS)
    size = joined(wanted).shape[1]
    np.testing.assert_array_equal(inputs[0][:, -size:], joined(wanted))  # of frames the latest
    assert (masks is None) == (wanted.masks is None) == ("masks" not in kind)
    if wanted.masks is not None and masks is not None:
        np.testing.assert_array_equal(masks, np.concatenate(wanted.masks))
        assert not masks.all()
    lengths = wanted.episode_lengths.tolist()
    starts = np.cumsum([0, *lengths[:-1]])
    going_on = np.setdiff1d(np.arange(sum(lengths)), starts)
    if "frames" in kind:
        np.testing.assert_array_equal(inputs[0][starts, :-1], 0.0)
        np.testing.assert_array_equal(inputs[0][going_on, :-1], inputs[0][going_on - 1, 1:])
    if "state" in kind:
        np.testing.assert_array_equal(inputs[1][starts], 0.0)
        np.testing.assert_array_equal(inputs[1][going_on], following_states(policy, inputs)[going_on - 1])


def test_of_many_states_some_are_kept_with_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, make_env = dense_policy(), chaos_of(5, MaskedEnv)
    teacher = Teacher(policy).policy
    everything, all_masks = visited(teacher, make_env, SEEDS, np.random.default_rng(0))
    monkeypatch.setattr("edgeqrl.quantize.learned.states._MOST_ROWS", 20)
    some, masks = visited(teacher, make_env, SEEDS, np.random.default_rng(0))
    assert masks is not None
    assert all_masks is not None
    rows = [int(np.flatnonzero((everything[0] == row).all(axis=1))[0]) for row in some[0]]
    assert rows == sorted(set(rows))
    assert len(rows) == 20
    np.testing.assert_array_equal(masks, all_masks[rows])


def kept_states(folder: Path, number: int) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"states_{number}.npz") as archive:
        return dict(archive)


def test_the_float_policy_plays_before_the_first_round_and_what_was_learned_before_the_second(
    tmp_path: Path,
) -> None:
    policy, make_env = dense_policy(), chaos_of(5, MaskedEnv)
    learning = Learning(make_env=make_env, steps=1, rounds=1, episodes=4, seed=30)
    learned = learn(policy, samples(50), learning)
    learn(policy, samples(50), replace(learning, steps=2, rounds=2, checkpoint=tmp_path))
    first, second = (kept_states(tmp_path, number) for number in (0, 1))
    players = Teacher(policy).policy, learned
    teachers = rollout(players[0], make_env, range(30, 34), keep_observations=True)
    students = played_by_the_integer_policy(learned, make_env, range(34, 38))
    np.testing.assert_array_equal(
        first["input_0"], np.concatenate([samples(50)["observation"], joined(teachers)])
    )
    np.testing.assert_array_equal(second["input_0"], np.concatenate([first["input_0"], joined(students)]))
    assert students.masks is not None
    np.testing.assert_array_equal(second["is_allowed"][: len(first["is_held"])], first["is_allowed"])
    np.testing.assert_array_equal(
        second["is_allowed"][len(first["is_held"]) :], np.concatenate(students.masks)
    )
    assert first["is_allowed"][:50].all(), "calibration knows no masks"
    as_teacher = rollout(players[0], make_env, range(34, 38), keep_observations=True)
    assert joined(as_teacher).shape != joined(students).shape or np.any(
        joined(as_teacher) != joined(students)
    )


def test_what_is_forbidden_changes_what_is_learned() -> None:
    """The same states, in an environment that does not listen: only the loss can tell the difference."""
    policy = dense_policy()
    free, masked = (
        learn(policy, samples(20), Learning(make_env=chaos_of(5, env), steps=20, rounds=1, episodes=3)).tflite
        for env in (DeafEnv, DeafMaskedEnv)
    )
    assert free != masked
