"""Gymnasium's wrappers: which belong to the environment, which to the policy on the board, which to neither.

At and below `OrderEnforcing`, which `gymnasium.make` puts around every registered environment, everything is
the environment. Above it every wrapper is one of these:

neutral      changes neither observations nor actions, as TimeLimit and all that change rewards
environment  is part of the world: the board gets what it returns, as of AtariPreprocessing or StickyAction
absorbed     is taken off, and the policy does the same on the board, as for FrameStackObservation
refused      would change observations or actions unnoticed; the sentence says what to do instead
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.absorbed import (
    Absorbed,
    ActionTransform,
    Affine,
    FrameShape,
    Normalization,
    Normalize,
    Stack,
    Step,
)
from edgeqrl.errors import UsageError
from edgeqrl.network.images import Grayscale, ImageStep, Reshape, Resize
from edgeqrl.network.parts import ObservationPart
from edgeqrl.spaces import is_one_array, observation_parts

if TYPE_CHECKING:
    import gymnasium

    Env = gymnasium.Env[Any, Any]

NEUTRAL, ENVIRONMENT, ABSORBED, REFUSED = "neutral", "environment", "absorbed", "refused"

ADDED_BY = "_edgeqrl_added_by"  # attribute: the --wrapper that put a wrapper there

_KEEP = (
    "if it belongs to the environment, and the board gets what it returns, say so with --keep-wrapper {name}"
)
_IN_ENVIRONMENT = (
    "AtariPreprocessing",
    "DelayObservation",
    "MaxAndSkipObservation",
    "AddRenderObservation",
    "FilterObservation",
    "JaxToNumpy",
)
_ON_ACTIONS = ("StickyAction", "RepeatAction")  # of the environment too; observations pass unchanged
_NEUTRAL = (
    "TimeLimit",
    "Autoreset",
    "PassiveEnvChecker",
    "OrderEnforcing",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "HumanRendering",
    "RenderCollection",
    "AddWhiteNoise",
    "ObstructView",
    "NormalizeReward",
    "TransformReward",
    "ClipReward",
)
_ABSORBED = (
    "FrameStackObservation",
    "RescaleObservation",
    "NormalizeObservation",
    "FlattenObservation",
    "ReshapeObservation",
    "DtypeObservation",
    "GrayscaleObservation",
    "ResizeObservation",
    "ClipAction",
    "RescaleAction",
)
_ARRAYS = "environments are played with NumPy arrays; leave it out"
_REFUSED = {
    "TimeAwareObservation": "a board counts no steps; make the time a part of the environment's observation",
    "DiscretizeObservation": "a board does not sort observations into bins; train on the numbers themselves",
    "DiscretizeAction": "a board turns no indices into numbers; let the environment take Discrete actions",
    "TransformObservation": "its function is unknown to a board; use RescaleObservation or the like instead",
    "TransformAction": "its function is unknown to a board; use RescaleAction or ClipAction instead",
    "ArrayConversion": _ARRAYS,
    "JaxToTorch": _ARRAYS,
    "NumpyToTorch": _ARRAYS,
}
_OTHERS = {  # of other libraries, module:class
    "stable_baselines3.common.monitor:Monitor": NEUTRAL,
    **dict.fromkeys(
        (
            f"stable_baselines3.common.atari_wrappers:{name}"
            for name in (
                "NoopResetEnv",
                "FireResetEnv",
                "EpisodicLifeEnv",
                "MaxAndSkipEnv",
                "StickyActionEnv",
                "WarpFrame",
            )
        ),
        ENVIRONMENT,
    ),
}
_HOT = ("step", "reset", "observation", "action", "observation_space", "action_space")


@dataclass(frozen=True)
class Treatment:
    """What becomes of a wrapper, and where it is refused, why."""

    kind: str
    reason: str = ""


def treatment_of(wrapper_class: type) -> Treatment:
    """Return what becomes of wrappers of this class: as of the known one, unless it acts otherwise."""
    known = known_class(wrapper_class)
    changed = [name for name in _HOT if getattr(wrapper_class, name, None) is not getattr(known, name, None)]
    if changed:
        own = {name for base in wrapper_class.__mro__ if not _is_gymnasiums(base) for name in vars(base)}
        told = [name for name in changed if name in own] or changed
        return Treatment(REFUSED, f"it has {_listed(told)} of its own")
    treatment = _exact_treatment(known)
    assert treatment is not None
    return treatment


def known_class(wrapper_class: type) -> type:
    """Return the class that is known here: this one, or the nearest that it is made of."""
    return next(base for base in wrapper_class.__mro__ if _exact_treatment(base) is not None)


def _exact_treatment(wrapper_class: type) -> Treatment | None:
    import gymnasium

    if wrapper_class.__module__.startswith("gymnasium.wrappers."):
        name = wrapper_class.__name__
        if name in (*_IN_ENVIRONMENT, *_ON_ACTIONS):
            return Treatment(ENVIRONMENT)
        for kind, names in ((NEUTRAL, _NEUTRAL), (ABSORBED, _ABSORBED)):
            if name in names:
                return Treatment(kind)
        if name in _REFUSED:
            return Treatment(REFUSED, _REFUSED[name])
    other = _OTHERS.get(f"{wrapper_class.__module__}:{wrapper_class.__qualname__}")
    if other is not None:
        return Treatment(other)
    return Treatment(NEUTRAL) if wrapper_class in (gymnasium.Wrapper, gymnasium.RewardWrapper) else None


def absorb(env: "Env", keep: Sequence[str] = ()) -> tuple["Env", Absorbed]:
    """Take off `env` the wrappers that the policy repeats on the board; return what is left, and they.

    `keep` names wrappers, `module:class` or the `module:function` that put them there, which belong to the
    environment whatever they do. Changes `env`: its wrappers are linked anew. Raises UsageError for wrappers
    that would change observations or actions unnoticed.
    """
    current, above = _split(env)
    walk = _Walk(env.observation_space, env.action_space, current)
    used: set[str] = set()
    for wrapper in above:
        kept = [name for name in keep if _is_named(wrapper, name)]
        used.update(kept)
        walk.meet(wrapper, is_kept=bool(kept))
    missing = [name for name in keep if name not in used]
    if missing:
        raise UsageError(
            f"--keep-wrapper {missing[0]} names no wrapper above the environment; there is: "
            f"{', '.join(_name(wrapper) for wrapper in above) or 'none'}."
        )
    return walk.result()


@dataclass
class _Walk:
    """From the environment outwards: what is left, and what was taken off so far."""

    observation_space: "gymnasium.Space[Any]"
    action_space: "gymnasium.Space[Any]"
    current: "Env"
    part: ObservationPart | None = None
    frame: FrameShape = field(default_factory=lambda: FrameShape(()))
    steps: list[Step] = field(default_factory=list)
    action: ActionTransform | None = None
    names: list[str] = field(default_factory=list)
    is_widened: bool = False  # bytes that are no longer treated alike

    def meet(self, wrapper: Any, *, is_kept: bool) -> None:
        """Leave the wrapper where it is, or take it off."""
        treatment = Treatment(ENVIRONMENT) if is_kept else treatment_of(type(wrapper))
        replaced = [name for name in ("step", "reset") if name in vars(wrapper)]
        if replaced and not is_kept:
            treatment = Treatment(REFUSED, f"it has {_listed(replaced)} of its own")
        if treatment.kind == REFUSED:
            raise _refusal(wrapper, treatment.reason)
        if treatment.kind == ABSORBED and self._absorb(wrapper):
            self.names.append(type(wrapper).__name__)
            return
        if treatment.kind == NEUTRAL:
            self._require_same_spaces(wrapper)
        elif treatment.kind == ENVIRONMENT:
            self._require_nothing_under(wrapper, is_kept)
        if wrapper.env is not self.current:
            wrapper.env = self.current
            wrapper._cached_spec = None
        self.current = wrapper

    def result(self) -> tuple["Env", Absorbed]:
        """Return the environment that is left, and what was absorbed."""
        import gymnasium

        env, part = self.current, self.part
        if part is not None and part.one_hot is None and not self.frame.image:
            if self.is_widened:
                env = gymnasium.wrappers.DtypeObservation(env, np.float32)
            if self.frame.shape != part.shape:
                env = gymnasium.wrappers.ReshapeObservation(env, self.frame.shape)
            (part,) = observation_parts(env.observation_space)
        absorbed = Absorbed(
            self.observation_space, self.action_space, tuple(self.steps), part, self.action, tuple(self.names)
        )
        if not any(isinstance(step, Normalize) and step.statistics is None for step in self.steps):
            absorbed.preprocessing()  # refuses now what cannot be repeated
        return env, absorbed

    def _absorb(self, wrapper: Any) -> bool:
        """Take a wrapper off; return whether it must go, or may stay since it only lays numbers out anew."""
        kind = known_class(type(wrapper)).__name__
        if kind in ("ClipAction", "RescaleAction"):
            self._take_action(wrapper, kind)
            return True
        inner = wrapper.env.observation_space
        if kind in ("FlattenObservation", "ReshapeObservation") and not self.steps:
            parts = observation_parts(inner)
            if not any(part.one_hot for part in parts):
                return False  # the same numbers in the same order
            if not is_one_array(inner):
                raise _refusal(
                    wrapper, "it joins one-hot numbers with others; give the network an input a part"
                )
        if kind == "DtypeObservation" and not self.steps and observation_parts(inner)[0].one_hot:
            return False  # a class becomes a number
        if not is_one_array(inner):
            raise _refusal(wrapper, "the observations are several parts; put it under the parts' wrapper")
        if self.part is None:
            (self.part,) = observation_parts(inner)
            self.frame = FrameShape(self.part.shape)
        self._take_observation(wrapper, kind)
        return True

    def _take_observation(self, wrapper: Any, kind: str) -> None:
        if kind in ("GrayscaleObservation", "ResizeObservation"):
            self._take_image(wrapper, kind)
        elif kind == "FrameStackObservation":
            self._take_stack(wrapper)
        elif kind == "RescaleObservation":
            self.steps.append(_rescaling(wrapper))
            self._widen(self.steps[-1])
        elif kind == "NormalizeObservation":
            self.steps.append(Normalize(_statistics_of(wrapper), kind))
            self.is_widened |= self._is_bytes
        elif kind == "DtypeObservation":
            _require_lossless(wrapper)
            self._take(Reshape(tuple(wrapper.observation_space.shape)))
        else:
            self._take(Reshape(tuple(wrapper.observation_space.shape)))

    def _take_stack(self, wrapper: Any) -> None:
        if wrapper.padding_type not in ("reset", "zero"):
            raise _refusal(wrapper, "it pads with an observation of its own; use padding_type='reset'")
        inner = wrapper.env.observation_space
        if wrapper.padding_type == "zero" and not inner.contains(np.zeros(inner.shape, inner.dtype)):
            raise _refusal(
                wrapper, "zero is no observation, so it pads with others; use padding_type='reset'"
            )
        if wrapper.stack_size == 1:
            self._take(Reshape(tuple(wrapper.observation_space.shape)))
            return
        if self.frame.num_frames > 1:
            raise _refusal(wrapper, "there are two frame stacks, one on the other; use one with more frames")
        padding = "first" if wrapper.padding_type == "reset" else "zero"
        self._take(Stack(int(wrapper.stack_size), padding))

    def _take_image(self, wrapper: Any, kind: str) -> None:
        """Make images of bytes grey or smaller; Gymnasium sees to it that they are bytes from 0 to 255."""
        if self.frame.num_frames > 1 or not self._is_bytes:
            raise _refusal(wrapper, "it must lie under frame stacks and conversions to other numbers")
        step = Grayscale(bool(wrapper.keep_dim)) if kind.startswith("Gray") else Resize(*wrapper.shape)
        try:
            self._take(step)
        except ValueError as error:
            raise _refusal(wrapper, str(error)) from None

    def _take(self, step: Stack | ImageStep) -> None:
        self.steps.append(step)
        if isinstance(step, Stack) or (self.part is not None and self.part.one_hot is None):
            self.frame.take(step)  # classes keep their shape

    def _widen(self, step: Step) -> None:
        """Note that bytes are scaled each by its own numbers, so that one table cannot hold it."""
        if self._is_bytes and isinstance(step, Affine):
            self.is_widened |= len(np.unique(step.gain)) > 1 or len(np.unique(step.offset)) > 1

    @property
    def _is_bytes(self) -> bool:
        return self.part is not None and self.part.source == "uint8"

    def _take_action(self, wrapper: Any, kind: str) -> None:
        space = wrapper.env.action_space
        if not np.issubdtype(space.dtype, np.floating):
            raise _refusal(wrapper, "the actions are whole numbers")
        size = int(np.prod(space.shape))
        if kind == "ClipAction":
            bounds = (tuple(np.ravel(end).astype(np.float64).tolist()) for end in (space.low, space.high))
            taken = ActionTransform((1.0,) * size, (0.0,) * size, *bounds)
            _require_function(wrapper, space.shape, lambda values: np.clip(values, space.low, space.high))
        else:
            offset, gain = _affine_of(wrapper, space.shape)
            identity = ActionTransform.identity(size)
            taken = ActionTransform(tuple(gain.tolist()), tuple(offset.tolist()), identity.low, identity.high)
        self.action = taken.after(self.action or ActionTransform.identity(size))

    def _require_nothing_under(self, wrapper: Any, is_kept: bool) -> None:
        """Refuse a wrapper of the environment above one that goes to the board, where their order matters."""
        kind = known_class(type(wrapper)).__name__
        is_skipping = kind == "RepeatAction" and self.frame.num_frames > 1  # the stack meets every frame
        is_on_actions = not is_kept and kind in _ON_ACTIONS and not is_skipping
        under = self.names if is_kept or (self.steps and not is_on_actions) else []
        if under:
            raise UsageError(
                f"Wrapper {type(wrapper).__name__} belongs to the environment, but lies above {under[0]}, "
                "which the policy repeats on the board; put it below, or say with --keep-wrapper that both "
                "belong to the environment."
            )

    def _require_same_spaces(self, wrapper: Any) -> None:
        for name in ("observation_space", "action_space"):
            if getattr(wrapper, name) != getattr(wrapper.env, name):
                raise _refusal(wrapper, f"it states another {name.replace('_', ' ')}")


def _split(env: "Env") -> tuple["Env", list[Any]]:
    """Return the environment, and the wrappers above it, the innermost first."""
    import gymnasium

    above: list[Any] = []
    while isinstance(env, gymnasium.Wrapper) and type(env) is not gymnasium.wrappers.OrderEnforcing:
        above.append(env)
        env = env.env
    return env, above[::-1]


def _rescaling(wrapper: Any) -> Affine:
    space = wrapper.env.observation_space
    if not np.issubdtype(space.dtype, np.floating):
        cure = "put DtypeObservation(env, np.float32) under it"
        raise _refusal(wrapper, f"its factors are rounded to {space.dtype}, as the observations are; {cure}")
    offset, gain = _affine_of(wrapper, space.shape)
    return Affine(gain, offset, type(wrapper).__name__)


def _affine_of(wrapper: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return f(0) and f(1) - f(0) of the wrapper's affine function of each element, flattened."""
    offset = np.asarray(wrapper.func(np.zeros(shape)), np.float64)
    gain = np.asarray(wrapper.func(np.ones(shape)), np.float64) - offset
    _require_function(wrapper, shape, lambda values: gain * values + offset)
    return offset.ravel(), gain.ravel()


