import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeqrl.backends import emulated
from edgeqrl.backends.emulated import EmulatedPolicy, open_network, open_policy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.errors import DeviceError, MissingToolError
from edgeqrl.network.edges import quantize_observations
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference
from firmware_export.emit.params import build_params
from firmware_export.emulators import unicorn_engine
from tests.c_policies import random_observations, random_policy
from tests.firmware import BOARDS, board, firmware, one_by_default, policy
from tests.tflite_writer import TFLiteWriter, random_dense_tflite

CORES = one_by_default(("cortex-m0plus", "cortex-m4", "rv32imac"), ("cortex-m0plus",))


@pytest.fixture(scope="module", params=BOARDS)
def device(request: pytest.FixtureRequest) -> Iterator[EmulatedPolicy]:
    with EmulatedPolicy(firmware(request.param), policy(), board(request.param)) as opened:
        yield opened


@pytest.mark.parametrize("text", [b"{no json", b"\xff\xff"])
def test_reply_that_is_no_frame_is_one_sentence(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    process = unicorn_engine.EmulatorProcess()
    frame = len(text).to_bytes(4, "little") + bytes(4) + text
    with tempfile.TemporaryFile() as pipe:
        pipe.write(frame)
        pipe.seek(0)
        monkeypatch.setattr(process._process, "stdout", pipe)
        with pytest.raises(DeviceError, match="stopped answering"):
            process.request("load", {}, b"")
    process.close()


def worker_of(device: EmulatedPolicy) -> subprocess.Popen[bytes]:
    engine = device.emulated._process
    assert isinstance(engine, unicorn_engine.EmulatorProcess)
    return engine._process


def added_inputs_tflite(count: int) -> bytes:
    """Write a network that adds `count` inputs."""
    writer = TFLiteWriter()
    inputs = [writer.tensor(f"input_{i}", (1, 3), scale=0.02, zero_point=i) for i in range(count)]
    total = inputs[0]
    for i, term in enumerate(inputs[1:]):
        after = writer.tensor(f"sum_{i}", (1, 3), scale=0.05)
        writer.operator("ADD", [total, term], [after])
        total = after
    return writer.finish(inputs, [total])


def require_same_answers(
    device: EmulatedPolicy, of: IntegerPolicy, observations: np.ndarray, masks=None
) -> None:  # type: ignore[no-untyped-def]
    reference = NetworkPolicy(Reference(of.network), of, name="reference")
    starts = np.zeros(len(observations), np.bool_)
    expected, _ = reference.act(observations, None, episode_start=starts, action_masks=masks)
    actions, _ = device.act(observations, None, episode_start=starts, action_masks=masks)
    np.testing.assert_array_equal(actions, expected)
    assert actions.dtype == expected.dtype
    assert actions.shape == expected.shape
    _, flags = device.step(observations, masks)
    np.testing.assert_array_equal(flags, quantize_observations(of.observation, observations)[1])


def test_steps_equal_the_reference_bit_for_bit(device: EmulatedPolicy) -> None:
    require_same_answers(device, policy(), random_observations(np.random.default_rng(1), policy(), 1500))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("head", "shape"), [("masked", (5,)), ("affine", (2, 3)), ("argmax", (7,))])
def test_every_head_equals_the_reference(core: str, head: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(head))
    of = random_policy(rng, (int(np.prod(shape)), 9, 5), head=head, shape=shape)
    masks = rng.random((300, 5)) < 0.5 if head == "masked" else None
    with open_policy(of, core) as device:
        require_same_answers(device, of, random_observations(rng, of, 300), masks)


@pytest.mark.parametrize(
    "core", one_by_default(("cortex-m0plus", "cortex-m4", "rv32imac"), ("cortex-m0plus",))
)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 33), min_size=2, max_size=4))
def test_random_networks_equal_the_reference(core: str, seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    tflite = random_dense_tflite(rng, sizes, ["RELU"] * (len(sizes) - 2) + ["NONE"])
    network = read_tflite(tflite)
    (name,) = network.inputs
    inputs = {name: rng.integers(-128, 128, (64, *network.tensors[name].shape)).astype(np.int8)}
    with open_network(tflite, core) as opened:
        answers = opened.run(inputs)
    for output, expected in Reference(network).run(inputs).items():
        np.testing.assert_array_equal(answers[output], expected)


def test_no_rows_give_no_actions(device: EmulatedPolicy) -> None:
    actions, flags = device.step(np.zeros((0, 4), np.float32))
    assert actions.shape == flags.shape == (0,)


def test_observations_of_another_shape_are_refused(device: EmulatedPolicy) -> None:
    with pytest.raises(ValueError, match="'observation' must be"):
        device.step(np.zeros((1, 5), np.float32))


def test_firmware_of_another_policy_is_refused() -> None:
    other = random_policy(np.random.default_rng(0), (9, 3), name="robot")
    with pytest.raises(DeviceError, match="do not fit the policy 'robot'"):
        EmulatedPolicy(firmware("mps2-an386"), other, board("mps2-an386"))


def test_profile_repeats_and_leaves_the_playing_machine_alone(device: EmulatedPolicy) -> None:
    observations = random_observations(np.random.default_rng(3), policy(), 4)
    before = device.step(observations)[0]
    first, second = device.profile(observations[0]), device.profile(observations[0])
    assert first == second
    assert first.instructions > policy().network.num_macs
    assert first.unaligned == ()
    assert device.count_instructions(observations) == first.instructions
    np.testing.assert_array_equal(device.step(observations)[0], before)


def test_params_are_replaced_at_run_time(device: EmulatedPolicy) -> None:
    layers = policy().network.layers
    dense = layers[0]
    flipped = replace(dense, weights=np.negative(dense.weights))  # type: ignore[type-var]
    network = replace(policy().network, layers=(flipped, *layers[1:]))
    changed = replace(policy(), network=network)
    observations = random_observations(np.random.default_rng(4), policy(), 200)
    old = device.step(observations)[0]
    assert device.emulated.init(build_params(changed)) == 0
    require_same_answers(device, changed, observations)
    damaged = bytearray(build_params(changed))
    damaged[-1] ^= 1
    assert device.emulated.init(bytes(damaged)) < 0
    with pytest.raises(DeviceError, match="robot_step returned"):
        device.step(observations)
    assert device.emulated.init() == 0
    np.testing.assert_array_equal(device.step(observations)[0], old)


def test_missing_unicorn_is_one_sentence_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_engine, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match=r"pip install .edgeqrl\[firmware\]"):
        EmulatedPolicy(firmware("rpi-pico"), policy(), board("rpi-pico"))


