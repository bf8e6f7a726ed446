"""Files with constants of their own and other scales are what they were, for every reader."""

from pathlib import Path

import numpy as np
import pytest

from edgeqrl.errors import DataError
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from edgeqrl.network.tflite_constants import Quantization, with_own_operands, with_quantization
from edgeqrl.network.tflite_model import parse_tflite
from tests.oracles import answers
from tests.tflite_writer import TFLiteWriter, random_dense_tflite

DATA = Path(__file__).parent / "data"
FILES = sorted(path.stem for path in DATA.glob("*.tflite"))


@pytest.mark.parametrize("name", FILES)
def test_operands_of_their_own_change_nothing(name: str) -> None:
    tflite = (DATA / f"{name}.tflite").read_bytes()
    before = parse_tflite(tflite)
    operands = [
        (at, i)
        for at, op in enumerate(before.operators)
        for i, index in enumerate(op.inputs)
        if index >= 0 and before.tensors[index].is_constant
    ]
    own = with_own_operands(tflite, operands)
    after = parse_tflite(own)
    assert len(after.tensors) == len(before.tensors) + len(operands)
    assert (after.inputs, after.outputs, after.signatures) == (
        before.inputs,
        before.outputs,
        before.signatures,
    )
    for number, (at, i) in enumerate(operands):
        index = after.operators[at].inputs[i]
        assert index == len(before.tensors) + number
        old, new = before.tensors[before.operators[at].inputs[i]], after.tensors[index]
        assert (new.shape, new.dtype, new.quantized_axis) == (old.shape, old.dtype, old.quantized_axis)
        np.testing.assert_array_equal(new.values(), old.values())
        np.testing.assert_array_equal(new.scales, old.scales)
        np.testing.assert_array_equal(new.zero_points, old.zero_points)
        assert new.span is not None
        assert new.span[0] % 16 == 0
    one, other = read_tflite(tflite), read_tflite(own)
    inputs = random_inputs(one, np.random.default_rng(0), 5)
    expected, found = (Reference(network).run(inputs) for network in (one, other))
    for output in one.outputs:
        np.testing.assert_array_equal(expected[output], found[output])


@pytest.mark.parametrize("runtime", ["tflm", "tflite-runtime"])
def test_the_interpreters_read_what_was_moved(runtime: str) -> None:
    tflite = (DATA / "e_minatar.tflite").read_bytes()
    values = np.random.default_rng(1).integers(-128, 128, (5, 10, 10, 4)).astype(np.int8)
    own = with_own_operands(tflite, [(0, 1), (0, 2), (2, 1)])
    again = with_own_operands(own, [(0, 2)])
    expected = answers(runtime, tflite, values)[0]
    for edited in (own, again):
        np.testing.assert_array_equal(answers(runtime, edited, values)[0], expected)


def test_scales_are_written_over_or_behind_the_file() -> None:
    tflite = random_dense_tflite(np.random.default_rng(0), [4, 7, 3], ["RELU", "NONE"])
    model = parse_tflite(tflite)
    weights = model.operators[0].inputs[1]
    count = len(model.tensors[weights].scales)
    same = Quantization(np.arange(1, count + 1, dtype=np.float32), np.zeros(count, np.int64))
    over = with_quantization(tflite, {weights: same})
    assert len(over) == len(tflite)
    other = Quantization(np.arange(1, 8, dtype=np.float32)[: 8 - count], np.arange(8 - count), 0)
    behind = with_quantization(tflite, {weights: other})
    assert len(behind) > len(tflite)
    assert behind[:4] == tflite[:4]
    for edited, wanted in ((over, same), (behind, other)):
        found = parse_tflite(edited).tensors[weights]
        np.testing.assert_array_equal(found.scales, wanted.scales)
        np.testing.assert_array_equal(found.zero_points, wanted.zero_points)
        others = [t for i, t in enumerate(parse_tflite(edited).tensors) if i != weights]
        for tensor, old in zip(others, (t for i, t in enumerate(model.tensors) if i != weights), strict=True):
            np.testing.assert_array_equal(tensor.scales, old.scales)


def test_what_is_no_constant_or_not_quantized_is_refused() -> None:
    writer = TFLiteWriter()
    source, target = (writer.tensor(name, (1, 4), "FLOAT32") for name in ("in", "out"))
    writer.operator("RELU", [source], [target])
    tflite = writer.finish([source], [target])
    with pytest.raises(ValueError, match="no constant"):
        with_own_operands(tflite, [(0, 0)])
    assert with_own_operands(tflite, []) == tflite
    with pytest.raises(ValueError, match="not quantized"):
        with_quantization(tflite, {source: Quantization(np.ones(1, np.float32), np.zeros(1, np.int64))})
    with pytest.raises(DataError):
        with_quantization(tflite[:40], {})
    with pytest.raises(DataError):
        with_own_operands(tflite[:40], [(0, 0)])
