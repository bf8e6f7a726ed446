# SPDX-License-Identifier: Apache-2.0
"""The policy of this folder: observation in, action and what the guard says of it out. For run.py.

The network runs in LiteRT if it is installed, else in tflite-runtime, else in the C library of this folder.
Encoding of observations, decoding of actions and the guard with its fail-safe are always the C library's.
"""

import ctypes
import hashlib
import importlib
import importlib.util
import json
import math
import os
import platform
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BACKENDS = ("litert", "tflite-runtime", "c")
MODULES = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}
WHOLE = {"uint8": ("B", 0, 255), "int32": ("i", -(2**31), 2**31 - 1)}  # parts of whole numbers


class Refused(Exception):
    """What cannot be done, in one sentence."""


class BadNumber(Refused):
    """A number that a part of an observation cannot hold."""

    def __init__(self, name, dtype, number):
        """Say which."""
        self.is_finite = -math.inf < number < math.inf
        super().__init__(f"'{name}' of an observation takes numbers of {dtype}, got {number}.")


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
        require_whole(path.relative_to(HERE).as_posix())
        try:
            self.c = ctypes.CDLL(str(path))
        except OSError as error:
            raise Refused(f"The library of this folder cannot be loaded ({error}).") from error
        self.c.eqrl_linux_output.restype = ctypes.c_void_p
        sizes = (ctypes.c_uint32 * 8)()
        self.c.eqrl_linux_sizes(sizes)
        self.observation_bytes, self.action_bytes = sizes[:2]
        self.inputs_bytes, self.outputs_bytes, self.output_bytes, self.max_frame = sizes[2:6]
        self.has_self_test, self.is_stochastic = bool(sizes[6]), bool(sizes[7])
        self.require(self.c.eqrl_linux_init(), "The policy did not start, or fails its golden vectors")

    def require(self, status, what):
        """Raise Refused for an error status."""
        if status < 0:
            raise Refused(f"{what}: status {status}.")
        return status

    def buffer(self, size):
        """Return zeroed bytes that C may write to; 8-aligned."""
        return (ctypes.c_uint64 * ((size + 7) // 8))()


def require_whole(*paths):
    """Raise Refused where a file of this folder is not what package.json says; of all files by default."""
    try:
        known = json.loads((HERE / "package.json").read_text())["sha256"]
        asked = {p: (HERE / p).read_bytes() for p in paths or known}
        damaged = [p for p, data in asked.items() if hashlib.sha256(data).hexdigest() != known[p]]
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
        self.golden = json.loads((HERE / "golden.json").read_text())
        self.backend, self._interpreter = _first_of(BACKENDS) if backend == "auto" else _opened(backend)
        self._observation = self.library.buffer(self.library.observation_bytes)
        self._action = self.library.buffer(self.library.action_bytes)
        self._inputs = self.library.buffer(self.library.inputs_bytes)
        self._outputs = self.library.buffer(max(self.library.outputs_bytes, self.library.output_bytes))
        self.complaint = ""  # of the last observation: which number its part cannot hold

    def reset(self, seed=None):
        """Begin an episode, and arm the guard; needed again once the guard has latched.

        seed  of 64 bits, from which everything follows that is drawn in the episode; None: of chance
        """
        if self.library.is_stochastic:
            words = struct.unpack("<II", os.urandom(8) if seed is None else struct.pack("<Q", seed))
            self.library.require(self.library.c.eqrl_linux_seed(*words), "The policy cannot be seeded")
        self.library.require(self.library.c.eqrl_linux_reset(), "The policy cannot be reset")

    def step(self, observation, action_mask=None):
        """Return (action, guard flags) for a list or array of numbers in the environment's units.

        An observation of several parts is a dict, from the names in policy_contract.json to such lists. Where
        a part of whole numbers has NaN, a fraction or a number out of its type's range, the policy is not
        asked: the guard takes it for an observation that is not finite, or out of range.
        """
        try:
            packed, self.complaint = self.pack(observation, action_mask), ""
        except BadNumber as error:
            self.complaint = str(error)
            flags = self.library.c.eqrl_linux_guard_bad(int(error.is_finite), self._action)
            return self._decoded(), flags
        status = self.answer(packed)
        flags = self.library.c.eqrl_linux_guard(self._observation, status, self._action)
        return self._decoded(), flags

    def idle(self):
        """Return (action, guard flags) where no observation came: the fail-safe, once it is time."""
        self.complaint = ""
        flags = self.library.c.eqrl_linux_guard_idle(self._action)
        return self._decoded(), flags

    def answer(self, packed):
        """Run the policy on a packed observation; the action stays in its buffer. Returns the status."""
        c, require = self.library.c, self.library.require
        ctypes.memmove(self._observation, packed, len(packed))
        if self._interpreter is None:
            status = require(c.eqrl_linux_step(self._observation, self._action), "The step failed")
            ctypes.memmove(self._outputs, c.eqrl_linux_output(), self.library.output_bytes)
            return status
        status = require(c.eqrl_linux_encode(self._observation, self._inputs), "Encoding failed")
        outputs = self.infer(bytes(self._inputs)[: self.library.inputs_bytes])
        ctypes.memmove(self._outputs, outputs, self.library.outputs_bytes)
        require(c.eqrl_linux_decode(self._observation, self._outputs, self._action), "Decoding failed")
        return status

    def infer(self, data):
        """Return the network's outputs for its inputs, each as one row of bytes, in the interpreter."""
        import numpy

        places = self.golden["network"]
        sources, targets = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        for number, at, size in places["inputs"]:
            source, part = sources[number], data[at : at + size]
            values = numpy.frombuffer(part, source["dtype"]).reshape(source["shape"])
            self._interpreter.set_tensor(source["index"], values)
        self._interpreter.invoke()
        row = bytearray(self.library.outputs_bytes)
        for number, at, size in places["outputs"]:
            row[at : at + size] = self._interpreter.get_tensor(targets[number]["index"]).tobytes()
        return bytes(row)

    def values(self):
        """Return what the last step gave beside the action, by name; only the C library tells it."""
        if self._interpreter is not None:
            raise Refused(f"{self.backend} does not tell the values beside the action; use --backend c.")
        numbers = (ctypes.c_float * max(len(self.contract["values"]), 1))()
        self.library.c.eqrl_linux_values(numbers)
        return {value["name"]: number for value, number in zip(self.contract["values"], numbers)}

    def action_words(self):
        """Return the bytes of the last action."""
        return bytes(self._action)[: self.library.action_bytes]

    def output_words(self):
        """Return the bytes of the network's last first output."""
        return bytes(self._outputs)[: self.library.output_bytes]

    def pack(self, observation, action_mask=None):
        """Return NAME_observation as bytes."""
        parts, mask = self.contract["observation"]["parts"], self.contract["action"]["mask"]
        names = [part["name"] for part in parts]
        observation = observation if isinstance(observation, dict) else {names[0]: observation}
        if sorted(observation) != sorted(names):
            raise Refused(f"An observation has the parts {names}, got {sorted(observation)}.")
        packed = bytearray(self.library.observation_bytes)
        for part in parts:
            content = _packed(part, observation[part["name"]])
            packed[part["at"] : part["at"] + len(content)] = content
        if mask is not None:
            allowed = [1] * mask["bytes"] if action_mask is None else list(action_mask)[: mask["bytes"]]
            packed[mask["at"] : mask["at"] + len(allowed)] = bytes(map(bool, allowed))
        return bytes(packed)

    def _decoded(self):
        words = self.action_words()
        if self.is_discrete:
            return struct.unpack("<i", words[:4])[0]
        kind = "i" if self.contract["action"]["dtype"] == "int32" else "f"
        return list(struct.unpack(f"<{len(words) // 4}{kind}", words))


def _packed(part, numbers):
    """Return one part of an observation as bytes; raises BadNumber for what its type cannot hold."""
    if hasattr(numbers, "ravel"):  # an array of any shape
        numbers = numbers.ravel().tolist()
    numbers = [numbers] if isinstance(numbers, (int, float)) else list(numbers)
    count = math.prod(part["shape"])
    if len(numbers) != count:
        raise Refused(f"An observation has {count} numbers in '{part['name']}', got {len(numbers)}.")
    if part["dtype"] == "float32":
        return bytes((ctypes.c_float * count)(*numbers))  # too large for a float32: infinite
    kind, low, high = WHOLE[part["dtype"]]
    try:
        return struct.pack(f"<{count}{kind}", *numbers)
    except struct.error:  # a float, which may be a whole number, or one out of range
        for number in numbers:
            if not low <= number <= high or number != int(number):
                raise BadNumber(part["name"], part["dtype"], number) from None
        return struct.pack(f"<{count}{kind}", *map(int, numbers))


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
