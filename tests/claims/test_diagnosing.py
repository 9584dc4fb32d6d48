"""The claim of RA-NLD: what its checks see and do not see, and a miniature of its experiment."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.claims import base, diagnosing
from surefoot.claims.diagnosing import ARMS, CLAIM, SHIFTS, at_states, other_seeds, under
from surefoot.errors import ConfigError

torch.set_num_threads(1)

SEEDS = ("0", "1", "2", "3", "4")


def scores(returns=0.9, ceiling=0.95, cross=0.1, seeds_apart=0.4, ratio=1.3, shifted=0.5, single=False):
    """Five seeds around these means."""
    rng = np.random.default_rng(0)

    def arm(mean):
        return {s: float(mean + rng.normal(0.0, 0.01)) for s in (SEEDS[:1] if single else SEEDS)}

    found = {
        "return": {name: arm(returns) for name in ARMS},
        "ceiling": {name: arm(ceiling) for name in ARMS},
        "variation": {"vanilla": arm(0.5), "robust": arm(0.5 * ratio)},
        **{under(name): {a: arm(shifted) for a in ARMS} for name in SHIFTS},
    }
    for own, other in (ARMS, ARMS[::-1]):
        found[at_states(own)] = {own: found["ceiling"][own], other: arm(cross)}
        if not single:
            found[at_states(own)][other_seeds(own)] = arm(seeds_apart)
    return found


def verdicts(found):
    return {check.name: check.holds for check in CLAIM.checks(found)}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert base.holds(checks)
    assert [c.name for c in checks if not c.required] == ["disjoint the other way"]
    assert next(c for c in checks if c.name == "disjoint").value == pytest.approx(0.85, abs=0.03)
    assert next(c for c in checks if c.name == "oscillation").value == pytest.approx(1.3, abs=0.1)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"returns": 0.7}, {"learned, vanilla", "learned, robust"}),
        ({"ceiling": 0.7, "shifted": 0.3}, {"known, vanilla", "known, robust"}),
        ({"cross": 0.8, "seeds_apart": 0.9}, {"disjoint", "disjoint the other way"}),
        ({"seeds_apart": 0.1}, {"more than a seed"}),
        ({"ratio": 0.8}, {"oscillation"}),
        ({"shifted": 0.99}, {"remolded"}),
    ],
)
def test_each_check_fails_for_what_it_is_about(change, broken):
    assert {name for name, ok in verdicts(scores(**change)).items() if not ok} == broken


def test_one_seed_has_no_control_and_proves_nothing():
    found = verdicts(scores(single=True))
    assert "more than a seed" not in found
    assert not found["disjoint"]
    assert not found["oscillation"]


def test_one_shift_in_one_arm_is_enough_to_fail():
    found = scores()
    found[under("blur")]["robust"] = dict.fromkeys(SEEDS, 0.99)
    assert not verdicts(found)["remolded"]


def test_a_miniature_of_the_experiment(monkeypatch):
    vanilla = replace(diagnosing.VANILLA, hidden=(16,), batch_size=16, warmup=200)
    robust = replace(diagnosing.ROBUST, hidden=(16,), batch_size=16, warmup=200, pgd_steps=1, radius_length=20)
    for name, value in (("VANILLA", vanilla), ("ROBUST", robust), ("UPDATES", 40), ("EPISODES", 4)):
        monkeypatch.setattr(diagnosing, name, value)
    context = CLAIM.context(n=2, offset=900)
    found = CLAIM.run(context)
    assert set(found) == set(CLAIM.panels)
    assert set(found[at_states("vanilla")]) == {"vanilla", "robust", other_seeds("vanilla")}
    assert all(set(arm) == {"900", "901"} for panel in found.values() for arm in panel.values())
    shares = [x for panel in found if panel not in ("return", "variation") for arm in found[panel].values() for x in arm.values()]
    assert all(0.0 <= np.mean(x) <= 1.0 for x in shares)
    assert found == CLAIM.run(CLAIM.context(n=2, offset=900))
    assert len(CLAIM.checks(found)) == 9


def test_the_full_scale_says_what_it_needs(tmp_path):
    with pytest.raises(ConfigError, match="give --data"):
        CLAIM.run(CLAIM.context("full"))
    with pytest.raises(ConfigError, match="no pair of run folders such as Pong-vanilla"):
        CLAIM.run(CLAIM.context("full", data=str(tmp_path)))
