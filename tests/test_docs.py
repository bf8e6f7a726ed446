"""The pages: every command is one that exists, links lead somewhere, and the code of some of them runs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeqrl.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
RUN = ("agents.md", "environments.md")  # their Python is run from top to bottom


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands that stand in blocks, in one line each."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", joined, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^(?:\$ )?(edgeqrl .*)$", block, re.MULTILINE)
    yield from re.findall(r"^ {4}(edgeqrl .*)$", joined, re.MULTILINE)


def mentions_of(text: str) -> list[str]:
    """Return what a page says of commands in its sentences: they may lack arguments."""
    found = re.findall(r"`(edgeqrl [a-z][^`\n]*)`", text)
    return [shown for shown in found if "…" not in shown and "self-test" not in shown]


def fault_of(command: str) -> str | None:
    """Return what the command line says against a command, which is not run."""
    words = shlex.split(command, comments=True)[1:]
    group: click.Group = cli
    try:
        with cli.make_context("edgeqrl", words, resilient_parsing=True) as context:
            name, found, rest = group.resolve_command(context, words)
            while isinstance(found, click.Group) and rest:
                group = found
                name, found, rest = group.resolve_command(context, rest)
            if found is None or name is None:
                return "there is no such command"
            if not isinstance(found, click.Group):
                found.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit:  # it shows help
        return None
    except click.ClickException as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    text = page.read_text()
    faults = [(line, fault_of(line)) for line in commands_of(text)]
    faults += [(line, fault_of(line)) for line in mentions_of(text)]
    lacking = [(line, fault) for line, fault in faults if fault and "Missing" in fault]
    assert [(line, fault) for line, fault in faults if fault and "Missing" not in fault] == []
    assert [line for line, _ in lacking if line in commands_of(text)] == []


def test_a_command_that_does_not_exist_is_found() -> None:
    assert fault_of("edgeqrl convert agent.keras --env CartPole-v1 -o build/x  # a comment") is None
    assert "no-such" in str(fault_of("edgeqrl convert agent.keras --no-such 1 -o build/x"))
    assert fault_of("edgeqrl convert agent.keras --env CartPole-v1") is not None  # where to?
    assert fault_of("edgeqrl fly") is not None


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in map(anchor, headings), target


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", RUN)
def test_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.MULTILINE | re.DOTALL
    )
    assert blocks
    exec(compile("\n".join(blocks), name, "exec"), {"__name__": "page"})
