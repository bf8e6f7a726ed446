"""Environments by name or by callable; whatever goes wrong in one becomes one sentence."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeqrl.errors import EdgeQRLError, EnvironmentFailure, MissingToolError, UsageError, require_name

if TYPE_CHECKING:
    import gymnasium

MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # module:function
_COLON_IN_STRING = re.compile(r'[^"]:')  # of JSON text: after a key, a quotation mark precedes the colon
_PIP_INSTALL = re.compile(r"pip install [\w\-\[\]\"'.,=<>]+")


@dataclass(frozen=True)
class EnvironmentSpec:
    """How to make an environment anew, again and again; `spec.make` is a `MakeEnv`.

    `env_id` is a registered ID, or `module:ID` to import the module that registers it. Each wrapper is
    `module:function`, called with the environment. Both import code, from the current folder too.
    """

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.env_id:
            raise UsageError("The environment ID is empty; give one such as 'CartPole-v1'.")
        for wrapper in self.wrappers:
            if not _REFERENCE.fullmatch(wrapper):
                raise UsageError(f"Wrapper '{wrapper}' is not of the form module:function.")
        try:
            json.dumps(dict(self.kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The environment's arguments must be plain JSON values: {error}.") from None

    def make(self) -> "gymnasium.Env[Any, Any]":
        """Make a fresh environment.

        Raises UsageError for an unknown ID, MissingToolError for a library that is not installed, and
        EnvironmentFailure when the environment's own code fails.
        """
        env = _make_registered(self.env_id, self.kwargs)
        for wrapper in self.wrappers:
            env = _wrap(env, wrapper)
        return env

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON values."""
        return {"env_id": self.env_id, "kwargs": dict(self.kwargs), "wrappers": list(self.wrappers)}

    @classmethod
    def from_json(cls, data: Any, *, is_trusted: bool = False) -> "EnvironmentSpec":
        """Invert `to_json`.

        Unless `is_trusted`, whatever would import code is refused: a file somebody sent must not choose
        what runs here, only the command line may.
        """
        try:
            env_id, kwargs, wrappers = data["env_id"], data["kwargs"], data["wrappers"]
        except (KeyError, TypeError):
            raise UsageError("An environment needs the keys env_id, kwargs and wrappers.") from None
        is_sound = isinstance(env_id, str) and isinstance(kwargs, dict) and isinstance(wrappers, list)
        if not is_sound or not all(isinstance(wrapper, str) for wrapper in wrappers):
            raise UsageError("env_id must be a string, kwargs an object and wrappers a list of strings.")
        if not is_trusted and (wrappers or _COLON_IN_STRING.search(json.dumps([env_id, kwargs]))):
            raise UsageError(
                f"This file asks for code to be imported for environment '{env_id}'; if you trust it, say so "
                "on the command line with --env module:ID and --wrapper module:function."
            )
        return cls(env_id, kwargs, tuple(wrappers))


@dataclass(frozen=True, eq=False)
class EnvironmentSpaces:
    """What an environment takes and gives."""

    observation_space: "gymnasium.Space[Any]"
    action_space: "gymnasium.Space[Any]"
    name: str  # its ID where it has one, else the name of its class
    max_episode_steps: int | None  # the time limit, where its registration states one
    has_action_masks: bool


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
        )
    except Exception as error:
        raise EnvironmentFailure(f"Environment '{name}' failed in reset(): {one_line(error)}.") from error
    finally:
        env.close()


def open_environment(make_env: MakeEnv) -> "gymnasium.Env[Any, Any]":
    """Call `make_env`, and check that what comes back is an environment a network can act in."""
    import gymnasium

    try:
        env = make_env()
    except EdgeQRLError:
        raise
    except Exception as error:
        raise EnvironmentFailure(f"The environment cannot be made: {one_line(error)}.") from error
    if not isinstance(env, gymnasium.Env):
        raise UsageError(
            f"make_env returned {type(env).__name__}, which is not a gymnasium.Env; if it belongs to the old "
            "gym library, wrap it with shimmy."
        )
    _require_arrays(env)
    return env


def environment_name(env: "gymnasium.Env[Any, Any]") -> str:
    """Return the environment's ID, or the name of its class if it is not registered."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


MaskReader = Callable[["gymnasium.Env[Any, Any]", Mapping[str, Any]], Any]


def mask_reader(env: "gymnasium.Env[Any, Any]", info: Mapping[str, Any]) -> MaskReader | None:
    """Return what reads an action mask [num_actions] from `(env, info)`, or None if there are none.

    Two conventions are known: `info["action_mask"]` (Gymnasium's toy text environments) and a method
    `action_masks()` (sb3-contrib). Only discrete actions have masks.
    """
    import gymnasium

    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        return None
    if "action_mask" in info:
        return lambda _, latest: latest["action_mask"]
    if env.has_wrapper_attr("action_masks"):
        return lambda current, _: current.get_wrapper_attr("action_masks")()
    return None


def one_line(error: BaseException) -> str:
    """Return `error` as one short line without a full stop, for use inside a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name


def _require_arrays(env: "gymnasium.Env[Any, Any]") -> None:
    if env.observation_space.shape is None:
        raise UsageError(
            f"Observations of environment '{environment_name(env)}' are not one array but a "
            f"{type(env.observation_space).__name__}; add --wrapper gymnasium.wrappers:FlattenObservation."
        )
    if env.action_space.shape is None:
        raise UsageError(
            f"Actions of environment '{environment_name(env)}' are not one array but a "
            f"{type(env.action_space).__name__}; wrap it so that it takes Discrete or Box actions."
        )


def _make_registered(env_id: str, kwargs: Mapping[str, Any]) -> "gymnasium.Env[Any, Any]":
    import gymnasium

    module, _, registered = env_id.rpartition(":")
    if module:
        _import_for_user(module, f"environment '{env_id}'")
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
        raise EnvironmentFailure(f"Environment '{registered}' cannot be made: {one_line(error)}.") from error
    except Exception as error:
        raise EnvironmentFailure(f"Environment '{registered}' cannot be made: {one_line(error)}.") from error


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
        raise EnvironmentFailure(f"Wrapper '{wrapper}' failed: {one_line(error)}.") from error
    if not isinstance(wrapped, gymnasium.Env):
        raise UsageError(f"Wrapper '{wrapper}' returned {type(wrapped).__name__}, not an environment.")
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
        raise EnvironmentFailure(f"Module '{module}' for {purpose} fails: {one_line(error)}.") from error


def _missing_library(purpose: str, error: Exception) -> MissingToolError:
    commands = _PIP_INSTALL.findall(str(error))
    if commands:
        return MissingToolError(f"A library for {purpose} is not installed; run: {commands[-1]}")
    name = error.name if isinstance(error, ImportError) else None
    cure = f"run: pip install {name.partition('.')[0]}" if name else "install it"
    return MissingToolError(f"A library for {purpose} is not installed ({one_line(error)}); {cure}.")
