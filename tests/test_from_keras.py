"""Agents come from strangers: what is whole and plain loads, everything else is one sentence."""

import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from edgeqrl.agents.agent import identifier
from edgeqrl.agents.from_keras import agent_from_model, load_agent
from edgeqrl.agents.heads import BoxHead, DiscreteHead
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.errors import AgentError, UsageError

OBSERVATION = gymnasium.spaces.Box(-5.0, 5.0, (4,), np.float32)
ACTION = gymnasium.spaces.Discrete(3)
TORQUE = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)


def dense_model(num_inputs: int = 4, num_outputs: int = 3, activation: str | None = None) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((num_inputs,), name="observation"),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(num_outputs, activation, name="out"),
        ]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    folder = tmp_path_factory.mktemp("agents")
    model = dense_model()
    paths = {
        "keras": folder / "agent.keras",
        "h5": folder / "agent.h5",
        "weights": folder / "agent.weights.h5",
        "saved_model": folder / "agent",
    }
    model.save(paths["keras"])
    model.save(paths["h5"])
    model.save_weights(paths["weights"])
    model.export(paths["saved_model"], format="tf_saved_model", verbose=False)
    return paths


def edit_config(path: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Write a copy of a .keras file whose model description was edited."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                edit(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


def load(path: Path, **options: Any) -> Any:
    return load_agent(path, OBSERVATION, ACTION, **options)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(AgentError) as caught:
        load(path, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cartpole_dqn", "cartpole_dqn"),
        ("LunarLander v3!", "LunarLander_v3"),
        ("3d-policy", "policy_3d_policy"),
        ("", "policy"),
        ("日本", "policy"),
        ("__x__", "x"),
        ("while", "policy_while"),
        ("class", "policy_class"),
        ("eqrl_step", "policy_eqrl_step"),
        ("a" * 90, "a" * 40),
        ('x"; system("rm', "x_system_rm"),
        ("lander-params", "lander_params_policy"),
    ],
)
def test_identifier_is_a_c_identifier_and_stays_itself(text: str, expected: str) -> None:
    assert identifier(text) == expected
    assert identifier(expected) == expected


def test_every_format_gives_the_same_agent(files: dict[str, Path]) -> None:
    observations = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float32)
    expected = KerasPolicy(load(files["keras"])).outputs(observations)
    for kind in ("h5", "saved_model"):
        agent = load(files[kind])
        assert agent.head == DiscreteHead.single(3)
        assert agent.observation_shape == (4,)
        np.testing.assert_array_equal(KerasPolicy(agent).outputs(observations), expected)


def test_agent_names_its_source(files: dict[str, Path]) -> None:
    agent = load(files["keras"])
    assert agent.name == "agent"
    assert agent.source_sha256 == hashlib.sha256(files["keras"].read_bytes()).hexdigest()
    assert load(files["keras"], name="my agent").name == "my_agent"
    assert load(files["saved_model"]).source_sha256 == load(files["saved_model"]).source_sha256


def test_kind_is_read_from_the_content(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(files["keras"], tmp_path / "agent.bin")
    shutil.copy(files["h5"], tmp_path / "agent.keras")
    assert load(tmp_path / "agent.bin").head == DiscreteHead.single(3)
    assert load(tmp_path / "agent.keras").head == DiscreteHead.single(3)


def test_live_model_stays_as_it_was() -> None:
    model = dense_model()
    before = [np.array(w) for w in model.weights]
    agent = agent_from_model(model, OBSERVATION, ACTION)
    assert agent.name == "policy"
    assert len(agent.source_sha256) == 64
    assert agent.source_sha256 == agent_from_model(model, OBSERVATION, ACTION).source_sha256
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))
    model.weights[0].assign(model.weights[0] + 1.0)
    assert agent.source_sha256 != agent_from_model(model, OBSERVATION, ACTION).source_sha256


