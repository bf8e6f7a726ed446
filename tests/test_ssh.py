"""Deploying over ssh, to an sshd on loopback: what was there stays until the new one has proven itself."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeqrl.errors import DeviceError
from firmware_export.flashers.ssh import _cure, _Remote, deploy, release_of
from firmware_export.linux.package import LinuxPackage
from tests.ssh_server import SshServer, ssh_server, stand_in_server

GOOD = 'import json; print(json.dumps({"ok": True, "backend": "c"}))\n'
BAD = 'import json; print(json.dumps({"ok": False, "backend": "c"}))\n'
CRASHES = "import os; os.kill(os.getpid(), 7)\n"
DIES = 'import sys; sys.exit("no such instruction")\n'
# Keeps what is enabled and what runs as files; a unit that is broken does not stay up.
SYSTEMCTL = """#!/bin/sh
test "$2" = --quiet && set -- "$1" "$3" "$4"
unit=edgeqrl-robot.service; state={state}
case "$2" in is-*) ;; *) echo "$2" >> "$state/log";; esac
case "$2" in
is-enabled) test -e "$state/enabled";;
is-active) test -e "$state/active" && test ! -e "$state/broken";;
enable) touch "$state/enabled";;
disable) rm -f "$state/enabled";;
restart) touch "$state/active";;
stop) rm -f "$state/active";;
esac
"""
UNIT = ".config/systemd/user/edgeqrl-robot.service"


def package(run: str = GOOD, more: str = "") -> LinuxPackage:
    files = {"run.py": run.encode(), "lib/aarch64/libpolicy.so": b"\x7fELF", "more.txt": more.encode()}
    files["edgeqrl-robot.service"] = f"[Service]\n# {more}\n".encode()
    return LinuxPackage("robot", "rpi4", files, "zig 1")


@pytest.fixture(scope="module", params=["stand-in", pytest.param("sshd", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A host; the slow one needs Debian's openssh-server."""
    start = ssh_server if request.param == "sshd" else stand_in_server
    with start(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture
def home(server: SshServer) -> Path:
    """Return the home, with nothing deployed."""
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


def test_what_a_broken_copy_left_is_no_release(server: SshServer, home: Path) -> None:
    found = [
        deploy(package(more=str(turn)), server.host, options=server.options).release for turn in range(2)
    ]
    left = home / "edgeqrl/robot/releases" / f"{'0' * 12}.part"
    left.mkdir()
    found.append(deploy(package(more="2"), server.host, options=server.options).release)
    assert releases(home) == set(found)


def test_copy_that_breaks_off_leaves_nothing(
    server: SshServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = deploy(package(), server.host, options=server.options).release
    monkeypatch.setattr("firmware_export.flashers.ssh._tar", lambda _: b"no archive" * 100)
    with pytest.raises(DeviceError, match=r"The copy failed.*is current, as before\."):
        deploy(package(more="new"), server.host, options=server.options)
    assert (current(home), releases(home)) == (old, {old})


def test_release_that_fails_even_afresh_is_not_said_to_be_as_before(server: SshServer, home: Path) -> None:
    """What failed is the board's: the same bytes passed there once."""
    once = 'import json, os; ok = not os.path.exists("../../../../bad"); print(json.dumps({"ok": ok}))\n'
    release = deploy(package(once), server.host, options=server.options).release
    (home / "bad").mkdir()
    with pytest.raises(DeviceError, match=f"Release {release} is current there and fails its self-test"):
        deploy(package(once), server.host, options=server.options)
    assert (current(home), releases(home)) == (release, {release})


@pytest.mark.parametrize(
    "target", ["releases/$(touch${IFS}pwned)", "releases/my-own", "releases/0123456789AB"]
)
def test_link_that_is_not_ours_is_refused(server: SshServer, home: Path, target: str) -> None:
    place = home / "edgeqrl/robot"
    (place / target).mkdir(parents=True)
    (place / "current").symlink_to(target)
    with pytest.raises(DeviceError, match=r"current must be a link that .* Nothing was changed there\."):
        deploy(package(BAD), server.host, options=server.options)
    assert len(list((place / "releases").iterdir())) == 1
    assert not list(home.rglob("pwned"))


def test_shell_that_prints_at_login_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text('#!/bin/sh\necho "Welcome\'; rm -rf x"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DeviceError, match="its shell must print nothing of its own at login"):
        deploy(package(), "pi@robot")
    with pytest.raises(ValueError, match="not words"):
        _Remote("pi@robot", ()).run("true", "a'b", what="A test")


# The service


def with_systemctl(server: SshServer, home: Path) -> Path:
    """Return the folder of the stand-in's state."""
    state = home / "state"
    state.mkdir()
    tool = server.tools / "systemctl"
    tool.write_text(SYSTEMCTL.format(state=state))
    tool.chmod(0o755)
    return state


def state_of(state: Path) -> set[str]:
    return {place.name for place in state.iterdir()} - {"log", "broken"}


@pytest.mark.parametrize(("was", "last"), [({"enabled", "active"}, "restart"), ({"enabled"}, "stop")])
def test_service_that_does_not_stay_up_is_rolled_back(
    server: SshServer, home: Path, was: set[str], last: str
) -> None:
    state = with_systemctl(server, home)
    old = deploy(package(), server.host, options=server.options, service=True).release
    assert (home / UNIT).read_bytes() == b"[Service]\n# \n"
    assert state_of(state) == {"enabled", "active"}
    for name in state_of(state) - was:
        (state / name).unlink()
    (home / UNIT.replace("robot", "other")).touch()
    tool = server.tools / "systemctl"
    tool.write_text(tool.read_text().replace("restart) touch", f"restart) touch {state}/broken"))
    with pytest.raises(DeviceError, match="Starting the service failed"):
        deploy(package(more="new"), server.host, options=server.options, service=True)
    assert (current(home), releases(home)) == (old, {old})
    assert (home / UNIT).read_bytes() == b"[Service]\n# \n"
    assert (state / "log").read_text().splitlines()[-1] == last
    assert state_of(state) == was


@pytest.mark.parametrize("more", ["", "new"])
def test_service_that_never_ran_is_gone_after_a_roll_back(server: SshServer, home: Path, more: str) -> None:
    """Also where the release was there already, and only the service is new."""
    state = with_systemctl(server, home)
    old = deploy(package(), server.host, options=server.options).release
    (state / "broken").touch()
    with pytest.raises(DeviceError, match=f"Release {old} is current, as before"):
        deploy(package(more=more), server.host, options=server.options, service=True)
    assert (current(home), releases(home)) == (old, {old})
    assert not (home / UNIT).exists()
    assert state_of(state) == set()
    assert (state / "log").read_text().split()[-3:] == ["stop", "disable", "daemon-reload"]


def test_service_is_left_alone_where_the_self_test_fails(server: SshServer, home: Path) -> None:
    state = with_systemctl(server, home)
    deploy(package(), server.host, options=server.options, service=True)
    (state / "log").write_text("")
    with pytest.raises(DeviceError, match="as before"):
        deploy(package(BAD), server.host, options=server.options, service=True)
    assert (state / "log").read_text() == ""


def test_roll_back_that_fails_is_said(server: SshServer, home: Path) -> None:
    state = with_systemctl(server, home)
    deploy(package(), server.host, options=server.options, service=True)
    tool = server.tools / "systemctl"
    tool.write_text(tool.read_text().replace("restart) touch", "restart) false; exit 1; touch"))
    with pytest.raises(DeviceError, match="Not all of it could be undone: look at edgeqrl/robot there"):
        deploy(package(more="new"), server.host, options=server.options, service=True)
    assert "enabled" in state_of(state)


def test_unreachable_host_is_said_with_the_cure(server: SshServer) -> None:
    options = (*server.options[2:], "-p", "1")
    with pytest.raises(DeviceError, match=r"Cannot reach .*Is it on, and is the name right\?"):
        deploy(package(), server.host, options=options)


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("pi@x: Permission denied (publickey,password).", "ssh-copy-id pi@x"),
        ("Host key verification failed.", "by hand: ssh pi@x"),
        ("ssh: Could not resolve hostname x: Name or service not known", "Is it on"),
        ("ssh: connect to host x port 22: Connection refused", "Is it on"),
    ],
)
def test_cure_is_that_of_what_ssh_says(said: str, cure: str) -> None:
    assert cure in _cure("pi@x", [said])


def test_result_is_plain_json(server: SshServer, home: Path) -> None:
    done = deploy(package(), server.host, options=server.options)
    assert json.loads(json.dumps(done.self_test))["ok"]
