"""Golden vectors: what is stored, and that the generator's rows have every kind of value."""

import re

import numpy as np
import pytest

from firmware_export.emit import export_sources, make_golden
from firmware_export.emit.golden import _answered, generated_crc, generated_observations, num_generated
from tests.c_policies import random_observations, random_policy


@pytest.mark.parametrize("head", ["argmax", "masked", "affine"])
def test_generated_rows_are_of_every_kind(head: str) -> None:
    policy = random_policy(np.random.default_rng(3), (40, 7, 5), head=head)
    rows, masks = generated_observations(policy, 64)
    assert rows.shape == (64, 40)
    usual, mixed = rows[0::2], rows[1::2]
    assert np.isfinite(usual).all()
    assert (np.abs(usual) < 128.0 * policy.observation.scale).all()
    assert {np.isnan(mixed).any(), np.isposinf(mixed).any(), np.isneginf(mixed).any()} == {True}
    assert ((mixed != 0) & (np.abs(mixed) < 1e-40)).any()
    answers = _answered(policy, rows, masks)
    assert set(answers.status[1::2].tolist()) >= {3}
    assert len(np.unique(answers.outputs, axis=0)) > 50
    if masks is not None:
        assert 0 in masks.sum(axis=1)
        assert masks.any(axis=0).all()
        assert not masks.all(axis=0).any()


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    policy = random_policy(np.random.default_rng(3))
    few, many = (generated_observations(policy, count)[0].tobytes() for count in (3, 64))
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
