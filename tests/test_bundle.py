"""The manifest links every artefact by its sha256, and nothing foreign is replaced or believed."""

import json
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
    with edit_bundle(folder) as bundle:
        bundle.drop("src/")
    assert not (folder / "src" / "a.c").exists()
    assert not open_bundle(folder).has("src/a.c")


def test_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="would be replaced"), new_bundle(tmp_path, {}):
        pass
    assert (tmp_path / "thesis.tex").exists()


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
    ],
)
def test_damaged_or_hostile_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(DataError):
        open_bundle(tmp_path)
