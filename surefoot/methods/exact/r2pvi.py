"""R2PVI: from logged episodes, a policy for worlds that differ from the one that was logged, with linear features.

Tang, Liu and Xu, "Robust Offline Reinforcement Learning with Linearly Structured f-Divergence Regularization", ICML 2025,
arXiv 2411.18612: Algorithm 1 with total variation, KL and chi-square, in the d-rectangular linear model: P_h = sum_i phi_i mu_{h,i}, and
an adversary changes each factor mu_{h,i} at a price of lam times its divergence. Backwards from h = H, for V_h = max_a Q_h:

    nu_{h,i} = dual of lam with E = row i of M_h,     M_h = Lambda_h^{-1} Phi_h^T,  Lambda_h = sum_k phi_k phi_k^T + ridge I
    Q_h(s, a) = clip( phi(s, a)^T (theta_h + nu_h) - Gamma_h(s, a), 0, most that can be earned from h on )
    Gamma_h = beta sum_i phi_i sqrt([Lambda_h^{-1}]_ii)        ("sum", the paper's)

The baselines are here too: PEVI (Jin, Yang, Wang, arXiv 2012.15085; no adversary, Gamma = beta ||phi||_{Lambda^{-1}}) is divergence "none",
and DRPVI (Liu and Xu, arXiv 2402.15399; an adversary within a `radius`) is a divergence with a radius. Stages are 0 .. H-1.

Departures: the official code's penalty, beta sqrt(sum_i phi_i^2 [Lambda^{-1}]_ii), is the option "quadratic"; chi-square and total
variation balls are solved exactly, where the code searches (one of its files minimises what is to be maximised).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import divergences as dv
from surefoot.methods.exact.logged_features import FeaturedEpisodes
from surefoot.methods.exact.ridge import Gram
from surefoot.progress import watched

Divergence = Literal["tv", "kl", "chi2", "none"]
Penalty = Literal["sum", "quadratic", "elliptical"]


@dataclass(frozen=True)
class R2PVIConfig:
    divergence: Divergence = "tv"
    """How the adversary's changes are measured; none is PEVI."""
    lam: float = 0.1
    """Price of a change: small is a strong adversary. Compare with what can be earned in an episode."""
    radius: float | tuple[float, ...] | np.ndarray | None = None
    """Within which changes are free instead (DRPVI, tv or kl): one number, or [d] or [H, d]."""
    beta: float = 1.0
    """Pessimism: multiplies the uncertainty of each estimate."""
    ridge: float = 0.1
    """Of the regressions (called gamma in the official code)."""
    penalty: Penalty | None = None
    """sum, quadratic or elliptical; none: sum, and elliptical where there is no adversary."""
    r_max: float = 1.0
    """Largest reward of a step; rewards and values lie in [0, r_max] and [0, r_max times the stages left]."""
    v_max: float | None = None
    """Largest value of any state, where it is not what rewards add up to (stopping problems); none: r_max times the stages left."""
    v_min: float | None = 0.0
    """Least value of any state, seen or not (0: there may be a state of failure); none: the least that is seen."""
    tight_floor: bool = False
    """Floor KL's estimates at the largest value seen instead of the largest possible one (valid, and less optimistic)."""
    search: bool = False
    """Search as the official code does (Nelder-Mead) where this code enumerates: to compare with."""

    def __post_init__(self) -> None:
        if self.divergence not in ("tv", "kl", "chi2", "none"):
            raise ConfigError(f"divergence is {self.divergence!r}: it must be 'tv', 'kl', 'chi2' or 'none'.")
        if self.penalty not in (None, "sum", "quadratic", "elliptical"):
            raise ConfigError(f"penalty is {self.penalty!r}: it must be 'sum', 'quadratic' or 'elliptical'.")
        for name in ("lam", "ridge", "r_max"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        if self.v_max is not None and not 0.0 < self.v_max < np.inf:
            raise ConfigError(f"v_max is {self.v_max}: it must be positive.")
        if not 0.0 <= self.beta < np.inf:
            raise ConfigError(f"beta is {self.beta}: pessimism is not negative.")
        if self.radius is not None and self.divergence not in ("tv", "kl"):
            raise ConfigError(
                f"radius is given with divergence {self.divergence!r}: worst cases within a radius are there for 'tv' and 'kl'."
            )

    @property
    def bonus(self) -> Penalty:
        return self.penalty or ("elliptical" if self.divergence == "none" else "sum")


@dataclass(frozen=True, eq=False)
class LinearPlan:
    """Q_h(s, a) = clip(phi(s, a)^T w_h - Gamma_h(s, a), 0, cap_h) and the policy that is greedy for it, for every copy."""

    w: np.ndarray  # [..., H, d] theta + nu
    gram: tuple[Gram, ...]  # one a stage
    cap: np.ndarray  # [H] most that can be earned from each stage on
    config: R2PVIConfig

    @property
    def horizon(self) -> int:
        return self.w.shape[-2]

    def q(self, h: int, phi: np.ndarray) -> np.ndarray:
        """Robust, pessimistic values `[..., n, A]` at stage h of features `[..., n, A, d]` (their leading axes are the copies')."""
        return pessimistic(phi, self.w[..., h, :], self.gram[h], float(self.cap[h]), self.config)


def pessimistic(phi: np.ndarray, w: np.ndarray, gram: Gram, cap: float, config: R2PVIConfig) -> np.ndarray:
    """clip(phi^T w - Gamma, 0, cap), `[..., n, A]`, of features `[..., n, A, d]` and weights `[..., d]`."""
    linear = (phi * w[..., None, None, :]).sum(-1)
    return np.clip(linear - config.beta * uncertainty(gram, phi, config.bonus), 0.0, cap)


def uncertainty(gram: Gram, phi: np.ndarray, kind: Penalty) -> np.ndarray:
    """Gamma / beta `[..., n, A]` of features `[..., n, A, d]`."""
    if kind == "elliptical":
        return gram.norm(phi)
    diagonal = gram.diagonal[..., None, None, :]
    if kind == "sum":
        return (phi * np.sqrt(diagonal)).sum(-1)
    return np.sqrt((phi * phi * diagonal).sum(-1))


def r2pvi(episodes: FeaturedEpisodes, config: R2PVIConfig | None = None, theta: np.ndarray | None = None) -> LinearPlan:
    """Learn from featured episodes, whose leading axes are copies; `theta` `[H, d]` if rewards are known to be phi^T theta.

    Features that break the linear model's assumptions are warned about. Raises DataError for rewards outside [0, r_max] and for
    values that are not finite, ConfigError for a radius or theta of another shape.
    """
    config = R2PVIConfig() if config is None else config
    for warning in episodes.warnings():
        warnings.warn(warning, stacklevel=2)
    _check_rewards(episodes, config)
    *copies, _, horizon, d = episodes.phi.shape
    if theta is not None and theta.shape != (horizon, d):
        raise ConfigError(f"theta has shape {theta.shape}: it must be {(horizon, d)}, the reward's weights at every stage.")
    cap = np.full(horizon, config.v_max) if config.v_max is not None else config.r_max * np.arange(horizon, 0, -1.0)
    w = np.empty((*copies, horizon, d))
    grams: list[Gram] = []
    for h in watched(range(horizon - 1, -1, -1), "stages"):
        phi = episodes.phi[..., h, :]  # [..., K, d]; 0 where nothing was recorded
        gram = Gram.of_features(phi, config.ridge)
        m = gram.weights(phi)  # [..., d, K]
        w[..., h, :] = theta[h] if theta is not None else (m @ episodes.reward[..., h, None])[..., 0]
        if h + 1 < horizon:
            value = episodes.next_value(h, partial(pessimistic, w=w[..., h + 1, :], gram=grams[0], cap=float(cap[h + 1]), config=config))
            w[..., h, :] += robust_values(m, value, config, h, float(cap[h + 1]), float(cap[0]))
        grams.insert(0, gram)
    return LinearPlan(w, tuple(grams), cap, config)


def robust_values(m: np.ndarray, value: np.ndarray, config: R2PVIConfig, h: int, v_max: float, bound: float) -> np.ndarray:
    """nu_h `[..., d]` of regression weights `[..., d, K]` and next values `[..., K]`, which are at most `v_max`.

    `bound`: the largest value of any stage (the paper's H), at which KL's estimates are floored and chi-square's search ends.
    """
    v = value[..., None, :]
    if config.radius is not None:
        return _constrained(m, v, config, h, v_max)
    if config.divergence == "tv":
        return dv.penalised_tv(m, v, config.lam, config.v_min)
    if config.divergence == "kl":
        return dv.penalised_kl(m, v, config.lam, v.max(-1) if config.tight_floor else bound)
    if config.divergence == "chi2":
        if config.search:
            rows, values, shape = _flattened(m, value)
            return dv.nelder_mead(lambda i, a: _chi2_at(rows[i], values[i], a, config.lam), len(rows), bound).reshape(shape)
        return dv.penalised_chi2(m, v, config.lam, 0.0, bound)
    return (m @ value[..., None])[..., 0]


def _constrained(m: np.ndarray, v: np.ndarray, config: R2PVIConfig, h: int, v_max: float) -> np.ndarray:
    """DRPVI's nu: the worst case within the radius."""
    d = m.shape[-2]
    radius = np.asarray(config.radius, np.float64)
    if radius.shape not in ((), (d,)) and (radius.ndim != 2 or radius.shape[1] != d or h >= len(radius)):
        raise ConfigError(f"radius has shape {radius.shape}: it must be one number, {(d,)}, or one row of {d} a stage.")
    rho = np.broadcast_to(radius[h] if radius.ndim == 2 else radius, m.shape[:-1])
    if config.search:
        rows, values, shape = _flattened(m, v[..., 0, :])
        at, flat = (_tv_at if config.divergence == "tv" else _kl_at), rho.reshape(-1)
        return dv.nelder_mead(lambda i, a: at(rows[i], values[i], a, float(flat[i])), len(rows), v_max).reshape(shape)
    return dv.constrained_tv(m, v, rho, 0.0, v_max) if config.divergence == "tv" else dv.constrained_kl(m, v, rho)


# --- the official code's objectives, one row and one a at a time --------------------------------------------------------


def _tv_at(w: np.ndarray, v: np.ndarray, a: float, rho: float) -> float:
    return float(w @ np.minimum(v, a)) - rho * a


def _kl_at(w: np.ndarray, v: np.ndarray, a: float, rho: float) -> float:
    return 0.0 if a <= 0.0 else -a * float(np.log(max(1.0 + float(w @ np.expm1(-v / a)), 1e-6))) - rho * a


def _chi2_at(w: np.ndarray, v: np.ndarray, a: float, lam: float) -> float:
    z, z2 = float(w @ np.minimum(v, a)), float(w @ np.square(np.minimum(v, a)))
    return z + (z * z - z2) / (4.0 * lam)


def _flattened(m: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Rows `[n, K]`, the values of each `[n, K]`, and the shape of what is computed of them."""
    shape = m.shape[:-1]
    return m.reshape(-1, m.shape[-1]), np.broadcast_to(value[..., None, :], m.shape).reshape(-1, m.shape[-1]), shape


def _check_rewards(episodes: FeaturedEpisodes, config: R2PVIConfig) -> None:
    wrong = ~((episodes.reward >= 0.0) & (episodes.reward <= config.r_max))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise DataError(
            f"{episodes.source}: the reward of episode {where[-2]} at stage {where[-1]} is {episodes.reward[where]:g},"
            f" outside [0, {config.r_max:g}]: shift and scale rewards, or set r_max."
        )
