"""Scheme: one value says how a policy is made integer; presets, parts, JSON and options agree on it."""

import itertools
import json
import shlex
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.errors import DataError, UsageError
from edgeqrl.quantize.scheme import (
    BITS,
    GRANULARITIES,
    PARTS,
    RANGES,
    REWRITES,
    ROUNDINGS,
    SCHEMES,
    SYMMETRIES,
    Scheme,
    names_tensor,
    require_scheme,
)

layers = st.text("abc_12/;", min_size=1, max_size=8)
schemes = st.builds(
    Scheme,
    weight_bits=st.sampled_from(BITS),
    layer_bits=st.lists(st.tuples(layers, st.sampled_from(BITS)), max_size=3, unique_by=lambda p: p[0]).map(
        tuple
    ),
    granularity=st.sampled_from(GRANULARITIES),
    group_size=st.integers(1, 64),
    symmetry=st.sampled_from(SYMMETRIES),
    activations=st.sampled_from(("int8", "int16")),
    wide=st.lists(st.sampled_from(("input", "state", "output", "dense_1")), unique=True).map(tuple),
    ranges=st.sampled_from(RANGES),
    layer_ranges=st.lists(
        st.tuples(layers, st.sampled_from(RANGES)), max_size=2, unique_by=lambda p: p[0]
    ).map(tuple),
    rewrites=st.lists(st.sampled_from(REWRITES), unique=True).map(tuple),
    rounding=st.sampled_from(ROUNDINGS),
    bias_correction=st.booleans(),
    learned=st.booleans(),
)


@given(schemes)
def test_json_and_back(scheme: Scheme) -> None:
    assert Scheme.from_json(scheme.to_json()) == scheme
    assert hash(Scheme.from_json(scheme.to_json())) == hash(scheme)


@given(schemes)
def test_options_ask_for_the_same_scheme(scheme: Scheme) -> None:
    words = shlex.split(shlex.join(scheme.options()))
    named = words[1] if words[:1] == ["--scheme"] else "int8"
    parts = [value for option, value in itertools.pairwise(words) if option == "--set"]
    assert require_scheme(named).with_parts(parts) == scheme


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int8", "int8, rounded by layer output, biases corrected"),
        ("int8-bare", "int8, no rewrites"),
        ("int8-per-tensor", "int8 per-tensor, rounded by layer output, biases corrected"),
        ("int16x8", "int16x8, rounded by layer output, biases corrected"),
        ("w3a8", "w3a8, rounded by layer output, biases corrected"),
        ("textbook-5", "w5a8 per-tensor asymmetric, no rewrites"),
    ],
)
def test_presets_say_what_they_are(name: str, said: str) -> None:
    assert str(require_scheme(name)) == said


def test_only_one_preset_is_the_bare_converter() -> None:
    assert [name for name, scheme in SCHEMES.items() if scheme.is_bare] == ["int8-bare"]


def test_every_part_can_be_set() -> None:
    assert tuple(field.name for field in fields(Scheme)) == PARTS


