"""In training: what would the return be if the policy were quantized now?

`ReturnProbe` measures it for a loop of your own, `keras_callback` and `sb3_callback` now and then during
`fit` and `learn`. Each time the policy is calibrated, quantized and played beside its float self, in the
same episodes; one converter stays warm between them, and a small policy takes seconds.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.environments import EnvironmentSpec, MakeEnv, spaces
from edgeqrl.errors import EdgeQRLError, UsageError

if TYPE_CHECKING:
    from edgeqrl.quantize.scheme import Scheme
    from edgeqrl.quantize.tflite import Converter

__all__ = ["QuantizedReturn", "ReturnProbe", "keras_callback", "return_if_quantized", "sb3_callback"]

PROBE_SEED = 40_000  # of the first episode played; calibration has seeds of its own


@dataclass(frozen=True)
class QuantizedReturn:
    """Mean returns of a policy and of what it would be quantized now, in the same episodes."""

    step: int  # of training, in the caller's unit
    float_return: float
    quantized_return: float
    drop: float  # float_return - quantized_return
    drop_error: float  # standard error of the drop, from the differences episode by episode
    episodes: int
    seconds: float  # that measuring took

    def __str__(self) -> str:
        return (
            f"step {self.step}: return {self.float_return:.2f}, quantized {self.quantized_return:.2f}, "
            f"drop {self.drop:.2f} ± {self.drop_error:.2f} ({self.episodes} episodes, {self.seconds:.0f} s)"
        )

    def to_json(self) -> dict[str, float]:
        """Return the measurement as plain JSON values."""
        return asdict(self)


class ReturnProbe:
    """Measures what a policy's return would be if it were quantized now; close it when training ends.

    with ReturnProbe("CartPole-v1") as probe:
        for step in range(100_000):
            ...
            if step % 10_000 == 0:
                probe(model, step)
    """

    def __init__(
        self,
        environment: EnvironmentSpec | MakeEnv | str,
        *,
        episodes: int = 10,
        calibration_episodes: int = 5,
        num_states: int = 1000,
        seed: int = PROBE_SEED,
        backend: str = "reference",
        scheme: "Scheme | None" = None,
        converter: "Converter | None" = None,
        log: Callable[[str], object] = print,
        options: AgentOptions | None = None,
        preprocessing: PreprocessingOptions | None = None,
    ) -> None:
        """Start the converter's process, which loads while training goes on.

        environment  an ID, a spec, or a callable that makes a fresh environment
        backend      who plays the quantized policy; all give the same integers
        converter    a running one to share; it is not closed. By default the probe has its own
        log          is called with a line after each measurement
        options      how the model is to be read, as `convert` takes it; so is `preprocessing`
        """
        if episodes < 2:
            raise UsageError(f"A drop needs at least two episodes to be told from chance, got {episodes}.")
        from edgeqrl.quantize.tflite import Converter

        self.history: list[QuantizedReturn] = []
        self.failures: list[tuple[int, str]] = []  # step and reason, of measurements that came to nothing
        self._environment = EnvironmentSpec(environment) if isinstance(environment, str) else environment
        self._episodes, self._seed, self._backend = episodes, seed, backend
        self._calibration_episodes, self._num_states = calibration_episodes, num_states
        self._scheme, self._log = scheme, log
        self._options = options or AgentOptions()
        self._preprocessing = preprocessing or PreprocessingOptions()
        self._owns_converter = converter is None
        self._converter: Converter | None = converter if converter is not None else Converter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(
        self, model: Any, step: int, *, preprocessing: PreprocessingOptions | None = None
    ) -> QuantizedReturn | None:
        """Measure `model`, a Keras model or the path of an agent's file, after `step` steps of training.

        `preprocessing` takes the place of the probe's own. What cannot be quantized raises EdgeQRLError the
        first time, before hours are spent; once a measurement has succeeded, failures are logged and kept in
        `failures`.
        """
        try:
            found = self._measure(model, step, preprocessing or self._preprocessing)
        except EdgeQRLError as error:
            if not self.history:
                raise
            self.failures.append((step, str(error)))
            self._log(f"step {step}: the policy could not be measured quantized: {error}")
            return None
        self.history.append(found)
        self._log(str(found))
        return found

    def close(self) -> None:
        """End the converter's process; the history stays, and the next measurement starts another."""
        if self._converter is not None and self._owns_converter:
            self._converter.close()
        self._converter = None

    def _measure(self, model: Any, step: int, preprocessing: PreprocessingOptions) -> QuantizedReturn:
        import numpy as np

        from edgeqrl.backends import open_policy
        from edgeqrl.backends.keras import KerasPolicy
        from edgeqrl.calibrate import calibrate
        from edgeqrl.quantize.quantize import quantize
        from edgeqrl.rollout import rollout
        from edgeqrl.sources import Source, open_source

        started = time.perf_counter()
        source = Source(model, self._environment, preprocessing=preprocessing, options=self._options)
        make_env = source.make_env
        assert make_env is not None
        agent, _ = open_source(source, None)
        known = spaces(make_env)
        policy = KerasPolicy(agent)
        calibration = calibrate(
            policy,
            make_env,
            env_id=known.name,
            num_episodes=self._calibration_episodes,
            num_states=self._num_states,
        )
        quantized = quantize(agent, calibration, scheme=self._scheme, converter=self._running())
        integer = quantized.integer_policy(is_masked=known.has_action_masks)
        seeds = range(self._seed, self._seed + self._episodes)
        returns = rollout(policy, make_env, seeds).episode_returns
        with open_policy(self._backend, integer, quantized.tflite) as played:
            drops = returns - rollout(played, make_env, seeds).episode_returns
        return QuantizedReturn(
            step=step,
            float_return=float(returns.mean()),
            quantized_return=float((returns - drops).mean()),
            drop=float(drops.mean()),
            drop_error=float(drops.std(ddof=1) / np.sqrt(len(drops))),
            episodes=self._episodes,
            seconds=time.perf_counter() - started,
        )

    def _running(self) -> "Converter":
        """Return the warm converter, or a new one where it was closed or has died."""
        from edgeqrl.quantize.tflite import Converter

        if self._converter is None or self._converter.is_closed:
            self._converter, self._owns_converter = Converter(), True
        return self._converter


