"""The exported folder as a library: its metadata, and the example built and run as each tool would."""

import json
import re
import shutil
import sys
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from edgeqrl.network.edges import ArgmaxEdge
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.read_tflite import read_tflite
from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.emit import c_sources, export_network, export_sources, make_golden
from firmware_export.emit.contract import make_contract
from firmware_export.layouts.writers import (
    hash_comment,
    kconfig_string,
    metadata_line,
    path_list,
    properties,
    yaml_mapping,
)
from firmware_export.toolchain import host_compiler
from tests.c_build import (
    C_ONLY_WARNINGS,
    WARNINGS,
    c_compiler,
    compile_objects,
    cxx_compiler,
    program_path,
    run,
    write_files,
)
from tests.c_policies import random_observations, random_policy
from tests.firmware import one_by_default
from tests.tflite_writer import random_dense_tflite

HERE = Path(__file__).parent / "libraries"
DOCS = Path(__file__).parent.parent / "docs" / "libraries.md"
TFLITE = random_dense_tflite(np.random.default_rng(0), [4, 3], ["TANH"])
HOSTILE = 'Ann \\ */ "Other"\n#error ]] $(shell touch x) ${y}\n!!python/object \u2028 \x00 key=value \\'
CATEGORIES = """Display, Communication, Signal Input/Output, Sensors, Device Control, Timing, Data Storage,
Data Processing, Other""".replace("\n", " ").split(", ")
KINDS = one_by_default(("affine", "argmax", "masked", "network"), ("affine", "network"))
PLATFORMS = ("pico.c", "esp_idf.c", "zephyr.c", "host.c")
# What the tests put into the stubs of the control loop, so that they see what it does.
HOOKS = (
    ("= 0.0f;", "= sensor;"),
    ("return 1;\n}\n\n/* Do", "return is_there;\n}\n\n/* Do"),
    ("(void)action;", "(void)action;\n    num_driven++;"),
    ("static void stop_actuator(void)\n{\n", "static void stop_actuator(void)\n{\n    num_stopped++;\n"),
)


@cache
def exported(name: str, head: str = "affine", seed: int = 0, holder: str | None = None) -> dict[str, bytes]:
    """Return a policy of whose world everything is known that the example uses."""
    policy = random_policy(np.random.default_rng(seed), (4, 9, 3), head=head, name=name, lookups=0.5)
    action = (float(policy.action.start),) if isinstance(policy.action, ArgmaxEdge) else (0.0,) * 3
    facts = ContractFacts(control_period_s=0.02, fail_safe=FailSafe("value", action))
    return export_sources(
        policy,
        TFLITE,
        golden=make_golden(policy, random_observations(np.random.default_rng(1), policy, 5)),
        contract=make_contract(policy, TFLITE, facts),
        licence_holder=holder,
    )


@cache
def network(name: str = "net") -> dict[str, bytes]:
    return export_network(BareNetwork(name, read_tflite(TFLITE)), TFLITE)


def hooked(files: dict[str, bytes], name: str, *, defines: bool = True) -> dict[str, bytes]:
    """Return the export with an example whose stubs count."""
    path = f"examples/{name}/{name}_control.c"
    text = files[path].decode()
    for old, new in HOOKS:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    hooks = "float sensor;\nint is_there = 1;\nint num_driven;\nint num_stopped;\n"
    if not defines:
        hooks = re.sub(r"^(\w+ \w+).*?;", r"extern \1;", hooks, flags=re.MULTILINE)
    return {**files, path: text.replace("\nstatic ", f"\n{hooks}static ", 1).encode()}


def place(folder: Path, *names: str) -> None:
    """Write an export with a counting example for each name: affine, and then argmax."""
    for i, name in enumerate(names):
        files = exported(name, ("affine", "argmax")[i], i)
        write_files(folder / name, hooked(files, name) if i == 0 else files)


def cmake(source: Path, *definitions: str) -> Path:
    """Configure and build; return the folder of what was built."""
    program_path("cmake")
    built = source.parent / f"{source.name}_built"
    run(["cmake", "-S", str(source), "-B", str(built), *definitions], source)
    run(["cmake", "--build", str(built)], source)
    return built