def test_models_without_weights_are_refused_until_they_are_built(tmp_path: Path) -> None:
    keras = import_keras()
    model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    for name in ("unbuilt.keras", "unbuilt.h5"):
        model.save(tmp_path / name)
        message = refusal(tmp_path / name)
        assert f"{name} holds no weights: the model was saved before it was built." in message
        assert "Call it once on an observation, then save it again." in message
    for _ in range(2):  # the refusal itself builds nothing
        with pytest.raises(AgentError, match=r"holds no weights: it was never built\. Call it once"):
            agent_from_model(model, OBSERVATION, ACTION)
    model(np.zeros((1, 4), np.float32))
    model.save(tmp_path / "built.keras")
    assert load(tmp_path / "built.keras").head == DiscreteHead.single(3)
    assert agent_from_model(model, OBSERVATION, ACTION).head == DiscreteHead.single(3)


def test_subclassed_model_is_taken_once_it_was_called() -> None:
    keras = import_keras()

    class Acting(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, observation: Any) -> Any:
            return self.out(observation)

    model = Acting()
    with pytest.raises(AgentError, match="holds no weights"):
        agent_from_model(model, OBSERVATION, ACTION)
    model(np.zeros((1, 4), np.float32))
    assert agent_from_model(model, OBSERVATION, ACTION).head == DiscreteHead.single(3)


def test_custom_classes_are_told_the_way_that_works(tmp_path: Path) -> None:
    keras = import_keras()

    class Stranger(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, observation: Any) -> Any:
            return self.out(observation)

    model = Stranger()
    model(np.zeros((1, 4), np.float32))
    model.save(tmp_path / "custom.keras")
    for trust in (False, True):
        message = refusal(tmp_path / "custom.keras", trust=trust)
        assert "Stranger" in message
        assert message.endswith(
            "Save the model with model.export(FOLDER) as a SavedModel, "
            "or call edgeqrl.convert(model, ...) from Python."
        )
        assert len(message) < 400
    model.export(tmp_path / "custom", format="tf_saved_model", verbose=False)
    assert load(tmp_path / "custom").head == DiscreteHead.single(3)


def test_windows_that_forget_are_refused_with_both_cures() -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(8), keras.layers.Dense(3)])
    with pytest.raises(AgentError, match=r"windows of 5 steps.*keras\.Input\(\(None.*--frame-stack 5"):
        agent_from_model(model, OBSERVATION, ACTION)


@pytest.mark.parametrize(
    ("activation", "stated", "gain"),
    [("tanh", None, 2.0), (None, None, 1.0), ("tanh", "clip", 1.0), (None, "scale", 2.0)],
)
def test_box_head_scales_what_ends_in_tanh(activation: str | None, stated: str | None, gain: float) -> None:
    agent = agent_from_model(dense_model(4, 1, activation), OBSERVATION, TORQUE, head=stated)
    assert isinstance(agent.head, BoxHead)
    assert agent.head.gain == (gain,)
    assert agent.ends_in_tanh == (activation == "tanh")


def test_tanh_is_seen_through_layers_and_files(tmp_path: Path) -> None:
    keras = import_keras()
    model = keras.Sequential([dense_model(4, 1), keras.layers.Activation("tanh")])
    assert agent_from_model(model, OBSERVATION, TORQUE).ends_in_tanh
    model.export(tmp_path / "tanh", format="tf_saved_model", verbose=False)
    assert load_agent(tmp_path / "tanh", OBSERVATION, TORQUE).ends_in_tanh


def test_saved_model_for_one_observation_acts_on_batches(tmp_path: Path) -> None:
    keras = import_keras()
    model = dense_model()
    signature = [keras.InputSpec(shape=(1, 4), dtype="float32")]
    model.export(tmp_path / "one", format="tf_saved_model", input_signature=signature, verbose=False)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    outputs = KerasPolicy(load(tmp_path / "one")).outputs(observations)
    np.testing.assert_allclose(outputs, np.asarray(model(observations)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.keras", b"", "is empty"),
        ("a.keras", b"hello, world", "does not begin as a Keras file"),
        ("a.txt", b"hello, world", "is no Keras model"),
        ("a.keras", pickle.dumps({"a": 1}), "Python pickle"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + bytes(40), ".tflite network"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "is damaged"),
        ("a.keras", b"PK\x03\x04" + bytes(100), "is damaged"),
    ],
)
def test_what_is_no_agent_is_said_to_be_what_it_is(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name)


