"""Speed of episodes: host C in our loop, our loop without a policy, and a plain loop of model.predict.

    python benchmarks/rollout.py [--json] [--skip-predict]

All three in one run, interleaved, because only their ratios mean anything on another machine. Targets:
host C at 70 % or more of the loop without a policy, and 50 times the loop of model.predict.
The network is tests/data/a_cartpole.tflite (int8, 4-64-64-2). It is untrained and would let the pole fall
at once, so its actions are computed and a hand-written controller's are played: episodes of about 490
steps. model.predict runs a Keras model of the same layers.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.backends.host_c import HostCPolicy, policy_of_network
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Dense
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.rollout import Rollout, rollout

POLICY = Path(__file__).parent.parent / "tests" / "data" / "a_cartpole.tflite"
SPEC = EnvironmentSpec("CartPole-v1")
SEEDS = range(64)
PREDICT_STEPS = 150


class Steered:
    """Asks a policy, and plays a controller's actions instead; remembers them, call by call."""

    name = "steered"

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.calls: list[Any] = []

    def act(self, observations: Any, state: Any, **options: Any) -> Any:
        _, state = self.policy.act(observations, state, **options)
        actions = (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)
        self.calls.append(actions)
        return actions, state


class Replay:
    """No policy at all: gives what was recorded. rollout() is deterministic, so the episodes are the same."""

    name = "replay"

    def __init__(self, calls: list[Any]) -> None:
        self.calls = iter(calls)

    def act(self, *_: Any, **__: Any) -> Any:
        return next(self.calls), ()


def bare_loop(actions: tuple[Any, ...]) -> int:
    """Step the same episodes one after another, with nothing but env.step in the loop."""
    for seed, episode in zip(SEEDS, actions, strict=True):
        env = SPEC.make()
        env.reset(seed=seed)
        for action in episode.tolist():
            env.step(action)
        env.close()
    return sum(map(len, actions))


def predict_loop(model: Any) -> int:
    """Act as most scripts do: one observation at a time through model.predict."""
    env = SPEC.make()
    observation, _ = env.reset(seed=0)
    for _ in range(PREDICT_STEPS):
        action = int(np.argmax(model.predict(observation[None], verbose=0)[0]))
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
    return PREDICT_STEPS


def keras_twin(network: IntegerNetwork) -> Any:
    """Return an untrained float model with the layers of `network`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    layers = [layer for layer in network.layers if isinstance(layer, Dense)]
    hidden = [keras.layers.Dense(len(layer.weights), "relu") for layer in layers[:-1]]
    head = keras.layers.Dense(len(layers[-1].weights))
    return keras.Sequential([keras.Input((layers[0].weights.shape[1],)), *hidden, head])


def timed(play: Callable[[], int]) -> float:
    """Return steps per second of the processor's time, which other programs disturb least."""
    start = time.process_time()
    return play() / (time.process_time() - start)


def steps(played: Rollout) -> int:
    return int(played.episode_lengths.sum())


def measure(repeats: int, *, with_predict: bool) -> dict[str, Any]:
    network = read_tflite(POLICY.read_bytes())
    rates: dict[str, list[float]] = {"host-c": [], "no policy": [], "bare env.step": []}
    with HostCPolicy(policy_of_network(network)) as host:
        steered = Steered(host)
        recorded = rollout(steered, SPEC.make, SEEDS, keep_actions=True)
        calls = list(steered.calls)
        actions = recorded.actions
        assert actions is not None
        loops: dict[str, Callable[[], int]] = {
            "host-c": lambda: steps(rollout(steered, SPEC.make, SEEDS)),
            "no policy": lambda: steps(rollout(Replay(calls), SPEC.make, SEEDS)),
            "bare env.step": lambda: bare_loop(actions),
        }
        if with_predict:
            model = keras_twin(network)
            predict_loop(model)  # compiles
            rates["model.predict"] = []
            loops["model.predict"] = lambda: predict_loop(model)
        for _ in range(repeats):
            for name, play in loops.items():
                rates[name].append(timed(play))
    medians = {name: float(np.median(values)) for name, values in rates.items()}

    def ratio(first: str, second: str) -> float:
        # Paired: neighbours in time share the machine's moods.
        return float(np.median(np.divide(rates[first], rates[second])))

    return {
        "steps": steps(recorded),
        "steps_per_second": medians,
        "host_c_of_no_policy": ratio("host-c", "no policy"),
        "no_policy_of_bare_step": ratio("no policy", "bare env.step"),
        "host_c_of_predict": ratio("host-c", "model.predict") if with_predict else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--skip-predict", action="store_true", help="leave TensorFlow out")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    found = measure(options.repeats, with_predict=not options.skip_predict)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, rate in found["steps_per_second"].items():
        print(f"{name:15} {rate:10,.0f} steps/s")
    print(f"host-c / no policy       {found['host_c_of_no_policy']:8.2f}   (target >= 0.70)")
    print(f"no policy / bare step    {found['no_policy_of_bare_step']:8.2f}")
    if found["host_c_of_predict"] is not None:
        print(f"host-c / model.predict   {found['host_c_of_predict']:8.1f}   (target >= 50)")


if __name__ == "__main__":
    main()