def snippet(section: str) -> str:
    """Return the CMake text that the page shows under a heading."""
    text = DOCS.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"```cmake\n(.*?)```", text, re.DOTALL)
    return str(found)


def test_arduino_properties_follow_its_specification() -> None:
    for files, headers in (
        (exported("lander"), "lander.h,lander_golden.h,lander_contract.h"),
        (network("lander"), "lander.h"),
    ):
        lines = files["library.properties"].decode().splitlines()
        facts = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", facts["name"])
        assert re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])
        assert facts["category"] in CATEGORIES
        assert facts["architectures"] == "*"
        assert facts["includes"] == headers
        assert set(headers.split(",")) <= set(files)
        assert all(facts[key] for key in ("author", "maintainer", "sentence", "paragraph", "url"))
        assert "src" not in {path.split("/")[0] for path in files}  # else it is not flat
        assert "examples/lander/lander.ino" in files


def test_platformio_compiles_the_files_at_the_top() -> None:
    files = exported("lander")
    manifest = json.loads(files["library.json"])
    assert manifest["name"] == "lander"
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["version"])
    assert manifest["build"] == {"srcDir": ".", "includeDir": ".", "srcFilter": ["+<*.c>"]}
    assert set(manifest["headers"]) <= set(files)
    for example in manifest["examples"]:
        assert {f"{example['base']}/{path}" for path in example["files"]} <= set(files)


def test_component_and_module_files_are_yaml_with_the_keys_of_their_tools() -> None:
    files = exported("lander", holder=HOSTILE)
    component = yaml.safe_load(files["idf_component.yml"])
    assert set(component) == {"version", "description"}
    assert component["version"] == "1.0.0"
    module = yaml.safe_load(files["zephyr/module.yml"])
    assert module == {"name": "edgeqrl_lander", "build": {"cmake": ".", "kconfig": "zephyr/Kconfig"}}
    assert module["build"]["kconfig"] in files
    kconfig = [
        line for line in files["zephyr/Kconfig"].decode().splitlines() if line and not line.startswith("#")
    ]
    assert kconfig[0] == "config EDGEQRL_LANDER"
    assert re.fullmatch(r'\tbool "[^"\\$]+"', kconfig[1])


def test_lists_of_sources_are_complete() -> None:
    for files in (exported("lander"), network("lander")):
        for path in ("CMakeLists.txt", "Makefile"):
            text = files[path].decode()
            listed = re.findall(r"(?<![/\w])(\w+\.c)\b", re.sub("lander_control.c|host.c", "", text))
            assert sorted(listed) == c_sources(files), path


def test_every_export_holds_the_same_runtime() -> None:
    """Two of them share a target in CMake, which refuses runtimes that differ."""
    one, other = exported("lander"), network()
    shared = {path for path in set(one) & set(other) if path.startswith("eqrl")}
    assert "eqrl_dense.c" in shared
    assert all(one[path] == other[path] for path in shared)


def test_a_strangers_text_stays_one_line_in_every_format() -> None:
    plain, hostile = exported("lander"), exported("lander", holder=HOSTILE)
    assert set(plain) == set(hostile)
    for path in ("CMakeLists.txt", "Makefile", "library.properties", "zephyr/Kconfig", "zephyr/module.yml"):
        before, after = (files[path].decode().splitlines() for files in (plain, hostile))
        assert len(before) == len(after), path
        changed = [line for line in after if line not in before]
        assert all(line.startswith(("# ", "author=", "maintainer=")) for line in changed), path
        assert not any(line.endswith("\\") for line in changed if line.startswith("#")), path
    assert json.loads(hostile["library.json"])["authors"][0]["name"] == metadata_line(HOSTILE, 100)


