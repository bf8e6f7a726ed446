"""The zoo's cards tell the truth, its agents play as stated, and its scripts still train."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeqrl import zoo
from edgeqrl.agents.options import AgentOptions
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import AgentError, OutputError, UsageError
from edgeqrl.rollout import rollout
from edgeqrl.sources import Source, open_source
from edgeqrl.zoo.training import common, dqn, ppo, sac, sb3, tasks, td3
from tests.firmware import one_by_default
from tests.oracles import require_module

SCRIPTS: tuple[Any, ...] = (dqn, ppo, sac, sb3, td3)
CONFIGS: dict[str, Any] = {name: config for script in SCRIPTS for name, config in script.CONFIGS.items()}
TARGETS = {
    "acrobot-dqn": -100.0,
    "blindmaze-ppo": -12.0,
    "breakout-ppo": 10.0,
    "cartpole-dqn": 500.0,
    "cartpole-gru": 475.0,
    "halfcheetah-sac-3bit": 4000.0,
    "halfcheetah-td3": 4000.0,
    "hopper-ppo": 2000.0,
    "lunarlander-dqn": 200.0,
    "lunarlander-ppo": 200.0,
    "mountaincar-sac": 90.0,
    "pendulum-td3": -180.0,
}
NAMES = tuple(TARGETS)
DENSE = ("acrobot-dqn", "cartpole-dqn", "halfcheetah-td3", "lunarlander-dqn", "pendulum-td3")
# Seeds that neither training, selection nor the card's evaluation has seen.
FRESH_SEEDS = range(30_000, 30_005)
# Five episodes vary more than a hundred: a bound that holds for an agent which works.
PLAUSIBLE_RETURN = {
    "acrobot-dqn": -200.0,
    "blindmaze-ppo": -40.0,
    "breakout-ppo": 2.0,
    "cartpole-dqn": 500.0,
    "cartpole-gru": 300.0,
    "halfcheetah-sac-3bit": 2000.0,
    "halfcheetah-td3": 2000.0,
    "hopper-ppo": 1000.0,
    "lunarlander-dqn": 100.0,
    "lunarlander-ppo": 100.0,
    "mountaincar-sac": 80.0,
    "pendulum-td3": -350.0,
}
SMOKE_OFF_POLICY: dict[str, Any] = {
    "warmup_steps": 320,
    "total_steps": 640,
    "selection_every": 320,
    "batch_size": 16,
    "buffer_size": 400,
    "updates_per_round": 2,
}
SMOKE_PPO: dict[str, Any] = {
    "num_envs": 8,
    "steps_per_round": 4,
    "total_steps": 64,
    "selection_every": 32,
    "minibatches": 2,
    "epochs": 1,
}
SMOKE_SB3: dict[str, Any] = {"total_steps": 64, "selection_every": 32, "num_envs": 2}
SB3_SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "SAC": {"batch_size": 16, "train_freq": 16, "gradient_steps": 2},
}
LIBRARIES: dict[str, tuple[str, ...]] = {  # of whatever is not a classic environment trained in Keras
    "breakout-ppo": ("stable_baselines3", "torch", "keras", "tensorflow", "MinAtar"),
    "halfcheetah-sac-3bit": ("tensorflow", "keras", "mujoco"),
    "halfcheetah-td3": ("tensorflow", "keras", "mujoco"),
    "hopper-ppo": ("stable_baselines3", "torch", "mujoco"),
    "lunarlander-dqn": ("tensorflow", "keras", "box2d"),
    "lunarlander-ppo": ("tensorflow", "keras", "box2d"),
    "mountaincar-sac": ("stable_baselines3", "torch"),
}
HEADS = {
    "argmax",
    "categorical, drawn",
    "mean, clipped to the action bounds",
    "tanh",
    "tanh of the mean, scaled to the action bounds",
}


def smoke(name: str) -> Any:
    """The agent's training, cut short."""
    config = CONFIGS[name]
    less: dict[str, Any] = {
        "selection_seeds": range(10_000, 10_002),
        "evaluation_seeds": range(50_000, 50_003),
    }
    if name in sb3.CONFIGS:
        settings = {**config.settings, **SB3_SETTINGS[config.algorithm]}
        return replace(config, **less, **SMOKE_SB3, settings=settings)
    return replace(config, **less, **(SMOKE_PPO if name in ppo.CONFIGS else SMOKE_OFF_POLICY))


