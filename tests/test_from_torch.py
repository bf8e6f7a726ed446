"""Plain PyTorch actors, with stated layers, compute in Keras what they compute in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.heads import BoxHead, DiscreteHead
from edgeqrl.agents.layer_list import parse_layers
from edgeqrl.agents.load import open_agent
from edgeqrl.agents.options import AgentOptions
from edgeqrl.errors import AgentError, EdgeQRLError, UsageError
from tests.sb3_agents import actions, import_sb3, model_outputs, needs_sb3, random_observations

needs_sb3()

VECTOR = spaces.Box(-5.0, 5.0, (6,), np.float32)
TORQUES = spaces.Box(-1.0, 1.0, (2,), np.float32)
FOUR = spaces.Discrete(4)
PIXELS_FIRST = spaces.Box(0, 255, (4, 20, 24), np.uint8)
PIXELS_LAST = spaces.Box(0, 255, (20, 24, 4), np.uint8)
DENSE = "linear,tanh,linear,tanh,linear"


def dense(num_inputs: int = 6, num_outputs: int = 2, activation: str = "Tanh") -> Any:
    torch, _ = import_sb3()
    nn = torch.nn
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(num_inputs, 16),
        getattr(nn, activation)(),
        nn.Linear(16, 16),
        getattr(nn, activation)(),
        nn.Linear(16, num_outputs),
    )


def saved(modules: Any, folder: Path) -> Path:
    torch, _ = import_sb3()
    path = folder / "agent.pt"
    state = {
        f"{prefix}.{k}" if prefix else k: v
        for prefix, m in modules.items()
        for k, v in m.state_dict().items()
    }
    torch.save(state, path)
    return path


def numbers(module: Any, raw: Any) -> Any:
    torch, _ = import_sb3()
    module.eval()
    with torch.no_grad():
        return module(torch.as_tensor(raw, dtype=torch.float32)).numpy()


def test_a_gaussian_actor_as_cleanrl_has_it(tmp_path: Path) -> None:
    actor = dense()
    path = saved({"critic": dense(num_outputs=1), "actor_mean": actor}, tmp_path)
    options = AgentOptions(layers=DENSE, prefix="actor_mean")
    agent = open_agent(path, VECTOR, TORQUES, options=options)
    raw = random_observations(VECTOR)
    assert isinstance(agent.head, BoxHead)
    assert np.abs(actions(agent, raw) - np.clip(numbers(actor, raw), -1, 1)).max() <= 1e-5


def test_a_q_network_as_cleanrl_has_it(tmp_path: Path) -> None:
    network = dense(num_outputs=4, activation="ReLU")
    path = saved({"network": network}, tmp_path)
    agent = open_agent(path, VECTOR, FOUR, options=AgentOptions(layers="linear,relu,linear,relu,linear"))
    raw = random_observations(VECTOR)
    assert agent.head == DiscreteHead.single(4)
    np.testing.assert_array_equal(actions(agent, raw), numbers(network, raw).argmax(axis=1))


def test_a_network_in_named_pieces(tmp_path: Path) -> None:
    """CleanRL's SAC and TD3 have fc1, fc2, fc_mu and the tanh in forward()."""
    torch, _ = import_sb3()
    whole = dense(activation="ReLU")
    pieces = {"fc1": whole[0], "fc2": whole[2], "fc_mu": whole[4], "fc_logstd": torch.nn.Linear(16, 2)}
    options = AgentOptions(layers="linear,relu,linear,relu,linear,tanh", prefix="fc1,fc2,fc_mu")
    wide = spaces.Box(-3.0, 5.0, (2,), np.float32)
    agent = open_agent(saved(pieces, tmp_path), VECTOR, wide, options=options)
    raw = random_observations(VECTOR)
    assert np.abs(actions(agent, raw) - (np.tanh(numbers(whole, raw)) * 4 + 1)).max() <= 1e-5


def test_bounds_are_those_that_cleanrl_keeps_beside_the_weights(tmp_path: Path) -> None:
    torch, _ = import_sb3()
    layers = dense(activation="ReLU")
    scale = {"action_scale": torch.full((1, 2), 4.0), "action_bias": torch.ones(1, 2)}
    weights = {"fc1": layers[0], "fc2": layers[2], "fc_mu": layers[4]}
    state = {f"{name}.{key}": v for name, part in weights.items() for key, v in part.state_dict().items()}
    path = tmp_path / "agent.pt"
    torch.save(state | scale, path)
    options = AgentOptions(layers="linear,relu,linear,relu,linear,tanh", prefix="fc1,fc2,fc_mu")
    open_agent(path, VECTOR, spaces.Box(-3.0, 5.0, (2,), np.float32), options=options)
    for low, high in ((-1.0, 1.0), (-4.0, 4.0)):
        with pytest.raises(AgentError, match="was trained with action_"):
            open_agent(path, VECTOR, spaces.Box(low, high, (2,), np.float32), options=options)


