"""The stages from agent to C: calibrate, quantize, export."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqrl.agents.agent import identifier
from edgeqrl.backends.rows import differing_rows
from edgeqrl.bundle import Bundle, new_bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BackendsDiffer, BoardFitError, DataError
from edgeqrl.interfaces import Policy
from edgeqrl.network.integer_policy import BareNetwork, IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.quantize.quantize import QuantizedPolicy, quantize
from edgeqrl.stages.artefacts import (
    APPLIED_REWRITES,
    CALIBRATION,
    DIAGNOSIS,
    FLOAT_TFLITE,
    GOLDEN,
    NUM_GOLDEN,
    REPORT,
    TFLITE,
    control_period_of,
    drop_firmware,
    golden_bytes,
    policy_facts,
    read_quantized,
)
from edgeqrl.stages.contract import contract_for, report_contract
from edgeqrl.stages.ledger import record_learned
from edgeqrl.stages.packing import drop_packing, sequence_of, with_packing
from edgeqrl.stages.settings import Progress, Settings, silent

if TYPE_CHECKING:
    from firmware_export.board import Board

_SIDE_BY_SIDE = 64  # episodes


def add_agent(bundle: Bundle, agent: Any, files: Mapping[str, bytes]) -> None:
    """Put a copy of the agent's files [relative path -> bytes] into the bundle."""
    for path, data in files.items():
        bundle.add(f"agent/{path}", data)
    bundle.facts |= {
        "name": agent.name,
        "agent_sha256": agent.source_sha256,
        "weights_sha256": agent.weights_sha256,
        **policy_facts(agent),
    }


def add_quantized(
    bundle: Bundle,
    agent: Any,
    calibration: CalibrationSet,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    converter: Any = None,
    progress: Progress = silent,
) -> QuantizedPolicy:
    """Make the policy integer and keep the `.tflite` beside its float twin; what came later is dropped.

    make_env  where a scheme that learns plays; None: it learns on the calibration set alone
    """
    progress("quantize", 0, 0)
    learning = replace(settings.learning, make_env=make_env)
    quantized = quantize(
        agent,
        calibration,
        scheme=settings.scheme,
        converter=converter,
        learning=learning,
        progress=partial(progress, "learn"),
    )
    if quantized.scheme.learned:
        record_learned(bundle, learning.seeds)
    keep_quantized(bundle, quantized)
    progress("quantize", 1, 1)
    return quantized


def keep_quantized(bundle: Bundle, quantized: QuantizedPolicy) -> None:
    """Put both `.tflite` files into the bundle; what came later is dropped."""
    for later in (TFLITE, FLOAT_TFLITE, GOLDEN, REPORT, DIAGNOSIS, "src/"):
        bundle.drop(later)
    drop_firmware(bundle)
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(TFLITE, quantized.tflite, made_from=[*agent_files, CALIBRATION])
    bundle.add(FLOAT_TFLITE, quantized.float_tflite, made_from=agent_files)
    bundle.facts["scheme"] = quantized.scheme.to_json()
    bundle.facts[APPLIED_REWRITES] = list(quantized.applied_rewrites)
    drop_packing(bundle)  # of the weights before
    bundle.facts["input_gains"] = {name: list(gains) for name, gains in quantized.input_gains.items()}


