"""Which numbers of an observation are features: one scale each, the same in every frame."""

import numpy as np
from numpy.typing import NDArray

from edgeqrl.preprocessing import Preprocessing


def scalable_features(preprocessing: Preprocessing) -> dict[str, NDArray[np.int64]]:
    """Return, for each part that may have gains, the feature of each element of its input, in flat order.

    Those are rows of float numbers, alone or in frames: not bytes, images or classes.
    """
    found = {}
    for at, part in enumerate(preprocessing.parts):
        if part.source != "float32" or len(part.shape) > 1:
            continue
        features = np.arange(part.network_size)
        if at == 0 and preprocessing.frames is not None:
            frames = np.tile(features.reshape(part.network_shape), (1, preprocessing.frames.num_frames, 1))
            features = preprocessing.frames.stack(frames).ravel()
        found[part.name] = np.asarray(features, np.int64)
    return found
