"""Ranges of activations: what calibration met, what it could have met, and what an estimator cuts."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.errors import ConverterError, DataError, UnsupportedOperatorError
from edgeqrl.network.float_reference import FloatReference
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.estimators import estimated
from edgeqrl.quantize.integer import Task, make_integer
from edgeqrl.quantize.ranges import estimate, find_ranges, possible_ranges
from edgeqrl.quantize.scheme import RANGES, SCHEMES, Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.unmet import moved_rows, unmet_rows
from tests.tflite_writer import TFLiteWriter, random_float_tflite, single_operator

RNG = np.random.default_rng(0)
PLAIN = Preprocessing.plain((4,))
NETWORK = random_float_tflite(RNG, [4, 8, 2], ["RELU", "NONE"])
INPUT, HIDDEN, OUTPUT = (
    *FloatReference(NETWORK).inputs,
    *(layer.name for layer in FloatReference(NETWORK).layers),
)
ONE_SIDED = np.abs(RNG.normal(size=(400, 4))).astype(np.float32)  # so that nothing is added to what was met


def ranges_of(
    values: NDArray[Any], scheme: Scheme = SCHEMES["int8"], preprocessing: Preprocessing = PLAIN
) -> dict[str, tuple[float, float]]:
    samples = {preprocessing.parts[0].name: values.astype(np.float32)}
    return estimate(NETWORK, samples, scheme, preprocessing=preprocessing)


def seen(values: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Return the extremes of every tensor for inputs, zero among them."""
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, tensor: NDArray[Any]) -> None:
        found[name] = min(0.0, float(tensor.min())), max(0.0, float(tensor.max()))

    FloatReference(NETWORK).run({INPUT: values.astype(np.float32)}, on_tensor=note)
    return found


def test_by_default_every_tensor_has_the_extremes_that_were_met() -> None:
    assert ranges_of(ONE_SIDED) == seen(ONE_SIDED)
    assert list(seen(ONE_SIDED)) == [INPUT, HIDDEN, OUTPUT]


@pytest.mark.parametrize("method", [name for name in RANGES if name != "min_max"])
def test_other_estimators_cut_layers_and_never_the_input(method: str) -> None:
    values = np.abs(np.random.default_rng(1).normal(size=(9000, 4)))
    exact, cut = seen(values), ranges_of(values, replace(SCHEMES["int8"], ranges=method))
    assert cut[INPUT] == exact[INPUT]
    assert all(cut[name][1] <= exact[name][1] for name in (HIDDEN, OUTPUT))
    assert any(cut[name][1] < exact[name][1] for name in (HIDDEN, OUTPUT))


@pytest.mark.parametrize("count", [63, 64, 65, 2000])
@pytest.mark.parametrize("method", [name for name in RANGES if name != "min_max"])
def test_other_estimators_are_given_all_rows_however_many(method: str, count: int) -> None:
    values = np.random.default_rng(3).normal(size=(count, 4))
    values *= np.linspace(2.0, 0.1, count)[:, None]  # the last rows are unlike the first
    hidden: list[NDArray[Any]] = []

    def note(name: str, tensor: NDArray[Any]) -> None:
        if name == HIDDEN:
            hidden.append(tensor.copy())

    FloatReference(NETWORK).run({INPUT: values.astype(np.float32)}, on_tensor=note)
    found = ranges_of(values, replace(SCHEMES["int8"], ranges=method))
    assert found[HIDDEN] == estimated(method, np.concatenate(hidden), 8)


def test_a_tensor_may_have_its_own_estimator_the_input_too() -> None:
    exact = seen(ONE_SIDED)
    scheme = replace(SCHEMES["int8"], layer_ranges=((HIDDEN, "percentile"),))
    found = ranges_of(ONE_SIDED, scheme)
    assert found[HIDDEN][1] < exact[HIDDEN][1]
    assert (found[INPUT], found[OUTPUT]) == (exact[INPUT], exact[OUTPUT])
    scheme = replace(SCHEMES["int8"], layer_ranges=((INPUT, "percentile"),))
    assert ranges_of(ONE_SIDED, scheme)[INPUT][1] < exact[INPUT][1]


