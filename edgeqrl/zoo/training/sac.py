"""Train a zoo agent by SAC (Haarnoja et al., arXiv:1812.05905) on one CPU core, quantized from the start.

The actor has the layers of `edgeqrl.fake_quant`: it explores, learns and is judged with the weights and
activations that the chip will have. Its agent is the mean behind a tanh; the standard deviation of
exploration is a head of its own, in float, that stays behind. Two critics in float with their Polyak
averages, and a temperature that holds the entropy.

What a run takes up again after an interruption lies beside its output, `OUTPUT.checkpoint.npz`: weights,
optimizers, replay and random numbers. Environments start new episodes, so that a run which was interrupted is
as good as another and not the same.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import OutputError
from edgeqrl.fake_quant.model import fake_quantize
from edgeqrl.zoo.training import common

Floats = NDArray[np.float32]
_LOG_STD = (-5.0, 2.0)  # of exploration
_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True)
class SACConfig:
    """One agent's environment and hyperparameters; every step is one step of one environment."""

    name: str
    title: str
    env_id: str
    target_return: float
    total_steps: int
    weight_bits: int | None  # of the actor's weights, its activations have 8; None trains it in float
    actor_hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    num_envs: int = 4
    steps_per_round: int = 4  # of each environment, between two rounds of updates
    updates_per_round: int = 8  # of critics, actor and temperature
    batch_size: int = 128
    buffer_size: int = 200_000
    warmup_steps: int = 5_000  # random actions, no updates
    gamma: float = 0.99
    learning_rate: float = 1e-3  # falls linearly to a tenth over all updates
    polyak: float = 0.005  # step of the critics' averages, per update
    first_temperature: float = 0.2
    selection_every: int = 10_000  # steps; whole rounds, as total_steps
    selection_seeds: range = range(10_000, 10_010)
    evaluation_seeds: range = common.EVALUATION_SEEDS
    training_seed: int = common.TRAINING_SEED

    def __post_init__(self) -> None:
        for steps in (self.total_steps, self.selection_every):
            assert steps % (self.num_envs * self.steps_per_round) == 0, f"{steps} is no whole round"


