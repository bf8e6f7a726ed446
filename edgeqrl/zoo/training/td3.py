"""Train a zoo agent by TD3 (Fujimoto et al., arXiv:1802.09477) on one CPU core, in minutes.

Two critics, target policy smoothing, one actor step for every two critic steps. The actor ends in
a tanh: it answers in [-1, 1], and whoever plays it scales that to the environment's action bounds.
The Polyak-averaged actor is the agent.
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
class TD3Config:
    """One agent's environment and hyperparameters; every step is one step of one environment.

    Noise is in units of the actor's output, [-1, 1].
    """

    name: str
    title: str
    env_id: str
    target_return: float
    total_steps: int
    actor_hidden: tuple[int, ...] = (64, 64)
    critic_hidden: tuple[int, ...] = (128, 128)
    num_envs: int = 4
    steps_per_round: int = 2  # of each environment, between two rounds of updates
    updates_per_round: int = 4  # of the actor; twice as many of the critics
    batch_size: int = 128
    buffer_size: int = 100_000
    warmup_steps: int = 2_000  # random actions, no updates
    exploration_noise: float = 0.1
    smoothing_noise: float = 0.2
    smoothing_clip: float = 0.5
    gamma: float = 0.99
    learning_rate: float = 1e-3  # falls linearly to a tenth over all updates
    polyak: float = 0.005  # step of the target networks, per actor update
    selection_every: int = 2_000  # steps; whole rounds, as total_steps
    selection_seeds: range = common.SELECTION_SEEDS
    evaluation_seeds: range = common.EVALUATION_SEEDS

    def __post_init__(self) -> None:
        for steps in (self.total_steps, self.selection_every):
            assert steps % (self.num_envs * self.steps_per_round) == 0, f"{steps} is no whole round"


CONFIGS: Mapping[str, TD3Config] = {
    config.name: config
    for config in (
        TD3Config(
            name="pendulum-td3",
            title="Pendulum: swing up and hold",
            env_id="Pendulum-v1",
            target_return=-180.0,
            total_steps=60_000,
        ),
        TD3Config(
            name="halfcheetah-td3",
            title="HalfCheetah: run forwards",
            env_id="HalfCheetah-v5",
            target_return=4000.0,
            total_steps=400_000,
            actor_hidden=(128, 128),
            critic_hidden=(256, 256),
            steps_per_round=4,
            updates_per_round=8,
            buffer_size=400_000,
            warmup_steps=10_000,
            selection_every=20_000,
            selection_seeds=range(10_000, 10_010),  # a thousand steps each
        ),
    )
}


def train(config: TD3Config, output: Path, progress: common.Progress) -> Path:
    """Train the agent of `config` into the folder `output` and return the path of its `.keras`.

    `progress` is called after each selection. Raises OutputError if `output` holds anything but an
    earlier agent.
    """
    common.require_replaceable(output)
    learner = _Learner(config)
    weights = partial(common.numpy_weights, learner.target_actor)
    best, minutes = common.best_weights(config, learner.rounds(), weights, learner.returns, progress)
    learner.target_actor.set_weights(best)
    card = common.make_card(
        asdict(config),
        algorithm="TD3 (Polyak-averaged actor)",
        architecture="-".join(map(str, learner.sizes)) + " dense, ReLU, tanh output",
        head="tanh",
        gradient_steps=learner.num_updates,
        returns=learner.returns(best, config.evaluation_seeds),
        minutes=minutes,
    )
    return common.write_agent(learner.target_actor, card, output)


class _Learner:
    """The networks, the replay buffer and the environments of one training run."""

    def __init__(self, config: TD3Config) -> None:
        self.config = config
        self.rng = np.random.default_rng(common.TRAINING_SEED)
        self.experience = common.Experience(config.env_id, config.num_envs, config.buffer_size, config.gamma)
        space = self.experience.envs[0].action_space
        assert isinstance(space, gym.spaces.Box)
        self.action_low, self.action_high = space.low, space.high
        observation_size = self.experience.observations.shape[1]
        action_size = self.action_low.size
        self.sizes = (observation_size, *config.actor_hidden, action_size)
        critic_sizes = (observation_size + action_size, *config.critic_hidden, 1)

        seed = common.TRAINING_SEED
        agent_name = config.name.replace("-", "_")
        self.actor = common.build_network(self.sizes, "tanh", seed, "actor")
        self.target_actor = common.build_network(self.sizes, "tanh", seed, agent_name)
        # Built twice from the same seeds: a critic and its target start equal, the two critics not.
        self.critics, self.target_critics = (
            [common.build_network(critic_sizes, None, seed + i, f"critic_{i}") for i in (1, 2)]
            for _ in range(2)
        )
        self.num_updates = 0

    def rounds(self) -> Iterator[int]:
        """Alternate playing and learning; yield the number of steps done after each round."""
        config = self.config
        update = _compile_update(self)
        steps_per_round = config.num_envs * config.steps_per_round
        shape = (2 * config.updates_per_round, config.batch_size)
        for done in range(steps_per_round, config.total_steps + 1, steps_per_round):
            weights = common.numpy_weights(self.actor)
            for _ in range(config.steps_per_round):
                self._play(weights, is_warmup=done <= config.warmup_steps)
            if done > config.warmup_steps:
                noise = self.rng.standard_normal((*shape, self.sizes[-1]), np.float32)
                update(noise, *self.experience.sample(self.rng, shape))
                self.num_updates += config.updates_per_round
            yield done

    def returns(self, weights: Sequence[NDArray[np.float32]], seeds: Sequence[int]) -> NDArray[np.float64]:
        """Play the actor without noise, one episode a seed."""
        return common.episode_returns(
            self.config.env_id,
            lambda observations: self._scaled(np.tanh(common.forward(weights, observations))),
            seeds,
        )

    def _scaled(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale actions [N, action_size] from [-1, 1] to the environment's bounds."""
        span = self.action_high - self.action_low
        return np.asarray(self.action_low + 0.5 * (actions + 1.0) * span, np.float32)

    def _play(self, weights: Sequence[NDArray[np.float32]], is_warmup: bool) -> None:
        """Take one step with exploration noise in every environment."""
        if is_warmup:
            shape = (len(self.experience.envs), self.sizes[-1])
            actions = self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)
        else:
            actions = np.tanh(common.forward(weights, self.experience.observations))
            noise = self.rng.standard_normal(actions.shape, np.float32)
            actions = np.clip(actions + self.config.exploration_noise * noise, -1.0, 1.0)
        self.experience.step(actions, self._scaled(actions))


