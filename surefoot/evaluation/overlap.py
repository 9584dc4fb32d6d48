"""Does a log know enough about a policy to judge it? Support, effective sample size, and what the weights say about the propensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.data.bandit_log import BanditLog

FEW = 100.0  # effective rows below which an estimate is called weak
LITTLE = 0.1  # share of effective rows below which it is
HEAVY = 0.05  # share of all weight that one row may carry unmentioned
SMALL = 0.0005  # propensities below this are mentioned: such a row counts two thousand times
FAR = 4.0  # standard errors by which the mean weight may differ from 1 unmentioned
SURE = 0.98  # a fitted probability above this is taken for no choice at all
NOTICED = 0.005  # probabilities and shares below this are not worth a sentence


@dataclass(frozen=True)
class Overlap:
    """How much of a log is about a target policy."""

    ess: float  # effective sample size, in rows
    ess_share: float  # of all rows
    mean_weight: float  # 1 in expectation if the propensities are right and the target's actions could all be logged
    largest_weight: float
    smallest_propensity: float  # of actions that the target takes, among those logged (of all, where the logger is known in full)
    deterministic: float  # share of the rows where the logger had no choice to make though several actions were available
    unsupported: float  # probability with which the target does what the log cannot tell: there, or an action never taken at all
    warnings: tuple[str, ...]


def effective_sample_size(w: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of weights `[n]` (Kish): how many rows of the target's own log would say as much; 0 if no row has weight."""
    square = float(np.square(w).sum())
    return float(w.sum()) ** 2 / square if square > 0.0 else 0.0


def overlap(log: BanditLog, target: np.ndarray, w: np.ndarray, logger: np.ndarray | None = None) -> Overlap:
    """The overlap of a target policy `[n, K]` with a log that has propensities; `w` `[n]` are its weights, `logger` `[n, K]` if known."""
    assert log.propensity is not None
    n = len(log)
    ess = effective_sample_size(w)
    never = np.bincount(log.action, minlength=log.K) == 0
    if logger is None:
        sure = (log.propensity >= 1.0) & (log.available.sum(1) > 1)
        lost = never | (sure[:, None] & (np.arange(log.K) != log.action[:, None]))
    else:
        sure = (logger.max(1) > SURE) & (log.available.sum(1) > 1)
        lost = never | (sure[:, None] & (logger <= 1.0 - SURE))
    unsupported = float((target * lost).sum() / n)
    wanted = target[np.arange(n), log.action] > 0.0
    chances = log.propensity[wanted] if logger is None else logger[(target > 0.0) & log.available]
    found = Overlap(
        ess=ess,
        ess_share=ess / n,
        mean_weight=float(w.mean()),
        largest_weight=float(w.max()),
        smallest_propensity=float(chances.min()) if len(chances) else 0.0,
        deterministic=float(sure.mean()),
        unsupported=unsupported,
        warnings=(),
    )
    return Overlap(**{**vars(found), "warnings": tuple(_warnings(log, target, w, found, never))})


def _warnings(log: BanditLog, target: np.ndarray, w: np.ndarray, found: Overlap, never: np.ndarray) -> list[str]:
    """What a reader of the estimates must know, a sentence each."""
    n, said = len(log), []
    if found.deterministic == 1.0:
        said.append(
            "the logger never chose at random: IPS and SNIPS say nothing about a policy that does otherwise, and DM and DR rest on the "
            "reward model alone"
        )
    elif found.deterministic > NOTICED:
        said.append(f"in {found.deterministic:.1%} of the rows the logger did not choose at random: other actions have no support there")
    wanted = [f"{log.actions[k]} ({target[:, k].mean():.1%})" for k in np.flatnonzero(never) if target[:, k].mean() > NOTICED]
    if wanted:
        said.append(f"the policy takes actions that were never logged: {', '.join(wanted)}; no estimator knows their reward")
    if found.ess == 0.0:
        said.append("not one row of the log has an action that the policy takes: there is no estimate from weights")
        return said
    if found.ess < FEW or found.ess_share < LITTLE:
        said.append(f"the {n:,} rows count as {found.ess:,.0f} for this policy ({found.ess_share:.1%}): estimates from weights are weak")
    heaviest = found.largest_weight / (found.mean_weight * n)
    if heaviest > HEAVY:
        said.append(f"one row carries {heaviest:.0%} of all weight: clip the weights, or trust DR more than IPS")
    if found.smallest_propensity < SMALL:
        said.append(
            f"the policy takes actions whose propensity was as low as {found.smallest_propensity:.2g}: their rare rows count for very many"
        )
    error = float(w.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    if found.unsupported <= NOTICED and abs(found.mean_weight - 1.0) > max(FAR * error, 0.01):
        said.append(
            f"weights average {found.mean_weight:.3f} where right propensities give 1: the propensities are wrong, or the policy wants "
            "what the logger never did"
        )
    return said
