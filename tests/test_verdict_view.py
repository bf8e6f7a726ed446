"""What people see of a verdict: facts of the table and of the plot, for every kind of report."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgeqrl.cli.loss_plot import ASCII, HEIGHT, UNICODE, LossPlot, Signs, loss_plot
from edgeqrl.cli.scheme_names import wrapped
from edgeqrl.cli.show import print_conversion
from edgeqrl.cli.verdict_view import notes, number, rows
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.validate.terms import Declared
from edgeqrl.validate.values import value_agreement
from edgeqrl.validate.verdict import agreement_on, validate
from tests.toys import BoxChaosEnv, FixedPolicy, TargetEnv, TargetPolicy

FIRMWARE = {
    "board": "netduinoplus2",
    "core": "cortex-m4",
    "flash_bytes": 27_056,
    "ram_bytes": 400,
    "stack_bytes": 272,
    "flash_available_bytes": 1_048_576,
    "ram_available_bytes": 131_072,
    "regions": [],
    "instructions": 83_152,
    "estimate": {"us": 4321.0, "model": "cpi", "clock_hz": 25_000_000},
}
EMULATION = {"episodes": 3, "num_steps": 1_234, "level": "ISA"}
HEAD = {"kind": "argmax", "num_actions": 4, "start": 0}


def played(wrong_every: int, episodes: int = 512, **declared: Any) -> dict[str, Any]:
    """Return the report of a policy that errs in every k-th step of 20, which costs 1 each."""
    policies = TargetPolicy("float"), TargetPolicy("int8", wrong_every)
    return validate(*policies, TargetEnv, declared=Declared(**declared), num_episodes=episodes).to_json()


@pytest.fixture(scope="module")
def passed() -> dict[str, Any]:
    return played(0)


@pytest.fixture(scope="module")
def failed() -> dict[str, Any]:
    return played(5, 64)


@pytest.fixture(scope="module")
def breached() -> dict[str, Any]:
    return played(2, 64, margin=0.5, worst_loss=9)


@pytest.fixture(scope="module")
def undecided() -> dict[str, Any]:
    return played(10, 64, margin=2.01, worst_loss=40)


@pytest.fixture(scope="module")
def nothing() -> dict[str, Any]:
    policies = FixedPolicy(np.int64(1)), FixedPolicy(np.int64(2))
    return validate(*policies, TargetEnv, num_episodes=40).to_json()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    observations = np.arange(8, dtype=np.float32).reshape(8, 1) % 4
    return agreement_on(TargetPolicy("float"), FixedPolicy(np.int64(1)), observations).to_json()


@pytest.fixture(scope="module")
def continuous() -> dict[str, Any]:
    policies = (FixedPolicy(np.full(2, value, np.float32)) for value in (0.5, 0.6))
    return validate(*policies, BoxChaosEnv, declared=Declared(margin=1), num_episodes=8).to_json()


KINDS = ("passed", "failed", "breached", "undecided", "nothing", "recorded", "continuous")


def shown(report: dict[str, Any], *, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    """Return what a person sees."""
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=buffer, width=width, force_terminal=colour, color_system="256" if colour else None)
    print_conversion("title", report, "build/x", ["report.json"], console=console)
    buffer.seek(0)
    return buffer.read()


def cells(report: dict[str, Any], label: str, signs: Signs = UNICODE) -> tuple[str, ...]:
    """Return the row of a label, without the label."""
    return next(found[1:] for found, _ in rows(report, signs) if found[0] == label)


# The table


def test_what_decides_comes_first_with_its_bounds_and_limit(passed: dict[str, Any]) -> None:
    labels = [found[0] for found, style in rows(passed, UNICODE) if style != "dim"]
    assert labels == ["mean return", "failed episodes", "chatter a step"]
    loss, failures, chatter = passed["criteria"]
    in_float, quantized, worse, limit, verdict = cells(passed, "mean return")
    assert in_float == quantized == f"{passed['float_return']['mean']:.1f}"
    assert worse == f"0.00 [{loss['low']:.2f}, {loss['high']:.2f}]"
    assert (limit, verdict) == (f"{loss['limit']:.2f}", "PASS")
    assert cells(passed, "failed episodes") == (
        "0",
        "0",
        f"0.00 [{100 * failures['low']:.2f}, {100 * failures['high']:.2f}] %",
        "1.00 %",
        "PASS",
    )
    assert cells(passed, "chatter a step")[4] == chatter["verdict"] == "PASS"


def test_chatter_is_shown_as_a_difference_that_keeps_its_place_against_the_limit() -> None:
    report = played(2, 128, margin=20, worst_loss=40, max_failures=None)
    detail, judged = report["episodes_detail"], report["criteria"][1]
    rates = [np.mean(detail[f"{name}_chatter"]) for name in ("float", "quantized")]
    in_float, quantized, worse, limit, _ = cells(report, "chatter a step")
    assert (in_float, quantized) == tuple(f"{100 * rate:.1f} %" for rate in rates)
    assert float(worse.removesuffix(" %")) == pytest.approx(100 * (rates[1] - rates[0]), abs=0.051)
    distance = float(limit.removesuffix(" %")) - float(worse.removesuffix(" %"))
    assert distance == pytest.approx(100 * (judged["limit"] - judged["mean"]), abs=0.11)


def test_what_is_not_judged_is_shown_without_a_verdict() -> None:
    report = played(0, 64, max_failures=None, max_chatter=None)
    found = {row[0]: (row[1:], style) for row, style in rows(report, UNICODE)}
    for label in ("failed episodes", "chatter a step"):
        values, style = found[label]
        assert values[0]
        assert values[2:] == ("", "", "")
        assert style == "dim"


def test_details_are_there(failed: dict[str, Any]) -> None:
    worst = failed["worst_pair"]
    assert cells(failed, "worst pair")[2] == f"{number(worst['loss'])} (seed {worst['seed']})"
    assert cells(failed, "worst 5 % (CVaR)")[:2] == tuple(
        number(failed["cvar"][name]) for name in ("float", "quantized")
    )
    assert cells(failed, "episode length")[:2] == ("20.0", "20.0")
    assert cells(failed, "same actions")[1:3] == ("80.0 %", "part at step 4")
    drop = failed["return_drop"]
    assert cells(failed, "  approx. 95 %")[2] == f"[{number(drop['low'])}, {number(drop['high'])}] 90 %"


def test_notes_say_what_the_verdict_rests_on(failed: dict[str, Any]) -> None:
    text = "; ".join(notes(failed | {"head": HEAD}, UNICODE))
    assert "64 of at most 64 pairs" in text
    assert "judgement 1 at level 0.025" in text
    assert f"assumed worst loss {number(failed['terms']['worst_loss'])}" in text
    assert f"\N{GREEK SMALL LETTER RHO} of the pairs {failed['correlation']:.2f}" in text
    assert f"random actions return {number(failed['baseline']['random_return']['mean'])}" in text
    assert "action head: argmax" in text
    assert "rho of the pairs undefined" in "; ".join(notes(failed | {"correlation": None}, ASCII))


def test_continuous_actions_have_an_error(continuous: dict[str, Any]) -> None:
    assert cells(continuous, "same actions")[1:3] == ("0.0 %", "mean error 0.1")


def test_open_criteria_say_so(undecided: dict[str, Any]) -> None:
    assert undecided["verdict"] == "INCONCLUSIVE"
    assert cells(undecided, "mean return")[4] == "open"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.23456, "1.23"),
        (-12.345, "-12.3"),
        (999.94, "999.9"),
        (-1178.54, "-1179"),
        (1e7, "1e+07"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


# The whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_report_fits_into_80_columns_and_25_lines(
    kind: str, encoding: str, request: pytest.FixtureRequest
) -> None:
    report = request.getfixturevalue(kind)
    lines = shown(report | {"head": HEAD}, encoding=encoding).splitlines()
    # In a file the sentence is one line; in a terminal it is three.
    assert [line for line in lines if len(line) > 80] == [
        line for line in lines if report["sentence"][-30:] in line
    ]
    assert len(lines) <= 23
    shortened = report["sentence"].split(": ", 1)[1]
    assert sum(line.endswith(shortened) for line in lines) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 61.7, 7_777.7, 3e6, 1e12])
def test_no_verdict_and_no_limit_is_cut_off_however_wide_the_numbers(
    failed: dict[str, Any], scale: float, encoding: str
) -> None:
    def scaled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: scaled(found) for name, found in value.items()}
        return -scale * value if isinstance(value, float) else value

    names = ("float_return", "quantized_return", "return_drop", "cvar", "worst_pair", "episode_lengths")
    wide = failed | {name: scaled(failed[name]) for name in names}
    wide["criteria"] = [scaled(failed["criteria"][0]) | {"limit": 0.5 * scale}, *failed["criteria"][1:]]
    lines = shown(wide, encoding=encoding).splitlines()
    row = next(line for line in lines if line.startswith("mean return"))
    limit = cells(wide, "mean return")[3]
    assert row.split()[-2:] == [limit, "FAIL"]
    assert max(len(line) for line in lines if not line.startswith("FAIL")) <= 80
    assert not any("\N{HORIZONTAL ELLIPSIS} " in line for line in lines)


@pytest.mark.parametrize("kind", ["passed", "recorded"])
def test_firmware_takes_three_more_lines(kind: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(kind)
    bare = shown(report).splitlines()
    whole = shown(report | {"firmware": FIRMWARE, "emulation": EMULATION}).splitlines()
    more = [line.split() for line in whole if line not in bare]
    assert len(whole) == len(bare) + 3
    text = " ".join(" ".join(line) for line in more)
    for fact in (
        "flash on netduinoplus2 27,056 B (2.6 %)",
        "RAM, stack included 672 B (0.51 %)",
        "instructions a step 83,152",
        "time a step, estimate 4.32 ms",
        "3 episodes, ISA 1,234 steps as host C",
    ):
        assert fact in text
    assert len(shown(report | {"firmware": FIRMWARE}).splitlines()) == len(bare) + 2


def test_report_of_firmware_alone_is_shown() -> None:
    text = shown({"schema": "edgeqrl-report-2", "firmware": FIRMWARE})
    assert "27,056 B" in text
    assert "NO VERDICT" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("passed", "PASS  over"),
        ("failed", "FAIL  over"),
        ("undecided", "INCONCLUSIVE  over"),
        ("nothing", "NOTHING TO PRESERVE  the float policy"),
        ("recorded", "NO VERDICT  on 8 recorded"),
    ],
)
def test_verdict_is_the_first_word_of_its_line(kind: str, words: str, request: pytest.FixtureRequest) -> None:
    lines = shown(request.getfixturevalue(kind)).splitlines()
    assert sum(line.startswith(words) for line in lines) == 1


def test_after_a_breach_no_bounds_are_shown(breached: dict[str, Any]) -> None:
    assert cells(breached, "mean return")[2:] == ("10.0", "0.5", "FAIL")
    assert "it lost 10.0, more than the 9 declared as the worst" in " ".join(shown(breached).split())


def test_likeness_is_noted_in_a_line(passed: dict[str, Any]) -> None:
    likeness = passed["likeness"] | {
        "regret": {"mean": 0.0066, "p95": 0.04, "max": 0.4, "gap": 0.456},
        "kl": {"mean": 0.0024, "p95": 0.01, "max": 0.06},
    }
    text = " ".join(shown(passed | {"likeness": likeness}).split())
    for words in (
        "regret 0.0066 where the best leads by 0.46",
        "KL 0.0024 nats",
        "states shift by 0 sd (noise",
    ):
        assert words in text


def test_next_command_is_one_whole_line_at_the_end(failed: dict[str, Any]) -> None:
    command = "edgeqrl validate build/x --env 'a b' " + "--env-arg x=[1] " * 10
    lines = shown(failed | {"next": {"sentence": "Try more.", "command": command}}).splitlines()
    assert lines[-2:] == ["next: Try more.", f"      {command}"]
    assert shown(failed | {"next": {"sentence": "No idea.", "command": None}}).endswith("next: No idea.\n")


def test_after_a_pass_nothing_is_next(passed: dict[str, Any]) -> None:
    assert "next:" not in shown(passed | {"next": {"sentence": "Nothing found.", "command": None}})


@pytest.mark.parametrize("kind", ["nothing", "recorded"])
def test_nothing_is_plotted_where_nothing_was_judged(kind: str, request: pytest.FixtureRequest) -> None:
    text = shown(request.getfixturevalue(kind))
    assert "margin" not in text
    assert UNICODE.mean not in text


def test_colour_adds_nothing_but_colour(failed: dict[str, Any]) -> None:
    import re

    plain, coloured = shown(failed), shown(failed, colour=True)
    assert "\x1b[" not in plain
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert " ".join(stripped.split()) == " ".join(plain.split())


# The plot


def plot(
    losses: Any, low: float, high: float, margin: float, *, width: int = 78, signs: Signs = UNICODE
) -> LossPlot:
    return loss_plot(losses, interval=(low, high), margin=margin, width=width, signs=signs)


def lines_of(drawn: LossPlot) -> list[str]:
    return ["".join(text for text, _ in line) for line in drawn.lines]


def places(drawn: LossPlot, signs: Signs = UNICODE) -> tuple[int, int, int, int]:
    """Return the columns of zero, of the margin and of the interval's ends."""
    axis, interval = lines_of(drawn)[HEIGHT : HEIGHT + 2]
    marks = signs.ends + signs.arrows + signs.line + signs.mean
    columns = [column for column, sign in enumerate(interval) if sign in marks]
    return axis.index(signs.zero), axis.index(signs.margin), columns[0], columns[-1]