def _compile_update(learner: _Learner) -> Any:
    """Compile `updates_per_round` times: two critic steps, an actor step, a step of all targets.

    The compiled function takes standard normal noise [2 * updates_per_round, batch_size,
    action_size] and the columns of a sample, each [2 * updates_per_round, batch_size, ...].
    """
    import tensorflow as tf

    config, actor, target_actor = learner.config, learner.actor, learner.target_actor
    critics, target_critics = learner.critics, learner.target_critics
    critic_variables = [v for critic in critics for v in critic.trainable_variables]
    rounds = config.total_steps // (config.num_envs * config.steps_per_round)

    num_updates = rounds * config.updates_per_round
    actor_adam = common.adam(actor.trainable_variables, config.learning_rate, num_updates)
    critic_adam = common.adam(critic_variables, config.learning_rate, 2 * num_updates)

    def values(networks: Any, observations: Any, actions: Any) -> list[Any]:
        inputs = tf.concat([observations, actions], axis=1)
        return [network(inputs)[:, 0] for network in networks]

    def update_critics(noise: Any, batch: tuple[Any, ...]) -> None:
        observations, actions, rewards, next_observations, discounts = batch
        limit = config.smoothing_clip
        smoothing = tf.clip_by_value(config.smoothing_noise * noise, -limit, limit)
        next_actions = tf.clip_by_value(target_actor(next_observations) + smoothing, -1.0, 1.0)
        next_values = tf.minimum(*values(target_critics, next_observations, next_actions))
        targets = rewards + discounts * next_values
        with tf.GradientTape() as tape:
            errors = [value - targets for value in values(critics, observations, actions)]
            loss = tf.add_n([tf.reduce_mean(error**2) for error in errors])
        gradients = tape.gradient(loss, critic_variables)
        critic_adam.apply_gradients(zip(gradients, critic_variables, strict=True))

    def update_actor(observations: Any) -> None:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(values(critics[:1], observations, actor(observations))[0])
        gradients = tape.gradient(loss, actor.trainable_variables)
        actor_adam.apply_gradients(zip(gradients, actor.trainable_variables, strict=True))
        for slow, fast in zip([target_actor, *target_critics], [actor, *critics], strict=True):
            common.follow(slow, fast, config.polyak)

    def update(noise: Any, *columns: Any) -> None:
        for index in tf.range(config.updates_per_round):  # a loop of XLA's, so compiled once
            for step in (2 * index, 2 * index + 1):
                update_critics(noise[step], tuple(column[step] for column in columns))
            update_actor(columns[0][2 * index])

    return tf.function(update, jit_compile=True)
