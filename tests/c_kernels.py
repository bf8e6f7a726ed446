"""Run one layer's kernel, compiled for this host, as generated code would call it."""

import ctypes
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from edgeqrl.network.ir import IntegerNetwork, Layer
from edgeqrl.network.reference import Reference
from firmware_export.emit import runtime_sources
from firmware_export.emit.kernels import layer_code
from firmware_export.emit.orders import ROWS
from firmware_export.emit.packing import BLOCK, Call, LayerCode, Rows
from firmware_export.emit.render import _c_row
from firmware_export.emit.weights import UNPACKED
from firmware_export.toolchain import host_compiler
from tests.c_build import (
    ZIG,
    c_compiler,
    compile_objects,
    run,
    write_files,
)

Array = NDArray[Any]
RUNTIME = runtime_sources()
CANARY = 0xA5
COPY = "eqrl_copy.c"  # which other files use
MARGIN = 32  # bytes of canaries on both sides of an output


@dataclass(frozen=True, eq=False)
class Case:
    """A layer with one sample for it, and what the reference answers."""

    layer: Layer
    network: IntegerNetwork
    inputs: tuple[Array, ...]  # in the layer's order, without a sample axis
    expected: Array
    bits: int = UNPACKED  # of the weights in the block
    order: str = ROWS  # of these weights

    @property
    def code(self) -> LayerCode:
        """Return how generated code calls the kernel."""
        return layer_code(self.layer, self.network, self.bits, self.order)


def with_copy(files: Sequence[str]) -> list[str]:
    """Return files of the runtime with the one that others use."""
    return list(dict.fromkeys((*files, COPY)))


def compile_runtime(
    folder: Path, files: Sequence[str], *, long_multiply: int, more: Sequence[str] = ()
) -> ctypes.CDLL:
    """Return the kernels of some files of the runtime as a shared library, with `more` flags."""
    write_files(folder, RUNTIME)
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", f"-DEQRL_HAS_LONG_MULTIPLY={long_multiply}", *more]
    run([*host_compiler().argv, *flags, *with_copy(files), "-o", "runtime.lib"], folder)
    return ctypes.CDLL(str(folder / "runtime.lib"))


def cases(
    network: IntegerNetwork, values: dict[str, Array], bits: int = UNPACKED, order: str = ROWS
) -> list[Case]:
    """Return each layer of `network` on each sample of values [N, *shape]."""
    answers = Reference(network).run_all(values)
    count = len(next(iter(values.values())))
    constants = {name: np.repeat(c[None], count, axis=0) for name, c in network.constants.items()}
    answers = {**answers, **constants}
    return [
        Case(
            layer, network, tuple(answers[name][i] for name in layer.inputs), answers[layer.output][i], bits,
            order,
        )
        for layer in network.layers
        for i in range(count)
    ]  # fmt: skip


def require_equal(library: ctypes.CDLL, found: Sequence[Case], *, in_place: int | None = None) -> int:
    """Run all cases, compare with the reference, and count the outputs."""
    codes = {id(case.layer): case.code for case in found}
    for case in found:
        code = codes[id(case.layer)]
        block = np.frombuffer(code.block, "<u4").copy()
        inputs = [np.ascontiguousarray(values) for values in case.inputs]
        inputs = [np.frombuffer(values.tobytes(), values.dtype).copy() for values in inputs]
        room = np.full(case.expected.nbytes + code.behind_output + 2 * MARGIN, CANARY, np.uint8)
        scratch = np.full((code.scratch_bytes or 0) + 2 * MARGIN, CANARY, np.uint8)
        if in_place is not None:
            room[MARGIN:-MARGIN] = inputs[in_place].view(np.uint8)
            inputs[in_place] = room[MARGIN:-MARGIN]
        for call in code.all_calls(len(inputs)):
            operands = [address(block if i == BLOCK else inputs[i]) for i in call.operands]
            arguments = [_argument(argument) for argument in call.arguments]
            output = ctypes.c_void_p(room.ctypes.data + MARGIN)
            column = ctypes.c_void_p(scratch.ctypes.data + MARGIN if code.scratch_bytes else None)
            scratches = () if code.scratch_bytes is None else (column,)
            getattr(library, call.function)(*operands, output, *scratches, *arguments)
        output_values = room[MARGIN : MARGIN + case.expected.nbytes].copy().view(case.expected.dtype)
        np.testing.assert_array_equal(output_values, case.expected.ravel(), err_msg=_named(case.layer))
        assert (room[:MARGIN] == CANARY).all(), case.layer
        assert (room[-MARGIN:] == CANARY).all(), case.layer
        assert (scratch[:MARGIN] == CANARY).all(), case.layer
        assert (scratch[-MARGIN:] == CANARY).all(), case.layer
    return sum(case.expected.size for case in found)


