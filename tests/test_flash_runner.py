"""Flashing, with programs that only write down what they are asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeqrl.data import data_folder
from edgeqrl.errors import DataError, DeviceError, MissingToolError, UsageError
from firmware_export.board import Board, board_names, load_board
from firmware_export.flash_tool import FlashTool
from firmware_export.flashers.find import a
from firmware_export.flashers.runner import Choice, Flashed, flash
from tests.flash_fakes import (
    Programs,
    Reply,
    mount,
    mount_at,
    plug_ports,
    plug_usb,
    some_firmware,
    written_images,
)

BOARDS = {name: load_board(name, data_folder("boards")) for name in board_names(data_folder("boards"))}
CASES = [(name, tool.tool) for name, board in BOARDS.items() for tool in board.flash_tools]
GOLDEN = Path(__file__).parent / "data" / "flash_commands.json"
ST_LINK, ADAPTER = "0483:374b", "10c4:ea60"
DFU_F4 = "@Internal Flash  /0x08000000/04*016Kg,01*064Kg,07*128Kg"
DFU_H7 = "@Internal Flash   /0x08000000/16*128Kg"


def found_dfu(layout: str, path: str = "1-2") -> str:
    """What `dfu-util -l` writes of an STM32: one line an alternate setting."""
    device = f'Found DFU: [0483:df11] ver=2200, devnum=7, cfg=1, intf=0, path="{path}"'
    option = "@Option Bytes  /0x1FFFC000/01*016 e"
    return f'{device}, alt=1, name="{option}", serial="3"\n{device}, alt=0, name="{layout}", serial="3"'


def probes(*names: str) -> Reply:
    rows = [{"unique_id": name, "info": "a probe", "target": "x"} for name in names]
    return Reply(["json", "--probes"], json.dumps({"status": 0, "boards": rows}, indent=4))


def word(address: int, *values: int) -> str:
    return f"{address:08x}:  {' '.join(f'{value:08x}' for value in values)}    |....|"


ESP = "Detecting chip type... {0}\nConnected to {0} on PORT:\nChip type:          {0} (revision v0.4)\n"
ESP_DONE = "Wrote 5000 bytes at 0x0\nHash of data verified.\nHard resetting via RTS pin..."
STM = "Activating bootloader (select UART)\nBootloader version: 0x31\nChip id: {} (STM32)\n"
ST_INFO = (
    "Found 1 stlink programmers\n  version:    V2J37S7\n  serial:     066\n"
    "  flash:      1048576 (pagesize: 16384)\n  chipid:     0x0{}\n  descr:      x"
)
BOSSA = (
    "Device       : nRF52840-QIAA\nVersion      : Arduino Bootloader (SAM-BA extended) 2.0 [Arduino:IKXYZ]\n"
)
GDB = "{0}:\t{1}\n[Inferior 1 (process 1) detached]"
GDB_DONE = (
    "Section .vectors, range 0x8000000 -- 0x80000c0: matched.\nSection .text, range 0x1 -- 0x2: matched."
)
PICO_INFO = "Device Information\n type:       {}\n flash size: 2048K\n ROM version: 3"
# board -> tool -> what the program says of the right chip, and after writing
RIGHT: dict[str, dict[str, list[Reply]]] = {
    "rpi-pico": {
        "picotool": [Reply(["info"], PICO_INFO.format("RP2040"))],
        "pyocd": [probes("E66"), Reply(["commander"], word(0x40000000, 0x20002927))],
        "openocd": [Reply(["init"], "0x40000000: 20002927 "), Reply([], "** Verified OK **")],
    },
    "rpi-pico2": {
        "picotool": [Reply(["info"], PICO_INFO.format("RP2350"))],
        "pyocd": [probes("E66"), Reply(["commander"], word(0x40000000, 0x20004927))],
    },
    "microbit": {
        "pyocd": [probes("9900aa", "E66"), Reply(["commander"], word(0x10000010, 0x400, 0x100))],
        "gdb-multiarch": [
            Reply(["x/1xw 0xe000ed00"], GDB.format("0xe000ed00", "0x410cc200")),
            Reply([], GDB_DONE),
        ],
    },
    "microbit-v2": {
        "pyocd": [probes("9904aa"), Reply(["commander"], word(0x10000100, 0x52833))],
        "gdb-multiarch": [
            Reply(["x/1xw 0xe000ed00"], GDB.format("0xe000ed00", "0x410fc241")),
            Reply([], GDB_DONE),
        ],
    },
    "nano33ble": {
        "bossac": [Reply(["-i"], BOSSA), Reply([], "Done in 0.5 seconds")],
        "pyocd": [probes("E66"), Reply(["commander"], word(0x10000100, 0x52840))],
    },
    "nrf5340dk": {
        "nrfjprog": [Reply(["--ids"], "960001234"), Reply(["--deviceversion"], "NRF5340_xxAA_ENGD")]
    },
    "nucleo-h743zi": {
        "openocd": [Reply(["init"], "0x5c001000: 20036450 "), Reply([], "** Verified OK **")],
        "pyocd": [probes("066"), Reply(["commander"], word(0x5C001000, 0x20036450))],
        "st-flash": [Reply([], "Flash written and verified! jolly good!")],
        "dfu-util": [Reply(["-l"], found_dfu(DFU_H7)), Reply([], "File downloaded successfully", 74)],
        "stm32loader": [Reply(["--write"], "Verification OK"), Reply([], STM.format("0x450"))],
    },
    "teensy41": {"teensy_loader_cli": []},
    "esp32c3": {"esptool": [Reply(["chip-id"], ESP.format("ESP32-C3 (QFN32)")), Reply([], ESP_DONE)]},
}
for _name, _code in (
    ("stm32f4discovery", "413"),
    ("netduinoplus2", "413"),
    ("crazyflie21", "413"),
    ("stm32vldiscovery", "420"),
):
    _cpuid = "0x411fc231" if _code == "420" else "0x410fc241"
    RIGHT[_name] = {
        "openocd": [Reply(["init"], f"0xe0042000: 10016{_code} "), Reply([], "** Verified OK **")],
        "st-flash": [Reply([], "Flash written and verified! jolly good!")],
        "dfu-util": [Reply(["-l"], found_dfu(DFU_F4)), Reply([], "File downloaded successfully")],
        "stm32loader": [Reply(["--write"], "Verification OK"), Reply([], STM.format(f"0x{_code}"))],
        "gdb-multiarch": [
            Reply(["x/1xw 0xe000ed00"], GDB.format("0xe000ed00", _cpuid)),
            Reply([], GDB_DONE),
        ],
    }
CHIP_ID = {"nucleo-h743zi": "450", "stm32vldiscovery": "420"}


class Bench:
    """Boards plugged in, programs installed, images written: all fake, right until a test spoils it."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self._monkeypatch = monkeypatch
        self.programs = Programs(place / "bin", monkeypatch)
        plug_ports(monkeypatch, {})
        plug_usb(monkeypatch, place / "usb", {})
        mount_at(place / "media", monkeypatch)

    def plug(self, board: Board, tool: FlashTool) -> None:
        """Plug the right board in, once, and install the tool."""
        if tool.volume is not None:
            text = {"microbit": "9901000", "microbit-v2": "9905000"}.get(board.name, tool.volume.expect)
            mount(self.place / "media", "DRIVE", f"{tool.volume.key}: {text}", tool.volume.file)
            return
        plug_ports(self._monkeypatch, {"/dev/ttyFAKE0": tool.usb[0]} if tool.find == "serial" else {})
        if tool.usb and tool.find in ("probe", "dfu"):
            plug_usb(self._monkeypatch, self.place / "usb1", {"SERIAL": tool.usb[0]})
        self.programs.add(tool.tool, RIGHT[board.name][tool.tool])
        if tool.tool == "st-flash":
            self.programs.add("st-info", [Reply([], ST_INFO.format(CHIP_ID.get(board.name, "413")))])

    def flash(self, board: Board, size: int = 5000, start: int | None = None, **choice: object) -> Flashed:
        firmware = some_firmware(board, size, start)
        folder = written_images(firmware, board, self.place / "firmware")
        given = {"is_confirmed": True} | choice
        return flash(firmware, board, folder, Choice(**given))  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def tool_of(board: Board, name: str) -> FlashTool:
    return next(tool for tool in board.flash_tools if tool.tool == name)


