"""A stranger's `.tflite` as C: no policy around it, integers in and out."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.rows import RowLayout
from edgeqrl.cli.main import run as edgeqrl
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from edgeqrl.network.tflite_model import parse_tflite, replace_buffers
from firmware_export.emit import c_sources, export_network
from firmware_export.emit.params import plan_params, read_params
from firmware_export.toolchain import host_compiler
from tests.c_build import run, write_files
from tests.gru_network import gru_step
from tests.random_networks import random_network

DATA = Path(__file__).parent / "data"
NETWORKS = {
    "conv": (DATA / "e_minatar.tflite").read_bytes(),
    "int16": (DATA / "litert_quantizer_depthwise_16x8.tflite").read_bytes(),
    "gru": gru_step(np.random.default_rng(0)),
    "several": random_network(np.random.default_rng(17), num_operators=12, num_inputs=2),
}


def program(data: bytes) -> str:
    """Return a C program that answers rows of its inputs on stdin with rows of its outputs."""
    network = read_tflite(data)
    groups = (("input", network.inputs), ("output", network.outputs))
    names = [
        (f"{word}_{i}", network.tensors[tensor])
        for word, tensors in groups
        for i, tensor in enumerate(tensors)
    ]
    buffers = "\n".join(f"static {t.dtype}_t {name}[{t.size}];" for name, t in names)
    reads = " && ".join(f"fread({n}, sizeof {n}, 1, stdin) == 1" for n, _ in names if n.startswith("input"))
    writes = "\n".join(
        f"(void)fwrite({n}, sizeof {n}, 1, stdout);" for n, _ in names if n.startswith("output")
    )
    return f"""#include <stdio.h>
#include "net.h"
static net_state state;
{buffers}
int main(void)
{{
    if (net_init(&state, NULL) != EQRL_OK) {{ return 1; }}
    while ({reads}) {{
        if (net_infer(&state, {", ".join(name for name, _ in names)}) != EQRL_OK) {{ return 2; }}
        {writes}
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exported_network_gives_the_integers_of_the_reference(name: str, tmp_path: Path) -> None:
    data = NETWORKS[name]
    network = read_tflite(data)
    files = export_network(BareNetwork("net", network), data)
    write_files(tmp_path, {**files, "program.c": program(data).encode()})
    sources = [*c_sources(files), "program.c"]
    run(
        [*host_compiler().argv, "-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", *sources, "-o", "p"],
        tmp_path,
    )
    inputs = random_inputs(network, np.random.default_rng(1), 20)
    rows = RowLayout([network.tensors[n] for n in network.inputs]).pack(inputs)
    (tmp_path / "in").write_bytes(rows.tobytes())
    run(["sh", "-c", "./p < in > out"], tmp_path)
    layout = RowLayout([network.tensors[n] for n in network.outputs])
    found = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(20, layout.num_bytes)
    expected = Reference(network).run(inputs)
    for output, values in layout.unpack(found).items():
        np.testing.assert_array_equal(values, expected[output])


def test_an_exported_network_has_no_step_and_its_example_runs(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert edgeqrl(["export", str(DATA / "a_cartpole.tflite"), "-o", str(output), "--name", "pole"]) == 0
    header = (output / "src" / "pole.h").read_text()
    assert "pole_infer(" in header
    assert "pole_step(" not in header
    sources = c_sources(p.name for p in (output / "src").iterdir() if p.is_file())
    sources += ["examples/host.c", "examples/pole/pole_control.c"]
    run([*host_compiler().argv, "-std=c99", "-I.", *sources, "-o", str(tmp_path / "p")], output / "src")
    assert run([str(tmp_path / "p")], tmp_path).startswith("output[0] = ")
    manifest = json.loads((output / "manifest.json").read_text())
    assert "src/pole.c" in manifest["artefacts"]
    assert edgeqrl(["export", str(DATA / "a_cartpole.tflite"), "-o", str(output)]) == 0  # ours: replaced
    assert edgeqrl(["inspect", str(output)]) == 0


def narrowed(tflite: bytes, bits: int) -> bytes:
    """Return the network with all weights of dense layers cut to so many bits."""
    model = parse_tflite(tflite)
    weights = {op.inputs[1] for op in model.operators if op.name == "FULLY_CONNECTED"}
    top = 2 ** (bits - 1) - 1
    cut = {i: np.clip(np.asarray(model.tensors[i].values()), -top, top).astype(np.int8) for i in weights}
    return replace_buffers(tflite, {i: values.tobytes() for i, values in cut.items()})


def export_of(tmp_path: Path, bits: int, *options: str) -> tuple[int, Path]:
    network, output = tmp_path / f"net{bits}.tflite", tmp_path / f"out{bits}{len(options)}"
    network.write_bytes(narrowed((DATA / "a_cartpole.tflite").read_bytes(), bits))
    code = edgeqrl(["export", str(network), "-o", str(output), "--name", "net", *options])
    return code, output / "src" / "net_params.bin"


def test_weights_of_few_bits_are_packed_unless_that_is_switched_off(tmp_path: Path) -> None:
    sizes = {}
    for bits, options in ((8, ()), (4, ()), (4, ("--unpacked",))):
        code, blob = export_of(tmp_path, bits, *options)
        assert code == 0
        sizes[bits, len(options)] = blob.stat().st_size
        assert (blob.parent / "eqrl_dense_packed.c").exists() == (bits == 4 and not options)
    assert sizes[4, 1] == sizes[8, 0]
    assert sizes[8, 0] - sizes[4, 0] > 2000


def test_new_params_for_code_that_was_exported_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, old = export_of(tmp_path, 3)
    code, new = export_of(tmp_path, 2, "--params-of", str(old))
    assert code == 0
    before, after = (read_params(path.read_bytes()) for path in (old, new))
    assert (before.contract, before.sequence + 1) == (after.contract, after.sequence)
    assert (new.parent / "net.c").read_bytes() == (old.parent / "net.c").read_bytes()
    code, _ = export_of(tmp_path, 4, "--params-of", str(old))
    assert code == 2
    assert "and the code that should take them unpacks 3 bits" in capsys.readouterr().err
    for options, says in (
        (("--params-of", str(old), "--unpacked"), "exclude each other"),
        (("--params-of", str(tmp_path / "absent")), "Cannot read"),
        (("--params-of", str(old.parent / "net.c")), "not a params blob"),
    ):
        code, _ = export_of(tmp_path, 2, *options)
        assert code != 0
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([str(DATA / "a_cartpole.tflite")], 2, "-o DIR"),
        ([str(DATA / "absent.tflite"), "-o", "x"], 12, "Cannot read"),
        ([str(DATA / "cartpole_q_near_100.keras"), "-o", "x"], 12, "nor a .tflite"),
        ([str(DATA / "a_cartpole.tflite"), "-o", "x", "--name", "int"], 2, "keyword"),
    ],
)
def test_bad_export_of_a_network_is_one_sentence(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert edgeqrl(["export", *arguments]) == code
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_constants_keep_their_place_whatever_they_are_called() -> None:
    """Retrained models count their layers on; their params must still fit the code."""
    network = read_tflite(random_network(np.random.default_rng(1), num_operators=14))
    assert len(network.constants) > 1
    contracts = set()
    for order in (sorted(network.constants), sorted(network.constants, reverse=True)):
        other = type(network)(
            network.tensors,
            network.inputs,
            network.outputs,
            network.layers,
            {name: network.constants[name] for name in order},
        )
        contracts.add(plan_params(BareNetwork("net", other)).contract)
    assert len(contracts) == 1
