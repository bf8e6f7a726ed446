"""Every zoo agent, quantized on its shipped calibration set: all integer backends agree to the bit."""

from functools import cache

import numpy as np
import pytest

from edgeqrl.agents.from_keras import load_agent
from edgeqrl.backends import EMULATED_CORES, NETWORK_BACKENDS, open_network
from edgeqrl.backends.emulated import open_policy
from edgeqrl.backends.host_c import HostC
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.environments import EnvironmentSpec, spaces
from edgeqrl.errors import MissingToolError
from edgeqrl.network.edges import decode_actions, quantize_observations
from edgeqrl.network.reference import Reference
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.zoo import find_zoo_agent, zoo_agents
from tests.firmware import one_by_default
from tests.oracles import skip_unless_ci

NAMES = [agent.name for agent in zoo_agents()]
EXACT = sorted(set(NETWORK_BACKENDS) - {"litert", "litert-ref", "reference"})
# By default each core runs one of the agents, and all of them in the full run.
PAIRS = [
    pytest.param(name, backend, marks=[] if is_kept else pytest.mark.slow)
    for i, backend in enumerate(EXACT)
    for name in NAMES
    for is_kept in [backend not in EMULATED_CORES or name == NAMES[i % len(NAMES)]]
]


@cache
def quantized(name: str) -> QuantizedPolicy:
    found = find_zoo_agent(name)
    known = spaces(EnvironmentSpec(found.env_id).make)
    agent = load_agent(found.path, known.observation_space, known.action_space)
    return quantize(agent, CalibrationSet.load(data_folder("calib_data") / name / "observations.npz"))


@cache
def observations(name: str) -> np.ndarray:
    """States that the policy meets, and some far outside of what it was calibrated on."""
    met = CalibrationSet.load(data_folder("calib_data") / name / "observations.npz").observations[:200]
    rng = np.random.default_rng(0)
    far = rng.choice(met, 40) * rng.choice([-1e6, -3.0, 3.0, 1e6], (40, 1))
    special = np.full((4, met.shape[1]), [[np.nan], [np.inf], [-np.inf], [1e-40]])
    return np.concatenate([met, far, special]).astype(np.float32)


@pytest.mark.parametrize(("name", "backend"), PAIRS)
def test_backend_gives_the_reference_outputs(name: str, backend: str) -> None:
    policy = quantized(name).integer_policy()
    (source,) = policy.network.inputs
    inputs, _ = quantize_observations(policy.observation, observations(name))
    (expected,) = Reference(policy.network).run({source: inputs}).values()
    try:
        network = open_network(backend, quantized(name).tflite)
        (answered,) = network.run({source: inputs}).values()
    except MissingToolError as missing:
        skip_unless_ci(backend, missing)
    getattr(network, "close", lambda: None)()
    np.testing.assert_array_equal(answered, expected)


@pytest.mark.parametrize("name", one_by_default(NAMES, ("cartpole-dqn", "pendulum-td3")))
def test_whole_step_acts_alike_on_host_and_emulated_cores(name: str) -> None:
    policy = quantized(name).integer_policy()
    (source,) = policy.network.inputs
    inputs, flags = quantize_observations(policy.observation, observations(name))
    (outputs,) = Reference(policy.network).run({source: inputs}).values()
    expected = decode_actions(policy.action, outputs)
    answers = [HostC(policy).step(observations(name))]
    for core in ("cortex-m0plus", "cortex-m4"):
        with open_policy(policy, core) as device:
            answers.append(device.step(observations(name)))
    for actions, status in answers:
        np.testing.assert_array_equal(actions, expected)
        np.testing.assert_array_equal(status, flags)
