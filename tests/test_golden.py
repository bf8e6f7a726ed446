"""Golden vectors: what is stored, and that the generator's rows have every kind of value."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from edgeqrl import stages
from edgeqrl.bundle import new_bundle
from edgeqrl.errors import DataError
from edgeqrl.network.structs import read_observations
from edgeqrl.stages.artefacts import golden_bytes, read_golden
from firmware_export.emit import export_sources, make_golden
from firmware_export.emit.golden import answered, generated_crc, num_generated
from firmware_export.emit.golden_rows import generated_rows
from tests.c_policies import random_observations, random_policy
from tests.c_whole_policies import random_parts, random_whole_policy


@pytest.mark.parametrize("head", ["argmax", "masked", "affine"])
def test_generated_rows_are_of_every_kind(head: str) -> None:
    policy = random_policy(np.random.default_rng(3), (40, 7, 5), head=head)
    parts, masks = generated_rows(policy, 64)
    rows = parts["observation"]
    assert rows.shape == (64, 40)
    usual, mixed = rows[0::2], rows[1::2]
    assert np.isfinite(usual).all()
    assert (np.abs(usual) < 128.0 * policy.observation.scale).all()
    assert {np.isnan(mixed).any(), np.isposinf(mixed).any(), np.isneginf(mixed).any()} == {True}
    assert ((mixed != 0) & (np.abs(mixed) < 1e-40)).any()
    answers = answered(policy, parts, masks)
    assert set(answers.status[1::2].tolist()) >= {3}
    assert len(np.unique(answers.outputs, axis=0)) > 50
    if masks is not None:
        assert 0 in masks.sum(axis=1)
        assert masks.any(axis=0).all()
        assert not masks.all(axis=0).any()


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    policy = random_policy(np.random.default_rng(3))
    few, many = (generated_rows(policy, count)[0]["observation"].tobytes() for count in (3, 64))
    assert many.startswith(few)


def test_one_changed_weight_changes_the_crc() -> None:
    one, other = (random_policy(np.random.default_rng(seed), (4, 7, 3)) for seed in (3, 4))
    assert generated_crc(one, 64) != generated_crc(other, 64)


@pytest.mark.parametrize(("size", "stored"), [(4, 13), (100, 10), (1024, 1), (1025, 0)])
def test_stored_observations_fit_4_kib(size: int, stored: int) -> None:
    policy = random_policy(np.random.default_rng(3), (size, 3))
    golden = make_golden(policy, random_observations(np.random.default_rng(4), policy, 4))
    header = export_sources(policy, b"", golden=golden)["robot_golden.h"].decode()
    assert re.search(rf"_NUM_GOLDEN {stored}u", header)


def test_larger_networks_get_fewer_rows() -> None:
    rng = np.random.default_rng(3)
    counts = [num_generated(random_policy(rng, (4, size, size, 3))) for size in (16, 128, 300, 800)]
    assert counts[0] == 64
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 2


def test_generated_rows_of_every_source_reach_the_ends_of_their_range() -> None:
    rng = np.random.default_rng(3)
    policy = random_whole_policy(rng, "categorical-masked", ("affine", "bytes", "classes"))
    parts, masks = generated_rows(policy, 64)
    assert masks is not None
    assert masks.shape == (64, policy.num_masks)
    floats, pixels, classes = (parts[edge.part.name] for edge in policy.observations)
    assert [part.dtype.str for part in (floats, pixels, classes)] == ["<f4", "|u1", "<i4"]
    assert not np.isfinite(floats).all()
    assert (pixels.min(), pixels.max()) <= (10, 255)
    one_hot = policy.observations[2].part.one_hot
    assert one_hot is not None
    flat = classes.reshape(64, -1)
    for i, (start, count) in enumerate(one_hot):
        assert set(flat[0::2, i]) <= set(range(start, start + count))
        assert (flat[:, i].min(), flat[:, i].max()) == (start - 1, start + count)


def test_golden_vectors_of_a_policy_with_memory_are_one_episode() -> None:
    rng = np.random.default_rng(5)
    policy = random_whole_policy(rng, "argmax", ("float", "bytes"), states=(6,))
    observations = random_parts(rng, policy, 5)
    golden = make_golden(policy, observations)
    reverse = make_golden(policy, {name: values[::-1] for name, values in observations.items()})
    assert not np.array_equal(golden.outputs[:5], reverse.outputs[:5][::-1])
    parts, masks = read_observations(policy, golden.observations)
    assert masks is None
    for name, values in observations.items():
        np.testing.assert_array_equal(parts[name][:5], values)


@pytest.mark.parametrize("head", ["categorical", "squashed-log-std"])
def test_generated_crc_depends_on_the_states_and_the_values(head: str) -> None:
    policies = [
        random_whole_policy(np.random.default_rng(1), head, ("float",), states=(4,), values=(count,))
        for count in (1, 2)
    ]
    crcs = {generated_crc(policy, count) for policy in policies for count in (6, 7)}
    assert len(crcs) == 4


def test_golden_file_keeps_the_vectors_and_an_earlier_version_is_refused(tmp_path: Path) -> None:
    policy = random_policy(np.random.default_rng(3), head="masked")
    golden = make_golden(policy, random_observations(np.random.default_rng(4), policy, 4))
    earlier = io.BytesIO()
    np.savez(earlier, **vars(golden))  # before files said their version
    with new_bundle(tmp_path / "bundle", {"name": "robot"}) as bundle:
        bundle.add(stages.GOLDEN, golden_bytes(golden), made_from=[])
        for name, values in vars(read_golden(bundle)).items():
            np.testing.assert_array_equal(values, getattr(golden, name), strict=True)
        bundle.add(stages.GOLDEN, earlier.getvalue(), made_from=[])
        with pytest.raises(DataError, match=r"golden.npz' is of another version of edgeqrl. Export again\."):
            read_golden(bundle)
