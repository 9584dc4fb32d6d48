"""What is in a log, in numbers: `surefoot data inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.data.validation import slices, validate
from surefoot.data.weighting import positive_sided_variance

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles that are told."""


@dataclass(frozen=True)
class Summary:
    """A sample in a few numbers."""

    mean: float
    std: float
    min: float
    max: float
    quantiles: dict[str, float]  # level: value


@dataclass(frozen=True)
class Feature:
    """One number of an observation or an action over all transitions."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Statistics:
    """What is in a log; `to_json` is what `surefoot data inspect --json` prints."""

    source: str
    env_id: str | None
    transitions: int
    episodes: int
    terminated: int  # episodes that truly ended
    truncated: int  # episodes that were cut off, by a time limit or by the end of the file
    obs_shape: tuple[int, ...]
    action: dict[str, Any]  # {"low": [...], "high": [...]} or {"n": ...}
    returns: Summary  # of episodes, undiscounted
    positive_sided_variance: float  # of returns
    lengths: Summary  # of episodes
    reward: Feature
    obs: list[Feature]
    actions: list[Feature]  # continuous actions, per dimension
    action_counts: list[int]  # discrete actions, how often each was taken
    fingerprint: str
    notes: dict[str, str]
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def statistics(log: Log, *, env: Spec | None = None, env_id: str | None = None) -> Statistics:
    """Counts, returns, ranges and warnings of a log, which is validated first (and raises what `validate` raises)."""
    warnings = validate(log, env=env, env_id=env_id)
    features = ranges(log)
    s, a = log.layout.obs_dim, log.layout.action_dim
    box = log.action
    terminated = int(log.transitions.terminated.numpy()[log.episode_ends].sum())
    return Statistics(
        source=log.source,
        env_id=log.env_id,
        transitions=len(log),
        episodes=len(log.episode_ends),
        terminated=terminated,
        truncated=len(log.episode_ends) - terminated,
        obs_shape=log.obs_shape,
        action={"low": list(box.low), "high": list(box.high)} if isinstance(box, Continuous) else {"n": box.n},
        returns=summary(log.episode_returns),
        positive_sided_variance=positive_sided_variance(log.episode_returns),
        lengths=summary(log.episode_lengths),
        reward=features[s + a],
        obs=features[:s],
        actions=features[s : s + a] if isinstance(box, Continuous) else [],
        action_counts=_counts(log, box.n) if isinstance(box, Discrete) else [],
        fingerprint=log.fingerprint,
        notes=dict(log.notes),
        warnings=warnings,
    )


def brief(log: Log) -> dict[str, Any]:
    """What a run notes about the log that it learns from, as JSON: where it comes from, counts, and the returns of its episodes."""
    returns = summary(log.episode_returns)
    terminated = int(log.transitions.terminated.numpy()[log.episode_ends].sum())
    return {
        "source": log.source,
        "recipe": log.notes.get("recipe"),
        "recipe_seed": log.notes.get("seed"),
        "recorded_in": log.env_id,
        "transitions": len(log),
        "episodes": len(log.episode_ends),
        "ended_by_a_terminal": terminated,
        "returns": {"mean": returns.mean, "median": returns.quantiles["0.5"], "min": returns.min, "max": returns.max},
    }


def summary(sample: np.ndarray | Sequence[float]) -> Summary:
    """Mean, standard deviation (n in the denominator), extremes and quantiles of a sample `[n]`."""
    x = np.asarray(sample, np.float64)
    quantiles = {f"{level:g}": float(value) for level, value in zip(LEVELS, np.quantile(x, LEVELS), strict=True)}
    return Summary(float(x.mean()), float(x.std()), float(x.min()), float(x.max()), quantiles)


def ranges(log: Log) -> list[Feature]:
    """Mean, standard deviation and extremes of every packed column, in two passes of slices."""
    width = log.layout.width
    low, high, total, square = np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width), np.zeros(width)
    for _, rows in slices(log):
        low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        total += rows.sum(0, dtype=np.float64)
    mean = total / len(log)
    for _, rows in slices(log):
        square += np.square(rows - mean).sum(0)
    std = np.sqrt(square / len(log))
    return [Feature(*map(float, column)) for column in zip(mean, std, low, high, strict=True)]


def _counts(log: Log, n: int) -> list[int]:
    counts = np.zeros(n, np.int64)
    for _, rows in slices(log):
        counts += np.bincount(rows[:, log.layout.obs_dim].astype(np.int64), minlength=n)
    return counts.tolist()
