"""What the training scripts share: networks, replay, evaluation, and the files they leave.

Policies are plain ReLU multilayer perceptrons. While training they act in NumPy, with weights
copied from Keras now and then: for networks this small a Keras call costs more than its arithmetic.
"""

import datetime
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import edgeqrl.zoo.training.tasks  # noqa: F401 (registers environments)
from edgeqrl.errors import OutputError
from edgeqrl.files import sha256, staged_folder, to_json_bytes

Progress = Callable[[int, int, str], None]  # (done, total, message), in environment steps
Act = Callable[[NDArray[np.float32]], NDArray[Any]]  # [N, observation_size] -> N actions

# Three disjoint sets: training environments take TRAINING_SEED, TRAINING_SEED + 1, ...
TRAINING_SEED = 1
SELECTION_SEEDS = range(10_000, 10_100)  # choose the best checkpoint
EVALUATION_SEEDS = range(50_000, 50_100)  # judge it, once
BOOTSTRAP_SEED = 2026
LICENCE = "Apache-2.0"  # of the weights, as of the code

# Part of an environment's entry point -> the distribution that simulates it.
_SIMULATORS = {"box2d": "box2d", "mujoco": "mujoco", "minatar": "MinAtar"}
AGENT_FILES = ("agent.keras", "agent.zip", "vecnormalize.pkl", "card.json")


def build_network(sizes: Sequence[int], last_activation: str | None, seed: int, name: str) -> Any:
    """Return a Keras model of Dense layers, ReLU between them, initialised from `seed` alone.

    `sizes` is [input, *hidden, output].
    """
    import keras

    layers: list[Any] = [keras.Input(shape=(sizes[0],), name="observation")]
    for index, units in enumerate(sizes[1:]):
        is_last = index == len(sizes) - 2
        layers.append(
            keras.layers.Dense(
                units,
                activation=last_activation if is_last else "relu",
                kernel_initializer=keras.initializers.GlorotUniform(seed=1000 * seed + index),
                name="output" if is_last else f"hidden_{index + 1}",
            )
        )
    return keras.Sequential(layers, name=name)


def numpy_weights(model: Any) -> list[NDArray[np.float32]]:
    """Copy a model's weights out of Keras: kernel [in, out], bias [out], layer after layer."""
    return [np.array(variable.numpy()) for variable in model.trainable_variables]


def forward(weights: Sequence[NDArray[np.float32]], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the network on `inputs` [N, in] in NumPy; the last layer stays linear: [N, out]."""
    x = inputs
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = np.maximum(x @ kernel + bias, 0.0)
    return x @ weights[-2] + weights[-1]


class Experience:
    """Environments played side by side, and a ring of the transitions met in them.

    A transition spans `n_step` steps, or fewer where its episode ends: its reward is their
    discounted sum, and its discount is what the next observation's value is multiplied by. That is
    0 only where the episode terminated: one cut off by a time limit would have gone on.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        capacity: int,
        gamma: float,
        n_step: int = 1,
        first_seed: int = TRAINING_SEED,
    ) -> None:
        self.envs = [gym.make(env_id) for _ in range(num_envs)]
        seeds = range(first_seed, first_seed + num_envs)
        self.observations = _reset_all(self.envs, seeds)  # [num_envs, observation_size]
        self._gamma = gamma
        self._n_step = n_step
        self._capacity = capacity
        self._recent: list[list[Any]] = [[] for _ in self.envs]  # (observation, action, reward)
        self._ring: list[NDArray[Any]] = []  # one array a column, made when the first is known
        self._num_added = 0

    def step(self, actions: NDArray[Any], env_actions: NDArray[Any]) -> None:
        """Play `env_actions` [num_envs, ...] and remember the transitions with `actions`.

        The two differ where the network's action is not in the environment's units.
        """
        for index, env in enumerate(self.envs):
            observation, reward, terminated, truncated, _ = env.step(env_actions[index])
            recent = self._recent[index]
            recent.append((self.observations[index].copy(), actions[index], float(reward)))
            while len(recent) == self._n_step or (recent and (terminated or truncated)):
                self._add_oldest(recent, observation, terminated)
            if terminated or truncated:
                observation, _ = env.reset()
            self.observations[index] = observation

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> list[NDArray[Any]]:
        """Draw observations, actions, rewards, next observations and discounts, each [*shape, ...].

        Uniform over what the ring holds, with replacement.
        """
        indices = rng.integers(min(self._num_added, self._capacity), size=shape)
        return [column[indices] for column in self._ring]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what the ring holds, to be restored; environments are no part of it."""
        count = min(self._num_added, self._capacity)
        columns = {f"column_{i}": column[:count] for i, column in enumerate(self._ring)}
        return {"num_added": np.array(self._num_added), **columns}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Fill the ring with what `state` returned."""
        self._num_added = int(state["num_added"])
        self._ring = []
        for index in range(len(state) - 1):
            values = state[f"column_{index}"]
            column = np.zeros((self._capacity, *values.shape[1:]), values.dtype)
            column[: len(values)] = values
            self._ring.append(column)

    def _add_oldest(self, recent: list[Any], next_observation: Any, terminated: bool) -> None:
        """Move the transition that starts at the oldest of `recent` to the ring."""
        discount, summed = 1.0, 0.0
        for _, _, reward in recent:
            summed += discount * reward
            discount *= self._gamma
        observation, action, _ = recent.pop(0)
        discount = 0.0 if terminated else discount
        transition = (
            observation,
            action,
            np.float32(summed),
            np.asarray(next_observation, np.float32),
            np.float32(discount),
        )
        if not self._ring:
            self._ring = [np.zeros((self._capacity, *v.shape), v.dtype) for v in transition]
        for column, value in zip(self._ring, transition, strict=True):
            column[self._num_added % self._capacity] = value
        self._num_added += 1