def return_if_quantized(
    model: Any, environment: EnvironmentSpec | MakeEnv | str, step: int = 0, **options: Any
) -> QuantizedReturn:
    """Measure `model` once; `options` are those of `ReturnProbe`, which is quicker more than once."""
    with ReturnProbe(environment, **{"log": _say_nothing, **options}) as probe:
        found = probe(model, step)
    assert found is not None  # a first failure is raised
    return found


def keras_callback(
    environment: EnvironmentSpec | MakeEnv | str,
    *,
    every: int = 1,
    unit: str = "epoch",
    policy: Any = None,
    **options: Any,
) -> Any:
    """Return a `keras.callbacks.Callback` that measures before the first and after every `every` epochs.

    unit     "epoch" or "batch": what is counted
    policy   the acting model, or what returns it, where `fit` trains a model that holds it
    options  those of `ReturnProbe`

    It logs `float_return`, `quantized_return` and `quantization_drop` beside the losses of an epoch, and
    keeps its `probe`, with the history.
    """
    if unit not in ("epoch", "batch") or every < 1:
        raise UsageError(f"Measure every 1 or more epochs or batches, not every {every} of unit '{unit}'.")
    return _keras_class()(ReturnProbe(environment, **options), every, unit, policy)


def sb3_callback(
    environment: EnvironmentSpec | MakeEnv | str,
    *,
    every: int = 10_000,
    preprocessing: PreprocessingOptions | None = None,
    **options: Any,
) -> Any:
    """Return a Stable-Baselines3 callback that measures at the beginning and after every `every` steps.

    environment  one without vectorised wrappers; VecNormalize and VecFrameStack are found in training
    options      those of `ReturnProbe`

    It records `edgeqrl/float_return`, `edgeqrl/quantized_return` and `edgeqrl/quantization_drop` in the
    logger of training, and keeps its `probe`, with the history.
    """
    if every < 1:
        raise UsageError(f"Measure every 1 or more steps, not every {every}.")
    return _sb3_class()(ReturnProbe(environment, **options), every, preprocessing or PreprocessingOptions())


