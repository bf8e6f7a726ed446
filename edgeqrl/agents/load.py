"""The one door for agents in files: what a file is decides who reads it.

`.keras`, `.h5` and SavedModel folders go to from_keras, zips of Stable-Baselines3 to from_sb3, state dicts
of `torch.save` to from_torch. What comes before the network (statistics of VecNormalize, stacked frames) is
put together here, for all of them.
"""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import load_agent
from edgeqrl.agents.from_sb3 import is_sb3_archive, load_sb3
from edgeqrl.agents.from_torch import load_torch
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.torch_file import is_torch_archive
from edgeqrl.agents.vecnormalize import normalized, read_vecnormalize
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing, preprocessing_of

_MOST_FRAMES = 64


def open_agent(
    path: str | Path,
    observation_space: Any,
    action_space: Any,
    *,
    options: AgentOptions | None = None,
    preprocessing: Preprocessing | None = None,
    frame_stack: str | None = None,
    vecnormalize: str | Path | None = None,
    is_complete: bool = False,
    trust: bool = False,
    name: str | None = None,
) -> Agent:
    """Load an agent of any kind of file for these spaces.

    preprocessing   what happens between the environment and what the agent was trained with; by default
                    nothing. `vecnormalize` (a file) and `frame_stack` ("4", "4:last" or "4:first") follow
    is_complete     says that `preprocessing` is that of an agent loaded before: nothing is added

    Raises AgentError or UsageError, in one sentence.
    """
    place = Path(path)
    kind = _kind(place)
    before = preprocessing
    if is_complete:
        if preprocessing is None or frame_stack is not None or vecnormalize is not None:
            raise ValueError("a complete preprocessing is all there is")
    elif frame_stack is not None or vecnormalize is not None:
        before = compose(
            preprocessing or preprocessing_of(observation_space),
            frame_stack=frame_stack,
            vecnormalize=vecnormalize,
            observation_space=observation_space,
        )
    if kind == "Keras":
        stated = options or AgentOptions()
        _refuse_torch_options(place, stated)
        return load_agent(
            place,
            observation_space,
            action_space,
            options=stated,
            preprocessing=before,
            trust=trust,
            name=name,
        )
    load = load_sb3 if kind == "SB3" else load_torch
    return load(
        place,
        observation_space,
        action_space,
        options=options,
        preprocessing=before,
        is_complete=is_complete,
        name=name,
    )


def compose(
    preprocessing: Preprocessing,
    *,
    frame_stack: str | None = None,
    vecnormalize: str | Path | None = None,
    observation_space: Any = None,
) -> Preprocessing:
    """Return `preprocessing` followed by VecNormalize of a file and by VecFrameStack.

    Without a stated axis, frames are stacked along the last one, and those of images whose channels come
    first along the first, as VecFrameStack does. It begins an episode with zeros.
    """
    if vecnormalize is not None:
        preprocessing = normalized(preprocessing, read_vecnormalize(vecnormalize), vecnormalize)
    if frame_stack is None:
        return preprocessing
    return _stacked(preprocessing, frame_stack, observation_space)


def _stacked(preprocessing: Preprocessing, frame_stack: str, space: Any) -> Preprocessing:
    from edgeqrl.network.memory import FrameStack

    found = re.fullmatch(r"([0-9]{1,3})(?::(first|last))?", frame_stack)
    if found is None or not 2 <= int(found[1]) <= _MOST_FRAMES:
        raise UsageError(
            f"'{shown(frame_stack)}' says no frame stack: state 2 to {_MOST_FRAMES} frames, and the axis "
            "where it is not the last, such as 4 or 4:first."
        )
    if preprocessing.frames is not None:
        raise UsageError("The environment's own wrappers stack frames already. Leave out --frame-stack.")
    if len(preprocessing.parts) != 1:
        raise UsageError(
            "Frames are stacked of a single array, and the observation has the parts "
            f"{', '.join(part.name for part in preprocessing.parts)}."
        )
    (part,) = preprocessing.parts
    if not part.network_shape:
        raise UsageError("Frames are stacked of arrays, and the observation is one number.")
    is_first = found[2] == "first" or (found[2] is None and _has_channels_first(part, space))
    frames = FrameStack(
        num_frames=int(found[1]),
        axis=0 if is_first else len(part.network_shape) - 1,
        is_new_axis=False,
        padding="zero",
    )
    return replace(preprocessing, frames=frames)


def _has_channels_first(part: ObservationPart, space: Any) -> bool:
    """Tell whether Stable-Baselines3 sees an image, of bytes from 0 to 255, with its channels first."""
    shape = part.network_shape
    if part.source != "uint8" or part.gain is not None or len(shape) != 3:
        return False
    low, high = np.asarray(getattr(space, "low", 0)), np.asarray(getattr(space, "high", 255))
    dtype = np.dtype(getattr(space, "dtype", None) or np.uint8)
    is_image = dtype == np.uint8 and bool((low == 0).all() and (high == 255).all())
    return is_image and int(np.argmin(shape)) == 0


def _kind(path: Path) -> str:
    """Return "SB3", "PyTorch", or "Keras" for all that from_keras takes or refuses."""
    if path.is_dir():
        return "Keras"
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start[:4] != b"PK\x03\x04":
            _refuse_old_torch(path, start)
            return "Keras"
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return "Keras"  # which says what is wrong with it
    if min((info.header_offset for info in infos), default=0) != 0:  # a zip at the end of a cut one
        raise AgentError(f"{path} is damaged: a zip archive that ends early. Save or copy it again.")
    names = [info.filename for info in infos]
    if is_sb3_archive(names):
        return "SB3"
    return "PyTorch" if is_torch_archive(names) else "Keras"


def _refuse_old_torch(path: Path, start: bytes) -> None:
    if start[:2] == b"\x80\x02" and b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"[:12] in start:
        raise AgentError(
            f"{path} is of torch.save before PyTorch 1.6, or of its old format, which is a pickle and is not "
            "loaded. Load it where you trust it, and save it again with torch.save(state_dict, 'NAME.pt')."
        )


def _refuse_torch_options(path: Path, options: AgentOptions) -> None:
    for option in ("layers", "prefix", "activation"):
        if getattr(options, option) is not None:
            raise UsageError(f"{path} says its own layers; --{option} is for agents of PyTorch.")
