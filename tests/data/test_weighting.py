"""Trajectory weighting against the card's numbers, scikit-learn, scipy, and the invariances it must have."""

import json
from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chisquare
from sklearn.linear_model import LinearRegression, Ridge

from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous
from surefoot.data.weighting import (
    KINDS,
    advantages,
    diagnostics,
    normalised,
    positive_sided_variance,
    softmax_weights,
    start_values,
    top_weights,
    transition_weights,
    weighting_report,
)
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.methods.offline.bc import BC, BCConfig
from surefoot.recipes.pendulum import mixed_log


def episodes(returns, lengths, starts=None) -> Log:
    """A log whose episodes have these returns (spread over their rewards), lengths and one-dimensional start states."""
    returns, lengths = np.asarray(returns, float), np.asarray(lengths)
    starts = np.zeros(len(returns)) if starts is None else np.asarray(starts, float)
    n = lengths.sum()
    first = np.cumsum(lengths) - lengths
    obs = np.full((n, 1), 7.0)  # only an episode's first observation may count
    obs[first, 0] = starts
    truncated = np.zeros(n, bool)
    truncated[first + lengths - 1] = True
    reward = np.repeat(returns / lengths, lengths)
    box = Continuous((-1.0,), (1.0,))
    return Log.from_arrays(obs, np.zeros((n, 1)), reward, obs, np.zeros(n, bool), truncated, action_space=box)


def split(values, lengths):
    return np.repeat(values, lengths)


# --- the card's oracles ---------------------------------------------------------------------------------------------


def test_rw_by_hand():
    log = episodes([10.0, 2.0, 5.0], [2, 3, 1])
    p = transition_weights(log, "rw", alpha=0.1)
    np.testing.assert_allclose(normalised(log.episode_returns), [1.0, 0.0, 0.375], atol=1e-6)
    np.testing.assert_allclose(p, split([0.49948387, 2.2677e-05, 9.64231e-04], [2, 3, 1]), rtol=3e-5)
    report = weighting_report(log, p)
    np.testing.assert_allclose(report.mass, [0.998968, 0.000068, 0.000964], atol=5e-7)
    p = transition_weights(log, "rw", alpha=1.0)
    np.testing.assert_allclose(p, split([0.274808, 0.101096, 0.147094], [2, 3, 1]), atol=5e-7)
    assert weighting_report(log, p).weighted_return == pytest.approx(6.838216, abs=2e-6)


def test_aw_by_hand():
    starts, returns, lengths = np.arange(4.0), np.array([1.0, 4.0, 3.0, 8.0]), [1, 2, 2, 1]
    np.testing.assert_allclose(start_values(starts[:, None], returns), [1.0, 3.0, 5.0, 7.0])
    np.testing.assert_allclose(advantages(starts[:, None], returns), [0.0, 1.0, -2.0, 1.0], atol=1e-12)
    log = episodes(returns, lengths, starts)
    p = transition_weights(log, "aw", alpha=0.1)
    np.testing.assert_allclose(p, split([0.011751, 0.329406, 0.000015, 0.329406], lengths), atol=5e-7)
    for alpha, expected in ((0.1, 5.282342), (1.0, 4.250354), (1e6, 23 / 6)):
        report = weighting_report(log, transition_weights(log, "aw", alpha=alpha))
        assert report.weighted_return == pytest.approx(expected, abs=2e-6)
    assert report.uniform_return == pytest.approx(23 / 6)


