"""Keras models, from files or live, as agents. TensorFlow is imported inside the functions."""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgeqrl.agents.agent import Agent, identifier
from edgeqrl.agents.heads import infer_head
from edgeqrl.agents.keras_files import (
    CUSTOM_CLASS_CURE,
    MAX_BYTES,
    one_line,
    require_safe_h5,
    require_safe_keras,
)
from edgeqrl.agents.saved_model import load_saved_model
from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow
from edgeqrl.errors import AgentError
from edgeqrl.network.tflite_model import shown

_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = {"keras": (".keras",), "h5": (".h5", ".hdf5")}
_RECURRENT = {"GRU", "LSTM", "RNN", "SimpleRNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D"}
_FORMATS = "Agents are .keras files, .h5 files or SavedModel folders."


def load_agent(
    path: str | Path,
    observation_space: Any,
    action_space: Any,
    *,
    head: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    trust: bool = False,
    name: str | None = None,
) -> Agent:
    """Load a `.keras` file, a legacy `.h5` file or a SavedModel folder as an agent for these spaces.

    head   states the action head instead of inferring it: a name from `heads.HEAD_NAMES`. Without an
           action space (None) it is needed, and `action_bounds` (low, high) bound every action
    trust  also runs code that the file brings along; without it such files are refused
    name   becomes the prefix of exported symbols; else it is made from the file's name

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
        observation_space,
        action_space,
        head=head,
        action_bounds=action_bounds,
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
    head: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    name: str = "policy",
) -> Agent:
    """Make an agent of a live Keras model; the model stays the caller's and is never changed."""
    import_keras()
    if not callable(model) or not hasattr(model, "weights"):
        raise AgentError(f"A Keras model is needed, and this is a {type(model).__name__}.")
    return _make_agent(
        model,
        observation_space,
        action_space,
        head=head,
        action_bounds=action_bounds,
        name=name,
        without_weights=(
            "The model holds no weights: it was never built. Call it once on an observation first, "
            "and load or train its weights."
        ),
    )


def concrete_function(model: Any, observation_shape: tuple[int, ...], batch_size: int) -> Any:
    """Trace `model` for float32 observations [batch_size, *observation_shape], as it acts (not training)."""
    tensorflow = import_tensorflow()
    function = tensorflow.function(lambda observation: model(observation, training=False), autograph=False)
    spec = tensorflow.TensorSpec((batch_size, *observation_shape), tensorflow.float32, name="observation")
    return function.get_concrete_function(spec)


def _make_agent(
    model: Any,
    observation_space: Any,
    action_space: Any,
    *,
    head: str | None,
    action_bounds: tuple[float, float] | None,
    name: str,
    without_weights: str,
    source_sha256: str | None = None,
) -> Agent:
    shape = _observation_shape(observation_space)
    _require_one_input(model, shape)
    num_weights = len(model.weights)
    if num_weights == 0 and not getattr(model, "built", True):
        raise AgentError(without_weights)  # before the first call, which would invent random ones
    num_outputs, ends_in_tanh = _probe(model, shape)
    if len(model.weights) > num_weights:  # some layers were built only now
        raise AgentError(without_weights)
    _require_finite_weights(model)
    return Agent(
        name=identifier(name),
        model=model,
        head=infer_head(
            action_space,
            num_outputs,
            ends_in_tanh=ends_in_tanh,
            stated=head,
            action_bounds=action_bounds,
        ),
        observation_shape=shape,
        source_sha256=source_sha256 or _hash_weights(model),
        ends_in_tanh=ends_in_tanh,
    )


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
            return "is a stable-baselines3 agent; copy its layers into a Keras model first"
        if any(name.endswith("data.pkl") for name in names):
            return "is a PyTorch file; copy its layers into a Keras model first"
        return "is a zip archive without a Keras model"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "is a Python pickle, which is code and is never loaded; save the model as .keras"
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


def _observation_shape(space: Any) -> tuple[int, ...]:
    kind = type(space).__name__
    if kind != "Box":
        raise AgentError(
            f"The environment's observation space is {kind}, and a policy needs a Box. Wrap the environment, "
            "for example with gymnasium.wrappers.FlattenObservation."
        )
    return tuple(int(n) for n in space.shape)