def test_missing_files_and_plain_folders_are_refused(tmp_path: Path) -> None:
    assert "There is no agent" in refusal(tmp_path / "missing.keras")
    assert "holds no saved_model.pb" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("member", "says"),
    [("policy.pth", "stable-baselines3"), ("archive/data.pkl", "PyTorch"), ("a.txt", "without a Keras")],
)
def test_other_zip_archives_are_named(tmp_path: Path, member: str, says: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"x")
    assert says in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused(
    files: dict[str, Path], tmp_path: Path, kind: str, fraction: float
) -> None:
    data = files[kind].read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * fraction)])
    assert "damaged" in refusal(tmp_path / "cut")


def test_flipped_bits_in_the_archive_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(files["keras"].read_bytes())
    data[len(data) // 2] ^= 0x40
    (tmp_path / "flipped.keras").write_bytes(bytes(data))
    assert "damaged" in refusal(tmp_path / "flipped.keras")


def test_damaged_saved_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "cut"
    shutil.copytree(files["saved_model"], target)
    data = (target / "saved_model.pb").read_bytes()
    (target / "saved_model.pb").write_bytes(data[: len(data) // 2])
    assert "damaged" in refusal(target)
    (target / "saved_model.pb").write_bytes(data)
    (target / "variables" / "variables.index").unlink()
    assert "cannot load" in refusal(target)


def test_weights_alone_are_refused(files: dict[str, Path]) -> None:
    assert "holds weights only" in refusal(files["weights"])


def test_lambda_layers_are_refused_and_never_run(tmp_path: Path) -> None:
    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2.0, name="evil"), keras.layers.Dense(3)]
    )
    for name in ("evil.keras", "evil.h5"):
        model.save(tmp_path / name)
        message = refusal(tmp_path / name)
        assert "Lambda at layer 'evil'" in message
        assert "--trust" in message
    assert load(tmp_path / "evil.keras", trust=True).head == DiscreteHead.single(3)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"module": "os", "class_name": "system"}, "os.system"),
        ({"module": "builtins", "class_name": "function", "config": "eval"}, "stored Python code"),
        ({"module": "keras.config", "class_name": "enable_unsafe_deserialization"}, "not on the list"),
        ({"module": "keras.utils", "class_name": "get_file"}, "not on the list"),
        ({"module": "keras.layers", "class_name": "TFSMLayer"}, "not on the list"),
        ({"module": "keras.layers", "class_name": "StringLookup"}, "not on the list"),
        (
            {"module": "mine", "class_name": "Dense", "registered_name": "mine>Dense"},
            "custom class 'mine>Dense'",
        ),
        ({"class_name": "__lambda__"}, "stored Python code"),
    ],
)
def test_classes_off_the_list_are_refused_before_keras_sees_them(
    files: dict[str, Path], tmp_path: Path, edit: dict[str, str], says: str
) -> None:
    def hide(config: dict[str, Any]) -> None:
        config["config"]["layers"][1]["config"]["kernel_initializer"] = {"config": {}, **edit}

    assert says in refusal(edit_config(files["keras"], tmp_path / "edited.keras", hide))


@pytest.mark.parametrize("units", [200_000_000, 2_000_000_000_000])
def test_a_description_that_lies_about_its_size_takes_no_memory(
    files: dict[str, Path], tmp_path: Path, units: int
) -> None:
    def grow(config: dict[str, Any]) -> None:
        config["config"]["layers"][1]["config"]["units"] = units

    assert "weights, too many" in refusal(edit_config(files["keras"], tmp_path / "big.keras", grow))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from places(inner)


