"""Results appear whole or not at all."""

import os
from pathlib import Path

import pytest

from edgeqrl import files
from edgeqrl.errors import OutputError
from edgeqrl.files import from_json_bytes, staged_folder, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    write_atomically(place, b"old")
    write_atomically(place, b"new")
    assert place.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_write_into_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Choose another place"):
        write_atomically(tmp_path / "absent" / "a.bin", b"")


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to a fifo"])
def test_what_is_no_regular_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(tmp_path / "fifo")
        place.symlink_to("fifo") if kind.startswith("link") else (tmp_path / "fifo").rename(place)
    before = names(tmp_path)
    with pytest.raises(OutputError, match="and not a file"):
        write_atomically(place, b"new")
    assert names(tmp_path) == before
    assert not place.is_file()


@pytest.mark.parametrize("is_there", [True, False])
def test_link_to_a_file_stays_and_leads_to_the_new_one(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    if is_there:
        (tmp_path / "real" / "a.bin").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("real/a.bin")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"new"


def test_link_to_itself_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="Cannot write"):
        write_atomically(tmp_path / "loop", b"")


@pytest.mark.parametrize("has_exchange", [True, False])
def test_staged_folder_replaces_the_old_one_whole(
    tmp_path: Path, has_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "bundle"
    for content in ("one", "two"):
        with staged_folder(target, keep=False) as fresh:
            (fresh / content).write_text(content)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["bundle"]


def test_staged_folder_keeps_what_was_there_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "one").write_text("1")
    with staged_folder(target, keep=True) as fresh:
        (fresh / "two").write_text("2")
    assert names(target) == ["one", "two"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_interrupted_block_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(error), staged_folder(target, keep=True) as fresh:
        (fresh / "old").write_text("half")
        raise error
    assert (target / "old").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_failed_second_rename_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def fail_for_fresh(self: Path, to: Path) -> Path:
        if self.name == "fresh":
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_fresh)
    with pytest.raises(OutputError, match="disk is full"), staged_folder(target, keep=False):
        pass
    assert names(target) == ["old"]


def test_link_stays_and_leads_to_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    with staged_folder(link, keep=False) as fresh:
        (fresh / "one").write_text("1")
    assert link.is_symlink()
    assert names(tmp_path / "real") == ["one"]


def test_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="Cannot write"), staged_folder(tmp_path / "loop", keep=False):
        pass


@pytest.mark.parametrize("target", [".", ".."])
def test_current_folder_is_not_replaced(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(OutputError, match="current folder"), staged_folder(Path(target), keep=False):
        pass


@pytest.mark.parametrize("data", [b"NaN", b'{"a": -Infinity}', b"[" * 200_000, b"", b"\xff\xfe"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        from_json_bytes(data)


def test_unwritable_parent_is_one_sentence(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")  # root ignores permission bits, but not this
    with pytest.raises(OutputError, match="Cannot write"), staged_folder(blocker / "bundle", keep=False):
        pass
