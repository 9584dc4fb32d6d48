"""What a policy would have earned, from another policy's log of a contextual bandit: IPS, SNIPS, DM and DR, with intervals.

With pi(a|x) the target, p the logged propensity of the action that was taken, w = pi(a|x) / p, and q(x, a) a model of the reward:

    IPS = mean(w r)        SNIPS = sum(w r) / sum(w)        DM = mean_x sum_a pi(a|x) q(x, a)        DR = DM + mean(w (r - q(x, a)))

and clipped variants with min(w, M). Horvitz and Thompson 1952 (IPS); Swaminathan and Joachims 2015 (SNIPS); Dudik, Langford, Li,
"Doubly Robust Policy Evaluation and Learning", ICML 2011, arXiv 1103.4601 (DM, DR).

Every estimate is a mean of one term a row (SNIPS: of its linearisation, w / mean(w) (r - SNIPS) + SNIPS, whose mean is SNIPS), so one
interval serves all: Student's t on the terms, or their bootstrap. It says how much the estimate would vary with other rows; it knows
nothing of wrong propensities (IPS, SNIPS), of a wrong reward model (DM), or of actions that were never tried (all): see `overlap`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from surefoot.data.bandit_log import BanditLog
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.overlap import Overlap, overlap
from surefoot.evaluation.statistics import Interval, mean_interval
from surefoot.methods.exact.regression_oracles import Oracle

Spread = Literal["normal", "bootstrap"]
ROUNDING = 1e-6
"""How far a row of a target policy may be from summing to 1."""


# --- estimators: pure functions of arrays ---------------------------------------------------------------------------


def importance_weights(target: np.ndarray, action: np.ndarray, propensity: np.ndarray) -> np.ndarray:
    """w = pi(a|x) / p, `[n]`, of `target` `[n, K]`, the actions taken `[n]` and their propensities `[n]`."""
    return np.take_along_axis(target, action[:, None], 1)[:, 0] / propensity


def ips_terms(reward: np.ndarray, w: np.ndarray) -> np.ndarray:
    """w r, `[n]`: unbiased where every action of the target could have been logged."""
    return w * reward


def snips_terms(reward: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Terms `[n]` whose mean is sum(w r) / sum(w); all NaN if no row has weight."""
    total = w.sum()
    if total == 0.0:
        return np.full(len(w), np.nan)
    value = (w * reward).sum() / total
    return value + w * (len(w) / total) * (reward - value)


def dm_terms(target: np.ndarray, q: np.ndarray) -> np.ndarray:
    """sum_a pi(a|x) q(x, a), `[n]`, of `target` and predicted rewards `[n, K]`."""
    return (target * q).sum(-1)


def dr_terms(reward: np.ndarray, w: np.ndarray, target: np.ndarray, q: np.ndarray, action: np.ndarray) -> np.ndarray:
    """DM's terms plus w (r - q(x, a)), `[n]`: unbiased if the propensities *or* the reward model are right."""
    return dm_terms(target, q) + w * (reward - np.take_along_axis(q, action[:, None], 1)[:, 0])


def terms_interval(terms: np.ndarray, spread: Spread = "normal", level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of terms `[n]` and its interval: Student's t, or the bootstrap of `surefoot.evaluation.statistics`."""
    if spread == "bootstrap":
        return mean_interval(terms, level, seed)
    if spread != "normal":
        raise ConfigError(f"the interval is {spread!r}: it must be 'normal' or 'bootstrap'.")
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}: a confidence level lies between 0 and 1.")
    value, n = float(terms.mean()), len(terms)
    if n == 1:
        return Interval(value, -np.inf, np.inf)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * terms.std(ddof=1) / np.sqrt(n))
    return Interval(value, value - half, value + half)


