"""What the facts say, in sentences, and what to try next, as a command that exists.

A pure function of report.json and diagnosis.json; either may lack anything.
"""

from dataclasses import replace
from math import ceil, floor, inf, log10

from edgeqrl.diagnose.case import Case, Facts
from edgeqrl.diagnose.causes import bare_converter, causes, recalibrate
from edgeqrl.diagnose.finding import Advice, percent, section
from edgeqrl.validate.report import number

_ENOUGH = 500  # episodes from which an estimate of "never" is believed
_HOPELESS = 10  # times the episodes played
_MANY = 20_000  # episodes that one would rather not play
_MOST = 500_000  # that `validate` plays
_SPARE = 1.25  # more episodes than the estimate says, for it is one
_BEYOND = 1.1  # times the worst loss met: the next may be a little worse
_CHATTER_STEP = 0.5  # to which a rise of chatter is rounded up
_CHATTER_MOST = 10.0  # times as much again: to allow more is not to judge it
_SLIGHT_LOSS = 0.01  # of the float return: what is less explains nothing, where no margin says better

_LOOKED_AT = ("coverage", "states", "robustness", "blame")
_DISTURBED = {  # conditions of `diagnose.robustness`, in words
    "sensor_noise": "sensor noise of {share} of each feature's standard deviation",
    "dropped_observations": "{share} of the observations lost",
    "delay": "observations {steps} late",
}


def advise(case: Case, report: Facts, diagnosis: Facts | None = None) -> Advice:
    """Return what to try first."""
    return findings(case, report, diagnosis)[0]


def findings(case: Case, report: Facts, diagnosis: Facts | None = None) -> list[Advice]:
    """Return everything that the facts say, what to try first at the front; never empty."""
    verdict = _verdict(report, diagnosis)
    if verdict == "NOTHING_TO_PRESERVE":
        return [
            Advice(
                "nothing_to_preserve",
                "The float policy is not better than random actions, so quantization is not the cause: check "
                "the agent, its environment and its preprocessing, or train on.",
            )
        ]
    is_lossy, is_open = loses_return(report, diagnosis), verdict == "INCONCLUSIVE"
    is_restless, is_beyond = "chatter" in _named(report, "FAIL"), _breach(report) is not None
    found: list[Advice] = []
    if not (case.rewrites or case.is_learned) and (is_lossy or is_open or is_restless or is_beyond):
        found.append(bare_converter(case, diagnosis))
    last = [_chatter(case, report, diagnosis)] if is_restless else []
    if is_beyond:
        last.insert(0, _worst_loss(case, report))
    elif is_open:
        last.append(_more_episodes(case, report))
    if not is_lossy:  # then these come first
        found, last = found + last, []
    if diagnosis is not None and (is_lossy or is_open or is_restless or is_beyond):
        found += causes(case, diagnosis, is_blamed=is_lossy or _is_layer_to_blame(report, diagnosis))
    elif is_lossy and (case.rewrites or case.is_learned):
        sentence = "See which layer, feature or state costs the return."
        found.append(Advice("undiagnosed", sentence, case.command("diagnose")))
    found += last
    if not found and verdict is None and case.environment is not None and not is_lossy:
        found.append(_not_judged(case, report))
    fragile = _fragile(report, diagnosis)
    if not found and (is_lossy or fragile is None):
        found.append(_nothing(case, diagnosis, is_lossy))
    if is_lossy and verdict == "FAIL" and all(advice.command is None for advice in found):
        found[0] = _or_chosen(found[0], case, report)
    return found if fragile is None else [*found, fragile]


def loses_return(report: Facts, diagnosis: Facts | None) -> bool:
    """Say whether the quantized policy is known to return less: by the verdict, else by the diagnosis.

    More chatter is no loss of return, nor is one episode beyond the worst loss where the mean is not.
    """
    if report.get("verdict") == "PASS":
        return False
    if report.get("verdict") == "FAIL":
        failed = _named(report, "FAIL")
        excused = {"chatter"} if _breach(report) is None else {"chatter", "return"}
        return not failed or bool(failed - excused)
    returns = section(diagnosis, "returns")
    return "return_drop" in returns and _matters(returns["return_drop"], returns, report)


def _verdict(report: Facts, diagnosis: Facts | None) -> str | None:
    """Return the verdict; None also where the diagnosis knows better that there is something to preserve."""
    verdict = report.get("verdict")
    if verdict == "NOTHING_TO_PRESERVE":
        in_float = section(diagnosis, "returns").get("float_return")
        at_random = (report.get("baseline") or {}).get("random_return")
        if in_float is not None and at_random is not None and in_float["low"] > at_random["mean"]:
            return None
    return None if verdict is None else str(verdict)


