"""The policy inside a board's own ELF, on an emulated core."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.host_c import Actions, Observations, policy_of_network
from edgeqrl.backends.network_policy import begin_episodes
from edgeqrl.backends.rows import RowLayout
from edgeqrl.data import data_folder
from edgeqrl.errors import DeviceError, require_name
from edgeqrl.interfaces import State
from edgeqrl.network import structs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import require_inputs
from firmware_export.board import Board, load_board
from firmware_export.build import Firmware, compile_firmware
from firmware_export.emit import export_sources
from firmware_export.emit.orders import order_of
from firmware_export.emit.params import arena_bytes_of
from firmware_export.emulators.emulator import EmulatedFirmware, Profile
from firmware_export.toolchain import Compiler

_ALIGNMENT = 4  # of inputs and outputs in the board's RAM
_POINTER_BYTES = 4  # of a 32-bit core: to the params, before the arena


class EmulatedPolicy:
    """The Policy of a firmware ELF on its board's emulated core. Close it, or use it as a context manager."""

    def __init__(
        self, firmware: Firmware, policy: IntegerPolicy, board: Board, *, engine: str | None = None
    ) -> None:
        """Load the ELF of `firmware`, built from `policy` for `board`; `engine` as for EmulatedFirmware."""
        self.name = board.core
        self.policy = policy
        self.emulated = EmulatedFirmware(firmware.elf, policy.name, board, engine=engine)
        found = self.emulated.observation_bytes, self.emulated.action_bytes
        if found != (structs.observation_layout(policy).num_bytes, structs.action_layout(policy).num_bytes):
            self.close()
            raise DeviceError(f"The firmware's structs do not fit the policy '{policy.name}'.")

    @property
    def has_memory(self) -> bool:
        """Tell whether anything survives a step."""
        return self.policy.has_memory

    def step(
        self, observations: Observations, action_masks: NDArray[np.bool_] | None = None
    ) -> tuple[Actions, NDArray[np.uint8]]:
        """Return actions [N] or [N, *action_shape], and status flags [N], for observations [N, *shape].

        A policy with memory begins each row afresh.
        """
        rows = self.structs(observations, action_masks)
        actions, flags, _ = self._step(rows, self.policy.fresh_memory(len(rows)))
        return actions, flags

    def step_with_memory(
        self,
        observations: Observations,
        memory: NDArray[np.uint8],
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[Actions, NDArray[np.uint8], NDArray[np.uint8]]:
        """Step each row from its memory [N, memory_bytes]; return actions, flags and memories after it."""
        return self._step(self.structs(observations, action_masks), memory)

    def begin(self, seed: int | None = None) -> NDArray[np.uint8]:
        """Call NAME_seed where a seed is given, then NAME_reset; return the memory [memory_bytes]."""
        if seed is not None:
            self.emulated.call("seed", seed & 0xFFFFFFFF, seed >> 32)
        self.emulated.call("reset")
        found = self.emulated.read_state(_memory_offset(self.policy), self.policy.memory_bytes)
        return np.frombuffer(found, np.uint8)

    def act(
        self,
        observations: Observations,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Step every row through the firmware; the state is `(memory,)`, or () without memory."""
        memory = begin_episodes(self.policy, state, episode_start, rng)
        actions, _, memory = self.step_with_memory(observations, memory, action_masks)
        return actions, (memory,) if self.has_memory else ()

    def profile(
        self,
        observation: Any,
        action_mask: NDArray[np.bool_] | None = None,
        memory: NDArray[np.uint8] | None = None,
    ) -> Profile:
        """Count the step of one observation, [*shape] or a mapping of parts: instructions, stack, trace.

        memory  [memory_bytes] before the step, of a policy that has one; None: fresh
        """
        one: Observations
        if isinstance(observation, Mapping):
            one = {name: np.asarray(part)[None] for name, part in observation.items()}
        else:
            one = np.asarray(observation)[None]
        row = self.structs(one, None if action_mask is None else action_mask[None])[0]
        if not self.has_memory:
            return self.emulated.profile(row)
        start = self.policy.fresh_memory(1)[0] if memory is None else memory
        return self.emulated.profile(row, start, _memory_offset(self.policy))

    def count_instructions(self, observations: NDArray[Any]) -> int:
        """Count the instructions of the step of the first of `observations` [N, *shape]."""
        return self.profile(observations[0]).instructions

    def structs(
        self, observations: Observations, action_masks: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """Lay observations [N, *shape] and masks out as NAME_observation structs [N, observation_bytes]."""
        masks = action_masks if self.policy.num_masks else None
        return structs.observation_rows(self.policy, observations, masks)

    def close(self) -> None:
        """End the emulator."""
        self.emulated.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(
        self, rows: NDArray[np.uint8], memory: NDArray[np.uint8]
    ) -> tuple[Actions, NDArray[np.uint8], NDArray[np.uint8]]:
        if self.has_memory:
            offset = _memory_offset(self.policy)
            actions, memory, status = self.emulated.step_with_memory(rows, memory, offset)
        else:
            actions, status = self.emulated.step(rows)
        if np.any(status < 0):
            raise DeviceError(f"{self.policy.name}_step returned {status.min()} on the emulated {self.name}.")
        return structs.read_actions(self.policy, actions), status.astype(np.uint8), memory


class EmulatedNetwork:
    """The Network of a `.tflite` built for a board and run on its emulated core: integers in and out."""

    def __init__(
        self,
        network: IntegerNetwork,
        board: Board,
        *,
        compiler: Compiler | None = None,
        engine: str | None = None,
    ) -> None:
        """Export and build `network`; `engine` as for EmulatedFirmware."""
        self.name = board.core
        self.network = network
        self.board = board
        self.firmware = compile_firmware(
            export_sources(_for_core(policy_of_network(network), board.core), b""), board, compiler=compiler
        )
        self._inputs = RowLayout([network.tensors[name] for name in network.inputs], alignment=_ALIGNMENT)
        self._outputs = RowLayout([network.tensors[name] for name in network.outputs], alignment=_ALIGNMENT)
        self.emulated = EmulatedFirmware(self.firmware.elf, self.firmware.name, board, engine=engine)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every output [N, *shape] for inputs [N, *shape], by tensor name."""
        rows = self._inputs.pack(require_inputs(self.network, inputs))
        outputs, status = self.emulated.infer(rows, **self._places())
        if np.any(status < 0):
            raise DeviceError(f"The network returned status {status.min()} on the emulated {self.name}.")
        return self._outputs.unpack(outputs)

    def profile(self, inputs: Mapping[str, NDArray[Any]]) -> Profile:
        """Count one inference, for inputs [1, *shape] by tensor name."""
        row = self._inputs.pack(require_inputs(self.network, inputs))[0]
        return self.emulated.profile_infer(row, **self._places())

    def _places(self) -> dict[str, Any]:
        return {
            "input_offsets": self._inputs.offsets,
            "output_offsets": self._outputs.offsets,
            "output_bytes": self._outputs.num_bytes,
        }

    def close(self) -> None:
        """End the emulator."""
        self.emulated.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_policy(policy: IntegerPolicy, core: str) -> EmulatedPolicy:
    """Export and build `policy` for the board that stands for `core`, and emulate it."""
    policy = _for_core(policy, core)
    board = load_board(EMULATED_CORES[core], data_folder("boards"))
    firmware = compile_firmware(export_sources(policy, b""), board)
    return EmulatedPolicy(firmware, policy, board)


def open_network(tflite: bytes, core: str) -> EmulatedNetwork:
    """Build the network of a fully-integer `.tflite` for the board that stands for `core` and emulate it."""
    board = load_board(EMULATED_CORES[require_name("core", core, EMULATED_CORES)], data_folder("boards"))
    return EmulatedNetwork(read_tflite(tflite), board)


def _for_core(policy: IntegerPolicy, core: str) -> IntegerPolicy:
    """Return the policy with its weights in the order of a core."""
    return replace(policy, order=order_of(core))


def _memory_offset(policy: IntegerPolicy) -> int:
    """Return where NAME_memory lies in NAME_state, on a 32-bit core."""
    return _POINTER_BYTES + arena_bytes_of(policy)
