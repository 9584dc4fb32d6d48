"""Exploration policies: the card's numbers, Vowpal Wabbit's probabilities, the bound behind SquareCB, and properties on random scores."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.exact.exploration import (
    Explorer,
    best_action,
    entropy,
    epsilon_greedy,
    falcon_gamma,
    floor_projection,
    greedy,
    inverse_gap,
    matched,
    non_greedy,
    power_gamma,
    regret,
    softmax,
    squarecb_gamma,
    survivors,
    uniform,
    worst_regret,
)

F = np.array([0.9, 0.8, 0.5, 0.2])
SOME = np.array([True, False, True, True])
RULES = [
    lambda f, there: uniform(f, there),
    lambda f, there: greedy(f, there),
    lambda f, there: epsilon_greedy(f, there, 0.3),
    lambda f, there: softmax(f, there, 0.05),
    lambda f, there: inverse_gap(f, there, 37.0),
    lambda f, there: floor_projection(inverse_gap(f, there, 1e4), there, 0.2),
]


@st.composite
def problems(draw):
    """Scores and what is available, several rows."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 7)))
    scores = draw(arrays(np.float64, shape, elements=st.floats(0.0, 1.0, width=32)))
    there = draw(arrays(np.bool_, shape))
    there[:, draw(st.integers(0, shape[1] - 1))] = True
    return np.where(there, scores, np.nan), there


# --- the card's oracles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gamma", "expected", "lost"),
    [
        (10.0, [0.584091, 0.2, 0.125, 0.090909], 0.133636),
        (100.0, [0.892331, 0.071429, 0.022727, 0.013514], 0.025693),
        (0.0, [0.25, 0.25, 0.25, 0.25], 0.3),
    ],
)
def test_oracle_1_inverse_gap(gamma, expected, lost):
    p = inverse_gap(F, None, gamma)
    np.testing.assert_allclose(p, expected, atol=5e-7)
    np.testing.assert_allclose(regret(p, F), lost, atol=5e-7)


def test_oracle_1_large_gamma_is_greedy():
    np.testing.assert_allclose(inverse_gap(F, None, 1e6), [1.0, 0.0, 0.0, 0.0], atol=2e-5)


def test_oracle_2_unavailable_action():
    f = np.array([0.9, np.nan, 0.5, 0.2])
    np.testing.assert_allclose(inverse_gap(f, SOME, 10.0), [0.757143, 0.0, 0.142857, 0.1], atol=5e-7)
    np.testing.assert_allclose(epsilon_greedy(f, SOME, 0.3), [0.8, 0.0, 0.1, 0.1], atol=1e-15)
    np.testing.assert_allclose(softmax(f, SOME, 0.1), [0.981135, 0.0, 0.017970, 0.000895], atol=5e-7)


def test_oracle_3_softmax_and_epsilon_greedy():
    np.testing.assert_allclose(softmax(F, None, 0.1), [0.720925, 0.265213, 0.013204, 0.000657], atol=5e-7)
    np.testing.assert_allclose(softmax(F, None, 1e9), 0.25, atol=1e-9)
    for tau in (1e-4, 1e-300):
        np.testing.assert_array_equal(softmax(F, None, tau), greedy(F))
    np.testing.assert_allclose(epsilon_greedy(F, None, 0.1), [0.925, 0.025, 0.025, 0.025], atol=1e-15)


def test_oracle_4_floor_is_a_projection():
    p = np.array([0.9, 0.08, 0.02, 0.0])
    np.testing.assert_allclose(floor_projection(p, None, 0.2), [0.85, 0.05, 0.05, 0.05], atol=1e-15)
    np.testing.assert_allclose(0.8 * p + 0.2 * uniform(p), [0.77, 0.114, 0.066, 0.05], atol=1e-15)  # what it is not
    np.testing.assert_allclose(floor_projection(np.array([0.7, 0.2, 0.1]), None, 0.1), [0.7, 0.2, 0.1], atol=1e-15)
    np.testing.assert_allclose(floor_projection(p, None, 1.0), 0.25, atol=1e-15)


@settings(deadline=None)
@given(problems(), st.floats(0.0, 1e5), st.floats(1.0, 10.0))
def test_oracle_5_inverse_gap_is_monotone(problem, gamma, factor):
    f, there = problem
    p, best, k = inverse_gap(f, there, gamma), best_action(f, there)[:, None], there.sum(1, keepdims=True)
    scores = np.where(there, f, -np.inf)
    below = scores[:, :, None] < scores[:, None, :]  # a scores less than b: then it is played no more often
    assert (p[:, :, None] <= p[:, None, :] + 1e-12)[below].all()
    on_best = np.take_along_axis(p, best, 1)
    assert (on_best >= 1.0 / k - 1e-12).all()
    others = p.copy()
    np.put_along_axis(others, best, 0.0, 1)
    assert (others <= 1.0 / k + 1e-12).all()
    assert (np.take_along_axis(inverse_gap(f, there, factor * gamma), best, 1) >= on_best - 1e-12).all()