def _named(report: Facts, verdict: str) -> set[str]:
    """Return the criteria with that verdict."""
    criteria = report.get("criteria") or ()
    return {criterion["name"] for criterion in criteria if criterion.get("verdict") == verdict}


def _breach(report: Facts) -> str | None:
    """Return "loss" or "gain" where one episode beyond the worst loss, and no more, has kept from a PASS."""
    for criterion in report.get("criteria") or ():
        if criterion["name"] == "return" and criterion.get("verdict") != "PASS" and criterion.get("breach"):
            is_lost = criterion["breach"] == "loss" and criterion["mean"] > criterion["limit"]
            return None if is_lost else str(criterion["breach"])
    return None


def _is_layer_to_blame(report: Facts, diagnosis: Facts) -> bool:
    """Say whether the layers' loss matters: of next to nothing, or of what may be lost, none is a cause."""
    blame, is_within = section(diagnosis, "blame"), "return" in _named(report, "PASS")
    return not is_within and "loss" in blame and _matters(blame["loss"], blame, report)


def _matters(drop: Facts, returns: Facts, report: Facts) -> bool:
    """Say whether a loss is beyond chance, and may be more than may be lost."""
    allowed = (report.get("terms") or {}).get("margin")
    if allowed is None or report.get("verdict") not in ("PASS", "FAIL", "INCONCLUSIVE"):
        in_float = returns.get("float_return") or {"mean": 0.0}
        allowed = _SLIGHT_LOSS * abs(in_float["mean"])
    return bool(drop["low"] > 0.0 and drop["high"] > allowed)


def _chatter(case: Case, report: Facts, diagnosis: Facts | None) -> Advice:
    below, rates = section(diagnosis, "states").get("margin_below_step"), _chatter_rates(report)
    why = (
        ""
        if not below
        else f" (in {percent(below)} of states the best output leads by less than one {case.dtype} step)"
    )
    found = f"The quantized actions change more from step to step than was allowed{why}"
    cure = "train with a cost on changes of action, or hold each action for some steps."
    if rates is None:
        return Advice("chatter", f"{found}: {cure}")
    in_float, quantized = rates
    steps = inf if in_float <= 0.0 else ceil((quantized / in_float - 1.0) / _CHATTER_STEP - 1e-9)
    is_judged = steps * _CHATTER_STEP <= _CHATTER_MOST
    allowed = f"{100 * _CHATTER_STEP * steps:.0f}%" if is_judged else "none"
    terms = case.terms(max_chatter=allowed if is_judged else None)
    return Advice(
        "chatter",
        f"{found}: {number(100 * quantized)} % a step where the float policy's change "
        f"{number(100 * in_float)} %. Accept it where the actuator does not mind, in a new judgement with "
        f"--max-chatter {allowed}; else {cure}",
        case.command("validate", *case.backends(report), *terms),
    )


def _chatter_rates(report: Facts) -> tuple[float, float] | None:
    """Return by what the actions change a step, in float and quantized, over all pairs that were judged."""
    detail = report.get("episodes_detail") or {}
    if not detail.get("float_chatter"):
        return None
    in_float, quantized = (detail[f"{name}_chatter"] for name in ("float", "quantized"))
    return sum(in_float) / len(in_float), sum(quantized) / len(quantized)


def _worst_loss(case: Case, report: Facts) -> Advice:
    is_gain, terms, detail = _breach(report) == "gain", report["terms"], report["episodes_detail"]
    losses = [a - b for a, b in zip(detail["float_return"], detail["quantized_return"], strict=True)]
    amounts = [-loss for loss in losses] if is_gain else losses
    most = max(amounts)
    seed = detail["seed"][amounts.index(most)]
    count = sum(amount > terms["worst_loss"] for amount in amounts)
    stated = "declared" if terms.get("is_worst_loss_declared") else "assumed"
    limit = f"more than the {stated} worst loss of {number(terms['worst_loss'])}"
    verb, noun = ("gained", "gains") if is_gain else ("lost", "losses")
    what, which = f"One episode (seed {seed}) {verb} {number(most)}, {limit}", "that episode"
    if count > 1:
        what, which = f"{count:,} episodes {verb} {limit}, seed {seed} most: {number(most)}", "them"
    why = ", where the float policy may have collapsed" if is_gain else ""
    wanted = case.terms(worst_loss=_rounded_up(_BEYOND * most))
    return Advice(
        "worst_loss",
        f"{what}. Look at {which}{why}; if such {noun} can happen, declare them with --worst-loss.",
        case.command("validate", *case.backends(report), *wanted),
    )


