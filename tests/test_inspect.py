"""`inspect`: the table, the JSON and the picture of any network, also of one that cannot be run."""

import json
import os
import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeqrl.cli.facts import print_facts
from edgeqrl.cli.main import run
from edgeqrl.errors import DataError, UsageError
from edgeqrl.inspect import LayerFacts, NetworkFacts, TensorFacts, inspect
from edgeqrl.layered import Drawing, lay_out
from edgeqrl.picture import MAX_LAYERS, draw, shortened
from tests.firmware import require_tool
from tests.gru_network import gru_step
from tests.tflite_writer import TFLiteWriter, random_float_tflite, single_operator

DATA = Path(__file__).parent / "data"
CHAIN = DATA / "c_cheetah_ppo.tflite"
GRU = gru_step(np.random.default_rng(0))
INT8 = {"shape": (1, 4), "dtype": "INT8", "scale": 0.1, "zero_point": 3}


def float_tflite() -> bytes:
    return random_float_tflite(np.random.default_rng(0), [4, 8, 2], ["TANH", "NONE"])


def float_edges() -> bytes:
    """Return an int8 TANH between QUANTIZE and DEQUANTIZE."""
    writer = TFLiteWriter()
    x, result = (writer.tensor(name, (1, 4), "FLOAT32") for name in ("serving_default_x", "result"))
    x8, tanh = (writer.tensor(name, (1, 4), scale=1 / 128, zero_point=0) for name in ("x8", "tanh"))
    writer.operator("QUANTIZE", [x], [x8])
    writer.operator("TANH", [x8], [tanh])
    writer.operator("DEQUANTIZE", [tanh], [result])
    return writer.finish([x], [result])


def write(place: Path, data: bytes) -> str:
    place.write_bytes(data)
    return str(place)


# Facts


def test_facts_of_a_chain() -> None:
    facts = inspect(CHAIN.read_bytes())
    assert (facts.supported, facts.reason) == (True, None)
    assert [layer.operator for layer in facts.layers] == ["FULLY_CONNECTED", "TANH"] * 3
    assert [layer.macs for layer in facts.layers] == [17 * 64, 0, 64 * 64, 0, 64 * 6, 0]
    assert [layer.weight_bytes for layer in facts.layers[::2]] == [64 * (17 + 4), 64 * (64 + 4), 6 * (64 + 4)]
    assert [layer.activation_bytes for layer in facts.layers] == [64, 64, 64, 64, 6, 6]
    assert (facts.macs, facts.weight_bytes) == (5568, 6104)
    assert facts.arena_bytes == facts.arena_least_bytes == 64 + 64
    source = facts.tensors[facts.inputs[0]]
    assert (source.shape, source.dtype, source.zero_point, source.bytes) == ((17,), "int8", -7, 17)
    assert source.scale == pytest.approx(0.028978, rel=1e-4)


def test_facts_of_branches() -> None:
    facts = inspect(GRU)
    assert facts.supported
    assert facts.inputs == ("observation", "state")
    assert facts.outputs == ("gru/head/BiasAdd", "gru/add_3")
    written = {name for layer in facts.layers for name in layer.outputs} | set(facts.inputs)
    assert written == set(facts.tensors), "constants are no activations"
    (subtraction,) = [layer for layer in facts.layers if layer.operator == "SUB"]
    assert (subtraction.inputs, subtraction.weight_bytes) == (("gru/Sigmoid",), 1)


def test_float_network_is_shown_and_refused() -> None:
    facts = inspect(float_tflite())
    assert not facts.supported
    assert facts.reason is not None
    assert "FULLY_CONNECTED" in facts.reason
    assert [layer.operator for layer in facts.layers] == ["FULLY_CONNECTED", "TANH", "FULLY_CONNECTED"]
    assert facts.weight_bytes == 4 * (4 * 8 + 8 + 8 * 2 + 2)
    assert facts.tensors["observation"] == TensorFacts((1, 4), "float32", None, None, 16)
    assert (facts.macs, facts.arena_bytes) == (None, None)


@pytest.mark.parametrize("name", ["CUSTOM", "WHILE", "VAR_HANDLE", "SELECT_V2"])
def test_operator_that_nobody_knows_is_shown(name: str) -> None:
    facts = inspect(single_operator(name, [INT8], [INT8]))
    assert (facts.supported, len(facts.layers)) == (False, 1)
    assert facts.layers[0].operator == name
    draw(facts, "stranger")


