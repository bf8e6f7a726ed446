"""Observations that calibration did not meet, and an episode may: what ranges leave room for.

A few hundred states of a few episodes show most features whole, but not all: a pendulum that happened to
be swung up to the left alone has never turned fast to the right. What then saturates is rare and decides
episodes. So a feature that was met on both sides of zero may come as far on the one side as on the other.
Inputs have room for all of it. Layers behind them would need several times their range for states that nobody
meets, and lose as much of their resolution in those that everybody does: they have room for most of what
they answer where one feature alone is moved there.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.features import scalable_features

Floats = NDArray[np.float32]

_MOST_ROWS = 2**14
_MOST_NUMBERS = 2**24  # of these rows and of what a network makes of them


def unmet_rows(samples: Mapping[str, Floats], preprocessing: Preprocessing) -> dict[str, Floats]:
    """Return the least and the greatest value [2, *shape] of each input that could have been met.

    Of bytes and classes all is known, and of images of numbers and states nothing is assumed: they have none.
    """
    bounds = {part.name: part.columns[2:] for part in preprocessing.parts}
    found = {}
    for name, features in scalable_features(preprocessing).items():
        values = samples[name].reshape(len(samples[name]), -1)
        ends = np.empty((2, values.shape[1]), np.float32)
        for at in range(features.max() + 1):
            least, most = (column[at % len(column)] for column in bounds[name])
            ends[:, features == at] = np.reshape(_ends(values[:, features == at], least, most), (2, 1))
        found[name] = ends.reshape(2, *samples[name].shape[1:])
    return found


def moved_rows(
    samples: Mapping[str, Floats], preprocessing: Preprocessing, row_size: int | None = None
) -> dict[str, Floats]:
    """Return rows [M, *shape], M >= 0, of each input that were met but for one feature, moved to its end.

    row_size  numbers that are held for a row; None: of the inputs alone

    Each feature with an end that was not met has its turn, unless memory holds fewer rows than that.
    """
    count = len(next(iter(samples.values())))
    moves = []
    for name, ends in unmet_rows(samples, preprocessing).items():
        features, met = scalable_features(preprocessing)[name], samples[name].reshape(count, -1)
        for feature in range(features.max() + 1):
            columns = features == feature
            for end in np.unique(ends.reshape(2, -1)[:, columns]):
                if not met[:, columns].min() <= end <= met[:, columns].max():
                    moves.append((name, columns, end))
    row_size = row_size or sum(values[0].size for values in samples.values())
    most = max(1, min(_MOST_ROWS, _MOST_NUMBERS // row_size))
    moves = moves[:: max(1, -(-len(moves) // most))]
    step = max(1, -(-count // (most // max(1, len(moves)))))
    chosen = {name: values[::step] for name, values in samples.items()}
    rows: dict[str, list[Floats]] = {name: [values[:0]] for name, values in samples.items()}
    for moved, columns, end in moves:
        for name, values in chosen.items():
            rows[name].append(values)
            if name == moved:
                rows[name][-1] = values.copy()
                rows[name][-1].reshape(len(values), -1)[:, columns] = end
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _ends(met: Floats, least: float, most: float) -> tuple[float, float]:
    """Return the range of a feature: that which was met, and its mirror image within the feature's bounds."""
    low, high = float(met.min()), float(met.max())
    if not low < 0.0 < high:
        return low, high
    end = max(-low, high)
    return min(low, max(-end, least)), max(high, min(end, most))
