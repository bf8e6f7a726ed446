"""Random images, and what becomes of them."""

import numpy as np

from edgeqrl.network.images import Grayscale, ImageSteps, Reshape, Resize


def random_image(rng: np.random.Generator, most: int = 24) -> tuple[tuple[int, ...], ImageSteps]:
    """Return a raw shape and steps that fit it: some of grey, resizing and reshaping, in either order."""
    height, width = (int(n) for n in rng.integers(1, most, 2))
    channels = int(rng.choice([1, 2, 3, 3, 3, 4]))
    resize = Resize(int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1)))
    if rng.random() < 0.3 and height % 2 == width % 2 == 0:
        resize = Resize(height // 2, width // 2)
    grey = Grayscale(keep_dim=bool(rng.random() < 0.5))
    if channels != 3:
        shape = (height, width) if channels == 1 and rng.random() < 0.5 else (height, width, channels)
        return shape, (resize,)
    kind = int(rng.integers(5))
    steps: ImageSteps = ((grey,), (resize,), (grey, resize), (resize, grey), (resize, grey))[kind]
    if kind == 4:
        steps = (*steps, Reshape((resize.height * resize.width,)))
    return (height, width, 3), steps
