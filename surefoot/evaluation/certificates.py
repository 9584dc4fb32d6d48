"""Certified lower bounds on the expected return of a smoothed policy under attacks on its observations.

Kumar, Levine and Feizi, "Policy Smoothing for Provably Robust Reinforcement Learning" (ICLR 2022, arXiv 2106.11420 v3).
If an event has probability at least p while the policy observes o_t + N(0, sigma^2 I), then against every adaptive attacker
with sqrt(sum_t |eps_t|^2) <= B it keeps at least Phi(Phi^-1(p) - B/sigma): Eq. (1) below. Written for the events
{return > x} and integrated over x this bounds the expected return: Eq. (2). The probabilities come from unattacked episodes.

Departures: the DKW form takes an explicit `r_min` (the official script assumes 0), and returns that are not integers can be
bounded with Clopper-Pearson too, on a grid that is fixed before the episodes are played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.statistics import sample

Bound = Literal["clopper", "dkw"]
Numbers = float | Sequence[float] | np.ndarray


def gaussian_shift(p: Numbers, budget: Numbers, sigma: float) -> np.ndarray:
    """Phi(Phi^-1(p) - budget / sigma), Eq. (1): what an event of probability p keeps. `p` and `budget` broadcast.

    p = 0 stays 0 and p = 1 stays 1. Raises ConfigError for p outside [0, 1], a negative budget, or sigma that is not positive.
    """
    p, budget = np.asarray(p, np.float64), np.asarray(budget, np.float64)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ConfigError("a probability is outside [0, 1] or not a number: certificates shift probabilities.")
    if not (np.isfinite(budget) & (budget >= 0.0)).all():
        raise ConfigError(
            f"an attack budget is {budget.min() if budget.size == 1 else budget.tolist()}: it must be finite and not negative."
        )
    if not sigma > 0.0:
        raise ConfigError(f"sigma is {sigma}: a certificate needs noise with a positive standard deviation.")
    shifted = stats.norm.cdf(stats.norm.ppf(p) - budget / sigma)
    return np.minimum(shifted, p)  # the round trip at budget 0 may exceed p in the last bit; a bound must not


def clopper_pearson_lower(k: int | Sequence[int] | np.ndarray, n: int, level: float) -> np.ndarray:
    """Exact lower bound on a probability after k successes in n trials, wrong with probability at most `level` (one-sided)."""
    k = np.asarray(k)
    if n < 1 or (k < 0).any() or (k > n).any():
        raise ConfigError(f"{k.tolist()} successes in {n} trials: there must be at least one trial and 0 to n successes.")
    _check_alpha(level)
    # the beta quantile has no value at k = 0, where the bound is 0
    return np.where(k == 0, 0.0, stats.beta.ppf(level, np.maximum(k, 1), n - np.maximum(k, 1) + 1))


def dkw_epsilon(n: int, alpha: float) -> float:
    """Half-width of the band around an empirical distribution function of n values (Dvoretzky-Kiefer-Wolfowitz, Massart)."""
    if n < 1:
        raise ConfigError(f"n is {n}: a confidence band needs at least one value.")
    return float(np.sqrt(np.log(2.0 / _check_alpha(alpha)) / (2.0 * n)))


def shifted_expectation(levels: np.ndarray, survival: np.ndarray, budgets: Numbers, sigma: float) -> np.ndarray:
    """Eq. (2) for a staircase: levels[0] + sum_l (levels[l] - levels[l-1]) Phi(Phi^-1(survival[l-1]) - B/sigma), `[K]`.

    `levels` `[m+1]` ascend from a value that the return never falls below; `survival` `[m]` are (bounds on) Pr[R >= levels[1:]].
    """
    budgets = np.atleast_1d(np.asarray(budgets, np.float64))
    return levels[0] + gaussian_shift(survival, budgets[:, None], sigma) @ np.diff(levels)


def certified_return(
    returns: Sequence[float] | np.ndarray,
    budgets: Numbers,
    sigma: float,
    *,
    alpha: float = 0.05,
    bound: Bound = "clopper",
    r_min: float,
    r_max: float | None = None,
    grid: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Lower bounds `[K]` on the expected return at the K budgets; all hold together with confidence 1 - alpha.

    `returns` `[n]` are undiscounted returns of independent, noisy, unattacked episodes, none left out. `r_min` must hold surely
    (it is the bound's value where nothing is known).

    - "clopper": a Clopper-Pearson bound at each threshold, at alpha divided by the number of thresholds. Needs returns that are
      integers in [r_min, r_max], or a `grid` of thresholds from r_min up. The grid must be fixed in advance: one that was chosen
      after looking at the returns voids the confidence. Returns between grid points count as the lower one. A game that is won
      (+1) or lost (-1) is the grid (-1, 1): one threshold.
    - "dkw": for any returns; a uniform band around their empirical distribution.

    Raises ConfigError for settings outside their range, DataError for returns outside [r_min, r_max].
    """
    returns = sample(returns, "returns")
    _check_alpha(alpha)
    _check_range(returns, r_min, r_max)
    if bound == "clopper":
        levels = _integer_grid(returns, r_min, r_max) if grid is None else _fixed_grid(grid, r_min, r_max)
        reached = _count_reaching(returns, levels[1:])
        survival = clopper_pearson_lower(reached, returns.size, alpha / len(reached))
    elif bound == "dkw":
        levels = np.unique(np.append(returns, r_min))  # v_0 = r_min < v_1 < ...
        survival = np.maximum(_count_reaching(returns, levels[1:]) / returns.size - dkw_epsilon(returns.size, alpha), 0.0)
    else:
        raise ConfigError(f"bound is {bound!r}: it must be 'clopper' or 'dkw'.")
    return shifted_expectation(levels, survival, budgets, sigma)


