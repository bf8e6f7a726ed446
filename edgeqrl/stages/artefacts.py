"""What a bundle holds: names, and what reads them. Each artefact is written by the stage that makes it."""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqrl.agents.agent import StateSpec
from edgeqrl.agents.heads import (
    Head,
    ValueHead,
    head_from_json,
    head_to_json,
    infer_head,
    stated_head,
)
from edgeqrl.agents.options import AgentOptions
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.errors import DataError, EdgeQRLError, UsageError
from edgeqrl.files import from_json_bytes, to_json_bytes
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.file_rewrites import scaled_preprocessing
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.recordings import read_arrays
from edgeqrl.spaces import observation_parts
from edgeqrl.stages.packing import read_order, read_packing

if TYPE_CHECKING:
    from firmware_export.build import Firmware
    from firmware_export.emit.golden import GoldenVectors

REPORT_SCHEMA = "edgeqrl-report-2"
CALIBRATION = "calibration.npz"
CALIBRATION_FACTS = "calibration"  # of the manifest, and section of the report: source, size, check of ranges
APPLIED_REWRITES = "applied_rewrites"  # of the manifest and the report: those of the scheme that changed it
TFLITE = "policy.tflite"
FLOAT_TFLITE = "policy_float.tflite"
GOLDEN = "golden.npz"
GOLDEN_VERSION = 2  # 1, which does not say so, had no structs
REPORT = "report.json"
DIAGNOSIS = "diagnosis.json"
FIRMWARE = "firmware/firmware.json"
REALTIME = "firmware/realtime.md"
LINUX = "raspberry/"  # folder of what is deployed to a board that runs Linux
LINUX_PACKAGE = f"{LINUX}package.json"
# Of the report; the rest is the validation's.
FIRMWARE_SECTIONS = ("firmware", "realtime", "package", "library", "emulation")
CONTRACT_SECTION = "contract"  # of the report: a summary of what the sources state
CHOICE_SECTION = "choice"  # of the report: how the scheme was chosen
LAST_BOARD = "last_board"  # of the manifest: what was built for it is gone, but what is chosen is for it
PLACEMENT = "placement"  # of the manifest: what --place said when the firmware was built
NUM_GOLDEN = 64


def read_calibration(bundle: Bundle) -> CalibrationSet:
    """Return the bundle's calibration set."""
    return CalibrationSet.from_bytes(bundle.read(CALIBRATION), f"{bundle}/{CALIBRATION}")