def address(values: Array) -> ctypes.c_void_p:
    """Return where an array lies."""
    return ctypes.c_void_p(values.ctypes.data)


def require_clean(
    folder: Path,
    compiler: str,
    files: Sequence[str],
    found: Sequence[Case],
    *,
    long_multiply: int = 0,
    more: Sequence[str] = (),
) -> None:
    """Run all cases under sanitizers: the kernels, in 16-bit halves or not, on memory of exact sizes."""
    write_files(folder, {**RUNTIME, "cases.c": program(found)})
    argv = [*c_compiler(compiler), "-std=c99", "-g1"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    kernels = [*argv, "-O1", *sanitize, f"-DEQRL_HAS_LONG_MULTIPLY={long_multiply}", *more]
    objects = compile_objects(kernels, [*with_copy(files)], folder)
    objects += compile_objects([*argv, "-O0"], ["cases.c"], folder)
    run([*argv, *sanitize, *objects, "-o", "program"], folder)
    assert run(["./program"], folder) == "passed\n"


def program(found: Sequence[Case]) -> bytes:
    """Return a C program that runs all cases on memory of exact sizes and prints "passed"."""
    parts = [
        '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include "eqrl_kernels.h"\n',
        _COPY,
    ]
    for number, case in enumerate(found):
        parts.append(_case_function(number, case))
    calls = "".join(f"    case_{number}();\n" for number in range(len(found)))
    parts.append(f'int main(void)\n{{\n{calls}    puts("passed");\n    return 0;\n}}\n')
    return "".join(parts).encode()


_COPY = """
static void *copied(const void *bytes, size_t size)
{
    void *const place = malloc(size);
    if (place == NULL) {
        abort();
    }
    return memcpy(place, bytes, size);
}
"""


_OCTAL = [f"\\{byte:03o}" for byte in range(256)]


def _case_function(number: int, case: Case) -> str:
    code = case.code
    data = [code.block, *(np.ascontiguousarray(v).tobytes() for v in case.inputs), case.expected.tobytes()]
    names = ["block", *(f"input_{i}" for i in range(len(case.inputs))), "expected"]
    text = f"\nstatic void case_{number}(void)\n{{\n"
    for name, content in zip(names, data, strict=True):
        if content:
            values = "".join(_OCTAL[byte] for byte in content)  # faster to compile than numbers
            text += f'    static const unsigned char {name}_bytes[{len(content)}] = "{values}";\n'
            text += f"    void *const {name} = copied({name}_bytes, sizeof {name}_bytes);\n"
    text += f"    void *const output = malloc({case.expected.nbytes + code.behind_output}u);\n"
    outputs = ["output"]
    if code.scratch_bytes is not None:
        outputs.append("column")
        room = f"calloc(1u, {code.scratch_bytes}u)" if code.scratch_bytes else "NULL"
        text += f"    void *const column = {room};\n"
    for i, call in enumerate(code.all_calls(len(case.inputs))):
        text += _call_text(i, call, outputs)
    text += f"    if (memcmp(output, expected, {case.expected.nbytes}u) != 0) {{\n"
    text += f'        puts("case {number} differs");\n        exit(1);\n    }}\n'
    text += "".join(f"    free({name});\n" for name in outputs)
    text += "".join(f"    free({name});\n" for name, content in zip(names, data, strict=True) if content)
    return text + "}\n"


def _call_text(number: int, call: Call, outputs: list[str]) -> str:
    text, arguments = "", []
    for place, argument in enumerate(call.arguments):
        if isinstance(argument, Rows):
            rows = ", ".join(_c_row(row) for row in argument.rows)
            arguments.append(f"rows_{number}_{place}")
            text += f"    static const {argument.type} {arguments[-1]}[] = {{{rows}}};\n"
        else:
            arguments.append(f"{argument}u")
    operands = ["block" if i == BLOCK else f"input_{i}" for i in call.operands]
    return text + f"    {call.function}({', '.join([*operands, *outputs, *arguments])});\n"


def _named(layer: Layer) -> str:
    """Return the layer without its arrays."""
    return ", ".join(f"{k}={v}" for k, v in vars(layer).items() if not isinstance(v, np.ndarray))


def _argument(argument: int | Rows) -> ctypes.c_void_p | ctypes.c_uint32 | Array:
    """Return a number, or an array of structs of int32."""
    if isinstance(argument, int):
        return ctypes.c_uint32(argument)
    flat = [number for row in argument.rows for number in _numbers(row)]
    values = np.array(flat, np.int64).astype(np.uint32)
    pointer = ctypes.c_void_p(values.ctypes.data)
    pointer.kept = values  # type: ignore[attr-defined]
    return pointer


def _numbers(row: tuple[int | tuple[int, ...], ...]) -> list[int]:
    return [number for value in row for number in (_numbers(value) if isinstance(value, tuple) else [value])]


def compile_traced(folder: Path, files: Sequence[str], compiler: str, level: str) -> ctypes.CDLL:
    """Return the kernels as a shared library that hashes which blocks are executed."""
    write_files(folder, {**RUNTIME, "hook.c": _HOOK})
    flags = ["-std=c99", level, "-fPIC", "-DEQRL_HAS_LONG_MULTIPLY=0"]
    traced = [*c_compiler(compiler), *flags, "-fsanitize-coverage=trace-pc"]
    objects = compile_objects(traced, [*with_copy(files)], folder)
    run([*c_compiler(compiler), *flags, "-shared", "hook.c", *objects, "-o", "traced.lib"], folder)
    return ctypes.CDLL(str(folder / "traced.lib"))


_HOOK = b"""
#include <stdint.h>
static uint32_t hash, blocks;
void __sanitizer_cov_trace_pc(void)
{
    hash = hash * 16777619u ^ (uint32_t)(uintptr_t)__builtin_return_address(0);
    blocks++;
}
uint32_t trace_hash(void) { const uint32_t last = hash; hash = 0; return last; }
uint32_t trace_blocks(void) { const uint32_t last = blocks; blocks = 0; return last; }
"""


def require_same_trace(library: ctypes.CDLL, found: Sequence[Case]) -> None:
    """Run cases of one layer on several inputs: all must execute the same blocks."""
    traces = set()
    for case in found:
        require_equal(library, [case])
        traces.add((library.trace_hash(), library.trace_blocks()))
    assert len(traces) == 1, found[0].layer
    assert traces.pop()[1] > 5, "the coverage hook was not called"


def undefined_symbols(
    folder: Path, files: Sequence[str], level: str, targets: Sequence[tuple[str, ...]]
) -> dict[str, set[str]]:
    """Compile for cores; return what each object wants from a library."""
    write_files(folder, RUNTIME)
    found = {}
    for target in targets:
        for path in files:
            run([*target, "-std=c99", level, "-fno-unwind-tables", "-c", path, "-o", "object.o"], folder)
            with (folder / "object.o").open("rb") as file:
                table = ELFFile(file).get_section_by_name(".symtab")
                names = {s.name for s in table.iter_symbols() if s["st_shndx"] == "SHN_UNDEF"}
            names -= {"", "eqrl_copy"}  # of eqrl_copy.c, which every image has
            if names:
                found[f"{' '.join(target)} {path}"] = names
    return found


def _gcc(core: str) -> tuple[str, ...]:
    return ("arm-none-eabi-gcc", "-mthumb", f"-mcpu={core}")


def _zig(target: str, core: str) -> tuple[str, ...]:
    return (*ZIG, "cc", "-target", target, f"-mcpu={core}")


# The core with the least, by both compilers; then others. gcc only where it is installed.
_ALL_SMALLEST = (_gcc("cortex-m0plus"), _zig("thumb-freestanding-eabi", "cortex_m0plus"))
_ALL_OTHERS = (
    *(_gcc(core) for core in ("cortex-m4", "cortex-m33", "cortex-m7")),
    _zig("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp"),
    _zig("thumb-freestanding-eabihf", "cortex_m55"),
    _zig("riscv32-freestanding-none", "generic_rv32+m+c"),
)
_HAS_GCC = shutil.which("arm-none-eabi-gcc") is not None
SMALLEST, OTHERS = (
    [target for target in targets if _HAS_GCC or target[0] != "arm-none-eabi-gcc"]
    for targets in (_ALL_SMALLEST, _ALL_OTHERS)
)
on_all_cores = pytest.mark.parametrize(
    ("targets", "level"),
    [
        pytest.param(SMALLEST, "-O2", id="smallest-O2"),
        pytest.param(SMALLEST, "-Os", id="smallest-Os", marks=pytest.mark.slow),
        pytest.param(OTHERS, "-O2", id="others-O2", marks=pytest.mark.slow),
        pytest.param(OTHERS, "-Os", id="others-Os", marks=pytest.mark.slow),
    ],
)
