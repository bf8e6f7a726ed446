"""`--scheme auto`: what is tried one after the other, until the return holds within the budget.

What costs least to make comes first: ranges of another estimator, 16 bits where 8 are too coarse, then
trained weights. Fewer bits of weights come in only where a board cannot hold more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.candidate import Built, Task, Tried, attempt
from edgeqrl.search.choice import Choice, Facts, least_lost, require_one
from edgeqrl.search.outcome import Outcome

PACKED_BITS = (8, 4, 3, 2)  # what the exporter stores in as many bits; 5 to 7 take a byte too


def climb(task: Task, facts: Facts) -> Choice:
    """Return the first rung that holds; where none does, the one that lost least.

    Raises BoardFitError where none fits the budget.
    """
    tried: list[Tried] = []
    kept: dict[str, Built] = {}
    for bits in levels(task.options.most_weight_bits):
        for scheme in _rungs_of(task, bits, kept):
            found, built = attempt(task, scheme, tried)
            tried.append(found)
            if built is not None:
                kept[found.name] = built
            if found.outcome is Outcome.OVER_BUDGET and scheme == Scheme(weight_bits=bits):
                break  # what else has as many bits takes no less
            if built is not None and (
                found.outcome is Outcome.HOLDS or not task.episodes.is_worth_preserving
            ):
                return Choice("auto", found, tuple(tried), facts, built)
        if any(t.outcome is not Outcome.OVER_BUDGET for t in tried):
            break  # fewer bits hold no better
    winner = least_lost(tried)
    if winner is None:
        require_one(task, tried)
        raise AssertionError
    return Choice("auto", winner, tuple(tried), facts, kept[winner.name])


def levels(most_weight_bits: int) -> tuple[int, ...]:
    """Return the bits of weights that are worth trying, most first."""
    return tuple(dict.fromkeys((most_weight_bits, *(b for b in PACKED_BITS if b < most_weight_bits))))


def widths(has_states: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which activations get 16 bits where 8 are too coarse: what comes in, then what goes out too."""
    inner = ("state",) if has_states else ()
    return ("input", *inner), ("input", "output", *inner)


def rungs(
    bits: int, *, most_bits: int, layers: Sequence[str], has_states: bool, learning: bool
) -> list[Scheme]:
    """Return the schemes whose weights have `bits` bits, in the order in which they are tried.

    layers  that have weights, in order; the first and the last are the ones that low bits hurt most
    """
    base = Scheme(weight_bits=bits)
    wide, wider = (replace(base, wide=names) for names in widths(has_states))
    found = [base, replace(base, ranges="mse"), wide, wider]
    ends = sorted({layers[0], layers[-1]}) if len(layers) > 1 else []
    if bits < most_bits and len(layers) > len(ends):
        found.append(replace(base, layer_bits=tuple((layer, most_bits) for layer in ends)))
    found.append(replace(base, activations="int16"))
    if learning:
        found += [replace(base, learned=True), replace(wide, learned=True)]
    return found


def _rungs_of(task: Task, bits: int, kept: dict[str, Built]) -> Iterator[Scheme]:
    """Yield the rungs of a level; the first tells which layers there are."""
    options = task.options
    yield Scheme(weight_bits=bits)
    layers = next((built.layers for built in kept.values()), ())
    yield from rungs(
        bits,
        most_bits=options.most_weight_bits,
        layers=layers,
        has_states=task.has_states,
        learning=options.learning,
    )[1:]