@pytest.mark.parametrize("text", [HOSTILE, "", "a" * 999, "# a: [b", "${A}", "\r\n\t", "key: value"])
def test_writers_keep_any_text_inside_its_place(text: str) -> None:
    assert len(hash_comment(text).splitlines()) == 1
    assert len(properties({"a": text}).splitlines()) == 1
    assert yaml.safe_load(yaml_mapping({"a": {"b": text}})) == {"a": {"b": metadata_line(text)}}
    assert re.fullmatch(r'"[^"\\$]*"', kconfig_string(text))
    with pytest.raises(ValueError, match="may not stand"):
        path_list([f"{text} x.c"], "", "")
    with pytest.raises(ValueError, match="may not stand"):
        properties({f"{text}=": "x"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["c99", "c++17"])
def test_examples_compile_without_a_warning(tmp_path: Path, kind: str, mode: str) -> None:
    files = network("lander") if kind == "network" else exported("lander", kind)
    write_files(tmp_path, files)
    stand_ins = [f"-I{HERE / name}" for name in ("pico", "esp_idf", "zephyr")]
    flags = [f"-std={mode}", "-O1", *WARNINGS, "-I.", *stand_ins]
    paths = ["examples/lander/lander_control.c", *(f"examples/{path}" for path in PLATFORMS)]
    if mode == "c99":
        compile_objects([*c_compiler("zig"), *flags, *C_ONLY_WARNINGS], paths, tmp_path)
        return
    # ESP-IDF's is C: it names the members of a struct.
    cpp = [path for path in paths if not path.endswith("esp_idf.c")]
    compile_objects([*cxx_compiler("zig"), *flags, "-x", "c++"], cpp, tmp_path)
    sketch = [*cxx_compiler("zig"), *flags, f"-I{HERE / 'arduino'}", "-include", "Arduino.h", "-x", "c++"]
    compile_objects(sketch, ["examples/lander/lander.ino"], tmp_path)


def test_the_example_guards_the_actuator(tmp_path: Path) -> None:
    files = hooked(exported("lander"), "lander", defines=False)
    write_files(tmp_path, {**files, "episode.c": (HERE / "episode.c").read_bytes()})
    sources = [*c_sources(files), "examples/lander/lander_control.c", "episode.c"]
    flags = ["-std=c99", "-I.", "-Iexamples/lander"]
    run([*host_compiler().argv, *flags, *sources, "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path) == "passed\n"


@pytest.mark.slow
def test_cmake_builds_the_folder_alone(tmp_path: Path) -> None:
    place(tmp_path, "lander", "walker")
    write_files(tmp_path / "net", network())
    for name, answer in (("lander", "action[0] = "), ("walker", "action = "), ("net", "output[0] = ")):
        before = sorted((tmp_path / name).rglob("*"))
        output = run([str(cmake(tmp_path / name) / "example")], tmp_path)
        assert output.count(answer) == 10
        assert name == "net" or output.count(", driven; status 0, guard 0x") == 10
        assert sorted((tmp_path / name).rglob("*")) == before


MAIN_CC = """#include "lander_golden.h"
#include "walker_golden.h"
#include <cstdio>
static lander_state lander;
static walker_state walker;
int main()
{
    if (lander_init(&lander, NULL) != 0 || lander_selftest(&lander) != 0) { return 1; }
    if (walker_init(&walker, NULL) != 0 || walker_selftest(&walker) != 0) { return 2; }
    std::puts("passed");
}
"""


def two_policies(folder: Path) -> Path:
    """Write the project of the page: two policies in a project that knows only C++."""
    source = folder / "robot"
    place(source, "lander", "walker")
    (source / "CMakeLists.txt").write_text(snippet("CMake"))
    (source / "main.cc").write_text(MAIN_CC)
    return source


@pytest.mark.slow
def test_cmake_links_two_policies_into_a_program_in_cpp(tmp_path: Path) -> None:
    built = cmake(two_policies(tmp_path))
    assert run([str(built / "robot")], tmp_path) == "passed\n"
    assert len(list(built.rglob("eqrl_edges.c.o"))) == 1  # one runtime


@pytest.mark.slow
def test_cmake_refuses_two_runtimes(tmp_path: Path) -> None:
    source = two_policies(tmp_path)
    with (source / "walker" / "eqrl_internal.h").open("a") as header:
        header.write("/* of another version */\n")
    with pytest.raises(
        AssertionError, match=r"walker/eqrl_internal\.h'\s+differs\s+from(.|\n)*same version of"
    ):
        cmake(source)


@pytest.mark.slow
def test_make_builds_the_folder_from_anywhere_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    program_path("make")
    place(tmp_path, "lander")
    before = sorted((tmp_path / "lander").rglob("*"))
    for i, where in enumerate((["-C", "lander"], ["-f", "lander/Makefile"])):
        build = tmp_path / f"built{i}"
        output = run(
            ["make", *where, "run", f"BUILD={build}", "CC=gcc", "CFLAGS=-O2 -Wall -Werror"], tmp_path
        )
        assert output.count(", driven; status 0, guard 0x") == 10
    assert sorted((tmp_path / "lander").rglob("*")) == before
    main = MAIN_CC.replace("walker", "lander").replace("static lander_state lander;\n", "", 1)
    (tmp_path / "main.cc").write_text(main.replace("lander lander", "lander"))
    run([*cxx_compiler("gcc"), "-Ilander", "main.cc", "built1/liblander.a", "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path) == "passed\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["control", "host", "test", "runtime", "example"])
def test_names_that_mean_something_to_a_tool_or_the_example_build(tmp_path: Path, name: str) -> None:
    program_path("make")
    place(tmp_path, name)
    run(["make", "-C", name, "run", f"BUILD={tmp_path / 'made'}"], tmp_path)
    assert "driven" in run([str(cmake(tmp_path / name) / "example")], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cross", "flags"),
    [
        ("arm-none-eabi-", "-Os -mcpu=cortex-m0 -mthumb"),
        ("riscv64-unknown-elf-", "-Os -march=rv32imc -mabi=ilp32 -ffreestanding"),
    ],
)
def test_make_cross_compiles_the_library(tmp_path: Path, cross: str, flags: str) -> None:
    for tool in (f"{cross}gcc", f"{cross}ar", "make"):
        program_path(tool)
    place(tmp_path, "lander")
    options = [f"CROSS={cross}", f"CFLAGS={flags} -Wall -Wextra -Werror", "BUILD=built"]
    run(["make", "-f", "lander/Makefile", "lib", *options], tmp_path)
    members = run([f"{cross}ar", "t", "built/liblander.a"], tmp_path).split()
    assert sorted(members) == [path.replace(".c", ".o") for path in c_sources(exported("lander"))]


@pytest.mark.slow
def test_platformio_packs_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORMIO_CORE_DIR", str(tmp_path / "core"))
    monkeypatch.setenv("PLATFORMIO_SETTING_ENABLE_TELEMETRY", "no")
    write_files(tmp_path / "lander", exported("lander", holder=HOSTILE))
    pio = [sys.executable, "-m", "platformio", "pkg", "pack"]
    assert "Wrote a tarball" in run([*pio, "lander", "-o", "lander.tar.gz"], tmp_path)
    with tarfile.open(tmp_path / "lander.tar.gz") as archive:
        packed = set(archive.getnames())
    assert packed == {path for path in exported("lander") if not path.endswith(".bin")}
    from platformio.fs import match_src_files

    filters = json.loads(exported("lander")["library.json"])["build"]["srcFilter"]
    found = match_src_files(str(tmp_path / "lander"), filters, ["c", "cc", "cpp"])
    assert found == c_sources(exported("lander"))


@pytest.mark.slow
def test_pico_project_of_the_page_builds_with_a_stand_in(tmp_path: Path) -> None:
    source = tmp_path / "robot"
    place(source, "lander", "walker")
    shutil.copy(HERE / "pico" / "pico_sdk_import.cmake", source)
    text = (
        snippet("Pico SDK")
        + "add_subdirectory(walker)\ntarget_link_libraries(robot PRIVATE edgeqrl::walker)\n"
    )
    text += "get_target_property(kind edgeqrl_lander TYPE)\nmessage(STATUS ${kind})\n"
    (source / "CMakeLists.txt").write_text(text)
    built = cmake(source, f"-DPICO_STAND_IN={HERE / 'pico'}")
    assert run([str(built / "robot")], tmp_path) == "driven 10\n"
    again = run(["cmake", "-S", str(source), "-B", str(built)], tmp_path)
    assert "INTERFACE_LIBRARY" in again
    assert len(list(built.rglob("eqrl_edges.c.o"))) == 1


@pytest.mark.slow
def test_esp_idf_project_of_the_page_builds_with_a_stand_in(tmp_path: Path) -> None:
    place(tmp_path, "lander", "walker")
    main = tmp_path / "main"
    main.mkdir()
    shutil.copy(tmp_path / "lander" / "examples" / "esp_idf.c", main)
    shutil.copytree(tmp_path / "lander" / "examples" / "lander", main / "lander")
    (main / "CMakeLists.txt").write_text(
        snippet("ESP-IDF").replace("REQUIRES lander", "REQUIRES lander walker")
    )
    shutil.copytree(HERE / "esp_idf", tmp_path / "project")
    components = ";".join(str(tmp_path / name) for name in ("lander", "walker", "main"))
    built = cmake(tmp_path / "project", f"-DCOMPONENTS={components}")
    assert run([str(built / "program")], tmp_path) == "driven 10\n"
    told = run(["cmake", "-S", str(tmp_path / "project"), "-B", str(built)], tmp_path)
    listed = re.findall(r"component lander: (.*)", told)[0].split(";")
    assert sorted(listed) == c_sources(exported("lander"))


@pytest.mark.slow
def test_zephyr_modules_build_with_a_stand_in(tmp_path: Path) -> None:
    place(tmp_path, "lander", "walker")
    shutil.copytree(HERE / "zephyr", tmp_path / "project")
    examples = tmp_path / "lander" / "examples"
    definitions = [
        f"-DMODULES={tmp_path / 'lander'};{tmp_path / 'walker'}",
        f"-DAPP_SOURCES={examples / 'zephyr.c'};{examples / 'lander' / 'lander_control.c'}",
        "-DCONFIG_EDGEQRL_LANDER=y",
    ]
    built = cmake(tmp_path / "project", *definitions)
    assert not list(built.rglob("walker.c.o"))  # its option is off
    built = cmake(tmp_path / "project", *definitions, "-DCONFIG_EDGEQRL_WALKER=y")
    assert list(built.rglob("walker.c.o"))
    assert run([str(built / "program")], tmp_path) == "driven 10\n"


@pytest.mark.slow
def test_arduino_builds_the_sketch_with_a_stand_in(tmp_path: Path) -> None:
    """A flat library: the files at its top, with the second policy's copied in; and the sketch's folder."""
    place(tmp_path, "lander")
    other = exported("walker", "argmax", 1)
    write_files(
        tmp_path / "lander", {p: d for p, d in other.items() if "/" not in p and p.endswith((".c", ".h"))}
    )
    sketch = tmp_path / "lander" / "examples" / "lander"
    flags = ["-Os", "-w", f"-I{tmp_path / 'lander'}", f"-I{HERE / 'arduino'}"]
    tops = [
        path.name for path in (tmp_path / "lander").iterdir() if path.suffix in (".c", ".cpp", ".cc", ".S")
    ]
    objects = compile_objects([*c_compiler("gcc"), "-std=gnu11", *flags], sorted(tops), tmp_path / "lander")
    built = [str(tmp_path / "lander" / path) for path in objects]
    compile_objects([*c_compiler("gcc"), "-std=gnu11", *flags], ["lander_control.c"], sketch)
    cxx = [*cxx_compiler("gcc"), "-std=gnu++11", *flags]
    compile_objects([*cxx, "-include", "Arduino.h", "-x", "c++"], ["lander.ino"], sketch)
    core = [str(HERE / "arduino" / "core.cpp"), "lander_control.o", "lander.o"]
    run([*cxx, *core, *built, "-o", str(tmp_path / "program")], sketch)
    assert run(["./program"], tmp_path) == "driven 10\n"


def test_the_page_lists_the_files_of_an_export() -> None:
    page = DOCS.read_text()
    for path in exported("lander"):
        if "/" in path and not path.startswith("tflm/"):
            assert path in page or path in ("examples/lander/lander_control.h",), path
