"""The whole export: what a firmware project gets for one policy, as a mapping of paths to bytes."""

from collections.abc import Iterable
from importlib.resources import files

from edgeqrl.errors import UsageError
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge, GaussianEdge
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from firmware_export.contract import CONTRACT_FILE, PolicyContract
from firmware_export.emit.c_literals import c_name_problem
from firmware_export.emit.contract import contract_sources, default_contract, require_fits
from firmware_export.emit.golden import GoldenVectors, golden_sources
from firmware_export.emit.params import params_blob, plan_params
from firmware_export.emit.render import fill_template, ownership, params_source, program_values
from firmware_export.emit.tflm import tflm_sources
from firmware_export.layouts import library_files

# Names that parts of the observation and values cannot have: NAME_observation and NAME_... have them.
_FIELDS = ("action_mask", "padding")
_FUNCTIONS = (
    *("action", "contract", "contract_facts", "decode", "encode", "infer", "infer_layers", "init", "input"),
    *("memory", "observation", "output", "params", "reset", "seed", "selftest", "selftest_row", "state"),
    *("step", "values"),
)
_ALWAYS = ("eqrl_copy.c", "eqrl_edges.c", "eqrl_params.c")
_GUARD = "eqrl_guard.c"  # of what has a contract


def export_sources(
    policy: IntegerPolicy,
    tflite: bytes,
    *,
    golden: GoldenVectors | None = None,
    licence_holder: str | None = None,
    sequence: int = 0,
    contract: PolicyContract | None = None,
) -> dict[str, bytes]:
    """Return every exported file by relative path; the same arguments give the same bytes.

    tflite          the flatbuffer that `policy` was read from, for the TFLM-style array
    golden          adds NAME_golden.h and NAME_golden.c with the self-test
    licence_holder  who owns the model, named in the generated files
    sequence        number in the params header, for the user's updater
    contract        of `make_contract`; by default one that knows nothing but the policy, without fail-safe

    Raises UsageError where the policy's name cannot be used in C. The C files to compile are those that
    `c_sources` lists; `tflm/` and `examples/` are not among them.
    """
    stated = default_contract(policy, tflite) if contract is None else require_fits(contract, policy, tflite)
    is_value = stated.action.kind == "value"
    values, exported = _program_sources(
        policy, tflite, licence_holder, sequence, has_selftest=golden is not None, is_value=is_value
    )
    exported |= contract_sources(stated, licence_holder=licence_holder)
    if golden is not None:
        exported |= golden_sources(policy, golden, values)
    exported |= library_files(policy, values, exported, licence_holder=licence_holder, sequence=sequence)
    return dict(sorted(exported.items()))


def export_network(
    network: BareNetwork, tflite: bytes, *, licence_holder: str | None = None, sequence: int = 0
) -> dict[str, bytes]:
    """Return every exported file of a network alone: integers in and out, no step; otherwise as above."""
    values, exported = _program_sources(network, tflite, licence_holder, sequence, has_selftest=False)
    exported |= library_files(network, values, exported, licence_holder=licence_holder, sequence=sequence)
    return dict(sorted(exported.items()))


def _program_sources(
    program: IntegerPolicy | BareNetwork,
    tflite: bytes,
    licence_holder: str | None,
    sequence: int,
    *,
    has_selftest: bool,
    is_value: bool = False,
) -> tuple[dict[str, object], dict[str, bytes]]:
    name = require_c_name(program.name)
    if isinstance(program, IntegerPolicy):
        _require_c_fields(program)
    layout = plan_params(program)
    values = program_values(program, layout, ownership=ownership(licence_holder), is_value=is_value)
    blob = params_blob(layout, sequence=sequence)
    is_policy = isinstance(program, IntegerPolicy)
    rows = _file_list(name, len(blob), has_selftest=has_selftest, has_contract=is_policy)
    return values, {
        f"{name}.h": fill_template("policy.h.in", values),
        f"{name}.c": fill_template("policy.c.in", values),
        f"{name}_params.c": params_source(program, layout, blob, values),
        f"{name}_params.bin": blob,
        "README.txt": fill_template("readme.txt.in", {**values, "files": rows}),
        **tflm_sources(program, tflite, values),
        **runtime_sources([*(code.source for code in layout.codes), *edge_sources(program)]),
    }