def read_head(bundle: Bundle) -> Head:
    """Return the action head that the manifest states."""
    try:
        return head_from_json(bundle.fact("head"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The manifest of '{bundle}' states a damaged head: {error!r}.") from error


def policy_facts(agent: Any) -> dict[str, Any]:
    """Return what the manifest says of an agent's way from raw observation to action."""
    parts = agent.preprocessing.parts
    facts: dict[str, Any] = {"head": head_to_json(agent.head)}
    if len(parts) == 1:
        facts["observation_shape"] = list(parts[0].shape)
    if not agent.preprocessing.is_plain:
        facts["preprocessing"] = agent.preprocessing.to_json()
    if agent.states:
        facts["states"] = [
            {"name": spec.name, "shape": list(spec.shape), "initial": spec.initial} for spec in agent.states
        ]
    if agent.value_names:
        facts["value_names"] = list(agent.value_names)
    if options := agent.options.to_json():
        facts["agent_options"] = options
    return facts


def read_preprocessing(bundle: Bundle) -> Preprocessing:
    """Return what comes before the agent's model; bundles of earlier versions have one plain observation."""
    if "preprocessing" not in bundle.facts:
        return Preprocessing.plain(bundle.fact("observation_shape"))
    try:
        return Preprocessing.from_json(bundle.facts["preprocessing"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"The manifest of '{bundle}' states a damaged preprocessing: {error!r}.") from error


def read_input_gains(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """Return what the inputs of the bundle's `.tflite` files are multiplied by, feature by feature."""
    stated = bundle.facts.get("input_gains", {})
    try:
        return {str(name): tuple(float(gain) for gain in gains) for name, gains in stated.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"The manifest of '{bundle}' states damaged gains: {error!r}.") from error


def read_states(bundle: Bundle) -> tuple[StateSpec, ...]:
    """Return the recurrent states that the manifest states."""
    try:
        return tuple(
            StateSpec(str(fact["name"]), tuple(int(n) for n in fact["shape"]), float(fact["initial"]))
            for fact in bundle.facts.get("states", [])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The manifest of '{bundle}' states damaged states: {error!r}.") from error


def read_agent_options(bundle: Bundle) -> AgentOptions:
    """Return what was stated of the agent's model when it was loaded."""
    try:
        return AgentOptions.from_json(bundle.facts.get("agent_options", {}))
    except (AttributeError, TypeError, ValueError, EdgeQRLError) as error:
        raise DataError(f"The manifest of '{bundle}' states damaged options: {error!r}.") from error


def read_quantized(bundle: Bundle) -> QuantizedPolicy:
    """Return the bundle's quantized policy; needs no TensorFlow."""
    gains = read_input_gains(bundle)
    try:
        preprocessing = scaled_preprocessing(read_preprocessing(bundle), gains)
    except ValueError as error:
        raise DataError(f"The manifest of '{bundle}' states gains that do not fit: {error}.") from error
    return QuantizedPolicy(
        tflite=bundle.read(TFLITE),
        float_tflite=bundle.read(FLOAT_TFLITE),
        head=read_head(bundle),
        scheme=Scheme.from_json(bundle.fact("scheme")),
        preprocessing=preprocessing,
        input_gains=gains,
        name=bundle.fact("name"),
        calibration_sha256=bundle.sha256_of(CALIBRATION),
        agent_sha256=bundle.fact("agent_sha256"),
        applied_rewrites=tuple(bundle.facts.get(APPLIED_REWRITES, ())),
        states=read_states(bundle),
        value_names=tuple(bundle.facts.get("value_names", ())),
        weight_bits=read_packing(bundle),
        order=read_order(bundle),
    )


def open_float_side(quantized: QuantizedPolicy) -> AbstractContextManager[Any]:
    """Open the float policy by the float `.tflite`; needs no TensorFlow."""
    from edgeqrl.backends import open_float_policy

    return open_float_policy(
        quantized.float_tflite,
        quantized.head,
        quantized.preprocessing,
        quantized.states,
        quantized.value_names,
    )


def read_sources(bundle: Bundle) -> dict[str, bytes]:
    """Return the exported sources [path below src/ -> bytes]."""
    paths = [path for path in bundle.artefacts if path.startswith("src/")]
    if not paths:
        bundle.read("src/")  # says which stage makes them
    return {path.removeprefix("src/"): bundle.read(path) for path in paths}


def read_firmware(bundle: Bundle) -> "Firmware":
    """Return the bundle's firmware."""
    from firmware_export.build import Firmware
    from firmware_export.fit import FirmwareSizes
    from firmware_export.placement import Placement

    try:
        facts = from_json_bytes(bundle.read(FIRMWARE))
        sizes, placement = FirmwareSizes(**facts.pop("sizes")), Placement(**facts.pop("placement"))
        elf, image = (bundle.read(f"firmware/{facts['name']}.{suffix}") for suffix in ("elf", "bin"))
        firmware = Firmware(sizes=sizes, placement=placement, elf=elf, bin=image, **facts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{bundle}/{FIRMWARE}' is damaged: {error!r}. Build again.") from error
    if firmware.board != bundle.fact("board"):
        raise DataError(f"'{bundle}' states another board than its firmware was built for. Build again.")
    return firmware


def golden_bytes(golden: "GoldenVectors") -> bytes:
    """Return golden.npz."""
    buffer = io.BytesIO()
    np.savez(buffer, version=GOLDEN_VERSION, **vars(golden))
    return buffer.getvalue()


def read_golden(bundle: Bundle) -> "GoldenVectors":
    """Return the golden vectors that were exported."""
    from firmware_export.emit.golden import GoldenVectors

    arrays = read_arrays(bundle.read(GOLDEN), f"'{bundle}/{GOLDEN}'")
    if not np.array_equal(arrays.pop("version", 1), GOLDEN_VERSION):
        raise DataError(f"'{bundle}/{GOLDEN}' is of another version of edgeqrl. Export again.")
    try:
        return GoldenVectors(**arrays)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{bundle}/{GOLDEN}' is damaged: {error}. Export again.") from error


def control_period_of(bundle: Bundle) -> float | None:
    """Return the control period in seconds that the exported contract states; None: it is not known."""
    path = "src/policy_contract.json"
    if path not in bundle.artefacts:
        return None
    period = from_json_bytes(bundle.read(path)).get("control_period_s")
    return None if period is None else float(period)


def read_report(bundle: Bundle) -> dict[str, Any]:
    """Return report.json, or an empty report if no stage has written one."""
    if not bundle.has(REPORT):
        return {"schema": REPORT_SCHEMA}
    try:
        report = from_json_bytes(bundle.read(REPORT))
    except ValueError as error:
        raise DataError(f"'{bundle}/{REPORT}' is damaged: {error}. Make the bundle again.") from error
    if not isinstance(report, dict) or report.get("schema") != REPORT_SCHEMA:
        raise DataError(
            f"'{bundle}/{REPORT}' is no report of this version ({REPORT_SCHEMA}). Make the bundle again."
        )
    return report


def write_report(bundle: Bundle, sections: Mapping[str, Any]) -> None:
    """Write report.json, with links to what it tells of."""
    report = {"schema": REPORT_SCHEMA, **sections}
    origin = [path for path in (TFLITE, FLOAT_TFLITE, CALIBRATION) if bundle.has(path)]
    if "firmware" in report:
        origin.append(FIRMWARE)
    if "package" in report:
        origin.append(LINUX_PACKAGE)
    bundle.add(REPORT, to_json_bytes(report), made_from=origin)


def drop_firmware(bundle: Bundle) -> None:
    """Remove what was built for a board, and what the report says of it: it is to be made anew, or stale."""
    bundle.drop("firmware/")
    bundle.drop(LINUX)
    if "board" in bundle.facts:
        bundle.facts[LAST_BOARD] = bundle.facts.pop("board")
    bundle.facts.pop(PLACEMENT, None)
    report = read_report(bundle)
    kept = {name: found for name, found in report.items() if name not in FIRMWARE_SECTIONS}
    if kept != report:
        write_report(bundle, kept)


def last_board(bundle: Bundle) -> str | None:
    """Return the board that the bundle is built for, or was before it changed; None if it never was."""
    found = bundle.facts.get("board", bundle.facts.get(LAST_BOARD))
    return None if found is None else str(found)


def require_environment_fits(bundle: Bundle, make_env: MakeEnv | None) -> None:
    """Raise UsageError unless the environment takes and gives what the bundle's policy does."""
    if make_env is None:
        return
    known = spaces(make_env)
    given = observation_parts(known.observation_space)
    taken = read_preprocessing(bundle).parts
    if {part.name: prod(part.shape) for part in given} != {part.name: part.size for part in taken}:
        raise UsageError(
            f"Environment '{known.name}' gives observations {_shapes(given)}, but the policy of "
            f"'{bundle}' takes {_shapes(taken, short=True)}. Is this its environment?"
        )
    head = read_head(bundle)
    if not isinstance(head, ValueHead):
        options = AgentOptions(head=stated_head(head))
        infer_head(known.action_space, head.num_outputs, ends_in_tanh=False, options=options)


def _shapes(parts: Sequence[Any], *, short: bool = False) -> str:
    if [part.key for part in parts] == [""]:
        return str(parts[0].shape) if short else f"of shape {parts[0].shape}"
    return ", ".join(f"{part.name} {part.shape}" for part in parts)