def _more_episodes(case: Case, report: Facts) -> Advice:
    played = int(report.get("episodes") or 0)
    missing = report.get("episodes_to_decide")
    if played >= _ENOUGH and (missing is None or missing > _HOPELESS * played):
        return _at_the_limit(case, report, played)
    total = _rounded_episodes(2 * played)
    sentence = f"The {played:,} episodes played do not decide. Play up to {total:,}."
    if missing is not None and played + missing <= _MOST:
        total = min(_rounded_episodes(_SPARE * (played + int(missing))), _MOST)
        sentence = f"The {played:,} episodes played do not decide. Play up to {total:,}."
    if total >= _MANY:
        sentence = (
            f"The {played:,} episodes played do not decide, and it may take about {total:,}: a better "
            "policy, or other terms, would need fewer."
        )
    return Advice(
        "more_episodes",
        sentence,
        case.command("validate", "--episodes", str(total), *case.backends(report), *case.terms()),
    )


def _at_the_limit(case: Case, report: Facts, played: int) -> Advice:
    open_ones = [c for c in report.get("criteria") or () if c["verdict"] == "INCONCLUSIVE"]
    if any(c["name"] == "failures" and c["mean"] > 0.0 for c in open_ones):
        return Advice(
            "rare_failures",
            f"It fails in rare episodes, as with seed {report['worst_pair']['seed']}: calibration may not "
            "have met what happens there. Calibrate on more episodes.",
            recalibrate(case),
        )
    return Advice(
        "at_the_limit",
        f"{played:,} episodes do not decide and more hardly would: what is judged lies close to what was "
        "declared as its limit. A better policy would decide, or other terms, declared anew.",
    )


def _not_judged(case: Case, report: Facts) -> Advice:
    if case.head.get("kind") == "value":
        return Advice("not_judged", "Judge the policy that uses these values; alone they have no return.")
    said = "No verdict has been given yet."
    if report.get("verdict") == "NOTHING_TO_PRESERVE":
        said = (
            "The float policy is better than random actions here, unlike where it was judged: judge it here."
        )
    return Advice("not_judged", said, case.command("validate", *case.terms()))


def _fragile(report: Facts, diagnosis: Facts | None) -> Advice | None:
    """Return under which disturbance the quantized policy loses most, where it loses more than without."""
    rows = section(diagnosis, "robustness").get("rows", ())
    allowed = max(
        0.0,
        (report.get("terms") or {}).get("margin") or 0.0,
        *(row["return_drop"]["high"] for row in rows if row["condition"] not in _DISTURBED),
    )
    lost = [(row["return_drop"], row) for row in rows if row["condition"] in _DISTURBED]
    # Of as many rows one is beyond its interval by chance: twice as far is not chance.
    clear = [(drop["mean"], row) for drop, row in lost if 2.0 * drop["low"] - drop["mean"] > allowed]
    if not clear:
        return None
    _, worst = max(clear, key=lambda found: float(found[0]))
    level = worst["level"]
    where = _DISTURBED[worst["condition"]].format(
        share=percent(level), steps=f"{level:g} step{'' if level == 1 else 's'}"
    )
    returns = [number(worst[name]["mean"]) for name in ("float_return", "quantized_return")]
    return Advice(
        "fragile",
        f"Quantization made it fragile: with {where} the float policy returns {returns[0]} and the quantized "
        f"one {returns[1]}.",
    )


def _nothing(case: Case, diagnosis: Facts | None, is_lossy: bool) -> Advice:
    missing = [name for name in _LOOKED_AT if (diagnosis or {}).get(name, {}).get("unavailable")]
    left_out = f" Not examined: {', '.join(missing)}." if missing else ""
    if len(missing) == len(_LOOKED_AT) and (is_lossy or case.environment is not None):
        known = "Return is lost" if is_lossy else "No loss of return is seen"
        return Advice("not_examined", f"{known}, but what may cost it was not examined.")
    if is_lossy:
        return Advice(
            "unexplained",
            "Return is lost, and nothing that was looked at explains it: no feature or layer saturates, none "
            f"stands out, and calibration was not short.{left_out}",
        )
    if case.environment is None:
        return Advice(
            "no_environment",
            "Recorded observations tell no return. Name an environment to convert in, with --env.",
        )
    return Advice("nothing_found", f"Nothing found that costs return.{left_out}")


def _or_chosen(advice: Advice, case: Case, report: Facts) -> Advice:
    """Return the advice with the last resort, a scheme that is chosen, where none was chosen or trained."""
    command = None if case.is_learned or "choice" in report else case.convert_chosen()
    if command is None:
        return advice
    sentence = f"{advice.sentence} Else have a scheme chosen by the return that it holds."
    return replace(advice, sentence=sentence, command=command)


def _rounded_episodes(episodes: float) -> int:
    unit = 1000 if episodes >= _MANY else 100
    return max(unit * ceil(episodes / unit), unit)


def _rounded_up(value: float) -> str:
    """Write a positive number with two digits, none less than it."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    return f"{ceil(value / unit - 1e-9) * unit:.12g}"
