"""Statistics: parity with scipy, rliable and statsmodels, coverage where a level is claimed, and the edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rliable import metrics  # its `library` (the intervals) needs an old arch that cannot be imported beside pandas 3
from scipy import stats
from statsmodels.stats.multitest import multipletests

from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.statistics import (
    bootstrap_difference,
    hierarchical_interval,
    holm,
    iqm,
    iqm_interval,
    mean_interval,
    paired,
    probability_of_improvement,
    welch,
)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(1.0, 1.0, 12), RNG.normal(0.3, 3.0, 7)
ALTERNATIVES = ["two-sided", "greater", "less"]
values = st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 2)), min_size=2, max_size=12)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_welch_is_scipys(alternative):
    ours, theirs = welch(X, Y, alternative), stats.ttest_ind(X, Y, equal_var=False, alternative=alternative)
    interval = stats.ttest_ind(X, Y, equal_var=False).confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert ours.difference == pytest.approx(X.mean() - Y.mean())
    assert "Welch" in ours.test


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_paired_is_scipys(alternative):
    ours, theirs = paired(X[:7], Y, alternative), stats.ttest_rel(X[:7], Y, alternative=alternative)
    interval = stats.ttest_rel(X[:7], Y).confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_welch_keeps_its_level_and_interval_covers():
    """Unequal variances and sizes, no difference: 5 % of tests reject, 95 % of intervals hold 0."""
    rng = np.random.default_rng(1)
    results = [welch(rng.normal(0, 1, 5), rng.normal(0, 4, 8)) for _ in range(1500)]
    assert np.mean([r.p < 0.05 for r in results]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([r.low <= 0 <= r.high for r in results]) == pytest.approx(0.95, abs=0.02)


def test_no_variance_at_all_is_the_limit_and_not_nan():
    equal, better = welch([2.0, 2.0], [2.0, 2.0, 2.0]), welch([3.0, 3.0], [2.0, 2.0])
    assert (equal.p, equal.low, equal.high) == (1.0, 0.0, 0.0)
    assert (better.p, better.low, better.high) == (0.0, 1.0, 1.0)
    assert welch([3.0, 3.0], [2.0, 2.0], "less").p == 1.0
    assert welch([3.0, 3.0], [2.0, 2.0], "greater").p == 0.0
    assert paired([3.0, 4.0], [2.0, 3.0]).p == 0.0
    assert welch(np.full(3, 0.3), np.full(7, 0.3)).p == 1.0  # equal values whose computed variance is 1e-33, not 0


def test_one_value_says_nothing_about_spread():
    for comparison in (welch([1.0], [2.0, 3.0]), welch([1.0], [2.0]), paired([1.0], [2.0]), bootstrap_difference([[1.0]], [[2.0]])):
        assert (comparison.p, comparison.low, comparison.high) == (1.0, -np.inf, np.inf)
    for interval in (mean_interval([4.0]), iqm_interval([4.0]), hierarchical_interval(scores=np.array([[4.0]]))):
        assert (interval.value, interval.low, interval.high) == (4.0, -np.inf, np.inf)
    assert probability_of_improvement([1.0], [0.0]).value == 1.0


def test_constant_values_have_an_interval_without_width():
    for n in (2, 3, 5, 50):
        interval = mean_interval(np.full(n, 0.3))
        assert (interval.low, interval.value, interval.high) == pytest.approx((0.3, 0.3, 0.3), abs=1e-15)


def test_iqm_is_rliables_and_its_interval_stratified():
    scores = RNG.normal(size=(10, 4)) + np.arange(4)
    assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    for n in range(1, 12):
        assert iqm(X[:n]) == pytest.approx(stats.trim_mean(X[:n], 0.25))
    rng = np.random.default_rng(0)
    draws = [iqm(np.take_along_axis(scores, rng.integers(10, size=scores.shape), 0)) for _ in range(4000)]  # stratified by task
    low, high = np.quantile(draws, (0.025, 0.975))
    ours = iqm_interval(scores)
    # ours is widened for 10 runs by about sqrt(10/9) * 2.262/1.960
    assert ours.high - ours.low == pytest.approx(1.216 * (high - low), rel=0.08)


def test_probability_of_improvement_is_rliables_and_mann_whitneys():
    x, y = np.round(X, 0), np.round(Y, 0)  # with ties
    ours = probability_of_improvement(x, y)
    assert ours.value == pytest.approx(metrics.probability_of_improvement(x[:, None], y[:, None]))
    assert ours.value == pytest.approx(stats.mannwhitneyu(x, y).statistic / (x.size * y.size))
    rng = np.random.default_rng(0)
    draws = [metrics.probability_of_improvement(rng.choice(x, x.size)[:, None], rng.choice(y, y.size)[:, None]) for _ in range(500)]
    low, high = np.quantile(draws, (0.025, 0.975))
    assert low - 0.15 <= ours.low <= low + 0.02
    assert high - 0.02 <= ours.high <= high + 0.15


def test_bootstrap_agrees_with_scipys_for_large_samples():
    x = RNG.exponential(size=2000)
    ours = mean_interval(x)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours == mean_interval(x)  # the same seed, the same interval


def test_bootstrap_keeps_the_columns_of_a_stratified_sample_apart():
    scores = np.tile([0.0, 100.0], (20, 1)) + RNG.normal(0, 0.1, (20, 2))
    interval = iqm_interval(scores)
    assert interval.high - interval.low < 20  # mixing the columns would give nearly [0, 100]


@given(values, values)
def test_order_and_symmetry(x, y):
    p, q = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert p.value == pytest.approx(1.0 - q.value)
    assert 0.0 <= p.low <= p.high <= 1.0
    forth, back = welch(x, y), welch(y, x)
    assert 0.0 <= forth.p <= 1.0
    assert forth.p == pytest.approx(back.p, abs=1e-12)
    assert forth.low <= forth.difference <= forth.high
    greater, less = welch(x, y, "greater").p, welch(x, y, "less").p
    assert greater + less >= 1.0 - 1e-9
    interval = mean_interval(x)
    assert interval.low <= interval.value + 1e-9 <= interval.high + 2e-9


def test_holm_is_statsmodels():
    p = RNG.uniform(0, 0.2, 9)
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def coverage(interval, draw, truth, repetitions):
    rng = np.random.default_rng(7)
    intervals = [interval(draw(rng), seed) for seed in range(repetitions)]
    return np.mean([i.low <= truth <= i.high for i in intervals])


def two_levels(seeds, episodes):
    """Normal seeds around 0, normal episodes around their seed."""
    return lambda rng: rng.normal(0, 1, (seeds, 1)) + rng.normal(0, 1, (seeds, episodes))


COVERAGE = [
    (lambda x, s: mean_interval(x, seed=s), lambda rng: rng.normal(0, 1, 3), 0.0, 0.92),
    (lambda x, s: mean_interval(x, seed=s), lambda rng: rng.normal(0, 1, 5), 0.0, 0.92),
    (lambda x, s: mean_interval(x, seed=s), lambda rng: rng.normal(0, 1, 20), 0.0, 0.92),
    (lambda x, s: mean_interval(x, seed=s), lambda rng: rng.exponential(1, 100), 1.0, 0.91),
    (lambda x, s: iqm_interval(x, seed=s), lambda rng: rng.normal(0, 1, 10), 0.0, 0.92),
    (lambda x, s: hierarchical_interval(scores=x, seed=s), two_levels(5, 20), 0.0, 0.92),
    (lambda x, s: bootstrap_difference(x[:5], x[5:], seed=s), two_levels(10, 20), 0.0, 0.92),
    (lambda x, s: probability_of_improvement(x[:10], x[10:], seed=s), lambda rng: rng.normal(0, 1, 20), 0.5, 0.92),
]  # fmt: skip
"""Interval, data, true value, and the least share of intervals that must hold it where 95 % is claimed."""


@pytest.mark.parametrize("case", range(len(COVERAGE)))
def test_coverage(case):
    *arguments, least = COVERAGE[case]
    assert coverage(*arguments, 400) >= least


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(COVERAGE)))
def test_coverage_long(case):
    *arguments, least = COVERAGE[case]
    assert coverage(*arguments, 2000) >= least


def test_seeds_are_the_sample_and_not_episodes():
    """Two arms whose seeds differ, each with many equal episodes: pooling the episodes would find a difference."""
    rng = np.random.default_rng(3)
    x, y = (rng.normal(0, 1, (4, 1)) + np.zeros((4, 500)) for _ in range(2))
    assert abs(x.mean() - y.mean()) > 0.3
    comparison = bootstrap_difference(x, y)
    assert comparison.p > 0.05
    assert comparison.low < 0 < comparison.high
    assert welch(x.reshape(-1), y.reshape(-1)).p < 1e-6
    clear = bootstrap_difference(x + 10, y, "greater")
    assert clear.low > 0
    assert clear.p < 0.001
    assert bootstrap_difference(x + 10, y, "less").p > 0.99


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mean_interval([1.0, np.nan]), DataError, r"x\[1\] is nan"),
        (lambda: welch([1.0, 2.0], [np.inf, 1.0]), DataError, r"y\[0\] is inf"),
        (lambda: mean_interval([]), DataError, "at least one"),
        (lambda: mean_interval([[1.0, 2.0]]), DataError, "1 axis"),
        (lambda: hierarchical_interval(scores=np.ones(3)), DataError, "2 axes"),
        (lambda: paired([1.0, 2.0], [1.0]), DataError, "2 and 1"),
        (lambda: welch([1.0, 2.0], [1.0, 3.0], "larger"), ConfigError, "'larger'"),
        (lambda: bootstrap_difference(np.ones((2, 2)), np.ones((2, 2)), "larger"), ConfigError, "'larger'"),
        (lambda: mean_interval([1.0, 2.0], level=95), ConfigError, "level is 95"),
    ],
)
def test_misuse_is_one_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
