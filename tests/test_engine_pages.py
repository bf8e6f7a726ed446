"""The tables and the picture of `python -m benchmarks.engine`."""

import re
import xml.etree.ElementTree as ET
from functools import lru_cache
from pathlib import Path

from benchmarks.engine.measure import Row, cut, measure, model_files
from benchmarks.engine.pages import bits_table, tables
from benchmarks.engine.plot import draw
from benchmarks.engine.recorded import rivals_on, target_of
from benchmarks.verdict_pages import fill_page
from edgeqrl.network.tflite_model import parse_tflite

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@lru_cache(maxsize=1)
def rows() -> list[Row]:
    return measure("ac", ["cortex-m0plus", "cortex-m4"], ["O2"], compilers=["zig"])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_have_their_places_in_the_page(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    fill_page(copy, tables(rows(), "made") | bits_table(rows(), "made"))
    assert "made\n\n| network | core | zig -O2 |" in copy.read_text()


def test_instructions_stand_beside_their_targets() -> None:
    lines = tables(rows(), "made")["engine"].splitlines()[4:]
    assert len(lines) == len(rows())
    for line, row in zip(lines, rows(), strict=True):
        wanted = target_of(row["core"], row["model"])
        assert wanted is not None
        found = cells(line)
        assert found[2:4] == [f"{row['instructions']:,}", f"{wanted:,}"]
        assert ("reached" in found[4]) == (row["instructions"] <= wanted)
        assert ("missed" in found[4]) == (row["instructions"] > wanted)


def test_layers_add_up_in_the_table() -> None:
    lines = [cells(line) for line in tables(rows(), "made")["engine layers"].splitlines()[2:]]
    for column, core in ((3, "cortex-m0plus"), (4, "cortex-m4")):
        total = sum(int(line[column].replace(",", "")) for line in lines)
        assert total == sum(row["instructions"] for row in rows() if row["core"] == core)


def test_rivals_are_shown_as_recorded() -> None:
    text = tables(rows(), "made")["engine rivals"]
    for core in ("cortex-m0plus", "cortex-m4"):
        for count in rivals_on(core, "a").values():
            assert f"{count:,} (" in text
    assert "Measured on 2026-11-22 with GCC 12.2" in text


def test_picture_shows_each_network_on_each_core() -> None:
    picture = draw(rows())
    ET.fromstring(picture)
    assert picture == draw(rows())
    for word in ("Cortex-M0+", "Cortex-M4", "edgeqrl", "TFLM + CMSIS-NN"):
        assert re.search(rf"<!-- .*{re.escape(word)}", picture), word


def test_cut_weights_fit_their_bits() -> None:
    tflite = model_files()["a"].read_bytes()
    assert cut(tflite, 8) == tflite
    model = parse_tflite(cut(tflite, 3))
    weights = [model.tensors[op.inputs[1]].values() for op in model.operators]
    assert {int(abs(values).max()) for values in weights} == {3}
