"""The verdict: it follows the evidence, worse numbers never improve it, and what is missing or failed never counts for anything."""

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.evaluation.reporting import dossier
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.dossier import dossiers
from surefoot.evaluation.reporting.verdict import Verdict, headline, judge
from surefoot.evaluation.reporting.weighing import Tolerance, weigh

FLOOR = Tolerance(floor=384.0)


@pytest.fixture
def judged(tmp_path, made, monkeypatch):
    """A function from evidence about a policy with noise 0.2 that earns 480 to the points about it."""
    monkeypatch.setattr(dossier, "time_limit", lambda env, limit: limit)  # makes the environment each time
    (bare,) = read_arms([made.write_run(tmp_path / "run", {}, noise=0.2)])
    for name in ("mean", "iqm"):  # as runs have them: no bootstrap is needed
        bare.result["last"][name] = {"value": 480.0, "low": 478.5, "high": 481.5}

    def points(evidence, tolerance=FLOOR):
        (found,) = dossiers([replace(bare, evidence=evidence)])
        return weigh(found, tolerance)

    return points


def whole(made, attacked=(470.0, 460.0), other=(475.0, 465.0), worst=420.0, bounds=(450.0, 420.0), half=4.0):
    """All that a verdict counts, of the policy with its noise."""
    certificate = made.certificate((470.0, *bounds))
    del certificate["members"][0]["returns"]
    return {
        "attack-pgd": made.attack("pgd", (480.0, *attacked), sigma=0.2, half=half),
        "attack-mad": made.attack("mad", (480.0, *other), sigma=0.2, half=half),
        "stress": made.stress(lambda a: 480.0 if abs(a - 0.5) < 0.3 else worst, count=1, sigma=0.2),
        "certificate": certificate,
    }


# --- each verdict ---------------------------------------------------------------------------------------------------


def test_all_held_and_certified(judged, made):
    points = judged(whole(made))
    assert judge(points) == Verdict.CERTIFIED and headline(points) == "Held in all that was tried, and certified within a budget."


@pytest.mark.parametrize("bounds", [(300.0, 200.0), None])
def test_without_a_promise_it_has_only_held(judged, made, bounds):
    evidence = whole(made, bounds=bounds or (0.0, 0.0))
    if bounds is None:
        del evidence["certificate"]
    points = judged(evidence)
    assert judge(points) == Verdict.HELD and headline(points) == "Held in all that was tried; beyond that nothing is promised."


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (("attack-pgd", "attack-mad"), "under attack"),
        (("stress",), "in other physics"),
        (("attack-pgd", "attack-mad", "stress"), "under attack and in other physics"),
    ],
)
def test_what_is_missing_leaves_it_open(judged, made, lost, said):
    points = judged({stem: data for stem, data in whole(made).items() if stem not in lost})
    assert judge(points) == Verdict.OPEN and headline(points) == f"Not known whether it holds {said}."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacked": (470.0, 100.0)}, "under attack"),
        ({"worst": 100.0}, "in other physics"),
        ({"attacked": (100.0, 100.0), "worst": 100.0, "bounds": (90.0, 80.0)}, "under attack and in other physics"),
    ],
)
def test_one_number_below_the_line_decides(judged, made, changes, said):
    points = judged(whole(made, **changes))
    assert judge(points) == Verdict.FALLS and headline(points) == f"Falls below what is accepted {said}."


def test_a_line_that_the_clean_return_misses(judged, made):
    points = judged(whole(made), Tolerance(floor=490.0))
    assert judge(points) == Verdict.FALLS and "without attack" in headline(points)


def test_a_broken_certificate_is_the_first_thing_said(judged, made):
    evidence = whole(made) | {"attack-q": made.attack("q", (480.0, 430.0, 410.0), norm="total", sigma=0.2)}
    points = judged(evidence)
    assert judge(points) == Verdict.FALLS and headline(points) == "A certificate was broken." and points[0].side == "against"


def test_every_verdict_has_a_sign_and_a_word_of_its_own():
    assert len({(verdict.sign, verdict.word) for verdict in Verdict}) == len(Verdict)


# --- failed is as never played --------------------------------------------------------------------------------------


def failed(data):
    lost = deepcopy(data)
    for member in lost["members"]:
        for column in ("mean", "low", "high"):
            member[column] = [member[column][0]] + [None] * (len(member[column]) - 1)
        member["failed"] = [False] + [True] * (len(member["failed"]) - 1)
    return lost


def test_an_attack_that_failed_counts_as_one_that_was_never_played(judged, made):
    for changes in ({}, {"attacked": (470.0, 100.0)}, {"other": (390.0, 386.0)}):
        evidence = whole(made, **changes)
        without = {stem: data for stem, data in evidence.items() if stem != "attack-pgd"}
        points = judged(evidence | {"attack-pgd": failed(evidence["attack-pgd"])})
        assert judge(points) == judge(judged(without))
        assert any("failed: says nothing about robustness" in point.text for point in points)


