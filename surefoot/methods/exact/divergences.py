"""Worst expectations near a distribution: duals of f-divergence penalties and balls, exact, for many distributions at once.

With D the total variation (half the L1 distance), KL, or chi-square divergence E_p (dmu/dp - 1)^2, penalised duals give
inf_mu { E_mu V + lam D(mu || p) } (Tang, Liu, Xu, arXiv 2411.18612, Section 3) and constrained ones inf { E_mu V : D(mu || p) <= rho }
(Iyengar 2005; Nilim and El Ghaoui 2005; for linear features Liu and Xu, arXiv 2402.15399).

Every dual takes `weights` `[..., n]`: probabilities, or rows of a regression that estimate expectations and may be negative, and
values `[..., n]`, which broadcast. Duals of regressions are no worst cases of anything; they are the paper's plug-in estimates.
Where the one-dimensional problem is piecewise smooth, it is solved at all its kinks and stationary points, not by search.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from surefoot.errors import ConfigError

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


# --- penalised: inf_mu E_mu V + lam D(mu || p) ------------------------------------------------------------------------


def penalised_tv(weights: np.ndarray, values: np.ndarray, lam: float, v_min: float | np.ndarray | None = None) -> np.ndarray:
    """E min(V, v_min + lam), `[...]`. `v_min`: the least value of *all* states, seen or not (None: of `values`)."""
    _check_positive(lam, "lam")
    least = values.min(-1, keepdims=True) if v_min is None else np.asarray(v_min)[..., None]
    return (weights * np.minimum(values, least + lam)).sum(-1)


def penalised_kl(weights: np.ndarray, values: np.ndarray, lam: float, v_max: float | np.ndarray | None = None) -> np.ndarray:
    """-lam log E exp(-V / lam), `[...]`, from values shifted by their minimum so that nothing underflows.

    `v_max`: the estimate of the expectation is floored at exp(-v_max / lam), which it is above for any distribution of values up to
    v_max; without one (weights that are probabilities) nothing is floored.
    """
    _check_positive(lam, "lam")
    least = values.min(-1, keepdims=True)
    mean = (weights * np.exp((least - values) / lam)).sum(-1)
    if v_max is not None:
        mean = np.maximum(mean, np.exp((least[..., 0] - v_max) / lam))
    return least[..., 0] - lam * np.log(mean)


def penalised_chi2(
    weights: np.ndarray, values: np.ndarray, lam: float, v_min: float | None = None, v_max: float | None = None
) -> np.ndarray:
    """sup_a z(a) + (z(a)^2 - z2(a)) / (4 lam), z = E min(V, a), z2 = E min(V, a)^2, over a in [v_min, v_max], `[...]`.

    Between neighbouring values z is A + B a and z2 is C + B a^2, so the objective is a quadratic there, stationary at
    a = (A + 2 lam) / (1 - B). The range is that of `values` if none is given.
    """
    _check_positive(lam, "lam")
    w, v, low, high = _sorted(weights, values, v_min, v_max)
    before, square = _cumulated(w * v), _cumulated(w * v * v)  # A, C on the n + 1 segments
    beyond = w.sum(-1, keepdims=True) - _cumulated(w)  # B
    left = np.concatenate([np.full_like(v[..., :1], -np.inf), v], -1)
    right = np.concatenate([v, np.full_like(v[..., :1], np.inf)], -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        stationary = np.nan_to_num((before + 2.0 * lam) / (1.0 - beyond), nan=low, posinf=high, neginf=low)
    best = np.full(before.shape[:-1], -np.inf)
    for a in (np.maximum(left, low), stationary, np.minimum(right, high)):
        inside = np.clip(a, np.maximum(left, low), np.minimum(right, high))
        z, z2 = before + beyond * inside, square + beyond * inside**2
        usable = np.maximum(left, low) <= np.minimum(right, high)
        best = np.maximum(best, np.where(usable, z + (z * z - z2) / (4.0 * lam), -np.inf).max(-1))
    return best


# --- constrained: inf { E_mu V : D(mu || p) <= rho } ------------------------------------------------------------------


def constrained_tv(
    weights: np.ndarray, values: np.ndarray, rho: float | np.ndarray, v_min: float | None = None, v_max: float | None = None
) -> np.ndarray:
    """sup_a E min(V, a) - rho (a - v_min) over a in [v_min, v_max], `[...]`: piecewise linear, so attained at a value or an end."""
    rho = _check_radius(rho)
    w, v, low, high = _sorted(weights, values, v_min, v_max)
    a = np.concatenate([np.full_like(v[..., :1], low), np.clip(v, low, high), np.full_like(v[..., :1], high)], -1)
    before, beyond = _cumulated(w * v), w.sum(-1, keepdims=True) - _cumulated(w)
    below = np.zeros_like(a)  # E min(V, a) at a = low, at every value, and at high
    for j, at in ((slice(0, 1), low), (slice(-1, None), high)):
        below[..., j] = (w * np.minimum(v, at)).sum(-1, keepdims=True)
    below[..., 1:-1] = before[..., 1:] + beyond[..., 1:] * v
    outside = (v < low) | (v > high)
    objective = below - rho[..., None] * (a - low)
    objective[..., 1:-1] = np.where(outside, -np.inf, objective[..., 1:-1])
    return objective.max(-1)


def constrained_kl(weights: np.ndarray, values: np.ndarray, rho: float | np.ndarray, *, floor: float = 1e-6) -> np.ndarray:
    """sup_{a > 0} -a log E exp(-V / a) - a rho, `[...]`, by golden sections in log a (it is concave in a for probabilities).

    As in the official code the mean is 1 + E (exp((v_min - V) / a) - 1), so that a regression that has seen nothing gives v_min, and it
    is floored, as a regression's may be negative. rho = 0 is E V.
    """
    rho = _check_radius(rho)
    least = values.min(-1, keepdims=True)
    spread = np.maximum((values - least).max(), 1e-12)

    def objective(log_a: np.ndarray) -> np.ndarray:
        a = np.exp(log_a)
        mean = 1.0 + (weights * np.expm1((least - values) / a[..., None])).sum(-1)
        return least[..., 0] - a * np.log(np.maximum(mean, floor)) - a * rho

    shape = np.broadcast_shapes(weights.shape, values.shape)[:-1]
    found = golden_section(objective, np.full(shape, np.log(1e-4 * spread)), np.full(shape, np.log(1e6 * spread)))
    best = np.maximum(objective(found), least[..., 0])  # a -> 0
    return np.where(rho == 0.0, (weights * values).sum(-1), best)


# --- one dimension ----------------------------------------------------------------------------------------------------


def golden_section(objective: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, steps: int = 80) -> np.ndarray:
    """Maximiser `[...]` of a unimodal function, evaluated at `[...]` points at once."""
    inner = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at = objective(inner[0]), objective(inner[1])
    for _ in range(steps):
        better = at[0] >= at[1]
        low, high = np.where(better, low, inner[0]), np.where(better, inner[1], high)
        new = np.where(better, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        value = objective(new)
        inner = np.where(better, new, inner[1]), np.where(better, inner[0], new)
        at = np.where(better, value, at[1]), np.where(better, at[0], value)
    return 0.5 * (low + high)


def nelder_mead(objective: Callable[[int, float], float], rows: int, v_max: float) -> np.ndarray:
    """Largest value of `objective(row, a)` over a in [0, v_max] for each row, `[rows]`, from v_max / 2, as the official code searches.

    It may stop at a local maximum; what this package uses is exact, and this is here to compare with.
    """
    found = np.empty(rows)
    for i in range(rows):
        search = minimize(lambda a, i=i: -objective(i, float(a[0])), [v_max / 2.0], method="Nelder-Mead", bounds=[(0.0, v_max)])
        found[i] = -search.fun
    return found


def _sorted(
    weights: np.ndarray, values: np.ndarray, v_min: float | None, v_max: float | None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Weights and values `[..., n]` in order of the values, and the range of a."""
    low = float(values.min()) if v_min is None else float(v_min)
    high = max(float(values.max()) if v_max is None else float(v_max), low)
    order = np.argsort(values, -1)
    v = np.take_along_axis(values, order, -1)
    shape = np.broadcast_shapes(weights.shape, values.shape)
    w = np.take_along_axis(np.broadcast_to(weights, shape), np.broadcast_to(order, shape), -1)
    return w, np.broadcast_to(v, shape), low, high


def _cumulated(x: np.ndarray) -> np.ndarray:
    """Sums over the first 0, 1, ..., n entries, `[..., n + 1]`."""
    return np.concatenate([np.zeros_like(x[..., :1]), x.cumsum(-1)], -1)


def _check_positive(x: float, name: str) -> None:
    if not 0.0 < x < np.inf:
        raise ConfigError(f"{name} is {x}: the weight of the divergence must be positive (a small one is a strong adversary).")


def _check_radius(rho: float | np.ndarray) -> np.ndarray:
    rho = np.asarray(rho, np.float64)
    if not ((rho >= 0.0) & np.isfinite(rho)).all():
        raise ConfigError("a radius is negative or not finite: the distance within which the worst case is sought is at least 0.")
    return rho
