"""Optuna's part of a search, on toys: pruning, going on after a kill, storages that fail, several at once."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.cli.search import goes_on, trials_kept
from edgeqrl.errors import DataError, MissingToolError, UsageError
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search import alive
from edgeqrl.search.alive import Heart, Watch
from edgeqrl.search.choice import Choice
from edgeqrl.search.ladder import rungs
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.outcome import Outcome
from edgeqrl.search.results import prepared
from edgeqrl.search.space import Space
from edgeqrl.search.storage import open_study, quiet, shown_url, sqlite_url
from edgeqrl.search.study import Steps, first_schemes, num_finished, pruner, require_study, run_study
from edgeqrl.validate.terms import Declared
from tests.search_toys import LAYERS, Careless, Maker, toy_task

optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).parent.parent


def journal(folder: Path) -> str:
    return f"journal:{folder / 'study.log'}"


@pytest.mark.parametrize("name", ["plain", "a?b", "100%41", "#{x} y"])
def test_database_in_a_folder_of_any_name_is_found_again(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    url = sqlite_url(tmp_path / name / "study.db")
    open_study(url, "edgeqrl").set_user_attr("kept", 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["study.db"]
    assert open_study(url, "edgeqrl").user_attrs == {"kept": 1}


def searched(folder: Path, trials: int, maker: Maker | None = None, **options: Any) -> Choice:
    study = StudyOptions(journal(folder), trials=trials)
    return run_study(toy_task(maker or Maker(), **options), study, {})


def states_of(url: str) -> list[str]:
    return [trial.state.name for trial in open_study(url, "edgeqrl").get_trials()]


def test_cheapest_that_holds_wins_and_known_schemes_come_first(tmp_path: Path) -> None:
    choice = searched(tmp_path, 10)
    assert choice.holds
    assert choice.winner.name == "w4a8"  # as few bytes as others of four bits, and the fewest instructions
    assert [tried.name for tried in choice.tried[:4]] == ["int8", "w4a8", "w3a8", "w2a8"]
    assert choice.built is not None
    assert choice.built.quantized == Scheme(weight_bits=4)
    assert choice.to_json()["study"] == {"name": "edgeqrl", "storage": journal(tmp_path)}


def test_layers_that_can_bear_less_get_less(tmp_path: Path) -> None:
    """Only the last layer needs eight bits; the first and the middle one may have two."""

    def wrong_every(scheme: Scheme) -> int:
        return 0 if scheme.bits_of(LAYERS[2]) == 8 else 2

    choice = searched(tmp_path, 40, Maker(wrong_every), learning=False)
    assert choice.holds
    assert choice.winner.scheme.bits_of(LAYERS[2]) == 8
    assert choice.winner.costs is not None
    assert choice.winner.costs.flash_bytes < 1000 * (4 + 4 + 8)  # no rung of the ladder has so few


def test_clearly_worse_candidate_is_given_up_by_wilcoxon(tmp_path: Path) -> None:
    """What lies within the margin counts as nothing, lost or gained."""
    study = open_study(journal(tmp_path), "edgeqrl")
    with quiet():
        study.pruner = pruner()
    first = study.ask()
    Steps(first, 1.0, "journal:x")(np.zeros(128))
    study.tell(first, 0.5)
    steps = Steps(study.ask(), 1.0, "journal:x")
    assert not steps(np.full(32, 1.2))  # too few
    assert steps(np.full(128, 1.2))
    for losses in (np.full(128, 0.9), np.full(128, -9.0), np.tile([9.0, -9.0], 64)):
        assert not Steps(study.ask(), 1.0, "journal:x")(losses)


def test_pruned_trial_keeps_what_it_found_and_never_wins(tmp_path: Path) -> None:
    class Uneven(Maker):
        """Other schemes make other mistakes, and a few more: so many that their mean says nothing yet."""

        def policy(self, scheme: Scheme) -> Any:
            return in_float if scheme == Scheme() else Careless("toy", 0.215, skips=1)

    in_float = Careless("float", 0.2)
    terms = Declared(max_chatter=None, max_failures=None)
    choice = searched(tmp_path, 3, Uneven(), episodes=512, float_policy=in_float, declared=terms)
    assert choice.winner.name == "int8"
    pruned = [tried for tried in choice.tried if tried.outcome is Outcome.PRUNED]
    assert len(pruned) == 2
    assert all(64 <= tried.pairs < 512 for tried in pruned)
    assert states_of(journal(tmp_path))[:3] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_search_goes_on_where_it_was(tmp_path: Path) -> None:
    searched(tmp_path, 5)
    maker = Maker()
    choice = searched(tmp_path, 8, maker)
    assert len(choice.tried) == states_of(journal(tmp_path)).count("COMPLETE") == 8
    assert len(maker.opened) == 3  # and no more
    again = Maker()
    finished = searched(tmp_path, 8, again)
    assert again.opened == []
    assert finished.winner == choice.winner
    assert finished.built.quantized == choice.winner.scheme  # made again, and not played again


KILLED = """
import sys, time
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.study import run_study
from tests.search_toys import Maker, toy_task

