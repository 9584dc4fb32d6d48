"""Linear value functions solved at once: CLSTD(0), CLSTD(lambda), least-squares Monte Carlo, and the mean-square TD error.

Every estimator is a linear equation sum over paths and steps of xi_i (psi_i . theta + c_i) = 0, with phi the features, g the base,
psi_i = gamma_i phi_{i+1} - phi_i and c_i the increment of the base with its reward (so that delta_i = psi_i . theta + c_i):

    clstd0    xi = w phi                                        orthogonality to the features
    clstd     xi = w phi dt, and psi, c replaced by their tails  to their traces (backward form; lambda = 1 is lsmc)
    lsmc      xi = w phi dt, psi = -phi, c = G - g               the exact minimiser of the martingale loss
    mstde     xi = w psi / dt                                    the baseline

At the end of a path phi is 0 and g the payoff: that is the terminal condition, whatever the class says there. Jia and Zhou 2022
(`martingale_evaluation`). Departures: matrices are scaled by the features' sizes before the ridge (1e-8 of the trace) and before
anything is called singular; standard errors are ours (sandwich, paths being the sample).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from surefoot.data.paths import PathBatch, Paths
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.exact.continuous_time import (
    Criterion,
    Steps,
    batches_of,
    complete,
    forgetting,
    increments,
    returns_to_go,
    tails,
    with_payoff,
)
from surefoot.methods.exact.value_functions import Features, Function, LinearValue, at, check_terminal, columns

ESTIMATORS = ("clstd0", "clstd", "lsmc", "mstde")

HELD = 1 << 24
"""Numbers of features of the equations that are held for the standard errors; those beyond are computed again."""

COLLINEAR = 1e-13
"""Least eigenvalue of the features' correlations below which one is a combination of others (1e-6.5 of its size is its own)."""


@dataclass(frozen=True)
class Class:
    """A linear class and the criterion it is fitted by."""

    features: Features
    base: Function | None
    criterion: Criterion

    def on(self, batch: PathBatch) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """phi `[*copies, P, N + 1, k]` and g `[*copies, P, N + 1]`, as they are at the end of paths, and the features' names."""
        self.criterion.admit(batch)
        tau = None if self.criterion.infinite else batch.to_go
        phi, names = columns(self.features, batch.x, tau)
        g = at(self.base, batch.x, tau)
        if tau is None:
            return phi, g, names
        if self.base is not None:
            check_terminal(batch, g[..., -1])
        phi[tau == 0.0] = 0.0
        return phi, with_payoff(g, batch), names


@dataclass(frozen=True)
class Equation:
    """A batch's side of sum xi (psi . theta + c) = 0: `xi`, `psi` `[*copies, P, N, k]`, `c` `[*copies, P, N]`; `phi` with weights w dt."""

    xi: np.ndarray
    psi: np.ndarray
    c: np.ndarray
    phi: np.ndarray
    mass: np.ndarray  # [*copies, P, N]
    names: tuple[str, ...]

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A = sum xi psi^T, b = sum xi c and S = sum w phi phi^T dt: `[*copies, k, k]`, `[*copies, k]`, `[*copies, k, k]`."""
        xi, psi, phi = (_flat(a) for a in (self.xi, self.psi, self.phi))
        c, mass = (a.reshape(*a.shape[:-2], -1) for a in (self.c, self.mass))
        across = np.swapaxes(xi, -1, -2)
        return across @ psi, (across @ c[..., None])[..., 0], np.swapaxes(phi * mass[..., None], -1, -2) @ phi

    def moments(self, theta: np.ndarray) -> np.ndarray:
        """Each path's sum of xi (psi . theta + c), `[*copies, P, k]`."""
        residual = (self.psi * theta[..., None, None, :]).sum(-1) + self.c
        return (np.swapaxes(self.xi, -1, -2) @ residual[..., None])[..., 0]


def _flat(a: np.ndarray) -> np.ndarray:
    """All steps of all paths on one axis."""
    return a.reshape(*a.shape[:-3], -1, a.shape[-1])


def equation(batch: PathBatch, linear: Class, estimator: str, lam: float = 0.5) -> Equation:
    """An estimator's equation on one batch; raises UnknownNameError, ConfigError and DataError."""
    if estimator not in ESTIMATORS:
        raise UnknownNameError("estimator", estimator, ESTIMATORS)
    steps = Steps.of(batch, linear.criterion)
    full, g, names = linear.on(batch)
    phi = full[..., :-1, :]
    psi = steps.gamma[..., None] * full[..., 1:, :] - phi
    c = increments(g, batch.reward, steps)
    mass = steps.weight * steps.dt
    if estimator == "clstd0":
        xi = steps.weight[..., None] * phi
    elif estimator == "clstd":
        decay = forgetting(lam, steps)
        xi, psi, c = mass[..., None] * phi, tails(psi, decay), tails(c, decay)
    elif estimator == "lsmc":
        whole = complete(batch, linear.criterion) * mass
        xi, psi, c = whole[..., None] * phi, -phi, returns_to_go(batch, steps) - g[..., :-1]
    else:
        there = steps.dt > 0.0  # not where paths are filled up
        xi = np.where(there, steps.weight / np.where(there, steps.dt, 1.0), 0.0)[..., None] * psi
    return Equation(xi, psi, c, phi, mass, names)


