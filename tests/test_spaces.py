"""Spaces as a board sees them: parts, types, names, and what cannot be an array."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as s

from edgeqrl.errors import UsageError
from edgeqrl.preprocessing import preprocessing_of
from edgeqrl.spaces import (
    NotFiniteError,
    class_counts,
    class_starts,
    field_name,
    observation_parts,
    part_array,
    part_at,
    part_bounds,
)

BOX = s.Box(-1.0, np.inf, (2,), np.float32)

KINDS: dict[str, tuple[Any, tuple[int, ...], str, Any]] = {
    "float32": (BOX, (2,), "float32", None),
    "float64": (s.Box(-1.0, 1.0, (2, 3), np.float64), (2, 3), "float32", None),
    "number": (s.Box(-1.0, 1.0, (), np.float32), (), "float32", None),
    "bytes": (s.Box(0, 255, (4, 4, 3), np.uint8), (4, 4, 3), "uint8", None),
    "planes": (s.Box(0, 1, (10, 10, 4), np.bool_), (10, 10, 4), "uint8", None),
    "whole numbers": (s.Box(-5, 5, (3,), np.int64), (3,), "float32", None),
    "binary": (s.MultiBinary(4), (4,), "uint8", None),
    "binary planes": (s.MultiBinary([2, 2]), (2, 2), "uint8", None),
    "class": (s.Discrete(5, start=-2), (), "int32", ((-2, 5),)),
    "classes": (s.MultiDiscrete([3, 4], start=[1, 0]), (2,), "int32", ((1, 3), (0, 4))),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_plain_space_is_one_part(name: str) -> None:
    space, shape, source, one_hot = KINDS[name]
    (part,) = observation_parts(space)
    assert (part.name, part.key, part.shape, part.source, part.one_hot) == (
        "observation",
        "",
        shape,
        source,
        one_hot,
    )
    low, high = part_bounds(space)["observation"]
    assert len(low) == len(high) == part.size == int(np.prod(shape))


@pytest.mark.parametrize("name", KINDS)
def test_samples_of_each_space_become_arrays_of_the_part(name: str) -> None:
    space, shape, source, _ = KINDS[name]
    space.seed(3)
    rows = [space.sample() for _ in range(5)]
    (part,) = observation_parts(space)
    batch = part_array(part, rows)
    assert batch.shape == (5, *shape)
    assert batch.dtype == np.dtype(source)
    assert np.allclose(batch, np.array(rows, np.float64), rtol=1e-6)


NESTED = s.Dict(
    {
        "arm": s.Dict({"joints": BOX, "grip": s.Discrete(2)}),
        "camera": s.Tuple([s.Box(0, 255, (2, 2), np.uint8), s.MultiBinary(3)]),
    }
)


def test_nested_spaces_give_their_parts_in_order() -> None:
    parts = observation_parts(NESTED)
    assert [(part.name, part.key) for part in parts] == [
        ("arm_grip", "arm/grip"),
        ("arm_joints", "arm/joints"),
        ("camera_0", "camera/0"),
        ("camera_1", "camera/1"),
    ]
    NESTED.seed(1)
    sample = NESTED.sample()
    assert np.array_equal(part_at(sample, "arm/joints"), sample["arm"]["joints"])
    assert np.array_equal(part_at(sample, "camera/1"), sample["camera"][1])


def test_tuple_parts_have_names() -> None:
    assert [part.name for part in observation_parts(s.Tuple([BOX, BOX]))] == ["part_0", "part_1"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), "observation"),
        (("speed",), "speed"),
        (("left arm", "joint-1"), "left_arm_joint_1"),
        (("float",), "part_float"),
        (("action_mask",), "part_action_mask"),
        (("eqrl",), "part_eqrl"),
        (("3d",), "part_3d"),
        (("é",), "part_"),
    ],
)
def test_keys_become_names_that_c_takes(path: tuple[str, ...], expected: str) -> None:
    assert field_name(path) == expected


def test_parts_that_would_share_a_name_are_refused() -> None:
    with pytest.raises(UsageError, match="would both be called 'a_b'"):
        observation_parts(s.Dict({"a-b": BOX, "a_b": BOX}))


@pytest.mark.parametrize(
    "space",
    [
        s.Text(5),
        s.Sequence(BOX),
        s.Graph(BOX, None),
        s.OneOf([BOX, s.Discrete(2)]),
        s.Dict({"a": s.Text(3)}),
    ],
    ids=["text", "sequence", "graph", "one-of", "nested"],
)
def test_what_is_no_array_is_refused(space: Any) -> None:
    with pytest.raises(UsageError, match="cannot go to a board as"):
        observation_parts(space)


def test_a_part_without_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="no numbers in the part 'none'"):
        observation_parts(s.Dict({"none": s.Box(-1.0, 1.0, (0,)), "a": BOX}))


WRONG: dict[str, tuple[Any, list[Any], str]] = {
    "fraction": (s.Discrete(3), [0.5], "values that are not int32"),
    "beyond a byte": (KINDS["bytes"][0], [np.full((4, 4, 3), 256)], "values that are not uint8"),
    "negative": (s.MultiBinary(2), [np.array([0, -1])], "values that are not uint8"),
    "shape": (BOX, [np.zeros(3)], r"of shape \(3,\), but its observation space says \(2,\)"),
    "text": (s.Discrete(3), ["a"], "values that are not int32"),
    "ragged": (BOX, [np.zeros(2), np.zeros(3)], r"of shape \(2,\), \(3,\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_do_not_fit_their_space_are_named(name: str) -> None:
    space, rows, sentence = WRONG[name]
    (part,) = observation_parts(space)
    with pytest.raises(ValueError, match=sentence):
        part_array(part, rows)


def test_row_that_is_not_finite_is_found() -> None:
    (part,) = observation_parts(BOX)
    with pytest.raises(NotFiniteError) as caught:
        part_array(part, [[0.0, 1.0], [0.0, np.nan]])
    assert caught.value.row == 1


@pytest.mark.parametrize(
    ("space", "counts", "starts"),
    [
        (s.Discrete(4, start=-1), (4,), [-1]),
        (s.MultiDiscrete([2, 3], start=[1, 5]), (2, 3), [1, 5]),
        (s.MultiDiscrete([[2, 3], [4, 5]]), (2, 3, 4, 5), [0, 0, 0, 0]),
        (s.MultiBinary(3), (2, 2, 2), [0, 0, 0]),
        (BOX, None, []),
    ],
    ids=["discrete", "multi-discrete", "grid", "binary", "box"],
)
def test_choices_of_an_action_space(space: Any, counts: Any, starts: list[int]) -> None:
    assert class_counts(space) == counts
    assert class_starts(space).tolist() == starts


@pytest.mark.parametrize("name", KINDS)
def test_float_preprocessing_takes_what_rollouts_give(name: str) -> None:
    space = KINDS[name][0]
    space.seed(5)
    (part,) = observation_parts(space)
    batch = part_array(part, [space.sample() for _ in range(3)])
    preprocessing = preprocessing_of(space)
    inputs, _ = preprocessing.inputs(batch)
    assert inputs[0].shape == (3, *preprocessing.network_shapes[0])
