"""What a step does around the layers, as C: NAME_observation, NAME_action, encode, decode, values."""

from collections.abc import Iterable, Mapping

import numpy as np

from edgeqrl.network.edges import (
    AffineEdge,
    ArgmaxEdge,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    action_shape,
    action_size,
    is_integer,
    single_choice,
)
from edgeqrl.network.images import ImagePlan
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.structs import StructField, observation_layout
from firmware_export.contract import num_features
from firmware_export.emit.c_literals import c_call, c_integers
from firmware_export.emit.interface import getter_names, variable_names
from firmware_export.emit.memory import state_copies
from firmware_export.emit.params import Layout

_FIELD_TYPES = {"float32": "float", "int32": "int32_t", "uint8": "uint8_t"}
_UNITS = {"float32": "in the environment's units", "int32": "numbers of classes", "uint8": "bytes"}
_MOST_NAMED = 2  # parts of an observation in the summary
_VALUES = """/* Real numbers beside the action, in this order: {names}.
 * Valid after a step, until the next call that changes the state.
 */
void {name}_values(const {name}_state *state, float values[{NAME}_NUM_VALUES]);
"""


def observation_values(policy: IntegerPolicy, layout: Layout) -> dict[str, object]:
    """Return what the templates need of NAME_observation and NAME_encode."""
    name, upper = policy.name, policy.name.upper()
    found = observation_layout(policy)
    fields = sorted(zip(found.parts, policy.parts, strict=True), key=lambda pair: pair[0].offset)
    declared = "".join(_declaration(policy, field, part) for field, part in fields)
    if found.mask is not None:
        masks = f"{upper}_NUM_OUTPUTS"
        declared += (
            f"    uint8_t action_mask[{masks}]; /* 0: not allowed; if none is, the mask is ignored */\n"
        )
    end = sum(field.num_bytes for field in found.parts) + policy.num_masks
    if end < found.num_bytes and all(field.dtype == "u1" for field in found.parts):
        declared += f"    uint8_t padding[{found.num_bytes - end}]; /* 0 */\n"
    places = [f"{field.name} at {field.offset}" for field, _ in fields[1:]]
    places += [f"action_mask at {found.mask.offset}"] if found.mask is not None else []
    sizes = "".join(
        f"#define {_size_macro(policy, part)} {part.size}u /* elements of {part.name} */\n"
        for part in policy.parts
        if not _is_usual(policy, part)
    )
    is_masked = found.mask is not None
    inputs = {source: variables(policy, is_input=True)[source] for source in written_inputs(policy)}
    types = {source: f"{policy.network.tensors[source].dtype}_t" for source in inputs}
    return {
        "observation_layout": f"{found.num_bytes} bytes{''.join('; ' + place for place in places)}.",
        "observation_fields": declared,
        "size_macros": sizes,
        "mask_parameter": "    const uint8_t *action_mask,\n" if is_masked else "",
        "mask_is_null": "action_mask == NULL || " if is_masked else "",
        "mask_of_observation": "observation->action_mask, " if is_masked else "",
        "encode_parameters": "".join(f",\n    {types[source]} *{inputs[source]}" for source in inputs),
        "encode_is_null": "".join(f" || {variable} == NULL" for variable in inputs.values()),
        "encode_arguments": _one_a_line(
            f", {name}_{_getter(policy, source, is_input=True)}(state)" for source in inputs
        ),
        "encode": _encode(policy, layout, inputs),
    }


def count_arrays(policy: IntegerPolicy) -> str:
    """Return how many classes each action and each number of a one-hot part has, and plans of images."""
    found = {part.name: [n for _, n in part.one_hot] for part in policy.parts if part.one_hot is not None}
    action = policy.action
    if isinstance(action, MultiDiscreteEdge):
        found["action"] = list(action.counts)
    text = ""
    for name, counts in found.items():
        rows = "".join(f"    {row}\n" for row in c_integers(counts, "u"))
        text += f"\nstatic const uint32_t {policy.name}_{name}_counts[{len(counts)}] = {{\n{rows}}};\n"
    return text + "".join(_image_plan(policy, part) for part in policy.parts if part.image)


