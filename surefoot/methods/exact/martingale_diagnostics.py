"""Is this the value function? Whether M = J + earned rewards behaves as a martingale on paths, in bins of state and time to go.

At the value function increments delta have mean 0 given the present, wherever one looks. A bin's mean rate, sum delta / sum dt,
is 0 within its standard error then (increments of a martingale are uncorrelated, so the variance of their sum is the sum of their
squares); where J is too high, M falls. Judge by paths that J was not fitted to: residuals of a fit are smaller than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from surefoot.data.paths import PathBatch, Paths
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.continuous_time import Criterion, Steps, batches_of, increments, with_payoff

Value = Callable[..., np.ndarray]
"""J(x, tau), or J(x) for an infinite horizon: `LinearValue`, `NetworkValue`, or the reader's own."""

FEW = 20  # steps below which a bin's mean is not taken for normal


@dataclass(frozen=True, eq=False)
class MartingaleTest:
    """Bins of one state (columns) and time to go (rows; one row if the horizon is infinite), and what M does in them."""

    state_edges: np.ndarray  # [B + 1] quantiles of the state
    time_edges: np.ndarray  # [C + 1]
    steps: np.ndarray  # [C, B] how many steps start there
    drift: np.ndarray  # [C, B] mean of delta per unit of time; NaN where there are no steps
    standard_error: np.ndarray  # [C, B]
    p: float  # of the chi-square test that every drift is 0; bins with fewer than FEW steps are left out
    variance: float  # of M_T - M_0 over paths: what is left to chance (and to error) given the start
    quadratic_variation: float  # mean over paths of sum of squared increments: the same if M is a martingale

    @property
    def z(self) -> np.ndarray:
        """Drift in standard errors, `[C, B]`."""
        return self.drift / self.standard_error

    @property
    def worst(self) -> str:
        """The bin that is furthest from a martingale, in words."""
        c, b = np.unravel_index(np.nanargmax(np.where(self.steps >= FEW, np.abs(self.z), -1.0)), self.z.shape)
        low, high = self.state_edges[b : b + 2]
        when = "" if len(self.time_edges) == 2 else f" with {self.time_edges[c]:.3g} to {self.time_edges[c + 1]:.3g} to go"
        side = "low" if self.drift[c, b] > 0.0 else "high"
        how = f"drift {self.drift[c, b]:.3g}, {abs(self.z[c, b]):.1f} standard errors"
        return f"from {low:.3g} to {high:.3g}{when} the value looks too {side}: {how}"


def martingale_test(
    source: Paths | PathBatch | Sequence[PathBatch],
    value: Value,
    *,
    state: int = 0,
    bins: int = 5,
    rho: float = 0.0,
    infinite: bool = False,
) -> MartingaleTest:
    """Tests a value function on paths (best: paths it was not fitted to). `state`: the column of x that is binned.

    Raises ConfigError for bins < 1 or a state that is not there, DataError where the value is not finite.
    """
    criterion = Criterion(rho, infinite)
    batches = list(batches_of(source))
    if bins < 1 or not 0 <= state < batches[0].x.shape[-1]:
        raise ConfigError(
            f"bins is {bins} and state {state}: bins is at least 1, and states are numbered 0 to {batches[0].x.shape[-1] - 1}."
        )
    parts = [_increments(batch, value, criterion) for batch in batches]
    where, left, dt, delta = (np.concatenate(column) for column in zip(*(part[:4] for part in parts), strict=True))
    where = where[:, state]
    edges = np.quantile(where, np.linspace(0.0, 1.0, bins + 1))
    times = np.linspace(0.0, left.max() * (1.0 + 1e-12), (1 if infinite else bins) + 1)
    row = np.clip(np.searchsorted(times, left, "left") - 1, 0, len(times) - 2)
    cell = row * bins + np.clip(np.searchsorted(edges, where, "right") - 1, 0, bins - 1)
    shape = (len(times) - 1, bins)
    steps, total, time, square = (np.bincount(cell, w, shape[0] * bins).reshape(shape) for w in (None, delta, dt, delta**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        drift, error, z = total / time, np.sqrt(square) / time, total / np.sqrt(square)
    counted = (steps >= FEW) & (square > 0.0)
    p = float(stats.chi2.sf(np.square(z[counted]).sum(), counted.sum())) if counted.any() else 1.0
    ends, variation = (np.concatenate(column) for column in zip(*(part[4:] for part in parts), strict=True))
    return MartingaleTest(
        edges, times, steps, drift, error, p, float(ends.var(ddof=1)) if len(ends) > 1 else np.inf, float(variation.mean())
    )


def _increments(batch: PathBatch, value: Value, criterion: Criterion) -> tuple[np.ndarray, ...]:
    """States, times to go, lengths and increments of all steps, `[n, d]` and `[n]`; each path's sum of increments and of squares."""
    criterion.admit(batch)
    if batch.copies:
        raise ConfigError(f"the batch has copies {batch.copies}: test one copy at a time.")
    steps = Steps.of(batch, criterion)
    v = np.asarray(value(batch.x) if criterion.infinite else value(batch.x, batch.to_go), np.float64)
    v = with_payoff(v, batch) if not criterion.infinite else v
    if not np.isfinite(v).all():
        raise DataError(
            f"the value is {v[~np.isfinite(v)][0]} at x = {batch.x[~np.isfinite(v)][0].tolist()}: it must be finite on the paths."
        )
    delta, there = increments(v, batch.reward, steps), steps.dt > 0.0
    weighted = np.exp(-criterion.rho * batch.t[..., :-1]) * delta
    x, left = batch.x[..., :-1, :], batch.to_go[..., :-1]
    return x[there], left[there], steps.dt[there], delta[there], weighted.sum(-1), np.square(weighted).sum(-1)


def relative_error(value: Value, truth: Value, batch: PathBatch, *, infinite: bool = False) -> np.ndarray:
    """sqrt(E int (J - truth)^2 dt / E int truth^2 dt) on paths, one number a copy `[*copies]` (of the value's copies)."""
    x, dt = batch.x[..., :-1, :], batch.dt
    where = (x,) if infinite else (x, batch.to_go[..., :-1])
    known = np.asarray(truth(*where))
    gap = np.square(np.asarray(value(*where)) - known) * dt
    return np.sqrt(gap.sum((-1, -2)) / (np.square(known) * dt).sum((-1, -2)))