def test_parts_are_overridden_and_lists_add_up() -> None:
    found = require_scheme("w4a8").with_parts(
        ["layer_bits=dense:8", "layer_bits=head:6", "wide=input,state", "rewrites=none"]
    )
    assert found.layer_bits == (("dense", 8), ("head", 6))
    assert (found.weight_bits, found.wide, found.rewrites) == (4, ("input", "state"), ())
    assert found.label == "w4a8 wide=input,state dense:w8 head:w6"


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("weight_bits", "write PART=VALUE"),
        ("weight_bit=4", "did you mean 'weight_bits'"),
        ("weight_bits=9", "2 to 8 bits, got 9"),
        ("weight_bits=four", "'four' is no whole number"),
        ("layer_bits=dense", "write LAYER:VALUE"),
        ("learned=yes", "write true or false"),
        ("ranges=max", "ranges must be one of min_max"),
        ("layer_ranges=a:b", "ranges of 'a' must be one of"),
        ("rewrites=centre", "got 'centre'"),
        ("group_size=0", "must be 1 to 1,000,000"),
        ("group_size=99999999999999999999", "must be 1 to 1,000,000"),
        ("group_size=4", "goes with granularity=per_group"),
        ("layer_bits=:4", "write LAYER:VALUE"),
        ("layer_bits=", "a name is empty"),
        ("wide=input,,output", "a name is empty"),
        ("layer_bits=dense:4,dense:8", "layer_bits= names 'dense' twice"),
        ("wide=input,input", "wide= names 'input' twice"),
        ("rewrites=centre_head,centre_head", "names 'centre_head' twice"),
    ],
)
def test_wrong_parts_are_told(part: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Scheme().with_parts([part])


def test_number_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="weight_bits= is given twice"):
        Scheme().with_parts(["weight_bits=4", "weight_bits=5"])


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (["wide=input", "activations=int16"], "wide= goes with activations of 8 bits"),
        (["learned=true", "rounding=adaround"], "rounding=adaround does not go with learned=true"),
        (["bias_correction=true", "learned=true"], "bias_correction=true does not go with learned=true"),
        (["granularity=per_tensor", "group_size=4"], "granularity=per_group"),
        (["layer_bits=dense:4", "layer_bits=dense:8"], "'dense' twice"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(parts: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Scheme().with_parts(parts)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"weight_bits": 4.0}, "weight_bits must be a whole number, got 4.0"),
        ({"weight_bits": True}, "weight_bits must be a whole number, got True"),
        ({"group_size": "4"}, "group_size must be a whole number, got '4'"),
        ({"layer_bits": (("a", 4.0),)}, "layer_bits of 'a' must be a whole number, got 4.0"),
        ({"layer_bits": (("a", 9),)}, "2 to 8 bits, got 9 for 'a'"),
        ({"layer_bits": (("a", 4), ("a", 2))}, "layer_bits= names 'a' twice"),
        ({"layer_bits": ("a", 4)}, "layer_bits must be a list of pairs"),
        ({"layer_bits": "ab"}, "layer_bits must be a list of pairs"),
        ({"layer_bits": ((1, 4),)}, "layer_bits must be a list of pairs"),
        ({"layer_ranges": (("a", ["kl"]),)}, "ranges of 'a' must be one of"),
        ({"layer_ranges": (("a", "kl"), ("a", "mse"))}, "layer_ranges= names 'a' twice"),
        ({"wide": "input"}, "wide must be a list of names, got 'input'"),
        ({"wide": (1,)}, "wide must be a list of names"),
        ({"wide": ("input", "input")}, "wide= names 'input' twice"),
        ({"rewrites": "scale_inputs"}, "rewrites must be a list of names"),
        ({"rewrites": True}, "rewrites must be a list of names, got True"),
        ({"learned": 1}, "learned must be true or false, got 1"),
        ({"bias_correction": "false"}, "bias_correction must be true or false, got 'false'"),
        ({"activations": 8}, "activations must be one of int8, int16, got '8'"),
    ],
)
def test_values_of_another_kind_are_refused(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Scheme(**parts)


def test_lists_and_numbers_of_numpy_make_the_same_scheme() -> None:
    given: dict[str, Any] = {
        "weight_bits": np.int64(4),
        "layer_bits": [["b", np.int8(3)], ["a", 2]],
        "layer_ranges": [["a", "kl"]],
        "wide": ["output", "input"],
        "rewrites": ["equalise", "scale_inputs"],
    }
    scheme = Scheme(**given)
    assert scheme == Scheme(
        weight_bits=4,
        layer_bits=(("a", 2), ("b", 3)),
        layer_ranges=(("a", "kl"),),
        wide=("input", "output"),
        rewrites=("scale_inputs", "equalise"),
    )
    assert scheme.label == "w4a8 wide=input,output a:w2 b:w3"
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme
    assert len({scheme, Scheme(**given)}) == 1


def test_wide_activations_of_a_preset_are_refused_where_all_are_wide() -> None:
    with pytest.raises(UsageError, match="activations=int16"):
        require_scheme("int16x8").with_parts(["wide=input"])


def test_none_is_the_empty_list() -> None:
    parts = ["wide=none", "layer_bits=none", "layer_ranges=none", "rewrites=none"]
    given = Scheme(wide=("input",), layer_bits=(("a", 4),), layer_ranges=(("a", "kl"),))
    assert given.with_parts(parts) == Scheme(rewrites=())
    assert require_scheme("int16x8").with_parts(["wide=none"]) == require_scheme("int16x8")


def test_parts_that_say_what_is_so_anyway_are_taken() -> None:
    learned = Scheme().with_parts(["learned=true", "rounding=nearest", "bias_correction=false"])
    assert learned == Scheme(learned=True)
    grouped = Scheme().with_parts(["group_size=8", "granularity=per_group"])
    assert grouped == Scheme(granularity="per_group")
    assert Scheme(group_size=4) == Scheme()


def test_unknown_scheme_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int8-bare'"):
        require_scheme("int8-bar")


def test_what_is_learned_is_not_rounded_afterwards() -> None:
    scheme = Scheme(learned=True)
    assert (scheme.rounding, scheme.bias_correction) == ("nearest", False)


def test_a_layer_is_named_by_a_component() -> None:
    name = "functional/dense_1/MatMul;functional/dense_1/Relu"
    assert names_tensor("dense_1", name)
    assert names_tensor(name, name)
    assert not names_tensor("dense", name)
    scheme = Scheme(layer_bits=(("dense_1", 3),), layer_ranges=(("dense_1", "kl"),))
    assert (scheme.bits_of(name), scheme.bits_of("dense_2")) == (3, 8)
    assert (scheme.estimator_of(name), scheme.estimator_of("dense_2")) == ("kl", "min_max")


def test_schemes_of_earlier_versions_are_read() -> None:
    old = Scheme.from_json({"rewrites": True, "bias_correction": True})
    assert set(old.rewrites) == {"fold_normalization", "drop_softmax", "centre_head"}
    assert (old.rounding, old.bias_correction, old.activations) == ("nearest", True, "int8")
    bare = Scheme.from_json({"rewrites": False, "bias_correction": False, "activations": "int16"})
    assert bare.is_bare
    assert bare == replace(require_scheme("int8-bare"), activations="int16")


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"rewrites": True, "more": 1},
        {**Scheme().to_json(), "weight_bits": "8"},
        {**Scheme().to_json(), "weight_bits": 8.0},
        {**Scheme().to_json(), "weight_bits": 1},
        {**Scheme().to_json(), "learned": 1},
        {**Scheme().to_json(), "layer_bits": [["a"]]},
        {**Scheme().to_json(), "layer_bits": [["a", "4"]]},
        {**Scheme().to_json(), "rewrites": ["unknown"]},
        {**Scheme().to_json(), "wide": "input"},
        {**Scheme().to_json(), "wide": ["input", 1]},
        {**Scheme().to_json(), "layer_bits": [["a", 4], ["a", 2]]},
        {**Scheme().to_json(), "group_size": True},
        {**Scheme().to_json(), "ranges": ["mse"]},
        {**Scheme().to_json(), "more": 1},
    ],
)
def test_damaged_schemes_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match="no quantization scheme"):
        Scheme.from_json(data)
