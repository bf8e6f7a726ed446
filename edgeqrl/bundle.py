"""The bundle: a folder whose manifest links every artefact of a policy by its sha256."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeqrl import __version__
from edgeqrl.errors import DataError, OutputError
from edgeqrl.files import sha256, staged_folder, to_json_bytes, writing

SCHEMA = "edgeqrl-bundle-1"
MANIFEST = "manifest.json"


@dataclass
class Bundle:
    """A bundle being read, or being written inside `edit_bundle` or `new_bundle`."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)  # name, environment, head, scheme, board …
    artefacts: dict[str, dict[str, Any]] = field(default_factory=dict)  # relative path -> entry

    def add(self, path: str, data: bytes, made_from: Sequence[str] = ()) -> None:
        """Write one artefact; `made_from` names the artefacts (relative paths) it came from."""
        place = self.folder / path
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        origin = {name: self.artefacts[name]["sha256"] for name in made_from}
        self.artefacts[path] = {"sha256": sha256(data), "bytes": len(data), "made_from": origin}

    def drop(self, prefix: str) -> None:
        """Remove every artefact whose path starts with `prefix`: it is about to be made anew."""
        for path in [p for p in self.artefacts if p.startswith(prefix)]:
            (self.folder / path).unlink(missing_ok=True)
            del self.artefacts[path]

    def read(self, path: str) -> bytes:
        """Return an artefact's bytes; raise DataError if it is absent or not what the manifest says."""
        entry = self.artefacts.get(path)
        if entry is None:
            raise DataError(f"The bundle '{self.folder}' has no '{path}' yet. {_made_by(path)}")
        try:
            data = (self.folder / path).read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read '{self.folder / path}': {error.strerror}.") from error
        if sha256(data) != entry["sha256"]:
            raise DataError(
                f"'{self.folder / path}' is not the file that {MANIFEST} names (its sha256 differs). "
                "Make the bundle again."
            )
        return data

    def has(self, path: str) -> bool:
        """Say whether the manifest lists this artefact."""
        return path in self.artefacts

    def fact(self, name: str) -> Any:
        """Return one of the manifest's facts; raise DataError if an earlier stage has not run."""
        if name not in self.facts:
            raise DataError(f"The bundle '{self.folder}' says nothing of its {name}. Run convert again.")
        return self.facts[name]

    def manifest(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return {
            "schema": SCHEMA,
            "edgeqrl": __version__,
            **self.facts,
            "artefacts": dict(sorted(self.artefacts.items())),
        }


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest; raise DataError if it is none, or damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"'{folder}' is not a bundle: it has no {MANIFEST}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Cannot read '{path}': {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise DataError(f"'{path}' is not a manifest of this version ({SCHEMA}). Make the bundle again.")
    artefacts = manifest.pop("artefacts", None)
    if not _is_artefacts(artefacts):
        raise DataError(f"'{path}' lists its artefacts wrongly. Make the bundle again.")
    for key in ("schema", "edgeqrl"):
        manifest.pop(key, None)
    return Bundle(folder, manifest, artefacts)


@contextmanager
def new_bundle(folder: Path, facts: Mapping[str, Any]) -> Iterator[Bundle]:
    """Yield an empty bundle that replaces `folder` when the block ends well, and never by halves."""
    require_ours(folder)
    with staged_folder(folder, keep=False) as fresh:
        bundle = Bundle(fresh, dict(facts))
        yield bundle
        _finish(bundle)


@contextmanager
def edit_bundle(folder: Path) -> Iterator[Bundle]:
    """Yield the bundle at `folder` for a stage to add to; what was there stays if the block raises."""
    open_bundle(folder)
    with staged_folder(folder, keep=True) as fresh:
        bundle = open_bundle(fresh)
        yield bundle
        _finish(bundle)


def require_ours(folder: Path) -> None:
    """Raise OutputError unless `folder` is absent, empty or a bundle: nothing else is replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"'{folder}' is a file. Choose another place with -o.")
    with writing(folder):
        is_ours = (folder / MANIFEST).is_file() or not any(folder.iterdir())
    if not is_ours:
        raise OutputError(
            f"'{folder}' holds files that are not a bundle, and would be replaced. "
            "Choose another place with -o."
        )


def _finish(bundle: Bundle) -> None:
    with writing(bundle.folder):
        (bundle.folder / MANIFEST).write_bytes(to_json_bytes(bundle.manifest()))


def _is_artefacts(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for path, entry in value.items():
        parts = Path(path).parts
        is_inside = not Path(path).is_absolute() and ".." not in parts and bool(parts)
        if not (is_inside and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)):
            return False
    return True


def _made_by(path: str) -> str:
    stages = {
        "agent": "calibrate",
        "calibration": "calibrate",
        "policy": "quantize",
        "report": "validate",
        "golden": "export",
        "src": "export",
        "firmware": "build",
    }
    stage = next((s for prefix, s in stages.items() if path.startswith(prefix)), "convert")
    return f"Run `edgeqrl {stage}` first."
