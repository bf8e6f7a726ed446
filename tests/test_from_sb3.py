"""Agents of Stable-Baselines3 act in Keras as `predict(deterministic=True)` does, on 10,000 states each."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.from_keras import concrete_function
from edgeqrl.agents.heads import DiscreteHead, GaussianHead, ValueHead
from edgeqrl.agents.load import open_agent
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_tensorflow
from edgeqrl.errors import UsageError
from tests.firmware import one_by_default
from tests.sb3_agents import (
    NUM_STATES,
    Case,
    actions,
    import_sb3,
    model_outputs,
    needs_sb3,
    random_observations,
    require_same_actions,
    save_agent,
)

needs_sb3()

VECTOR = spaces.Box(-np.array([1, 2, 8], np.float32), np.array([1, 2, 8], np.float32))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
FOUR = spaces.Discrete(4)
TORQUES = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32))
TABLE = spaces.Box(-1.0, 1.0, (2, 2), np.float32)
PIXELS = spaces.Box(0, 255, (36, 40, 3), np.uint8)
PIXELS_FIRST = spaces.Box(0, 255, (3, 36, 40), np.uint8)
SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 16}, "net_arch": [8]}
MIXED = spaces.Dict(
    camera=spaces.Box(0, 255, (36, 36, 1), np.uint8),
    gear=spaces.Discrete(5),
    joints=spaces.Box(-3.0, 3.0, (2, 2), np.float32),
    switches=spaces.MultiBinary(3),
)

CASES = {
    # every algorithm
    "dqn": Case("DQN", VECTOR, FOUR),
    "qrdqn": Case("QRDQN", VECTOR, FOUR, settings={"n_quantiles": 11}),
    "ppo": Case("PPO", VECTOR, FOUR),
    "ppo-box": Case("PPO", VECTOR, TORQUES),
    "a2c": Case("A2C", VECTOR, FOUR),
    "a2c-box": Case("A2C", VECTOR, TABLE),
    "trpo": Case("TRPO", VECTOR, TORQUES),
    "maskable": Case("MaskablePPO", VECTOR, FOUR),
    "sac": Case("SAC", VECTOR, TORQUES),
    "tqc": Case("TQC", VECTOR, TORQUES),
    "td3": Case("TD3", VECTOR, TORQUES),
    "ddpg": Case("DDPG", VECTOR, TABLE),
    # every activation
    "relu": Case("PPO", VECTOR, TORQUES, settings={"activation_fn": "ReLU"}),
    "elu": Case("SAC", VECTOR, TORQUES, settings={"activation_fn": "ELU"}),
    "leaky-relu": Case("DQN", VECTOR, FOUR, settings={"activation_fn": "LeakyReLU"}),
    "gelu": Case("TD3", VECTOR, TORQUES, settings={"activation_fn": "GELU"}),
    "silu": Case("PPO", VECTOR, TORQUES, settings={"activation_fn": "SiLU"}),
    "sigmoid": Case("PPO", VECTOR, TORQUES, settings={"activation_fn": "Sigmoid"}),
    "identity": Case("SAC", VECTOR, TORQUES, settings={"activation_fn": "Identity"}),
    "tanh": Case("DQN", VECTOR, FOUR, settings={"activation_fn": "Tanh"}),
    "relu6": Case("A2C", VECTOR, TORQUES, settings={"activation_fn": "ReLU6"}),
    "hardswish": Case("A2C", VECTOR, TORQUES, settings={"activation_fn": "Hardswish"}),
    "selu": Case("A2C", VECTOR, TORQUES, settings={"activation_fn": "SELU"}),
    "softplus": Case("A2C", VECTOR, TORQUES, settings={"activation_fn": "Softplus"}),
    # shapes of networks
    "no-hidden-layer": Case("PPO", VECTOR, TORQUES, settings={"net_arch": []}),
    "dqn-linear": Case("DQN", VECTOR, FOUR, settings={"net_arch": []}),
    "sac-linear": Case("SAC", VECTOR, TORQUES, settings={"net_arch": []}),
    "two-sizes": Case("PPO", VECTOR, FOUR, settings={"net_arch": {"pi": [9, 7, 5], "vf": [4]}}),
    "sac-two-sizes": Case("SAC", VECTOR, TORQUES, settings={"net_arch": {"pi": [9], "qf": [4]}}),
    "own-extractors": Case(
        "PPO", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN | {"share_features_extractor": False}
    ),
    "own-extractors-trpo": Case(
        "TRPO", PIXELS, FOUR, "CnnPolicy", SMALL_CNN | {"share_features_extractor": False}
    ),
    "shared-extractor-sac": Case(
        "SAC", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN | {"share_features_extractor": True}
    ),
    "shared-extractor-td3": Case(
        "TD3", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN | {"share_features_extractor": True}
    ),
    # squash and state-dependent exploration
    "ppo-sde": Case("PPO", VECTOR, TORQUES, use_sde=True),
    "ppo-squashed": Case("PPO", VECTOR, TORQUES, settings={"squash_output": True}, use_sde=True),
    "sac-sde": Case("SAC", VECTOR, TORQUES, use_sde=True),
    "sac-sde-clipped": Case("SAC", VECTOR, TORQUES, settings={"clip_mean": 0.3}, use_sde=True),
    "sac-sde-unclipped": Case("SAC", VECTOR, TORQUES, settings={"clip_mean": 0.0}, use_sde=True),
    # observations
    "matrix": Case("PPO", UNBOUNDED, FOUR),
    "discrete": Case("DQN", spaces.Discrete(7), FOUR),
    "multi-discrete": Case("PPO", spaces.MultiDiscrete([2, 5, 3]), TORQUES),
    "multi-binary": Case("PPO", spaces.MultiBinary(5), TORQUES),
    "bytes": Case("PPO", spaces.Box(0, 255, (4,), np.uint8), FOUR),
    "pixels-in-mlp": Case("PPO", spaces.Box(0, 255, (4, 5, 3), np.uint8), TORQUES),
    "pixels-first-in-mlp": Case("PPO", spaces.Box(0, 255, (3, 4, 5), np.uint8), TORQUES),
    "plain-pixels": Case(
        "PPO", spaces.Box(0, 255, (4, 5, 3), np.uint8), FOUR, settings={"normalize_images": False}
    ),
    "planes-in-mlp": Case("DQN", spaces.Box(0, 1, (5, 5, 4), np.bool_), FOUR),
    "dict": Case("PPO", MIXED, TORQUES, "MultiInputPolicy"),
    "dict-dqn": Case("DQN", MIXED, FOUR, "MultiInputPolicy"),
    "dict-sac": Case("SAC", MIXED, TORQUES, "MultiInputPolicy"),
    # NatureCNN
    "pixels-ppo": Case("PPO", PIXELS, FOUR, "CnnPolicy", {}),
    "pixels-a2c": Case("A2C", PIXELS, FOUR, "CnnPolicy", {}),
    "pixels-trpo": Case("TRPO", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN),
    "pixels-maskable": Case("MaskablePPO", PIXELS, FOUR, "CnnPolicy", SMALL_CNN),
    "pixels-dqn": Case("DQN", PIXELS, FOUR, "CnnPolicy", SMALL_CNN),
    "pixels-qrdqn": Case("QRDQN", PIXELS, FOUR, "CnnPolicy", SMALL_CNN | {"n_quantiles": 5}),
    "pixels-sac": Case("SAC", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN),
    "pixels-tqc": Case("TQC", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN),
    "pixels-td3": Case("TD3", PIXELS, TORQUES, "CnnPolicy", SMALL_CNN),
    "pixels-ddpg": Case("DDPG", PIXELS, TABLE, "CnnPolicy", SMALL_CNN),
    "pixels-first": Case("PPO", PIXELS_FIRST, FOUR, "CnnPolicy", SMALL_CNN),
    "float-pixels": Case(
        "PPO",
        spaces.Box(0.0, 1.0, (3, 36, 36), np.float32),
        FOUR,
        "CnnPolicy",
        SMALL_CNN | {"normalize_images": False},
    ),
    # actions
    "multi-discrete-actions": Case("PPO", VECTOR, spaces.MultiDiscrete([3, 2, 4])),
    "multi-binary-actions": Case("A2C", VECTOR, spaces.MultiBinary(4)),
    "maskable-multi-discrete": Case("MaskablePPO", VECTOR, spaces.MultiDiscrete([3, 2])),
}

HEAVY = {name for name in CASES if "pixels" in name or "extractor" in name} - {"pixels-dqn", "pixels-ppo"}


def predicted(model: Any, raw: Any) -> Any:
    result = []
    count = len(next(iter(raw.values()))) if isinstance(raw, dict) else len(raw)
    for start in range(0, count, 500):
        rows = slice(start, start + 500)
        batch = {key: rows_of[rows] for key, rows_of in raw.items()} if isinstance(raw, dict) else raw[rows]
        result.append(model.predict(batch, deterministic=True)[0])
    return np.concatenate(result)


@pytest.mark.parametrize("name", one_by_default(CASES, CASES.keys() - HEAVY))
def test_actions_are_those_of_predict(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, path = save_agent(case, tmp_path)
    agent = open_agent(path, case.observation_space, case.action_space)
    raw = random_observations(case.observation_space, case.num_states)
    require_same_actions(actions(agent, raw), predicted(model, raw), case.action_space)


class SmallExtractor:
    """Made late: torch may be missing when this module is read."""

    def __new__(cls) -> Any:
        torch, _ = import_sb3()
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

        class PlanesExtractor(
            BaseFeaturesExtractor
        ):  # as for MinAtar, whose planes are too small for NatureCNN
            def __init__(self, observation_space: Any) -> None:
                super().__init__(observation_space, 12)
                self.convolution = torch.nn.Conv2d(observation_space.shape[0], 6, 3, padding=1)
                self.linear = torch.nn.Linear(6 * 10 * 8, 12)

            def forward(self, observations: Any) -> Any:
                planes = torch.relu(self.convolution(observations))
                return torch.relu(self.linear(planes.flatten(1)))

        return PlanesExtractor


@pytest.mark.parametrize("shape", [(4, 10, 8), (10, 8, 4)])
def test_an_extractor_of_the_users_own_is_taken_by_stated_layers(shape: Any, tmp_path: Path) -> None:
    planes = spaces.Box(0, 255, shape, np.uint8)  # those whose channels are last are turned by SB3
    case = Case("PPO", planes, FOUR, "CnnPolicy", {"features_extractor_class": SmallExtractor()})
    model, path = save_agent(case, tmp_path)
    options = AgentOptions(layers="conv:1:1,relu,flatten,linear,relu")
    agent = open_agent(path, planes, FOUR, options=options)
    raw = random_observations(planes, 2000)
    require_same_actions(actions(agent, raw), predicted(model, raw), FOUR)
    with pytest.raises(UsageError, match="has a features extractor of its own"):
        open_agent(path, planes, FOUR)


@pytest.mark.parametrize("action_space", [FOUR, spaces.MultiDiscrete([3, 4])], ids=["one", "two"])
def test_action_masks_are_those_of_maskable_ppo(action_space: Any, tmp_path: Path) -> None:
    model, path = save_agent(Case("MaskablePPO", VECTOR, action_space), tmp_path)
    agent = open_agent(path, VECTOR, action_space)
    raw = random_observations(VECTOR)
    rng = np.random.default_rng(1)
    width = agent.head.num_outputs
    masks = rng.random((NUM_STATES, width)) < 0.4
    masks[:, [0, 3]] = True  # something is allowed in each segment
    theirs, _ = model.predict(raw, deterministic=True, action_masks=masks)
    ours = agent.head.actions(model_outputs(agent, raw), masks)
    np.testing.assert_array_equal(ours, theirs)


SHARED = {
    "ppo": Case("PPO", VECTOR, FOUR),
    "a2c-box": Case("A2C", VECTOR, TORQUES),
    "maskable": Case("MaskablePPO", VECTOR, FOUR),
    "shared-cnn": Case("PPO", PIXELS, FOUR, "CnnPolicy", SMALL_CNN, num_states=500),
    "own-cnns": Case(
        "PPO", PIXELS, FOUR, "CnnPolicy", SMALL_CNN | {"share_features_extractor": False}, num_states=500
    ),
    "dict": Case("PPO", MIXED, TORQUES, "MultiInputPolicy", num_states=500),
}


@pytest.mark.parametrize("name", SHARED)
def test_values_are_those_of_the_critic(name: str, tmp_path: Path) -> None:
    case = SHARED[name]
    model, path = save_agent(case, tmp_path)
    raw = random_observations(case.observation_space, case.num_states)
    torch, _ = import_sb3()
    with torch.no_grad():
        tensor, _ = model.policy.obs_to_tensor(raw)
        values = model.policy.predict_values(tensor).numpy()
    spaces_of = (case.observation_space, case.action_space)
    both = open_agent(path, *spaces_of, options=AgentOptions(outputs="policy,value"))
    assert both.output_names == ("action", "value")
    policy, value = model_outputs(both, raw)
    np.testing.assert_allclose(value, values, atol=1e-5)
    require_same_actions(np.asarray(both.head.actions(policy)), predicted(model, raw), case.action_space)
    alone = open_agent(path, *spaces_of, options=AgentOptions(outputs="value"))
    assert isinstance(alone.head, ValueHead)
    np.testing.assert_allclose(model_outputs(alone, raw)[0], values, atol=1e-5)


def test_actor_and_critic_share_an_extractor_that_is_one(tmp_path: Path) -> None:
    for is_shared, times in ((True, 1), (False, 2)):
        settings = SMALL_CNN | {"share_features_extractor": is_shared}
        _, path = save_agent(Case("PPO", PIXELS, FOUR, "CnnPolicy", settings), tmp_path)
        agent = open_agent(path, PIXELS, FOUR, options=AgentOptions(outputs="policy,value"))
        kinds = [type(layer).__name__ for layer in agent.model.layers]
        assert kinds.count("Conv2D") == 3 * times


def test_stochastic_policies_have_the_distribution_of_stable_baselines(tmp_path: Path) -> None:
    drawn = AgentOptions(stochastic=True)
    raw = random_observations(VECTOR, 1000)
    torch, _ = import_sb3()

    model, path = save_agent(Case("PPO", VECTOR, TORQUES), tmp_path)
    agent = open_agent(path, VECTOR, TORQUES, options=drawn)
    with torch.no_grad():
        normal = model.policy.get_distribution(torch.as_tensor(raw)).distribution
    assert isinstance(agent.head, GaussianHead)
    np.testing.assert_allclose(model_outputs(agent, raw)[0], normal.mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.exp(agent.head.log_std), normal.stddev[0].numpy(), rtol=1e-6)

    model, path = save_agent(Case("SAC", VECTOR, TORQUES), tmp_path)
    agent = open_agent(path, VECTOR, TORQUES, options=drawn)
    assert isinstance(agent.head, GaussianHead)
    assert agent.head.is_squashed
    mean, log_std = model_outputs(agent, raw)
    with torch.no_grad():
        means, log_stds, _ = model.policy.actor.get_action_dist_params(torch.as_tensor(raw))
    np.testing.assert_allclose(mean, means.numpy(), atol=1e-5)
    np.testing.assert_allclose(log_std.clip(*agent.head.log_std_range), log_stds.numpy(), atol=1e-5)

    _, path = save_agent(Case("A2C", VECTOR, FOUR), tmp_path)
    head = open_agent(path, VECTOR, FOUR, options=drawn).head
    assert head == DiscreteHead.single(4, is_stochastic=True)


RECURRENT = {
    "box": Case("RecurrentPPO", VECTOR, TORQUES, "MlpLstmPolicy", {"lstm_hidden_size": 9}),
    "discrete": Case("RecurrentPPO", VECTOR, FOUR, "MlpLstmPolicy", {"lstm_hidden_size": 9}),
    "two-layers": Case(
        "RecurrentPPO", VECTOR, TORQUES, "MlpLstmPolicy", {"lstm_hidden_size": 7, "n_lstm_layers": 2}
    ),
    "shared": Case(
        "RecurrentPPO",
        VECTOR,
        FOUR,
        "MlpLstmPolicy",
        {"lstm_hidden_size": 8, "shared_lstm": True, "enable_critic_lstm": False},
    ),
    "no-critic-lstm": Case(
        "RecurrentPPO", VECTOR, FOUR, "MlpLstmPolicy", {"lstm_hidden_size": 8, "enable_critic_lstm": False}
    ),
    "without-bias": Case(
        "RecurrentPPO",
        VECTOR,
        FOUR,
        "MlpLstmPolicy",
        {"lstm_hidden_size": 8, "lstm_kwargs": {"bias": False}, "net_arch": [5]},
    ),
    "pixels": Case("RecurrentPPO", PIXELS, FOUR, "CnnLstmPolicy", SMALL_CNN | {"lstm_hidden_size": 8}),
    "own-cnns": Case(
        "RecurrentPPO",
        PIXELS,
        TORQUES,
        "CnnLstmPolicy",
        SMALL_CNN | {"lstm_hidden_size": 8, "share_features_extractor": False},
    ),
    "dict": Case("RecurrentPPO", MIXED, FOUR, "MultiInputLstmPolicy", {"lstm_hidden_size": 8}),
}


@pytest.mark.parametrize("name", one_by_default(RECURRENT, RECURRENT.keys() - {"own-cnns", "pixels"}))
def test_recurrent_agents_act_and_judge_step_by_step(name: str, tmp_path: Path) -> None:
    case = RECURRENT[name]
    model, path = save_agent(case, tmp_path)
    options = AgentOptions(outputs="policy,value")
    agent = open_agent(path, case.observation_space, case.action_space, options=options)
    num_envs, num_steps = 100, NUM_STATES // 100
    torch, _ = import_sb3()
    from stable_baselines3.common.policies import BaseModel

    tensorflow = import_tensorflow()
    step_once = concrete_function(agent, num_envs)
    rng = np.random.default_rng(0)
    states = [np.full((num_envs, *s.shape), s.initial, np.float32) for s in agent.states]
    theirs, critic = None, None
    ours_met, theirs_met = [], []
    for step in range(num_steps):
        raw = random_observations(case.observation_space, num_envs, seed=step)
        starts = (rng.random(num_envs) < 0.05) | (step == 0)
        states = [np.where(starts[:, None], np.float32(0), s) for s in states]
        inputs, _ = agent.preprocessing.inputs(raw)
        found = step_once(*map(tensorflow.constant, (*inputs, *states)))
        output, value, *states = [np.asarray(f) for f in found]
        ours_met.append(agent.head.actions(output))
        with torch.no_grad():
            observations, _ = model.policy.obs_to_tensor(raw)
            begun = torch.as_tensor(starts, dtype=torch.float32)
            before = critic
            if before is None or model.policy.lstm_critic is None:
                before = (
                    theirs
                    if theirs is not None and model.policy.lstm_critic is None
                    else _zeros(model, num_envs)
                )
            before = tuple(torch.as_tensor(s) for s in before)
            values = model.policy.predict_values(observations, before, begun)
            if model.policy.lstm_critic is not None:
                features = BaseModel.extract_features(
                    model.policy, observations, model.policy.vf_features_extractor
                )
                _, critic = model.policy._process_sequence(features, before, begun, model.policy.lstm_critic)
        np.testing.assert_allclose(value, values.numpy(), atol=1e-5)
        action, theirs = model.predict(raw, state=theirs, episode_start=starts, deterministic=True)
        theirs_met.append(action)
    require_same_actions(np.concatenate(ours_met), np.concatenate(theirs_met), case.action_space)


def _zeros(model: Any, num_envs: int) -> Any:
    layers, _, units = model.policy.lstm_hidden_state_shape
    return (np.zeros((layers, num_envs, units), np.float32),) * 2


def test_a_recurrent_policy_alone_leaves_the_critics_memory_out(tmp_path: Path) -> None:
    _, path = save_agent(RECURRENT["box"], tmp_path)
    names = ("hidden_0", "cell_0")
    agent = open_agent(path, VECTOR, TORQUES)
    assert tuple(state.name for state in agent.states) == names
    both = open_agent(path, VECTOR, TORQUES, options=AgentOptions(outputs="policy,value"))
    assert tuple(state.name for state in both.states) == (*names, "critic_hidden_0", "critic_cell_0")
    critic = open_agent(path, VECTOR, TORQUES, options=AgentOptions(outputs="value"))
    assert tuple(state.name for state in critic.states) == ("critic_hidden_0", "critic_cell_0")


def test_a_trained_agent_of_numpy_2_acts_as_in_stable_baselines() -> None:
    """Its pickles of NumPy 2 are not needed here, and NumPy 1 could not open them."""
    _, algorithm = import_sb3()
    path = Path(__file__).parent / "data" / "sb3_pendulum_sac.zip"
    pendulum = gymnasium.make("Pendulum-v1")
    model = algorithm("SAC")("MlpPolicy", pendulum, policy_kwargs={"net_arch": [64, 64]}, buffer_size=1)
    model.set_parameters(str(path), exact_match=False)
    agent = open_agent(path, pendulum.observation_space, pendulum.action_space)
    raw = random_observations(pendulum.observation_space)
    require_same_actions(actions(agent, raw), predicted(model, raw), pendulum.action_space)
