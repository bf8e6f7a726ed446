"""What a Stable-Baselines3 zip says of its policy, read from the readable part of its JSON alone.

The member `data` is JSON. What JSON cannot hold is there twice: as a base64 pickle, which is never
touched, and as readable text beside it, such as "<class 'torch.nn.modules.activation.ReLU'>".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

from edgeqrl.agents.torch_file import Archive
from edgeqrl.agents.torch_weights import ACTIVATION_NAMES, activation_of_class
from edgeqrl.errors import AgentError, UsageError, require_name
from edgeqrl.network.tflite_model import shown

# The module of a policy's class -> the kind of network that it makes.
_KINDS = {
    "stable_baselines3.dqn.policies": "q",
    "sb3_contrib.qrdqn.policies": "quantile",
    "stable_baselines3.common.policies": "actor_critic",  # PPO, A2C, TRPO
    "sb3_contrib.common.maskable.policies": "actor_critic",
    "sb3_contrib.common.recurrent.policies": "recurrent",
    "stable_baselines3.sac.policies": "sac",
    "sb3_contrib.tqc.policies": "sac",
    "stable_baselines3.td3.policies": "td3",  # DDPG too
}
_DEFAULT_ACTIVATIONS = {
    "q": "relu",
    "quantile": "relu",
    "actor_critic": "tanh",
    "recurrent": "tanh",
    "sac": "relu",
    "td3": "relu",
}
_EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
_MAX_JSON_BYTES = 2**26
_NUMBER = re.compile(r"-?(?:inf|[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?)")

Numbers = tuple[float, ...]
_AGENTS = "DQN, QR-DQN, PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, SAC, TQC, TD3 and DDPG can be exported."


@dataclass(frozen=True)
class PolicyDescription:
    """What the weights alone do not say."""

    kind: str  # q, quantile, actor_critic, recurrent, sac or td3
    activation: str  # of the hidden layers, from ACTIVATION_NAMES
    extractor: str | None = None  # the class of a features extractor of the user's own
    normalizes_images: bool = True
    is_squashed: bool = False  # tanh behind the mean
    has_sde: bool = False
    clip_mean: float = 2.0  # SAC with gSDE
    num_quantiles: int = 200  # of each action, of QR-DQN
    action_bounds: tuple[Numbers, Numbers] | None = None  # low and high of a Box, where they can be read


def read_description(archive: Archive, *, stated_activation: str | None = None) -> PolicyDescription:
    """Read `data`; `stated_activation` is what the user says of the hidden layers.

    Raises AgentError for policies of unknown classes, and UsageError where only the user can know.
    """
    place = archive.place
    data = _parsed(archive)
    policy = data.get("policy_class")
    module = policy.get("__module__") if isinstance(policy, dict) else None
    if not isinstance(module, str):
        raise AgentError(
            f"{place} does not say the class of its policy and is damaged. Save the agent again."
        )
    if module not in _KINDS:
        raise AgentError(
            f"{place} has a policy of '{shown(module)}', whose network is not known here. {_AGENTS} "
            "Save the acting network alone, with torch.save(network.state_dict(), 'NAME.pt'), and state "
            "its layers with --layers."
        )
    kind = _KINDS[module]
    settings = data.get("policy_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    has_sde = data.get("use_sde") is True or settings.get("use_sde") is True
    squashes = settings.get("squash_output") is True and has_sde
    return PolicyDescription(
        kind=kind,
        activation=_activation(settings, kind, stated_activation, place),
        extractor=_extractor(settings),
        normalizes_images=settings.get("normalize_images") is not False,
        is_squashed=kind in ("sac", "td3") or squashes,
        has_sde=has_sde,
        clip_mean=_clip_mean(settings, place),
        num_quantiles=_num_quantiles(settings, place),
        action_bounds=_action_bounds(data.get("action_space")),
    )


def _parsed(archive: Archive) -> dict[str, Any]:
    try:
        data = json.loads(archive.read("data", _MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        raise AgentError(
            f"{archive.place} is damaged: its description is not JSON. Save the agent again."
        ) from None
    if not isinstance(data, dict):
        raise AgentError(f"{archive.place} is damaged: its description is empty. Save the agent again.")
    return data


def _activation(settings: Mapping[str, Any], kind: str, stated: str | None, place: str) -> str:
    if stated is not None:
        return require_name("activation", stated, ACTIVATION_NAMES)
    if "activation_fn" not in settings:
        if ":serialized:" in settings and ":type:" in settings and len(settings) == 2:
            raise UsageError(
                f"{place} does not say its activation function. State it with --activation NAME."
            )
        return _DEFAULT_ACTIVATIONS[kind]
    text = settings["activation_fn"]
    found = activation_of_class(text) if isinstance(text, str) else None
    if found is None:
        name = re.sub(r"0x[0-9a-f]+", "...", str(text))[:80]
        raise UsageError(
            f"{place} has the activation function '{shown(name)}', which is not known here. If it is one of "
            f"{', '.join(ACTIVATION_NAMES)}, state it with --activation NAME."
        )
    return found


def _extractor(settings: Mapping[str, Any]) -> str | None:
    text = settings.get("features_extractor_class")
    if text is None:
        return None
    known = [f"<class 'stable_baselines3.common.torch_layers.{name}'>" for name in _EXTRACTORS]
    return None if text in known else str(text)


def _clip_mean(settings: Mapping[str, Any], place: str) -> float:
    value = settings.get("clip_mean", 2.0)
    if not isinstance(value, int | float) or not isfinite(value):
        raise AgentError(f"{place} is damaged: its clip_mean is no number. Save the agent again.")
    return float(value)


def _num_quantiles(settings: Mapping[str, Any], place: str) -> int:
    value = settings.get("n_quantiles", 200)
    if type(value) is not int or not 0 < value < 2**20:
        raise AgentError(f"{place} is damaged: its n_quantiles is no number. Save the agent again.")
    return value


def _action_bounds(space: Any) -> tuple[Numbers, Numbers] | None:
    """Return low and high of a Box from the text of its arrays; None for other spaces and shortened text."""
    if not isinstance(space, dict) or not str(space.get(":type:")).endswith("spaces.box.Box'>"):
        return None
    shape = space.get("_shape")
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        return None
    low, high = (
        tuple(float(number) for number in _NUMBER.findall(str(space.get(end)))) for end in ("low", "high")
    )
    return (low, high) if len(low) == len(high) == prod(shape) else None
