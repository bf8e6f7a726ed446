"""Environments by name or by callable; whatever goes wrong in one becomes one sentence."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqrl.absorbed import Absorbed
from edgeqrl.errors import (
    EdgeQRLError,
    EnvironmentFailure,
    MissingToolError,
    UsageError,
    named_line,
    require_name,
)
from edgeqrl.mujoco_warnings import say_once
from edgeqrl.spaces import observation_parts, require_actions
from edgeqrl.wrappers import ADDED_BY, absorb

if TYPE_CHECKING:
    import gymnasium

MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # module:function
_COLON_IN_STRING = re.compile(r'[^"]:')  # of JSON text: after a key, a quotation mark precedes the colon
_ABSORBED = "_edgeqrl_absorbed"  # attribute of an environment: what was taken off it
_PIP_INSTALL = re.compile(r"pip install [\w\-\[\]\"'.,=<>]+")


@dataclass(frozen=True)
class EnvironmentSpec:
    """How to make an environment anew, again and again; `spec.make` is a `MakeEnv`.

    `env_id` is a registered ID, or `module:ID` to import the module that registers it. Each wrapper is
    `module:function`, called with the environment. Both import code, from the current folder too. What the
    wrappers do to observations and actions is taken off again, for the policy to do: see `spaces`.
    """

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    keep_wrappers: tuple[str, ...] = ()  # what of them belongs to the environment, see wrappers.absorb

    def __post_init__(self) -> None:
        if not self.env_id:
            raise UsageError("The environment ID is empty; give one such as 'CartPole-v1'.")
        for wrapper in (*self.wrappers, *self.keep_wrappers):
            if not _REFERENCE.fullmatch(wrapper):
                raise UsageError(f"Wrapper '{wrapper}' is not of the form module:function.")
        try:
            json.dumps(dict(self.kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The environment's arguments must be plain JSON values: {error}.") from None

    def make(self) -> "gymnasium.Env[Any, Any]":
        """Make a fresh environment, without the wrappers that a policy repeats on the board.

        Raises UsageError for an unknown ID or a wrapper that is refused, MissingToolError for a library that
        is not installed, and EnvironmentFailure when the environment's own code fails.
        """
        env = _make_registered(self.env_id, self.kwargs)
        for wrapper in self.wrappers:
            env = _wrap(env, wrapper)
        return _bare(env, self.keep_wrappers)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON values."""
        data = {"env_id": self.env_id, "kwargs": dict(self.kwargs), "wrappers": list(self.wrappers)}
        return data | ({"keep_wrappers": list(self.keep_wrappers)} if self.keep_wrappers else {})

    @classmethod
    def from_json(cls, data: Any, *, is_trusted: bool = False) -> "EnvironmentSpec":
        """Invert `to_json`.

        Unless `is_trusted`, whatever would import code is refused: a file somebody sent must not choose
        what runs here, only the command line may.
        """
        try:
            env_id, kwargs, wrappers = data["env_id"], data["kwargs"], data["wrappers"]
            kept = data.get("keep_wrappers", [])
        except (KeyError, TypeError, AttributeError):
            raise UsageError("An environment needs the keys env_id, kwargs and wrappers.") from None
        is_sound = isinstance(env_id, str) and isinstance(kwargs, dict) and isinstance(wrappers, list)
        is_sound = is_sound and isinstance(kept, list)
        if not is_sound or not all(isinstance(wrapper, str) for wrapper in (*wrappers, *kept)):
            raise UsageError("env_id must be a string, kwargs an object and wrappers a list of strings.")
        if not is_trusted and (wrappers or _COLON_IN_STRING.search(json.dumps([env_id, kwargs]))):
            raise UsageError(
                f"This file asks for code to be imported for environment '{env_id}'; if you trust it, say so "
                "on the command line with --env module:ID and --wrapper module:function."
            )
        return cls(env_id, kwargs, tuple(wrappers), tuple(kept))


