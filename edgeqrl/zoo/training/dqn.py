"""Train a zoo agent by deep Q-learning (Mnih et al., 2015) on one CPU core, in minutes.

Double Q-learning (van Hasselt et al., arXiv:1509.06461) on transitions of several steps, a Huber
loss, and a target network that follows by Polyak averaging. The averaged network is also the agent:
it plays more evenly than the one being trained. Rewards are never scaled, so Q values keep the
environment's units.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edgeqrl.zoo.training import common


@dataclass(frozen=True)
class DQNConfig:
    """One agent's environment and hyperparameters; every step is one step of one environment."""

    name: str
    title: str
    env_id: str
    target_return: float
    total_steps: int
    hidden: tuple[int, ...] = (64, 64)
    num_envs: int = 8
    steps_per_round: int = 4  # of each environment, between two rounds of updates
    updates_per_round: int = 32
    batch_size: int = 128
    buffer_size: int = 200_000
    warmup_steps: int = 1_000  # random actions, no updates
    exploration_steps: int = 40_000  # epsilon falls linearly from 1 to final_epsilon
    final_epsilon: float = 0.1
    gamma: float = 0.99
    n_step: int = 3  # steps that a transition spans
    learning_rate: float = 6e-4  # falls linearly to a tenth over all updates
    huber_delta: float = 1.0  # the loss is squared below this temporal difference, linear above
    polyak: float = 0.004  # step of the target network towards the trained one, per update
    selection_every: int = 4_000  # steps; whole rounds, as total_steps
    selection_seeds: range = common.SELECTION_SEEDS
    evaluation_seeds: range = common.EVALUATION_SEEDS

    def __post_init__(self) -> None:
        for steps in (self.total_steps, self.selection_every):
            assert steps % (self.num_envs * self.steps_per_round) == 0, f"{steps} is no whole round"


CONFIGS: Mapping[str, DQNConfig] = {
    config.name: config
    for config in (
        DQNConfig(
            name="cartpole-dqn",
            title="CartPole: balance a pole on a cart",
            env_id="CartPole-v1",
            target_return=500.0,
            total_steps=160_000,
            exploration_steps=50_000,
            # A fall is rare and costs up to 100: a linear loss would take it for noise.
            huber_delta=100.0,
        ),
        DQNConfig(
            name="lunarlander-dqn",
            title="Lunar Lander: land between the flags",
            env_id="LunarLander-v3",
            target_return=200.0,
            total_steps=240_000,
            hidden=(128, 128),
            warmup_steps=5_000,
            selection_every=8_000,
        ),
        DQNConfig(
            name="acrobot-dqn",
            title="Acrobot: swing a two-link arm above the line",
            env_id="Acrobot-v1",
            target_return=-100.0,
            total_steps=160_000,
            exploration_steps=20_000,
        ),
    )
}


def train(config: DQNConfig, output: Path, progress: common.Progress) -> Path:
    """Train the agent of `config` into the folder `output` and return the path of its `.keras`.

    `progress` is called after each selection. Raises OutputError if `output` holds anything but an
    earlier agent.
    """
    common.require_replaceable(output)
    learner = _Learner(config)
    weights = partial(common.numpy_weights, learner.target)
    best, minutes = common.best_weights(config, learner.rounds(), weights, learner.returns, progress)
    learner.target.set_weights(best)
    card = common.make_card(
        asdict(config),
        algorithm="DQN (double, n-step, Polyak-averaged network)",
        architecture="-".join(map(str, learner.sizes)) + " dense, ReLU, linear Q outputs",
        head="argmax",
        gradient_steps=learner.num_updates,
        returns=learner.returns(best, config.evaluation_seeds),
        minutes=minutes,
    )
    return common.write_agent(learner.target, card, output)