def test_sixteen_bits_are_cut_less_than_eight() -> None:
    values = np.abs(np.random.default_rng(2).normal(size=(9000, 4))).astype(np.float32)
    narrow, wide = (
        ranges_of(values, replace(SCHEMES["int8"], ranges="mse", activations=bits))[OUTPUT]
        for bits in ("int8", "int16")
    )
    assert np.ptp(narrow) < np.ptp(wide)
    found = ranges_of(values, replace(SCHEMES["int8"], ranges="mse", wide=(OUTPUT,)))
    assert found[OUTPUT] == wide
    assert found[HIDDEN] == ranges_of(values, replace(SCHEMES["int8"], ranges="mse"))[HIDDEN]


def test_what_turned_one_way_may_turn_the_other_way_as_fast() -> None:
    values = ONE_SIDED.copy()
    values[0, 2] = -0.01
    found, exact = ranges_of(values), seen(values)
    fastest = float(values[:, 2].max())
    assert found[INPUT] == (-fastest, exact[INPUT][1])
    assert found[OUTPUT] == exact[OUTPUT], "saturated at what was met"
    stated = replace(SCHEMES["int8"], layer_ranges=((INPUT, "mse"),))
    assert ranges_of(values, stated)[INPUT][0] >= exact[INPUT][0], "the user's word goes over it"


def test_layers_have_room_for_most_of_what_they_answer_to_what_was_not_met() -> None:
    values = 0.1 * ONE_SIDED
    values[:, 2], values[0, 2] = 0.1, -40.0  # as far on the other side is 40
    found, exact = ranges_of(values), seen(values)
    moved = moved_rows({"observation": values.astype(np.float32)}, PLAIN)["observation"]
    turned = values.copy()
    turned[:, 2] = 40.0
    np.testing.assert_array_equal(moved, turned)
    answers: dict[str, NDArray[Any]] = {}
    FloatReference(NETWORK).run({INPUT: moved}, on_tensor=lambda name, v: answers.update({name: v}))
    most = float(np.percentile(answers[HIDDEN], 95))
    assert exact[HIDDEN][1] < most < answers[HIDDEN].max(), "else this shows nothing"
    assert found[HIDDEN] == (0.0, pytest.approx(most))
    assert found[OUTPUT] == exact[OUTPUT]


def test_rows_that_were_not_met_are_not_more_than_can_be_run() -> None:
    values = RNG.normal(size=(2000, 40)).astype(np.float32)
    count = len(moved_rows({"observation": values}, Preprocessing.plain((40,)))["observation"])
    assert 2**13 < count <= 2**14


def test_rows_that_were_not_met_are_fewer_where_each_holds_more() -> None:
    values = RNG.normal(size=(300, 40)).astype(np.float32)
    moved = moved_rows({"observation": values}, Preprocessing.plain((40,)), 2**18)["observation"]
    assert 32 < len(moved) <= 2**24 // 2**18, "each feature has its turn"
    assert len(moved_rows({"observation": values}, Preprocessing.plain((40,)), 2**21)["observation"]) <= 8
    assert len(moved_rows({"observation": values}, Preprocessing.plain((40,)), 2**30)["observation"]) == 1


