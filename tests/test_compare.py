"""`compare`: what it counts, which layer it names, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl import backends
from edgeqrl.backends.host_c import HostCNetwork
from edgeqrl.backends.runtime_network import RuntimeNetwork
from edgeqrl.cli.main import run
from edgeqrl.errors import DataError, DeviceError, MissingToolError, UsageError
from edgeqrl.network import compare as comparing
from edgeqrl.network import first_difference
from edgeqrl.network.compare import Difference, compare, mixed_inputs
from edgeqrl.network.first_difference import FirstDifference
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.read_tflite import parse_tflite, read_tflite, replace_buffers
from edgeqrl.network.reference import Reference
from edgeqrl.network.tflite_edit import with_outputs
from tests.gru_network import gru_step
from tests.oracles import answers
from tests.tflite_writer import TFLiteWriter, single_operator

DATA = Path(__file__).parent / "data"
TFLITE = (DATA / "c_cheetah_ppo.tflite").read_bytes()
GRU = gru_step(np.random.default_rng(0))
SECOND_DENSE = read_tflite(TFLITE).layers[2].name
LATE = 150
TANH_DIFFERS = FirstDifference("tanh", "TANH", "tanh", elements=1, sample=3, index=(0,), expected=1, found=0)
OPENED: list[bytes] = []  # what `count_openings` saw


class OffByTwo(Reference):
    """The reference, wrong in the first element of every second sample, whatever is asked of it."""

    def run(self, inputs):
        outputs = super().run(inputs)
        for name, values in outputs.items():
            outputs[name] = values.copy()
            outputs[name][::2, 0] -= np.int8(2)
        return outputs


def damaged(network: IntegerNetwork, layer_name: str, field: str, offset: int) -> IntegerNetwork:
    """Return the network with one number of one layer changed; as it is where that layer was cut off."""
    layers = []
    for layer in network.layers:
        if layer.name == layer_name:
            values = np.array(getattr(layer, field))
            values.flat[5] += offset
            layer = replace(layer, **{field: values})
        layers.append(layer)
    return replace(network, layers=tuple(layers))


def open_off_by_two(tflite: bytes) -> OffByTwo:
    return OffByTwo(read_tflite(tflite))


def open_damaged_c(tflite: bytes) -> HostCNetwork:
    return HostCNetwork(damaged(read_tflite(tflite), SECOND_DENSE, "weights", -9))


def open_damaged(tflite: bytes) -> Reference:
    return Reference(damaged(read_tflite(tflite), SECOND_DENSE, "weights", -9))


def open_patched_tflm(tflite: bytes) -> RuntimeNetwork:
    model = parse_tflite(tflite)
    (index,) = [i for i, t in enumerate(model.tensors) if t.dtype == "INT32" and t.shape == (6,)]
    bias = np.array(model.tensors[index].values())
    bias[4] += 2000
    return RuntimeNetwork("tflm", "tflm", replace_buffers(tflite, {index: bias.astype("<i4").tobytes()}))


def open_damaged_gru(tflite: bytes) -> Reference:
    return Reference(damaged(read_tflite(tflite), "gru/Sigmoid", "table", 1))


def open_one_output_at_a_time(tflite: bytes) -> Reference:
    """A backend that cannot have several outputs."""
    OPENED.append(tflite)
    network = read_tflite(tflite)
    if len(network.outputs) > 1:
        raise DeviceError("Too much at once.")
    return Reference(damaged(network, SECOND_DENSE, "bias", 4000))


def open_damaged_tanh(tflite: bytes) -> Reference:
    return Reference(damaged(read_tflite(tflite), "tanh", "table", 60))


def open_wrong_once(tflite: bytes) -> Reference:
    OPENED.append(tflite)
    return (OffByTwo if len(OPENED) == 1 else Reference)(read_tflite(tflite))


def open_wrong_then_dead(tflite: bytes) -> OffByTwo:
    OPENED.append(tflite)
    if len(OPENED) > 1:
        raise DeviceError("It does not start.")
    return OffByTwo(read_tflite(tflite))


def open_nothing(tflite: bytes) -> Reference:
    raise DeviceError("It lacks TANH.")


def open_without_tool(tflite: bytes) -> Reference:
    raise MissingToolError("It is not installed.")


class DiesLater(Reference):
    """The reference, until it is asked again."""

    def run(self, inputs):
        OPENED.append(b"")
        if len(OPENED) > 1:
            raise DeviceError("It stopped answering.")
        return super().run(inputs)


def open_and_die_later(tflite: bytes) -> DiesLater:
    return DiesLater(read_tflite(tflite))


class WrongInSample:
    """The reference, wrong in the sample of this number of all that it is given."""

    def __init__(self, tflite: bytes) -> None:
        self.reference, self.seen = Reference(read_tflite(tflite)), 0

    def run(self, inputs):
        outputs = self.reference.run(inputs)
        count = len(next(iter(outputs.values())))
        if self.seen <= LATE < self.seen + count:
            for values in outputs.values():
                values[LATE - self.seen, 0] ^= 1
        self.seen += count
        return outputs


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], str]:
    """Return what makes a function of this module the backend "wrong"."""

    def add(function: Callable[..., Any]) -> str:
        OPENED.clear()
        monkeypatch.setitem(backends.NETWORK_BACKENDS, "wrong", f"tests.test_compare:{function.__name__}")
        return "wrong"

    return add


# What it counts


def test_equal_backends_differ_nowhere() -> None:
    report = compare(TFLITE, ["tflm", "reference"], samples=200, seed=3)
    assert report.is_equal
    nothing = {
        "differing": 0,
        "max_difference": 0,
        "first_difference": None,
        "not_located": None,
        "error": None,
    }
    assert report.to_json() == {
        "samples": 200,
        "outputs": 1200,
        "measure": "tflm",
        "backends": {"reference": nothing},
    }


def test_every_differing_element_is_counted(backend) -> None:
    report = compare(TFLITE, ["reference", backend(open_off_by_two)], samples=101, seed=0)
    assert not report.is_equal
    assert report.backends["wrong"].differing == 51
    assert report.backends["wrong"].max_difference in (2, 254)  # -128 - 2 wraps in the toy
    json.dumps(report.to_json())


def test_several_inputs_and_outputs_are_compared(backend) -> None:
    report = compare(GRU, ["reference", "tflm", backend(open_off_by_two)], samples=20, seed=0)
    assert report.outputs == 20 * (3 + 8)
    assert report.backends["tflm"].differing == 0
    assert report.backends["wrong"].differing == 2 * 10


def test_backend_that_cannot_run_it_leaves_the_others(backend) -> None:
    report = compare(TFLITE, ["reference", backend(open_nothing), "tflm"], samples=20, seed=0)
    assert report.outputs == 120
    assert report.backends["wrong"] == Difference(None, None, error="It lacks TANH.")
    assert report.backends["tflm"] == Difference(0, 0)
    assert (report.is_equal, report.exit_code) == (False, 10)


def test_backend_that_dies_on_the_way_leaves_the_others(backend) -> None:
    report = compare(TFLITE, ["reference", backend(open_and_die_later), "host-c"], samples=250, seed=0)
    assert report.backends["wrong"] == Difference(None, None, error="It stopped answering.")
    assert report.backends["host-c"] == Difference(0, 0)


def test_difference_weighs_more_than_a_failure(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.NETWORK_BACKENDS, "dead", f"{__name__}:open_nothing")
    report = compare(TFLITE, ["reference", "dead", backend(open_off_by_two)], samples=20, seed=0)
    assert report.exit_code == 14


@pytest.mark.parametrize(
    ("function", "measure_first", "error"),
    [(open_nothing, False, DeviceError), (open_without_tool, True, MissingToolError)],
)
def test_measure_and_tools_must_be_there(
    function: Any, measure_first: bool, error: type[Exception], backend
) -> None:
    names = ["reference", backend(function)]
    with pytest.raises(error):
        compare(TFLITE, names if measure_first else names[::-1], samples=20, seed=0)


def test_tflm_says_which_operator_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = {"shape": (1, 4), "dtype": "INT8", "scale": 0.1, "zero_point": 3}
    times = {"shape": (2,), "dtype": "INT32", "data": np.array([1, 3], np.int32)}
    place = tmp_path / "tile.tflite"
    place.write_bytes(single_operator("TILE", [tensor, times], [tensor | {"shape": (1, 12)}]))
    command = ["compare", str(place), "--samples", "20", "--backends"]
    assert run([*command, "reference,tflm,host-c"]) == 10
    lines = capsys.readouterr().out.splitlines()
    assert any("cannot run it" in line for line in lines)
    assert lines[-1].startswith("tflm cannot run it. The tflm process failed: ")
    assert "Didn't find op for builtin opcode 'TILE'" in lines[-1]
    assert run([*command, "reference,tflm,host-c", "--json"]) == 10
    found = json.loads(capsys.readouterr().out)["backends"]
    assert (found["tflm"]["differing"], found["tflm"]["max_difference"]) == (None, None)
    assert "TILE" in found["tflm"]["error"]
    assert (found["host-c"]["differing"], found["host-c"]["error"]) == (0, None)
    assert run([*command, "tflm,host-c"]) == 10
    captured = capsys.readouterr()
    assert (captured.out, "TILE" in captured.err) == ("", True)


# Many samples


def test_progress_is_told_and_totals_hang_on_no_part(backend, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["reference", backend(open_damaged)]
    told: list[tuple[str, int, int]] = []
    report = compare(TFLITE, names, samples=250, seed=0, progress=lambda *step: told.append(step))
    assert told == [("compare", 100, 250), ("compare", 200, 250), ("compare", 250, 250)]
    monkeypatch.setattr(comparing, "_PART_ROWS", 7)
    assert compare(TFLITE, names, samples=250, seed=0) == report
    expected = Reference(read_tflite(TFLITE)).run(inputs := mixed_inputs(read_tflite(TFLITE), 250, 0))
    found = open_damaged(TFLITE).run(inputs)
    differing = sum(np.count_nonzero(values != found[name]) for name, values in expected.items())
    assert report.backends["wrong"].differing == differing


def test_blocks_bound_memory_and_samples_keep_their_numbers(monkeypatch: pytest.MonkeyPatch, backend) -> None:
    monkeypatch.setattr(comparing, "_MAX_ROWS", 67)  # blocks of 64
    blocks = list(comparing._blocks(read_tflite(TFLITE), 150, 5))
    sizes = [len(next(iter(block.values()))) for block in blocks]
    assert sizes == [64, 64, 22]
    name = read_tflite(TFLITE).inputs[0]
    np.testing.assert_array_equal(blocks[0][name], mixed_inputs(read_tflite(TFLITE), 64, 5)[name])
    assert np.any(blocks[0][name] != blocks[1][name])
    monkeypatch.setattr(comparing, "find_first_difference", lambda *_: TANH_DIFFERS)
    report = compare(TFLITE, ["reference", backend(WrongInSample)], samples=200, seed=0)
    found = report.backends["wrong"]
    assert (found.differing, found.max_difference, report.outputs) == (1, 1, 1200)
    assert found.first_difference == replace(TANH_DIFFERS, sample=128 + 3)


# Which layer it names


def test_damaged_weight_in_the_c_is_found(backend) -> None:
    report = compare(TFLITE, ["reference", backend(open_damaged_c)], samples=50, seed=0)
    found = report.backends["wrong"]
    first = found.first_difference
    assert first is not None
    assert (first.operator, first.layer, first.tensor) == ("FULLY_CONNECTED", SECOND_DENSE, SECOND_DENSE)
    assert first.index == (0,)  # the weight is of the first unit
    assert 0 < first.elements <= 50
    network = read_tflite(TFLITE)
    inputs = mixed_inputs(network, 50, 0)
    ours = Reference(network).run_all(inputs)[first.tensor]
    theirs = Reference(damaged(network, SECOND_DENSE, "weights", -9)).run_all(inputs)[first.tensor]
    assert first.elements == np.count_nonzero(ours != theirs)
    assert first.expected == ours[first.sample, 0] != first.found == theirs[first.sample, 0]
    np.testing.assert_array_equal(ours[: first.sample], theirs[: first.sample])


def test_patched_bias_in_the_bytes_is_found(backend) -> None:
    first = compare(TFLITE, ["tflm", backend(open_patched_tflm)], samples=20, seed=0).backends["wrong"]
    assert first.first_difference is not None
    assert first.first_difference.layer == read_tflite(TFLITE).layers[4].name
    assert first.first_difference.index == (4,)


@pytest.mark.parametrize("measure", ["reference", "tflm"])
def test_fault_in_one_of_two_branches_is_found(measure: str, backend) -> None:
    found = compare(GRU, [measure, backend(open_damaged_gru)], samples=200, seed=0).backends["wrong"]
    assert found.first_difference is not None
    assert (found.first_difference.layer, found.first_difference.operator) == ("gru/Sigmoid", "LOGISTIC")


def test_backend_that_cannot_show_all_layers_is_bisected(backend) -> None:
    report = compare(TFLITE, ["reference", backend(open_one_output_at_a_time)], samples=50, seed=0)
    first = report.backends["wrong"].first_difference
    assert first is not None
    assert (first.layer, first.index) == (SECOND_DENSE, (5,))
    assert len(OPENED) <= 2 + 4, "6 layers take the comparison, one refusal, and at most four openings"


@pytest.mark.parametrize("most", [1, 8])
def test_branches_are_bisected_by_all_that_is_read_later(
    most: int, backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = first_difference._Sides._run

    def refuse_many(self, name, tensors):
        if len(tensors) > most:
            raise DeviceError("Too much at once.")
        return run_all(self, name, tensors)

    monkeypatch.setattr(first_difference._Sides, "_run", refuse_many)
    found = compare(GRU, ["reference", backend(open_damaged_gru)], samples=200, seed=0).backends["wrong"]
    assert found.first_difference is not None
    assert found.first_difference.layer == "gru/Sigmoid"


def float_edges() -> bytes:
    """Two float inputs, of which the second is quantized behind the layer that will differ."""
    writer = TFLiteWriter()
    a, b, result = (writer.tensor(name, (1, 4), "FLOAT32") for name in ("a", "b", "result"))
    scales = {"a8": 0.05, "b8": 0.05, "tanh": 1 / 128, "sum": 0.02}
    a8, b8, tanh, total = (
        writer.tensor(name, (1, 4), scale=scale, zero_point=0) for name, scale in scales.items()
    )
    writer.operator("QUANTIZE", [a], [a8])
    writer.operator("TANH", [a8], [tanh])
    writer.operator("QUANTIZE", [b], [b8])
    writer.operator("ADD", [tanh, b8], [total])
    writer.operator("DEQUANTIZE", [total], [result])
    return writer.finish([a, b], [result])


def test_float_edges_of_a_file_are_no_layers(backend) -> None:
    names = ["tflm", "reference", backend(open_damaged_tanh)]
    report = compare(float_edges(), names, samples=400, seed=0)
    assert report.backends["reference"].differing == 0
    first = report.backends["wrong"].first_difference
    assert first is not None
    assert (first.operator, first.layer) == ("TANH", "tanh")


def test_difference_that_goes_away_is_said_so(backend) -> None:
    found = compare(TFLITE, ["reference", backend(open_wrong_once)], samples=9, seed=0).backends["wrong"]
    assert (found.differing, found.first_difference) == (5, None)
    assert found.not_located is not None
    assert "gone" in found.not_located


def test_failing_search_leaves_the_comparison_as_it_is(backend) -> None:
    found = compare(TFLITE, ["reference", backend(open_wrong_then_dead)], samples=9, seed=0).backends["wrong"]
    assert (found.differing, found.first_difference) == (5, None)
    assert found.not_located == "It does not start."


def test_large_networks_are_searched_with_samples_that_differ(
    backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = backend(open_damaged)
    all_samples = compare(TFLITE, ["reference", name], samples=50, seed=0).backends[name].first_difference
    monkeypatch.setattr(first_difference, "_MAX_BYTES", 1000)
    first = compare(TFLITE, ["reference", name], samples=50, seed=0).backends[name].first_difference
    assert first is not None
    assert all_samples is not None
    assert first.elements <= 3 < all_samples.elements
    network = read_tflite(TFLITE)
    ours = Reference(network).run_all(mixed_inputs(network, 50, 0))
    assert first.expected == ours[first.tensor][first.sample][first.index]


# The file with other outputs


@pytest.mark.parametrize("runtime", ["tflm", "litert", "tflite-runtime"])
def test_every_tensor_inside_can_be_read_from_a_runtime(runtime: str) -> None:
    network, model = read_tflite(GRU), parse_tflite(GRU)
    inputs = mixed_inputs(network, 16, 1)
    names = [layer.output for layer in network.layers]
    index_of = {tensor.name: i for i, tensor in enumerate(model.tensors)}
    outputs = answers(runtime, with_outputs(GRU, [index_of[n] for n in names]), *inputs.values())
    expected = Reference(network).run_all(inputs)
    for name, values in zip(names, outputs, strict=True):
        apart = np.abs(values.astype(int) - expected[name])
        assert apart.max() <= (8 if runtime == "litert" else 0), name


def test_operators_behind_the_last_output_are_left_out() -> None:
    model = parse_tflite(TFLITE)
    cut = parse_tflite(with_outputs(TFLITE, [model.operators[2].outputs[0]]))
    assert [op.outputs for op in cut.operators] == [op.outputs for op in model.operators[:3]]
    assert cut.outputs == model.operators[2].outputs
    kept = parse_tflite(with_outputs(TFLITE, model.inputs, keep=model.operators[1].outputs))
    assert (len(kept.operators), kept.outputs) == (2, model.inputs)
    assert read_tflite(with_outputs(TFLITE, model.operators[0].outputs)).layers[0].num_macs == 1088


@pytest.mark.parametrize("extra", range(1, 4))
def test_list_behind_a_file_of_any_length_is_aligned(extra: int) -> None:
    cut = with_outputs(TFLITE + bytes(extra), [3])
    assert len(cut) % 4 == 0
    assert parse_tflite(cut).outputs == (3,)


def test_damaged_files_are_refused_or_cut() -> None:
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(300):
        data = bytearray(GRU)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.integers(256)
        try:
            parse_tflite(with_outputs(bytes(data), [0, 5]))
            cut += 1
        except DataError:
            pass
    assert 10 < cut < 290


@pytest.mark.parametrize("wrong", [[], [-1], [10_000]])
def test_outputs_that_are_no_tensors_are_our_fault(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="not tensors"):
        with_outputs(TFLITE, wrong)


# What it prints and refuses


@pytest.mark.parametrize("columns", [80, 120])
def test_layer_is_named_in_two_lines_that_fit(
    columns: int, backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = f"reference,{backend(open_damaged)}"
    assert run(["compare", str(DATA / "c_cheetah_ppo.tflite"), "--backends", names, "--samples", "50"]) == 14
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert lines[-2].startswith("wrong differs first at FULLY_CONNECTED 'sequential_2")
    assert lines[-2].endswith("MatMul':")
    assert "element 0: reference" in lines[-1]


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


# What it runs


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


@pytest.mark.parametrize("dtype", ["int16", "int32"])
def test_inputs_are_of_the_tensors_type(dtype: str) -> None:
    tensors = {name: Tensor(name, (3, 50), 0.1, 0, dtype) for name in ("a", "b")}
    network = IntegerNetwork(tensors, ("a", "b"), ("a",), ())
    inputs = mixed_inputs(network, 80, 0)
    lowest, highest = tensors["a"].range
    for values in inputs.values():
        assert (values.dtype, values.shape) == (np.dtype(dtype), (80, 3, 50))
        assert set(np.unique(values[3::4])) == {lowest, 0, highest}
        assert np.abs(values[0::4].astype(float)).mean() == pytest.approx(highest / 2, rel=0.1)
    assert np.any(inputs["a"] != inputs["b"])