RNG = np.random.default_rng(4)
SAMPLES = {
    "constant": (np.zeros(64), (-11.0, 8.6), 23.9),
    "constant loss": (np.full(64, 390.0), (340.0, 420.0), 23.9),
    "constant gain": (np.full(64, -390.0), (-420.0, -340.0), 23.9),
    "wide beside the margin": (RNG.normal(3, 60, 512), (-6.5, 11.9), 12.4),
    "just below the margin": (RNG.normal(3, 60, 512), (-6.5, 12.39), 12.4),
    "just above the margin": (RNG.normal(14, 60, 512), (12.41, 20.0), 12.4),
    "heavy tails": (RNG.standard_cauchy(1000), (-5.0, 5.0), 6.0),
    "a catastrophe": (np.r_[np.zeros(999), 1e6], (-4.0, 900.0), 1000.0),
    "narrow beside the interval": (RNG.normal(0.3, 0.2, 128), (-81.8, 65.1), 7.2),
    "hopeless interval": (np.zeros(2), (-956.0, 956.0), 1e-3),
    "whole numbers": (RNG.integers(-3, 4, 300).astype(float), (-1.0, 1.0), 2.0),
    "tiny": (RNG.normal(0, 1e-9, 100), (-1e-9, 1e-9), 2e-9),
}


