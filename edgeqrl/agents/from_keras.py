"""Keras models, from files or live, as agents. TensorFlow is imported inside the functions."""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeqrl.agents.agent import Agent, identifier
from edgeqrl.agents.heads import DiscreteHead, Head, MultiBinaryHead, infer_head
from edgeqrl.agents.keras_files import (
    CUSTOM_CLASS_CURE,
    MAX_BYTES,
    require_safe_h5,
    require_safe_keras,
)
from edgeqrl.agents.model_io import Outputs, match_outputs
from edgeqrl.agents.normal_form import NormalForm, OpenModel, open_model
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.policy_outputs import policy_tails, require_logits
from edgeqrl.agents.saved_model import load_saved_model
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.errors import AgentError, one_line
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing, preprocessing_of

_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = {"keras": (".keras",), "h5": (".h5", ".hdf5")}
_FORMATS = (
    "Agents are .keras and .h5 files, SavedModel folders, .zip files of Stable-Baselines3, .pt state dicts "
    "of PyTorch, and zoo:NAME."
)


def load_agent(
    path: str | Path,
    observation_space: Any,
    action_space: Any,
    *,
    options: AgentOptions | None = None,
    preprocessing: Preprocessing | None = None,
    head: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    trust: bool = False,
    name: str | None = None,
) -> Agent:
    """Load a `.keras` file, a legacy `.h5` file or a SavedModel folder as an agent for these spaces.

    options        state what the model's form does not say
    preprocessing  what happens to raw observations before the model; by default what the space needs
    head           states the action head instead of inferring it: a name from `heads.HEAD_NAMES`. Without an
                   action space (None) it is needed, and `action_bounds` (low, high) bound every action;
                   both are short for the same in `options`
    trust          also runs code that the file brings along; without it such files are refused
    name           becomes the prefix of exported symbols; else it is made from the file's name

    Raises AgentError, in one sentence, for what is missing, damaged, unsafe, not finite or does not
    fit the spaces.
    """
    place = Path(path)
    kind = _require_format(place)
    if kind == "SavedModel":
        model = load_saved_model(place, trust=trust)
    else:
        if not trust:
            (require_safe_keras if kind == "keras" else require_safe_h5)(place)
        model = _load_keras(place, kind, trust=trust)
    return _make_agent(
        model,
        preprocessing or preprocessing_of(observation_space),
        action_space,
        _with(options, head, action_bounds),
        name=name if name is not None else place.resolve().stem,
        source_sha256=_hash_place(place),
        without_weights=(
            f"{place} holds no weights: the model was saved before it was built. "
            "Call it once on an observation, then save it again."
        ),
    )


def agent_from_model(
    model: Any,
    observation_space: Any,
    action_space: Any,
    *,
    options: AgentOptions | None = None,
    preprocessing: Preprocessing | None = None,
    head: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    name: str = "policy",
) -> Agent:
    """Make an agent of a live Keras model, as `load_agent` does; the model stays the caller's, unchanged."""
    import_keras()
    if not callable(model) or not hasattr(model, "weights"):
        raise AgentError(f"A Keras model is needed, and this is a {type(model).__name__}.")
    return _make_agent(
        model,
        preprocessing or preprocessing_of(observation_space),
        action_space,
        _with(options, head, action_bounds),
        name=name,
        without_weights=(
            "The model holds no weights: it was never built. Call it once on an observation first, "
            "and load or train its weights."
        ),
    )


def concrete_function(agent: Agent, batch_size: int) -> Any:
    """Trace the agent's model as it acts, for float32 inputs [batch_size, ...] in the order of its names.

    The outputs are in the order of `agent.output_names`.
    """
    tensorflow = import_tensorflow()
    model = agent.model
    specs = [
        tensorflow.TensorSpec((batch_size, *shape), tensorflow.float32, name=name)
        for name, shape in zip(agent.input_names, agent.input_shapes, strict=True)
    ]
    if len(specs) == 1:
        function = tensorflow.function(
            lambda observation: model(observation, training=False), autograph=False
        )
    else:
        function = tensorflow.function(lambda *inputs: model(list(inputs), training=False), autograph=False)
    return function.get_concrete_function(*specs)


def _with(
    options: AgentOptions | None, head: str | None, action_bounds: tuple[float, float] | None
) -> AgentOptions:
    chosen = options if options is not None else AgentOptions()
    if head is not None:
        chosen = replace(chosen, head=head)
    return chosen if action_bounds is None else replace(chosen, action_bounds=action_bounds)


