"""Which tools are installed, what each is for, and the one command that gets it."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Tool:
    """One library or program that some part of edgeqrl uses."""

    name: str
    purpose: str
    version: str | None  # None where it is missing
    cure: str  # the command that gets it; empty where it is there

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


_PACKAGES = (
    # distributions of which one is enough, purpose, command
    (("tensorflow-cpu", "tensorflow"), "load Keras agents, quantize", "pip install 'edgeqrl[keras]'"),
    (("keras",), "load Keras agents", "pip install 'edgeqrl[keras]'"),
    (("ziglang",), "default C compiler, host and boards", "pip install 'edgeqrl[firmware]'"),
    (("unicorn",), "default emulator", "pip install 'edgeqrl[firmware]'"),
    (("pyelftools",), "sizes and stack bound of firmware", "pip install 'edgeqrl[firmware]'"),
    (("ai-edge-litert",), "backend litert; float side without TensorFlow", "pip install 'edgeqrl[runtimes]'"),
    (("tflite-micro",), "backend tflm, the oracle", "pip install 'edgeqrl[runtimes]'"),
    (("tflite-runtime",), "backend tflite-runtime, Python 3.11", "pip install 'edgeqrl[tflite-runtime]'"),
    (("intelhex",), "Intel HEX images of firmware", "pip install 'edgeqrl[firmware]'"),
    (("pyserial",), "serial ports: verify after flash, backend device", "pip install 'edgeqrl[device]'"),
    (("esptool",), "ESP images; flash ESP32s", "pip install 'edgeqrl[flash]'"),
    (("stm32loader",), "flash STM32s by their ROM bootloader", "pip install 'edgeqrl[flash]'"),
    (("pyocd",), "flash RP2, nRF5 and STM32H7 by a debug probe", "pip install pyocd"),
    (("optuna",), "edgeqrl search", "pip install 'edgeqrl[search]'"),
    (("box2d", "box2d-py"), "LunarLander and BipedalWalker", "pip install 'edgeqrl[box2d]'"),
)
_PROGRAMS = (
    # program, argument that makes it say its version, purpose, command
    ("cc", "--version", "faster host compiler than zig", "sudo apt-get install gcc"),
    (
        "arm-none-eabi-gcc",
        "--version",
        "second compiler for Cortex-M",
        "sudo apt-get install gcc-arm-none-eabi",
    ),
    (
        "riscv64-unknown-elf-gcc",
        "--version",
        "second compiler for RISC-V",
        "sudo apt-get install gcc-riscv64-unknown-elf",
    ),
    (
        "qemu-system-arm",
        "--version",
        "boots whole firmware images; emulates Cortex-M55",
        "sudo apt-get install qemu-system-arm",
    ),
    (
        "qemu-system-riscv32",
        "--version",
        "boots RISC-V firmware images",
        "sudo apt-get install qemu-system-misc",
    ),
    (
        "qemu-aarch64",
        "--version",
        "emulates Raspberry Pis",
        "sudo apt-get install qemu-user",
    ),
    ("ssh", "-V", "flash --host: deploy to Raspberry Pis", "sudo apt-get install openssh-client"),
    ("openocd", "--version", "flash by a debug probe", "sudo apt-get install openocd"),
    ("st-flash", "--version", "flash STM32s by an ST-LINK", "sudo apt-get install stlink-tools"),
    ("dfu-util", "--version", "flash STM32s by USB", "sudo apt-get install dfu-util"),
    ("gdb-multiarch", "--version", "flash by any gdbserver", "sudo apt-get install gdb-multiarch"),
    (
        "picotool",
        "version",
        "flash Picos by USB; copying needs no tool",
        "sudo apt-get install picotool (Debian 13 on), or build github.com/raspberrypi/picotool",
    ),
    (
        "bossac",
        "--help",
        "flash the Arduino Nano 33 BLE",
        "arduino-cli core install arduino:mbed_nano; put its bossac on the PATH",
    ),
    (
        "teensy_loader_cli",
        "--list-mcus",
        "flash the Teensy 4.1",
        "sudo apt-get install teensy-loader-cli",
    ),
    (
        "nrfjprog",
        "--version",
        "flash the nRF5340-DK",
        "get the nRF Command Line Tools from www.nordicsemi.com",
    ),
)


def examine() -> tuple[Tool, ...]:
    """Look for every tool; nothing is imported, and no program runs longer than ten seconds."""
    packages = (_package(names, purpose, cure) for names, purpose, cure in _PACKAGES)
    programs = (_program(name, flag, purpose, cure) for name, flag, purpose, cure in _PROGRAMS)
    return (*packages, *programs)


def _package(names: tuple[str, ...], purpose: str, cure: str) -> Tool:
    for name in names:
        try:
            return Tool(name, purpose, importlib.metadata.version(name), "")
        except importlib.metadata.PackageNotFoundError:
            continue
    if names == ("tflite-runtime",) and sys.version_info >= (3, 12):
        cure = "use Python 3.11: its last release has no newer wheel"
    return Tool(names[0], purpose, None, cure)


def _program(name: str, flag: str, purpose: str, cure: str) -> Tool:
    path = shutil.which(name)
    if path is None:
        return Tool(name, purpose, None, cure)
    try:
        result = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, check=False)
        lines = (result.stdout or result.stderr).splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return Tool(name, purpose, None, f"it is at {path} but does not start; reinstall it: {cure}")
    version = next((line.strip() for line in lines if re.search(r"[0-9]\.[0-9]", line)), "of unknown version")
    return Tool(name, purpose, version, "")
