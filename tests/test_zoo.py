"""The zoo's cards tell the truth, its agents play as stated, and its scripts still train."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl import zoo
from edgeqrl.errors import AgentError, OutputError, UsageError
from edgeqrl.zoo.training import common, dqn, td3

NAMES = ("acrobot-dqn", "cartpole-dqn", "lunarlander-dqn", "pendulum-td3")
TARGETS = {
    "acrobot-dqn": -100.0,
    "cartpole-dqn": 500.0,
    "lunarlander-dqn": 200.0,
    "pendulum-td3": -180.0,
}
# Seeds that neither training, selection nor the card's evaluation has seen.
FRESH_SEEDS = range(30_000, 30_005)
# Five episodes vary more than a hundred: a bound that holds for an agent which works.
PLAUSIBLE_RETURN = {
    "acrobot-dqn": -200.0,
    "cartpole-dqn": 500.0,
    "lunarlander-dqn": 100.0,
    "pendulum-td3": -350.0,
}
SMOKE: dict[str, Any] = {
    "selection_seeds": range(10_000, 10_002),
    "evaluation_seeds": range(50_000, 50_003),
    "warmup_steps": 320,
    "total_steps": 640,
    "selection_every": 320,
    "batch_size": 16,
    "buffer_size": 400,
    "updates_per_round": 2,
}


def load(path: Path) -> Any:
    keras = pytest.importorskip("keras")
    return keras.saving.load_model(path, safe_mode=True, compile=False)


def policy(name: str, env_id: str, model: Any) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """Act as the agent does, in NumPy."""
    weights = common.numpy_weights(model)
    space = gym.make(env_id).action_space
    if isinstance(space, gym.spaces.Discrete):
        return lambda observations: common.forward(weights, observations).argmax(axis=1)
    assert isinstance(space, gym.spaces.Box)
    high = space.high
    assert (space.low == -high).all()
    return lambda observations: high * np.tanh(common.forward(weights, observations))


def require_environment(name: str) -> None:
    """Skip where the environment's own extra is not installed."""
    if name == "lunarlander-dqn":
        pytest.importorskip("Box2D")


def quiet(done: int, total: int, message: str) -> None:
    assert 0 < done <= total
    assert message


def test_zoo_holds_the_agents_that_scripts_train() -> None:
    assert tuple(agent.name for agent in zoo.zoo_agents()) == NAMES
    assert sorted([*dqn.CONFIGS, *td3.CONFIGS]) == list(NAMES)
    for module in (dqn, td3):
        for name, config in module.CONFIGS.items():
            assert zoo._SCRIPTS[name] == module.__name__.rpartition(".")[2]
            assert config.name == name


