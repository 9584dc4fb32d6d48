"""Intervals and tests for returns: what may be said about a mean, an interquartile mean, a difference. Pure numpy.

Rows are members (training seeds), columns are episodes or tasks. Training seeds, not episodes, are the sample whenever a
claim is about a method; episodes are the sample only when it is about one given policy.

Bootstrap intervals are percentile intervals with a fixed seed, widened for small samples as in Hesterberg 2014
(arXiv 1411.5279, section 4.3, the "expanded percentile": nominal tail probabilities are replaced by
Phi(-sqrt(n/(n-1)) t_{n-1})). The plain one covers a normal mean 76 % (n = 3), 85 % (5) and 91 % (10) of the time where 95 % is
claimed. The interquartile mean and the probability of improvement are those of Agarwal et al. 2021 (arXiv 2108.13264).

A single value says nothing about spread: intervals are then (-inf, inf) and p is 1. NaN or infinite values are a DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from surefoot.errors import ConfigError, DataError

Alternative = Literal["two-sided", "greater", "less"]

RESAMPLES = 10_000  # for samples of up to LARGE values; 2,000 for larger ones, whose intervals need no far tails
LARGE = 1000
SMALL = 10  # below this many values no bootstrap of the mean reaches its level: Student's t is used
CHUNK = 4_000_000  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval (95 % unless another level was asked for)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """First minus second, its two-sided 95 % interval (whatever the alternative), and the p-value of the named test."""

    difference: float
    low: float
    high: float
    p: float
    test: str


def sample(x: Sequence[float] | np.ndarray, name: str = "x", ndim: int = 1) -> np.ndarray:
    """`x` as float64 with `ndim` axes; raises DataError if it is empty, has other axes, or holds NaN or infinity."""
    array = np.asarray(x, np.float64)
    if array.ndim != ndim or array.size == 0:
        raise DataError(f"{name} has shape {array.shape}: it must have {ndim} ax{'i' if ndim == 1 else 'e'}s and at least one value.")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{name}{list(where)} is {array[where]}: statistics need finite values.")
    return array


# --- one sample -----------------------------------------------------------------------------------------------------


def mean_interval(x: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `x` `[n]` and its interval: Student's t for n < 10, else the expanded percentile bootstrap."""
    x = sample(x)
    if 1 < x.size < SMALL:
        half = float(stats.t.ppf(0.5 + _check_level(level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
        return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)
    return _bootstrap(x, lambda draws: draws.mean(-1), level, seed)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Share of `successes` in `n` trials and Wilson's score interval, which keeps a width where all succeed or none does.

    Half a success (a tie) counts as such; the interval is then wider than it had to be. Raises DataError for a count outside [0, n].
    """
    if n < 1 or not 0.0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials: there must be a trial, and no more successes than trials.")
    z = float(stats.norm.ppf(0.5 + _check_level(level) / 2))
    share, weight = successes / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * np.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    return Interval(share, float(max(0.0, middle - half)), float(min(1.0, middle + half)))


def iqm(x: Sequence[float] | np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half of all values (floor(n/4) are cut at each end), of any shape."""
    x = np.asarray(x)
    return float(_iqm(sample(x.reshape(-1))))


def _iqm(x: np.ndarray) -> np.ndarray:
    """IQM along the last axis."""
    n = x.shape[-1]
    cut = n // 4
    return np.partition(x, (cut, n - cut - 1), axis=-1)[..., cut : n - cut].mean(-1)


def iqm_interval(x: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """IQM of `x` `[n]`, or `[seeds, tasks]` (each task's column resampled apart: the stratified bootstrap), and its interval."""
    scores = np.asarray(x)
    scores = sample(scores, ndim=2) if scores.ndim == 2 else sample(scores)[:, None]
    return _bootstrap(scores, lambda draws: _iqm(draws.reshape(len(draws), -1)), level, seed)


def _bootstrap(x: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float, seed: int) -> Interval:
    """Expanded percentile bootstrap over rows of `x` `[n]` or `[n, tasks]`, each column resampled apart."""
    n, columns = len(x), x.reshape(len(x), -1)
    value = float(statistic(x[None])[0])
    if n == 1:
        return Interval(value, -np.inf, np.inf)
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [
            statistic(np.take_along_axis(columns[None], rng.integers(n, size=(b, *columns.shape)), 1).reshape(b, *x.shape))
            for b in _pieces(n, x.size)
        ]
    )
    return Interval(value, *_percentiles(draws, level, n, n - 1))


def _pieces(n: int, size: int) -> Iterator[int]:
    """Resamples drawn at once, so that at most CHUNK values of resamples of `size` values are held."""
    left = RESAMPLES if n <= LARGE else 2000
    while left > 0:
        piece = min(left, max(1, CHUNK // size))
        left -= piece
        yield piece


def _percentiles(draws: np.ndarray, level: float, n: int, df: int) -> tuple[float, float]:
    """Interval of bootstrap draws, with the tails of a t distribution and the sqrt(n/(n-1)) that resampling loses."""
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + _check_level(level) / 2, df))
    low, high = np.quantile(draws, (tail, 1.0 - tail))
    return float(low), float(high)


def _check_level(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}: a confidence level lies between 0 and 1.")
    return level


# --- two samples ----------------------------------------------------------------------------------------------------


def probability_of_improvement(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0
) -> Interval:
    """P(X > Y) + P(X = Y) / 2 for one value drawn from `x` `[n]` and one from `y` `[m]` (Mann and Whitney's U / nm)."""
    x, y = sample(x), np.sort(sample(y, "y"))
    n, m = x.size, y.size
    below, not_above = np.searchsorted(y, x, "left"), np.searchsorted(y, x, "right")
    value = float((below + not_above).mean() / (2 * m))
    if min(n, m) == 1:
        return Interval(value, -np.inf, np.inf)
    rng = np.random.default_rng(seed)
    draws = []
    for b in _pieces(max(n, m), n + m):
        weight_x, weight_y = _counts(rng, b, n), _counts(rng, b, m)
        cdf = np.concatenate([np.zeros((b, 1)), np.cumsum(weight_y, 1)], 1)
        draws.append((weight_x * (cdf[:, below] + cdf[:, not_above])).sum(1) / (2 * n * m))
    return Interval(value, *_percentiles(np.concatenate(draws), level, min(n, m), n + m - 2))


def _counts(rng: np.random.Generator, b: int, n: int) -> np.ndarray:
    """How often each of n values is in each of b resamples, `[b, n]`."""
    flat = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
    return np.bincount(flat.reshape(-1), minlength=b * n).reshape(b, n)


def welch(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, alternative: Alternative = "two-sided") -> Comparison:
    """Welch's t-test of mean(x) - mean(y) for independent samples of unequal variance.

    Without any variance in both arms the limit is returned: p = 0 if the difference is in the alternative's direction, else 1.
    With one value in an arm p is 1.
    """
    x, y = sample(x), sample(y, "y")
    n, m = x.size, y.size
    a, b = (_variance(x) / n, _variance(y) / m) if min(n, m) > 1 else (np.inf, np.inf)
    # Welch-Satterthwaite; scaled by the larger part, so that tiny variances do not underflow
    top = max(a, b)
    df = (a / top + b / top) ** 2 / ((a / top) ** 2 / (n - 1) + (b / top) ** 2 / (m - 1)) if 0.0 < top < np.inf else np.inf
    difference = x.mean() - y.mean() if top > 0.0 else x[0] - y[0]
    return _t_test(float(difference), float(np.sqrt(a + b)), float(df), alternative, "Welch's t-test")


def paired(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, alternative: Alternative = "two-sided") -> Comparison:
    """Paired t-test of mean(x - y), for values that share their seed or task; zero variance and n = 1 as in `welch`."""
    x, y = sample(x), sample(y, "y")
    if x.size != y.size:
        raise DataError(f"a paired test got {x.size} and {y.size} values: give pairs, or use Welch's test.")
    d = x - y
    se = float(np.sqrt(_variance(d) / d.size)) if d.size > 1 else np.inf
    return _t_test(float(d.mean() if se > 0.0 else d[0]), se, d.size - 1, alternative, "paired t-test")


def _variance(x: np.ndarray) -> float:
    """Unbiased variance, exactly 0 for equal values (whose rounded mean would leave some)."""
    return 0.0 if (x == x[0]).all() else float(x.var(ddof=1))


def _t_test(difference: float, se: float, df: float, alternative: Alternative, name: str) -> Comparison:
    test = f"{name}, {_check_alternative(alternative)}"
    if se == np.inf:
        return Comparison(difference, -np.inf, np.inf, 1.0, test)
    if se == 0.0:
        wanted = {"two-sided": difference != 0.0, "greater": difference > 0.0, "less": difference < 0.0}[alternative]
        return Comparison(difference, difference, difference, 0.0 if wanted else 1.0, test)
    t, half = difference / se, float(stats.t.ppf(0.975, df)) * se
    p = {"two-sided": 2.0 * stats.t.sf(abs(t), df), "greater": stats.t.sf(t, df), "less": stats.t.cdf(t, df)}[alternative]
    return Comparison(difference, difference - half, difference + half, float(p), test)


def _check_alternative(alternative: str) -> str:
    if alternative not in ("two-sided", "greater", "less"):
        raise ConfigError(f"alternative is {alternative!r}: it must be 'two-sided', 'greater' or 'less'.")
    return alternative


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p-values of several comparisons made at once (family-wise error)."""
    order = np.argsort(p)
    raw = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(raw), 1.0)
    return corrected.tolist()


# --- seeds and episodes ---------------------------------------------------------------------------------------------


def hierarchical_interval(*, scores: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `scores` `[seeds, episodes]`; seeds are resampled, then episodes within each resampled seed.

    With one seed the interval is about that policy alone.
    """
    scores = sample(scores, "scores", 2)
    draws = _hierarchical(scores, np.random.default_rng(seed))
    if scores.size == 1:
        return Interval(float(scores.mean()), -np.inf, np.inf)
    n = len(scores) if len(scores) > 1 else scores.shape[1]
    return Interval(float(scores.mean()), *_percentiles(draws, level, n, n - 1))


def bootstrap_difference(x: np.ndarray, y: np.ndarray, alternative: Alternative = "two-sided", seed: int = 0) -> Comparison:
    """Mean of `x` `[seeds, episodes]` minus that of `y` (both arms resampled apart, seeds first, then episodes within each).

    With one seed in both arms the statement is about these two policies alone. p is the share of resamples on the wrong side
    of zero (twice the smaller share if two-sided), and never below 1 / (resamples + 1).
    """
    x, y = sample(x, "x", 2), sample(y, "y", 2)
    difference = float(x.mean() - y.mean())
    test = f"hierarchical bootstrap, {_check_alternative(alternative)}"
    axis = 0 if max(len(x), len(y)) > 1 else 1  # what the sample is
    n, m = x.shape[axis], y.shape[axis]
    if min(n, m) == 1:
        return Comparison(difference, -np.inf, np.inf, 1.0, test)
    rng = np.random.default_rng(seed)
    draws = _hierarchical(x, rng), _hierarchical(y, rng)
    k = min(map(len, draws))
    d = draws[0][:k] - draws[1][:k]
    low, high = _percentiles(d, 0.95, min(n, m), n + m - 2)
    greater, less = ((1 + np.count_nonzero(side)) / (k + 1) for side in (d <= 0.0, d >= 0.0))
    p = {"two-sided": min(1.0, 2.0 * min(greater, less)), "greater": greater, "less": less}[alternative]
    return Comparison(difference, low, high, float(p), test)


def _hierarchical(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of the mean of `[seeds, episodes]`."""
    seeds, episodes = scores.shape
    draws = []
    for b in _pieces(scores.size, scores.size):
        rows = rng.integers(seeds, size=(b, seeds, 1))
        draws.append(scores[rows, rng.integers(episodes, size=(b, seeds, episodes))].mean((1, 2)))
    return np.concatenate(draws)
