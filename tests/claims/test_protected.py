"""PROTECTED's claim: its verdict from scores alone, and the parts of its experiment that take no time."""

import numpy as np
import pytest

from surefoot.claims.base import holds
from surefoot.claims.protected import ARMS, ATTACKED, CLAIM, FREE, NATURAL, PER_SEED, SWITCHING, WORST, in_table, selected


def scores(*, free=0.04, loss=0.01, natural=100.0, attacked=0.0, switching=50.0):
    """Of two seeds; by how much the set does better or worse than what it is compared with."""
    rng = np.random.default_rng(0)
    exact = lambda mean, spread: {str(s): (mean + spread * rng.standard_normal(PER_SEED)).tolist() for s in range(2)}  # noqa: E731
    out = {
        FREE: {"protected": exact(0.7 + free, 0.02), "minimax": exact(0.7, 0.0)},
        WORST: {"last quarter": exact(0.7 - loss, 0.001), "minimax": exact(0.7, 0.0)},
    }
    base = {NATURAL: 800.0, ATTACKED: 200.0, SWITCHING: 500.0}
    for panel, more in ((NATURAL, natural), (ATTACKED, attacked), (SWITCHING, switching)):
        out[panel] = {arm: {str(s): [base[panel] + more * (arm == "protected")] * 4 for s in range(2)} for arm in ARMS}
    return out


def test_it_holds_where_all_that_is_required_does():
    checks = CLAIM.checks(scores())
    assert [check.name for check in checks] == ["exact, attack-free", "exact, worst case", "natural", "attacked", "switching"]
    assert all(check.holds for check in checks) and holds(checks)
    assert holds(CLAIM.checks(scores(switching=-1.0)))  # reported only
    assert holds(CLAIM.checks(scores(attacked=-19.0)))  # within 10 % of 200


@pytest.mark.parametrize("worse", [{"free": 0.0}, {"loss": 0.03}, {"natural": -1.0}, {"attacked": -21.0}])
def test_it_does_not_hold_where_one_requirement_fails(worse):
    assert not holds(CLAIM.checks(scores(**worse)))


def test_what_the_selector_earns_comes_to_what_its_best_arm_does():
    earned = selected(np.array([0.2, 0.9, 0.3]), seed=0)
    assert set(np.unique(earned)) == {0.2, 0.9, 0.3} and earned[-500:].mean() > 0.85 > earned[:100].mean()


def test_a_table_is_a_game_whose_set_is_at_least_as_good_as_its_parts():
    row = in_table(9_000)
    assert row["best response, natural"] == row["free natural-optimal"] >= row["free minimax"]
    assert row["minimax, worst"] == pytest.approx(min(row["minimax, worst"], row["worst minimax"]))
    assert row["free protected"] <= row["best response, natural"] + 1e-12 and 1 <= row["policies"] <= 5
