"""On emulated cores: the step answers as on the host, and executes the same addresses for every input."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostC
from edgeqrl.network.edges import ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.board import load_board
from firmware_export.build import compile_firmware
from firmware_export.emit import export_sources
from firmware_export.emulators.emulator import EmulatedFirmware
from firmware_export.toolchain import Compiler, find_compilers
from tests.c_policies import random_observations, random_policy

BOARDS = Path(__file__).parent.parent / "boards"
HEADS = ("argmax", "masked", "affine")
# By default each head is built by zig for one of the boards, and for both by all compilers in the full run.
TRACED = [
    pytest.param(
        head, compiler, name, id=f"{head}-{compiler.name}-{name}", marks=[] if is_kept else pytest.mark.slow
    )
    for i, head in enumerate(HEADS)
    for compiler in find_compilers()
    if compiler.builds_for("cortex-m4")
    for j, name in enumerate(("rpi-pico", "mps2-an386"))
    for is_kept in [compiler.name == "zig" and i % 2 == j]
]


@pytest.mark.parametrize(("head", "compiler", "board_name"), TRACED)
def test_all_observations_take_the_same_instructions(head: str, compiler: Compiler, board_name: str) -> None:
    rng = np.random.default_rng(3)
    policy = random_policy(rng, (5, 13, 6), head=head, lookups=0.5)
    board = load_board(board_name, BOARDS)
    firmware = compile_firmware(export_sources(policy, b""), board, compiler=compiler)
    observations = random_observations(rng, policy, 200)
    observations[0], observations[1], observations[2] = 0.0, np.nan, 1e-40
    masks = rng.random((200, 6)) < 0.4
    with EmulatedFirmware(firmware.elf, firmware.name, board) as emulated:
        rows = structs(policy, observations, masks)
        assert len({emulated.profile(row).trace_sha256 for row in rows[:30]}) == 1
        actions, status = emulated.step(rows)
    expected, flags = HostC(policy).step(observations, masks)
    if isinstance(policy.action, ArgmaxEdge):
        expected = expected.astype(np.int32)  # type: ignore[assignment]
    np.testing.assert_array_equal(actions, expected.reshape(200, -1).view(np.uint8))
    np.testing.assert_array_equal(status, flags)


def structs(
    policy: IntegerPolicy, observations: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    rows = observations.reshape(len(observations), -1).view(np.uint8)
    if isinstance(policy.action, ArgmaxEdge) and policy.action.is_masked:
        padded = np.pad(masks, ((0, 0), (0, -masks.shape[1] % 4))).astype(np.uint8)
        rows = np.concatenate((rows, padded), axis=1)
    return np.ascontiguousarray(rows)
