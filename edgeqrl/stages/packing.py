"""Whether weights of few bits are packed in flash, and for which code; it stays in the manifest."""

from dataclasses import replace
from typing import TypeVar

from edgeqrl.bundle import Bundle
from edgeqrl.errors import DataError
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.stages.settings import Settings

WEIGHT_BITS = "weight_bits"  # of the manifest
Program = TypeVar("Program", IntegerPolicy, BareNetwork)


def state_packing(bundle: Bundle, policy: IntegerPolicy, settings: Settings) -> IntegerPolicy:
    """Keep how the settings want weights packed, and return the policy so; as `with_packing`."""
    packed = with_packing(policy, settings)
    bundle.facts.pop(WEIGHT_BITS, None)
    if packed.weight_bits is not None:
        bundle.facts[WEIGHT_BITS] = list(packed.weight_bits)
    return packed


def read_packing(bundle: Bundle) -> tuple[int, ...] | None:
    """Return the bits of the weights of each layer in flash, () where nothing is packed, or None: chosen."""
    stated = bundle.facts.get(WEIGHT_BITS)
    if stated is None:
        return None
    if not isinstance(stated, list) or not all(bits in (2, 3, 4, 8) for bits in stated):
        raise DataError(f"The manifest of '{bundle}' states damaged weight bits: {str(stated)[:80]}.")
    return tuple(stated)


def with_packing(program: Program, settings: Settings) -> Program:
    """Return the policy or network with weights packed as the settings want.

    Raises UsageError or DataError where it must fit the code of earlier params and does not.
    """
    from firmware_export.emit.params import bits_of_params, params_for, read_params

    if settings.params_of is not None:
        params_for(program, settings.params_of)  # proves that the weights fit
        return replace(program, weight_bits=bits_of_params(program, read_params(settings.params_of)))
    return replace(program, weight_bits=() if settings.is_unpacked else None)


def sequence_of(settings: Settings) -> int:
    """Return the number of the params to export: the one after those that they replace."""
    from firmware_export.emit.params import read_params

    return 0 if settings.params_of is None else read_params(settings.params_of).sequence + 1
