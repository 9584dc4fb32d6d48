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
variation balls are solved exactly, where the code searches (one of its files minimises what is to be maximised). Among actions that
the clip makes equal the policy takes the one whose value was the largest before it (the paper leaves it open; see `ordered`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import divergences as dv
from surefoot.methods.exact.constrained import Radius, chi2_objective, radius_at, searched, worst_within
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
    radius: Radius | None = None
    """Within which changes are free instead (DRPVI): one number, or [d] or [H, d]."""
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
    floor: bool = True
    """Raise values below 0 to 0, as the paper does and its official code does not."""
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
        if self.radius is not None and self.divergence == "none":
            raise ConfigError("radius is given with divergence 'none': say in which divergence it is measured ('tv', 'kl' or 'chi2').")

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
    warnings: tuple[str, ...] = ()  # how the data break what the guarantees assume

    @property
    def horizon(self) -> int:
        return self.w.shape[-2]

    def q(self, h: int, phi: np.ndarray) -> np.ndarray:
        """Robust, pessimistic values `[..., n, A]` at stage h of features `[..., n, A, d]` (their leading axes are the copies')."""
        return q_values(phi, self.w[..., h, :], self.gram[h], float(self.cap[h]), self.config)

    def scores(self, h: int, phi: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """`q`, but telling actions apart that the clip makes equal (see `ordered`); `known` `[..., n, A]`: see `episodes_of`."""
        return ordered(self.linear(h, phi), float(self.cap[h]), self.config, known)

    def greedy(self, h: int, phi: np.ndarray) -> np.ndarray:
        """The policy's actions, `[..., n]`."""
        return self.scores(h, phi).argmax(-1)

    def value(self, h: int, phi: np.ndarray) -> np.ndarray:
        """What they are worth at least, `[..., n]`: the estimate of the robust value, less the doubt about it."""
        return self.q(h, phi).max(-1)

    def linear(self, h: int, phi: np.ndarray) -> np.ndarray:
        """phi^T w_h - Gamma_h before it is clipped, `[..., n, A]`."""
        return pessimistic(phi, self.w[..., h, :], self.gram[h], self.config)


def q_values(phi: np.ndarray, w: np.ndarray, gram: Gram, cap: float, config: R2PVIConfig) -> np.ndarray:
    """Q = clip(phi^T w - Gamma, 0, cap), `[..., n, A]`."""
    return clipped(pessimistic(phi, w, gram, config), cap, config)


def pessimistic(phi: np.ndarray, w: np.ndarray, gram: Gram, config: R2PVIConfig) -> np.ndarray:
    """phi^T w - Gamma, `[..., n, A]`, of features `[..., n, A, d]` and weights `[..., d]`."""
    return (phi * w[..., None, None, :]).sum(-1) - config.beta * uncertainty(gram, phi, config.bonus)


def clipped(linear: np.ndarray, cap: float, config: R2PVIConfig) -> np.ndarray:
    """Q: within [0, cap], or at most the cap without a floor."""
    return np.clip(linear, 0.0 if config.floor else -np.inf, cap)


def ordered(linear: np.ndarray, cap: float, config: R2PVIConfig, known: np.ndarray | None = None) -> np.ndarray:
    """Scores `[..., A]` whose largest is max_a Q, in the order of the values before the clip.

    Where doubt outweighs all that can be hoped for, the clip makes every Q 0, and the first action would be as good as any: the order
    of the actions would decide. The largest of the unclipped values is one of the largest clipped ones, so a policy that is greedy
    for these scores is greedy for Q. Actions with a `known` value (not NaN) have that.
    """
    learned = np.ones(linear.shape, bool) if known is None else np.isnan(known)
    best = np.max(linear, -1, keepdims=True, initial=-np.inf, where=learned)
    best = np.where(np.isfinite(best), best, 0.0)
    scores = linear + (clipped(best, cap, config) - best)
    return scores if known is None else np.where(learned, scores, known)


def uncertainty(gram: Gram, phi: np.ndarray, kind: Penalty) -> np.ndarray:
    """Gamma / beta `[..., n, A]`, never negative, of features `[..., n, A, d]`."""
    if kind == "elliptical":
        return gram.norm(phi)
    diagonal = gram.diagonal[..., None, None, :]
    if kind == "sum":
        return (np.abs(phi) * np.sqrt(diagonal)).sum(-1)  # phi itself wherever the model's assumptions hold
    return np.sqrt((phi * phi * diagonal).sum(-1))


def r2pvi(episodes: FeaturedEpisodes, config: R2PVIConfig | None = None, theta: np.ndarray | None = None) -> LinearPlan:
    """Learn from featured episodes, whose leading axes are copies; `theta` `[H, d]` if rewards are known to be phi^T theta.

    How the features break the linear model's assumptions is said in the plan's `warnings`. Raises DataError for rewards outside
    [0, r_max] and for values that are not finite, ConfigError for a radius or theta of another shape.
    """
    config = R2PVIConfig() if config is None else config
    _check_rewards(episodes, config)
    *copies, _, horizon, d = episodes.phi.shape
    if theta is not None and theta.shape != (horizon, d):
        raise ConfigError(f"theta has shape {theta.shape}: it must be {(horizon, d)}, the reward's weights at every stage.")
    if theta is not None and not np.isfinite(theta).all():
        raise ConfigError(f"theta{np.argwhere(~np.isfinite(theta))[0].tolist()} is not finite: it holds the reward's weights.")
    cap = np.full(horizon, config.v_max) if config.v_max is not None else config.r_max * np.arange(horizon, 0, -1.0)
    w = np.empty((*copies, horizon, d))
    grams: list[Gram] = []
    for h in watched(range(horizon - 1, -1, -1), "stages"):
        phi = episodes.phi[..., h, :]  # [..., K, d]; 0 where nothing was recorded
        gram = Gram.of_features(phi, config.ridge)
        m = gram.weights(phi)  # [..., d, K]
        w[..., h, :] = theta[h] if theta is not None else (m @ episodes.reward[..., h, None])[..., 0]
        if h + 1 < horizon:
            value = episodes.next_value(h, partial(q_values, w=w[..., h + 1, :], gram=grams[0], cap=float(cap[h + 1]), config=config))
            w[..., h, :] += robust_values(m, value, config, h, float(cap[h + 1]), float(cap[0]))
        grams.insert(0, gram)
    return LinearPlan(w, tuple(grams), cap, config, episodes.warnings())


def robust_values(m: np.ndarray, value: np.ndarray, config: R2PVIConfig, h: int, v_max: float, bound: float) -> np.ndarray:
    """nu_h `[..., d]` of regression weights `[..., d, K]` and next values `[..., K]`, which are at most `v_max`.

    `bound`: the largest value of any stage (the paper's H), at which KL's estimates are floored and chi-square's search ends.
    """
    v = value[..., None, :]
    if config.radius is not None:
        assert config.divergence != "none"  # the configuration has checked it
        return worst_within(config.divergence, m, value, radius_at(config.radius, h, m.shape[-2]), v_max, search=config.search)
    if config.divergence == "tv":
        return dv.penalised_tv(m, v, config.lam, config.v_min)
    if config.divergence == "kl":
        return dv.penalised_kl(m, v, config.lam, v.max(-1) if config.tight_floor else bound)
    if config.divergence == "chi2":
        if config.search:
            return searched(chi2_objective, m, value, config.lam, bound)
        return dv.penalised_chi2(m, v, config.lam, 0.0, bound)
    return (m @ value[..., None])[..., 0]


def _check_rewards(episodes: FeaturedEpisodes, config: R2PVIConfig) -> None:
    wrong = ~((episodes.reward >= 0.0) & (episodes.reward <= config.r_max))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise DataError(
            f"{episodes.source}: the reward of episode {where[-2]} at stage {where[-1]} is {episodes.reward[where]:g},"
            f" outside [0, {config.r_max:g}]: shift and scale rewards, or set r_max."
        )