def script_of(name: str) -> Any:
    return next(script for script in SCRIPTS if name in script.CONFIGS)


def load(path: Path) -> Any:
    import keras

    return keras.saving.load_model(path, safe_mode=True, compile=False)


def policy(name: str, env_id: str, model: Any) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """Act as the agent of dense layers does, in NumPy."""
    weights = common.numpy_weights(model)
    space = gym.make(env_id).action_space
    if isinstance(space, gym.spaces.Discrete):
        return lambda observations: common.forward(weights, observations).argmax(axis=1)
    assert isinstance(space, gym.spaces.Box)
    high = space.high
    assert (space.low == -high).all()
    return lambda observations: high * np.tanh(common.forward(weights, observations))


def open_float(name: str) -> Any:
    """The agent as `convert` opens it."""
    agent = zoo.find_zoo_agent(name)
    return KerasPolicy(open_source(Source(f"zoo:{name}", EnvironmentSpec(agent.env_id)), None)[0])


def require_environment(name: str) -> None:
    """Skip where the environment's own library is not installed."""
    for part, module in (("lunarlander", "Box2D"), ("breakout", "minatar")):
        if name.startswith(part):
            require_module(module)
    if name.startswith(("hopper", "halfcheetah")):
        require_module("mujoco")


def require_training(name: str) -> None:
    """Skip where what trains the agent is not installed."""
    require_environment(name)
    for module in ("stable_baselines3", "torch") if name in sb3.CONFIGS else ("tensorflow",):
        require_module(module)


def quiet(done: int, total: int, message: str) -> None:
    assert 0 < done <= total
    assert message


def test_zoo_holds_the_agents_that_scripts_train() -> None:
    assert tuple(agent.name for agent in zoo.zoo_agents()) == NAMES
    assert sorted(CONFIGS) == list(NAMES) == sorted(zoo._SCRIPTS)
    for script in SCRIPTS:
        for name, config in script.CONFIGS.items():
            assert zoo._SCRIPTS[name] == script.__name__.rpartition(".")[2]
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
    assert len(content) < 1_000_000
    libraries = LIBRARIES.get(name, ("tensorflow", "keras"))
    assert set(card["versions"]) == {"python", "gymnasium", "numpy", *libraries}
    assert card["training"]["command"] == f"edgeqrl zoo train {name}"
    assert card["training"]["minutes"] > 0
    assert card["training"]["gradient_steps"] > 0
    assert card["algorithm"]
    assert card["licence"] == "Apache-2.0"
    assert card["head"] in HEADS
    assert card["date"]


@pytest.mark.parametrize("name", NAMES)
def test_card_states_the_hyperparameters_of_the_script(name: str) -> None:
    config = CONFIGS[name]
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


