"""All C of a firmware: warnings of every compiler, clang-tidy, cppcheck, and the listed MISRA deviations."""

import re
from pathlib import Path

import pytest

from tests.c_build import C_ONLY_WARNINGS, WARNINGS, c_compiler, compile_objects, cxx_compiler
from tests.c_quality import ROOT, RUNTIME, SUPPRESSIONS, Image, cppcheck_findings, tidy_findings, write_images

MODES = {"c99": "-std=c99", "c11": "-std=c11", "c++17": "-std=c++17"}
DEFAULT = (("gcc", "c99", 1), ("gcc", "c11", 1), ("gcc", "c++17", 1), ("clang", "c++17", 0))
_MISRA = re.compile(r"(.*): misra-c2012-([0-9.]+): ")


def compile_strictly(folder: Path, files: list[str], compiler: str, mode: str, *more: str) -> None:
    """Compile each file by itself with all the warnings that DESIGN promises, as errors."""
    flags = [MODES[mode], "-O2", *WARNINGS, "-I.", *more]
    if mode == "c++17":
        compile_objects([*cxx_compiler(compiler), *flags, "-x", "c++"], files, folder)
    else:
        compile_objects([*c_compiler(compiler), *flags, *C_ONLY_WARNINGS], files, folder)


@pytest.mark.parametrize(
    ("compiler", "mode", "long_multiply"),
    [
        *DEFAULT,
        *(
            pytest.param(compiler, mode, long_multiply, marks=pytest.mark.slow)
            for compiler in ("gcc", "clang", "zig")
            for mode in MODES
            for long_multiply in (0, 1)
            if (compiler, mode, long_multiply) not in DEFAULT
        ),
    ],
)
def test_every_kernel_compiles_without_a_warning(
    tmp_path: Path, compiler: str, mode: str, long_multiply: int
) -> None:
    write_images(tmp_path)
    compile_strictly(tmp_path, RUNTIME, compiler, mode, f"-DEQRL_HAS_LONG_MULTIPLY={long_multiply}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_generated_files_of_all_kinds_compile_without_a_warning(
    tmp_path: Path, compiler: str, mode: str
) -> None:
    (image, *_) = write_images(tmp_path)
    files = [path for path in image.files if "/" not in path and path not in RUNTIME]
    assert len(files) > 12
    compile_strictly(tmp_path, files, compiler, mode)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Image]]:
    folder = tmp_path_factory.mktemp("images")
    return folder, write_images(folder)


@pytest.fixture(scope="module")
def cppcheck(images: tuple[Path, list[Image]]) -> list[str]:
    return cppcheck_findings(*images)


def test_every_kernel_and_port_is_in_an_image(images: tuple[Path, list[Image]]) -> None:
    names = {Path(path).name for image in images[1] for path in image.files}
    written = {path.name for path in (ROOT / "firmware_export").rglob("*.c")}
    written -= {"linux.c"}  # for a hosted compiler: test_linux_package.py builds it
    assert written <= names


@pytest.mark.slow
def test_clang_tidy_finds_nothing(images: tuple[Path, list[Image]]) -> None:
    assert tidy_findings(*images) == []


@pytest.mark.slow
def test_cppcheck_finds_nothing(cppcheck: list[str]) -> None:
    assert [line for line in cppcheck if not _MISRA.match(line)] == []


def test_suppressions_have_reasons() -> None:
    assert re.fullmatch(r"((#.*\n)+([a-zA-Z]+:eqrl_\w+\.[ch]\n)+)+", SUPPRESSIONS.read_text())
    configuration = (ROOT / ".clang-tidy").read_text()
    for check in re.findall(r"^  -(\S+?),?$", configuration, re.MULTILINE):
        assert re.search(rf"^#.*\b{check}\b", configuration, re.MULTILINE), check


@pytest.mark.slow
def test_misra_deviations_are_those_that_the_page_lists(cppcheck: list[str]) -> None:
    found: dict[str, set[str]] = {}
    for match in filter(None, map(_MISRA.match, cppcheck)):
        found.setdefault(match[2], set()).add(place_of(match[1]))
    rows = re.findall(r"^\| ([0-9.]+) \| .+? \| ([a-z, ]+) \| .+ \|$", misra_page(), re.MULTILINE)
    assert {rule: set(where.split(", ")) for rule, where in rows} == found


def test_misra_page_lists_each_rule_once_in_order() -> None:
    rules = re.findall(r"^\| (\d+)\.(\d+) \|", misra_page(), re.MULTILINE)
    numbers = [(int(group), int(rule)) for group, rule in rules]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 5


def misra_page() -> str:
    return (ROOT / "docs" / "misra.md").read_text()


def place_of(path: str) -> str:
    """Return the page's word for where a file comes from."""
    if path.startswith("ports/"):
        return "ports"
    return "runtime" if path.startswith("eqrl") else "generated"
