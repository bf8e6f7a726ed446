"""Any bytes into every function of an exported policy, under sanitizers: tests/c/fuzz_policy.c."""

import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.network.edges import ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.memory import FrameStack
from firmware_export.emit import c_sources, export_sources
from firmware_export.emit.params import build_params
from tests.c_build import C_DIR, LIBFUZZER_MEMORY, build, c_compiler, run, write_files
from tests.c_policies import random_policy
from tests.c_quality import wide_network
from tests.c_whole_policies import random_whole_policy
from tests.firmware import one_by_default

SANITIZE = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ENTRIES = 10  # of fuzz_policy.c
LIBFUZZER_RUNS = 300_000  # for each policy


@cache
def policies() -> dict[str, IntegerPolicy]:
    """Every head, networks of every family of kernels in both dtypes, edges alone, and a ring of frames."""
    rng = np.random.default_rng(3)
    return {
        "dense": random_policy(rng, (6, 9, 17, 4), lookups=0.6, shape=(2, 3)),
        "affine": random_policy(rng, (3, 33, 5), head="affine", lookups=0.6),
        "masked": random_policy(rng, (3, 4), head="masked"),
        "edges_argmax": random_policy(rng, (5,)),
        "edges_masked": random_policy(rng, (5,), head="masked"),
        "edges_affine": random_policy(rng, (5,), head="affine"),
        "frames": random_whole_policy(rng, frames=FrameStack(3, -1)),
        "wide_int8": wide_network("robot", "INT8", 355),
        "wide_int16": wide_network("robot", "INT16", 202),
    }


def glue(policy: IntegerPolicy) -> bytes:
    """Say in C what the fuzzer must know of a policy."""
    network, action = policy.network, policy.action
    name = policy.name
    sides = {"input": network.inputs, "output": network.outputs}
    types = {side: network.tensors[names[0]].dtype + "_t" for side, names in sides.items()}
    arguments = [
        f"({'const ' if side == 'input' else ''}{network.tensors[tensor].dtype}_t *)({side}s)[{i}]"
        for side, names in sides.items()
        for i, tensor in enumerate(names)
    ]
    lines = [
        f'#include "{name}.h"',
        f"#define FUZZ(f) FUZZ_GLUED({name}_, f)",
        "#define FUZZ_GLUED(a, b) a##b",
    ]
    lines += [
        f"#define FUZZ_CONST(c) {name.upper()}_##c",
        f"#define FUZZ_PARAMS_BYTES {name.upper()}_PARAMS_BYTES",
    ]
    kinds = ("state", "memory", "observation", "action")
    lines += [f"#define FUZZ_{kind.upper()} {name}_{kind}" for kind in kinds]
    lines += [f"#define FUZZ_NUM_FRAMES {policy.frames.num_frames if policy.frames else 0}u"]
    lines += [f"#define FUZZ_IS_DISCRETE {int(isinstance(action, ArgmaxEdge))}"]
    lines += [f"#define FUZZ_HAS_MASK {int(isinstance(action, ArgmaxEdge) and action.is_masked)}"]
    lines += [f"#define FUZZ_START ({action.start})"] if isinstance(action, ArgmaxEdge) else []
    lines += [f"#define FUZZ_INFER(state, inputs, outputs) {name}_infer((state), {', '.join(arguments)})"]
    for side, names in sides.items():
        lines += [
            f"#define FUZZ_{side.upper()}_TYPE {types[side]}",
        ]
        lines += [f"#define FUZZ_NUM_{side.upper()}S {len(names)}u"]
        sizes = ", ".join(str(network.tensors[tensor].num_bytes) for tensor in names)
        lines += [f"static const size_t fuzz_{side}_bytes[] = {{{sizes}}};"]
    return "\n".join([*lines, ""]).encode()


def build_fuzzer(folder: Path, policy: IntegerPolicy, argv: list[str]) -> None:
    """Compile the fuzzer of a policy to ./program."""
    files = export_sources(policy, b"")
    write_files(folder, files | {"fuzz_glue.h": glue(policy)})
    (folder / "fuzz_policy.c").write_bytes((C_DIR / "fuzz_policy.c").read_bytes())
    checks = ["-std=c99", "-Wall", "-Wextra", "-Werror", *SANITIZE]
    build([*argv, *checks, *c_sources(files), "fuzz_policy.c", "-o", "program"], folder)


def require_executions(folder: Path, count: int) -> None:
    """Run the generator's inputs; every entry must have been called."""
    found = [int(n) for n in re.findall(r"\d+", run(["./program", str(count), "1"], folder))]
    assert found[0] == count == sum(found[1:])
    assert len(found) == 1 + ENTRIES
    assert min(found[1:]) > count / 50


@pytest.mark.parametrize(
    "kind",
    one_by_default(
        ("dense", "affine", "masked", "frames", "wide_int8", "wide_int16"), ("masked", "frames", "wide_int8")
    ),
)
def test_any_bytes_are_answered_or_refused(tmp_path: Path, kind: str) -> None:
    build_fuzzer(tmp_path, policies()[kind], [*c_compiler("clang"), "-O1"])
    require_executions(tmp_path, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("kind", policies())
def test_millions_of_inputs_are_answered_or_refused(tmp_path: Path, kind: str, compiler: str) -> None:
    level = "-O2" if compiler == "gcc" else "-O3"
    build_fuzzer(tmp_path, policies()[kind], [*c_compiler(compiler), level])
    require_executions(tmp_path, 10**7 // (2 * len(policies())))


@pytest.mark.slow
@pytest.mark.parametrize("kind", policies())
def test_libfuzzer_finds_nothing(tmp_path: Path, kind: str) -> None:
    argv = [*c_compiler("clang"), "-O1", "-DFUZZ_WITH_LIBFUZZER", "-fsanitize=fuzzer"]
    build_fuzzer(tmp_path, policies()[kind], argv)
    (tmp_path / "corpus").mkdir()
    for entry in range(ENTRIES):  # the linked-in params, for every entry
        blob = bytes([entry]) + build_params(policies()[kind])
        (tmp_path / "corpus" / str(entry)).write_bytes(blob)
    limits = ["-max_len=20000", "-timeout=60", "-print_final_stats=1", "-seed=1", *LIBFUZZER_MEMORY]
    argv = ["./program", f"-runs={LIBFUZZER_RUNS}", *limits, "corpus"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (executed,) = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    assert int(executed) >= LIBFUZZER_RUNS