def test_tensors_of_strange_types_have_no_bytes() -> None:
    handle = {"shape": (), "dtype": "RESOURCE"}
    facts = inspect(single_operator("VAR_HANDLE", [], [handle]))
    assert facts.tensors["output_0"] == TensorFacts((), "resource", None, None, 0)


def test_indices_have_no_scale() -> None:
    axis = {"shape": (1,), "dtype": "INT32", "data": np.array([1], np.int32)}
    index = {"shape": (1,), "dtype": "INT32"}
    facts = inspect(single_operator("ARG_MAX", [INT8, axis], [index], output_type="INT32"))
    assert facts.supported
    assert facts.tensors["output_0"] == TensorFacts((), "int32", None, None, 4)


def test_facts_are_json() -> None:
    for data in (GRU, float_tflite()):
        found = json.loads(json.dumps(inspect(data).to_json(), allow_nan=False))
        assert found["layers"][0]["operator"] == "FULLY_CONNECTED"


def test_edges_that_the_file_has_as_floats_are_told() -> None:
    facts = inspect(float_edges())
    source, result = facts.tensors[facts.inputs[0]], facts.tensors[facts.outputs[0]]
    assert (source.dtype, source.file_dtype, source.file_name) == ("int8", "float32", "serving_default_x")
    assert (result.dtype, result.file_dtype, result.file_name) == ("int8", "float32", "result")
    assert facts.to_json()["tensors"][facts.inputs[0]]["file_dtype"] == "float32"
    assert {tensor.file_dtype for tensor in inspect(GRU).tensors.values()} == {None}


def test_damaged_file_is_refused() -> None:
    with pytest.raises(DataError, match="damaged"):
        inspect(GRU[:500])


def test_whatever_can_be_read_can_be_shown() -> None:
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(100):
        data = bytearray(GRU)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            facts = inspect(bytes(data))
        except DataError:
            continue
        shown += 1
        json.dumps(facts.to_json(), allow_nan=False)
        if shown % 10 == 0:
            print_facts(facts, "damaged")
    assert 20 < shown < 100


# The command


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["chain", "gru", "float", "wide"])
def test_table_fits_the_terminal(
    name: str,
    columns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    big = {"shape": (1, 64, 84, 84), "dtype": "INT16", "scale": 1.2345e-10, "zero_point": 0}
    long = big | {"name": "model/" + "encoder/" * 20 + "Relu"}
    content = {
        "chain": CHAIN.read_bytes(),
        "gru": GRU,
        "float": float_tflite(),
        "wide": single_operator("RESIZE_NEAREST_NEIGHBOR", [big], [long]),
    }
    assert run(["inspect", write(tmp_path / "net.tflite", content[name])]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] and line[0] in "┏┃┡│└"]
    assert len({len(line) for line in table}) == 1
    assert len(table[0]) <= columns
    for row in table:
        assert row[-1] in "┓┃┩│┘"
    operators = [layer.operator for layer in inspect(content[name]).layers]
    shown = [line[1:].split()[0] for line in table if re.match(r"│ [A-Z]+[A-Z0-9_…]+ +│ in", line)]
    assert shown == (["RESIZE…IGHBOR"] if (name, columns) == ("wide", 80) else operators)


def test_sums_inputs_and_outputs_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(CHAIN)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "c_cheetah_ppo.tflite"
    assert lines[-3].endswith("int8 17, scale 0.0289776, zero point -7")
    assert lines[-2] == "output 'StatefulPartitionedCall_1:0': int8 6, scale 0.0078125, zero point 0"
    assert lines[-1] == "6 layers, 5,568 MACs, 6,104 B of weights, arena 128 B"


