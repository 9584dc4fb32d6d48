"""IWOCS in tables: the card's small worlds, its facts on random ones, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.windy import windy_walk
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import static_robust
from surefoot.methods.exact.static_robust import (
    Models,
    exact_search,
    iwocs,
    monte_carlo,
    policy_values,
    robust_value_iteration,
    value_iteration,
)

WIN, LOSE, SAFE, OVER = 1, 2, 3, 4


def one_decision(chances):
    """State 0: a0 pays +1 or, with chance t, -1; a1 pays 0.2; then it is over."""
    kernels, reward = np.zeros((len(chances), 5, 2, 5)), np.zeros((5, 2, 5))
    kernels[:, 0, 0, WIN], kernels[:, 0, 0, LOSE], kernels[:, 0, 1, SAFE] = 1.0 - chances, chances, 1.0
    kernels[:, 1:, :, OVER] = 1.0
    reward[0, :, WIN], reward[0, :, LOSE], reward[0, :, SAFE] = 1.0, -1.0, 0.2
    return Models.of(kernels, reward, gamma=1.0)


def stalling():
    """s0 leads to s1; there a0 pays 1 under A and 0 under B, a1 the reverse, a2 pays 0.4 under both."""
    kernels, reward = np.zeros((2, 6, 3, 6)), np.zeros((6, 3, 6))
    paid, unpaid, some, over = 2, 3, 4, 5
    kernels[:, 0, :, 1] = 1.0
    kernels[:, 1, 2, some] = 1.0
    kernels[0, 1, 0, paid] = kernels[0, 1, 1, unpaid] = kernels[1, 1, 0, unpaid] = kernels[1, 1, 1, paid] = 1.0
    kernels[:, 2:, :, over] = 1.0
    reward[1, :, paid], reward[1, :, some] = 1.0, 0.4
    return Models.of(kernels, reward, gamma=1.0)


def random_models(seed, k=4, states=5, actions=3, gamma=0.9):
    rng = np.random.default_rng(seed)
    return Models(rng.dirichlet(np.ones(states), (k, states, actions)), rng.random((k, states, actions)), gamma)


# --- the card's worlds ------------------------------------------------------------------------------------------------


def test_oracle_1_one_decision():
    solved = iwocs(one_decision(np.linspace(0.0, 1.0, 11)), 0)
    first, second = solved.history
    np.testing.assert_allclose(first.q[0], [1.0, 0.2], atol=1e-12)
    assert (first.policy[0], first.worst, first.value) == (0, 10, pytest.approx(-1.0))
    np.testing.assert_allclose(second.q[0], [-1.0, 0.2], atol=1e-12)
    assert second.policy[0] == 1
    assert solved.value == pytest.approx(0.2) and solved.closed and solved.models == (0, 10)


@pytest.fixture(scope="module")
def walk():
    kernels, reward, start = windy_walk(np.linspace(0.0, 0.5, 25))
    return Models.of(kernels, reward, 0.95, start)


def test_oracle_2_values_of_the_windy_walk(walk):
    best = [value_iteration(walk, k)[walk.start].max() for k in range(len(walk))]
    assert best[0] == pytest.approx(-4.524381, abs=5e-7)
    assert best[12] == pytest.approx(-6.229623, abs=5e-7)
    assert best[24] == pytest.approx(-7.952147, abs=5e-7)
    assert int(np.argmin(best)) == 24
    assert robust_value_iteration(walk)[walk.start].max() == pytest.approx(-7.952147, abs=5e-7)


@pytest.mark.parametrize(("first", "claimed"), [(0, -4.524381), (6, -5.208398), (12, -6.229623)])
def test_oracle_2_two_models_suffice_in_the_windy_walk(walk, first, claimed):
    solved = iwocs(walk, first)
    assert solved.models == (first, 24) and solved.worst == 24 and solved.closed
    assert solved.history[0].claimed == pytest.approx(claimed, abs=5e-7)
    assert (solved.history[0].worst, solved.history[0].value) == (24, pytest.approx(-10.294413, abs=5e-7))
    assert solved.history[1].claimed == pytest.approx(-7.952147, abs=5e-7)
    assert solved.value == pytest.approx(-7.952147, abs=5e-7)


def test_the_wind_blows_where_it_should():
    kernels, reward, start = windy_walk(np.array([0.5]))
    assert start == 0 and reward[5].tolist() == [0.0] * 4 and kernels[0, 5, :, 5].tolist() == [1.0] * 4
    assert kernels[0, 2, 1, [1, 3]].tolist() == [0.5, 0.5]  # row 0, column 2, east
    assert kernels[0, 14, 1, [13, 15]].tolist() == [0.125, 0.875]  # row 2
    assert kernels[0, 26, 0, [25, 26]].tolist() == [0.5**6, 1.0 - 0.5**6]  # row 4, north: a wall
    assert kernels[0, 32, 0, [31, 26]].tolist() == [0.5**6, 1.0 - 0.5**6]  # row 5, north
    assert kernels[0, 2, 3, 1] == 1.0  # west is sure
    with pytest.raises(ConfigError, match="chances between 0 and 1"):
        windy_walk(np.array([1.5]))


def test_oracle_3_a_gap_that_stays():
    models = stalling()
    solved = iwocs(models, 0)
    assert solved.models == (0, 1)
    assert solved.policy[1] == 2
    assert solved.value == pytest.approx(0.4)
    assert solved.history[-1].claimed == pytest.approx(1.0)  # s0 was worth 1 in either model by itself
    assert not solved.closed


def test_oracle_4_one_model_is_a_plain_solver():
    models = random_models(0, k=1)
    solved = iwocs(models)
    assert len(solved.history) == 1 and solved.closed
    np.testing.assert_array_equal(solved.policy, value_iteration(models, 0).argmax(-1))
    assert solved.value == pytest.approx(value_iteration(models, 0)[0].max())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), first=st.integers(0, 5), gamma=st.sampled_from([0.0, 0.5, 0.95]))
def test_oracle_5_facts_on_random_models(seed, k, first, gamma):
    models = random_models(seed, k, gamma=gamma)
    solved = iwocs(models, first % k)
    robust = robust_value_iteration(models)
    for before, after in zip(solved.history, solved.history[1:], strict=False):
        assert (after.q <= before.q).all()
    for row in solved.history:
        assert row.claimed >= row.value - 1e-8
        assert (row.q >= robust - 1e-8).all()
    values = policy_values(models, solved.policy)[:, 0]
    assert solved.value == pytest.approx(values.min(), abs=1e-12) and values.argmin() == solved.worst
    assert len(set(solved.models)) == len(solved.models) <= k


# --- the key term -----------------------------------------------------------------------------------------------------


def test_it_learns_from_the_worst_model_and_from_all_of_them(walk):
    """What is learned: in the walk a policy twice as good in its worst case. The stall needs the minimum over models, not the last one."""
    solved = iwocs(walk, 0)
    assert solved.history[0].value < -10.0 and solved.value > -8.0
    assert iwocs(stalling(), 0).value == pytest.approx(0.4)  # 0 by the newest Q alone, or without the search


def test_values_are_those_of_simulated_walks():
    kernels, reward, start = windy_walk(np.array([0.0, 0.25, 0.5]))
    walk = Models.of(kernels, reward, 0.95, start)
    policy = value_iteration(walk, 0).argmax(-1)
    worst, value = monte_carlo(walk, np.random.default_rng(0), rollouts=300, length=150)(policy)
    assert worst == 2
    assert value == pytest.approx(policy_values(walk, policy)[2, start], abs=4 * 4.9 / np.sqrt(300))  # returns spread by about 4.9
    found = iwocs(walk, 0, search=monte_carlo(walk, np.random.default_rng(1), rollouts=300, length=150))
    assert found.value == pytest.approx(-7.952, abs=4 * 1.0 / np.sqrt(300))


def test_the_search_takes_the_first_of_equally_bad_models():
    models = random_models(1, k=1)
    twins = Models(np.repeat(models.transition, 3, 0), np.repeat(models.reward, 3, 0), models.gamma)
    assert exact_search(twins)(np.zeros(5, np.int64))[0] == 0


def test_iterations_bound_the_searches(walk):
    assert len(iwocs(walk, 0, iterations=1).history) == 1


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda p, r: Models(p[0], r), DataError, r"transition has shape \(3, 2, 3\)"),
        (lambda p, r: Models(p, r[:, :2]), DataError, r"reward has shape \(2, 2, 2\): it must be \(2, 3, 2\)"),
        (lambda p, r: Models(p * 1.1, r), DataError, r"transition\[0, 0, 0\] sums to 1.1"),
        (lambda p, r: Models(p, r * np.nan), DataError, r"reward\[0, 0, 0\] is nan"),
        (lambda p, r: Models(p, r, gamma=1.5), ConfigError, "gamma is 1.5"),
        (lambda p, r: Models(p, r, start=3), ConfigError, "start is 3: the 3 states"),
        (lambda p, r: Models.of([], r[0]), DataError, "give at least one"),
        (lambda p, r: Models.of([p[0], p[1][:, :1]], r[0]), DataError, "all of one shape"),
        (lambda p, r: Models.of(p, r[0, 0]), DataError, r"rewards have shape \(2,\)"),
        (lambda p, r: iwocs(Models(p, r), 5), ConfigError, "first is 5: the 2 models"),
        (lambda p, r: iwocs(Models(p, r), iterations=0), ConfigError, "iterations is 0"),
    ],
)
def test_misuse_is_one_sentence(change, error, words):
    models = random_models(2, k=2, states=3, actions=2)
    with pytest.raises(error, match=words):
        change(models.transition, models.reward)


def test_a_walk_that_never_ends_needs_a_discount(monkeypatch):
    monkeypatch.setattr(static_robust, "SWEEPS", 100)
    kernel = np.full((1, 2, 1, 2), 0.5)
    with pytest.raises(ConfigError, match="never ends"):
        policy_values(Models.of(kernel, np.ones((2, 1)), 1.0), np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match=r"does not converge with gamma 1\.0"):
        value_iteration(Models.of(kernel, np.ones((2, 1)), 1.0), 0)
