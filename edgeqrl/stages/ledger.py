"""The ledger of judgements: whoever judges until something passes must pay for it in confidence.

It lies in the bundle's manifest and stays through `quantize` and through `convert` into the same folder. All
judgements of an agent share one alpha, whatever network, environment or terms they judge. A judgement that
is repeated is the same one: it plays the same seeds at the same level, at least as many as before, and says
the same. With more episodes it goes on, which costs nothing: betting may be looked at whenever one likes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeqrl.bundle import Bundle, open_bundle
from edgeqrl.errors import DataError, UsageError
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import baseline_seeds_of, default_seed

LEDGER = "judgements"  # facts of the manifest
DIAGNOSED = "diagnosed"
CHOICES = "choices"
CHOSEN = "chosen_seeds"
LEARNED = "learned_seeds"
MOST = 40  # more would leave no confidence to share

Entry = dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """A place in the ledger, new or known."""

    number: int  # 1 for the agent's first
    seed: int
    num_played: int  # pairs, if it is repeated
    key: Mapping[str, Any]


def find_judgement(
    bundle: Bundle,
    *,
    policy_sha256: str,
    environment: Mapping[str, Any] | None,
    backends: tuple[str, str],
    declared: Declared,
    seed: int | None,
) -> Judgement:
    """Return the judgement of a policy: the known one if all is the same, however it is spelled.

    backends  of the quantized and of the float policy
    seed      the first, if one is stated

    Raises UsageError where the earlier judgements leave no confidence for another.
    """
    key = {
        "agent": _agent_of(bundle),
        "policy_sha256": policy_sha256,
        "environment": None if environment is None else dict(environment),
        "backend": backends[0],
        "float_backend": backends[1],
        "terms": declared.canonical(),
    }
    earlier = judgements_of(bundle)
    for entry in earlier:
        is_same = all(entry.get(name) == value for name, value in key.items())
        if is_same and seed in (None, entry["seeds"]["first"]):
            return Judgement(entry["number"], entry["seeds"]["first"], entry["seeds"]["count"], key)
    number = len(earlier) + 1
    if number > MOST:
        raise UsageError(
            f"'{bundle}' has been judged {len(earlier)} times, which leaves no confidence for more. "
            "Convert into a new folder, and say in your report how many came before."
        )
    shared = earlier[0]["declared"].get("alpha") if earlier else declared.alpha
    if shared != declared.alpha:
        raise UsageError(
            f"All judgements of an agent share one alpha, and the first of '{bundle}' declared {shared}; say "
            f"--alpha {shared}, or convert into a new folder."
        )
    return Judgement(number, default_seed(number) if seed is None else seed, 0, key)


def record_judgement(
    bundle: Bundle, judgement: Judgement, declared: Declared, seeds: Mapping[str, int], verdict: str
) -> None:
    """Write a judgement into the ledger, in place of its shorter run."""
    entry = {
        "number": judgement.number,
        **judgement.key,
        "declared": declared.to_json(),
        "seeds": dict(seeds),
        "verdict": verdict,
    }
    place = (entry["agent"], entry["number"])
    others = [e for e in bundle.facts.get(LEDGER, []) if (e["agent"], e["number"]) != place]
    bundle.facts[LEDGER] = sorted([*others, entry], key=lambda e: (str(e["agent"]), e["number"]))


def judged_seeds(bundle: Bundle, *, but: int | None = None) -> list[range]:
    """Return all seeds that judgements of the agent have played, except the one of number `but`."""
    taken = []
    for entry in judgements_of(bundle):
        if entry["number"] != but:
            first, count = entry["seeds"]["first"], entry["seeds"]["count"]
            taken += [range(first, first + count), baseline_seeds_of(first)]
    return taken


def diagnosed_seeds(bundle: Bundle) -> list[range]:
    """Return all seeds that diagnoses have shown."""
    return [range(first, first + count) for first, count in bundle.facts.get(DIAGNOSED, [])]


def record_diagnosis(bundle: Bundle, seeds: range) -> None:
    """Remember which seeds a diagnosis has shown: they may select, so they no longer judge."""
    known = bundle.facts.get(DIAGNOSED, [])
    played = [seeds.start, len(seeds)]
    bundle.facts[DIAGNOSED] = known if played in known else [*known, played]


def chosen_seeds(bundle: Bundle) -> list[range]:
    """Return all seeds that have chosen a scheme."""
    return [range(first, first + count) for first, count in bundle.facts.get(CHOSEN, [])]


def learned_seeds(bundle: Bundle) -> list[range]:
    """Return all seeds that a network has learned on."""
    return [range(first, first + count) for first, count in bundle.facts.get(LEARNED, [])]


def record_learned(bundle: Bundle, seeds: range) -> None:
    """Remember which seeds a network has learned on: what it was fitted to judges nothing."""
    known = bundle.facts.get(LEARNED, [])
    played = [seeds.start, len(seeds)]
    bundle.facts[LEARNED] = known if played in known or not seeds else [*known, played]


def find_choice(bundle: Bundle, key: Mapping[str, Any]) -> Entry | None:
    """Return what was chosen for the same before: the section `choice` of that report; None if nothing was.

    An environment that only Python knows is never known to be the same.
    """
    if (key["environment"] or {}).get("is_callable"):
        return None
    found = (entry["choice"] for entry in bundle.facts.get(CHOICES, []) if entry["for"] == dict(key))
    return next(found, None)


def record_choice(bundle: Bundle, key: Mapping[str, Any], section: Entry, *, is_kept: bool) -> None:
    """Remember which seeds have chosen; with `is_kept` also what, to be found again."""
    played = [[section[name]["first"], section[name]["count"]] for name in ("seeds", "baseline_seeds")]
    known = bundle.facts.get(CHOSEN, [])
    bundle.facts[CHOSEN] = [*known, *(seeds for seeds in played if seeds not in known)]
    if is_kept:
        others = [entry for entry in bundle.facts.get(CHOICES, []) if entry["for"] != dict(key)]
        bundle.facts[CHOICES] = [*others, {"for": dict(key), "choice": section}]


def judgements_of(bundle: Bundle) -> list[Entry]:
    """Return the judgements of the bundle's agent, oldest first."""
    agent = _agent_of(bundle)
    return [entry for entry in bundle.facts.get(LEDGER, []) if entry["agent"] == agent]


def earlier_facts(folder: Path) -> dict[str, Any]:
    """Return the ledger of the bundle that is about to be replaced; nothing if there is none."""
    try:
        facts = open_bundle(folder).facts
    except DataError:
        return {}
    return {name: facts[name] for name in (LEDGER, DIAGNOSED, CHOICES, CHOSEN, LEARNED) if name in facts}


def _agent_of(bundle: Bundle) -> str:
    return str(bundle.fact("weights_sha256"))
