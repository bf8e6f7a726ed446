"""Options that several commands share."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edgeqrl.errors import UsageError

Command = Callable[..., Any]
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
output_option = click.option(
    "-o", "--output", type=FILE, required=True, metavar="DIR", help="Folder for the bundle."
)
board_option = click.option("--board", metavar="BOARD", help="A name from `edgeqrl boards`, or a .toml file.")


place_option = click.option(
    "--place",
    multiple=True,
    metavar="WHAT=REGION",
    help="Put code, weights or arena into a region of the board, as weights=flash or arena=dtcm; `edgeqrl "
    "boards NAME` lists them.",
)


def environment_options(command: Command) -> Command:
    """Add --env, --env-arg, --wrapper and --keep-wrapper."""
    for option in (
        click.option(
            "--keep-wrapper",
            multiple=True,
            metavar="MODULE:NAME",
            help="A wrapper that belongs to the environment: the board gets what it returns.",
        ),
        click.option("--wrapper", multiple=True, metavar="MODULE:FUNCTION", help="Wrap the environment."),
        click.option("--env-arg", multiple=True, metavar="NAME=VALUE", help="Keyword; VALUE is JSON."),
        click.option("--env", metavar="ID", help="Registered ID, or module:ID; zoo agents know theirs."),
    ):
        command = option(command)
    return command


def scheme_options(command: Command) -> Command:
    """Add --scheme, --set, --no-rewrites and --learn-...: how the policy is made integer."""
    for option in (
        click.option(
            "--learn-checkpoint",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Of learned=true: a stopped run goes on from there.",
        ),
        click.option("--learn-rounds", type=int, metavar="N", help="Of learned=true; between two it plays."),
        click.option("--learn-steps", type=int, metavar="N", help="Of learned=true, of all rounds together."),
        click.option(
            "--no-rewrites", is_flag=True, help="The bare converter, as --scheme int8-bare: nothing of ours."
        ),
        click.option(
            "--set",
            "scheme_parts",
            multiple=True,
            metavar="PART=VALUE",
            help="A part of the scheme, as weight_bits=4, layer_bits=dense_1:8 (a layer as in Keras), "
            "wide=input, ranges=mse, rewrites=none, learned=true; docs/quantization.md has all.",
        ),
        click.option(
            "--scheme",
            metavar="NAME",
            help="int8 (default), int8-bare, int8-per-tensor, int16x8, w4a8, w3a8, w2a8, textbook-8 … 2, or "
            "auto: the cheapest that holds the return on the board.",
        ),
    ):
        command = option(command)
    return command


int4_option = click.option(
    "--int4",
    is_flag=True,
    help="Store weights of 4 bits as INT4 in policy.tflite, where TFLite Micro takes them.",
)
unpacked_option = click.option(
    "--unpacked",
    is_flag=True,
    help="Keep weights of 4, 3 and 2 bits as bytes in flash; default: packed where that is smaller.",
)


def agent_options(command: Command) -> Command:
    """Add what says how an agent file is read, and what goes to the board with it."""
    return _file_options(_preprocessing_options(_output_options(_torch_options(command))))


def _preprocessing_options(command: Command) -> Command:
    for option in (
        click.option(
            "--normalization",
            type=FILE,
            metavar="NPZ",
            help="Arrays mean and var (and epsilon, clip) of a NormalizeObservation wrapper.",
        ),
        click.option(
            "--vecnormalize", type=FILE, metavar="PKL", help="Statistics that Stable-Baselines3 saved."
        ),
        click.option(
            "--frame-stack",
            metavar="N[:AXIS]",
            help="The network sees the last N observations; along the last axis (default), or N:first.",
        ),
    ):
        command = option(command)
    return command


def _output_options(command: Command) -> Command:
    for option in (
        click.option(
            "--support", nargs=2, type=float, metavar="LOW HIGH", help="First and last atom, of categorical."
        ),
        click.option(
            "--distribution",
            metavar="KIND",
            help="Outputs are a distribution of each action's value: quantiles or categorical (C51).",
        ),
        click.option(
            "--log-std",
            metavar="A[,B...]",
            help="Of a Gaussian policy, where no output of the model says it.",
        ),
        click.option("--log-std-output", metavar="NAME", help="Output of the model that is log std."),
        click.option("--value-output", metavar="NAME", help="Output of the model that is the value."),
        click.option("--policy-output", metavar="NAME", help="Output of the model that is the policy."),
        click.option(
            "--outputs", metavar="WHICH", help="policy, value or policy,value, where a model has both."
        ),
        click.option(
            "--stochastic/--deterministic",
            default=None,
            help="Draw actions, or take the likeliest (default, unless a zoo agent's card says otherwise).",
        ),
    ):
        command = option(command)
    return command


def _torch_options(command: Command) -> Command:
    for option in (
        click.option(
            "--activation", metavar="NAME", help="Of a Stable-Baselines3 zip that does not say its own."
        ),
        click.option(
            "--prefix", metavar="TEXT", help="Of a PyTorch state dict: what the actor's names begin with."
        ),
        click.option(
            "--layers",
            metavar="LIST",
            help="Layers of a PyTorch state dict, or of an SB3 zip's own extractor, in order.",
        ),
    ):
        command = option(command)
    return command


def _file_options(command: Command) -> Command:
    for option in (
        click.option("--trust", is_flag=True, help="Load a SavedModel with any operator: it may run code."),
        click.option("--name", metavar="NAME", help="Prefix of the C symbols; default: the file's name."),
        click.option(
            "--action-bounds",
            nargs=2,
            type=float,
            metavar="LOW HIGH",
            help="Bounds of a continuous action, where no environment says them.",
        ),
        click.option(
            "--head",
            metavar="HEAD",
            help="argmax, scale, clip, squash, threshold or value; default: inferred from the action space.",
        ),
    ):
        command = option(command)
    return command


def calibration_options(command: Command) -> Command:
    """Add what says which observations calibrate."""
    for option in (
        click.option("--calibration-seed", type=int, default=10_000, show_default=True, help="First seed."),
        click.option(
            "--calibration-states", type=int, default=2000, show_default=True, help="States kept at the most."
        ),
        click.option(
            "--calibration-episodes", type=int, default=20, show_default=True, help="Episodes rolled out."
        ),
        click.option(
            "--observations",
            type=FILE,
            metavar="NPZ",
            help="Recorded observations [N, ...], .npz or .npy, instead of rollouts, and of a zoo agent's "
            "environment.",
        ),
        click.option(
            "--calibration",
            metavar="SOURCE",
            help="Whose states calibrate: policy (default), noise=SIGMA (it explores), random, space, "
            "mixtures as policy+noise, a file as --observations, minari:NAME or a folder of Minari data.",
        ),
    ):
        command = option(command)
    return command


def contract_options(command: Command) -> Command:
    """Add what says how often a policy steps, and what happens when it cannot."""
    for option in (
        click.option(
            "--fail-safe",
            metavar="SPEC",
            help="When observations stop or make no sense: value:A[,B...], hold:N (steps) or disable.",
        ),
        click.option(
            "--control-period", type=float, metavar="S", help="Seconds a step; default: the environment's."
        ),
        click.option(
            "--contract",
            type=FILE,
            metavar="TOML",
            help="Names, units and bounds of observations and actions, control period, fail-safe.",
        ),
    ):
        command = option(command)
    return command


def contract_from(options: dict[str, Any]) -> Any:
    """Return the ContractOptions of the options."""
    from edgeqrl.contract import ContractOptions

    return ContractOptions(options["contract"], options["control_period"], options["fail_safe"])


def validation_options(command: Command) -> Command:
    """Add what says how the verdict is reached: the terms, declared before anything is played."""
    for option in (
        click.option(
            "--alpha",
            type=float,
            default=0.05,
            show_default=True,
            help="Chance of a wrong verdict, over all judgements of this agent.",
        ),
        click.option(
            "--max-chatter",
            metavar="SHARE",
            default="50%",
            show_default=True,
            help="How much more the actions may change from step to step; none: not judged.",
        ),
        click.option(
            "--max-failures",
            metavar="SHARE",
            default="1%",
            show_default=True,
            help="How many more of all episodes may fail; none: not judged.",
        ),
        click.option(
            "--worst-loss",
            metavar="LOSS",
            help="Most that one episode can lose or gain: a number, or a percentage of |float - random|.  "
            "[default: 200%, or the spread of the baseline's returns]",
        ),
        click.option(
            "--margin",
            metavar="MARGIN",
            help="Mean return that may be lost: a number, or a percentage of min(|float - random|, "
            "|float|).  [default: 5%]",
        ),
        click.option(
            "--validation-seed",
            type=int,
            help="First seed.  [default: one that no other judgement takes]",
        ),
        click.option(
            "--episodes",
            type=int,
            default=2000,
            show_default=True,
            help="Most paired episodes; ends when the answer is in.",
        ),
    ):
        command = option(command)
    return command


def environment_from(options: dict[str, Any]) -> Any:
    """Return the EnvironmentSpec of the options, or None without --env."""
    from edgeqrl.environments import EnvironmentSpec

    env, arguments = options["env"], options["env_arg"]
    wrappers, kept = tuple(options["wrapper"]), tuple(options["keep_wrapper"])
    if env is None:
        if arguments or wrappers or kept:
            raise UsageError("--env-arg, --wrapper and --keep-wrapper go with --env.")
        return None
    return EnvironmentSpec(env, dict(_keyword(text) for text in arguments), wrappers, kept)


def environment_for(agent: str, options: dict[str, Any]) -> Any:
    """Return the environment of the options, else the one that a zoo agent was trained in, else None."""
    from edgeqrl.pipeline import zoo_environment

    stated = environment_from(options)
    return stated if stated or options["observations"] else zoo_environment(agent)


def source_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return what `pipeline.Source` and `pipeline.convert` take beside agent and environment."""
    from edgeqrl.agents.options import AgentOptions, PreprocessingOptions

    stated = {field.name: options[field.name] for field in fields(AgentOptions)}
    if stated["log_std"] is not None:
        stated["log_std"] = _numbers("--log-std", stated["log_std"])
    before = {name: options[name] for name in ("frame_stack", "vecnormalize", "normalization")}
    return {
        "observations": _recorded_source(options),
        **{name: options[name] for name in ("trust", "name")},
        "preprocessing": PreprocessingOptions(**before),
        "options": AgentOptions(**stated),
    }


def _recorded_source(options: dict[str, Any]) -> Any:
    """Return the log that --observations or --calibration names, or None."""
    from edgeqrl.calibration_sources import is_recorded

    source = options["calibration"]
    if source is not None and options["observations"] is not None:
        raise UsageError("--observations FILE is --calibration FILE: give one of them.")
    return source if source is not None and is_recorded(source) else options["observations"]


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{option} '{text}' is not of the form A or A,B,....") from None


def _keyword(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--env-arg '{text}' is not of the form NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string
