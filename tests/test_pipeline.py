"""What a conversion may start from; the road itself is in test_cli.py."""

from typing import Any

import gymnasium
import pytest

from edgeqrl.errors import UsageError
from edgeqrl.pipeline import Source


@pytest.mark.parametrize("environment", [gymnasium.Env(), 5, ["CartPole-v1"]])
def test_environment_that_cannot_be_made_anew_is_refused(environment: Any) -> None:
    with pytest.raises(UsageError, match="fresh one"):
        Source("agent.keras", environment)


def test_source_needs_an_environment_or_observations() -> None:
    with pytest.raises(UsageError, match="--observations"):
        Source("agent.keras")