def episode_returns(env_id: str, act: Act, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Play one episode a seed, each in a fresh environment, and return the returns [len(seeds)].

    The batch given to `act` keeps one size: a finished episode's last observation stays in it.
    """
    envs = [gym.make(env_id) for _ in seeds]
    observations = _reset_all(envs, seeds)
    returns = np.zeros(len(envs))
    running = set(range(len(envs)))
    while running:
        actions = act(observations)
        for index in sorted(running):
            observation, reward, terminated, truncated, _ = envs[index].step(actions[index])
            observations[index] = observation
            returns[index] += float(reward)
            if terminated or truncated:
                running.remove(index)
                envs[index].close()
    return returns


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, from 10,000 resamples."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    means = rng.choice(values, size=(10_000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def adam(variables: Any, learning_rate: float, num_updates: int) -> Any:
    """Return Adam for `variables`; its rate falls linearly to a tenth over `num_updates`."""
    import keras

    schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, num_updates, learning_rate / 10)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=10.0)
    optimizer.build(variables)
    return optimizer


def follow(slow: Any, fast: Any, step: float) -> None:
    """Move the weights of the network `slow` by the fraction `step` of their way to `fast`."""
    for mean, weight in zip(slow.trainable_variables, fast.trainable_variables, strict=True):
        mean.assign_add(step * (weight - mean))


def make_card(
    config: Mapping[str, Any],
    *,
    algorithm: str,
    architecture: str,
    head: str,
    gradient_steps: int,
    returns: NDArray[np.float64],
    minutes: float,
) -> dict[str, Any]:
    """Return an agent's card, but for what `write_agent` adds.

    `config` has the fields of a script's config, `returns` one entry an evaluation seed, `minutes`
    is the time that training took.
    """
    hyperparameters = dict(config)
    named = ("name", "title", "env_id", "target_return", "selection_seeds", "evaluation_seeds")
    name, title, env_id, target_return, selection_seeds, evaluation_seeds = (
        hyperparameters.pop(key) for key in named
    )
    training_seed = hyperparameters.pop("training_seed", TRAINING_SEED)
    low, high = bootstrap_interval(returns)
    return {
        "name": name,
        "title": title,
        "licence": LICENCE,
        "env_id": env_id,
        "algorithm": algorithm,
        "architecture": architecture,
        "head": head,
        "target_return": target_return,
        "float_return": {
            "mean": round(float(returns.mean()), 3),
            "low": round(low, 3),
            "high": round(high, 3),
            "episodes": len(returns),
            "interval": "95 % percentile bootstrap of the mean, 10,000 resamples",
        },
        "training": {
            "command": f"edgeqrl zoo train {name}",
            "minutes": round(minutes, 2),
            "gradient_steps": gradient_steps,
            "hyperparameters": hyperparameters,
        },
        "training_seed": training_seed,
        "selection_seeds": {"first": selection_seeds.start, "count": len(selection_seeds)},
        "evaluation_seeds": {"first": evaluation_seeds.start, "count": len(evaluation_seeds)},
    }


def best_weights(
    config: Any,
    rounds: Iterable[int],
    weights: Callable[[], Any],
    returns: Callable[[Any, Sequence[int]], NDArray[np.float64]],
    progress: Progress,
) -> tuple[Any, float]:
    """Train through `rounds`; return the weights of the best return on the selection seeds, and the minutes.

    rounds    trains; yields the steps done after each round
    weights   copies the agent's weights of now
    returns   plays weights, an episode a seed
    """
    started = time.perf_counter()
    best_return, best = -np.inf, weights()
    for done in rounds:
        if done % config.selection_every and done < config.total_steps:
            continue
        found = weights()
        mean = float(returns(found, config.selection_seeds).mean())
        if mean >= best_return:  # of equals the one trained longest
            best_return, best = mean, found
        progress(done, config.total_steps, f"return {mean:.1f}, best {best_return:.1f}")
    return best, (time.perf_counter() - started) / 60


def require_replaceable(output: Path) -> None:
    """Raise OutputError unless the folder `output` is absent or holds an agent and nothing else.

    Asked before the minutes of training, since `write_agent` replaces the folder.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"'{output}' is a file; name the folder the agent is to be written to")
    foreign = sorted({entry.name for entry in output.iterdir()} - set(AGENT_FILES))
    if foreign:
        raise OutputError(f"'{output}' holds '{foreign[0]}', which is no part of an agent; name a new folder")


