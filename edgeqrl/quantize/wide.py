"""Some activations of an int8 network at 16 bits: mixed precision, in an ordinary `.tflite`.

    mixed = widen(converter, int8, int16, ["input"])

Operators that touch a wide tensor are taken from the 16x8 version of the same network, the others from the
int8 version, and QUANTIZE stands between. Operators that only pass values on, element by element or moved,
have one width on both sides, so that what is wide stays so up to the layer that sums it up; so does what is
joined with others. An operator that TensorFlow Lite has no 16-bit form of, such as ELU, stays as it is in the
int8 version, and what is wide ends before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeqrl.errors import ConverterError, UnsupportedOperatorError, UsageError
from edgeqrl.network.tflite_model import OperatorInfo, TFLiteModel, parse_tflite, shown, with_unique_names
from edgeqrl.quantize.scheme import names_tensor

if TYPE_CHECKING:
    from edgeqrl.quantize.tflite import Converter

_SUMMING = {
    *("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL"),
    *("ADD", "SUB", "MUL", "DIV", "SQUARED_DIFFERENCE", "MEAN", "SUM", "AVERAGE_POOL_2D", "SOFTMAX"),
}
_JOINING = {"CONCATENATION", "PACK"}
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_INT8, _INT16 = 0, 1  # the versions of the network

Place = tuple[int, int]  # (version, index of a tensor in it)


def widen(
    converter: "Converter", int8: bytes, int16: bytes, names: Sequence[str], *, num_states: int = 0
) -> bytes:
    """Return the int8 network with the activations `names` at 16 bits.

    int8, int16   the network in both versions, quantized from one float file; in the 16-bit one, operators
                  that have no such form are float
    names         "input", "state", "output", or tensors of the float file; the whole name or a component
    num_states    the last inputs, which the last outputs are fed back to

    Raises UsageError for names that are none of these, UnsupportedOperatorError for what has no 16-bit form,
    ConverterError where the versions differ.
    """
    versions = tuple(with_unique_names(parse_tflite(data)) for data in (int8, int16))
    twins = _Twins.of(*versions)
    wanted = _named(versions[_INT16], twins, names, num_states)
    return converter.splice(int8, int16, _Splice(versions, twins, _spread(twins, wanted)).plan())


@dataclass(frozen=True)
class _Pair:
    """One operator in both versions; operands are activations, behind any conversions of theirs."""

    operators: tuple[OperatorInfo, OperatorInfo]
    indices: tuple[int, int]  # in the versions' lists of operators
    inputs: tuple[int, ...]  # roots in the 16-bit version
    outputs: tuple[int, ...]
    has_wide_form: bool

    def touches(self, tensors: set[int]) -> bool:
        return self.has_wide_form and not tensors.isdisjoint((*self.inputs, *self.outputs))

    def spread(self, wide: set[int]) -> set[int]:
        """Return what is to be wide with what is already."""
        name = self.operators[0].name
        if name in _JOINING and self.has_wide_form:
            return wide if wide.isdisjoint(self.inputs) else wide | {*self.outputs}
        passes_on = name not in _SUMMING and len(set(self.inputs)) == 1
        return wide | {*self.inputs, *self.outputs} if passes_on and self.touches(wide) else wide


@dataclass(frozen=True)
class _Twins:
    """Which operators and tensors of the two versions are the same."""

    pairs: tuple[_Pair, ...]  # in the order of the int8 version
    narrow: dict[int, int]  # root of the 16-bit version -> root of the int8 version

    @property
    def never_wide(self) -> dict[int, str]:
        """Return the roots of the 16-bit version that are float in it, and the operators that write them."""
        return {i: p.operators[0].name for p in self.pairs if not p.has_wide_form for i in p.outputs}

    @classmethod
    def of(cls, narrow: TFLiteModel, wide: TFLiteModel) -> "_Twins":
        """Walk both from their outputs: orders and names of tensors may differ."""
        models = (narrow, wide)
        writers = tuple({i: at for at, op in enumerate(m.operators) for i in op.outputs} for m in models)
        matched: dict[int, int] = {}
        found: dict[int, _Pair] = {}
        pending = [
            *zip(narrow.inputs, wide.inputs, strict=True),
            *zip(narrow.outputs, wide.outputs, strict=True),
        ]
        while pending:
            a, b = (_root(model, i) for model, i in zip(models, pending.pop(), strict=True))
            if b in matched and matched[b] == a:
                continue
            matched[b] = a
            at = writers[0].get(a), writers[1].get(b)
            if at[0] is None or at[1] is None:
                _require(at[0] is at[1])
                continue
            ours, theirs = narrow.operators[at[0]], wide.operators[at[1]]
            _require(ours.name == theirs.name and ours.outputs.index(a) == theirs.outputs.index(b))
            inputs = [_activations(model, op) for model, op in zip(models, (ours, theirs), strict=True)]
            _require(len(inputs[0]) == len(inputs[1]))
            operands = (i for i in (*theirs.inputs, *theirs.outputs) if i >= 0)
            is_wide = all(wide.tensors[i].dtype != "FLOAT32" for i in operands)
            found[at[0]] = _Pair((ours, theirs), (at[0], at[1]), tuple(inputs[1]), theirs.outputs, is_wide)
            pending += zip(ours.outputs, theirs.outputs, strict=True)
            pending += zip(*inputs, strict=True)
        return cls(tuple(found[at] for at in sorted(found)), matched)


def _root(model: TFLiteModel, index: int) -> int:
    """Return the tensor that a chain of conversions starts from."""
    conversions = _conversions(model)
    while index in conversions:
        index = model.operators[conversions[index]].inputs[0]
    return index


def _conversions(model: TFLiteModel) -> dict[int, int]:
    """Return the operators that only change a tensor's type or scale, by the tensor that they write."""
    return {op.outputs[0]: at for at, op in enumerate(model.operators) if op.name in _CONVERSIONS}


