"""The calibration sets that ship belong to the agents that ship."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.files import sha256
from edgeqrl.zoo import ZooAgent, zoo_agents

AGENTS = zoo_agents()


@pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
def test_set_comes_from_the_agent_of_its_name(agent: ZooAgent) -> None:
    folder = data_folder("calib_data") / agent.name
    manifest = json.loads((folder / "manifest.json").read_text())
    found = CalibrationSet.load(folder / "observations.npz")
    assert manifest["observations_sha256"] == sha256((folder / "observations.npz").read_bytes())
    assert manifest["agent_sha256"] == found.agent_sha256 == sha256(agent.path.read_bytes())
    assert (manifest["env_id"], manifest["num_observations"]) == (agent.env_id, len(found.observations))
    assert found.env_id == agent.env_id


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
def test_set_can_be_made_again(agent: ZooAgent, tmp_path: Path) -> None:
    from edgeqrl.pipeline import calibrate_zoo_agent

    made = CalibrationSet.load(calibrate_zoo_agent(agent.name, tmp_path) / "observations.npz")
    shipped = CalibrationSet.load(data_folder("calib_data") / agent.name / "observations.npz")
    assert made.seeds == shipped.seeds
    # Float policies and environments are bit-equal on one kind of machine only: compare what they met.
    for summary in (np.mean, np.std):
        ours, theirs = (summary(s.observations, axis=0) for s in (made, shipped))
        np.testing.assert_allclose(
            ours, theirs, atol=0.25 * float(np.max(np.std(shipped.observations, axis=0)))
        )
