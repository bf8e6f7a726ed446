import re
import shlex
import subprocess
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.errors import UsageError
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.layers import Dense
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.contract_facts import ContractFacts
from firmware_export.emit import GoldenVectors, c_sources, export_sources, make_golden, runtime_sources
from firmware_export.emit.contract import make_contract
from firmware_export.emit.params import build_params, plan_params
from firmware_export.emit.tflm import resolver_method, tflm_arena_bytes
from firmware_export.toolchain import host_compiler
from tests.c_build import (
    C_DIR,
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
from tests.whole_policies import whole_policy

TFLITE = random_dense_tflite(np.random.default_rng(0), [4, 3], ["TANH"])
COMPILERS = ("zig", "gcc", "clang")
ROOT = Path(__file__).parent.parent


def policies() -> tuple[IntegerPolicy, IntegerPolicy]:
    """A discrete and a continuous policy that exercise every kernel but the masked one."""
    rng = np.random.default_rng(3)
    alpha = random_policy(rng, (6, 9, 17, 4), name="alpha", lookups=0.6, shape=(2, 3))
    return alpha, random_policy(rng, (3, 33, 5), name="beta", head="affine", lookups=0.6)


def golden_for(policy: IntegerPolicy) -> GoldenVectors:
    return make_golden(policy, random_observations(np.random.default_rng(4), policy, 50))


def exported(*chosen: IntegerPolicy) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for policy in chosen:
        files |= export_sources(policy, TFLITE, golden=golden_for(policy))
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, exported(*policies()))
    for program in C_DIR.iterdir():
        (tmp_path / program.name).write_bytes(program.read_bytes())
    return tmp_path


def test_exporting_again_gives_the_same_bytes() -> None:
    assert exported(*policies()) == exported(*policies())


def test_files_are_those_that_the_readme_lists() -> None:
    alpha, _ = policies()
    files = export_sources(alpha, TFLITE, golden=golden_for(alpha))
    kernels = {code.source for code in plan_params(alpha).codes}
    runtime = sorted({*kernels, "eqrl_copy.c", "eqrl_edges.c", "eqrl_guard.c", "eqrl_params.c"})
    expected = {
        "alpha.h",
        "alpha.c",
        "alpha_params.c",
        "alpha_params.bin",
        "alpha_golden.h",
        "alpha_golden.c",
    }
    expected |= {"alpha_contract.h", "alpha_contract.c", "policy_contract.json"}
    expected |= {"README.txt", "tflm/alpha_model_data.h", "tflm/alpha_model_data.cc"}
    expected |= {"CMakeLists.txt", "Makefile", "library.properties", "library.json", "idf_component.yml"}
    expected |= {"zephyr/module.yml", "zephyr/Kconfig"}
    expected |= {f"examples/{path}" for path in ("host.c", "pico.c", "esp_idf.c", "zephyr.c")}
    expected |= {f"examples/alpha/{path}" for path in ("alpha.ino", "alpha_control.c", "alpha_control.h")}
    assert set(files) == expected | {*runtime, *(name for name in runtime_sources() if name.endswith(".h"))}
    assert set(c_sources(files)) == {
        "alpha.c",
        "alpha_params.c",
        "alpha_golden.c",
        "alpha_contract.c",
        *runtime,
    }
    assert files["alpha_params.bin"] == build_params(alpha)
    rows = readme_rows(files)
    assert len(rows) == 15
    for path in files:
        assert any(fnmatch(path, f"{pattern}*") for row in rows for pattern in row[0].split(", ")) or (
            path == "README.txt"
        ), path


def readme_rows(files: dict[str, bytes]) -> list[tuple[str, str]]:
    """Return the file list of the README; each row must have its second column at the same place."""
    text = files["README.txt"].decode().partition("\nFiles\n")[2].partition("\n\n")[0]
    rows = [re.fullmatch(r"    (\S.*?\S)(  +)(\S.*)", line) for line in text.splitlines()]
    assert len({row.start(3) for row in rows if row}) == 1
    return [(row[1], row[3]) for row in rows if row]


