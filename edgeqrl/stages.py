"""What each stage adds to a bundle; how a stage works is in its own module."""

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.agent import identifier
from edgeqrl.agents.heads import Head, head_from_json, head_to_json
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.bundle import Bundle, new_bundle
from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.emulate import DeviceRun, emulate
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BackendsDiffer, DataError, UsageError, require_name
from edgeqrl.files import from_json_bytes, to_json_bytes
from edgeqrl.interfaces import Policy
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.verdict import DEFAULT_EPISODES
from firmware_export.toolchain import COMPILER_NAMES

if TYPE_CHECKING:
    from firmware_export.board import Board
    from firmware_export.build import Firmware

REPORT_SCHEMA = "edgeqrl-report-2"
CALIBRATION = "calibration.npz"
TFLITE = "policy.tflite"
FLOAT_TFLITE = "policy_float.tflite"
GOLDEN = "golden.npz"
REPORT = "report.json"
DIAGNOSIS = "diagnosis.json"
FIRMWARE = "firmware/firmware.json"
FIRMWARE_SECTIONS = ("firmware", "emulation")  # of the report; the rest is the validation's
NUM_GOLDEN = 64

Progress = Callable[[str, int, int], None]  # stage, done, total (0 where it is not known)


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Settings:
    """Every choice of a conversion that is not one of its inputs."""

    calibration_episodes: int = 20
    calibration_states: int = 2000
    calibration_seed: int = 10_000
    scheme: Scheme = field(default_factory=Scheme)
    episodes: int = DEFAULT_EPISODES  # at most
    validation_seed: int | None = None  # by default that of the judgement's number
    declared: Declared = field(default_factory=Declared)
    emulated_episodes: int = 3
    emulation_seed: int = 30_000
    with_self_test: bool = True
    compiler: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be before minutes are spent; raises UsageError."""
        least = {
            "calibration_episodes": 1,
            "calibration_states": 1,
            "calibration_seed": 0,
            "episodes": 2,
            "emulated_episodes": 0,
            "emulation_seed": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} must be at least {value}, got {getattr(self, name)}.")
        if self.validation_seed is not None and self.validation_seed < 0:
            raise UsageError(f"--validation-seed must be at least 0, got {self.validation_seed}.")
        if self.compiler is not None:
            require_name("compiler", self.compiler, COMPILER_NAMES)


def add_agent(bundle: Bundle, agent: Any, files: Mapping[str, bytes]) -> None:
    """Put a copy of the agent's files [relative path -> bytes] into the bundle."""
    for path, data in files.items():
        bundle.add(f"agent/{path}", data)
    bundle.facts |= {
        "name": agent.name,
        "agent_sha256": agent.source_sha256,
        "head": head_to_json(agent.head),
        "observation_shape": list(agent.observation_shape),
    }


def add_calibration(
    bundle: Bundle,
    float_policy: Policy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    recorded: NDArray[np.float32] | None = None,
    progress: Progress = silent,
) -> CalibrationSet:
    """Roll the float policy out, or take recorded observations, and keep the calibration set."""
    progress("calibrate", 0, 0)
    if recorded is not None:
        calibration = from_recorded(
            recorded,
            num_states=settings.calibration_states,
            seed=settings.calibration_seed,
            observation_shape=bundle.facts["observation_shape"],
        )
    else:
        assert make_env is not None
        calibration = calibrate(
            float_policy,
            make_env,
            env_id=bundle.facts["environment"]["env_id"],
            num_episodes=settings.calibration_episodes,
            num_states=settings.calibration_states,
            seed=settings.calibration_seed,
            agent_sha256=bundle.facts["agent_sha256"],
            progress=partial(progress, "calibrate"),
        )
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(CALIBRATION, calibration.to_bytes(), made_from=agent_files)
    return calibration


