"""The exported C, compiled for this host: the same sources that go to the chip, one call a batch."""

import ctypes
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.network_policy import begin_episodes, dequantize_outputs
from edgeqrl.backends.rows import RowLayout
from edgeqrl.backends.single import SingleInference, single_inference
from edgeqrl.errors import MissingToolError, UnsupportedOperatorError
from edgeqrl.interfaces import State
from edgeqrl.network.edges import ArgmaxEdge, ObservationEdge
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork
from edgeqrl.network.policy_step import encode_step, part_rows
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import require_inputs
from edgeqrl.network.structs import action_layout, observation_rows, read_actions
from firmware_export.contract import PolicyContract, num_features
from firmware_export.emit import c_sources, export_sources
from firmware_export.emit.host_batch import host_batch_source
from firmware_export.emit.wide import WIDE
from firmware_export.toolchain import HostCompiler, host_compiler, run_compiler

Observations = NDArray[Any] | Mapping[str, NDArray[Any]]  # [N, *shape], or these by the names of parts
Actions = NDArray[np.int64] | NDArray[np.float32]

_FLAGS = ("-std=c99", "-O3", "-fPIC", "-ffp-contract=off")
_LIBRARY = "policy.lib"
_runtime_objects: dict[tuple[tuple[str, ...], str, bytes], bytes] = {}


class HostStep(NamedTuple):
    """What a step answers, N rows each."""

    actions: Actions
    flags: NDArray[np.uint8]
    memory: NDArray[np.uint8]  # [N, memory_bytes], after the step
    values: NDArray[np.float32]  # [N, numbers beside the action]


class HostC:
    """One policy's C in a shared library of its own, loaded into this process."""

    def __init__(self, policy: IntegerPolicy, *, contract: PolicyContract | None = None) -> None:
        """Export, compile and load; raises MissingToolError without a working C compiler."""
        self.policy = policy
        self._library = _load(policy, contract)
        network = policy.network
        self._inputs = RowLayout([network.tensors[name] for name in network.inputs])
        self._outputs = RowLayout([network.tensors[name] for name in network.outputs])
        self._lock = threading.Lock()  # calls release the interpreter's lock, and share the state
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self._state = ctypes.create_string_buffer(self._function("batch_state_bytes", result=size)())
        rows = (pointer, size, pointer, pointer, pointer, pointer, pointer, pointer)
        self._step = self._function("batch_step", pointer, *rows)
        self._infer = self._function("batch_infer", pointer, pointer, pointer, size)
        self._init = self._function("init", pointer, pointer)
        self._saturated = self._function("batch_saturated", pointer, result=ctypes.POINTER(ctypes.c_uint16))
        self.initialise()

    def initialise(self) -> None:
        """Make the state ready; sets its saturation counters to 0."""
        with self._lock:
            status = self._init(self._state, None)
        assert status == 0, f"{self.policy.name}_init returned {status}"

    def saturated(self) -> NDArray[np.uint16]:
        """Return the state's saturation counters [num_features]."""
        count = sum(num_features(part.shape) for part in self.policy.parts)
        with self._lock:
            return np.array(self._saturated(self._state)[:count], np.uint16)

    def step(
        self, observations: Observations, action_masks: NDArray[np.bool_] | None = None
    ) -> tuple[Actions, NDArray[np.uint8]]:
        """Return actions [N] or [N, *action_shape], and status flags [N], for observations [N, *shape].

        `action_masks` [N, num_masks] is read by masked policies only; None allows everything. A policy with
        memory begins each row afresh.
        """
        masks = action_masks if self.policy.num_masks else None
        structs = observation_rows(self.policy, observations, masks)
        answer = self.step_structs(structs, self.policy.fresh_memory(len(structs)))
        return answer.actions, answer.flags

    def step_with_memory(
        self,
        observations: Observations,
        memory: NDArray[np.uint8],
        action_masks: NDArray[np.bool_] | None = None,
        *,
        episode_start: NDArray[np.bool_] | None = None,
        seeds: NDArray[np.uint64] | None = None,
    ) -> "HostStep":
        """Step each row from its memory [N, memory_bytes].

        episode_start  [N]: these rows are reset by the C first, and seeded with `seeds` [N]; None: none is
        """
        masks = action_masks if self.policy.num_masks else None
        structs = observation_rows(self.policy, observations, masks)
        return self.step_structs(structs, memory, episode_start=episode_start, seeds=seeds)

    def step_structs(
        self,
        structs: NDArray[np.uint8],
        memory: NDArray[np.uint8],
        *,
        episode_start: NDArray[np.bool_] | None = None,
        seeds: NDArray[np.uint64] | None = None,
    ) -> "HostStep":
        """Step rows of NAME_observation [N, observation_bytes], as `step_with_memory`."""
        policy, count = self.policy, len(structs)
        after = np.array(memory, np.uint8, order="C")
        if after.shape != (count, policy.memory_bytes):
            raise ValueError(f"the memory must be [{count}, {policy.memory_bytes}], got {after.shape}")
        starts = None if episode_start is None else np.ascontiguousarray(episode_start, np.uint8)
        words = np.zeros((count, 2), "<u4")
        if seeds is not None:
            words = np.ascontiguousarray(seeds, "<u8").view("<u4").reshape(count, 2)
        actions = np.empty((count, action_layout(policy).num_bytes), np.uint8)
        flags = np.empty(count, np.uint8)
        values = np.empty((count, sum(len(value.edge.gain) for value in policy.values)), np.float32)
        structs = np.ascontiguousarray(structs)
        with self._lock:
            status = self._step(
                self._state,
                structs.ctypes.data,
                count,
                actions.ctypes.data,
                flags.ctypes.data,
                after.ctypes.data if policy.has_memory else None,
                None if starts is None else starts.ctypes.data,
                words.ctypes.data,
                values.ctypes.data,
            )
        assert status == 0, f"{policy.name}_step returned {status}"
        return HostStep(read_actions(policy, actions), flags, after, values)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return all network outputs [N, *shape] for all its inputs [N, *shape]."""
        rows = self._inputs.pack(require_inputs(self.policy.network, inputs))
        outputs = np.empty((len(rows), self._outputs.num_bytes), np.uint8)
        with self._lock:
            status = self._infer(self._state, rows.ctypes.data, outputs.ctypes.data, len(rows))
        assert status == 0, f"{self.policy.name}_infer returned {status}"
        return self._outputs.unpack(outputs)

    def single(self) -> SingleInference:
        """Return a function that infers one row a call in the shortest time, of `single_inference`."""
        return single_inference(self._library, self.policy)

    def _function(self, name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
        function = self._library[f"{self.policy.name}_{name}"]
        function.argtypes, function.restype = arguments, result
        return function


class HostCPolicy:
    """The Policy of the exported C on this host."""

    name = "host-c"

    def __init__(self, policy: IntegerPolicy) -> None:
        """Compile `policy`."""
        self.host = HostC(policy)

    @property
    def has_memory(self) -> bool:
        """Tell whether anything survives a step."""
        return self.host.policy.has_memory

    def act(
        self,
        observations: Observations,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Step every row through the C; the state is `(memory,)`, or () without memory."""
        memory = begin_episodes(self.host.policy, state, episode_start, rng)
        answer = self.host.step_with_memory(observations, memory, action_masks)
        return answer.actions, (answer.memory,) if self.has_memory else ()

    def outputs(self, observations: Observations) -> NDArray[np.float32]:
        """Return the dequantized first output [N, num_outputs] for observations [N, *observation_shape].

        A policy with memory answers as at the start of an episode.
        """
        policy = self.host.policy
        network = policy.network
        memory = policy.fresh_memory(len(part_rows(policy, observations, 0)))
        answers = self.host.infer(encode_step(policy, observations, memory)[0])
        return dequantize_outputs(network.tensors[network.outputs[0]], answers[network.outputs[0]])

    def close(self) -> None:
        """Do nothing: the library stays mapped, its file is gone already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostCNetwork:
    """The Network of the exported C on this host: integers in and out, no edges."""

    name = "host-c"

    def __init__(self, network: IntegerNetwork) -> None:
        """Compile `network`."""
        self.network = network
        self.host = HostC(replace(policy_of_network(network), order=WIDE, weight_bits=()))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every output [N, *shape] for inputs [N, *shape], by tensor name."""
        return self.host.infer(inputs)

    def close(self) -> None:
        """Do nothing, as HostCPolicy."""


