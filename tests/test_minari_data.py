"""Minari data are read as they lie on the disk, and a file that is damaged or hostile is never followed."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from edgeqrl.calibrate import from_recorded
from edgeqrl.errors import DataError, EdgeQRLError, MissingToolError, UsageError
from edgeqrl.minari_data import is_minari, read_minari
from edgeqrl.spaces import observation_parts

h5py = pytest.importorskip("h5py")

LENGTHS = (3, 1, 12)


def rows(length: int, episode: int) -> Any:
    return np.arange(2.0 * (length + 1)).reshape(-1, 2) + 100 * episode


def write(
    folder: Path, *, observations: Any = rows, lengths: tuple[int, ...] = LENGTHS, **metadata: Any
) -> Path:
    """Write a data set as Minari lays it out; `observations` makes an episode's array, or a tree of them."""
    data = folder / "data"
    data.mkdir(parents=True)
    stated = {"data_format": "hdf5", "total_episodes": len(lengths), **metadata}
    (data / "metadata.json").write_text(json.dumps(stated))
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for number in reversed(range(len(lengths))):  # their order is in their names
            group = file.create_group(f"episode_{number}")
            group["rewards"] = np.zeros(lengths[number])
            put(group, "observations", observations(lengths[number], number))
    return folder


def put(group: Any, key: str, tree: Any) -> None:
    if isinstance(tree, dict):
        inner = group.create_group(key, track_order=True)
        for name, value in tree.items():
            put(inner, name, value)
    else:
        group[key] = tree


def main_file(folder: Path) -> Path:
    return folder / "data" / "main_data.hdf5"


def test_episodes_come_in_their_order_without_the_observation_on_which_nothing_acted(tmp_path: Path) -> None:
    found = read_minari(write(tmp_path / "set", lengths=(3,) * 11))
    expected = np.concatenate([rows(3, episode)[:-1] for episode in range(11)])
    assert np.array_equal(found.observations, expected)
    assert found.starts.tolist() == list(range(0, 33, 3))
    assert found.kind == "minari"


@pytest.mark.parametrize("place", ["", "data"])
def test_a_set_is_found_by_any_of_its_folders(place: str, tmp_path: Path) -> None:
    found = read_minari(write(tmp_path / "set") / place)
    assert (len(found.observations), found.starts.tolist()) == (16, [0, 3, 4])
    assert is_minari(tmp_path / "set")


def test_a_set_is_found_by_its_name_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write(tmp_path / "toys" / "walker" / "expert-v12")
    assert len(read_minari("minari:toys/walker/expert-v12").observations) == 16
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".minari" / "datasets" / "home-v0", lengths=(5,))
    assert len(read_minari("minari:home-v0").observations) == 5


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("minari:toys/none-v0", "run `minari download toys/none-v0` first"),
        ("minari:../../etc-v0", "names no Minari data set"),
        ("minari:/etc/set-v0", "names no Minari data set"),
        ("minari:set", "a name is minari:NAME-vN"),
        ("minari:", "names no Minari data set"),
        ("nowhere", "no Minari data set at 'nowhere'. Give the folder with metadata.json"),
    ],
)
def test_a_set_that_is_not_there_is_named_and_not_downloaded(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=sentence):
        read_minari(name)
    assert list(tmp_path.iterdir()) == []


def test_parts_have_the_names_that_the_environments_space_gives_them(tmp_path: Path) -> None:
    def observations(length: int, _: int) -> Any:
        numbers = np.zeros((length + 1, 3), np.float32)
        return {
            "arm": {"joints": numbers, "_index_1": numbers[:, 0].astype(np.int64)},
            "on": numbers[:, :1] > 0,
        }

    found: Any = read_minari(write(tmp_path / "set", observations=observations)).observations
    assert {name: values.shape for name, values in found.items()} == {
        "arm_joints": (16, 3),
        "arm_1": (16,),
        "on": (16, 1),
    }


def test_classes_are_one_number_a_row(tmp_path: Path) -> None:
    found = read_minari(write(tmp_path / "set", observations=lambda length, _: np.arange(length + 1)))
    assert found.observations.tolist() == [[0], [1], [2], [0], *([n] for n in range(12))]


def test_a_calibration_set_says_that_it_is_minaris(tmp_path: Path) -> None:
    found = from_recorded(read_minari(write(tmp_path / "set")), num_states=8)
    assert (found.source, found.env_id, found.num_rolled_out) == ("minari", "recorded", 16)
    for start in (rows(3, 0)[0], rows(1, 1)[0], rows(12, 2)[11]):  # starts, and the greatest
        assert (found.observations == start).all(axis=1).any()


def changed(folder: Path, change: Any) -> None:
    with h5py.File(main_file(folder), "a") as file:
        change(file)


