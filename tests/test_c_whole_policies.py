"""Whole policies: the exported C, on this host and on emulated cores, equals the reference in every bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeqrl.backends import EMULATED_CORES, emulated, host_c
from edgeqrl.backends.host_c import HostC, HostCPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.errors import UsageError
from edgeqrl.interfaces import Policy, State
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.memory import FrameStack, seed_memory
from edgeqrl.network.reference import Reference
from firmware_export.emit import c_sources, export_sources, make_golden
from firmware_export.toolchain import HostCompiler
from tests.c_build import C_ONLY_WARNINGS, WARNINGS, build, c_compiler, cxx_compiler, run, write_files
from tests.c_whole_policies import HEADS, any_whole_policy, played, random_parts, random_whole_policy
from tests.firmware import one_by_default

LAST = FrameStack(3, -1, False, "first")
RING = FrameStack(4, 0, True, "zero")
KINDS = {
    "three parts": {"parts": ("bytes", "float", "classes"), "values": (1, 2)},
    "frames of bytes": {"parts": ("bytes",), "frames": RING},
    "frames and states": {"parts": ("affine", "bytes"), "frames": LAST, "states": (5, 3), "values": (1,)},
    "int16": {"parts": ("affine", "classes"), "states": (3,), "dtype": "int16"},
    "states alone": {"states": (7,)},
    "frames of images": {"parts": ("image", "affine", "image"), "frames": RING, "states": (2,)},
    "images of int16": {"parts": ("image",), "dtype": "int16"},
}

# Each head on the core of the widest instructions and on two others in turn.
EVERY_HEAD = [
    (head, core)
    for i, head in enumerate(HEADS)
    for j, core in enumerate(EMULATED_CORES)
    if core == "cortex-m55" or (i + j) % 4 == 0
]


def require_host_equals(
    policy: IntegerPolicy, rng: np.random.Generator, rows: int = 20, steps: int = 4
) -> None:
    host = HostC(policy)
    for step in played(rng, policy, rows, steps):
        found = host.step_with_memory(step.observations, step.before, step.masks)
        np.testing.assert_array_equal(found.flags, step.flags)
        np.testing.assert_array_equal(found.memory, step.memory)
        np.testing.assert_array_equal(found.actions, step.actions)
        np.testing.assert_array_equal(found.values, step.values)
        assert (found.actions.dtype, found.actions.shape) == (step.actions.dtype, step.actions.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["argmax", "multi-masked", "categorical-masked", "squashed-log-std"])
def test_host_c_equals_the_reference_over_episodes(kind: str, head: str) -> None:
    rng = np.random.default_rng(len(kind) + len(head))
    require_host_equals(random_whole_policy(rng, head, **KINDS[kind]), rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_draws_and_decides_as_the_reference(head: str) -> None:
    rng = np.random.default_rng(7)
    require_host_equals(random_whole_policy(rng, head, ("affine", "bytes"), states=(3,)), rng, rows=100)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.sampled_from(HEADS))
def test_host_c_equals_the_reference_on_any_policy(seed: int, head: str) -> None:
    rng = np.random.default_rng(seed)
    require_host_equals(any_whole_policy(rng, head), rng)


def test_zig_s_clang_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = HostCompiler("zig", tuple(c_compiler("zig")))
    monkeypatch.setattr(host_c, "host_compiler", lambda: compiler)
    rng = np.random.default_rng(3)
    kind = KINDS["frames and states"]
    require_host_equals(random_whole_policy(rng, "squashed-log-std", **kind), rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["argmax", "gaussian"])
def test_reset_and_seed_in_c_begin_an_episode_as_the_reference_does(head: str) -> None:
    rng = np.random.default_rng(5)
    policy = random_whole_policy(rng, head, ("float", "classes"), frames=RING, states=(5,))
    host, rows = HostC(policy), 30
    before = np.random.default_rng(1).integers(0, 4, (rows, policy.memory_bytes)).astype(np.uint8)
    starts, seeds = rng.random(rows) < 0.5, rng.integers(2**64, size=rows, dtype=np.uint64)
    begun = before.copy()
    policy.reset_memory(begun, np.flatnonzero(starts))
    if policy.is_stochastic:
        seed_memory(policy.memory_layout, begun, seeds[starts], np.flatnonzero(starts))
    policy.memory_layout.write(begun, "frames_next", np.array(1), np.flatnonzero(~starts))
    policy.memory_layout.write(before, "frames_next", np.array(1), np.flatnonzero(~starts))
    observations = random_parts(rng, policy, rows)
    in_c = host.step_with_memory(observations, before, episode_start=starts, seeds=seeds)
    expected = host.step_with_memory(observations, begun)
    np.testing.assert_array_equal(in_c.memory, expected.memory)
    np.testing.assert_array_equal(in_c.actions, expected.actions)


@pytest.mark.parametrize("head", ["argmax", "categorical"])
def test_backends_act_alike_through_the_policy_interface(head: str) -> None:
    rng = np.random.default_rng(2)
    policy = random_whole_policy(rng, head, ("float", "bytes"), frames=LAST, states=(2,))
    reference = NetworkPolicy(Reference(policy.network), policy, "reference")
    backends: tuple[Policy, ...] = (HostCPolicy(policy), reference)
    states: list[State | None] = [None, None]
    generators = [[np.random.default_rng(i) for i in range(8)] for _ in backends]
    for step in range(5):
        start = (rng.random(8) < 0.3) | (step == 0)
        observations = random_parts(rng, policy, 8)
        answers = [
            backend.act(observations, state, episode_start=start, rng=drawn)
            for backend, state, drawn in zip(backends, states, generators, strict=True)
        ]
        np.testing.assert_array_equal(answers[0][0], answers[1][0])
        np.testing.assert_array_equal(answers[0][1][0], answers[1][1][0])
        states = [state for _, state in answers]


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "rv32imac"])
def test_emulated_cores_equal_the_reference(core: str) -> None:
    rng = np.random.default_rng(11)
    parts = ("affine", "bytes", "classes")
    policy = random_whole_policy(rng, "squashed-log-std", parts, frames=LAST, states=(5, 3), values=(1,))
    require_core_equals(policy, core, rng)


@pytest.mark.parametrize("core", ["cortex-m0plus", "rv32imac"])
def test_emulated_cores_convert_images_as_the_reference(core: str) -> None:
    rng = np.random.default_rng(12)
    require_core_equals(random_whole_policy(rng, "argmax", ("image", "image"), frames=RING), core, rng)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "core"), EVERY_HEAD)
def test_all_cores_equal_the_reference_for_every_head(core: str, head: str) -> None:
    rng = np.random.default_rng(len(core) + len(head))
    require_core_equals(any_whole_policy(rng, head), core, rng)


def require_core_equals(policy: IntegerPolicy, core: str, rng: np.random.Generator) -> None:
    with emulated.open_policy(policy, core) as device:
        traces = set()
        for step in played(rng, policy, 10, 3):
            actions, flags, memory = device.step_with_memory(step.observations, step.before, step.masks)
            np.testing.assert_array_equal(flags, step.flags)
            np.testing.assert_array_equal(memory, step.memory)
            np.testing.assert_array_equal(actions, step.actions)
            for row in range(3):
                one = {name: values[row] for name, values in step.observations.items()}
                mask = None if step.masks is None else step.masks[row]
                memory_row = step.before[row] if policy.has_memory else None
                traces.add(device.profile(one, mask, memory_row).trace_sha256)
        assert len(traces) == 1, "the step takes another way for another observation or memory"
        if policy.has_memory:
            seed = int(step.seeds[0])
            expected = policy.fresh_memory(1)
            if policy.is_stochastic:
                seed_memory(policy.memory_layout, expected, step.seeds[:1])
            np.testing.assert_array_equal(device.begin(seed if policy.is_stochastic else None), expected[0])


SELFTEST_C = """
#include <stdio.h>
#include <string.h>
#include "robot_golden.h"
static robot_state state;
static robot_observation scratch;
int main(void)
{
    uint32_t crc = 0xFFFFFFFFu;
    memset(&state, 0xA5, sizeof state);
    if (robot_init(&state, NULL) != EQRL_OK || robot_selftest(&state) != EQRL_OK) {
        return 1;
    }
    for (uint32_t row = 0; row < ROBOT_NUM_SELFTEST_ROWS; row++) {
        const eqrl_status status = robot_selftest_row(&state, row, &scratch, &crc);
        if (status != EQRL_OK) {
            printf("row %u: %d\\n", (unsigned int)row, status);
            return 1;
        }
    }
    printf("%s\\n", ~crc == ROBOT_SELFTEST_CRC ? "passed" : "another crc");
    return 0;
}
"""


@pytest.mark.parametrize("compiler", one_by_default(("gcc", "clang"), ("clang",)))
@pytest.mark.parametrize("kind", one_by_default(KINDS, ("three parts", "frames of images", "int16")))
def test_self_tests_pass_under_sanitizers_without_a_warning(kind: str, compiler: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    head = HEADS[list(KINDS).index(kind) + 3]
    policy = random_whole_policy(rng, head, **KINDS[kind])  # type: ignore[arg-type]
    sources = export_sources(policy, b"", golden=make_golden(policy, random_parts(rng, policy, 4)))
    write_files(tmp_path, {**sources, "main.c": SELFTEST_C.encode()})
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    warnings = [*WARNINGS, *C_ONLY_WARNINGS]
    files = [*c_sources(sources), "main.c"]
    command = [*c_compiler(compiler), "-std=c99", "-O1", *checks, *warnings, "-I.", *files, "-o", "program"]
    build(command, tmp_path)
    assert run(["./program"], tmp_path).strip() == "passed"


def test_whole_policies_compile_as_cpp(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    policy = random_whole_policy(rng, "gaussian-log-std", **KINDS["frames and states"])  # type: ignore[arg-type]
    sources = export_sources(policy, b"", golden=make_golden(policy, random_parts(rng, policy, 4)))
    write_files(tmp_path, {**sources, "main.c": SELFTEST_C.encode()})
    command = [*cxx_compiler("gcc"), "-std=c++17", "-x", "c++", "-I.", *c_sources(sources), "main.c"]
    run([*command, "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path).strip() == "passed"


def test_encode_infer_and_decode_with_buffers_of_one_s_own_are_a_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    policy = random_whole_policy(rng, "categorical-masked", ("float", "bytes"), states=(3,), values=(1,))
    name = policy.network.outputs.index("state_0_next")
    assert name in (1, 2)
    source = f"""