def require_policy_fits(
    policy: IntegerPolicy,
    board: "Board",
    *,
    control_period_s: float | None = None,
    placement: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise BoardFitError before minutes are spent on what cannot fit.

    That is: if parameters, arena and observation alone are larger than the board's memory, if an observation
    is larger than a request can be, or if a step by the estimate takes much longer than the control period
    (None: not known, not checked). `placement` is what --place says. What Linux or a vendor's SDK adds is not
    known, and neither is what a step takes there.
    """
    from edgeqrl.network.structs import observation_layout
    from firmware_export.board import require_firmware
    from firmware_export.device.frames import MAX_PAYLOAD_BYTES
    from firmware_export.emit.params import arena_bytes_of, build_params
    from firmware_export.fit import (
        FirmwareSizes,
        estimate_instructions,
        known_sizes,
        require_fits,
        require_in_time,
    )
    from firmware_export.placement import place
    from firmware_export.workload import workload

    arena_bytes = arena_bytes_of(policy) + policy.memory_bytes
    params_bytes = len(build_params(policy))
    if board.kind == "linux":  # its files lie on a card
        require_fits(FirmwareSizes(0, params_bytes + arena_bytes, 0), board)
        return
    observation_bytes = observation_layout(policy).num_bytes
    require_fits(known_sizes(params_bytes, arena_bytes, observation_bytes, board, placement), board)
    if board.kind == "library":
        return
    require_firmware(board)
    if observation_bytes > MAX_PAYLOAD_BYTES - 4:
        raise BoardFitError(
            f"An observation of {observation_bytes:,} bytes does not fit a request to {board.name} "
            f"({MAX_PAYLOAD_BYTES - 4:,} bytes): make the images smaller in the environment, with "
            "--keep-wrapper, or export the C library without a board."
        )
    require_in_time(
        estimate_instructions(workload(policy), board.core),
        board,
        control_period_s,
        placement=place(
            board,
            placement,
            runs_from_ram=board.runs_from_ram and params_bytes + arena_bytes < board.ram_bytes,
        ),
        is_estimate=True,
    )


def require_bundle_fits(
    bundle: Bundle, board: "Board", placement: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raise BoardFitError before a bundle's policy is compiled for a board that it cannot fit."""
    from firmware_export.board import require_firmware

    if "head" not in bundle.facts:  # a bare network, which nothing times
        require_firmware(board)
        return
    policy = read_quantized(bundle).integer_policy(is_masked=bundle.fact("is_masked"))
    require_policy_fits(policy, board, control_period_s=control_period_of(bundle), placement=placement)


def require_backends_agree(
    policy: IntegerPolicy, host: Policy, calibration: CalibrationSet, *, most: int | None = None
) -> None:
    """Raise BackendsDiffer unless `host`, the exported C anywhere, acts as the reference does, to the bit.

    Policies with memory go through the set as some episodes side by side, so that every step depends on
    those before it; the bytes of their memory are compared too, where `host` shows them. Masks allow half
    of the actions. `most`: of the set.
    """
    from edgeqrl.backends.network_policy import NetworkPolicy
    from edgeqrl.network.reference import Reference

    reference = NetworkPolicy(Reference(policy.network), policy, name="reference")
    count = len(calibration) if most is None else min(len(calibration), most)
    side_by_side = min(_SIDE_BY_SIDE, getattr(host, "most_envs", _SIDE_BY_SIDE))
    rows = min(count, side_by_side) if policy.has_memory else count
    states: list[Any] = [None, None]
    num_differing = num_asked = 0
    for first in range(0, count - rows + 1, rows):
        batch = calibration.rows(slice(first, first + rows))
        masks = np.random.default_rng(first).random((rows, policy.num_masks)) < 0.5
        answers = []
        for i, backend in enumerate((reference, host)):
            rng = [np.random.default_rng(row) for row in range(rows)]
            starts = np.full(rows, first == 0 and policy.has_memory)
            actions, states[i] = backend.act(
                batch, states[i], episode_start=starts, action_masks=masks, rng=rng
            )
            answers.append(actions)
        is_differing = np.zeros(rows, np.bool_)
        is_differing[differing_rows(answers[1], answers[0])] = True
        for ours, theirs in zip(*states, strict=False):  # a device keeps its memory to itself
            is_differing |= (np.asarray(ours) != np.asarray(theirs)).reshape(rows, -1).any(axis=1)
        num_differing += int(is_differing.sum())
        num_asked += rows
    if num_differing:
        raise BackendsDiffer(
            f"{host.name} and reference act differently on {num_differing} of {num_asked} observations. "
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
    golden = make_golden(policy, calibration.rows(slice(NUM_GOLDEN)))
    for earlier in (GOLDEN, "src/"):
        bundle.drop(earlier)
    drop_firmware(bundle)
    bundle.add(GOLDEN, golden_bytes(golden), made_from=[TFLITE, CALIBRATION])
    sources = export_sources(
        policy,
        tflite,
        golden=golden if settings.with_self_test else None,
        sequence=sequence_of(settings),
        contract=contract,
    )
    for path, data in sources.items():
        bundle.add(f"src/{path}", data, made_from=[TFLITE])
    report_contract(bundle, contract)
    return sources


def export_network_file(
    path: Path,
    output: Path,
    name: str | None,
    settings: Settings | None = None,
    board: "Board | None" = None,
) -> dict[str, bytes]:
    """Write the C sources of a `.tflite` network to the folder `output`: a bundle with nothing else in it.

    `name` prefixes the C symbols; by default it is made from the file's name. `board`: whose core's order the
    weights have.
    """
    from firmware_export.emit import export_network

    try:
        tflite = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
    chosen = name or identifier(path.stem)
    settings = settings or Settings()
    network = with_packing(BareNetwork(chosen, read_tflite(tflite)), settings, board)
    sources = export_network(network, tflite, sequence=sequence_of(settings))
    with new_bundle(output, {"name": chosen}) as bundle:
        bundle.add(TFLITE, tflite, made_from=[])
        for place, data in sources.items():
            bundle.add(f"src/{place}", data, made_from=[TFLITE])
    return sources
