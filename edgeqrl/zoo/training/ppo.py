"""Train a zoo agent by PPO (Schulman et al., arXiv:1707.06347) in Keras, on one CPU core, in minutes.

Policy and value share their layers, which may end in a GRU. Advantages are those of GAE
(arXiv:1506.02438); an episode that a time limit cut off counts as going on. The agent is the best of the
networks met every so many steps: with both heads, or its policy alone.
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

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PPOConfig:
    """One agent's environment and hyperparameters; every step is one step of one environment."""

    name: str
    title: str
    env_id: str
    target_return: float
    total_steps: int
    hidden: tuple[int, ...] = (64, 64)
    gru: int = 0  # units of a GRU after the hidden layers; 0: none
    has_value: bool = False  # the agent keeps the value head, in the environment's units
    is_stochastic: bool = False  # the agent draws its actions
    num_envs: int = 16
    steps_per_round: int = 128  # of each environment, between two rounds of updates
    epochs: int = 4
    minibatches: int = 8
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy: float = 0.01
    value_weight: float = 0.5
    reward_scale: float = 1.0  # while training
    learning_rate: float = 1e-3  # falls linearly to a tenth over all updates
    selection_every: int = 20_480  # steps; whole rounds, as total_steps
    selection_seeds: range = common.SELECTION_SEEDS
    evaluation_seeds: range = common.EVALUATION_SEEDS

    def __post_init__(self) -> None:
        for steps in (self.total_steps, self.selection_every):
            assert steps % (self.num_envs * self.steps_per_round) == 0, f"{steps} is no whole round"
        assert (self.num_envs if self.gru else self.num_envs * self.steps_per_round) % self.minibatches == 0


CONFIGS: Mapping[str, PPOConfig] = {
    config.name: config
    for config in (
        PPOConfig(
            name="blindmaze-ppo",
            title="Blind maze: places that feel alike need a drawn action",
            env_id="edgeqrl/BlindMaze-v0",
            target_return=-12.0,
            total_steps=204_800,
            hidden=(32,),
            is_stochastic=True,
            steps_per_round=64,
            entropy=0.003,
            reward_scale=0.1,
        ),
        PPOConfig(
            name="cartpole-gru",
            title="CartPole without velocities: balance by memory",
            env_id="edgeqrl/CartPolePosition-v0",
            target_return=475.0,
            total_steps=409_600,
            hidden=(),
            gru=32,
            num_envs=32,
            steps_per_round=32,
            minibatches=4,
            reward_scale=0.05,
            entropy=0.003,
            learning_rate=1e-3,
        ),
        PPOConfig(
            name="lunarlander-ppo",
            title="Lunar Lander: a policy and the value it expects",
            env_id="LunarLander-v3",
            target_return=200.0,
            total_steps=819_200,
            has_value=True,
            gamma=0.995,
            gae_lambda=0.97,
            reward_scale=0.02,
            selection_every=40_960,
        ),
    )
}


def train(config: PPOConfig, output: Path, progress: common.Progress) -> Path:
    """Train the agent of `config` into the folder `output` and return the path of its `.keras`.

    `progress` is called after each selection. Raises OutputError if `output` holds anything but an
    earlier agent.
    """
    common.require_replaceable(output)
    learner = _Learner(config)
    played = partial(returns, config)
    best, minutes = common.best_weights(config, learner.rounds(), learner.weights, played, progress)
    card = common.make_card(
        asdict(config),
        algorithm="PPO",
        architecture=_architecture(config, best),
        head="categorical, drawn" if config.is_stochastic else "argmax",
        gradient_steps=learner.num_updates,
        returns=returns(config, best, config.evaluation_seeds),
        minutes=minutes,
    )
    if config.has_value:
        card["outputs"] = "policy,value"
    if config.is_stochastic:
        card["is_stochastic"] = True
        argmax = returns(config, best, config.evaluation_seeds, is_drawn=False)
        card["argmax_return"] = round(float(argmax.mean()), 3)  # what not to draw would cost
    return common.write_agent(_agent(config, best), card, output)