def certified_return_per_step(rewards: np.ndarray, budgets: Numbers, sigma: float, *, alpha: float = 0.05) -> np.ndarray:
    """The variant for an attacker with its own budget at EACH step: lower bounds `[K]` on the expected sum of 0/1 rewards.

    `rewards` `[n, T]`, 0 after an episode's end. The reward of step t (from 0) depends on the first t + 1 observations, whose
    changes have a joint norm of at most sqrt(t+1) B.
    """
    rewards = sample(rewards, "rewards", 2)
    if not np.isin(rewards, (0.0, 1.0)).all():
        raise DataError("the certificate a step needs rewards that are 0 or 1.")
    n, steps = rewards.shape
    q = clopper_pearson_lower(rewards.sum(0).astype(np.int64), n, _check_alpha(alpha) / steps)
    budgets = np.atleast_1d(np.asarray(budgets, np.float64))
    return gaussian_shift(q, budgets[:, None] * np.sqrt(np.arange(1, steps + 1)), sigma).sum(-1)


def _count_reaching(returns: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """#{R >= level} for each level."""
    return returns.size - np.searchsorted(np.sort(returns), levels, side="left")


def _integer_grid(returns: np.ndarray, r_min: float, r_max: float | None) -> np.ndarray:
    if r_max is None or r_min != round(r_min) or r_max != round(r_max) or r_max <= r_min:
        raise ConfigError(f"r_min is {r_min} and r_max {r_max}: the Clopper-Pearson bound needs two integers, r_min < r_max, or a grid.")
    if (returns != np.round(returns)).any():
        odd = returns[returns != np.round(returns)][0]
        raise DataError(f"a return is {odd}, not an integer: use bound='dkw', or give a grid of thresholds fixed in advance.")
    return np.arange(r_min, r_max + 1.0)


def _fixed_grid(grid: Sequence[float] | np.ndarray, r_min: float, r_max: float | None) -> np.ndarray:
    levels = sample(grid, "grid")
    if len(levels) < 2 or (np.diff(levels) <= 0).any() or levels[0] != r_min or (r_max is not None and levels[-1] > r_max):
        raise ConfigError(f"the grid of thresholds must ascend from r_min ({r_min}) to at most r_max ({r_max}), with two values or more.")
    return levels


def _check_range(returns: np.ndarray, r_min: float, r_max: float | None) -> None:
    if not np.isfinite(r_min):
        raise ConfigError(f"r_min is {r_min}: it must be a finite value that no return can fall below.")
    outside = (returns < r_min) | (returns > (np.inf if r_max is None else r_max))
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        limits = f"[{r_min:g}, {'inf' if r_max is None else f'{r_max:g}'}]"
        raise DataError(f"return {i} is {returns[i]:g}, outside {limits}: r_min and r_max must hold for every episode.")


def _check_alpha(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}: the probability of error must lie between 0 and 1.")
    return alpha
