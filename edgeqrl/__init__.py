"""edgeqrl: put trained reinforcement-learning policies on chips, and measure that they still act as well."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeqrl.agents.from_keras import agent_from_model, load_agent
    from edgeqrl.agents.load import open_agent
    from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
    from edgeqrl.backends.host_c import HostCPolicy
    from edgeqrl.backends.keras import KerasPolicy
    from edgeqrl.calibrate import CalibrationSet
    from edgeqrl.contract import ContractOptions
    from edgeqrl.environments import EnvironmentSpec
    from edgeqrl.errors import EdgeQRLError
    from edgeqrl.pipeline import Conversion, convert, open_board
    from edgeqrl.quantize.quantize import QuantizedPolicy
    from edgeqrl.quantize.scheme import Scheme
    from edgeqrl.rollout import Rollout
    from edgeqrl.stages import Settings
    from edgeqrl.validate.criteria import Verdict
    from edgeqrl.validate.report import ValidationReport
    from edgeqrl.validate.terms import Declared

# Public name -> module. Imported on first use: `edgeqrl --help` must not wait for gymnasium. The stages
# keep the names of their modules and are imported from there: `from edgeqrl.calibrate import calibrate`.
_MODULES = {
    "AgentOptions": "edgeqrl.agents.options",
    "CalibrationSet": "edgeqrl.calibrate",
    "ContractOptions": "edgeqrl.contract",
    "Conversion": "edgeqrl.pipeline",
    "Declared": "edgeqrl.validate.terms",
    "EdgeQRLError": "edgeqrl.errors",
    "EnvironmentSpec": "edgeqrl.environments",
    "HostCPolicy": "edgeqrl.backends.host_c",
    "KerasPolicy": "edgeqrl.backends.keras",
    "PreprocessingOptions": "edgeqrl.agents.options",
    "QuantizedPolicy": "edgeqrl.quantize.quantize",
    "Rollout": "edgeqrl.rollout",
    "Scheme": "edgeqrl.quantize.scheme",
    "Settings": "edgeqrl.stages",
    "ValidationReport": "edgeqrl.validate.report",
    "Verdict": "edgeqrl.validate.criteria",
    "agent_from_model": "edgeqrl.agents.from_keras",
    "convert": "edgeqrl.pipeline",
    "load_agent": "edgeqrl.agents.from_keras",
    "open_agent": "edgeqrl.agents.load",
    "open_board": "edgeqrl.pipeline",
}

__all__ = [
    "AgentOptions",
    "CalibrationSet",
    "ContractOptions",
    "Conversion",
    "Declared",
    "EdgeQRLError",
    "EnvironmentSpec",
    "HostCPolicy",
    "KerasPolicy",
    "PreprocessingOptions",
    "QuantizedPolicy",
    "Rollout",
    "Scheme",
    "Settings",
    "ValidationReport",
    "Verdict",
    "agent_from_model",
    "convert",
    "load_agent",
    "open_agent",
    "open_board",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeqrl' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
