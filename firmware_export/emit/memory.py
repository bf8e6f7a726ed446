"""What survives a step, as C: NAME_memory with its frames, states and generator, NAME_reset and NAME_seed."""

from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.memory import MemoryField
from firmware_export.emit.c_literals import c_comment
from firmware_export.emit.params import Entry, Layout

_COMMENTS = {
    "random": "the generator: {name}_seed sets it",
    "frames_next": "slot of the ring that the next frame takes",
    "frames_filled": "slots that hold frames of this episode",
    "frames": "the ring",
}
_SEED_DECLARATION = """\
/* Set the generator that draws the actions; init seeds with 0. The same seed and the same observations
 * give the same actions, here and on a host.
 */
eqrl_status {name}_seed({name}_state *state, uint32_t low, uint32_t high);

"""
_SEED = """eqrl_status {name}_seed({name}_state *state, uint32_t low, uint32_t high)
{{
    if (state == NULL) {{
        return EQRL_ERROR_ARGUMENT;
    }}
    eqrl_random_seed(state->memory.random, low, high);
    return EQRL_OK;
}}

"""


def memory_values(policy: IntegerPolicy, layout: Layout, arena_bytes: int) -> dict[str, object]:
    """Return what the templates need of a policy's memory; nothing where it has none."""
    name, upper = policy.name, policy.name.upper()
    if not policy.has_memory:
        keys = ("memory_macro", "memory_at", "memory_type", "memory_field", "memory_init")
        reset = "This policy has no memory, so this only checks that the state is ready."
        return {
            **dict.fromkeys((*keys, "seed_declaration", "seed_function", "usage_seed"), ""),
            "reset_comment": f"/* Begin an episode. {reset} */\n",
            "reset_body": "    return state->params == NULL ? EQRL_ERROR_NOT_INITIALISED : EQRL_OK;\n",
            "encode_comment": " * state->saturated.\n",
            "memory_bytes": 0,
        }
    fields = policy.memory_layout.fields
    init = "    uint8_t *const memory = (uint8_t *)&state->memory; /* what fills up its words too */\n"
    init += f"    for (uint32_t i = 0; i < {upper}_MEMORY_BYTES; i++) {{\n        memory[i] = 0u;\n    }}\n"
    init += "    if (status == EQRL_OK) {\n"
    init += f"        (void){name}_seed(state, 0u, 0u);\n" if policy.is_stochastic else ""
    init += f"        (void){name}_reset(state);\n    }}\n"
    return {
        "memory_macro": f"#define {upper}_MEMORY_BYTES {policy.memory_bytes}u /* that survive a step */\n",
        "memory_at": f", memory at {4 + arena_bytes}",
        "memory_type": "/* What survives a step; it may be copied, to search or to go back. */\n"
        f"typedef struct {{\n{''.join(_declaration(policy, key) for key in fields)}}} {name}_memory;\n\n",
        "memory_field": f"    {name}_memory memory;\n",
        "memory_init": init,
        "reset_body": "    if (state->params == NULL) {\n        return EQRL_ERROR_NOT_INITIALISED;\n    }\n"
        f"{_reset(policy, layout)}    return EQRL_OK;\n",
        "encode_comment": f" * state->saturated. {_moved(policy)}\n",
        "memory_bytes": policy.memory_bytes,
        "reset_comment": f"/* Begin an episode{_forgotten(policy)} */\n",
        "usage_seed": f" *   status = {name}_seed(&state, low, high);        the draws; init seeds with 0\n"
        if policy.is_stochastic
        else "",
        "seed_declaration": _SEED_DECLARATION.format(name=name) if policy.is_stochastic else "",
        "seed_function": _SEED.format(name=name) if policy.is_stochastic else "",
    }


def state_copies(policy: IntegerPolicy, variables: dict[str, str], *, is_input: bool) -> str:
    """Return the lines that copy states out of the memory into network inputs, or back from outputs."""
    lines = []
    for i, state in enumerate(policy.recurrent):
        field = policy.memory_layout.fields[f"recurrent_{i}"]
        place = f"state->memory.recurrent_{i}"
        pair = (variables[state.input], place) if is_input else (place, variables[state.output])
        lines.append(f"    eqrl_copy({pair[0]}, {pair[1]}, {field.num_bytes}u);\n")
    return "".join(lines)


def _declaration(policy: IntegerPolicy, key: str) -> str:
    field = policy.memory_layout.fields[key]
    if not field.shape and key.startswith("frames_"):
        return f"    uint32_t {key}; /* {_COMMENTS[key]} */\n"
    comment = _COMMENTS.get(key, "").format(name=policy.name)
    if key.startswith("recurrent"):
        state = policy.recurrent[int(key.rsplit("_", 1)[1])]
        comment = c_comment(f"shape {list(field.shape)}, network input '{state.input}'")
    return f"    {field.dtype}_t {key}[{_padded_count(field)}]; /* {comment} */\n"


def _moved(policy: IntegerPolicy) -> str:
    """Say what encode and decode do with the memory."""
    decode = ["stores the next states"] if policy.recurrent else []
    decode += ["draws"] if policy.is_stochastic else []
    said = ["It puts the frame into the ring."] if policy.frames is not None else []
    said += [f"decode {' and '.join(decode)}."] if decode else []
    return " ".join([*said, "Once a step each."])


def _forgotten(policy: IntegerPolicy) -> str:
    """Say what a reset does to the memory."""
    kinds = ["frames"] * (policy.frames is not None) + ["states"] * bool(policy.recurrent)
    forgotten = f": forget the {' and '.join(kinds)} of the last one." if kinds else "."
    seeded = f" The generator goes on: {policy.name}_seed sets it." if policy.is_stochastic else ""
    return forgotten + seeded


def _padded_count(field: MemoryField) -> int:
    """Count the elements of a field with those that fill its last word."""
    element_bytes = {"int8": 1, "int16": 2, "uint32": 4}[field.dtype]
    return -(-field.num_bytes // 4) * 4 // element_bytes


def _reset(policy: IntegerPolicy, layout: Layout) -> str:
    lines, fills = [], list(layout.fills)
    memory = policy.memory_layout.fields
    if policy.frames is not None:
        filled = policy.frames.num_frames if policy.frames.padding == "zero" else 0
        lines += [
            "    state->memory.frames_next = 0u;\n",
            f"    state->memory.frames_filled = {filled}u;\n",
            _fill("frames", memory["frames"], fills.pop(0)),
        ]
    for i, entry in enumerate(fills):
        lines.append(_fill(f"recurrent_{i}", memory[f"recurrent_{i}"], entry))
    return "".join(lines)


def _fill(key: str, field: MemoryField, entry: Entry) -> str:
    element_bytes = 1 if field.dtype == "int8" else 2
    size = field.num_bytes // element_bytes
    block, target = f"state->params + {entry.offset // 4}", f"state->memory.{key}"
    return f"    eqrl_fill({block}, {target}, {element_bytes}u, {size}u);\n"
