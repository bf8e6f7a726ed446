"""The policy on a device: episodes are played through its serial protocol."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeqrl.backends.network_policy import dequantize_outputs
from edgeqrl.errors import DeviceError
from edgeqrl.interfaces import Observations, State
from edgeqrl.network import structs
from edgeqrl.network.integer_policy import IntegerPolicy
from firmware_export.device.client import Device


@dataclass(frozen=True)
class Spread:
    """How long something took, over `count` times, in seconds."""

    min: float
    median: float
    p99: float
    max: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread | None":
        """Return the spread of what was measured; None for nothing."""
        if not seconds:
            return None
        low, median, high, most = np.percentile(seconds, [0, 50, 99, 100], method="higher")
        return cls(float(low), float(median), float(high), float(most), len(seconds))

    def to_json(self) -> dict[str, Any]:
        """Return the spread as JSON values."""
        return {name: getattr(self, name) for name in ("min", "median", "p99", "max", "count")}


@dataclass
class Timing:
    """What single steps took; those of a batch are not in it."""

    round_trip_s: list[float] = field(default_factory=list)  # on this host's clock
    step_s: list[float] = field(default_factory=list)  # on the device's; empty where it has none


class DevicePolicy:
    """The Policy of a device. It never drives the device's outputs: no request asks for that.

    One row is a STEP, many are BATCHes. A policy with memory has it on the device, and so plays one episode
    at a time. Close it, or use it as a context manager.
    """

    name = "device"

    def __init__(
        self,
        device: Device,
        policy: IntegerPolicy,
        *,
        model_sha256: bytes,
        contract_sha256: bytes | None = None,
    ) -> None:
        """Greet the device; raise DeviceError unless it runs `policy`, by the hashes and the sizes.

        model_sha256     of the `.tflite`
        contract_sha256  of policy_contract.json; None where there is none to compare with
        """
        self.device = device
        self.policy = policy
        self.timing = Timing()
        self.is_contract_compared = contract_sha256 is not None
        self.hello = device.require(model_sha256, contract_sha256)
        self.has_memory = self.hello.has_memory
        self.most_envs = 1 if self.has_memory else sys.maxsize
        told = self._facts_of_hello()
        expected = (
            policy.name,
            structs.observation_layout(policy).num_bytes,
            structs.action_layout(policy).num_bytes,
            policy.memory_bytes,
        )
        if told != expected:
            raise DeviceError(
                f"The device at {device.place} has the policy '{told[0]}' with observations, actions and "
                f"memory of {_listed(told)} bytes, and the bundle '{expected[0]}' with {_listed(expected)}: "
                "flash the bundle first."
            )
        device.reset(0 if self.hello.is_stochastic else None)

    def step(
        self, observations: Observations, action_masks: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64] | NDArray[np.float32], NDArray[np.uint8]]:
        """Return actions [N] or [N, *action_shape], and status flags [N], for observations [N, *shape].

        With a memory the rows are N steps of the device's episode, one after another.
        """
        rows = structs.observation_rows(self.policy, observations, action_masks)
        if len(rows) == 1 or self.has_memory:
            replies = [self.device.step(row.tobytes()) for row in rows]
            self.timing.round_trip_s += [reply.round_trip_s for reply in replies]
            if self.hello.tick_hz:
                self.timing.step_s += [reply.ticks / self.hello.tick_hz for reply in replies]
            content = b"".join(reply.action for reply in replies)
            status = np.array([reply.status for reply in replies], np.int32)
            answers = np.frombuffer(content, np.uint8).reshape(len(rows), self.hello.action_bytes)
        else:
            batch = self.device.batch(rows)
            status, answers = batch.status, batch.actions
        if np.any(status < 0):
            raise DeviceError(f"{self.policy.name}_step returned {status.min()} on {self.place}.")
        return structs.read_actions(self.policy, answers), status.astype(np.uint8)

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Step every row on the device, which begins an episode where a row does.

        A policy that draws gets its seed from the row's generator then; the device draws all else.
        """
        if self.has_memory and len(episode_start) != 1:
            raise ValueError("a device with a memory plays one episode at a time")
        if episode_start.any():
            self.device.reset(self._drawn_seed(rng))
        actions, _ = self.step(observations, action_masks)
        return actions, ()

    def outputs(self, observations: Observations) -> NDArray[np.float32]:
        """Return the dequantized first output [N, num_outputs]; one frame a row, so this is slow."""
        network = self.policy.network
        tensor = network.tensors[network.outputs[0]]
        if not self.hello.output_bytes:
            raise DeviceError(f"The outputs of the network are not to be had on {self.place}.")
        rows = structs.observation_rows(self.policy, observations)
        content = b"".join(
            self.device.step(row.tobytes(), outputs=True).outputs[: tensor.num_bytes] for row in rows
        )
        values = np.frombuffer(content, np.dtype(tensor.dtype).newbyteorder("<"))
        return dequantize_outputs(tensor, values.reshape(len(rows), *tensor.shape))

    def values(self, observations: Observations) -> NDArray[np.float32]:
        """Return the values beside the actions [N, num_values]; one frame a row."""
        rows = structs.observation_rows(self.policy, observations)
        found = [self.device.step(row.tobytes(), values=True).values for row in rows]
        return np.array(found, np.float32).reshape(len(rows), self.hello.num_values)

    @property
    def place(self) -> str:
        """Return the device's name in messages."""
        return f"the device at {self.device.place}"

    def close(self) -> None:
        """Let the port go."""
        self.device.close()

    def _facts_of_hello(self) -> tuple[str, int, int, int]:
        hello = self.hello
        return hello.name, hello.observation_bytes, hello.action_bytes, hello.memory_bytes

    def _drawn_seed(self, rng: Sequence[np.random.Generator] | None) -> int | None:
        if not self.hello.is_stochastic:
            return None
        if rng is None:
            raise ValueError("a policy that draws needs a generator for each row")
        return int(rng[0].integers(2**64, dtype=np.uint64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listed(facts: tuple[str, int, int, int]) -> str:
    return f"{facts[1]}, {facts[2]} and {facts[3]}"