@pytest.mark.parametrize("seed", range(60))
def test_edited_descriptions_load_or_are_refused_in_one_sentence(
    files: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    strange = [None, -1, 0, 1e308, "x", [], {}, True, 10**12, "../../x", [None], {"class_name": "Dense"}]
    strange += ["os.system", float("nan"), "\x1b[31mred\n", {"class_name": "Dense", "module": []}]

    def spoil(config: dict[str, Any]) -> None:
        found = list(places(config))
        container, key = found[rng.integers(len(found))]
        container[key] = strange[rng.integers(len(strange))]

    target = edit_config(files["keras"], tmp_path / "spoiled.keras", spoil)
    message = ""
    try:
        load(target)
    except AgentError as error:
        message = str(error)
    assert message.isprintable()


def test_archives_with_more_than_a_model_or_less_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "more.keras"
    shutil.copy(files["keras"], target)
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("assets/../../evil.txt", b"x")
    assert "does not need" in refusal(target)
    with zipfile.ZipFile(tmp_path / "less.keras", "w") as archive:
        archive.writestr("config.json", b"{}")
    assert "no metadata.json" in refusal(tmp_path / "less.keras")


def test_archives_that_unpack_to_far_more_are_refused(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeqrl.agents.keras_files.MAX_BYTES", 10_000)
    target = tmp_path / "bomb.keras"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, bytes(100_000))
    assert target.stat().st_size < 10_000
    assert "unpacks to, more than" in refusal(target)


def test_weights_from_other_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    linked = tmp_path / "linked.h5"
    shutil.copy(files["h5"], linked)
    with h5py.File(linked, "a") as file:
        file["model_weights/stolen"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert "links 'stolen' to another place" in refusal(linked)
    external = tmp_path / "external.h5"
    shutil.copy(files["h5"], external)
    with h5py.File(external, "a") as file:
        file.create_dataset("raw", (8,), "u1", external=[(str(tmp_path / "secret"), 0, 8)])
    assert "from outside itself" in refusal(external)


def test_sparse_weights_that_declare_terabytes_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "sparse.h5"
    shutil.copy(files["h5"], target)
    with h5py.File(target, "a") as file:
        file.create_dataset("huge", (2**40,), "f4", chunks=(1024,))
    assert "more than" in refusal(target)


@pytest.mark.parametrize("place", ["serving", "start"])
def test_saved_models_that_do_more_than_arithmetic_are_refused_unloaded(tmp_path: Path, place: str) -> None:
    tensorflow = import_tensorflow()
    proof = tmp_path / "proof"

    class Evil(tensorflow.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tensorflow.Variable(tensorflow.ones((4, 3)))
            if place == "start":
                (tmp_path / "vocabulary").write_text("a\n")
                self.table = tensorflow.lookup.StaticVocabularyTable(
                    tensorflow.lookup.TextFileInitializer(
                        str(tmp_path / "vocabulary"),
                        tensorflow.string,
                        tensorflow.lookup.TextFileIndex.WHOLE_LINE,
                        tensorflow.int64,
                        tensorflow.lookup.TextFileIndex.LINE_NUMBER,
                    ),
                    1,
                )

        @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 4), tensorflow.float32)])  # type: ignore[untyped-decorator, unused-ignore]
        def act(self, observation: Any) -> Any:
            if place == "serving":
                tensorflow.io.write_file(str(proof), "written")
            return tensorflow.matmul(observation, self.weights)

    evil = Evil()
    tensorflow.saved_model.save(evil, str(tmp_path / "evil"), signatures={"serving_default": evil.act})
    message = refusal(tmp_path / "evil")
    assert "list of safe ones" in message
    assert ("WriteFile" in message) == (place == "serving")
    assert not proof.exists()
    if place == "serving":
        agent = load(tmp_path / "evil", trust=True)
        KerasPolicy(agent).outputs(np.zeros((1, 4), np.float32))
        assert proof.exists(), "the file is hostile indeed"