def test_where_every_attack_failed_it_is_open(judged, made):
    evidence = whole(made)
    lost = {stem: failed(data) if stem.startswith("attack") else data for stem, data in evidence.items()}
    assert judge(judged(lost)) == Verdict.OPEN


def test_an_attack_that_failed_on_one_seed_leaves_it_open(tmp_path, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 470.0, 460.0), (470.0, 460.0, None)),
        "stress": made.stress(lambda *_: 470.0, members=2),
    }
    (found,) = dossiers(read_arms([made.write_run(tmp_path / "run", evidence, members=2)]))
    points = weigh(found, FLOOR)
    assert judge(points) == Verdict.OPEN and any("0.2 at each step" in point.text for point in points if point.side == "unknown")


@pytest.mark.parametrize("kind", ["random", "random-periodic", "random-random"])
def test_random_changes_alone_leave_it_open(judged, made, kind):
    evidence = whole(made) | {"attack-pgd": made.attack(kind, (480.0, 470.0, 460.0), sigma=0.2)}
    del evidence["attack-mad"]
    assert judge(judged(evidence)) == Verdict.OPEN


def test_an_attack_that_changed_nothing_is_none(judged, made):
    evidence = whole(made) | {"attack-pgd": made.attack("pgd", (480.0,), budgets=(0.0,), sigma=0.2)}
    del evidence["attack-mad"]
    points = judged(evidence)
    assert judge(points) == Verdict.OPEN and any(
        point.text == "What an attacker of its observations can do: not measured." for point in points
    )


def test_a_certificate_at_no_change_promises_nothing(judged, made):
    evidence = whole(made) | {"certificate": made.certificate((470.0,), budgets=(0.0,))}
    assert judge(judged(evidence)) == Verdict.HELD


def test_budgets_in_units_of_the_policy_are_not_held_against_a_certificate(judged, made):
    below = made.attack("q", (480.0, 430.0, 400.0), norm="total", sigma=0.2, units="policy")
    points = judged(whole(made) | {"attack-q": below})
    assert judge(points) == Verdict.CERTIFIED
    assert any("over the episode (l2, in the policy's own units)" in point.text.unescape() for point in points)


# --- worse numbers --------------------------------------------------------------------------------------------------

RETURNS = st.floats(300.0, 480.0)
NUMBERS = st.fixed_dictionaries(
    {
        "attacked": st.tuples(RETURNS, RETURNS),
        "other": st.tuples(RETURNS, RETURNS),
        "worst": RETURNS,
        "bounds": st.tuples(RETURNS, RETURNS),
        "half": st.floats(0.5, 20.0),
    }
)
PARTS = st.sampled_from(["attacked", "other", "worst", "bounds", "half"])


def harder(numbers, part, by, index):
    """The same with one number worse: a return or a bound lower, or all intervals wider."""
    if part == "half":
        return numbers | {"half": numbers["half"] + by}
    if part == "worst":
        return numbers | {"worst": numbers["worst"] - by}
    return numbers | {part: tuple(x - by * (i == index) for i, x in enumerate(numbers[part]))}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, PARTS, st.floats(0.0, 150.0), st.integers(0, 1))
def test_worse_numbers_never_give_a_better_verdict(judged, made, numbers, part, by, index):
    """A certificate that an attack then breaks is the one thing that only gets worse by itself: norms differ here, so none is broken."""
    before, after = (judge(judged(whole(made, **each))) for each in (numbers, harder(numbers, part, by, index)))
    assert after <= before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, st.sets(st.sampled_from(["attack-pgd", "attack-mad", "stress", "certificate"]), min_size=1))
def test_what_is_taken_away_is_never_taken_for_robustness(judged, made, numbers, lost):
    """Without a kind of evidence the verdict is at most what this kind leaves possible; of two attacks the other still counts."""
    left = {stem: data for stem, data in whole(made, **numbers).items() if stem not in lost}
    verdict = judge(judged(left))
    if "stress" in lost or {"attack-pgd", "attack-mad"} <= lost:
        assert verdict <= Verdict.OPEN
    if "certificate" in lost:
        assert verdict <= Verdict.HELD


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, st.floats(300.0, 500.0), st.floats(0.0, 100.0))
def test_asking_for_more_never_gives_a_better_verdict(judged, made, numbers, floor, more):
    evidence = whole(made, **numbers)
    assert judge(judged(evidence, Tolerance(floor=floor + more))) <= judge(judged(evidence, Tolerance(floor=floor)))
