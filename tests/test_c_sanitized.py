"""Random networks as C under sanitizers, gcc and clang, -O0 to -O3: the reference, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.backends.rows import RowLayout
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.emit import c_sources, export_sources, runtime_sources
from firmware_export.emit.host_batch import host_batch_source
from tests.c_build import C_DIR, c_compiler, run, write_files
from tests.test_random_networks import network, random_inputs

DTYPES = ("INT8", "INT16")
SANITIZE = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
RUNTIME = runtime_sources()
SAMPLES = 16


def networks(seeds: range) -> dict[str, IntegerNetwork]:
    """Return lowered networks of both dtypes by the name that their C will have."""
    return {f"{t.lower()}_{seed}": read_tflite(network(seed, t)) for seed in seeds for t in DTYPES}


def layout(network: IntegerNetwork, names: tuple[str, ...]) -> RowLayout:
    return RowLayout([network.tensors[name] for name in names])


def write_networks(folder: Path, found: dict[str, IntegerNetwork]) -> list[str]:
    """Write all policies, the runtime and a program that runs each; return the C files."""
    write_files(folder, RUNTIME)
    sources = {path for path in RUNTIME if path.endswith(".c")}
    calls, text = "", '#include "run_networks.h"\n'
    for name, lowered in found.items():
        policy = policy_of_network(lowered, name)
        files = export_sources(policy, b"") | {f"{name}_batch.c": host_batch_source(policy)}
        write_files(folder, {path: content for path, content in files.items() if path not in RUNTIME})
        sources |= set(c_sources(files))
        sizes = [layout(lowered, names).num_bytes for names in (lowered.inputs, lowered.outputs)]
        text += f'#include "{name}.h"\nRUN_NETWORK({name}, {sizes[0]}u, {sizes[1]}u)\n'
        calls += f"    run_{name}({SAMPLES}u);\n"
    text += f"\nint main(void)\n{{\n{calls}    return 0;\n}}\n"
    header = (C_DIR / "run_networks.h").read_bytes()
    write_files(folder, {"main.c": text.encode(), "run_networks.h": header})
    return sorted({*sources, "main.c"})


def require_equal(folder: Path, compiler: str, level: str, seeds: range) -> int:
    """Compile, run all networks on samples; return how many outputs were compared."""
    found = networks(seeds)
    files = write_networks(folder, found)
    rng = np.random.default_rng(seeds.start)
    inputs = {name: random_inputs(rng, lowered, SAMPLES) for name, lowered in found.items()}
    rows = [layout(lowered, lowered.inputs).pack(inputs[name]) for name, lowered in found.items()]
    run([*c_compiler(compiler), "-std=c99", level, *SANITIZE, *files, "-o", "program"], folder)
    answer = run(["./program"], folder, stdin=b"".join(row.tobytes() for row in rows))
    return compare(found, inputs, bytes.fromhex(answer))


def compare(
    found: dict[str, IntegerNetwork], inputs: dict[str, dict[str, NDArray[Any]]], answer: bytes
) -> int:
    """Compare the outputs of all networks, one after another, with the reference."""
    at = count = 0
    for name, lowered in found.items():
        outputs = layout(lowered, lowered.outputs)
        rows = np.frombuffer(answer, np.uint8, SAMPLES * outputs.num_bytes, at)
        expected = Reference(lowered).run(inputs[name])
        for output, values in outputs.unpack(rows.reshape(SAMPLES, -1)).items():
            np.testing.assert_array_equal(values, expected[output], err_msg=f"{name}, {output}")
            count += values.size
        at += rows.size
    assert at == len(answer)
    return count


@pytest.mark.parametrize(("compiler", "level"), [("gcc", "-O0"), ("clang", "-O0")])
def test_c_of_random_networks_equals_the_reference_under_sanitizers(
    tmp_path: Path, compiler: str, level: str
) -> None:
    assert require_equal(tmp_path, compiler, level, range(500, 503)) > 3_000


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_c_of_many_random_networks_equals_the_reference_under_sanitizers(
    tmp_path: Path, compiler: str, level: str
) -> None:
    assert require_equal(tmp_path, compiler, level, range(600, 616)) > 20_000
