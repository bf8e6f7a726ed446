"""The bundle: a folder whose manifest links every artefact of a policy by its sha256."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from edgeqrl import __version__
from edgeqrl.agents.agent import identifier
from edgeqrl.errors import DataError, OutputError
from edgeqrl.files import from_json_bytes, sha256, staged_folder, to_json_bytes, writing

SCHEMA = "edgeqrl-bundle-1"
MANIFEST = "manifest.json"
_MAX_OBSERVATION_SIZE = 2**24
_MOST_SEEDS = 10**6  # of one judgement


@dataclass
class Bundle:
    """A bundle being read, or being written inside `edit_bundle` or `new_bundle`."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)  # name, environment, head, scheme, board …
    artefacts: dict[str, dict[str, Any]] = field(default_factory=dict)  # relative path -> entry
    place: Path | None = None  # where `folder` will end up, if it is staged; for messages

    def __str__(self) -> str:
        """Return the folder that the user knows."""
        return str(self.place or self.folder)

    def add(self, path: str, data: bytes, made_from: Sequence[str] = ()) -> None:
        """Write one artefact; `made_from` names the artefacts (relative paths) it came from."""
        place = self.folder / path
        with writing(Path(str(self), path)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        origin = {name: self.artefacts[name]["sha256"] for name in made_from}
        self.artefacts[path] = {"sha256": sha256(data), "bytes": len(data), "made_from": origin}

    def drop(self, prefix: str) -> None:
        """Remove every artefact whose path starts with `prefix`: it is about to be made anew."""
        for path in [p for p in self.artefacts if p.startswith(prefix)]:
            place = self.folder / path
            place.unlink(missing_ok=True)
            del self.artefacts[path]
            for parent in Path(path).parents[:-1]:
                with suppress(OSError):  # of a folder that something is left in, or that is gone
                    (self.folder / parent).rmdir()

    def read(self, path: str) -> bytes:
        """Return an artefact's bytes; raise DataError if it is absent or not what the manifest says."""
        expected = self.sha256_of(path)
        try:
            data = (self.folder / path).read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read '{self}/{path}': {error.strerror}.") from error
        if sha256(data) != expected:
            raise DataError(
                f"'{self}/{path}' is not the file that {MANIFEST} names (its sha256 differs). "
                "Make the bundle again."
            )
        return data

    def sha256_of(self, path: str) -> str:
        """Return what the manifest says an artefact's sha256 is; raise DataError if it lists none."""
        if path not in self.artefacts:
            raise DataError(f"The bundle '{self}' has no '{path}' yet. {_made_by(path)}")
        return str(self.artefacts[path]["sha256"])

    def has(self, path: str) -> bool:
        """Say whether the manifest lists this artefact."""
        return path in self.artefacts

    def fact(self, name: str) -> Any:
        """Return one of the manifest's facts; raise DataError if an earlier stage has not run."""
        if name not in self.facts:
            stage = {"board": "build", "scheme": "quantize"}.get(name, "convert")
            raise DataError(
                f"The bundle '{self}' says nothing of its {name} yet. Run `edgeqrl {stage}` first."
            )
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
    """Read a bundle's manifest; raise DataError if it is none, damaged, or leads out of the folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"'{folder}' is not a bundle: it has no {MANIFEST}.")
    try:
        manifest = from_json_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"'{path}' is damaged: {error}. Make the bundle again.") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise DataError(f"'{path}' is not a manifest of this version ({SCHEMA}). Make the bundle again.")
    artefacts = manifest.pop("artefacts", None)
    if not _is_artefacts(artefacts):
        raise DataError(f"'{path}' lists its artefacts wrongly. Make the bundle again.")
    for key in ("schema", "edgeqrl"):
        manifest.pop(key, None)
    for key, is_sound in _FACTS.items():
        if key in manifest and not is_sound(manifest[key]):
            raise DataError(f"'{path}' states '{key}' wrongly. Make the bundle again.")
    _require_plain(folder)
    return Bundle(folder, manifest, artefacts)


@contextmanager
def new_bundle(folder: Path, facts: Mapping[str, Any]) -> Iterator[Bundle]:
    """Yield an empty bundle that replaces `folder` when the block ends well, and never by halves."""
    require_ours(folder)
    with staged_folder(folder, keep=False) as fresh:
        bundle = Bundle(fresh, dict(facts), place=folder)
        yield bundle
        _finish(bundle)


@contextmanager
def edit_bundle(folder: Path) -> Iterator[Bundle]:
    """Yield the bundle at `folder` for a stage to add to; what was there stays if the block raises.

    Raises OutputError if another command has changed it meanwhile: one of the two results would be lost.
    """
    open_bundle(folder)
    before = (folder / MANIFEST).read_bytes()
    with staged_folder(folder, keep=True) as fresh:
        bundle = open_bundle(fresh)
        bundle.place = folder
        yield bundle
        if (folder / MANIFEST).read_bytes() != before:
            raise OutputError(f"Another command has changed '{folder}' meanwhile. Run this one again.")
        _finish(bundle)


def require_ours(folder: Path) -> None:
    """Raise OutputError unless `folder` is absent, empty or only a bundle: nothing else is replaced."""
    with writing(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise OutputError(f"'{folder}' is a file. Choose another place with -o.")
        top = min(folder.iterdir(), default=None)
    if top is None:
        return
    try:
        ours = {*open_bundle(folder).artefacts, MANIFEST}
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        foreign = min(found - ours, default=None)
    except DataError:
        foreign = top.name
    if foreign is not None:
        raise OutputError(
            f"'{folder}' holds '{foreign}', which is not part of a bundle and would be replaced. "
            "Move it, or choose another place with -o."
        )


def _finish(bundle: Bundle) -> None:
    with writing(Path(str(bundle), MANIFEST)):
        (bundle.folder / MANIFEST).write_bytes(to_json_bytes(bundle.manifest()))


def _is_artefacts(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for path, entry in value.items():
        parts = Path(path).parts
        is_inside = not Path(path).is_absolute() and ".." not in parts and bool(parts)
        if not (
            is_inside
            and path.isprintable()
            and isinstance(entry, dict)
            and isinstance(entry.get("sha256"), str)
        ):
            return False
    return True


def _require_plain(folder: Path) -> None:
    """Raise DataError if a link or a device lies in the folder: stages read and write below it."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError(
                f"'{path}' is a link or a device, and a bundle holds files and folders only. Remove it."
            )


