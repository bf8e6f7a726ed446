"""What a diagnosis shows that may cost return: ranges, layers, features, margins, a short calibration."""

import shlex

from edgeqrl.diagnose.case import Case, Facts
from edgeqrl.diagnose.finding import Advice, layer_name, percent, section

FEW_EPISODES = 20  # of calibration; the default
MANY_EPISODES = 100

_SATURATES = 0.002  # of the float policy's states: beyond what a fresh episode adds to any range
_LAYER_SATURATES = 0.01
_MOSTLY = 0.5
_RESCALE = (
    "Train on observations whose features have like ranges, as with gymnasium.wrappers.RescaleObservation."
)


def causes(case: Case, diagnosis: Facts, *, is_blamed: bool) -> list[Advice]:
    """Return what may cost return, the better evidence first; a layer only where `is_blamed`."""
    candidates = (
        None if case.is_learned else _saturated(case, diagnosis),
        _culprit(case, diagnosis) if is_blamed else None,
        _coarse(case, diagnosis),
        _margins(case, diagnosis) if case.rewrites else None,  # else said with the bare converter
        None if case.is_learned else _few_episodes(case),
    )
    return [advice for advice in candidates if advice is not None]


def bare_converter(case: Case, diagnosis: Facts | None) -> Advice:
    """Return what to do where the rewrites were left out, and why."""
    states = section(diagnosis, "states")
    why = ""
    if states.get("disagreeing_below_step") is not None and states["disagreeing_below_step"] >= _MOSTLY:
        why = (
            f": {percent(states['disagreeing_below_step'])} of the wrong actions fall where the two best "
            f"outputs lie closer than one {case.dtype} step"
        )
    return Advice(
        "bare_converter",
        f"The bare converter was used, without the rewrites that spread the outputs over {case.dtype}{why}. "
        "Quantize with them.",
        case.command("quantize"),
    )


def recalibrate(case: Case) -> str | None:
    """Return the command that converts anew with more episodes of calibration."""
    episodes = max(MANY_EPISODES, 4 * (case.calibration_episodes or 0))
    return case.convert("--calibration-episodes", str(episodes), *case.terms())


def _saturated(case: Case, diagnosis: Facts) -> Advice | None:
    coverage = section(diagnosis, "coverage")
    features = [f for f in coverage.get("features", ()) if (f.get("float_saturated") or 0.0) > _SATURATES]
    layers = [f for f in coverage.get("layers", ()) if (f.get("float_saturated") or 0.0) > _LAYER_SATURATES]
    if not features and not layers:
        return None
    if features:
        worst = max(features, key=lambda feature: float(feature["float_saturated"]))
        where = f"feature {worst['index']} of the observation"
    else:
        worst = max(layers, key=lambda layer: float(layer["float_saturated"]))
        where = f"layer '{layer_name(worst['name'])}'"
    return Advice(
        "saturation",
        f"Calibration met too narrow a range: {where} is clipped in {percent(worst['float_saturated'])} of "
        "the float policy's states. Calibrate on more episodes.",
        recalibrate(case),
    )


def _culprit(case: Case, diagnosis: Facts) -> Advice | None:
    blame = section(diagnosis, "blame")
    suspects = blame.get("suspects") or ()
    if len(suspects) > 1 and not case.rewrites:
        return None  # what int8 resolves is known only with the rewrites
    if len(suspects) > 1:
        named = " and ".join(
            "the observation" if name == "observation" else f"'{layer_name(name)}'" for name in suspects
        )
        return Advice(
            "shared_blame",
            f"No one layer is the cause: each of {named} brings most of the loss back, alone in float. The "
            f"network works at the edge of what {case.dtype} resolves.",
        )
    if not suspects:
        return None
    (name,) = suspects
    shares = {row["name"]: row["share"] for row in blame.get("rows", ()) if row["share"] is not None}
    share = f", {percent(min(shares[name], 1.0))} of what is lost" if name in shares else ""
    if name == "observation":
        return Advice(
            "culprit",
            f"Rounding the observation to {case.dtype} costs most{share}: its features share one scale. "
            f"{_RESCALE}",
        )
    return Advice(
        "culprit",
        f"Layer '{layer_name(name)}' costs most{share}: it comes back with that layer alone in float. See "
        "its scales.",
        shlex.join(["edgeqrl", "inspect", f"{case.folder}/policy.tflite"]),
    )


def _coarse(case: Case, diagnosis: Facts) -> Advice | None:
    features = [f for f in section(diagnosis, "coverage").get("features", ()) if f.get("is_coarse")]
    if not features:
        return None
    worst = min(features, key=lambda feature: int(feature["levels"]))
    return Advice(
        "coarse_feature",
        f"Feature {worst['index']} of the observation takes {worst['levels']} of "
        f"{'65,536' if case.dtype == 'int16' else 256} levels, since all features share the scale of the "
        f"widest. {_RESCALE}",
    )


def _margins(case: Case, diagnosis: Facts) -> Advice | None:
    states = section(diagnosis, "states")
    below = states.get("disagreeing_below_step")
    if below is None or below < _MOSTLY:
        return None
    return Advice(
        "margins",
        f"{percent(below)} of the wrong actions fall where the two best outputs lie closer than one "
        f"{case.dtype} step: the range of the outputs is wide against what tells actions apart. Training "
        "that widens the gaps between actions, as advantage learning does, helps.",
    )


def _few_episodes(case: Case) -> Advice | None:
    count = case.calibration_episodes
    if count is None or count >= FEW_EPISODES:
        return None
    return Advice(
        "few_calibration_episodes",
        f"Calibration saw {count} episode{'' if count == 1 else 's'}. Calibrate on more.",
        recalibrate(case),
    )