#include <string.h>
#include "robot.h"
static robot_state a, b;
int main(void)
{{
    static robot_observation seen;
    static int8_t input_0[64], input_1[64], input_2[64], output_0[128], output_1[64], output_2[64];
    robot_action whole, sliced;
    memset(&seen, 0, sizeof seen);
    if (robot_init(&a, NULL) != EQRL_OK || robot_init(&b, NULL) != EQRL_OK) {{ return 1; }}
    for (int i = 0; i < 20; i++) {{
        seen.part_1[0] = (uint8_t)(7 * i);
        if (robot_step(&a, &seen, &whole) < 0) {{ return 2; }}
        if (robot_encode(&b, &seen, input_0, input_1, input_2) < 0) {{ return 3; }}
        const int inferred = robot_infer(&b, input_0, input_1, input_2, output_0, output_1, output_2);
        if (inferred < 0) {{ return 4; }}
        if (robot_decode(&b, output_0, output_{name}, seen.action_mask, &sliced) < 0) {{ return 5; }}
        if (whole.action != sliced.action) {{ return 6; }}
        if (memcmp(&a.memory, &b.memory, sizeof a.memory) != 0) {{ return 9; }}
        if (robot_value_0(&a) < robot_value_0(&b) || robot_value_0(&a) > robot_value_0(&b)) {{ return 7; }}
    }}
    return sizeof a.memory == ROBOT_MEMORY_BYTES ? 0 : 8;
}}
"""
    sources = export_sources(policy, b"")
    write_files(tmp_path, {**sources, "main.c": source.encode()})
    run([*c_compiler("gcc"), "-std=c99", "-I.", *c_sources(sources), "main.c", "-o", "program"], tmp_path)
    run(["./program"], tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"observation": "action_mask"}, "part of the observation"),
        ({"observation": "float"}, "keyword"),
        ({"observation": "two words"}, "letters, digits"),
        ({"value": "step"}, "name a value"),
        ({"value": "values"}, "already"),
    ],
)
def test_names_that_the_c_has_other_plans_for_are_refused(change: dict[str, str], word: str) -> None:
    policy = random_whole_policy(np.random.default_rng(1), "argmax", values=(1,))
    if "value" in change:
        policy = replace(policy, values=(replace(policy.values[0], name=change["value"]),))
    else:
        renamed = replace(policy.observation.part, name=change["observation"])
        policy = replace(policy, observation=replace(policy.observation, part=renamed))
    with pytest.raises(UsageError, match=word):
        export_sources(policy, b"")


RUNTIME_OF = {
    "argmax": set(),
    "multi": {"eqrl_heads.c", "eqrl_random.c"},
    "categorical": {"eqrl_heads.c", "eqrl_random.c"},
    "gaussian": {"eqrl_gaussian.c", "eqrl_random.c"},
}


@pytest.mark.parametrize("head", RUNTIME_OF)
@pytest.mark.parametrize(("part", "observe"), [("float", set()), ("bytes", {"eqrl_observe.c"})])
def test_only_what_a_policy_needs_of_the_runtime_is_exported(head: str, part: str, observe: set[str]) -> None:
    rng = np.random.default_rng(1)
    plain = export_sources(random_whole_policy(rng, "argmax"), b"")
    without = export_sources(random_whole_policy(rng, head, (part,)), b"")
    with_state = export_sources(random_whole_policy(rng, head, (part,), states=(2,)), b"")
    assert without.keys() - plain.keys() == RUNTIME_OF[head] | observe
    assert with_state.keys() - without.keys() == {"eqrl_frames.c"}
