"""Certified lower bounds on the expected return of a smoothed policy under attacks on its observations.

Kumar, Levine and Feizi, "Policy Smoothing for Provably Robust Reinforcement Learning" (ICLR 2022, arXiv 2106.11420 v3).
If an event has probability at least p while the policy observes o_t + N(0, sigma^2 I), then against every adaptive attacker
with sqrt(sum_t |eps_t|^2) <= B it keeps at least Phi(Phi^-1(p) - B/sigma): Eq. (1) below. Written for the events
{return > x} and integrated over x this bounds the expected return: Eq. (2). The probabilities come from unattacked episodes.

The bounds are pure functions of returns; `certify` plays the episodes and applies them.

Departures: the DKW form takes an explicit `r_min` (the official script assumes 0), and returns that are not integers can be
bounded with Clopper-Pearson too, on a grid that is fixed before the episodes are played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log, prod
from typing import Any, Literal

import numpy as np
from scipy import stats

from surefoot.envs.making import env_spec, time_limit
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import sample
from surefoot.policies.base import Policy
from surefoot.steering.smoothed import Smoothed

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
    check_alpha(level)
    # the beta quantile has no value at k = 0, where the bound is 0
    return np.where(k == 0, 0.0, stats.beta.ppf(level, np.maximum(k, 1), n - np.maximum(k, 1) + 1))


def clopper_pearson_upper(k: int | Sequence[int] | np.ndarray, n: int, level: float) -> np.ndarray:
    """Exact upper bound on a probability after k successes in n trials, wrong with probability at most `level` (one-sided)."""
    return 1.0 - clopper_pearson_lower(n - np.asarray(k), n, level)


def dkw_epsilon(n: int, alpha: float) -> float:
    """Half-width of the band around an empirical distribution function of n values (Dvoretzky-Kiefer-Wolfowitz, Massart)."""
    if n < 1:
        raise ConfigError(f"n is {n}: a confidence band needs at least one value.")
    return float(np.sqrt(np.log(2.0 / check_alpha(alpha)) / (2.0 * n)))


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
    check_alpha(alpha)
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
    q = clopper_pearson_lower(rewards.sum(0).astype(np.int64), n, check_alpha(alpha) / steps)
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


def check_alpha(alpha: float) -> float:
    """The probability itself; raises ConfigError where it is none, or certain."""
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}: the probability of error must lie between 0 and 1.")
    return alpha


# --- playing and certifying -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReturnRange:
    """What an environment's rewards can be: at each step in [low, high], and once in an episode up to `bonus` more."""

    low: float
    high: float
    bonus: float = 0.0
    integer: bool = False

    def over(self, steps: int) -> tuple[float, float]:
        """Limits of the return of an episode of 1 to `steps` steps."""
        return min(0.0, self.low * steps), max(0.0, self.high * steps) + self.bonus


RETURN_RANGES = {
    "CartPole-v0": ReturnRange(0.0, 1.0, integer=True),
    "CartPole-v1": ReturnRange(0.0, 1.0, integer=True),
    "Acrobot-v1": ReturnRange(-1.0, 0.0, integer=True),
    "MountainCar-v0": ReturnRange(-1.0, 0.0, integer=True),
    "MountainCarContinuous-v0": ReturnRange(-0.10001, 0.0, bonus=100.0),  # -0.1 a^2, rounded outwards
    "Pendulum-v1": ReturnRange(-16.2737, 0.0),  # -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2), rounded outwards
}
"""Environments whose rewards are known from their definition, as Gymnasium registers them (without options of one's own)."""


def return_range(env_id: str, max_steps: int | None = None) -> tuple[float, float, bool] | None:
    """Least and greatest return an episode can have, and whether all are integers; None where that is not known."""
    spec = env_spec(env_id)
    known = RETURN_RANGES.get(spec.id) if not spec.kwargs else None
    return None if known is None else (*known.over(time_limit(env_id, max_steps)), known.integer)


