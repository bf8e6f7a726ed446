"""The engine's gate: instructions, code, RAM and stack of one build, against benchmarks/engine/targets.toml.

What is above its target is in not_yet.toml, and may not get worse; what has reached it may not stay there.
"""

from typing import Any

import pytest

from benchmarks.engine.gate import findings, is_gate, missed, not_yet
from benchmarks.engine.measure import CORES, model_files
from benchmarks.engine.recorded import rivals, target_of, targets
from edgeqrl.backends.bench import bench_network
from tests.firmware import require_tool

NEEDS_QEMU = "cortex-m55"


def cases() -> list[Any]:
    slow = {NEEDS_QEMU: pytest.mark.slow}
    return [
        pytest.param(core, model, marks=[slow[core]] if core in slow else [])
        for core in CORES
        for model in model_files()
    ]


@pytest.mark.parametrize(("core", "model"), cases())
def test_build_keeps_to_its_targets(core: str, model: str) -> None:
    if core == NEEDS_QEMU:
        require_tool("qemu-system-arm")
    pinned = {"compiler": targets()["compiler"], "optimize": targets()["optimize"]}
    row = bench_network(model_files()[model].read_bytes(), core, **pinned) | {
        "model": model,
        "weight_bits": 8,
    }
    assert is_gate(row)
    known = not_yet().get(core, {}).get(model, {})
    for figure in findings(row):
        where = f"{figure.name} of {model} on {core}"
        if figure.name in known:
            assert figure.found <= known[figure.name], f"{where} got worse"
            assert figure.found > figure.most, f"{where} reached its target: take it out of not_yet.toml"
        else:
            assert figure.found <= figure.most, f"{where} is above its target"


def test_only_figures_that_have_targets_are_not_yet_there() -> None:
    for core, models in not_yet().items():
        for model, figures in models.items():
            assert core in CORES
            assert model in model_files()
            assert set(figures) <= {"instructions", "code_bytes", "ram_bytes", "stack_bytes"}
            limit = target_of(core, model)
            assert "instructions" not in figures or (limit is not None and figures["instructions"] > limit)


def test_what_misses_a_target_is_written_down() -> None:
    row = {
        **{"core": "cortex-m4", "model": "a", "compiler": "zig 0", "optimize": "O2", "weight_bits": 8},
        **{"instructions": 7_101, "ram_bytes": 400, "activation_bytes": 128, "column_bytes": 72},
        **{"stack_bytes": 260, "flash_bytes": {"code": 1_400, "params_header": 101}},
        "layers": [{"operator": "FULLY_CONNECTED"}],
    }
    text = missed([row, {**row, "optimize": "Os"}])
    assert text.count("[cortex-m4.a]") == 1
    figures = [line for line in text.splitlines() if "=" in line]
    assert figures == ["instructions = 7_101", "code_bytes = 1_501", "stack_bytes = 260"]
    assert "[" not in missed(
        [{**row, "instructions": 1, "stack_bytes": 1, "layers": [{"operator": "CONV_2D"}]}]
    )


def test_targets_and_rivals_are_of_the_six_networks() -> None:
    assert set(model_files()) == set("abcdef")
    for core, limits in targets()["instructions"].items():
        assert core in CORES
        assert set(limits) == set("abcdef")
    for row in rivals()["instructions"]:
        assert row["core"] in CORES
        assert set(row) - {"core", "engine"} <= set("abcdef")
        assert all(isinstance(count, int) for name, count in row.items() if name in "abcdef")