@pytest.mark.parametrize("width", [40, 78, 98])
@pytest.mark.parametrize("signs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("name", SAMPLES)
def test_interval_lies_on_its_side_of_the_margin(name: str, signs: Signs, width: int) -> None:
    losses, (low, high), margin = SAMPLES[name]
    drawn = plot(losses, low, high, margin, width=width, signs=signs)
    assert len(drawn.lines) == HEIGHT + 3
    assert max(len(line) for line in lines_of(drawn)) <= width
    axis = lines_of(drawn)[HEIGHT]
    zero, edge = axis.index(signs.zero), axis.index(signs.margin)
    assert zero < edge
    interval = lines_of(drawn)[HEIGHT + 1]
    left, right = len(interval[:edge].rstrip()), interval[edge + 1 :].strip()
    if high < margin:
        assert (left > 0, right) == (True, "")
    elif low > margin:
        assert (left, right != "") == (0, True)
    else:
        assert (left > 0, right != "") == (True, True)
    assert f"margin {margin:.1f}"[:8] in lines_of(drawn)[HEIGHT + 2] or abs(margin) < 10
    assert "margin " in lines_of(drawn)[HEIGHT + 2]
    assert lines_of(drawn)[HEIGHT + 2].index("0") == zero


@pytest.mark.parametrize("name", SAMPLES)
def test_every_pair_is_drawn_or_counted(name: str) -> None:
    losses, (low, high), margin = SAMPLES[name]
    drawn = plot(losses, low, high, margin)
    beyond = drawn.num_left + drawn.num_right
    assert beyond <= 0.06 * len(losses)
    top = "".join(lines_of(drawn)[:HEIGHT]).strip()
    assert UNICODE.levels[-1] in top


def test_rare_values_are_seen_beside_a_tall_bar() -> None:
    losses = np.r_[np.zeros(2000), 10.0]
    assert UNICODE.levels[1] in lines_of(plot(losses, -1.0, 1.0, 12.0))[HEIGHT - 1]


def test_constant_losses_are_one_bar_at_their_place() -> None:
    drawn = plot(np.zeros(64), -11.0, 8.6, 23.9)
    bars = lines_of(drawn)[HEIGHT - 1]
    zero = places(drawn)[0]
    assert set(bars.strip()) == {UNICODE.levels[-1]}
    assert bars[zero] == UNICODE.levels[-1]


def test_interval_that_runs_out_of_the_picture_has_arrows() -> None:
    losses, (low, high), margin = SAMPLES["narrow beside the interval"]
    line = lines_of(plot(losses, low, high, margin))[HEIGHT + 1].strip()
    assert (line[0], line[-1]) == tuple(UNICODE.arrows)
    line = lines_of(plot(losses, -2.0, 2.0, margin))[HEIGHT + 1].split()[0]
    assert (line[0], line[-1]) == tuple(UNICODE.ends)


def test_whole_numbers_give_no_comb() -> None:
    bars = lines_of(plot(np.repeat(np.arange(-30, 31), 20), -1.0, 1.0, 4.0))[0].strip()
    assert set(bars) == {UNICODE.levels[-1]}


# Every kind of agent


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (HEAD, "argmax"),
        (HEAD | {"kind": "categorical"}, "drawn by softmax"),
        ({"kind": "multi_discrete"}, "argmax of each"),
        ({"kind": "multi_categorical"}, "each drawn by softmax"),
        ({"kind": "multi_binary"}, "threshold of each"),
        ({"kind": "bernoulli"}, "each drawn by its logit"),
        ({"kind": "box", "gain": [2.0], "offset": [0.0]}, "scale to the bounds"),
        (
            {"kind": "gaussian", "gain": [1.0], "offset": [0.0], "is_squashed": False},
            "drawn (Gaussian), clip to the bounds",
        ),
        (
            {"kind": "gaussian", "gain": [2.0], "offset": [0.0], "is_squashed": True},
            "drawn (Gaussian, tanh), scale to the bounds",
        ),
    ],
)
def test_notes_say_how_outputs_become_actions(
    head: dict[str, Any], said: str, undecided: dict[str, Any]
) -> None:
    assert f"action head: {said}" in " ".join(notes(undecided | {"head": head}, UNICODE))


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (Scheme(activations="int16"), "int16x8"),
        (Scheme(weight_bits=4, wide=("input",)), "w4a8 wide=input"),
        (Scheme(weight_bits=2, learned=True), "w2a8 learned"),
        (Scheme(weight_bits=4, layer_bits=(("dense", 8),)), "w4a8 dense:w8"),
    ],
)
def test_report_says_what_was_chosen(undecided: dict[str, Any], scheme: Scheme, said: str) -> None:
    text = shown(undecided | {"head": HEAD, "scheme": scheme.to_json()})
    assert f"float - {said}" in text
    assert "int8 " not in text.replace(said, "")
    lines = text.splitlines()
    header = lines[1 : [line[:3] for line in lines].index("\u2500" * 3)]
    assert all(" ".join(header).count(word) == 2 for word in said.split())
    assert " ".join(" ".join(header).split()).endswith("is worse by limit")


