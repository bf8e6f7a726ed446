"""Agent: a live Keras model with the head that turns its outputs into the environment's actions."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeqrl.agents.heads import Head

_MAX_NAME_LENGTH = 40  # leaves room for suffixes within the 63 characters that C99 compilers keep
# Words that C99, C11 or C++17 keep for themselves, and names that would hide a standard function.
_KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class
    compl const const_cast constexpr continue decltype default delete do double dynamic_cast else enum
    explicit export extern false float for friend goto if inline int long main mutable namespace new
    noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
    restrict return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
    wchar_t while xor xor_eq"""
_RESERVED = frozenset(_KEYWORDS.split())


@dataclass(frozen=True, eq=False)
class Agent:
    """A policy as trained: observation -> `model` -> outputs -> `head` -> action."""

    name: str  # a C identifier; prefix of every exported symbol
    model: Any  # live Keras model, or anything called as model(batch, training=False)
    head: Head
    observation_shape: tuple[int, ...]
    source_sha256: str  # of the file or folder it came from; of the weights for a live model
    ends_in_tanh: bool

    def __post_init__(self) -> None:
        if self.name != identifier(self.name):
            raise ValueError(f"not a C identifier: {self.name!r}")
        if any(n < 1 for n in self.observation_shape):
            raise ValueError(f"observation shape must be positive, got {self.observation_shape}")

    @property
    def weights_sha256(self) -> str:
        """Return a hash of the weights' values: the same for a live model and for any file of it."""
        digest = hashlib.sha256()
        for weight in self.model.weights:
            values = np.ascontiguousarray(np.asarray(weight))
            digest.update(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes())
        return digest.hexdigest()


_FILE_ENDINGS = ("_params", "_golden")  # of the files of another policy in the same image


def identifier(text: str) -> str:
    """Make a C identifier that says the same as `text`: `LunarLander v3!` becomes `LunarLander_v3`.

    Letters outside ASCII and signs become underscores; an empty result becomes `policy`; a reserved
    word, a leading digit and the runtime's own prefix `eqrl` get `policy_` in front; the endings of
    another policy's files get `_policy` behind.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:_MAX_NAME_LENGTH].strip("_")
    if not name:
        return "policy"
    if name[0].isdigit() or name in _RESERVED or name.lower().startswith("eqrl"):
        name = f"policy_{name}"[:_MAX_NAME_LENGTH].strip("_")
    if name.lower().endswith(_FILE_ENDINGS):
        return f"{name[: _MAX_NAME_LENGTH - 7].strip('_')}_policy"
    return name
