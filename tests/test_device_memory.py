"""The device with policies of every kind: memory, seeds, masks, values and parts, equal to the reference."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.network import structs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.policy_step import policy_values
from edgeqrl.network.reference import Reference
from firmware_export.build import compile_firmware
from firmware_export.contract import FailSafe, Feature
from firmware_export.emit import export_sources, make_contract, make_golden
from firmware_export.emulators.machine import boot_in_machine, open_machine
from firmware_export.images import hex_image
from tests.device_host import (
    BAD_ARGUMENT,
    BAD_LENGTH,
    BATCH,
    BUSY,
    HELLO,
    NEEDS_RESET,
    RESET,
    SELFTEST,
    STEP,
    VERSION,
    HostDevice,
    build_device,
    facts,
    frame,
)
from tests.device_policies import KINDS, whole_masks, whole_observations, whole_policy
from tests.firmware import board, one_by_default, require_qemu

NO_FLAGS, DRIVE, SEEDED = (struct.pack("<I", flags) for flags in (0, 1, 1))
EPISODE, APPLICATION_STEP = 2, 1
BY_DEFAULT = (
    "gru values",
    "gaussian frames",
    "drawn masked",
    "multi-discrete",
    "multi-binary",
    "parts masked",
)
STEPS = 6


class Twin:
    """The reference in one episode after another, as a device has them."""

    def __init__(self, policy: IntegerPolicy) -> None:
        self.policy = policy
        self._reference = NetworkPolicy(Reference(policy.network), policy, "reference")
        self._memory = policy.fresh_memory(1)

    def reset(self, seed: int | None = None) -> None:
        seeds = None if seed is None else np.array([seed], np.uint64)
        self.policy.reset_memory(self._memory, seeds=seeds)

    def step(self, packed: np.ndarray) -> tuple[int, bytes, bytes, bytes]:
        """Return status, action, values and the first output."""
        parts, masks = structs.read_observations(self.policy, packed[None])
        answer = self._reference.step(parts, self._memory, masks)
        self._memory = answer.memory
        values = policy_values(self.policy, answer.outputs)
        outputs = answer.outputs[self.policy.network.outputs[0]]
        numbers = b"".join(found.astype("<f4").tobytes() for found in values.values())
        action = structs.action_rows(self.policy, answer.actions)
        return int(answer.flags[0]), action.tobytes(), numbers, outputs.tobytes()


@pytest.fixture(scope="module")
def program_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in built:
            folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
            built[kind] = build_device(folder, whole_policy(kind), facts(FailSafe("disable")))
        return built[kind]

    return build


def rows_of(policy: IntegerPolicy, count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    observations = whole_observations(rng, policy, count)
    return structs.observation_rows(policy, observations, whole_masks(rng, policy, count))


def asked_for(policy: IntegerPolicy) -> int:
    """Return STEP's flags for all that the policy tells."""
    return 2 | 4 * bool(policy.values)


@pytest.mark.parametrize("kind", one_by_default(KINDS, BY_DEFAULT))
def test_steps_of_every_kind_are_those_of_the_reference_to_the_bit(
    program_of: Callable[[str], Path], kind: str
) -> None:
    policy = whole_policy(kind)
    twin = Twin(policy)
    flags = struct.pack("<I", asked_for(policy))
    with HostDevice(program_of(kind)) as device:
        assert device.outcome == 0
        hello = device.ask(HELLO, VERSION)
        words = struct.unpack_from("<14I", hello)
        assert words[3:5] == (
            structs.observation_layout(policy).num_bytes,
            structs.action_layout(policy).num_bytes,
        )
        assert words[12] == policy.memory_bytes
        assert bool(words[1] & 4) == policy.has_memory
        assert bool(words[1] & 128) == policy.is_stochastic
        assert bool(words[1] & 2) == bool(policy.num_masks)
        for episode in range(3):
            seed = 2**63 + 5 * episode if policy.is_stochastic and episode < 2 else None
            device.ask(RESET, NO_FLAGS if seed is None else SEEDED + struct.pack("<Q", seed))
            twin.reset(seed)
            for packed in rows_of(policy, STEPS, episode):
                reply = device.ask(STEP, flags + packed.tobytes())
                status, action, values, outputs = twin.step(packed)
                assert struct.unpack_from("<i", reply) == (status,)
                assert reply[12:] == action + values + outputs
    assert device.outcome == 0


