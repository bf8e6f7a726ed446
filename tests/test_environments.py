"""Environments by name: what can be wrong with a name, and what the sentence must say."""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import edgeqrl.environments as module
from edgeqrl.environments import EnvironmentSpec, open_environment, spaces
from edgeqrl.errors import EdgeQRLError, EnvironmentFailure, MissingToolError, UsageError
from tests.toys import ChaosEnv, InfoMaskEnv, MethodMaskEnv


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module into the current folder, where the user of the command line has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    names: list[str] = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("env_id", "kind", "sentence"),
    [
        ("", UsageError, "is empty"),
        ("CartPole-v99", UsageError, "did you mean 'CartPole-v1'?"),
        ("Cartpole-v1", UsageError, "did you mean 'CartPole-v1'?"),
        ("LunarLander-v2", UsageError, "did you mean 'LunarLander-v3'?"),
        ("not an ID", UsageError, "There is no environment 'not an ID'"),
        ("Nowhere/Pong-v5", UsageError, "name the module that registers it, as in 'module:Nowhere/Pong-v5'"),
        ("no_such_module_x:Pong-v5", UsageError, "There is no module 'no_such_module_x'"),
        ("tests.no_such_module_x:Pong-v5", UsageError, "There is no module 'tests.no_such_module_x'"),
        (":Pong-v5", UsageError, "no environment"),
    ],
)
def test_unknown_environment_is_refused_with_the_nearest_name(
    env_id: str, kind: type[EdgeQRLError], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        EnvironmentSpec(env_id).make()
    assert sentence in str(caught.value)


class Plugin:
    """Stands for an entry point of an installed package."""

    def __init__(self, register: Any) -> None:
        self.load = lambda: register


def test_installed_package_registers_its_namespace_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def register() -> None:
        calls.append("registered")
        gymnasium.register("PluginGames/Chaos-v0", ChaosEnv, max_episode_steps=5)

    calls: list[str] = []
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(module, "entry_points", lambda **what: asked.append(what) or [Plugin(register)])
    spec = EnvironmentSpec("PluginGames/Chaos-v0")
    assert spaces(spec.make).max_episode_steps == 5
    spec.make().close()
    assert calls == ["registered"]
    assert asked == [{"group": "gymnasium.envs", "name": "PluginGames"}]
    gymnasium.registry.pop("PluginGames/Chaos-v0")


def test_package_that_cannot_register_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "entry_points", lambda **_: [Plugin(fail)])
    with pytest.raises(
        EnvironmentFailure, match="'PluginGames/' cannot be registered: ValueError: no licence"
    ):
        EnvironmentSpec("PluginGames/Chaos-v0").make()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            gymnasium.error.DependencyNotInstalled(
                "Box2D is not installed, you can install it by run `pip install swig` followed by "
                '`pip install "gymnasium[box2d]"`'
            ),
            'not installed; run: pip install "gymnasium[box2d]"',
        ),
        (ModuleNotFoundError("No module named 'pybullet.x'", name="pybullet.x"), "run: pip install pybullet"),
        (ImportError("libGL.so.1: cannot open"), "(ImportError: libGL.so.1: cannot open); install it"),
    ],
)
def test_missing_library_comes_with_the_command_that_gets_it(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(MissingToolError) as caught:
        EnvironmentSpec("LunarLander-v3").make()
    assert sentence in str(caught.value)


def test_keyword_arguments_and_wrappers_reach_the_environment() -> None:
    spec = EnvironmentSpec("Pendulum-v1", {"g": 3.5}, ("tests.toys:as_target_env",))
    env = spec.make()
    assert env.unwrapped.g == 3.5  # type: ignore[attr-defined]
    env.reset(seed=1)
    assert [env.step(env.action_space.sample())[3] for _ in range(2)] == [False, True]


def test_wrong_keyword_argument_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match=r"'CartPole-v1' cannot be made: TypeError.*gravitation"):
        EnvironmentSpec("CartPole-v1", {"gravitation": 1}).make()


@pytest.mark.parametrize(
    ("wrapper", "kind", "sentence"),
    [
        ("no_colon", UsageError, "not of the form module:function"),
        ("os:system('x')", UsageError, "not of the form module:function"),
        ("tests.toys:nothing", UsageError, "module 'tests.toys' has no 'nothing'"),
        ("no_such_module_x:f", UsageError, "There is no module 'no_such_module_x' for wrapper"),
        ("tests.toys:returns_nothing", UsageError, "returned NoneType, not an environment"),
        ("tests.toys:raises", EnvironmentFailure, "failed: RuntimeError: no such sensor."),
        ("tests.toys:MODULUS", EnvironmentFailure, "failed: TypeError"),
    ],
)
def test_wrapper_that_cannot_serve_is_refused(wrapper: str, kind: type[EdgeQRLError], sentence: str) -> None:
    with pytest.raises(kind) as caught:
        EnvironmentSpec("CartPole-v1", wrappers=(wrapper,)).make()
    assert sentence in str(caught.value)