def returns(
    config: PPOConfig, weights: Mapping[str, Any], seeds: Sequence[int], is_drawn: bool | None = None
) -> NDArray[np.float64]:
    """Play one episode a seed; actions are drawn as the agent says, unless `is_drawn` does."""
    rng = np.random.default_rng(common.BOOTSTRAP_SEED)
    states = np.zeros((len(seeds), config.gru), np.float32)
    draws = config.is_stochastic if is_drawn is None else is_drawn

    def act(observations: Floats) -> NDArray[Any]:
        nonlocal states
        logits, _, states = forward(weights, observations, states)
        return _draw(logits, rng) if draws else logits.argmax(axis=1)

    return common.episode_returns(config.env_id, act, seeds)


def forward(weights: Mapping[str, Any], inputs: Floats, states: Floats) -> tuple[Floats, Floats, Floats]:
    """Run the network on `inputs` [N, in] in NumPy: logits [N, actions], values [N], states [N, units]."""
    x = inputs
    for kernel, bias in weights["hidden"]:
        x = np.tanh(x @ kernel + bias)
    if weights["gru"]:
        kernel, recurrent, (bias, recurrent_bias) = weights["gru"]
        xz, xr, xh = np.split(x @ kernel + bias, 3, axis=1)
        hz, hr, hh = np.split(states @ recurrent + recurrent_bias, 3, axis=1)
        update, reset = _sigmoid(xz + hz), _sigmoid(xr + hr)
        states = update * states + (1.0 - update) * np.tanh(xh + reset * hh)
        x = states
    (policy, policy_bias), (value, value_bias) = weights["policy"], weights["value"]
    return x @ policy + policy_bias, (x @ value + value_bias)[:, 0], states


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float32)


