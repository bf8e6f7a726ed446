"""Which addresses an image writes and erases, and that none of them is anybody else's."""

from edgeqrl.errors import DeviceError
from firmware_export.board import Board, Region
from firmware_export.build import Firmware
from firmware_export.flash_tool import FlashTool

Range = tuple[int, int]  # first address, first address behind


def image_range(tool: FlashTool, firmware: Firmware, image_bytes: int, board: Board) -> Range:
    """Return the addresses that an image fills; `image_bytes` counts where the file is written as it is."""
    if tool.image_offset is None:
        return firmware.start, firmware.start + len(firmware.bin)
    start = min(region.start for region in _flash(board)) + tool.image_offset
    return start, start + image_bytes


def require_writable(start: int, end: int, board: Board) -> None:
    """Raise DeviceError unless all of [start, end) is flash of the board that is not reserved."""
    covered = start
    for region in _flash(board):
        if not region.reserved and region.start <= covered < region.end:
            covered = region.end
    if covered < end or start >= end:
        reserved = [r for r in _flash(board) if r.reserved and start < r.end and r.start < end]
        also = "".join(f" {shown((r.start, r.end))} is reserved: {r.name}." for r in reserved)
        raise DeviceError(
            f"The image covers {shown((start, end))}, and not all of that is flash which may be written on "
            f"{board.name}.{also}"
        )


def erased_range(tool: FlashTool, start: int, end: int, board: Board) -> Range:
    """Return what the tool erases for an image, rounded to sectors; raise DeviceError if that harms.

    A sector that is partly reserved would lose what is reserved.
    """
    if tool.erases == "flash":
        free = [region for region in _flash(board) if not region.reserved]
        return min(r.start for r in free), max(r.end for r in free)
    touched = [sector for sector in sectors(board) if sector[0] < end and start < sector[1]]
    low = min([start, *(sector[0] for sector in touched)])
    high = max([end, *(sector[1] for sector in touched)])
    for region in _flash(board):
        if region.reserved and low < region.end and region.start < high:
            raise DeviceError(
                f"Writing {shown((start, end))} on {board.name} erases {shown((low, high))}, which touches "
                f"'{region.name}' ({shown((region.start, region.end))}), and that is reserved."
            )
    return low, high


def sectors(board: Board) -> list[Range]:
    """List the sectors of flash that are erased as one, by address."""
    found: dict[int, int] = {}
    for region in _flash(board):
        address, sizes = region.start, [size for count, size in region.sectors for _ in range(count)]
        if not sizes:
            assert region.erase_bytes is not None, "flash has sectors"
            address -= address % region.erase_bytes
            sizes = [region.erase_bytes] * -(-(region.end - address) // region.erase_bytes)
        for size in sizes:
            found[address] = max(address + size, found.get(address, 0))
            address += size
    return sorted(found.items())


def tool_erase_area(tool: FlashTool, erased: Range, board: Board) -> Range:
    """Return offset and length for a tool that erases by number of sector times `erase_page_bytes`."""
    everything = sectors(board)
    numbers = [n for n, sector in enumerate(everything) if sector[0] < erased[1] and erased[0] < sector[1]]
    unit = tool.erase_page_bytes
    return numbers[0] * unit, len(numbers) * unit


def shown(span: Range) -> str:
    """Write a range for people: the last address is the last that it holds."""
    return f"{span[0]:#010x} to {span[1] - 1:#010x}"


def _flash(board: Board) -> list[Region]:
    return sorted((r for r in board.regions if r.kind == "flash"), key=lambda region: region.start)
