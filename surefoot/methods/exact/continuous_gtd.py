"""Gradient TD in continuous time, on two time scales: CGTD(0) and CGTD2 (CTDC) for linear value functions, from batches of paths.

Both minimise (1/2) m^T C m, m = E sum_i xi_i delta_i, xi = w phi, and have CLSTD(0)'s solution. With A, b and S a batch's means of
sum xi psi^T, sum xi c and sum w phi phi^T dt (see `continuous_lstd`), one update is

    cgtd0   C = I              u <- u + alpha_u (b + A theta - u)          theta <- theta - alpha A^T u
    cgtd2   C = (E S)^-1       u <- u + alpha_u (b + A theta - S u)        theta <- theta - alpha A^T u

Jia and Zhou 2022 (`martingale_evaluation`). Departure: features are first replaced by combinations of themselves that are
uncorrelated on the first batch (`whiten`), which changes neither class nor solution but the number of updates by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from surefoot.data.paths import PathBatch
from surefoot.errors import ConfigError, DataError, DivergedError, UnknownNameError
from surefoot.methods.exact.continuous_lstd import Class, equation, solve
from surefoot.methods.exact.continuous_time import Criterion
from surefoot.methods.exact.value_functions import Features, Function, LinearValue
from surefoot.progress import watched

VARIANTS = ("cgtd0", "cgtd2")
FAR = 1e6  # times the size of the first batch's solution: weights beyond will not come back


@dataclass(frozen=True)
class GTDConfig:
    """Step sizes of the two time scales."""

    variant: str = "cgtd2"
    """cgtd0 (C = I) or cgtd2 (C = the inverse of the features' second moments)"""
    lr: float = 0.01
    """alpha of the slow weights theta at first; both fall to 0 as a cosine"""
    ratio: float = 10.0
    """alpha_u / alpha: how much faster the fast weights u move"""
    iterations: int = 1500
    """batches"""
    whiten: bool = True
    """make the features uncorrelated first"""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UnknownNameError("variant", self.variant, VARIANTS)
        if not 0.0 < self.lr < math.inf or not 0.0 < self.ratio < math.inf or self.iterations < 1:
            raise ConfigError(f"lr is {self.lr}, ratio {self.ratio}, iterations {self.iterations}: all must be positive.")


def fit_gtd(
    batches: Iterable[PathBatch],
    features: Features,
    config: GTDConfig | None = None,
    *,
    base: Function | None = None,
    rho: float = 0.0,
    infinite: bool = False,
    weighting: str | None = None,
) -> LinearValue:
    """J = base + theta^T phi by gradient TD on a stream of batches, a new one an update (the same one again and again also is a stream).

    Arguments as `continuous_lstd.fit_linear`'s. Raises DataError for singular features, DivergedError with the update.
    """
    config = GTDConfig() if config is None else config
    linear = Class(features, base, Criterion(rho, infinite, weighting))
    stream = iter(batches)
    names: tuple[str, ...] = ()
    theta = u = mix = root = np.zeros(())
    for k in watched(range(config.iterations), f"{config.variant} updates"):
        batch = next(stream, None)
        if batch is None:
            raise DataError(f"the stream ended after {k} of {config.iterations} batches: make it longer, or set iterations.")
        here = equation(batch, linear, "clstd0")
        paths = batch.reward.shape[-2]
        a, b, s = (part / paths for part in here.sums())
        if k == 0:
            names, theta, u = here.names, np.zeros_like(b), np.zeros_like(b)
            root, _ = solve(a, b, s, names)  # the first batch's own; or it says which feature makes it singular
            mix = _mixing(s, config.whiten)
        a, b, s = np.swapaxes(mix, -1, -2) @ a @ mix, _times(np.swapaxes(mix, -1, -2), b), np.swapaxes(mix, -1, -2) @ s @ mix
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is named below
            theta, u = update(theta, u, a, b, s, config, 0.5 * (1.0 + math.cos(math.pi * k / config.iterations)))
            far = not np.abs(_times(mix, theta)).max() <= FAR * np.abs(root).max()
        if far:
            raise DivergedError(f"the weights explode, at update {k}: take a smaller lr than {config.lr:g}.")
    facts = {"estimator": config.variant, "rho": rho, "infinite": infinite}
    return LinearValue(_times(mix, theta), features, base, names, None, facts)


def update(
    theta: np.ndarray, u: np.ndarray, a: np.ndarray, b: np.ndarray, s: np.ndarray, config: GTDConfig, share: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Slow and fast weights `[*copies, k]` after one batch, with step sizes scaled by `share`."""
    alpha = share * config.lr
    expected = u if config.variant == "cgtd0" else _times(s, u)
    u = u + config.ratio * alpha * (b + _times(a, theta) - expected)
    return theta - alpha * _times(np.swapaxes(a, -1, -2), u), u


def _mixing(s: np.ndarray, whiten: bool) -> np.ndarray:
    """The combinations of features that are learned with, `[*copies, k, k]`: S^-1/2, or the features themselves."""
    if not whiten:
        return np.broadcast_to(np.eye(s.shape[-1]), s.shape)
    values, vectors = np.linalg.eigh(s)
    return (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]
