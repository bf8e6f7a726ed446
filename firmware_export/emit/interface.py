"""The network's inputs and outputs in C: parameters of NAME_infer, copies into and out of the arena."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgeqrl.network.ir import IntegerNetwork, Tensor


@dataclass(frozen=True)
class _Place:
    """One network input or output."""

    variable: str  # "input", or "input_1" where there are several
    index: int
    is_input: bool
    tensor: Tensor
    offset: int  # in the arena
    row_offset: int  # in a row of bytes that holds all inputs, or all outputs, one after another
    row_bytes: int

    @property
    def type(self) -> str:
        return f"{self.tensor.dtype}_t"


def interface_values(policy: str, network: IntegerNetwork, offsets: Mapping[str, int]) -> dict[str, object]:
    """Return what the templates need; one pointer for each input and output."""
    inputs = _places(network, network.inputs, offsets, "input")
    outputs = _places(network, network.outputs, offsets, "output")
    both = [*inputs, *outputs]
    more = [place for place in both if place.index > 0]
    return {
        "infer_parameters": "".join(
            f",\n    {'const ' if place.is_input else ''}{place.type} *{place.variable}" for place in both
        ),
        "infer_is_null": "".join(f" || {place.variable} == NULL" for place in both),
        "copies_in": "".join(
            f"    eqrl_copy(state->arena + {place.offset}, {place.variable}, {place.tensor.num_bytes}u);\n"
            for place in inputs
        ),
        "copies_out": "".join(
            f"    eqrl_copy({place.variable}, state->arena + {place.offset}, {place.tensor.num_bytes}u);\n"
            for place in outputs
        ),
        "batch_in": "".join(_batch_copy(place) for place in inputs),
        "batch_out": "".join(_batch_copy(place) for place in outputs),
        "buffers": ",\n".join(f" * {p.variable} {p.tensor.dtype}[{p.tensor.size}]" for p in both) + ".\n",
        "more_declarations": "".join(f"{_getter(policy, place)};\n" for place in more),
        "more_places": "".join(_getter_definition(policy, place) for place in more),
    }


def variable_names(names: tuple[str, ...], word: str) -> dict[str, str]:
    """Return what C calls the network's inputs or outputs: "input", or "input_0" where there are several."""
    return {name: word if len(names) == 1 else f"{word}_{i}" for i, name in enumerate(names)}


def getter_names(names: tuple[str, ...], word: str) -> list[str]:
    """Return the ends of the functions that tell where inputs or outputs lie; the first has no number."""
    return [word, *(f"{word}_{i}" for i in range(1, len(names)))]


def _places(
    network: IntegerNetwork, names: tuple[str, ...], offsets: Mapping[str, int], word: str
) -> list[_Place]:
    tensors = [network.tensors[name] for name in names]
    row_bytes = sum(tensor.num_bytes for tensor in tensors)
    places = []
    for i, tensor in enumerate(tensors):
        variable = word if len(names) == 1 else f"{word}_{i}"
        before = sum(other.num_bytes for other in tensors[:i])
        place = _Place(variable, i, word == "input", tensor, offsets[tensor.name], before, row_bytes)
        places.append(place)
    return places


def _batch_copy(place: _Place) -> str:
    word = "inputs" if place.is_input else "outputs"
    row = f"{word} + row * {place.row_bytes}u + {place.row_offset}u"
    arena = f"state->arena + {place.offset}"
    target, source = (arena, row) if place.is_input else (row, arena)
    return f"        memcpy({target}, {source}, {place.tensor.num_bytes}u);\n"


def _getter(policy: str, place: _Place) -> str:
    const = "" if place.is_input else "const "
    return f"{const}{place.type} *{policy}_{place.variable}({const}{policy}_state *state)"


def _getter_definition(policy: str, place: _Place) -> str:
    const = "" if place.is_input else "const "
    return (
        f"\nEQRL_CODE {_getter(policy, place)}\n{{\n"
        f"    {const}void *const place = state->arena + {place.offset};\n"
        f"    return ({const}{place.type} *)place;\n}}\n"
    )