@pytest.mark.parametrize("kind", ["multi-discrete", "multi-binary", "parts masked", "values"])
def test_batches_without_memory_are_steps(program_of: Callable[[str], Path], kind: str) -> None:
    policy = whole_policy(kind)
    twin, rows = Twin(policy), rows_of(policy, 4)
    with HostDevice(program_of(kind)) as device:
        reply = device.ask(BATCH, struct.pack("<I", len(rows)) + rows.tobytes())
    expected = [twin.step(row) for row in rows]
    assert list(struct.unpack_from("<4i", reply, 4)) == [status for status, *_ in expected]
    assert reply[20:] == b"".join(action for _, action, *_ in expected)


def test_what_memory_seeds_and_values_do_not_allow_says_why(program_of: Callable[[str], Path]) -> None:
    row = rows_of(whole_policy("drawn"), 1)[0].tobytes()
    with HostDevice(program_of("drawn")) as device:
        device.ask(BATCH, struct.pack("<I", 1) + row, result=BAD_ARGUMENT)
        device.ask(RESET, SEEDED, result=BAD_LENGTH)
        device.ask(RESET, SEEDED + bytes(9), result=BAD_LENGTH)
        device.ask(RESET, struct.pack("<I", 2) + bytes(8), result=BAD_ARGUMENT)
        device.ask(STEP, NO_FLAGS + row, result=NEEDS_RESET)
        device.ask(RESET, SEEDED + bytes(8))
        device.ask(STEP, struct.pack("<I", 4) + row, result=BAD_ARGUMENT)  # it has no values
    with HostDevice(program_of("gru")) as device:
        device.ask(RESET, SEEDED + bytes(8), result=BAD_ARGUMENT)


def test_repeated_step_leaves_one_memory_however_late_it_comes(program_of: Callable[[str], Path]) -> None:
    policy = whole_policy("gru")
    twin, rows = Twin(policy), rows_of(policy, 3)
    with HostDevice(program_of("gru")) as device:
        device.ask(RESET, NO_FLAGS)
        twin.reset()
        first = frame(STEP, 200, NO_FLAGS + rows[0].tobytes())
        answered = device.feed(first)
        for _ in range(3):
            device.wait(30_000_000)
            assert device.feed(first) == answered
        twin.step(rows[0])
        reply = device.ask(STEP, NO_FLAGS + rows[1].tobytes())
        assert reply[12:] == twin.step(rows[1])[1]
        assert device.stats()["steps"] == 2


def test_selftest_ends_the_episode_and_draws_go_on_after_it(program_of: Callable[[str], Path]) -> None:
    policy = whole_policy("drawn")
    twin, rows = Twin(policy), rows_of(policy, 8)
    with HostDevice(program_of("drawn")) as device:
        device.ask(RESET, SEEDED + struct.pack("<Q", 99))
        twin.reset(99)
        for row in rows[:4]:
            assert device.ask(STEP, NO_FLAGS + row.tobytes())[12:] == twin.step(row)[1]
        device.ask(SELFTEST, b"")
        device.ask(STEP, NO_FLAGS + rows[4].tobytes(), result=NEEDS_RESET)
        device.ask(RESET, NO_FLAGS)
        twin.reset()
        for row in rows[4:]:
            assert device.ask(STEP, NO_FLAGS + row.tobytes())[12:] == twin.step(row)[1]


