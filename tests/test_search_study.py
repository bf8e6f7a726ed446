"""Optuna's part of a search, on toys: pruning, going on after a kill, storages that fail, several at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import MissingToolError, UsageError
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search import storage as storage_module
from edgeqrl.search.choice import Choice
from edgeqrl.search.ladder import rungs
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.outcome import Outcome
from edgeqrl.search.space import Space
from edgeqrl.search.storage import open_study, quiet, shown_url, sqlite_url
from edgeqrl.search.study import Steps, first_schemes, pruner, require_study, run_study
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
    assert finished.built is None  # an earlier run made it


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


def test_killed_search_on_sqlite_loses_no_finished_trial_and_no_known_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    monkeypatch.setattr(storage_module, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(storage_module, "_GRACE_S", 2)
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "hanging\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert states_of(url)[:3] == ["COMPLETE", "COMPLETE", "RUNNING"]
    time.sleep(2.5)  # its heart has stopped for longer than the grace
    maker = Maker()
    choice = run_study(toy_task(maker, most_weight_bits=2), StudyOptions(url, trials=7), {})
    assert len(choice.tried) >= 6  # of seven: the sampler may repeat one
    known = rungs(2, most_bits=2, layers=LAYERS, has_states=False, learning=True)
    assert {tried.scheme for tried in choice.tried} >= {*known} - {known[-1]}
    assert not {known[0], known[1]} & {*maker.opened}  # they were finished before
    assert known[2] in maker.opened  # it hung, and was tried again
    assert states_of(url)[2] == "FAIL"


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
        "sqlite:////no/such/folder/study.db",
        "mysql://me:secret@localhost/x",
        "journal:/no/such/folder/study.log",
    ],
)
def test_storage_that_fails_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(UsageError, match="The study's storage") as caught:
        require_study(StudyOptions(url), {"agent": "a"})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shown_url(url) in str(caught.value)


def test_storage_that_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(UsageError, match="The study's storage"):
        require_study(StudyOptions(f"sqlite:///{path}"), {})


def test_storage_that_goes_away_in_a_search_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.db"

    class Sabotage(Maker):
        def __call__(self, scheme: Scheme) -> Any:
            if len(self.made) == 2:
                path.write_bytes(b"gone" * 4096)
            return super().__call__(scheme)

    with pytest.raises(UsageError, match="The study's storage"):
        run_study(toy_task(Sabotage()), StudyOptions(f"sqlite:///{path}", trials=6), {})


def test_what_our_own_code_raises_is_not_laid_on_the_storage(tmp_path: Path) -> None:
    class Broken(Maker):
        def policy(self, scheme: Scheme) -> Any:
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        searched(tmp_path, 3, Broken())


def test_study_of_another_task_is_refused(tmp_path: Path) -> None:
    options = StudyOptions(journal(tmp_path))
    require_study(options, {"agent": "a", "board": None})
    require_study(options, {"agent": "a", "board": None})
    with pytest.raises(UsageError, match="is of another agent and board"):
        require_study(options, {"agent": "b", "board": "rpi-pico"})


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
