"""The examples of an export: one control loop, and a few lines for each platform that call it."""

from collections.abc import Mapping

from edgeqrl.network.edges import ObservationEdge, action_shape, is_integer
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from firmware_export.layouts.templates import fill_template

_MAINS = ("host.c", "pico.c", "esp_idf.c", "zephyr.c")
_UNKNOWN_PERIOD = "#define CONTROL_PERIOD_US 20000u /* nobody has said how long it is: set it */\n"
_MASK = """    for (uint32_t i = 0; i < sizeof observation->action_mask; i++) {
        observation->action_mask[i] = 1u; /* 0: this action is not allowed now */
    }
"""
_SELFTEST = """    if (status == EQRL_OK) {
        status = NAME_selftest(&state); /* drives nothing */
    }
"""


_SENSORS = """    for (uint32_t i = 0; i < {count}; i++) {{
        observation->{name}[i] = {value}
    }}
"""
_SEED = """    if (status == EQRL_OK) {
        status = NAME_seed(&state, now_us, 0u); /* better of chance: the same seed draws the same actions */
    }
"""
_ZEROS = {"float32": "0.0f;", "uint8": "0u;", "int32": "0; /* the number of a class */"}
_VALUES = """        if (report.status >= 0) {
            NAME_values(&state, report.values);
        }
"""
_VALUE_ALONE = "        report.values[0] = report.action.action[0]; /* the value: nothing is driven */\n"


def sketch_files(name: str) -> tuple[str, str, str]:
    """Return the files of the Arduino sketch; no policy's own file is called so."""
    return f"{name}.ino", f"{name}_control.c", f"{name}_control.h"


def example_files(
    program: IntegerPolicy | BareNetwork, values: Mapping[str, object], *, has_selftest: bool
) -> dict[str, bytes]:
    """Return the examples by relative path.

    The sketch and the control loop lie in `examples/NAME/`, since Arduino compiles a sketch's folder; the
    other platforms' main functions lie beside that folder.
    """
    name = program.name
    if isinstance(program, BareNetwork):
        facts = {**values, **_network_parts(str(values["output_type"]))}
        stubs = "control_network.in"
    else:
        facts = {**values, **_policy_parts(program, has_selftest, values["is_value"] is True)}
        stubs = "control_policy.in"
    facts["control_stubs"] = fill_template(stubs, facts).decode()
    templates = ("arduino.ino.in", "control.c.in", "control.h.in")
    made = {f"examples/{name}/{p}": t for p, t in zip(sketch_files(name), templates, strict=True)}
    made |= {f"examples/{path}": f"{path}.in" for path in _MAINS}
    return {path: fill_template(template, facts) for path, template in made.items()}


def _policy_parts(policy: IntegerPolicy, has_selftest: bool, is_value: bool) -> dict[str, str]:
    name = policy.name
    period = f"{name.upper()}_CONTROL_PERIOD_US"
    answer, value = '"action[0] = %g', "(double)last->action.action[0]"
    if is_integer(policy.action):
        index = "" if action_shape(policy.action) == () else "[0]"
        answer, value = f'"action{index} = %d', f"(int)last->action.action{index}"
    return {
        "control_header": f"#include <{name}_contract.h>\n#include <eqrl_guard.h>\n",
        "control_includes": f"\n#include <{name}_golden.h>\n" if has_selftest else "",
        "control_period": f"#if {period} > 0u\n#define CONTROL_PERIOD_US {period}\n#else\n"
        f"{_UNKNOWN_PERIOD}#endif\n",
        "control_report": "typedef struct {\n    eqrl_status status; /* of the step */\n"
        "    uint32_t guard;     /* EQRL_GUARD_... flags */\n    int is_driven;\n"
        f"    {name}_action action;\n{_value_field(policy, is_value)}}} control_report;\n",
        "control_sensors": "".join(_sensors(policy, edge) for edge in policy.observations),
        "control_mask": _MASK if policy.num_masks else "",
        "control_reset": " /* forgets the episode before */" if policy.has_memory else "",
        "control_values": _read_value(policy, is_value),
        "control_seed": _SEED.replace("NAME", name) if policy.is_stochastic else "",
        "control_selftest": _SELFTEST.replace("NAME", name) if has_selftest else "",
        "host_print": f'        printf({answer}, %s; status %d, guard 0x%03X\\n", {value},\n'
        '               last->is_driven != 0 ? "driven" : "not driven", last->status,\n'
        f"               (unsigned int)last->guard);\n{_print_value(policy, is_value)}",
    }


def _value_field(policy: IntegerPolicy, is_value: bool) -> str:
    """Return the report's field for values; a value network's only answer is one."""
    if is_value:
        return "    float values[1];\n"
    count = f"{policy.name.upper()}_NUM_VALUES"
    return f"    float values[{count}]; /* what the policy expects */\n" if policy.values else ""


def _read_value(policy: IntegerPolicy, is_value: bool) -> str:
    """Return the lines that keep the values of a step."""
    if is_value:
        return _VALUE_ALONE
    return _VALUES.replace("NAME", policy.name) if policy.values else ""


def _print_value(policy: IntegerPolicy, is_value: bool) -> str:
    name = "value" if is_value else policy.values[0].name if policy.values else None
    return "" if name is None else f'        printf("    {name} = %g\\n", (double)last->values[0]);\n'


def _sensors(policy: IntegerPolicy, edge: ObservationEdge) -> str:
    """Return the lines that fill one part of the observation."""
    count = f"{policy.name.upper()}_NUM_INPUTS"
    if not policy.is_plain:
        count = f"sizeof observation->{edge.part.name} / sizeof observation->{edge.part.name}[0]"
    return _SENSORS.format(name=edge.part.name, count=count, value=_ZEROS[edge.part.source])


def _network_parts(output_type: str) -> dict[str, str]:
    return {
        "control_header": "",
        "control_includes": "",
        "control_period": _UNKNOWN_PERIOD,
        "control_report": "typedef struct {\n    eqrl_status status;\n    int is_driven;\n"
        f"    const {output_type} *output; /* of the network; valid until the next step */\n"
        "} control_report;\n",
        "host_print": "        if (last->is_driven != 0) {\n"
        '            printf("output[0] = %d\\n", (int)last->output[0]);\n        }\n',
    }