# --- all of them, on a log ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OffPolicy:
    """What a log says about a target policy."""

    logged: Interval  # mean reward of the policy that logged
    values: dict[str, Interval]  # estimator -> mean reward of the target; estimators that do not apply are left out
    gains: dict[str, Interval]  # estimator -> the same minus what was logged, on the same rows
    clipped: float  # share of the rows whose weight was cut off at the clip, 0 without one
    overlap: Overlap

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_off_policy(
    log: BanditLog,
    target: np.ndarray,
    *,
    q: np.ndarray | None = None,
    clip: float | None = None,
    spread: Spread = "normal",
    level: float = 0.95,
    seed: int = 0,
    logger: np.ndarray | None = None,
) -> OffPolicy:
    """Estimates of the mean reward of a target policy `[n, K]` (probabilities, a row a row of the log) under the log's contexts.

    `q`: predicted rewards `[n, K]` for DM and DR, made without the row they are about (`cross_fitted`). `clip`: largest weight of
    the clipped variants, which are added to the others. `logger`: the logging policy in full `[n, K]` if it is known (fitted
    propensities), for the check of overlap.

    Raises ConfigError for a log without propensities or a clip that is not positive, PolicyError for a target that is no policy of
    this log.
    """
    if log.propensity is None:
        raise ConfigError(f"{log.source} holds no propensities: fit them first (surefoot.evaluation.propensities.with_propensities).")
    check_clip(clip)
    target = check_policy(target, log)
    if q is not None and q.shape != target.shape:
        raise ConfigError(
            f"predicted rewards have shape {list(q.shape)} where the log has {len(log)} rows and {log.K} actions: give one each."
        )
    w = importance_weights(target, log.action, log.propensity)
    terms = _all_terms(log, target, w, q, "")
    if clip is not None:
        terms |= _all_terms(log, target, np.minimum(w, clip), q, "clipped ")
    terms = {name: x for name, x in terms.items() if np.isfinite(x).all()}
    return OffPolicy(
        logged=terms_interval(log.reward, spread, level, seed),
        values={name: terms_interval(x, spread, level, seed) for name, x in terms.items()},
        gains={name: terms_interval(x - log.reward, spread, level, seed) for name, x in terms.items()},
        clipped=0.0 if clip is None else float((w > clip).mean()),
        overlap=overlap(log, target, w, logger),
    )


def _all_terms(log: BanditLog, target: np.ndarray, w: np.ndarray, q: np.ndarray | None, prefix: str) -> dict[str, np.ndarray]:
    terms = {f"{prefix}ips": ips_terms(log.reward, w), f"{prefix}snips": snips_terms(log.reward, w)}
    if q is not None:
        if not prefix:
            terms["dm"] = dm_terms(target, q)
        terms[f"{prefix}dr"] = dr_terms(log.reward, w, target, q, log.action)
    return terms


def check_clip(clip: float | None) -> None:
    """Raises ConfigError unless the largest weight is positive."""
    if clip is not None and not clip > 0.0:
        raise ConfigError(f"clip is {clip}: the largest weight must be positive.")


def check_policy(target: np.ndarray, log: BanditLog) -> np.ndarray:
    """A target policy as float64 `[n, K]`. Raises PolicyError at the first row that is no distribution over the available actions."""
    target = np.asarray(target, np.float64)
    if target.shape != (len(log), log.K):
        shape = f"the policy has shape {list(target.shape)}, but the log has {len(log)} rows and {log.K} actions"
        raise PolicyError(f"{shape}: give a probability for each.")
    low = ~(target >= 0.0)
    if low.any():
        row, k = np.argwhere(low)[0]
        raise PolicyError(f"the policy gives action {log.actions[k]} the probability {target[row, k]} in row {row}: it must be 0 or more.")
    wrong = ~log.available & (target > 0.0)
    if wrong.any():
        row, k = np.argwhere(wrong)[0]
        what = f"the probability {target[row, k]:.3g} in row {row}, where it is not available"
        raise PolicyError(f"the policy gives action {log.actions[k]} {what}: mask unavailable actions before normalising.")
    off = np.abs(target.sum(1) - 1.0) > ROUNDING
    if off.any():
        row = int(np.argmax(off))
        raise PolicyError(f"the policy's probabilities sum to {target[row].sum():.6g} in row {row}: they must sum to 1.")
    return target


# --- the reward model -----------------------------------------------------------------------------------------------


def folds(n: int, k: int, seed: int = 0) -> np.ndarray:
    """A fold 0..k-1 for each of n rows, at random, of sizes that differ by one at most, `[n]` int64."""
    if not 2 <= k <= n:
        raise ConfigError(f"{n} rows cannot be split into {k} folds: give 2 to {n}.")
    return np.random.default_rng(seed).permutation(np.arange(n) % k)


def cross_fitted(log: BanditLog, oracle: Oracle, k: int = 3, seed: int = 0) -> np.ndarray:
    """Predicted rewards `[n, K]` of every row by a model that was fitted on the other folds, as DM and DR need.

    A model that has seen the row's own reward follows its noise, and DR's correction w (r - q) then vanishes where it is needed. Nor
    should it be the model that the policy acts on: what that overrates, the policy plays, and DM would overrate the policy.
    """
    fold = folds(len(log), k, seed)
    q = np.empty((len(log), log.K))
    for i in range(k):
        seen, held = log.rows(fold != i), log.rows(fold == i)
        model = oracle.fit(seen.context, seen.action, seen.reward, n_actions=log.K, action_features=log.action_features, seed=seed)
        q[fold == i] = model.predict(held.context)
    return q