@pytest.mark.parametrize("space", [PIXELS_FIRST, PIXELS_LAST], ids=["first", "last"])
def test_convolutions_take_channels_first_and_last(space: Any, tmp_path: Path) -> None:
    torch, _ = import_sb3()
    nn = torch.nn
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(4, 8, 4, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 5, 12),
        nn.ReLU(),
    )
    actor = nn.Linear(12, 4)
    options = AgentOptions(
        layers="divide:255, conv:2,relu,maxpool:2,conv:1:1,relu,flatten,linear,relu,linear",
        prefix="network,actor",
    )
    path = saved({"network": trunk, "actor": actor, "critic": nn.Linear(12, 1)}, tmp_path)
    agent = open_agent(path, space, FOUR, options=options)
    raw = random_observations(space, 1000)
    turned = raw if space is PIXELS_FIRST else raw.transpose(0, 3, 1, 2)
    wanted = numbers(nn.Sequential(trunk, actor), turned / np.float32(255))
    np.testing.assert_allclose(model_outputs(agent, raw)[0], wanted, atol=1e-5)
    again = open_agent(
        path, space, FOUR, options=options, preprocessing=agent.preprocessing, is_complete=True
    )
    np.testing.assert_array_equal(model_outputs(again, raw)[0], model_outputs(agent, raw)[0])


def test_normalizations_are_known(tmp_path: Path) -> None:
    torch, _ = import_sb3()
    nn = torch.nn
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 8),
        nn.LayerNorm(8),
        nn.SiLU(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ELU(),
        nn.Linear(8, 2),
    )
    with torch.no_grad():
        for values in network.parameters():
            values += 0.3 * torch.randn_like(values)
        network[4].running_mean += torch.randn(8)
        network[4].running_var *= 2.5
    options = AgentOptions(layers="linear,layernorm,silu,linear,batchnorm,elu,linear")
    agent = open_agent(saved({"": network}, tmp_path), VECTOR, TORQUES, options=options)
    raw = random_observations(VECTOR)
    np.testing.assert_allclose(model_outputs(agent, raw)[0], numbers(network, raw), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "does not say its layers. State them"),
        ({"layers": DENSE}, "holds several networks: critic, actor. Say which"),
        ({"layers": DENSE, "prefix": "policy"}, "holds no network '?policy'?; --prefix takes"),
        ({"layers": "linear,tanh,linear", "prefix": "actor"}, "with weights are 2 .* for 3"),
        (
            {"layers": "conv,tanh,linear,tanh,linear", "prefix": "actor"},
            r"shape \(16, 6\), which does not fit",
        ),
        ({"layers": "linear,tanh,layernorm,tanh,linear", "prefix": "actor"}, "does not fit"),
        ({"layers": "linear,tahn", "prefix": "actor"}, "Did you mean 'tanh'"),
        ({"layers": "linear:3", "prefix": "actor"}, "is not well formed"),
        ({"layers": "maxpool", "prefix": "actor"}, "is not well formed"),
        ({"layers": "divide:0", "prefix": "actor"}, "where no 0 can be"),
        ({"layers": "", "prefix": "actor"}, "There is no layer"),
        ({"layers": "maxpool:2," + DENSE, "prefix": "actor"}, "maxpool:2 does not fit"),
    ],
)
def test_layers_that_do_not_fit_are_refused(options: Any, sentence: str, tmp_path: Path) -> None:
    path = saved({"critic": dense(num_outputs=1), "actor": dense()}, tmp_path)
    with pytest.raises(EdgeQRLError, match=sentence) as caught:
        open_agent(path, VECTOR, TORQUES, options=AgentOptions(**options))
    assert "\n" not in str(caught.value)


def test_files_of_the_old_format_are_refused(tmp_path: Path) -> None:
    torch, _ = import_sb3()
    path = tmp_path / "agent.pt"
    torch.save(dense().state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(AgentError, match=r"torch\.save before PyTorch 1\.6"):
        open_agent(path, VECTOR, TORQUES, options=AgentOptions(layers=DENSE))


def test_layers_are_for_agents_of_pytorch_only() -> None:
    with pytest.raises(UsageError, match="says its own layers; --layers is for"):
        open_agent("tests/data/rare_event.keras", VECTOR, FOUR, options=AgentOptions(layers=DENSE))


def test_a_list_of_layers_is_read_with_its_numbers() -> None:
    found = parse_layers("conv:4:1, relu, flatten, LINEAR")
    assert [(layer.name, layer.numbers) for layer in found] == [
        ("conv", (4, 1)),
        ("relu", ()),
        ("flatten", ()),
        ("linear", ()),
    ]
