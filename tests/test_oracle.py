"""What DESIGN says of the witnesses, checked on those that are installed.

TFLite Micro is the oracle; tflite-runtime's reference kernels are the second witness. Both must equal our
reference bit for bit, save where a test here states the exception.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeqrl.network.compare import mixed_inputs
from edgeqrl.network.fixed_point import quantize_multiplier, requantize
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from tests.oracles import answers
from tests.tflite_writer import TFLiteWriter, random_dense_tflite

ROOT = Path(__file__).parent.parent
CONVERTED = sorted((Path(__file__).parent / "data").glob("[a-d]_*.tflite"))
WITNESSES = ["tflm", "tflite-runtime"]
SIZES = st.lists(st.integers(1, 37), min_size=2, max_size=5)


def require_equal(tflite: bytes, runtime: str, samples: int, seed: int = 0) -> None:
    network = read_tflite(tflite)
    inputs = mixed_inputs(network, samples, seed)
    (expected,) = answers(runtime, tflite, *inputs.values())
    np.testing.assert_array_equal(Reference(network).run(inputs)[network.outputs[0]], expected)


@pytest.mark.parametrize("runtime", WITNESSES)
@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_converted_networks_equal_the_witness(path: Path, runtime: str) -> None:
    require_equal(path.read_bytes(), runtime, samples=1000)


def test_there_are_converted_networks() -> None:
    assert len(CONVERTED) == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(0, 2**32 - 1), SIZES, st.booleans(), st.booleans())
def test_random_dense_networks_equal_tflm(
    data: st.DataObject, seed: int, sizes: list[int], per_channel: bool, has_bias: bool
) -> None:
    names = st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH", "LOGISTIC"])
    activations = data.draw(st.lists(names, min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    tflite = random_dense_tflite(
        np.random.default_rng(seed), sizes, activations, per_channel, has_bias=has_bias
    )
    require_equal(tflite, "tflm", samples=64, seed=seed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(0, 2**32 - 1), SIZES, st.booleans())
def test_random_dense_networks_equal_tflite_runtime(
    data: st.DataObject, seed: int, sizes: list[int], has_bias: bool
) -> None:
    # Without LOGISTIC and with a weight scale an output: the exceptions are below and in test_functions.
    sizes = [sizes[0], *(n + 1 for n in sizes[1:])]
    names = st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"])
    activations = data.draw(st.lists(names, min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    tflite = random_dense_tflite(np.random.default_rng(seed), sizes, activations, has_bias=has_bias)
    require_equal(tflite, "tflite-runtime", samples=64, seed=seed)


@pytest.mark.parametrize("num_scales", [1, 512])
def test_the_multiplier_is_computed_in_double_as_in_tflm(num_scales: int) -> None:
    # Biases next to a rounding edge show the last bit of the multiplier. With one weight scale
    # tflite-runtime multiplies the scales in float32, which is the known exception.
    rng = np.random.default_rng(num_scales)
    scale, weight_scale = np.float32(rng.uniform(0.01, 0.2)), np.float32(rng.uniform(0.001, 0.01))
    out_scale = np.float32(scale * weight_scale * 2.0**21.3)
    real = float(scale) * float(weight_scale) / float(out_scale)
    noise = rng.integers(-64, 65, 512)
    bias = (np.floor((rng.integers(-120, 120, 512) + 0.5) / real) + noise).astype(np.int32)
    writer = TFLiteWriter()
    zeros = np.zeros(num_scales, np.int64)
    scales = np.full(num_scales, weight_scale)
    operands = [
        writer.tensor("in", (1, 1), scale=scale, zero_point=0),
        writer.tensor("w", (512, 1), data=np.zeros((512, 1), np.int8), scale=scales, zero_point=zeros),
        writer.tensor("b", (512,), "INT32", data=bias, scale=scale * scales, zero_point=zeros),
    ]
    target = writer.tensor("out", (1, 512), scale=out_scale, zero_point=0)
    writer.operator("FULLY_CONNECTED", operands, [target])
    tflite = writer.finish(operands[:1], [target])

    require_equal(tflite, "tflm", samples=1)
    (lite,) = answers("tflite-runtime", tflite, np.zeros((1, 1), np.int8))
    in_float32 = float(scale * weight_scale) / float(out_scale)
    used = real if num_scales > 1 else in_float32
    expected = np.clip(requantize(bias, *quantize_multiplier(used)), -128, 127)
    np.testing.assert_array_equal(lite[0], expected)
    other = requantize(bias, *quantize_multiplier(in_float32))
    assert np.any(
        np.clip(other, -128, 127) != np.clip(requantize(bias, *quantize_multiplier(real)), -128, 127)
    )


@pytest.mark.parametrize("runtime", WITNESSES)
def test_a_weight_scale_too_small_for_any_shift_gives_the_zero_point(runtime: str) -> None:
    # An output whose weights are all next to zero can have such a scale.
    writer = TFLiteWriter()
    source = writer.tensor("in", (1, 3), scale=0.1, zero_point=0)
    weights = writer.tensor(
        "w", (2, 3), data=np.full((2, 3), 100, np.int8), scale=[1e-12, 0.01], zero_point=[0, 0]
    )
    target = writer.tensor("out", (1, 2), scale=1.0, zero_point=4)
    writer.operator("FULLY_CONNECTED", [source, weights, -1], [target])
    tflite = writer.finish([source], [target])
    assert read_tflite(tflite).layers[0].multiplier[0] == 0
    require_equal(tflite, runtime, samples=50)


def test_litert_rounds_once_and_is_at_most_a_few_units_away() -> None:
    differing = total = 0
    for path in CONVERTED:
        tflite = path.read_bytes()
        network = read_tflite(tflite)
        inputs = mixed_inputs(network, 500, 0)
        (lite,) = answers("litert", tflite, *inputs.values())
        apart = np.abs(lite.astype(int) - Reference(network).run(inputs)[network.outputs[0]])
        assert apart.max() <= 4
        differing, total = differing + np.count_nonzero(apart), total + apart.size
    assert 0 < differing < 0.05 * total


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tensorflow", "tflite-runtime"])
def test_tflite_runtime_and_tensorflow_work_in_one_program_in_both_orders(first: str) -> None:
    script = (
        "import sys; from edgeqrl.backends import open_network; import numpy as np\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "def run():\n"
        "    with open_network('tflite-runtime', data) as network:\n"
        "        name = network.network.inputs[0]\n"
        "        network.run({name: np.zeros((3, 4), np.int8)})\n"
        "if sys.argv[2] == 'tensorflow':\n"
        "    import tensorflow; run()\n"
        "else:\n"
        "    run(); import tensorflow; run()\n"
        "assert tensorflow.reduce_sum([1, 2]).numpy() == 3\n"
        "print('both work')\n"
    )
    pytest.importorskip("tflite_runtime")
    done = subprocess.run(
        [sys.executable, "-c", script, str(CONVERTED[0]), first],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "both work", done.stderr[-2000:]