def test_importing_the_zoo_loads_neither_tensorflow_nor_numpy() -> None:
    code = (
        "import sys, edgeqrl.files; before = set(sys.modules); import edgeqrl.zoo\n"
        "assert not (set(sys.modules) - before) & {'tensorflow', 'keras', 'numpy', 'gymnasium'}\n"
        "assert 'tensorflow' not in sys.modules"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete_and_describes_its_file(name: str) -> None:
    agent = zoo.find_zoo_agent(name)
    card = agent.card
    assert agent.path.parent.name == agent.name == card["name"] == name
    assert agent.env_id == card["env_id"]
    assert agent.title == card["title"]
    content = agent.path.read_bytes()
    assert card["agent_sha256"] == hashlib.sha256(content).hexdigest()
    assert len(content) < 200_000
    libraries = {"python", "gymnasium", "keras", "numpy", "tensorflow"}
    assert set(card["versions"]) == libraries | ({"box2d"} if "Lander" in agent.env_id else set())
    assert card["training"]["command"] == f"edgeqrl zoo train {name}"
    assert card["training"]["minutes"] > 0
    assert card["training"]["gradient_steps"] > 0
    assert card["algorithm"]
    assert card["head"] in {"argmax", "tanh"}
    assert card["date"]


@pytest.mark.parametrize("name", NAMES)
def test_card_states_the_hyperparameters_of_the_script(name: str) -> None:
    config = {**dqn.CONFIGS, **td3.CONFIGS}[name]
    card = zoo.find_zoo_agent(name).card
    for key, value in card["training"]["hyperparameters"].items():
        expected = getattr(config, key)
        assert value == (list(expected) if isinstance(expected, tuple) else expected), key
    assert card["training_seed"] == common.TRAINING_SEED


@pytest.mark.parametrize("name", NAMES)
def test_card_meets_its_target(name: str) -> None:
    card = zoo.find_zoo_agent(name).card
    result = card["float_return"]
    assert card["target_return"] == TARGETS[name]
    assert result["episodes"] == 100
    assert result["low"] <= result["mean"] <= result["high"]
    assert result["mean"] >= card["target_return"]


@pytest.mark.parametrize("name", NAMES)
def test_seeds_of_a_card_are_disjoint(name: str) -> None:
    card = zoo.find_zoo_agent(name).card
    sets = [
        set(range(entry["first"], entry["first"] + entry["count"]))
        for entry in (
            card["selection_seeds"],
            card["evaluation_seeds"],
            {
                "first": card["training_seed"],
                "count": card["training"]["hyperparameters"]["num_envs"],
            },
        )
    ]
    assert sum(map(len, sets)) == len(set().union(*sets))


@pytest.mark.parametrize("name", NAMES)
def test_agent_loads_safely_and_plays(name: str) -> None:
    require_environment(name)
    agent = zoo.find_zoo_agent(name)
    model = load(agent.path)
    sizes = [int(size) for size in agent.card["architecture"].split()[0].split("-")]
    assert model.input_shape == (None, sizes[0])
    assert model.output_shape == (None, sizes[-1])
    assert [layer.units for layer in model.layers] == sizes[1:]
    assert all(weight.dtype == np.float32 for weight in common.numpy_weights(model))
    assert model.layers[-1].activation.__name__ == ("linear" if agent.card["head"] == "argmax" else "tanh")
    returns = common.episode_returns(agent.env_id, policy(name, agent.env_id, model), FRESH_SEEDS)
    assert returns.mean() >= PLAUSIBLE_RETURN[name]


@pytest.mark.parametrize("name", NAMES)
def test_numpy_forward_pass_equals_keras(name: str) -> None:
    model = load(zoo.find_zoo_agent(name).path)
    observations = np.random.default_rng(0).normal(size=(32, model.input_shape[1]))
    ours = common.forward(common.numpy_weights(model), observations.astype(np.float32))
    if name == "pendulum-td3":
        ours = np.tanh(ours)
    np.testing.assert_allclose(ours, np.asarray(model(observations)), rtol=1e-4, atol=1e-4)


def test_cartpole_values_are_large_and_their_gaps_small() -> None:
    """The case that plain int8 breaks, and the reason this agent is in the zoo."""
    agent = zoo.find_zoo_agent("cartpole-dqn")
    weights = common.numpy_weights(load(agent.path))
    values: list[NDArray[np.float32]] = []

    def act(observations: NDArray[np.float32]) -> NDArray[Any]:
        values.append(common.forward(weights, observations))
        return np.asarray(values[-1].argmax(axis=1))

    common.episode_returns(agent.env_id, act, FRESH_SEEDS)
    low, high = np.sort(np.concatenate(values), axis=1).T
    assert 80.0 < np.median(high) < 120.0
    assert np.median(high - low) < 0.02 * np.median(high)


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="cartpole-dqn"):
        zoo.find_zoo_agent("cartpole")
    with pytest.raises(UsageError, match="pendulum-td3"):
        zoo.train("pendulum-sac", Path("nowhere"), quiet)


@pytest.mark.parametrize("name", NAMES)
def test_script_trains_and_writes_a_loadable_agent(name: str, tmp_path: Path) -> None:
    require_environment(name)
    pytest.importorskip("tensorflow")
    module: Any = dqn if name in dqn.CONFIGS else td3
    output = tmp_path / "agents" / name
    config = replace(module.CONFIGS[name], **SMOKE)
    path = module.train(config, output, quiet)
    agent = zoo.read_zoo_agent(output)
    assert (agent.name, agent.path) == (name, path)
    assert agent.card["float_return"]["episodes"] == 3
    assert agent.card["training"]["gradient_steps"] > 0
    assert set(agent.card) == set(zoo.find_zoo_agent(name).card)
    first = common.numpy_weights(load(path))
    # Once more into the same folder: the old agent is replaced by an equal one.
    module.train(config, output, quiet)
    again = common.numpy_weights(load(path))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert [entry.name for entry in output.parent.iterdir()] == [name]


def test_an_interrupted_training_leaves_the_old_agent(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    output = tmp_path / "agent"
    config = replace(dqn.CONFIGS["cartpole-dqn"], **SMOKE)
    dqn.train(config, output, quiet)
    before = {entry.name: entry.read_bytes() for entry in output.iterdir()}

    def interrupt(done: int, total: int, message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dqn.train(config, output, interrupt)
    assert {entry.name: entry.read_bytes() for entry in output.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent"]


def test_training_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        dqn.train(dqn.CONFIGS["cartpole-dqn"], tmp_path, quiet)
    with pytest.raises(OutputError, match="is a file"):
        td3.train(td3.CONFIGS["pendulum-td3"], tmp_path / "thesis.tex", quiet)


def test_a_changed_agent_file_is_refused(tmp_path: Path) -> None:
    agent = zoo.find_zoo_agent("cartpole-dqn")
    (tmp_path / "agent.keras").write_bytes(agent.path.read_bytes() + b" ")
    (tmp_path / "card.json").write_text(json.dumps(dict(agent.card)))
    with pytest.raises(AgentError, match="card"):
        zoo.read_zoo_agent(tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(AgentError, match=r"card\.json"):
        zoo.read_zoo_agent(tmp_path)
