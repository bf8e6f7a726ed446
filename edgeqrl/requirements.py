"""What making a board's firmware needs: asked before minutes are spent, rather than after."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edgeqrl.errors import MissingToolError
from firmware_export.board import Board
from firmware_export.emulators.plan import plan_emulation
from firmware_export.emulators.qemu import qemu_command
from firmware_export.flashers.programs import program_path
from firmware_export.images import NO_ESPTOOL, image_suffixes
from firmware_export.linux.package import linux_compiler
from firmware_export.toolchain import find_compiler, host_compiler

_LIBRARIES = {"hex": "intelhex"}  # image -> what writes it


def require_tools(board: Board | None, compiler: str | None) -> None:
    """Raise MissingToolError for what a conversion for this board will not find when it gets there.

    Raises DeviceError where no emulator has the board's core.
    """
    host_compiler()
    if board is not None and board.kind == "linux":
        linux_compiler(compiler)
    elif board is not None and board.kind == "mcu":
        find_compiler(compiler)
        _require_emulator(board)
        for module in ("elftools", *_image_libraries(board)):
            _require_module(module)
        if "esp" in image_suffixes(board) and program_path("esptool") is None:
            raise MissingToolError(NO_ESPTOOL)


def _require_emulator(board: Board) -> None:
    if plan_emulation(board).engine == "unicorn":
        _require_module("unicorn")
    else:
        qemu_command(board, Path("firmware.elf"))


def _image_libraries(board: Board) -> Iterator[str]:
    return (_LIBRARIES[suffix] for suffix in image_suffixes(board) if suffix in _LIBRARIES)


def _require_module(name: str) -> None:
    if find_spec(name) is None:
        raise MissingToolError(
            f"Building for a board needs {name}, which is not installed; "
            "get it with `pip install 'edgeqrl[firmware]'`."
        )