def test_module_in_the_current_folder_registers_its_environment(own_module: Any) -> None:
    own_module(
        "own_robot",
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('OwnRobot-v0', CartPoleEnv, max_episode_steps=7)\n"
        "def shorter(env): return gymnasium.wrappers.TimeLimit(env, 3)\n",
    )
    known = spaces(EnvironmentSpec("own_robot:OwnRobot-v0", wrappers=("own_robot:shorter",)).make)
    assert (known.name, known.max_episode_steps) == ("OwnRobot-v0", 3)
    gymnasium.registry.pop("OwnRobot-v0")


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("import no_such_library_y", MissingToolError, "run: pip install no_such_library_y"),
        ("1 / 0", EnvironmentFailure, "ZeroDivisionError"),
        ("def f(:", EnvironmentFailure, "SyntaxError"),
        ("", UsageError, "There is no environment 'OwnRobot-v0'"),
    ],
)
def test_module_that_cannot_be_imported_is_named(
    own_module: Any, text: str, kind: type[EdgeQRLError], sentence: str
) -> None:
    own_module("own_broken", text)
    with pytest.raises(kind) as caught:
        EnvironmentSpec("own_broken:OwnRobot-v0").make()
    assert sentence in str(caught.value)


def test_spaces_say_what_an_environment_takes_and_gives() -> None:
    known = spaces(EnvironmentSpec("CartPole-v1").make)
    assert (known.name, known.max_episode_steps, known.has_action_masks) == ("CartPole-v1", 500, False)
    assert known.observation_space.shape == (4,)
    assert known.action_space == gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make_env", "expected"), [(ChaosEnv, False), (InfoMaskEnv, True), (MethodMaskEnv, True)]
)
def test_spaces_find_both_conventions_of_masks(make_env: Any, expected: bool) -> None:
    known = spaces(lambda: gymnasium.wrappers.TimeLimit(make_env(), 5))
    assert known.has_action_masks is expected
    assert known.name == make_env.__name__
    assert known.max_episode_steps is None or known.max_episode_steps == 5


def with_space(kind: str, space: Any) -> Any:
    env = ChaosEnv()
    setattr(env, f"{kind}_space", space)
    return env


def fail() -> Any:
    raise ValueError("no licence\nfor the simulator")


@pytest.mark.parametrize(
    ("make_env", "kind", "sentence"),
    [
        (fail, EnvironmentFailure, "cannot be made: ValueError: no licence for the simulator."),
        (lambda: 5, UsageError, "returned int, which is not a gymnasium.Env"),
        (
            lambda: with_space("observation", gymnasium.spaces.Text(5)),
            UsageError,
            "Observations cannot go to a board as Text: text is no number",
        ),
        (
            lambda: with_space(
                "observation",
                gymnasium.spaces.Dict(a=gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))),
            ),
            UsageError,
            "The part 'a' of the observations cannot go to a board as Sequence: its length changes",
        ),
        (
            lambda: with_space("action", gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2))),
            UsageError,
            "Discrete, MultiDiscrete, MultiBinary or Box actions",
        ),
    ],
)
def test_callable_that_makes_no_usable_environment_is_refused(
    make_env: Any, kind: type[EdgeQRLError], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        open_environment(make_env)
    assert sentence in str(caught.value)


def test_flattened_states_stay_whole_numbers_for_the_board() -> None:
    spec = EnvironmentSpec("FrozenLake-v1", wrappers=("gymnasium.wrappers:FlattenObservation",))
    known = spaces(spec.make)
    assert known.observation_space == gymnasium.spaces.Discrete(16)
    assert known.absorbed.observation_space.shape == (16,)


def test_specification_survives_json() -> None:
    spec = EnvironmentSpec("CartPole-v1", {"x": [1, 2.5, None, "text"], "map": {"key": {"deep": True}}})
    assert EnvironmentSpec.from_json(spec.to_json()) == spec
    assert "keep_wrappers" not in spec.to_json()
    kept = EnvironmentSpec("CartPole-v1", keep_wrappers=("a.b:C",))
    assert EnvironmentSpec.from_json(kept.to_json()) == kept


CODE = [
    EnvironmentSpec("os:CartPole-v1"),
    EnvironmentSpec("CartPole-v1", wrappers=("tests.toys:raises",)),
    EnvironmentSpec("GymV26Environment-v0", {"env_id": "os:CartPole-v1"}),
    EnvironmentSpec("GymV26Environment-v0", {"deep": {"env_id": "os:CartPole-v1"}}),
]


@pytest.mark.parametrize("spec", CODE)
def test_file_cannot_choose_code_to_import_unless_trusted(
    spec: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_import_for_user", fail)
    with pytest.raises(UsageError, match="asks for code to be imported"):
        EnvironmentSpec.from_json(spec.to_json())
    assert EnvironmentSpec.from_json(spec.to_json(), is_trusted=True) == spec


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        "CartPole-v1",
        {"env_id": 5, "kwargs": {}, "wrappers": []},
        {"env_id": "CartPole-v1", "kwargs": [], "wrappers": []},
        {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": "a:b"},
        {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": [1]},
        {"env_id": "", "kwargs": {}, "wrappers": []},
        {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": [], "keep_wrappers": "a:b"},
        {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": [], "keep_wrappers": ["ab"]},
    ],
)
def test_damaged_specification_is_refused(data: Any) -> None:
    with pytest.raises(UsageError):
        EnvironmentSpec.from_json(data)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_arguments_must_be_plain_values(value: Any) -> None:
    with pytest.raises(UsageError, match="plain JSON values"):
        EnvironmentSpec("CartPole-v1", {"x": value})