def test_killed_emulator_is_one_sentence() -> None:
    with EmulatedPolicy(firmware("rpi-pico"), policy(), board("rpi-pico")) as opened:
        worker_of(opened).kill()
        with pytest.raises(DeviceError, match="stopped answering"):
            opened.step(np.zeros((1, 4), np.float32))


def test_silent_emulator_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_engine, "_TIMEOUT_S", 0.5)
    process = unicorn_engine.EmulatorProcess()
    loop = b"\xfe\xe7"  # b .
    header = {
        "core": "cortex-m4",
        "memory": [[0x20000000, 4096]],
        "chunks": [[0x20000000, 2]],
        "stack_top": 0x20001000,
    }
    monkeypatch.setattr(unicorn_engine, "_TIMEOUT_S", 20.0)
    process.request("load", header, loop)
    monkeypatch.setattr(unicorn_engine, "_TIMEOUT_S", 0.5)
    with pytest.raises(DeviceError, match="stopped answering"):
        process.request("call", {"function": 0x20000000, "arguments": [], "chunks": []}, b"")
    process.close()


def test_emulator_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    process = unicorn_engine.EmulatorProcess()
    os.kill(process._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(unicorn_engine, "_TIMEOUT_S", 0.2)
    with pytest.raises(DeviceError, match="stopped answering"):
        process.request("call", {}, bytes(2**20))  # more than any pipe holds
    process.close()
    assert process._process.returncode == -signal.SIGKILL


def test_answers_may_come_in_pieces() -> None:
    source, target = os.pipe()
    content = bytes(range(256)) * 1000  # more than one read takes
    frame = struct.pack("<II", 8, len(content)) + b'{"a": 1}' + content

    def write() -> None:
        for start, end in ((0, 3), (3, 8), (8, 20), (20, len(frame))):
            os.write(target, frame[start:end])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert unicorn_engine._receive(source, time.monotonic() + 60) == ({"a": 1}, content)
    finally:
        writer.join()
        os.close(source)
        os.close(target)


def test_a_batch_is_one_request_and_starts_no_thread(
    device: EmulatedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    process = device.emulated._process
    ask = process.request

    def request(kind: str, header: Mapping[str, Any], payload: bytes) -> Any:
        asked.append(kind)
        return ask(kind, header, payload)

    def start(_: threading.Thread) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(process, "request", request)
    monkeypatch.setattr(threading.Thread, "start", start)
    device.step(random_observations(np.random.default_rng(5), policy(), 64))
    assert asked == ["map"]


def test_rows_together_and_one_by_one_give_the_same(device: EmulatedPolicy) -> None:
    observations = random_observations(np.random.default_rng(6), policy(), 20)
    together, flags = device.step(observations)
    alone = [device.step(observations[row : row + 1]) for row in range(20)]
    np.testing.assert_array_equal(together, np.concatenate([actions for actions, _ in alone]))
    np.testing.assert_array_equal(flags, np.concatenate([found for _, found in alone]))


@pytest.mark.parametrize("core", CORES)
def test_arguments_beyond_the_registers_lie_on_the_stack_for_every_row(core: str) -> None:
    rng = np.random.default_rng(7)
    tflite = added_inputs_tflite(9)  # state, inputs and output: eleven arguments
    network = read_tflite(tflite)
    inputs = {
        name: rng.integers(-128, 128, (12, *network.tensors[name].shape)).astype(np.int8)
        for name in network.inputs
    }
    with open_network(tflite, core) as opened:
        answers = opened.run(inputs)
        again = opened.run({name: rows[3:5] for name, rows in inputs.items()})
    for output, expected in Reference(network).run(inputs).items():
        np.testing.assert_array_equal(answers[output], expected)
        np.testing.assert_array_equal(again[output], expected[3:5])


def test_closing_ends_the_process_and_can_be_repeated() -> None:
    opened = EmulatedPolicy(firmware("rpi-pico"), policy(), board("rpi-pico"))
    child = worker_of(opened)
    opened.close()
    opened.close()
    assert child.returncode == 0


def test_core_never_imports_unicorn() -> None:
    """In a process of its own: another test may have."""
    code = "import sys, edgeqrl.backends.emulated; sys.exit('unicorn' in sys.modules)"
    assert emulated is not None
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