def test_floats_of_the_file_stand_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", write(tmp_path / "net.tflite", float_edges())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:-1] == [
        "input 'x8': int8 4, scale 0.0078125, zero point 0",
        "  in the file float32 'serving_default_x'",
        "output 'tanh': int8 4, scale 0.0078125, zero point 0",
        "  in the file float32 'result'",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminal_that_lacks_characters_gets_question_marks(encoding: str, tmp_path: Path) -> None:
    tensors = [INT8 | {"name": name} for name in ("é" * 50, "π" * 100)]
    place = write(tmp_path / "net.tflite", single_operator("TANH", tensors[:1], tensors[1:]))
    done = subprocess.run(
        [sys.executable, "-m", "edgeqrl", "inspect", place],
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"??" in done.stdout
    assert b"TANH" in done.stdout


def test_reason_stands_below_and_the_exit_code_is_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write(tmp_path / "float.tflite", float_tflite())
    assert run(["inspect", place]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("edgeqrl cannot run it. ")
    assert run(["inspect", place, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["supported"], found["macs"]) == (False, None)
    assert "FULLY_CONNECTED" in found["reason"]


def test_json_stays_one_document_beside_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "net.svg"
    assert run(["inspect", str(CHAIN), "--svg", str(picture), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["macs"] == 5568
    assert "net.svg" in captured.err
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.tflite"], 12, "absent.tflite"),
        ([str(DATA)], 12, "not a bundle"),
        ([str(DATA / "cartpole_q_near_100.keras")], 12, "not a .tflite file"),
        (
            [str(DATA / "cartpole_q_near_100.keras")],
            12,
            "cartpole_q_near_100.keras' is not a .tflite file, or it is damaged",
        ),
        ([str(CHAIN), "--svg", "/nowhere/net.svg"], 13, "--svg"),
        ([str(CHAIN), "--svg", str(DATA)], 13, "is a folder and not a file. Choose another place with --svg"),
        ([str(CHAIN), "--svg", "-"], 2, "cannot go to standard output"),
        ([str(CHAIN), "--svg", str(CHAIN)], 2, "into the network itself"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *arguments]) == code
    (sentence,) = capsys.readouterr().err.splitlines()
    assert words in sentence


@pytest.mark.parametrize("kind", ["same", "link", "hard link", "in the bundle"])
def test_network_is_not_drawn_over(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, picture = tmp_path / "net.tflite", tmp_path / "net.svg"
    content = CHAIN.read_bytes()
    network.write_bytes(content)
    if kind == "same":
        picture = tmp_path / "." / "net.tflite"
    elif kind == "link":
        picture.symlink_to(network)
    elif kind == "hard link":
        picture.hardlink_to(network)
    else:
        network, picture = tmp_path, tmp_path / "src" / "net.svg"
    assert run(["inspect", str(network), "--svg", str(picture)]) == 2
    assert "into the network itself" in capsys.readouterr().err
    assert (tmp_path / "net.tflite").read_bytes() == content


# The picture


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.text]


def test_picture_has_a_box_for_each_layer_input_and_output() -> None:
    facts = inspect(GRU)
    svg = draw(facts, "gru.tflite")
    shown = texts(svg)
    for layer in facts.layers:
        assert layer.name in shown
        assert layer.operator in shown
    assert (shown.count("input"), shown.count("output")) == (2, 2)
    assert "int8 24, scale 0.04, zero 5" in shown
    assert "144 MACs, 240 B weights" in shown
    reads = sum(len(set(layer.inputs)) for layer in facts.layers)
    assert svg.count("marker-end") == reads + len(facts.outputs)


def test_picture_is_the_same_each_time() -> None:
    assert draw(inspect(GRU), "a") == draw(inspect(GRU), "a")


def test_text_of_a_file_is_escaped() -> None:
    writer = TFLiteWriter()
    name = '</text><script>alert("1")</script>&\x00\x1b[31m'
    tensors = [writer.tensor(f"{name}{i}", (1, 4), scale=0.1, zero_point=0) for i in range(2)]
    writer.operator("TANH", tensors[:1], tensors[1:])
    svg = draw(inspect(writer.finish(tensors[:1], tensors[1:])), "<b>&")
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert any("<script>" in text for text in texts(svg)), "it is there, as text"


def test_operator_of_no_family_is_drawn() -> None:
    tensors = {"a": TensorFacts((4,), "int8", 0.1, 0, 4)}
    layer = LayerFacts("BRAND_NEW", "new", ("a",), ("b", "c"), None, 0, 4)
    assert "BRAND_NEW" in draw(NetworkFacts(True, None, ("a",), ("b",), (layer,), tensors, 0, 0, 4, 4), "x")


def test_picture_of_too_much_is_refused() -> None:
    layers = (LayerFacts("TANH", "t", (), (), 0, 0, 0),) * (MAX_LAYERS + 1)
    with pytest.raises(UsageError, match="501 layers"):
        draw(NetworkFacts(True, None, (), (), layers, macs=0, arena_bytes=0), "x")


@pytest.mark.slow
def test_pictures_are_rendered_by_others(tmp_path: Path) -> None:
    command = require_tool("rsvg-convert")
    for name, data in (("chain", CHAIN.read_bytes()), ("gru", GRU), ("float", float_tflite())):
        (tmp_path / f"{name}.svg").write_text(draw(inspect(data), name))
        image = tmp_path / f"{name}.png"
        subprocess.run([command, str(tmp_path / f"{name}.svg"), "-o", str(image)], check=True)
        assert image.stat().st_size > 5000


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("short", 5, "short"),
        ("shorter", 5, "sh…er"),
        ("abc", 1, "…c"),
        ("", 4, ""),
        ("編碼器網路", 10, "編碼器網路"),
        ("編碼器網路", 9, "編碼…網路"),
        ("編碼器網路", 6, "編…路"),
    ],
)
def test_names_are_shortened_in_the_middle(text: str, width: int, expected: str) -> None:
    assert shortened(text, width) == expected


# The layout


def require_readable(
    drawing: Drawing, sizes: list[tuple[float, float]], edges: list[tuple[int, int]], gap: float
) -> None:
    boxes = [(x - w / 2, y, x + w / 2, y + h) for (x, y), (w, h) in zip(drawing.places, sizes, strict=True)]
    for (left, top, right, bottom), other in combinations(boxes, 2):
        apart = other[0] - right > gap - 0.01 or left - other[2] > gap - 0.01
        assert apart or bottom < other[1] or other[3] < top
    for left, top, right, bottom in boxes:
        assert left > -0.01
        assert right < drawing.width + 0.01
        assert 0 <= top < bottom <= drawing.height
    for (source, target), bends in zip(edges, drawing.bends, strict=True):
        heights = [boxes[source][3], *(y for _, y in bends), boxes[target][1]]
        assert all(a <= b for a, b in pairwise(heights)), "edges only lead down"
        for x, y in bends:
            assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes), (
                "an edge crosses a box"
            )


@pytest.mark.parametrize("seed", range(10))
def test_boxes_of_random_graphs_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    sizes = [(float(rng.uniform(20, 200)), float(rng.uniform(10, 60))) for _ in range(count)]
    edges = sorted({(int(rng.integers(0, i)), i) for i in range(1, count) for _ in range(rng.integers(0, 4))})
    require_readable(lay_out(sizes, edges, gap=(20.0, 30.0)), sizes, edges, 20.0)


def test_chain_is_one_straight_column() -> None:
    drawing = lay_out([(50.0, 20.0), (90.0, 20.0), (70.0, 20.0)], [(0, 1), (1, 2)], gap=(10.0, 30.0))
    assert drawing.places == ((45.0, 0.0), (45.0, 50.0), (45.0, 100.0))
    assert (drawing.width, drawing.height) == (90.0, 120.0)


def test_edges_cross_only_where_they_must() -> None:
    # Two chains whose nodes are numbered across: side by side in the picture, none crosses.
    edges = [(0, 3), (1, 2), (2, 5), (3, 4)]
    places = lay_out([(10.0, 10.0)] * 6, edges).places
    for a, b in ((0, 1), (3, 2), (4, 5)):
        assert (places[a][0] < places[b][0]) == (places[0][0] < places[1][0])


def test_long_edge_passes_beside_the_boxes_it_skips() -> None:
    sizes = [(80.0, 20.0)] * 4
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
    drawing = lay_out(sizes, edges)
    assert len(drawing.bends[3]) == 4
    require_readable(drawing, sizes, edges, 24.0)


def test_tangle_is_drawn_in_seconds() -> None:
    edges = [(i, j) for j in range(150) for i in range(j)]
    drawing = lay_out([(80.0, 20.0)] * 150, edges)
    assert not any(drawing.bends)
    assert len({y for _, y in drawing.places}) == 150


def test_nothing_gives_nothing() -> None:
    assert lay_out([], []) == Drawing((), (), 0.0, 0.0)


def test_circle_is_our_fault() -> None:
    with pytest.raises(ValueError, match="circle"):
        lay_out([(1.0, 1.0)] * 2, [(0, 1), (1, 0)])
