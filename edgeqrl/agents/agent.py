"""Agent: a live Keras model with the head that turns its outputs into the environment's actions."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeqrl.agents.heads import Head
from edgeqrl.agents.options import AgentOptions
from edgeqrl.names import RESERVED_WORDS
from edgeqrl.preprocessing import Preprocessing

_MAX_NAME_LENGTH = 40  # leaves room for suffixes within the 63 characters that C99 compilers keep


@dataclass(frozen=True)
class StateSpec:
    """One tensor that a recurrent model hands from step to step, without its batch axis."""

    name: str  # of the model's input; the next state is the output "<name>_next"
    shape: tuple[int, ...]
    initial: float = 0.0  # of every element, where an episode begins


@dataclass(frozen=True, eq=False)
class Agent:
    """A policy as trained: raw observation -> `preprocessing` -> `model` -> `head` -> action.

    The model is in normal form: called as model([part inputs..., states...], training=False), a lone input
    bare, it returns [head outputs..., values..., next states...], a lone output bare; every tensor is
    float32 [N, ...].
    """

    name: str  # a C identifier; prefix of every exported symbol
    model: Any  # live Keras model, or anything called in the same way that has `weights`
    head: Head
    preprocessing: Preprocessing
    source_sha256: str  # of the file or folder it came from; of the weights for a live model
    ends_in_tanh: bool
    states: tuple[StateSpec, ...] = ()
    value_names: tuple[str, ...] = ()
    original: Any = None  # the model as it was given, where `model` is a normal form of it
    options: AgentOptions = field(default_factory=AgentOptions)

    def __post_init__(self) -> None:
        if self.name != identifier(self.name):
            raise ValueError(f"not a C identifier: {self.name!r}")
        for names in (self.input_names, self.output_names):
            if len(set(names)) != len(names):
                raise ValueError(f"inputs or outputs share a name: {names}")

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Return the raw observation's shape; only a policy of one part has it."""
        (part,) = self.preprocessing.parts
        return part.shape

    @property
    def input_names(self) -> tuple[str, ...]:
        """Name the model's inputs: the parts of the observation, then the states."""
        parts = (part.name for part in self.preprocessing.parts)
        return (*parts, *(state.name for state in self.states))

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the model's inputs, without the batch axis."""
        return (*self.preprocessing.network_shapes, *(state.shape for state in self.states))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name the model's outputs: what the head reads, then the values, then the next states."""
        return (
            *self.head.output_names,
            *self.value_names,
            *(f"{state.name}_next" for state in self.states),
        )

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
    if name[0].isdigit() or name in RESERVED_WORDS or name.lower().startswith("eqrl"):
        name = f"policy_{name}"[:_MAX_NAME_LENGTH].strip("_")
    if name.lower().endswith(_FILE_ENDINGS):
        return f"{name[: _MAX_NAME_LENGTH - 7].strip('_')}_policy"
    return name
