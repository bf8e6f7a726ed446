"""From raw observations to the model's inputs, in floats: what the exported policy does in integers."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.errors import EdgeQRLError
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing, preprocessing_of

RNG = np.random.default_rng(0)


def test_plain_observations_pass_as_they_are() -> None:
    plain = Preprocessing.plain((3,))
    assert plain.is_plain
    raw = RNG.normal(size=(5, 3))
    (values,), memory = plain.inputs(raw)
    assert values.dtype == np.float32
    assert memory == plain.initial_memory(5) == ()
    np.testing.assert_array_equal(values, raw.astype(np.float32))


def test_a_dict_of_one_part_is_not_plain_and_keeps_its_key() -> None:
    found = preprocessing_of(spaces.Dict({"joints": spaces.Box(-1.0, 1.0, (3,))}))
    assert found.parts[0].is_raw_float
    assert not found.is_plain  # else a bundle would forget where the part lies
    assert Preprocessing.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(
    gain=st.floats(-10, 10),
    offset=st.floats(-10, 10),
    low=st.floats(-5, 0),
    high=st.floats(0.1, 5),
    raw=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5),
)
def test_numbers_are_normalised_then_clipped(
    gain: float, offset: float, low: float, high: float, raw: list[float]
) -> None:
    part = ObservationPart("x", (), gain=(gain,), offset=(offset,), low=(low,), high=(high,))
    expected = np.clip(gain * np.array(raw) + offset, low, high).astype(np.float32)
    np.testing.assert_array_equal(part.values(np.array(raw)), expected)


def test_each_element_has_its_own_numbers() -> None:
    part = ObservationPart(
        "x", (2,), gain=(2.0, 0.5), offset=(1.0, 0.0), low=(-np.inf, -1.0), high=(4.0, np.inf)
    )
    np.testing.assert_array_equal(
        part.values(np.array([[3.0, -4.0], [-9.0, 6.0]])), [[4.0, -1.0], [-17.0, 3.0]]
    )


def test_bytes_are_scaled_and_classes_become_one_hot() -> None:
    pixels = ObservationPart("pixels", (2, 2), "uint8", gain=(1 / 255,))
    assert pixels.values(np.full((1, 2, 2), 255, np.uint8)).tolist() == [[[1.0, 1.0], [1.0, 1.0]]]
    classes = ObservationPart("gear", (2,), "int32", one_hot=((0, 3), (5, 2)))
    assert classes.network_shape == (5,)
    assert classes.values(np.array([[2, 5], [9, -1]])).tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("axis", "is_new_axis", "shape"),
    [(0, True, (3, 2, 4)), (-1, True, (2, 4, 3)), (-1, False, (2, 12)), (0, False, (6, 4))],
)
@pytest.mark.parametrize("padding", ["first", "zero"])
def test_frames_are_stacked_oldest_first(
    axis: int, is_new_axis: bool, shape: tuple[int, ...], padding: str
) -> None:
    stacked = Preprocessing(
        (ObservationPart("observation", (2, 4)),),
        FrameStack(3, axis, is_new_axis=is_new_axis, padding=padding),
    )
    assert stacked.network_shapes == (shape,)
    frames = RNG.normal(size=(4, 2, 2, 4)).astype(np.float32)  # of 4 steps in 2 environments
    memory = None
    for t in range(4):
        (values,), memory = stacked.inputs(frames[t], memory, np.array([t == 0, t in (0, 2)]))
        for row, begun in ((0, 0), (1, 2 if t >= 2 else 0)):
            before = frames[begun, row] if padding == "first" else np.zeros((2, 4), np.float32)
            last = [frames[i, row] if i >= begun else before for i in (t - 2, t - 1, t)]
            expected = np.stack(last, axis) if is_new_axis else np.concatenate(last, axis)
            np.testing.assert_array_equal(values[row], expected)


def test_memory_is_not_changed_in_place() -> None:
    stacked = Preprocessing((ObservationPart("observation", (1,)),), FrameStack(2, 0))
    _, memory = stacked.inputs(np.ones((1, 1)))
    kept = [array.copy() for array in memory]
    stacked.inputs(np.zeros((1, 1)), memory, np.array([True]))
    for before, after in zip(kept, memory, strict=True):
        np.testing.assert_array_equal(before, after)


SPACE = spaces.Dict(
    {
        "arm": spaces.Dict({"joints": spaces.Box(-1.0, 1.0, (3,)), "speed": spaces.Box(-1.0, 1.0, (2,))}),
        "camera": spaces.Box(0, 255, (6, 6, 1), np.uint8),
        "gear": spaces.Discrete(4, start=1),
        "switches": spaces.MultiBinary(3),
        "dials": spaces.MultiDiscrete([2, 5]),
    }
)


def test_spaces_become_parts_by_key() -> None:
    found = {part.key: part for part in preprocessing_of(SPACE).parts}
    assert found["arm/joints"].name == "arm_joints"
    assert (found["camera"].source, found["camera"].shape) == ("uint8", (6, 6, 1))
    assert (found["gear"].one_hot, found["gear"].shape, found["gear"].network_shape) == (((1, 4),), (), (4,))
    assert (found["switches"].source, found["switches"].shape) == ("uint8", (3,))
    assert found["dials"].one_hot == ((0, 2), (0, 5))
    raw = {
        "arm_joints": np.zeros((2, 3)),
        "arm_speed": np.ones((2, 2)),
        "camera": np.zeros((2, 6, 6, 1), np.uint8),
        "gear": np.array([1, 4]),
        "switches": np.ones((2, 3), np.int8),
        "dials": np.array([[0, 4], [1, 0]]),
    }
    values, _ = preprocessing_of(SPACE).inputs(raw)
    named = dict(zip((part.name for part in preprocessing_of(SPACE).parts), values, strict=True))
    assert named["gear"].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert named["dials"].tolist() == [[1, 0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({"a": spaces.Text(3)}), spaces.Dict({})])
def test_other_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(EdgeQRLError):
        preprocessing_of(space)


@pytest.mark.parametrize(
    "made",
    [
        preprocessing_of(SPACE),
        Preprocessing.plain((4,)),
        Preprocessing(
            (
                ObservationPart(
                    "x", (2,), gain=(2.0,), offset=(0.0, 1.0), low=(-np.inf, -3.0), high=(np.inf,)
                ),
            ),
            FrameStack(4, -1, is_new_axis=False, padding="zero"),
        ),
    ],
)
def test_json_form_is_the_same_thing(made: Preprocessing) -> None:
    text = json.dumps(made.to_json(), allow_nan=False)
    assert Preprocessing.from_json(json.loads(text)) == made


@pytest.mark.parametrize(
    "change",
    [
        {"source": "float64"},
        {"shape": [0]},
        {"shape": [np.inf]},
        {"gain": [10**400]},
        {"gain": [1.0, 2.0]},
        {"gain": [None]},
        {"one_hot": [[0, 2]]},
        {"low": [2.0], "high": [1.0]},
        {"source": "int32"},
        {"source": "int32", "one_hot": [[0, 0], [0, 1], [0, 1]]},
    ],
)
def test_damaged_forms_are_refused(change: dict[str, object]) -> None:
    data = Preprocessing.plain((3,)).to_json()
    data["parts"][0] |= change
    with pytest.raises((TypeError, ValueError)):
        Preprocessing.from_json(data)


@pytest.mark.parametrize(
    "change", [{"num_frames": 2.5}, {"axis": "0"}, {"is_new_axis": 1}, {"padding": "last"}, {"more": 1}]
)
def test_damaged_stacks_are_refused(change: dict[str, object]) -> None:
    data = Preprocessing((ObservationPart("observation", (3,)),), FrameStack(2, 0)).to_json()
    data["frames"] |= change
    with pytest.raises((TypeError, ValueError)):
        Preprocessing.from_json(data)