@dataclass(frozen=True, eq=False)
class EnvironmentSpaces:
    """What an environment takes and gives: raw, where a policy is to repeat wrappers on the board."""

    observation_space: "gymnasium.Space[Any]"
    action_space: "gymnasium.Space[Any]"
    name: str  # its ID where it has one, else the name of its class
    max_episode_steps: int | None  # the time limit, where its registration states one
    has_action_masks: bool
    absorbed: Absorbed  # what was taken off; its spaces are those that the agent was trained in


def spaces(make_env: MakeEnv) -> EnvironmentSpaces:
    """Make one environment, reset it, and return what it takes and gives."""
    env = open_environment(make_env)
    name = environment_name(env)
    try:
        _, info = env.reset(seed=0)
        return EnvironmentSpaces(
            env.observation_space,
            env.action_space,
            name,
            None if env.spec is None else env.spec.max_episode_steps,
            mask_reader(env, info) is not None,
            getattr(env, _ABSORBED, None) or Absorbed(env.observation_space, env.action_space),
        )
    except EdgeQRLError:
        raise
    except Exception as error:
        raise EnvironmentFailure(f"Environment '{name}' failed in reset(): {named_line(error)}.") from error
    finally:
        env.close()


def bare_maker(make_env: MakeEnv, keep_wrappers: tuple[str, ...] = ()) -> MakeEnv:
    """Return what makes the same environments without the wrappers that a policy repeats on the board.

    An `EnvironmentSpec` does that by itself. What it makes raises UsageError for wrappers that would change
    observations or actions unnoticed; `keep_wrappers` names those that belong to the environment.
    """
    return lambda: _bare(open_environment(make_env), keep_wrappers)


def open_environment(make_env: MakeEnv) -> "gymnasium.Env[Any, Any]":
    """Call `make_env`, and check that what comes back is an environment a network can act in."""
    import gymnasium

    try:
        env = make_env()
    except EdgeQRLError:
        raise
    except Exception as error:
        raise EnvironmentFailure(f"The environment cannot be made: {named_line(error)}.") from error
    if not isinstance(env, gymnasium.Env):
        raise UsageError(
            f"make_env returned {type(env).__name__}, which is not a gymnasium.Env; if it belongs to the old "
            "gym library, wrap it with shimmy."
        )
    observation_parts(env.observation_space)  # refuses what is no array
    require_actions(env.action_space, environment_name(env))
    return env


