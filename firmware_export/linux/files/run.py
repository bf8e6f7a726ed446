#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the policy of this folder on a Raspberry Pi. Needs Python 3.9 or later and nothing else.

run.py                    the control loop: sensors and actuators are in application.py
run.py --self-test        check the policy against its golden vectors; prints JSON
run.py --serve 7000       speak the device protocol on a TCP port of this machine
run.py --stop             stop the actuators, and do nothing else

The policy itself is in edgeqrl_policy.py.
"""

import argparse
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

sys.dont_write_bytecode = True  # nothing but deployments writes to this folder

from edgeqrl_policy import BACKENDS, HERE, Library, Policy, Refused, require_whole  # noqa: E402

DRIVE, DISABLE = 1, 8  # flags of the guard
WORDS = {2: "held", 4: "fail-safe", 8: "stopped", 16: "late", 32: "lost", 64: "range", 128: "not finite"}
WORDS[256] = "latched"
IDLE_S = 0.001  # pause while the application has no observation
CHUNK = 65536
# Where an interpreter is broken, not just rounding otherwise: units of an output (of 256; of 65,536), and
# the part of the golden rows, beyond the first three, on which it may choose another action.
LARGEST_DIFFERENCE = {"int8": 8, "uint8": 8, "int16": 2048}
OTHER_ACTIONS = 0.1


def self_test(backend):
    """Check policy and backend against golden vectors.

    The C library must equal the reference in every output and action. An interpreter rounds otherwise: how
    far it is from the reference is counted, gross differences are refused, and the verdict on all that lies
    between is that of `edgeqrl validate --backend litert`.
    """
    require_whole()
    policy = Policy(backend)
    differences = _against_golden(policy, policy.golden)
    found = {"backend": policy.backend, "machine": platform.machine(), "python": platform.python_version()}
    found.update(name=policy.contract["name"], model_sha256=policy.contract["model_sha256"])
    found.update(library_self_test=policy.library.has_self_test, **differences)
    rows, told = differences["golden_vectors"], json.dumps(differences)
    if policy.backend == "c" and (differences["differing_outputs"] or differences["same_actions"] != rows):
        raise Refused(f"The C library differs from its golden vectors: {told}.")
    if _is_gross(differences, policy.golden["output_dtype"], policy.is_discrete):
        raise Refused(f"{policy.backend} is far from the golden vectors: {told}; use --backend c.")
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
    """Count how far the backend is from the reference; the vectors are one episode with seed 0."""
    kind = {"int8": "b", "uint8": "B", "int16": "h"}[golden["output_dtype"]]
    differing, largest, same_actions = 0, 0, 0
    policy.reset(0)
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
                told = _tell(flags & ~DRIVE, told, policy.complaint)
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


def _tell(flags, told, complaint):
    """Say what the guard does, each time it changes, and what is wrong with the observation."""
    if flags != told:
        words = [word for flag, word in WORDS.items() if flags & flag]
        said = "guard: " + (", ".join(words) or "all is well")
        print(f"{said}; {complaint}" if complaint else said, file=sys.stderr, flush=True)
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
