"""Models of every usual form become agents: which output is what is found, stated, or asked for."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edgeqrl.agents.agent import Agent
from edgeqrl.agents.from_keras import agent_from_model, concrete_function, load_agent
from edgeqrl.agents.heads import (
    BoxHead,
    DiscreteHead,
    GaussianHead,
    MultiBinaryHead,
    ValueHead,
)
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.errors import AgentError, EdgeQRLError, UsageError

OBSERVATION = spaces.Box(-5.0, 5.0, (4,), np.float32)
ACTION = spaces.Discrete(3)
TORQUE = spaces.Box(-2.0, 2.0, (2,), np.float32)
STATES = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def layers_of(*sizes: tuple[str, int]) -> tuple[Any, dict[str, Any]]:
    """Return an input and one Dense a (name, size), all on the same hidden layer."""
    keras = import_keras()
    keras.utils.set_random_seed(21)
    x = keras.Input((4,), name="observation")
    hidden = keras.layers.Dense(8, "tanh")(x)
    return x, {name: keras.layers.Dense(size, name=name)(hidden) for name, size in sizes}


def outputs_of(agent: Agent, *observations: Any) -> list[Any]:
    """Return every output of an agent's model, for observations of each part."""
    values = observations or (STATES,)
    tensors = [import_tensorflow().convert_to_tensor(np.float32(value)) for value in values]
    found = concrete_function(agent, len(values[0]))(*tensors)
    return [np.asarray(t) for t in (found if isinstance(found, list | tuple) else [found])]


def operators_of(tensor: Any) -> list[str]:
    """Return the type of every operator that a tensor comes from."""
    pending, seen = [tensor.op], {}
    while pending:
        operator = pending.pop()
        seen[operator.name] = operator.type
        pending += [source.op for source in operator.inputs if source.op.name not in seen]
    return list(seen.values())


def two_headed() -> Any:
    x, heads = layers_of(("logits", 3), ("value", 1))
    return import_keras().Model(x, [heads["logits"], heads["value"]])


@pytest.mark.parametrize(
    ("outputs", "names", "chosen"),
    [
        (None, ("action",), ["logits"]),
        ("policy", ("action",), ["logits"]),
        ("policy,value", ("action", "value"), ["logits", "value"]),
        ("value", ("value",), ["value"]),
    ],
)
def test_two_headed_models_give_either_or_both(
    outputs: str | None, names: tuple[str, ...], chosen: list[str]
) -> None:
    model = two_headed()
    agent = agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(outputs=outputs))
    assert agent.output_names == names
    assert agent.value_names == (("value",) if len(names) == 2 else ())
    assert agent.head == (ValueHead() if names == ("value",) else DiscreteHead.single(3))
    both = dict(zip(("logits", "value"), model(STATES), strict=True))
    for name, found in zip(chosen, outputs_of(agent), strict=True):
        np.testing.assert_allclose(found, np.asarray(both[name]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["dict", "subclassed", "saved_model", "saved_dict"])
def test_two_headed_models_of_every_form(form: str, tmp_path: Any) -> None:
    keras = import_keras()
    model = two_headed()
    if "dict" in form:
        model = keras.Model(model.inputs, {"critic": model.outputs[1], "actor": model.outputs[0]})
    options = AgentOptions(outputs="policy,value")
    if form.startswith("saved"):
        model.export(tmp_path / "policy", format="tf_saved_model", verbose=False)
        agent = load_agent(tmp_path / "policy", OBSERVATION, ACTION, options=options)
    elif form == "subclassed":

        class Acting(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def call(self, observation: Any) -> Any:
                logits, value = self.inner(observation)
                return value, logits

        made = Acting()
        made(STATES)
        agent = agent_from_model(made, OBSERVATION, ACTION, options=options)
    else:
        agent = agent_from_model(model, OBSERVATION, ACTION, options=options)
    expected = two_headed()
    assert [found.shape for found in outputs_of(agent)] == [(50, 3), (50, 1)]
    np.testing.assert_allclose(outputs_of(agent)[0], np.asarray(expected(STATES)[0]), rtol=1e-6, atol=1e-6)


def test_value_networks_are_agents_of_their_own() -> None:
    x, heads = layers_of(("v", 1))
    agent = agent_from_model(import_keras().Model(x, heads["v"]), OBSERVATION, ACTION, head="value")
    assert agent.head == ValueHead(("value",))
    assert agent.original is None
    with pytest.raises(AgentError, match=r"If it is the value of a state, add --outputs value"):
        agent_from_model(import_keras().Model(x, heads["v"]), OBSERVATION, ACTION)


def test_unclear_outputs_are_settled_by_stating_them() -> None:
    keras = import_keras()
    x, heads = layers_of(("head_a", 3), ("head_b", 3), ("head_c", 1))
    model = keras.Model(x, list(heads.values()))
    with pytest.raises(
        AgentError, match=r"3 outputs .'head_a', 'head_b', 'head_c'.*State which it is: --policy-output"
    ):
        agent_from_model(model, OBSERVATION, ACTION)
    for stated in ("head_b", "1"):
        agent = agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(policy_output=stated))
        np.testing.assert_allclose(outputs_of(agent)[0], np.asarray(model(STATES)[1]), rtol=1e-6, atol=1e-6)
    with pytest.raises(
        UsageError, match=r"--policy-output states 'other', and the model's outputs are 'head_a'"
    ):
        agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(policy_output="other"))
    with pytest.raises(AgentError, match=r"has one output .* asks for two"):
        single = keras.Model(x, heads["head_a"])
        agent_from_model(single, OBSERVATION, ACTION, options=AgentOptions(outputs="policy,value"))