def environment_name(env: "gymnasium.Env[Any, Any]") -> str:
    """Return the environment's ID, or the name of its class if it is not registered."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


MaskReader = Callable[["gymnasium.Env[Any, Any]", Mapping[str, Any]], Any]


def mask_reader(env: "gymnasium.Env[Any, Any]", info: Mapping[str, Any]) -> MaskReader | None:
    """Return what reads an action mask from `(env, info)`, or None if there are none.

    Two conventions are known: `info["action_mask"]` (Gymnasium's toy text environments) and a method
    `action_masks()` (sb3-contrib). Discrete actions have masks [num_actions]; those of MultiDiscrete have one
    for each choice, one after another [sum of their counts], or in a tuple. Raises UsageError for masks of
    MultiBinary actions.
    """
    import gymnasium

    space = env.action_space
    found: MaskReader | None = None
    if isinstance(space, gymnasium.spaces.Box):
        return None
    if "action_mask" in info:
        found = _mask_of_info
    elif env.has_wrapper_attr("action_masks"):
        found = _mask_of_method
    if found is not None and isinstance(space, gymnasium.spaces.MultiBinary):
        raise UsageError(
            f"Environment '{environment_name(env)}' masks MultiBinary actions, which no policy here obeys; "
            "let it take MultiDiscrete([2, ...]) actions instead."
        )
    return found


def _mask_of_info(_: "gymnasium.Env[Any, Any]", info: Mapping[str, Any]) -> Any:
    mask = info["action_mask"]
    return np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple | list) else mask


def _mask_of_method(env: "gymnasium.Env[Any, Any]", _: Mapping[str, Any]) -> Any:
    return env.get_wrapper_attr("action_masks")()


def _bare(env: "gymnasium.Env[Any, Any]", keep_wrappers: tuple[str, ...]) -> "gymnasium.Env[Any, Any]":
    try:
        bare, absorbed = absorb(env, keep_wrappers)
    except BaseException:
        env.close()
        raise
    setattr(bare, _ABSORBED, absorbed)
    return bare


def _make_registered(env_id: str, kwargs: Mapping[str, Any]) -> "gymnasium.Env[Any, Any]":
    import gymnasium

    module, _, registered = env_id.rpartition(":")
    if module:
        _import_for_user(module, f"environment '{env_id}'")
    if registered.startswith("edgeqrl/"):
        importlib.import_module("edgeqrl.zoo.training.tasks")  # registers them
    _register_plugin(registered.partition("/")[0] if "/" in registered else "")
    say_once(getattr(gymnasium.registry.get(registered), "entry_point", None))
    try:
        # The checker would run anew in every episode, print, and cost time; rollout() does its own checks.
        return gymnasium.make(registered, **{"disable_env_checker": True, **kwargs})
    except gymnasium.error.NamespaceNotFound:
        namespace = registered.partition("/")[0]
        raise UsageError(
            f"There is no environment '{registered}', because nothing has registered '{namespace}/'; install "
            f"its package and name the module that registers it, as in 'module:{registered}'."
        ) from None
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_library(f"environment '{registered}'", error) from error
    except gymnasium.error.Error as error:
        require_name("environment", registered, gymnasium.registry)
        raise EnvironmentFailure(
            f"Environment '{registered}' cannot be made: {named_line(error)}."
        ) from error
    except Exception as error:
        raise EnvironmentFailure(
            f"Environment '{registered}' cannot be made: {named_line(error)}."
        ) from error


def _register_plugin(namespace: str) -> None:
    """Let an installed package register its `namespace/`, where it offers that and has not done so."""
    import gymnasium

    if not namespace or any(spec.namespace == namespace for spec in gymnasium.registry.values()):
        return
    for entry_point in entry_points(group="gymnasium.envs", name=namespace):
        try:
            entry_point.load()()
        except Exception as error:
            raise EnvironmentFailure(
                f"The environments of '{namespace}/' cannot be registered: {named_line(error)}."
            ) from error


def _wrap(env: "gymnasium.Env[Any, Any]", wrapper: str) -> "gymnasium.Env[Any, Any]":
    import gymnasium

    module, _, path = wrapper.partition(":")
    function: Any = _import_for_user(module, f"wrapper '{wrapper}'")
    for name in path.split("."):
        if not hasattr(function, name):
            raise UsageError(f"Wrapper '{wrapper}': module '{module}' has no '{path}'.")
        function = getattr(function, name)
    try:
        wrapped = function(env)
    except ImportError as error:
        raise _missing_library(f"wrapper '{wrapper}'", error) from error
    except Exception as error:
        raise EnvironmentFailure(f"Wrapper '{wrapper}' failed: {named_line(error)}.") from error
    if not isinstance(wrapped, gymnasium.Env):
        raise UsageError(f"Wrapper '{wrapper}' returned {type(wrapped).__name__}, not an environment.")
    added: Any = wrapped
    while added is not env and isinstance(added, gymnasium.Wrapper):
        setattr(added, ADDED_BY, wrapper)
        added = added.env
    return wrapped


def _import_for_user(module: str, purpose: str) -> Any:
    """Import a module that the user named; it may lie in the current folder, as for `python -m`."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no installed module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise UsageError(
                f"There is no module '{error.name}' for {purpose}; install it, or run where it lies."
            ) from None
        raise _missing_library(purpose, error) from error
    except Exception as error:
        raise EnvironmentFailure(f"Module '{module}' for {purpose} fails: {named_line(error)}.") from error


def _missing_library(purpose: str, error: Exception) -> MissingToolError:
    commands = _PIP_INSTALL.findall(str(error))
    if commands:
        return MissingToolError(f"A library for {purpose} is not installed; run: {commands[-1]}")
    name = error.name if isinstance(error, ImportError) else None
    cure = f"run: pip install {name.partition('.')[0]}" if name else "install it"
    return MissingToolError(f"A library for {purpose} is not installed ({named_line(error)}); {cure}.")
