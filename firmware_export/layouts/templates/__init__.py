"""The texts of the metadata and the examples."""

from collections.abc import Mapping
from importlib.resources import files

from firmware_export.emit.render import fill_text


def fill_template(name: str, values: Mapping[str, object]) -> bytes:
    """Return template `name` of this folder with every @key@ replaced."""
    return fill_text((files(__name__) / name).read_text(encoding="utf-8"), values)
