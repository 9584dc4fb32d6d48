"""The report's part on certificates and attacks, from the JSON that the verbs write."""

import json

import numpy as np
import pytest

from surefoot.evaluation.attack_curve import AttackCurve
from surefoot.evaluation.certificates import Certificate
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.robustness import at_least, broken, findings, promised, robustness, said

BUDGETS = [0.0, 0.1, 0.2]


def certificate(lower=(190.0, 150.0, 90.0), **changes):
    lower, budgets = np.array(lower), np.array(changes.pop("budgets", BUDGETS))
    returns = np.full((*lower.shape[:-1], 1000), 195.0)
    found = Certificate(returns, budgets, lower, 0.2, 0.05, "clopper", 0.0, 200.0, "CartPole-v1", 200, 7)
    return {"policy": "run", "command": "surefoot certify run"} | found.to_json() | changes


def attack(means=(195.0, 180.0, 160.0), spread=4.0, **changes):
    budgets = np.array(changes.pop("budgets", BUDGETS))
    k = len(budgets)
    failed = np.array(changes.pop("failed", [False] * k))
    returns = np.array(means)[:, None] + spread * np.tile([-1.0, 1.0], 20)
    curve = AttackCurve(
        budgets, ("q",), returns, np.zeros(k, int), np.array(means)[:, None], failed, budgets > 0, np.zeros(k), budgets, "CartPole-v1", 7
    )
    about = {"policy": "run", "command": "surefoot attack run", "kind": "q", "norm": "total", "sigma": 0.2, "max_steps": 200}
    return about | curve.to_json() | changes


@pytest.fixture
def arms(tmp_path):
    """A function that gives the arms of one run with this evidence."""

    def with_evidence(**evidence):
        (tmp_path / "run" / "evidence").mkdir(parents=True)
        (tmp_path / "run" / "config.json").write_text(json.dumps({"method": "dqn", "env": "CartPole-v1", "noise": 0.2, "max_steps": 200}))
        for name, data in evidence.items():
            (tmp_path / "run" / "evidence" / f"{name.replace('_at_', '@').replace('_', '-')}.json").write_text(json.dumps(data))
        return read_arms([tmp_path / "run"])

    return with_evidence


def words(section):
    return " ".join(str(cell) for table in section["tables"] for row in table.rows for cell in row)


def test_bound_and_attack_side_by_side(arms):
    runs = arms(certify=certificate(), attack_q=attack())
    section = robustness(runs)
    (table,) = section["tables"]
    assert [row[0] for row in table.rows] == ["0", "0.1", "0.2"] and [row[1] for row in table.rows] == ["190", "150", "90"]
    assert [row[-1] for row in table.rows] == ["yes", "yes", "yes"] and table.rows[1][2].startswith("180 [")
    (figure,) = section["figures"]
    assert "certified 190 at budget 0 and 90 at 0.2" in str(figure.drawing) and figure.title == "CartPole-v1, at most 200 steps"
    assert [label for _, label in figure.legend] == ["DQN with noise 0.2: certified", "DQN with noise 0.2: q attack"]
    (sentence,) = said(runs)
    assert "by at most 0.1" in sentence and "below <b>150</b> (confidence 95 %)" in sentence and "left it above the bound" in sentence


def test_a_bound_that_is_broken_is_said_loudly(arms):
    runs = arms(certify=certificate(), attack_q=attack((195.0, 120.0, 160.0)))
    assert [row[-1] for row in robustness(runs)["tables"][0].rows] == ["yes", "no", "yes"]
    assert "should not happen" in said(runs)[0]


def test_sampling_error_alone_breaks_nothing(arms):
    _, seen = findings(arms(certify=certificate(), attack_q=attack((189.0, 149.0, 89.0))))
    bound = findings(read_arms([seen.arm.folder]))[0]
    assert broken(bound, seen) == []


def test_between_certified_budgets_the_next_larger_one_promises(arms):
    (bound,) = findings(arms(certify=certificate()))
    assert [promised(bound, b) for b in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)] == [190.0, 150.0, 150.0, 90.0, 90.0, None]


def test_another_policy_or_budget_is_not_held_against_a_certificate(arms):
    section = robustness(
        arms(certify=certificate(), attack_q_best=attack(), attack_pgd=attack(kind="pgd", norm="linf"), attack_x=attack() | {"sigma": 0.0})
    )
    assert len(section["figures"]) == 2  # a budget a step has another axis
    assert [len(table.columns) for table in section["tables"]] == [2, 2, 2, 2]
    names = [table.name for table in section["tables"]]
    assert any(name.startswith("DQN (best) with noise 0.2: q attack") for name in names)
    assert any(name.startswith("DQN trained with noise 0.2, acting without noise: q attack") for name in names)


def test_members_are_told_apart(arms):
    found = findings(arms(certify=certificate([[190.0, 150.0, 90.0], [180.0, 140.0, 80.0]]), certify_at_1=certificate()))
    assert [finding.whom.which for finding in found] == ["seed 1", "seed 2", "seed 2"]


def test_an_attack_that_failed_counts_for_nothing(arms):
    runs = arms(certify=certificate(), attack_q=attack((195.0, 1.0, 1.0), failed=[False, True, True]))
    assert [row[2:] for row in robustness(runs)["tables"][0].rows][1:] == [["failed", "–"], ["failed", "–"]]
    assert "should not happen" not in said(runs)[0]


def test_many_attacks_on_one_policy_are_one_table_and_their_worst_one_curve(arms):
    means = {"pgd": (195.0, 180.0, 90.0), "mad": (195.0, 120.0, 160.0), "score": (195.0, 1.0, 1.0)}
    evidence = {f"attack_{kind}": attack(mean, kind=kind, norm="linf") for kind, mean in means.items()}
    evidence["attack_score"] = attack(means["score"], kind="score", norm="linf", failed=[False, True, True])
    section = robustness(arms(**evidence))
    (table,), (figure,) = section["tables"], section["figures"]
    assert [column.name for column in table.columns] == ["attack", "budget 0", "budget 0.1", "budget 0.2"]
    assert [(row[0], row[2].split()[0]) for row in table.rows] == [("mad", "120"), ("pgd", "180"), ("score", "failed")]
    assert [label for _, label in figure.legend] == ["DQN with noise 0.2: worst of 3 attacks"]
    assert "195 at budget 0 and 90 at 0.2" in figure.drawing and "the worst at each budget" in figure.caption


def test_budgets_in_other_units_have_an_axis_of_their_own(arms):
    section = robustness(arms(attack_q=attack(norm="linf"), attack_pgd=attack(kind="pgd", norm="linf", units="policy")))
    assert len(section["figures"]) == 2
    assert any(
        "in the policy&#39;s own units" in figure.drawing or "in the policy's own units" in figure.drawing for figure in section["figures"]
    )


@pytest.mark.parametrize(
    "junk", [{}, {"members": []}, {"members": [{"lower": [1.0]}]}, {"members": "x"}, certificate(budgets=BUDGETS) | {"budgets": [1]}]
)
def test_evidence_of_another_form_is_passed_over(arms, junk):
    runs = arms(other=junk)
    assert findings(runs) == [] and robustness(runs) is None and said(runs) == []


@pytest.mark.parametrize(
    ("bound", "shown"), [(186.77, "186.7"), (9.99999, "9.999"), (150.0, "150"), (0.0, "0"), (-1234.51, "−1235"), (-0.5, "−0.5")]
)
def test_bounds_are_never_rounded_up(bound, shown):
    assert at_least(bound) == shown