def port_of(tool: FlashTool) -> str | None:
    return "localhost:3333" if tool.find == "none" else None


@pytest.mark.parametrize(("board_name", "tool_name"), CASES)
def test_tool_is_asked_exactly_this(bench: Bench, board_name: str, tool_name: str) -> None:
    board = BOARDS[board_name]
    tool = tool_of(board, tool_name)
    bench.plug(board, tool)
    done = bench.flash(board, tool=tool_name, port=port_of(tool))
    assert done.is_written
    asked = json.loads(GOLDEN.read_text())[board_name][tool_name]
    assert bench.programs.asked == asked
    assert [list(command) for command in done.commands] == [
        words for words in asked if words[0] == tool.tool
    ][-len(done.commands) or len(asked) :]


def test_no_command_erases_everything_or_touches_option_bytes() -> None:
    forbidden = ("mass", "chip", "option", "unlock=true", "unprotect", "recover", "eraseall", "chiperase")
    for board in BOARDS.values():
        for tool in board.flash_tools:
            words = " ".join(
                word for command in tool.commands for word in command if word != "--chip"
            ).lower()
            assert not [word for word in forbidden if word in words], (board.name, tool.tool)
            if tool.tool == "pyocd":
                assert "auto_unlock=false" in tool.argv, board.name


