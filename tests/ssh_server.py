"""An sshd of our own on loopback, with its own keys and home: what a Raspberry Pi is to `flash --host`."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.firmware import require_tool

SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class SshServer:
    host: str
    options: tuple[str, ...]
    home: Path
    tools: Path  # first on the PATH of what runs there


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    require_tool("ssh")
    require_tool(SSHD)
    home, tools = folder / "home", folder / "tools"
    for place in (home, tools):
        place.mkdir()
    for name in ("host_key", "user_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True, timeout=60)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"PasswordAuthentication no\nSetEnv HOME={home} PATH={tools}:{os.environ['PATH']}\n"
    )
    log = (folder / "sshd.log").open("wb")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log, stdout=log)
    try:
        _await_port(server, port, folder / "sshd.log")
        found = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True, timeout=20)
        user = found.stdout.strip()
        options = ["-p", str(port), "-i", str(folder / "user_key"), "-F", "none"]
        options += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known_hosts"]
        options += ["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
        yield SshServer(f"{user}@127.0.0.1", tuple(options), home, tools)
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@contextmanager
def stand_in_server(folder: Path) -> Iterator[SshServer]:
    """Put an `ssh` first on PATH that runs the command here, in a home of its own."""
    home, tools, programs = folder / "home", folder / "tools", folder / "programs"
    for place in (home, tools, programs):
        place.mkdir()
    path = f"{tools}:{os.environ['PATH']}"
    (programs / "ssh").write_text(
        "#!/bin/sh\nport=\nfor word; do last=$word; case $word in 1) port=1;; esac; done\n"
        'test -z "$port" || { echo Connection refused >&2; exit 255; }\n'
        f'cd "{home}" && HOME="{home}" PATH="{path}" exec sh -c "$last"\n'
    )
    (programs / "ssh").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}:{before}"
    try:
        yield SshServer("pi@stand-in", ("-F", "none"), home, tools)
    finally:
        os.environ["PATH"] = before


def _await_port(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(log.read_text())
