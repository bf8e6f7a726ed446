"""Stand-ins for boards and for the programs that flash them: what real ones say, and what they were asked."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from firmware_export.board import Board
from firmware_export.build import Firmware
from firmware_export.fit import FirmwareSizes
from firmware_export.images import hex_image
from firmware_export.placement import place
from firmware_export.uf2 import write_uf2

_PROGRAM = """#!{python}
import json, sys, time
from pathlib import Path
folder = Path({folder!r})
name = Path(sys.argv[0]).name
with (folder / "asked.jsonl").open("a") as log:
    log.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
for words, text, code, seconds in json.loads((folder / f"{{name}}.json").read_text()):
    if all(word in sys.argv for word in words):
        print(text, flush=True)
        time.sleep(seconds)
        sys.exit(code)
print("done")
"""


@dataclass(frozen=True)
class Reply:
    """What a program answers where all of `words` are in its command."""

    words: Sequence[str]
    text: str
    code: int = 0
    seconds: float = 0.0


class Programs:
    """A PATH that has these programs and no others; what they were asked is kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._python = sys.executable
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(sys, "executable", str(folder / "python"))

    def add(self, name: str, replies: Sequence[Reply] = ()) -> None:
        rows = [[list(reply.words), reply.text, reply.code, reply.seconds] for reply in replies]
        (self._folder / f"{name}.json").write_text(json.dumps(rows))
        program = self._folder / name
        program.write_text(_PROGRAM.format(python=self._python, folder=str(self._folder)))
        program.chmod(0o755)

    @property
    def asked(self) -> list[list[str]]:
        log = self._folder / "asked.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def some_firmware(board: Board, size: int = 5000, start: int | None = None) -> Firmware:
    """An image of the size given where the board's flash begins; it is no program."""
    regions = [region for region in board.regions if region.kind == "flash" and not region.reserved]
    first = min(region.start for region in regions) if start is None else start
    content = bytes((7 * place + place // 256) % 251 for place in range(size))
    return Firmware(
        "robot",
        board.name,
        b"\x7fELF",
        content,
        first,
        FirmwareSizes(size, 0, 0),
        "none 0",
        False,
        place(board),
    )


def written_images(firmware: Firmware, board: Board, folder: Path) -> Path:
    """Write an image of each kind, as a bundle holds them; return the folder."""
    folder.mkdir(exist_ok=True)
    family = board.uf2.family_id if board.uf2 else 0
    uf2 = write_uf2(firmware.bin, firmware.start - firmware.start % 256, family)
    images = {
        "elf": firmware.elf,
        "bin": firmware.bin,
        "hex": hex_image(firmware.bin, firmware.start),
        "uf2": uf2,
        "esp": firmware.bin,
    }
    for suffix, data in images.items():
        (folder / f"robot.{suffix}").write_bytes(data)
    return folder


def plug_ports(monkeypatch: pytest.MonkeyPatch, ports: Mapping[str, str]) -> None:
    """Let these serial ports be there: device -> vendor:product."""
    found = [
        SimpleNamespace(
            device=device, vid=int(usb[:4], 16), pid=int(usb[5:], 16), product="fake", description="fake"
        )
        for device, usb in ports.items()
    ]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)


def plug_usb(monkeypatch: pytest.MonkeyPatch, root: Path, devices: Mapping[str, str]) -> None:
    """Let these USB devices be there, as Linux shows them: serial number -> vendor:product."""
    root.mkdir(exist_ok=True)
    for number, (serial, usb) in enumerate(devices.items()):
        folder = root / f"1-{number + 1}"
        folder.mkdir()
        for name, text in (("idVendor", usb[:4]), ("idProduct", usb[5:]), ("serial", serial)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr("firmware_export.flashers.find._USB_DEVICES", root)


def mount(root: Path, name: str, line: str, file: str = "INFO_UF2.TXT") -> Path:
    """Let a bootloader's volume be there."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / file).write_text(f"UF2 Bootloader v3.0\nModel: a board\n{line}\n")
    return folder


def mount_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_export.flashers.volumes.mount_roots", lambda: (root,))
