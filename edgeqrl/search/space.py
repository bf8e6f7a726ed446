"""What Optuna chooses between, and the schemes that its choices mean."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeqrl.quantize.scheme import RANGES, ROUNDINGS, Scheme
from edgeqrl.search.ladder import levels, widths

_BITS = "bits of "
_EQUALISE = "equalise"  # a rewrite that helps some networks and harms others; the rest of them never harm


@dataclass(frozen=True)
class Space:
    """Every part of a scheme that is searched: name -> what it may be."""

    layers: tuple[str, ...]  # that have weights, by the tensor that each writes
    most_weight_bits: int
    has_states: bool
    learning: bool

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Return what each parameter may be."""
        bits = levels(self.most_weight_bits)
        per_layer = {f"{_BITS}{name}": bits for name in self._names} or {"bits": bits}
        wide = (f"wide={','.join(names)}" for names in widths(self.has_states))
        found: dict[str, tuple[Any, ...]] = {**per_layer, "activations": ("int8", *wide, "int16")}
        found |= {"ranges": RANGES, "rounding": ROUNDINGS, _EQUALISE: (False, True)}
        return {**found, "learned": (False, True)} if self.learning else found

    def scheme(self, chosen: dict[str, Any]) -> Scheme:
        """Return the scheme that a choice of every parameter means."""
        bits = [int(chosen[f"{_BITS}{name}"]) for name in self._names] or [int(chosen["bits"])]
        usual = min(Counter(bits).items(), key=lambda item: (-item[1], item[0]))[0]
        own = tuple((name, b) for name, b in zip(self._names, bits, strict=False) if b != usual)
        return Scheme(
            weight_bits=usual,
            layer_bits=own,
            activations="int16" if chosen["activations"] == "int16" else "int8",
            wide=_wide_of(chosen["activations"]),
            ranges=chosen["ranges"],
            rounding=chosen["rounding"],
            rewrites=_rewrites(is_equalised=bool(chosen[_EQUALISE])),
            learned=bool(chosen.get("learned", False)),
        )

    def chosen(self, scheme: Scheme) -> dict[str, Any]:
        """Return the choices that mean `scheme`, which is a rung of the ladder."""
        bits = {
            f"{_BITS}{name}": scheme.bits_of(layer)
            for name, layer in zip(self._names, self.layers, strict=True)
        }
        activations = f"wide={','.join(scheme.wide)}" if scheme.wide else scheme.activations
        found: dict[str, Any] = {**(bits or {"bits": scheme.weight_bits}), "activations": activations}
        found |= {"ranges": scheme.ranges, "rounding": "adaround" if scheme.learned else scheme.rounding}
        found |= {_EQUALISE: _EQUALISE in scheme.rewrites}
        return {**found, "learned": scheme.learned} if self.learning else found

    @property
    def _names(self) -> tuple[str, ...]:
        return short_names(self.layers)


def short_names(layers: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each layer that no other has: one component of its tensor's name, else all of it."""
    parts = [re.split("[/;]", layer) for layer in layers]
    counts = Counter(part for found in parts for part in set(found))
    return tuple(
        next((part for part in found if part and counts[part] == 1 and not set(part) & set(":,= ")), layer)
        for layer, found in zip(layers, parts, strict=True)
    )


def _rewrites(*, is_equalised: bool) -> tuple[str, ...]:
    others = tuple(name for name in Scheme().rewrites if name != _EQUALISE)
    return (*others, _EQUALISE) if is_equalised else others


def _wide_of(activations: str) -> tuple[str, ...]:
    kind, _, names = activations.partition("=")
    return tuple(names.split(",")) if kind == "wide" else ()
