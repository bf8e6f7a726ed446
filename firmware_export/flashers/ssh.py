"""Deploy to a board that runs Linux: copy beside what is there, test it there, and switch over or go back."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from edgeqrl.errors import DeviceError, MissingToolError, UsageError
from firmware_export.linux.package import LinuxPackage

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]-]*")
_TIMEOUT_S = 120.0  # of one command on the board
_KEPT_RELEASES = 3
_SSH_FAILED = 255  # ssh's own exit code: no connection

Progress = Callable[[str], None]

# Arguments, all checked words: 1 name, 2 release, 3 the release that was current. For sh of any Debian.
_STATE = """unit="edgeqrl-$1.service"; enabled=0; active=0; release=
if systemctl --user is-enabled --quiet "$unit" >/dev/null 2>&1; then enabled=1; fi
if systemctl --user is-active --quiet "$unit" >/dev/null 2>&1; then active=1; fi
if cd "$HOME/edgeqrl/$1" 2>/dev/null && test -L current && test -d current/
then release="$(basename "$(readlink current)")"; fi
echo "$enabled $active $release"
"""
_UPLOAD = """set -eu
cd "$HOME"; root="edgeqrl/$1"; new="$root/releases/$2"
mkdir -p "$root/releases"; rm -rf "$new.part"; mkdir "$new.part"
tar -xf - -C "$new.part"
rm -rf "$new"; mv "$new.part" "$new"
"""
_SELF_TEST = """set -eu
cd "$HOME/edgeqrl/$1/releases/$2"; python3 run.py --self-test || exit $?
"""
_SWITCH = """set -eu
cd "$HOME/edgeqrl/$1"; ln -sfn "releases/$2" current.new; mv -T current.new current
"""
_BACK = """set -eu
cd "$HOME/edgeqrl/$1"
if test -n "${3:-}"; then ln -sfn "releases/$3" current.new; mv -T current.new current
else rm -f current; fi
"""
_REMOVE = """set -eu
new="$HOME/edgeqrl/$1/releases/$2"; rm -rf "$new" "$new.part"
"""
_PRUNE = """set -eu
cd "$HOME/edgeqrl/$1/releases"; rm -rf ./*.part
ls -1t | grep -vx "$2" | tail -n +%d | while read -r old; do rm -rf "./$old"; done
"""
_SERVICE = """set -eu
unit="edgeqrl-$1.service"; place="$HOME/.config/systemd/user"
mkdir -p "$place"; cp "$HOME/edgeqrl/$1/current/$unit" "$place/$unit"
systemctl --user daemon-reload; systemctl --user enable --quiet "$unit"; systemctl --user restart "$unit"
for turn in 1 2 3; do sleep 1; systemctl --user is-active --quiet "$unit"; done
"""
# The service was not enabled before: it is gone again.
_STOP = """unit="edgeqrl-$1.service"; failed=0
if command -v systemctl >/dev/null; then
systemctl --user stop "$unit" || failed=$?; systemctl --user disable --quiet "$unit" || failed=$?; fi
rm -f "$HOME/.config/systemd/user/$unit"
if command -v systemctl >/dev/null; then systemctl --user daemon-reload || failed=$?; fi
exit "$failed"
"""
# It was enabled before: the unit of the old release, in the state it was in ($2: restart or stop).
_RESTORE = """set -eu
unit="edgeqrl-$1.service"; place="$HOME/.config/systemd/user"
if test -f "$HOME/edgeqrl/$1/current/$unit"; then cp "$HOME/edgeqrl/$1/current/$unit" "$place/$unit"; fi
systemctl --user daemon-reload; systemctl --user "$2" "$unit"
"""


@dataclass(frozen=True)
class _State:
    """What a host has before anything is changed."""

    release: str | None
    is_enabled: bool  # the service: it starts at boot
    is_active: bool


@dataclass(frozen=True)
class Deployment:
    """What now runs on a host."""

    host: str
    release: str  # hash of the folder's content
    before: str | None  # the release that was there
    self_test: dict[str, Any] = field(repr=False)  # what run.py --self-test printed there
    service: bool


def deploy(
    package: LinuxPackage,
    host: str,
    *,
    options: Sequence[str] = (),
    service: bool = False,
    progress: Progress = lambda text: None,
) -> Deployment:
    """Copy the package to `[user@]host`, self-test it there, and make it current.

    options  further words for ssh, such as ("-p", "2222")
    service  install and start the systemd unit of the user, too

    Whatever fails from the copy on, what was current before is current again, and the new release is gone; a
    service that was touched is as it was: restarted, stopped, or no longer installed. Raises MissingToolError
    without ssh, DeviceError with what the board said and how it was left.
    """
    remote = _Remote(host, options)
    name, release = package.name, release_of(package)
    progress(f"asking {host} what runs there")
    before = _state_of(remote, name)
    found = None
    if before.release == release:
        with suppress(DeviceError):  # damaged since: it is copied again
            found = _self_test(remote, name, release, progress)
    undo: list[_Step] = [] if before.release == release else _steps_back(name, release, before)
    is_proven = found is not None
    try:
        if found is None:
            progress(f"copying {package.num_bytes:,} bytes")
            remote.run(_UPLOAD, name, release, payload=_tar(package), what="The copy")
            found = _self_test(remote, name, release, progress)
            is_proven = True
        remote.run(_SWITCH, name, release, what="Switching over")
        if service:
            progress("starting the service")
            undo = _service_back(name, before, undo)
            remote.run(_SERVICE, name, what="Starting the service")
    except BaseException as error:
        is_back = _roll_back(remote, undo)
        if isinstance(error, DeviceError):
            is_damaged = before.release == release and not is_proven
            left = _left(name, before, is_back=is_back, is_damaged=is_damaged)
            raise DeviceError(f"{error} {left}") from error
        raise
    remote.run(_PRUNE % _KEPT_RELEASES, name, release, what="Removing old releases")
    return Deployment(host, release, before.release, found, service)


def deployment_plan(package: LinuxPackage, host: str, *, service: bool = False) -> str:
    """Say what `deploy` would do."""
    require_host(host)
    steps = "run its self-test there, make it current"
    steps += f" and start the service edgeqrl-{package.name}" if service else ""
    return (
        f"Would copy {len(package.files)} files, {package.num_bytes:,} bytes, to {host}:edgeqrl/"
        f"{package.name}/releases/{release_of(package)}, {steps}; nothing was done."
    )


def release_of(package: LinuxPackage) -> str:
    """Return a short hash of every path and byte."""
    digest = hashlib.sha256()
    for path, content in sorted(package.files.items()):
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def require_host(host: str) -> str:
    """Return `host` if it can only be a host; a leading dash would be an option of ssh."""
    if not _HOST.fullmatch(host):
        raise UsageError(f"--host '{host}' is not of the form user@host.")
    return host


class _Remote:
    def __init__(self, host: str, options: Sequence[str]) -> None:
        ssh = shutil.which("ssh")
        if ssh is None:
            raise MissingToolError("ssh is not installed; get it with `sudo apt install openssh-client`.")
        self.host = require_host(host)
        self._argv = [ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", *options, "--", host]

    def run(self, script: str, *words: str, what: str, payload: bytes | None = None) -> str:
        """Run a script on the board with checked words as arguments; `payload` is its standard input."""
        if not all(re.fullmatch(r"[A-Za-z0-9_]*", word) for word in words):
            raise ValueError(f"not words for a remote shell: {words}")
        quoted = script.replace("'", "'\\''")
        command = " ".join(["sh", "-c", f"'{quoted}'", "edgeqrl", *(f"'{word}'" for word in words)])
        try:
            done = subprocess.run(
                [*self._argv, command],
                input=payload or b"",
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{what} on {self.host} did not end within {_TIMEOUT_S:g} s.") from error
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        said = said or [f"exit code {done.returncode}"]  # above 128: ended by a signal
        if done.returncode == _SSH_FAILED:
            raise DeviceError(f"Cannot reach {self.host} by ssh ({said[-1]}). {_cure(self.host, said)}")
        raise DeviceError(f"{what} failed on {self.host}: {said[-1]}.")


def _cure(host: str, said: Sequence[str]) -> str:
    """Say what to do about a connection that ssh did not get, going by what it says."""
    text = "\n".join(said)
    if "Permission denied" in text:
        return f"No password is asked for. Set up a key: ssh-copy-id {host}."
    if "Host key verification failed" in text:
        return f"Its key is not known, or not the one it had. Connect once by hand: ssh {host}."
    return "Is it on, and is the name right?"


def _self_test(remote: _Remote, name: str, release: str, progress: Progress) -> dict[str, Any]:
    progress("self-test on the board")
    return _parsed(remote.run(_SELF_TEST, name, release, what="The self-test on the board"))


def _state_of(remote: _Remote, name: str) -> _State:
    """Ask what is there; what the host answers is checked before any of it goes back to its shell."""
    said = remote.run(_STATE, name, what="Asking what runs")
    found = re.fullmatch(r"([01]) ([01]) ([0-9a-f]{12})?\n", said)
    if found is None:
        raise DeviceError(
            f"Asked which release is current, {remote.host} said {said[:80]!r}: its shell must print nothing "
            f"of its own at login, and edgeqrl/{name}/current must be a link that `edgeqrl flash` made. "
            "Nothing was changed there."
        )
    return _State(found[3], found[1] == "1", found[2] == "1")


_Step = tuple[str, tuple[str, ...]]  # a script and its words


def _steps_back(name: str, release: str, before: _State) -> list[_Step]:
    return [(_BACK, (name, release, before.release or "")), (_REMOVE, (name, release))]


def _service_back(name: str, before: _State, undo: list[_Step]) -> list[_Step]:
    """Return `undo` with the service, once the release before is current again and while the new is there."""
    if before.is_enabled and before.release is not None:
        step: _Step = (_RESTORE, (name, "restart" if before.is_active else "stop"))
    else:
        step = (_STOP, (name,))
    return [*undo[:1], step, *undo[1:]]


def _roll_back(remote: _Remote, steps: Sequence[_Step]) -> bool:
    """Put back what was there; tell whether all of it worked. What fails now must not hide why."""
    is_back = True
    for script, words in steps:
        try:
            remote.run(script, *words, what="Rolling back")
        except (DeviceError, KeyboardInterrupt):
            is_back = False
    return is_back


def _left(name: str, before: _State, *, is_back: bool, is_damaged: bool) -> str:
    """Say how the host was left."""
    if not is_back:
        return f"Not all of it could be undone: look at edgeqrl/{name} there, and flash again."
    if before.release is None:
        return "Nothing is current there."
    if is_damaged:
        return f"Release {before.release} is current there and fails its self-test."
    return f"Release {before.release} is current, as before."


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise DeviceError(f"The self-test on the board said {text[:80]!r} instead of its result.") from error
    if not isinstance(found, dict) or found.get("ok") is not True:
        raise DeviceError(f"The self-test on the board failed: {text.strip()[:300]}.")
    return found


def _tar(package: LinuxPackage) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(package.files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o755 if path == "run.py" else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
