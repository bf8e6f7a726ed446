"""Names of TensorFlow and Keras that promise nothing and that we use: a version without one fails by name."""

import ast
import importlib
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgeqrl.agents.tensorflow_runtime import import_keras, import_tensorflow

ROOT = Path(__file__).parent.parent
# Where we may import from although it is no public place.
PRIVATE_MODULES = re.compile(r"(tensorflow\.(python|lite)|keras\.src)\b")


@cache
def small_model() -> Any:
    keras = import_keras()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model(import_tensorflow().zeros((1, 3)))
    return model


@cache
def calibrator() -> Any:
    module = importlib.import_module("tensorflow.lite.python.optimize.calibrator")
    return module.Calibrator(bytes(float_converter().convert()))


@cache
def float_converter() -> Any:
    tensorflow, model = import_tensorflow(), small_model()
    traced = tensorflow.function(model).get_concrete_function(tensorflow.TensorSpec((1, 3)))
    return tensorflow.lite.TFLiteConverter.from_concrete_functions([traced])


def graph() -> Any:
    tensorflow = import_tensorflow()
    return tensorflow.function(lambda x: x + 1.0).get_concrete_function(tensorflow.TensorSpec((1,))).graph


def schema_folder() -> Any:
    importlib.import_module("tensorflow.lite.python.schema_py_generated")
    return importlib.import_module("tensorflow.lite.python")


def module(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


# name -> (who has it, whose it is)
NAMES: dict[str, tuple[Callable[[], Any], str]] = {
    "mlir_quantize": (module("tensorflow.lite.python.convert"), "tensorflow"),
    "convert_variables_to_constants_v2": (
        module("tensorflow.python.framework.convert_to_constants"),
        "tensorflow",
    ),
    "flatbuffer_utils": (module("tensorflow.lite.tools"), "tensorflow"),
    "convert_bytearray_to_object": (module("tensorflow.lite.tools.flatbuffer_utils"), "tensorflow"),
    "convert_object_to_bytearray": (module("tensorflow.lite.tools.flatbuffer_utils"), "tensorflow"),
    "calibrator": (module("tensorflow.lite.python.optimize"), "tensorflow"),
    "_calibrator": (calibrator, "tensorflow"),
    "Prepare": (lambda: calibrator()._calibrator, "tensorflow"),
    "QuantizeModel": (lambda: calibrator()._calibrator, "tensorflow"),
    **{
        name: (module("tensorflow.lite.python.schema_py_generated"), "tensorflow")
        for name in (
            "BufferT",
            "FakeQuantOptionsT",
            "OperatorCodeT",
            "OperatorT",
            "QuantizationParametersT",
            "TensorT",
        )
    },
    "schema_py_generated": (schema_folder, "tensorflow"),
    "_get_function": (graph, "tensorflow"),
    "_flatten_layers": (small_model, "keras"),
    "_functional": (small_model, "keras"),
    "_run_through_graph": (lambda: small_model()._functional, "keras"),
    "_nodes_by_depth": (lambda: small_model()._functional, "keras"),
    "_call_has_training_arg": (lambda: small_model().layers[0], "keras"),
}
# The public ones of private objects and modules.
REACHED = {"Prepare", "QuantizeModel", "convert_bytearray_to_object", "convert_object_to_bytearray"}
OTHERS = {"_asdict", "_exit"}  # of the standard library


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_that_we_use_is_in_this_version(name: str) -> None:
    find, library = NAMES[name]
    version = importlib.import_module(library).__version__
    try:
        is_there = hasattr(find(), name)
    except (AttributeError, ImportError):
        is_there = False
    assert is_there, (
        f"{library} {version} has no '{name}', which edgeqrl uses: find another way to what it does, or keep "
        f"the upper bound of {library} in pyproject.toml below {version}."
    )


def product_files() -> list[Path]:
    return [*(ROOT / "edgeqrl/agents").rglob("*.py"), *(ROOT / "edgeqrl/quantize").rglob("*.py")]


def private_names(tree: ast.Module) -> set[str]:
    """Return attributes with an underscore that are not of `self`, and what comes from private modules."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            found |= {str(a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)}
        elif isinstance(node, ast.ImportFrom) and PRIVATE_MODULES.match(node.module or ""):
            found |= {"_" + alias.name for alias in node.names}  # marked as private by where they are
    return {name for name in found if re.match(r"_[A-Za-z]", name)}


def own_names(tree: ast.Module) -> set[str]:
    """Return the private functions, methods and attributes that a module defines."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
        ):
            found |= {node.attr} if node.value.id == "self" else set()
    return found


def test_no_other_private_name_is_used() -> None:
    trees = [ast.parse(path.read_text()) for path in product_files()]
    own = set().union(*map(own_names, trees))
    used = set().union(*map(private_names, trees)) - own - OTHERS
    assert used == {name if name.startswith("_") else f"_{name}" for name in NAMES.keys() - REACHED}


def test_upper_bounds_are_the_versions_that_are_tested() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["keras"]
    pinned = dict(re.findall(r"^([a-z-]+)==([0-9.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for requirement in stated:
        name, _, bound = re.findall(r"^([a-z-]+)>=([0-9.]+),<([0-9.]+)", requirement)[0]
        major, minor = map(int, pinned[name].split(".")[:2])
        assert bound == f"{major}.{minor + 1}", (
            f"{name} is tested at {pinned[name]}, and allowed below {bound}"
        )
