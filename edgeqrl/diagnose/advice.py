"""What the facts say, in sentences, and what to try next, as a command that exists.

A pure function of report.json and diagnosis.json; either may lack anything.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from edgeqrl.validate.terms import Declared

FEW_EPISODES = 20  # of calibration; the default
MANY_EPISODES = 100

_SATURATES = 0.002  # of the float policy's states: beyond what a fresh episode adds to any range
_LAYER_SATURATES = 0.01
_MOSTLY = 0.5
_ENOUGH = 500  # episodes from which an estimate of "never" is believed
_RESCALE = (
    "Train on observations whose features have like ranges, as with gymnasium.wrappers.RescaleObservation."
)
_HOPELESS = 10  # times the episodes played
_SPARE = 1.25  # more episodes than the estimate says, for it is one

PLACE = "BUNDLE"  # for the folder, in commands that are kept: a bundle does not know where it lies

Facts = Mapping[str, Any]


def with_folder(command: str, folder: str) -> str:
    """Return a kept command with the bundle's folder in it."""
    return " ".join(
        shlex.quote(folder) + word.removeprefix(PLACE) if re.fullmatch(rf"{PLACE}(/\S*)?", word) else word
        for word in command.split(" ")
    )


@dataclass(frozen=True)
class Case:
    """What a command needs to know of a bundle."""

    folder: str
    name: str
    rewrites: bool
    head: Facts  # as in the manifest
    environment: Facts | None  # as EnvironmentSpec.to_json; None: recorded observations
    is_stated: bool  # the environment was named on the command line and must be named again
    agent: str | None  # path of the agent's file in the bundle
    calibration_episodes: int | None  # None: recorded observations
    board: str | None
    declared: Facts  # the terms of the last judgement, as the user stated them; empty before the first

    @classmethod
    def of_manifest(
        cls, folder: str, manifest: Facts, calibration_episodes: int | None, stated: Facts | None = None
    ) -> "Case":
        """Return the case of a bundle's manifest; `stated` is the environment of the command line."""
        artefacts = [path for path in manifest.get("artefacts", ()) if path.startswith("agent/")]
        is_folder = any(path.startswith("agent/saved_model/") for path in artefacts)
        files = ["agent/saved_model"] if is_folder else [p for p in artefacts if p != "agent/agent.sha256"]
        return cls(
            folder=folder,
            name=str(manifest["name"]),
            rewrites=bool(manifest.get("scheme", {}).get("rewrites", True)),
            head=manifest.get("head", {}),
            environment=stated or manifest.get("environment"),
            is_stated=stated is not None,
            agent=files[0] if files else None,
            calibration_episodes=calibration_episodes,
            board=manifest.get("board"),
            declared=next((entry["declared"] for entry in reversed(manifest.get("judgements", ()))), {}),
        )

    def command(self, stage: str, *options: str) -> str | None:
        """Return `edgeqrl STAGE BUNDLE ...`, or None where only Python knows the environment."""
        if self._is_callable:
            return None
        arguments = self._environment_arguments() if self.is_stated else []
        return shlex.join(["edgeqrl", stage, self.folder, *arguments, *options])

    def convert(self, *options: str) -> str | None:
        """Return the command that makes the bundle anew from its own agent, or None where there is none."""
        if self._is_callable or self.agent is None or self.environment is None:
            return None
        arguments = [f"{self.folder}/{self.agent}", *self._environment_arguments(), "-o", self.folder]
        arguments += ["--name", self.name]
        if self.head.get("kind") == "box":
            is_scaled = any(g != 1.0 for g in self.head["gain"]) or any(self.head["offset"])
            arguments += ["--head", "scale" if is_scaled else "clip"]
        if self.board is not None:
            arguments += ["--board", self.board]
        return shlex.join(["edgeqrl", "convert", *arguments, *options])

    def terms(self) -> list[str]:
        """Return the options that state the declared terms again, where they are not the defaults."""
        options: list[str] = []
        for name, default in Declared().to_json().items():
            value = self.declared.get(name, default)
            if value != default:
                options += [f"--{name.replace('_', '-')}", "none" if value is None else str(value)]
        return options

    @property
    def _is_callable(self) -> bool:
        return not self.is_stated and bool((self.environment or {}).get("is_callable"))

    def _environment_arguments(self) -> list[str]:
        assert self.environment is not None
        arguments = ["--env", str(self.environment["env_id"])]
        for name, value in self.environment.get("kwargs", {}).items():
            arguments += ["--env-arg", f"{name}={json.dumps(value)}"]
        for wrapper in self.environment.get("wrappers", ()):
            arguments += ["--wrapper", str(wrapper)]
        return arguments


