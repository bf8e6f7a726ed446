"""The device in an emulated ELF as the other end of a link: frames go in and out of its memory."""

from firmware_export.emulators.emulator import EmulatedFirmware

_MOST_REPLY_BYTES = 4096


class MemoryLink:
    """A `Link` to the device loop in the very ELF that is flashed. It closes the emulator."""

    bytes_per_s = 1e9  # as memory: nothing is on the way

    def __init__(self, emulated: EmulatedFirmware) -> None:
        self._emulated = emulated
        self._received = b""

    def read(self, count: int, timeout_s: float) -> bytes:
        """Return `count` bytes of the replies, or those that are there."""
        found, self._received = self._received[:count], self._received[count:]
        return found

    def read_stale(self) -> bytes:
        """Return nothing: nobody spoke before."""
        return b""

    def write(self, data: bytes) -> None:
        """Let the device answer."""
        self._received += self._emulated.exchange(data, _MOST_REPLY_BYTES)

    def close(self) -> None:
        """End the emulator."""
        self._emulated.close()
