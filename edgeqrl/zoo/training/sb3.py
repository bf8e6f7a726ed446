"""Train a zoo agent with Stable-Baselines3 on one CPU core.

The agent is the best of the policies that were met every so many steps, judged on seeds of its own, and is
kept as Stable-Baselines3 saves it: `agent.zip`, and `vecnormalize.pkl` where observations are normalised.
A network of Stable-Baselines3 with layers of ours (MinAtar's) is kept as the same network in Keras.

Stable-Baselines3 and PyTorch are needed here only: whoever loads the agents needs neither.
"""

import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.zoo.training import common


@dataclass(frozen=True)
class SB3Config:
    """One agent's environment and hyperparameters; `settings` are those of the algorithm's class.

    A step is one step of one environment.
    """

    name: str
    title: str
    env_id: str
    target_return: float
    algorithm: str  # name of a class in stable_baselines3
    total_steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    channels: int | None = None  # of a 3x3 convolution before the dense layers, which actor and critic share
    log_std_init: float = 0.0
    num_envs: int = 1
    is_normalised: bool = False  # observations and rewards, by their running mean and variance
    is_annealed: bool = False  # the learning rate falls linearly to 0
    selection_every: int = 25_000
    selection_seeds: range = common.SELECTION_SEEDS
    evaluation_seeds: range = common.EVALUATION_SEEDS


CONFIGS: Mapping[str, SB3Config] = {
    config.name: config
    for config in (
        SB3Config(
            name="hopper-ppo",
            title="Hopper: hop forwards on one leg",
            env_id="Hopper-v5",
            target_return=2000.0,
            algorithm="PPO",
            total_steps=1_000_000,
            settings={
                "learning_rate": 2e-4,
                "n_steps": 512,
                "batch_size": 128,
                "n_epochs": 8,
                "gamma": 0.995,
                "gae_lambda": 0.97,
                "clip_range": 0.2,
                "ent_coef": 0.001,
                "max_grad_norm": 0.7,
            },
            activation="tanh",
            log_std_init=-1.0,
            num_envs=4,
            is_normalised=True,
            is_annealed=True,
            selection_seeds=range(10_000, 10_020),
        ),
        SB3Config(
            name="mountaincar-sac",
            title="Mountain Car, continuous: swing up a hill",
            env_id="MountainCarContinuous-v0",
            target_return=90.0,
            algorithm="SAC",
            total_steps=50_000,
            settings={
                "learning_rate": 3e-4,
                "buffer_size": 50_000,
                "batch_size": 512,
                "ent_coef": 0.1,
                "train_freq": 32,
                "gradient_steps": 32,
                "gamma": 0.9999,
                "tau": 0.01,
                "learning_starts": 0,
                "use_sde": True,
            },
            log_std_init=-3.67,
            selection_every=2_000,
            selection_seeds=range(10_000, 10_020),
        ),
        SB3Config(
            name="breakout-ppo",
            title="MinAtar Breakout: a ball, a paddle and three rows of bricks",
            env_id="edgeqrl/MinAtarBreakout-v0",
            target_return=10.0,
            algorithm="PPO",
            total_steps=1_500_000,
            settings={
                "learning_rate": 1e-3,
                "n_steps": 128,
                "batch_size": 512,
                "n_epochs": 4,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "clip_range": 0.2,
                "ent_coef": 0.01,
                "max_grad_norm": 0.5,
            },
            hidden=(128,),
            channels=16,
            num_envs=32,
            is_annealed=True,
            selection_every=100_000,
            selection_seeds=range(10_000, 10_040),
        ),
    )
}


