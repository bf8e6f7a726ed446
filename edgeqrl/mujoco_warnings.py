"""MuJoCo's warnings: each said once, on standard error, instead of at every model that is compiled.

By itself MuJoCo prints them for every environment that is made, and writes MUJOCO_LOG.TXT into the current
folder.
"""

import re
import sys
from typing import Any

_said: set[str] = set()


def say_once(entry_point: Any) -> None:
    """Have MuJoCo's warnings said once, if the environment of this entry point is one of MuJoCo.

    What the user's own code has installed for them stays.
    """
    if not (isinstance(entry_point, str) and "mujoco" in entry_point):
        return
    try:
        import mujoco  # the environment would, in a moment

        if mujoco.get_mju_user_warning() is None:
            mujoco.set_mju_user_warning(_said_once)
    except Exception:  # whatever is wrong with it, Gymnasium says it
        return


def _said_once(text: str) -> None:
    kind = re.sub(r"[\d.]+", "", text)  # one warning comes at many times, in many places
    if kind not in _said:
        _said.add(kind)
        sys.stderr.write(f"MuJoCo: {text.strip()}\n")