def test_oracle_6_supremum_and_bound():
    for gamma, exact, bound in ((10.0, 0.433636, 0.8), (50.0, 0.105726, 0.16)):
        p = inverse_gap(F, None, gamma)
        assert abs(worst_regret(p, F, gamma) - exact) < 5e-7
        assert worst_regret(p, F, gamma) <= bound == pytest.approx(2 * 4 / gamma)
        truth = F - 2.0 / gamma  # the maximiser, with a* = 3
        truth[3] = F[3] + 2.0 * (1.0 - p[3]) / (gamma * p[3])
        attained = p @ (truth[3] - truth) - gamma / 4.0 * p @ (F - truth) ** 2
        np.testing.assert_allclose(attained, exact, atol=5e-7)


def test_oracle_6_supremum_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(5):
        f, gamma = rng.random(4), rng.uniform(5.0, 80.0)
        p = inverse_gap(f, None, gamma)
        found = max(  # over which action is the best one, and all real truths
            -minimize(lambda t, a=a: -(p @ (t[a] - t) - gamma / 4.0 * p @ (f - t) ** 2), f, tol=1e-12).fun  # noqa: B023
            for a in range(4)
        )
        np.testing.assert_allclose(worst_regret(p, f, gamma), found, rtol=1e-6)


def test_oracle_9_vowpal_wabbit():
    stored = np.load(Path(__file__).parents[2] / "fixtures" / "vw_squarecb.npz", allow_pickle=False)
    for (scale, exponent, epsilon, learned), costs, theirs in zip(
        *(stored[x] for x in ("settings", "costs", "probabilities")), strict=True
    ):
        policy = Explorer(gamma_scale=scale, gamma_exponent=exponent, floor=epsilon)
        ours = policy.probabilities(-costs, ~np.isnan(costs), int(learned))
        np.testing.assert_allclose(ours, theirs, atol=3e-7)  # they compute in 32 bits


# --- properties -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(problems(), st.sampled_from(RULES))
def test_rules_give_distributions_over_what_is_available(problem, rule):
    f, there = problem
    p = rule(f, there)
    np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-12)
    assert (p >= 0.0).all() and (p[~there] == 0.0).all()
    np.testing.assert_array_equal(p[0], rule(f[0], there[0]))  # rows, and leading axes, stand alone
    np.testing.assert_array_equal(p[None], rule(f[None], there[None]))


@settings(deadline=None)
@given(problems(), st.floats(1.0, 1e4))
def test_squarecb_bound_holds(problem, gamma):
    f, there = problem
    p = inverse_gap(f, there, gamma)
    assert (worst_regret(p, f, gamma, there) <= 2.0 * there.sum(1) / gamma + 1e-12).all()


@settings(deadline=None, max_examples=30)
@given(problems(), st.floats(0.0, 1.0))
def test_floor_is_the_nearest_distribution_above_it(problem, epsilon):
    f, there = problem
    p = inverse_gap(f, there, 300.0)
    q, m = floor_projection(p, there, epsilon), epsilon / there.sum(1, keepdims=True)
    assert (q[there] >= np.broadcast_to(m, q.shape)[there] - 1e-12).all()
    # the projection's condition: no direction into the set brings it nearer
    for other in (uniform(f, there), floor_projection(greedy(f, there), there, epsilon)):
        assert (((p - q) * (other - q)).sum(1) <= 1e-9).all()


def test_ties_go_to_the_first_and_equal_scores_are_uniform():
    f = np.array([0.2, 0.7, 0.7])
    np.testing.assert_array_equal(greedy(f), [0.0, 1.0, 0.0])
    p = inverse_gap(f, None, 1e8)
    np.testing.assert_allclose(p, [0.0, 2.0 / 3.0, 1.0 / 3.0], atol=1e-7)  # 1/k each against the rest
    np.testing.assert_allclose(inverse_gap(np.full(3, 0.4), None, 50.0), 1.0 / 3.0)


def test_parameters_may_differ_between_copies():
    f = np.stack([F, F[::-1]])
    p = inverse_gap(f, None, np.array([10.0, 100.0]))
    np.testing.assert_array_equal(p, [inverse_gap(F, None, 10.0), inverse_gap(F[::-1], None, 100.0)])


def test_elimination_keeps_what_may_be_best():
    lower, upper = F - 0.15, F + 0.15
    np.testing.assert_array_equal(survivors(lower, upper), [True, True, False, False])
    np.testing.assert_array_equal(survivors(lower, upper, SOME), [True, False, False, False])
    p, gamma = Explorer(gamma=10.0).decide(F, None, half_width=np.full(4, 0.15))
    np.testing.assert_allclose(p, [1.0 - 1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0])  # k = 2 survive
    assert gamma == 10.0
    p, _ = Explorer(gamma=10.0, floor=0.2).decide(F, None, half_width=np.full(4, 0.15))
    assert (p >= 0.05 - 1e-12).all()


