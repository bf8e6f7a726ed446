"""In training: the return that a policy would have if it were quantized now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.agents.options import AgentOptions
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import EdgeQRLError, UsageError
from edgeqrl.quantize.tflite import Converter
from edgeqrl.training import (
    QuantizedReturn,
    ReturnProbe,
    keras_callback,
    return_if_quantized,
    sb3_callback,
)
from tests.oracles import require_module
from tests.toys import TargetEnv

LENGTHS: dict[str, Any] = {"episodes": 3, "calibration_episodes": 2, "num_states": 30}
TARGETS = np.random.default_rng(0).integers(4, size=(512, 1)).astype(np.float32)
MEASURED = {"float_return", "quantized_return", "quantization_drop"}


def untrained() -> Any:
    """A classifier of TargetEnv's observations, compiled."""
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((1,), name="observation"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss)
    return model


def fit(model: Any, callbacks: list[Any], epochs: int = 4) -> Any:
    return model.fit(TARGETS, TARGETS, epochs=epochs, batch_size=64, verbose=0, callbacks=callbacks)


def of_other_actions() -> Any:
    """A model that does not fit the environment."""
    import keras

    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def short() -> Iterator[dict[str, Any]]:
    """Options of a short measurement, with a converter that all of these share."""
    with Converter() as converter:
        yield {**LENGTHS, "converter": converter}


def test_a_measurement_says_both_returns_and_their_difference(short: dict[str, Any]) -> None:
    found = return_if_quantized(untrained(), TargetEnv, 7, **short)
    assert found.step == 7
    assert found.episodes == 3
    assert found.drop == pytest.approx(found.float_return - found.quantized_return)
    assert found.drop_error >= 0.0
    assert 0.0 < found.seconds < 300.0
    assert str(found).startswith("step 7: return ")
    assert found.to_json()["quantized_return"] == found.quantized_return


def test_a_probe_of_a_trained_policy_loses_little_and_keeps_one_converter() -> None:
    model, lines = untrained(), list[str]()
    fit(model, [], epochs=20)
    with ReturnProbe(TargetEnv, log=lines.append, **LENGTHS) as probe:
        first = probe._converter
        for step in (1, 2):
            probe(model, step)
        assert probe._converter is first is not None
    assert first.is_closed
    assert [found.step for found in probe.history] == [1, 2]
    assert lines == [str(found) for found in probe.history]
    one, two = probe.history
    assert (one.float_return, one.quantized_return) == (two.float_return, two.quantized_return)
    assert one.float_return > 15.0
    assert abs(one.drop) < 2.0


def test_a_probe_measures_an_agent_of_the_zoo_by_its_path(tmp_path: Path, short: dict[str, Any]) -> None:
    model = untrained()
    model.save(tmp_path / "agent.keras")
    assert return_if_quantized(tmp_path / "agent.keras", TargetEnv, **short).float_return == (
        return_if_quantized(model, TargetEnv, **short).float_return
    )


def test_what_cannot_be_quantized_is_told_at_once(short: dict[str, Any]) -> None:
    with ReturnProbe(TargetEnv, **short) as probe, pytest.raises(EdgeQRLError, match="4"):
        probe(of_other_actions(), 0)


def test_a_later_failure_is_logged_and_training_goes_on(short: dict[str, Any]) -> None:
    lines: list[str] = []
    with ReturnProbe(TargetEnv, log=lines.append, **short) as probe:
        probe(untrained(), 0)
        assert probe(of_other_actions(), 5) is None
        probe(untrained(), 6)
    assert [found.step for found in probe.history] == [0, 6]
    assert [step for step, _ in probe.failures] == [5]
    assert lines[1].startswith("step 5: the policy could not be measured quantized: ")


def test_a_converter_that_ended_is_replaced() -> None:
    with ReturnProbe(TargetEnv, log=str, **LENGTHS) as probe:
        assert probe._converter is not None
        probe._converter.close()
        assert probe(untrained(), 0) is not None


def test_fit_reports_the_returns_beside_the_loss(short: dict[str, Any]) -> None:
    callback = keras_callback(TargetEnv, every=2, log=str, **short)
    history = fit(untrained(), [callback])
    assert set(history.history) >= MEASURED
    found = callback.probe.history
    assert [one.step for one in found] == [0, 2, 4]
    assert history.history["quantized_return"] == [one.quantized_return for one in found[1:]]
    assert found[-1].float_return > found[0].float_return
    assert callback.probe._converter is None


def test_a_callback_changes_nothing_of_what_fit_learns(short: dict[str, Any]) -> None:
    plain, measured = untrained(), untrained()
    fit(plain, [])
    fit(measured, [keras_callback(TargetEnv, log=str, **short)])
    for a, b in zip(plain.get_weights(), measured.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_count_where_they_are_asked_for(short: dict[str, Any]) -> None:
    callback = keras_callback(TargetEnv, every=6, unit="batch", log=str, **short)
    fit(untrained(), [callback], epochs=2)
    assert [one.step for one in callback.probe.history] == [0, 6, 12, 16]


def test_a_model_inside_the_trained_one_is_measured_where_it_is_the_policy(short: dict[str, Any]) -> None:
    import keras

    actor = untrained()
    both = keras.Model(actor.inputs, [actor.outputs[0], keras.layers.Dense(1)(actor.outputs[0])])
    both.compile("adam", ["mse", "mse"])
    callbacks = [
        keras_callback(TargetEnv, policy=policy, log=str, **short) for policy in (actor, lambda: actor)
    ]
    both.fit(TARGETS, [np.zeros((512, 4)), np.zeros((512, 1))], epochs=1, verbose=0, callbacks=callbacks)
    returns = [[one.float_return for one in callback.probe.history] for callback in callbacks]
    assert returns[0] == returns[1]
    assert len(returns[0]) == 2


def learner() -> Any:
    require_module("stable_baselines3")
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=1))
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 1, "device": "cpu"}
    return sb3.PPO("MlpPolicy", envs, policy_kwargs={"net_arch": [16]}, **settings)