def action_values(policy: IntegerPolicy, layout: Layout) -> dict[str, object]:
    """Return what the templates need of NAME_action and NAME_decode."""
    name, upper, size = policy.name, policy.name.upper(), action_size(policy.action)
    outputs = {target: variables(policy, is_input=False)[target] for target in read_outputs(policy)}
    types = {target: f"{policy.network.tensors[target].dtype}_t" for target in outputs}
    is_usual = size == policy.network.tensors[policy.network.outputs[0]].size
    count = f"{upper}_NUM_OUTPUTS" if is_usual else f"{upper}_NUM_ACTIONS"
    has_macro = not is_usual and action_shape(policy.action) != ()
    return {
        "action_layout": f"{4 * size} bytes.",
        "action_field": _action_field(policy, count),
        "actions_macro": f"#define {upper}_NUM_ACTIONS {size}u /* numbers of an action */\n"
        if has_macro
        else "",
        "decode_const": "" if policy.has_memory else "const ",
        "decode_parameters": "".join(
            f"    const {types[target]} *{outputs[target]},\n" for target in outputs
        ),
        "decode_is_null": "".join(f"{variable} == NULL || " for variable in outputs.values()),
        "decode_arguments": _one_a_line(
            f"{name}_{_getter(policy, target, is_input=False)}(state), " for target in outputs
        ),
        "decode": _decode(policy, layout, outputs, count),
    }


def summary_of(policy: IntegerPolicy, *, is_value: bool) -> str:
    """Say in one line what goes in and what comes out."""
    mask = ", action mask" if policy.num_masks else ""
    beside = f" and {', '.join(value.name for value in policy.values)}" if policy.values else ""
    out = "1 value out, in action[0]" if is_value else f"{_acted(policy)}{beside} out"
    return f"{_observed(policy)}{mask} in, {out}."


def value_values(policy: IntegerPolicy, layout: Layout, offsets: Mapping[str, int]) -> dict[str, object]:
    """Return what the templates need of the values, which nothing in a step computes."""
    if not policy.values:
        keys = ("values_macro", "value_declarations", "value_functions", "usage_values")
        return dict.fromkeys(keys, "")
    name, upper = policy.name, policy.name.upper()
    count = sum(len(value.edge.gain) for value in policy.values)
    header = f"void {name}_values(const {name}_state *state, float values[{upper}_NUM_VALUES])"
    declarations = _VALUES.format(
        name=name, NAME=upper, names=", ".join(value.name for value in policy.values)
    )
    lines, functions, at = [], "", 0
    for value, entry in zip(policy.values, layout.values, strict=True):
        tensor, size = policy.network.tensors[value.output], len(value.edge.gain)
        block, place = f"state->params + {entry.offset // 4}", f"state->arena + {offsets[value.output]}"
        element_bytes = np.dtype(tensor.dtype).itemsize
        lines.append(f"    eqrl_affine_f32({block}, {place}, {element_bytes}u, values + {at}, {size}u);\n")
        at += size
        if size == 1:
            getter = f"float {name}_{value.name}(const {name}_state *state)"
            declarations += f"{getter};\n"
            functions += (
                f"\n{getter}\n{{\n    float value;\n"
                f"    eqrl_affine_f32({block}, {place}, {element_bytes}u, &value, 1u);\n"
                "    return value;\n}\n"
            )
    return {
        "values_macro": f"#define {upper}_NUM_VALUES {count}u /* numbers beside the action */\n",
        "value_declarations": "\n" + declarations,
        "usage_values": f" *   {name}_values(&state, values);                 of the step before\n",
        "value_functions": f"\n{header}\n{{\n{''.join(lines)}}}\n{functions}",
    }


def written_inputs(policy: IntegerPolicy) -> tuple[str, ...]:
    """Name the network inputs that a step writes, in the network's order."""
    first = len(policy.observations)
    states = {state.input for state in policy.recurrent}
    inputs = policy.network.inputs
    return (*inputs[:first], *(name for name in inputs[first:] if name in states))


def read_outputs(policy: IntegerPolicy) -> tuple[str, ...]:
    """Name the network outputs that a step reads: the action edge's, and the next states."""
    names = {*policy.action_outputs, *(state.output for state in policy.recurrent)}
    return tuple(dict.fromkeys(name for name in policy.network.outputs if name in names))


def counter_counts(policy: IntegerPolicy) -> list[int]:
    """Count the saturation counters of each part."""
    return [num_features(part.shape) for part in policy.parts]


def variables(policy: IntegerPolicy, *, is_input: bool) -> dict[str, str]:
    """Return how encode or decode call each network input or output."""
    names = policy.network.inputs if is_input else policy.network.outputs
    used = written_inputs(policy) if is_input else read_outputs(policy)
    word = "input" if is_input else "output"
    return dict(zip(used, [word], strict=True)) if len(used) == 1 else variable_names(names, word)


