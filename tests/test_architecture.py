"""Arrows point one way. ARCHITECTURE.md states the rules; this file enforces them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "tensorflow",
    "keras",
    "torch",
    "gymnasium",
    "scipy",
    "matplotlib",
    "unicorn",
    "elftools",
    "tflite_runtime",
    "ai_edge_litert",
    "tflite_micro",
    "h5py",
    "optuna",
    "sqlalchemy",
)
STAGES = (
    "edgeqrl.agents",
    "edgeqrl.calibrate",
    "edgeqrl.quantize",
    "edgeqrl.network",
    "edgeqrl.backends",
    "edgeqrl.validate",
    "edgeqrl.diagnose",
    "edgeqrl.emulate",
    "edgeqrl.search",
    "edgeqrl.stages",
    "edgeqrl.pipeline",
    "edgeqrl.cli",
)
TOP = (
    "edgeqrl.diagnose",
    "edgeqrl.search",
    "edgeqrl.stages",
    "edgeqrl.pipeline",
    "edgeqrl.cli",
    "edgeqrl.bundle",
    "edgeqrl.emulate",
)
# folder or file -> module prefixes it must not import, not even inside a function
FORBIDDEN = {
    "edgeqrl/errors.py": ("edgeqrl", "firmware_export"),
    "edgeqrl/interfaces.py": ("edgeqrl", "firmware_export"),
    "edgeqrl/network": ("edgeqrl.agents", "edgeqrl.quantize", "edgeqrl.validate", "firmware_export", *TOP),
    "edgeqrl/agents": ("edgeqrl.calibrate", "edgeqrl.quantize", "edgeqrl.validate", "firmware_export", *TOP),
    **dict.fromkeys(
        ("edgeqrl/spaces.py", "edgeqrl/preprocessing.py"),
        (*(stage for stage in STAGES if stage != "edgeqrl.network"), "firmware_export"),
    ),
    **dict.fromkeys(
        ("edgeqrl/environments.py", "edgeqrl/wrappers.py", "edgeqrl/absorbed.py"),
        (
            "edgeqrl.agents",
            "edgeqrl.calibrate",
            "edgeqrl.quantize",
            "edgeqrl.backends",
            "edgeqrl.validate",
            "firmware_export",
            *TOP,
        ),
    ),
    "edgeqrl/sources.py": (
        "edgeqrl.quantize",
        "edgeqrl.backends",
        "edgeqrl.validate",
        "edgeqrl.pipeline",
        "edgeqrl.cli",
        "firmware_export",
    ),
    "edgeqrl/training.py": ("edgeqrl.validate", "firmware_export", *TOP),
    **dict.fromkeys(
        ("edgeqrl/rollout.py", "edgeqrl/action_checks.py"),
        ("edgeqrl.agents", "edgeqrl.backends", "edgeqrl.network", "firmware_export", *TOP),
    ),
    **dict.fromkeys(
        (
            "edgeqrl/calibrate.py",
            "edgeqrl/calibration_sources.py",
            "edgeqrl/minari_data.py",
            "edgeqrl/range_check.py",
        ),
        ("edgeqrl.quantize", "edgeqrl.backends", "edgeqrl.validate", *TOP),
    ),
    "edgeqrl/quantize": ("edgeqrl.validate", "firmware_export", *TOP),
    **dict.fromkeys(  # only what learns plays episodes
        ("edgeqrl/quantize/quantize.py", "edgeqrl/quantize/integer.py", "edgeqrl/quantize/trained.py"),
        ("edgeqrl.rollout",),
    ),
    "edgeqrl/validate": ("edgeqrl.backends", "edgeqrl.quantize", "edgeqrl.network", "firmware_export", *TOP),
    "edgeqrl/validate/statistics.py": ("edgeqrl", "firmware_export"),
    "edgeqrl/validate/betting.py": ("edgeqrl", "firmware_export"),
    "edgeqrl/diagnose": (
        "edgeqrl.agents",
        "edgeqrl.backends",
        "edgeqrl.quantize",
        "firmware_export",
        *(place for place in TOP if place != "edgeqrl.diagnose"),
    ),
    "edgeqrl/search": (
        "edgeqrl.agents",
        "edgeqrl.backends",
        *(place for place in TOP if place != "edgeqrl.search"),
    ),
    "edgeqrl/backends": ("edgeqrl.validate", "edgeqrl.calibrate", "edgeqrl.rollout", *TOP),
    "edgeqrl/stages": ("edgeqrl.pipeline", "edgeqrl.cli"),
    "edgeqrl/stages/settings.py": ("edgeqrl.bundle", "edgeqrl.diagnose"),
    "edgeqrl/fake_quant": tuple(s for s in STAGES if s not in ("edgeqrl.agents", "edgeqrl.quantize")),
    "edgeqrl/zoo": tuple(stage for stage in STAGES if stage != "edgeqrl.zoo"),
    "firmware_export": (
        *(stage for stage in STAGES if stage != "edgeqrl.network"),
        "edgeqrl.rollout",
        "edgeqrl.zoo",
        "edgeqrl.validate",
        "tensorflow",
        "gymnasium",
    ),
    "firmware_export/emit/c_literals.py": ("edgeqrl", "firmware_export"),
}
MAX_MODULE_LINES = 450


def source_files(place: Path) -> Iterator[Path]:
    yield from [place] if place.is_file() else sorted(place.rglob("*.py"))


def imported_modules(tree: ast.AST, *, top_level_only: bool) -> set[str]:
    """Modules named by import statements; type-checking blocks do not count."""
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else list(ast.walk(tree))
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    modules: set[str] = set()
    for node in nodes:
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("place", FORBIDDEN)
def test_module_imports_nothing_downstream(place: str) -> None:
    files = list(source_files(ROOT / place))
    assert files, f"{place} has moved: update the rule"
    for path in files:
        modules = imported_modules(ast.parse(path.read_text()), top_level_only=False)
        for prefix in FORBIDDEN[place]:
            bad = sorted(module for module in modules if under(module, prefix))
            assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


@pytest.mark.parametrize("package", ["edgeqrl", "firmware_export"])
def test_heavy_libraries_are_imported_late(package: str) -> None:
    for path in source_files(ROOT / package):
        if "training" in path.parts or path.name.endswith("worker.py"):
            continue  # their own processes
        modules = imported_modules(ast.parse(path.read_text()), top_level_only=True)
        bad = sorted(module for module in modules for heavy in HEAVY if under(module, heavy))
        assert not bad, f"{path.relative_to(ROOT)} imports {bad} at module level"


def test_tensorflow_is_imported_only_where_keras_agents_are_handled() -> None:
    allowed = ("edgeqrl/agents/", "edgeqrl/quantize/", "edgeqrl/backends/keras.py", "edgeqrl/zoo/training/")
    for path in source_files(ROOT / "edgeqrl"):
        name = path.relative_to(ROOT).as_posix()
        modules = imported_modules(ast.parse(path.read_text()), top_level_only=False)
        uses = any(under(module, heavy) for module in modules for heavy in ("tensorflow", "keras"))
        assert not uses or name.startswith(allowed), f"{name} imports TensorFlow"


def test_only_the_command_line_prints_or_exits() -> None:
    for package in ("edgeqrl", "firmware_export"):
        for path in source_files(ROOT / package):
            if {"cli", "files"} & set(path.parts) or "__main__" in path.read_text():
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            assert not names & {"print", "sys.exit", "exit", "quit", "click.echo"}, path


def test_modules_keep_one_purpose() -> None:
    for package in ("edgeqrl", "firmware_export"):
        for path in source_files(ROOT / package):
            assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES, f"{path} has outgrown one purpose"
