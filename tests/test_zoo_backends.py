"""Every zoo agent, quantized on its shipped calibration set: all integer backends agree to the bit."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES, NETWORK_BACKENDS, open_network, open_policy
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import MissingToolError
from edgeqrl.network.read_tflite import read_with_edges
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.quantize import QuantizedPolicy, network_samples, quantize
from edgeqrl.sources import Source, open_source
from edgeqrl.zoo import find_zoo_agent, zoo_agents
from tests.firmware import one_by_default
from tests.oracles import require_module, skip_unless_ci

NAMES = [agent.name for agent in zoo_agents()]
EXACT = sorted(set(NETWORK_BACKENDS) - {"litert", "litert-ref", "reference"})
WIDTH = 16  # episodes side by side
STEPS = 12
# An emulated core runs every third agent, in turn; by default every other core runs one.
PAIRS = [
    pytest.param(name, backend, marks=[] if is_kept else pytest.mark.slow)
    for i, backend in enumerate(EXACT)
    for j, name in enumerate(NAMES)
    for is_kept in [backend not in EMULATED_CORES or (i % 2 == 0 and j == -i % 3)]
    if backend not in EMULATED_CORES or (i + j) % 3 == 0
]


@cache
def opened(name: str) -> tuple[Any, CalibrationSet]:
    if name.startswith("breakout"):
        require_module("minatar")
    source = Source(f"zoo:{name}", EnvironmentSpec(find_zoo_agent(name).env_id))
    calibration = CalibrationSet.load(data_folder("calib_data") / name / "observations.npz")
    return open_source(source, None)[0], calibration


@cache
def quantized(name: str) -> QuantizedPolicy:
    return quantize(*opened(name))


@cache
def network_inputs(name: str) -> dict[str, np.ndarray]:
    """What the network is given in states that the policy meets, and any integers at all."""
    rng, inputs = np.random.default_rng(0), {}
    for edge, met in zip(
        read_with_edges(quantized(name).tflite).inputs, network_samples(*opened(name)).values(), strict=True
    ):
        dtype = edge.dtype.lower()
        limits = np.iinfo(dtype)
        integers = np.rint(met[:200] / edge.scale) + edge.zero_point
        anything = rng.integers(limits.min, limits.max + 1, (40, *met.shape[1:]))
        together = np.concatenate([np.clip(integers, limits.min, limits.max), anything])
        inputs[edge.tensor] = together.astype(dtype)
    return inputs


def observations(name: str) -> Any:
    """Raw observations [STEPS * WIDTH, ...] that the policy met; among floats some that no one meets."""
    _, calibration = opened(name)
    rng = np.random.default_rng(1)
    rows = calibration.rows(rng.integers(len(calibration), size=STEPS * WIDTH))
    assert isinstance(rows, np.ndarray)
    if rows.dtype == np.float32:
        rows[::11] *= rng.choice(np.array([-1e6, -3.0, 3.0, 1e6], np.float32), rows[::11].shape)
        rows[::37], rows[1::37], rows[2::37], rows[3::37] = np.nan, np.inf, -np.inf, 1e-40
    return rows


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_backend_gives_the_reference_outputs(name: str, backend: str) -> None:
    inputs = network_inputs(name)
    expected = Reference(quantized(name).integer_policy().network).run(inputs)
    try:
        network = open_network(backend, quantized(name).tflite)
        answered = network.run(inputs)
    except MissingToolError as missing:
        skip_unless_ci(backend, missing)
    getattr(network, "close", lambda: None)()
    assert set(answered) == set(expected)
    for output, values in expected.items():
        np.testing.assert_array_equal(answered[output], values)


@pytest.mark.parametrize("name", one_by_default(NAMES, ("cartpole-gru", "pendulum-td3")))
def test_whole_step_acts_alike_on_host_and_emulated_cores(name: str) -> None:
    """Actions and all that survives a step: frames, states and generators, over two episodes."""
    expected = episodes(name, "reference")
    for backend in ("host-c", "cortex-m0plus", "cortex-m4"):
        for step, (answer, wanted) in enumerate(zip(episodes(name, backend), expected, strict=True)):
            for found, same in zip(answer, wanted, strict=True):
                np.testing.assert_array_equal(found, same, err_msg=f"{backend}, step {step}")


def episodes(name: str, backend: str) -> list[list[np.ndarray]]:
    """Return each step's actions, and memory where there is any; half of the episodes begin anew midway."""
    made, raw = quantized(name), observations(name)
    rngs = [np.random.default_rng(seed) for seed in range(WIDTH)]
    state: Any = None
    found = []
    with open_policy(backend, made.integer_policy(), made.tflite) as policy:
        for step in range(STEPS):
            starts = np.full(WIDTH, step == 0) | ((np.arange(WIDTH) % 2 == 0) & (step == STEPS // 2))
            rows = raw[step * WIDTH : (step + 1) * WIDTH]
            actions, state = policy.act(rows, state, episode_start=starts, rng=rngs)
            found.append([np.asarray(actions), *(np.array(part) for part in state)])
    return found