def _getter(policy: IntegerPolicy, name: str, *, is_input: bool) -> str:
    """Return the end of the function that tells where a network input or output lies."""
    names, word = (policy.network.inputs, "input") if is_input else (policy.network.outputs, "output")
    return getter_names(names, word)[names.index(name)]


def _one_a_line(arguments: Iterable[str]) -> str:
    """Join arguments with their commas; several get a line each."""
    parts = list(arguments)
    if len(parts) == 1:
        return parts[0]
    return "".join(part.replace(", ", ",\n        ") for part in parts)


def _is_usual(policy: IntegerPolicy, part: ObservationPart) -> bool:
    """Tell whether a part is all the observation and as large as the network's input."""
    return not policy.more_observations and part.size == policy.network.tensors[policy.network.inputs[0]].size


def _size_macro(policy: IntegerPolicy, part: ObservationPart) -> str:
    upper = policy.name.upper()
    return f"{upper}_NUM_INPUTS" if _is_usual(policy, part) else f"{upper}_{part.name.upper()}_SIZE"


def _declaration(policy: IntegerPolicy, field: StructField, part: ObservationPart) -> str:
    shape = "[" + ", ".join(str(n) for n in part.shape) + "]"
    array = f"{_FIELD_TYPES[part.source]} {field.name}[{_size_macro(policy, part)}]"
    return f"    {array}; /* shape {shape}, {_UNITS[part.source]} */\n"


def _encode(policy: IntegerPolicy, layout: Layout, inputs: dict[str, str]) -> str:
    upper = policy.name.upper()
    if policy.is_plain:
        element_bytes = np.dtype(policy.observation.dtype).itemsize
        return (
            f"    const uint32_t *const block = state->params + {layout.observations[0].offset // 4};\n"
            f"    return eqrl_observation_f32(block, observation->{policy.observation.part.name}, input, "
            f"{element_bytes}u,\n                                {upper}_NUM_INPUTS, state->saturated, "
            f"{upper}_NUM_COUNTERS);\n"
        )
    lines, counter = ["    eqrl_status status = EQRL_OK;\n"], 0
    edges = zip(policy.observations, policy.network.inputs, layout.observations, strict=False)
    for index, (edge, source, entry) in enumerate(edges):
        part = edge.part
        count = counter_counts(policy)[index]
        element_bytes = np.dtype(edge.dtype).itemsize
        arguments = [f"state->params + {entry.offset // 4}", f"observation->{part.name}", inputs[source]]
        arguments.append(f"{element_bytes}u")
        arguments.append(_plan_name(policy, part) if part.image else _size_macro(policy, part))
        if part.source != "uint8":
            arguments += [f"state->saturated + {counter}" if counter else "state->saturated", f"{count}u"]
        if edge.is_affine:
            arguments.append(f"{part.num_rows}u")
        elif part.one_hot is not None:
            arguments.append(f"{policy.name}_{part.name}_counts")
        result = "" if part.source == "uint8" else "status |= "
        lines.append(f"    {c_call(result + _encoder(part), arguments)}\n")
        counter += count
        if index == 0 and policy.frames is not None:
            lines.append(_stack(policy, inputs[source]))
    lines.append(state_copies(policy, inputs, is_input=True))
    return "".join(lines) + "    return status;\n"


def _encoder(part: ObservationPart) -> str:
    if part.one_hot is not None:
        return "eqrl_observation_one_hot"
    if part.image:
        return "eqrl_observation_image"
    if part.source == "uint8":
        return "eqrl_observation_u8"
    return "eqrl_observation_affine_f32" if part.is_affine else "eqrl_observation_f32"


def _plan_name(policy: IntegerPolicy, part: ObservationPart) -> str:
    return f"&{policy.name}_{part.name}_image"


def _image_plan(policy: IntegerPolicy, part: ObservationPart) -> str:
    """Return the struct that says how a part's image is converted."""
    plan = ImagePlan.of(part.shape, part.image)
    rows, columns = plan.rows, plan.columns
    numbers = [plan.width, plan.depth, plan.new_height, plan.new_width, rows.pixel, rows.span]
    numbers += [columns.pixel, columns.span, plan.area, plan.inverse, int(plan.is_half_up), plan.grey]
    lines = "".join(f"    {line}\n" for line in c_integers(numbers, "u"))
    return f"\nstatic const eqrl_image {_plan_name(policy, part)[1:]} = {{\n{lines}}};\n"


