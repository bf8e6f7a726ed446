"""What may be inside a `.keras` or `.h5` file from a stranger, checked before Keras sees it.

Keras refuses Lambda layers by itself, but its deserializer has been talked into importing modules,
reading files and allocating absurd sizes before. So nothing outside the lists below reaches it.
"""

import json
import zipfile
from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.errors import AgentError, MissingToolError, one_line
from edgeqrl.files import read_member
from edgeqrl.network.tflite_model import shown

MAX_BYTES = 2**29  # of a file and of what it declares; no microcontroller holds a thousandth of it
_MAX_CONFIG_BYTES = 2**24
_MAX_DEPTH = 200  # of nested JSON
_ARCHIVE_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
_MODULES = {
    "keras",
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.regularizers",
    "keras.src.models.functional",
    "keras.src.models.sequential",
    "keras.src.ops.nn",
    "keras.src.ops.numpy",
}
# Whole modules of plain arithmetic: every class in them is a function of its inputs.
_ARITHMETIC_MODULES = {
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.regularizers",
    "keras.src.ops.nn",
    "keras.src.ops.numpy",
}
_CLASS_NAMES = """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    BatchNormalization Bidirectional Concatenate Constant Conv1D Conv2D Cropping1D Cropping2D DTypePolicy
    Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Flatten Functional GRU GRUCell
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D
    GlobalMaxPooling2D GlorotNormal GlorotUniform GroupNormalization HeNormal HeUniform Identity
    InputLayer InputSpec L1 L1L2 L2 LSTM LSTMCell LayerNormalization LeakyReLU LecunNormal
    LecunUniform Masking MaxNorm MaxPooling1D MaxPooling2D Maximum Minimum Model Multiply NonNeg
    Normalization Ones Orthogonal OrthogonalInitializer PReLU Permute Policy RMSNormalization RNN
    RandomNormal RandomUniform ReLU RepeatVector Rescaling Reshape SeparableConv1D SeparableConv2D
    Sequential SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D StackedRNNCells
    Subtract TimeDistributed TruncatedNormal UnitNorm UnitNormalization UpSampling1D UpSampling2D
    VarianceScaling ZeroPadding1D ZeroPadding2D Zeros __bytes__ __ellipsis__ __keras_tensor__
    __numpy__ __slice__ __tensor__ __tuple__"""
_CLASSES = frozenset(_CLASS_NAMES.split())
# Layers of this package, whose code is here and who check their options themselves: class -> its module.
_OWN_CLASSES = {
    "FakeQuantConv2D": "edgeqrl.fake_quant.layers",
    "FakeQuantDense": "edgeqrl.fake_quant.layers",
    "FakeQuantDepthwiseConv2D": "edgeqrl.fake_quant.layers",
    "FakeQuantInput": "edgeqrl.fake_quant.quantizers",
}
_CODE_CLASSES = {"Lambda", "__lambda__", "function", "TorchModuleWrapper"}
CUSTOM_CLASS_CURE = (
    "Save the model with model.export(FOLDER) as a SavedModel, "
    "or call edgeqrl.convert(model, ...) from Python."
)
_TRUST_HINT = "Load it with --trust only if you trust its author."


def require_safe_keras(path: Path) -> None:
    """Raise AgentError unless the `.keras` archive holds only a known network and plain weights."""
    for name, data in _archive_members(path).items():
        if name.endswith(".h5"):
            _require_safe_hdf5(BytesIO(data), path)
        elif name == "config.json":
            require_safe_config(_parse_json(data, path), path)


def require_safe_h5(path: Path) -> None:
    """Raise AgentError unless the legacy `.h5` file holds only a known network and plain weights."""
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path)
    config = _require_safe_hdf5(path, path)
    if config is None:
        raise AgentError(
            f"{path} holds weights only, no network. Save the whole model with model.save('NAME.keras')."
        )
    require_safe_config(_parse_json(config, path), path)


def require_safe_config(config: dict[str, Any], path: Path) -> None:
    """Raise AgentError unless every class that a Keras model config names is on the list."""
    config = {key: value for key, value in config.items() if key != "compile_config"}  # never read
    for node in _objects(config, path):
        class_name: str = node["class_name"]
        module, registered = node.get("module"), node.get("registered_name")
        layer = _layer_name(node)
        if class_name in _CODE_CLASSES:
            raise AgentError(
                f"{path} holds a {class_name}{layer}, which is stored Python code and is not run. "
                f"Replace it by built-in layers. {_TRUST_HINT}"
            )
        is_known = class_name in _CLASSES or module in _ARITHMETIC_MODULES
        is_builtin = module is None or module in _MODULES
        own = class_name.removeprefix("edgeqrl>")
        says_ours = own in _OWN_CLASSES and f"edgeqrl>{own}" in (registered, class_name)
        if _is_own(node, own) if says_ours else _is_registered(registered, class_name):
            continue  # code of ours or of the caller, not of the file
        if not (is_known and is_builtin and registered in (None, class_name)):
            is_keras = isinstance(module, str) and module.partition(".")[0] == "keras"
            is_custom = registered not in (None, class_name) or not is_keras
            built_in = f"Build the model from built-in layers. {_TRUST_HINT}"
            raise AgentError(
                f"{path} holds {_full_name(class_name, module, registered)}{layer}, which is not on the "
                f"list of safe Keras classes. {CUSTOM_CLASS_CURE if is_custom else built_in}"
            )