def _make_agent(
    model: Any,
    preprocessing: Preprocessing,
    action_space: Any,
    options: AgentOptions,
    *,
    name: str,
    without_weights: str,
    source_sha256: str | None = None,
) -> Agent:
    tensorflow = import_tensorflow()
    num_weights = len(model.weights)
    if num_weights == 0 and not getattr(model, "built", True):
        raise AgentError(without_weights)  # before the first call, which would invent random ones
    opened = open_model(model, preprocessing)
    if len(model.weights) > num_weights:  # some layers were built only now
        raise AgentError(without_weights)
    _require_finite_weights(model)
    _require_float32(model)
    kind, counts = _actions_of(action_space, options)
    outputs = match_outputs(opened.outputs, opened.given_states, counts, options)
    for index in (*outputs.policy, outputs.log_std, outputs.value, *outputs.states):
        if index is not None and opened.outputs[index].dtype != "float32":
            raise AgentError(
                f"The model returns {opened.outputs[index].dtype}, and its outputs must be float32 values, "
                "one an action. Leave out its argmax or sampling, and use the float32 dtype policy."
            )
    operators = [opened.operators[i] for i in outputs.policy]
    tails, num_outputs = policy_tails(
        [opened.outputs[i] for i in outputs.policy],
        operators,
        kind,
        counts,
        options,
        sample=lambda: _sample(
            tensorflow.function(lambda *given: opened.call(list(given))[outputs.policy[0]], autograph=False),
            opened.input_shapes,
        ),
    )
    ends_in_tanh = operators == ["Tanh"]
    head = _head(opened, outputs, num_outputs, ends_in_tanh, action_space, options)
    is_direct = opened.is_direct and not tails
    agent = Agent(
        name=identifier(name),
        model=model if is_direct else NormalForm(model, opened, outputs, tails),
        head=head,
        preprocessing=preprocessing,
        source_sha256=source_sha256 or _hash_weights(model),
        ends_in_tanh=ends_in_tanh,
        states=(*opened.given_states, *opened.hidden_states),
        value_names=("value",) if outputs.policy and outputs.value is not None else (),
        original=None if is_direct else model,
        options=options,
    )
    if tails:
        concrete_function(agent, 1)  # what cannot be cut off or added says so now
    if (isinstance(head, DiscreteHead) and head.is_stochastic) or isinstance(head, MultiBinaryHead):
        require_logits(head, _sample(concrete_function(agent, 1), agent.input_shapes))
    return agent


