"""Where the time of `convert` goes: TensorFlow, the environment, the C compiler, and us.

    python benchmarks/convert.py [--agent zoo:lunarlander-dqn] [--env LunarLander-v3] [--json]

Shares of one run, so that a loaded machine changes the seconds and hardly the ratios. TensorFlow's share is
its import, loading and tracing the model, acting with it, and waiting for the converter.
"""

import argparse
import functools
import importlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

# category -> functions whose time, outermost first, is its share
MEASURED = {
    "tensorflow": (
        ("edgeqrl.agents.from_keras", "load_agent"),
        ("edgeqrl.backends.keras", "KerasPolicy.__init__"),
        ("edgeqrl.backends.keras", "KerasPolicy._padded_outputs"),
        ("edgeqrl.quantize.quantize", "freeze"),
        ("edgeqrl.quantize.tflite", "Converter.to_float"),
        ("edgeqrl.quantize.tflite", "Converter.observe"),
        ("edgeqrl.quantize.tflite", "Converter.quantize"),
        ("edgeqrl.quantize.tflite", "Converter.splice"),
    ),
    "compiler": (
        ("firmware_export.toolchain", "host_compiler"),
        ("edgeqrl.backends.host_c", "run_compiler"),
        ("firmware_export.build", "run_compiler"),
    ),
}


class Clock:
    """Adds up seconds by category; time inside a measured call counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._depth = 0

    def timed(self, category: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return function(*args, **kwargs)
            self._depth += 1
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[category] += time.perf_counter() - began
                self._depth -= 1

        return wrapper

    def patch(self, category: str, module: str, path: str) -> None:
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, self.timed(category, getattr(owner, name)))


class TimedEnvironment(gymnasium.Wrapper):
    """Counts the time of reset and step as the environment's."""

    def __init__(self, env: gymnasium.Env, clock: Clock) -> None:
        super().__init__(env)
        self._reset = clock.timed("environment", env.reset)
        self._step = clock.timed("environment", env.step)

    def reset(self, **options: Any) -> Any:
        """Reset the environment."""
        return self._reset(**options)

    def step(self, action: Any) -> Any:
        """Step the environment."""
        return self._step(action)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent", default="zoo:lunarlander-dqn")
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--board", default="mps2-an386")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began = time.perf_counter()
    clock = Clock()
    from edgeqrl import pipeline  # its imports are part of the run
    from edgeqrl.agents.options import PreprocessingOptions
    from edgeqrl.contract import ContractOptions

    for category, functions in MEASURED.items():
        for module, path in functions:
            clock.patch(category, module, path)
    make = clock.timed("environment", gymnasium.make)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.convert(
            arguments.agent,
            lambda: TimedEnvironment(make(arguments.env), clock),
            board=arguments.board,
            output=Path(folder) / "bundle",
            preprocessing=PreprocessingOptions(keep_wrappers=("__main__:TimedEnvironment",)),
            contract=ContractOptions(fail_safe="disable"),
        )
    total = time.perf_counter() - began
    clock.seconds["edgeqrl"] = total - sum(clock.seconds.values())
    shares = {name: round(seconds / total, 3) for name, seconds in sorted(clock.seconds.items())}
    result = {"agent": arguments.agent, "total_s": round(total, 1), "shares": shares}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"convert {arguments.agent}: {total:.1f} s")
    for name, share in shares.items():
        print(f"  {name:<12} {100 * share:5.1f} %")


if __name__ == "__main__":
    main()
