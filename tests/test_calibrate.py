"""Extremes and starts are always in the set, and a damaged file is never believed."""

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgeqrl.recordings as module
from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded, read_recorded
from edgeqrl.errors import DataError, EdgeQRLError, OutputError, UsageError
from edgeqrl.rollout import rollout
from tests.toys import ChaosEnv, IntegerPolicy

POLICY = IntegerPolicy(3, 5)


def made(**options: Any) -> CalibrationSet:
    return calibrate(POLICY, ChaosEnv, env_id="Chaos-v0", **{"num_episodes": 6, "seed": 50, **options})


def positions(chosen: Any, everything: Any) -> list[int]:
    """Where the chosen rows lie in `everything`, in order; fails if they are not a subsequence."""
    found, place = [], 0
    for row in chosen:
        while not np.array_equal(everything[place], row):
            place += 1
        found.append(place)
        place += 1
    return found


@pytest.mark.parametrize("num_states", [1, 10, 20, 10_000])
def test_starts_and_extremes_are_kept_whatever_the_number_of_states(num_states: int) -> None:
    played = rollout(POLICY, ChaosEnv, range(50, 56), keep_observations=True)
    assert played.observations is not None
    everything = np.concatenate(played.observations)
    chosen = made(num_states=num_states)
    positions(chosen.observations, everything)
    for episode in played.observations:
        assert (chosen.observations == episode[0]).all(axis=1).any()
    assert np.array_equal(chosen.observations.min(axis=0), everything.min(axis=0))
    assert np.array_equal(chosen.observations.max(axis=0), everything.max(axis=0))
    assert min(num_states, len(everything)) <= len(chosen.observations) <= max(num_states, 6 + 2 * 3)
    assert chosen.num_rolled_out == len(everything)
    assert chosen.seeds == (50, 51, 52, 53, 54, 55)
    assert chosen.episode_returns == tuple(played.episode_returns)
    assert chosen.env_id == "Chaos-v0"


def test_calibration_is_decided_by_its_seed() -> None:
    first, again, other = made(num_states=14), made(num_states=14), made(num_states=14, seed=51)
    assert first.sha256 == again.sha256
    assert first.to_bytes() == again.to_bytes()
    assert first.sha256 != other.sha256


@settings(max_examples=60, deadline=None)
@given(
    recorded=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 2)),
        elements=st.floats(-4, 4, width=16),
    ),
    num_states=st.integers(1, 50),
)
def test_recording_is_thinned_without_loss_of_range_or_order(recorded: Any, num_states: int) -> None:
    chosen = from_recorded(recorded, num_states=num_states)
    values = chosen.observations
    positions(values, recorded)
    assert np.array_equal(values[0], recorded[0])
    assert np.array_equal(values.min(axis=0), recorded.min(axis=0))
    assert np.array_equal(values.max(axis=0), recorded.max(axis=0))
    always = 1 + 2 * recorded[0].size
    assert min(num_states, len(recorded)) <= len(values) <= min(max(num_states, always), len(recorded))
    assert (chosen.env_id, chosen.seeds, chosen.num_rolled_out) == ("recorded", (), len(recorded))


def test_rows_are_sampled_without_replacement_and_evenly() -> None:
    recorded = np.linspace(-1, 1, 1001, dtype=np.float32)[:, None]
    values = from_recorded(recorded, num_states=500).observations[:, 0]
    assert len(set(values.tolist())) == 500
    assert abs(float(values.mean())) < 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"num_episodes": 0}, "at least one episode"), ({"num_states": 0}, "at least one state")],
)
def test_calibrating_on_nothing_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(**options)


