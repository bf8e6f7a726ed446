"""An IntegerPolicy as C text. Its `.c` and `.h` depend on shapes and on how many bits weights need, alone."""

import re
from collections.abc import Mapping
from importlib.resources import files

from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Layer
from firmware_export.contract import feature_unit
from firmware_export.emit.arena import ArenaPlan
from firmware_export.emit.c_literals import c_call, c_comment, c_words
from firmware_export.emit.interface import interface_values
from firmware_export.emit.memory import memory_values
from firmware_export.emit.orders import cores_of, order_of_kernel
from firmware_export.emit.packing import BLOCK, LayerCode, Rows
from firmware_export.emit.params import Layout, executed_layers, plan_program_arena
from firmware_export.emit.step import (
    action_values,
    count_arrays,
    counter_counts,
    observation_values,
    summary_of,
    value_values,
)

# What a bare network's files leave out.
_OF_POLICIES = (
    *("step_types", "step_declarations", "step_functions", "size_macros", "actions_macro", "memory_macro"),
    *("memory_at", "memory_type", "memory_field", "memory_init", "values_macro", "value_declarations"),
    "value_functions",
)
# Aliasing types: activations of every dtype share the arena, constants the params.
_C_TYPES = {"int8": "int8_t", "int16": "eqrl_s16", "int32": "eqrl_s32"}
_PLACEHOLDER = re.compile(r"@(\w+)@")


def fill_template(name: str, values: Mapping[str, object]) -> bytes:
    """Return template `name` with every @key@ replaced; a key without a value is our fault."""
    return fill_text((files("firmware_export.emit") / "templates" / name).read_text(encoding="utf-8"), values)


def fill_text(text: str, values: Mapping[str, object]) -> bytes:
    """Return `text` with every @key@ replaced; a key without a value is our fault."""
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text).encode()


def program_values(
    program: IntegerPolicy | BareNetwork, layout: Layout, *, ownership: str, is_value: bool = False
) -> dict[str, object]:
    """Return what the templates need to know about a policy or a bare network.

    is_value  the answer of the policy is a value to be read, and nothing to drive
    """
    network, arena = program.network, plan_program_arena(program, layout.codes)
    source, target = (network.tensors[names[0]] for names in (network.inputs, network.outputs))
    values: dict[str, object] = {
        "name": program.name,
        "NAME": program.name.upper(),
        "ownership": ownership,
        "is_value": is_value,
        "num_inputs": source.size,
        "num_outputs": target.size,
        "num_layers": len(layout.codes),
        "arena_bytes": arena.total_bytes,
        "params_bytes": layout.total_bytes,
        "weights_order": _weights_order(layout),
        "contract": c_words(layout.contract),
        "input_type": f"{source.dtype}_t",
        "output_type": f"{target.dtype}_t",
        "input_offset": arena.offsets[source.name],
        "output_offset": arena.offsets[target.name],
        "shapes": _shape_constants(program.name, layout.codes),
        "layers": _layer_calls(program, layout, arena),
    }
    values |= interface_values(program.name, network, arena.offsets)
    if isinstance(program, BareNetwork):
        kinds = ", ".join(
            sorted({network.tensors[name].dtype for name in (*network.inputs, *network.outputs)})
        )
        values |= dict.fromkeys(_OF_POLICIES, "")
        values |= _counter_values(program, arena.total_bytes)
        summary = f"a network of {len(layout.codes)} layers, {kinds} in and out."
        usage = fill_template("network_usage.in", values).decode()
        return values | {"summary": summary, "usage": usage}
    values |= memory_values(program, layout, arena.total_bytes)
    values |= _counter_values(program, arena.total_bytes)
    values |= observation_values(program, layout) | action_values(program, layout)
    values["summary"] = summary_of(program, is_value=is_value)
    values |= value_values(program, layout, arena.offsets)
    values["shapes"] = f"{values['shapes']}{count_arrays(program)}"
    for part in ("step_types", "step_declarations", "step_functions"):
        values[part] = fill_template(f"{part}.in", values).decode()
    return values | {"usage": fill_template("policy_usage.in", values).decode()}


def _weights_order(layout: Layout) -> str:
    """Say in a sentence for whom the weights lie as they do."""
    found = dict.fromkeys(order_of_kernel(code.kernel).partition("_")[0] for code in layout.codes)
    cores = {name: cores_of(name) for name in found if cores_of(name)}
    if not cores:
        return "in plain rows, made for no core before others."
    told = "; ".join(f"{name}, made for {', '.join(of)}" for name, of in cores.items())
    return f"in the order {told}. Any core runs it."


def params_source(
    program: IntegerPolicy | BareNetwork, layout: Layout, blob: bytes, values: Mapping[str, object]
) -> bytes:
    """Return the C file that holds `blob`, each block under a comment that says what it is."""
    start = layout.entries[0].offset if layout.entries else len(blob)
    parts = [_commented_words("header and entries", blob[:start])]
    for entry, comment in zip(layout.entries, _block_comments(program, layout), strict=True):
        parts.append(_commented_words(comment, blob[entry.offset : entry.offset + entry.num_bytes]))
    return fill_template("params.c.in", {**values, "words": "".join(parts)})


def ownership(licence_holder: str | None) -> str:
    """Return the sentence that says whose the generated files are."""
    owner = c_comment(licence_holder or "")
    whom = f"{owner}, who owns" if owner else "whoever owns"
    return f"What is generated from a model belongs to {whom} the model."


def describe_layer(layer: Layer, network: IntegerNetwork) -> str:
    """Return one line for people: operator, tensor and sizes."""
    sizes = " + ".join(str(network.tensors[name].size) for name in layer.inputs)
    return c_comment(f"{layer.operator} '{layer.name}', {sizes} -> {network.tensors[layer.output].size}")


