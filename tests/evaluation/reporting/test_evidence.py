"""Reading what the verbs leave behind: exact where it is whole, silent where it is damaged, one dossier a policy."""

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.card import card
from surefoot.evaluation.reporting.dossier import dossiers, norms
from surefoot.evaluation.reporting.evidence import Actions, Diagnosis, Stress, pieces, unread
from surefoot.evaluation.reporting.weighing import Tolerance
from surefoot.evaluation.reporting.whom import Whom, finite, named_in, whom_of

# --- one file -------------------------------------------------------------------------------------------------------


def test_a_stress_map_is_read_as_it_was_played(arm, made):
    (found,) = pieces(arm(), "stress", made.stress(count=2, side=3))
    assert isinstance(found, Stress) and found.points.shape == (9, 2) and found.grid
    assert found.at == "pole length 2 m, cart mass 2 kg" and found.worst.value == found.means.min()
    assert [p.nominal for p in found.parameters] == [0.5, 1.0] and found.nominal.value == 480.0


def test_points_that_were_not_played_are_left_out(arm, made):
    data = made.stress(count=1, side=4)
    for name in ("means", "low", "high"):
        data["members"][0][name][1] = None
    (found,) = pieces(arm(), "stress", data)
    assert found.points.shape == (3, 1) and np.isfinite(found.means).all()


def test_a_direction_is_brought_to_unit_length(arm, made):
    (found,) = pieces(arm(), "diagnosis", made.diagnosis((3.0, 0.0, 4.0, 0.0)))
    assert isinstance(found, Diagnosis) and found.direction.tolist() == [0.6, 0.0, 0.8, 0.0]
    assert (found.explained, found.ceiling, found.states_90, found.states) == (0.62, 0.96, 12, 400)


def test_certified_actions(arm, made):
    (found,) = pieces(arm(), "certified-actions", made.actions((0.9, 0.5, 0.1)))
    assert isinstance(found, Actions) and found.certified.tolist() == [0.9, 0.5, 0.1] and found.confidence == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("stem", "change"),
    [
        ("stress", {"points": [[1.0]]}),
        ("stress", {"parameters": []}),
        ("stress", {"members": [{}]}),
        ("stress", {"members": None}),
        ("diagnosis", {"obs_shape": [5]}),
        ("diagnosis", {"labels": ["one"]}),
        ("diagnosis", {"states": None}),
        ("certified-actions", {"alpha": None}),
        ("certified-actions", {"kind": "something new"}),
    ],
)
def test_a_file_of_another_form_is_passed_over_and_named(tmp_path, made, stem, change):
    run = made.write_run(tmp_path / "run", {stem: made.everything()[stem] | change})
    (arm,) = read_arms([run])
    assert pieces(arm, stem, arm.evidence[stem]) == []
    assert unread(arm) == [f"evidence/{stem}.json is of another form than this version writes, and was left out."]


@pytest.mark.parametrize("x", [True, "1", None, [], float("nan"), float("inf"), 1e200, 10**400])
def test_what_is_no_number_is_refused(x):
    with pytest.raises((ValueError, ArithmeticError)):
        finite(x)


@pytest.mark.parametrize(
    ("stem", "whom", "suffix", "words"),
    [
        ("attack-pgd", Whom(), "", ""),
        ("attack-pgd-best", Whom(best=True), ":best", "best"),
        ("stress@2", Whom(member=2), "@2", "seed 3"),
        ("certified-actions-best@0", Whom(True, 0), ":best@0", "best, seed 1"),
        ("attack-best-effort", Whom(), "", ""),
    ],
)
def test_the_name_says_whom_a_file_is_about(stem, whom, suffix, words):
    assert named_in(stem) == whom and whom.suffix == suffix and whom.which == words
    assert whom_of(stem, 4, 5) == Whom(whom.best, 4) and whom_of(stem, 0, 1) == whom


