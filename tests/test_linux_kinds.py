"""The folder for Linux with policies of every kind: C alone, and another interpreter between C's edges."""

import importlib.util
import math
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from edgeqrl.network import structs
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.reference import Reference
from firmware_export.contract import ContractFacts, FailSafe
from firmware_export.emit import export_sources, make_contract, make_golden
from firmware_export.linux.package import linux_compiler, linux_package
from tests.device_policies import whole_observations, whole_policy
from tests.firmware import board
from tests.linux_folders import run_py, written
from tests.test_device_memory import Twin, rows_of

KINDS = ("gru masked", "gaussian frames", "multi-discrete drawn masked", "parts masked", "gru values")


class Interpreter:
    """What LiteRT's interpreter looks like, by the reference."""

    def __init__(self, policy: IntegerPolicy) -> None:
        self._network = policy.network
        self._given: dict[str, Any] = {}
        self._found: Mapping[str, Any] = {}

    def get_input_details(self) -> list[dict[str, Any]]:
        tensors = [self._network.tensors[name] for name in self._network.inputs]
        return [
            {"index": i, "dtype": np.dtype(t.dtype), "shape": (1, *t.shape)} for i, t in enumerate(tensors)
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": i} for i in range(len(self._network.outputs))]

    def set_tensor(self, index: int, values: Any) -> None:
        self._given[self._network.inputs[index]] = values

    def invoke(self) -> None:
        self._found = Reference(self._network).run(self._given)

    def get_tensor(self, index: int) -> Any:
        return self._found[self._network.outputs[index]]


def runner_of(policy: IntegerPolicy, folder: Path, fail_safe: str = "disable") -> ModuleType:
    golden = make_golden(policy, whole_observations(np.random.default_rng(6), policy, 4))
    stated = FailSafe.parse(fail_safe)
    facts = ContractFacts(control_period_s=0.01, observation_timeout_s=30.0, fail_safe=stated)
    sources = export_sources(policy, b"", golden=golden, contract=make_contract(policy, b"", facts))
    with patch("firmware_export.linux.package.MACHINES", (platform.machine(),)):
        made = linux_package(policy, sources, b"", golden, board("rpi4"), linux_compiler())
    written(made.files, folder)
    return loaded(folder)


def loaded(folder: Path) -> ModuleType:
    """Return run.py of a folder as a module, and the policy's module of the same folder in it."""
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with (
        patch.dict(sys.modules),
        patch.object(sys, "path", [str(folder), *sys.path]),
        patch.object(sys, "dont_write_bytecode", True),
    ):
        sys.modules.pop("edgeqrl_policy", None)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_runner_acts_as_the_reference_in_c_and_around_an_interpreter(kind: str, tmp_path: Path) -> None:
    policy = whole_policy(kind)
    runner, twin = runner_of(policy, tmp_path), Twin(policy)
    tested = runner.self_test("c")
    assert tested["ok"]
    assert tested["same_actions"] == tested["golden_vectors"]
    seed = 77 if policy.is_stochastic else None
    in_c, around = runner.Policy("c"), runner.Policy("c")
    around._interpreter = Interpreter(policy)
    for acting in (in_c, around):
        acting.reset(77)
        twin.reset(seed)
        for packed in rows_of(policy, 6):
            parts, masks = structs.read_observations(policy, packed[None])
            observation = {name: part[0] for name, part in parts.items()}
            action, _ = acting.step(observation, None if masks is None else masks[0])
            _, expected, values, _ = twin.step(packed)
            assert acting.action_words() == expected
            found = structs.action_rows(policy, np.array([action])).tobytes()
            assert found == expected
            if policy.values and acting is in_c:
                assert np.float32(list(acting.values().values())).tobytes() == values
    if policy.values:
        with pytest.raises(runner.Refused, match="use --backend c"):
            around.values()


def test_parts_of_another_name_or_size_are_refused(tmp_path: Path) -> None:
    runner = runner_of(whole_policy("parts masked"), tmp_path)
    policy = runner.Policy("c")
    good = {"gear": [0, 1], "camera": np.zeros((2, 4))}
    assert policy.pack(good) == policy.pack({"gear": np.array([0, 1]), "camera": [0] * 8}, [True] * 5)
    for bad, words in (
        ([0, 1], "has the parts"),
        ({"gear": [0]}, "has the parts"),
        (good | {"gear": [0]}, "got 1"),
    ):
        with pytest.raises(runner.Refused, match=words):
            policy.pack(bad)


FAIL_SAFE, RANGE, NOT_FINITE, DRIVE = 4, 64, 128, 1  # flags of the guard
GOOD = {"gear": [0, 1], "camera": [7] * 8}
BAD: list[tuple[str, list[Any], str, int]] = [
    ("camera", [math.nan, *[0] * 7], "takes numbers of uint8, got nan", NOT_FINITE),
    ("camera", [0] * 7 + [math.inf], "takes numbers of uint8, got inf", NOT_FINITE),
    ("camera", [0.5] * 8, "takes numbers of uint8, got 0.5", RANGE),
    ("camera", [256] + [0] * 7, "takes numbers of uint8, got 256", RANGE),
    ("camera", [0] * 7 + [-1.0], "takes numbers of uint8, got -1.0", RANGE),
    ("gear", [0, -math.inf], "takes numbers of int32, got -inf", NOT_FINITE),
    ("gear", [1e-30, 0], "takes numbers of int32, got 1e-30", RANGE),
    ("gear", [2**31, 0], "takes numbers of int32, got 2147483648", RANGE),
    ("gear", [0, -(10**400)], "takes numbers of int32, got -1", RANGE),
    ("gear", [np.float32(0.25), 0], "takes numbers of int32, got 0.25", RANGE),
]


def test_numbers_that_a_part_cannot_hold_lead_to_the_fail_safe_and_are_named(tmp_path: Path) -> None:
    runner = runner_of(whole_policy("parts masked"), tmp_path, "value:3")
    policy, twin = runner.Policy("c"), runner.Policy("c")
    policy.reset()
    for name, numbers, words, flag in BAD:
        for content in (numbers, np.array(numbers)) if len(str(numbers)) < 400 else (numbers,):
            bad = GOOD | {name: content}
            with pytest.raises(runner.Refused, match=f"'{name}' of an observation {words}"):
                policy.pack(bad)
            action, flags = policy.step(bad)
            assert (action, flags & ~16) == (3, DRIVE | FAIL_SAFE | flag)  # 16: a slow machine is late
            assert f"'{name}' of an observation {words}" in policy.complaint
        policy.step(GOOD)
        assert policy.complaint == ""
    whole = {"gear": [0.0, 1.0], "camera": np.full((2, 4), 7.0)}
    assert twin.pack(whole) == twin.pack(GOOD) == twin.pack({"gear": [0, 1], "camera": bytes([7] * 8)})
    ends = {"gear": [-(2.0**31), 2**31 - 1], "camera": [0, 255.0] * 4}
    assert twin.pack(ends)[:8] == np.array([-(2**31), 2**31 - 1], "<i4").tobytes()


APPLICATION = """
import math, os
good = {"gear": [0, 1], "camera": [7] * 8}
script = [good, {**good, "camera": [math.nan] * 8}, {**good, "gear": [0.5, 0]}, good]
def start(policy): pass
def read():
    if not script:
        raise SystemExit(0)
    return script.pop(0)
def write(action): print("write", action)
def stop(): print("stop")
"""


def test_control_loop_goes_on_after_numbers_that_a_part_cannot_hold(tmp_path: Path) -> None:
    runner = runner_of(whole_policy("parts masked"), tmp_path, "value:3")
    policy = runner.Policy("c")
    policy.reset()
    action, _ = policy.step(GOOD)
    (tmp_path / "mine.py").write_text(APPLICATION)
    done = run_py(tmp_path, "--backend", "c", "--application", "mine.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"write {action}", "write 3", "write 3", f"write {action}", "stop"]
    assert re.search(r"guard: fail-safe, (late, )?not finite; 'camera' .* got nan", done.stderr), done.stderr
    assert re.search(r"guard: fail-safe, (late, )?range; 'gear' .* got 0.5", done.stderr), done.stderr
    assert not list(tmp_path.rglob("__pycache__"))