def _is_own(node: dict[str, Any], name: str) -> bool:
    """Tell whether an object is our layer `name`, which is registered here: Keras looks nowhere else for it.

    The old format has the registered name as `class_name`, and no other names.
    """
    names = node["class_name"], node.get("registered_name")
    is_new = names == (name, f"edgeqrl>{name}") and node.get("module") in (None, _OWN_CLASSES[name])
    is_old = node["class_name"] == f"edgeqrl>{name}" and not {"module", "registered_name"} & set(node)
    if not (is_new or is_old):
        return False
    import_module(_OWN_CLASSES[name])
    return True


def _is_registered(name: Any, class_name: str) -> bool:
    """Tell whether this process registered `class_name` with Keras, under `package>class_name`."""
    if not isinstance(name, str) or name.rpartition(">")[1:] != (">", class_name):
        return False
    return import_keras().saving.get_registered_object(name) is not None


def _archive_members(path: Path) -> dict[str, bytes]:
    """Read the archive's members, having bounded their number, names and sizes."""
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if strange := [n for n in names if n not in _ARCHIVE_MEMBERS]:
                raise AgentError(
                    f"{path} holds '{shown(strange[0])}', which a Keras policy does not need and which is "
                    f"not read. Save it with model.save('NAME.keras'). {_TRUST_HINT}"
                )
            if len(names) != len(set(names)):
                raise AgentError(f"{path} holds a file twice and is damaged. Save the model again.")
            if missing := _ARCHIVE_MEMBERS - set(names):
                raise AgentError(f"{path} holds no {min(missing)} and is no whole model. Save it again.")
            if sum(info.file_size for info in infos) > MAX_BYTES:
                raise _too_large(path)
            return {info.filename: read_member(archive, info) for info in infos}
    except AgentError:
        raise
    except Exception as error:  # zipfile, zlib, bz2 and lzma each raise their own
        raise AgentError(f"{path} is damaged ({one_line(error)}). Save or copy it again.") from None


def _require_safe_hdf5(source: Path | BytesIO, path: Path) -> bytes | None:
    """Refuse links out of the file and absurd sizes; return the model config if there is one."""
    try:
        import h5py
    except ImportError:
        raise MissingToolError(
            "Keras agents need h5py and TensorFlow. Install them with: pip install 'edgeqrl[keras]'."
        ) from None
    try:
        with h5py.File(source, "r") as file:
            declared = 0
            for node in _hdf5_nodes(file, path):
                if isinstance(node, h5py.Dataset):
                    if node.external or node.is_virtual or node.dtype.hasobject:
                        raise AgentError(f"{path} takes weights from outside itself, which is not allowed.")
                    declared += node.size * node.dtype.itemsize
                    if declared > MAX_BYTES:
                        raise _too_large(path)
            config = file.attrs.get("model_config")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise AgentError(f"{path} is damaged ({one_line(error)}). Save or copy it again.") from None
    if isinstance(config, str):
        config = config.encode(errors="surrogateescape")  # h5py's way with bytes that are no UTF-8
    if not isinstance(config, bytes | None):
        raise AgentError(f"{path} is damaged: its model description is not text. Save it again.")
    return config


def _hdf5_nodes(file: Any, path: Path) -> Iterator[Any]:
    import h5py

    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise AgentError(f"{path} links '{shown(key)}' to another place, which is not allowed.")
            node = group[key]
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield node
            if isinstance(node, h5py.Group):
                groups.append(node)


def _parse_json(data: bytes, path: Path) -> dict[str, Any]:
    if len(data) > _MAX_CONFIG_BYTES:
        raise _too_large(path)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise AgentError(f"{path} is damaged: its model description is not JSON. Save it again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise AgentError(f"{path} is damaged: its model description names no class. Save it again.")
    return config


def _objects(config: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Yield every dict that Keras would turn into an object."""
    pending: list[tuple[Any, int]] = [(config, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise AgentError(f"{path} nests its layers more than {_MAX_DEPTH} deep and is not read.")
        if isinstance(value, dict):
            if "class_name" in value:
                names = (value.get("module"), value.get("registered_name"))
                is_text = all(isinstance(name, str | None) for name in names)
                if not (is_text and isinstance(value["class_name"], str)):
                    raise AgentError(f"{path} is damaged: a class name is no text. Save it again.")
                yield value
            pending += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]


def _layer_name(node: dict[str, Any]) -> str:
    config = node.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f" at layer '{shown(name)}'" if isinstance(name, str) else ""


def _full_name(class_name: str, module: Any, registered: Any) -> str:
    if isinstance(registered, str) and registered != class_name:
        return f"the custom class '{shown(registered)}'"
    return f"the class '{shown(f'{module}.{class_name}' if module else class_name)}'"


def _too_large(path: Path) -> AgentError:
    return AgentError(f"{path} is, or unpacks to, more than {MAX_BYTES >> 20} MiB and is not read.")
