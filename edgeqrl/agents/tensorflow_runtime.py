"""The one door to TensorFlow and Keras: quiet, with one sentence where they are missing."""

import os
from typing import Any

from edgeqrl.errors import MissingToolError

# Set before the import, and only where the user has not chosen. oneDNN changes the order of float
# sums with the machine, and announces itself on standard error even at the quietest log level.
QUIET_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
_CURE = "Install it with: pip install 'edgeqrl[keras]'."


def import_tensorflow() -> Any:
    """Import TensorFlow (4 to 7 s the first time) and return the module."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import tensorflow
    except ImportError as error:
        raise MissingToolError(
            f"Keras agents need TensorFlow, and it is not installed ({error}). {_CURE}"
        ) from None
    return tensorflow


def import_keras() -> Any:
    """Import Keras 3 on TensorFlow and return the module."""
    import_tensorflow()
    try:
        import keras
    except ImportError as error:
        raise MissingToolError(
            f"Keras agents need Keras 3, and it is not installed ({error}). {_CURE}"
        ) from None
    if keras.backend.backend() != "tensorflow":
        raise MissingToolError(
            f"Keras uses its '{keras.backend.backend()}' backend here, and agents are converted through "
            "TensorFlow. Set KERAS_BACKEND=tensorflow before Python starts."
        )
    return keras
