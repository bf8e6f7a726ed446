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
_CURRENT = """cd "$HOME/edgeqrl/$1" 2>/dev/null || exit 0
if test -L current && test -d current/; then basename "$(readlink current)"; fi
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
rm -rf "$HOME/edgeqrl/$1/releases/$2"
"""
_PRUNE = """set -eu
cd "$HOME/edgeqrl/$1/releases"
ls -1t | grep -vx "$2" | tail -n +%d | while read -r old; do rm -rf "./$old"; done
"""
_SERVICE = """set -eu
unit="edgeqrl-$1.service"; place="$HOME/.config/systemd/user"
mkdir -p "$place"; cp "$HOME/edgeqrl/$1/current/$unit" "$place/$unit"
systemctl --user daemon-reload; systemctl --user enable --quiet "$unit"; systemctl --user restart "$unit"
for turn in 1 2 3; do sleep 1; systemctl --user is-active --quiet "$unit"; done
"""
_STOP = """systemctl --user disable --quiet --now "edgeqrl-$1.service"
"""
_RESTART = """systemctl --user restart "edgeqrl-$1.service"
"""


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

    Whatever fails after the copy, what was current before is current again, its service restarted, and the
    new release is gone. Raises MissingToolError without ssh, DeviceError with what the board said.
    """
    remote = _Remote(host, options)
    name, release = package.name, release_of(package)
    progress(f"asking {host} what runs there")
    before = remote.run(_CURRENT, name, what="Asking what runs").strip() or None
    found = None
    if before == release:
        with suppress(DeviceError):  # damaged since: it is copied again
            found = _self_test(remote, name, release, progress)
    if found is None:
        progress(f"copying {package.num_bytes:,} bytes")
        remote.run(_UPLOAD, name, release, payload=_tar(package), what="The copy")
    try:
        found = found or _self_test(remote, name, release, progress)
        remote.run(_SWITCH, name, release, what="Switching over")
        if service:
            progress("starting the service")
            remote.run(_SERVICE, name, what="Starting the service")
    except BaseException as error:
        if before != release:
            _roll_back(remote, name, release, before, service=service)
        if isinstance(error, DeviceError):
            left = f"Release {before} is current, as before." if before else "Nothing is current there."
            raise DeviceError(f"{error} {left}") from error
        raise
    remote.run(_PRUNE % _KEPT_RELEASES, name, release, what="Removing old releases")
    return Deployment(host, release, before, found, service)


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
        self._host = require_host(host)
        self._argv = [ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", *options, "--", host]

    def run(self, script: str, *words: str, what: str, payload: bytes | None = None) -> str:
        """Run a script on the board with checked words as arguments; `payload` is its standard input."""
        assert all(re.fullmatch(r"[A-Za-z0-9_]*", word) for word in words)
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
            raise DeviceError(f"{what} on {self._host} did not end within {_TIMEOUT_S:g} s.") from error
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        said = said or [f"exit code {done.returncode}"]  # above 128: ended by a signal
        if done.returncode == _SSH_FAILED:
            raise DeviceError(
                f"Cannot reach {self._host} by ssh without a password ({said[-1]}). Set up a key: "
                f"ssh-copy-id {self._host}."
            )
        raise DeviceError(f"{what} failed on {self._host}: {said[-1]}.")


def _self_test(remote: _Remote, name: str, release: str, progress: Progress) -> dict[str, Any]:
    progress("self-test on the board")
    return _parsed(remote.run(_SELF_TEST, name, release, what="The self-test on the board"))


def _roll_back(remote: _Remote, name: str, release: str, before: str | None, *, service: bool) -> None:
    """Put back what was there; whatever fails now must not hide why."""
    steps: list[tuple[str, tuple[str, ...]]] = [(_BACK, (name, release, before or ""))]
    if service:
        steps.append((_RESTART if before else _STOP, (name,)))
    steps.append((_REMOVE, (name, release)))
    for script, words in steps:
        with suppress(DeviceError, KeyboardInterrupt):
            remote.run(script, *words, what="Rolling back")


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
