"""`validate --backend device`: episodes on a device, every action compared with the C on this host."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl import stages
from edgeqrl.backends.device import DevicePolicy, Spread
from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.rows import differing_rows
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet
from edgeqrl.data import data_folder
from edgeqrl.deployment import board_of
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BackendsDiffer, UsageError
from edgeqrl.interfaces import ScoringPolicy, State
from edgeqrl.pipeline import validate_played
from edgeqrl.stages import Progress, Settings, silent
from edgeqrl.validate.agreement import DerivedGenerators, twin
from firmware_export.board import board_names
from firmware_export.contract import CONTRACT_FILE
from firmware_export.device.client import open_device
from firmware_export.device.link import DEFAULT_BAUD

_TIMED_STEPS = 256  # single ones, on calibration observations


class PairedPolicy:
    """Acts as the device does, and raises BackendsDiffer where host C would act otherwise.

    Actions are compared to the bit, on the same observations. The network's outputs, which only the likeness
    asks for, are host C's.
    """

    name = "device"

    def __init__(self, device: DevicePolicy, host: ScoringPolicy) -> None:
        self.num_equal = 0  # actions
        self.has_memory, self.most_envs = device.has_memory, device.most_envs
        self._device, self._host = device, host
        # The device draws its seeds from copies, so that both draw the same.
        self._twins = DerivedGenerators(twin)

    def act(
        self,
        observations: Any,
        state: State | None,
        *,
        episode_start: NDArray[np.bool_],
        action_masks: NDArray[np.bool_] | None = None,
        rng: Sequence[np.random.Generator] | None = None,
    ) -> tuple[NDArray[Any], State]:
        """Act on both; the state counts the steps of each row's episode, and then has host C's memory."""
        before = np.zeros(len(episode_start), np.int64) if state is None else state[0]
        steps = np.where(episode_start, 0, before)
        asked: dict[str, Any] = {"episode_start": episode_start, "action_masks": action_masks}
        twins = None if rng is None else self._twins.of(rng, episode_start)
        found, _ = self._device.act(observations, None, **asked, rng=twins)
        memory = None if state is None else state[1:]
        expected, memory = self._host.act(observations, memory, **asked, rng=rng)
        differing = differing_rows(found, expected)
        if differing:
            row = differing[0]
            where = f"{_episode(rng, row)} at step {steps[row]}"
            raise BackendsDiffer(
                f"{self._device.place} and host-c act differently {where}: {_shown(found[row])} and "
                f"{_shown(expected[row])}. Run the device's self-test (`edgeqrl flash` does), and report it "
                "with the bundle."
            )
        self.num_equal += len(found)
        return found, (steps + 1, *memory)

    def outputs(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return host C's outputs [N, num_outputs]."""
        return self._host.outputs(observations)

    def time_steps(self, calibration: CalibrationSet, count: int) -> None:
        """Send observations one a frame, as a control loop does, in one episode: only these are timed."""
        rng, state = [np.random.default_rng(0)], None
        for row in range(min(len(calibration), count)):
            observation = calibration.rows(slice(row, row + 1))
            _, state = self.act(observation, state, episode_start=np.array([row == 0]), rng=rng)


def validate_on_device(
    bundle: Bundle,
    make_env: MakeEnv | None,
    port: str,
    settings: Settings,
    *,
    baud: int | None = None,
    float_backend: str | None = None,
    trust: bool = False,
    stated: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Judge a bundle by what the device at `port` does; the outputs of the device are never driven.

    port  a pyserial URL: /dev/ttyACM0, COM3, a pty, socket://HOST:PORT
    baud  that of the board's firmware by default

    Raises DeviceError where the device does not answer or runs something else, BackendsDiffer at the first
    action that is not host C's. The bundle is then as it was.
    """
    stages.require_environment_fits(bundle, make_env)
    quantized = stages.read_quantized(bundle)
    policy = quantized.integer_policy(is_masked=bundle.fact("is_masked"))
    host = HostCPolicy(policy)
    model, contract = _sha256(bundle, stages.TFLITE), _sha256(bundle, f"src/{CONTRACT_FILE}")
    assert model is not None
    rate = _baud_of(bundle) if baud is None else baud
    with open_device(port, rate) as device:
        on_device = DevicePolicy(device, policy, model_sha256=model, contract_sha256=contract)
        paired = PairedPolicy(on_device, host)
        paired.time_steps(stages.read_calibration(bundle), _TIMED_STEPS)
        return validate_played(
            bundle,
            quantized,
            paired,
            make_env,
            settings,
            float_backend=float_backend,
            trust=trust,
            stated=stated,
            more=lambda: {"device": _section(port, rate, on_device, paired)},
            progress=progress,
        )


def find_port(bundle: Bundle) -> str:
    """Return the one serial port on USB that the bundle's board has; raise UsageError if there is not one."""
    from firmware_export.flashers.find import serial_ports

    if "board" not in bundle.facts:
        raise UsageError(
            f"'{bundle}' has no firmware, so its board is not known: say where it is with --port."
        )
    board = board_of(bundle, None)
    known = {usb for tool in board.flash_tools for usb in (tool.usb if tool.uart_on_port else tool.uart_usb)}
    found = serial_ports(sorted(known)) if known else ()
    if len(found) == 1:
        return found[0].name
    listed = ", ".join(map(str, found)) or "none"
    raise UsageError(
        f"The port of the {board.name} is not to be told ({listed} found by its USB id): name it with --port."
    )


def _section(port: str, baud: int, on_device: DevicePolicy, paired: PairedPolicy) -> dict[str, Any]:
    """Return the report's section `device`."""
    hello, device, timing = on_device.hello, on_device.device, on_device.timing
    spreads = {
        "round_trip_s": Spread.of(timing.round_trip_s),
        "step_s": Spread.of(timing.step_s),
    }
    return {
        "port": port,
        "baud": baud,
        "board": hello.board,
        "protocol": hello.version,
        "model_sha256": hello.model_sha256.hex(),
        "contract_sha256": hello.contract_sha256.hex() if on_device.is_contract_compared else None,
        "clock_hz": hello.clock_hz,
        "tick_hz": hello.tick_hz,
        "runs_slowly": hello.runs_slowly,
        "was_reset_by_watchdog": hello.was_reset_by_watchdog,
        **{name: None if spread is None else spread.to_json() for name, spread in spreads.items()},
        "frames": device.num_frames,
        "retries": device.num_retries,
        "equal_to_host_c": paired.num_equal,
    }


def _sha256(bundle: Bundle, path: str) -> bytes | None:
    return bytes.fromhex(bundle.sha256_of(path)) if bundle.has(path) else None


def _baud_of(bundle: Bundle) -> int:
    """Return what the bundle's board sends with; a board of which only the name is known has the usual."""
    if bundle.facts.get("board") not in board_names(data_folder("boards")):
        return DEFAULT_BAUD
    serial = board_of(bundle, None).serial
    return DEFAULT_BAUD if serial is None else serial.baud  # Linux: a socket, which has no rate


def _episode(rng: Sequence[np.random.Generator] | None, row: int) -> str:
    """Name a row's episode: by the seed that `rollout` made its generator from."""
    source: Any = None if rng is None else rng[row].bit_generator.seed_seq
    is_episode = getattr(source, "spawn_key", ()) == (1,)
    return f"in the episode with seed {source.entropy}" if is_episode else f"on observation {row}"


def _shown(action: Any) -> str:
    return " ".join(str(np.asarray(action).tolist()).split())[:200]
