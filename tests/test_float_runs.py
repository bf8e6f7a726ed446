"""What the converter leaves in float32 between int8 and int8 is a table, equal to the runtime's float."""

import zlib

import numpy as np
import pytest

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.float_runs import FLOAT_FUNCTIONS
from edgeqrl.network.layers import Lookup
from edgeqrl.network.operators.float_runs import _FUNCTIONS
from edgeqrl.network.read_tflite import read_tflite
from tests.oracles import Case, all_int8, require_equal
from tests.tflite_writer import TFLiteWriter


def run(functions: list[str], source: tuple[float, int], target: tuple[float, int], size: int = 256) -> bytes:
    """Write DEQUANTIZE, float functions and QUANTIZE, and an int8 operator on either side."""
    writer = TFLiteWriter()
    scale, zero_point = source
    x = writer.tensor("x", (1, size), scale=scale, zero_point=zero_point)
    y = writer.tensor("y", (1, size), scale=scale, zero_point=zero_point)
    current = writer.tensor("real", (1, size), "FLOAT32")
    writer.operator("RESHAPE", [x], [y])
    writer.operator("DEQUANTIZE", [y], [current])
    for i, name in enumerate(functions):
        after = writer.tensor(f"net/{name}_{i}", (1, size), "FLOAT32")
        writer.operator(name, [current], [after], alpha=0.3 if name == "LEAKY_RELU" else None)
        current = after
    z = writer.tensor("z", (1, size), scale=target[0], zero_point=target[1])
    out = writer.tensor("out", (1, size), scale=target[0], zero_point=target[1])
    writer.operator("QUANTIZE", [current], [z])
    writer.operator("RESHAPE", [z], [out])
    return writer.finish([x], [out])


def cases(name: str, count: int) -> list[Case]:
    """Draw scales and zero points; where a function has a domain, all inputs lie in it."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    found: list[Case] = []
    while len(found) < count:
        zero_point = -128 if name == "SQRT" else int(rng.integers(-128, 128))
        scale = float(np.exp(rng.uniform(np.log(1e-3), np.log(0.05 if name == "EXP" else 1.0))))
        tflite = run(
            [name], (scale, zero_point), (float(rng.uniform(0.002, 0.2)), int(rng.integers(-128, 128)))
        )
        found.append((tflite, [all_int8()]))
    return found


def test_every_function_has_a_table() -> None:
    assert {*_FUNCTIONS, "LEAKY_RELU"} == set(FLOAT_FUNCTIONS)


@pytest.mark.parametrize("name", FLOAT_FUNCTIONS)
def test_a_float_function_equals_tflm(name: str) -> None:
    require_equal("tflm", cases(name, 40))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT_FUNCTIONS)
def test_a_float_function_equals_tflm_on_a_million_values(name: str) -> None:
    assert require_equal("tflm", cases(name, 4000)) >= 10**6


def test_functions_in_a_row_are_one_table() -> None:
    tflite = run(["NEG", "ELU", "SQUARE"], (0.02, -5), (0.01, -128))
    layers = read_tflite(tflite).layers
    assert [layer.operator for layer in layers] == ["RESHAPE", "SQUARE", "RESHAPE"]
    assert isinstance(layers[1], Lookup)
    require_equal("tflm", [(tflite, [all_int8()]), (run([], (0.02, -5), (0.05, 3)), [all_int8()])])


@pytest.mark.parametrize(
    ("functions", "zero_point", "message"),
    [
        (["LOG"], -128, "^LOG at 'net/LOG_0' is not supported"),  # of zero it has no value
        (["SQRT", "NEG"], 0, "^SQRT at 'z' is not supported: some inputs have no finite value"),
        (["NEG", "TANH"], 0, "^NEG at 'net/NEG_0' is not supported"),
        (["NEG"] * 10, 0, "^NEG at 'net/NEG_0' is not supported"),
    ],
)
def test_what_has_no_table_is_refused(functions: list[str], zero_point: int, message: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=message):
        read_tflite(run(functions, (0.1, zero_point), (0.1, 0)))
