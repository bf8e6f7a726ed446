"""Scheme: how a policy is made integer. One frozen value: hashable, printable, JSON.

A preset names one, `with_parts` overrides parts of it, and `options` says it back as a command line would.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import DataError, UsageError, require_name
from edgeqrl.quantize.scheme_checks import Pairs, flag_of, names_of, number_of, pairs_of

ACTIVATIONS = ("int8", "int16")
GRANULARITIES = ("per_channel", "per_tensor", "per_group")
SYMMETRIES = ("symmetric", "asymmetric")
RANGES = ("min_max", "moving_average", "percentile", "mse", "kl")
ROUNDINGS = ("nearest", "adaround")
REWRITES = (
    "fold_normalization",
    "drop_softmax",
    "drop_dueling_value",
    "centre_head",
    "scale_inputs",
    "equalise",
)
# Without equalisation, which brings outputs closer and returns no more (docs/quantization.md).
DEFAULT_REWRITES = REWRITES[:-1]
BITS = range(2, 9)
WIDE_GROUPS = ("input", "state", "output")  # what `wide` may name beside tensors
_MOST_GROUPED = 1_000_000  # more channels than a layer has: one group
AUTO = "auto"  # not a scheme: the word for having one chosen

_CHOICES: dict[str, tuple[str, ...]] = {
    "activations": ACTIVATIONS,
    "granularity": GRANULARITIES,
    "symmetry": SYMMETRIES,
    "ranges": RANGES,
    "rounding": ROUNDINGS,
}
_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "weight_bits": number_of,
    "layer_bits": pairs_of(number_of),
    "group_size": number_of,
    "wide": names_of,
    "layer_ranges": pairs_of(lambda name, value: value),
    "rewrites": names_of,
    "bias_correction": flag_of,
    "learned": flag_of,
}


@dataclass(frozen=True)
class Scheme:
    """Full-integer quantization of a policy: what its integers are, and what is done so that it still acts.

    weight_bits      of weights, 8 to 2; below 8 on a grid of their own, stored as int8 values
    layer_bits       (layer, bits) where a layer has others; a layer is named as in Keras, `dense_1`, which is
                     one component of the name of the tensor that it writes in the float network, or by that
                     whole name (`layer_names.py`)
    granularity      one scale of weights an output channel, a group of `group_size` of them, or a tensor
    symmetry         symmetric weights have zero point 0, as TensorFlow Lite wants; asymmetric ones run on
                     the reference and in C only
    activations      "int8", or "int16" for activations, inputs, outputs and recurrent state
    wide             activations of 16 bits among those of 8: "input", "state", "output", or tensors
    ranges           estimator of the ranges of activations; layer_ranges: (tensor, estimator) exceptions
    rewrites         exact edits of the float network before, by name
    rounding         of weights: "nearest", or "adaround": by the layer's output on calibration states
    bias_correction  biases give back the mean that rounding takes from each layer
    learned          weights and steps are trained: to act as the float policy does (`quantize/learned/`),
                     starting from weights rounded by output and corrected biases; or by whoever trained the
                     agent (`fake_quant/`). What stands at the end is what was trained, so that rounding and
                     bias_correction are "nearest" and False

    Raises ValueError for values that are none of these.
    """

    weight_bits: int = 8
    layer_bits: tuple[tuple[str, int], ...] = ()
    granularity: str = "per_channel"
    group_size: int = 8
    symmetry: str = "symmetric"
    activations: str = "int8"
    wide: tuple[str, ...] = ()
    ranges: str = "min_max"
    layer_ranges: tuple[tuple[str, str], ...] = ()
    rewrites: tuple[str, ...] = DEFAULT_REWRITES
    rounding: str = "adaround"
    bias_correction: bool = True
    learned: bool = False

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        for name, checked in _CHECKS.items():
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        for layer, estimator in self.layer_ranges:
            if estimator not in RANGES:
                raise ValueError(f"ranges of '{layer}' must be one of {', '.join(RANGES)}, got '{estimator}'")
        for layer, bits in (("weight_bits", self.weight_bits), *self.layer_bits):
            if bits not in BITS:
                raise ValueError(f"weights have {BITS[0]} to {BITS[-1]} bits, got {bits} for '{layer}'")
        if unknown := [name for name in self.rewrites if name not in REWRITES]:
            raise ValueError(f"rewrites are {', '.join(REWRITES)}; got '{unknown[0]}'")
        if not 1 <= self.group_size <= _MOST_GROUPED:
            raise ValueError(f"group_size must be 1 to {_MOST_GROUPED:,}, got {self.group_size}")
        if self.learned:
            for name, value in (("rounding", "nearest"), ("bias_correction", False)):
                object.__setattr__(self, name, value)
        if self.activations == "int16":
            object.__setattr__(self, "wide", ())
        if self.granularity != "per_group":
            object.__setattr__(self, "group_size", Scheme.group_size)
        ordered = tuple(name for name in REWRITES if name in self.rewrites)
        object.__setattr__(self, "rewrites", ordered)

    def __str__(self) -> str:
        said = [self.label]
        if not self.rewrites:
            said.append("no rewrites")
        elif self.rewrites != DEFAULT_REWRITES:
            said.append("rewrites " + ", ".join(self.rewrites))
        said += [] if self.rounding == "nearest" else ["rounded by layer output"]
        said += ["biases corrected"] if self.bias_correction else []
        if self.ranges != "min_max":
            said.append(f"ranges by {self.ranges}")
        said += [f"{tensor} by {estimator}" for tensor, estimator in self.layer_ranges]
        return ", ".join(said)

    @property
    def label(self) -> str:
        """Return the numbers in short, such as `int8`, `w4a8`, `int16x8` or `w4a8 wide=input`."""
        bits = 16 if self.activations == "int16" else 8
        name = {(8, 8): "int8", (8, 16): "int16x8"}.get(
            (self.weight_bits, bits), f"w{self.weight_bits}a{bits}"
        )
        words = [name]
        if self.granularity != "per_channel":
            words.append(self.granularity.replace("_", "-"))
        if self.symmetry == "asymmetric":
            words.append("asymmetric")
        words += [f"wide={','.join(self.wide)}"] if self.wide else []
        words += [f"{layer}:w{layer_bits}" for layer, layer_bits in self.layer_bits]
        return " ".join([*words, *(["learned"] if self.learned else [])])

    @property
    def is_bare(self) -> bool:
        """Tell whether this is TensorFlow Lite's own int8 or int16x8: nothing before or after it."""
        plain = (not self.rewrites, self.rounding == "nearest", not self.bias_correction, not self.learned)
        return all(plain) and not self.has_own_weights and self.ranges == "min_max" and not self.layer_ranges

    @property
    def has_own_weights(self) -> bool:
        """Tell whether weights lie on another grid than TensorFlow Lite's: 8 bits, symmetric, per channel."""
        return (self.bits_used, self.granularity, self.symmetry) != ({8}, "per_channel", "symmetric")

    @property
    def bits_used(self) -> set[int]:
        """Return all numbers of bits that weights may have."""
        return {self.weight_bits, *(bits for _, bits in self.layer_bits)}

    def bits_of(self, layer: str) -> int:
        """Return the bits of a layer's weights."""
        return next((bits for name, bits in self.layer_bits if names_tensor(name, layer)), self.weight_bits)

    def estimator_of(self, tensor: str) -> str:
        """Return the range estimator of a tensor's activations."""
        return next((e for name, e in self.layer_ranges if names_tensor(name, tensor)), self.ranges)

    def with_parts(self, parts: Iterable[str]) -> "Scheme":
        """Return the scheme with parts given as `PART=VALUE`.

        Lists are separated by commas, layers from their value by the last colon: `layer_bits=dense:4`; an
        empty list is `none`. Raises UsageError for what is no part, and for parts that contradict each other.
        """
        changed: dict[str, Any] = {}
        for text in parts:
            name, separator, value = text.partition("=")
            if not separator:
                raise UsageError(f"'{text}' is no part of a scheme: write PART=VALUE, as weight_bits=4.")
            require_name("part of a scheme", name, _READERS)
            try:
                found = _READERS[name](value)
            except ValueError as error:
                raise UsageError(f"'{text}': {error}.") from None
            is_added = name in changed and isinstance(found, tuple)
            if name in changed and not is_added:
                raise UsageError(f"{name}= is given twice. Leave one out.")
            changed[name] = changed[name] + found if is_added else found
        try:
            made = replace(self, **changed)
        except ValueError as error:
            raise UsageError(f"{error}.") from None
        made._require_carried_out(changed)
        return made

    def _require_carried_out(self, stated: Mapping[str, Any]) -> None:
        """Raise UsageError where a stated part has no place beside the others."""
        if stated.get("wide") and self.activations == "int16":
            raise UsageError("wide= goes with activations of 8 bits, and activations=int16 makes all wide.")
        if "group_size" in stated and self.granularity != "per_group":
            raise UsageError("group_size= goes with granularity=per_group.")
        for name in ("rounding", "bias_correction"):
            if self.learned and stated.get(name, getattr(self, name)) != getattr(self, name):
                raise UsageError(
                    f"{name}={_text(stated[name])} does not go with learned=true, which starts from rounded "
                    "and corrected layers and trains what comes after. Leave it out."
                )

    def options(self) -> list[str]:
        """Return the options of the command line that ask for this scheme."""
        found = [name for name, preset in SCHEMES.items() if preset == self]
        if found:
            return [] if found[0] == "int8" else ["--scheme", found[0]]
        name, base = min(SCHEMES.items(), key=lambda item: len(self._differing(item[1])))
        said = [] if name == "int8" else ["--scheme", name]
        for part in self._differing(base):
            said += ["--set", f"{part}={_text(getattr(self, part))}"]
        return said

    def _differing(self, other: "Scheme") -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def to_json(self) -> dict[str, Any]:
        """Return the scheme as plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, data: Any) -> "Scheme":
        """Invert `to_json`, that of earlier versions too; raise DataError for anything else."""
        try:
            return cls(**_of_any_version(data))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise DataError(f"This is no quantization scheme: {str(data)[:200]}. Quantize again.") from None


def names_tensor(name: str, tensor: str) -> bool:
    """Tell whether `name` means the tensor: its whole name, or one component of it."""
    return name == tensor or name in re.split("[/;]", tensor)


def require_scheme(name: str) -> Scheme:
    """Return the preset `name`, or raise UsageError with the nearest one."""
    return SCHEMES[require_name("scheme", name, SCHEMES)]


def textbook(bits: int) -> Scheme:
    """Return the textbook form: asymmetric weights of `bits` bits, one range a tensor, to nearest."""
    return replace(_BARE, weight_bits=bits, granularity="per_tensor", symmetry="asymmetric")


_BARE = Scheme(rewrites=(), rounding="nearest", bias_correction=False)

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "int8": Scheme(),
        "int8-bare": _BARE,
        "int8-per-tensor": Scheme(granularity="per_tensor"),
        "int16x8": Scheme(activations="int16"),
        **{f"w{bits}a8": Scheme(weight_bits=bits) for bits in (4, 3, 2)},
        **{f"textbook-{bits}": textbook(bits) for bits in reversed(BITS)},
    }
)


def _names(text: str) -> tuple[str, ...]:
    found = () if text == "none" else tuple(text.split(","))
    if "" in found:
        raise ValueError("a name is empty; write names separated by commas, or none")
    return found


def _rewrites(text: str) -> tuple[str, ...]:
    return REWRITES if text == "all" else _names(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"'{text}' is no whole number")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("write true or false")
    return text == "true"


def _pairs(read: Callable[[str], Any]) -> Callable[[str], Pairs]:
    def pairs(text: str) -> Pairs:
        found = [part.rpartition(":") for part in _names(text)]
        if any(not layer for layer, _, _ in found):
            raise ValueError("write LAYER:VALUE")
        return tuple((layer, read(value)) for layer, _, value in found)

    return pairs


_READERS: dict[str, Callable[[str], Any]] = {
    "weight_bits": _number,
    "layer_bits": _pairs(_number),
    "granularity": str,
    "group_size": _number,
    "symmetry": str,
    "activations": str,
    "wide": _names,
    "ranges": str,
    "layer_ranges": _pairs(str),
    "rewrites": _rewrites,
    "rounding": str,
    "bias_correction": _flag,
    "learned": _flag,
}
PARTS = tuple(_READERS)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        said = (item if isinstance(item, str) else ":".join(map(str, item)) for item in value)
        return ",".join(said) or "none"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [list(item) if isinstance(item, tuple) else item for item in value]
    return value


def _of_any_version(data: Any) -> dict[str, Any]:
    """Return the parts as this version writes them: earlier ones said only whether there were rewrites."""
    if isinstance(data.get("rewrites"), bool):
        if not set(data) <= {"rewrites", "bias_correction", "activations"}:
            raise KeyError("rewrites")
        known = ["fold_normalization", "drop_softmax", "centre_head"] if data["rewrites"] else []
        return {**data, "rewrites": known, "rounding": "nearest"}
    if set(data) != {f.name for f in fields(Scheme)}:
        raise KeyError("parts")
    return dict(data)