def fit_linear(
    source: Paths | PathBatch | Sequence[PathBatch],
    features: Features,
    estimator: str = "clstd0",
    *,
    base: Function | None = None,
    lam: float = 0.5,
    rho: float = 0.0,
    infinite: bool = False,
    weighting: str | None = None,
    ridge: float = 1e-8,
) -> LinearValue:
    """J = base + theta^T phi from a log of paths (in blocks), or from batches (one solution a copy).

    `features(x, tau)`, `base(x, tau)`: the reader's numpy functions (see `value_functions`); infinite horizon: `features(x)`. A base
    must be the payoff where tau is 0. `lam`: of clstd, per unit of time. `rho`, `infinite`, `weighting`: see `continuous_time.Criterion`.

    Raises DataError naming the feature where the equation has no single solution: it is 0 everywhere, a combination of others, or
    has increments that say nothing.
    """
    if not 0.0 <= ridge < np.inf:
        raise ConfigError(f"ridge is {ridge}: it is at least 0.")
    linear = Class(features, base, Criterion(rho, infinite, weighting))
    names: tuple[str, ...] = ()
    held: list[Equation] = []
    room = HELD
    a = b = s = np.zeros(())
    for batch in batches_of(source):
        here = equation(batch, linear, estimator, lam)
        da, db, ds = here.sums()
        a, b, s, names, room = a + da, b + db, s + ds, here.names, room - here.psi.size
        if room >= 0:
            held.append(here)
    theta, inverse = solve(a, b, s, names, ridge)
    again = (equation(batch, linear, estimator, lam) for batch in islice(batches_of(source), len(held), None))
    error = standard_errors((here.moments(theta) for here in chain(held, again)), inverse)
    facts = {"estimator": estimator, "rho": rho, "infinite": infinite, **({"lam": lam} if estimator == "clstd" else {})}
    return LinearValue(theta, features, base, names, error, facts)


def standard_errors(moments: Iterable[np.ndarray], inverse: np.ndarray) -> np.ndarray:
    """Of theta: A^-1 (sum over paths of m m^T) A^-T, m a path's moments at the solution; `[*copies, k]`. Infinite for one path."""
    outer, paths = np.zeros(()), 0
    for m in moments:
        outer, paths = outer + np.swapaxes(m, -1, -2) @ m, paths + m.shape[-2]
    if paths < 2:
        return np.full(inverse.shape[:-1], np.inf)
    covariance = inverse @ (outer * paths / (paths - 1)) @ np.swapaxes(inverse, -1, -2)
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


# --- solving --------------------------------------------------------------------------------------------------------


def solve(a: np.ndarray, b: np.ndarray, s: np.ndarray, names: Sequence[str], ridge: float = 1e-8) -> tuple[np.ndarray, np.ndarray]:
    """theta = -A^-1 b `[*copies, k]` and A^-1; `s` `[*copies, k, k]` are the features' second moments. Raises DataError."""
    size = np.sqrt(np.diagonal(s, axis1=-2, axis2=-1))
    if (size == 0.0).any():
        raise DataError(f"feature {names[np.argwhere(size == 0.0)[0][-1]]!r} is 0 at every row of every path: leave it out.")
    scale = 1.0 / size
    _check_collinear(s * scale[..., :, None] * scale[..., None, :], names)
    scaled = a * scale[..., :, None] * scale[..., None, :]
    _check_determined(scaled, names)
    k = len(names)
    lift = ridge * np.trace(scaled, axis1=-2, axis2=-1)  # A's symmetric part has its trace's sign: the ridge moves away from 0
    inverse = np.linalg.inv(scaled + lift[..., None, None] * np.eye(k)) * scale[..., :, None] * scale[..., None, :]
    return -(inverse @ b[..., None])[..., 0], inverse


def _check_collinear(correlations: np.ndarray, names: Sequence[str]) -> None:
    values, vectors = np.linalg.eigh(correlations)
    if (values[..., 0] < COLLINEAR).any():
        copy = tuple(np.argwhere(values[..., 0] < COLLINEAR)[0])
        involved = _involved(vectors[(*copy, slice(None), 0)], names)
        raise DataError(f"feature {involved[0]} is a combination of {' and '.join(involved[1:])} at every row of every path: leave it out.")


def _check_determined(a: np.ndarray, names: Sequence[str]) -> None:
    _, values, right = np.linalg.svd(a)
    vague = values[..., -1] <= 1e-13 * np.maximum(values[..., 0], 1e-300)
    if vague.any():
        copy = tuple(np.argwhere(vague)[0])
        involved = _involved(right[(*copy, -1)], names)
        what = f"the paths say nothing about the coefficient of {' and '.join(involved)}"
        raise DataError(f"{what} (its increments along them carry no information): leave it out, or log paths that vary more.")


def _involved(direction: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of the features in a direction, the largest first; a few of them."""
    size = np.abs(direction)
    order = np.argsort(-size, kind="stable")
    involved = [repr(names[j]) for j in order if size[j] > 1e-3 * size[order[0]]]
    return involved if len(involved) <= 5 else [*involved[:4], f"{len(involved) - 4} more"]
