"""DRPVI, the constrained rival: worst cases within a radius, exactly, and by the search of the official code.

Liu and Xu, "Minimax Optimal and Computationally Efficient Algorithms for Distributionally Robust Offline Reinforcement Learning",
arXiv 2402.15399, for total variation; KL and the search are those of the official code of arXiv 2411.18612. With M the weights of the
regressions (`[..., d, K]`) and V the next values, for each feature by itself:

    TV:  nu = max_{a in [0, v_max]} (M min(V, a)) - rho a
    KL:  nu = max_{a > 0} -a log( 1 + M (exp(-V / a) - 1) ) - rho a

The search, Nelder-Mead from v_max / 2 for every feature, is here to be compared with: it may stop at a local maximum, and it is
what the paper times. `chi2_objective` is the one penalised dual without a closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from surefoot.errors import ConfigError
from surefoot.methods.exact.divergences import constrained_chi2, constrained_kl, constrained_tv

Radius = float | tuple[float, ...] | np.ndarray
Objective = Callable[..., float]
"""`objective(weights [K], values [K], a, strength=radius or lam)`."""


def worst_within(
    kind: Literal["tv", "kl", "chi2"], m: np.ndarray, value: np.ndarray, radius: np.ndarray, v_max: float, *, search: bool = False
) -> np.ndarray:
    """nu `[..., d]` of regression weights `[..., d, K]`, next values `[..., K]` and a radius `[..., d]` (or what broadcasts).

    Raises ConfigError for a negative radius, and for a search of chi-square, which the official code does not have.
    """
    v = value[..., None, :]
    rho = np.broadcast_to(radius, m.shape[:-1])
    if search:
        if kind == "chi2":
            raise ConfigError("search is on with a chi-square radius: the official code has none; switch it off.")
        return searched({"tv": tv_objective, "kl": kl_objective}[kind], m, value, rho, v_max)
    if kind == "tv":
        return constrained_tv(m, v, rho, 0.0, v_max)
    return constrained_kl(m, v, rho) if kind == "kl" else constrained_chi2(m, v, rho, 0.0, v_max)


def radius_at(radius: Radius, h: int, d: int) -> np.ndarray:
    """The radius of stage h: a number, `[d]`, or row h of `[H, d]`. Raises ConfigError for another shape."""
    found = np.asarray(radius, np.float64)
    if found.shape not in ((), (d,)) and (found.ndim != 2 or found.shape[1] != d or h >= len(found)):
        raise ConfigError(f"radius has shape {found.shape}: it must be one number, {(d,)}, or one row of {d} a stage.")
    return found[h] if found.ndim == 2 else found


# --- as published -----------------------------------------------------------------------------------------------------


def searched(objective: Objective, m: np.ndarray, value: np.ndarray, strength: np.ndarray | float, v_max: float) -> np.ndarray:
    """Largest `objective` over a in [0, v_max], `[..., d]`, feature by feature; `strength` `[..., d]` is its radius or lam."""
    shape = m.shape[:-1]
    rows, each = m.reshape(-1, m.shape[-1]), np.broadcast_to(strength, shape).reshape(-1)
    values = np.broadcast_to(value[..., None, :], m.shape).reshape(rows.shape)
    found = [nelder_mead(partial(objective, w, v, strength=float(s)), v_max) for w, v, s in zip(rows, values, each, strict=True)]
    return np.array(found).reshape(shape)


def nelder_mead(objective: Callable[[float], float], v_max: float) -> float:
    """Largest value found over a in [0, v_max], from v_max / 2."""
    search = minimize(lambda a: -objective(float(a[0])), [v_max / 2.0], method="Nelder-Mead", bounds=[(0.0, v_max)])
    return -float(search.fun)


def tv_objective(w: np.ndarray, v: np.ndarray, a: float, strength: float) -> float:
    return float(w @ np.minimum(v, a)) - strength * a


def kl_objective(w: np.ndarray, v: np.ndarray, a: float, strength: float) -> float:
    return 0.0 if a <= 0.0 else -a * float(np.log(max(1.0 + float(w @ np.expm1(-v / a)), 1e-6))) - strength * a


def chi2_objective(w: np.ndarray, v: np.ndarray, a: float, strength: float) -> float:
    """Penalised: `strength` is lam."""
    z, z2 = float(w @ np.minimum(v, a)), float(w @ np.square(np.minimum(v, a)))
    return z + (z * z - z2) / (4.0 * strength)
