"""Choosing a scheme, on toys whose mistakes and costs are known: ladder, episodes, front, plot."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeqrl.errors import (
    AgentError,
    BoardFitError,
    ConverterError,
    EdgeQRLError,
    EnvironmentFailure,
    UnsupportedOperatorError,
    UsageError,
)
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.search.candidate import Built, Tried, attempt, front, name_of
from edgeqrl.search.choice import Choice
from edgeqrl.search.costs import Costs
from edgeqrl.search.episodes import FIRST_LOOK, looks
from edgeqrl.search.ladder import climb, levels, rungs
from edgeqrl.search.options import CHOOSING_SEED, SearchOptions, StudyOptions
from edgeqrl.search.outcome import LEAST_TO_HOLD, Measure, Outcome, assess
from edgeqrl.search.plot import pareto_svg
from edgeqrl.search.space import Space, short_names
from edgeqrl.stages.ledger import MOST
from edgeqrl.validate.criteria import PairedEpisodes
from edgeqrl.validate.terms import Terms
from edgeqrl.validate.verdict import MOST_EPISODES, baseline_seeds_of, default_seed
from tests.search_toys import LAYERS, Maker, toy_task

TERMS = Terms(
    margin=5.0,
    worst_loss=100.0,
    is_worst_loss_declared=True,
    alpha=0.05,
    judgement=1,
    max_failures=0.01,
    max_chatter=0.5,
    failure_return=20.0,
)


def pairs_of(losses: list[float], *, more_chatter: float = 0.0) -> PairedEpisodes:
    in_float = np.full(len(losses), 100.0)
    rates = np.full(len(losses), 0.1)
    return PairedEpisodes(in_float, in_float - np.array(losses), rates, rates + more_chatter)


def names(choice: Choice) -> list[str]:
    return [tried.name for tried in choice.tried]


# Seeds


def test_seeds_that_choose_lie_beyond_those_of_every_judgement() -> None:
    last_judgement = default_seed(MOST) + 2 * MOST_EPISODES
    assert last_judgement < CHOOSING_SEED
    task = toy_task(Maker())
    played = {*task.episodes.seeds, *task.episodes.baseline_seeds}
    assert min(played) == CHOOSING_SEED
    judged = [
        seed
        for number in range(1, MOST + 1)
        for seeds in (range(default_seed(number), default_seed(number) + MOST_EPISODES),)
        for seed in (seeds.start, seeds[-1], *baseline_seeds_of(seeds.start))
    ]
    assert not played & set(judged)
    assert not set(task.episodes.seeds) & set(task.episodes.baseline_seeds)


@pytest.mark.parametrize("count", [32, 33, 100, 128, 512])
def test_looks_double_and_cover_every_seed_once(count: int) -> None:
    seeds = range(7, 7 + count)
    found = list(looks(seeds))
    assert [seed for look in found for seed in look] == list(seeds)
    assert len(found[0]) == min(FIRST_LOOK, count)
    assert all(look.start - 7 >= len(look) for look in found[1:])


# Outcomes


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ([0.0] * LEAST_TO_HOLD, Outcome.HOLDS),
        ([0.0] * (LEAST_TO_HOLD - 1), Outcome.OPEN),
        ([4.0, 2.0] * 64, Outcome.HOLDS),
        ([6.0, 5.5] * 64, Outcome.LOSES),
        ([8.0, 1.0] * 64, Outcome.OPEN),
        ([0.0] * 127 + [101.0], Outcome.LOSES),  # one loss beyond the worst is a FAIL
        ([0.0] * 126 + [90.0] * 2, Outcome.OPEN),  # two more failures: too many, or not?
        ([4.999] * LEAST_TO_HOLD, Outcome.OPEN),  # true, and no judgement would ever say so
    ],
)
def test_outcome_of_known_losses(losses: list[float], outcome: Outcome) -> None:
    assert assess(pairs_of(losses), TERMS, judged_episodes=2000).outcome is outcome


def test_candidate_that_chatters_does_not_hold() -> None:
    found = assess(pairs_of([0.0] * 128, more_chatter=0.2), TERMS, judged_episodes=2000)
    assert found.outcome is Outcome.LOSES
    assert {m.name: m.severity > 1.0 for m in found.measures}["chatter"]


def test_candidate_holds_only_if_a_judgement_would_pass_though_it_goes_a_little_worse() -> None:
    """Mean 3 of 5 that may be lost: the same mean in both, but one is known too little."""
    known, unsure = pairs_of([3.2, 2.8] * 64), pairs_of([25.0, -19.0] * 64)
    likely, unlikely = (assess(pairs, TERMS, judged_episodes=2000) for pairs in (known, unsure))
    assert (likely.outcome, unlikely.outcome) == (Outcome.HOLDS, Outcome.OPEN)
    assert likely.pairs_to_pass is not None
    assert unlikely.pairs_to_pass is None or unlikely.pairs_to_pass > likely.pairs_to_pass


def test_few_episodes_to_judge_by_ask_no_more_than_a_policy_without_loss_needs() -> None:
    assert assess(pairs_of([0.0] * 128), TERMS, judged_episodes=16).outcome is Outcome.HOLDS


# The ladder


def test_first_rung_that_holds_ends_the_climb() -> None:
    choice = climb(toy_task(Maker()), {})
    assert (names(choice), choice.holds) == (["int8"], True)
    assert choice.winner.pairs == LEAST_TO_HOLD
    assert choice.built is not None
    assert choice.built.quantized == Scheme()


def test_training_comes_last_and_is_left_out_on_request() -> None:
    choice = climb(toy_task(Maker(), most_weight_bits=3), {})
    assert choice.winner.scheme.learned
    assert names(choice)[-1] == "w3a8 learned"
    assert not any(tried.scheme.learned for tried in choice.tried[:-1])
    without = climb(toy_task(Maker(), most_weight_bits=3, learning=False), {})
    assert not any(tried.scheme.learned for tried in without.tried)


def test_nothing_that_holds_is_said_and_the_least_loss_kept() -> None:
    def wrong_every(scheme: Scheme) -> int:
        return 5 if scheme.wide == ("input",) else 2

    choice = climb(toy_task(Maker(wrong_every), learning=False), {})
    assert not choice.holds
    assert choice.winner.name == "int8 wide=input"
    assert choice.sentence.startswith("No scheme of 5 tried was seen to hold the return")
    assert choice.to_json()["holds"] is False


def test_board_that_is_too_small_takes_fewer_bits_and_only_then() -> None:
    choice = climb(toy_task(Maker(flash=13_000)), {})
    assert names(choice) == ["int8", "w4a8"]
    assert choice.tried[0].outcome is Outcome.OVER_BUDGET
    assert "24,000 bytes needed" in str(choice.tried[0].reason)
    assert choice.winner.name == "w4a8"
    assert choice.holds


def test_what_fits_no_board_is_told_with_its_numbers() -> None:
    with pytest.raises(BoardFitError, match=r"No scheme of 4 tried fits. w2a8: flash: 6,000 bytes needed"):
        climb(toy_task(Maker(flash=1000)), {})


def test_rung_that_cannot_be_made_is_left_out_unless_none_can() -> None:
    maker = Maker(lambda s: 0 if s.wide else 2, impossible=lambda s: s.ranges == "mse")
    choice = climb(toy_task(maker), {})
    assert [str(tried.outcome) for tried in choice.tried] == ["loses", "impossible", "holds"]
    with pytest.raises(UnsupportedOperatorError, match="Nothing of this is known"):
        climb(toy_task(Maker(impossible=lambda _: True)), {})


@pytest.mark.parametrize("failure", [AgentError, EnvironmentFailure, ConverterError])
def test_learning_that_fails_in_its_episodes_leaves_the_others(failure: type[EdgeQRLError]) -> None:
    def build(scheme: Scheme) -> Built:
        if scheme.learned:
            raise failure("The episode with seed 500000007 failed.")
        return maker(scheme)

    maker = Maker(lambda scheme: 5 if scheme.wide == ("input",) else 2)
    choice = climb(toy_task(build), {})
    learned = [tried for tried in choice.tried if tried.scheme.learned]
    assert [(str(t.outcome), t.reason) for t in learned] == [
        ("impossible", "The episode with seed 500000007 failed.")
    ] * 2
    assert choice.winner.name == "int8 wide=input"


@pytest.mark.parametrize(
    ("error", "learned"), [(EnvironmentFailure, False), (AgentError, False), (RuntimeError, True)]
)
def test_what_is_not_expected_of_making_a_candidate_is_not_hidden(
    error: type[Exception], learned: bool
) -> None:
    def build(scheme: Scheme) -> Built:
        raise error("a defect")

    with pytest.raises(error, match="a defect"):
        attempt(toy_task(build), Scheme(learned=learned))


def test_nothing_is_played_where_there_is_nothing_to_preserve() -> None:
    from tests.toys import FixedPolicy

    maker = Maker()
    choice = climb(toy_task(maker, float_policy=FixedPolicy(np.int64(1))), {})
    assert (names(choice), choice.holds, maker.opened) == (["int8"], False, [])


def test_where_nothing_is_played_the_first_that_can_be_made_is_taken() -> None:
    from tests.toys import FixedPolicy

    maker = Maker(impossible=lambda scheme: scheme == Scheme())
    choice = climb(toy_task(maker, float_policy=FixedPolicy(np.int64(1))), {})
    assert [str(tried.outcome) for tried in choice.tried] == ["impossible", "open"]
    assert choice.built.quantized == choice.winner.scheme


def test_equal_network_is_not_played_again() -> None:
    maker = Maker()
    task = toy_task(maker)
    first, _ = attempt(task, Scheme())
    again, _ = attempt(
        task, replace(Scheme(), ranges="kl"), [replace(first, sha256=repr(replace(Scheme(), ranges="kl")))]
    )
    assert (again.outcome, again.pairs, len(maker.opened)) == (first.outcome, first.pairs, 1)
    assert again.reason == "the same network as 'int8'"


def test_nothing_is_trained_whose_untrained_twin_is_too_large() -> None:
    maker = Maker(flash=20_000)
    task = toy_task(maker)
    large, _ = attempt(task, Scheme())
    found, built = attempt(task, Scheme(learned=True), [large])
    assert (found.outcome, built, len(maker.made)) == (Outcome.OVER_BUDGET, None, 1)


def test_levels_are_those_that_are_packed() -> None:
    assert levels(8) == (8, 4, 3, 2)
    assert levels(4) == (4, 3, 2)
    assert levels(6) == (6, 4, 3, 2)


def test_rungs_widen_states_mix_bits_and_train_last() -> None:
    found = rungs(4, most_bits=8, layers=LAYERS, has_states=True, learning=True)
    assert found[2].wide == ("input", "state")
    assert found[3].wide == ("input", "output", "state")
    assert found[4].layer_bits == ((LAYERS[0], 8), (LAYERS[2], 8))
    assert [scheme.learned for scheme in found] == [False] * 6 + [True] * 2
    at_most = rungs(4, most_bits=4, layers=LAYERS, has_states=False, learning=True)
    assert all(scheme.bits_used == {4} for scheme in at_most)


# The front, and what is written


def tried(name: str, loss: float, flash: int, instructions: int, outcome: Outcome = Outcome.HOLDS) -> Tried:
    measure = Measure("return", loss, loss - 0.1, loss + 0.1, 1.0)
    costs = Costs(flash, instructions, 100)
    return Tried(name, Scheme(), outcome, None, costs, name, 128, 20.0, 20.0 - loss, (measure,), 410)


POINTS = (
    tried("a", 0.0, 800, 100),
    tried("b", 0.5, 400, 100),
    tried("beaten", 0.6, 500, 100),
    tried("fast", 0.6, 500, 50),
    tried("far", 900.0, 200, 90, Outcome.LOSES),
    replace(tried("large", 0.0, 1, 1), outcome=Outcome.OVER_BUDGET),
)


def test_front_holds_what_no_other_beats() -> None:
    assert [found.name for found in front(POINTS)] == ["far", "b", "fast", "a"]


def test_results_survive_json() -> None:
    for point in (*POINTS, replace(POINTS[0], costs=None, measures=(), quantized_return=None)):
        assert Tried.from_json(point.to_json()) == point


def test_plot_marks_every_candidate_in_both_panels_and_stays_in_its_frame() -> None:
    section = Choice("search", POINTS[1], POINTS, {}, Maker()(Scheme())).to_json()
    svg = pareto_svg(section, "zoo <agent> & more")
    root = ElementTree.fromstring(svg)
    marks = [e for e in root.iter() if e.tag.endswith("}g")]
    assert len(marks) == 2 * 5  # what never played is not there
    assert "not shown: 1 over budget" in svg
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    circles = [e for mark in marks for e in mark if e.tag.endswith("circle")]
    assert all(0 < float(c.attrib["cx"]) < width and 0 < float(c.attrib["cy"]) < height for c in circles)
    assert "zoo &lt;agent&gt; &amp; more" in svg
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert {point.name for point in POINTS[:5]} <= {*texts}  # each is named once
    assert texts.count("5") >= 3  # its number: in both panels, and in the list
    alone = Choice("auto", POINTS[0], POINTS[:1], {}, Maker()(Scheme())).to_json()
    ElementTree.fromstring(pareto_svg(alone, "one point"))
    ElementTree.fromstring(pareto_svg({**alone, "candidates": []}, "none"))


def shapes(*points: Tried, kind: str) -> list[ElementTree.Element]:
    """Return the shapes of a kind that marks of both panels are made of."""
    section = Choice("search", points[0], points, {}, Maker()(Scheme())).to_json()
    root = ElementTree.fromstring(pareto_svg(section, "a search"))
    marks = [e for e in root.iter() if e.tag.endswith("}g")]
    return [e for mark in marks for e in mark if e.tag.endswith(kind)]


def test_loss_beyond_the_axis_is_an_arrow_that_says_how_much() -> None:
    far, near = POINTS[4], POINTS[1]
    arrows = shapes(near, far, kind="polygon")
    assert len(arrows) == 2
    for arrow in arrows:
        tip, *base = (float(corner.split(",")[1]) for corner in arrow.attrib["points"].split())
        assert all(tip < y for y in base)  # it points up
    assert "900" in [e.text for e in shapes(near, far, kind="text")]
    assert shapes(near, POINTS[0], kind="polygon") == []


def test_what_loses_by_chatter_is_told_from_what_loses_return() -> None:
    chatter = Measure("chatter", 9.0, 8.9, 9.1, 1.0)
    jumpy = replace(POINTS[2], outcome=Outcome.LOSES, measures=(*POINTS[2].measures, chatter))
    by_return, by_chatter = (
        {e.attrib["stroke"] for e in shapes(point, kind="circle")} - {"#111111"}
        for point in (replace(POINTS[1], outcome=Outcome.LOSES), jumpy)
    )
    assert len(by_return) == len(by_chatter) == 1
    assert by_return != by_chatter


def test_marks_that_coincide_stand_side_by_side() -> None:
    same = [replace(POINTS[0], name=f"the {n}th") for n in range(6)]
    places = {(c.attrib["cx"], c.attrib["cy"]) for c in shapes(*same, kind="circle")}
    assert len(places) == 2 * 6


def test_of_many_candidates_the_front_and_the_winner_have_numbers() -> None:
    many = [tried(f"c{n}", 0.9 - 0.01 * n, 400 + n, 100) for n in range(40)]
    many += [tried(f"d{n}", 0.95, 900 + n, 900) for n in range(40)]
    section = Choice("search", many[60], tuple(many), {}, Maker()(Scheme())).to_json()
    root = ElementTree.fromstring(pareto_svg(section, "many"))
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "d20" in texts
    assert sum(str(text).startswith("c") for text in texts) == 15
    assert "d1" not in texts
    assert len([e for e in root.iter() if e.tag.endswith("}g")]) == 2 * 80


@pytest.mark.parametrize(
    ("judged", "pairs", "is_too_few"),
    [(400, 128, True), (410, 128, False), (400, 410, False), (None, 128, False)],
)
def test_choice_says_where_a_judgement_is_likely_to_take_more_pairs_than_it_may(
    judged: int | None, pairs: int, is_too_few: bool
) -> None:
    facts = {} if judged is None else {"judged_episodes": judged}
    winner = replace(POINTS[1], pairs=pairs)
    sentence = Choice("auto", winner, (winner, POINTS[0]), facts, Maker()(Scheme())).sentence
    assert "mean loss of return is 0.5 [0.4, 0.6], of at most 1" in sentence
    assert (
        "likely to take about 410 pairs, more than the 400 that --episodes allows" in sentence
    ) is is_too_few


# The space of a study


def test_space_and_schemes_mean_the_same() -> None:
    space = Space(LAYERS, 8, has_states=True, learning=True)
    for scheme in rungs(4, most_bits=8, layers=LAYERS, has_states=True, learning=True):
        chosen = space.chosen(scheme)
        assert all(chosen[name] in values for name, values in space.choices.items())
        assert set(chosen) == set(space.choices)
        again = space.scheme(chosen)
        assert [again.bits_of(layer) for layer in LAYERS] == [scheme.bits_of(layer) for layer in LAYERS]
        assert replace(again, weight_bits=4, layer_bits=()) == replace(scheme, layer_bits=())


def test_space_keeps_to_what_is_asked() -> None:
    small = Space(LAYERS, 3, has_states=False, learning=False).choices
    assert small["bits of dense"] == (3, 2)
    assert "learned" not in small
    assert small["activations"] == ("int8", "wide=input", "wide=input,output", "int16")
    assert Space((), 8, False, False).scheme(
        {
            "bits": 4,
            "activations": "int16",
            "ranges": "kl",
            "rounding": "nearest",
            "equalise": "equalise" in Scheme().rewrites,
        }
    ) == (Scheme(weight_bits=4, activations="int16", ranges="kl", rounding="nearest"))


def test_short_names_tell_layers_apart() -> None:
    assert short_names(("a/dense/MatMul;a/dense/Bias", "a/dense_1/MatMul")) == ("dense", "dense_1")
    assert short_names(("x", "x/y:0")) == ("x", "x/y:0")


def test_names_tell_the_schemes_of_a_search_apart() -> None:
    schemes = rungs(8, most_bits=8, layers=LAYERS, has_states=True, learning=True)
    schemes.append(replace(Scheme(), rounding="nearest"))
    space = Space(LAYERS, 8, has_states=False, learning=True)
    schemes += [
        space.scheme({**space.chosen(Scheme()), "equalise": flag, "ranges": "kl"}) for flag in (True, False)
    ]
    assert len({name_of(scheme) for scheme in schemes}) == len(schemes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"most_weight_bits": 9}, "--most-weight-bits must be 2 to 8"),
        ({"episodes": 8}, "--choosing-episodes must be 32"),
        ({"seed": -1}, "--choosing-seed"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SearchOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"trials": 0}, {"seed": -1}, {"name": " "}])
def test_study_options_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        StudyOptions("sqlite:///x", **options)  # type: ignore[arg-type]