@dataclass(frozen=True)
class Advice:
    """One thing found, and what to do about it."""

    kind: str
    sentence: str
    command: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return plain JSON values."""
        return asdict(self)


def advise(case: Case, report: Facts, diagnosis: Facts | None = None) -> Advice:
    """Return what to try first."""
    return findings(case, report, diagnosis)[0]


def findings(case: Case, report: Facts, diagnosis: Facts | None = None) -> list[Advice]:
    """Return everything that the facts say, what to try first at the front; never empty."""
    verdict = report.get("verdict")
    if verdict == "NOTHING_TO_PRESERVE":
        return [
            Advice(
                "nothing_to_preserve",
                "The float policy is not better than random actions, so quantization is not the cause: check "
                "the agent, its environment and its preprocessing, or train on.",
            )
        ]
    is_lossy, is_open = loses_return(report, diagnosis), verdict == "INCONCLUSIVE"
    found: list[Advice] = []
    if not case.rewrites and (is_lossy or is_open):
        found.append(_bare(case, diagnosis))
    if is_open and not is_lossy:
        found.append(_more_episodes(case, report))
    is_restless = "chatter" in _failed(report)
    if is_restless and not is_lossy:
        found.append(_chatter(diagnosis))
    if diagnosis is not None and (is_lossy or is_open or is_restless):
        found += _causes(case, diagnosis)
    elif is_lossy and case.rewrites:
        sentence = "See which layer, feature or state costs the return."
        found.append(Advice("undiagnosed", sentence, case.command("diagnose")))
    if is_restless and is_lossy:
        found.append(_chatter(diagnosis))
    if is_open and is_lossy:
        found.append(_more_episodes(case, report))
    if not found and verdict is None and case.environment is not None and not is_lossy:
        found.append(Advice("not_judged", "No verdict has been given yet.", case.command("validate")))
    return found or [_nothing(case, is_lossy)]


def loses_return(report: Facts, diagnosis: Facts | None) -> bool:
    """Say whether the quantized policy is known to return less: by the verdict, else by the diagnosis."""
    verdict = report.get("verdict")
    if verdict in ("PASS", "FAIL"):
        return verdict == "FAIL" and _failed(report) != {"chatter"}
    drop = ((diagnosis or {}).get("returns") or {}).get("return_drop")
    return drop is not None and drop["low"] > 0.0


def _failed(report: Facts) -> set[str]:
    criteria = report.get("criteria") or ()
    return {criterion["name"] for criterion in criteria if criterion.get("verdict") == "FAIL"}


def _causes(case: Case, diagnosis: Facts) -> list[Advice]:
    """Return what may cost return, the better evidence first."""
    candidates = (
        _saturated(case, diagnosis),
        _culprit(case, diagnosis),
        _coarse(diagnosis),
        _margins(diagnosis) if case.rewrites else None,  # else said with the bare converter
        _few_episodes(case),
    )
    return [advice for advice in candidates if advice is not None]


def _bare(case: Case, diagnosis: Facts | None) -> Advice:
    states = _section(diagnosis, "states")
    why = ""
    if states.get("disagreeing_below_step") is not None and states["disagreeing_below_step"] >= _MOSTLY:
        why = (
            f": {_percent(states['disagreeing_below_step'])} of the wrong actions fall where the two best "
            "outputs lie closer than one int8 step"
        )
    return Advice(
        "bare_converter",
        f"The bare converter was used, without the rewrites that spread the outputs over int8{why}. Quantize "
        "with them.",
        case.command("quantize"),
    )


def _saturated(case: Case, diagnosis: Facts) -> Advice | None:
    coverage = _section(diagnosis, "coverage")
    features = [f for f in coverage.get("features", ()) if (f.get("float_saturated") or 0.0) > _SATURATES]
    layers = [f for f in coverage.get("layers", ()) if (f.get("float_saturated") or 0.0) > _LAYER_SATURATES]
    if not features and not layers:
        return None
    if features:
        worst = max(features, key=lambda feature: float(feature["float_saturated"]))
        where = f"feature {worst['index']} of the observation"
    else:
        worst = max(layers, key=lambda layer: float(layer["float_saturated"]))
        where = f"layer '{_layer_name(worst['name'])}'"
    return Advice(
        "saturation",
        f"Calibration met too narrow a range: {where} is clipped in {_percent(worst['float_saturated'])} of "
        "the float policy's states. Calibrate on more episodes.",
        _recalibrate(case),
    )


def _culprit(case: Case, diagnosis: Facts) -> Advice | None:
    blame = _section(diagnosis, "blame")
    suspects = blame.get("suspects") or ()
    if len(suspects) > 1:
        named = " and ".join(
            "the observation" if name == "observation" else f"'{_layer_name(name)}'" for name in suspects
        )
        return Advice(
            "shared_blame",
            f"No one layer is the cause: each of {named} brings most of the loss back, alone in float. The "
            "network works at the edge of what int8 resolves.",
        )
    if not suspects:
        return None
    (name,) = suspects
    shares = {row["name"]: row["share"] for row in blame.get("rows", ()) if row["share"] is not None}
    share = f", {_percent(min(shares[name], 1.0))} of what is lost" if name in shares else ""
    if name == "observation":
        return Advice(
            "culprit",
            f"Rounding the observation to int8 costs most{share}: its features share one scale. {_RESCALE}",
        )
    return Advice(
        "culprit",
        f"Layer '{_layer_name(name)}' costs most{share}: it comes back with that layer alone in float. See "
        "its scales.",
        shlex.join(["edgeqrl", "inspect", f"{case.folder}/policy.tflite"]),
    )


def _coarse(diagnosis: Facts) -> Advice | None:
    features = [f for f in _section(diagnosis, "coverage").get("features", ()) if f.get("is_coarse")]
    if not features:
        return None
    worst = min(features, key=lambda feature: int(feature["levels"]))
    return Advice(
        "coarse_feature",
        f"Feature {worst['index']} of the observation takes {worst['levels']} of 256 levels, since all "
        f"features share the scale of the widest. {_RESCALE}",
    )


def _margins(diagnosis: Facts) -> Advice | None:
    states = _section(diagnosis, "states")
    below = states.get("disagreeing_below_step")
    if below is None or below < _MOSTLY:
        return None
    return Advice(
        "margins",
        f"{_percent(below)} of the wrong actions fall where the two best outputs lie closer than one int8 "
        "step: the range of the outputs is wide against what tells actions apart. Training that "
        "widens the gaps between actions, as advantage learning does, helps.",
    )


def _few_episodes(case: Case) -> Advice | None:
    count = case.calibration_episodes
    if count is None or count >= FEW_EPISODES:
        return None
    return Advice(
        "few_calibration_episodes",
        f"Calibration saw {count} episode{'' if count == 1 else 's'}. Calibrate on more.",
        _recalibrate(case),
    )


def _chatter(diagnosis: Facts | None) -> Advice:
    states = _section(diagnosis, "states")
    why = ""
    if states.get("margin_below_step"):
        why = (
            f" (in {_percent(states['margin_below_step'])} of states the two best outputs lie closer than "
            "one int8 step)"
        )
    return Advice(
        "chatter",
        f"The quantized actions change more from step to step than was allowed{why}: train with a cost on "
        "changes of action, or hold each action for some steps.",
    )


def _more_episodes(case: Case, report: Facts) -> Advice:
    played = int(report.get("episodes") or 0)
    missing = report.get("episodes_to_decide")
    is_hopeless = played >= _ENOUGH if missing is None else missing > _HOPELESS * played
    if is_hopeless:
        open_ones = [c for c in report.get("criteria") or () if c["verdict"] == "INCONCLUSIVE"]
        if any(c["name"] == "failures" and c["mean"] > 0.0 for c in open_ones):
            seed = report["worst_pair"]["seed"]
            return Advice(
                "rare_failures",
                f"It fails in rare episodes, as with seed {seed}: calibration may not have met what happens "
                "there. Calibrate on more episodes.",
                _recalibrate(case),
            )
        return Advice(
            "at_the_limit",
            f"{played:,} episodes do not decide and more hardly would: what is judged lies close to what was "
            "declared as its limit. A better policy would decide, or other terms, declared anew.",
        )
    wanted = 2 * played if missing is None else _SPARE * (played + int(missing))
    total = max(100 * ceil(wanted / 100), 100)
    return Advice(
        "more_episodes",
        f"The {played:,} episodes played do not decide. Play up to {total:,}.",
        case.command("validate", "--episodes", str(total), *_backends(case, report), *case.terms()),
    )


def _backends(case: Case, report: Facts) -> list[str]:
    """Return the options that name the report's backends again: so the same judgement goes on."""
    options = []
    if report.get("backend", "host-c") != "host-c":
        options += ["--backend", str(report["backend"])]
    if report.get("float_backend") == "keras" and case.agent is not None:
        options += ["--float-backend", "keras"]
    return options


def _nothing(case: Case, is_lossy: bool) -> Advice:
    if is_lossy:
        return Advice(
            "unexplained",
            "Return is lost, and nothing that was looked at explains it: no feature or layer saturates, none "
            "stands out, and calibration was not short.",
        )
    if case.environment is None:
        return Advice(
            "no_environment",
            "Recorded observations tell no return. Name an environment to convert in, with --env.",
        )
    return Advice("nothing_found", "Nothing found that costs return.")


def _recalibrate(case: Case) -> str | None:
    episodes = max(MANY_EPISODES, 4 * (case.calibration_episodes or 0))
    return case.convert("--calibration-episodes", str(episodes), *case.terms())


def _section(diagnosis: Facts | None, name: str) -> Facts:
    section = (diagnosis or {}).get(name)
    return section if isinstance(section, Mapping) and "unavailable" not in section else {}


def _layer_name(name: str) -> str:
    """Return the first of the names that a converter joined for one layer, without its model's."""
    return "/".join(name.split(";")[0].split("/")[-2:])


def _percent(share: float) -> str:
    percent = 100.0 * share
    return f"{percent:.0f} %" if percent >= 10.0 else f"{percent:.2g} %"
