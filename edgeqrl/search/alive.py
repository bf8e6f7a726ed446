"""Which trials are at work still: a search that is killed leaves its trial running, in whatever storage.

Optuna's heartbeats are for databases alone, so a trial tells of itself by an attribute, which all storages
keep. No clocks are compared: a trial is abandoned where its process is gone from this machine, or where its
mark has not changed for a while by the clock of whoever watches.
"""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import optuna

_MARK = "at_work"  # attributes of a trial
_ENDED = "ended"  # by an error or a user, and not by the death of its process
_BEAT_S, _GRACE_S = 10.0, 60.0


class Heart:
    """Marks a trial as at work, now and every few seconds, as long as the context lasts."""

    def __init__(self, trial: "optuna.Trial") -> None:
        self._trial = trial
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is not None:
            with suppress(Exception):
                self._trial.set_user_attr(_ENDED, True)

    def _go_on(self) -> None:
        while not self._ended.wait(_BEAT_S):
            with suppress(Exception):  # where the storage fails, the search itself will say so
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        self._trial.set_user_attr(_MARK, {**_this_process(), "beats": self._beats})


class Watch:
    """Finds the trials whose search has ended without a word."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}  # trial -> its mark, and since when that is so [s]

    def fail_abandoned(self, study: "optuna.Study") -> int:
        """Have abandoned trials count as failed; return how many there were."""
        running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        abandoned = [trial for trial in running if self._is_abandoned(trial)]
        for trial in abandoned:
            with suppress(ValueError, RuntimeError):  # another machine was faster
                study.tell(trial.number, state=type(trial.state).FAIL, skip_if_finished=True)
        return len(abandoned)

    def _is_abandoned(self, trial: "optuna.trial.FrozenTrial") -> bool:
        mark, now = trial.user_attrs.get(_MARK), time.monotonic()
        known, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or known != mark:
            since = now
        self._seen[trial.number] = mark, since
        return _is_gone(mark) or now - since >= _GRACE_S


def was_abandoned(trial: "optuna.trial.FrozenTrial") -> bool:
    """Tell whether a failed trial ended without a word, as when its process was killed."""
    return trial.state.name == "FAIL" and not trial.user_attrs.get(_ENDED, False)


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "process": os.getpid()}


def _machine() -> str | None:
    """Name what process numbers are of: a boot and a namespace; None where no /proc tells of them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _is_gone(mark: Mapping[str, Any] | None) -> bool:
    here = _machine()
    if mark is None or here is None or mark.get("machine") != here:
        return False
    return not Path(f"/proc/{mark.get('process')}").exists()
