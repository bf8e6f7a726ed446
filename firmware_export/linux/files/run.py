#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the policy of this folder on a Raspberry Pi. Needs Python 3.9 or later and nothing else.

run.py                    the control loop: sensors and actuators are in application.py
run.py --self-test        check the policy against its golden vectors; prints JSON
run.py --serve 7000       speak the device protocol on a TCP port of this machine
run.py --stop             stop the actuators, and do nothing else

The network runs in LiteRT if it is installed, else in tflite-runtime, else in the C library of this folder.
Encoding of observations, decoding of actions and the guard with its fail-safe are always the C library's.
"""

import argparse
import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import signal
import socket
import struct
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BACKENDS = ("litert", "tflite-runtime", "c")
MODULES = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}
DRIVE, DISABLE = 1, 8  # flags of the guard
WORDS = {
    2: "held",
    4: "fail-safe",
    8: "stopped",
    16: "late",
    32: "lost",
    64: "range",
    128: "not finite",
    256: "latched",
}
IDLE_S = 0.001  # pause while the application has no observation
CHUNK = 65536
# Where an interpreter is broken, not just rounding otherwise: units of an output (of 256; of 65,536), and
# the part of the golden rows, beyond the first three, on which it may choose another action.
LARGEST_DIFFERENCE = {"int8": 8, "uint8": 8, "int16": 2048}
OTHER_ACTIONS = 0.1


class Refused(Exception):
    """What cannot be done, in one sentence."""


class Library:
    """The policy's C library for this processor."""

    def __init__(self):
        """Load it; raises Refused where there is none for this machine, or it fails its golden vectors."""
        machine = platform.machine().lower()
        machine = MACHINES.get(machine, machine)
        if struct.calcsize("P") == 4 and machine == "aarch64":
            machine = "armv7l"  # a 32-bit system on a 64-bit kernel
        path = HERE / "lib" / machine / "libpolicy.so"
        if not path.is_file():
            there = ", ".join(sorted(place.name for place in (HERE / "lib").iterdir()))
            raise Refused(f"There is no library for '{machine}'; there are: {there}.")
        _require_whole(path.relative_to(HERE).as_posix())
        try:
            self.c = ctypes.CDLL(str(path))
        except OSError as error:
            raise Refused(f"The library of this folder cannot be loaded ({error}).") from error
        self.c.eqrl_linux_output.restype = ctypes.c_void_p
        sizes = (ctypes.c_uint32 * 7)()
        self.c.eqrl_linux_sizes(sizes)
        self.observation_bytes, self.action_bytes, self.input_bytes, self.output_bytes = sizes[:4]
        self.num_inputs, self.max_frame = sizes[4], sizes[5]
        self.has_self_test = bool(sizes[6])
        self.require(self.c.eqrl_linux_init(), "The policy did not start, or fails its golden vectors")

    def require(self, status, what):
        """Raise Refused for an error status."""
        if status < 0:
            raise Refused(f"{what}: status {status}.")
        return status

    def buffer(self, size):
        """Return zeroed bytes that C may write to; 8-aligned."""
        return (ctypes.c_uint64 * ((size + 7) // 8))()


def _require_whole(*paths):
    """Raise Refused where a file of this folder is not what package.json says; of all files by default."""
    try:
        known = json.loads((HERE / "package.json").read_text())["sha256"]
        damaged = [
            p for p in paths or known if hashlib.sha256((HERE / p).read_bytes()).hexdigest() != known[p]
        ]
    except (KeyError, OSError, ValueError) as error:
        raise Refused(f"This folder is damaged ({error}); deploy it again.") from error
    if damaged:
        raise Refused(f"'{damaged[0]}' is damaged: its sha256 is not that of package.json; deploy it again.")


class Policy:
    """Observation in, action out, on one backend."""

    def __init__(self, backend="auto"):
        """Open `backend`, or the first that works here."""
        self.library = Library()
        self.contract = json.loads((HERE / "policy_contract.json").read_text())
        self.is_discrete = self.contract["action"]["kind"] == "discrete"
        self.backend, self._interpreter = _first_of(BACKENDS) if backend == "auto" else _opened(backend)
        self._observation = self.library.buffer(self.library.observation_bytes)
        self._action = self.library.buffer(self.library.action_bytes)
        self._input = self.library.buffer(self.library.input_bytes)
        self._output = self.library.buffer(self.library.output_bytes)

    def reset(self):
        """Begin an episode, and arm the guard; needed again once the guard has latched."""
        self.library.require(self.library.c.eqrl_linux_reset(), "The policy cannot be reset")

    def step(self, observation, action_mask=None):
        """Return (action, guard flags) for a list or array of numbers in the environment's units."""
        status = self.answer(self.pack(observation, action_mask))
        flags = self.library.c.eqrl_linux_guard(self._observation, status, self._action)
        return self._decoded(), flags

    def idle(self):
        """Return (action, guard flags) where no observation came: the fail-safe, once it is time."""
        flags = self.library.c.eqrl_linux_guard_idle(self._action)
        return self._decoded(), flags

    def answer(self, packed):
        """Run the policy on a packed observation; the action stays in its buffer. Returns the status."""
        c = self.library.c
        ctypes.memmove(self._observation, packed, len(packed))
        if self._interpreter is None:
            status = self.library.require(
                c.eqrl_linux_step(self._observation, self._action), "The step failed"
            )
            ctypes.memmove(self._output, c.eqrl_linux_output(), self.library.output_bytes)
            return status
        status = self.library.require(c.eqrl_linux_encode(self._observation, self._input), "Encoding failed")
        output = self.infer(bytes(self._input)[: self.library.input_bytes])
        ctypes.memmove(self._output, output, self.library.output_bytes)
        decoded = c.eqrl_linux_decode(self._observation, self._output, self._action)
        self.library.require(decoded, "Decoding failed")
        return status

    def infer(self, data):
        """Return the network's output for its quantized input, both as bytes, in the interpreter."""
        import numpy

        source = self._interpreter.get_input_details()[0]
        target = self._interpreter.get_output_details()[0]
        values = numpy.frombuffer(data, source["dtype"]).reshape(source["shape"])
        self._interpreter.set_tensor(source["index"], values)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(target["index"]).tobytes()

    def action_words(self):
        """Return the bytes of the last action."""
        return bytes(self._action)[: self.library.action_bytes]

    def output_words(self):
        """Return the bytes of the network's last output."""
        return bytes(self._output)[: self.library.output_bytes]

    def pack(self, observation, action_mask=None):
        """Return NAME_observation as bytes."""
        count = self.library.num_inputs
        if hasattr(observation, "ravel"):  # an array of any shape
            observation = observation.ravel().tolist()
        if len(observation) != count:
            raise Refused(f"An observation has {count} numbers, got {len(observation)}.")
        packed = bytes((ctypes.c_float * count)(*observation))  # too large for a float32: infinite
        rest = self.library.observation_bytes - len(packed)
        mask = b"\1" * rest if action_mask is None else bytes(bool(allowed) for allowed in action_mask)
        return packed + mask[:rest].ljust(rest, b"\0")

    def _decoded(self):
        words = self.action_words()
        if self.is_discrete:
            return struct.unpack("<i", words[:4])[0]
        return list(struct.unpack(f"<{len(words) // 4}f", words))


def _first_of(backends):
    """Open the first backend that works here: an interpreter may be there and not fit this system."""
    for backend in backends:
        if backend == "c" or importlib.util.find_spec(MODULES[backend]) is not None:
            try:
                return _opened(backend)
            except Refused as error:
                print(f"not used: {error}", file=sys.stderr)
    raise AssertionError("C needs nothing")


def _opened(backend):
    if backend == "c":
        return backend, None
    try:
        module = importlib.import_module(MODULES[backend] + ".interpreter")
        interpreter = module.Interpreter(model_path=str(HERE / "policy.tflite"), num_threads=1)
        interpreter.allocate_tensors()
    except Exception as error:  # whatever a wheel for another NumPy or system raises
        raise Refused(f"{backend} does not work here ({error}); use --backend c.") from error
    return backend, interpreter


def self_test(backend):
    """Check policy and backend against golden vectors.

    The C library must equal the reference in every output and action. An interpreter rounds otherwise: how
    far it is from the reference is counted, gross differences are refused, and the verdict on all that lies
    between is that of `edgeqrl validate --backend litert`.
    """
    _require_whole()
    policy = Policy(backend)
    golden = json.loads((HERE / "golden.json").read_text())
    differences = _against_golden(policy, golden)
    found = {"backend": policy.backend, "machine": platform.machine(), "python": platform.python_version()}
    found.update(name=policy.contract["name"], model_sha256=policy.contract["model_sha256"])
    found.update(library_self_test=policy.library.has_self_test, **differences)
    rows = differences["golden_vectors"]
    if policy.backend == "c" and (differences["differing_outputs"] or differences["same_actions"] != rows):
        raise Refused(f"The C library differs from its golden vectors: {json.dumps(differences)}.")
    if _is_gross(differences, golden["output_dtype"], policy.is_discrete):
        raise Refused(
            f"{policy.backend} is far from the golden vectors: {json.dumps(differences)}; use --backend c."
        )
    began = time.perf_counter()
    row = bytes(policy.library.observation_bytes)
    for _ in range(200):
        policy.answer(row)
    found["step_us"] = round((time.perf_counter() - began) / 200 * 1e6, 1)
    found["ok"] = True  # whatever failed was raised
    return found


def _is_gross(differences, dtype, is_discrete):
    """Tell whether these are not differences of rounding; a continuous action differs as its output does."""
    rows = differences["golden_vectors"]
    others = rows - differences["same_actions"] if is_discrete else 0
    return differences["largest_difference"] > LARGEST_DIFFERENCE[dtype] or others > 3 + OTHER_ACTIONS * rows


def _against_golden(policy, golden):
    """Count how far the backend is from the reference."""
    kind = {"int8": "b", "uint8": "B", "int16": "h"}[golden["output_dtype"]]
    differing, largest, same_actions = 0, 0, 0
    policy.reset()
    for packed, expected, action in zip(golden["observations"], golden["outputs"], golden["actions"]):
        policy.answer(bytes.fromhex(packed))
        answered = struct.unpack(f"<{len(expected)}{kind}", policy.output_words())
        differences = [abs(a - b) for a, b in zip(answered, expected)]
        differing += sum(d > 0 for d in differences)
        largest = max(largest, *differences)
        same_actions += policy.action_words().hex() == action
    rows = len(golden["observations"])
    return {
        "golden_vectors": rows,
        "same_actions": same_actions,
        "differing_outputs": differing,
        "num_outputs": rows * len(golden["outputs"][0]),
        "largest_difference": largest,
    }


def serve(place):
    """Speak the device protocol on a TCP port; one client at a time. The outputs are never driven."""
    library = Library()
    host, _, port = place.rpartition(":")
    reply = library.buffer(library.max_frame)
    try:
        server = socket.create_server((host or "127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as error:
        raise Refused(f"Cannot listen on '{place}' ({error}); say [ADDRESS:]PORT.") from error
    with server:
        address, bound = server.getsockname()[:2]
        print(f"listening on {address}:{bound}", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                try:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while True:
                        data = client.recv(CHUNK)
                        if not data:
                            break
                        for byte in data:
                            size = library.c.eqrl_linux_received(byte, reply)
                            if size:
                                client.sendall(bytes(reply)[:size])
                except OSError:
                    pass  # the client is gone; the next may come


def control(backend, application_path):
    """Read, step, write, until asked to end; whatever happens, the actuators are stopped at the end."""
    policy = Policy(backend)
    application = _load_application(application_path)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    clock = Clock(policy.contract.get("control_period_s") or 0.0)
    told = 0
    try:
        policy.reset()
        application.start(policy)
        _notify(f"READY=1\nSTATUS={policy.backend}")
        while True:
            observation = application.read()
            if observation is None:
                action, flags = policy.idle()
            elif isinstance(observation, tuple):
                action, flags = policy.step(*observation)
            else:
                action, flags = policy.step(observation)
            if flags & DISABLE:
                application.stop()
            elif flags & DRIVE:
                application.write(action)
            if observation is not None or flags:
                told = _tell(flags & ~DRIVE, told)
            clock.wait(observation is not None)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # nothing comes between now
        application.stop()


class Clock:
    """When to read next, and systemd's watchdog, which is told meanwhile."""

    def __init__(self, period):
        """Begin now; `period` in seconds, 0 where it is not known."""
        self.period = period
        self.watchdog = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        self.due = time.monotonic()
        self.kicked = self.due

    def wait(self, has_stepped):
        """Sleep until the next step is due; briefly where there was no observation."""
        now = time.monotonic()
        self.due = max(self.due + self.period, now - self.period) if has_stepped else now + IDLE_S
        while True:
            now = time.monotonic()
            if self.watchdog and now - self.kicked >= self.watchdog / 2:
                _notify("WATCHDOG=1")
                self.kicked = now
            left = self.due - now
            if left <= 0:
                return
            time.sleep(min(left, self.watchdog / 4) if self.watchdog else left)


def _tell(flags, told):
    """Say what the guard does, each time it changes."""
    if flags != told:
        words = [word for flag, word in WORDS.items() if flags & flag]
        print("guard:", ", ".join(words) or "all is well", file=sys.stderr, flush=True)
    return flags


def stop(application_path):
    """Stop the actuators, for a service whose process has died."""
    _load_application(application_path).stop()


def _load_application(path):
    spec = importlib.util.spec_from_file_location("application", path)
    if spec is None or not Path(path).is_file():
        raise Refused(f"There is no application '{path}'.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _notify(text):
    """Tell systemd, if it started us (sd_notify)."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + place[1:] if place.startswith("@") else place)
            channel.sendall(text.encode())


def main():
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--application", default=str(HERE / "application.py"), metavar="FILE")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--self-test", action="store_true")
    group.add_argument("--serve", metavar="[ADDRESS:]PORT")
    group.add_argument("--stop", action="store_true")
    options = parser.parse_args()
    try:
        if sys.version_info < (3, 9):  # noqa: UP036 - of the board's Python, not of ours
            raise Refused(f"Python 3.9 or later is needed; this is {platform.python_version()}.")
        if options.self_test:
            print(json.dumps(self_test(options.backend)))
        elif options.serve:
            serve(options.serve)
        elif options.stop:
            stop(options.application)
        else:
            control(options.backend, options.application)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
