"""What is exported: a policy as integers from observation to action, or a network alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import UnsupportedOperatorError
from edgeqrl.network.edges import (
    ActionEdge,
    AffineEdge,
    GaussianEdge,
    MultiBinaryEdge,
    MultiDiscreteEdge,
    ObservationEdge,
    is_stochastic,
    num_heads,
    num_masks,
    num_outputs,
)
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.memory import FrameStack, Memory, MemoryLayout, Recurrent, plan_memory, seed_memory
from edgeqrl.network.parts import ObservationPart

__all__ = ["BareNetwork", "IntegerPolicy", "ValueOutput", "num_outputs"]


@dataclass(frozen=True)
class ValueOutput:
    """A network output that is no action: its real numbers."""

    name: str  # a C identifier
    output: str  # tensor name
    edge: AffineEdge


@dataclass(frozen=True, eq=False)
class IntegerPolicy:
    """A whole policy: encode the observation, stack frames, infer, keep the state, decode the action."""

    name: str  # a C identifier; prefix of every exported symbol
    observation: ObservationEdge  # the first part
    network: IntegerNetwork  # its first input is the observation, its first output decides the action
    action: ActionEdge
    more_observations: tuple[ObservationEdge, ...] = ()  # parts 2.. are network inputs 1..
    frames: FrameStack | None = None  # of the first part
    recurrent: tuple[Recurrent, ...] = ()
    values: tuple[ValueOutput, ...] = ()
    # In flash, of each layer that runs; None: as few as save anything, (): 8, nothing is packed.
    weight_bits: tuple[int, ...] | None = None
    # In which they lie, as firmware_export.emit.orders has them: of each layer that runs, or of all that can.
    order: str | tuple[str, ...] = "rows"

    def __post_init__(self) -> None:
        if not self.network.inputs:
            raise ValueError("a policy has an observation input")
        if len(self.observations) + len(self.recurrent) > len(self.network.inputs):
            raise ValueError("the network has fewer inputs than the policy has parts and states")
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"two parts of the observation have one name: {names}")
        for i, edge in enumerate(self.observations):
            self._require_part(edge, self.network.tensors[self.network.inputs[i]], i == 0)
        self._require_action()
        for state in self.recurrent:
            self._require_state(state)
        for value in self.values:
            tensor = self.network.tensors[value.output]
            if value.output not in self.network.outputs or len(value.edge.gain) != tensor.size:
                raise ValueError(f"the edge of value '{value.name}' does not fit output '{value.output}'")
            if value.edge.dtype != tensor.dtype:
                raise ValueError(f"the edge of value '{value.name}' does not fit output '{value.output}'")

    @property
    def observations(self) -> tuple[ObservationEdge, ...]:
        """Return all parts of the observation, in the order of the network's inputs."""
        return (self.observation, *self.more_observations)

    @property
    def parts(self) -> tuple[ObservationPart, ...]:
        """Return what the edges of the observation take."""
        return tuple(edge.part for edge in self.observations)

    @property
    def has_memory(self) -> bool:
        """Tell whether anything survives a step."""
        return self.is_stochastic or self.frames is not None or bool(self.recurrent)

    @property
    def is_stochastic(self) -> bool:
        """Tell whether actions are drawn."""
        return is_stochastic(self.action)

    @property
    def is_plain(self) -> bool:
        """Tell whether the policy is one float32 observation in, one action out, and nothing else."""
        has_more = self.has_memory or self.more_observations or self.values
        return self.observation.part.is_raw_float and not has_more

    @property
    def action_outputs(self) -> tuple[str, ...]:
        """Name the network outputs that the action edge reads."""
        return self.network.outputs[: num_heads(self.action)]

    @property
    def num_masks(self) -> int:
        """Count the mask bytes of a step."""
        return num_masks(self.action)

    @cached_property
    def memory_layout(self) -> MemoryLayout:
        """Return where the fields of NAME_memory lie."""
        frames = None
        if self.frames is not None:
            frames = ((self.frames.num_frames, self.observation.part.network_size), self.observation.dtype)
        tensors = [self.network.tensors[state.input] for state in self.recurrent]
        states = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        return plan_memory(is_stochastic=self.is_stochastic, frames=frames, recurrent=states)

    @property
    def memory_bytes(self) -> int:
        """Return sizeof(NAME_memory); 0 without memory."""
        return self.memory_layout.num_bytes

    @property
    def frame_padding(self) -> int:
        """Return what reset fills the ring with: the input's 0 where frames are padded with it."""
        is_zero = self.frames is not None and self.frames.padding == "zero"
        return self.observation.zero_point if is_zero else 0

    def fresh_memory(self, count: int) -> Memory:
        """Return the memory [count, memory_bytes] that NAME_init leaves: seed 0, then reset."""
        memory = np.zeros((count, self.memory_bytes), np.uint8)
        self.reset_memory(memory, seeds=np.zeros(count, np.uint64))
        return memory

    def reset_memory(
        self, memory: Memory, rows: Any = slice(None), seeds: NDArray[np.uint64] | None = None
    ) -> None:
        """Begin an episode in some rows of `memory`: NAME_reset, then NAME_seed where seeds [K] are given."""
        layout = self.memory_layout
        if self.frames is not None:
            filled = self.frames.num_frames if self.frames.padding == "zero" else 0
            layout.write(memory, "frames_next", np.array(0), rows)
            layout.write(memory, "frames_filled", np.array(filled), rows)
            layout.write(memory, "frames", np.array(self.frame_padding), rows)
        for i, state in enumerate(self.recurrent):
            layout.write(memory, f"recurrent_{i}", np.array(state.initial), rows)
        if seeds is not None and self.is_stochastic:
            seed_memory(layout, memory, seeds, rows)

    def _require_part(self, edge: ObservationEdge, source: Tensor, is_first: bool) -> None:
        size = edge.part.network_size
        if is_first and self.frames is not None:
            size = int(np.prod(self.frames.stacked_shape(edge.part.network_shape), dtype=np.int64))
        expected = (source.size, source.scale, source.zero_point, source.dtype)
        if (size, edge.scale, edge.zero_point, edge.dtype) != expected:
            raise ValueError(f"the observation edge does not fit input '{source.name}'")

    def _require_action(self) -> None:
        target = self.network.tensors[self.network.outputs[0]]
        edge = self.action
        is_typed = not isinstance(edge, AffineEdge | GaussianEdge) or edge.dtype == target.dtype
        if isinstance(edge, MultiDiscreteEdge | MultiBinaryEdge) and edge.exp_low:
            is_typed = target.dtype == ("int16" if edge.exp_high else "int8")
        if num_outputs(edge) != target.size or not is_typed:
            raise ValueError(f"the action edge does not fit output '{target.name}'")
        if isinstance(edge, GaussianEdge) and edge.log_std is not None:
            if len(self.network.outputs) < 2:
                raise ValueError("the network has no output for log_std")
            second = self.network.tensors[self.network.outputs[1]]
            if (second.size, second.dtype) != (target.size, edge.log_std.dtype):
                raise ValueError(f"the action edge does not fit output '{second.name}'")

    def _require_state(self, state: Recurrent) -> None:
        if state.input not in self.network.inputs[len(self.observations) :]:
            raise ValueError(f"'{state.input}' is no free input of the network")
        if state.output not in self.network.outputs:
            raise ValueError(f"'{state.output}' is no output of the network")
        a, b = (self.network.tensors[name] for name in (state.input, state.output))
        if (a.scale, a.zero_point, a.dtype, a.shape) != (b.scale, b.zero_point, b.dtype, b.shape):
            raise ValueError(f"the recurrent tensors '{a.name}' and '{b.name}' differ in scale or shape")
        if not a.range[0] <= state.initial <= a.range[1]:
            raise ValueError(f"the initial state of '{a.name}' does not fit {a.dtype}")


@dataclass(frozen=True, eq=False)
class BareNetwork:
    """A network exported alone: integers in, integers out, nothing known of observations and actions."""

    name: str  # as of IntegerPolicy
    network: IntegerNetwork
    weight_bits: tuple[int, ...] | None = None  # as of IntegerPolicy
    order: str | tuple[str, ...] = "rows"  # as of IntegerPolicy

    def __post_init__(self) -> None:
        written = {*self.network.inputs, *(layer.output for layer in self.network.layers)}
        if not self.network.inputs or not written.issuperset(self.network.outputs):
            raise UnsupportedOperatorError(
                "The network has an output that no input reaches, so there is nothing to export."
            )
