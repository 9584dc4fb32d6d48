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
from dataclasses import dataclass

import numpy as np

from surefoot.errors import ConfigError

ROUNDING = 1e-13  # of a variance, as a share of the mean square: below it there is none
UNDERFLOW = 1e-200
GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


Objective = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`objective(a, E min(V, a), E min(V, a)^2)`, elementwise."""


# --- pieces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pieces:
    """E min(V, a) and E min(V, a)^2 as functions of a, which are A + B a and C + B a^2 between neighbouring values."""

    before: np.ndarray  # [..., n + 1] A: the weighted sum of the values below the piece
    square: np.ndarray | None  # [..., n + 1] C: the same of their squares, if they are needed
    beyond: np.ndarray  # [..., n + 1] B: the weight above it
    left: np.ndarray  # [..., n + 1] where each piece begins and
    right: np.ndarray  # [..., n + 1] ends, within the range of a (outside it a piece ends before it begins)
    low: np.ndarray  # [..., 1] where the range begins and
    high: np.ndarray  # [..., 1] ends
    at_high: tuple[np.ndarray, np.ndarray]  # [..., 1] both means there

    @staticmethod
    def of(
        weights: np.ndarray,
        values: np.ndarray,
        v_min: float | np.ndarray | None,
        v_max: float | np.ndarray | None,
        squares: bool = True,
    ) -> _Pieces:
        """Pieces of weights and values `[..., n]` over a in [v_min, v_max] `[...]` (None: the range of each row's values)."""
        order = np.argsort(values, -1)
        v = np.take_along_axis(values, order, -1)
        low = v[..., :1] if v_min is None else np.asarray(v_min, np.float64)[..., None]
        high = np.maximum(v[..., -1:] if v_max is None else np.asarray(v_max, np.float64)[..., None], low)
        left = np.concatenate([np.full_like(v[..., :1], -np.inf), v], -1)
        right = np.concatenate([v, np.full_like(v[..., :1], np.inf)], -1)
        shape = np.broadcast_shapes(weights.shape, values.shape)
        w = np.take_along_axis(np.broadcast_to(weights, shape), np.broadcast_to(order, shape), -1)
        first, above = w * v, _cumulated(w)
        above = above[..., -1:] - above  # exactly 0 above the largest
        square = _cumulated(first * v) if squares else None
        most = np.minimum(v, high)
        ends = (w * most).sum(-1, keepdims=True), (w * most**2).sum(-1, keepdims=True) if squares else np.zeros(1)
        return _Pieces(_cumulated(first), square, above, np.maximum(left, low), np.minimum(right, high), low, high, ends)

    def moments(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E min(V, a) and E min(V, a)^2 (0 if squares are not needed) at one a `[..., n + 1]` in each piece."""
        below = self.beyond * a
        return self.before + below, np.zeros(1) if self.square is None else self.square + below * a

    def largest(self, objective: Objective, *stationary: np.ndarray) -> np.ndarray:
        """Largest value, `[...]`, where pieces within the range begin, at the end of the range, and at points that lie in their pieces."""
        within = self.left <= self.right
        best = objective(self.high, *self.at_high)[..., 0]
        for k, at in enumerate((self.left, *stationary)):
            inside = within if k == 0 else within & (at > self.left) & (at < self.right)  # NaN compares false
            a = np.where(inside, at, 0.0)  # elsewhere the formula is that of another piece
            best = np.maximum(best, np.where(inside, objective(a, *self.moments(a)), -np.inf).max(-1))
        return best


# --- penalised: inf_mu E_mu V + lam D(mu || p) ------------------------------------------------------------------------


def penalised_tv(weights: np.ndarray, values: np.ndarray, lam: float, v_min: float | np.ndarray | None = None) -> np.ndarray:
    """E min(V, v_min + lam), `[...]`. `v_min`: the least value of *all* states, seen or not (None: of `values`)."""
    _check_positive(lam, "lam")
    least = values.min(-1, keepdims=True) if v_min is None else np.asarray(v_min)[..., None]
    return (weights * np.minimum(values, least + lam)).sum(-1)


def penalised_kl(weights: np.ndarray, values: np.ndarray, lam: float, v_max: float | np.ndarray | None = None) -> np.ndarray:
    """-lam log E exp(-V / lam), `[...]`, from values shifted by the least that has weight, so that nothing underflows.

    At most `v_max` (None: the largest of `values`), which is what flooring the estimated mean at exp(-v_max / lam) comes to: the mean of
    a distribution of such values lies above it, a regression's may even be negative.
    """
    _check_positive(lam, "lam")
    least = values.min(-1, keepdims=True)
    mean = (weights * np.exp((least - values) / lam)).sum(-1)
    if (np.abs(mean) < UNDERFLOW).any():  # the least value has no weight in some row: shift by the least that has
        v = np.broadcast_to(values, np.broadcast_shapes(weights.shape, values.shape))
        weighted = np.where(weights != 0.0, v, np.inf).min(-1, keepdims=True)
        least = np.where(np.isfinite(weighted), weighted, least)
        mean = (weights * np.exp(np.minimum(least - v, 0.0) / lam)).sum(-1)
    highest = values.max(-1) if v_max is None else np.asarray(v_max)
    found = least[..., 0] - lam * np.log(np.where(mean > 0.0, mean, 1.0))
    return np.where(mean > 0.0, np.minimum(found, highest), highest)


def penalised_chi2(
    weights: np.ndarray,
    values: np.ndarray,
    lam: float,
    v_min: float | np.ndarray | None = None,
    v_max: float | np.ndarray | None = None,
) -> np.ndarray:
    """sup_a z(a) + (z(a)^2 - z2(a)) / (4 lam), z = E min(V, a), z2 = E min(V, a)^2, over a in [v_min, v_max], `[...]`.

    Between neighbouring values z is A + B a and z2 is C + B a^2, so the objective is a quadratic there, stationary at
    a = (A + 2 lam) / (1 - B). The range is that of each row's `values` if none is given.
    """
    _check_positive(lam, "lam")
    pieces = _Pieces.of(weights, values, v_min, v_max)
    with np.errstate(all="ignore"):
        stationary = (pieces.before + 2.0 * lam) / (1.0 - pieces.beyond)

    return pieces.largest(lambda a, z, z2: z + (z * z - z2) / (4.0 * lam), stationary)


# --- constrained: inf { E_mu V : D(mu || p) <= rho } ------------------------------------------------------------------


def constrained_tv(
    weights: np.ndarray,
    values: np.ndarray,
    rho: float | np.ndarray,
    v_min: float | np.ndarray | None = None,
    v_max: float | np.ndarray | None = None,
) -> np.ndarray:
    """sup_a E min(V, a) - rho (a - v_min) over a in [v_min, v_max], `[...]`: piecewise linear, so attained at a value or an end."""
    rho = _check_radius(rho)[..., None]
    pieces = _Pieces.of(weights, values, v_min, v_max, squares=False)
    return pieces.largest(lambda a, z, z2: z - rho * (a - pieces.low))


def constrained_chi2(
    weights: np.ndarray,
    values: np.ndarray,
    rho: float | np.ndarray,
    v_min: float | np.ndarray | None = None,
    v_max: float | np.ndarray | None = None,
) -> np.ndarray:
    """sup_a z - sqrt(rho (z2 - z^2)) over a in [v_min, v_max] (z, z2 as in `penalised_chi2`), `[...]` (Iyengar 2005).

    Where z = A + B a and z2 = C + B a^2 it is stationary at the roots of B (1 - B) a^2 - 2 A B a + C - A^2 = rho ((1 - B) a - A)^2. A
    regression's variance z2 - z^2 may be negative; it counts as 0, and where it becomes so (rho = 0 above) is a kink.
    """
    rho = _check_radius(rho)[..., None]
    pieces = _Pieces.of(weights, values, v_min, v_max)
    first, beyond, second, rest = pieces.before, pieces.beyond, pieces.square, 1.0 - pieces.beyond
    assert second is not None

    def crossings(rho: np.ndarray | float) -> tuple[np.ndarray, ...]:
        slope = beyond - rho * rest
        return _roots(rest * slope, -first * slope, second - (1.0 + rho) * first**2)

    def objective(a: np.ndarray, z: np.ndarray, z2: np.ndarray) -> np.ndarray:
        variance = z2 - z * z
        return z - np.sqrt(rho * np.where(variance > ROUNDING * np.abs(z2), variance, 0.0))

    return pieces.largest(objective, *crossings(rho), *crossings(0.0))


def constrained_kl(weights: np.ndarray, values: np.ndarray, rho: float | np.ndarray, *, floor: float = 1e-6) -> np.ndarray:
    """sup_{a > 0} -a log E exp(-V / a) - a rho, `[...]`, by golden sections in log a around the best of a grid.

    For probabilities it is concave in a, for the weights of a regression it need not be, hence the grid. As in the official code the
    mean is 1 + E (exp((v_min - V) / a) - 1), so that a regression that has seen nothing gives v_min, and it is floored, as a
    regression's may be negative. rho = 0 is E V.
    """
    rho = _check_radius(rho)
    least = values.min(-1, keepdims=True)
    spread = np.maximum((values - least).max(), 1e-12)

    def objective(log_a: np.ndarray) -> np.ndarray:
        a = np.exp(log_a)
        mean = 1.0 + (weights * np.expm1((least - values) / a[..., None])).sum(-1)
        return least[..., 0] - a * np.log(np.maximum(mean, floor)) - a * rho

    shape = np.broadcast_shapes(weights.shape, values.shape)[:-1]
    grid = np.log(spread) + np.log(10.0) * np.linspace(-4.0, 6.0, 41)
    best_of_grid = np.argmax([objective(np.full(shape, log_a)) for log_a in grid], 0)
    found = golden_section(objective, grid[np.maximum(best_of_grid - 1, 0)], grid[np.minimum(best_of_grid + 1, len(grid) - 1)], 40)
    best = np.maximum(np.maximum(objective(found), objective(grid[best_of_grid])), least[..., 0])  # the last: a -> 0
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


def _roots(a: np.ndarray, half_b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """Real roots of a x^2 + 2 half_b x + c, and that of the equation without its square; NaN or far off where there is none."""
    with np.errstate(all="ignore"):
        root = np.sqrt(half_b**2 - a * c)
        return (-half_b - root) / a, (-half_b + root) / a, -0.5 * c / half_b


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
