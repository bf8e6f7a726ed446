"""Write tests/data/rare_event.keras: a network that computes tests.rare.GAINS in every wind.

    python -m tests.make_rare_event [OUT.keras]

The weights are set, not trained: a relu for either sign of each observation, then the gains. In float that
is a linear law without limits; in int8 it ends where calibration ended.
"""

import os
import sys
from pathlib import Path

import numpy as np

from tests.rare import GAINS

AGENT = Path(__file__).parent / "data" / "rare_event.keras"


def make(path: Path) -> None:
    """Save the agent at `path`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    inputs = keras.Input((3,), name="observation")
    split = keras.layers.Dense(6, activation="relu", name="split")
    force = keras.layers.Dense(1, name="force")
    model = keras.Model(inputs, force(split(inputs)), name="rare_event")
    signs = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
    split.set_weights([signs.astype(np.float32), np.zeros(6, np.float32)])
    gains = np.array([*GAINS, *(-gain for gain in GAINS)], np.float32)
    force.set_weights([gains[:, None], np.zeros(1, np.float32)])
    model.save(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else AGENT)
