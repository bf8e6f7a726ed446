"""Count one inference of a network on a core, and its bytes, of one build: what `edgeqrl bench` shows."""

from typing import Any

import numpy as np

from edgeqrl.backends import EMULATED_CORES
from edgeqrl.backends.rows import RowLayout
from edgeqrl.data import data_folder
from edgeqrl.errors import require_name
from edgeqrl.network.integer_policy import BareNetwork
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.network.reference import Reference, random_inputs
from firmware_export.bare_image import OPTIMIZATIONS, BareImage, compile_bare
from firmware_export.board import load_board
from firmware_export.build import OPTIMIZE
from firmware_export.cycles import CYCLE_MODELS, estimate_cycles
from firmware_export.emit.arena import plan_arena
from firmware_export.emit.export import export_network
from firmware_export.emit.orders import order_of
from firmware_export.emit.params import Layout, executed_layers, plan_params, plan_program_arena
from firmware_export.emulators.bare_engine import BareEngine, Trace
from firmware_export.execution import Execution, count_layers
from firmware_export.toolchain import find_compiler

SHORT_CORES = {name.removeprefix("cortex-"): name for name in EMULATED_CORES if name.startswith("cortex-")}
_NAME = "network"
_ALIGNMENT = 4  # of inputs and outputs
_POINTER_BYTES = 4  # of a 32-bit core: to the params, before the arena


def core_of(name: str) -> str:
    """Return a core by its name or its short one, "m4" for "cortex-m4"; raises UsageError."""
    return require_name("core", SHORT_CORES.get(name, name), EMULATED_CORES)


def bench_network(
    tflite: bytes,
    core: str,
    *,
    compiler: str | None = None,
    optimize: str = OPTIMIZE,
    engine: str | None = None,
) -> dict[str, Any]:
    """Measure one inference of a fully-integer `.tflite`, integers in and out, on an emulated core.

    The image holds NAME_init, NAME_infer and what they call; it is called from outside, and what boots it is
    not counted. Memory is that of no board. Raises UsageError for an unknown core, compiler or level.
    """
    core = core_of(core)
    require_name("optimization", optimize, OPTIMIZATIONS)
    network = read_tflite(tflite)
    program = BareNetwork(_NAME, network, order=order_of(core))
    layout = plan_params(program)
    arena = plan_program_arena(program, layout.codes)
    image = compile_bare(
        export_network(program, tflite),
        load_board(EMULATED_CORES[core], data_folder("boards")),
        compiler=find_compiler(compiler, core=core),
        optimize=optimize,
        params_bytes=layout.total_bytes,
        state_bytes=_POINTER_BYTES + arena.total_bytes,
    )
    emulator, trace = _run(image, program, engine)
    execution = Execution(image.elf, trace.addresses)
    return {
        "core": core,
        "compiler": image.compiler,
        "optimize": optimize,
        "emulator": emulator,
        "macs": network.num_macs,
        **_instructions(execution, image, program, layout),
        "cycles_estimate": estimate_cycles(execution, core),
        "cycles_model": CYCLE_MODELS[core].name,
        "flash_bytes": {
            "code": image.sizes.code,
            "weights": image.sizes.params,
            "total": image.sizes.code + image.sizes.params,
            "params_header": layout.entries[0].offset if layout.entries else layout.total_bytes,
        },
        "ram_bytes": image.sizes.state + image.sizes.other_ram,
        "activation_bytes": plan_arena(network).least_bytes,
        "column_bytes": max((code.scratch_bytes or 0 for code in layout.codes), default=0),
        "stack_bytes": image.sizes.stack,
        "measured_stack_bytes": trace.stack_bytes,
    }


def _run(image: BareImage, program: BareNetwork, engine: str | None) -> tuple[str, Trace]:
    """Record an inference whose answer is that of the reference; return the emulator's name with it."""
    network = program.network
    inputs = RowLayout([network.tensors[name] for name in network.inputs], alignment=_ALIGNMENT)
    outputs = RowLayout([network.tensors[name] for name in network.outputs], alignment=_ALIGNMENT)
    drawn = random_inputs(network, np.random.default_rng(0), 1)
    places = {"input_offsets": inputs.offsets, "output_offsets": outputs.offsets}
    with BareEngine(image, engine=engine) as device:
        row = inputs.pack(drawn)[0]
        found = outputs.unpack(device.infer(row, output_bytes=outputs.num_bytes, **places)[None])
        trace = device.trace(row, **places)
    for name, expected in Reference(network).run(drawn).items():
        assert np.array_equal(found[name], expected), f"'{name}' differs from the reference"
    return device.engine, trace


def _instructions(
    execution: Execution, image: BareImage, program: BareNetwork, layout: Layout
) -> dict[str, Any]:
    """Return what was executed, in all, by layer and by class; what belongs to no layer is the rest."""
    total = len(execution.addresses)
    layers = executed_layers(program)
    calls = [
        [image.elf.address(call.function) for call in code.all_calls(len(layer.inputs))]
        for code, layer in zip(layout.codes, layers, strict=True)
    ]
    counts = count_layers(execution, image.name, calls)
    return {
        "instructions": total,
        "instructions_per_mac": round(total / max(program.network.num_macs, 1), 2),
        "layers": [
            {"operator": layer.operator, "name": layer.name, "macs": layer.num_macs, "instructions": count}
            for layer, count in zip(layers, counts, strict=True)
        ],
        "instructions_other": total - sum(counts),
        "instruction_classes": execution.class_counts(),
    }