def test_aw_keeps_what_a_poor_start_allowed_and_rw_keeps_the_lucky_start():
    log = episodes([0.0, 4.0, 10.0, 14.0], [1, 1, 1, 1], [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(transition_weights(log, "aw"), [0.000023, 0.499977, 0.000023, 0.499977], atol=5e-7)
    np.testing.assert_allclose(transition_weights(log, "rw"), [0.000043, 0.000747, 0.054270, 0.944940], atol=5e-7)


def test_positive_sided_variance():
    assert positive_sided_variance(np.array([0.0, 0.0, 0.0, 10.0])) == pytest.approx(14.0625)
    assert positive_sided_variance(np.array([0.0, 10.0, 10.0, 10.0])) == pytest.approx(4.6875)
    report = weighting_report(log := episodes([0.0, 0.0, 0.0, 10.0], [1, 1, 1, 1]), transition_weights(log, "uniform"))
    assert (report.psv, report.rpsv) == (pytest.approx(14.0625), pytest.approx(0.140625))


def test_temperature_has_its_limits():
    log = episodes([10.0, 2.0, 5.0, 9.0], [2, 3, 1, 4])
    np.testing.assert_allclose(transition_weights(log, "rw", alpha=1e9), np.full(10, 0.1), atol=1e-8)
    np.testing.assert_allclose(transition_weights(log, "rw", alpha=1e-4), split([0.5, 0.0, 0.0, 0.0], [2, 3, 1, 4]))
    best, worst = transition_weights(log, "rw", alpha=0.1)[[0, 2]]
    assert best / worst == pytest.approx(exp(10.0), rel=1e-5)


def test_topk_keeps_the_best_and_all_of_it_is_uniform():
    log = episodes([10.0, 2.0, 5.0, 9.0], [2, 3, 1, 4])
    np.testing.assert_allclose(transition_weights(log, "topk", share=0.5), split([1 / 6, 0.0, 0.0, 1 / 6], [2, 3, 1, 4]))
    np.testing.assert_allclose(transition_weights(log, "topk", share=1.0), transition_weights(log, "uniform"))
    np.testing.assert_allclose(transition_weights(log, "topk", share=0.1), split([0.5, 0.0, 0.0, 0.0], [2, 3, 1, 4]))  # at least one
    assert (top_weights(np.arange(100.0), np.ones(100, int), 0.29) > 0).sum() == 29


def test_equal_returns_are_uniform():
    log = episodes([3.0, 3.0, 3.0], [1, 2, 3])
    for kind in KINDS:
        p = transition_weights(log, kind, share=1.0)
        np.testing.assert_allclose(p, np.full(6, 1 / 6))
    linear = episodes(2.0 * np.arange(9.0) + 1.0, [1] * 9, np.arange(9.0))  # the start state explains every return
    np.testing.assert_allclose(transition_weights(linear, "aw"), np.full(9, 1 / 9))


def test_the_softmax_runs_over_transitions_not_episodes():
    log = episodes([1.0, 1.0, 0.0], [1, 9, 1])
    p = transition_weights(log, "rw")
    assert p[0] == pytest.approx(p[5])
    assert weighting_report(log, p).mass[1] == pytest.approx(9 * p[0])


# --- other people's code --------------------------------------------------------------------------------------------


def test_least_squares_is_scikit_learns():
    rng = np.random.default_rng(0)
    starts, returns = rng.standard_normal((40, 5)) * [1, 10, 0.1, 1, 1] + 3.0, 100.0 * rng.standard_normal(40)
    starts[:, 4] = 2.0  # a constant feature
    expected = LinearRegression().fit(starts, returns).predict(starts)
    np.testing.assert_allclose(start_values(starts, returns), expected, rtol=1e-10, atol=1e-10)


def test_few_episodes_are_regressed_with_a_ridge():
    rng = np.random.default_rng(1)
    starts, returns = 5.0 * rng.standard_normal((8, 11)) + 1.0, rng.standard_normal(8)
    scaled = (starts - starts.mean(0)) / starts.std(0)
    expected = Ridge(alpha=8.0).fit(scaled, returns).predict(scaled)
    np.testing.assert_allclose(start_values(starts, returns), expected, rtol=1e-10, atol=1e-12)
    assert np.abs(LinearRegression().fit(starts, returns).predict(starts) - returns).max() < 1e-9  # what least squares would do
    assert np.corrcoef(advantages(starts, returns), returns)[0, 1] > 0.7


def test_softmax_is_scipys():
    rng = np.random.default_rng(2)
    x, lengths = rng.random(50), rng.integers(1, 30, 50)
    for alpha in (0.001, 0.1, 3.0):
        expected = softmax(np.repeat(x, lengths) / alpha)
        np.testing.assert_allclose(np.repeat(softmax_weights(x, lengths, alpha), lengths), expected, rtol=1e-12, atol=1e-15)


def test_draws_follow_the_weights():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 6, 30)
    log = episodes(rng.standard_normal(30), lengths, rng.standard_normal(30))
    p = transition_weights(log, "aw", alpha=0.5)
    log.packed[:, 2] = torch.arange(len(log))  # the reward now names the row
    source = Logged(log, batch_size=1000, weights=p, seed=0)
    rows = np.concatenate([next(source).reward.numpy() for _ in range(100)]).astype(int)
    counts = np.bincount(rows, minlength=len(log))
    assert chisquare(counts, 100_000 * p).pvalue > 0.001
    assert chisquare(counts, np.full(len(log), 100_000 / len(log))).pvalue < 1e-12


# --- invariances ----------------------------------------------------------------------------------------------------

samples = st.integers(5, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-100, 100), min_size=n, max_size=n),
        st.lists(st.integers(1, 9), min_size=n, max_size=n),
        st.lists(st.floats(-3, 3), min_size=n, max_size=n),
    )
)


def scored(kind, returns, lengths, starts, alpha):
    x = normalised(advantages(starts, returns) if kind == "aw" else returns, np.abs(returns).max())
    return softmax_weights(x, lengths, alpha)


def spread(values):
    """Differences that rounding cannot hide."""
    return np.ptp(values) > 0.1


@settings(max_examples=150, deadline=None)
@given(samples, st.floats(0.1, 10), st.floats(-100, 100), st.sampled_from(["rw", "aw"]))
def test_scale_and_shift_of_returns_do_not_matter(sample, c, d, kind):
    returns, lengths, starts = np.array(sample[0]), np.array(sample[1]), np.array(sample[2])[:, None]
    if spread(returns) and spread(advantages(starts, returns)):
        p, q = (scored(kind, g, lengths, starts, 0.3) for g in (returns, c * returns + d))
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-9)
        assert (lengths * p).sum() == pytest.approx(1.0)
        assert (p >= 0).all()