@pytest.mark.parametrize(
    "content", ["", "{", '{"kind": "stress", "mem', "[1, 2]", "null", "\x00", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_a_half_written_file_is_one_sentence(tmp_path, made, content):
    run = made.write_run(tmp_path / "run", {"attack-pgd": made.attack("pgd", (480.0, 470.0, 460.0))})
    (run / "evidence" / "stress.json").write_text(content)
    (arm,) = read_arms([run])
    assert arm.problems == ["evidence/stress.json cannot be read: it is damaged, or not a JSON object."] and unread(arm) == []
    (found,) = dossiers([arm])
    assert [attack.kind for attack in found.attacks] == ["pgd"]


def test_an_empty_object_and_a_folder_are_no_evidence(tmp_path, made):
    run = made.write_run(tmp_path / "run", {"empty": {}})
    (run / "evidence" / "folder.json").mkdir()
    (arm,) = read_arms([run])
    assert unread(arm) == ["evidence/empty.json is of another form than this version writes, and was left out."]
    assert arm.problems == ["evidence/folder.json cannot be read: it is damaged, or not a JSON object."]


def test_another_policy_is_compared_member_by_member(arm, made):
    data = made.diagnosis((0.1, -0.2, 0.5, 0.8), (0.1, 0.2, 0.5, 0.8), against={"policy": "runs/other", "fcq": 0.3, "fcq_back": 0.5})
    data["members"][1]["against"] = {"fcq": 0.2, "fcq_back": 0.4}
    assert [found.against for found in pieces(arm(), "diagnosis", data)] == [("runs/other", 0.3), ("runs/other", 0.2)]


@pytest.mark.parametrize("change", [{"abstained": 1.5}, {"certified": [0.9, 1.2, 0.1]}, {"radii": [0.2, 0.1, 0.3]}, {"states": 0}])
def test_shares_that_are_none_are_refused(arm, made, change):
    data = made.actions((0.9, 0.5, 0.1))
    data["members"][0] |= change
    assert pieces(arm(), "certified-actions", data) == []


# --- damaged files --------------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.just(10**400),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([[1.0]]),
)


def places(value, path=()):
    """Paths of everything inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_stops_the_card(tmp_path, made, data):
    """One to three places of any file hold something else, or are gone: a card comes out, and nothing is raised."""
    evidence = made.everything() | {
        "certificate": made.certificate((470.0, 430.0, 310.0), sigma=0.0),
        "stress@1": made.stress(count=1, members=2),
    }
    stem = data.draw(st.sampled_from(sorted(evidence)))
    broken = deepcopy(evidence[stem])
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([path for path in places(broken) if path]))
        inner = broken
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = deepcopy(data.draw(JUNK))
        else:
            del inner[last]
    (arm,) = read_arms([made.write_run(tmp_path / "run", {stem: broken})])
    for dossier in dossiers([arm]):
        shown = card(dossier, Tolerance())
        assert shown["headline"] and len(shown["tiles"]) >= 5


# --- one dossier a policy -------------------------------------------------------------------------------------------


def test_all_evidence_about_one_policy_is_put_together(arm, made):
    (found,) = dossiers([arm(made.everything())])
    assert (found.name, found.reference, found.env, found.limit) == ("DQN", "run", "CartPole-v1", 500)
    assert {norm: [attack.kind for attack in attacks] for norm, attacks in norms(found).items()} == {
        "linf": ["fgsm", "pgd", "random"],
        "total": ["q"],
    }
    assert found.clean.measured.overall.value == 480.0 and found.clean.source == "40 episodes"


def test_a_run_without_evidence_has_an_empty_dossier(arm):
    (found,) = dossiers([arm()])
    assert found.evidence == () and found.clean.measured.overall.value == 480.0


def test_the_best_policy_and_a_member_have_dossiers_of_their_own(arm, made):
    pgd = made.attack("pgd", (480.0, 470.0, 400.0), (470.0, 460.0, 350.0), (460.0, 450.0, 300.0))
    evidence = {"attack-pgd": pgd, "attack-pgd@2": made.attack("pgd", (460.0, 440.0, 310.0)), "stress": made.stress(members=3)}
    fleet, member, best = dossiers([arm(evidence | {"stress-best": made.stress()}, members=3)])
    assert [d.reference for d in (fleet, member, best)] == ["run", "run@2", "run:best"] and fleet.members == 3
    (attack,) = member.attacks
    assert attack.at(0.2).overall.value == 310.0, "its own file comes before its fleet's"
    (stress,) = member.of(Stress)
    assert stress.worst.value == min(stress.means) and stress.place.whom == Whom(member=2), "what its fleet's file says of it counts too"
    assert fleet.attacks[0].at(0.2).lowest[0] == 2 and fleet.attacks[0].at(0.2).overall.value == pytest.approx(350.0)
    assert member.clean.measured.overall.value == 460.0 and best.clean.measured.overall.value == pytest.approx(470.0)


def test_other_noise_is_another_policy(arm, made):
    evidence = {"attack-q": made.attack("q", (470.0, 450.0, 400.0), norm="total", sigma=0.2), "stress": made.stress()}
    noisy, plain = dossiers([arm(evidence, noise=0.2)])
    assert (noisy.name, plain.name) == ("DQN with noise 0.2", "DQN with noise 0.2, acting without noise")
    assert noisy.clean.source == "40 episodes" and plain.clean.source == "in the nominal physics"


def test_certified_choices_belong_to_the_policy_whose_states_they_are_about(arm, made):
    (found,) = dossiers([arm({"certified-actions": made.actions((0.96, 0.7, 0.3), sigma=0.1)})])
    assert found.sigma == 0.0 and found.actions.noise == "noise of 0.1" and found.actions.same == 0.98


def test_a_policy_without_noise_is_told_where_its_certificate_is(arm, made):
    evidence = {"stress": made.stress(), "certificate": made.certificate((470.0, 430.0, 310.0), sigma=0.1)}
    plain, noisy = dossiers([arm(evidence)])
    assert (plain.certified_with, noisy.certified_with) == ((0.1,), ()) and noisy.sigma == 0.1
    shown = {figure.title: figure for stack in card(plain, Tolerance())["stacks"] for figure in stack}
    assert "the policy acting with noise of 0.1 has a card of its own" in shown["Certified"].drawing
    assert noisy.clean.source == "10,000 episodes behind the certificate" and Tolerance().line(noisy.clean.measured.overall) is not None


def test_the_clean_return_comes_from_elsewhere_where_the_run_was_not_evaluated_so(arm, made):
    evidence = {"attack-pgd": made.attack("pgd", (333.0, 300.0, 200.0), max_steps=200)}
    (found,) = dossiers([arm(evidence)])
    assert found.clean.measured.overall.value == 333.0 and "beside the pgd attack" in found.clean.source and found.limit == 200


def test_a_failed_attack_is_no_number(arm, made):
    (found,) = dossiers([arm({"attack-fgsm": made.attack("fgsm", (480.0, None, None), (470.0, 300.0, None))}, members=2)])
    (attack,) = found.attacks
    assert attack.at(0.1).failed == 1 and attack.at(0.1).values == [300.0]
    assert attack.at(0.2).failed == 2 and attack.at(0.2).members == () and attack.at(0.3) is None