def _require_function(
    wrapper: Any, shape: tuple[int, ...], known: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> None:
    """Refuse a subclass that has put another function in the place of its class's."""
    for values in np.linspace(-9.0, 9.0, 3 * int(np.prod(shape))).reshape(3, *shape):  # no two alike
        wanted, found = known(values), np.asarray(wrapper.func(values))
        if not np.allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max()):
            raise _refusal(wrapper, "its function is another than that of its class in Gymnasium")


def _statistics_of(wrapper: Any) -> Normalization | None:
    """Return the wrapper's frozen statistics, or None if they go on or are of nothing."""
    found = wrapper.obs_rms
    if wrapper.update_running_mean or found.count < 1.0:
        return None
    mean, var = (tuple(np.ravel(v).astype(np.float64).tolist()) for v in (found.mean, found.var))
    return Normalization(mean, var, float(wrapper.epsilon))


def _require_lossless(wrapper: Any) -> None:
    old, new = wrapper.env.observation_space.dtype, wrapper.observation_space.dtype
    if new not in (np.dtype(np.float32), np.dtype(np.float64)) and not np.can_cast(old, new, "safe"):
        raise _refusal(wrapper, f"it rounds {old} to {new}; use np.float32")


def _refusal(wrapper: Any, reason: str) -> UsageError:
    keep = _KEEP.format(name=_name(wrapper))
    return UsageError(f"Wrapper {type(wrapper).__name__} cannot go to the board: {reason}; {keep}.")


def _name(wrapper: Any) -> str:
    """Return what --keep-wrapper calls a wrapper."""
    cls = type(wrapper)
    module = "gymnasium.wrappers" if cls.__module__.startswith("gymnasium.wrappers.") else cls.__module__
    return f"{module}:{cls.__qualname__}"


def _is_named(wrapper: Any, name: str) -> bool:
    module, _, path = name.partition(":")
    if name in (_name(wrapper), vars(wrapper).get(ADDED_BY)):
        return True
    found: Any = sys.modules.get(module)
    for step in path.split("."):
        found = getattr(found, step, None)
    return found is type(wrapper)


def _is_gymnasiums(base: type) -> bool:
    return base.__module__.partition(".")[0] in ("gymnasium", "typing", "builtins")


def _listed(names: Sequence[str]) -> str:
    shown = [f"{name}()" if not name.endswith("_space") else name for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