def train(config: SB3Config, output: Path, progress: common.Progress) -> Path:
    """Train the agent of `config` into the folder `output` and return the path of its file.

    `progress` is called after each selection. Raises OutputError if `output` holds anything but an
    earlier agent.
    """
    import torch

    common.require_replaceable(output)
    torch.set_num_threads(1)
    started = time.perf_counter()
    model, envs = _build(config)
    selection = _Selection(config, model, envs, progress)
    model.learn(config.total_steps, callback=selection.callback())
    if selection.done < config.total_steps:
        selection.judge(config.total_steps)
    minutes = (time.perf_counter() - started) / 60

    files, act = selection.best()
    card = common.make_card(
        asdict(config),
        algorithm=f"{config.algorithm} of Stable-Baselines3",
        architecture=_architecture(config, model),
        head=_HEADS[config.algorithm, config.channels is not None],
        gradient_steps=_gradient_steps(model),
        returns=common.episode_returns(config.env_id, act, config.evaluation_seeds),
        minutes=minutes,
    )
    saved_by = ("keras", "tensorflow") if config.channels is not None else ()
    libraries = ("stable_baselines3", "torch", "gymnasium", "numpy", *saved_by)
    return common.write_files(files, card, output, libraries)


_HEADS: Mapping[tuple[str, bool], str] = {
    ("PPO", False): "mean, clipped to the action bounds",
    ("PPO", True): "argmax",
    ("SAC", False): "tanh of the mean, scaled to the action bounds",
}


# Attributes that a later training needs or makes anew; a schedule of ours would be a pickled function.
_PASSING = (
    "learning_rate",
    "lr_schedule",
    "clip_range",
    "ep_info_buffer",
    "start_time",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
)


def _build(config: SB3Config) -> tuple[Any, Any]:
    """Return the untrained model and its vectorised environment."""
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs: Any = make_vec_env(config.env_id, config.num_envs, seed=common.TRAINING_SEED)
    settings = dict(config.settings)
    if config.is_normalised:
        envs = VecNormalize(envs, gamma=settings["gamma"])
    if config.is_annealed:
        rate = settings["learning_rate"]
        settings["learning_rate"] = lambda remaining: rate * remaining
    networks: dict[str, Any] = {
        "net_arch": list(config.hidden),
        "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation],
    }
    if config.channels is not None:
        networks |= {"net_arch": [], "features_extractor_class": _extractor_class()}
        networks["features_extractor_kwargs"] = {"channels": config.channels, "units": config.hidden[0]}
    else:
        networks["log_std_init"] = config.log_std_init
    algorithm: Any = getattr(sb3, config.algorithm)
    model = algorithm(
        "MlpPolicy", envs, policy_kwargs=networks, seed=common.TRAINING_SEED, device="cpu", **settings
    )
    return model, envs


class _Selection:
    """The best policy so far, judged every `selection_every` steps."""

    def __init__(self, config: SB3Config, model: Any, envs: Any, progress: common.Progress) -> None:
        self.done = 0
        self._config, self._model, self._envs, self._progress = config, model, envs, progress
        self._best_return = -np.inf
        self._best: tuple[bytes, Any] = (b"", None)  # the zip, the observations' mean and variance

    def callback(self) -> Callable[..., bool]:
        """Return what Stable-Baselines3 calls at every step."""
        num_envs = self._config.num_envs

        def at_step(*_: Any) -> bool:
            steps = self._model.num_timesteps
            if steps // self._config.selection_every > (steps - num_envs) // self._config.selection_every:
                self.judge(steps)
            return True

        return at_step

    def judge(self, done: int) -> None:
        """Play the policy of now on the selection seeds, and keep it if none was better."""
        self.done = done
        statistics = _statistics(self._envs) if self._config.is_normalised else None
        act = _act(self._model, statistics)
        mean = float(common.episode_returns(self._config.env_id, act, self._config.selection_seeds).mean())
        if mean >= self._best_return:
            self._best_return = mean
            self._best = (_saved(self._model), statistics)
        message = f"return {mean:.1f}, best {self._best_return:.1f}"
        self._progress(min(done, self._config.total_steps), self._config.total_steps, message)

    def best(self) -> tuple[dict[str, bytes], common.Act]:
        """Return the files of the best policy, and what plays it."""
        saved, statistics = self._best
        model = type(self._model).load(io.BytesIO(saved), device="cpu")
        if self._config.channels is not None:
            return {"agent.keras": common.keras_bytes(_to_keras(self._config, model.policy))}, _act(
                model, None
            )
        files = {"agent.zip": saved}
        if statistics is not None:
            self._envs.obs_rms.mean, self._envs.obs_rms.var = statistics
            files["vecnormalize.pkl"] = _pickled(self._envs)
        return files, _act(model, statistics)


