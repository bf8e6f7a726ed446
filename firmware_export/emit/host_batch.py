"""The C shim with which a host steps many rows in one call; not part of an export."""

from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.emit.params import plan_params
from firmware_export.emit.render import fill_template, program_values


def host_batch_source(policy: IntegerPolicy) -> bytes:
    """Return a C file with NAME_batch_state_bytes, NAME_batch_step and NAME_batch_infer."""
    values = program_values(policy, plan_params(policy), ownership="")
    return fill_template("host_batch.c.in", values)
