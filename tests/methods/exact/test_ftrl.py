"""Leaders on the simplex: by hand, against scipy's root finder, and the regret bound that only the log-barrier keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.ftrl import barrier, exponential_weights, log_barrier


def test_two_actions_by_hand():
    golden = 2 / (1 + 5**0.5)
    np.testing.assert_allclose(log_barrier(np.array([0.0, 1.0]), 1.0), [golden, 1 - golden], atol=1e-12)  # 0.618034
    gap = np.array([0.1, 3.0, 50.0])
    z = (2 - gap + np.sqrt((gap - 2) ** 2 + 4 * gap)) / 2
    cost = np.stack([np.full(3, 7.0), 7.0 + gap / 0.5], -1)
    np.testing.assert_allclose(log_barrier(cost, 0.5)[:, 0], 1 / z, atol=1e-12)


@pytest.mark.parametrize(
    ("eta", "expected"),
    [(1.0, (0.479356, 0.324030, 0.196613)), (0.1, (0.348218, 0.336500, 0.315282)), (10.0, (0.878110, 0.089776, 0.032114))],
)
def test_three_actions_as_on_the_card(eta, expected):
    cost = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(log_barrier(cost, eta), expected, atol=1e-6)
    np.testing.assert_allclose(log_barrier(cost - 1e6, eta), expected, atol=1e-6)


@given(st.integers(1, 60), st.floats(-9.0, 9.0), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_root_is_that_of_scipy(actions, scale, seed):
    cost = 10.0**scale * np.random.default_rng(seed).normal(size=actions)
    p = log_barrier(cost, 0.7)
    gap = 0.7 * (cost - cost.min())
    z = brentq(lambda z: (1.0 / (gap + z)).sum() - 1.0, 1.0 - 1e-12, actions + 1e-9, xtol=1e-15, rtol=1e-14) if actions > 1 else 1.0
    np.testing.assert_allclose(p, 1.0 / (gap + z), rtol=1e-9, atol=0.0)
    assert p.sum() == pytest.approx(1.0, abs=1e-12) and (p > 0.0).all()


def test_minimises_what_it_says():
    cost, eta = np.array([0.3, -1.2, 0.8, 0.0]), 2.0

    def objective(logits):
        p = np.exp(logits) / np.exp(logits).sum()
        return p @ cost + barrier(p) / eta

    best = minimize(objective, np.zeros(4), tol=1e-12)
    p = np.exp(best.x) / np.exp(best.x).sum()
    np.testing.assert_allclose(log_barrier(cost, eta), p, atol=1e-5)


def test_rows_are_apart_and_shapes_broadcast():
    rng = np.random.default_rng(0)
    cost, eta = rng.normal(size=(2, 3, 5, 4)), rng.uniform(0.1, 5.0, size=(2, 1, 1))
    for leader in (log_barrier, exponential_weights):
        together = leader(cost, eta)
        for i in np.ndindex(2, 3, 5):
            np.testing.assert_allclose(together[i], leader(cost[i], float(eta[i[0], 0, 0])), rtol=1e-12)
        np.testing.assert_allclose(leader(np.zeros((3, 4)), 1.0), 0.25)
    np.testing.assert_allclose(exponential_weights(np.array([0.0, np.log(3.0)]) + 1e5, 1.0), [0.75, 0.25])


def regret_and_bound(leader, losses, eta, y, penalty):
    """Regret of `leader` against y, `[n]`, and (penalty)/eta plus the stability term, for losses `[n, T, A]`."""
    summed, lost, stability = np.zeros(losses[:, 0].shape), 0.0, 0.0
    for t in range(losses.shape[1]):
        x = leader(summed, eta)
        lost = lost + (x * losses[:, t]).sum(-1)
        stability = stability + (x * losses[:, t] ** 2).sum(-1)
        summed = summed + losses[:, t]
    return lost - (y * losses.sum(1)).sum(-1), penalty / eta, eta * stability


def test_log_barrier_keeps_its_bound_whatever_the_losses():
    rng = np.random.default_rng(0)
    n, rounds, actions = 400, 60, 5
    scale, eta = 10.0 ** rng.uniform(-2.0, 3.0, size=(n, 1, 1)), 10.0 ** rng.uniform(-2.0, 1.0, size=n)
    losses = scale * rng.uniform(-1.0, 1.0, size=(n, rounds, actions))
    losses[::2] = -np.abs(losses[::2])  # every second trial has negative losses alone
    best = np.eye(actions)[losses.sum(1).argmin(-1)]
    y = (1.0 - 1.0 / rounds) * best + 1.0 / (actions * rounds)
    regret, penalty, stability = regret_and_bound(log_barrier, losses, eta, y, barrier(y) - actions * np.log(actions))
    assert (regret <= penalty + stability).sum() == n
    assert ((regret - penalty) / stability).max() < 0.5


def test_exponential_weights_break_theirs_on_a_large_negative_loss():
    losses, y, eta = np.array([[[0.0, 20.0], [0.0, -1000.0]]]), np.array([[0.25, 0.75]]), np.ones(1)
    regret, penalty, stability = regret_and_bound(exponential_weights, losses, eta, y, np.log(2.0))
    assert regret[0] == pytest.approx(745.0, abs=1e-3) and penalty + stability == pytest.approx(200.7, abs=0.05)
    assert (y * losses.sum(1)).sum() + regret[0] == pytest.approx(10.0, abs=1e-3)
    np.testing.assert_allclose(log_barrier(losses[0, 0], 1.0), [0.952494, 0.047506], atol=1e-6)
    regret, penalty, stability = regret_and_bound(log_barrier, losses, eta, y, barrier(y) - 2.0 * np.log(2.0))
    assert (y * losses.sum(1)).sum() + regret[0] == pytest.approx(-37.506219, abs=1e-6)
    assert penalty + stability == pytest.approx(47706.5, abs=0.05) and regret[0] < penalty + stability


def test_misuse_is_one_sentence():
    for leader in (log_barrier, exponential_weights):
        with pytest.raises(ConfigError, match=r"eta is -1\.0"):
            leader(np.zeros((2, 3)), np.array([1.0, -1.0]))
        with pytest.raises(DataError, match=r"cost\[1, 2\] is nan"):
            leader(np.array([[0.0, 0, 0], [0, 0, np.nan]]), 1.0)