def test_set_survives_its_file(tmp_path: Path) -> None:
    saved = made(agent_sha256="ab" * 32)
    saved.save(tmp_path / "set.npz")
    loaded = CalibrationSet.load(tmp_path / "set.npz")
    assert loaded.sha256 == saved.sha256
    assert np.array_equal(loaded.observations, saved.observations)
    for name in ("env_id", "seeds", "episode_returns", "num_rolled_out", "agent_sha256"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"env_id": "x"},
        {"seeds": (1, 2, 3, 4, 5, 6)},
        {"episode_returns": (0.0,) * 6},
        {"num_rolled_out": 10_000},
        {"agent_sha256": "cd"},
        {"observations": np.zeros((2, 3), np.float32)},
        {"observations": np.zeros((3, 2), np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hash_covers_every_field(change: Any) -> None:
    fields = dict(made().__dict__)
    assert CalibrationSet(**{**fields, **change}).sha256 != CalibrationSet(**fields).sha256


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"observations": np.zeros((0, 3), np.float32)}, "at least one observation"),
        ({"observations": np.zeros((1, 3))}, "in float32, or in uint8 or int32"),
        ({"observations": np.array([[0, 1], [0, np.nan]], np.float32)}, "observation 1, feature 1"),
        ({"observations": np.full((1, 1, 2), -np.inf, np.float32)}, r"observation 0, feature \(0, 0\)"),
        ({"seeds": (1,)}, "one return for each"),
        ({"num_rolled_out": 1}, "more observations than were rolled out"),
    ],
)
def test_set_that_cannot_be_is_refused(change: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        CalibrationSet(**{**made().__dict__, **change})


def test_truncated_file_is_refused_and_flipped_bytes_never_change_the_contents() -> None:
    good = made(num_states=12).to_bytes()
    sha256 = CalibrationSet.from_bytes(good, "x").sha256
    for size in range(0, len(good), 7):
        with pytest.raises(DataError):
            CalibrationSet.from_bytes(good[:size], "x")
    for place in range(0, len(good), 5):
        damaged = bytearray(good)
        damaged[place] ^= 0x55
        # Bytes of the zip that mean nothing, such as dates, may change; the contents may not.
        with suppress(DataError):
            assert CalibrationSet.from_bytes(bytes(damaged), "x").sha256 == sha256


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def with_header(**change: Any) -> bytes:
    with np.load(io.BytesIO(made().to_bytes())) as arrays:
        header = json.loads(arrays["header"].tobytes())
        text = json.dumps({**header, **change}).encode()
        return npz(header=np.frombuffer(text, np.uint8), observations=arrays["observations"])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (b"\x80\x04\x95 a pickle", "cannot be read"),
        (npz(a=np.zeros(3)), "is not a calibration set"),
        (npz(header=np.zeros(3, np.uint8), observations=np.zeros((1, 3))), "is not a calibration set"),
        (npz(header=np.zeros(3), observations=np.array([object()])), "cannot be read"),
        (with_header(format="something"), "is not a calibration set"),
        (with_header(version=3), "format version 3, and this edgeqrl reads 1 and 2"),
        (with_header(version=2), "is damaged"),
        (with_header(seeds=[1]), "one return for each"),
        (with_header(seeds=None), "is damaged"),
        (with_header(shape=[1, 2]), "is damaged"),
        (with_header(num_rolled_out="many"), "is damaged"),
        (with_header(num_rolled_out=2.5), "cannot hold more"),
        (with_header(surplus=1), "is damaged"),
    ],
)
def test_file_that_is_no_calibration_set_is_refused_in_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        CalibrationSet.from_bytes(data, "place/set.npz")
    assert "\n" not in str(caught.value)


def test_file_that_would_unpack_to_gigabytes_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 10**6)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("observations.npy", bytes(2 * 10**6))
    assert len(buffer.getvalue()) < 10_000
    with pytest.raises(DataError, match="unpacks to more than"):
        CalibrationSet.from_bytes(buffer.getvalue(), "x")


@pytest.mark.parametrize("read", [CalibrationSet.load, read_recorded])
def test_missing_file_and_folder_are_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .* at '.*nowhere"):
        read(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        made().save(tmp_path / "file" / "set.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"observations": np.arange(6.0).reshape(3, 2), "actions": np.zeros(3)},
        {"log": np.arange(6).reshape(3, 2)},
        {"log": np.arange(6, dtype=np.uint8).reshape(3, 2)},
    ],
)
def test_recording_is_read_from_npz(arrays: Any, tmp_path: Path) -> None:
    (tmp_path / "log.npz").write_bytes(npz(**arrays))
    values = read_recorded(tmp_path / "log.npz")
    assert values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert values.dtype == np.float32


def test_recording_is_read_from_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "log.npy", np.ones((2, 3), np.float16))
    assert from_recorded(tmp_path / "log.npy").observations.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("recorded", "sentence"),
    [
        (np.zeros((0, 3)), r"shape is \(0, 3\)"),
        (np.zeros((3, 0)), r"shape is \(3, 0\)"),
        (np.zeros(3), r"shape is \(3,\)"),
        (np.array([["a"]]), "must hold numbers, not <U1"),
        (np.array([[1j]]), "must hold numbers"),
        (np.array([[0.0], [np.nan]]), "not finite in float32 at observation 1, feature 0"),
        (np.array([[1e39]]), "not finite in float32 at observation 0"),
    ],
)
def test_recording_that_cannot_serve_is_refused(recorded: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        from_recorded(recorded)
    np.savez(tmp_path / "log.npz", observations=recorded)
    with pytest.raises(DataError, match=r"log\.npz.*" + sentence):
        from_recorded(tmp_path / "log.npz")


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"observation_shape": (4,)}, DataError, r"shape \(3,\), but the agent takes \(4,\)"),
        ({"num_states": 0}, UsageError, "at least one state"),
    ],
)
def test_recording_must_fit_the_agent(options: Any, kind: type[EdgeQRLError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        from_recorded(np.zeros((2, 3)), **options)


def test_recording_with_several_arrays_and_no_observations_lists_them(tmp_path: Path) -> None:
    (tmp_path / "log.npz").write_bytes(npz(b=np.zeros(1), a=np.zeros(1)))
    with pytest.raises(DataError, match="no array 'observations'; its arrays: a, b"):
        read_recorded(tmp_path / "log.npz")