def _activations(model: TFLiteModel, operator: OperatorInfo) -> list[int]:
    return [_root(model, i) for i in operator.inputs if i >= 0 and not model.tensors[i].is_constant]


def _require(is_same: bool) -> None:
    if not is_same:
        raise ConverterError(
            "The network's int8 and 16-bit versions differ in their operators, so none of its tensors can be "
            "wide alone. Convert with --scheme int16x8 instead."
        )


def _named(model: TFLiteModel, twins: _Twins, names: Sequence[str], num_states: int) -> set[int]:
    """Return the roots in the 16-bit version that are meant."""
    split = len(model.inputs) - num_states, len(model.outputs) - num_states
    groups = {
        "input": model.inputs[: split[0]],
        "state": model.inputs[split[0] :] + model.outputs[split[1] :],
        "output": model.outputs[: split[1]],
    }
    found: set[int] = set()
    for name in names:
        meant = groups.get(name)
        if meant is None:
            meant = tuple(i for i in twins.narrow if names_tensor(name, model.tensors[i].name))
        if not meant:
            known = ", ".join(shown(model.tensors[i].name) for i in sorted(twins.narrow))
            raise UsageError(f"The network has no activation '{name}' to be wide: it has {known}.")
        roots = {_root(model, i) for i in meant}
        narrow = twins.never_wide.keys() & roots
        if narrow and (name in groups or narrow == roots):
            at = min(narrow)
            raise UnsupportedOperatorError(
                f"'{name}' cannot have 16 bits: TensorFlow Lite has no 16-bit form of {twins.never_wide[at]} "
                f"at '{shown(model.tensors[at].name)}'. Name other tensors by wide=, or none."
            )
        found |= roots - narrow
    return found


def _spread(twins: _Twins, wanted: set[int]) -> set[int]:
    """Add what only passes a wide tensor on, to the operators that sum it up."""
    before, wide, never = set[int](), wanted, twins.never_wide.keys()
    while wide != before:
        before = wide
        for pair in twins.pairs:
            wide = pair.spread(wide) - never
    return wide


@dataclass
class _Splice:
    """The list of tensors and operators of the mixed network, as it is put together."""

    versions: tuple[TFLiteModel, ...]
    twins: _Twins
    wide: set[int]
    tensors: dict[Place, int] = field(default_factory=dict)  # -> index in the new file
    operators: list[dict[str, Any]] = field(default_factory=list)
    written: set[Place] = field(default_factory=set)
    homes: dict[int, int] = field(
        default_factory=dict
    )  # root of the 16-bit version -> version that writes it

    def plan(self) -> dict[str, Any]:
        """Return what `splice` needs, in JSON values: tensors as [version, index], operators in order."""
        inputs = []
        for position, index in enumerate(self.versions[_INT16].inputs):
            version = int(index in self.wide)
            self.homes[index] = version
            place = version, self.versions[version].inputs[position]
            self.written.add(place)
            inputs.append(self._index(place))
        for pair in self.twins.pairs:
            self._add(pair)
        outputs = []
        for position, index in enumerate(self.versions[_INT16].outputs):
            version = int(_root(self.versions[_INT16], index) in self.wide)
            outputs.append(self._read((version, self.versions[version].outputs[position])))
        tensors = [list(place) for place in self.tensors]
        return {"tensors": tensors, "operators": self.operators, "inputs": inputs, "outputs": outputs}

    def _add(self, pair: _Pair) -> None:
        version = int(pair.touches(self.wide))
        operator = pair.operators[version]
        inputs = [i if i < 0 else self._read((version, i)) for i in operator.inputs]
        places = [(version, i) for i in operator.outputs]
        self.written |= set(places)
        self.homes |= dict.fromkeys(pair.outputs, version)
        self.operators.append(
            {"of": [version, pair.indices[version]], "inputs": inputs, "outputs": [*map(self._index, places)]}
        )

    def _read(self, place: Place) -> int:
        """Return a tensor for an operator to read; what is not there yet is converted to before."""
        version, index = place
        model = self.versions[version]
        if place in self.written or model.tensors[index].is_constant:
            return self._index(place)
        root = _root(model, index)
        wide_root = root if version == _INT16 else next(w for w, n in self.twins.narrow.items() if n == root)
        home = self.homes[wide_root]
        own = _conversions(model).get(index)
        of = None
        if own is not None and (home == version or model.tensors[index].dtype == "FLOAT32"):
            source = self._read((version, model.operators[own].inputs[0]))
            of = [version, own] if model.operators[own].name == "DEQUANTIZE" else None
        else:
            source = self._read((home, self._integers(home, wide_root)))
        self.written.add(place)
        self.operators.append({"of": of, "inputs": [source], "outputs": [self._index(place)]})
        return self._index(place)

    def _integers(self, version: int, wide_root: int) -> int:
        """Return a tensor of a version as integers: the root, or what it is quantized to if it is float."""
        model = self.versions[version]
        root = wide_root if version == _INT16 else self.twins.narrow[wide_root]
        if model.tensors[root].dtype != "FLOAT32":
            return root
        found = [i for i, at in _conversions(model).items() if model.operators[at].inputs[0] == root]
        _require(len(found) > 0)
        return found[0]

    def _index(self, place: Place) -> int:
        return self.tensors.setdefault(place, len(self.tensors))