def _draw(logits: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw an action [N] from the softmax of `logits` [N, actions]."""
    noise = rng.gumbel(size=logits.shape)
    return np.asarray((logits + noise).argmax(axis=1))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)


class _Learner:
    """The layers, the environments and what was met in the last round."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.rng = np.random.default_rng(common.TRAINING_SEED)
        self.envs = [gym.make(config.env_id) for _ in range(config.num_envs)]
        seeds = range(common.TRAINING_SEED, common.TRAINING_SEED + config.num_envs)
        pairs = zip(self.envs, seeds, strict=True)
        self.observations = np.asarray([env.reset(seed=seed)[0] for env, seed in pairs], np.float32)
        self.states = np.zeros((config.num_envs, config.gru), np.float32)
        self.starts = np.ones(config.num_envs, bool)
        space = self.envs[0].action_space
        assert isinstance(space, gym.spaces.Discrete)
        self.layers = _layers(config, self.observations.shape[1], int(space.n))
        self.num_updates = 0

    def rounds(self) -> Iterator[int]:
        """Alternate playing and learning; yield the number of steps done after each round."""
        config, update = self.config, _compile_update(self)
        steps_per_round = config.num_envs * config.steps_per_round
        for done in range(steps_per_round, config.total_steps + 1, steps_per_round):
            self.num_updates += config.epochs * config.minibatches
            update(self.shuffled(), *self.play())
            yield done

    def weights(self) -> dict[str, Any]:
        """Copy the weights out of Keras, for `forward`."""
        return {
            "hidden": [layer.get_weights() for layer in self.layers["hidden"]],
            "gru": self.layers["gru"].get_weights() if self.config.gru else [],
            "policy": self.layers["policy"].get_weights(),
            "value": self.layers["value"].get_weights(),
        }

    def shuffled(self) -> NDArray[np.int32]:
        """Return which sequences each gradient step takes [epochs * minibatches, size]."""
        config = self.config
        count = config.num_envs * (1 if config.gru else config.steps_per_round)
        orders = [self.rng.permutation(count) for _ in range(config.epochs)]
        return np.asarray(orders, np.int32).reshape(config.epochs * config.minibatches, -1)

    def play(self) -> list[NDArray[Any]]:
        """Play a round; return sequences of observations, starts, actions, log-probabilities, advantages
        and value targets, each [length, N, ...], and the states before them [N, units].

        With a GRU a sequence is an environment's round, without one it is a single step.
        """
        config, weights, first_states = self.config, self.weights(), self.states.copy()
        first_states[self.starts] = 0.0
        columns: list[list[Any]] = [[] for _ in range(7)]
        for _ in range(config.steps_per_round):
            self.states[self.starts] = 0.0
            seen, starts = self.observations.copy(), self.starts.copy()
            logits, values, self.states = forward(weights, seen, self.states)
            actions = _draw(logits, self.rng)
            log_probabilities = _log_softmax(logits)[np.arange(len(actions)), actions]
            rewards = self._step(actions, weights)
            row = (seen, starts, actions, log_probabilities, values, rewards, self.starts.copy())
            for column, entry in zip(columns, row, strict=True):
                column.append(entry)
        states = np.where(self.starts[:, None], 0.0, self.states).astype(np.float32)
        last_values = forward(weights, self.observations, states)[1]
        seen, starts, actions, log_probabilities, values, rewards, ends = map(np.asarray, columns)
        advantages = _advantages(config, rewards, values, ends, last_values)
        arrays = [seen, starts, actions.astype(np.int32), log_probabilities, advantages, advantages + values]
        if not config.gru:
            arrays = [array.reshape(1, -1, *array.shape[2:]) for array in arrays]
            first_states = np.zeros((arrays[0].shape[1], 0), np.float32)
        return [*arrays, first_states]

    def _step(self, actions: NDArray[np.int64], weights: Mapping[str, Any]) -> Floats:
        """Step every environment; return scaled rewards, with the value of what a time limit cut off."""
        rewards = np.zeros(len(self.envs), np.float32)
        cut = []
        for index, env in enumerate(self.envs):
            observation, reward, terminated, truncated, _ = env.step(actions[index])
            rewards[index] = float(reward) * self.config.reward_scale
            self.observations[index] = observation
            self.starts[index] = terminated or truncated
            if truncated and not terminated:
                cut.append(index)
        if cut:
            _, values, _ = forward(weights, self.observations[cut], self.states[cut])
            rewards[cut] += self.config.gamma * values
        for index in np.flatnonzero(self.starts):
            self.observations[index] = self.envs[index].reset()[0]
        return rewards


def _advantages(
    config: PPOConfig, rewards: Floats, values: Floats, ends: NDArray[np.bool_], last_values: Floats
) -> Floats:
    """Return the advantages [steps, environments] by GAE; `ends` says after which steps an episode ended."""
    advantages = np.zeros_like(rewards)
    following, next_values = np.zeros_like(last_values), last_values
    for step in reversed(range(len(rewards))):
        goes_on = (~ends[step]).astype(np.float32)
        errors = rewards[step] + config.gamma * goes_on * next_values - values[step]
        following = errors + config.gamma * config.gae_lambda * goes_on * following
        advantages[step], next_values = following, values[step]
    return advantages


def _layers(config: PPOConfig, observation_size: int, num_actions: int) -> dict[str, Any]:
    """Return the built Keras layers, initialised from TRAINING_SEED alone."""
    import keras

    def dense(units: int, scale: float, seed: int, name: str, activation: str | None = None) -> Any:
        kernel = keras.initializers.Orthogonal(scale, seed=1000 * common.TRAINING_SEED + seed)
        return keras.layers.Dense(units, activation=activation, kernel_initializer=kernel, name=name)

    layers: dict[str, Any] = {
        "hidden": [
            dense(units, 1.4, index, f"hidden_{index + 1}", "tanh")
            for index, units in enumerate(config.hidden)
        ],
        "policy": dense(num_actions, 0.01, 100, "policy"),
        "value": dense(1, 1.0, 101, "value"),
    }
    size = observation_size
    for layer in layers["hidden"]:
        layer.build((None, size))
        size = layer.units
    if config.gru:
        layers["gru"] = keras.layers.GRU(
            config.gru,
            kernel_initializer=keras.initializers.GlorotUniform(seed=102),
            recurrent_initializer=keras.initializers.Orthogonal(seed=103),
            name="memory",
        )
        layers["gru"].build((None, None, size))
        size = config.gru
    layers["policy"].build((None, size))
    layers["value"].build((None, size))
    return layers


def _agent(config: PPOConfig, weights: Mapping[str, Any]) -> Any:
    """Return the Keras model of the agent: logits, or policy and value; with a GRU it reads a sequence."""
    import keras

    num_inputs = (weights["hidden"][0] if weights["hidden"] else weights["gru"])[0].shape[0]
    layers = _layers(config, num_inputs, weights["policy"][1].size)
    for layer, values in zip(layers["hidden"], weights["hidden"], strict=True):
        layer.set_weights(values)
    value, value_bias = weights["value"]
    layers["value"].set_weights([value / config.reward_scale, value_bias / config.reward_scale])
    layers["policy"].set_weights(weights["policy"])
    x = observation = keras.Input((None, num_inputs) if config.gru else (num_inputs,), name="observation")
    for layer in layers["hidden"]:
        x = layer(x)
    if config.gru:
        layers["gru"].set_weights(weights["gru"])
        x = layers["gru"](x)
    policy = layers["policy"](x)
    outputs = {"policy": policy, "value": layers["value"](x)} if config.has_value else policy
    return keras.Model(observation, outputs, name=config.name.replace("-", "_"))


def _architecture(config: PPOConfig, weights: Mapping[str, Any]) -> str:
    """Return the agent's layers in words."""
    num_inputs = (weights["hidden"][0] if weights["hidden"] else weights["gru"])[0].shape[0]
    sizes = "-".join(map(str, (num_inputs, *config.hidden)))
    memory = f", GRU {config.gru}" if config.gru else ""
    dense = " dense, tanh" if config.hidden else " inputs"
    value = ", linear value" if config.has_value else ""
    return f"{sizes}{dense}{memory}, {weights['policy'][1].size} linear logits{value}"


def _compile_update(learner: _Learner) -> Any:
    """Compile a round's gradient steps; takes which sequences each takes, and what `play` returns."""
    import tensorflow as tf

    config, layers = learner.config, learner.layers
    every = [*layers["hidden"], *([layers["gru"]] if config.gru else []), layers["policy"], layers["value"]]
    variables = [variable for layer in every for variable in layer.trainable_variables]
    rounds = config.total_steps // (config.num_envs * config.steps_per_round)
    steps_per_round = config.epochs * config.minibatches
    adam = common.adam(variables, config.learning_rate, rounds * steps_per_round)
    length = config.steps_per_round if config.gru else 1

    def network(observations: Any, starts: Any, states: Any) -> tuple[Any, Any]:
        x = observations
        for layer in layers["hidden"]:
            x = layer(x)
        if config.gru:
            outputs = []
            for step in range(length):  # unrolled: XLA compiles it once
                states = tf.where(starts[step][:, None], tf.zeros_like(states), states)
                output, [states] = layers["gru"].cell(x[step], [states])
                outputs.append(output)
            x = tf.stack(outputs)
        return layers["policy"](x), layers["value"](x)[..., 0]

    def one_update(batch: tuple[Any, ...], states: Any) -> None:
        observations, starts, actions, old, advantages, targets = batch
        spread = tf.math.reduce_std(advantages) + 1e-8
        advantages = (advantages - tf.reduce_mean(advantages)) / spread
        with tf.GradientTape() as tape:
            logits, values = network(observations, starts, states)
            log_softmax = tf.nn.log_softmax(logits)
            new = tf.reduce_sum(log_softmax * tf.one_hot(actions, logits.shape[-1]), axis=-1)
            ratio = tf.exp(new - old)
            clipped = tf.clip_by_value(ratio, 1.0 - config.clip_range, 1.0 + config.clip_range)
            gain = tf.reduce_mean(tf.minimum(ratio * advantages, clipped * advantages))
            entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(log_softmax) * log_softmax, axis=-1))
            error = tf.reduce_mean((values - targets) ** 2)
            loss = -gain - config.entropy * entropy + config.value_weight * error
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 0.5)
        adam.apply_gradients(zip(gradients, variables, strict=True))

    def update(orders: Any, *columns: Any) -> None:
        *sequences, states = columns
        for index in tf.range(steps_per_round):
            chosen = orders[index]
            batch = tuple(tf.gather(column, chosen, axis=1) for column in sequences)
            one_update(batch, tf.gather(states, chosen))

    return tf.function(update, jit_compile=True)