def test_application_s_episodes_have_memories_and_seeds_of_their_own(
    program_of: Callable[[str], Path],
) -> None:
    """The host's port seeds an episode with (ticks, 77), and not at all at tick 0."""
    policy = whole_policy("drawn")
    twin, rows = Twin(policy), rows_of(policy, 6)
    with HostDevice(program_of("drawn")) as device:
        for begin, seed in ((0, None), (3, 77 << 32 | 5000)):
            if seed is not None:
                device.wait(5000)
            twin.reset(seed)
            for i in range(begin, begin + 3):
                assert device.apply(EPISODE if i == begin else APPLICATION_STEP, rows[i].tobytes())
                assert device.outputs()[2] == twin.step(rows[i])[1]
        device.ask(RESET, SEEDED + bytes(8), result=BUSY)


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("multi-discrete", (1.0, 8.0)),
        ("multi-binary", (0.0, 1.0, 0.0, 1.0, 1.0)),
        ("gaussian frames", (0.25, 0.0)),
    ],
)
def test_fail_safe_of_several_numbers_stands_in_for_what_is_lost(
    tmp_path: Path, kind: str, action: tuple[float, ...]
) -> None:
    policy = whole_policy(kind)
    packed = structs.action_rows(policy, np.array([action])).tobytes()
    program = build_device(tmp_path, policy, facts(FailSafe("value", action)))
    row = rows_of(policy, 1, 4)[0].tobytes()
    with HostDevice(program) as device:
        device.ask(RESET, NO_FLAGS)
        reply = device.ask(STEP, DRIVE + row)
        assert device.outputs()[2] == reply[12:]  # within its bounds, so it was driven
        device.wait(10_000_000)
        assert device.outputs()[2] == packed


def test_guard_knows_the_bounds_of_every_part(tmp_path: Path) -> None:
    """Gears are whole numbers within their classes; what lies out of them is not driven."""
    policy = whole_policy("parts")
    features = [Feature("gear", None, -1.0, 0.0), Feature("mode", None, 0.0, 3.0)]
    features += [Feature(f"pixel_{i}", None, None, 200.0 if i == 7 else None) for i in range(8)]
    program = build_device(tmp_path, policy, facts(FailSafe("value", (2.0,)), features=tuple(features)))
    with HostDevice(program) as device:
        device.ask(RESET, NO_FLAGS)
        for gear, mode, pixel, expected in (
            (-1, 3, 200, 1),
            (-2, 3, 200, 69),
            (0, 4, 0, 69),
            (0, 0, 201, 69),
        ):
            camera = np.full((1, 2, 4), 255, np.uint8)
            camera[0, 1, 3] = pixel
            observation = {"gear": np.array([[gear, mode]], np.int32), "camera": camera}
            packed = structs.observation_rows(policy, observation)[0].tobytes()
            assert struct.unpack_from("<I", device.ask(STEP, DRIVE + packed), 4) == (expected,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["gaussian frames", "multi-discrete drawn masked", "gru values", "parts masked"]
)
def test_booted_firmware_of_every_kind_answers_as_the_reference_does(kind: str) -> None:
    require_qemu("mps2-an386")
    policy, target = whole_policy(kind), board("mps2-an386")
    golden = make_golden(policy, whole_observations(np.random.default_rng(6), policy, 4))
    contract = make_contract(policy, b"", facts(FailSafe("disable")))
    sources = export_sources(policy, b"", golden=golden, contract=contract)
    firmware = compile_firmware(sources, target, with_selftest=True)
    images = {"hex": hex_image(firmware.bin, firmware.start)}
    twin, seed = Twin(policy), 123456789012345 if policy.is_stochastic else None
    with boot_in_machine(target, images, "qemu") as machine, open_machine(machine) as device:
        assert device.hello().memory_bytes == policy.memory_bytes
        assert device.selftest().rows > 0
        for episode in range(2):
            device.reset(seed)
            twin.reset(seed)
            for packed in rows_of(policy, 8, episode):
                reply = device.step(packed.tobytes(), outputs=True, values=bool(policy.values))
                status, action, values, outputs = twin.step(packed)
                assert (reply.status, reply.action, reply.outputs) == (status, action, outputs)
                assert np.array(reply.values, "<f4").tobytes() == values
