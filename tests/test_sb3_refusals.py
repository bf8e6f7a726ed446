"""A Stable-Baselines3 zip that is damaged, hostile or of unknown kind is refused in one sentence."""

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents import sb3_description
from edgeqrl.agents.from_sb3 import load_sb3
from edgeqrl.agents.load import open_agent
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError, EdgeQRLError, UsageError
from tests.sb3_agents import Case, import_sb3, needs_sb3, save_agent

needs_sb3()

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
FOUR = spaces.Discrete(4)
TORQUES = spaces.Box(-2.0, 2.0, (2,), np.float32)
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole agents, to be damaged."""
    folder = tmp_path_factory.mktemp("agents")
    cases = {
        "PPO": Case("PPO", VECTOR, FOUR),
        "SAC": Case("SAC", VECTOR, TORQUES),
        "QRDQN": Case("QRDQN", VECTOR, FOUR, settings={"n_quantiles": 5}),
        "RecurrentPPO": Case(
            "RecurrentPPO", VECTOR, FOUR, "MlpLstmPolicy", {"lstm_hidden_size": 4, "net_arch": [4]}
        ),
    }
    return {name: save_agent(case, folder)[1] for name, case in cases.items()}


class Trap:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)


def edited(path: Path, target: Path, edit: Callable[[Members], Any]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def of_data(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def edit_members(members: Members) -> None:
        data = json.loads(members["data"])
        edit(data)
        members["data"] = json.dumps(data).encode()

    return edit_members


def of_weights(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def edit_members(members: Members) -> None:
        torch, _ = import_sb3()
        weights = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
        edit(weights)
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        members["policy.pth"] = buffer.getvalue()

    return edit_members


def poison(name: str, value: float) -> Callable[[Members], None]:
    return of_weights(lambda weights: weights[name].view(-1)[0:1].fill_(value))


def add_layer(name: str) -> Callable[[Members], None]:
    torch, _ = import_sb3()
    return of_weights(lambda weights: weights.update({name: torch.zeros(64)}))


def policy_of(module: Any) -> Callable[[Members], None]:
    return of_data(lambda data: data["policy_class"].update({"__module__": module}))


def says(**settings: Any) -> Callable[[Members], None]:
    return of_data(lambda data: data.update(policy_kwargs=settings))


REFUSED = {
    "no weights": ("PPO", lambda m: m.pop("policy.pth"), "zip archive without a Keras model"),
    "weights that are text": ("PPO", lambda m: m.update({"policy.pth": b"text"}), "is damaged"),
    "description that is no JSON": ("PPO", lambda m: m.update(data=b"{"), "its description is not JSON"),
    "description that is a list": ("PPO", lambda m: m.update(data=b"[]"), "its description is empty"),
    "deep description": ("PPO", lambda m: m.update(data=b"[" * 10**6), "its description is not JSON"),
    "no class": ("PPO", of_data(lambda d: d.pop("policy_class")), "does not say the class"),
    "a class that is a number": ("PPO", policy_of(3), "does not say the class"),
    "a class of the user's": ("PPO", policy_of("__main__"), "a policy of '?__main__'?, whose network is not"),
    "a class of CrossQ": ("SAC", policy_of("sb3_contrib.crossq.policies"), "whose network is not known"),
    "an unknown activation": (
        "PPO",
        says(activation_fn="<function f at 0x7f>"),
        "state it with --activation",
    ),
    "a partial activation": ("PPO", says(activation_fn="functools.partial(x)"), "state it with --activation"),
    "NaN": ("PPO", poison("action_net.weight", np.nan), "hold NaN or infinity"),
    "infinity": ("SAC", poison("actor.mu.bias", np.inf), "hold NaN or infinity"),
    "a layer too many": ("PPO", add_layer("mlp_extractor.policy_net.4.weight"), "have shape"),
    "a normalization": ("PPO", add_layer("mlp_extractor.policy_net.1.weight"), "linear layers 0, 2, 4"),
    "a tensor too many": ("PPO", add_layer("mlp_extractor.policy_net.0.scale"), "does not have"),
    "a layer too few": (
        "PPO",
        of_weights(lambda w: w.pop("action_net.weight")),
        "holds no weights 'action_net",
    ),
    "another kind": ("PPO", policy_of("stable_baselines3.dqn.policies"), "layers of no kind under 'q_net"),
    "quantiles that do not fit": (
        "QRDQN",
        of_weights(
            lambda w: w.update({k: w[k][:-1] for k in w if k.startswith("quantile_net.quantile_net.4")})
        ),
        "19 outputs, which are not 5 quantiles of each action",
    ),
    "an LSTM of both directions": (
        "RecurrentPPO",
        add_layer("lstm_actor.weight_ih_l0_reverse"),
        "neither bidirectional",
    ),
    "an LSTM that lies": (
        "RecurrentPPO",
        of_weights(lambda w: w.update({"lstm_actor.weight_ih_l0": w["lstm_actor.weight_ih_l0"][:-4]})),
        "does not fit",
    ),
    "a way out": ("PPO", lambda m: m.update({"../../evil": b"x"}), "a name that leads out of it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_zips_are_refused_in_one_sentence(name: str, agents: dict[str, Path], tmp_path: Path) -> None:
    algorithm, edit, sentence = REFUSED[name]
    path = edited(agents[algorithm], tmp_path / "agent.zip", edit)
    action_space = TORQUES if algorithm == "SAC" else FOUR
    with pytest.raises(EdgeQRLError, match=sentence) as caught:
        open_agent(path, VECTOR, action_space)
    assert "\n" not in str(caught.value)
    assert not (tmp_path.parent.parent / "evil").exists()


def test_code_in_a_zip_is_not_run(agents: dict[str, Path], tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    code = pickle.dumps(Trap(trap))

    def arm(members: Members) -> None:
        data = json.loads(members["data"])
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = base64.b64encode(code).decode()
        members["data"] = json.dumps(data).encode()
        members["pytorch_variables.pth"] = members["policy.optimizer.pth"] = code

    armed = edited(agents["PPO"], tmp_path / "armed.zip", arm)
    assert (
        open_agent(armed, VECTOR, FOUR).weights_sha256
        == open_agent(agents["PPO"], VECTOR, FOUR).weights_sha256
    )

    def arm_weights(members: Members) -> None:
        torch, _ = import_sb3()
        buffer = io.BytesIO()
        torch.save({"action_net.weight": Trap(trap)}, buffer)
        members["policy.pth"] = buffer.getvalue()

    with pytest.raises(AgentError, match="holds no weights"):
        open_agent(edited(agents["PPO"], tmp_path / "worse.zip", arm_weights), VECTOR, FOUR)
    assert not trap.exists()


def test_truncated_zips_are_refused(agents: dict[str, Path], tmp_path: Path) -> None:
    data = agents["PPO"].read_bytes()
    path = tmp_path / "agent.zip"
    for length in range(0, len(data), len(data) // 60):
        path.write_bytes(data[:length])
        with pytest.raises(AgentError):
            open_agent(path, VECTOR, FOUR)


def test_descriptions_of_absurd_size_are_not_read(
    agents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sb3_description, "_MAX_JSON_BYTES", 1000)
    with pytest.raises(AgentError, match=r"data.* unpacks to, more than"):
        open_agent(agents["PPO"], VECTOR, FOUR)


def test_q_values_are_not_drawn_from(agents: dict[str, Path]) -> None:
    with pytest.raises(AgentError, match=r"Q-values.*Leave out --stochastic"):
        load_sb3(agents["QRDQN"], VECTOR, FOUR, options=AgentOptions(stochastic=True))


def test_an_agent_instead_of_statistics_is_told(agents: dict[str, Path]) -> None:
    with pytest.raises(AgentError, match="no VecNormalize statistics: it is a zip"):
        open_agent(agents["PPO"], VECTOR, FOUR, vecnormalize=agents["SAC"])


def test_agents_of_other_spaces_are_refused(agents: dict[str, Path]) -> None:
    five = spaces.Box(-1.0, 1.0, (5,), np.float32)
    with pytest.raises(AgentError, match=r"shape \(64, 3\), which does not fit .* shape \(5,\)"):
        open_agent(agents["PPO"], five, FOUR)
    with pytest.raises(AgentError, match="4 outputs, but the environment's action space"):
        open_agent(agents["PPO"], VECTOR, spaces.Discrete(7))
    with pytest.raises(EdgeQRLError, match="4 outputs, but the environment's action space"):
        open_agent(agents["PPO"], VECTOR, TORQUES)
    with pytest.raises(EdgeQRLError):
        open_agent(agents["SAC"], VECTOR, FOUR)


def test_what_cannot_be_exported_is_said(agents: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no value network V\(s\)"):
        open_agent(agents["SAC"], VECTOR, TORQUES, options=AgentOptions(outputs="policy,value"))
    with pytest.raises(UsageError, match="Leave out --layers"):
        open_agent(agents["PPO"], VECTOR, FOUR, options=AgentOptions(layers="linear"))
    _, path = save_agent(Case("PPO", VECTOR, TORQUES, use_sde=True), tmp_path)
    with pytest.raises(UsageError, match="state-dependent noise"):
        open_agent(path, VECTOR, TORQUES, options=AgentOptions(stochastic=True))
    with pytest.raises(AgentError, match="no zip of Stable-Baselines3"):
        load_sb3(edited(path, tmp_path / "other.zip", lambda m: m.pop("data")), VECTOR, TORQUES)


def test_an_activation_may_be_stated(agents: dict[str, Path], tmp_path: Path) -> None:
    path = edited(agents["PPO"], tmp_path / "agent.zip", says(activation_fn="functools.partial(x)"))
    stated = open_agent(path, VECTOR, FOUR, options=AgentOptions(activation="tanh"))
    known = open_agent(agents["PPO"], VECTOR, FOUR)
    raw = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(stated.model(raw)), np.asarray(known.model(raw)))
    with pytest.raises(UsageError, match="did you mean 'tanh'"):
        open_agent(path, VECTOR, FOUR, options=AgentOptions(activation="tanhh"))


def test_shared_layers_of_old_agents_are_known(agents: dict[str, Path], tmp_path: Path) -> None:
    """Before 1.8 the first layers could be shared by actor and critic, under a name of their own."""

    def share(weights: dict[str, Any]) -> None:
        for kind in ("weight", "bias"):
            weights[f"mlp_extractor.shared_net.0.{kind}"] = weights.pop(f"mlp_extractor.policy_net.0.{kind}")
            weights[f"mlp_extractor.policy_net.0.{kind}"] = weights.pop(f"mlp_extractor.policy_net.2.{kind}")

    path = edited(agents["PPO"], tmp_path / "agent.zip", of_weights(share))
    raw = np.ones((1, 3), np.float32)
    old, new = (open_agent(p, VECTOR, FOUR).model(raw) for p in (path, agents["PPO"]))
    np.testing.assert_array_equal(np.asarray(old), np.asarray(new))


def test_agents_load_without_an_environment(agents: dict[str, Path]) -> None:
    agent = open_agent(agents["PPO"], VECTOR, None, options=AgentOptions(head="argmax"))
    assert agent.head == open_agent(agents["PPO"], VECTOR, FOUR).head
    bounded = AgentOptions(head="scale", action_bounds=(-2.0, 2.0))
    agent = open_agent(agents["SAC"], VECTOR, None, options=bounded)
    assert agent.head == open_agent(agents["SAC"], VECTOR, TORQUES).head
    agent = open_agent(agents["QRDQN"], VECTOR, None, options=AgentOptions(head="argmax"))
    assert agent.head == open_agent(agents["QRDQN"], VECTOR, FOUR).head