def add_quantized(
    bundle: Bundle,
    agent: Any,
    calibration: CalibrationSet,
    settings: Settings,
    *,
    converter: Any = None,
    progress: Progress = silent,
) -> QuantizedPolicy:
    """Convert to int8 and keep the `.tflite` beside its float twin; what came later is dropped."""
    progress("quantize", 0, 0)
    quantized = quantize(agent, calibration, scheme=settings.scheme, converter=converter)
    for later in (TFLITE, FLOAT_TFLITE, GOLDEN, REPORT, DIAGNOSIS, "src/"):
        bundle.drop(later)
    _drop_firmware(bundle)
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(TFLITE, quantized.tflite, made_from=[*agent_files, CALIBRATION])
    bundle.add(FLOAT_TFLITE, quantized.float_tflite, made_from=agent_files)
    bundle.facts["scheme"] = quantized.scheme.to_json()
    progress("quantize", 1, 1)
    return quantized


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


def require_policy_fits(policy: IntegerPolicy, board: "Board") -> None:
    """Raise BoardFitError if the parameters and the arena alone are too large: before minutes are spent."""
    from firmware_export.emit.arena import plan_arena
    from firmware_export.emit.params import build_params
    from firmware_export.fit import FirmwareSizes, require_fits

    arena = plan_arena(policy.network)
    require_fits(FirmwareSizes(len(build_params(policy)), arena.total_bytes, 0), board)


def require_backends_agree(policy: IntegerPolicy, host: Policy, observations: NDArray[np.float32]) -> None:
    """Raise BackendsDiffer unless the C on this host acts as the NumPy reference does."""
    from edgeqrl.backends.network_policy import NetworkPolicy
    from edgeqrl.network.reference import Reference

    reference = NetworkPolicy(Reference(policy.network), policy.observation, policy.action, name="reference")
    starts = np.zeros(len(observations), np.bool_)
    expected, _ = reference.act(observations, None, episode_start=starts)
    answered, _ = host.act(observations, None, episode_start=starts)
    differing = int(np.sum(np.any((expected != answered).reshape(len(expected), -1), axis=1)))
    if differing:
        raise BackendsDiffer(
            f"host-c and reference act differently on {differing} of {len(expected)} observations. "
            "This is a fault of edgeqrl or of the compiler: please report it with the bundle."
        )


def add_sources(
    bundle: Bundle,
    policy: IntegerPolicy,
    tflite: bytes,
    calibration: CalibrationSet,
    settings: Settings,
) -> dict[str, bytes]:
    """Export the C sources and the golden vectors."""
    from firmware_export.emit import export_sources, make_golden

    golden = make_golden(policy, calibration.observations[:NUM_GOLDEN])
    arrays = {name: value for name, value in vars(golden).items() if value is not None}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    for earlier in (GOLDEN, "src/"):
        bundle.drop(earlier)
    _drop_firmware(bundle)
    bundle.add(GOLDEN, buffer.getvalue(), made_from=[TFLITE, CALIBRATION])
    sources = export_sources(policy, tflite, golden=golden if settings.with_self_test else None)
    for path, data in sources.items():
        bundle.add(f"src/{path}", data, made_from=[TFLITE])
    return sources


def export_network_file(path: Path, output: Path, name: str | None) -> dict[str, bytes]:
    """Write the C sources of a `.tflite` network to the folder `output`: a bundle with nothing else in it.

    `name` prefixes the C symbols; by default it is made from the file's name.
    """
    from firmware_export.emit import export_network

    try:
        tflite = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
    chosen = name or identifier(path.stem)
    sources = export_network(BareNetwork(chosen, read_tflite(tflite)), tflite)
    with new_bundle(output, {"name": chosen}) as bundle:
        bundle.add(TFLITE, tflite, made_from=[])
        for place, data in sources.items():
            bundle.add(f"src/{place}", data, made_from=[TFLITE])
    return sources