def test_summary_counts_observations_and_actions() -> None:
    alpha, beta = policies()
    rng = np.random.default_rng(0)
    single = random_policy(rng, (1, 1), head="affine")
    expected = (
        (alpha, "2 x 3 float observations in, discrete action "),
        (beta, "3 float observations in, 5 float actions out."),
        (single, "1 float observation in, 1 float action out."),
    )
    for policy, summary in expected:
        files = export_sources(policy, TFLITE)
        assert files["README.txt"].decode().startswith(f"{policy.name}: {summary}")
        assert f"/* {policy.name}.h - {summary}" in files[f"{policy.name}.h"].decode()


def test_without_golden_vectors_there_is_no_self_test() -> None:
    files = export_sources(policies()[0], TFLITE)
    assert not [path for path in files if "golden" in path]
    assert b"selftest" not in files["README.txt"]


def test_weights_change_the_params_and_nothing_else() -> None:
    first, second = (random_policy(np.random.default_rng(i), (4, 8, 3), lookups=0) for i in (0, 1))
    second = replace(second, action=first.action)
    one, other = export_sources(first, TFLITE), export_sources(second, TFLITE)
    params, contract = {"robot_params.c", "robot_params.bin"}, {"robot_contract.c", "policy_contract.json"}
    assert {path for path in one if one[path] != other[path]} == params | contract


def test_params_in_c_are_the_blob() -> None:
    alpha, _ = policies()
    text = export_sources(alpha, TFLITE)["alpha_params.c"].decode()
    body = text[text.index("= {") :]
    words = [int(word.rstrip("u,"), 16) for word in body.split() if word.startswith("0x")]
    assert np.array(words, "<u4").tobytes() == build_params(alpha)


def test_runtime_says_its_licence_and_generated_files_whose_they_are() -> None:
    alpha, _ = policies()
    files = export_sources(alpha, TFLITE, golden=golden_for(alpha), licence_holder="Ann */ Other\n#error")
    for path, content in files.items():
        is_ours = path.startswith(("eqrl", "examples/"))
        assert (b"SPDX-License-Identifier: Apache-2.0" in content) == is_ours, path
        if not is_ours and not path.endswith((".bin", ".json")):
            assert b"Ann * / Other #error, who owns the model" in content, path
    assert b"whoever owns the model" in export_sources(alpha, TFLITE)["alpha.c"]


def test_a_hostile_policy_name_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UsageError, match="cannot name a policy"):
        export_sources(replace(policies()[0], name='x"; #include "'), TFLITE)


def test_hostile_tensor_names_stay_inside_their_comments(tmp_path: Path) -> None:
    policy = random_policy(np.random.default_rng(0), (2, 3), lookups=0)
    layer = replace(policy.network.layers[0], name="*/ #error /* \\\n#error \u202e ??/")
    policy = replace(policy, network=replace(policy.network, layers=(layer,)))
    write_files(tmp_path, export_sources(policy, TFLITE))
    run([*c_compiler("zig"), "-std=c99", *WARNINGS, "-c", "robot_params.c"], tmp_path)