def _stack(policy: IntegerPolicy, variable: str) -> str:
    """Return the lines that push the frame in `variable` into the ring and gather the stack there."""
    edge, frames = policy.observation, policy.frames
    assert frames is not None
    outer, inner = frames.loops(edge.part.network_shape)
    element_bytes, count = f"{np.dtype(edge.dtype).itemsize}u", f"{frames.num_frames}u"
    ring, place, filled = (f"state->memory.{key}" for key in ("frames", "frames_next", "frames_filled"))
    size = f"{edge.part.network_size}u"
    push = [variable, ring, element_bytes, count, size, f"&{place}", f"&{filled}"]
    gather = [ring, place, filled, variable, element_bytes, count, f"{outer}u", f"{inner}u"]
    calls = (c_call("eqrl_frames_push", push), c_call("eqrl_frames_gather", gather))
    return "".join(f"    {call}\n" for call in calls)


def _decode(policy: IntegerPolicy, layout: Layout, outputs: dict[str, str], count: str) -> str:
    action, upper = policy.action, policy.name.upper()
    element_bytes = np.dtype(policy.network.tensors[policy.network.outputs[0]].dtype).itemsize
    first = outputs[policy.network.outputs[0]]
    block = f"    const uint32_t *const block = state->params + {layout.action.offset // 4};\n"
    states = state_copies(policy, outputs, is_input=False)
    mask = "action_mask, " if policy.num_masks else ""
    size, random = f"{element_bytes}u", "state->memory.random"
    if isinstance(action, AffineEdge):
        call = f"eqrl_affine_f32(block, {first}, {size}, action->action, {count});"
        return f"{block}{states}    {call}\n"
    if isinstance(action, ArgmaxEdge):
        function = "eqrl_argmax_masked" if action.is_masked else "eqrl_argmax"
        call = f"{function}(block, {first}, {size}, {mask}{upper}_NUM_OUTPUTS);"
        return f"{block}{states}    action->action = {call}\n"
    arguments = ["block", first, size]
    if isinstance(action, MultiDiscreteEdge):
        place = "action->action" if single_choice(action) is None else "&action->action"
        arguments += ["action_mask" if policy.num_masks else "NULL", place]
        arguments += [f"{policy.name}_action_counts", f"{action_size(action)}u"]
        function = "eqrl_categorical" if policy.is_stochastic else "eqrl_multi_argmax"
    elif isinstance(action, MultiBinaryEdge):
        arguments += ["action->action", count]
        function = "eqrl_bernoulli" if policy.is_stochastic else "eqrl_multi_binary"
    else:
        function = "eqrl_gaussian_f32"
        log_std, log_std_bytes = "NULL", "0u"
        if action.log_std is not None:
            log_std = outputs[policy.network.outputs[1]]
            log_std_bytes = f"{np.dtype(action.log_std.dtype).itemsize}u"
        arguments += [log_std, log_std_bytes, "action->action", count, f"{int(action.is_squashed)}u"]
    arguments += [random] if policy.is_stochastic else []
    return f"{block}{states}    {c_call(function, arguments)}\n"


def _action_field(policy: IntegerPolicy, count: str) -> str:
    action = policy.action
    choices = single_choice(action)
    if choices is not None:
        return f"    int32_t action; /* {choices[0]} to {choices[-1]} */\n"
    shape = "[" + ", ".join(str(n) for n in action_shape(action)) + "]"
    kind = "int32_t" if is_integer(action) else "float"
    return f"    {kind} action[{count}]; /* shape {shape} */\n"


def _observed(policy: IntegerPolicy) -> str:
    """Say in words what goes in."""
    first = policy.observation.part
    if not policy.more_observations and first.source == "float32":
        features = " x ".join(str(n) for n in first.shape) or "1"
        return f"{features} float observation{_plural(first.size)}"
    words = {"float32": "float", "int32": "integer", "uint8": "byte"}
    if len(policy.observations) > _MOST_NAMED:
        return f"observations of {len(policy.observations)} parts"
    parts = []
    for part in policy.parts:
        shape = " x ".join(str(n) for n in part.shape) or "1"
        parts.append(f"{part.name} ({shape} {words[part.source]}{_plural(part.size)})")
    return ", ".join(parts)


def _acted(policy: IntegerPolicy) -> str:
    """Say in words what comes out."""
    action, size = policy.action, action_size(policy.action)
    drawn = "drawn " if policy.is_stochastic else ""
    choices = single_choice(action)
    if choices is not None:
        return f"{drawn or 'discrete '}action {choices[0]} to {choices[-1]}"
    kind = "float" if not is_integer(action) else "0/1" if isinstance(action, MultiBinaryEdge) else "discrete"
    return f"{size} {drawn}{kind} action{_plural(size)}"


def _plural(count: int) -> str:
    return "" if count == 1 else "s"
