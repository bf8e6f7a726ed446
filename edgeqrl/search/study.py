"""`edgeqrl search`: Optuna over all that a scheme says, layer by layer.

The cheapest candidate that holds the return is the best. One that is clearly worse than the best known is
given up early, by Optuna's Wilcoxon pruner on paired losses. All that was found lies in the study's storage
as plain data: a run that is killed goes on there, and several machines may work on one study.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.errors import DataError, UsageError
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.alive import Heart, Watch, was_abandoned
from edgeqrl.search.candidate import PLAYED, Built, Task, Tried, attempt
from edgeqrl.search.choice import Choice, Facts, least_lost, require_one
from edgeqrl.search.ladder import levels, rungs
from edgeqrl.search.options import StudyOptions
from edgeqrl.search.outcome import Outcome
from edgeqrl.search.space import Space
from edgeqrl.search.storage import Carried, import_optuna, open_study, quiet, shown_url, storage_errors

if TYPE_CHECKING:
    import optuna

_TRIED = "tried"  # attribute of a trial
_SAID = {  # of what a study is of: how an option says it
    "episodes": "--choosing-episodes",
    "is_unpacked": "--unpacked",
    "learned": "--learn-steps or --learn-rounds",
    "learning": "--learning",
    "most_weight_bits": "--most-weight-bits",
    "seed": "--choosing-seed",
    "terms": "terms of the verdict",
}
_FINISHED = ("COMPLETE", "PRUNED")
_TASK = "task"  # attribute of a study: what it is of
_PAIRS_A_STEP = 8  # whose mean is one step of the pruner
_STEPS_BEFORE_PRUNING = 8
_PRUNING_LEVEL = 0.05
_MOST_DEATHS = 3  # of processes over one candidate, which is then left
_WORST = 1e6  # value of what cannot be made, or does not fit


def require_study(options: StudyOptions, task: Mapping[str, Any]) -> None:
    """Open the study before minutes are spent; one of another task that was never begun is begun anew.

    Raises UsageError where its storage fails, or where it has trials of another task.

    task  what the study is of, as plain JSON values; kept in it
    """
    study = open_study(options.storage, options.name)
    with storage_errors(options.storage), quiet():
        known = study.user_attrs.get(_TASK, task)
        differing = sorted(name for name in {*known, *task} if known.get(name) != task.get(name))
        if differing:
            Watch().fail_abandoned(study)
        if differing and not is_begun(study):
            import_optuna().delete_study(study_name=options.name, storage=study._storage)
            study, differing = open_study(options.storage, options.name), []
        if not differing:
            study.set_user_attr(_TASK, dict(task))
            return
    told = ", ".join(_SAID.get(name, name.replace("_", " ")) for name in differing)
    raise UsageError(
        f"The study '{options.name}' in '{shown_url(options.storage)}' is of another search; what differs: "
        f"{told}. Take what it was begun with, give another name with --study, or another place with -o or "
        "--storage."
    )


def is_begun(study: "optuna.Study") -> bool:
    """Tell whether a trial is finished, or at work: of others nothing is known that could be lost."""
    states = {trial.state.name for trial in study.get_trials(deepcopy=False)}
    return bool(states & {*_FINISHED, "RUNNING"})


def num_finished(options: StudyOptions) -> int:
    """Return how many trials the study has finished."""
    study = open_study(options.storage, options.name)
    with storage_errors(options.storage), quiet():
        return len(_finished(study))


def run_study(task: Task, options: StudyOptions, facts: Facts) -> Choice:
    """Try candidates until the study has as many as wanted; return the cheapest that holds, of all runs."""
    optuna = import_optuna()
    task.progress("search", 0, options.trials)
    base = task.build(Scheme(weight_bits=task.options.most_weight_bits))
    space = Space(base.layers, task.options.most_weight_bits, task.has_states, task.options.learning)
    study = open_study(options.storage, options.name)
    with storage_errors(options.storage), quiet():
        count = len(study.get_trials(deepcopy=False))  # a run that goes on draws other numbers
        study.sampler = optuna.samplers.TPESampler(seed=options.seed + count, multivariate=True)
        study.pruner = pruner()
    objective = _Objective(task, space, options, base)
    try:
        with storage_errors(options.storage), quiet():
            _go_on(study, objective, space, options.trials)
            tried = once_each(_tried_in(study))
    except Carried as carried:
        raise carried.error from None
    winner, built = _winner(task, tried, objective.built)
    told = {"study": {"name": options.name, "storage": shown_url(options.storage)}}
    return Choice("search", winner, tuple(tried), {**facts, **told}, built)


def once_each(tried: list[Tried]) -> list[Tried]:
    """Return one result a scheme: of trials that repeat one, the first that was played to its end."""
    found: dict[Scheme, Tried] = {}
    for result in tried:
        if result.scheme not in found or found[result.scheme].outcome is Outcome.PRUNED:
            found[result.scheme] = result
    return list(found.values())


def cheapest(tried: list[Tried]) -> Tried | None:
    """Return the cheapest that holds; where none does, the one that lost least of those that fit."""
    holding = [t for t in tried if t.outcome is Outcome.HOLDS]
    if not holding:
        return least_lost(tried)
    return min(holding, key=lambda t: (t.costs, t.scheme.learned, t.severity))


def _go_on(study: "optuna.Study", objective: "_Objective", space: Space, wanted: int) -> None:
    """Try candidates, those first that another process has left, until as many as wanted are finished."""
    watch = Watch()
    watch.fail_abandoned(study)
    _enqueue(study, space)
    while len(_finished(study)) < wanted:
        _try_one(study, objective)
        if watch.fail_abandoned(study):
            _enqueue(study, space)


def _try_one(study: "optuna.Study", objective: "_Objective") -> None:
    """Try what was enqueued, or else what the sampler wants."""
    states, trial = import_optuna().trial.TrialState, study.ask()
    try:
        value = objective(trial)
    except BaseException as error:
        is_taken = study.get_trials(deepcopy=False)[trial.number].state != states.RUNNING
        if is_taken and isinstance(error, Exception):  # this machine slept: another tries it now
            return
        study.tell(trial, state=states.FAIL, skip_if_finished=True)
        raise
    state = states.PRUNED if value is None else states.COMPLETE
    study.tell(trial, value, state=state, skip_if_finished=True)


def _winner(task: Task, tried: list[Tried], made: dict[str | None, Built]) -> tuple[Tried, Built]:
    """Return the best, as this machine makes it; `tried` is told what was played anew for that.

    What an earlier run or another machine has made is made again. Where another network comes of it than
    the one that was played, this one is played: it may do worse, and then another may be the best.
    """
    while (winner := cheapest(tried)) is not None:
        if winner.sha256 in made:
            return winner, made[winner.sha256]
        found, built = attempt(task, winner.scheme, tried)
        if built is not None:
            made[found.sha256] = built
        if found.sha256 != winner.sha256:
            tried[tried.index(winner)] = found
    require_one(task, tried)
    raise AssertionError


class _Objective:
    """What is made small: below 1 where the return holds, the less the fewer bytes; else 1 and more.

    None: given up early.
    """

    def __init__(self, task: Task, space: Space, options: StudyOptions, base: Built) -> None:
        self._task, self._space, self._storage = task, space, options.storage
        self._wanted = options.trials
        self._full = max(base.costs.flash_bytes, 1)
        self.built: dict[str | None, Built] = {}  # the best that this run has made

    def __call__(self, trial: "optuna.Trial") -> float | None:
        chosen = {
            name: trial.suggest_categorical(name, values) for name, values in self._space.choices.items()
        }
        known = _tried_in(trial.study)
        stage = f"trial {len(known) + 1}/{self._wanted}"
        steps = Steps(trial, self._task.episodes.terms.margin, self._storage)
        with Heart(trial):
            try:
                scheme = self._space.scheme(chosen)
                found, built = attempt(self._task, scheme, known, stage=stage, prune=steps)
            except Exception as error:
                raise Carried(error) from error
        trial.set_user_attr(_TRIED, found.to_json())
        if built is not None and cheapest([*known, found]) is found:
            self.built = {found.sha256: built}
        return None if found.outcome is Outcome.PRUNED else self._value(found)

    def _value(self, found: Tried) -> float:
        if found.outcome not in PLAYED or not found.measures:
            return _WORST
        if found.outcome is not Outcome.HOLDS:
            return 1.0 + min(max(found.severity, 0.0), _WORST / 2)
        assert found.costs is not None
        return found.costs.flash_bytes / (found.costs.flash_bytes + self._full)


def pruner() -> Any:
    """Return what gives up a trial that is clearly worse than the best known, step by step."""
    return import_optuna().pruners.WilcoxonPruner(
        p_threshold=_PRUNING_LEVEL, n_startup_steps=_STEPS_BEFORE_PRUNING
    )


class Steps:
    """Tells Optuna the losses beyond the margin, a few pairs a step, and asks whether to go on.

    What lies within the margin counts as nothing, lost or gained: else a cheaper candidate that loses no
    more than it may would be given up for one that loses less.
    """

    def __init__(self, trial: "optuna.Trial", margin: float, storage: str) -> None:
        self._trial, self._margin, self._storage = trial, margin, storage
        self._reported = 0

    def __call__(self, losses: NDArray[np.float64]) -> bool:
        """Report what is new of the losses [E]; return whether to give the candidate up."""
        beyond = np.sign(losses) * np.maximum(np.abs(losses) - self._margin, 0.0)
        with storage_errors(self._storage):
            while (self._reported + 1) * _PAIRS_A_STEP <= len(losses):
                first = self._reported * _PAIRS_A_STEP
                self._trial.report(float(beyond[first : first + _PAIRS_A_STEP].mean()), self._reported)
                self._reported += 1
            return bool(self._trial.should_prune())


def _enqueue(study: "optuna.Study", space: Space) -> None:
    """Have what the ladder knows tried first; what an interrupted run has left undone, again."""
    trials = study.get_trials(deepcopy=False)
    known = [_chosen_in(trial) for trial in trials if trial.state.name != "FAIL"]
    left = [_chosen_in(trial) for trial in trials if trial.state.name == "FAIL"]
    fatal = [_chosen_in(trial) for trial in trials if was_abandoned(trial)]
    for chosen in [*(space.chosen(scheme) for scheme in first_schemes(space)), *left]:
        is_whole = set(chosen) == set(space.choices)
        if is_whole and chosen not in known and fatal.count(chosen) < _MOST_DEATHS:
            study.enqueue_trial(chosen)
            known.append(chosen)


def _chosen_in(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """Return what a trial tries, or is to try."""
    return dict(trial.params or trial.system_attrs.get("fixed_params") or {})


def first_schemes(space: Space) -> list[Scheme]:
    """Return what is tried before the sampler's own: the plain one of each level first, the trained last."""
    found = []
    for bits in levels(space.most_weight_bits):
        found += rungs(
            bits,
            most_bits=space.most_weight_bits,
            layers=space.layers,
            has_states=space.has_states,
            learning=space.learning,
        )
    return sorted(
        found, key=lambda scheme: (scheme.learned, scheme != Scheme(weight_bits=scheme.weight_bits))
    )


def _finished(study: "optuna.Study") -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.name in _FINISHED]


def _tried_in(study: "optuna.Study") -> list[Tried]:
    """Return what all runs have found, in the order of the trials."""
    try:
        return [
            Tried.from_json(trial.user_attrs[_TRIED])
            for trial in study.get_trials(deepcopy=False)
            if _TRIED in trial.user_attrs
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The study '{study.study_name}' holds a damaged trial: {error!r}. Begin another."
        ) from error
