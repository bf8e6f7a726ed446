"""Options of the command line reach what they are for, under their own names."""

from pathlib import Path
from typing import Any

import click
import pytest

from edgeqrl.agents.options import AgentOptions, PreprocessingOptions
from edgeqrl.cli.convert import settings_from
from edgeqrl.cli.main import cli
from edgeqrl.cli.options import environment_from, source_options
from edgeqrl.cli.search_options import require_return
from edgeqrl.environments import EnvironmentSpec
from edgeqrl.errors import UsageError
from edgeqrl.pipeline import Source
from edgeqrl.quantize.learned import Learning


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """Return the options of a command line as the command gets them."""
    found: Any = cli.get_command(click.Context(cli), command)
    context = found.make_context(command, ["agent.zip", *arguments])
    return dict(context.params)


BASE = ("--env", "CartPole-v1", "-o", "out")


@pytest.mark.parametrize("command", ["convert", "calibrate"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--observations", "o.npz"), {"observations": Path("o.npz")}),
        (("--trust",), {"trust": True}),
        (("--name", "walker"), {"name": "walker"}),
        (("--frame-stack", "4:first"), {"preprocessing": PreprocessingOptions(frame_stack="4:first")}),
        (("--vecnormalize", "v.pkl"), {"preprocessing": PreprocessingOptions(vecnormalize=Path("v.pkl"))}),
        (("--normalization", "n.npz"), {"preprocessing": PreprocessingOptions(normalization=Path("n.npz"))}),
        (("--stochastic",), {"options": AgentOptions(stochastic=True)}),
        (("--deterministic",), {"options": AgentOptions(stochastic=False)}),
        (("--outputs", "policy,value"), {"options": AgentOptions(outputs="policy,value")}),
        (("--policy-output", "pi"), {"options": AgentOptions(policy_output="pi")}),
        (("--value-output", "v"), {"options": AgentOptions(value_output="v")}),
        (("--layers", "64,64"), {"options": AgentOptions(layers="64,64")}),
        (("--prefix", "actor."), {"options": AgentOptions(prefix="actor.")}),
        (("--activation", "tanh"), {"options": AgentOptions(activation="tanh")}),
        (("--head", "squash"), {"options": AgentOptions(head="squash")}),
        (("--action-bounds", "-1", "2"), {"options": AgentOptions(action_bounds=(-1.0, 2.0))}),
        (("--log-std", "-0.5,0.25"), {"options": AgentOptions(log_std=(-0.5, 0.25))}),
        (("--log-std-output", "std"), {"options": AgentOptions(log_std_output="std")}),
        (
            ("--distribution", "categorical", "--support", "-10", "10"),
            {"options": AgentOptions(distribution="categorical", support=(-10.0, 10.0))},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_option_of_an_agent_reaches_its_source(
    command: str, arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    found = source_options(parsed(command, *BASE, *arguments))
    place = EnvironmentSpec("CartPole-v1")
    assert Source("agent.zip", place, **found) == Source("agent.zip", place, **expected)


@pytest.mark.parametrize("command", ["convert", "calibrate"])
def test_options_that_are_not_given_state_nothing(command: str) -> None:
    place = EnvironmentSpec("CartPole-v1")
    assert Source("agent.zip", place, **source_options(parsed(command, *BASE))) == Source("agent.zip", place)


def test_wrappers_and_what_is_kept_of_them_reach_the_environment() -> None:
    options = parsed("convert", *BASE, "--wrapper", "a:b", "--wrapper", "c:d", "--keep-wrapper", "a:b")
    expected = EnvironmentSpec("CartPole-v1", {}, ("a:b", "c:d"), ("a:b",))
    assert environment_from(options) == expected


@pytest.mark.parametrize("option", ["--wrapper", "--keep-wrapper"])
def test_wrappers_go_with_an_environment(option: str) -> None:
    with pytest.raises(UsageError, match="go with --env"):
        environment_from(parsed("convert", "-o", "out", option, "a:b"))


@pytest.mark.parametrize("command", ["convert", "calibrate", "quantize", "validate", "emulate", "diagnose"])
def test_every_command_that_plays_takes_the_environment_in_full(command: str) -> None:
    arguments = BASE if command in ("convert", "calibrate") else BASE[:2]
    found: Any = cli.get_command(click.Context(cli), command)
    names = {name for parameter in found.params for name in parameter.opts}
    assert {"--env", "--env-arg", "--wrapper", "--keep-wrapper"} <= names
    assert environment_from(parsed(command, *arguments)) == EnvironmentSpec("CartPole-v1")


@pytest.mark.parametrize("scheme", [("--set", "learned=true"), ("--scheme", "auto")])
def test_how_long_to_learn_reaches_what_learns(scheme: tuple[str, ...]) -> None:
    found = settings_from(parsed("convert", *BASE, *scheme, "--learn-steps", "90", "--learn-rounds", "3"))
    assert found.learning == Learning(rounds=3, steps=90)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--learn-steps", "99999999999999999999", "--learn-steps must be 1 to 100,000,000"),
        ("--learn-steps", "0", "--learn-steps must be 1 to"),
        ("--learn-rounds", "99999999999999999999", "--learn-rounds must be 1 to 1,000"),
        ("--learn-steps", "3", "--learn-rounds 4 needs at least as many --learn-steps, got 3"),
    ],
)
def test_how_long_to_learn_is_bounded(option: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings_from(parsed("convert", *BASE, "--set", "learned=true", option, value))


def test_a_scheme_is_chosen_where_there_is_a_return() -> None:
    chosen = settings_from(parsed("convert", *BASE, "--scheme", "auto"))
    with pytest.raises(
        UsageError, match=r"chosen by the return, and only an environment tells it.*--env"
    ) as told:
        require_return(None, chosen)
    assert "--observations" not in str(told.value)
    assert require_return(None, settings_from(parsed("convert", *BASE))) is None


@pytest.mark.parametrize("scheme", [(), ("--scheme", "w4a8"), ("--no-rewrites",)])
@pytest.mark.parametrize("option", [("steps", "9"), ("rounds", "2"), ("checkpoint", "kept")])
def test_how_to_learn_goes_with_what_learns(scheme: tuple[str, ...], option: tuple[str, str]) -> None:
    name, value = option
    with pytest.raises(UsageError, match=f"--learn-{name} goes with a scheme that learns: add --set learned"):
        settings_from(parsed("convert", *BASE, *scheme, f"--learn-{name}", value))


def test_int4_is_refused_by_a_scheme_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="--int4 stores weights of 4 bits and fewer, and int8 has none"):
        settings_from(parsed("convert", *BASE, "--scheme", "int8", "--int4"))


@pytest.mark.parametrize("scheme", [(), ("--scheme", "int8-bare"), ("--set", "layer_bits=dense:6")])
def test_int4_goes_with_weights_of_four_bits(scheme: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--int4 stores weights of 4 bits and fewer"):
        settings_from(parsed("convert", *BASE, *scheme, "--int4")).require_few_bits()
    settings_from(parsed("convert", *BASE, *scheme)).require_few_bits()


@pytest.mark.parametrize(
    "scheme",
    [
        ("--scheme", "w4a8"),
        ("--scheme", "w2a8"),
        ("--set", "layer_bits=dense:4"),
        ("--scheme", "auto", "--most-weight-bits", "4"),
    ],
)
def test_int4_is_taken_where_weights_may_have_four_bits(scheme: tuple[str, ...]) -> None:
    found = settings_from(parsed("convert", *BASE, *scheme, "--int4"))
    assert found.stores_int4
    if found.search is None:
        found.require_few_bits()