class _Learner:
    """The two networks, the replay buffer and the environments of one training run."""

    def __init__(self, config: DQNConfig) -> None:
        self.config = config
        self.rng = np.random.default_rng(common.TRAINING_SEED)
        self.experience = common.Experience(
            config.env_id, config.num_envs, config.buffer_size, config.gamma, config.n_step
        )
        space = self.experience.envs[0].action_space
        assert isinstance(space, gym.spaces.Discrete)
        self.num_actions = int(space.n)
        self.sizes = (self.experience.observations.shape[1], *config.hidden, self.num_actions)
        self.online = common.build_network(self.sizes, None, common.TRAINING_SEED, "online")
        agent_name = config.name.replace("-", "_")
        self.target = common.build_network(self.sizes, None, common.TRAINING_SEED, agent_name)
        self.num_updates = 0

    def rounds(self) -> Iterator[int]:
        """Alternate playing and learning; yield the number of steps done after each round."""
        config = self.config
        update = _compile_update(self)
        steps_per_round = config.num_envs * config.steps_per_round
        weights = common.numpy_weights(self.online)
        for done in range(steps_per_round, config.total_steps + 1, steps_per_round):
            explored = done / config.exploration_steps
            epsilon = max(config.final_epsilon, 1.0 - (1.0 - config.final_epsilon) * explored)
            for _ in range(config.steps_per_round):
                self._play(weights, 1.0 if done <= config.warmup_steps else epsilon)
            if done > config.warmup_steps:
                shape = (config.updates_per_round, config.batch_size)
                update(*self.experience.sample(self.rng, shape))
                self.num_updates += config.updates_per_round
                weights = common.numpy_weights(self.online)
            yield done

    def returns(self, weights: Sequence[NDArray[np.float32]], seeds: Sequence[int]) -> NDArray[np.float64]:
        """Play greedily, one episode a seed."""
        return common.episode_returns(
            self.config.env_id,
            lambda observations: common.forward(weights, observations).argmax(axis=1),
            seeds,
        )

    def _play(self, weights: Sequence[NDArray[np.float32]], epsilon: float) -> None:
        """Take one epsilon-greedy step in every environment."""
        greedy = common.forward(weights, self.experience.observations).argmax(axis=1)
        explores = self.rng.random(len(greedy)) < epsilon
        random_actions = self.rng.integers(self.num_actions, size=len(greedy))
        actions = np.where(explores, random_actions, greedy).astype(np.int32)
        self.experience.step(actions, actions)


def _compile_update(learner: _Learner) -> Any:
    """Compile `updates_per_round` gradient steps, each followed by one of the target network.

    The compiled function takes the columns of a sample, each [updates_per_round, batch_size, ...].
    """
    import tensorflow as tf

    config, online, target = learner.config, learner.online, learner.target
    rounds = config.total_steps // (config.num_envs * config.steps_per_round)
    adam = common.adam(online.trainable_variables, config.learning_rate, rounds * config.updates_per_round)

    def one_update(batch: tuple[Any, ...]) -> None:
        observations, actions, rewards, next_observations, discounts = batch
        # The trained network picks the next action, the slow one says what it is worth.
        next_actions = tf.argmax(online(next_observations), axis=1, output_type=tf.int32)
        next_values = tf.gather(target(next_observations), next_actions, axis=1, batch_dims=1)
        targets = rewards + discounts * next_values
        with tf.GradientTape() as tape:
            values = tf.gather(online(observations), actions, axis=1, batch_dims=1)
            error = tf.abs(values - targets)
            clipped = tf.minimum(error, config.huber_delta)
            loss = tf.reduce_mean(clipped * (2.0 * error - clipped))
        gradients = tape.gradient(loss, online.trainable_variables)
        adam.apply_gradients(zip(gradients, online.trainable_variables, strict=True))
        common.follow(target, online, config.polyak)

    def update(*columns: Any) -> None:
        for index in tf.range(config.updates_per_round):  # a loop of XLA's, so compiled once
            one_update(tuple(column[index] for column in columns))

    return tf.function(update, jit_compile=True)
