"""Files from every door of the converter: each reads, and gives the integers that the runtimes give."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.errors import EdgeQRLError
from edgeqrl.network.compare import mixed_inputs
from edgeqrl.network.read_tflite import parse_tflite, read_tflite, read_with_edges
from edgeqrl.network.reference import Reference
from tests.converted import converted
from tests.converter_models import BUILDERS
from tests.oracles import answers

DATA = Path(__file__).parent / "data"

# Which backend must agree; TFLite Micro wherever it can run the file.
MEASURES = {
    "gelu": "tflite-runtime",  # TFLite Micro has no GELU
    "GRU unrolled": "tflite-runtime",  # for the same reason as the next
    "reshaping": "tflite-runtime",  # TFLite Micro takes the open sizes for 1
    "upsampled": "tflite-runtime",  # TFLite Micro has no TILE
    "upsampled from Keras": "tflite-runtime",
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes | str]:
    return {name: converted()[name] for name in BUILDERS}


def require_equal_to(runtime: str, tflite: bytes, samples: int) -> None:
    """Assert that reference and runtime agree on the integer outputs, whatever edges the file has."""
    read = read_with_edges(tflite)
    inputs = mixed_inputs(read.network, samples, seed=0)
    ours = Reference(read.network).run(inputs)
    theirs = answers(runtime, tflite, *(edge.to_file(inputs[edge.tensor]) for edge in read.inputs))
    for edge, values in zip(read.outputs, theirs, strict=True):
        expected = ours[edge.tensor]
        converted = edge.from_file(values, expected.dtype.name).reshape(expected.shape)
        np.testing.assert_array_equal(expected, converted, err_msg=edge.tensor)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_converted_network_equals_its_runtime(files: dict[str, bytes | str], name: str) -> None:
    tflite = files[name]
    assert isinstance(tflite, bytes), tflite
    require_equal_to(MEASURES.get(name, "tflm"), tflite, samples=24)


def test_float_functions_between_integers_are_tables(files: dict[str, bytes | str]) -> None:
    for name, function in (("elu", "ELU"), ("layer norm", "NEG")):
        tflite = files[name]
        assert isinstance(tflite, bytes), tflite
        assert "DEQUANTIZE" in {op.name for op in parse_tflite(tflite).operators}
        used = Counter(layer.operator for layer in read_tflite(tflite).layers)
        assert used[function] == 1
        assert "DEQUANTIZE" not in used


def test_shape_arithmetic_is_gone(files: dict[str, bytes | str]) -> None:
    for name in ("reshaping", "upsampled from Keras", "transposed from Keras"):
        tflite = files[name]
        assert isinstance(tflite, bytes), tflite
        used = Counter(layer.operator for layer in read_tflite(tflite).layers)
        assert not used.keys() & {"SHAPE", "STRIDED_SLICE", "PACK", "FILL"}, name


def test_a_state_is_an_input_and_an_output(files: dict[str, bytes | str]) -> None:
    for name, inputs, outputs in (("GRU step", 2, 2), ("LSTM step", 3, 3)):
        tflite = files[name]
        assert isinstance(tflite, bytes), tflite
        network = read_tflite(tflite)
        assert (len(network.inputs), len(network.outputs)) == (inputs, outputs)


@pytest.mark.parametrize("backend", ["tflm", "tflite-runtime"])
def test_minatar_equals_the_runtimes(backend: str) -> None:
    require_equal_to(backend, (DATA / "e_minatar.tflite").read_bytes(), samples=24)


@pytest.mark.parametrize("path", sorted(DATA.glob("litert_quantizer_*.tflite")), ids=lambda path: path.stem)
def test_a_network_of_litert_quantizer_equals_tflm(path: Path) -> None:
    """Files of ai-edge-quantizer 0.10 (litert-quantizer), recipes static_wi8_ai8 and static_wi8_ai16."""
    require_equal_to("tflm", path.read_bytes(), samples=24)


def test_a_split_that_the_converter_left_in_float32_equals_tflm() -> None:
    """An LSTM of two steps by TensorFlow's converter, which does so in some runs and not in others."""
    tflite = (DATA / "lstm_float_split_int8.tflite").read_bytes()
    model = parse_tflite(tflite)
    assert any(
        op.name == "SPLIT" and model.tensors[op.outputs[0]].dtype == "FLOAT32" for op in model.operators
    )
    assert not {"QUANTIZE", "DEQUANTIZE"} & {layer.operator for layer in read_tflite(tflite).layers}
    require_equal_to("tflm", tflite, samples=64)


@pytest.mark.slow
def test_nature_cnn_equals_tflm() -> None:
    require_equal_to("tflm", (DATA / "f_nature.tflite").read_bytes(), samples=4)


def test_no_converted_file_breaks_when_it_is_cut(files: dict[str, bytes | str]) -> None:
    for tflite in files.values():
        assert isinstance(tflite, bytes)
        for length in np.linspace(0, len(tflite) - 1, 40, dtype=int).tolist():
            with pytest.raises(EdgeQRLError):
                read_tflite(tflite[:length])