def test_a_large_layer_is_not_held_for_all_rows_at_once() -> None:
    tflite = random_float_tflite(np.random.default_rng(0), [20, 30_000, 2], ["RELU", "NONE"])
    given = {"observation": RNG.normal(size=(1500, 20)).astype(np.float32)}
    tracemalloc.start()
    try:
        estimate(tflite, given, SCHEMES["int8"], preprocessing=Preprocessing.plain((20,)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * 4 * 2**24, (
        "of numbers of 4 bytes; all rows take 180 MB, and 16,384 that were not met 2 GB"
    )


def test_rows_in_turn_have_the_ranges_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=(400, 4))
    whole = ranges_of(values)
    monkeypatch.setattr("edgeqrl.quantize.ranges._MOST_NUMBERS", 1)
    assert ranges_of(values) == whole
    cut = replace(SCHEMES["int8"], layer_ranges=((HIDDEN, "percentile"),))
    found = ranges_of(values, cut)
    monkeypatch.undo()
    assert found == ranges_of(values, cut)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_could_have_been_met_keeps_bounds_and_counts_by_feature_of_all_frames(axis: int) -> None:
    part = ObservationPart("speed", (3,), low=(-9.0, -1.0, -9.0), high=(9.0, 5.0, 9.0))
    preprocessing = Preprocessing((part,), FrameStack(2, axis))
    values = np.zeros((6, 2, 3), np.float32)  # rows, frames, features
    values[:, :, 0], values[0, 1, 0] = 2.0, -0.25  # may come to -2
    values[:, :, 1], values[0, 0, 1] = 3.0, -0.5  # may come to -3, and is clipped at -1
    values[:, :, 2] = 4.0  # was never below zero
    given = {"speed": np.moveaxis(values, 1, 1 + axis), "state": RNG.normal(size=(6, 3)).astype(np.float32)}
    found = unmet_rows(given, preprocessing)
    assert set(found) == {"speed"}
    for frame in np.moveaxis(found["speed"], 1 + axis, 1).transpose(1, 0, 2):
        np.testing.assert_array_equal(frame, [[-2.0, -1.0, 4.0], [2.0, 3.0, 4.0]])
    moved = moved_rows(given, preprocessing)
    expected = np.stack([values, values])
    expected[0, :, :, 0], expected[1, :, :, 1] = -2.0, -1.0
    np.testing.assert_array_equal(np.moveaxis(moved["speed"], 1 + axis, 1), expected.reshape(12, 2, 3))
    np.testing.assert_array_equal(moved["state"], np.concatenate([given["state"]] * 2))


def test_of_bytes_classes_and_images_nothing_is_assumed() -> None:
    parts = (
        ObservationPart("image", (2, 2, 1)),
        ObservationPart("bytes", (3,), "uint8"),
        ObservationPart("class", (), "int32", one_hot=((0, 3),)),
    )
    samples = {p.name: RNG.normal(size=(5, *p.network_shape)).astype(np.float32) for p in parts}
    assert unmet_rows(samples, Preprocessing(parts)) == {}
    assert all(len(rows) == 0 for rows in moved_rows(samples, Preprocessing(parts)).values())


def test_bytes_and_classes_have_the_range_that_they_can_have_whatever_was_met() -> None:
    parts = (
        ObservationPart("image", (4,), "uint8", gain=(1 / 255,)),
        ObservationPart("index", (), "int32", one_hot=((0, 3),)),
    )
    known = possible_ranges(Preprocessing(parts))
    assert known == {"image": (0.0, pytest.approx(1.0)), "index": (0.0, 1.0)}
    found = ranges_of(np.full((3, 4), 0.1), preprocessing=Preprocessing(parts[:1]))
    assert found[INPUT] == known["image"]


def test_what_is_made_of_constants_alone_has_a_range_too() -> None:
    writer = TFLiteWriter()
    x = writer.tensor("x", (1, 4), "FLOAT32")
    one, two, three, four = (
        writer.tensor(name, (1, 4), "FLOAT32", data=np.full((1, 4), value, np.float32) if value else None)
        for name, value in (("one", -1.0), ("two", -2.0), ("three", None), ("four", None))
    )
    writer.operator("ADD", [one, two], [three], fused_activation="NONE")
    writer.operator("ADD", [x, three], [four], fused_activation="NONE")
    tflite = writer.finish([x], [four])
    found = estimate(tflite, {"observation": ONE_SIDED}, SCHEMES["int8"], preprocessing=PLAIN)
    assert found["three"] == (-3.0, 0.0)
    assert set(found) == {"x", "three", "four"}


def test_values_that_are_not_finite_are_one_sentence() -> None:
    values = ONE_SIDED.copy()
    values[3, 1] = np.nan
    with pytest.raises(ConverterError, match=f"values at '{INPUT}' are not finite"):
        ranges_of(values)
    with pytest.raises(ConverterError, match="at least one observation"):
        ranges_of(ONE_SIDED[:0])


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as running:
        yield running


def test_the_bare_scheme_has_tensorflow_lites_own_ranges(converter: Converter) -> None:
    values = RNG.normal(size=(200, 4)).astype(np.float32)
    given = {"observation": values}
    bare = find_ranges(converter, NETWORK, given, SCHEMES["int8-bare"], preprocessing=PLAIN)
    assert bare == converter.observe(NETWORK, [values])
    for name, ends in seen(values).items():
        assert bare[name] == pytest.approx(ends, rel=1e-5)
    ours = find_ranges(converter, NETWORK, given, SCHEMES["int8"], preprocessing=PLAIN)
    assert ours == ranges_of(values) != bare


@pytest.mark.parametrize("name", ["int8", "int8-bare"])
def test_an_input_that_nothing_reads_is_a_sentence(converter: Converter, name: str) -> None:
    writer = TFLiteWriter()
    a, b = (writer.tensor(part, (1, 4), "FLOAT32") for part in "ab")
    weights = writer.tensor("weights", (2, 4), "FLOAT32", data=ONE_SIDED[:2])
    answer = writer.tensor("answer", (1, 2), "FLOAT32")
    writer.operator("FULLY_CONNECTED", [a, weights, -1], [answer], fused_activation="NONE")
    preprocessing = Preprocessing((ObservationPart("a", (4,)), ObservationPart("b", (4,), "uint8")))
    task = Task(writer.finish([a, b], [answer]), {"a": ONE_SIDED, "b": ONE_SIDED}, preprocessing, 0)
    with pytest.raises(DataError, match="Tensor 'b' at the network's edge"):
        make_integer(task, SCHEMES[name], converter)


def test_a_feature_near_the_end_of_float32_is_a_sentence(converter: Converter) -> None:
    values = RNG.normal(size=(100, 4)).astype(np.float32)
    values[:, 2] *= np.float32(1e37)
    task = Task(NETWORK, {"observation": values}, PLAIN, 0)
    with pytest.raises(UnsupportedOperatorError, match=r"input 'observation' has no integer form.*Scale"):
        make_integer(task, replace(SCHEMES["int8"], rewrites=()), converter)


def test_operators_that_numpy_does_not_know_have_tensorflow_lites_ranges(converter: Converter) -> None:
    x = {"shape": (1, 2, 2, 1), "dtype": "FLOAT32"}
    size = {"shape": (2,), "dtype": "INT32", "data": np.array([4, 4], np.int32)}
    resize = single_operator("RESIZE_NEAREST_NEIGHBOR", [x, size], [x | {"shape": (1, 4, 4, 1)}])
    given = {"observation": ONE_SIDED.reshape(400, 2, 2, 1)}
    plain = Preprocessing.plain((2, 2, 1))
    found = find_ranges(converter, resize, given, SCHEMES["int8"], preprocessing=plain)
    assert set(found.values()) == {(float(ONE_SIDED.min()), float(ONE_SIDED.max()))}
    with pytest.raises(UnsupportedOperatorError, match="RESIZE_NEAREST_NEIGHBOR"):
        scheme = replace(SCHEMES["int8"], ranges="mse")
        find_ranges(converter, resize, given, scheme, preprocessing=plain)


@pytest.mark.parametrize(("operator", "factor"), [("TANH", 1.0), ("LOGISTIC", 2.0)])
@pytest.mark.parametrize(("activations", "levels"), [("int8", 2**8), ("int16", 2**16)])
def test_what_a_function_makes_its_last_integer_needs_no_range(
    operator: str, factor: float, activations: str, levels: int
) -> None:
    """Nothing is lost by it: half a step of the output is left beyond."""

    def network(*, is_read_too: bool) -> bytes:
        writer = TFLiteWriter()
        x, driven, answer, other = (
            writer.tensor(name, (1, 4), "FLOAT32") for name in ("x", "driven", "answer", "other")
        )
        ten = writer.tensor("ten", (1, 4), "FLOAT32", data=np.full((1, 4), 10.0, np.float32))
        writer.operator("MUL", [x, ten], [driven], fused_activation="NONE")
        writer.operator(operator, [driven], [answer])
        writer.operator("ABS", [driven], [other])
        return writer.finish([x], [answer, other] if is_read_too else [answer])

    values = np.linspace(-2.0, 2.0, 400).reshape(100, 4).astype(np.float32)
    scheme = replace(SCHEMES["int8"], activations=activations)

    def found(tflite: bytes, scheme: Scheme) -> tuple[float, float]:
        return estimate(tflite, {"observation": values}, scheme, preprocessing=PLAIN)["driven"]

    end = factor * float(np.arctanh(1.0 - 1.0 / levels))
    assert found(network(is_read_too=False), scheme) == pytest.approx((-end, end))
    assert np.tanh(end / factor) == pytest.approx(1.0 - 0.5 * (2.0 / levels))
    assert found(network(is_read_too=True), scheme) == pytest.approx((-20.0, 20.0))
    stated = replace(scheme, layer_ranges=(("driven", "min_max"),))
    assert found(network(is_read_too=False), stated) == pytest.approx((-20.0, 20.0)), "the user's word"
