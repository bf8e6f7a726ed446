"""An IntegerPolicy as C text. The `.c` and `.h` of a policy depend on its shapes, never on its weights."""

import re
from collections.abc import Mapping
from importlib.resources import files

from edgeqrl.network.edges import AffineEdge, ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy, num_outputs
from edgeqrl.network.ir import Dense, IntegerNetwork, Layer, accumulator_bound
from firmware_export.emit.arena import plan_arena
from firmware_export.emit.c_literals import c_comment, c_words
from firmware_export.emit.params import Entry, executed_layers, plan_params

_PLACEHOLDER = re.compile(r"@(\w+)@")


def fill_template(name: str, values: Mapping[str, object]) -> bytes:
    """Return template `name` with every @key@ replaced; a key without a value is our fault."""
    text = (files("firmware_export.emit") / "templates" / name).read_text(encoding="utf-8")
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text).encode()


def policy_values(policy: IntegerPolicy, *, ownership: str) -> dict[str, object]:
    """Return what the templates need to know about `policy`."""
    network, layout = policy.network, plan_params(policy)
    arena = plan_arena(network)
    values: dict[str, object] = {
        "name": policy.name,
        "NAME": policy.name.upper(),
        "ownership": ownership,
        "num_inputs": policy.observation.size,
        "num_outputs": num_outputs(policy.action),
        "num_layers": len(executed_layers(policy)),
        "arena_bytes": arena.total_bytes,
        "params_bytes": layout.total_bytes,
        "state_bytes": 4 + arena.total_bytes,
        "observation_shape": _c_shape(policy.observation.shape),
        "contract": c_words(layout.contract),
        "observation_at": layout.entries[0].offset // 4,
        "input_offset": arena.offsets[network.inputs[0]],
        "output_offset": arena.offsets[network.outputs[0]],
        "layers": _layer_calls(policy, layout.entries[1:-1], arena.offsets),
    }
    return values | _action_values(policy, layout.entries[-1]) | _mask_values(policy)


def params_source(policy: IntegerPolicy, blob: bytes, values: Mapping[str, object]) -> bytes:
    """Return the C file that holds `blob`, each block under a comment that says what it is."""
    layout = plan_params(policy)
    parts = [_commented_words("header and entries", blob[: layout.entries[0].offset])]
    for entry, comment in zip(layout.entries, _block_comments(policy), strict=True):
        parts.append(_commented_words(comment, blob[entry.offset : entry.offset + entry.num_bytes]))
    return fill_template("params.c.in", {**values, "words": "".join(parts)})


def describe_layer(layer: Layer, network: IntegerNetwork) -> str:
    """Return one line for people: operator, tensor and shapes."""
    kind = {"Dense": "FULLY_CONNECTED", "Reshape": "RESHAPE"}.get(type(layer).__name__, "")
    function = kind or getattr(layer, "function", "")
    sizes = f"{network.tensors[layer.input].size} -> {network.tensors[layer.output].size}"
    return c_comment(f"{function} '{layer.name}', {sizes}")


def _layer_calls(policy: IntegerPolicy, entries: tuple[Entry, ...], offsets: Mapping[str, int]) -> str:
    calls = []
    for index, (layer, entry) in enumerate(zip(executed_layers(policy), entries, strict=True)):
        is_dense = isinstance(layer, Dense)
        kernel = "eqrl_dense_s8" if is_dense else "eqrl_lookup_s8"
        sizes = f"{entry.num_inputs}u, {entry.num_outputs}u" if is_dense else f"{entry.num_outputs}u"
        pointers = (
            f"params + {entry.offset // 4}, arena + {offsets[layer.input]}, arena + {offsets[layer.output]}"
        )
        calls.append(
            f"    if (eqrl_is_selected({index}u, first, last)) {{\n"
            f"        {kernel}({pointers}, {sizes});\n"
            "    }\n"
        )
    locals_ = "    const uint32_t *const params = state->params;\n    int8_t *const arena = state->arena;\n"
    return locals_ + "".join(calls) if calls else ""


