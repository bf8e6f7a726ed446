"""Play the firmware on an emulated core in the loop with the environment, beside the C on this host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeqrl.backends.rows import differing_rows
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import BackendsDiffer
from edgeqrl.interfaces import Policy
from edgeqrl.rollout import Rollout, rollout
from firmware_export.emulators.plan import EmulationPlan


@dataclass(frozen=True)
class DeviceRun:
    """What the device answered, and that it answered as the C on this host did."""

    backend: str
    acts_as: str  # the backend whose every action was equal
    engine: str  # unicorn, qemu or rp2040js
    level: str  # what was emulated: "ISA" means the core's instructions, not the board around it
    ran: str  # the same in a sentence
    seeds: tuple[int, ...]
    episode_returns: tuple[float, ...]
    num_steps: int
    self_test_rows: int  # that the device answered right, by its CRC; 0: the image has no self-test

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "backend": self.backend,
            "engine": self.engine,
            "level": self.level,
            "ran": self.ran,
            "episodes": len(self.seeds),
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "episode_returns": list(self.episode_returns),
            "num_steps": self.num_steps,
            "acts_as": self.acts_as,
            "self_test_rows": self.self_test_rows,
        }


def emulate(
    device: Policy,
    host: Policy,
    make_env: MakeEnv,
    *,
    seeds: Sequence[int],
    plan: EmulationPlan,
    self_test_rows: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DeviceRun:
    """Play `seeds` on `device` and on `host`; raise BackendsDiffer at the first action that differs."""
    played = rollout(device, make_env, seeds, keep_actions=True, progress=progress)
    expected = rollout(host, make_env, seeds, keep_actions=True)
    _require_identical(device.name, host.name, played, expected)
    return DeviceRun(
        backend=device.name,
        acts_as=host.name,
        engine=plan.engine,
        level=plan.level,
        ran=plan.sentence,
        seeds=tuple(seeds),
        episode_returns=tuple(float(value) for value in played.episode_returns),
        num_steps=int(played.episode_lengths.sum()),
        self_test_rows=self_test_rows,
    )


def _require_identical(device: str, host: str, played: Rollout, expected: Rollout) -> None:
    assert played.actions is not None
    assert expected.actions is not None
    for seed, ours, theirs in zip(played.seeds, played.actions, expected.actions, strict=True):
        steps = min(len(ours), len(theirs))
        differing = differing_rows(ours[:steps], theirs[:steps])
        if differing or len(ours) != len(theirs):
            step = differing[0] if differing else steps
            raise BackendsDiffer(
                f"{device} and {host} act differently in the episode with seed {seed} at step {step}. "
                "This is a fault of edgeqrl or of the compiler: please report it with the bundle."
            )
