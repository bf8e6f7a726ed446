"""The ledger of judgements: whoever judges until something passes must pay for it in confidence.

It lies in the bundle's manifest and stays through `quantize` and through `convert` into the same folder, as
long as agent and environment are the same. A judgement repeated to the letter is the same judgement: it
plays the same seeds at the same level, and says the same. With more episodes it is continued, which costs
nothing: betting may be looked at whenever one likes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeqrl.bundle import Bundle, open_bundle
from edgeqrl.errors import DataError, UsageError
from edgeqrl.validate.verdict import baseline_seeds_of, default_seed

FACT = "judgements"
MOST = 40  # more would leave no confidence to share
_MOST_SEEDS = 10**6  # of one judgement: a hostile manifest must not fill the memory

Entry = dict[str, Any]


def judgement_key(policy_sha256: str, backends: tuple[str, str], declared: Mapping[str, Any]) -> Entry:
    """Return what makes two judgements the same: policy, backends (quantized, float) and terms."""
    return {
        "policy_sha256": policy_sha256,
        "backend": backends[0],
        "float_backend": backends[1],
        "declared": dict(declared),
    }


def find_judgement(bundle: Bundle, key: Entry, seed: int | None) -> tuple[int, int]:
    """Return the number and the first seed of the judgement that `key` stands for, new or repeated."""
    earlier = judgements_of(bundle)
    for entry in earlier:
        is_same = all(entry[name] == value for name, value in key.items())
        if is_same and seed in (None, entry["seeds"]["first"]):
            return entry["number"], entry["seeds"]["first"]
    number = len(earlier) + 1
    if number > MOST:
        raise UsageError(
            f"'{bundle}' has been judged {len(earlier)} times, which leaves no confidence for more. "
            "Convert into a new folder, and say in your report how many came before."
        )
    return number, default_seed(number) if seed is None else seed


def judged_seeds(bundle: Bundle, *, but: int) -> set[int]:
    """Return all seeds that judgements other than number `but` have played."""
    taken: set[int] = set()
    for entry in judgements_of(bundle):
        if entry["number"] != but:
            first, count = entry["seeds"]["first"], entry["seeds"]["count"]
            taken |= {*range(first, first + count), *baseline_seeds_of(first)}
    return taken


def record_judgement(bundle: Bundle, number: int, key: Entry, seeds: Mapping[str, int], verdict: str) -> None:
    """Write a judgement into the ledger, in place of the one with the same number."""
    ledger = judgements_of(bundle)
    counts = [entry["seeds"]["count"] for entry in ledger if entry["number"] == number]
    played = {"first": seeds["first"], "count": max(seeds["count"], *counts, 0)}
    entry = {"number": number, **key, "seeds": played, "verdict": verdict}
    bundle.facts[FACT] = [*ledger[: number - 1], entry, *ledger[number:]]


def judgements_of(bundle: Bundle) -> list[Entry]:
    """Return the ledger, oldest first; raise DataError where the manifest states it wrongly."""
    ledger = bundle.facts.get(FACT, [])
    if not _is_ledger(ledger):
        raise DataError(f"The manifest of '{bundle}' states '{FACT}' wrongly. Make the bundle again.")
    return list(ledger)


def earlier_judgements(folder: Path) -> dict[str, Any]:
    """Return what `carry_over` needs of the bundle that is about to be replaced; nothing if there is none."""
    try:
        return dict(open_bundle(folder).facts)
    except DataError:
        return {}


def carry_over(bundle: Bundle, earlier: Mapping[str, Any]) -> None:
    """Keep the ledger of the replaced bundle where agent and environment are still the same."""
    same = ("agent_sha256", "environment")
    if earlier.get(FACT) and all(earlier.get(name) == bundle.facts.get(name) for name in same):
        bundle.facts[FACT] = earlier[FACT]


def _is_ledger(value: Any) -> bool:
    kinds = {"policy_sha256": str, "backend": str, "float_backend": str, "declared": dict, "verdict": str}
    if not isinstance(value, list) or len(value) > MOST:
        return False
    for place, entry in enumerate(value):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), t) for k, t in kinds.items()):
            return False
        seeds = entry.get("seeds")
        numbers: list[Any] = [entry.get("number")]
        numbers += [seeds.get("first"), seeds.get("count")] if isinstance(seeds, dict) else [None]
        if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
            return False
        if numbers[0] != place + 1 or numbers[2] > _MOST_SEEDS:
            return False
    return True