def test_stable_baselines_says_the_returns_of_its_normalised_policy(
    tmp_path: Path, short: dict[str, Any]
) -> None:
    from stable_baselines3.common.logger import configure

    model = learner()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = sb3_callback("Pendulum-v1", every=64, log=str, **short)
    model.learn(160, callback=callback)
    found = callback.probe.history
    assert [one.step for one in found] == [0, 64, 128, 192]
    assert not callback.probe.failures
    assert "edgeqrl/quantized_return" in (tmp_path / "progress.csv").read_text()
    # What was measured is what Stable-Baselines3 itself plays.
    expected = [played(model, seed) for seed in range(40_000, 40_003)]
    assert found[-1].float_return == pytest.approx(np.mean(expected), rel=1e-3)
    assert abs(found[-1].drop) < 20.0


def played(model: Any, seed: int) -> float:
    """Return what the policy earns in one episode, by `predict`."""
    env, envs = gymnasium.make("Pendulum-v1"), model.get_vec_normalize_env()
    observation, _ = env.reset(seed=seed)
    total, is_done = 0.0, False
    while not is_done:
        action, _ = model.predict(envs.normalize_obs(observation), deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, is_done = total + float(reward), terminated or truncated
    return total


def test_a_callback_changes_nothing_of_what_stable_baselines_learns(short: dict[str, Any]) -> None:
    plain = learner()
    plain.learn(128)
    measured = learner()
    measured.learn(128, callback=sb3_callback("Pendulum-v1", every=64, log=str, **short))
    for a, b in zip(plain.policy.parameters(), measured.policy.parameters(), strict=True):
        assert (a == b).all()


def test_a_vectorised_wrapper_of_unknown_effect_is_refused(short: dict[str, Any]) -> None:
    require_module("stable_baselines3")
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class Half(VecEnvWrapper):  # type: ignore[misc]
        def __init__(self, venv: Any) -> None:
            super().__init__(venv, gymnasium.spaces.Box(-8.0, 8.0, (2,)))

        def reset(self) -> Any:
            return self.venv.reset()[:, :2]

        def step_wait(self) -> Any:
            observations, *rest = self.venv.step_wait()
            return observations[:, :2], *rest

    model = sb3.PPO("MlpPolicy", Half(make_vec_env("Pendulum-v1", 1)), n_steps=32, device="cpu")
    callback = sb3_callback("Pendulum-v1", **short)
    with pytest.raises(UsageError, match="Half changes observations"):
        model.learn(32, callback=callback)
    callback.probe.close()
    assert not short["converter"].is_closed


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ReturnProbe(TargetEnv, episodes=1), "two episodes"),
        (lambda: keras_callback(TargetEnv, every=0), "not every 0"),
        (lambda: keras_callback(TargetEnv, unit="step"), "unit 'step'"),
        (lambda: sb3_callback(TargetEnv, every=0), "not every 0"),
    ],
    ids=["one-episode", "no-epochs", "unknown-unit", "no-steps"],
)
def test_settings_that_measure_nothing_are_refused(make: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make()


def test_an_environment_is_a_name_a_spec_or_a_callable(short: dict[str, Any]) -> None:
    expected = None
    for environment in ("Pendulum-v1", EnvironmentSpec("Pendulum-v1"), lambda: gymnasium.make("Pendulum-v1")):
        found: QuantizedReturn = return_if_quantized(swinging(), environment, **short)
        expected = expected or found.float_return
        assert found.float_return == expected


def test_policies_with_memory_with_a_value_and_with_draws_are_measured(short: dict[str, Any]) -> None:
    import keras

    keras.utils.set_random_seed(5)
    layers = keras.layers
    gru = keras.Sequential([keras.Input((None, 2)), layers.GRU(4), layers.Dense(2)])
    observation = keras.Input((4,))
    outputs = {name: layers.Dense(units)(observation) for name, units in (("policy", 2), ("value", 1))}
    for model, environment, options in (
        (gru, "edgeqrl/CartPolePosition-v0", {}),
        (keras.Model(observation, outputs), "CartPole-v1", {"options": AgentOptions(outputs="policy,value")}),
        (
            keras.Model(observation, outputs["policy"]),
            "CartPole-v1",
            {"options": AgentOptions(stochastic=True)},
        ),
    ):
        found = return_if_quantized(model, environment, **short, **options)
        assert 5.0 < found.float_return <= 500.0
        assert 5.0 < found.quantized_return <= 500.0


def swinging() -> Any:
    import keras

    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="tanh")])
