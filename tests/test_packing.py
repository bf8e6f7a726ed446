"""How weights are packed, as a choice that stays with the bundle."""

from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.bundle import Bundle
from edgeqrl.errors import DataError, UsageError
from edgeqrl.stages import Settings, state_packing
from edgeqrl.stages.packing import read_packing, sequence_of
from firmware_export.emit.params import build_params
from tests.packed_networks import stack

SIZES = (64, 64, 64)


def test_a_bundle_remembers_how_its_weights_are_packed(tmp_path: Path) -> None:
    bundle, policy = Bundle(tmp_path), policy_of_network(stack(np.random.default_rng(0), (3, 2), SIZES))
    old = policy_of_network(stack(np.random.default_rng(1), (4, 8), SIZES))
    for settings, bits in (
        (Settings(is_unpacked=True), ()),
        (Settings(params_of=build_params(old)), (4, 8)),
        (Settings(), None),
    ):
        assert state_packing(bundle, policy, settings).weight_bits == read_packing(bundle) == bits
    assert "weight_bits" not in bundle.facts


def test_the_next_params_have_the_next_number() -> None:
    policy = policy_of_network(stack(np.random.default_rng(0), (4,), (64, 64)))
    assert sequence_of(Settings()) == 0
    assert sequence_of(Settings(params_of=build_params(policy, sequence=4))) == 5


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path)
    for damaged in (4, [5], ["4"]):
        bundle.facts["weight_bits"] = damaged
        with pytest.raises(DataError, match="damaged weight bits"):
            read_packing(bundle)


def test_both_options_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        Settings(is_unpacked=True, params_of=b"")
