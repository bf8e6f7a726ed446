"""Measure networks on cores by `bench_network`, with each compiler at each level."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.backends.bench import bench_network
from edgeqrl.errors import MissingToolError
from edgeqrl.network.tflite_model import parse_tflite, replace_buffers
from firmware_export.toolchain import COMPILER_NAMES, find_compilers

Row = dict[str, Any]

CORES = (
    *("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"),
    "rv32imc",
)
LEVELS = ("O2", "Os")
_DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
_WITH_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def model_files() -> dict[str, Path]:
    """Return the six networks by letter."""
    return {path.name[0]: path for path in sorted(_DATA.glob("[a-f]_*.tflite"))}


def measure(
    models: Iterable[str],
    cores: Sequence[str],
    levels: Sequence[str],
    all_bits: Sequence[int] = (8,),
    kept: Path | None = None,
    compilers: Sequence[str] = COMPILER_NAMES,
) -> list[Row]:
    """Return a row for each network, core, level, number of bits and compiler that builds for the core.

    What a compiler cannot build is left out, and said.

    kept  a file to which every row is written at once; what it has is not measured again
    """
    rows: list[Row] = json.loads(kept.read_text()) if kept and kept.exists() else []
    known = {_key(row) for row in rows}
    files = model_files()
    for model, core, level, bits in product(models, cores, levels, all_bits):
        for compiler in (c for c in find_compilers() if c.name in compilers and c.builds_for(core)):
            row = {"model": model, "weight_bits": bits, "core": core, "optimize": level}
            row["compiler"] = f"{compiler.name} {compiler.version}"
            if _key(row) in known:
                continue
            started = time.monotonic()
            tflite = cut(files[model].read_bytes(), bits)
            try:
                row |= bench_network(tflite, core, compiler=compiler.name, optimize=level)
            except MissingToolError as error:
                print(f"{model} {core}: {error}", file=sys.stderr)
                continue
            rows.append(row)
            if kept:
                kept.write_text(json.dumps(rows, indent=1))
            spent = f"{row['instructions']:,} instructions, {time.monotonic() - started:.1f} s"
            print(f"{model} {core} {row['compiler']} -{level} {bits} bits: {spent}", file=sys.stderr)
    return rows


def cut(tflite: bytes, bits: int) -> bytes:
    """Return the network with all weights cut to the symmetric range of so many bits.

    What that costs does not depend on their values.
    """
    if bits == 8:
        return tflite
    model, top = parse_tflite(tflite), 2 ** (bits - 1) - 1
    tensors = {op.inputs[1] for op in model.operators if op.name in _WITH_WEIGHTS}
    weights = {i: np.clip(np.asarray(model.tensors[i].values()), -top, top).astype(np.int8) for i in tensors}
    return replace_buffers(tflite, {i: values.tobytes() for i, values in weights.items()})


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "weight_bits", "core", "optimize", "compiler"))