@pytest.mark.parametrize(("board_name", "tool_name"), CASES)
def test_dry_run_writes_nothing(bench: Bench, board_name: str, tool_name: str) -> None:
    board = BOARDS[board_name]
    tool = tool_of(board, tool_name)
    bench.plug(board, tool)
    done = bench.flash(board, tool=tool_name, port=port_of(tool), dry_run=True, is_confirmed=False)
    assert not done.is_written
    assert not done.missing
    assert (
        bench.programs.asked
        == json.loads(GOLDEN.read_text())[board_name][tool_name][: len(bench.programs.asked)]
    )
    for command in done.commands:
        assert list(command) not in bench.programs.asked
    assert done.confirm == tool.confirm
    assert not list(bench.place.glob("media/*/FIRMWARE*"))


@pytest.mark.parametrize(("board_name", "tool_name"), CASES)
def test_dry_run_without_board_and_tool_says_what_is_missing(
    bench: Bench, board_name: str, tool_name: str
) -> None:
    done = bench.flash(BOARDS[board_name], tool=tool_name, dry_run=True)
    assert len(done.missing) == 1
    assert done.written[0] <= done.written[1]
    assert bench.programs.asked == []


def test_first_installed_tool_is_taken(bench: Bench) -> None:
    board = BOARDS["stm32vldiscovery"]
    bench.plug(board, tool_of(board, "openocd"))
    assert bench.flash(board).tool == "openocd"


def test_no_tool_names_all_of_them_with_their_cure(bench: Bench) -> None:
    with pytest.raises(MissingToolError) as caught:
        bench.flash(BOARDS["stm32f4discovery"])
    for words in ("openocd: sudo apt-get install openocd", "st-flash: sudo", "stm32loader: pip install"):
        assert words in str(caught.value)


def test_tool_that_is_not_the_boards_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="'picotol'; did you mean 'picotool'"):
        bench.flash(BOARDS["rpi-pico"], tool="picotol")


def test_names_of_tools_are_told_and_how_to_get_one(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"rpi-pico has no flash tool 'nope'; there are: volume-copy, pico"):
        bench.flash(BOARDS["rpi-pico"], tool="nope")
    with pytest.raises(MissingToolError, match=r"^picotool is not installed; "):
        bench.flash(BOARDS["rpi-pico"], tool="picotool")


