"""SAC with a fake-quantized actor: it acts in NumPy as in Keras, and goes on where it was interrupted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeqrl import zoo
from edgeqrl.errors import OutputError
from edgeqrl.zoo.training import sac
from tests.oracles import require_module

require_module("tensorflow")

SHORT = replace(
    sac.CONFIGS["halfcheetah-sac-3bit"],
    env_id="Pendulum-v1",
    total_steps=960,
    warmup_steps=320,
    selection_every=320,
    batch_size=16,
    buffer_size=700,
    updates_per_round=2,
    actor_hidden=(16, 16),
    critic_hidden=(16, 16),
    selection_seeds=range(10_000, 10_002),
    evaluation_seeds=range(50_000, 50_003),
)


def quiet(done: int, total: int, message: str) -> None:
    assert done <= total
    assert "return" in message


@pytest.mark.parametrize("bits", [None, 3])
def test_the_actor_plays_in_numpy_what_the_agent_answers_in_keras(bits: int | None) -> None:
    learner = sac._Learner(replace(SHORT, weight_bits=bits))
    observations = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    learner.actor(observations, training=True)  # sets the ranges, as learning does
    ours, theirs = learner.snapshot().actions(observations), np.asarray(learner.agent()(observations))
    assert np.abs(ours - theirs).max() < 0.1
    assert np.mean(np.abs(ours - theirs) > 1e-5) < 0.02  # sums on the edge of two steps
    assert len(np.unique(ours)) > 5


@pytest.mark.slow
def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    output, told = tmp_path / "agent", []

    def interrupt(done: int, total: int, message: str) -> None:
        told.append(done)
        if done == 640:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sac.train(SHORT, output, interrupt)
    checkpoint = tmp_path / "agent.checkpoint.npz"
    assert told == [320, 640]
    assert [entry.name for entry in tmp_path.iterdir()] == [checkpoint.name]
    with pytest.raises(OutputError, match="another training"):
        sac.train(replace(SHORT, weight_bits=2), output, quiet)
    resumed = sac._Learner(SHORT)
    best_return, best, minutes = resumed.restore(checkpoint)
    assert (resumed.done, resumed.num_updates) == (640, 40)
    assert np.isfinite(best_return)
    assert minutes > 0.0
    assert [value.shape for value in best] == [value.shape for value in resumed.actor.get_weights()]
    sac.train(SHORT, output, lambda done, total, message: told.append(done))
    assert told == [320, 640, 960]
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]
    card = zoo.read_zoo_agent(output).card
    assert card["training"]["gradient_steps"] == 80
    assert card["training"]["hyperparameters"]["weight_bits"] == 3


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent.checkpoint.npz").write_bytes(b"no archive")
    with pytest.raises(OutputError, match="is no checkpoint"):
        sac.train(SHORT, tmp_path / "agent", quiet)
