"""Inverses of (Sigma + gamma I), Sigma = E phi phi^T: from the law itself, from averaged draws, and by matrix geometric resampling.

Importance-weighted estimates of linear losses need (Sigma + gamma I)^{-1} while only draws of phi are to be had.
Averaging before inverting is what Dai et al. (arXiv 2301.12942) use: with of the order of d/gamma draws it is off by a constant factor.
Matrix geometric resampling (MGR; Neu and Olkhovskaya, arXiv 2002.00287) is without bias up to a tail that vanishes geometrically,
    E Si = c sum_{n=0}^N (I - c (Sigma + gamma I))^n,
at the price of N of the order of (2/gamma) log K draws each time.
Leading axes are whatever has a covariance of its own: layers, copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from surefoot.errors import ConfigError

STEP = 0.5  # MGR's c; c (1 + gamma) <= 1 keeps the series from growing, for features of norm at most one


def exact_inverse(sigma: np.ndarray, gamma: float | np.ndarray) -> np.ndarray:
    """(Sigma + gamma I)^{-1}, `[..., d, d]`, of `sigma` `[..., d, d]` and gamma `[...]`. Raises ConfigError unless gamma > 0."""
    gamma = _positive(gamma)
    return np.linalg.inv(sigma + gamma[..., None, None] * np.eye(sigma.shape[-1]))


def averaged_inverse(draws: np.ndarray, gamma: float | np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(gamma I + (1/M) sum_m w_m phi_m phi_m^T)^{-1}, `[..., d, d]`, of `draws` `[..., M, d]` and `weights` `[..., M]` (else one)."""
    weighted = draws if weights is None else draws * weights[..., None]
    return exact_inverse(np.swapaxes(weighted, -1, -2) @ draws / draws.shape[-2], gamma)


def geometric_resampling(draws: Iterable[np.ndarray], gamma: float | np.ndarray, step: float = STEP) -> np.ndarray:
    """MGR: the mean over M repetitions of c I + c sum_n Z_n, Z_n = prod_{j <= n} (I - c (gamma I + phi_j phi_j^T)), `[..., d, d]`.

    `draws`: N times fresh draws for all repetitions, `[..., M, d]`, one at a time, since N is large. Raises ConfigError where
    c (1 + gamma) > 1, at which the series need not converge.
    """
    gamma = _positive(gamma)
    if not (step * (1.0 + gamma) <= 1.0).all():
        raise ConfigError(f"gamma is {gamma.max():g}: resampling with step {step:g} needs gamma <= {1.0 / step - 1.0:g}; average instead.")
    shrink = 1.0 - step * gamma[..., None, None, None]
    total, z = None, None
    for phi in draws:
        if total is None or z is None:
            total = np.zeros((*np.broadcast_shapes(phi.shape[:-2], gamma.shape), *phi.shape[-2:], phi.shape[-1])) + np.eye(phi.shape[-1])
            z = total.copy()
        z = shrink * z - step * (z @ phi[..., None]) * phi[..., None, :]  # Z (I - c gamma I - c phi phi^T)
        total += z
    if total is None:
        raise ConfigError("there are no draws: resampling needs at least one.")
    return step * total.mean(-3)


def resampling_mean(sigma: np.ndarray, gamma: float | np.ndarray, length: int, step: float = STEP) -> np.ndarray:
    """What `length` draws of MGR give on average: c sum_{n=0}^N (I - c (Sigma + gamma I))^n, `[..., d, d]`."""
    gamma = _positive(gamma)
    factor = np.eye(sigma.shape[-1]) - step * (sigma + gamma[..., None, None] * np.eye(sigma.shape[-1]))
    term, total = np.eye(sigma.shape[-1]), np.zeros(factor.shape) + np.eye(sigma.shape[-1])
    for _ in range(length):
        term = term @ factor
        total = total + term
    return step * total


def resampling_length(gamma: float, episodes: int) -> int:
    """N = (2/gamma) log K, after which the tail of the series is below 1/K."""
    return max(1, math.ceil(2.0 / gamma * math.log(max(episodes, 2))))


def squared_norm(phi: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """phi^T Si phi, `[..., n]`, of `phi` `[..., n, d]` and `inverse` `[..., d, d]`."""
    return ((phi @ inverse) * phi).sum(-1)


def _positive(gamma: float | np.ndarray) -> np.ndarray:
    gamma = np.asarray(gamma, np.float64)
    if not (gamma > 0.0).all():
        raise ConfigError(f"gamma is {gamma[~(gamma > 0.0)].flat[0]}: it must be positive, or directions never seen have no inverse.")
    return gamma