@dataclass(frozen=True, eq=False)
class Certificate:
    """Lower bounds on the expected return of a smoothed policy against every attacker with a total l2 budget, and what they rest on.

    All of `lower` holds together with confidence 1 - alpha: every budget, and every member of a fleet.
    """

    returns: np.ndarray  # [*copies, n] of the noisy, unattacked episodes
    budgets: np.ndarray  # [K] in units of the observation
    lower: np.ndarray  # [*copies, K]
    sigma: float
    alpha: float
    bound: Bound
    r_min: float
    r_max: float | None
    env_id: str
    max_steps: int  # steps after which an episode was cut off
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The same for JSON; `members` has one entry for a lone policy too."""
        members = zip(self.returns.reshape(-1, self.returns.shape[-1]), self.lower.reshape(-1, self.lower.shape[-1]), strict=True)
        return {
            "env": self.env_id,
            "max_steps": self.max_steps,
            "episodes": self.returns.shape[-1],
            "seed": self.seed,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "bound": self.bound,
            "r_min": self.r_min,
            "r_max": self.r_max,
            "budgets": self.budgets.tolist(),
            "members": [
                {"member": i, "mean": float(returns.mean()), "lower": lower.tolist(), "returns": returns.tolist()}
                for i, (returns, lower) in enumerate(members)
            ],
        }


def certify(
    policy: Policy,
    env_id: str,
    budgets: Numbers,
    *,
    episodes: int = 10_000,
    alpha: float = 0.05,
    bound: Bound | Literal["auto"] = "auto",
    r_min: float | None = None,
    r_max: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    n_envs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Play `episodes` whole episodes of a `Smoothed` policy, greedy but for its noise and not attacked, and bound its return.

    The seed must not be one that the policy, sigma or anything else was chosen with. `r_min` and `r_max` are known for the
    environments in `RETURN_RANGES`. "auto" takes the Clopper-Pearson bound where returns are known to be integers and else the
    DKW band, before an episode is played. The members of a fleet share alpha equally (a union bound), so that the best of them may
    be picked by its bound; a member certified alone has all of it. `progress` is called with the number of finished episodes.

    Raises PolicyError for a policy that is not smoothed, ConfigError for settings outside their range or a return range that is
    not known, DataError for a return outside it, and what `rollout` raises.
    """
    if not isinstance(policy, Smoothed):
        raise PolicyError(f"a {type(policy).__name__} policy has no certificate: wrap it with noise, Smoothed(policy, sigma), first.")
    levels = check_settings(budgets, policy.sigma, alpha)  # before the episodes are played
    low, high, bound = settle_range(env_id, max_steps, bound, r_min, r_max)
    own = alpha / prod(policy.copies)
    check_episodes(episodes, own, bound)
    played = rollout(policy, env_id, episodes, seed=seed, max_steps=max_steps, n_envs=n_envs, progress=progress)
    members = played.returns.reshape(-1, episodes)
    lower = [certified_return(r, levels, policy.sigma, alpha=own, bound=bound, r_min=low, r_max=high) for r in members]
    shape = (*policy.copies, levels.size)
    limit = time_limit(env_id, max_steps)
    return Certificate(played.returns, levels, np.reshape(lower, shape), policy.sigma, alpha, bound, low, high, env_id, limit, seed)


def check_settings(budgets: Numbers, sigma: float, alpha: float) -> np.ndarray:
    """The budgets `[K]`; raises ConfigError for numbers outside their range."""
    levels = np.atleast_1d(np.asarray(budgets, np.float64))
    if levels.ndim != 1 or levels.size == 0:
        raise ConfigError("no attack budget was given: give one or more, in units of the observation.")
    gaussian_shift(0.5, levels, sigma)
    check_alpha(alpha)
    return levels


def check_episodes(episodes: int, alpha: float, bound: Bound) -> None:
    """Raises ConfigError where the band is so wide that no returns could prove more than r_min (Clopper-Pearson always proves a little)."""
    least = floor(log(2.0 / alpha) / 2.0) + 1  # dkw_epsilon < 1
    if bound == "dkw" and episodes < least:
        raise ConfigError(
            f"episodes is {episodes}: so few cannot prove more than r_min with confidence {1.0 - alpha:g}; take {least} or more."
        )


def settle_range(
    env_id: str, max_steps: int | None, bound: Bound | Literal["auto"], r_min: float | None, r_max: float | None
) -> tuple[float, float | None, Bound]:
    """The return range, from the caller or the table, and the bound that it allows."""
    if bound not in ("auto", "clopper", "dkw"):
        raise ConfigError(f"bound is {bound!r}: it must be 'auto', 'clopper' or 'dkw'.")
    known = return_range(env_id, max_steps)
    low = known[0] if r_min is None and known is not None else r_min
    high = known[1] if r_max is None and known is not None else r_max
    if low is None:
        raise ConfigError(
            f"the range of returns of {env_id} is not known: give r_min (--r-min), a value that no episode can fall below,"
            " and r_max (--r-max) too if all returns are integers and bound is 'clopper'."
        )
    if bound == "auto":
        bound = "clopper" if known is not None and known[2] else "dkw"
    nothing = np.empty(0)
    _check_range(nothing, low, high)
    if high is not None and not high > low:
        raise ConfigError(f"r_min is {low} and r_max {high}: the range of returns must not be empty.")
    if bound == "clopper":
        _integer_grid(nothing, low, high)
    return low, high, bound
