"""What a bundle holds: names, and what reads them. Each artefact is written by the stage that makes it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeqrl.agents.heads import DiscreteHead, Head, head_from_json, infer_head
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.errors import DataError, UsageError
from edgeqrl.files import from_json_bytes, to_json_bytes
from edgeqrl.quantize.quantize import QuantizedPolicy
from edgeqrl.quantize.scheme import Scheme

if TYPE_CHECKING:
    from firmware_export.build import Firmware

REPORT_SCHEMA = "edgeqrl-report-2"
CALIBRATION = "calibration.npz"
TFLITE = "policy.tflite"
FLOAT_TFLITE = "policy_float.tflite"
GOLDEN = "golden.npz"
REPORT = "report.json"
DIAGNOSIS = "diagnosis.json"
FIRMWARE = "firmware/firmware.json"
REALTIME = "firmware/realtime.md"
LINUX = "raspberry/"  # folder of what is deployed to a board that runs Linux
LINUX_PACKAGE = f"{LINUX}package.json"
# Of the report; the rest is the validation's.
FIRMWARE_SECTIONS = ("firmware", "realtime", "package", "library", "emulation")
CONTRACT_SECTION = "contract"  # of the report: a summary of what the sources state
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


def read_quantized(bundle: Bundle) -> QuantizedPolicy:
    """Return the bundle's quantized policy; needs no TensorFlow."""
    return QuantizedPolicy(
        tflite=bundle.read(TFLITE),
        float_tflite=bundle.read(FLOAT_TFLITE),
        head=read_head(bundle),
        scheme=Scheme.from_json(bundle.fact("scheme")),
        observation_shape=tuple(bundle.fact("observation_shape")),
        name=bundle.fact("name"),
        calibration_sha256=bundle.sha256_of(CALIBRATION),
        agent_sha256=bundle.fact("agent_sha256"),
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

    try:
        facts = from_json_bytes(bundle.read(FIRMWARE))
        sizes = FirmwareSizes(**facts.pop("sizes"))
        elf, image = (bundle.read(f"firmware/{facts['name']}.{suffix}") for suffix in ("elf", "bin"))
        firmware = Firmware(sizes=sizes, elf=elf, bin=image, **facts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{bundle}/{FIRMWARE}' is damaged: {error!r}. Build again.") from error
    if firmware.board != bundle.fact("board"):
        raise DataError(f"'{bundle}' states another board than its firmware was built for. Build again.")
    return firmware


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
    bundle.facts.pop("board", None)
    report = read_report(bundle)
    kept = {name: found for name, found in report.items() if name not in FIRMWARE_SECTIONS}
    if kept != report:
        write_report(bundle, kept)


def require_environment_fits(bundle: Bundle, make_env: MakeEnv | None) -> None:
    """Raise UsageError unless the environment takes and gives what the bundle's policy does."""
    if make_env is None:
        return
    known = spaces(make_env)
    head = read_head(bundle)
    shape = tuple(bundle.fact("observation_shape"))
    fits = tuple(known.observation_space.shape or ()) == shape
    if fits:
        stated = "argmax" if isinstance(head, DiscreteHead) else "clip"
        infer_head(known.action_space, head.num_outputs, ends_in_tanh=False, stated=stated)
        return
    raise UsageError(
        f"Environment '{known.name}' gives observations of shape {known.observation_space.shape}, but the "
        f"policy of '{bundle}' takes {shape}. Is this its environment?"
    )
