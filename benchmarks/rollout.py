"""Speed of episodes: host C, pairs with the float policy, the emulated core, and loops without any of ours.

    python benchmarks/rollout.py [--json] [--skip-tensorflow] [--repeats 7]

All in one run, interleaved, because only ratios mean anything on another machine. Targets: host C at 70 % or
more of the loop without a policy, and 50 times the loop of model.predict; 100 pairs of episodes, float and
host C, in at most twice the time of as many steps without a policy; 5,000 steps a second on the emulated M4,
environment excluded.

Time is the processor's, of this process and of those it started, which other programs disturb least. What
that leaves out is waiting for one another, so pairs and the emulated core are also shown by the clock.

The network is tests/data/a_cartpole.tflite (int8, 4-64-64-2). It is untrained and would let the pole fall
at once, so its actions are computed and a hand-written controller's are played: episodes of about 490
steps. The float policy is a Keras model of the same layers, and its float32 .tflite.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.backends import open_float_policy
from edgeqrl.backends.emulated import EmulatedPolicy, open_policy
from edgeqrl.backends.host_c import HostCPolicy, policy_of_network
from edgeqrl.environments import EnvironmentSpec, spaces
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.layers import Dense
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.rollout import Rollout, rollout
from edgeqrl.validate.agreement import AgreementCounter, ShadowedPolicy

POLICY = Path(__file__).parent.parent / "tests" / "data" / "a_cartpole.tflite"
SPEC = EnvironmentSpec("CartPole-v1")
SEEDS = range(64)
LOOKS = (range(64), range(64, 100))  # 100 pairs, as the verdict plays them
PREDICT_STEPS = 50
EMULATED_STEPS = 1920
ROWS_A_CALL = (1, 3, 64)  # `edgeqrl emulate` plays 3 episodes side by side

Loop = Callable[[], int]  # returns how many steps it made


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


def paired(float_policy: Any, host: HostCPolicy) -> int:
    """Play the pairs as the verdict does: on the first look both policies see the float policy's states."""
    count = 0
    for number, seeds in enumerate(LOOKS):
        leader = float_policy
        if number == 0:
            leader = ShadowedPolicy(float_policy, host, AgreementCounter(spaces(SPEC.make).action_space))
        for policy in (leader, host):
            played = rollout(
                Steered(policy), SPEC.make, seeds, keep_actions=True, keep_observations=number == 0
            )
            count += steps(played)
    return count


def unpaired(calls: Sequence[list[Any]]) -> int:
    """Make the steps of `paired` without a policy."""
    looks = [(seeds, look) for seeds, look in zip(LOOKS, calls, strict=True) for _ in range(2)]
    return sum(steps(rollout(Replay(look), SPEC.make, seeds)) for seeds, look in looks)


def on_device(device: EmulatedPolicy, observations: Any, num_rows: int) -> int:
    """Step the device through `observations`, `num_rows` a call."""
    for start in range(0, len(observations), num_rows):
        device.step(observations[start : start + num_rows])
    return len(observations)


def keras_twin(network: IntegerNetwork) -> Any:
    """Return an untrained float model with the layers of `network`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    layers = [layer for layer in network.layers if isinstance(layer, Dense)]
    hidden = [keras.layers.Dense(len(layer.weights), "relu") for layer in layers[:-1]]
    head = keras.layers.Dense(len(layers[-1].weights))
    return keras.Sequential([keras.Input((layers[0].weights.shape[1],)), *hidden, head])


def float_tflite(model: Any) -> bytes:
    """Convert a Keras model to a float32 network, as `edgeqrl quantize` does first."""
    from edgeqrl.quantize.frozen import freeze
    from edgeqrl.quantize.tflite import Converter

    with Converter() as converter:
        return converter.to_float(freeze(agent_of(model)))


def agent_of(model: Any) -> Any:
    from edgeqrl.agents.from_keras import agent_from_model

    found = spaces(SPEC.make)
    return agent_from_model(model, found.observation_space, found.action_space)


def processor_seconds() -> float:
    """Return the processor's time of this process and, on Linux, of its children that still run."""
    seconds = time.process_time()
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    for pid in own.read_text().split() if own.exists() else ():
        seconds += time.clock_gettime(~int(pid) << 3 | 2)  # how Linux numbers the clock of a process
    return seconds


@dataclass
class Rates:
    """Steps per second of one loop, run by run."""

    by_processor: list[float] = field(default_factory=list)
    by_clock: list[float] = field(default_factory=list)

    def time(self, play: Loop) -> None:
        processor, clock = processor_seconds(), time.perf_counter()
        count = play()
        self.by_processor.append(count / (processor_seconds() - processor))
        self.by_clock.append(count / (time.perf_counter() - clock))