def open_network(tflite: bytes) -> HostCNetwork:
    """Compile the network of a fully-integer `.tflite` file."""
    return HostCNetwork(read_tflite(tflite))


def policy_of_network(network: IntegerNetwork, name: str = "network") -> IntegerPolicy:
    """Wrap a bare network in edges that only exist to be exported, for backends that run whole policies."""
    written = {*network.inputs, *(layer.output for layer in network.layers)}
    if not network.inputs or not written.issuperset(network.outputs):
        raise UnsupportedOperatorError(
            "The network has an output that no input reaches, so there is nothing to export."
        )
    source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
    try:
        observation = ObservationEdge.of(source.shape, source.scale, source.zero_point, source.dtype)
        action = ArgmaxEdge(target.size)
    except ValueError as error:
        raise UnsupportedOperatorError(f"The network cannot be exported: {error}.") from None
    return IntegerPolicy(name, observation, network, action)


def _load(policy: IntegerPolicy, contract: PolicyContract | None) -> ctypes.CDLL:
    sources = export_sources(policy, b"", contract=contract)
    sources["host_batch.c"] = host_batch_source(policy)
    compiler = host_compiler()
    with tempfile.TemporaryDirectory(prefix="edgeqrl-") as name:
        folder = Path(name)
        for path, content in sources.items():
            if "/" not in path:
                (folder / path).write_bytes(content)
        headers = b"".join(
            sources[path] for path in sorted(sources) if path.startswith("eqrl") and path.endswith(".h")
        )
        files = []
        for path in c_sources(sources):
            if path.startswith("eqrl_"):
                _add_runtime_object(compiler, path, headers + sources[path], folder)
                path = f"{path}.o"
            files.append(path)
        _compile(compiler, [*compiler.native, *files, "-shared", "-o", _LIBRARY], folder)
        return ctypes.CDLL(str(folder / _LIBRARY))  # stays mapped when the file goes


def _add_runtime_object(compiler: HostCompiler, path: str, content: bytes, folder: Path) -> None:
    """Put the object of one runtime file into `folder`; all policies of a process share its compilation."""
    key = ((*compiler.argv, *compiler.native), path, content)
    if key not in _runtime_objects:
        _compile(compiler, [*compiler.native, "-c", path, "-o", f"{path}.o"], folder)
        _runtime_objects[key] = (folder / f"{path}.o").read_bytes()
    (folder / f"{path}.o").write_bytes(_runtime_objects[key])


def _compile(compiler: HostCompiler, arguments: list[str], folder: Path) -> None:
    result = run_compiler([*compiler.argv, *_FLAGS, *arguments], folder)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise MissingToolError(
            f"The C compiler '{compiler.name}' cannot build the policy for this host: {lines[-1][:200]}. "
            "Point CC to a C99 compiler, or `pip install ziglang`."
        )
