"""A bare engine is the network's code and nothing else, and as much of it as was linked is counted."""

import re
from dataclasses import replace

import pytest

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.host_c import policy_of_network
from edgeqrl.errors import BoardFitError
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.read_tflite import read_tflite
from firmware_export.bare_image import STATE, compile_bare
from firmware_export.build import compile_firmware, compile_flags
from firmware_export.elf import read_elf
from firmware_export.emit.export import export_network, export_sources
from firmware_export.emit.orders import order_of
from firmware_export.emit.params import params_blob, plan_params
from firmware_export.toolchain import find_compiler
from tests import firmware
from tests.bare_engines import DATA, bare_image

CORES = firmware.one_by_default(EMULATED_CORES, ("cortex-m0plus", "cortex-m4", "cortex-m55", "rv32imc"))
HARNESS = {"Reset_Handler", "main", "eqrl_default_handler"}


@pytest.mark.parametrize("core", CORES)
def test_image_holds_the_engine_and_counts_all_of_it(core: str) -> None:
    image, network = bare_image("a_cartpole", core)
    elf, sizes = image.elf, image.sizes
    names = {symbol.name for symbol in elf.functions} - HARNESS
    assert {"network_init", "network_infer"} <= names
    assert not [n for n in names if re.search("device|uart|guard|frame|step|observe|edge", n)]
    harness = elf.sections[".harness"]
    stored = [s for s in elf.segments if s.content]
    assert sum(len(s.content) for s in stored) == sizes.code + sizes.params + harness[1]
    assert harness[1] <= 128
    inside = range(harness[0], sum(harness))
    assert {s.name for s in elf.functions if s.address in inside} == HARNESS
    program = BareNetwork("network", network, order=order_of(core))
    blob = params_blob(plan_params(program))
    place = elf.address("network_params")
    assert any(s.content[place - s.address :][: len(blob)] == blob for s in stored if s.holds(place))
    assert sizes.params == len(blob)
    assert (sizes.state, sizes.other_ram) == (elf.symbols[STATE].size, 0)


def test_firmware_has_the_same_kernels() -> None:
    tflite = (DATA / "a_cartpole.tflite").read_bytes()
    image, network = bare_image("a_cartpole", "cortex-m4")
    policy = replace(policy_of_network(network), order=order_of("cortex-m4"))
    built = read_elf(compile_firmware(export_sources(policy, tflite), firmware.board("mps2-an386")).elf)
    sizes = {symbol.name: symbol.size for symbol in built.functions}
    kernels = [symbol for symbol in image.elf.functions if symbol.name.startswith("eqrl_dense")]
    assert kernels
    assert all(sizes[kernel.name] == kernel.size for kernel in kernels)


def test_level_is_the_only_flag_that_differs_from_firmware() -> None:
    compiler, board = find_compiler(core="cortex-m4"), firmware.board("mps2-an386")
    usual, small = compile_flags(compiler, board), compile_flags(compiler, board, "Os")
    assert [flag for flag in usual if flag.startswith("-O")] == ["-O2"]
    assert ["-O2" if flag == "-Os" else flag for flag in small] == usual
    fast, tiny = (bare_image("a_cartpole", "cortex-m4", level)[0] for level in ("O2", "Os"))
    assert fast.elf.code != tiny.elf.code


def test_network_beyond_all_memory_is_one_sentence() -> None:
    tflite = (DATA / "a_cartpole.tflite").read_bytes()
    program = BareNetwork("network", read_tflite(tflite))
    sources = export_network(program, tflite)
    for core, params, state in (("cortex-m4", 2**27, 0), ("cortex-m4", 0, 2**27), ("cortex-m55", 2**22, 0)):
        with pytest.raises(BoardFitError, match=f"more than there is memory to count it in on {core}"):
            compile_bare(
                sources,
                firmware.board(EMULATED_CORES[core]),
                compiler=find_compiler(),
                params_bytes=params,
                state_bytes=state,
            )
