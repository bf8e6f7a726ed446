"""Everything edgeqrl raises on purpose; the command line maps each class to its exit code."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EdgeQRLError(Exception):
    """Root of all expected failures; the message says what, where and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgeQRLError):
    """An option, or a name of an environment, board, backend or zoo agent, is wrong."""

    exit_code = 2


class AgentError(EdgeQRLError):
    """The agent file is missing, damaged, unsafe, not finite, or does not fit its environment."""

    exit_code = 3


class UnsupportedOperatorError(EdgeQRLError):
    """The network uses something the integer engine cannot reproduce bit for bit."""

    exit_code = 4


class BoardFitError(EdgeQRLError):
    """The policy does not fit the board's flash, RAM or control period."""

    exit_code = 5


class VerdictFailed(EdgeQRLError):
    """The quantized policy is worse than the float one by more than the margin."""

    exit_code = 6


class VerdictInconclusive(EdgeQRLError):
    """The episodes played do not decide between PASS and FAIL."""

    exit_code = 7


class NothingToPreserve(EdgeQRLError):
    """The float policy is not better than random actions."""

    exit_code = 8


class MissingToolError(EdgeQRLError):
    """A compiler, emulator, library or flash tool is not installed."""

    exit_code = 9


class DeviceError(EdgeQRLError):
    """An emulator or a device did not start, answered wrongly or stopped answering."""

    exit_code = 10


class EnvironmentFailure(EdgeQRLError):
    """The Gymnasium environment cannot be made, or broke its own contract while it ran."""

    exit_code = 11


class DataError(EdgeQRLError):
    """Recorded observations, a calibration set, a bundle or a `.tflite` file is damaged."""

    exit_code = 12


class OutputError(EdgeQRLError):
    """A result cannot be written: folder read-only, disk full, or the place is not ours."""

    exit_code = 13


class BackendsDiffer(EdgeQRLError):
    """Two integer backends that must agree to the bit gave different outputs."""

    exit_code = 14


class ConverterError(EdgeQRLError):
    """TensorFlow could not export or convert the model, or its process died."""

    exit_code = 15


INTERRUPTED_EXIT_CODE = 130  # Ctrl-C, as shells have it


def require_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`, else raise UsageError with the nearest valid name."""
    names = sorted(known)
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}."
    raise UsageError(f"There is no {kind} '{name}'; {hint}")


def one_line(error: BaseException) -> str:
    """Return a library's message as one line of at most 300 printable characters, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())
    if len(text) <= 300:
        return text
    return text[:297].rpartition(" ")[0] + "..." if " " in text[:297] else text[:297] + "..."


def named_line(error: BaseException) -> str:
    """Return the error's name and its message as `one_line` gives it, without a full stop."""
    text, name = one_line(error), type(error).__name__
    return f"{name}: {text.rstrip('.')}" if text else name
