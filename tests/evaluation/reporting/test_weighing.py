"""For, against, not known: each sentence with the numbers it must have, and never a word for what was not measured."""

import pytest

from surefoot.errors import ConfigError
from surefoot.evaluation.reporting.dossier import Measured, dossiers
from surefoot.evaluation.reporting.weighing import SCOPE, Tolerance, stands, telling_budget, weigh
from surefoot.evaluation.statistics import Interval


@pytest.fixture
def weighed(arm):
    """A function from evidence to {side: sentences}, of the first policy there is evidence about."""

    def sides(evidence=None, tolerance=None, **settings):
        points = weigh(dossiers([arm(evidence, **settings)])[0], tolerance or Tolerance())
        return {side: [str(point.text) for point in points if point.side == side] for side in ("for", "against", "unknown")}

    return sides


# --- the line -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "tolerance", "line"),
    [
        (Interval(100.0, 90.0, 110.0), Tolerance(), 80.0),
        (Interval(-100.0, -110.0, -90.0), Tolerance(), -120.0),
        (Interval(100.0, 90.0, 110.0), Tolerance(0.5), 50.0),
        (Interval(100.0, 90.0, 110.0), Tolerance(floor=30.0), 30.0),
        (Interval(1.0, -1.0, 3.0), Tolerance(), None),
        (Interval(1.0, -1.0, 3.0), Tolerance(floor=-5.0), -5.0),
        (None, Tolerance(), None),
    ],
)
def test_the_line_below_which_a_return_counts_against(clean, tolerance, line):
    assert tolerance.line(clean) == line


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"drop": 0.0}, "drop is 0"), ({"drop": 1.5}, "drop is 1.5"), ({"floor": float("inf")}, "finite")]
)
def test_a_tolerance_that_makes_no_sense_is_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Tolerance(**settings)


@pytest.mark.parametrize(
    ("intervals", "failed", "where"),
    [
        ([(85.0, 81.0, 90.0)], 0, "above"),
        ([(85.0, 79.0, 90.0)], 0, "unsure"),
        ([(85.0, float("-inf"), float("inf"))], 0, "unsure"),
        ([(79.0, 70.0, 90.0)], 0, "below"),
        ([(95.0, 90.0, 99.0), (79.0, 70.0, 90.0)], 0, "below"),
        ([(95.0, 90.0, 99.0)], 1, "unsure"),
        ([], 1, "unsure"),
    ],
)
def test_where_returns_stand(intervals, failed, where):
    members = tuple((i, Interval(*each)) for i, each in enumerate(intervals))
    assert stands(Measured(members, failed), 80.0) == where


# --- absence is never robustness ------------------------------------------------------------------------------------


def test_of_a_run_without_evidence_nothing_is_claimed(weighed):
    sides = weighed()
    assert sides["for"] == sides["against"] == []
    assert len(sides["unknown"]) == 5 and all("not measured" in text for text in sides["unknown"][:4]) and sides["unknown"][-1] == SCOPE


def test_an_attack_that_failed_says_nothing(weighed, made):
    evidence = {"attack-fgsm": made.attack("fgsm", (480.0, None, None))}
    sides = weighed(evidence)
    assert sides["for"] == sides["against"] == []
    assert sides["unknown"][0] == "The attack fgsm failed: says nothing about robustness."


def test_a_part_that_failed_and_gradients_that_vanished_are_said(weighed, made):
    weak = made.attack("fgsm", (480.0, 479.0, 478.0))
    weak["members"][0]["vanished"] = [0.0, 0.0, 0.4]
    unknown = weighed({"attack-pgd": made.attack("pgd", (480.0, 470.0, None)), "attack-fgsm": weak})["unknown"]
    assert unknown[0] == "The attack pgd failed at some sizes: says nothing about robustness there."
    assert unknown[1].startswith("The attack fgsm may be weaker than it could be")


def test_random_changes_are_no_attacker(weighed, made):
    sides = weighed({"attack-random": made.attack("random", (480.0, 479.0, 478.0))})
    assert sides["for"] == [] and "random changes are no attacker" in sides["unknown"][0]


def test_a_direction_without_an_attack_is_not_known_to_harm(weighed, made):
    unknown = weighed({"diagnosis": made.diagnosis((0.0, 0.0, 0.6, 0.8))})["unknown"]
    assert unknown[0].startswith("What changes along the sensitive direction do to the return")


# --- exact numbers --------------------------------------------------------------------------------------------------


def test_attacks_up_to_the_size_that_breaks_it(weighed, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 440.0, 190.0)),
        "attack-random": made.attack("random", (480.0, 478.0, 470.0)),
    }
    sides = weighed(evidence)
    assert sides["for"] == [
        "Under changes of at most 0.1 at each step (largest change), no attack tried (pgd and random) lowered the return below 384."
    ]
    assert sides["against"] == [
        "The pgd attack lowers the return to <b>190 [186, 194]</b> by changes of at most 0.2 at each step (largest change): less than 384."
    ]