def test_scheme_of_many_layers_is_said_in_a_note(undecided: dict[str, Any]) -> None:
    layers = tuple((f"network/hidden_{n}/MatMul;network/hidden_{n}/BiasAdd", 8) for n in (1, 2))
    scheme = Scheme(weight_bits=4, layer_bits=layers)
    text = shown(undecided | {"head": HEAD, "scheme": scheme.to_json()}, width=120)
    assert "float - w4a8 mixed" in text
    assert f"scheme: {scheme.label}" in " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
def test_names_of_candidates_break_at_commas(undecided: dict[str, Any], width: int) -> None:
    measure = {"name": "return", "mean": -0.00617, "low": -0.016, "high": 0.00354, "limit": 7.57}
    name = "int8 wide=input,output"
    found = {
        "name": name,
        "outcome": "loses",
        "pairs": 32,
        "measures": [measure, {**measure, "name": "chatter", "mean": 9.0}],
        "costs": {"flash_bytes": 106_696, "instructions": 1_068_308},
    }
    chosen = {"winner": name, "candidates": [found], "is_reused": False, "sentence": "Chosen."}
    text = shown(undecided | {"choice": chosen}, width=width)
    table = text[: text.index("Chosen.")].splitlines()
    assert max(map(len, table)) <= width
    shown_names = [line[:23].split("  ")[0].strip() for line in table[3:]]
    assert shown_names == (["int8", "wide=input,", "output"] if width == 80 else [name])
    assert "-0.00617 \u00b1 0.00971" in text


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("int8 wide=input,output", 15, ["int8", "wide=input,", "output"]),
        ("int8 wide=input,output", 16, ["int8 wide=input,", "output"]),
        ("int8 wide=input,output", 22, ["int8 wide=input,output"]),
        ("a-long-name-without-room", 8, ["a-long-name-without-room"]),
        ("w4a8 a:w8", 6, ["w4a8", "a:w8"]),
    ],
)
def test_names_are_wrapped_behind_spaces_and_commas(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width).split("\n") == lines


def test_value_network_is_shown_by_its_values_alone() -> None:
    told = np.arange(8.0)
    report = {"verdict": None, "sentence": "It chooses no actions.", "head": {"kind": "value"}}
    value = value_agreement("value", told, told + 0.125, step=0.05, states="random actions")
    values = {"value": value.to_json()}
    text = " ".join(shown(report | {"values": values}).split())
    said = "value of 0 to 7: mean error 0.12, rank correlation 1.000 on states of random actions"
    assert said in text
    assert "worse" not in text
    assert "float" not in text
    assert "NO VERDICT It chooses no actions." in text
