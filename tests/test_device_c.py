"""The device core, under sanitizers on this host: every request, every result, and damaged streams."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.emit import make_contract
from firmware_export.emit.golden import answered, generated_crc, num_generated
from tests.device_host import (
    BAD_ARGUMENT,
    BAD_CRC,
    BAD_LENGTH,
    BATCH,
    BUSY,
    HALTED,
    HELLO,
    NEEDS_RESET,
    NOT_ACTUATING,
    PERIOD_TICKS,
    RESET,
    SELFTEST,
    SELFTEST_FAILED,
    STATS,
    STEP,
    TICK_HZ,
    TIMEOUT_TICKS,
    TOO_LONG,
    UNKNOWN_TYPE,
    VERSION,
    HostDevice,
    build_device,
    facts,
    frame,
    replies,
    small_policy,
    write_device,
)

ROOT = Path(__file__).parent.parent
NO_FLAGS, DRIVE, OUTPUTS = (struct.pack("<I", flags) for flags in (0, 1, 2))
POLICY = small_policy()
VALUE = FailSafe("value", (0.0, 0.0))
FACTS = facts(VALUE)
NOTHING, APPLICATION_STEP, EPISODE = 0, 1, 2
GOOD = np.array([0.1, 0.0, -0.1], "<f4").tobytes()
NAN = np.array([0.1, np.nan, -0.1], "<f4").tobytes()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_device(tmp_path_factory.mktemp("device"), POLICY, FACTS)


@pytest.fixture
def device(program: Path) -> Iterator[HostDevice]:
    with HostDevice(program) as running:
        assert running.outcome == 0
        yield running


def test_hello_tells_everything(device: HostDevice) -> None:
    reply = device.ask(HELLO, VERSION)
    words = struct.unpack_from("<14I", reply)
    (
        version,
        flags,
        max_payload,
        observation,
        action,
        outputs,
        counters,
        period,
        tick,
        clock,
        sequence,
        kind,
        memory,
        values,
    ) = words
    assert (version, flags, max_payload, memory, values) == (2, 8 + 16, 256, 0, 0)
    assert (observation, action, outputs, counters) == (12, 8, 2, 3)
    assert (period, tick, clock, sequence, kind) == (20_000, TICK_HZ, 16_000_000, 0, 1)
    contract = make_contract(POLICY, b"", FACTS)
    assert reply[56:88] == bytes(32)  # no model file was given
    assert reply[88:120].hex() == contract.sha256
    assert reply[120:] == b"\x05robot\x04host"


@pytest.mark.parametrize(("head", "flags"), [("argmax", 1), ("masked", 3), ("affine", 0)])
def test_heads_answer_as_the_library_does(tmp_path: Path, head: str, flags: int) -> None:
    policy = small_policy(head)
    program = build_device(tmp_path, policy, facts())
    rng = np.random.default_rng(2)
    rows = rng.normal(0.0, 60 * policy.observation.scale, (9, 3)).astype("<f4")
    masks = rng.random((9, 2)) < 0.6 if head == "masked" else None
    expected = answered(policy, {"observation": rows}, masks)
    with HostDevice(program) as device:
        assert struct.unpack_from("<I", device.ask(HELLO, VERSION), 4)[0] == flags | 8
        device.ask(RESET, NO_FLAGS)
        packed = [row.tobytes() for row in rows]
        if masks is not None:
            packed = [row + bytes(mask.tolist()) + bytes(2) for row, mask in zip(packed, masks, strict=True)]
        actions = expected.actions.astype("<f4" if head == "affine" else "<i4")
        batch = device.ask(BATCH, struct.pack("<I", len(rows)) + b"".join(packed))
        found_status = struct.unpack_from("<9i", batch, 4)
        assert list(found_status) == list(expected.status)
        assert batch[40:] == actions.tobytes()
        for i, row in enumerate(packed):
            reply = device.ask(STEP, OUTPUTS + row)
            assert struct.unpack_from("<i", reply)[0] == expected.status[i]
            assert reply[12:-2] == actions[i].tobytes()
    assert device.outcome == 0


@pytest.mark.parametrize(
    ("kind", "payload", "result"),
    [
        (7, b"", UNKNOWN_TYPE),
        (0, b"", UNKNOWN_TYPE),
        (0x7F, VERSION, UNKNOWN_TYPE),
        (HELLO, b"", BAD_LENGTH),
        (HELLO, VERSION + b"\0", BAD_LENGTH),
        (RESET, b"", BAD_LENGTH),
        (RESET, b"\1\0\0\0", BAD_ARGUMENT),
        (RESET, b"\1\0\0\0" + bytes(8), BAD_ARGUMENT),
        (RESET, NO_FLAGS + bytes(8), BAD_LENGTH),
        (STEP, NO_FLAGS + GOOD[:-1], BAD_LENGTH),
        (STEP, NO_FLAGS + GOOD + b"\0", BAD_LENGTH),
        (STEP, b"\4\0\0\0" + GOOD, BAD_ARGUMENT),
        (STEP, b"\x08\0\0\0" + GOOD, BAD_ARGUMENT),
        (STEP, NO_FLAGS + GOOD, NEEDS_RESET),
        (STEP, DRIVE + GOOD, NEEDS_RESET),
        (BATCH, b"", BAD_LENGTH),
        (BATCH, b"\2\0\0\0" + GOOD, BAD_LENGTH),
        (BATCH, b"\0\0\0\0", BAD_ARGUMENT),
        (BATCH, struct.pack("<I", 2**30 + 1) + GOOD, BAD_LENGTH),
        (STATS, b"", BAD_LENGTH),
        (STATS, b"\2\0\0\0", BAD_ARGUMENT),
        (SELFTEST, b"\0", BAD_LENGTH),
    ],
)
def test_what_is_refused_says_why_and_drives_nothing(
    device: HostDevice, kind: int, payload: bytes, result: int
) -> None:
    assert device.ask(kind, payload, result=result) == b""
    assert device.outputs()[:2] == (0, 0)
    assert device.stats()["bad_length"] == int(result == BAD_LENGTH)
    device.ask(HELLO, VERSION)


def test_batch_has_as_many_rows_as_fit_both_ways(device: HostDevice) -> None:
    """256 bytes: 21 observations of 12 bytes after 4, and 20 answers of 4 + 8 after 8."""
    device.ask(BATCH, struct.pack("<I", 20) + GOOD * 20)
    device.ask(BATCH, struct.pack("<I", 21) + GOOD * 21, result=BAD_ARGUMENT)
    assert device.stats()["steps"] == 20


def test_step_answers_without_driving_and_drives_when_asked(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    quiet = device.ask(STEP, NO_FLAGS + GOOD)
    assert device.outputs()[0] == 0
    driven = device.ask(STEP, DRIVE + GOOD)
    status, guard, _ = struct.unpack_from("<iII", driven)
    assert (status, guard) == (0, 1)
    assert driven[12:] == quiet[12:]
    assert device.outputs() == (1, 0, quiet[12:])


def test_undriven_step_says_what_the_guard_would(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    assert struct.unpack_from("<I", device.ask(STEP, NO_FLAGS + NAN), 4) == (128,)
    assert device.stats()["guard_not_finite"] == 0


def test_bad_observation_drives_the_fail_safe_but_shows_the_answer(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    reply = device.ask(STEP, DRIVE + NAN)
    assert struct.unpack_from("<I", reply, 4) == (1 | 4 | 128,)
    assert reply[12:] != bytes(8)
    assert device.outputs() == (1, 0, bytes(8))
    stats = device.stats()
    assert (stats["guard_not_finite"], stats["driven"], stats["guard_latched"]) == (1, 1, 0)


def test_silence_after_driving_latches_until_reset(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    device.wait(TIMEOUT_TICKS)
    assert device.outputs()[0] == 1
    device.wait(1)
    assert device.outputs() == (2, 0, bytes(8))
    device.wait(TIMEOUT_TICKS)
    assert device.outputs()[0] == 2
    device.ask(STEP, DRIVE + GOOD, result=NEEDS_RESET)
    device.ask(STEP, NO_FLAGS + GOOD)
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    stats = device.stats()
    assert (stats["guard_lost"], stats["guard_latched"], stats["driven"]) == (1, 1, 3)


def test_reset_alone_never_moves_an_output(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    for _ in range(5):
        device.wait(TIMEOUT_TICKS)
    device.ask(STEP, NO_FLAGS + GOOD)
    device.wait(10 * TIMEOUT_TICKS)
    assert device.outputs()[:2] == (0, 0)


def test_late_observation_is_counted_and_driven(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    device.wait(PERIOD_TICKS * 3 // 2 + 1)
    assert struct.unpack_from("<I", device.ask(STEP, DRIVE + GOOD), 4) == (1 | 16,)
    assert device.stats()["guard_late"] == 1


@pytest.mark.parametrize(
    ("fail_safe", "tick_hz", "has_times"),
    [(None, TICK_HZ, True), (VALUE, 0, True), (VALUE, TICK_HZ, False)],
    ids=["no fail-safe", "no time base", "no timeout"],
)
def test_device_that_cannot_fail_safely_never_drives(
    tmp_path: Path, fail_safe: FailSafe | None, tick_hz: int, has_times: bool
) -> None:
    program = build_device(tmp_path, POLICY, facts(fail_safe, has_times=has_times))
    with HostDevice(program, tick_hz=tick_hz) as device:
        assert struct.unpack_from("<I", device.ask(HELLO, VERSION), 4)[0] & 16 == 0
        device.ask(RESET, NO_FLAGS)
        device.ask(STEP, DRIVE + GOOD, result=NOT_ACTUATING)
        device.ask(STEP, NO_FLAGS + GOOD)
        assert device.apply(EPISODE, GOOD)
        assert device.outputs()[:2] == (0, 0)


def test_application_drives_after_it_began_an_episode(device: HostDevice) -> None:
    assert device.apply(NOTHING, GOOD)
    assert device.apply(APPLICATION_STEP, GOOD)
    assert device.outputs()[0] == 0
    assert device.apply(EPISODE, GOOD)
    assert device.apply(APPLICATION_STEP, GOOD)
    assert device.outputs()[0] == 2
    for kind, payload in ((STEP, DRIVE + GOOD), (BATCH, b"\1\0\0\0" + GOOD), (SELFTEST, b"")):
        device.ask(kind, payload, result=BUSY)
    device.wait(TIMEOUT_TICKS + 1)
    assert device.outputs() == (3, 0, bytes(8))
    device.ask(SELFTEST, b"")
    device.ask(RESET, NO_FLAGS)


@pytest.mark.parametrize("is_latched", [False, True])
def test_host_keeps_out_of_an_episode_of_the_application(device: HostDevice, is_latched: bool) -> None:
    assert device.apply(EPISODE, GOOD)
    if is_latched:
        device.wait(TIMEOUT_TICKS + 1)
    before = device.outputs()
    for kind, payload in (
        (RESET, NO_FLAGS),
        (STEP, NO_FLAGS + GOOD),
        (STEP, DRIVE + GOOD),
        (BATCH, b"\1\0\0\0" + GOOD),
    ):
        device.ask(kind, payload, result=BUSY)
    assert device.outputs() == before
    assert device.apply(APPLICATION_STEP, GOOD)
    assert device.outputs()[0] == before[0] + (not is_latched)


def test_application_does_not_drive_in_a_host_s_episode(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    for _ in range(4):
        device.wait(TIMEOUT_TICKS // 4)
        assert device.apply(APPLICATION_STEP, GOOD)
    assert device.outputs()[0] == 1
    device.wait(1)
    assert device.stats()["guard_lost"] == 1
    device.ask(STEP, DRIVE + GOOD, result=NEEDS_RESET)
    assert device.apply(EPISODE, GOOD)
    device.ask(RESET, NO_FLAGS, result=BUSY)


def test_frames_do_not_keep_a_driving_application_waiting(device: HostDevice) -> None:
    whole = frame(STEP, 9, DRIVE + NAN)
    assert device.apply(EPISODE, GOOD)
    assert device.feed(whole[:16]) == []
    for count in range(2, 6):
        device.wait(TIMEOUT_TICKS // 4)
        assert device.apply(APPLICATION_STEP, GOOD)
        assert device.outputs()[0] == count
    assert device.feed(whole[16:]) == [(STEP | 0x80, 9, bytes([BUSY, 0, 0, 0]))]
    assert device.stats()["guard_not_finite"] == 0


def test_reset_stops_what_is_driven_first(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    device.ask(RESET, NO_FLAGS)
    assert device.outputs()[:2] == (1, 1)
    device.wait(10 * TIMEOUT_TICKS)
    assert device.outputs()[:2] == (1, 1)
    device.ask(STEP, DRIVE + GOOD)


def test_application_waits_for_a_host_after_a_reset_by_the_watchdog(program: Path) -> None:
    with HostDevice(program, flags=32) as device:
        assert device.apply(EPISODE, GOOD)
        assert device.apply(APPLICATION_STEP, GOOD)
        assert device.outputs()[0] == 0
        device.ask(RESET, NO_FLAGS)
        assert device.apply(EPISODE, GOOD)
        assert device.outputs()[0] == 1


def test_reply_is_forgotten_when_the_guard_latches_and_in_time(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    request = frame(STEP, 77, DRIVE + GOOD)
    assert device.feed(request)[0][2][0] == 0
    device.wait(TIMEOUT_TICKS + 1)
    assert device.feed(request)[0][2][0] == NEEDS_RESET
    request = frame(STATS, 78, NO_FLAGS)
    first = device.feed(request)
    device.wait(1_900_000)
    assert device.feed(request) == first
    device.wait(100_000)
    assert device.feed(request) != first


def test_long_times_on_a_fast_clock_are_kept(tmp_path: Path) -> None:
    """2 s and 4 s at 600 MHz are more than 2^30 ticks, and 1000 held steps of 20 ms more than 2^32."""
    fast = 600_000_000
    program = build_device(tmp_path, POLICY, ContractFacts(None, 2.0, 4.0, fail_safe=FailSafe("disable")))
    with HostDevice(program, tick_hz=fast) as device:
        device.ask(RESET, NO_FLAGS)
        device.ask(STEP, DRIVE + GOOD)
        for tenth in range(42):
            assert device.outputs()[:2] == (1, int(tenth > 40))
            device.wait(fast // 10)
    program = build_device(tmp_path / "hold", POLICY, facts(FailSafe("hold", hold_steps=1000)))
    with HostDevice(program, tick_hz=fast) as device:
        device.ask(RESET, NO_FLAGS)
        device.ask(STEP, DRIVE + GOOD)
        waited = 0
        while device.outputs()[1] == 0:
            device.wait(fast // 2)
            waited += 1
        assert 20.0 < waited / 2 <= 20.5


def test_application_waits_while_an_observation_is_received(device: HostDevice) -> None:
    whole = frame(STEP, 9, NO_FLAGS + GOOD)
    device.ask(RESET, NO_FLAGS)
    expected = device.ask(STEP, NO_FLAGS + GOOD)
    assert device.feed(whole[:16]) == []
    assert device.apply(EPISODE, NAN)
    assert device.outputs()[0] == 0  # a host has an episode
    ((_, _, payload),) = device.feed(whole[16:])
    assert payload[4:] == expected


def test_selftest_stops_what_the_host_drove_and_needs_a_reset(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    device.ask(STEP, DRIVE + GOOD)
    rows, found, expected = struct.unpack("<3I", device.ask(SELFTEST, b""))
    assert found == expected == generated_crc(POLICY, num_generated(POLICY))
    assert rows == num_generated(POLICY) + 13
    assert device.outputs()[:2] == (1, 1)
    device.ask(STEP, NO_FLAGS + GOOD, result=NEEDS_RESET)


def test_repeated_request_is_answered_and_not_executed(device: HostDevice) -> None:
    device.ask(RESET, NO_FLAGS)
    request = frame(STEP, 77, DRIVE + GOOD)
    first = device.feed(request)
    assert device.feed(request) == first
    damaged = request[:-1] + bytes([request[-1] ^ 1])
    assert device.feed(damaged) == [(0x80, 77, bytes([BAD_CRC, 0, 0, 0]))]
    assert device.feed(request) == first
    assert device.outputs()[0] == 1
    other = frame(STEP, 78, DRIVE + GOOD)
    assert device.feed(other)[0][2][4:8] == first[0][2][4:8]
    stats = device.stats()
    assert (stats["driven"], stats["repeated"], stats["bad_crc"]) == (2, 2, 1)


def test_too_long_frame_is_refused_at_its_header(device: HostDevice) -> None:
    request = frame(STEP, 5, bytes(257))
    assert device.feed(request[:8]) == [(0x80, 5, bytes([TOO_LONG, 0, 0, 0]))]
    assert device.feed(request[8:]) == []
    device.ask(HELLO, VERSION)
    assert device.stats()["bad_length"] == 1


def test_unfinished_frame_is_dropped_after_100_ms(device: HostDevice) -> None:
    request = frame(HELLO, 5, VERSION)
    device.feed(request[:-1])
    device.wait(99_999)
    assert len(device.feed(request[-1:])) == 1
    device.feed(request[:-1])
    device.wait(100_000)
    assert device.feed(request[-1:]) == []
    assert device.stats()["timeouts"] == 1


@pytest.mark.parametrize(
    "noise",
    [
        b"edgeqrl robot self-test OK\r\n",
        b"\xa5",
        b"\xa5\xa5\xa5",
        b"\xa5\x5a",
        b"\xa5\x5a\x01",
        b"\xa5\x5a\xa5\x5a\xa5\x5a\xa5",
        frame(HELLO, 3, VERSION)[:7],
        bytes(range(256)),
    ],
)
def test_device_finds_the_next_frame_after_noise(device: HostDevice, noise: bytes) -> None:
    found = device.feed(noise + frame(HELLO, 9, VERSION))
    assert [(kind, sequence) for kind, sequence, _ in found] == [(HELLO | 0x80, 9)]


def test_reply_is_never_answered(device: HostDevice) -> None:
    assert device.feed(frame(0x81, 1, VERSION) + frame(0x80, 1, bytes(4))) == []


def test_stats_count_and_are_cleared(device: HostDevice) -> None:
    device.wait(2_500_000)
    device.poll(3)
    device.ask(RESET, NO_FLAGS)
    huge = np.array([3e38, 0, 0], "<f4").tobytes()
    device.ask(STEP, NO_FLAGS + huge)
    raw = device.ask(STATS, b"\1\0\0\0")
    words = struct.unpack_from("<20I", raw)
    assert (words[6], words[7], words[18], words[19]) == (3, 1, 1234, 2500)
    after = device.ask(STATS, NO_FLAGS)
    assert struct.unpack_from("<20I", after)[:2] == (1, 0)
    assert struct.unpack_from("<20I", after)[19] == 2500
    assert struct.unpack("<3H", after[80:]) == (0, 0, 0)
    assert struct.unpack("<3H", raw[80:])[0] >= 1


@pytest.mark.parametrize("damage", ["params", "crc", "golden"])
def test_halted_device_tells_and_tests_and_nothing_else(tmp_path: Path, damage: str) -> None:
    write_device(tmp_path, POLICY, FACTS)
    name = {"params": "robot_params.c", "crc": "robot_golden.h", "golden": "robot_golden.c"}[damage]
    text = (tmp_path / name).read_text()
    if damage == "crc":
        text = re.sub(r"(_SELFTEST_CRC 0x)(.)", lambda m: f"{m[1]}{int(m[2], 16) ^ 1:X}", text)
    elif damage == "params":
        text = text.replace("0x", "0x1", 1) if re.search(r"0x[0-9A-Fa-f]{1,7}u", text) else text
        text = re.sub(r"0x50525145u", "0x50525144u", (tmp_path / name).read_text(), flags=re.IGNORECASE)
    else:
        at = text.index("golden_actions[")
        text = text[:at] + re.sub(r"0x(.)", lambda m: f"0x{int(m[1], 16) ^ 1:x}", text[at:], count=1)
    program = build_device(tmp_path, POLICY, FACTS, changed={name: text.encode()})
    with HostDevice(program) as device:
        assert device.outcome == (1 if damage == "params" else 2)
        assert device.outputs()[:2] == (0, 1)
        device.ask(HELLO, VERSION)
        device.ask(RESET, NO_FLAGS, result=HALTED)
        device.ask(STEP, NO_FLAGS + GOOD, result=HALTED)
        device.ask(BATCH, b"\1\0\0\0" + GOOD, result=HALTED)
        assert device.apply(EPISODE, GOOD)
        assert len(device.ask(SELFTEST, b"", result=SELFTEST_FAILED)) == 12
        assert device.stats()["steps"] == 0
        assert device.outputs()[0] == 0


def test_exchange_starts_a_device_that_has_not_booted(program: Path) -> None:
    hello = frame(HELLO, 1, VERSION)
    with HostDevice(program, is_started=False) as device:
        found = device.exchange(hello + frame(RESET, 2, NO_FLAGS) + frame(STEP, 3, NO_FLAGS + GOOD))
        assert [found[2], found[3]] == [0x81, 1]
        assert found.count(b"\xa5\x5a") >= 3
        assert device.exchange(hello[:-1]) == b""
        assert device.exchange(hello) != b""  # whole frames: nothing of the last call is left


def test_hello_of_the_page_is_what_the_device_answers(device: HostDevice) -> None:
    """To mend the page, put in what this test prints."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    request = frame(HELLO, 1, VERSION)
    ((kind, sequence, payload),) = device.feed(request)
    expected = f"request\n{hex_lines(request)}\nreply\n{hex_lines(frame(kind, sequence, payload))}\n"
    match = re.search(r"<!-- hello -->\n```text\nrequest\n(.*?)\nreply\n(.*?)\n```", page, re.DOTALL)
    assert match is not None, expected
    stated = [bytes.fromhex(text) for text in match.groups()]
    assert stated[0] == request, expected
    ((kind, sequence, told),) = replies(stated[1])
    assert (kind, sequence) == (HELLO | 0x80, 1)
    contract = slice(4 + 56 + 32, 4 + 56 + 64)  # its hash changes with every word that describes it
    assert (
        told[: contract.start] + told[contract.stop :] == payload[: contract.start] + payload[contract.stop :]
    )


def test_page_lists_every_result_and_guard_flag() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    for path, prefix in (("ports/common/eqrl_device.h", "RESULT"), ("runtime/eqrl_guard.h", "GUARD")):
        header = (ROOT / "firmware_export" / path).read_text()
        found = re.findall(rf"EQRL_{prefix}_([A-Z_]+) = (\d+)", header)
        assert len(found) >= 9
        for name, value in found:
            assert re.search(rf"^\| {value} \| {name} \|", page, re.MULTILINE), name


def hex_lines(data: bytes) -> str:
    return "\n".join(data[i : i + 16].hex(" ").upper() for i in range(0, len(data), 16))
