"""IntegerPolicy to C: `export_sources` is the whole of it; `export_network` for a network alone."""

from firmware_export.emit.contract import contract_sources, default_contract, make_contract
from firmware_export.emit.export import (
    c_sources,
    export_network,
    export_sources,
    require_c_name,
    runtime_sources,
)
from firmware_export.emit.golden import GoldenVectors, make_golden

__all__ = [
    "GoldenVectors",
    "c_sources",
    "contract_sources",
    "default_contract",
    "export_network",
    "export_sources",
    "make_contract",
    "make_golden",
    "require_c_name",
    "runtime_sources",
]
