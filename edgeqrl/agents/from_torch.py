"""Plain PyTorch actors: state dicts of torch.nn.Sequential with stated layers. Torch is not needed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model
from edgeqrl.agents.heads import BoxHead, GaussianHead, Head
from edgeqrl.agents.layer_list import leading_divisor, parse_layers, run_layers
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.agents.torch_file import read_state_dict
from edgeqrl.agents.torch_weights import Weights
from edgeqrl.agents.vecnormalize import followed_by
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.files import sha256
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing, preprocessing_of

_EXAMPLE = "such as --layers 'linear,tanh,linear,tanh,linear' --prefix actor_mean"


def load_torch(
    path: str | Path,
    observation_space: Any,
    action_space: Any,
    *,
    options: AgentOptions | None = None,
    preprocessing: Preprocessing | None = None,
    is_complete: bool = False,
    name: str | None = None,
) -> Agent:
    """Load a `torch.save`d state dict as an agent; `options.layers` states its layers in their order.

    `options.prefix` says where they begin, "actor_mean" or, for a network in pieces, "network,actor"; it
    may be left out where the file holds one network. A leading `divide:255` becomes preprocessing, unless
    `is_complete` says that `preprocessing` already holds everything.

    Raises AgentError or UsageError for files that are damaged, lie, or do not fit.
    """
    place = Path(path)
    stated = options or AgentOptions()
    if stated.layers is None:
        raise UsageError(f"{place} is a PyTorch file, which does not say its layers. State them, {_EXAMPLE}.")
    divisor, layers = leading_divisor(parse_layers(stated.layers))
    weights = Weights(read_state_dict(place, str(place)), str(place))
    before = preprocessing or preprocessing_of(observation_space)
    if divisor != 1.0 and not is_complete:
        first = followed_by(before.parts[0], np.array([1.0 / divisor]), np.zeros(1))
        before = replace(before, parts=(first, *before.parts[1:]))
    if len(before.parts) != 1:
        raise AgentError(
            f"The observation has the parts {', '.join(part.name for part in before.parts)}, and a list of "
            "layers takes one. Build the network in Keras for this agent."
        )
    keras = import_keras()
    tensor = keras.Input(before.network_shapes[0], name=before.parts[0].name)
    names = _layer_names(weights, stated.prefix)
    output = run_layers(tensor, layers, weights, names).tensor
    agent = agent_from_model(
        keras.Model(tensor, output),
        observation_space,
        action_space,
        options=stated,
        preprocessing=before,
        name=name if name is not None else place.resolve().stem,
    )
    _require_same_scale(agent.head, weights)
    return replace(agent, source_sha256=sha256(place.read_bytes()))


def _require_same_scale(head: Head, weights: Weights) -> None:
    """Refuse other bounds than those of the training, which CleanRL keeps beside the weights."""
    if not isinstance(head, BoxHead | GaussianHead):
        return
    for name, given in (("action_scale", head.gain), ("action_bias", head.offset)):
        trained = weights.numbers(name)
        if trained is None or len(trained) not in (1, len(given)):
            continue
        if not np.allclose(given, trained, rtol=1e-5, atol=1e-6):
            raise AgentError(
                f"{weights.place} was trained with {name} {shown(str(trained.tolist()))}, and here it is "
                f"{list(given)}. Is a wrapper of the training left out, such as RescaleAction? Add it with "
                "--wrapper; or state --head scale or squash if the tanh is not scaled yet."
            )


def _layer_names(weights: Weights, prefix: str | None) -> list[str]:
    """Return the layers with weights of the stated network, or of the only one."""
    if prefix:
        names = []
        for piece in prefix.split(","):
            found = [piece] if f"{piece}.weight" in weights else weights.layers_under(piece)
            if not found:
                heads = ", ".join(_networks(weights)) or "none"
                raise UsageError(
                    f"{weights.place} holds no network '{shown(piece)}'; --prefix takes one or more of: "
                    f"{heads}."
                )
            names += found
        return names
    networks = _networks(weights)
    if len(networks) > 1:
        raise UsageError(
            f"{weights.place} holds several networks: {', '.join(networks)}. "
            "Say which act, in their order, with --prefix NAME or --prefix NAME,NAME."
        )
    return weights.layers_under("")


def _networks(weights: Weights) -> list[str]:
    """Name what lies before the numbers of a Sequential's layers: "" of a bare one."""
    found = []
    for name in weights.layers_under(""):
        head, _, number = name.rpartition(".")
        found.append(head if number.isdigit() else "" if name.isdigit() else name)
    return [shown(name) for name in dict.fromkeys(found)]
