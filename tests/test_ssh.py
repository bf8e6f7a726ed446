"""Deploying over ssh, to an sshd on loopback: what was there stays until the new one has proven itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeqrl.errors import DeviceError
from firmware_export.flashers.ssh import deploy, release_of
from firmware_export.linux.package import LinuxPackage
from tests.ssh_server import SshServer, ssh_server

GOOD = 'import json; print(json.dumps({"ok": True, "backend": "c"}))\n'
BAD = 'import json; print(json.dumps({"ok": False, "backend": "c"}))\n'
CRASHES = "import os; os.kill(os.getpid(), 7)\n"
DIES = 'import sys; sys.exit("no such instruction")\n'
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
test "$2" != is-active || test ! -e {broken}
"""


def package(run: str = GOOD, more: str = "") -> LinuxPackage:
    files = {"run.py": run.encode(), "lib/aarch64/libpolicy.so": b"\x7fELF", "more.txt": more.encode()}
    files["edgeqrl-robot.service"] = b"[Service]\n"
    return LinuxPackage("robot", "rpi4", files, "zig 1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def home(server: SshServer) -> Path:
    """Return the home, with nothing deployed."""
    import shutil

    for place in server.home.iterdir():
        shutil.rmtree(place)
    for tool in server.tools.iterdir():
        tool.unlink()
    return server.home


def current(home: Path) -> str | None:
    link = home / "edgeqrl" / "robot" / "current"
    return link.resolve().name if link.exists() else None


def releases(home: Path) -> set[str]:
    return {place.name for place in (home / "edgeqrl" / "robot" / "releases").iterdir()}


pytestmark = pytest.mark.slow  # needs Debian's openssh-server


def test_first_deployment_is_tested_there_and_becomes_current(server: SshServer, home: Path) -> None:
    said: list[str] = []
    done = deploy(package(), server.host, options=server.options, progress=said.append)
    assert done.before is None
    assert done.self_test == {"ok": True, "backend": "c"}
    assert current(home) == done.release == release_of(package())
    assert (home / "edgeqrl/robot/current/lib/aarch64/libpolicy.so").read_bytes() == b"\x7fELF"
    asked = f"asking {server.host} what runs there"
    assert said == [asked, f"copying {package().num_bytes} bytes", "self-test on the board"]


@pytest.mark.parametrize(
    ("run", "why"),
    [(BAD, '"ok": false'), (DIES, "no such instruction"), (CRASHES, "Bus error|exit code 135")],
)
def test_failed_self_test_leaves_the_old_release(server: SshServer, home: Path, run: str, why: str) -> None:
    old = deploy(package(), server.host, options=server.options).release
    with pytest.raises(DeviceError, match=why) as caught:
        deploy(package(run), server.host, options=server.options)
    assert f"Release {old} is current, as before." in str(caught.value)
    assert current(home) == old
    assert releases(home) == {old}


def test_failed_first_deployment_leaves_nothing(server: SshServer, home: Path) -> None:
    with pytest.raises(DeviceError, match=r"Nothing is current there\."):
        deploy(package(BAD), server.host, options=server.options)
    assert (current(home), releases(home)) == (None, set())


def test_same_release_again_is_tested_but_not_copied(server: SshServer, home: Path) -> None:
    deploy(package(), server.host, options=server.options)
    mark = home / "edgeqrl/robot/current/mark"
    mark.touch()
    said: list[str] = []
    deploy(package(), server.host, options=server.options, progress=said.append)
    assert mark.exists()
    assert said[1:] == ["self-test on the board"]


def test_damaged_release_is_mended_by_the_same_command(server: SshServer, home: Path) -> None:
    """An SD card loses bits."""
    release = deploy(package(), server.host, options=server.options).release
    (home / "edgeqrl/robot/current/run.py").write_text(DIES)
    done = deploy(package(), server.host, options=server.options)
    assert (done.release, done.before, current(home)) == (release, release, release)
    assert (home / "edgeqrl/robot/current/run.py").read_text() == GOOD


def test_three_releases_are_kept_and_the_users_file_beside_them(server: SshServer, home: Path) -> None:
    found = []
    for number in range(5):
        found.append(deploy(package(more=str(number)), server.host, options=server.options).release)
        (home / "edgeqrl/robot/application.py").write_text("mine")
    assert current(home) == found[-1]
    assert len(releases(home)) == 3
    assert (home / "edgeqrl/robot/application.py").read_text() == "mine"


def with_systemctl(server: SshServer, home: Path) -> tuple[Path, Path]:
    log, broken = home / "log", home / "broken"
    tool = server.tools / "systemctl"
    tool.write_text(SYSTEMCTL.format(log=log, broken=broken))
    tool.chmod(0o755)
    return log, broken


def test_service_that_does_not_stay_up_is_rolled_back(server: SshServer, home: Path) -> None:
    log, broken = with_systemctl(server, home)
    old = deploy(package(), server.host, options=server.options, service=True).release
    assert (home / ".config/systemd/user/edgeqrl-robot.service").read_bytes() == b"[Service]\n"
    broken.touch()
    log.write_text("")
    with pytest.raises(DeviceError, match="Starting the service failed"):
        deploy(package(more="new"), server.host, options=server.options, service=True)
    assert (current(home), releases(home)) == (old, {old})
    assert log.read_text().splitlines()[-1] == "--user restart edgeqrl-robot.service"
    for path in ("log", "broken"):
        (home / path).unlink()


def test_unreachable_host_is_said_with_the_cure(server: SshServer) -> None:
    options = (*server.options[2:], "-p", "1")
    with pytest.raises(DeviceError, match=r"Cannot reach .* ssh-copy-id"):
        deploy(package(), server.host, options=options)


def test_result_is_plain_json(server: SshServer, home: Path) -> None:
    done = deploy(package(), server.host, options=server.options)
    assert json.loads(json.dumps(done.self_test))["ok"]