CONFIGS: Mapping[str, SACConfig] = {
    config.name: config
    for config in (
        SACConfig(
            name="halfcheetah-sac-3bit",
            title="HalfCheetah: run forwards, trained with weights of 3 bits",
            env_id="HalfCheetah-v5",
            target_return=4000.0,
            total_steps=200_000,
            weight_bits=3,
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer to act with in NumPy: what it computes with, and the grid of what it gives."""

    kernel: Floats  # [in, out], on its grid
    bias: Floats
    step: float | None  # None: not rounded
    levels: tuple[int, int] = (0, 0)

    def __call__(self, inputs: Floats, *, is_hidden: bool = False) -> Floats:
        """Return [N, out] for [N, in]; a ReLU behind hidden layers."""
        sums = inputs @ self.kernel + self.bias
        given = np.maximum(sums, 0.0) if is_hidden else sums
        return given if self.step is None else _on_grid(given, self.step, self.levels)


@dataclass(frozen=True, eq=False)
class Actor:
    """An actor to play with: copied from Keras, as a call of Keras costs more than the arithmetic."""

    layers: tuple[Layer, ...]
    ranges: Floats | None  # of the observation's features, which are rounded to 127 steps of it either way
    weights: list[Floats]  # of the Keras model

    def features(self, observations: Floats) -> Floats:
        """Return what the last hidden layer gives [N, units]."""
        x = observations
        if self.ranges is not None:
            x = _on_grid(x / self.ranges, 1.0 / 127, (-128, 127))
        for layer in self.layers[:-1]:
            x = layer(x, is_hidden=True)
        return x

    def means(self, features: Floats) -> Floats:
        """Return the means [N, actions] that the tanh is taken of."""
        return self.layers[-1](features)

    def actions(self, observations: Floats) -> Floats:
        """Return the actions [N, actions] in [-1, 1], without exploration."""
        found = np.tanh(self.means(self.features(observations)))
        return found if self.ranges is None else _on_grid(found, 1.0 / 128, (-128, 127))


def train(config: SACConfig, output: Path, progress: common.Progress) -> Path:
    """Train the agent of `config` into the folder `output` and return the path of its `.keras`.

    Goes on from the checkpoint beside `output` if there is one, and removes it in the end. `progress` is
    called after each selection. Raises OutputError if `output` holds anything but an earlier agent, or the
    checkpoint is another training's.
    """
    common.require_replaceable(output)
    learner = _Learner(config)
    checkpoint = output.with_name(f"{output.name}.checkpoint.npz")
    best, minutes = _best_actor(learner, checkpoint, progress)
    learner.actor.set_weights(best.weights)
    bits = "float" if config.weight_bits is None else f"weights of {config.weight_bits} bits"
    card = common.make_card(
        asdict(config),
        algorithm=f"SAC, the actor trained with fake quantization ({bits})"
        if config.weight_bits is not None
        else "SAC",
        architecture="-".join(map(str, learner.sizes)) + " dense, ReLU, tanh output",
        head="tanh",
        gradient_steps=learner.num_updates,
        returns=learner.returns(best, config.evaluation_seeds),
        minutes=minutes,
    )
    path = common.write_agent(learner.agent(), card, output)
    checkpoint.unlink(missing_ok=True)
    return path


def _best_actor(learner: "_Learner", checkpoint: Path, progress: common.Progress) -> tuple[Actor, float]:
    """Train to the end; return the actor of the best return on the selection seeds, and the minutes."""
    config = learner.config
    best_return, best, minutes = -np.inf, learner.snapshot(), 0.0
    if checkpoint.exists():
        best_return, weights, minutes = learner.restore(checkpoint)
        best = learner.snapshot(weights)
    started = time.perf_counter()
    for done in learner.rounds():
        if done % config.selection_every and done < config.total_steps:
            continue
        found = learner.snapshot()
        mean = float(learner.returns(found, config.selection_seeds).mean())
        if mean >= best_return:  # of equals the one trained longest
            best_return, best = mean, found
        spent = minutes + (time.perf_counter() - started) / 60
        learner.save(checkpoint, best_return, best.weights, spent)
        progress(done, config.total_steps, f"return {mean:.1f}, best {best_return:.1f}")
    return best, minutes + (time.perf_counter() - started) / 60


class _Learner:
    """The networks, the replay buffer and the environments of one training run."""

    def __init__(self, config: SACConfig) -> None:
        import keras
        import tensorflow as tf

        self.config = config
        seed = config.training_seed
        self.rng = np.random.default_rng(seed)
        self.experience = common.Experience(
            config.env_id, config.num_envs, config.buffer_size, config.gamma, first_seed=100 * (seed - 1) + 1
        )
        space = self.experience.envs[0].action_space
        assert isinstance(space, gym.spaces.Box)
        self.action_low, self.action_high = space.low, space.high
        observation_size = self.experience.observations.shape[1]
        num_actions = self.action_low.size
        self.sizes = (observation_size, *config.actor_hidden, num_actions)
        critic_sizes = (observation_size + num_actions, *config.critic_hidden, 1)
        self.actor = self._quantized(common.build_network(self.sizes, None, seed, "actor"))
        spread = keras.initializers.GlorotUniform(seed=1000 * seed + 99)
        self.log_std = keras.layers.Dense(num_actions, kernel_initializer=spread, name="log_std")
        self.log_std.build((None, config.actor_hidden[-1]))
        # Built twice from the same seeds: a critic and its average start equal, the two critics not.
        self.critics, self.slow_critics = (
            [common.build_network(critic_sizes, None, seed + i, f"critic_{i}") for i in (1, 2)]
            for _ in range(2)
        )
        self.log_temperature = tf.Variable(np.float32(np.log(config.first_temperature)), name="temperature")
        self.optimizers = _optimizers(self)
        self.done = self.num_updates = 0

    def rounds(self) -> Iterator[int]:
        """Alternate playing and learning; yield the number of steps done after each round."""
        config = self.config
        update = _compile_update(self)
        steps_per_round = config.num_envs * config.steps_per_round
        shape = (config.updates_per_round, config.batch_size)
        while self.done < config.total_steps:
            self.done += steps_per_round
            is_warmup = self.done <= config.warmup_steps
            actor, kernel, bias = self.snapshot(), *common.numpy_weights(self.log_std)
            for _ in range(config.steps_per_round):
                self._play(actor, kernel, bias, is_warmup)
            if not is_warmup:
                noise = self.rng.standard_normal((2, *shape, self.sizes[-1]), np.float32)
                update(noise, *self.experience.sample(self.rng, shape))
                self.num_updates += config.updates_per_round
            yield self.done

    def snapshot(self, weights: Sequence[Floats] | None = None) -> Actor:
        """Copy the actor to play with: as it is, or as it was with `weights`."""
        kept = [np.array(value) for value in self.actor.get_weights()]
        if weights is not None:
            self.actor.set_weights(weights)
        layers = [layer for layer in self.actor.layers if hasattr(layer, "kernel")]
        entrance = None if self.config.weight_bits is None else self.actor.get_layer("input_quantizer")
        actor = Actor(
            tuple(map(_layer_of, layers)),
            None if entrance is None else np.asarray(entrance.high.numpy()),
            [np.array(value) for value in self.actor.get_weights()],
        )
        if weights is not None:
            self.actor.set_weights(kept)
        return actor

    def agent(self) -> Any:
        """Return the Keras model of the actor of now, with the tanh."""
        plain = common.build_network(self.sizes, "tanh", 0, self.config.name.replace("-", "_"))
        model = self._quantized(plain)
        model.set_weights(self.actor.get_weights())
        return model

    def returns(self, actor: Actor, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Play the actor without exploration, one episode a seed."""
        return common.episode_returns(
            self.config.env_id, lambda observations: self._scaled(actor.actions(observations)), seeds
        )

    def save(self, path: Path, best_return: float, best: Sequence[Floats], minutes: float) -> None:
        """Write what training goes on from."""
        about = {
            "config": _identity(self.config),
            "done": self.done,
            "num_updates": self.num_updates,
            "rng": self.rng.bit_generator.state,
            "best_return": best_return,
            "minutes": minutes,
        }
        arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(self._variables())}
        arrays |= {f"best_{i}": value for i, value in enumerate(best)}
        arrays |= {f"replay_{name}": value for name, value in self.experience.state().items()}
        partial = path.with_name(f"{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(file, about=np.array(json.dumps(about)), **arrays)
            partial.replace(path)
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written: {error.strerror}") from None

    def restore(self, path: Path) -> tuple[float, list[Floats], float]:
        """Take up what `save` wrote; return the best return, its weights, and the minutes spent."""
        try:
            with np.load(path, allow_pickle=False) as file:
                data = {name: file[name] for name in file.files}
            about = json.loads(str(data["about"]))
            if about["config"] != _identity(self.config):
                raise OutputError(f"'{path}' is the checkpoint of another training; move it away")
            for index, variable in enumerate(self._variables()):
                variable.assign(data[f"variable_{index}"])
            replay = {name[7:]: data[name] for name in data if name.startswith("replay_")}
            self.experience.restore(replay)
            self.rng.bit_generator.state = about["rng"]
            self.done, self.num_updates = int(about["done"]), int(about["num_updates"])
            best = [data[f"best_{i}"] for i in range(sum(name.startswith("best_") for name in data))]
            return float(about["best_return"]), best, float(about["minutes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"'{path}' is no checkpoint ({type(error).__name__}); move it away") from None

    def _variables(self) -> list[Any]:
        networks = (self.actor, self.log_std, *self.critics, *self.slow_critics)
        optimizers = [variable for optimizer in self.optimizers for variable in optimizer.variables]
        return [v for network in networks for v in network.variables] + [self.log_temperature, *optimizers]

    def _quantized(self, plain: Any) -> Any:
        """Return the network to train: fake-quantized, each feature of observations in its own range."""
        if self.config.weight_bits is None:
            return plain
        return fake_quantize(plain, weight_bits=self.config.weight_bits, inputs="per_feature")

    def _scaled(self, actions: Floats) -> Floats:
        """Scale actions [N, actions] from [-1, 1] to the environment's bounds."""
        span = self.action_high - self.action_low
        return np.asarray(self.action_low + 0.5 * (actions + 1.0) * span, np.float32)

    def _play(self, actor: Actor, kernel: Floats, bias: Floats, is_warmup: bool) -> None:
        """Take one step in every environment, with the actions that exploration draws."""
        if is_warmup:
            shape = (len(self.experience.envs), self.sizes[-1])
            actions = self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)
        else:
            features = actor.features(self.experience.observations)
            spread = np.exp(np.clip(features @ kernel + bias, *_LOG_STD))
            noise = self.rng.standard_normal(spread.shape, np.float32)
            actions = np.tanh(actor.means(features) + spread * noise)
        self.experience.step(actions, self._scaled(actions))


def _optimizers(learner: _Learner) -> tuple[Any, Any, Any]:
    """Return Adam for the actor, for the critics and for the temperature."""
    config = learner.config
    steps = config.total_steps // (config.num_envs * config.steps_per_round) * config.updates_per_round
    actor = [*learner.actor.trainable_variables, *learner.log_std.trainable_variables]
    critics = [v for critic in learner.critics for v in critic.trainable_variables]
    actor_adam, critic_adam, temperature_adam = (
        common.adam(variables, config.learning_rate, steps)
        for variables in (actor, critics, [learner.log_temperature])
    )
    return actor_adam, critic_adam, temperature_adam


def _compile_update(learner: _Learner) -> Any:
    """Compile `updates_per_round` times: a step of critics, actor, temperature and averages.

    The compiled function takes standard normal noise [2, updates_per_round, batch_size, actions] and the
    columns of a sample, each [updates_per_round, batch_size, ...].
    """
    import tensorflow as tf

    config, actor, log_std = learner.config, learner.actor, learner.log_std
    critics, slow_critics, log_temperature = learner.critics, learner.slow_critics, learner.log_temperature
    actor_adam, critic_adam, temperature_adam = learner.optimizers
    actor_variables = [*actor.trainable_variables, *log_std.trainable_variables]
    critic_variables = [v for critic in critics for v in critic.trainable_variables]
    entropy = -float(learner.sizes[-1])

    def values(networks: Any, observations: Any, actions: Any) -> list[Any]:
        inputs = tf.concat([observations, actions], axis=1)
        return [network(inputs)[:, 0] for network in networks]

    def drawn(observations: Any, noise: Any, training: bool) -> tuple[Any, Any]:
        """Return actions [N, actions] in [-1, 1] and the logarithm of their density [N]."""
        features = observations
        for layer in actor.layers[:-1]:
            features = layer(features, training=training)
        mean = actor.layers[-1](features, training=training)
        spread = tf.clip_by_value(log_std(features), *_LOG_STD)
        raw = mean + tf.exp(spread) * noise
        # log(1 - tanh(raw)^2), in a form that keeps its digits
        squashed = 2.0 * (float(np.log(2.0)) - raw - tf.nn.softplus(-2.0 * raw))
        density = tf.reduce_sum(-0.5 * (noise**2 + _LOG_2PI) - spread - squashed, axis=1)
        return tf.tanh(raw), density

    def update_critics(noise: Any, batch: tuple[Any, ...]) -> None:
        observations, actions, rewards, next_observations, discounts = batch
        next_actions, density = drawn(next_observations, noise, training=False)
        next_values = tf.minimum(*values(slow_critics, next_observations, next_actions))
        targets = rewards + discounts * (next_values - tf.exp(log_temperature) * density)
        with tf.GradientTape() as tape:
            errors = [value - targets for value in values(critics, observations, actions)]
            loss = tf.add_n([tf.reduce_mean(error**2) for error in errors])
        gradients = tape.gradient(loss, critic_variables)
        critic_adam.apply_gradients(zip(gradients, critic_variables, strict=True))

    def update_actor(noise: Any, observations: Any) -> None:
        temperature = tf.exp(log_temperature)
        with tf.GradientTape() as tape:
            actions, density = drawn(observations, noise, training=True)
            lowest = tf.minimum(*values(critics, observations, actions))
            loss = tf.reduce_mean(temperature * density - lowest)
        gradients = tape.gradient(loss, actor_variables)
        actor_adam.apply_gradients(zip(gradients, actor_variables, strict=True))
        gradient = -temperature * (tf.reduce_mean(density) + entropy)
        temperature_adam.apply_gradients([(gradient, log_temperature)])
        for slow, fast in zip(slow_critics, critics, strict=True):
            common.follow(slow, fast, config.polyak)

    def update(noise: Any, *columns: Any) -> None:
        for index in tf.range(config.updates_per_round):  # a loop of XLA's, so compiled once
            update_critics(noise[0][index], tuple(column[index] for column in columns))
            update_actor(noise[1][index], columns[0][index])

    return tf.function(update, jit_compile=True)


def _layer_of(layer: Any) -> Layer:
    """Copy a Dense layer of Keras, fake-quantized or not."""
    bias = np.array(layer.bias.numpy())
    if not hasattr(layer, "quantizer"):
        return Layer(np.array(layer.kernel.numpy()), bias, None)
    integers, steps = layer.integers()
    quantizer = layer.quantizer
    step = quantizer.step if float(quantizer.is_set.numpy()) > 0 else None
    return Layer(integers * steps, bias, step, (quantizer.levels.low, quantizer.levels.high))


def _on_grid(values: Floats, step: float, levels: tuple[int, int]) -> Floats:
    return np.asarray(np.clip(np.rint(values / step), *levels) * step, np.float32)


def _identity(config: SACConfig) -> str:
    """Return what tells one training from another."""
    return repr(sorted(asdict(config).items(), key=lambda item: item[0]))
