"""The manifest links every artefact by its sha256, and nothing foreign is replaced or believed."""

import json
import shutil
from pathlib import Path

import pytest

from edgeqrl.bundle import MANIFEST, edit_bundle, new_bundle, open_bundle
from edgeqrl.errors import DataError, OutputError
from edgeqrl.files import sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with new_bundle(tmp_path / "bundle", {"name": "toy"}) as bundle:
        bundle.add("agent/agent.keras", b"agent")
        bundle.add("calibration.npz", b"states", made_from=["agent/agent.keras"])
    return tmp_path / "bundle"


def test_manifest_names_each_artefact_and_what_it_came_from(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = manifest["artefacts"]["calibration.npz"]
    assert entry["sha256"] == sha256(b"states")
    assert entry["made_from"] == {"agent/agent.keras": sha256(b"agent")}
    assert manifest["name"] == "toy"


def test_changed_artefact_is_refused(folder: Path) -> None:
    (folder / "calibration.npz").write_bytes(b"other")
    with pytest.raises(DataError, match="sha256 differs"):
        open_bundle(folder).read("calibration.npz")


def test_absent_artefact_says_which_stage_makes_it(folder: Path) -> None:
    with pytest.raises(DataError, match="edgeqrl quantize"):
        open_bundle(folder).read("policy.tflite")


def test_stage_that_fails_leaves_the_bundle_as_it_was(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(KeyboardInterrupt), edit_bundle(folder) as bundle:
        bundle.add("policy.tflite", b"half")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_dropped_artefacts_are_gone_from_disk_and_manifest(folder: Path) -> None:
    with edit_bundle(folder) as bundle:
        bundle.add("src/a.c", b"int x;")
        bundle.add("src/more/b.c", b"int y;")
        bundle.add("src/gone/c.c", b"")
        bundle.add("firmware/x.bin", b"")
    shutil.rmtree(folder / "src" / "gone")
    (folder / "firmware" / "notes.txt").write_text("of the user")
    with edit_bundle(folder) as bundle:
        bundle.drop("src/")
        bundle.drop("firmware/")
    assert not (folder / "src").exists()
    assert [path.name for path in (folder / "firmware").iterdir()] == ["notes.txt"]
    assert not open_bundle(folder).has("src/a.c")


def test_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="would be replaced"), new_bundle(tmp_path, {}):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_manifest_of_another_program_does_not_make_a_folder_ours(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"manifest_version": 3}')  # a browser extension's
    with pytest.raises(OutputError, match=MANIFEST), new_bundle(tmp_path, {}):
        pass


def test_file_that_the_user_put_into_a_bundle_is_not_replaced(folder: Path) -> None:
    (folder / "agent" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"agent/notes\.txt"), new_bundle(folder, {}):
        pass
    with edit_bundle(folder) as bundle:
        bundle.add("policy.tflite", b"network")
    assert (folder / "agent" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "nowhere", "/"])
def test_link_in_a_bundle_is_not_followed(folder: Path, target: str) -> None:
    (folder / "src").symlink_to(target)
    with pytest.raises(DataError, match="is a link or a device"), edit_bundle(folder):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": "edgeqrl-bundle-1"}',
        b'{"schema": "other", "artefacts": {}}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {"../../etc/passwd": {"sha256": "0"}}}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {"/etc/passwd": {"sha256": "0"}}}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {"a": []}}',
        b"[" * 100_000,
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {"a\\u0000b": {"sha256": "0"}}}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {"\\ud800": {"sha256": "0"}}}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "note": NaN}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "name": "x; system(0)"}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "name": "../x"}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "board": ["rpi-pico"]}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "environment": "CartPole-v1"}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "head": []}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "is_masked": "no"}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "observation_shape": [-1, -4]}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "observation_shape": [4294967296]}',
        b'{"schema": "edgeqrl-bundle-1", "artefacts": {}, "applied_rewrites": [3]}',
    ],
)
def test_damaged_or_hostile_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(DataError):
        open_bundle(tmp_path)
