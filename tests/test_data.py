from pathlib import Path

import pytest

from edgeqrl import data
from edgeqrl.errors import MissingToolError, UsageError


@pytest.mark.parametrize("kind", ["boards", "zoo"])
def test_shipped_folders_are_found(kind: str) -> None:
    assert data.data_folder(kind).is_dir()


def test_wheel_holds_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgeqrl" / "boards").mkdir(parents=True)
    (tmp_path / "boards").mkdir()
    monkeypatch.setattr(data, "_PACKAGE", tmp_path / "edgeqrl")
    assert data.data_folder("boards") == tmp_path / "edgeqrl" / "boards"
    with pytest.raises(MissingToolError, match="has no folder 'calib_data'"):
        data.data_folder("calib_data")


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'boards'"):
        data.data_folder("board")