def write_agent(model: Any, card: Mapping[str, Any], output: Path) -> Path:
    """Write the Keras `model` and a completed `card.json` into the folder `output`; return the agent."""
    files = {"agent.keras": keras_bytes(model)}
    return write_files(files, card, output, ("gymnasium", "keras", "numpy", "tensorflow"))


def write_files(
    files: Mapping[str, bytes], card: Mapping[str, Any], output: Path, libraries: Sequence[str]
) -> Path:
    """Write the agent `files` (the first is the network) and a completed `card.json` into `output`.

    Whoever interrupts this keeps the agent that was there. Raises OutputError where the folder
    cannot be written.
    """
    first = next(iter(files))
    with staged_folder(output, keep=False) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        complete = {
            **card,
            "versions": _versions(card["env_id"], libraries),
            "date": datetime.date.today().isoformat(),
            **{f"{Path(name).stem}_sha256": sha256(data) for name, data in files.items()},
        }
        (folder / "card.json").write_bytes(to_json_bytes(complete))
    return output / first


def keras_bytes(model: Any) -> bytes:
    """Return `model` as a `.keras` file without its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.keras"
        model.save(path, include_optimizer=False)
        return path.read_bytes()


def _reset_all(envs: Sequence[gym.Env[Any, Any]], seeds: Sequence[int]) -> NDArray[np.float32]:
    """Start an episode in every environment and return the observations [num_envs, ...]."""
    pairs = zip(envs, seeds, strict=True)
    observations = [env.reset(seed=seed)[0] for env, seed in pairs]
    return np.asarray(observations, np.float32)


def _versions(env_id: str, libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions that decide what training yields: Python's and the libraries'."""
    entry_point = str(gym.spec(env_id).entry_point)
    simulators = [name for part, name in _SIMULATORS.items() if part in entry_point]
    return {
        "python": platform.python_version(),
        **{
            name: import_module(name).__version__ if name == "tensorflow" else version(name)
            for name in (*libraries, *simulators)
        },
    }
