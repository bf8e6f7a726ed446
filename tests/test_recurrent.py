"""Recurrent policies: states of one scale, remembered by integers as by floats, for as long as it takes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent
from edgeqrl.backends.float_litert import FloatPolicy, open_float_network
from edgeqrl.backends.float_policy import WholeFloatPolicy
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.errors import DataError
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.samples import network_samples, run_both
from edgeqrl.quantize.scheme import SCHEMES
from edgeqrl.quantize.tflite import Converter
from edgeqrl.rollout import rollout
from tests.firmware import one_by_default
from tests.oracles import require_equal
from tests.step_models import CueEnv, latch_agent, step_agent

KINDS = {"gru": ("gru", 1), "gru_before": ("gru_before", 1), "lstm": ("lstm", 1), "rnn": ("rnn", 1)}
KINDS |= {"stacked_gru": ("gru", 2), "stacked_lstm": ("lstm", 2)}
STATES = {"gru": 1, "gru_before": 1, "lstm": 2, "rnn": 1, "stacked_gru": 2, "stacked_lstm": 4}
RECORDED = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def agent_of(kind: str, **options: Any) -> Agent:
    cell, num_layers = KINDS[kind]
    return step_agent(cell, num_layers=num_layers, **options)


def quantized_of(
    agent: Agent, converter: Converter, scheme: str = "int8"
) -> tuple[QuantizedPolicy, CalibrationSet]:
    calibration = from_recorded(RECORDED, policy=KerasPolicy(agent), num_states=200)
    return quantize(agent, calibration, scheme=SCHEMES[scheme], converter=converter), calibration


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
@pytest.mark.parametrize("kind", one_by_default(KINDS, ("gru", "lstm", "stacked_gru")))
def test_a_state_and_what_is_fed_back_to_it_have_one_scale_and_the_step_equals_tflm(
    kind: str, scheme: str, converter: Converter
) -> None:
    quantized, calibration = quantized_of(agent_of(kind), converter, scheme)
    policy = quantized.integer_policy()
    dtype = "int8" if scheme == "int8" else "int16"
    assert len(policy.recurrent) == STATES[kind]
    for state in policy.recurrent:
        taken, given = (policy.network.tensors[name] for name in (state.input, state.output))
        assert (taken.scale, taken.zero_point, taken.dtype) == (given.scale, given.zero_point, dtype)
        assert state.initial == taken.zero_point
    assert [value.name for value in policy.values] == ["value"]
    tensors = [policy.network.tensors[name] for name in policy.network.inputs]
    rng, info = np.random.default_rng(1), np.iinfo(dtype)
    inputs = [rng.integers(info.min, info.max + 1, (100, t.size)).astype(dtype) for t in tensors]
    assert require_equal("tflm", [(quantized.tflite, inputs)]) == 100 * (3 + 1 + 8 * STATES[kind])
    in_float, integers = run_both(quantized, network_samples(quantized, calibration))
    for name, exact in in_float.items():
        tensor = policy.network.tensors[name]
        real = (integers[name].astype(np.float64) - tensor.zero_point) * tensor.scale
        span = float(np.ptp(exact))
        assert np.abs(real - exact.reshape(real.shape)).mean() < (0.03 if scheme == "int8" else 0.004) * span


def test_biases_of_recurrent_steps_are_corrected_and_only_the_policy_output_is_centred(
    converter: Converter,
) -> None:
    agent = agent_of("gru")
    rng = np.random.default_rng(4)
    for weight in agent.model.weights:
        if "bias" in weight.path:
            weight.assign(rng.normal(0.0, 0.1, weight.shape))
    for scheme in ("int8", "int16x8"):
        quantized, _ = quantized_of(agent, converter, scheme)
        assert quantized.applied_rewrites[0] == "centre_head"
        assert quantized.scheme.bias_correction, scheme


def test_calibration_keeps_the_states_that_were_met_and_their_extremes() -> None:
    policy = KerasPolicy(latch_agent(0.0))
    made = calibrate(policy, lambda: CueEnv(30), env_id="Cue", num_episodes=8, num_states=60)
    assert made.inputs is not None
    assert set(made.inputs) == {"observation", "state"}
    played = rollout(policy, lambda: CueEnv(30), made.seeds, keep_inputs=True)
    assert played.inputs is not None
    states = np.concatenate([episode["state"] for episode in played.inputs])
    assert (made.inputs["state"].min(), made.inputs["state"].max()) == (states.min(), states.max())
    np.testing.assert_array_equal(made.inputs["observation"], made.observations)
    again = CalibrationSet.from_bytes(made.to_bytes(), "x")
    assert again.sha256 == made.sha256
    np.testing.assert_array_equal(again.inputs["state"], made.inputs["state"])  # type: ignore[index]


def test_calibration_without_states_is_refused_for_a_recurrent_agent(converter: Converter) -> None:
    with pytest.raises(DataError, match="made without the memory that 'policy' has"):
        quantize(agent_of("gru"), from_recorded(RECORDED), converter=converter)


@pytest.mark.parametrize("head", ["argmax", "categorical", "box"])
def test_integer_and_float_policies_remember_alike_and_forget_where_an_episode_begins(
    head: str, converter: Converter
) -> None:
    agent = agent_of("gru", head=head)
    quantized, _ = quantized_of(agent, converter)
    policy = quantized.integer_policy()
    by_keras = KerasPolicy(agent)
    integer = NetworkPolicy(Reference(policy.network), policy, "reference")
    with FloatPolicy(
        open_float_network(quantized.float_tflite),
        agent.head,
        quantized.preprocessing,
        agent.states,
        ("value",),
    ) as by_litert:
        answers = [played(p, RECORDED[:60]) for p in (by_keras, by_litert, integer)]
    if head == "box":
        assert np.abs(answers[0] - answers[1]).max() < 1e-5
        assert np.abs(answers[0] - answers[2]).mean() < 0.03
    else:
        assert (answers[0] == answers[1]).mean() > 0.99
        assert (answers[0] == answers[2]).mean() > 0.9
    # Rows 0 and 1 see the same from step 30 on, where row 1 begins anew; row 2 begins at step 30 as well.
    for answer in answers:
        np.testing.assert_array_equal(answer[30:, 1], answer[30:, 2])
        assert (answer[30:33, 0] != answer[30:33, 1]).any() or head == "argmax"


def played(policy: Any, observations: NDArray[np.float32]) -> NDArray[Any]:
    """Show three rows the same observations; row 1 and 2 begin an episode at step 30."""
    state, actions = None, []
    rng = [np.random.default_rng(row) for row in range(3)]
    for step, row in enumerate(observations):
        starts = np.array([step == 0, step in (0, 30), step in (0, 30)])
        if step == 30:
            rng = [rng[0], np.random.default_rng(9), np.random.default_rng(9)]
        chosen, state = policy.act(np.stack([row] * 3), state, episode_start=starts, rng=rng)
        actions.append(chosen)
    return np.array(actions)


LENGTHS = [200, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_the_error_of_an_integer_state_does_not_grow_with_time(
    kind: str, length: int, converter: Converter
) -> None:
    agent = agent_of(kind, with_value=False)
    quantized, _ = quantized_of(agent, converter)
    policy = quantized.integer_policy()
    observations = np.random.default_rng(7).normal(size=(length, 8, 4)).astype(np.float32)
    errors = state_errors(agent, quantized, observations)
    span = 256 * policy.network.tensors[policy.recurrent[0].input].scale
    early, late = errors[: length // 2].mean(), errors[length // 2 :].mean()
    assert late < 1.3 * early + 0.002 * span
    assert late < 0.05 * span


def in_float32(agent: Agent, quantized: QuantizedPolicy) -> WholeFloatPolicy:
    """Return the float policy in NumPy: Keras, which acts alike, takes twice as long for a step so small."""
    network = FloatReference(quantized.float_tflite)

    def outputs(inputs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return list(network.run(dict(zip(network.inputs, inputs, strict=True))).values())

    return WholeFloatPolicy("in float32", outputs, agent.head, quantized.preprocessing, agent.states)


def state_errors(
    agent: Agent, quantized: QuantizedPolicy, observations: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the mean error of the first state after each step, [steps]. Host C: the reference is slower."""
    policy, exact = quantized.integer_policy(), in_float32(agent, quantized)
    integer = HostCPolicy(policy)
    rows = observations.shape[1]
    states: list[Any] = [None, None]
    tensor = policy.network.tensors[policy.recurrent[0].input]
    errors = []
    for step, batch in enumerate(observations):
        starts = np.full(rows, step == 0)
        _, states[0] = exact.act(batch, states[0], episode_start=starts)
        _, states[1] = integer.act(batch, states[1], episode_start=starts)
        found = policy.memory_layout.read(states[1][0], "recurrent_0").astype(np.float64)
        errors.append(np.abs((found - tensor.zero_point) * tensor.scale - states[0][0]).mean())
    return np.array(errors)


# hold 0: the memory is drawn to one of two fixed points; 9: it is only held, by a gate of 0.9999.
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("hold", "scheme"), [(0.0, "int8"), (0.0, "int16x8"), (9.0, "int8")])
def test_a_cue_of_the_first_step_is_remembered_by_integers_to_the_last(
    hold: float, scheme: str, length: int, converter: Converter
) -> None:
    in_float, in_integers = returns(latch_agent(hold), scheme, length, converter)
    assert in_float == length
    assert in_integers == length


def returns(agent: Agent, scheme: str, length: int, converter: Converter) -> tuple[float, float]:
    """Return the mean returns of the float and the integer policy, of 8 episodes."""
    policy = KerasPolicy(agent)
    calibration = calibrate(policy, lambda: CueEnv(100), env_id="Cue", num_episodes=8, num_states=300)
    quantized = quantize(agent, calibration, scheme=SCHEMES[scheme], converter=converter)
    integer = quantized.integer_policy()
    seeds = range(40, 48)
    players = in_float32(agent, quantized), HostCPolicy(integer)
    found = [float(rollout(p, lambda: CueEnv(length), seeds).episode_returns.mean()) for p in players]
    return found[0], found[1]