def _require_one_input(model: Any, shape: tuple[int, ...]) -> None:
    if hasattr(model, "input_spec") and hasattr(model, "input_name"):  # a SavedModel
        _require_input(model.input_name, model.input_spec, shape, is_recurrent=False)
        if model.input_spec.shape.rank is not None and model.input_spec.shape[0] not in (None, 1):
            raise AgentError(
                f"The SavedModel takes batches of {model.input_spec.shape[0]} observations only. "
                "Export it with a batch size of None or 1."
            )
        return
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return  # a subclassed model says what it takes when it is called
    if len(inputs) != 1:
        names = ", ".join(f"'{tensor.name}'" for tensor in inputs)
        raise AgentError(
            f"The model has {len(inputs)} inputs ({names}), and a policy has one: the observation."
        )
    is_recurrent = any(type(layer).__name__ in _RECURRENT for layer in getattr(model, "layers", ()))
    _require_input(inputs[0].name, inputs[0], shape, is_recurrent=is_recurrent)
    outputs = model.outputs
    if len(outputs) != 1:
        names = ", ".join(f"'{name}'" for name in getattr(model, "output_names", None) or range(len(outputs)))
        raise AgentError(
            f"The model has {len(outputs)} outputs ({names}), and a policy has one. Make a model of the "
            "acting part alone: keras.Model(model.inputs, model.outputs[i])."
        )


def _require_input(name: str, tensor: Any, shape: tuple[int, ...], *, is_recurrent: bool) -> None:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    if not dtype.startswith(("float", "bfloat")):
        raise AgentError(f"The model's input '{name}' takes {dtype}, and observations arrive as float32.")
    if len(tuple(tensor.shape)) == 0:
        return
    taken = tuple(tensor.shape)[1:]
    fits = len(taken) == len(shape) and all(a in (None, b) for a, b in zip(taken, shape, strict=True))
    if fits:
        return
    if len(taken) == len(shape) + 1 and (is_recurrent or taken[0] is None):
        raise AgentError(
            f"The model's input '{name}' takes sequences of shape {taken}, and recurrent models are not "
            f"supported yet. A feed-forward model is needed, which takes one observation of shape {shape}."
        )
    raise AgentError(
        f"The model's input '{name}' takes shape {taken}, which does not fit observations of shape {shape}. "
        "Is this the agent for these observations?"
    )


def _require_finite_weights(model: Any) -> None:
    for weight in model.weights:
        values = np.asarray(weight)
        if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
            label = getattr(weight, "path", None) or weight.name
            raise AgentError(
                f"The weights '{label}' hold NaN or infinity: the training diverged. "
                "Take an earlier checkpoint."
            )


def _probe(model: Any, shape: tuple[int, ...]) -> tuple[int, bool]:
    """Trace the model once; return the number of outputs and whether they come out of a tanh."""
    try:
        function = concrete_function(model, shape, 1)
    except Exception as error:
        raise AgentError(
            f"The model does not take observations of shape {shape}: {one_line(error)}"
        ) from None
    if len(function.outputs) != 1:
        raise AgentError(
            f"The model returns {len(function.outputs)} tensors, and a policy returns one. Make a model of "
            "the acting part alone."
        )
    (output,) = function.outputs
    if output.dtype.name != "float32":
        raise AgentError(
            f"The model returns {output.dtype.name}, and its outputs must be float32 values, one an action. "
            "Leave out its argmax or sampling, and use the float32 dtype policy."
        )
    sizes = output.shape.as_list() if output.shape.rank else []
    if None in sizes or not sizes or sizes[0] != 1:
        raise AgentError(f"The model's output has shape {output.shape}; it must be [batch, outputs].")
    return int(np.prod(sizes[1:], dtype=np.int64)), _operator_behind(output) == "Tanh"


def _operator_behind(tensor: Any) -> str:
    """Name the operator that computes `tensor`, looking through calls and plain copies."""
    operator = tensor.op
    while True:
        if operator.type == "Identity":
            operator = operator.inputs[0].op
        elif operator.type in ("PartitionedCall", "StatefulPartitionedCall"):
            inner = operator.graph._get_function(operator.get_attr("f").name)
            graph = getattr(inner, "graph", None)
            if graph is None or not graph.outputs:
                return str(operator.type)
            operator = graph.outputs[0].op
        else:
            return str(operator.type)


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
