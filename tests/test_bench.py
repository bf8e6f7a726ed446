"""`edgeqrl bench`: one inference counted, by layer and by class, its bytes of the same build."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.bench import bench_network, core_of
from edgeqrl.cli.main import run
from edgeqrl.errors import UsageError
from firmware_export.emit.arena import plan_arena
from tests.bare_engines import DATA, bare_image
from tests.firmware import cross_compiler, one_by_default, require_tool
from tests.tflite_writer import random_dense_tflite

CORES = one_by_default(EMULATED_CORES, ("cortex-m0plus", "cortex-m4", "rv32imc"))
CONVOLUTIONAL = (DATA / "e_minatar.tflite").read_bytes()


def require_core(core: str) -> None:
    if core == "cortex-m55":
        require_tool("qemu-system-arm")


def require_sound(found: dict[str, Any]) -> None:
    """Check what holds of every measurement."""
    layers = sum(layer["instructions"] for layer in found["layers"])
    assert layers + found["instructions_other"] == found["instructions"]
    assert found["instructions_other"] > 0
    assert all(layer["instructions"] > 0 for layer in found["layers"])
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"]
    assert sum(found["instruction_classes"].values()) == found["instructions"]
    flash = found["flash_bytes"]
    assert flash["total"] == flash["code"] + flash["weights"]
    assert 0 < flash["params_header"] < flash["weights"]
    assert found["ram_bytes"] >= found["activation_bytes"]
    assert 0 < found["measured_stack_bytes"] <= found["stack_bytes"]
    assert found["cycles_estimate"] > 0
    assert "no wait states" in found["cycles_model"]


@pytest.mark.parametrize("core", CORES)
def test_bench_measures_one_inference(core: str) -> None:
    require_core(core)
    found = bench_network(CONVOLUTIONAL, core)
    require_sound(found)
    assert (found["core"], found["optimize"], found["macs"]) == (core, "O2", 168_704)
    assert [layer["operator"] for layer in found["layers"]] == [
        "CONV_2D",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
    ]
    assert found["activation_bytes"] == plan_arena(bare_image("e_minatar", "cortex-m4")[1]).least_bytes
    assert bench_network(CONVOLUTIONAL, core) == found


@pytest.mark.slow
@pytest.mark.parametrize("level", ["O1", "O2", "O3", "Os"])
@pytest.mark.parametrize(
    ("core", "compiler"),
    [(core, name) for core in EMULATED_CORES for name in ("zig", "gcc")],
)
def test_bench_takes_each_compiler_and_level(core: str, compiler: str, level: str) -> None:
    require_core(core)
    gcc = "riscv64-unknown-elf-gcc" if core.startswith("rv") else "arm-none-eabi-gcc"
    chosen = cross_compiler(gcc if compiler == "gcc" else compiler)
    for model in ("c_cheetah_ppo", "e_minatar"):
        tflite = (DATA / f"{model}.tflite").read_bytes()
        found = bench_network(tflite, core, compiler=chosen.name, optimize=level)
        require_sound(found)
        assert (found["compiler"], found["optimize"]) == (f"{chosen.name} {chosen.version}", level)


def test_a_network_of_tables_and_16_bits_has_layers_too() -> None:
    for name in ("c_cheetah_ppo", "litert_quantizer_depthwise_16x8", "litert_quantizer_gru_int8"):
        require_sound(bench_network((DATA / f"{name}.tflite").read_bytes(), "m4"))


def test_cores_have_short_names() -> None:
    assert [core_of(name) for name in ("m0plus", "m3", "m4", "m7", "m33", "m55", "rv32imc")] == [
        *("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "rv32imc")
    ]
    assert all(core_of(name) == name for name in EMULATED_CORES)


def test_unknown_names_are_one_sentence() -> None:
    tflite = random_dense_tflite(np.random.default_rng(0), [4, 8, 2], ["RELU", "NONE"])
    with pytest.raises(UsageError, match="did you mean 'cortex-m55'"):
        bench_network(tflite, "cortex-m5")
    with pytest.raises(UsageError, match="There is no optimization 'O4'"):
        bench_network(tflite, "cortex-m4", optimize="O4")
    with pytest.raises(UsageError, match="There is no compiler"):
        bench_network(tflite, "cortex-m4", compiler="tcc")


def test_bench_is_told_in_words_and_fits_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    place = Path("net.tflite")
    place.write_bytes(CONVOLUTIONAL)
    assert run(["bench", str(place), "--core", "m0plus", "--optimize", "Os"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "on cortex-m0plus" in lines[0]
    assert "with Os" in lines[0]
    assert all(len(line) <= 80 for line in lines)
    for label in (
        "cycles, estimate",
        "flash: code + weights",
        "stack, bound / measured",
        "RAM, without stack",
    ):
        assert any(line.startswith(f"│ {label} ") for line in lines), label
    assert [line.split()[1] for line in lines if line.startswith("│ CONV_2D") or "copies and calls" in line]
    assert "what boots the emulator counts nowhere" in lines[-1]
    place.write_bytes(b"no network")
    assert run(["bench", str(place)]) == 12
    assert capsys.readouterr().err.startswith("error: 'net.tflite' is not a .tflite file")


def test_bench_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "net.tflite"
    place.write_bytes(random_dense_tflite(np.random.default_rng(0), [4, 8, 2], ["RELU", "NONE"]))
    assert run(["bench", str(place), "--core", "rv32imc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    require_sound(found)
    assert found == bench_network(place.read_bytes(), "rv32imc")