def test_norms_are_never_mixed(weighed, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 470.0, 460.0)),
        "attack-q": made.attack("q", (480.0, 450.0, 300.0), norm="total"),
    }
    sides = weighed(evidence)
    assert "0.2 at each step (largest change), no attack tried (pgd)" in sides["for"][0]
    assert "0.1 over the episode (l2), no attack tried (q)" in sides["for"][1]
    assert "q attack" in sides["against"][0] and "0.2 over the episode (l2)" in sides["against"][0]


def test_intervals_that_reach_below_the_line_are_not_known(weighed, made):
    sides = weighed({"attack-pgd": made.attack("pgd", (480.0, 390.0, 386.0), half=30.0)})
    assert sides["for"] == sides["against"] == [] and "reach below it, play more episodes" in sides["unknown"][0]


def test_the_budget_to_speak_of(arm, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 470.0, 460.0)),
        "attack-fgsm": made.attack("fgsm", (480.0, 475.0, 470.0, 100.0), budgets=(0.0, 0.1, 0.2, 0.8)),
    }
    (dossier,) = dossiers([arm(evidence)])
    assert telling_budget(dossier.attacks, 384.0) == 0.8, "the smallest that goes below the line"
    assert telling_budget(dossier.attacks, 50.0) == 0.2, "else the largest that most attacks share"
    assert telling_budget([], 1.0) is None


def test_physics(weighed, made):
    sides = weighed({"stress": made.stress(count=2, side=5)})
    assert sides["against"] == [
        "In other physics the return falls to <b>220 [216, 224]</b>, at pole length 2 m, cart mass 2 kg: less than 384."
    ]


def test_physics_that_harm_little_speak_for_it(weighed, made):
    sides = weighed({"stress": made.stress(lambda *_: 478.0)})
    assert sides["for"] == ["Over 25 points of pole length and cart mass, the return stays at 478 [474, 482] or more: not below 384."]
    assert not any("played alike" in text for text in sides["unknown"])


def test_a_nominal_return_that_is_not_the_clean_one_is_asked_about(weighed, made):
    assert any("played alike" in text for text in weighed({"stress": made.stress(lambda *_: 430.0)})["unknown"])


def test_certificates(weighed, made):
    evidence = {"certificate": made.certificate((470.0, 430.0, 310.0))}
    sides = weighed(evidence, noise=0.2)
    assert sides["for"] == [
        "Certified: whoever changes observations by at most 0.1 over the episode (l2) cannot push the mean return below <b>430</b>"
        " (confidence 95\u00a0%)."
    ]


def test_a_weak_certificate_is_no_damage(weighed, made):
    sides = weighed({"certificate": made.certificate((300.0, 200.0, 100.0))}, noise=0.2)
    assert sides["for"] == sides["against"] == [] and "a weak promise, not damage" in sides["unknown"][0]


def test_a_broken_certificate_comes_first(weighed, made):
    evidence = {
        "certificate": made.certificate((470.0, 430.0, 410.0)),
        "attack-q": made.attack("q", (480.0, 420.0, 400.0), norm="total", sigma=0.2),
    }
    assert "should not happen" in weighed(evidence, noise=0.2)["against"][0]


def test_certified_actions(weighed, made):
    assert weighed({"certified-actions": made.actions((0.96, 0.7, 0.3))})["for"] == [
        "In 70\u00a0% of 200 states, no change of at most 0.05 (l2) alters the action that it chooses on average over noise of 0.1."
    ]


def test_of_a_fleet_the_lowest_seed_counts(weighed, made):
    evidence = {"attack-pgd": made.attack("pgd", (480.0, 470.0, 450.0), (470.0, 465.0, 250.0), (460.0, 455.0, 440.0))}
    sides = weighed(evidence, members=3)
    assert "of seed 2, the lowest of 3, to <b>250 [246, 254]</b>" in sides["against"][0] and len(sides["for"]) == 1


def test_a_named_floor_replaces_the_share(weighed, made):
    evidence = {"attack-pgd": made.attack("pgd", (480.0, 440.0, 190.0))}
    sides = weighed(evidence, Tolerance(floor=100.0))
    assert sides["against"] == [] and sides["for"][0].startswith("Without attack the return is 480 [") and "below 100" in sides["for"][1]
    assert "is 480" in weighed(evidence, Tolerance(floor=500.0))["against"][0]


def test_a_share_of_zero_says_nothing(weighed, made):
    sides = weighed({"attack-pgd": made.attack("pgd", (0.0, -10.0, -20.0))}, clean=0.0)
    assert sides["for"] == sides["against"] == [] and "--floor" in sides["unknown"][0]
