"""Speed of one inference on this computer: our C against LiteRT, both called from Python.

    python benchmarks/host.py [--models a b c d e] [--rounds 31] [--orders]

Prints a table in Markdown. Everything of a network is timed in one run, round by round, one after the other,
and the medians of rounds are compared: only these ratios mean anything on another machine. LiteRT's call is
`set_tensor`, `invoke` and `get_tensor` of ai-edge-litert's interpreter with one thread; ours is the function
of `HostC.single`, array in, array out. A batch is one call of `HostC.infer` with all rows, per row. Our
answers are compared with the reference first. `--orders` adds the same batch with weights in the orders of
boards.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.backends.host_c import HostC, HostCNetwork, policy_of_network
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from firmware_export.emit.orders import ALL_ORDERS, ROWS
from firmware_export.emit.wide import WIDE
from firmware_export.toolchain import HostCompiler, host_compiler, run_compiler

DATA = Path(__file__).parent.parent / "tests" / "data"
NAMES = {
    "a": "a_cartpole",
    "b": "b_lunar",
    "c": "c_cheetah_ppo",
    "d": "d_cheetah_sac",
    "e": "e_minatar",
    "f": "f_nature",
}
BATCH = 256
ROUND_US = 4000.0  # how long a round of one loop takes, about

Loop = Callable[[int], None]  # so many inferences, or batches


def main() -> None:
    """Time the chosen networks and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=NAMES, default=[name for name in NAMES if name != "f"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--orders", action="store_true", help="also time the orders of boards")
    options = parser.parse_args()
    orders = [ROWS, *(o for o in ALL_ORDERS if options.orders and o not in (ROWS, WIDE) and "_" not in o)]
    print(f"*{machine(host_compiler())}; microseconds, medians of {options.rounds} rounds.*\n")
    titles = ["network", "LiteRT, one call", "ours, one call", "ours is", "ours, a row of a batch"]
    titles += [f"the same in `{order}`" for order in orders]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for model in options.models:
        times = measure((DATA / f"{NAMES[model]}.tflite").read_bytes(), orders, options.rounds)
        cells = [f"{times['litert']:.2f}", f"{times['single']:.2f}"]
        cells += [f"{times['litert'] / times['single']:.2f} times as fast", f"{times[WIDE]:.2f}"]
        print(f"| {' | '.join([model, *cells, *(f'{times[order]:.2f}' for order in orders)])} |", flush=True)


def measure(tflite: bytes, orders: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the median microseconds of one inference by each way."""
    network = read_tflite(tflite)
    inputs = random_inputs(network, np.random.default_rng(0), BATCH)
    expected = Reference(network).run({name: values[:8] for name, values in inputs.items()})
    loops: dict[str, tuple[Loop, int]] = {"litert": (litert(tflite, network, inputs), 1)}
    backend = HostCNetwork(network)
    require_equal(backend.run(inputs), expected)
    single, first = backend.host.single(), [inputs[name][0] for name in network.inputs]
    require_equal(
        {name: a[None] for name, a in zip(network.outputs, single(*first), strict=True)}, expected, 1
    )
    loops["single"] = (repeated(single, *first), 1)
    loops[WIDE] = (repeated(backend.run, inputs), BATCH)
    for order in orders:
        host = HostC(replace(policy_of_network(network), order=order, weight_bits=()))
        require_equal(host.infer(inputs), expected)
        loops[order] = (repeated(host.infer, inputs), BATCH)
    counts = {name: repeats(loop) for name, (loop, _) in loops.items()}
    found: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, (loop, rows) in loops.items():
            found[name].append(timed(loop, counts[name]) / rows)
    return {name: statistics.median(times) for name, times in found.items()}


def litert(tflite: bytes, network: IntegerNetwork, inputs: dict[str, Any]) -> Loop:
    """Return the calls by which LiteRT answers one row."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    values = inputs[network.inputs[0]][:1].reshape(source["shape"])
    into, out = source["index"], target["index"]
    put, invoke, get = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor

    def loop(count: int) -> None:
        for _ in range(count):
            put(into, values)
            invoke()
            get(out)

    return loop


def repeated(call: Callable[..., object], *arguments: Any) -> Loop:
    """Return the loop of one call."""

    def loop(count: int) -> None:
        for _ in range(count):
            call(*arguments)

    return loop


def require_equal(found: dict[str, Any], expected: dict[str, Any], rows: int = 8) -> None:
    """Stop where a backend does not answer as the reference."""
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][:rows], values[:rows])


def repeats(loop: Loop) -> int:
    """Return how often a loop is run in a round."""
    return max(1, int(ROUND_US / timed(loop, 3)))


def timed(loop: Loop, count: int) -> float:
    """Return the microseconds of one run, of `count`."""
    start = time.thread_time()  # the processor's, which other programs disturb least
    loop(count)
    return (time.thread_time() - start) / count * 1e6


def machine(compiler: HostCompiler) -> str:
    """Say what this was measured on."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{lines[0].partition(':')[2].strip()} ({cpu})" if lines else cpu
    version = run_compiler([*compiler.argv, "--version"], Path.cwd()).stdout.partition("\n")[0]
    facts = (cpu, platform.system(), f"Python {platform.python_version()}", version, *compiler.native)
    return ", ".join(facts)


if __name__ == "__main__":
    main()
