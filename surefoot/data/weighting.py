"""Trajectory weighting: transitions of better episodes are drawn more often, and any offline method learns from the rest unchanged.

Hong, Agrawal, Tachet des Combes, Laroche, "Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting",
ICLR 2023, arXiv 2306.13085: return weighting RW (w_i ~ exp(G_i / alpha)), advantage weighting AW (w_i ~ exp(A_i / alpha),
A_i = G_i - V(s_i0)), the expected return of the weighted log J_w = sum_i w_i G_i, and the positive-sided variance of returns. As in the
official code (Improbable-AI/harness-offline-rl): returns are those of the raw logged rewards, V is a linear regression with
intercept on start states, scores are min-max normalised over episodes *before* the softmax, and the softmax runs over transitions:

    x_i = (A_i - min A) / (max A - min A),      p_it = exp(x_i / alpha) / sum_j T_j exp(x_j / alpha)      (T_j: length of episode j)

Losses are not importance weighted, and observation statistics are those of the unweighted log.

Departures: with as few episodes as twice the state dimensions (n <= 2 S) least squares would explain the returns away, so V is a
ridge regression on standardised start states there (penalty n); top-k keeps at least one episode.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from surefoot.data.log import Log
from surefoot.errors import ConfigError, UnknownNameError

KINDS = {
    "uniform": "every transition alike",
    "rw": "by the return of its episode",
    "aw": "by the return of its episode beyond what the start state promised",
    "topk": "the best share of the episodes alone, every transition of them alike",
}


def transition_weights(log: Log, kind: str, *, alpha: float = 0.1, share: float = 0.1) -> np.ndarray:
    """Sampling probabilities of a log's transitions, `[N]` float64, constant inside an episode, summing to 1.

    kind: "uniform", "rw", "aw" or "topk". `alpha`: temperature of rw and aw on scores in [0, 1]; at 0.1 the best episode's
    transitions are drawn exp(10) = 22,026 times as often as the worst's. `share`: of the episodes that topk keeps.
    Raises UnknownNameError or ConfigError.
    """
    if kind not in KINDS:
        raise UnknownNameError("weighting", kind, KINDS)
    if not alpha > 0.0:
        raise ConfigError(f"alpha is {alpha}: the temperature of trajectory weighting must be positive.")
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share is {share}: the share of episodes to keep must be above 0 and at most 1.")
    returns, lengths = log.episode_returns, log.episode_lengths
    if kind == "uniform":
        w = np.full(len(lengths), 1.0 / len(log))
    elif kind == "topk":
        w = top_weights(returns, lengths, share)
    elif kind == "rw":
        w = softmax_weights(normalised(returns), lengths, alpha)
    else:
        starts = log.transitions.obs.numpy()[log.episode_starts].astype(np.float64)
        w = softmax_weights(normalised(advantages(starts, returns), np.abs(returns).max()), lengths, alpha)
    return np.repeat(w, lengths)


# --- scores and weights of episodes ---------------------------------------------------------------------------------


def start_values(starts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """V(s_i0) `[n]`: returns `[n]` regressed on start states `[n, S]` with an intercept; ridge where n <= 2 S."""
    if starts.ndim != 2 or returns.shape != starts.shape[:1]:
        raise ValueError(f"start states {starts.shape} must be [n, S] where returns {returns.shape} are [n].")
    n, s = starts.shape
    x, y = starts - starts.mean(0), returns - returns.mean()
    if n > 2 * s:
        coefficients = np.linalg.lstsq(x, y, rcond=None)[0]  # of least norm where start states do not vary
    else:
        std = x.std(0)
        x = x / np.where(std > 0.0, std, 1.0)
        coefficients = np.linalg.solve(x.T @ x + n * np.eye(s), x.T @ y)
    return returns.mean() + x @ coefficients


def advantages(starts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """A_i = G_i - V(s_i0), `[n]`."""
    return returns - start_values(starts, returns)


def normalised(scores: np.ndarray, size: float | None = None) -> np.ndarray:
    """Min-max to [0, 1] over episodes; all 0, which makes weights uniform, where scores differ by no more than rounding.

    `size`: magnitude of the numbers that the scores were computed from (default: of the scores themselves). Logged rewards are
    float32, so differences below a millionth of it mean nothing, and must not be stretched to [0, 1].
    """
    low, high = scores.min(), scores.max()
    if high - low <= 1e-6 * (max(abs(low), abs(high)) if size is None else size):
        return np.zeros_like(scores)
    return (scores - low) / (high - low)


def softmax_weights(x: np.ndarray, lengths: np.ndarray, alpha: float) -> np.ndarray:
    """p_i = exp(x_i / alpha) / sum_j T_j exp(x_j / alpha): the probability of each *transition* of episode i, `[n]`."""
    if x.shape != lengths.shape:
        raise ValueError(f"scores {x.shape} and lengths {lengths.shape} must be [n].")
    e = np.exp((x - x.max()) / alpha)
    return e / (lengths * e).sum()


def top_weights(returns: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """Uniform over the transitions of the floor(n * share) episodes with the largest returns (at least one), `[n]`."""
    n = len(returns)
    count = max(1, int(np.floor(n * share + 1e-9)))  # 0.29 * 100 is a little below 29 in floating point
    kept = np.zeros(n)
    kept[np.argsort(-returns, kind="stable")[:count]] = 1.0
    return kept / (lengths * kept).sum()


# --- what the weights amount to -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightingReport:
    """How good the weighted log looks, and how much of it is left."""

    weighted_return: float  # J_w = sum_it p_it G_i: the return of the policy that would have logged this
    uniform_return: float  # the same of the log as it is
    ess: float  # effective sample size in transitions, 1 / sum p^2
    effective_episodes: float  # 1 / sum m_i^2 of the episodes' masses
    top_mass: float  # mass on the best tenth of the episodes
    psv: float  # positive-sided variance of returns, in units of return squared
    rpsv: float  # the same of returns that are min-max normalised
    mass: np.ndarray  # [E] probability that a draw falls into the episode

    def to_json(self) -> dict[str, float]:
        """All but the masses."""
        return {name: float(value) for name, value in asdict(self).items() if name != "mass"}


def weighting_report(log: Log, weights: np.ndarray) -> WeightingReport:
    """What sampling probabilities `[N]` of a log's transitions amount to."""
    if weights.shape != (len(log),):
        raise ConfigError(f"weights have shape {weights.shape}, but {log.source} has {len(log)} transitions: give one a transition.")
    returns, lengths = log.episode_returns, log.episode_lengths
    p = weights / weights.sum()
    mass = np.add.reduceat(p, log.episode_starts)
    best = np.argsort(-returns, kind="stable")[: max(1, int(np.floor(0.1 * len(returns) + 1e-9)))]
    return WeightingReport(
        weighted_return=float(mass @ returns),
        uniform_return=float(lengths @ returns / lengths.sum()),
        ess=float(1.0 / np.square(p).sum()),
        effective_episodes=float(1.0 / np.square(mass).sum()),
        top_mass=float(mass[best].sum()),
        psv=positive_sided_variance(returns),
        rpsv=positive_sided_variance(normalised(returns)),
        mass=mass,
    )


def diagnostics(log: Log, weights: np.ndarray) -> dict[str, Any]:
    """The report as JSON, for results and for the command line."""
    return weighting_report(log, weights).to_json()


def positive_sided_variance(returns: np.ndarray) -> float:
    """V+[G] = E[ max(G - E[G], 0)^2 ]: large where a few episodes are much better than the rest, which is what weighting can use."""
    return float(np.square(np.maximum(returns - returns.mean(), 0.0)).mean())
