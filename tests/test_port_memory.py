"""The copies of freestanding firmware, among them those of Arm's run-time ABI, built for this host."""

import ctypes
from pathlib import Path

import pytest

from firmware_export.build import _PORTS
from tests.c_build import c_compiler, run

SOURCE = _PORTS / "common" / "memory.c"
BYTES = bytes(range(1, 41))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("memory")
    flags = [
        "-std=c99",
        "-O2",
        "-ffreestanding",
        "-fno-builtin",
        "-fPIC",
        "-shared",
        "-nostdlib",
        "-Wl,-Bsymbolic",
    ]
    run([*c_compiler("zig"), *flags, "-D__ARM_EABI__", str(SOURCE), "-o", "memory.so"], folder)
    return ctypes.CDLL(str(Path(folder) / "memory.so"))


@pytest.mark.parametrize("alignment", ["", "4", "8"])
@pytest.mark.parametrize("size", [0, 1, 4, 8, 15, 16])
def test_functions_of_the_abi_for_arm_take_their_arguments_in_its_order(
    library: ctypes.CDLL, alignment: str, size: int
) -> None:
    target = ctypes.create_string_buffer(BYTES, len(BYTES))
    place, count = ctypes.addressof(target), ctypes.c_size_t(size)
    library[f"__aeabi_memcpy{alignment}"](ctypes.c_void_p(place), ctypes.c_void_p(place + 16), count)
    expected = bytearray(BYTES)
    expected[:size] = BYTES[16 : 16 + size]
    assert target.raw == expected
    library[f"__aeabi_memmove{alignment}"](ctypes.c_void_p(place + 8), ctypes.c_void_p(place), count)
    expected[8 : 8 + size] = bytes(expected[:size])
    assert target.raw == expected
    library[f"__aeabi_memset{alignment}"](ctypes.c_void_p(place + 16), count, 0xA5)
    expected[16 : 16 + size] = b"\xa5" * size
    assert target.raw == expected
    library[f"__aeabi_memclr{alignment}"](ctypes.c_void_p(place), count)
    expected[:size] = bytes(size)
    assert target.raw == expected
