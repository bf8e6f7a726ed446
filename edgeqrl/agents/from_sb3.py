"""Agents of Stable-Baselines3 and sb3-contrib, from the zips of `model.save`: weights only, no unpickling.

Neither torch nor Stable-Baselines3 is needed. The acting network is rebuilt in Keras, and what
Stable-Baselines3 does around it (images divided by 255, one-hot, actions scaled or clipped to their
bounds) becomes preprocessing and head.
"""

from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.agents.agent import Agent, identifier
from edgeqrl.agents.heads import DiscreteHead, GaussianHead, Head, ValueHead, infer_head
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.sb3_description import PolicyDescription, read_description
from edgeqrl.agents.sb3_network import PolicyNetwork, build_network
from edgeqrl.agents.torch_file import Archive, read_state_dict
from edgeqrl.agents.torch_weights import Weights
from edgeqrl.agents.vecnormalize import followed_by
from edgeqrl.errors import AgentError
from edgeqrl.files import sha256
from edgeqrl.network.parts import ObservationPart
from edgeqrl.preprocessing import Preprocessing, preprocessing_of

_MEMBERS = ("data", "policy.pth")
_SAC_LOG_STD_RANGE = (-20.0, 2.0)


def is_sb3_archive(names: list[str]) -> bool:
    """Tell whether these are the members of a zip that Stable-Baselines3 saved."""
    return set(_MEMBERS) <= set(names)


def load_sb3(
    path: str | Path,
    observation_space: Any,
    action_space: Any,
    *,
    options: AgentOptions | None = None,
    preprocessing: Preprocessing | None = None,
    is_complete: bool = False,
    name: str | None = None,
) -> Agent:
    """Load a zip of DQN, QR-DQN, PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, SAC, TQC, TD3 or DDPG.

    options         `activation` states the activation function where the file does not say it; `layers` those
                    of a features extractor of the user's own
    preprocessing   what comes before the agent, VecNormalize and frames included; by default nothing.
                    The division of images by 255 is added, unless `is_complete` says it is in there

    Raises AgentError or UsageError, in one sentence, for files that are damaged, hostile, of unknown kind,
    or do not fit the spaces.
    """
    place = Path(path)
    stated = options or AgentOptions()
    with Archive(place, str(place)) as archive:
        if not is_sb3_archive(archive.names):
            raise AgentError(f"{place} is no zip of Stable-Baselines3's model.save.")
        description = read_description(archive, stated_activation=stated.activation)
        where = f"policy.pth in {place}"
        weights = Weights(read_state_dict(archive.read("policy.pth"), where), where)
    if stated.stochastic and description.kind in ("q", "quantile"):
        raise AgentError(
            f"{place} holds Q-values, from which Stable-Baselines3 never draws. Leave out --stochastic."
        )
    _require_same_bounds(description, action_space, place)
    before = preprocessing or preprocessing_of(observation_space)
    pairs = zip(before.parts, before.network_shapes, strict=True)
    images = [_is_image(part, shape, observation_space) for part, shape in pairs]
    if description.normalizes_images and not is_complete:
        before = replace(before, parts=tuple(map(_divided, before.parts, images)))
    network = build_network(weights, description, before, images, stated)
    return Agent(
        name=identifier(name if name is not None else place.resolve().stem),
        model=network.model,
        head=_head(network, description, action_space, stated),
        preprocessing=before,
        source_sha256=sha256(place.read_bytes()),
        ends_in_tanh=description.is_squashed and stated.wants_policy and not stated.stochastic,
        states=network.states,
        value_names=("value",) if stated.wants_policy and stated.wants_value else (),
        options=stated,
    )


def _require_same_bounds(description: PolicyDescription, space: Any, place: Path) -> None:
    """Refuse another Box than that of the training, to whose bounds actions are clipped or scaled."""
    if description.action_bounds is None or type(space).__name__ != "Box":
        return
    for end, trained in zip(("low", "high"), description.action_bounds, strict=True):
        given = np.ravel(getattr(space, end)).astype(np.float64)
        if len(given) != len(trained):
            return  # a mismatch of the outputs, which the head tells
        differing = np.flatnonzero(~np.isclose(given, trained, rtol=1e-5, atol=1e-6))
        if len(differing):
            at = int(differing[0])
            raise AgentError(
                f"{place} was trained with actions whose {end} bound {at} is {trained[at]:g}, and the "
                f"environment has {given[at]:g} there. Is a wrapper of the training left out, such as "
                "RescaleAction? Add it with --wrapper."
            )


def _is_image(part: ObservationPart, shape: tuple[int, ...], space: Any) -> bool:
    """Tell whether Stable-Baselines3 sees an image: three axes of bytes from 0 to 255, not normalized."""
    if part.source != "uint8" or len(shape) != 3:
        return False
    if part.gain is not None:  # VecNormalize makes it numbers; a complete preprocessing may hold the 1/255
        return len(part.gain) == 1 and part.offset in (None, (0.0,)) and isclose(part.gain[0], 1 / 255)
    spaces = getattr(space, "spaces", None)
    leaf = spaces.get(part.key) if isinstance(spaces, dict) else space
    if np.dtype(getattr(leaf, "dtype", None) or np.uint8) != np.uint8:
        return False  # a mask of booleans, say
    low, high = np.asarray(getattr(leaf, "low", 0)), np.asarray(getattr(leaf, "high", 255))
    return bool((low == 0).all() and (high == 255).all())


def _divided(part: ObservationPart, is_image: bool) -> ObservationPart:
    return followed_by(part, np.array([1 / 255]), np.zeros(1)) if is_image else part


def _head(
    network: PolicyNetwork, description: PolicyDescription, action_space: Any, options: AgentOptions
) -> Head:
    if not options.wants_policy:
        return ValueHead(("value",))
    is_box = type(action_space).__name__ == "Box" or (action_space is None and options.head != "argmax")
    own = None
    if description.kind in ("q", "quantile"):
        own = "argmax"
    elif is_box:
        own = "clip" if not description.is_squashed else "squash" if options.stochastic else "scale"
    if action_space is None and options.head is not None:
        own = options.head
    log_std = options.log_std if network.log_std is None else network.log_std
    head = infer_head(
        action_space,
        network.num_outputs,
        ends_in_tanh=description.is_squashed,
        options=replace(options, head=own or options.head, log_std=log_std),
        has_log_std=network.has_log_std,
    )
    if isinstance(head, DiscreteHead):
        head = replace(head, starts=(0,) * len(head.starts))  # they pass indices on as they are
    if isinstance(head, GaussianHead) and description.kind == "sac":
        head = replace(head, log_std_range=_SAC_LOG_STD_RANGE)
    return head