def replace(file: Any, key: str, value: Any) -> None:
    del file[key]
    if value is not None:
        file[key] = value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: replace(f, "episode_1/observations", None), "'/episode_1' has no 'observations'"),
        (lambda f: replace(f, "episode_1/rewards", None), "'/episode_1' has no 'rewards'"),
        (lambda f: replace(f, "episode_1/rewards", 3.0), "are no row of numbers"),
        (lambda f: replace(f, "episode_1/observations", np.zeros((2, 3))), "of different shapes"),
        (lambda f: replace(f, "episode_1/observations", np.zeros((0, 2))), "fewer observations than steps"),
        (lambda f: replace(f, "episode_1/observations", [b"a", b"b"]), "no numbers but"),
        (lambda f: replace(f, "episode_1/observations", np.full((2, 2), np.nan)), "not finite in float32"),
        (lambda f: [f.pop(f"episode_{n}") for n in range(3)], "holds no episodes"),
        (
            lambda f: replace(f, "episode_1/observations", h5py.ExternalLink("/etc/passwd", "/")),
            "links to elsewhere",
        ),
        (
            lambda f: replace(f, "episode_1/observations", h5py.SoftLink("/episode_0/observations")),
            "links to elsewhere",
        ),
        (lambda f: replace(f, "episode_1", h5py.SoftLink("/episode_0")), "links to elsewhere"),
    ],
)
def test_damaged_and_linked_data_are_refused_in_one_sentence(
    change: Any, sentence: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "set")
    changed(folder, change)
    with pytest.raises(DataError, match=sentence) as caught:
        read_minari(folder)
    assert "\n" not in str(caught.value)
    assert "The recording" not in str(caught.value)


def test_values_in_other_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    folder = write(tmp_path / "set")

    def change(file: Any) -> None:
        del file["episode_0/observations"]
        file.create_dataset(
            "episode_0/observations", (4, 2), np.float64, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )

    changed(folder, change)
    with pytest.raises(DataError, match="in other files"):
        read_minari(folder)
    layout = h5py.VirtualLayout((4, 2), np.float64)
    layout[:] = h5py.VirtualSource(str(secret), "x", (4, 2))
    changed(
        folder,
        lambda f: (
            f.pop("episode_0/observations"),
            f.create_virtual_dataset("episode_0/observations", layout),
        ),
    )
    with pytest.raises(DataError, match="in other files"):
        read_minari(folder)


def test_groups_that_hold_themselves_end(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")

    def change(file: Any) -> None:
        del file["episode_0/observations"]
        group = file.create_group("episode_0/observations")
        for name in ("a", "b"):
            group[name] = group

    changed(folder, change)
    with pytest.raises(DataError, match="more than 256 parts"):
        read_minari(folder)


def test_arrays_that_would_fill_the_memory_are_refused_unread(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")

    def change(file: Any) -> None:
        del file["episode_0/observations"]
        file.create_dataset(
            "episode_0/observations", (2**31, 2), np.float64, chunks=(1024, 2), compression="gzip"
        )

    changed(folder, change)
    assert main_file(folder).stat().st_size < 100_000
    with pytest.raises(DataError, match="more than 2 GiB"):
        read_minari(folder)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ("{", "metadata.json is no JSON"),
        ("[]", "no JSON object"),
        ('{"data_format": "arrow"}', "stored as arrow"),
    ],
)
def test_metadata_are_not_believed(metadata: str, sentence: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "data" / "metadata.json").write_text(metadata)
    with pytest.raises(DataError, match=sentence):
        read_minari(folder)


def test_an_environment_in_the_metadata_is_never_made(tmp_path: Path) -> None:
    spec = json.dumps({"id": "Evil-v0", "entry_point": "edgeqrl_tests_must_not_import_this:Evil"})
    assert len(read_minari(write(tmp_path / "set", env_spec=spec)).observations) == 16


@pytest.mark.parametrize("cut", [0, 1, 100, 2000])
def test_a_torn_file_is_named(cut: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    main_file(folder).write_bytes(main_file(folder).read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_minari(folder)


def test_bytes_that_are_wrong_anywhere_are_data_or_a_sentence(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    whole = main_file(folder).read_bytes()
    rng, sentences = np.random.default_rng(1), []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=4):
            damaged[place] = rng.integers(256)
        main_file(folder).write_bytes(damaged)
        try:
            assert len(read_minari(folder).observations) >= 1
        except EdgeQRLError as error:
            sentences.append(str(error))
    assert sentences
    assert not any("\n" in sentence for sentence in sentences)


def test_missing_files_and_library_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "set")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingToolError, match=r"pip install 'edgeqrl\[minari\]'"):
        read_minari(folder)
    monkeypatch.undo()
    main_file(folder).unlink()
    with pytest.raises(DataError, match="is missing"):
        read_minari(folder)


@pytest.mark.parametrize("is_tuple", [False, True])
def test_the_layout_is_minaris_own(is_tuple: bool, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    space: Any = gymnasium.spaces.Box(-9.0, 9.0, (2,))
    if is_tuple:
        space = gymnasium.spaces.Dict(arm=gymnasium.spaces.Tuple([space, gymnasium.spaces.Discrete(3)]))
    storage = MinariStorage.new(tmp_path / "data", space, gymnasium.spaces.Discrete(2))
    rng, seen = np.random.default_rng(0), []
    for length in (4, 1, 9, *range(2, 12)):
        numbers = rng.uniform(-9, 9, (length + 1, 2)).astype(np.float32)
        tree: Any = {"arm": (numbers, np.arange(length + 1) % 3)} if is_tuple else numbers
        steps: Any = {
            name: np.zeros(length) for name in ("actions", "rewards", "terminations", "truncations")
        }
        storage.update_episodes([EpisodeBuffer(id=len(seen), observations=tree, **steps)])
        seen.append(numbers[:-1])
    found: Any = read_minari(tmp_path)
    assert found.starts.tolist() == np.cumsum([0, *map(len, seen[:-1])]).tolist()
    if is_tuple:
        assert set(found.observations) == {part.name for part in observation_parts(space)}
        assert set(found.observations["arm_1"]) == {0, 1, 2}
    numbers = found.observations["arm_0"] if is_tuple else found.observations
    assert np.array_equal(numbers, np.concatenate(seen))
