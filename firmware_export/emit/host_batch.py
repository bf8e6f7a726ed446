"""The C shim with which a host steps many rows in one call; not part of an export."""

from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.emit.params import plan_params
from firmware_export.emit.render import fill_template, program_values


def host_batch_source(policy: IntegerPolicy) -> bytes:
    """Return a C file with NAME_batch_step and NAME_batch_infer, and what they need."""
    values = program_values(policy, plan_params(policy), ownership="")
    return fill_template("host_batch.c.in", {**values, **_batch_values(policy)})


def _batch_values(policy: IntegerPolicy) -> dict[str, str]:
    name, upper = policy.name, policy.name.upper()
    before, after, unused = "", "", []
    if policy.has_memory:
        copied = "&state->memory, memory + row * sizeof state->memory"
        stored = "memory + row * sizeof state->memory, &state->memory"
        seeded = f"            (void){name}_seed(state, seeds[2u * row], seeds[2u * row + 1u]);\n"
        before = (
            f"        memcpy({copied}, sizeof state->memory);\n"
            "        if (episode_start != NULL && episode_start[row] != 0u) {\n"
            f"            (void){name}_reset(state);\n{seeded if policy.is_stochastic else ''}        }}\n"
        )
        after = f"        memcpy({stored}, sizeof state->memory);\n"
    else:
        unused += ["memory", "episode_start"]
    unused += [] if policy.is_stochastic else ["seeds"]
    if policy.values:
        after += (
            "        if (values != NULL) {\n"
            f"            {name}_values(state, values + row * {upper}_NUM_VALUES);\n        }}\n"
        )
    else:
        unused.append("values")
    return {
        "batch_before": before,
        "batch_after": after,
        "batch_unused": "".join(f"    (void){parameter};\n" for parameter in unused),
    }
