"""Whole policies, step by step: parts, frames, recurrent state, draws and values, against plain loops."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from edgeqrl.backends.network_policy import NetworkPolicy, begin_episodes
from edgeqrl.network.draws import seed_words
from edgeqrl.network.edges import (
    ArgmaxEdge,
    ObservationEdge,
    decode_actions,
    draw_actions,
    is_stochastic,
    make_affine_edge,
    make_multi_discrete_edge,
    num_heads,
    num_masks,
    quantize_observations,
)
from edgeqrl.network.integer_policy import IntegerPolicy, ValueOutput
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.memory import FrameStack, Recurrent, plan_memory
from edgeqrl.network.policy_step import step_policy
from edgeqrl.network.reference import Reference
from tests.c_policies import random_observations
from tests.whole_policies import KINDS, random_part_rows, whole_policy


class Loop:
    """One environment, acted in as a person would write it: lists of frames, arrays of state."""

    def __init__(self, policy: IntegerPolicy) -> None:
        self.policy = policy
        self.network = Reference(policy.network)

    def reset(self, seed: int) -> None:
        policy = self.policy
        tensors = policy.network.tensors
        self.frames: deque[np.ndarray] = deque(maxlen=policy.frames.num_frames if policy.frames else 1)
        self.states = {
            state.input: np.full(tensors[state.input].shape, state.initial, tensors[state.input].dtype)
            for state in policy.recurrent
        }
        self.random = seed_words(np.array([seed], np.uint64))

    def step(self, parts: dict[str, np.ndarray], mask: np.ndarray | None) -> tuple[np.ndarray, int, dict]:
        policy, flags, inputs = self.policy, 0, {}
        for i, edge in enumerate(policy.observations):
            (quantized,), (flag,) = quantize_observations(edge, parts[edge.part.name][None])
            flags |= int(flag)
            if i == 0 and policy.frames is not None:
                if not self.frames:
                    zero = np.full_like(quantized, edge.zero_point)
                    pad = zero if policy.frames.padding == "zero" else quantized
                    self.frames.extend([pad] * policy.frames.num_frames)
                self.frames.append(quantized)
                join = np.stack if policy.frames.is_new_axis else np.concatenate
                quantized = join(list(self.frames), axis=policy.frames.axis)
            tensor = policy.network.tensors[policy.network.inputs[i]]
            inputs[tensor.name] = quantized.reshape(1, *tensor.shape)
        inputs |= {name: values[None] for name, values in self.states.items()}
        outputs = self.network.run(inputs)
        for state in policy.recurrent:
            self.states[state.input] = outputs[state.output][0]
        heads = [outputs[name] for name in policy.network.outputs[: num_heads(policy.action)]]
        masks = None if mask is None or not num_masks(policy.action) else mask[None]
        if is_stochastic(policy.action):
            actions, self.random = draw_actions(policy.action, heads, self.random, masks)
        else:
            actions = decode_actions(policy.action, heads[0], masks)
        return actions[0], flags, {name: values[0] for name, values in outputs.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_acts_as_the_plain_loop(kind: str) -> None:
    rng = np.random.default_rng(sum(kind.encode()))
    for _ in range(3):
        policy = whole_policy(rng, kind)
        count, steps = 5, 14
        starts = rng.random((steps, count)) < 0.2
        starts[0] = True
        generators = [np.random.default_rng(100 + i) for i in range(count)]
        twins = [np.random.default_rng(100 + i) for i in range(count)]
        loops = [Loop(policy) for _ in range(count)]
        played, state = NetworkPolicy(Reference(policy.network), policy, "reference"), None
        memory = policy.fresh_memory(count)
        for t in range(steps):
            parts = {edge.part.name: random_part_rows(rng, edge, count) for edge in policy.observations}
            masks = rng.random((count, policy.num_masks)) < 0.6 if policy.num_masks else None
            given = parts if len(parts) > 1 or t % 2 else parts[policy.observation.part.name]
            actions, state = played.act(
                given, state, episode_start=starts[t], action_masks=masks, rng=generators
            )
            memory = begin_episodes(policy, (memory,), starts[t], [np.random.default_rng(0)] * count)
            assert len(state) == policy.has_memory
            flags = played.step(given, state[0] if state else memory, masks).flags
            for i, loop in enumerate(loops):
                if starts[t, i]:
                    loop.reset(int(twins[i].integers(2**64, dtype=np.uint64)) if policy.is_stochastic else 0)
                row = {name: values[i] for name, values in parts.items()}
                action, flag, _ = loop.step(row, None if masks is None else masks[i])
                np.testing.assert_array_equal(actions[i], action)
                assert flags[i] == flag


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_answers_alone_and_its_memory_can_be_kept_and_used_again(kind: str) -> None:
    rng = np.random.default_rng(1)
    policy = whole_policy(rng, kind)
    run = Reference(policy.network).run
    memory = policy.fresh_memory(6)
    policy.reset_memory(memory, seeds=np.arange(6, dtype=np.uint64))
    for _ in range(3):
        parts = {edge.part.name: random_part_rows(rng, edge, 6) for edge in policy.observations}
        before = memory.copy()
        together = step_policy(policy, run, parts, memory)
        np.testing.assert_array_equal(memory, before)
        for i in range(6):
            row = {name: values[i : i + 1] for name, values in parts.items()}
            alone = step_policy(policy, run, row, memory[i : i + 1])
            np.testing.assert_array_equal(alone.actions[0], together.actions[i])
            np.testing.assert_array_equal(alone.memory[0], together.memory[i])
        again = step_policy(policy, run, parts, memory)
        np.testing.assert_array_equal(again.memory, together.memory)
        memory = together.memory


def test_a_policy_without_memory_has_an_empty_state_and_needs_no_generator() -> None:
    policy = whole_policy(np.random.default_rng(0), "plain")
    assert (policy.is_plain, policy.has_memory, policy.memory_bytes) == (True, False, 0)
    observations = random_observations(np.random.default_rng(0), policy, 4)
    played = NetworkPolicy(Reference(policy.network), policy, "reference")
    _, state = played.act(observations, None, episode_start=np.ones(4, np.bool_))
    assert state == ()


def test_a_policy_that_draws_needs_a_generator_at_the_start_of_an_episode() -> None:
    policy = whole_policy(np.random.default_rng(0), "categorical")
    played = NetworkPolicy(Reference(policy.network), policy, "reference")
    rows = random_part_rows(np.random.default_rng(0), policy.observation, 2)
    with pytest.raises(ValueError, match="needs rng"):
        played.act(rows, None, episode_start=np.ones(2, np.bool_))
    generators = [np.random.default_rng(i) for i in range(2)]
    _, state = played.act(rows, None, episode_start=np.ones(2, np.bool_), rng=generators)
    played.act(rows, state, episode_start=np.zeros(2, np.bool_))
    with pytest.raises(ValueError, match="the state must be"):
        played.act(rows, (state[0][:, :-1],), episode_start=np.zeros(2, np.bool_))


def test_a_fresh_memory_is_that_of_seed_0_after_a_reset() -> None:
    for kind in KINDS:
        policy = whole_policy(np.random.default_rng(2), kind)
        memory = policy.fresh_memory(3)
        used = np.full_like(memory, 77)
        policy.reset_memory(used, seeds=np.zeros(3, np.uint64))
        layout = policy.memory_layout
        for name in layout.fields:
            np.testing.assert_array_equal(layout.read(used, name), layout.read(memory, name))


def test_a_reset_keeps_the_generator() -> None:
    policy = whole_policy(np.random.default_rng(3), "everything")
    memory = policy.fresh_memory(2)
    policy.reset_memory(memory, seeds=np.array([5, 6], np.uint64))
    random = policy.memory_layout.read(memory, "random")
    policy.reset_memory(memory)
    np.testing.assert_array_equal(policy.memory_layout.read(memory, "random"), random)
    np.testing.assert_array_equal(random, seed_words(np.array([5, 6], np.uint64)))
    policy.reset_memory(memory, np.array([1]), np.array([9], np.uint64))
    assert policy.memory_layout.read(memory, "random")[0].tolist() == random[0].tolist()


def test_the_memory_is_laid_out_in_whole_words_in_the_stated_order() -> None:
    layout = plan_memory(
        is_stochastic=True, frames=((3, 5), "int8"), recurrent=(((3,), "int8"), ((2, 2), "int16"))
    )
    offsets = {name: (field.offset, field.num_bytes) for name, field in layout.fields.items()}
    assert offsets == {
        "random": (0, 16),
        "frames_next": (16, 4),
        "frames_filled": (20, 4),
        "frames": (24, 15),
        "recurrent_0": (40, 3),
        "recurrent_1": (44, 8),
    }
    assert layout.num_bytes == 52
    memory = np.zeros((2, 52), np.uint8)
    layout.write(memory, "recurrent_1", np.array([[1, -2], [3, 4]]), np.array([1]))
    assert memory[0].any() == np.False_
    assert memory[1, 44:].tolist() == [1, 0, 254, 255, 3, 0, 4, 0]
    assert layout.read(memory, "recurrent_1")[1].tolist() == [[1, -2], [3, 4]]


@pytest.mark.parametrize(
    ("frame", "stack", "shape", "loops"),
    [
        ((4,), FrameStack(3, 0), (3, 4), (1, 4)),
        ((4,), FrameStack(3, -1), (4, 3), (4, 1)),
        ((8, 8), FrameStack(4, -1), (8, 8, 4), (64, 1)),
        ((8, 8, 2), FrameStack(4, -1, is_new_axis=False), (8, 8, 8), (64, 2)),
        ((8, 8, 2), FrameStack(4, 0, is_new_axis=False), (32, 8, 2), (1, 128)),
        ((), FrameStack(4, 0), (4,), (1, 1)),
    ],
)
def test_stacks_have_the_shape_of_their_axis(
    frame: tuple[int, ...], stack: FrameStack, shape: tuple[int, ...], loops: tuple[int, int]
) -> None:
    assert (stack.stacked_shape(frame), stack.loops(frame)) == (shape, loops)


@pytest.mark.parametrize(
    ("fields", "why"),
    [((0, 0), "1 to 1024"), ((2, 0, True, "last"), "padded by"), ((2, 3), "cannot be stacked")],
)
def test_a_stack_that_means_nothing_is_refused(fields: tuple, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FrameStack(*fields).stacked_shape((4,))


def test_parts_that_are_missing_or_of_another_shape_are_named() -> None:
    policy = whole_policy(np.random.default_rng(4), "parts")
    run, memory = Reference(policy.network).run, policy.fresh_memory(2)
    parts = {
        edge.part.name: random_part_rows(np.random.default_rng(0), edge, 2) for edge in policy.observations
    }
    for wrong in (300, -1, 0.5, np.nan):
        bad = parts | {"camera": np.full((2, 2, 3), wrong)}
        with pytest.raises(ValueError, match="'camera' must be uint8"):
            step_policy(policy, run, bad, memory)
    whole = parts | {"camera": parts["camera"].astype(np.float64)}
    step_policy(policy, run, whole, memory)
    name = policy.more_observations[0].part.name
    with pytest.raises(ValueError, match=f"no part '{name}'"):
        step_policy(policy, run, {k: v for k, v in parts.items() if k != name}, memory)
    with pytest.raises(ValueError, match=f"'{name}' must be"):
        step_policy(policy, run, {**parts, name: parts[name][:, :-1]}, memory)
    with pytest.raises(ValueError, match="by the names of their parts"):
        step_policy(policy, run, parts["observation"], memory)


def test_values_are_the_outputs_in_real_numbers() -> None:
    policy = whole_policy(np.random.default_rng(5), "everything")
    played = NetworkPolicy(Reference(policy.network), policy, "reference")
    parts = {
        edge.part.name: random_part_rows(np.random.default_rng(0), edge, 30) for edge in policy.observations
    }
    values = played.values(parts)
    outputs = played.step(parts, policy.fresh_memory(30)).outputs
    assert list(values) == [value.name for value in policy.values]
    for value in policy.values:
        tensor = policy.network.tensors[value.output]
        real = (outputs[value.output].astype(float) - tensor.zero_point) * tensor.scale
        np.testing.assert_allclose(values[value.name], real, atol=1e-5 * np.abs(real).max())
    assert played.outputs(parts).shape == (30, policy.network.tensors[policy.network.outputs[0]].size)


def test_a_policy_whose_pieces_do_not_fit_is_refused() -> None:
    policy = whole_policy(np.random.default_rng(6), "everything")
    tensors = policy.network.tensors
    state, value = policy.recurrent[0], policy.values[0]
    other = replace(policy.observation, scale=policy.observation.scale * 2)
    short = make_affine_edge(scale=1.0, zero_point=0, gain=np.ones(9), offset=np.ones(9),
                             low=np.zeros(9, np.float32), high=np.ones(9, np.float32))  # fmt: skip
    wide = make_multi_discrete_edge((tensors["logits"].size,), (0,), scale=0.1, dtype="int16")
    cases = [
        ({"observation": other}, "does not fit input"),
        ({"frames": None}, "does not fit input"),
        ({"action": ArgmaxEdge(31)}, "does not fit output"),
        ({"action": wide}, "does not fit output"),
        ({"recurrent": (Recurrent(state.input, "logits", 0),)}, "differ in scale or shape"),
        ({"recurrent": (Recurrent("nothing", state.output, 0),)}, "no free input"),
        ({"recurrent": (Recurrent(state.input, "nothing", 0),)}, "no output"),
        ({"recurrent": (Recurrent(state.input, state.output, 300),)}, "initial state"),
        ({"values": (ValueOutput("v", value.output, short),)}, "does not fit output"),
        ({"more_observations": (*policy.more_observations, policy.observation)}, "fewer inputs"),
    ]  # fmt: skip
    for fields, why in cases:
        with pytest.raises(ValueError, match=why):
            replace(policy, **fields)


def test_two_parts_of_one_name_are_refused() -> None:
    tensors = {name: Tensor(name, (2,), 1.0, 0) for name in ("a", "b")}
    network = IntegerNetwork(tensors, ("a", "b"), ("a",), ())
    edge = ObservationEdge.of((2,), 1.0, 0)
    with pytest.raises(ValueError, match="have one name"):
        IntegerPolicy("p", edge, network, ArgmaxEdge(2), more_observations=(edge,))