def _layer_calls(program: IntegerPolicy | BareNetwork, layout: Layout, arena: ArenaPlan) -> str:
    network, offsets = program.network, arena.offsets
    calls = []
    for index, layer in enumerate(executed_layers(program)):
        places = {i: _place(network, layout, offsets, name) for i, name in enumerate(layer.inputs)}
        places[BLOCK] = f"params + {layout.layers[index].offset // 4}"
        output = _place(network, layout, offsets, layer.output)
        body = ""
        for number, call in enumerate(layout.codes[index].all_calls(len(layer.inputs))):
            parts = [*(places[operand] for operand in call.operands), output]
            if layout.codes[index].scratch_bytes is not None:
                scratch = arena.scratch.get(layer.output)
                parts.append("NULL" if scratch is None else f"arena + {scratch}")
            for place, argument in enumerate(call.arguments):
                shape = _shape_name(program.name, index, number, place)
                parts.append(f"{argument}u" if isinstance(argument, int) else shape)
            body += f"        {c_call(call.function, parts)}\n"
        calls.append(f"    if (eqrl_is_selected({index}u, first, last)) {{\n{body}    }}\n")
    locals_ = "    const uint32_t *const params = state->params;\n    int8_t *const arena = state->arena;\n"
    uses = "".join(calls)
    unused = "".join(f"    (void){name};\n" for name in ("params", "arena") if f"{name} +" not in uses)
    return locals_ + unused + uses if calls else ""


def _place(network: IntegerNetwork, layout: Layout, offsets: Mapping[str, int], name: str) -> str:
    """Return the pointer to an activation in the arena, or to a constant in the params."""
    dtype = network.tensors[name].dtype
    if name in layout.constants:
        return f"(const {_C_TYPES[dtype]} *)(const void *)(params + {layout.constants[name] // 4})"
    where = f"arena + {offsets[name]}"
    return where if dtype == "int8" else f"({_C_TYPES[dtype]} *)(void *)({where})"


def _shape_name(policy: str, layer: int, call: int, place: int) -> str:
    return f"{policy}_shape_{layer}_{call}_{place}"


def _shape_constants(name: str, codes: tuple[LayerCode, ...]) -> str:
    """Return the arrays of structs that calls refer to."""
    text = []
    for index, code in enumerate(codes):
        calls = code.all_calls(0)  # of whatever operands
        arguments = ((i, place, a) for i, call in enumerate(calls) for place, a in enumerate(call.arguments))
        for i, place, argument in arguments:
            if isinstance(argument, Rows):
                rows = "".join(f"    {_c_row(row)},\n" for row in argument.rows)
                declared = f"{_shape_name(name, index, i, place)}[{len(argument.rows)}]"
                text.append(f"\nstatic const {argument.type} {declared} = {{\n{rows}}};\n")
    return "".join(text)


def _c_row(row: tuple[int | tuple[int, ...], ...]) -> str:
    return "{" + ", ".join(str(v) if isinstance(v, int) else _c_row(v) for v in row) + "}"


def _counter_values(program: IntegerPolicy | BareNetwork, arena_bytes: int) -> dict[str, object]:
    """Return what the state says of its saturation counters; only a policy has any."""
    if isinstance(program, BareNetwork):
        keys = ("counters_macro", "counters_at", "counters_field", "counters_clear")
        return {**dict.fromkeys(keys, ""), "state_bytes": 4 + arena_bytes}
    name, count = f"{program.name.upper()}_NUM_COUNTERS", sum(counter_counts(program))
    what = {"element": "one an input", "last axis": "one for each of the last axis", "all": "for all inputs"}
    comment, which = (
        what[feature_unit(program.observation.part.shape)],
        f"input i in\n     * saturated[i % {name}]",
    )
    if program.more_observations:
        counts = zip(program.parts, counter_counts(program), strict=True)
        comment = c_comment("; ".join(f"{part.name}: {n}" for part, n in counts))
        which = "those of each part\n     * behind those of the parts before"
    before = 4 + arena_bytes + program.memory_bytes
    return {
        "counters_macro": f"#define {name} {count}u /* {comment} */\n",
        "counters_at": f", saturated at {before}",
        "counters_field": f"    /* How often inputs were clamped or not finite, 65535 at most: {which}."
        " init sets all to 0, reset keeps them.\n     */\n"
        f"    uint16_t saturated[{name}];\n",
        "counters_clear": f"    for (uint32_t i = 0; i < {name}; i++) {{\n"
        "        state->saturated[i] = 0u;\n    }\n",
        "state_bytes": before + (2 * count + 3) // 4 * 4,
    }


def _block_comments(program: IntegerPolicy | BareNetwork, layout: Layout) -> list[str]:
    comments = []
    for index, (layer, code) in enumerate(zip(executed_layers(program), layout.codes, strict=True)):
        reason = f"; {code.function}: {code.reason}" if code.reason else ""
        comments.append(f"layer {index}: {describe_layer(layer, program.network)}{reason}")
    comments += [c_comment(f"constant '{name}'") for name in layout.constants]
    if isinstance(program, BareNetwork):
        return comments
    parts = [f"{c_comment(edge.part.name)}: zero point {edge.zero_point}" for edge in program.observations]
    fills = ["frames: what an empty ring holds"] if program.frames is not None else []
    fills += [c_comment(f"state '{state.input}': what it begins with") for state in program.recurrent]
    return [*parts, *comments, *fills, *(c_comment(f"value '{v.name}'") for v in program.values), "action"]


def _commented_words(comment: str, values: bytes) -> str:
    return f"    /* {comment} */\n{c_words(values)}"
