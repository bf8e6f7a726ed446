import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqrl.errors import UsageError
from firmware_export.emit import require_c_name
from firmware_export.emit.c_literals import c_comment, c_words
from tests.c_build import c_compiler


@pytest.mark.parametrize(
    "name", ["cartpole", "lunarlander_dqn", "A2", "x", "int8", "mystring", "params", "golden_x"]
)
def test_ordinary_names_are_accepted(name: str) -> None:
    assert require_c_name(name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "letters"),
        ("2fast", "letters"),
        ("_hidden", "letters"),
        ("a__b", "single underscores"),
        ("a_", "single underscores"),
        ("a b", "letters"),
        ("a\nb", "letters"),
        ("a;system", "letters"),
        ("../../etc", "letters"),
        ("наме", "letters"),
        ("cart\u0456", "letters"),
        ("x" * 49, "48 at most"),
        ("default", "keyword"),
        ("class", "keyword"),
        ("string", "string.h"),
        ("Math", "Math.h"),
        ("main", "main"),
        ("eqrl", "runtime"),
        ("EQRL_x", "runtime"),
        ("walker_params", "'_params'"),
        ("Walker_Golden", "'_golden'"),
    ],
)
def test_hostile_names_are_refused_in_one_sentence(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)) as caught:
        require_c_name(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dense/MatMul", "dense/MatMul"),
        ("end */ int main", "end * / int main"),
        ("/*/", "/ * /"),
        ("line\\\nline", "line/ line"),
        ("what??/", "what? ? /"),
        ("a\u202eb\x00c", "a b c"),
        ("Müller & Söhne", "Müller & Söhne"),
    ],
)
def test_comment_text_is_harmless(text: str, expected: str) -> None:
    assert c_comment(text) == expected


@given(st.text(max_size=80))
def test_no_text_opens_or_closes_a_comment_or_joins_lines(text: str) -> None:
    safe = c_comment(text)
    comment = f"/* {safe} */"
    assert comment.count("*/") == 1
    assert comment.count("/*") == 1
    assert "\\" not in safe
    assert "??" not in safe
    assert safe.isprintable()


@given(st.text(max_size=80))
def test_cleaning_a_comment_twice_changes_nothing(text: str) -> None:
    assert c_comment(c_comment(text)) == c_comment(text)


def test_compilers_see_one_comment_whatever_the_text(tmp_path: Path) -> None:
    hostile = ["*/ #error out /*", "??/\n#error", "\\\n#error", "\u202e*/", "/*", "//\\"]
    lines = [f"/* {c_comment(text)} */ int x{i};\n" for i, text in enumerate(hostile)]
    (tmp_path / "a.c").write_text("".join(lines), encoding="utf-8")
    command = [*c_compiler("zig"), "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "a.c"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


def test_words_are_little_endian_and_padded() -> None:
    assert c_words(b"\x01\x02\x03\x04\x05") == "    0x04030201u, 0x00000005u,\n"
