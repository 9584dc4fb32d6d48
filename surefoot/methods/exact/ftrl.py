"""Follow the regularised leader on the simplex: the log-barrier, and exponential weights.

Both play argmin_p <p, S> + psi(p) / eta for the summed costs S. With psi = sum_a log(1/p_a), the log-barrier, regret is at most

    sum_t <x_t - y, l_t>  <=  (psi(y) - psi(x_1)) / eta + eta sum_t sum_a x_ta l_ta^2

for *any* real costs l_t (Dai et al., arXiv 2301.12942, section 4): no cost is too negative. With psi the negative entropy the bound
has log A for the first numerator, and needs eta l >= -1.

Rows are whatever has actions of its own: states, layers, copies, all at once.
"""

from __future__ import annotations

import numpy as np

from surefoot.errors import ConfigError, DataError

STEPS = 60  # Newton steps at most; a handful is what it takes
TOLERANCE = 1e-13  # by which probabilities may miss a sum of one before they are normalised


def log_barrier(cost: np.ndarray, eta: float | np.ndarray) -> np.ndarray:
    """argmin over the simplex of <p, S> + (1/eta) sum_a log(1/p_a), `[..., A]`, for summed costs S `[..., A]` and eta `[...]`.

    p_a = 1 / (eta (S_a - min S) + z) with z in [1, A] the root of F(z) = sum_a p_a = 1. Newton's method on 1/F = 1, which is concave
    and increasing in z (harmonic means are), climbs to the root from z = 1 without ever passing it, so that nothing needs to
    be bracketed; where all costs are equal its first step is exact. Raises ConfigError unless eta > 0, DataError unless costs are finite.
    """
    gap = _gaps(cost, eta)
    z = np.ones((*gap.shape[:-1], 1))
    for _ in range(STEPS):
        p = np.reciprocal(gap + z)
        total = p.sum(-1, keepdims=True)
        excess = total - 1.0
        if excess.max(initial=0.0) <= max(TOLERANCE, 1e-15 * gap.shape[-1]):
            break
        z += total * excess / np.square(p).sum(-1, keepdims=True)
    return p / total


def exponential_weights(cost: np.ndarray, eta: float | np.ndarray) -> np.ndarray:
    """p_a ~ exp(-eta S_a), `[..., A]`, for summed costs S `[..., A]` and eta `[...]`; errors as in `log_barrier`."""
    weights = np.exp(-_gaps(cost, eta))
    return weights / weights.sum(-1, keepdims=True)


def barrier(p: np.ndarray) -> np.ndarray:
    """psi(p) = sum_a log(1/p_a), `[...]`: A log A at the uniform distribution, infinite at the border."""
    with np.errstate(divide="ignore"):
        return -np.log(p).sum(-1)


def _gaps(cost: np.ndarray, eta: float | np.ndarray) -> np.ndarray:
    """eta (S_a - min S), checked. The shift changes no solution, and S grows with the number of rounds."""
    eta = np.asarray(eta, np.float64)
    if not (eta > 0.0).all():
        raise ConfigError(f"eta is {eta[~(eta > 0.0)].flat[0]}: a learning rate is positive.")
    if not np.isfinite(cost).all():
        where = np.argwhere(~np.isfinite(cost))[0].tolist()
        raise DataError(f"cost{where} is {cost[tuple(where)]}: costs must be finite.")
    return eta[..., None] * (cost - cost.min(-1, keepdims=True))
