"""Agents we ship, trained by the scripts in `training/`: see each one's `card.json`.

Importing this needs neither TensorFlow nor NumPy.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeqrl.errors import AgentError, MissingToolError, require_name
from edgeqrl.files import sha256

__all__ = ["ZooAgent", "find_zoo_agent", "read_zoo_agent", "train", "zoo_agents"]

AGENTS_FOLDER = Path(__file__).parent / "agents"

# agent -> the script that trains it, and the modules that this needs: module -> what pip installs
_SCRIPTS: Mapping[str, str] = {
    "acrobot-dqn": "dqn",
    "blindmaze-ppo": "ppo",
    "breakout-ppo": "sb3",
    "cartpole-dqn": "dqn",
    "cartpole-gru": "ppo",
    "halfcheetah-sac-3bit": "sac",
    "halfcheetah-td3": "td3",
    "hopper-ppo": "sb3",
    "lunarlander-dqn": "dqn",
    "lunarlander-ppo": "ppo",
    "mountaincar-sac": "sb3",
    "pendulum-td3": "td3",
}
_KERAS: Mapping[str, str] = {"tensorflow": "edgeqrl[keras]", "keras": "edgeqrl[keras]"}
_SB3: Mapping[str, str] = {"stable_baselines3": "edgeqrl[sb3]", "torch": "edgeqrl[sb3]"}
_BOX2D: Mapping[str, str] = {"Box2D": "edgeqrl[box2d]"}
_MUJOCO: Mapping[str, str] = {"mujoco": "edgeqrl[mujoco]"}
_NEEDS: Mapping[str, Mapping[str, str]] = {
    "breakout-ppo": {**_KERAS, **_SB3, "minatar": "MinAtar"},
    "halfcheetah-sac-3bit": {**_KERAS, **_MUJOCO},
    "halfcheetah-td3": {**_KERAS, **_MUJOCO},
    "hopper-ppo": {**_SB3, **_MUJOCO},
    "lunarlander-dqn": {**_KERAS, **_BOX2D},
    "lunarlander-ppo": {**_KERAS, **_BOX2D},
    "mountaincar-sac": _SB3,
}


@dataclass(frozen=True)
class ZooAgent:
    """A trained agent and what is known about it."""

    name: str
    env_id: str
    title: str
    path: Path  # agent.keras, or agent.zip of Stable-Baselines3
    card: Mapping[str, Any] = field(compare=False, repr=False)  # card.json
    vecnormalize: Path | None = None  # the statistics that its observations are normalised by

    @property
    def is_stochastic(self) -> bool:
        """Tell whether it draws its actions."""
        return bool(self.card.get("is_stochastic", False))

    @property
    def outputs(self) -> str | None:
        """Return which outputs to convert, as the option --outputs says it; None for all there are."""
        return self.card.get("outputs")


def zoo_agents() -> tuple[ZooAgent, ...]:
    """Return every agent of the zoo, by name. Raises AgentError if one is damaged."""
    return tuple(read_zoo_agent(card.parent) for card in sorted(AGENTS_FOLDER.glob("*/card.json")))


def find_zoo_agent(name: str) -> ZooAgent:
    """Return the agent called `name`.

    Raises UsageError with the nearest name if there is none, AgentError if it is damaged.
    """
    names = [card.parent.name for card in AGENTS_FOLDER.glob("*/card.json")]
    return read_zoo_agent(AGENTS_FOLDER / require_name("zoo agent", name, names))


def read_zoo_agent(folder: Path) -> ZooAgent:
    """Read the folder that training wrote: `agent.keras` or `agent.zip`, `vecnormalize.pkl`, `card.json`.

    Raises AgentError if a file is missing or unreadable, or is not the card's.
    """
    path = folder / ("agent.zip" if (folder / "agent.zip").exists() else "agent.keras")
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        hashes = {path: card["agent_sha256"]}
        statistics = folder / "vecnormalize.pkl" if "vecnormalize_sha256" in card else None
        if statistics is not None:
            hashes[statistics] = card["vecnormalize_sha256"]
        changed = [file for file, digest in hashes.items() if sha256(file.read_bytes()) != digest]
        known = MappingProxyType(card)
        agent = ZooAgent(card["name"], card["env_id"], card["title"], path, known, statistics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError(
            f"'{folder}' is no zoo agent ({type(error).__name__}: {error}); train or install it anew."
        ) from None
    if changed:
        raise AgentError(f"'{changed[0]}' is not the file its card describes; train or install it anew.")
    return agent


def train(name: str, output: Path, progress: Callable[[int, int, str], None]) -> Path:
    """Train the agent called `name` into the folder `output` and return the path of its file.

    Takes minutes, or an hour; the card says how many. `progress(done, total, message)` counts steps of the
    environment. An agent already in `output` stays until the new one is complete. Raises UsageError for an
    unknown name, OutputError if `output` holds anything but an agent, MissingToolError if a library is not
    installed.
    """
    script = _SCRIPTS[require_name("zoo agent", name, _SCRIPTS)]
    for module, package in _NEEDS.get(name, _KERAS).items():
        if find_spec(module) is None:
            raise MissingToolError(f"Training '{name}' needs {module}: pip install '{package}'")
    training: Any = import_module(f"edgeqrl.zoo.training.{script}")
    path: Path = training.train(training.CONFIGS[name], output, progress)
    return path