def _act(model: Any, statistics: Any) -> common.Act:
    """Return the deterministic policy: [N, ...] observations to N actions."""
    space = model.observation_space

    def act(observations: NDArray[np.float32]) -> NDArray[Any]:
        x = observations
        if statistics is not None:  # as VecNormalize does
            mean, variance = statistics
            x = np.clip((x - mean) / np.sqrt(variance + 1e-8), -10.0, 10.0).astype(np.float32)
        actions, _ = model.predict(x.astype(space.dtype), deterministic=True)
        return np.asarray(actions)

    return act


def _statistics(envs: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return envs.obs_rms.mean.copy(), envs.obs_rms.var.copy()


def _saved(model: Any) -> bytes:
    """Return the model as Stable-Baselines3 saves it, but for what belongs to this training and machine."""
    file = io.BytesIO()
    model.save(file, exclude=_PASSING)
    with zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "system_info.txt"}
    fresh = io.BytesIO()
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in kept.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # dated 1980
    return fresh.getvalue()


def _pickled(envs: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vecnormalize.pkl"
        envs.save(str(path))
        return path.read_bytes()


def _gradient_steps(model: Any) -> int:
    """Return how many gradient steps were taken; PPO counts epochs."""
    batches = 1
    if hasattr(model, "n_epochs"):
        batches = model.n_steps * model.n_envs // model.batch_size
    return int(model._n_updates * batches)


def _architecture(config: SB3Config, model: Any) -> str:
    """Return the policy's layers in words."""
    inputs = "x".join(map(str, model.observation_space.shape))
    space = model.action_space
    outputs = int(space.n) if hasattr(space, "n") else int(np.prod(space.shape))
    name = {"relu": "ReLU", "tanh": "tanh"}[config.activation]
    sizes = "-".join(map(str, (*config.hidden, outputs)))
    if config.channels is not None:
        return f"{inputs} conv {config.channels} 3x3, dense {sizes}, {name}, linear logits"
    last = "tanh output" if config.algorithm == "SAC" else "linear means"
    return f"{inputs}-{sizes} dense, {name}, {last}"


def _extractor_class() -> Any:
    """Return the features extractor: planes [height, width, channels], a convolution and a dense layer."""
    import torch
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Planes(BaseFeaturesExtractor):  # type: ignore[misc]
        def __init__(self, space: Any, channels: int, units: int) -> None:
            super().__init__(space, units)
            height, width, planes = space.shape
            self.convolution = torch.nn.Conv2d(planes, channels, 3)
            self.dense = torch.nn.Linear((height - 2) * (width - 2) * channels, units)

        def forward(self, observations: Any) -> Any:
            x = torch.relu(self.convolution(observations.permute(0, 3, 1, 2)))
            # Flattened with channels last, as Keras does.
            return torch.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1)))

    return Planes


def _to_keras(config: SB3Config, policy: Any) -> Any:
    """Return the convolutional network of `policy` in Keras, logits last."""
    import keras

    def array(tensor: Any) -> NDArray[np.float32]:
        return np.asarray(tensor.detach().numpy(), np.float32)

    extractor, logits = policy.features_extractor, policy.action_net
    shape = policy.observation_space.shape
    layers = [
        (
            keras.layers.Conv2D(config.channels, 3, activation="relu", name="convolution"),
            array(extractor.convolution.weight).transpose(2, 3, 1, 0),
            extractor.convolution.bias,
        ),
        (
            keras.layers.Dense(config.hidden[0], activation="relu", name="hidden"),
            array(extractor.dense.weight).T,
            extractor.dense.bias,
        ),
        (
            keras.layers.Dense(logits.out_features, name="output"),
            array(logits.weight).T,
            logits.bias,
        ),
    ]
    (convolution, *_), (hidden, *_), (output, *_) = layers
    model = keras.Sequential(
        [keras.Input(shape, name="observation"), convolution, keras.layers.Flatten(), hidden, output],
        name=config.name.replace("-", "_"),
    )
    for layer, kernel, bias in layers:
        layer.set_weights([kernel, array(bias)])
    return model