def _is_shape(value: Any) -> bool:
    is_sizes = isinstance(value, list) and all(type(size) is int and size > 0 for size in value)
    return is_sizes and prod(value) <= _MAX_OBSERVATION_SIZE


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_ledger(value: Any) -> bool:
    kinds = {"agent": str, "policy_sha256": str, "backend": str, "float_backend": str, "verdict": str}
    counts: dict[str, int] = {}
    for entry in value if isinstance(value, list) else [None]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), t) for k, t in kinds.items()):
            return False
        counts[entry["agent"]] = counts.get(entry["agent"], 0) + 1
        seeds, declared = entry.get("seeds"), entry.get("declared")
        if not (isinstance(seeds, dict) and isinstance(declared, dict)):
            return False
        if not all(value is None or isinstance(value, str | int | float) for value in declared.values()):
            return False
        if not _is_seeds([seeds.get("first"), seeds.get("count")]):
            return False
        if type(entry.get("number")) is not int or entry["number"] != counts[entry["agent"]]:
            return False
    return True


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), dict) for name in ("for", "choice"))


def _is_seeds(value: Any) -> bool:
    """Tell [first seed, count]."""
    is_pair = isinstance(value, list) and [type(number) for number in value] == [int, int]
    return is_pair and 0 <= value[0] < 2**31 and 0 <= value[1] <= _MOST_SEEDS


# What later stages take from a manifest for granted: fact -> what tells a sound value.
_FACTS: dict[str, Callable[[Any], bool]] = {
    "agent_options": lambda value: isinstance(value, dict),
    "agent_sha256": lambda value: isinstance(value, str),
    "applied_rewrites": _is_names,
    "board": lambda value: isinstance(value, str),
    "choices": lambda value: isinstance(value, list) and all(map(_is_choice, value)),
    "chosen_seeds": lambda value: isinstance(value, list) and all(map(_is_seeds, value)),
    "contract": lambda value: isinstance(value, dict),
    "diagnosed": lambda value: isinstance(value, list) and all(map(_is_seeds, value)),
    "environment": lambda value: isinstance(value, dict | None),
    "head": lambda value: isinstance(value, dict),
    "is_masked": lambda value: isinstance(value, bool),
    "judgements": _is_ledger,
    "last_board": lambda value: isinstance(value, str),
    "learned_seeds": lambda value: isinstance(value, list) and all(map(_is_seeds, value)),
    "name": lambda value: isinstance(value, str) and value == identifier(value),
    "input_gains": lambda value: (
        isinstance(value, dict) and all(isinstance(gains, list) for gains in value.values())
    ),
    "observation_shape": _is_shape,
    "preprocessing": lambda value: isinstance(value, dict),
    "states": lambda value: isinstance(value, list) and all(isinstance(fact, dict) for fact in value),
    "value_names": _is_names,
    "scheme": lambda value: isinstance(value, dict),
    "weights_sha256": lambda value: isinstance(value, str),
}


def _made_by(path: str) -> str:
    stages = {
        "agent": "calibrate",
        "calibration": "calibrate",
        "policy": "quantize",
        "report": "validate",
        "diagnosis": "diagnose",
        "golden": "export",
        "src": "export",
        "firmware": "build",
        "raspberry": "build",
    }
    stage = next((s for prefix, s in stages.items() if path.startswith(prefix)), "convert")
    return f"Run `edgeqrl {stage}` first."