def require_c_name(name: str) -> str:
    """Return `name` if it can prefix C symbols and name C files; else raise UsageError."""
    problem = c_name_problem(name)
    if problem is not None:
        raise UsageError(f"{name[:80]!r} cannot name a policy in C: {problem}. Choose another name.")
    return name


def _require_c_fields(policy: IntegerPolicy) -> None:
    """Refuse names of parts and values that C has other plans for."""
    for kind, names, taken in (
        ("part of the observation", [part.name for part in policy.parts], _FIELDS),
        ("value", [value.name for value in policy.values], _FUNCTIONS),
    ):
        for name in names:
            problem = c_name_problem(name)
            if problem is None and (name in taken or names.count(name) > 1):
                problem = "the generated C has that name already"
            if problem is not None:
                raise UsageError(f"{name[:80]!r} cannot name a {kind} in C: {problem}. Choose another name.")


def edge_sources(program: IntegerPolicy | BareNetwork) -> list[str]:
    """Return the files of the runtime that a policy needs beside its layers'; a bare network needs none."""
    if not isinstance(program, IntegerPolicy):
        return []
    sources = [_GUARD]
    if any(part.source != "float32" or part.is_affine for part in program.parts):
        sources.append("eqrl_observe.c")
    if any(part.image for part in program.parts):
        sources.append("eqrl_image.c")
    if program.frames is not None or program.recurrent:
        sources.append("eqrl_frames.c")
    if isinstance(program.action, GaussianEdge):
        sources += ["eqrl_gaussian.c", "eqrl_random.c"]
    elif not isinstance(program.action, ArgmaxEdge | AffineEdge):
        sources += ["eqrl_heads.c", "eqrl_random.c"]
    return sources


def runtime_sources(kernels: Iterable[str] | None = None) -> dict[str, bytes]:
    """Return the runtime, one for all policies of an image: the files `kernels` and what all need, or all."""
    folder = files("firmware_export") / "runtime"
    found = {
        entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith((".c", ".h"))
    }
    if kernels is not None:
        wanted = {*kernels, *_ALWAYS}
        found = {name: data for name, data in found.items() if name in wanted or name.endswith(".h")}
    return dict(sorted(found.items()))


def c_sources(paths: Iterable[str]) -> list[str]:
    """Return which exported files a firmware compiles: the `.c` files at the top."""
    return sorted(path for path in paths if path.endswith(".c") and "/" not in path)


def _file_list(name: str, params_bytes: int, *, has_selftest: bool, has_contract: bool) -> str:
    contract = [
        (f"{name}_contract.h, {name}_contract.c", "what goes in and out: names, units, bounds, fail-safe"),
        (CONTRACT_FILE, "the same facts for programs"),
    ]
    selftest = [(f"{name}_golden.h, {name}_golden.c", f"test at boot: {name}_selftest(&state)")]
    rows = [
        (f"{name}.h, {name}.c", "the interface and the list of layers"),
        (f"{name}_params.c", f"weights, scales and tables ({params_bytes} bytes of constants)"),
        (f"{name}_params.bin", f"the same bytes, for a run-time update: {name}_init(&state, params)"),
        *(contract if has_contract else []),
        *(selftest if has_selftest else []),
        ("eqrl*.h, eqrl_*.c", "the part of the runtime that is needed; all policies of an image share it"),
        ("tflm/", "the same network as a TensorFlow Lite Micro model array (C++), if you prefer TFLM"),
        ("examples/", "a control loop to start from, for a computer, Arduino, Pico SDK, ESP-IDF, Zephyr"),
        ("CMakeLists.txt", "builds the library: plain CMake, Pico SDK, ESP-IDF, Zephyr"),
        ("Makefile", "builds the library and the example by make"),
        ("library.properties", "makes this folder an Arduino library"),
        ("library.json", "makes it a PlatformIO library"),
        ("idf_component.yml", "makes it an ESP-IDF component"),
        ("zephyr/", "makes it a Zephyr module"),
    ]
    width = max(len(files) for files, _ in rows)
    return "".join(f"    {files:<{width}}  {purpose}\n" for files, purpose in rows)
