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

# agent -> the script that trains it, and the modules that need an extra of ours: module -> extra
_SCRIPTS: Mapping[str, str] = {
    "acrobot-dqn": "dqn",
    "cartpole-dqn": "dqn",
    "lunarlander-dqn": "dqn",
    "pendulum-td3": "td3",
}
_KERAS: Mapping[str, str] = {"tensorflow": "keras", "keras": "keras"}
_NEEDS: Mapping[str, Mapping[str, str]] = {"lunarlander-dqn": {**_KERAS, "Box2D": "box2d"}}


@dataclass(frozen=True)
class ZooAgent:
    """A trained agent and what is known about it."""

    name: str
    env_id: str
    title: str
    path: Path  # the .keras file
    card: Mapping[str, Any] = field(compare=False, repr=False)  # card.json


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
    """Read the folder that training wrote: `agent.keras` and `card.json`.

    Raises AgentError if a file is missing or unreadable, or `agent.keras` is not the card's.
    """
    path = folder / "agent.keras"
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        digest = sha256(path.read_bytes())
        agent = ZooAgent(card["name"], card["env_id"], card["title"], path, MappingProxyType(card))
        is_intact = digest == card["agent_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError(
            f"'{folder}' is no zoo agent ({type(error).__name__}: {error}); train or install it anew."
        ) from None
    if not is_intact:
        raise AgentError(f"'{path}' is not the file its card describes; train or install it anew.")
    return agent


def train(name: str, output: Path, progress: Callable[[int, int, str], None]) -> Path:
    """Train the agent called `name` into the folder `output` and return the path of its `.keras`.

    Takes minutes. `progress(done, total, message)` counts environment steps. An agent already in
    `output` stays until the new one is complete. Raises UsageError for an unknown name, OutputError
    if `output` holds anything but an agent, MissingToolError if a library is not installed.
    """
    script = _SCRIPTS[require_name("zoo agent", name, _SCRIPTS)]
    for module, extra in _NEEDS.get(name, _KERAS).items():
        if find_spec(module) is None:
            raise MissingToolError(f"Training '{name}' needs {module}: pip install 'edgeqrl[{extra}]'")
    training: Any = import_module(f"edgeqrl.zoo.training.{script}")
    path: Path = training.train(training.CONFIGS[name], output, progress)
    return path
