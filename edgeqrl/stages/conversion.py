"""The stages from agent to C: calibrate, quantize, export."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.agent import identifier
from edgeqrl.agents.heads import head_to_json
from edgeqrl.backends.rows import differing_rows
from edgeqrl.bundle import Bundle, new_bundle
from edgeqrl.calibrate import CalibrationSet, calibrate, from_recorded
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BackendsDiffer, DataError
from edgeqrl.interfaces import Policy
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.stages.artefacts import (
    CALIBRATION,
    DIAGNOSIS,
    FLOAT_TFLITE,
    GOLDEN,
    NUM_GOLDEN,
    REPORT,
    TFLITE,
    control_period_of,
    drop_firmware,
    read_quantized,
)
from edgeqrl.stages.contract import contract_for, report_contract
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board


def add_agent(bundle: Bundle, agent: Any, files: Mapping[str, bytes]) -> None:
    """Put a copy of the agent's files [relative path -> bytes] into the bundle."""
    for path, data in files.items():
        bundle.add(f"agent/{path}", data)
    bundle.facts |= {
        "name": agent.name,
        "agent_sha256": agent.source_sha256,
        "weights_sha256": agent.weights_sha256,
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
    drop_firmware(bundle)
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(TFLITE, quantized.tflite, made_from=[*agent_files, CALIBRATION])
    bundle.add(FLOAT_TFLITE, quantized.float_tflite, made_from=agent_files)
    bundle.facts["scheme"] = quantized.scheme.to_json()
    progress("quantize", 1, 1)
    return quantized


def require_policy_fits(
    policy: IntegerPolicy, board: "Board", *, control_period_s: float | None = None
) -> None:
    """Raise BoardFitError before minutes are spent on what cannot fit.

    That is: if parameters and arena alone are larger than the board's memory, or if a step by the estimate
    takes much longer than the control period (None: not known, not checked). What Linux or a vendor's SDK
    adds is not known, and neither is what a step takes there.
    """
    from firmware_export.board import require_firmware
    from firmware_export.emit.arena import plan_arena
    from firmware_export.emit.params import build_params
    from firmware_export.fit import FirmwareSizes, estimate_instructions, require_fits, require_in_time

    network = policy.network
    arena_bytes, params_bytes = plan_arena(network).total_bytes, len(build_params(policy))
    if board.kind == "linux":  # its files lie on a card
        require_fits(FirmwareSizes(0, params_bytes + arena_bytes, 0), board)
        return
    require_fits(FirmwareSizes(params_bytes, arena_bytes, 0), board)
    if board.kind == "library":
        return
    require_firmware(board)
    num_elements = policy.observation.size + sum(
        network.tensors[layer.output].size for layer in network.layers
    )
    require_in_time(
        estimate_instructions(network.num_macs, num_elements, board),
        board,
        control_period_s,
        runs_from_ram=board.runs_from_ram and params_bytes + arena_bytes < board.ram_bytes,
        is_estimate=True,
    )


def require_bundle_fits(bundle: Bundle, board: "Board") -> None:
    """Raise BoardFitError before a bundle's policy is compiled for a board that it cannot fit."""
    from firmware_export.board import require_firmware

    if "head" not in bundle.facts:  # a bare network, which nothing times
        require_firmware(board)
        return
    policy = read_quantized(bundle).integer_policy(is_masked=bundle.fact("is_masked"))
    require_policy_fits(policy, board, control_period_s=control_period_of(bundle))


def require_backends_agree(policy: IntegerPolicy, host: Policy, observations: NDArray[np.float32]) -> None:
    """Raise BackendsDiffer unless `host`, the exported C anywhere, acts as the reference does, to the bit."""
    from edgeqrl.backends.network_policy import NetworkPolicy
    from edgeqrl.network.reference import Reference

    reference = NetworkPolicy(Reference(policy.network), policy.observation, policy.action, name="reference")
    starts = np.zeros(len(observations), np.bool_)
    expected, _ = reference.act(observations, None, episode_start=starts)
    answered, _ = host.act(observations, None, episode_start=starts)
    differing = len(differing_rows(answered, expected))
    if differing:
        raise BackendsDiffer(
            f"{host.name} and reference act differently on {differing} of {len(expected)} observations. "
            "This is a fault of edgeqrl or of the compiler: please report it with the bundle."
        )


def add_sources(
    bundle: Bundle,
    policy: IntegerPolicy,
    tflite: bytes,
    calibration: CalibrationSet,
    settings: Settings,
) -> dict[str, bytes]:
    """Export the C sources with the contract, and the golden vectors."""
    from firmware_export.emit import export_sources, make_golden

    contract = contract_for(bundle, policy, tflite, settings)
    golden = make_golden(policy, calibration.observations[:NUM_GOLDEN])
    arrays = {name: value for name, value in vars(golden).items() if value is not None}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    for earlier in (GOLDEN, "src/"):
        bundle.drop(earlier)
    drop_firmware(bundle)
    bundle.add(GOLDEN, buffer.getvalue(), made_from=[TFLITE, CALIBRATION])
    sources = export_sources(
        policy, tflite, golden=golden if settings.with_self_test else None, contract=contract
    )
    for path, data in sources.items():
        bundle.add(f"src/{path}", data, made_from=[TFLITE])
    report_contract(bundle, contract)
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
