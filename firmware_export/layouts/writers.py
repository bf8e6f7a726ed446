"""The checked writers of metadata: how a stranger's text gets into a format of each tool."""

import json
import re
from collections.abc import Iterable, Mapping

from firmware_export.emit.c_literals import c_comment

_PATH = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*\.[a-z]+")
_KEY = re.compile(r"[a-z_]+")


def metadata_line(text: str, longest: int = 200) -> str:
    """Return `text` as one line of printable characters, single-spaced, at most `longest` of them."""
    printable = "".join(ch if ch.isprintable() else " " for ch in text)
    return " ".join(printable.split())[:longest].rstrip()


def hash_comment(*lines: str) -> str:
    """Return comment lines for all formats in which # begins one; a line cannot end its comment early."""
    # c_comment leaves no backslash, which would join the next line to a comment of Make.
    return "\n".join(f"# {c_comment(line)}".rstrip() for line in lines)


def properties(facts: Mapping[str, str]) -> str:
    """Return `key=value` lines as Arduino reads them: a value goes to the end of its line."""
    return "".join(f"{_checked(_KEY, key)}={metadata_line(value)}\n" for key, value in facts.items())


def yaml_mapping(facts: Mapping[str, object], depth: int = 0) -> str:
    """Return block YAML of strings and mappings; every string is a JSON string, which YAML reads alike."""
    text = ""
    for key, value in facts.items():
        head = f"{'  ' * depth}{_checked(_KEY, key)}:"
        if isinstance(value, Mapping):
            text += f"{head}\n{yaml_mapping(value, depth + 1)}"
        else:
            text += f"{head} {json.dumps(metadata_line(str(value)))}\n"
    return text


def json_text(facts: Mapping[str, object]) -> str:
    """Return indented JSON in ASCII."""
    return json.dumps(facts, indent=2) + "\n"


def kconfig_string(text: str) -> str:
    """Return a quoted Kconfig string; a dollar would begin a macro there."""
    escaped = metadata_line(text).replace("\\", "/").replace('"', "'").replace("$", " ")
    return f'"{escaped}"'


def path_list(paths: Iterable[str], before: str, after: str) -> str:
    """Return file names between `before` and `after`; only such as need no quotes in any format."""
    return after.join(f"{before}{_checked(_PATH, path)}" for path in paths)


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} may not stand in metadata")
    return text
