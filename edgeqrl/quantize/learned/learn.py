"""Learned quantization: the integer network is trained to act as the float policy does.

Rounds of steps on states that are met in rollouts; after each round the student plays, and what it met is
learned, too. Seeded: on one machine the same bytes come out, in one go or killed and gone on with.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.heads import ValueHead, head_to_json
from edgeqrl.environments import MakeEnv, spaces
from edgeqrl.errors import UsageError
from edgeqrl.files import sha256
from edgeqrl.quantize.correction import correct
from edgeqrl.quantize.learned.checkpoint import Checkpoint, Standing, States
from edgeqrl.quantize.learned.loss import LossScales, loss_of
from edgeqrl.quantize.learned.states import Student, Teacher, visited
from edgeqrl.quantize.learned.structure import read_structure
from edgeqrl.quantize.learned.training import Moments, Trainer
from edgeqrl.quantize.learned.twin import Arrays, Twin, start
from edgeqrl.quantize.learned.write import write_learned

if TYPE_CHECKING:
    from edgeqrl.quantize.policy import QuantizedPolicy

Floats = NDArray[np.float32]
Told = Callable[[int, int], None]  # (steps done, steps in all)

FIRST_SEED = 500_000_000  # of episodes that are played to learn: neither calibration's nor a judgement's
_FORMAT = 2  # of checkpoints: those of another are not gone on with
_CHUNK = 250  # steps between two looks at the loss
_BATCH = 256
_HELD = 0.1  # of all states
_WARM_UP = 200  # steps in which the rates rise: at once they can kill units that no gradient revives
_TOO_BAD = 1.2  # times the loss before learning: back to the best, and weights slower
_LEAST_RATE = 1 / 64
_MOST = {  # of a Learning's numbers: how an option says each, and the most
    "rounds": ("--learn-rounds", 1000),
    "steps": ("--learn-steps", 100_000_000),
    "episodes": ("The episodes of a round of learning", 10_000),
}


def told_nobody(done: int, total: int) -> None:
    """Drop what is told of the progress."""


@dataclass(frozen=True)
class Learning:
    """Where and how long a policy learns.

    make_env    where the float policy, then the student of each round, plays; None: the given states are all
    rounds      of learning; between two of them the student plays
    steps       of all rounds together
    episodes    that are played before each round
    seed        of the episodes, batches and of what is held back
    checkpoint  a folder that learning goes on from when it was killed
    """

    make_env: MakeEnv | None = None
    rounds: int = 4
    steps: int = 20_000
    episodes: int = 10
    seed: int = FIRST_SEED
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        for name, (told, most) in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(f"{told} must be 1 to {most:,}, got {getattr(self, name)}.")
        if self.rounds > self.steps:
            raise UsageError(
                f"--learn-rounds {self.rounds} needs at least as many --learn-steps, got {self.steps}."
            )

    @property
    def seeds(self) -> range:
        """Return those of all episodes that are played: nothing else may be judged or chosen by them."""
        count = 0 if self.make_env is None else self.rounds * self.episodes
        return range(self.seed, self.seed + count)


def learn(
    policy: "QuantizedPolicy",
    samples: Mapping[str, Floats],
    learning: Learning,
    *,
    progress: Told = told_nobody,
) -> "QuantizedPolicy":
    """Return the policy with weights, biases and scales that were learned; never worse by its own loss.

    samples  inputs of both networks, [N, *shape] by name in the files' order, states included

    Raises UnsupportedOperatorError, naming operator and layer, for networks that cannot be learned.
    """
    return _Run(policy, samples, learning, progress).finished()


class _Run:
    """One call of `learn`."""

    def __init__(
        self, policy: "QuantizedPolicy", samples: Mapping[str, Floats], learning: Learning, progress: Told
    ) -> None:
        parts = policy.preprocessing.parts
        # Rounded by output, with corrected biases: a better place to start from.
        first = replace(policy.scheme, learned=False, rounding="adaround", bias_correction=True)
        corrected = correct(policy.tflite, policy.float_tflite, samples, first)
        policy = replace(policy, tflite=corrected.tflite)
        structure = read_structure(
            policy.tflite,
            policy.float_tflite,
            policy.scheme,
            num_states=len(policy.states),
            fixed_inputs=[at for at, part in enumerate(parts) if part.source != "float32"],
        )
        self._policy, self._learning, self._progress = policy, learning, progress
        self._samples = [_flat(values) for values in samples.values()]
        self._twin, self._first, self._teacher = Twin(structure), start(structure), Teacher(policy)
        targets = self._teacher.outputs(self._samples)
        scales = LossScales.of(policy.head, targets)
        loss = loss_of(policy.head, scales, num_states=len(policy.states))
        self._num_masks = policy.head.num_outputs if policy.head.takes_masks else 0
        sizes = [[values.shape[1] for values in group] for group in (self._samples, targets)]
        sizes[1] += [self._num_masks] if self._num_masks else []
        self._trainer = Trainer(self._twin, loss, self._first, (sizes[0], sizes[1]))
        key = "" if learning.checkpoint is None else _key(policy, samples, learning)
        self._checkpoint = Checkpoint(learning.checkpoint, key)

    def finished(self) -> "QuantizedPolicy":
        """Learn all rounds; return the policy of the best that was found."""
        found = self._checkpoint.load()
        standing, states = found if found is not None else (None, None)
        first = 0 if standing is None else standing.round
        for number in range(first, self._learning.rounds):
            if states is None or number > first:
                states = self._more_states(number, states, standing)
                self._checkpoint.keep_states(number, states)
                standing = (
                    None
                    if standing is None
                    else self._begun(number, standing.best, min(1.0, 4 * standing.rate))
                )
            standing = self._round(standing or self._begun(number, self._first), states)
        assert standing is not None
        return self._made(standing.best)

    def _made(self, learned: Arrays) -> "QuantizedPolicy":
        return replace(self._policy, tflite=write_learned(self._policy.tflite, self._twin, learned))

    def _begun(self, number: int, learned: Arrays, rate: float = 1.0) -> Standing:
        return Standing(number, 0, Moments.fresh(learned), learned, float("inf"), rate)

    def _round(self, standing: Standing, states: States) -> Standing:
        """Learn on some states from where learning stands in this round."""
        targets = self._targets(states)
        held, used = np.flatnonzero(states.is_held), np.flatnonzero(~states.is_held)
        used = used if used.size else held  # of one state or two, all may have been held back
        judged = [[values[held] for values in group] for group in (states.inputs, targets)]
        at_first = self._trainer.loss(self._first, *judged)
        if standing.chunk == 0:
            standing.best_loss = self._trainer.loss(standing.best, *judged)
            if not standing.best_loss < at_first:
                standing = self._begun(standing.round, self._first, standing.rate)
                standing.best_loss = at_first
            self._checkpoint.keep(standing)
        num_steps = self._steps(standing.round)
        for chunk in range(standing.chunk, -(-num_steps // _CHUNK)):
            steps = np.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, num_steps))
            rng = np.random.default_rng([self._learning.seed, standing.round, chunk])
            batches = used[rng.integers(0, len(used), (len(steps), _BATCH))]
            rates = _rates(steps, num_steps).astype(np.float32)
            moments = self._trainer.run(
                standing.moments, states.inputs, targets, batches, rates, standing.rate
            )
            standing = self._judged(replace(standing, chunk=chunk + 1, moments=moments), judged, at_first)
            self._checkpoint.keep(standing)
            before = sum(self._steps(number) for number in range(standing.round))
            self._progress(before + int(steps[-1]) + 1, self._learning.steps)
        return standing

    def _targets(self, states: States) -> list[Floats]:
        """Return what a loss takes of the teacher."""
        masks = [states.is_allowed.astype(np.float32)] if self._num_masks else []
        return self._teacher.outputs(states.inputs) + masks

    def _judged(self, standing: Standing, judged: list[list[Floats]], at_first: float) -> Standing:
        """Keep what is the best so far, and go back to it from what is worse than nothing learned."""
        loss = self._trainer.loss(standing.moments.learned, *judged)
        if loss < standing.best_loss:
            return replace(standing, best=standing.moments.learned, best_loss=loss)
        if loss <= _TOO_BAD * at_first:
            return standing
        slower = max(standing.rate / 2, _LEAST_RATE)
        return replace(standing, moments=Moments.fresh(standing.best), rate=slower)

    def _steps(self, number: int) -> int:
        """Return the steps of a round."""
        share, rest = divmod(self._learning.steps, self._learning.rounds)
        return share + (number < rest)

    def _more_states(self, number: int, states: States | None, standing: Standing | None) -> States:
        """Return the states of a round: what was there, and what is met in new episodes."""
        learning = self._learning
        rng = np.random.default_rng([learning.seed, number])
        batches: list[tuple[list[Floats], Any]] = [(self._samples, None)] if states is None else []
        if learning.make_env is not None and not isinstance(self._policy.head, ValueHead):
            begin = learning.seed + number * learning.episodes
            player: Any = self._teacher.policy
            if standing is not None:
                player = Student(self._made(standing.best), self._teacher)
            batches.append(visited(player, learning.make_env, range(begin, begin + learning.episodes), rng))
        joined = [] if states is None else [states]
        for inputs, masks in batches:
            is_held = rng.random(len(inputs[0])) < _HELD
            is_held[rng.integers(len(is_held))] = True
            if masks is None or not self._num_masks:
                masks = np.ones((len(is_held), self._num_masks), np.bool_)
            joined.append(States(inputs, is_held, masks))
        return _joined(joined)


def _joined(batches: Sequence[States]) -> States:
    columns = zip(*(batch.inputs for batch in batches), strict=True)
    return States(
        [np.concatenate(column) for column in columns],
        np.concatenate([batch.is_held for batch in batches]),
        np.concatenate([batch.is_allowed for batch in batches]),
    )


def _key(policy: "QuantizedPolicy", samples: Mapping[str, Floats], learning: Learning) -> str:
    """Return what all results depend on, hashed."""
    numbers = [learning.rounds, learning.steps, learning.episodes, learning.seed]
    played = None if learning.make_env is None else spaces(learning.make_env).name
    described = [_FORMAT, policy.scheme.to_json(), head_to_json(policy.head), policy.preprocessing.to_json()]
    digest = hashlib.sha256(json.dumps([numbers, played, *described]).encode())
    for data in (policy.tflite, policy.float_tflite, *(v.tobytes() for v in samples.values())):
        digest.update(sha256(data).encode())
    return digest.hexdigest()


def _rates(steps: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """Return what learning rates are multiplied by: they rise, and fall along half a cosine."""
    warm_up = min(_WARM_UP, max(total // 5, 1))
    rising = np.minimum(1.0, (steps + 1) / warm_up)
    return np.asarray(rising * 0.5 * (1.0 + np.cos(np.pi * steps / total)))


def _flat(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float32).reshape(len(values), -1)
