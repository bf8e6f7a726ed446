"""A small client of the GDB remote serial protocol, as much as QEMU's stub needs.

Requests are sent in bursts and answered in order: one round trip to write memory and registers and to go on,
another to read results. Nothing may be sent while the core runs: QEMU takes any byte as a wish to stop.
"""

import socket
from collections.abc import Sequence

_CHUNK = 1024  # bytes of memory a packet; QEMU takes 4,096 characters
_BURST = 64  # requests; more could fill both directions' buffers, and each side would wait for the other


class GdbConnection:
    """A connection to a stub; every method raises OSError or EOFError when it breaks."""

    def __init__(self, path: str, timeout_s: float) -> None:
        """Connect to the stub that listens on the Unix socket `path`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
            # Without a look at the description of the registers, QEMU neither reads nor writes single ones.
            self.exchange(["qSupported:xmlRegisters=i386", "qXfer:features:read:target.xml:0,ff"])
        except BaseException:
            self._socket.close()
            raise

    def exchange(self, requests: Sequence[str]) -> list[str]:
        """Send requests together; return their answers. Only the last one may let the core run."""
        answers = []
        for start in range(0, len(requests), _BURST):
            burst = requests[start : start + _BURST]
            self._socket.sendall(b"+" + b"".join(_packet(request) for request in burst))
            answers += [self._answer() for _ in burst]
        return answers

    def monitor(self, command: str) -> str:
        """Give QEMU's own monitor a command; return what it said."""
        self._socket.sendall(b"+" + _packet(f"qRcmd,{command.encode().hex()}"))
        said = ""
        while (answer := self._answer()) != "OK":
            if not answer.startswith("O"):
                raise OSError(f"QEMU's monitor answered {answer[:20]!r} to '{command}'")
            said += bytes.fromhex(answer[1:]).decode("utf-8", "replace")
        return said

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        return from_answers(self.exchange(reading(address, size)))

    def write(self, address: int, content: bytes) -> None:
        """Write memory."""
        require_ok(self.exchange(writing(address, content)))

    def read_register(self, number: int) -> int:
        """Read a 32-bit register by the stub's number."""
        return register_value(self.exchange([f"p{number:x}"])[0])

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _answer(self) -> str:
        """Return the next packet; acknowledgements are left out."""
        while True:
            start = self._received.find(b"$")
            end = self._received.find(b"#", start + 1)
            if start >= 0 and end >= 0 and len(self._received) >= end + 3:
                body, self._received = self._received[start + 1 : end], self._received[end + 3 :]
                return _without_runs(body)
            more = self._socket.recv(1 << 16)
            if not more:
                raise EOFError
            self._received += more


def reading(address: int, size: int) -> list[str]:
    """Return the requests that read memory."""
    ends = range(0, size, _CHUNK)
    return [f"m{address + start:x},{min(_CHUNK, size - start):x}" for start in ends]


def writing(address: int, content: bytes) -> list[str]:
    """Return the requests that write memory."""
    parts = ((start, content[start : start + _CHUNK]) for start in range(0, len(content), _CHUNK))
    return [f"M{address + start:x},{len(part):x}:{part.hex()}" for start, part in parts]


def setting(number: int, value: int) -> str:
    """Return the request that writes a 32-bit register."""
    return f"P{number:x}={(value & 0xFFFFFFFF).to_bytes(4, 'little').hex()}"


def from_answers(answers: Sequence[str]) -> bytes:
    """Join the answers of `reading`."""
    text = "".join(answers)
    if any(answer.startswith("E") for answer in answers):
        raise OSError("memory that is not there was read")
    return bytes.fromhex(text)


def register_value(answer: str) -> int:
    """Return the value in the answer to `p`."""
    return int.from_bytes(bytes.fromhex(answer)[:4], "little")


def require_ok(answers: Sequence[str]) -> None:
    """Raise OSError where a writing request was refused."""
    refused = [answer for answer in answers if answer != "OK"]
    if refused:
        raise OSError(f"QEMU refused a request: {refused[0][:20]!r}")


def _packet(body: str) -> bytes:
    content = body.encode("ascii")
    return b"$" + content + f"#{sum(content) & 255:02x}".encode()


def _without_runs(body: bytes) -> str:
    """Expand run lengths: 'X*c' stands for 'X' and c - 29 more of it."""
    while (star := body.find(b"*")) > 0:
        body = body[:star] + body[star - 1 : star] * (body[star + 1] - 29) + body[star + 2 :]
    return body.decode("ascii")
