"""The stage `calibrate`: the observations on which an agent is quantized, and whether their ranges fit it."""

from functools import partial
from typing import Any

from edgeqrl.agents.heads import ValueHead
from edgeqrl.backends.float_policy import WholeFloatPolicy
from edgeqrl.bundle import Bundle
from edgeqrl.calibrate import CalibrationSet, from_recorded
from edgeqrl.calibration_sources import Collecting, collect
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import UsageError
from edgeqrl.range_check import check_ranges
from edgeqrl.recordings import Recording
from edgeqrl.stages.artefacts import CALIBRATION, CALIBRATION_FACTS, read_head
from edgeqrl.stages.settings import Progress, Settings, silent


def add_calibration(
    bundle: Bundle,
    float_policy: WholeFloatPolicy,
    settings: Settings,
    *,
    make_env: MakeEnv | None,
    recorded: Recording | None = None,
    progress: Progress = silent,
) -> CalibrationSet:
    """Collect observations as the settings say, or take recorded ones, and keep the calibration set.

    With an environment the float policy then plays a few episodes more: what it meets there is compared with
    the set, and the manifest says what was found. A value network chooses no action: for it random ones are
    played, and nothing is compared.
    """
    progress("calibrate", 0, 0)
    is_value = isinstance(read_head(bundle), ValueHead)
    if recorded is not None:
        calibration = from_recorded(
            recorded,
            num_states=settings.calibration_states,
            seed=settings.calibration_seed,
            policy=float_policy,
        )
    elif make_env is None:
        raise UsageError(f"--calibration {settings.calibration_source} needs an environment: give --env.")
    else:
        how = Collecting(
            float_policy,
            make_env,
            bundle.facts["environment"]["env_id"],
            num_episodes=settings.calibration_episodes,
            num_states=settings.calibration_states,
            seed=settings.calibration_seed,
            is_value=is_value,
            agent_sha256=bundle.facts["agent_sha256"],
        )
        calibration = collect(settings.calibration_source, how, progress=partial(progress, "calibrate"))
    agent_files = [path for path in bundle.artefacts if path.startswith("agent/")]
    bundle.add(CALIBRATION, calibration.to_bytes(), made_from=agent_files)
    facts = calibration_facts(calibration) | {"check": None}
    if make_env is not None and not is_value:
        facts["check"] = check_ranges(calibration, float_policy, make_env).to_json()
    bundle.facts[CALIBRATION_FACTS] = facts
    return calibration


def calibration_facts(calibration: CalibrationSet) -> dict[str, Any]:
    """Return what the manifest and the report say of a set, but for the check."""
    return {
        "source": calibration.source,
        "num_observations": len(calibration),
        "num_rolled_out": calibration.num_rolled_out,
        "episodes": len(calibration.seeds),
    }
