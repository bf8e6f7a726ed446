"""What each stage adds to a bundle, one file a part of the way; how a stage works is in its own module.

`validation` and `diagnosis` are imported from their files, as is the `ledger` of judgements.
"""

from edgeqrl.stages.artefacts import (
    CALIBRATION,
    DIAGNOSIS,
    FIRMWARE,
    FIRMWARE_SECTIONS,
    FLOAT_TFLITE,
    GOLDEN,
    NUM_GOLDEN,
    PLACEMENT,
    REPORT,
    REPORT_SCHEMA,
    TFLITE,
    control_period_of,
    last_board,
    open_float_side,
    policy_facts,
    read_agent_options,
    read_calibration,
    read_firmware,
    read_head,
    read_preprocessing,
    read_quantized,
    read_report,
    read_sources,
    require_environment_fits,
    write_report,
)
from edgeqrl.stages.calibration import add_calibration
from edgeqrl.stages.contract import add_contract_facts, read_contract_facts, require_actuating
from edgeqrl.stages.conversion import (
    add_agent,
    add_quantized,
    add_sources,
    export_network_file,
    require_backends_agree,
    require_policy_fits,
)
from edgeqrl.stages.emulation import add_emulation
from edgeqrl.stages.firmware import add_firmware
from edgeqrl.stages.int4 import add_int4
from edgeqrl.stages.linux import read_linux_package
from edgeqrl.stages.packing import state_packing
from edgeqrl.stages.settings import (
    LAST_SEED,
    Progress,
    Settings,
    silent,
)
from edgeqrl.stages.target import add_target, add_target_emulation, build_target, require_built_here

__all__ = [
    "CALIBRATION",
    "DIAGNOSIS",
    "FIRMWARE",
    "FIRMWARE_SECTIONS",
    "FLOAT_TFLITE",
    "GOLDEN",
    "LAST_SEED",
    "NUM_GOLDEN",
    "PLACEMENT",
    "REPORT",
    "REPORT_SCHEMA",
    "TFLITE",
    "Progress",
    "Settings",
    "add_agent",
    "add_calibration",
    "add_contract_facts",
    "add_emulation",
    "add_firmware",
    "add_int4",
    "add_quantized",
    "add_sources",
    "add_target",
    "add_target_emulation",
    "build_target",
    "control_period_of",
    "export_network_file",
    "last_board",
    "open_float_side",
    "policy_facts",
    "read_agent_options",
    "read_calibration",
    "read_contract_facts",
    "read_firmware",
    "read_head",
    "read_linux_package",
    "read_preprocessing",
    "read_quantized",
    "read_report",
    "read_sources",
    "require_actuating",
    "require_backends_agree",
    "require_built_here",
    "require_environment_fits",
    "require_policy_fits",
    "silent",
    "state_packing",
    "write_report",
]