def read_sources(bundle: Bundle) -> dict[str, bytes]:
    """Return the exported sources [path below src/ -> bytes]."""
    paths = [path for path in bundle.artefacts if path.startswith("src/")]
    if not paths:
        bundle.read("src/")  # says which stage makes them
    return {path.removeprefix("src/"): bundle.read(path) for path in paths}


def add_firmware(
    bundle: Bundle, board: "Board", settings: Settings, *, progress: Progress = silent
) -> "Firmware":
    """Compile the sources for the board, refuse what does not fit, and keep ELF and images."""
    from firmware_export.build import compile_firmware
    from firmware_export.flashers.uf2_volume import firmware_uf2
    from firmware_export.toolchain import find_compiler

    progress("build", 0, 0)
    firmware = compile_firmware(
        read_sources(bundle),
        board,
        compiler=find_compiler(settings.compiler),
        with_selftest=any(path.endswith("_golden.c") for path in bundle.artefacts),
    )
    images = {"elf": firmware.elf, "bin": firmware.bin}
    if board.uf2 is not None:
        images["uf2"] = firmware_uf2(firmware, board)
    facts = {
        "name": firmware.name,
        "board": firmware.board,
        "start": firmware.start,
        "sizes": asdict(firmware.sizes),
        "compiler": firmware.compiler,
        "runs_from_ram": firmware.runs_from_ram,
    }
    _drop_firmware(bundle)
    sources = [path for path in bundle.artefacts if path.startswith("src/")]
    for suffix, data in images.items():
        bundle.add(f"firmware/{firmware.name}.{suffix}", data, made_from=sources)
    bundle.add(FIRMWARE, to_json_bytes(facts), made_from=[f"firmware/{firmware.name}.elf"])
    bundle.facts["board"] = board.name
    progress("build", 1, 1)
    return firmware


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


def add_emulation(
    bundle: Bundle,
    policy: IntegerPolicy,
    board: "Board",
    firmware: "Firmware",
    host: HostCPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    observations: NDArray[np.float32],
    progress: Progress = silent,
) -> DeviceRun | None:
    """Run the firmware's own ELF on the emulated core; count its instructions; compare with host C."""
    from edgeqrl.backends.emulated import EmulatedPolicy
    from firmware_export.fit import estimate_us, timing_model

    progress("emulate", 0, 0)
    with EmulatedPolicy(firmware, policy, board) as device:
        instructions = device.profile(observations[0]).instructions
        require_backends_agree(policy, device, observations[:NUM_GOLDEN])
        run = None
        if make_env is not None and settings.emulated_episodes > 0:
            first = settings.emulation_seed
            run = emulate(
                device,
                host,
                make_env,
                seeds=range(first, first + settings.emulated_episodes),
                instructions=instructions,
                progress=partial(progress, "emulate"),
            )
    sections: dict[str, Any] = {
        "firmware": {
            "board": board.name,
            "core": board.core,
            "compiler": firmware.compiler,
            **asdict(firmware.sizes),
            "flash_available_bytes": board.available_bytes("flash"),
            "ram_available_bytes": board.available_bytes("ram"),
            "instructions": instructions,
            "estimate": {
                "us": estimate_us(instructions, board),
                "model": timing_model(board).name,
                "clock_hz": board.clock_hz,
            },
        }
    }
    if run is not None:
        sections["emulation"] = run.to_json()
    kept = {name: found for name, found in read_report(bundle).items() if name not in FIRMWARE_SECTIONS}
    write_report(bundle, kept | sections)
    return run


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
    bundle.add(REPORT, to_json_bytes(report), made_from=origin)


def _drop_firmware(bundle: Bundle) -> None:
    """Remove the firmware and what the report says of it: it is about to be made anew, or stale."""
    bundle.drop("firmware/")
    bundle.facts.pop("board", None)
    report = read_report(bundle)
    kept = {name: found for name, found in report.items() if name not in FIRMWARE_SECTIONS}
    if kept != report:
        write_report(bundle, kept)