def test_softmax_is_cut_off_where_actions_are_drawn_and_kept_where_not() -> None:
    keras = import_keras()
    x, heads = layers_of(("logits", 3))
    model = keras.Model(x, keras.layers.Softmax()(heads["logits"]))
    chosen = agent_from_model(model, OBSERVATION, ACTION)
    assert chosen.model is model
    drawn = agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(stochastic=True))
    assert drawn.head == DiscreteHead.single(3, is_stochastic=True)
    logits = np.asarray(keras.Model(x, heads["logits"])(STATES))
    np.testing.assert_allclose(outputs_of(drawn)[0], logits, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(drawn.model(STATES)), logits, rtol=1e-6, atol=1e-6
    )  # called eagerly


def test_probabilities_of_a_saved_model_are_told_to_end_before(tmp_path: Any) -> None:
    keras = import_keras()
    x, heads = layers_of(("logits", 3))
    model = keras.Model(x, keras.layers.Softmax()(heads["logits"]))
    model.export(tmp_path / "policy", format="tf_saved_model", verbose=False)
    with pytest.raises(AgentError, match=r"logits are needed"):
        load_agent(tmp_path / "policy", OBSERVATION, ACTION, options=AgentOptions(stochastic=True))


@pytest.mark.parametrize("is_stochastic", [False, True])
@pytest.mark.parametrize("form", ["one", "each", "each_softmax"])
def test_multi_discrete_outputs_may_come_in_one_or_one_by_one(form: str, is_stochastic: bool) -> None:
    keras = import_keras()
    space = spaces.MultiDiscrete([3, 2], start=[0, 5])
    x, heads = layers_of(("wheel", 3), ("horn", 2))
    made = list(heads.values())
    if form == "each_softmax":
        made = [keras.layers.Softmax()(head) for head in made]
    model = keras.Model(x, keras.layers.Concatenate()(made) if form == "one" else made)
    agent = agent_from_model(model, OBSERVATION, space, options=AgentOptions(stochastic=is_stochastic))
    assert agent.head == DiscreteHead((3, 2), (0, 5), is_stochastic=is_stochastic)
    (found,) = outputs_of(agent)
    assert found.shape == (50, 5)
    logits = np.concatenate([np.asarray(v) for v in keras.Model(x, list(heads.values()))(STATES)], axis=1)
    if is_stochastic:
        np.testing.assert_allclose(found, logits, rtol=1e-6, atol=1e-6)
    else:
        actions = agent.head.actions(found)
        assert (
            actions.tolist() == (np.stack([logits[:, :3].argmax(1), logits[:, 3:].argmax(1) + 5], 1)).tolist()
        )


