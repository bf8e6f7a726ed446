"""What a command that goes on with a bundle must say again: its environment, its head, its terms."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeqrl.validate.terms import Declared

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
    is_learned: bool  # its weights and ranges were trained: no calibration decides them
    head: Facts  # as in the manifest
    environment: Facts | None  # as EnvironmentSpec.to_json; None: recorded observations
    is_stated: bool  # the environment was named on the command line and must be named again
    agent: str | None  # path of the agent's file in the bundle
    calibration_episodes: int | None  # None: recorded observations
    board: str | None
    declared: Facts  # the terms of the last judgement, as the user stated them; empty before the first
    again: tuple[str, ...] | None = ()  # options of the agent; None: no command says them
    scheme: tuple[str, ...] = ()  # options that ask for the scheme
    dtype: str = "int8"  # of the activations: "int8" or "int16"
    placement: tuple[str, ...] = ()  # what --place said of the board's regions

    @classmethod
    def of_manifest(
        cls,
        folder: str,
        manifest: Facts,
        calibration_episodes: int | None,
        stated: Facts | None = None,
        scheme_options: Sequence[str] = (),
    ) -> "Case":
        """Return the case of a bundle's manifest; `stated` is the environment of the command line.

        scheme_options  those that ask for the manifest's scheme
        """
        artefacts = [path for path in manifest.get("artefacts", ()) if path.startswith("agent/")]
        is_folder = any(path.startswith("agent/saved_model/") for path in artefacts)
        files = ["agent/saved_model"] if is_folder else [p for p in artefacts if p != "agent/agent.sha256"]
        return cls(
            folder=folder,
            name=str(manifest["name"]),
            rewrites=bool(manifest.get("scheme", {}).get("rewrites", True)),
            is_learned=bool(manifest.get("scheme", {}).get("learned", False)),
            head=manifest.get("head", {}),
            environment=stated or manifest.get("environment"),
            is_stated=stated is not None,
            agent=files[0] if files else None,
            calibration_episodes=calibration_episodes,
            board=manifest.get("board"),
            declared=next((entry["declared"] for entry in reversed(manifest.get("judgements", ()))), {}),
            again=_options_again(manifest),
            scheme=tuple(scheme_options),
            dtype=str(manifest.get("scheme", {}).get("activations", "int8")),
            placement=tuple(f"{what}={where}" for what, where in manifest.get("placement", {}).items()),
        )

    def command(self, stage: str, *options: str) -> str | None:
        """Return `edgeqrl STAGE BUNDLE ...`, or None where only Python knows the environment."""
        if self._is_callable:
            return None
        arguments = self._environment_arguments() if self.is_stated else []
        return shlex.join(["edgeqrl", stage, self.folder, *arguments, *options])

    def convert(self, *options: str) -> str | None:
        """Return the command that makes the bundle anew from its own agent, or None where there is none."""
        if self._is_callable or self.agent is None or self.environment is None or self.again is None:
            return None
        arguments = [f"{self.folder}/{self.agent}", *self._environment_arguments(), "-o", self.folder]
        arguments += ["--name", self.name]
        if self.head.get("kind") == "box":
            is_scaled = any(g != 1.0 for g in self.head["gain"]) or any(self.head["offset"])
            arguments += ["--head", "scale" if is_scaled else "clip"]
        arguments += [*self.again, *self.scheme]
        if self.board is not None:
            arguments += ["--board", self.board]
            arguments += [word for place in self.placement for word in ("--place", place)]
        return shlex.join(["edgeqrl", "convert", *arguments, *options])

    def convert_chosen(self) -> str | None:
        """Return the command that makes the bundle anew by a scheme that is chosen, or None as `convert`."""
        return replace(self, scheme=("--scheme", "auto")).convert(*self.terms())

    def terms(self, **changed: float | str | None) -> list[str]:
        """Return the options that state the declared terms again, but for the changed ones.

        Defaults are left out.
        """
        options: list[str] = []
        for name, default in Declared().to_json().items():
            value = changed.get(name, self.declared.get(name, default))
            if value != default:
                options += [f"--{name.replace('_', '-')}", "none" if value is None else str(value)]
        return options

    def backends(self, report: Facts) -> list[str]:
        """Return the options that name the report's backends again: so the same judgement goes on."""
        options = []
        if report.get("backend", "host-c") != "host-c":
            options += ["--backend", str(report["backend"])]
        if "device" in report:
            options += ["--port", str(report["device"]["port"]), "--baud", str(report["device"]["baud"])]
        if report.get("float_backend") == "keras" and self.agent is not None:
            options += ["--float-backend", "keras"]
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
        for wrapper in self.environment.get("keep_wrappers", ()):
            arguments += ["--keep-wrapper", str(wrapper)]
        return arguments


def _options_again(manifest: Facts) -> tuple[str, ...] | None:
    """Return the options of `convert` that the manifest repeats; None where it does not know them all."""
    stated = {
        k: v for k, v in manifest.get("agent_options", {}).items() if k not in ("head", "action_bounds")
    }
    preprocessing = manifest.get("preprocessing", {})
    parts = preprocessing.get("parts", ())
    is_changed = any(part.get(row) is not None for part in parts for row in ("gain", "offset", "low", "high"))
    if is_changed or preprocessing.get("frames") is not None or not set(stated) <= _REPEATED:
        return None
    options: list[str] = []
    for name, value in stated.items():
        if name == "stochastic":
            options.append("--stochastic" if value else "--deterministic")
        else:
            options += [f"--{name.replace('_', '-')}", str(value)]
    source = manifest.get("calibration", {}).get("source", "policy")
    if source not in ("policy", "recorded", "minari"):
        options += ["--calibration", source]
    return tuple(options)


_REPEATED = {"stochastic", "outputs", "policy_output", "value_output", "distribution"}
