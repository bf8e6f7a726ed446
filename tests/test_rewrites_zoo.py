"""On the zoo's agents: every rewrite leaves the actions as they were, and the integers get closer to them."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.quantize.file_rewrites import rewrite_file, scaled_preprocessing, scaled_samples
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.quantize import quantize
from edgeqrl.quantize.rewrites import rewrite
from edgeqrl.quantize.samples import network_samples, run_both
from edgeqrl.quantize.scheme import REWRITES, Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.sources import Source, open_source
from edgeqrl.zoo import find_zoo_agent, zoo_agents
from tests.oracles import require_module

QUICK = ("cartpole-dqn", "cartpole-gru", "halfcheetah-td3", "lunarlander-ppo")
NAMES = [
    pytest.param(agent.name, marks=() if agent.name in QUICK else pytest.mark.slow)
    for agent in zoo_agents()
    if "fake quantization" not in agent.card["algorithm"]  # what was trained so is not rewritten
]


@cache
def opened(name: str) -> tuple[Any, CalibrationSet]:
    if name.startswith("breakout"):
        require_module("minatar")
    source = Source(f"zoo:{name}", EnvironmentSpec(find_zoo_agent(name).env_id))
    calibration = CalibrationSet.load(data_folder("calib_data") / name / "observations.npz")
    return open_source(source, None)[0], calibration


def answers(tflite: bytes, inputs: Any) -> list[Any]:
    reference = FloatReference(tflite)
    return list(reference.run(dict(zip(reference.inputs, inputs.values(), strict=True))).values())


@pytest.mark.parametrize("name", NAMES)
def test_actions_stay_the_same(name: str) -> None:
    agent, calibration = opened(name)
    samples = {k: v[:400] for k, v in network_samples(agent, calibration).items()}
    graph = freeze(agent)
    edited, applied = rewrite(graph, agent.head)
    with Converter() as converter:
        before, exact = converter.to_float(graph), converter.to_float(edited)
    outputs = [answers(tflite, samples)[: len(agent.head.output_sizes)] for tflite in (before, exact)]
    if type(agent.head).__name__ == "DiscreteHead":
        assert "centre_head" in applied
        top = np.sort(outputs[0][0], axis=1)
        is_clear = top[:, -1] - top[:, -2] > 1e-5 * np.abs(top).max()
        assert is_clear.mean() > 0.9
        chosen = [np.argmax(given[0], axis=1)[is_clear] for given in outputs]
        np.testing.assert_array_equal(*chosen)
    else:
        for old, new in zip(*outputs, strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)

    made = rewrite_file(exact, samples, preprocessing=agent.preprocessing)
    scaled = scaled_samples(samples, made.input_gains, agent.preprocessing)
    for old, new in zip(answers(exact, samples), answers(made.tflite, scaled), strict=True):
        np.testing.assert_array_equal(old, new)
    if calibration.inputs is None:  # the device's way from raw observations gives the very same inputs
        after = scaled_preprocessing(agent.preprocessing, made.input_gains)
        inputs, _ = after.inputs(calibration.rows(slice(0, 400)))
        for given, wanted in zip(inputs, scaled.values(), strict=True):
            np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize(
    ("name", "least_gain"),
    [("halfcheetah-td3", 4.0), pytest.param("mountaincar-sac", 4.0, marks=pytest.mark.slow)],
)
def test_scaled_inputs_bring_the_integers_closer(name: str, least_gain: float) -> None:
    """By the true integer network: the mean squared error of what the head reads."""
    agent, calibration = opened(name)
    errors = []
    for left_out in ("scale_inputs", ""):
        rewrites = tuple(rewrite for rewrite in REWRITES if rewrite != left_out)
        made = quantize(agent, calibration, scheme=Scheme(rewrites=rewrites))
        exact, integers = run_both(made, network_samples(made, calibration))
        network = made.integer_policy().network
        (tensor,) = (network.tensors[output] for output in exact)
        real = (integers[tensor.name].astype(np.float64) - tensor.zero_point) * tensor.scale
        errors.append(float(np.square(real - exact[tensor.name]).mean()))
    assert errors[1] * least_gain < errors[0]
