"""The client of the device protocol, against a device in Python with every fault, a pty and a socket."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeqrl.backends.device import DevicePolicy, Spread
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.errors import DeviceError, MissingToolError, UsageError
from edgeqrl.network import structs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.reference import Reference
from firmware_export.device import link as link_module
from firmware_export.device.client import Device, open_device
from firmware_export.device.frames import Frame, encode
from firmware_export.device.link import SerialLink
from tests.c_policies import random_observations, random_policy
from tests.device_policies import KINDS, whole_masks, whole_observations, whole_policy
from tests.fake_device import BANNER, FAULTS, FakeDevice, MemoryLink, packed, serve_pty, serve_socket

MODEL, CONTRACT = bytes(range(32)), bytes(range(32, 64))
SERVERS = {"pty": serve_pty, "socket": serve_socket}


def policy_of(head: str = "argmax", outputs: int = 3) -> IntegerPolicy:
    return random_policy(np.random.default_rng(len(head)), (4, 9, outputs), head=head, name="robot")


def opened(fake: FakeDevice, stale: bytes = b"") -> Device:
    return Device(MemoryLink(fake, stale), "here")


def observations_of(policy: IntegerPolicy, count: int) -> np.ndarray:
    return random_observations(np.random.default_rng(3), policy, count)


def require_same(device: Any, policy: IntegerPolicy, count: int = 40, masks: Any = None) -> None:
    observations = observations_of(policy, count)
    starts = np.zeros(count, np.bool_)
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    expected, _ = reference.act(observations, None, episode_start=starts, action_masks=masks)
    actions, _ = device.act(observations, None, episode_start=starts, action_masks=masks)
    np.testing.assert_array_equal(actions, expected)
    assert actions.dtype == expected.dtype


# What a device says


def test_hello_is_read_field_by_field() -> None:
    hello = opened(FakeDevice(policy_of(), flags=8 | 16 | 32 | 64)).hello()
    assert (hello.version, hello.name, hello.board) == (2, "robot", "fake")
    assert (hello.observation_bytes, hello.action_bytes, hello.output_bytes) == (16, 4, 3)
    assert (hello.control_period_us, hello.tick_hz, hello.clock_hz) == (20_000, 10**6, 64_000_000)
    assert (hello.model_sha256, hello.contract_sha256) == (MODEL, CONTRACT)
    assert (hello.is_discrete, hello.is_masked, hello.has_memory) == (True, False, False)
    assert hello.has_selftest
    assert hello.has_fail_safe
    assert hello.was_reset_by_watchdog
    assert hello.runs_slowly


def test_stats_and_selftest_are_read_in_their_order() -> None:
    device = opened(FakeDevice(policy_of()))
    stats = device.stats(clear=True)
    assert (stats.frames, stats.overruns, stats.guard_latched, stats.uptime_ms) == (0, 6, 14, 19)
    assert stats.saturated == (7, 8, 65535)
    tested = device.selftest()
    assert (tested.rows, tested.crc_found, tested.crc_expected) == (64, 5, 5)
    with pytest.raises(DeviceError, match="wants a RESET before STEP"):
        device.step(bytes(16))
    device.reset()
    assert device.step(bytes(16)).ticks == 50


def test_requests_are_numbered_round_a_byte() -> None:
    fake = FakeDevice(policy_of())
    device = opened(fake)
    for _ in range(300):
        device.reset()
    assert fake.executed == [2] * 300
    assert device.num_frames == 300
    assert device.num_retries == 0


# Faults of the line


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_fault_is_retried_and_nothing_is_executed_twice(fault: str, count: int) -> None:
    policy = policy_of()
    fake = FakeDevice(policy, faults=["", "", *[fault] * count])
    with DevicePolicy(opened(fake), policy, model_sha256=MODEL) as device:
        require_same(device, policy, 1)
        require_same(device, policy, 1)
        require_same(device, policy, 30)
    assert fake.steps == 32
    lossless = fault in ("repeat", "garbage", "banner")
    assert device.device.num_retries == (0 if lossless else count)
    if fault == "banner":
        assert device.device.text.endswith("edgeqrl robot self-test OK")


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_of_faults_gives_the_same_actions(seed: int) -> None:
    policy, rng = policy_of(), np.random.default_rng(seed)
    names = [*FAULTS, "", "", "", "", ""]
    fake = FakeDevice(policy, faults=[names[i] for i in rng.integers(len(names), size=400)])
    device = DevicePolicy(Device(MemoryLink(fake), "here", retries=30), policy, model_sha256=MODEL)
    for count in (1, 7, 1, 50, 1, 1, 20):
        require_same(device, policy, count)
    assert fake.steps == 81
    assert device.device.num_retries > 3


@pytest.mark.parametrize("fault", ["drop", "deaf", "truncate"])
def test_silence_ends_after_a_bounded_number_of_retries(fault: str) -> None:
    fake = FakeDevice(policy_of(), faults=["", *[fault] * 100])
    link = MemoryLink(fake, BANNER)
    device = Device(link, "here")
    device.hello()
    with pytest.raises(DeviceError, match=r"does not answer \(RESET, asked 5 times\)") as caught:
        device.reset()
    assert "It said: 'edgeqrl robot self-test OK'" in str(caught.value)
    assert len(link.sent) == 6
    assert len(set(link.sent[1:])) == 1  # the same frame again


def test_damaged_answers_are_told_from_silence() -> None:
    device = opened(FakeDevice(policy_of(), faults=["corrupt"] * 100))
    with pytest.raises(DeviceError, match="damaged frames only"):
        device.hello()


def test_a_stale_reply_is_no_answer() -> None:
    fake = FakeDevice(policy_of())
    stale = packed(0x81, 0, b"\0\0\0\0" + bytes(120)) + packed(0x82, 0, bytes(4))[:7]
    assert opened(fake, stale).hello().name == "robot"


# Refusals


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (1, "does not know RESET"),
        (2, "of another size"),
        (4, "no room"),
        (5, "wants a RESET"),
        (6, "never drives outputs"),
        (7, "failed in RESET"),
        (8, "fails its self-test"),
        (9, "driven by its own application"),
        (10, "has halted"),
        (11, "refuses the argument"),
        (99, "unknown result 99"),
    ],
)
def test_every_refusal_is_a_sentence(result: int, words: str) -> None:
    fake = FakeDevice(policy_of())
    fake.reset = lambda content: (result, b"")  # type: ignore[method-assign,assignment]
    with pytest.raises(DeviceError, match=words) as caught:
        opened(fake).reset()
    assert caught.value.exit_code == 10
    assert "{" not in str(caught.value)


def test_driving_is_refused_without_a_fail_safe() -> None:
    device = opened(FakeDevice(policy_of()))
    device.reset()
    with pytest.raises(DeviceError, match="states no fail-safe"):
        device.step(bytes(16), drive=True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"version": 1}, "speaks version 1 of the protocol, and this edgeqrl speaks 2: build"),
        ({"model": b"\x12\x34" + bytes(30)}, "runs model 12340000…, the bundle has 00010203…: flash the"),
        ({"contract": b"\xab" * 32}, "runs contract abababab…, the bundle has 20212223…"),
        ({"model": bytes(32)}, "a model that it does not name"),
    ],
)
def test_another_firmware_is_refused(made: dict[str, Any], words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        opened(FakeDevice(policy_of(), **made)).require(MODEL, CONTRACT)
    if "contract" in made:
        opened(FakeDevice(policy_of(), **made)).require(MODEL)


def test_another_policy_of_the_same_hash_is_refused() -> None:
    other = random_policy(np.random.default_rng(0), (9, 3), name="robot")
    with pytest.raises(
        DeviceError, match="memory of 16, 4 and 0 bytes, and the bundle 'robot' with 36, 4 and 0"
    ):
        DevicePolicy(opened(FakeDevice(policy_of())), other, model_sha256=MODEL)


@pytest.mark.parametrize("size", [0, 3, 100, 115])
def test_a_hello_that_is_cut_off_is_one_sentence(size: int) -> None:
    fake = FakeDevice(policy_of())
    whole = fake.hello(b"")[1]
    fake.hello = lambda content: (0, whole[:size])  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"HELLO with \d+ bytes|speaks version 0"):
        opened(fake).hello()


def test_an_answer_of_another_size_is_one_sentence() -> None:
    fake = FakeDevice(policy_of())
    fake.reset = lambda content: (0, bytes(5))  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="answers RESET with 5 bytes"):
        opened(fake).reset()


# The policy


@pytest.mark.parametrize(("head", "outputs"), [("masked", 5), ("affine", 6), ("argmax", 7)])
def test_every_head_acts_as_reference_and_host_c(head: str, outputs: int) -> None:
    policy = policy_of(head, outputs)
    rng = np.random.default_rng(1)
    masks = rng.random((40, 5)) < 0.5 if head == "masked" else None
    fake = FakeDevice(policy)
    if head == "affine":  # a wider action: fewer rows a batch
        fake.max_payload = 8 + 3 * 28
        fake.batch = widened(fake)  # type: ignore[method-assign]
    device = DevicePolicy(opened(fake), policy, model_sha256=MODEL, contract_sha256=CONTRACT)
    require_same(device, policy, masks=masks)
    require_same(device, policy, 1, masks=None if masks is None else masks[:1])
    observations, starts = observations_of(policy, 40), np.ones(40, np.bool_)
    expected, _ = HostCPolicy(policy).act(observations, None, episode_start=starts, action_masks=masks)
    actions, _ = device.act(observations, None, episode_start=starts, action_masks=masks)
    assert actions.tobytes() == expected.tobytes()


def widened(fake: FakeDevice) -> Callable[[bytes], tuple[int, bytes]]:
    """Return BATCH for any size of action."""

    def batch(content: bytes) -> tuple[int, bytes]:
        count = int.from_bytes(content[:4], "little")
        _, status, actions = fake.act(np.frombuffer(content[4:], np.uint8).reshape(count, -1))
        reply = (50 * count).to_bytes(4, "little") + status.tobytes() + actions.tobytes()
        assert len(reply) + 4 <= fake.max_payload
        return 0, reply

    return batch


def test_outputs_are_the_networks() -> None:
    policy = policy_of()
    observations = observations_of(policy, 5)
    device = DevicePolicy(opened(FakeDevice(policy)), policy, model_sha256=MODEL)
    np.testing.assert_array_equal(device.outputs(observations), HostCPolicy(policy).outputs(observations))


def test_batches_are_cut_by_what_the_device_has_room_for() -> None:
    policy = policy_of()
    fake = FakeDevice(policy, max_payload=4 + 16 * 5)
    device = DevicePolicy(opened(fake), policy, model_sha256=MODEL)
    assert device.device.rows_a_batch == 5
    require_same(device, policy, 23)
    assert fake.executed == [1, 2, *[4] * 6]  # one row first, which tells how long a row takes
    fake.max_payload = 16
    with pytest.raises(DeviceError, match="no room for a batch"):
        require_same(DevicePolicy(opened(fake), policy, model_sha256=MODEL), policy, 2)


def test_episodes_begin_with_a_reset_and_only_single_steps_are_timed() -> None:
    policy = policy_of()
    fake = FakeDevice(policy)
    device = DevicePolicy(opened(fake), policy, model_sha256=MODEL)
    observations = observations_of(policy, 3)
    device.act(observations, None, episode_start=np.array([False, True, False]))
    device.act(observations[:1], None, episode_start=np.array([False]))
    assert fake.executed == [1, 2, 2, 4, 4, 3]
    assert device.timing.step_s == [50e-6]
    assert len(device.timing.round_trip_s) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_policies_of_every_kind_play_as_the_reference_does(kind: str) -> None:
    policy, rng = whole_policy(kind), np.random.default_rng(2)
    fake = FakeDevice(policy, faults=["", "", *["drop", "", "corrupt", "late"] * 6])
    device = DevicePolicy(opened(fake), policy, model_sha256=MODEL)
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    assert (device.most_envs == 1) == device.has_memory == policy.has_memory
    state: Any = None
    generators = [[np.random.default_rng(4)] for _ in range(2)]
    for step in range(9):
        asked: dict[str, Any] = {
            "episode_start": np.array([step % 4 == 0]),
            "action_masks": whole_masks(rng, policy, 1),
        }
        observations = whole_observations(rng, policy, 1)
        expected, state = reference.act(observations, state, **asked, rng=generators[0])
        actions, _ = device.act(observations, None, **asked, rng=generators[1])
        assert actions.tobytes() == expected.tobytes()
        assert actions.shape == expected.shape
    assert fake.steps == 9


def test_a_policy_with_memory_plays_one_episode_at_a_time_and_is_seeded() -> None:
    policy = whole_policy("drawn")
    device = DevicePolicy(opened(FakeDevice(policy)), policy, model_sha256=MODEL)
    observations, starts = whole_observations(np.random.default_rng(2), policy, 2), np.ones(2, np.bool_)
    with pytest.raises(ValueError, match="one episode at a time"):
        device.act(observations, None, episode_start=starts)
    one = {name: part[:1] for name, part in observations.items()}
    with pytest.raises(ValueError, match="needs a generator"):
        device.act(one, None, episode_start=starts[:1])


def test_values_come_beside_actions_and_outputs() -> None:
    policy = whole_policy("values")
    device = DevicePolicy(opened(FakeDevice(policy)), policy, model_sha256=MODEL)
    observations = whole_observations(np.random.default_rng(2), policy, 3)
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    np.testing.assert_array_equal(device.values(observations), reference.values(observations)["value"])
    np.testing.assert_array_equal(device.outputs(observations), reference.outputs(observations))
    both = device.device.step(bytes(device.hello.observation_bytes), outputs=True, values=True)
    assert (len(both.values), len(both.outputs)) == (8, 2)
    with pytest.raises(DeviceError, match="refuses the argument"):
        opened(FakeDevice(policy_of())).reset(5)


def test_a_device_without_a_clock_gives_no_times() -> None:
    policy = policy_of()
    device = DevicePolicy(opened(FakeDevice(policy, tick_hz=0)), policy, model_sha256=MODEL)
    require_same(device, policy, 1)
    assert Spread.of(device.timing.step_s) is None


def test_spread_is_of_measured_values() -> None:
    found = Spread.of([0.25 * i for i in range(1, 101)])
    assert found is not None
    assert found.to_json() == {"min": 0.25, "median": 12.75, "p99": 25.0, "max": 25.0, "count": 100}


@pytest.mark.parametrize(("head", "outputs"), [("masked", 5), ("affine", 6), ("argmax", 7)])
def test_structs_there_and_back(head: str, outputs: int) -> None:
    policy = policy_of(head, outputs)
    rows = structs.observation_rows(policy, observations_of(policy, 6))
    assert rows.shape == (6, structs.observation_layout(policy).num_bytes)
    assert rows.shape[1] % 4 == 0
    content = np.arange(6 * structs.action_layout(policy).num_bytes // 4, dtype="<i4").view("<f4")
    if head != "affine":
        content = content.view("<i4")
    actions = structs.read_actions(policy, content.view(np.uint8).reshape(6, -1))
    np.testing.assert_array_equal(actions.ravel(), content)


# Ports


@pytest.mark.parametrize("kind", SERVERS)
def test_a_real_port_carries_everything(kind: str) -> None:
    policy = policy_of()
    fake = FakeDevice(policy, max_payload=2048, faults=["banner", "", "garbage", "corrupt"])
    with SERVERS[kind](fake, BANNER) as url, open_device(url) as device:
        on_device = DevicePolicy(device, policy, model_sha256=MODEL)
        require_same(on_device, policy, 200)
        require_same(on_device, policy, 1)
        assert "self-test OK" in device.text
    assert fake.steps == 201


@pytest.mark.parametrize("kind", SERVERS)
def test_a_lost_reply_is_asked_for_again_on_a_real_port(kind: str) -> None:
    fake = FakeDevice(policy_of(), faults=["", "drop"])
    with SERVERS[kind](fake) as url, Device(SerialLink(url), url, timeout_s=0.05) as device:
        device.hello()
        device.reset()
        assert device.num_retries >= 1
    assert fake.executed == [1, 2]


@pytest.mark.parametrize("kind", SERVERS)
def test_the_next_command_finds_the_device_usable(kind: str) -> None:
    """As after Ctrl-C in the middle of a frame: a half request, and nobody who reads the reply."""
    fake = FakeDevice(policy_of())
    with SERVERS[kind](fake) as url:
        link = SerialLink(url)
        link.write(encode(Frame(2, 9, bytes(4))) + encode(Frame(3, 10, bytes(20)))[:11])
        link.close()
        link.close()
        with Device(SerialLink(url), url, timeout_s=0.2) as device:
            assert device.hello().name == "robot"
            device.reset()


def test_a_socket_that_hangs_up_is_one_sentence() -> None:
    fake = FakeDevice(policy_of(), faults=["", "gone"])
    with serve_socket(fake) as url, open_device(url) as device:
        device.hello()
        with pytest.raises(DeviceError, match=r"has gone \(.+\)\. Plug it in"):
            device.reset()


def test_an_unplugged_port_is_one_sentence() -> None:
    controller, terminal = os.openpty()
    with open_device(os.ttyname(terminal)) as device:
        os.close(terminal)
        unplug = threading.Timer(0.1, os.close, [controller])
        unplug.start()
        with pytest.raises(DeviceError, match=r"has gone \(.+\)\. Plug it in") as caught:
            device.hello()
        unplug.join()
    assert caught.value.exit_code == 10


def test_a_port_is_ours_alone() -> None:
    controller, terminal = os.openpty()
    try:
        with (
            open_device(os.ttyname(terminal)),
            pytest.raises(DeviceError, match="another program has it open"),
        ):
            open_device(os.ttyname(terminal))
        open_device(os.ttyname(terminal)).close()
    finally:
        os.close(terminal)
        os.close(controller)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("/dev/ttyNOTHING9", DeviceError, "no such file or directory"),
        ("socket://127.0.0.1:1", DeviceError, "connection refused"),
        ("nonsense://x", UsageError, "is not the name of a port, such as"),
        ("socket://nowhere", UsageError, "is not of the form socket://HOST:PORT"),
        ("/tmp", DeviceError, "Cannot open port '/tmp'"),
    ],
)
def test_a_port_that_does_not_open_is_one_sentence(url: str, error: type[Exception], words: str) -> None:
    with pytest.raises((DeviceError, UsageError), match=f"(?i){words}") as caught:
        open_device(url)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_baud_rate_must_be_one() -> None:
    with pytest.raises(UsageError, match="--baud must be above 0"):
        SerialLink("/dev/null", 0)


def test_missing_pyserial_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = link_module.import_module

    def refuse(name: str) -> Any:
        if name == "serial":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(link_module, "import_module", refuse)
    with pytest.raises(MissingToolError, match=r'pip install "edgeqrl\[device\]"'):
        SerialLink("/dev/null")