@pytest.mark.parametrize(("value", "layer"), [(np.nan, "hidden"), (np.inf, "out")])
def test_weights_that_are_not_finite_are_refused_by_layer(tmp_path: Path, value: float, layer: str) -> None:
    model = dense_model()
    kernel = model.get_layer(layer).kernel
    broken = np.array(kernel)
    broken[0, 0] = value
    kernel.assign(broken)
    model.save(tmp_path / "broken.keras")
    message = refusal(tmp_path / "broken.keras")
    assert f"{layer}/kernel" in message
    assert "NaN or infinity" in message
    model.export(tmp_path / "broken", format="tf_saved_model", verbose=False)
    assert "NaN or infinity" in refusal(tmp_path / "broken")


@pytest.mark.parametrize(
    ("observation", "action", "says"),
    [
        (gymnasium.spaces.Box(-1, 1, (8,)), ACTION, "takes shape (4,)"),
        (gymnasium.spaces.Box(-1, 1, (2, 2)), ACTION, "takes shape (4,)"),
        (gymnasium.spaces.Discrete(5), ACTION, "reach a model as one-hot vectors: replace its Embedding"),
        (OBSERVATION, gymnasium.spaces.Discrete(5), "has 3 outputs"),
        (OBSERVATION, gymnasium.spaces.MultiDiscrete([3, 3]), "has 3 outputs"),
        (OBSERVATION, gymnasium.spaces.Text(3), "is Text"),
    ],
)
def test_spaces_that_do_not_fit_are_named(
    files: dict[str, Path], observation: Any, action: Any, says: str
) -> None:
    for kind in ("keras", "saved_model"):
        with pytest.raises(AgentError) as caught:
            load_agent(files[kind], observation, action)
        assert says in str(caught.value)


def test_unknown_heads_are_a_usage_error(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no head 'softmax'"):
        load(files["keras"], head="softmax")


def test_models_of_other_forms_are_refused_with_the_cure() -> None:
    keras = import_keras()
    x = keras.Input((4,), name="observation")
    goal = keras.Input((4,), name="goal")
    logits = keras.layers.Dense(3, name="logits")(x)
    cases = [
        (keras.Model(x, [logits, logits]), "2 outputs ('logits', 'logits'), and it is not clear which is"),
        (keras.Model([x, goal], keras.layers.Add()([x, goal])), "further inputs 'goal' and only 1 output"),
        (keras.Model(x, keras.ops.argmax(logits, axis=-1)), "returns int32"),
        (lambda x: x, "this is a function"),
    ]
    for model, says in cases:
        with pytest.raises(AgentError) as caught:
            agent_from_model(model, OBSERVATION, ACTION)
        assert says in str(caught.value)


@pytest.mark.parametrize("sizes", [(4, 3), (17, 6)])
def test_float_answers_depend_on_the_row_alone(sizes: tuple[int, int]) -> None:
    space = gymnasium.spaces.Box(-5.0, 5.0, (sizes[0],), np.float32)
    policy = KerasPolicy(agent_from_model(dense_model(*sizes), space, gymnasium.spaces.Discrete(sizes[1])))
    rng = np.random.default_rng(3)
    observations = rng.normal(size=(150, sizes[0])).astype(np.float32)
    outputs = policy.outputs(observations)
    order = rng.permutation(150)
    np.testing.assert_array_equal(policy.outputs(observations[order]), outputs[order])
    for size in (1, 2, 63, 64, 65):
        np.testing.assert_array_equal(policy.outputs(observations[:size]), outputs[:size])
    actions, state = policy.act(observations, None, episode_start=np.ones(150, bool))
    np.testing.assert_array_equal(actions, outputs.argmax(axis=1))
    assert state == ()
    assert policy.outputs(observations[:0]).shape == (0, sizes[1])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_layers_of_another_precision_are_refused_with_the_cure(policy: str) -> None:
    keras = import_keras()
    hidden = keras.layers.Dense(8, "relu", dtype=policy, name="half")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, dtype="float32")])
    with pytest.raises(AgentError, match=r"'half' computes in b?float[0-9]+.*set_dtype_policy\('float32'\)"):
        agent_from_model(model, OBSERVATION, ACTION)