def _keras_class() -> type[Any]:
    """Define the callback of Keras, which is imported as late as this."""
    from edgeqrl.agents.tensorflow_runtime import import_keras

    class KerasReturnCallback(import_keras().callbacks.Callback):  # type: ignore[misc]
        """Says now and then what the return would be if the policy were quantized now."""

        def __init__(self, probe: ReturnProbe, every: int, unit: str, policy: Any) -> None:
            super().__init__()
            self.probe = probe
            self._every, self._unit, self._policy = every, unit, policy
            self._done, self._measured = 0, -1

        def on_train_begin(self, logs: Any = None) -> None:
            self._measure(None)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self._unit == "batch":
                self._count(None)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if self._unit == "epoch":
                self._count(logs)

        def on_train_end(self, logs: Any = None) -> None:
            if self._measured != self._done:
                self._measure(None)
            self.probe.close()

        def _count(self, logs: Any) -> None:
            self._done += 1
            if self._done % self._every == 0:
                self._measure(logs)

        def _measure(self, logs: Any) -> None:
            self._measured = self._done
            acting = self.model if self._policy is None else self._policy
            is_model = isinstance(acting, import_keras().Model)
            found = self.probe(acting if is_model else acting(), self._done)
            if found is not None and logs is not None:
                logs.update(_named(found))

    return KerasReturnCallback


def _sb3_class() -> type[Any]:
    """Define the callback of Stable-Baselines3, which is imported as late as this."""
    from stable_baselines3.common.callbacks import BaseCallback

    class SB3ReturnCallback(BaseCallback):  # type: ignore[misc]
        """Says now and then what the return would be if the policy were quantized now."""

        def __init__(self, probe: ReturnProbe, every: int, stated: PreprocessingOptions) -> None:
            super().__init__()
            self.probe = probe
            self._every, self._stated, self._measured = every, stated, -1

        def _on_training_start(self) -> None:
            self._measure()

        def _on_step(self) -> bool:
            if self.num_timesteps - self._measured >= self._every:
                self._measure()
            return True

        def _on_training_end(self) -> None:
            if self._measured != self.num_timesteps:
                self._measure()
            self.probe.close()

        def _measure(self) -> None:
            self._measured = self.num_timesteps
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "policy.zip"
                self.model.save(path)
                before = _vectorised(self._stated, self.training_env, Path(folder))
                found = self.probe(path, self.num_timesteps, preprocessing=before)
            if found is not None:
                for name, value in _named(found).items():
                    self.logger.record(f"edgeqrl/{name}", value)

    return SB3ReturnCallback


def _named(found: QuantizedReturn) -> dict[str, float]:
    return {
        "float_return": found.float_return,
        "quantized_return": found.quantized_return,
        "quantization_drop": found.drop,
    }


def _vectorised(stated: PreprocessingOptions, envs: Any, folder: Path) -> PreprocessingOptions:
    """Return `stated` with what the wrappers of vectorised environments do to observations.

    Raises UsageError for a wrapper that does what no option says.
    """
    from stable_baselines3.common.vec_env import VecEnvWrapper, VecFrameStack, VecNormalize, VecTransposeImage

    found = stated
    while isinstance(envs, VecEnvWrapper):
        if isinstance(envs, VecNormalize):
            if envs.norm_obs:
                statistics = folder / "vecnormalize.pkl"
                envs.save(str(statistics))
                found = replace(found, vecnormalize=statistics)
        elif isinstance(envs, VecFrameStack):
            axis = "first" if envs.stacked_obs.channels_first else "last"
            found = replace(found, frame_stack=f"{envs.n_stack}:{axis}")
        elif (
            not isinstance(envs, VecTransposeImage) and envs.observation_space != envs.venv.observation_space
        ):
            raise UsageError(
                f"The wrapper {type(envs).__name__} changes observations in a way that is not known here; "
                "use a Gymnasium wrapper inside the environment instead."
            )
        envs = envs.venv
    return found


def _say_nothing(_: str) -> None:
    """Log nowhere."""