@pytest.mark.parametrize("has_sigmoid", [False, True])
def test_multi_binary_outputs_are_logits_with_or_without_a_sigmoid(has_sigmoid: bool) -> None:
    keras = import_keras()
    x, heads = layers_of(("switches", 4))
    model = keras.Model(x, keras.ops.sigmoid(heads["switches"]) if has_sigmoid else heads["switches"])
    agent = agent_from_model(model, OBSERVATION, spaces.MultiBinary(4))
    assert agent.head == MultiBinaryHead((4,))
    logits = np.asarray(keras.Model(x, heads["switches"])(STATES))
    np.testing.assert_allclose(outputs_of(agent)[0], logits, rtol=1e-6, atol=1e-6)
    assert agent.head.actions(logits).tolist() == (logits > 0).astype(int).tolist()


@pytest.mark.parametrize(
    ("form", "is_transposed"),
    [("table", False), ("table", True), ("flat", False), ("activated", False), ("activated", True)],
)
def test_quantiles_become_their_mean_in_the_last_layer(form: str, is_transposed: bool) -> None:
    keras = import_keras()
    x, heads = layers_of(("quantiles", 3 * 7))
    heads["quantiles"]._keras_history.operation.bias.assign(np.arange(21.0))
    out = heads["quantiles"] if form != "activated" else keras.ops.relu(heads["quantiles"])
    if form != "flat":
        out = keras.layers.Reshape((7, 3) if is_transposed else (3, 7))(out)
    model = keras.Model(x, out)
    agent = agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(distribution="quantiles"))
    assert agent.head == DiscreteHead.single(3)
    values = np.asarray(model(STATES)).reshape((50, 7, 3) if is_transposed else (50, 3, 7))
    expected = values.mean(axis=1 if is_transposed else 2)
    np.testing.assert_allclose(outputs_of(agent)[0], expected, rtol=1e-5, atol=1e-5)
    kinds = operators_of(concrete_function(agent, 1).outputs[0])
    assert kinds.count("MatMul") == (3 if form == "activated" else 2)  # merged with the layer before


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("has_softmax", [False, True])
def test_categorical_distributions_become_their_expectation(has_softmax: bool, is_transposed: bool) -> None:
    keras = import_keras()
    x, heads = layers_of(("atoms", 3 * 11))
    table = keras.layers.Reshape((11, 3) if is_transposed else (3, 11))(heads["atoms"])
    axis = 1 if is_transposed else 2
    logits = keras.Model(x, table)
    if has_softmax and is_transposed:
        table = keras.layers.Softmax(axis=1)(table)
    elif has_softmax:
        table = keras.layers.Softmax()(table)
    options = AgentOptions(distribution="categorical", support=(-10.0, 10.0))
    agent = agent_from_model(keras.Model(x, table), OBSERVATION, ACTION, options=options)
    values = np.asarray(logits(STATES)).astype(np.float64)
    weights = np.exp(values) / np.exp(values).sum(axis=axis, keepdims=True)
    atoms = np.linspace(-10, 10, 11)
    expected = np.tensordot(weights, atoms, (axis, 0))
    np.testing.assert_allclose(outputs_of(agent)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "softmax", "says"),
    [
        ({}, False, "a table of shape .3, 7., a distribution for each action. Add --distribution quantiles"),
        ({}, True, "their values are needed. Add --support LOW HIGH"),
        ({"distribution": "quantiles", "stochastic": True}, False, "not logits: leave out --stochastic"),
    ],
)
def test_distributions_that_are_not_stated_are_asked_for(
    options: dict[str, Any], softmax: bool, says: str
) -> None:
    keras = import_keras()
    x, heads = layers_of(("atoms", 21))
    table = keras.layers.Reshape((3, 7))(heads["atoms"])
    model = keras.Model(x, keras.layers.Softmax()(table) if softmax else table)
    with pytest.raises(EdgeQRLError, match=says):
        agent_from_model(model, OBSERVATION, ACTION, options=AgentOptions(**options))