@settings(max_examples=100, deadline=None)
@given(samples, st.floats(-10, 10))
def test_aw_does_not_see_a_linear_function_of_the_start(sample, slope):
    returns, lengths, starts = np.array(sample[0]), np.array(sample[1]), np.array(sample[2])[:, None]
    if spread(starts) and spread(advantages(starts, returns)):
        p, q = (scored("aw", g, lengths, starts, 0.3) for g in (returns, returns + slope * starts[:, 0]))
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(samples, st.randoms(use_true_random=False), st.sampled_from(["rw", "aw"]))
def test_order_of_episodes_does_not_matter(sample, random, kind):
    returns, lengths, starts = np.array(sample[0]), np.array(sample[1]), np.array(sample[2])[:, None]
    order = np.array(random.sample(range(len(returns)), len(returns)))
    if spread(returns) and spread(advantages(starts, returns)):
        p = scored(kind, returns, lengths, starts, 0.3)
        q = scored(kind, returns[order], lengths[order], starts[order], 0.3)
        np.testing.assert_allclose(p[order], q, rtol=1e-5, atol=1e-10)


@settings(max_examples=100, deadline=None)
@given(samples, st.floats(0.01, 5), st.floats(1.01, 10))
def test_a_lower_temperature_never_lowers_the_weighted_return(sample, alpha, factor):
    returns, lengths = np.array(sample[0]), np.array(sample[1])
    low, high = ((lengths * softmax_weights(normalised(returns), lengths, a)) @ returns for a in (alpha, factor * alpha))
    assert low >= high - 1e-9 * (1.0 + abs(high))


# --- a whole log ----------------------------------------------------------------------------------------------------


def test_the_good_episodes_of_a_mixed_log_get_the_mass():
    log = mixed_log(seed=0)
    reports = {kind: weighting_report(log, transition_weights(log, kind)) for kind in KINDS}
    good = slice(45, 50)  # recorded last
    assert reports["uniform"].mass[good].sum() == pytest.approx(0.1)
    for kind in ("aw", "rw", "topk"):
        assert reports[kind].mass[good].sum() > 0.85
        assert reports[kind].weighted_return > reports["uniform"].weighted_return + 500
        assert reports[kind].ess < reports["uniform"].ess
    assert reports["uniform"].ess == pytest.approx(len(log))
    assert reports["uniform"].effective_episodes == pytest.approx(50)
    assert reports["topk"].top_mass == pytest.approx(1.0)
    told = diagnostics(log, transition_weights(log, "aw"))
    assert json.loads(json.dumps(told)) == told
    assert "mass" not in told


def test_a_learner_that_draws_by_weights_acts_like_the_good_episodes():
    """Two members clone one log, of 45 random episodes and 5 that do what is right (the sign of what is seen): the first draws
    uniformly, the second by return. Fails if the weights are ignored.
    """
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (50, 20))
    action = np.where(np.arange(50)[:, None] < 45, rng.uniform(-1, 1, (50, 20)), np.sign(obs))
    rows = {"obs": obs.reshape(-1, 1), "action": action.reshape(-1, 1), "reward": -np.square(action - np.sign(obs)).reshape(-1)}
    ends = np.arange(1000) % 20 == 19
    box = Continuous((-1.0,), (1.0,))
    log = Log.from_arrays(**rows, next_obs=rows["obs"], terminated=np.zeros(1000, bool), truncated=ends, action_space=box)
    method = BC(log.spec(), BCConfig(hidden=(32, 32), actor_lr=3e-3), copies=(2,), seed=0)
    weights = [transition_weights(log, kind) for kind in ("uniform", "rw")]
    source = Logged([log, log], batch_size=64, copies=(2,), weights=weights, seed=0)
    for _ in range(400):
        method.update(next(source))
    seen = torch.linspace(-0.9, 0.9, 20).reshape(1, 20, 1).expand(2, 20, 1)
    acted, _ = method.policy.act(seen)
    uniform, weighted = (acted - seen.sign()).abs().mean((1, 2)).tolist()
    assert uniform > 0.7
    assert weighted < 0.3


def test_misuse():
    log = episodes([1.0, 2.0], [1, 1])
    with pytest.raises(UnknownNameError, match="'topk'"):
        transition_weights(log, "topq")
    with pytest.raises(ConfigError, match="alpha is 0"):
        transition_weights(log, "rw", alpha=0.0)
    with pytest.raises(ConfigError, match="share is 2"):
        transition_weights(log, "topk", share=2)
    with pytest.raises(ConfigError, match="one a transition"):
        weighting_report(log, np.ones(3))
    with pytest.raises(ValueError, match=r"\[n, S\]"):
        start_values(np.zeros(3), np.zeros(3))