def steps(played: Rollout) -> int:
    return int(played.episode_lengths.sum())


def record(policy: Any, seeds: range) -> tuple[Rollout, list[Any]]:
    """Play; return the episodes, and the actions call by call."""
    steered = Steered(policy)
    played = rollout(steered, SPEC.make, seeds, keep_observations=True, keep_actions=True)
    return played, steered.calls


def measure(repeats: int, *, with_tensorflow: bool) -> dict[str, Any]:
    network = read_tflite(POLICY.read_bytes())
    with ExitStack() as stack:
        host = stack.enter_context(HostCPolicy(policy_of_network(network)))
        device = stack.enter_context(open_policy(policy_of_network(network), "cortex-m4"))
        played, calls = record(host, SEEDS)
        assert played.actions is not None
        assert played.observations is not None
        actions, visited = played.actions, np.concatenate(played.observations)[:EMULATED_STEPS]
        loops: dict[str, Loop] = {
            "host-c": lambda: steps(rollout(Steered(host), SPEC.make, SEEDS)),
            "no policy": lambda: steps(rollout(Replay(calls), SPEC.make, SEEDS)),
            "bare env.step": lambda: bare_loop(actions),
        }
        if with_tensorflow:
            loops |= float_loops(network, host, stack)
        for rows in ROWS_A_CALL:
            loops[f"emulated M4, {rows} rows"] = partial(on_device, device, visited, rows)
        rates = {name: Rates() for name in loops}
        for play in loops.values():
            play()  # compiles and fills caches
        for _ in range(repeats):
            for name, play in loops.items():
                rates[name].time(play)
    return {"steps": steps(played), **summary(rates)}


def float_loops(network: IntegerNetwork, host: HostCPolicy, stack: ExitStack) -> dict[str, Loop]:
    """Return the loops that need TensorFlow."""
    from edgeqrl.backends.keras import KerasPolicy

    model = keras_twin(network)
    agent = agent_of(model)
    by_keras = KerasPolicy(agent)
    by_litert = stack.enter_context(open_float_policy(float_tflite(model), agent.head))
    calls = [record(host, seeds)[1] for seeds in LOOKS]
    return {
        "pairs, keras": lambda: paired(by_keras, host),
        "pairs, no policy": lambda: unpaired(calls),
        "pairs, litert": lambda: paired(by_litert, host),
        "model.predict": lambda: predict_loop(model),
    }


def summary(rates: dict[str, Rates]) -> dict[str, Any]:
    def ratio(first: str, second: str, kind: str = "by_processor") -> float | None:
        # Paired: neighbours in time share the machine's moods.
        if first not in rates or second not in rates:
            return None
        return float(np.median(np.divide(getattr(rates[first], kind), getattr(rates[second], kind))))

    found: dict[str, Any] = {
        "steps_per_second": {name: float(np.median(rate.by_processor)) for name, rate in rates.items()},
        "steps_per_second_by_clock": {name: float(np.median(rate.by_clock)) for name, rate in rates.items()},
        "host_c_of_no_policy": ratio("host-c", "no policy"),
        "no_policy_of_bare_step": ratio("no policy", "bare env.step"),
        "host_c_of_predict": ratio("host-c", "model.predict"),
    }
    for name in ("keras", "litert"):
        for kind in ("by_processor", "by_clock"):
            found[f"time_of_pairs_{name}_{kind}"] = ratio("pairs, no policy", f"pairs, {name}", kind)
    return found


def show(found: dict[str, Any]) -> None:
    for name, rate in found["steps_per_second"].items():
        by_clock = found["steps_per_second_by_clock"][name]
        print(f"{name:22} {rate:10,.0f} steps/s   {by_clock:10,.0f} by the clock")
    lines = [
        ("host-c / no policy", "host_c_of_no_policy", "target >= 0.70"),
        ("no policy / bare step", "no_policy_of_bare_step", ""),
        ("host-c / model.predict", "host_c_of_predict", "target >= 50"),
    ]
    for name in ("keras", "litert"):
        lines.append((f"time of pairs, {name}", f"time_of_pairs_{name}_by_processor", "target <= 2"))
        lines.append(("  by the clock", f"time_of_pairs_{name}_by_clock", "target <= 2"))
    for label, key, target in lines:
        if found[key] is not None:
            print(f"{label:24} {found[key]:8.2f}   {target}")
    print("emulated M4: target >= 5,000 steps/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--skip-tensorflow", action="store_true", help="leave out pairs and model.predict")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    found = measure(options.repeats, with_tensorflow=not options.skip_tensorflow)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
