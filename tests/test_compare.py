"""`compare`: what it counts, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeqrl import backends
from edgeqrl.errors import DataError, UsageError
from edgeqrl.network.compare import compare, mixed_inputs
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference

TFLITE = (Path(__file__).parent / "data" / "c_cheetah_ppo.tflite").read_bytes()


class OffByTwo(Reference):
    """The reference, wrong in the first output of every second sample."""

    def run(self, inputs):
        outputs = super().run(inputs)
        (name,) = outputs
        values = outputs[name].copy()
        values[::2, 0] -= np.int8(2)
        return {name: values}


@pytest.fixture
def _with_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.NETWORK_BACKENDS, "wrong", "tests.test_compare:open_wrong")


def open_wrong(tflite: bytes) -> OffByTwo:
    return OffByTwo(read_tflite(tflite))


def test_equal_backends_differ_nowhere() -> None:
    report = compare(TFLITE, ["tflm", "reference"], samples=200, seed=3)
    assert report.is_equal
    assert report.to_json() == {
        "samples": 200,
        "outputs": 1200,
        "measure": "tflm",
        "backends": {"reference": {"differing": 0, "max_difference": 0}},
    }


@pytest.mark.usefixtures("_with_wrong_backend")
def test_every_differing_element_is_counted() -> None:
    report = compare(TFLITE, ["reference", "wrong"], samples=101, seed=0)
    assert not report.is_equal
    assert report.backends["wrong"].differing == 51
    assert report.backends["wrong"].max_difference in (2, 254)  # -128 - 2 wraps in the toy
    json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("names", "samples", "why"),
    [
        (["reference"], 10, "two or more"),
        (["reference", "reference"], 10, "two or more"),
        (["reference", "tflm"], 0, "at least one sample"),
        (["reference", "tlfm"], 10, "did you mean 'tflm'"),
    ],
)
def test_wrong_usage_is_one_sentence(names: list[str], samples: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        compare(TFLITE, names, samples=samples, seed=0)


def test_a_damaged_file_is_refused_before_any_runtime_sees_it() -> None:
    with pytest.raises(DataError, match="damaged"):
        compare(TFLITE[:1000], ["tflm", "litert"], samples=1, seed=0)


def test_inputs_hold_uniform_values_extremes_and_zeros() -> None:
    network = read_tflite(TFLITE)
    (values,) = mixed_inputs(network, 400, 7).values()
    zero_point = network.tensors[network.inputs[0]].zero_point
    assert values.shape == (400, 17)
    assert set(np.unique(values[2::4])) == {-128, 127}
    assert set(np.unique(values[3::4])) == {-128, zero_point, 127}
    assert len(np.unique(values[:2])) > 20
    assert len(np.unique(np.concatenate([values[0::4], values[1::4]]))) == 256
    np.testing.assert_array_equal(values, mixed_inputs(network, 400, 7)[network.inputs[0]])
