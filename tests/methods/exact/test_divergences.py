"""Duals by hand, against scipy's solvers on the primal problem, and in their limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from surefoot.errors import ConfigError
from surefoot.methods.exact import divergences as dv

P, V = np.array([0.2, 0.5, 0.3]), np.array([0.0, 1.0, 2.0])
PENALISED = {"tv": dv.penalised_tv, "kl": dv.penalised_kl, "chi2": dv.penalised_chi2}


def random_case(seed, n=5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(n)), rng.random(n) * 3.0, rng


@pytest.mark.parametrize(
    ("lam", "tv", "kl", "chi2"),
    [(0.3, 0.24, 0.456677, 0.723810), (0.5, 0.4, 0.648845, 0.855), (1.0, 0.8, 0.856748, 0.9775), (5.0, 1.1, 1.050758, 1.0755)],
)
def test_by_hand(lam, tv, kl, chi2):
    assert dv.penalised_tv(P, V, lam) == pytest.approx(tv, abs=1e-6)
    assert dv.penalised_kl(P, V, lam) == pytest.approx(kl, abs=1e-6)
    assert dv.penalised_chi2(P, V, lam) == pytest.approx(chi2, abs=1e-6)


DISTANCE = {
    "kl": lambda mu, p: (np.where(mu > 0, mu * np.log(np.maximum(mu, 1e-300) / p), 0.0)).sum(),
    "chi2": lambda mu, p: (p * np.square(mu / p - 1.0)).sum(),
}


@pytest.mark.parametrize("kind", ["kl", "chi2"])
@pytest.mark.parametrize("seed", range(6))
def test_against_the_primal_problem(kind, seed):
    p, v, rng = random_case(seed)
    lam = rng.uniform(0.1, 2.0)
    primal = lambda mu: mu @ v + lam * DISTANCE[kind](mu, p)  # noqa: E731
    simplex = {
        "bounds": [(1e-12, 1)] * 5,
        "constraints": {"type": "eq", "fun": lambda mu: mu.sum() - 1},
        "options": {"ftol": 1e-12, "maxiter": 500},
    }
    found = min(minimize(primal, start, **simplex).fun for start in (p, np.full(5, 0.2)))
    assert PENALISED[kind](p, v, lam) == pytest.approx(found, abs=1e-5)


@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
@settings(max_examples=30, deadline=None)
def test_total_variation_against_linear_programming(seed, lam):
    """mu = p + up - down: minimise v mu + lam sum(down), and the same with sum(down) <= rho."""
    p, v, _ = random_case(seed)
    cost = np.concatenate([v, -v + lam])  # of up and down
    balance = {"A_eq": [np.concatenate([np.ones(5), -np.ones(5)])], "b_eq": [0.0]}
    bounds = [(0, None)] * 5 + [(0, x) for x in p]
    assert dv.penalised_tv(p, v, lam) == pytest.approx(p @ v + linprog(cost, bounds=bounds, **balance).fun, abs=1e-9)
    rho = lam / 3.0
    limit = {"A_ub": [np.concatenate([np.zeros(5), np.ones(5)])], "b_ub": [rho]}
    ball = p @ v + linprog(np.concatenate([v, -v]), bounds=bounds, **balance, **limit).fun
    assert dv.constrained_tv(p, v, rho) == pytest.approx(ball, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_kl_ball_against_the_primal_problem(seed):
    p, v, rng = random_case(seed)
    rho = rng.uniform(0.01, 0.5)
    limits = [{"type": "eq", "fun": lambda mu: mu.sum() - 1}, {"type": "ineq", "fun": lambda mu: rho - DISTANCE["kl"](mu, p)}]
    found = minimize(lambda mu: mu @ v, p, bounds=[(1e-9, 1)] * 5, constraints=limits, options={"ftol": 1e-12, "maxiter": 500})
    assert dv.constrained_kl(p, v, rho) == pytest.approx(found.fun, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_a_chi_square_ball_against_the_primal_problem(seed):
    p, v, rng = random_case(seed)
    rho = rng.choice([0.02, 0.3, 2.0])
    limits = [{"type": "eq", "fun": lambda mu: mu.sum() - 1}, {"type": "ineq", "fun": lambda mu: rho - DISTANCE["chi2"](mu, p)}]
    start = {"bounds": [(0.0, 1)] * 5, "constraints": limits, "options": {"ftol": 1e-13, "maxiter": 800}}
    found = minimize(lambda mu: mu @ v, p, **start)
    assert dv.constrained_chi2(p, v, rho) == pytest.approx(found.fun, abs=1e-4)


@given(st.integers(0, 10_000), st.floats(0.0, 5.0))
@settings(max_examples=50, deadline=None)
def test_a_chi_square_ball_is_the_largest_on_a_fine_grid(seed, rho):
    """For the weights of a regression too, whose variance may be negative."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=7) if seed % 2 else rng.dirichlet(np.ones(7)), rng.random(7) * 2.0
    a = np.unique(np.concatenate([np.linspace(0.0, 3.0, 6001), v]))
    z, z2 = (w * np.minimum(v, a[:, None])).sum(-1), (w * np.square(np.minimum(v, a[:, None]))).sum(-1)
    grid = (z - np.sqrt(rho * np.maximum(z2 - z * z, 0.0))).max()
    exact = dv.constrained_chi2(w, v, rho, 0.0, 3.0)
    assert grid - 1e-7 <= exact <= grid + 0.02 * (1.0 + rho)


