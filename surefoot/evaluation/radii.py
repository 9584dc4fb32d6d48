"""Intervals and radii: what sampled outputs of a smoothed classifier prove about how far its choice holds.

- Clopper-Pearson's and the empirical Bernstein bounds (Maurer and Pontil, arXiv 0907.3740) on mean outputs;
- the l2 radii R1 and R2 and the Lipschitz constant of a smoothed map, of LVM-RS (Delattre et al., arXiv 2309.16883);
- R3 of Cohen, Rosenfeld and Kolter, arXiv 1902.02918v2, Theorem 1.

Pure functions of numbers and arrays.
"""

from __future__ import annotations

from math import erf, floor, inf, log, log2, pi, sqrt
from typing import Any

import numpy as np
from scipy import stats

from surefoot.errors import ConfigError
from surefoot.evaluation.certificates import clopper_pearson_lower, clopper_pearson_upper


def bernstein_shift(std: np.ndarray | float, n: int, level: float) -> np.ndarray:
    """By how much a mean of n samples in [0, 1] of standard deviation `std` (unbiased) may be off, to one side, at `level`.

    S sqrt(2 ln(2/a) / n) + 7 ln(2/a) / (3 (n - 1)): Maurer and Pontil, Theorem 4.
    """
    if n < 2:
        raise ConfigError(f"n is {n}: an empirical Bernstein bound needs at least 2 samples.")
    term = log(2.0 / level)
    return np.asarray(std, np.float64) * sqrt(2.0 * term / n) + 7.0 * term / (3.0 * (n - 1))


def intervals(mean: np.ndarray, std: np.ndarray, hard: np.ndarray, n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds `[..., c]` on mean outputs, each wrong with probability at most `level`, from moments of n samples.

    `hard` `[...]`: where the map is the argmax, whose votes have Clopper-Pearson's bounds; the others have Bernstein's.
    """
    shift = bernstein_shift(std, n, level)
    low, up = np.clip(mean - shift, 0.0, 1.0), np.clip(mean + shift, 0.0, 1.0)
    counts = np.rint(mean[hard] * n).astype(np.int64)
    low[hard], up[hard] = clopper_pearson_lower(counts, n, level), clopper_pearson_upper(counts, n, level)
    return low, up


def radius_lipschitz(p_a: np.ndarray | float, p_b: np.ndarray | float, lipschitz: np.ndarray | float) -> Any:
    """R1 = (p_A - p_B) / (sqrt 2 L), L the l2 Lipschitz constant of the smoothed simplex-valued classifier."""
    return (p_a - p_b) / (sqrt(2.0) * lipschitz)


def radius_two_sided(p_a: np.ndarray | float, p_b: np.ndarray | float, sigma: float) -> Any:
    """R2 = sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)); bounds of exactly 0 or 1 are taken one representable step inside."""
    tiny, most = np.finfo(np.float64).tiny, 1.0 - np.finfo(np.float64).epsneg
    return sigma / 2.0 * (stats.norm.ppf(np.clip(p_a, tiny, most)) - stats.norm.ppf(np.clip(p_b, tiny, most)))


def radius_one_sided(p_a: np.ndarray | float, sigma: float) -> Any:
    """R3 = sigma Phi^-1(p_A), Cohen et al."""
    return radius_two_sided(p_a, 1.0 - p_a, sigma)


def smoothed_lipschitz(lipschitz: float, sigma: float, *, simplex: bool = True, width: float = 1.0) -> float:
    """Lipschitz constant after smoothing with N(0, sigma^2 I): L erf(w / (2 sqrt(2) L sigma)), with w = sqrt(2) on the simplex.

    `lipschitz` of infinity gives w / (sigma sqrt(2 pi)), which needs to know nothing; `width` is that of a scalar's range.
    """
    if not sigma > 0.0 or not lipschitz > 0.0:
        raise ConfigError(f"sigma is {sigma} and the Lipschitz constant {lipschitz}: both must be positive.")
    w = sqrt(2.0) if simplex else width
    if lipschitz == inf:
        return w / (sigma * sqrt(2.0 * pi))
    return lipschitz * erf(w / (2.0 * sqrt(2.0) * lipschitz * sigma))


def least_samples(level: float, *, hard: bool = True) -> int:
    """Fewest samples that can certify anything at `level` a bound: with less, not even unanimous ones prove a lead.

    Votes prove level^(1/n), which must exceed 1/2; a soft map without any variance loses 7 ln(2/level) / (3 (n - 1)) to each side.
    """
    return floor(-log2(level)) + 1 if hard else floor(14.0 / 3.0 * log(2.0 / level) + 1.0) + 1