def test_gaussians_come_with_a_second_output_or_stated_deviations() -> None:
    keras = import_keras()
    x, heads = layers_of(("mean", 2), ("log_std", 2), ("value", 1))
    drawn = AgentOptions(stochastic=True)
    agent = agent_from_model(keras.Model(x, list(heads.values())), OBSERVATION, TORQUE, options=drawn)
    assert isinstance(agent.head, GaussianHead)
    assert (agent.head.log_std, agent.output_names) == (None, ("action", "log_std"))
    mean_only = keras.Model(x, heads["mean"])
    with pytest.raises(
        AgentError, match=r"State them with --log-std, or make a model .* second output named log_std"
    ):
        agent_from_model(mean_only, OBSERVATION, TORQUE, options=drawn)
    stated = AgentOptions(stochastic=True, log_std=(-0.5,), outputs="policy,value")
    both = keras.Model(x, [heads["mean"], heads["value"]])
    agent = agent_from_model(both, OBSERVATION, TORQUE, options=stated)
    assert isinstance(agent.head, GaussianHead)
    assert (agent.head.log_std, agent.output_names) == ((-0.5, -0.5), ("action", "value"))
    with pytest.raises(UsageError, match=r"--log-std states 3 numbers, and there are 2 actions"):
        agent_from_model(
            mean_only, OBSERVATION, TORQUE, options=AgentOptions(stochastic=True, log_std=(0.0,) * 3)
        )


def test_squash_adds_the_tanh_where_actions_are_not_drawn() -> None:
    keras = import_keras()
    x, heads = layers_of(("mean", 2))
    model = keras.Model(x, heads["mean"])
    agent = agent_from_model(model, OBSERVATION, TORQUE, head="squash")
    assert isinstance(agent.head, BoxHead)
    assert agent.head.gain == (2.0, 2.0)
    np.testing.assert_allclose(outputs_of(agent)[0], np.tanh(np.asarray(model(STATES))), rtol=1e-5, atol=1e-6)
    options = AgentOptions(head="squash", stochastic=True, log_std=(-1.0,))
    drawn = agent_from_model(model, OBSERVATION, TORQUE, options=options)
    assert isinstance(drawn.head, GaussianHead)
    assert drawn.head.is_squashed
    np.testing.assert_allclose(outputs_of(drawn)[0], np.asarray(model(STATES)), rtol=1e-5, atol=1e-6)
    ends = keras.Model(x, keras.ops.tanh(heads["mean"]))
    with pytest.raises(UsageError, match=r"ends in a tanh already: state --head scale"):
        agent_from_model(ends, OBSERVATION, TORQUE, head="squash")


DICT = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (6, 6, 1), np.uint8),
        "joints": spaces.Box(-1.0, 1.0, (3,), np.float32),
        "gear": spaces.Discrete(4),
    }
)
TUPLE = spaces.Tuple([DICT["camera"], DICT["joints"], DICT["gear"]])
PARTS = [
    np.random.default_rng(1).integers(0, 256, (50, 6, 6, 1)).astype(np.float32),
    np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32),
    np.eye(4, dtype=np.float32)[np.random.default_rng(3).integers(0, 4, 50)],
]


def several_inputs(keras: Any, form: str) -> Any:
    keras.utils.set_random_seed(5)
    gear, camera = keras.Input((4,), name="gear"), keras.Input((6, 6, 1), name="camera", dtype="uint8")
    joints = keras.Input((3,), name="joints")
    seen = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255)(camera)))
    out = keras.layers.Dense(3)(keras.layers.Concatenate()([seen, joints, gear]))
    if form == "dict":
        return keras.Model({"camera": camera, "joints": joints, "gear": gear}, out)
    if form == "in order":
        return keras.Model([camera, joints, gear], out)
    return keras.Model([gear, camera, joints], out)