@pytest.mark.parametrize(
    ("board_name", "tool_name", "choice", "said"),
    [
        ("rpi-pico", "volume-copy", {"port": "/dev/X"}, "--port; it uses --volume.*asked is --uart"),
        ("rpi-pico", "openocd", {"volume": Path("x")}, "it uses none of .*goes with --tool volume-copy"),
        ("rpi-pico", "openocd", {"probe": "E66"}, "--probe; .* goes with --tool pyocd"),
        ("esp32c3", "esptool", {"probe": "x"}, "--probe; it uses --port"),
        ("microbit", "gdb-multiarch", {"probe": "x"}, "it uses --port.*--probe goes with --tool pyocd"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_option_that_the_tool_does_not_use_is_refused(
    bench: Bench, board_name: str, tool_name: str, choice: dict[str, object], said: str, dry_run: bool
) -> None:
    board = BOARDS[board_name]
    bench.plug(board, tool_of(board, tool_name))
    with pytest.raises(UsageError, match=f"^{tool_name} does not use.*{said}"):
        bench.flash(board, tool=tool_name, dry_run=dry_run, **choice)
    assert bench.programs.asked == []


@pytest.mark.parametrize(
    ("board_name", "tool_name", "notes"),
    [
        ("esp32c3", "esptool", ["its 0x0 is address 0x42000000"]),
        ("netduinoplus2", "stm32loader", ["not by address: 0x0 and length 0x400 are sectors 0 to 0"]),
        ("netduinoplus2", "openocd", []),
        ("rpi-pico", "volume-copy", []),
        ("teensy41", "teensy_loader_cli", ["the chip is not asked"]),
    ],
)
def test_dry_run_says_what_its_commands_do_not_show(
    bench: Bench, board_name: str, tool_name: str, notes: list[str]
) -> None:
    done = bench.flash(BOARDS[board_name], tool=tool_name, dry_run=True)
    assert len(done.notes) == len(notes)
    for note, part in zip(done.notes, notes, strict=True):
        assert part in note


@pytest.mark.parametrize(
    ("name", "text"), [("esp32c3", "an esp32c3"), ("microbit", "a microbit"), ("nrf5340dk", "an nrf5340dk")]
)
def test_boards_have_their_article(name: str, text: str) -> None:
    assert a(name) == text


def test_emulated_machine_is_not_flashed(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="mps2-an386 is not flashed: it is an emulated machine"):
        bench.flash(BOARDS["mps2-an386"])


def test_board_of_a_vendors_sdk_says_what_flashes_it(bench: Bench) -> None:
    with pytest.raises(DeviceError, match=r"esp32 is not flashed: .*`idf\.py flash`"):
        bench.flash(BOARDS["esp32"])


# The wrong board, none, or several

WRONG = {
    "picotool": [Reply(["info"], PICO_INFO.format("RP2350"))],
    "pyocd": [probes("E66"), Reply(["commander"], word(0x40000000, 0x20004927))],
    "openocd": [Reply(["init"], "0x40000000: 20004927 ")],
}


@pytest.mark.parametrize("tool_name", WRONG)
@pytest.mark.parametrize("dry_run", [False, True])
def test_wrong_chip_is_refused_and_named(bench: Bench, tool_name: str, dry_run: bool) -> None:
    board = BOARDS["rpi-pico"]
    bench.plug(board, tool_of(board, tool_name))
    bench.programs.add(tool_name, WRONG[tool_name])
    with pytest.raises(DeviceError, match=r"not that of a rpi-pico: .* finds (RP2350|20004927)"):
        bench.flash(board, tool=tool_name, dry_run=dry_run)
    assert not [asked for asked in bench.programs.asked if "robot" in " ".join(asked)]


@pytest.mark.parametrize(
    ("board_name", "tool_name", "replies", "said"),
    [
        ("rpi-pico", "picotool", [Reply([], "No accessible RP-series devices")], "finds no chip"),
        (
            "rpi-pico",
            "picotool",
            [Reply([], PICO_INFO.format("RP2040") + "\n" + PICO_INFO.format("RP2040"))],
            r"more than one chip \(RP2040, RP2040\)",
        ),
        (
            "netduinoplus2",
            "dfu-util",
            [Reply([], f"{found_dfu(DFU_F4)}\n{found_dfu(DFU_H7, '1-3')}")],
            r"more than one chip \(04.*, 16",
        ),
        ("netduinoplus2", "dfu-util", [Reply([], found_dfu(DFU_F4 + ",04*016Kg"))], "not that of a netd"),
        ("rpi-pico", "pyocd", [probes()], "finds no probe of a rpi-pico; found: none"),
        (
            "rpi-pico",
            "pyocd",
            [probes("a", "b")],
            r"More than one probe is there.*: a, b. Name one with --probe",
        ),
        ("microbit", "pyocd", [probes("9904aa")], "finds no probe of a microbit"),
    ],
)
def test_none_or_several_are_refused_and_listed(
    bench: Bench, board_name: str, tool_name: str, replies: list[Reply], said: str
) -> None:
    board = BOARDS[board_name]
    bench.plug(board, tool_of(board, tool_name))
    bench.programs.add(tool_name, replies)
    with pytest.raises(DeviceError, match=said):
        bench.flash(board, tool=tool_name)
    assert not [asked for asked in bench.programs.asked if "robot" in " ".join(asked)]


def test_named_probe_of_several_is_taken(bench: Bench) -> None:
    board = BOARDS["rpi-pico"]
    bench.programs.add("pyocd", [probes("a", "b"), *RIGHT["rpi-pico"]["pyocd"][1:]])
    assert bench.flash(board, tool="pyocd", probe="b").found == "b, chip 20002927"
    assert all(words[3] == "b" for words in bench.programs.asked if words[1] != "json")
    with pytest.raises(DeviceError, match="no probe 'c'; found: a, b"):
        bench.flash(board, tool="pyocd", probe="c")


def test_ports_are_found_by_usb_id_or_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    board = BOARDS["esp32c3"]
    bench.plug(board, board.flash_tools[0])
    plug_ports(monkeypatch, {"/dev/ttyS9": "1234:5678"})
    with pytest.raises(DeviceError, match=r"ports found: /dev/ttyS9 \(1234:5678 fake\)"):
        bench.flash(board)
    plug_ports(monkeypatch, {"/dev/ttyUSB0": "10c4:ea60", "/dev/ttyUSB1": "1a86:7523"})
    with pytest.raises(DeviceError, match=r"More than one port.*ttyUSB0 .*ttyUSB1 .*--port"):
        bench.flash(board)
    assert bench.flash(board, port="/dev/ttyUSB1").found.startswith("/dev/ttyUSB1, chip ESP32-C3")
    assert all(words[words.index("--port") + 1] == "/dev/ttyUSB1" for words in bench.programs.asked)


@pytest.mark.parametrize("port", ["-erase", "a b", "| rm", "x;y", "", "a\nb", "$(x)"])
def test_port_that_could_be_something_else_is_refused(bench: Bench, port: str) -> None:
    board = BOARDS["esp32c3"]
    bench.plug(board, board.flash_tools[0])
    with pytest.raises(UsageError, match="is not the name of a port"):
        bench.flash(board, port=port)


def test_usb_probe_of_several_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    board = BOARDS["stm32f4discovery"]
    bench.plug(board, tool_of(board, "openocd"))
    plug_usb(monkeypatch, bench.place / "usb2", {"AA": ST_LINK, "BB": "0483:3748", "CC": "1d6b:0002"})
    with pytest.raises(DeviceError, match=r"More than one probe.*AA .*BB .*Unplug all but one"):
        bench.flash(board, tool="openocd")
    plug_usb(monkeypatch, bench.place / "usb3", {"CC": "1d6b:0002"})
    with pytest.raises(DeviceError, match="openocd finds no probe of an stm32f4discovery; found: none"):
        bench.flash(board, tool="openocd")


# What must be confirmed, and what may not be written


def test_flight_stack_is_replaced_only_when_confirmed(bench: Bench) -> None:
    board = BOARDS["crazyflie21"]
    bench.plug(board, tool_of(board, "dfu-util"))
    with pytest.raises(UsageError, match=r"replaces the Crazyflie's flight stack.*--yes"):
        bench.flash(board, is_confirmed=False)
    assert bench.programs.asked == []
    done = bench.flash(board)
    assert done.written[0] == 0x08004000
    assert "0x08004000:leave" in bench.programs.asked[-1]


@pytest.mark.parametrize(
    ("board_name", "start", "size", "said"),
    [
        ("crazyflie21", 0x08000000, 5000, "0x08000000 to 0x08003fff is reserved: bootloader"),
        ("crazyflie21", 0x08003F00, 5000, "is reserved: bootloader"),
        ("nano33ble", 0x0000F000, 8192, "is reserved: bootloader"),
        ("teensy41", 0x607BFF00, 512, "is reserved: recovery"),
        ("rpi-pico", 0x20000000, 500, "not all of that is flash"),
        ("microbit", 0x0003FF00, 512, "not all of that is flash"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_reserved_and_absent_flash_is_never_written(
    bench: Bench, board_name: str, start: int, size: int, said: str, dry_run: bool
) -> None:
    board = BOARDS[board_name]
    bench.plug(board, board.flash_tools[0])
    with pytest.raises(DeviceError, match=said):
        bench.flash(board, size, start, dry_run=dry_run)
    assert bench.programs.asked == []


def test_sector_that_is_partly_reserved_is_never_erased(bench: Bench) -> None:
    board = BOARDS["microbit"]
    flash_region = board.region("flash")
    split = replace(flash_region, bytes=flash_region.bytes - 256)
    kept = replace(flash_region, name="kept", start=split.end, bytes=256, reserved=True)
    careful = replace(board, regions=(split, kept, board.region("ram")))
    with pytest.raises(DeviceError, match=r"erases 0x0003fc00 to 0x0003ffff, which touches 'kept'"):
        bench.flash(careful, 256, 0x3FC00)


# Tools that fail


@pytest.mark.parametrize(
    ("tool_name", "reply", "said"),
    [
        ("openocd", Reply([], "Error: flash write failed", 1), "Error: flash write failed"),
        ("openocd", Reply([], "shut down"), "shut down"),
        ("st-flash", Reply([], "ERROR: Flash memory write protected", 255), "write protected"),
        ("dfu-util", Reply([], "dfu-util: Cannot open DFU device", 74), "Cannot open DFU device"),
        ("gdb-multiarch", Reply([], f"{GDB_DONE}\nSection .data: MIS-MATCHED!"), "MIS-MATCHED"),
    ],
)
def test_failed_tool_is_quoted(bench: Bench, tool_name: str, reply: Reply, said: str) -> None:
    board = BOARDS["stm32f4discovery"]
    tool = tool_of(board, tool_name)
    bench.plug(board, tool)
    bench.programs.add(tool_name, [*RIGHT[board.name][tool_name][:-1], reply])
    with pytest.raises(DeviceError, match=f"{tool_name} failed .*{reply.code}.*flash it again.*{said}"):
        bench.flash(board, tool=tool_name, port=port_of(tool))


def test_tool_that_hangs_is_ended(bench: Bench) -> None:
    board = BOARDS["stm32f4discovery"]
    tool = replace(tool_of(board, "openocd"), timeout_s=1)
    bench.plug(board, tool)
    replies = [RIGHT[board.name]["openocd"][0], Reply([], "Info : waiting", 0, 600)]
    bench.programs.add("openocd", replies)
    with pytest.raises(DeviceError, match=r"openocd did not end within 1 s\. Its last words: Info : waiting"):
        bench.flash(replace(board, flash_tools=(tool,)))


def test_bad_table_is_refused(tmp_path: Path) -> None:
    good = (data_folder("boards") / "esp32c3.toml").read_text()
    for old, new, said in (
        ('"{image}"]', '"{imag}"]', "unknown placeholder {imag}"),
        ('find = "serial"', 'find = "radio"', "'find' must be one of"),
        ('image = "esp"', 'image = "srec"', "'image' must be one of"),
        ("image_offset = 0", 'image_offset = "0"', "'image_offset' must be int"),
        ("expect = ", "expects = ", "'identify' must be a table of"),
        ("(ESP32[-A-Z0-9]*)", "(ESP32", "is no regular expression"),
        ("(ESP32[-A-Z0-9]*)", "ESP32", "needs a group"),
        ('needs = "pip', 'need = "pip', "unknown key 'need'"),
        ('"303a:1001"', '"303A:1001"', "a USB id is like"),
        ('argv = ["esptool", "--chip"', 'argv = ["sh", "--chip"', "must begin with esptool, not 'sh'"),
        ('argv = ["esptool", "--chip"', 'argv = ["/tmp/esptool", "--chip"', "not '/tmp/esptool'"),
        ('argv = ["esptool", "--port"', 'argv = ["./esptool", "--port"', "must begin with esptool, not './"),
        (
            'argv = ["esptool", "--port"',
            'argv = ["{port}", "--port"',
            "must begin with esptool, not '{port}'",
        ),
    ):
        assert old in good, old
        path = tmp_path / "bad.toml"
        path.write_text(good.replace(old, new))
        with pytest.raises(DataError, match="flash tool") as caught:
            load_board(path, tmp_path)
        assert said in str(caught.value), said