@pytest.mark.parametrize("standard", ["c99", pytest.param("c11", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_c_compiles_without_a_warning(folder: Path, compiler: str, standard: str) -> None:
    masked = random_policy(np.random.default_rng(8), (3, 4), name="gamma", head="masked")
    bare = random_policy(np.random.default_rng(8), (5,), name="delta", head="affine")  # no layers at all
    files = exported(*policies(), masked, bare)
    write_files(folder, files)
    flags = [f"-std={standard}", "-O2", *WARNINGS, *C_ONLY_WARNINGS, "-I."]
    compile_objects([*c_compiler(compiler), *flags], c_sources(files), folder)


@pytest.mark.parametrize("compiler", one_by_default(COMPILERS, ("gcc",)))
def test_the_same_files_compile_as_cpp17_without_a_warning(folder: Path, compiler: str) -> None:
    compiler_and_flags = [*cxx_compiler(compiler), "-std=c++17", "-O2", *WARNINGS, "-I."]
    compile_objects([*compiler_and_flags, "-x", "c++"], c_sources(exported(*policies())), folder)
    cpp = ["tflm/alpha_model_data.cc", "tflm/beta_model_data.cc", "caller.cc"]
    compile_objects([*compiler_and_flags, "-Wold-style-cast"], cpp, folder)


@pytest.mark.parametrize(
    "level", ["-O0", *(pytest.param(o, marks=pytest.mark.slow) for o in ("-O1", "-O2")), "-O3"]
)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_golden_vectors_pass_under_sanitizers(folder: Path, compiler: str, level: str) -> None:
    sanitize = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    files = [*c_sources(exported(*policies())), "two_policies.c"]
    run([*c_compiler(compiler), "-std=c99", level, *sanitize, *files, "-o", "program"], folder)
    assert run(["./program"], folder) == "passed\n"


@pytest.mark.parametrize("flags", [["-O1"], ["-Os", "-DEQRL_HAS_LONG_MULTIPLY=0"]], ids=" ".join)
def test_two_policies_share_one_runtime(folder: Path, flags: list[str]) -> None:
    files = [*c_sources(exported(*policies())), "two_policies.c"]
    run([*c_compiler("zig"), "-std=c99", *flags, *files, "-o", "program"], folder)
    assert run(["./program"], folder) == "passed\n"


def test_documented_commands_put_two_policies_into_one_image(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "c-api.md").read_text()
    (script,) = re.findall(r"\*\*Two policies in one image\.\*\*.*?```\n(.*?)```", page, re.DOTALL)
    for policy, name in zip(policies(), ("lander", "walker"), strict=True):
        write_files(tmp_path / "build" / name / "src", exported(policy))
    (tmp_path / "main.c").write_bytes((C_DIR / "two_policies.c").read_bytes())
    here = script.replace("/tmp/", "")
    assert here != script
    program_path("cc")
    run(["sh", "-e", "-c", here], tmp_path)
    assert run(["./both"], tmp_path) == "passed\n"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_cpp_calls_policies_compiled_as_c(folder: Path, compiler: str) -> None:
    objects = compile_objects([*c_compiler(compiler), "-std=c99"], c_sources(exported(*policies())), folder)
    run([*cxx_compiler(compiler), "-std=c++17", "caller.cc", *objects, "-o", "program"], folder)
    assert run(["./program"], folder) == "passed\n"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_policies_compiled_as_cpp_pass_their_golden_vectors(tmp_path: Path, compiler: str) -> None:
    rng = np.random.default_rng(5)
    files = {}
    for name in ("alpha", "beta"):
        files |= exported(random_policy(rng, (4, 12, 7), head="masked", name=name))
    write_files(tmp_path, files)
    (tmp_path / "caller.cc").write_bytes((C_DIR / "caller.cc").read_bytes())
    flags = ["-std=c++17", "-I.", "-x", "c++"]
    run([*cxx_compiler(compiler), *flags, *c_sources(files), "caller.cc", "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path) == "passed\n"


def test_the_self_test_finds_a_wrong_output(tmp_path: Path) -> None:
    alpha, beta = policies()
    golden = golden_for(alpha)
    for field in ("outputs", "actions", "status"):
        values = getattr(golden, field).copy()
        values[-1] ^= 1
        files = export_sources(alpha, TFLITE, golden=replace(golden, **{field: values})) | exported(beta)
        write_files(tmp_path, files)
        (tmp_path / "two_policies.c").write_bytes((C_DIR / "two_policies.c").read_bytes())
        compiler = host_compiler().argv
        run([*compiler, "-std=c99", *c_sources(files), "two_policies.c", "-o", "program"], tmp_path)
        with pytest.raises(AssertionError, match="not alpha_selftest"):
            run(["./program"], tmp_path)


def test_params_are_replaced_at_run_time_or_refused(folder: Path) -> None:
    beta = policies()[1]
    alpha = random_policy(np.random.default_rng(12), (6, 9, 17, 4), name="alpha", lookups=0)
    write_files(folder, exported(alpha))
    files = [*c_sources(exported(alpha)), "replace_params.c"]
    run([*host_compiler().argv, "-std=c99", *files, "-o", "program"], folder)
    layers = [
        replace(layer, weights=np.ascontiguousarray(-layer.weights)) if isinstance(layer, Dense) else layer
        for layer in alpha.network.layers
    ]
    other = replace(alpha, network=replace(alpha.network, layers=tuple(layers)))
    blob = build_params(alpha)
    flipped, wrong_abi, signed = bytearray(blob), bytearray(blob), bytearray(blob)
    flipped[-5] ^= 1
    wrong_abi[4] ^= 2
    signed[64:128] = bytes(range(64))
    cases = {
        "same": (blob, f"0 {zero_outputs(alpha)}"),
        "newer": (build_params(other, sequence=7), f"0 {zero_outputs(other)}"),
        "signed": (bytes(signed), f"0 {zero_outputs(alpha)}"),
        "flipped": (bytes(flipped), "-3"),
        "wrong_abi": (bytes(wrong_abi), "-1"),
        "contract": (blob[:20] + b"x" + blob[21:], "-2"),
        "beta": (build_params(beta), "-1"),
        "empty": (b"", "-1"),
        "erased": (b"\xff" * len(blob), "-1"),
    }
    assert cases["same"][1] != cases["newer"][1]
    for name, (content, expected) in cases.items():
        (folder / "blob.bin").write_bytes(content)
        assert run(["./program", "blob.bin"], folder) == f"{expected}\n-1\n", name


def zero_outputs(policy: IntegerPolicy) -> str:
    source = policy.network.tensors[policy.network.inputs[0]]
    answer = Reference(policy.network).run({source.name: np.zeros((1, *source.shape), np.int8)})
    return " ".join(str(v) for v in answer[policy.network.outputs[0]].ravel())


@pytest.mark.parametrize("level", [pytest.param("-Os", marks=pytest.mark.slow), "-O2"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("head", ["argmax", "masked", "affine"])
def test_every_observation_takes_the_same_blocks(
    tmp_path: Path, compiler: str, level: str, head: str
) -> None:
    rng = np.random.default_rng(6)
    policy = random_policy(rng, (7, 12, 12, 5), head=head, name="alpha", lookups=0.5)
    files = export_sources(policy, TFLITE)
    write_files(tmp_path, files)
    halves = "-DEQRL_HAS_LONG_MULTIPLY=0"
    traced = [*c_compiler(compiler), "-std=c99", level, halves, "-fsanitize-coverage=trace-pc"]
    objects = compile_objects(traced, c_sources(files), tmp_path)
    (tmp_path / "trace.c").write_bytes((C_DIR / "trace.c").read_bytes())
    run([*c_compiler(compiler), "-no-pie", "trace.c", *objects, "-o", "program"], tmp_path)
    rows = random_observations(rng, policy, 500).reshape(500, -1).view(np.uint32)
    if head == "masked":
        masks = np.pad(rng.random((500, 5)) < 0.3, ((0, 0), (0, 3))).astype(np.uint8)
        rows = np.concatenate((rows, masks.view(np.uint32)), axis=1)
    found = run(["./program"], tmp_path, stdin=np.ascontiguousarray(rows).tobytes())
    assert found.startswith("500 rows, ")
    assert int(found.split()[2]) > 100, "the coverage hook was not called"


def test_the_model_array_holds_the_tflite_file(tmp_path: Path) -> None:
    files = exported(policies()[0])
    write_files(tmp_path, files)
    (tmp_path / "dump.cc").write_text(
        '#include <cstdio>\n#include <cstdint>\n#include "tflm/alpha_model_data.h"\n'
        "int main() { if (reinterpret_cast<std::uintptr_t>(g_model) % 16 != 0) return 1;\n"
        "std::fwrite(g_model, 1, g_model_len, stdout); return alpha::kArenaBytes > 0 ? 0 : 1; }\n"
    )
    run([*cxx_compiler("gcc"), "-std=c++17", "dump.cc", "tflm/alpha_model_data.cc", "-o", "dump"], tmp_path)
    assert subprocess.run(["./dump"], cwd=tmp_path, capture_output=True, check=True).stdout == TFLITE
    header = files["tflm/alpha_model_data.h"].decode()
    assert "resolver.AddFullyConnected();" in header
    assert "resolver.AddTanh();" in header


def test_the_example_runs(tmp_path: Path) -> None:
    policy = random_policy(np.random.default_rng(0), (2, 3), head="affine")
    files = export_sources(policy, TFLITE)
    write_files(tmp_path, files)
    sources = [*c_sources(files), "examples/host.c", "examples/robot/robot_control.c"]
    run([*host_compiler().argv, "-std=c99", "-I.", *sources, "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path).startswith("action[0] = ")


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        ("indices", ["= 0; /* the number of a class */"]),
        ("values", ["robot_values(&state, report.values);"]),
        ("categorical-masked", ["robot_seed(&state, now_us, 0u);", "observation->action_mask[i] = 1u;"]),
        ("everything", ["robot_values(", "robot_seed("]),
    ],
)
def test_the_example_of_a_whole_policy_seeds_masks_and_reads_its_values(
    kind: str, calls: list[str], tmp_path: Path
) -> None:
    files = export_sources(whole_policy(np.random.default_rng(0), kind), TFLITE)
    control = files["examples/robot/robot_control.c"].decode()
    assert [call for call in calls if control.count(call) != 1] == []
    header = files["robot.h"].decode()
    for function in ("robot_seed", "robot_values"):
        assert (f" {function}(&state, " in header) == (f"{function}(&state, " in control), (
            "the usage at the top"
        )
    write_files(tmp_path, files)
    sources = [*c_sources(files), "examples/host.c", "examples/robot/robot_control.c"]
    run([*host_compiler().argv, "-std=c99", "-I.", *sources, "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path).startswith("action")


def test_the_example_of_a_value_network_shows_the_value_though_nothing_is_driven(tmp_path: Path) -> None:
    policy = random_policy(np.random.default_rng(5), (3, 7, 1), head="affine")
    contract = make_contract(policy, TFLITE, ContractFacts(is_value=True))
    files = export_sources(policy, TFLITE, contract=contract)
    assert "3 float observations in, 1 value out, in action[0]." in files["README.txt"].decode()
    write_files(tmp_path, files)
    sources = [*c_sources(files), "examples/host.c", "examples/robot/robot_control.c"]
    run([*host_compiler().argv, "-std=c99", "-I.", *sources, "-o", "program"], tmp_path)
    shown = run(["./program"], tmp_path)
    assert "not driven" in shown
    assert re.search(r"^    value = (?!0$)\S+$", shown, re.MULTILINE), shown


def test_the_example_compiles_as_the_readme_says_and_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    files = export_sources(random_policy(np.random.default_rng(0), (2, 3), head="affine"), TFLITE)
    source = tmp_path / "src"
    write_files(source, files)
    (command,) = (line for line in files["README.txt"].decode().splitlines() if line.startswith("    cc "))
    assert command.count("/tmp/example") == 2
    command = command.strip().replace("/tmp/example", shlex.quote(str(tmp_path / "example")))
    compiler = shlex.join(c_compiler("gcc"))
    assert run(["sh", "-c", compiler + command.removeprefix("cc")], source).startswith("action[0] = ")
    assert {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()} == set(files)


@pytest.mark.parametrize(
    ("sizes", "activations"),
    [([1, 1], ["NONE"]), ([4, 64, 64, 2], ["RELU", "RELU", "NONE"]), ([9, 300, 7], ["TANH", "LOGISTIC"])],
)
def test_tflm_needs_no_more_arena_than_estimated(
    sizes: list[int], activations: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    tflite = random_dense_tflite(np.random.default_rng(0), sizes, activations)
    interpreter = runtime.Interpreter.from_bytes(tflite, arena_size=2**20)
    interpreter.print_allocations()
    reported = capfd.readouterr()
    lines = (reported.out + reported.err).splitlines()
    needed = int(next(line.split()[-2] for line in lines if "Arena allocation total" in line))
    assert 0.5 * tflm_arena_bytes(read_tflite(tflite)) < needed <= tflm_arena_bytes(read_tflite(tflite))


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("PADV2", "AddPadV2"),
        ("SPLIT_V", "AddSplitV"),
        ("RELU6", "AddRelu6"),
    ],
)
def test_tflm_resolver_methods_are_named_as_there(operator: str, method: str) -> None:
    assert resolver_method(operator) == method