@pytest.mark.parametrize("name", DENSE)
def test_dense_agent_loads_safely_and_plays(name: str) -> None:
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
def test_agent_plays_as_it_is_converted(name: str) -> None:
    require_environment(name)
    agent = zoo.find_zoo_agent(name)
    played = rollout(open_float(name), EnvironmentSpec(agent.env_id).make, FRESH_SEEDS)
    assert played.episode_returns.mean() >= PLAUSIBLE_RETURN[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_agent_returns_what_its_card_says(name: str) -> None:
    """On the card's own seeds, but by the float policy that quantization starts from."""
    require_environment(name)
    agent = zoo.find_zoo_agent(name)
    first, count = (agent.card["evaluation_seeds"][key] for key in ("first", "count"))
    seeds = range(first, first + count)
    mean = rollout(open_float(name), EnvironmentSpec(agent.env_id).make, seeds).episode_returns.mean()
    stated = agent.card["float_return"]
    assert abs(mean - stated["mean"]) <= max(stated["high"] - stated["low"], 1e-6)


def test_agents_of_stable_baselines_open_without_it() -> None:
    code = (
        "import sys\nfor name in ('torch', 'stable_baselines3'): sys.modules[name] = None\n"
        "from edgeqrl.environments import EnvironmentSpec\n"
        "from edgeqrl.sources import Source, open_source\n"
        "environment = EnvironmentSpec('MountainCarContinuous-v0')\n"
        "agent, _ = open_source(Source('zoo:mountaincar-sac', environment), None)\n"
        "assert agent.head.num_outputs == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_hopper_brings_the_statistics_of_its_observations() -> None:
    agent = zoo.find_zoo_agent("hopper-ppo")
    assert agent.vecnormalize is not None
    content = agent.vecnormalize.read_bytes()
    assert agent.card["vecnormalize_sha256"] == hashlib.sha256(content).hexdigest()
    (part,) = open_float("hopper-ppo").preprocessing.parts
    assert len(part.gain or ()) == 11
    assert part.low == (-10.0,) * len(part.low or ())


def test_drawing_is_what_the_maze_needs() -> None:
    agent = zoo.find_zoo_agent("blindmaze-ppo")
    assert agent.is_stochastic
    assert agent.card["argmax_return"] < 3 * agent.card["float_return"]["low"]


@pytest.mark.parametrize(
    ("stated", "is_drawn"),
    [
        (AgentOptions(), True),
        (AgentOptions(stochastic=True), True),
        (AgentOptions(stochastic=False), False),
        (AgentOptions(head="argmax"), False),
    ],
    ids=["nothing", "stochastic", "deterministic", "head"],
)
def test_an_agent_draws_as_its_card_says_unless_the_user_says_otherwise(
    stated: AgentOptions, is_drawn: bool
) -> None:
    agent = zoo.find_zoo_agent("blindmaze-ppo")
    source = Source("zoo:blindmaze-ppo", EnvironmentSpec(agent.env_id), options=stated)
    opened, files = open_source(source, None)
    assert opened.head.is_stochastic == is_drawn
    assert opened.name == "blindmaze_ppo"
    assert files == {"agent.keras": agent.path.read_bytes()}
    assert AgentOptions.from_json(opened.options.to_json()) == opened.options


def test_value_of_the_lander_is_in_units_of_return() -> None:
    """Its value heads' mean over first states is near the discounted return, not a scaled one."""
    require_environment("lunarlander-ppo")
    agent = zoo.find_zoo_agent("lunarlander-ppo")
    assert agent.outputs == "policy,value"
    model = load(agent.path)
    observations = [gym.make(agent.env_id).reset(seed=seed)[0] for seed in FRESH_SEEDS]
    values = np.asarray(model(np.asarray(observations, np.float32))["value"])
    assert values.shape == (5, 1)
    assert 20.0 < values.mean() < 300.0


def test_the_memory_of_the_cartpole_is_needed() -> None:
    agent = zoo.find_zoo_agent("cartpole-gru")
    env = EnvironmentSpec(agent.env_id).make()
    assert env.observation_space.shape == (2,)
    float_policy: Any = open_float("cartpole-gru")

    class Forgetful:
        """The same policy, told at every step that an episode begins."""

        name = "forgetful"

        def act(self, observations: Any, state: Any, *, episode_start: Any, **more: Any) -> Any:
            return float_policy.act(observations, state, episode_start=np.ones_like(episode_start), **more)

    kept, lost = (
        rollout(played, EnvironmentSpec(agent.env_id).make, FRESH_SEEDS).episode_returns.mean()
        for played in (float_policy, Forgetful())
    )
    assert lost < 0.5 * kept


def test_maze_traps_whoever_never_draws() -> None:
    """Of all rules that do the same where places feel alike, the best frees 10 of 21 starts."""
    maze = tasks.BlindMaze()
    feels, moves = {}, {}
    for place in maze._free:
        maze._place = place
        feels[place] = tuple(maze._feel())
        for action in range(4):
            maze._place = place
            maze.step(action)
            moves[place, action] = maze._place
    starts = [place for place in maze._free if place != maze._goal]
    kinds = sorted({feels[place] for place in starts})
    choices = [[action for action in range(4) if not kind[action]] for kind in kinds]

    def is_freed(place: Any, rule: Any) -> bool:
        for _ in starts:
            place = moves[place, rule[feels[place]]]
            if place == maze._goal:
                return True
        return False

    rules = (dict(zip(kinds, chosen, strict=True)) for chosen in product(*choices))
    assert max(sum(is_freed(start, rule) for start in starts) for rule in rules) == 10
    assert len(starts) == 21


@pytest.mark.parametrize("name", DENSE)
def test_numpy_forward_pass_equals_keras(name: str) -> None:
    model = load(zoo.find_zoo_agent(name).path)
    observations = np.random.default_rng(0).normal(size=(32, model.input_shape[1]))
    ours = common.forward(common.numpy_weights(model), observations.astype(np.float32))
    if name.endswith("-td3"):
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
    with pytest.raises(UsageError, match="cartpole-gru"):
        zoo.find_zoo_agent("cartpole")
    with pytest.raises(UsageError, match="pendulum-td3"):
        zoo.train("pendulum-sac", Path("nowhere"), quiet)


@pytest.mark.parametrize("name", one_by_default(NAMES, ("cartpole-dqn", "mountaincar-sac")))
def test_script_trains_and_writes_a_loadable_agent(name: str, tmp_path: Path) -> None:
    require_training(name)
    module, config, output = script_of(name), smoke(name), tmp_path / "agents" / name
    path = module.train(config, output, quiet)
    agent = zoo.read_zoo_agent(output)
    assert (agent.name, agent.path) == (name, path)
    assert agent.card["float_return"]["episodes"] == 3
    assert agent.card["training"]["gradient_steps"] > 0
    shipped = zoo.find_zoo_agent(name)
    assert set(agent.card) == set(shipped.card)
    assert (agent.path.name, agent.vecnormalize is None) == (shipped.path.name, shipped.vecnormalize is None)
    first = weights_of(path)
    # Once more into the same folder: the old agent is replaced by an equal one.
    module.train(config, output, quiet)
    again = weights_of(path)
    assert len(first) == len(again) > 0
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [entry.name for entry in output.parent.iterdir()] == [name]


def weights_of(path: Path) -> list[Any]:
    if path.suffix == ".keras":
        return [np.array(value) for value in load(path).get_weights()]
    from edgeqrl.agents.torch_file import Archive, read_state_dict

    with Archive(path, str(path)) as archive:
        return list(read_state_dict(archive.read("policy.pth"), str(path)).values())


def test_numpy_forward_pass_of_the_gru_equals_keras() -> None:
    model = load(zoo.find_zoo_agent("cartpole-gru").path)
    *gru, kernel, bias = model.get_weights()
    weights = {"hidden": [], "gru": gru, "policy": (kernel, bias), "value": (kernel[:, :1], bias[:1])}
    observations = np.random.default_rng(0).normal(size=(8, 20, 2)).astype(np.float32)
    states = np.zeros((8, gru[1].shape[0]), np.float32)
    for step in range(20):
        logits, _, states = ppo.forward(weights, observations[:, step], states)
    np.testing.assert_allclose(logits, np.asarray(model(observations)), rtol=1e-4, atol=1e-4)


def test_the_network_of_breakout_in_keras_equals_the_one_that_was_trained() -> None:
    require_training("breakout-ppo")
    import torch

    config = smoke("breakout-ppo")
    model, _ = sb3._build(config)
    planes = np.random.default_rng(0).integers(2, size=(50, 10, 10, 4))
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(planes).float()).distribution.logits
    logits = np.asarray(sb3._to_keras(config, model.policy)(planes.astype(np.float32)))
    # Stable-Baselines3 subtracts the logarithm of their sum.
    ours, theirs = (values - values.mean(axis=1, keepdims=True) for values in (logits, expected.numpy()))
    assert np.ptp(theirs) > 1e-3
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_interrupted_training_leaves_the_old_agent(tmp_path: Path) -> None:
    output = tmp_path / "agent"
    config = smoke("cartpole-dqn")
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