def _action_values(policy: IntegerPolicy, entry: Entry) -> dict[str, object]:
    action, block = policy.action, f"state->params + {entry.offset // 4}"
    size = f"{policy.name.upper()}_NUM_OUTPUTS"
    features = " x ".join(str(n) for n in policy.observation.shape) or "1"
    observed = f"{features} float observation{_plural(policy.observation.size)} in"
    if isinstance(action, AffineEdge):
        return {
            "summary": f"{observed}, {len(action.gain)} float action{_plural(len(action.gain))} out.",
            "action_layout": f"{4 * len(action.gain)} bytes.",
            "action_field": f"    float action[{size}]; /* shape {_c_shape(action.shape)} */\n",
            "decode": f"    const uint32_t *const block = {block};\n"
            f"    eqrl_affine_f32(block, output, action->action, {size});\n",
            "example_print": '    printf("action[0] = %g\\n", (double)action.action[0]);\n',
        }
    last = action.start + action.num_actions - 1
    masked = "eqrl_argmax_masked" if action.is_masked else "eqrl_argmax"
    mask = "action_mask, " if action.is_masked else ""
    return {
        "summary": f"{observed}, discrete action {action.start} to {last} out.",
        "action_layout": "4 bytes.",
        "action_field": f"    int32_t action; /* {action.start} to {last} */\n",
        "decode": f"    const uint32_t *const block = {block};\n"
        f"    action->action = {masked}(block, output, {mask}{size});\n",
        "example_print": '    printf("action = %d\\n", (int)action.action);\n',
    }


def _mask_values(policy: IntegerPolicy) -> dict[str, object]:
    size, num_actions = 4 * policy.observation.size, num_outputs(policy.action)
    if not (isinstance(policy.action, ArgmaxEdge) and policy.action.is_masked):
        keys = ("mask_field", "mask_parameter", "mask_is_null", "mask_of_observation")
        return {
            **dict.fromkeys((*keys, "example_mask"), ""),
            "observation_layout": f"{size} bytes.",
            "batch_mask": "        (void)action_masks; /* this policy takes none */\n",
        }
    padded = size + num_actions + -num_actions % 4
    field = f"uint8_t action_mask[{policy.name.upper()}_NUM_OUTPUTS]"
    copy = "action_masks == NULL ? (uint8_t)1 : action_masks[row * sizeof observation.action_mask + i]"
    return {
        "observation_layout": f"{padded} bytes; action_mask at {size}.",
        "mask_field": f"    {field}; /* 0: not allowed; if none is, the mask is ignored */\n",
        "mask_parameter": "    const uint8_t *action_mask,\n",
        "mask_is_null": "action_mask == NULL || ",
        "mask_of_observation": "observation->action_mask, ",
        "example_mask": "    observation.action_mask[0] = 1u; /* 1 for each action that is allowed now */\n",
        "batch_mask": "        for (size_t i = 0; i < sizeof observation.action_mask; i++) {\n"
        f"            observation.action_mask[i] = {copy};\n        }}\n",
    }


def _block_comments(policy: IntegerPolicy) -> list[str]:
    comments = [f"observation: zero point {policy.observation.zero_point}"]
    for index, layer in enumerate(executed_layers(policy)):
        comment = f"layer {index}: {describe_layer(layer, policy.network)}"
        if isinstance(layer, Dense):
            zero_point = policy.network.tensors[layer.input].zero_point
            bound = int(accumulator_bound(layer, zero_point).max())
            comment += f"; eqrl_dense_s8: no |accumulator| above {bound}, so int32 is enough"
        comments.append(comment)
    return [*comments, "action"]


def _commented_words(comment: str, values: bytes) -> str:
    return f"    /* {comment} */\n{c_words(values)}"


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _c_shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(n) for n in shape) + "]"
