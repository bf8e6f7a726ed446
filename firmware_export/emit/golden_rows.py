"""Observations that a self-test makes by itself: this file is the twin of the generator in NAME_golden.c."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.network.edges import ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.structs import observation_layout
from firmware_export.emit.c_literals import c_integers
from firmware_export.emit.render import fill_template

Parts = dict[str, NDArray[Any]]
Masks = NDArray[np.bool_] | None

_SPECIALS = (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000000, 0x00000000)
_MOST_CLASSES = 65533  # that the generator tells apart


def generated_rows(policy: IntegerPolicy, count: int) -> tuple[Parts, Masks]:
    """Return the parts [count, *shape] that the generator makes, and their masks where there are."""
    row = np.arange(count, dtype=np.uint32)
    with np.errstate(over="ignore"):
        random = row * np.uint32(0x9E3779B9) + np.uint32(0x6D2B79F5)
    parts: Parts = {}
    for edge in policy.observations:
        part = edge.part
        make = {"float32": _floats, "int32": _classes, "uint8": _bytes}[part.source]
        values, random = make(edge, row, random)
        parts[part.name] = values.reshape(count, *part.shape)
    if not policy.num_masks:
        return parts, None
    masks = np.zeros((count, policy.num_masks), np.bool_)
    for i in range(policy.num_masks):
        random = _next_random(random)
        masks[:, i] = ((row & 7) != 7) & ((random >> 7) & 1 == 1)
    return parts, masks


def extreme_rows(policy: IntegerPolicy) -> Parts:
    """Return rows [K, *shape] of each part where every path of the observation edges is taken."""
    return {part.name: _extremes(part).reshape(-1, *part.shape) for part in policy.parts}


def make_row_source(policy: IntegerPolicy, values: Mapping[str, object]) -> str:
    """Return `make_row` in C."""
    facts = {**values, "num_masks": policy.num_masks, "exponent": usual_exponent(policy.observation)}
    if policy.is_plain:
        facts["make_masks"] = fill_template("golden_masks.in", facts).decode() if policy.num_masks else ""
        return fill_template("golden_row.in", facts).decode()
    layout = observation_layout(policy)
    lines, arrays, kinds = [], "", set()
    for edge, field in zip(policy.observations, layout.parts, strict=True):
        part = edge.part
        place, size = f"observation + {field.offset}", f"{part.size}u"
        arguments = {"float32": f"{usual_exponent(edge)}u", "uint8": ""}.get(
            part.source, f"{part.name}_classes"
        )
        if part.one_hot is not None:
            arrays += _class_array(edge)
        kinds.add(part.source)
        function = {"float32": "make_floats", "int32": "make_classes", "uint8": "make_bytes"}[part.source]
        more = "" if part.source == "uint8" else f", {arguments}"
        row = "" if part.source == "uint8" else "row, "
        lines.append(f"    random = {function}({row}random, {place}, {size}{more});\n")
    if layout.mask is not None:
        lines.append(
            f"    make_masks(row, random, observation + {layout.mask.offset}, {policy.num_masks}u);\n"
        )
    else:
        lines.append("    (void)random;\n")
    kinds |= {"masks_any"} if layout.mask is not None else set()
    functions = [fill_template(f"golden_{kind}.in", {}).decode() for kind in sorted(kinds)]
    facts |= {"functions": "\n".join(functions), "arrays": arrays, "lines": "".join(lines)}
    return fill_template("golden_rows.in", facts).decode()


def usual_exponent(edge: ObservationEdge) -> int:
    """Return the biased exponent of the values that nearly reach the end of the quantized range."""
    bits = {"int8": 7, "int16": 15}[edge.dtype]
    gains = [abs(gain) for gain in edge.part.gain or (1.0,) if gain]
    scale = edge.scale / max(gains, default=1.0)
    return min(max(int(np.frexp(scale)[1]) + bits + 124, 8), 253)


def _floats(edge: ObservationEdge, row: NDArray[np.uint32], random: NDArray[np.uint32]) -> Any:
    is_odd = (row & 1).astype(np.uint32)
    bits = np.empty((len(row), edge.part.size), np.uint32)
    for i in range(edge.part.size):
        random = _next_random(random)
        exponent = np.uint32(usual_exponent(edge)) + is_odd - ((random >> 23) & 7)
        usual = (random & np.uint32(0x807FFFFF)) | (exponent << 23).astype(np.uint32)
        is_special = (is_odd == 1) & (((i + 3 * row.astype(np.int64)) & 15) == 15)
        bits[:, i] = np.where(is_special, np.array(_SPECIALS, np.uint32)[(random >> 26) & 7], usual)
    return bits.view(np.float32), random


def _classes(edge: ObservationEdge, row: NDArray[np.uint32], random: NDArray[np.uint32]) -> Any:
    """Draw classes; in every second row also the numbers just below the first and above the last."""
    is_odd = (row & 1).astype(np.int64)
    values = np.empty((len(row), edge.part.size), np.int32)
    for i, (start, classes) in enumerate(_drawn_classes(edge)):
        random = _next_random(random)
        drawn = ((random >> 16).astype(np.int64) * (classes + 2 * is_odd)) >> 16
        values[:, i] = (start + drawn - is_odd).astype(np.uint32).astype(np.int32)
    return values, random


def _bytes(edge: ObservationEdge, row: NDArray[np.uint32], random: NDArray[np.uint32]) -> Any:
    values = np.empty((len(row), edge.part.size), np.uint8)
    for i in range(edge.part.size):
        random = _next_random(random)
        values[:, i] = (random >> 16) & 0xFF
    return values, random


def _drawn_classes(edge: ObservationEdge) -> list[tuple[int, int]]:
    assert edge.part.one_hot is not None
    return [(start, min(classes, _MOST_CLASSES)) for start, classes in edge.part.one_hot]


def _class_array(edge: ObservationEdge) -> str:
    rows = c_integers([value % 2**32 for pair in _drawn_classes(edge) for value in pair], "u")
    array = f"{edge.part.name}_classes[{2 * edge.part.size}]"
    declared = f"static const uint32_t {array} = {{ /* first, number of them */\n"
    return declared + "".join(f"    {row}\n" for row in rows) + "};\n\n"


def _next_random(random: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return xorshift32's next state."""
    value = random ^ (random << np.uint32(13))
    value ^= value >> np.uint32(17)
    return np.asarray(value ^ (value << np.uint32(5)), np.uint32)


def _extremes(part: ObservationPart) -> NDArray[Any]:
    if part.source == "float32":
        specials: NDArray[Any] = np.array(
            [np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, -0.0, 0.0], np.float32
        )
    elif part.source == "uint8":
        specials = np.array([0, 255, 1, 254, 127, 128, 64, 192], np.uint8)
    else:
        assert part.one_hot is not None
        start, classes = part.one_hot[0]
        ends = [-(2**31), 2**31 - 1, start, start + classes - 1, start + classes, 0, 1, -1]
        specials = np.array(ends, np.int64).astype(np.int32)
    uniform = np.repeat(specials[:, None], part.size, axis=1)
    return np.asarray(np.concatenate((uniform, np.resize(specials, (1, part.size)))), specials.dtype)