def _sample(call: Callable[..., Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
    """Return the first output [N, ...] of a traced model for a few random inputs of everyday size."""
    tensorflow = import_tensorflow()
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(32):
        inputs = [rng.normal(0.0, 3.0, (1, *shape)).astype(np.float32) for shape in shapes]
        found = call(*map(tensorflow.constant, inputs))
        rows.append(np.asarray(found[0] if isinstance(found, list | tuple) else found))
    return np.concatenate(rows)


def _head(
    opened: OpenModel,
    outputs: Outputs,
    num_outputs: int,
    ends_in_tanh: bool,
    action_space: Any,
    options: AgentOptions,
) -> Head:
    sizes = [prod(n or 0 for n in tensor.shape or ()) for tensor in opened.outputs]
    if not outputs.policy and outputs.value is not None:
        return infer_head(None, sizes[outputs.value], ends_in_tanh=False, options=AgentOptions(head="value"))
    has_log_std = outputs.log_std is not None
    if has_log_std and sizes[outputs.log_std or 0] != num_outputs:
        raise AgentError(
            f"The model returns {num_outputs} means and {sizes[outputs.log_std or 0]} log standard "
            "deviations. There must be as many of both; state which output they are with --log-std-output."
        )
    return infer_head(
        action_space,
        num_outputs,
        ends_in_tanh=ends_in_tanh,
        options=options,
        has_log_std=has_log_std,
    )


def _actions_of(space: Any, options: AgentOptions) -> tuple[str, tuple[int, ...]]:
    """Return the kind of action space and how many outputs each of its actions has, as far as it is known."""
    if space is None:
        kinds = {"argmax": "Discrete", "threshold": "MultiBinary", None: "", "value": ""}
        return kinds.get(options.head, "Box"), ()
    kind = type(space).__name__
    if kind == "Discrete":
        return kind, (int(space.n),)
    if kind == "MultiDiscrete":
        return kind, tuple(int(n) for n in np.ravel(space.nvec))
    return kind, (prod(space.shape),) if kind in ("Box", "MultiBinary") else ()


def _require_format(path: Path) -> str:
    """Return "keras", "h5" or "SavedModel", from what is inside rather than from the name."""
    try:
        if path.is_dir():
            if (path / "saved_model.pb").is_file():
                return "SavedModel"
            raise AgentError(f"The folder {path} holds no saved_model.pb. {_FORMATS}")
        if not path.exists():
            raise AgentError(f"There is no agent {path}. {_FORMATS}")
        if not path.is_file():
            raise AgentError(f"{path} is neither a file nor a folder. {_FORMATS}")
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror}.") from None
    if not start:
        raise AgentError(f"{path} is empty. Save or copy it again.")
    if start.startswith(_HDF5):
        return "h5"
    if start.startswith(_ZIP) and _is_keras_archive(path):
        return "keras"
    raise AgentError(f"{path} {_describe(path, start)}. {_FORMATS}")


def _is_keras_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise AgentError(
            f"{path} is damaged: a zip archive that ends early. Save or copy it again."
        ) from None


def _describe(path: Path, start: bytes) -> str:
    if start.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "policy.pth" in names:
            return "is a stable-baselines3 agent, which edgeqrl.agents.load.open_agent takes"
        if any(name.endswith("data.pkl") for name in names):
            return "is a PyTorch file, which edgeqrl.agents.load.open_agent takes with a list of layers"
        return "is a zip archive without a Keras model"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return (
            "is a Python pickle, which is code and is never loaded; save the model as .keras, and name "
            "statistics of VecNormalize with --vecnormalize"
        )
    if start[4:8] == b"TFL3":
        return "is a .tflite network, and not an agent; use `edgeqrl export` or `compare` with it"
    if path.suffix in (".keras", ".h5", ".hdf5"):
        return "is damaged or is something else: it does not begin as a Keras file does"
    return "is no Keras model"


def _load_keras(path: Path, kind: str, *, trust: bool) -> Any:
    keras = import_keras()
    creator_scope = import_tensorflow().variable_creator_scope(_creator_of_modest_size(path))
    try:
        with creator_scope, TemporaryDirectory() as folder:
            named = path
            if path.suffix not in _SUFFIXES[kind]:  # Keras goes by the name
                named = Path(folder) / f"agent{_SUFFIXES[kind][0]}"
                shutil.copyfile(path, named)
            return keras.models.load_model(named, compile=False, safe_mode=not trust)
    except AgentError:
        raise
    except Exception as error:  # Keras raises anything from KeyError to its own classes
        if found := re.search(r"Could not locate (?:class|function) '([^']*)'", str(error)):
            raise AgentError(
                f"{path} needs the custom class '{shown(found[1])}', whose code is not in the file. "
                f"{CUSTOM_CLASS_CURE}"
            ) from None
        raise AgentError(f"Keras {keras.__version__} cannot load {path}: {one_line(error)}") from None


def _creator_of_modest_size(path: Path) -> Callable[..., Any]:
    """Make a TensorFlow variable creator that refuses before memory is taken.

    The description of the layers may lie about the weights, and Keras makes variables from it first.
    """
    tensorflow = import_tensorflow()
    num_elements = 0

    def create(next_creator: Callable[..., Any], **options: Any) -> Any:
        nonlocal num_elements
        value = options.get("initial_value")
        if callable(value):
            with tensorflow.Graph().as_default():  # gives it a shape and computes nothing
                shape = value().shape
        else:
            shape = tensorflow.TensorShape(np.asarray(value).shape)
        num_elements += shape.num_elements() or 0
        if num_elements * 4 > MAX_BYTES:
            raise AgentError(
                f"{path} describes a network of at least {num_elements} weights, too many to load."
            )
        return next_creator(**options)

    return create


def _require_finite_weights(model: Any) -> None:
    for weight in model.weights:
        values = np.asarray(weight)
        if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
            label = getattr(weight, "path", None) or weight.name
            raise AgentError(
                f"The weights '{label}' hold NaN or infinity: the training diverged. "
                "Take an earlier checkpoint."
            )


def _require_float32(model: Any) -> None:
    """Refuse layers of mixed precision, which no converter takes."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    for layer in layers:
        dtype = str(getattr(layer, "compute_dtype", "float32"))
        if dtype.startswith(("float", "bfloat")) and dtype != "float32":
            raise AgentError(
                f"The layer '{shown(layer.name)}' computes in {dtype}. Build the model again under "
                "keras.config.set_dtype_policy('float32') and give it these weights: "
                "new.set_weights(old.get_weights())."
            )


def _hash_place(path: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _hash_weights(model: Any) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    for weight in model.weights:
        values = np.ascontiguousarray(np.asarray(weight))
        label = getattr(weight, "path", None) or weight.name
        digest.update(f"\0{label}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