@given(st.integers(0, 10_000), st.sampled_from(["tv", "kl", "chi2"]))
@settings(max_examples=40, deadline=None)
def test_balls_shrink_from_the_mean_to_the_least_value(seed, kind):
    p, v, rng = random_case(seed)
    ball = {"tv": dv.constrained_tv, "kl": dv.constrained_kl, "chi2": dv.constrained_chi2}[kind]
    found = [float(ball(p, v, rho)) for rho in (0.0, *np.sort(rng.uniform(1e-3, 3.0, 5)), 1e6)]
    assert found[0] == pytest.approx(p @ v) and (np.diff(found) <= 1e-6).all()
    assert found[-1] == pytest.approx(v.min(), abs=1e-6)


@given(st.integers(0, 10_000), st.floats(0.02, 2.0))
@settings(max_examples=30, deadline=None)
def test_a_kl_ball_of_a_regression_is_the_largest_on_a_fine_grid(seed, rho):
    """Its objective may have several maxima."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=6) * 0.5, rng.random(6) * 2.0
    a = np.exp(np.linspace(np.log(1e-4), np.log(1e6), 20_001))
    mean = 1.0 + (w * np.expm1((v.min() - v) / a[:, None])).sum(-1)
    grid = max((v.min() - a * np.log(np.maximum(mean, 1e-6)) - a * rho).max(), v.min())
    assert dv.constrained_kl(w, v, rho) >= grid - 1e-2 * (1.0 + abs(grid))


@given(st.integers(0, 10_000), st.floats(0.02, 5.0))
@settings(max_examples=50, deadline=None)
def test_chi_square_is_the_largest_on_a_fine_grid(seed, lam):
    """For the weights of a regression too, which may be negative and sum to anything."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=7), rng.random(7) * 2.0
    a = np.unique(np.concatenate([np.linspace(0.0, 3.0, 3001), v]))
    z, z2 = (w * np.minimum(v, a[:, None])).sum(-1), (w * np.square(np.minimum(v, a[:, None]))).sum(-1)
    grid = (z + (z * z - z2) / (4 * lam)).max()
    exact = dv.penalised_chi2(w, v, lam, 0.0, 3.0)
    assert grid - 1e-12 <= exact <= grid + 1e-3 * (1.0 + 1.0 / lam)


@given(st.integers(0, 10_000), st.floats(0.02, 5.0))
@settings(max_examples=50, deadline=None)
def test_a_constrained_total_variation_is_the_largest_on_a_fine_grid(seed, rho):
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=7), rng.random(7) * 2.0
    a = np.unique(np.concatenate([np.linspace(0.1, 1.5, 2001), v[(v > 0.1) & (v < 1.5)]]))
    grid = ((w * np.minimum(v, a[:, None])).sum(-1) - rho * (a - 0.1)).max()
    assert dv.constrained_tv(w, v, rho, 0.1, 1.5) == pytest.approx(grid, abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from(sorted(PENALISED)))
@settings(max_examples=60, deadline=None)
def test_between_the_least_value_and_the_mean_and_growing_with_lam(seed, kind):
    p, v, rng = random_case(seed)
    found = [float(PENALISED[kind](p, v, lam)) for lam in np.sort(rng.uniform(0.01, 10.0, 6))]
    assert v.min() - 1e-9 <= found[0] and found[-1] <= p @ v + 1e-9
    assert (np.diff(found) >= -1e-9).all()


def test_limits():
    for kind, dual in PENALISED.items():
        assert dual(P, V, 1e6) == pytest.approx(P @ V, abs=1e-5), kind
    assert dv.penalised_tv(P, V, 1e-9) == pytest.approx(0.0, abs=1e-8)
    assert dv.penalised_kl(P, V, 1e-3) == pytest.approx(0.0, abs=1e-2)  # no underflow
    for lam in (1e-3, 1e-300):  # what has no weight is not the worst case, and nothing underflows to it
        assert dv.penalised_kl(np.array([0.0, 0.4, 0.6]), V, lam) == pytest.approx(1.0, abs=1e-2)
    assert dv.penalised_kl(np.array([-0.2, 0.1]), np.array([0.5, 1.5]), 0.1) == 1.5  # a regression's negative mean: the floor
    assert dv.penalised_kl(np.zeros(2), np.array([0.5, 1.5]), 1e-4, 3.0) == 3.0
    assert dv.constrained_tv(P, V, 0.0) == pytest.approx(P @ V) == dv.constrained_kl(P, V, 0.0)
    assert dv.constrained_tv(P, V, 1.0) == pytest.approx(0.0)
    assert dv.penalised_tv(P, V + 1.0, 0.5, v_min=0.0) == pytest.approx(0.5)  # a worse state that was never seen


def test_many_at_once_are_each_by_itself():
    rng = np.random.default_rng(0)
    p, v = rng.dirichlet(np.ones(6), (3, 4)), rng.random((3, 1, 6))
    every = {**PENALISED, "ball tv": dv.constrained_tv, "ball kl": dv.constrained_kl, "ball chi2": dv.constrained_chi2}
    for weights in (p, rng.normal(size=p.shape)):  # of distributions, and of a regression
        for kind, dual in every.items():
            together = dual(weights, v, 0.3)
            assert together.shape == (3, 4), kind
            alone = [[dual(weights[i, j], v[i, 0], 0.3) for j in range(4)] for i in range(3)]
            np.testing.assert_allclose(together, alone, atol=1e-6, err_msg=kind)


def test_misuse_is_one_sentence():
    for dual in PENALISED.values():
        with pytest.raises(ConfigError, match="lam is 0"):
            dual(P, V, 0.0)
    for dual in (dv.constrained_tv, dv.constrained_kl, dv.constrained_chi2):
        with pytest.raises(ConfigError, match="a radius is negative"):
            dual(P, V, -0.1)