# --- how much exploration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [inverse_gap, softmax, epsilon_greedy])
def test_matched_policies_explore_equally(rule):
    rng = np.random.default_rng(2)
    f, there = rng.random((3, 400, 6)), rng.random((3, 400, 6)) < 0.8
    there[..., 0] = True
    for mass in (0.02, np.array([0.05, 0.2, 0.4])):
        parameter = matched(rule, f, there, mass)
        reached = non_greedy(rule(f, there, parameter[:, None]), f, there).mean(-1)
        np.testing.assert_allclose(reached, np.broadcast_to(mass, 3), atol=1e-9)


def test_a_mass_out_of_reach_is_refused():
    f = np.tile(F, (10, 1))
    with pytest.raises(
        ConfigError, match=r"no inverse_gap policy explores with mean probability 0\.9 here: it reaches \d.*e-11 to 0\.75\."
    ):
        matched(inverse_gap, f, None, 0.9)
    with pytest.raises(ConfigError, match=r"explores with mean probability 0\.1 here"):
        matched(inverse_gap, np.zeros((5, 4)), None, 0.1)  # ties never stop being explored


def test_schedules():
    assert power_gamma(400) == pytest.approx(200.0)  # 10 sqrt(t)
    assert power_gamma(16, 25.0, 0.25) == pytest.approx(50.0)
    assert squarecb_gamma(6, 1000, 20.0, 0.1) == pytest.approx(np.sqrt(6000 / (20 + np.log(20))))
    assert falcon_gamma(6, 3000, np.log(1000), 0.05, 0.5) == pytest.approx(0.5 * np.sqrt(18000 / np.log(1000 / 0.05)))
    assert Explorer().strength(F[None], None, 3000) == pytest.approx(10.0 * np.sqrt(3000))


def test_entropy():
    np.testing.assert_allclose(entropy(np.array([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])), [np.log(4.0), 0.0])


# --- by name, and what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "uniform"}, uniform(F)),
        ({"kind": "greedy"}, greedy(F)),
        ({"kind": "epsilon-greedy", "epsilon": 0.3}, epsilon_greedy(F, None, 0.3)),
        ({"kind": "softmax", "tau": 0.2}, softmax(F, None, 0.2)),
        ({"kind": "igw", "gamma": 50.0}, inverse_gap(F, None, 50.0)),
        ({"kind": "igw", "gamma": 1e4, "floor": 0.2}, floor_projection(inverse_gap(F, None, 1e4), None, 0.2)),
    ],
)
def test_explorers_are_the_rules(settings, expected):
    np.testing.assert_array_equal(Explorer(**settings).probabilities(F), expected)


def test_an_explorer_matches_a_mass():
    f = np.random.default_rng(3).random((200, 5))
    for kind in ("igw", "softmax", "epsilon-greedy"):
        p, strength = Explorer(kind, mass=0.1).decide(f)
        assert non_greedy(p, f).mean() == pytest.approx(0.1) and strength > 0.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inverse_gap(F, None, -1.0), ConfigError, "gamma is -1.0: it must be finite and not negative"),
        (lambda: inverse_gap(F, None, np.inf), ConfigError, "gamma is inf"),
        (lambda: softmax(F, None, 0.0), ConfigError, "tau is 0.0: it must be positive and finite"),
        (lambda: epsilon_greedy(F, None, 1.5), ConfigError, "epsilon is 1.5: it must lie between 0 and 1"),
        (lambda: floor_projection(F, None, np.nan), ConfigError, "floor is nan"),
        (lambda: inverse_gap(np.array([[0.1, np.nan]])), DataError, r"score\[0, 1\] is nan: the predicted reward of an available action"),
        (lambda: uniform(np.zeros((2, 3)), np.array([[True] * 3, [False] * 3])), DataError, "no action is available in row 1"),
        (lambda: uniform(np.zeros((2, 3)), np.ones((2, 4), bool)), DataError, r"available is bool\[2, 4\], but scores are \[2, 3\]"),
        (lambda: uniform(np.zeros((2, 3)), np.ones((2, 3))), DataError, "available is float64"),
        (lambda: uniform(np.float64(1.0)), DataError, r"scores have shape \[\]"),
        (lambda: Explorer("squarecb"), UnknownNameError, "unknown exploration policy 'squarecb': known: epsilon-greedy, greedy, igw"),
        (lambda: Explorer("softmx"), UnknownNameError, "did you mean 'softmax'"),
        (lambda: Explorer(floor=2.0), ConfigError, "floor is 2.0"),
        (lambda: Explorer(gamma=-2.0), ConfigError, "gamma is -2.0"),
        (lambda: Explorer("greedy", mass=0.1), ConfigError, "the greedy policy has nothing to adjust"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