class Slow(Maker):
    def __call__(self, scheme):
        if len(self.made) == 3:
            time.sleep(1)  # its heart beats
            print("hanging", flush=True)
            time.sleep(600)
        return super().__call__(scheme)

run_study(toy_task(Slow(), most_weight_bits=2), StudyOptions(sys.argv[1], trials=7), {})
"""


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_killed_search_loses_no_finished_trial_and_no_known_scheme(tmp_path: Path, kind: str) -> None:
    url = f"{kind}{tmp_path / 'study'}"
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "hanging\n"
    assert Watch().fail_abandoned(open_study(url, "edgeqrl")) == 0
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert states_of(url)[:3] == ["COMPLETE", "COMPLETE", "RUNNING"]
    maker = Maker()
    choice = run_study(toy_task(maker, most_weight_bits=2), StudyOptions(url, trials=7), {})
    known = rungs(2, most_bits=2, layers=LAYERS, has_states=False, learning=True)
    assert {tried.scheme for tried in choice.tried} >= {*known}
    assert not {known[0], known[1]} & {*maker.opened}  # they were finished before
    assert known[2] in maker.opened  # it hung, and was tried again
    assert states_of(url)[2] == "FAIL"


def left_by_another_machine(folder: Path, **params: Any) -> "optuna.Study":
    """Begin a trial and leave it, as on a machine of which nothing else is known."""
    study = open_study(journal(folder), "edgeqrl")
    study.enqueue_trial(params)
    space = Space(LAYERS, 2, has_states=False, learning=False)
    trial = study.ask()
    for name, values in space.choices.items():
        trial.suggest_categorical(name, values)
    trial.set_user_attr("at_work", {"machine": "another", "process": 1, "beats": 1})
    return study


def test_trial_of_another_machine_is_abandoned_when_its_mark_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, watch, now = left_by_another_machine(tmp_path), Watch(), [1000.0]
    monkeypatch.setattr(alive.time, "monotonic", lambda: now[0])
    counts = []
    for beats, later in ((1, 50.0), (2, 50.0), (2, 50.0), (2, 20.0)):
        (running,) = study.get_trials()
        mark = {"machine": "another", "process": 1, "beats": beats}
        study._storage.set_trial_user_attr(running._trial_id, "at_work", mark)
        counts.append(watch.fail_abandoned(study))
        now[0] += later
    assert counts == [0, 0, 0, 1]  # seen at 1000, changed at 1050, silent at 1100 and at 1150
    assert watch.fail_abandoned(study) == 0


def test_candidate_over_which_processes_die_is_left_after_three_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alive, "_GRACE_S", 0.0)
    space = Space(LAYERS, 2, has_states=False, learning=False)
    fatal = Scheme(weight_bits=2, ranges="mse")
    for _ in range(3):
        left_by_another_machine(tmp_path, **space.chosen(fatal))
    choice = searched(tmp_path, 4, most_weight_bits=2, learning=False)
    assert states_of(journal(tmp_path))[:3] == ["FAIL"] * 3
    assert fatal not in [tried.scheme for tried in choice.tried]


def test_trial_that_another_machine_has_taken_over_does_not_end_the_search(tmp_path: Path) -> None:
    """As after a sleep of this one."""

    class Slept(Maker):
        def __call__(self, scheme: Scheme) -> Any:
            if len(self.made) == 2:
                study = open_study(journal(tmp_path), "edgeqrl")
                (running,) = [t for t in study.get_trials() if t.state.name == "RUNNING"]
                study.tell(running.number, state=optuna.trial.TrialState.FAIL)
            return super().__call__(scheme)

    choice = searched(tmp_path, 4, Slept(), most_weight_bits=2, learning=False)
    assert states_of(journal(tmp_path)).count("COMPLETE") == 4
    assert states_of(journal(tmp_path)).count("FAIL") == 1
    assert choice.holds is False


def test_heart_beats_while_a_trial_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "_BEAT_S", 0.01)
    study = open_study(journal(tmp_path), "edgeqrl")
    with Heart(study.ask()):
        deadline = time.monotonic() + 20.0
        while study.get_trials()[0].user_attrs["at_work"]["beats"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    beats = study.get_trials()[0].user_attrs["at_work"]["beats"]
    time.sleep(0.1)
    assert study.get_trials()[0].user_attrs["at_work"]["beats"] == beats


class Elsewhere(Maker):
    """Makes another network of each scheme than the machine that played it; `wrong_every` tells how good."""

    def __call__(self, scheme: Scheme) -> Any:
        return replace(super().__call__(scheme), sha256=f"elsewhere {scheme!r}")


def test_winner_of_which_another_network_comes_is_played_before_it_wins(tmp_path: Path) -> None:
    options = {"most_weight_bits": 4, "learning": False}
    played = searched(tmp_path, 6, **options).winner
    maker = Elsewhere()
    choice = searched(tmp_path, 6, maker, **options)
    assert maker.opened == [played.scheme]
    assert choice.winner.scheme == played.scheme
    assert choice.winner.sha256 == choice.built.sha256 != played.sha256
    assert choice.winner in choice.tried
    assert played not in choice.tried


def test_winner_of_which_a_worse_network_comes_loses_to_the_next(tmp_path: Path) -> None:
    options = {"most_weight_bits": 4, "learning": False}
    played = searched(tmp_path, 6, **options).winner
    maker = Elsewhere(lambda scheme: 2 if scheme == played.scheme else 0)
    choice = searched(tmp_path, 6, maker, **options)
    assert choice.holds
    assert choice.winner.scheme == maker.opened[-1] != played.scheme
    assert maker.opened[0] == played.scheme
    assert {t.outcome for t in choice.tried if t.scheme == played.scheme} == {Outcome.LOSES}
    nothing = Elsewhere(lambda _: 2)
    assert not searched(tmp_path, 6, nothing, **options).holds


def test_interrupted_trial_is_tried_again(tmp_path: Path) -> None:
    class Interrupted(Maker):
        def __call__(self, scheme: Scheme) -> Any:
            if scheme == wide:
                raise KeyboardInterrupt
            return super().__call__(scheme)

    wide = Scheme(weight_bits=2, wide=("input",))
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, 5, Interrupted(), most_weight_bits=2, learning=False)
    assert states_of(journal(tmp_path))[:3] == ["COMPLETE", "COMPLETE", "FAIL"]
    choice = searched(tmp_path, 5, most_weight_bits=2, learning=False)
    assert wide in [tried.scheme for tried in choice.tried]


@pytest.mark.parametrize(
    "url",
    [
        "study.db",
        "nonsense://x",
        "nonsense://me:secret@localhost/x",
        "sqlite:////no/such/folder/study.db",
        "journal:/no/such/folder/study.log",
    ],
)
def test_storage_that_fails_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(UsageError, match="The study's storage") as caught:
        require_study(StudyOptions(url), {"agent": "a"})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shown_url(url) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("mysql://me:secret@localhost/x", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://me:secret@localhost/x", "pymysql", "pymysql"),
        ("postgresql://me:secret@localhost/x", "psycopg2", "psycopg2-binary"),
        ("redis://localhost", None, "redis"),
    ],
)
def test_storage_without_its_driver_is_told_with_its_cure(
    url: str, module: str | None, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is not None:
        monkeypatch.setitem(sys.modules, module, None)
    elif importlib.util.find_spec("redis") is not None:
        pytest.skip("redis is installed, and Optuna has looked for it when it was imported")
    with pytest.raises(MissingToolError, match=f"needs a driver.*pip install {package}\\.") as caught:
        require_study(StudyOptions(url), {"agent": "a"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 5000, b"[1]\n"]
)
def test_storage_that_is_damaged_is_told_with_its_file(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"'{path}' is no study of Optuna.*Delete it, or choose another place"
    ):
        require_study(StudyOptions(f"{kind}{path}"), {})


def test_storage_that_goes_away_in_a_search_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.db"

    class Sabotage(Maker):
        def __call__(self, scheme: Scheme) -> Any:
            if len(self.made) == 2:
                path.write_bytes(b"gone" * 4096)
            return super().__call__(scheme)

    with pytest.raises(DataError, match="is no study of Optuna"):
        run_study(toy_task(Sabotage()), StudyOptions(f"sqlite:///{path}", trials=6), {})


def test_what_our_own_code_raises_is_not_laid_on_the_storage(tmp_path: Path) -> None:
    class Broken(Maker):
        def policy(self, scheme: Scheme) -> Any:
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        searched(tmp_path, 3, Broken())


def test_study_of_another_task_is_refused(tmp_path: Path) -> None:
    options = StudyOptions(journal(tmp_path))
    require_study(options, {"agent": "a", "control_period_s": None, "episodes": 512})
    searched(tmp_path, 1)
    require_study(options, {"agent": "a", "control_period_s": None, "episodes": 512})
    said = (
        "is of another search; what differs: agent, control period s, --choosing-episodes. Take what it was"
    )
    with pytest.raises(UsageError, match=said):
        require_study(options, {"agent": "b", "control_period_s": 0.02, "episodes": 64})


def test_study_without_any_trial_is_begun_anew_for_another_task(tmp_path: Path) -> None:
    options = StudyOptions(journal(tmp_path), trials=2)
    require_study(options, {"agent": "a"})
    study = open_study(journal(tmp_path), "edgeqrl")
    study.enqueue_trial({"bits of dense": 8})  # of another space
    require_study(options, {"agent": "b"})
    assert open_study(journal(tmp_path), "edgeqrl").get_trials() == []
    searched(tmp_path, 2, most_weight_bits=2, learning=False)
    with pytest.raises(UsageError, match="what differs: agent"):
        require_study(options, {"agent": "c"})


def test_failure_before_the_first_trial_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "search"
    options = StudyOptions(sqlite_url(folder / "study.db"))
    with pytest.raises(UsageError, match="early"), prepared(folder, options, folder / "study.db") as known:
        assert known == 0
        assert (folder / "study.db").exists()
        raise UsageError("early")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_failure_leaves_what_was_there_and_what_was_found(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "search"
    options = StudyOptions(sqlite_url(folder / "study.db"), trials=1)
    if is_there:  # without any trial, but not ours to remove
        folder.mkdir()
        require_study(options, {"agent": "a"})
    with pytest.raises(KeyboardInterrupt), prepared(folder, options, folder / "study.db"):
        if not is_there:
            run_study(toy_task(Maker()), options, {})
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert num_finished(options) == (0 if is_there else 1)


def test_interrupted_search_says_what_is_kept(tmp_path: Path) -> None:
    options = StudyOptions(journal(tmp_path), trials=2)
    with pytest.raises(KeyboardInterrupt) as nothing, trials_kept(options):
        raise KeyboardInterrupt
    assert str(nothing.value) == ""
    searched(tmp_path, 2)
    said = r"2 finished trials are kept in .*Run the same command again"
    with pytest.raises(KeyboardInterrupt, match=said), trials_kept(options):
        raise KeyboardInterrupt


def test_search_that_goes_on_says_what_there_is() -> None:
    assert goes_on(5, 9) == "The study has 5 of 9 trials: the search goes on."
    assert "all of its 9 trials: its winner is made and judged again" in goes_on(9, 9)


def test_two_searches_share_the_trials(tmp_path: Path) -> None:
    """The second begins while the first is at work, and both see all results."""

    class Second(Maker):
        """Lets another search run first, when it has made two."""

        def __call__(self, scheme: Scheme) -> Any:
            if len(self.made) == 2:
                inner.append(searched(tmp_path, 4))
            return super().__call__(scheme)

    inner: list[Choice] = []
    outer = searched(tmp_path, 6, Second())
    assert states_of(journal(tmp_path)).count("COMPLETE") >= 6
    assert {tried.scheme for tried in inner[0].tried} <= {tried.scheme for tried in outer.tried}


def test_known_schemes_are_those_of_the_ladder_plain_ones_first() -> None:
    found = first_schemes(Space(LAYERS, 8, False, True))
    assert found[:4] == [Scheme(weight_bits=bits) for bits in (8, 4, 3, 2)]
    is_learned = [scheme.learned for scheme in found]
    assert is_learned == sorted(is_learned)


def test_missing_optuna_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingToolError, match=r"pip install 'edgeqrl\[search\]'"):
        open_study("sqlite:///x", "edgeqrl")