@pytest.mark.parametrize(("form", "space"), [("dict", DICT), ("shuffled", DICT), ("in order", TUPLE)])
def test_inputs_are_matched_to_the_parts_of_the_observation(form: str, space: Any) -> None:
    keras = import_keras()
    model = several_inputs(keras, form)
    agent = agent_from_model(model, space, ACTION)
    names = {"camera", "joints", "gear"} if space is DICT else {"part_0", "part_1", "part_2"}
    assert set(agent.input_names) == names
    given = dict(zip(("camera", "joints", "gear"), PARTS, strict=True))
    parts = [given[name] for name in agent.input_names] if space is DICT else PARTS
    expected = several_inputs(keras, "in order")([np.uint8(PARTS[0]), *PARTS[1:]])
    np.testing.assert_allclose(outputs_of(agent, *parts)[0], np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_subclassed_models_take_the_dict_as_the_environment_gives_it() -> None:
    keras = import_keras()

    class Acting(keras.Model):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, observation: Any) -> Any:
            arm = observation["arm"]
            return self.out(
                keras.ops.concatenate([arm["joints"], arm["speed"], observation["goal"]], axis=-1)
            )

    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    space = spaces.Dict({"arm": spaces.Dict({"joints": box, "speed": box}), "goal": box})
    model = Acting()
    values = {
        key: np.random.default_rng(ord(key[0])).normal(size=(5, 2)).astype("f")
        for key in ("goal", "joints", "speed")
    }
    expected = model({"arm": {"joints": values["joints"], "speed": values["speed"]}, "goal": values["goal"]})
    agent = agent_from_model(model, space, ACTION)
    parts = [values[name.rpartition("_")[2]] for name in agent.input_names]
    np.testing.assert_allclose(outputs_of(agent, *parts)[0], np.asarray(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (("camera", "joints", "gear"), "with an input for each of them"),  # one-hot numbers stay a part
        (("camera", "joints"), "or wrap the environment with gymnasium.wrappers.FlattenObservation"),
    ],
)
def test_parts_without_an_input_are_named(keys: tuple[str, ...], advice: str) -> None:
    keras = import_keras()
    x, heads = layers_of(("logits", 3))
    space = spaces.Dict({key: DICT[key] for key in keys})
    with pytest.raises(
        AgentError, match=rf"no input of the model .'observation'. is named 'camera'.*{re.escape(advice)}"
    ):
        agent_from_model(keras.Model(x, heads["logits"]), space, ACTION)


def dueling() -> Any:
    keras = import_keras()
    x, heads = layers_of(("value", 1), ("advantage", 3))
    centred = heads["advantage"] - keras.ops.mean(heads["advantage"], axis=1, keepdims=True)
    return keras.Model(x, heads["value"] + centred)


def normalised() -> Any:
    keras = import_keras()
    normal = keras.layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 16.0])
    hidden = [keras.layers.Rescaling(0.5), keras.layers.Dense(8), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((4,)), normal, *hidden, keras.layers.Dense(3)])


@pytest.mark.parametrize("make", [dueling, normalised])
def test_feed_forward_models_stay_the_users_own_object(make: Callable[[], Any]) -> None:
    model = make()
    agent = agent_from_model(model, OBSERVATION, ACTION)
    assert agent.model is model
    assert agent.head == DiscreteHead.single(3)
    np.testing.assert_allclose(outputs_of(agent)[0], np.asarray(model(STATES)), rtol=1e-5, atol=1e-5)


def test_registered_custom_layers_are_taken_live_and_from_files(tmp_path: Any) -> None:
    keras = import_keras()

    class Doubling(keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, inputs: Any) -> Any:
            return 2.0 * inputs

    keras.saving.register_keras_serializable("edgeqrl_tests")(Doubling)
    try:
        model = keras.Sequential([keras.Input((4,)), Doubling(), keras.layers.Dense(3)])
        model.save(tmp_path / "doubling.keras")
        agents = [agent_from_model(model, OBSERVATION, ACTION)]
        agents.append(load_agent(tmp_path / "doubling.keras", OBSERVATION, ACTION))
        for agent in agents:
            expected = np.asarray(model(STATES))
            np.testing.assert_allclose(outputs_of(agent)[0], expected, rtol=1e-5, atol=1e-5)
    finally:
        del keras.saving.get_custom_objects()["edgeqrl_tests>Doubling"]
    with pytest.raises(AgentError, match=r"the custom class 'edgeqrl_tests>Doubling'"):
        load_agent(tmp_path / "doubling.keras", OBSERVATION, ACTION)


def test_options_survive_json() -> None:
    options = AgentOptions(
        head="scale", action_bounds=(-1.0, 1.0), stochastic=True, log_std=(0.5, 1.0), layers="4-2"
    )
    assert AgentOptions.from_json(options.to_json()) == options
    assert AgentOptions().to_json() == {}
    for wrong in (
        {"outputs": "all"},
        {"distribution": "normal"},
        {"support": [1.0, 1.0]},
        {"log_std": [np.inf]},
    ):
        with pytest.raises(UsageError):
            AgentOptions.from_json(wrong)
