"""A backend that acts otherwise, once, is caught: the gate between host C and the core, and its message."""

from typing import Any

import numpy as np
import pytest

from edgeqrl.agents.heads import DiscreteHead, Scale
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.emulate import emulate
from edgeqrl.errors import BackendsDiffer
from edgeqrl.network.edges import ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from edgeqrl.stages import require_backends_agree
from firmware_export.emulators.plan import EmulationPlan
from tests import toys
from tests.tflite_writer import random_dense_tflite

SEEDS = range(5, 8)
PLAN = EmulationPlan("unicorn", "ISA", "cortex-m4")


class OnceOtherwise:
    """Acts as `policy` does, save in one row of one call."""

    name = "device"

    def __init__(self, policy: Any, call: int, num_actions: int) -> None:
        self._policy, self._call, self._num_actions = policy, call, num_actions

    def act(self, observations: Any, state: Any, **options: Any) -> Any:
        actions, state = self._policy.act(observations, state, **options)
        self._call -= 1
        if self._call == -1:
            actions = actions.copy()
            actions[0] = (actions[0] + 1) % self._num_actions
        return actions, state


def toy_policy() -> Any:
    env = toys.ChaosEnv()
    return toys.IntegerPolicy(int(np.prod(env.observation_space.shape)), 5)


def test_equal_policies_give_a_run_with_their_names() -> None:
    run = emulate(toy_policy(), toy_policy(), toys.ChaosEnv, seeds=SEEDS, plan=PLAN)
    found = run.to_json()
    assert (found["acts_as"], found["episodes"]) == (toy_policy().name, 3)
    assert (found["engine"], found["level"], found["ran"]) == ("unicorn", "ISA", PLAN.sentence)
    assert found["num_steps"] >= 3


@pytest.mark.parametrize("step", [0, 1])
def test_one_action_that_differs_is_found_with_seed_and_step(step: int) -> None:
    device = OnceOtherwise(toy_policy(), step, 5)
    with pytest.raises(BackendsDiffer, match=rf"seed 5 at step {step}\."):
        emulate(device, toy_policy(), toys.ChaosEnv, seeds=SEEDS, plan=PLAN)


def test_one_observation_on_which_a_backend_differs_from_the_reference_is_counted() -> None:
    network = read_tflite(random_dense_tflite(np.random.default_rng(0), [4, 7, 3], ["RELU", "NONE"]))
    source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
    edge = ObservationEdge.of(source.shape, source.scale, source.zero_point)
    head = DiscreteHead.single(3).edge(Scale(target.scale, target.zero_point))
    policy = IntegerPolicy("toy", edge, network, head)
    reference = NetworkPolicy(Reference(network), policy, "reference")
    observations = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    calibration = CalibrationSet(observations, "recorded", (), (), len(observations))
    require_backends_agree(policy, reference, calibration)
    with pytest.raises(BackendsDiffer, match="1 of 20 observations"):
        require_backends_agree(policy, OnceOtherwise(reference, 0, 3), calibration)
