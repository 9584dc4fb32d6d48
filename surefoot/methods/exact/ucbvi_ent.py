"""UCBVI-Ent+: best-policy identification in a finite MDP with a KL penalty, with a certificate that says when to stop.

Tiapkin, Belomestny, Calandriello, Moulines, Munos, Naumov, Perrault, Valko, Menard, "Demonstration-Regularized RL", ICLR 2024,
arXiv 2310.17303; the planning part is that of UCBVI-Ent (arXiv 2303.08059, whose code is public). With F(q) = lam log sum_a ref(a)
exp(q_a / lam) and stages h = 1 .. H (0 .. H-1 in the code), backwards:

    Qup_h = clip(r_h + p^_h Vup_{h+1} + b_h, 0, H-h+1),  Vup_h = F(Qup_h),  pi_h ~ ref_h exp(Qup_h / lam)
    Qlo_h = clip(r_h + p^_h Vlo_{h+1} - b_h, 0, H-h+1),  Vlo_h = F(Qlo_h)
    G_h   = min(H-h+1, max_a (Qup_h - Qlo_h)^2 / (2 lam) + <pi_h, min(H, (1 + 1/H) p^_h G_{h+1} + (H+1)^2 beta_h / (2 n_h))>)

where nothing was seen Qup = H-h+1, Qlo = 0, and the inner minimum is H. F is 1/lam-smooth, so the loss is *quadratic* in the width
Qup - Qlo; since the largest width over all actions matters, each episode plays argmax_a (Qup - Qlo) at one stage drawn uniformly.

V*_lam - V^pi_lam <= G_1 with probability 1 - delta in the "theory" mode with scale 1. The correction in G: with KL(p^ || p) <= beta / n,
Donsker and Varadhan's formula for -u g / H and convexity of exp give, for g in [0, H] and any u > 0,

    p g <= u / (1 - exp(-u)) p^ g + H / (1 - exp(-u)) beta / n,    at most (1 + 1/H) p^ g + (H+1)^2 beta / (2 n) at u = 2 / (H+1).

Departures. The constants of the paper's appendix are not used: the bonuses are (theory) Pinsker's, (bernstein) those of the BPI-UCBVI
family, (practical) Hoeffding's, whose radius for one function of the next state is then used in G as well, where proof needs the one for
all functions. `scale` c multiplies radii by c^2 everywhere. The public code clips V alone; Q is clipped here. For lam = 0, where nothing is
smooth, the lower values are those of the policy itself, Vlo = <pi, Qlo>, and G_h = <pi, Qup - Qlo> = Vup - Vlo: with Vlo = max Qlo, which
bounds V* and not V^pi from below, this difference would bound nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.planning import soft_maximum
from surefoot.methods.exact.visits import World, visit_counts
from surefoot.progress import watched

Bonus = Literal["theory", "bernstein", "practical"]


@dataclass(frozen=True)
class UCBVIEntConfig:
    """How wide the bounds are, and how often to plan."""

    delta: float = 0.1
    """Probability with which the bounds may fail (theory mode, scale 1)."""
    bonus: Bonus = "theory"
    """theory, bernstein or practical (Hoeffding's, one value function at a time)."""
    scale: float = 1.0
    """c: widths are c times the bonus mode's; below 1 nothing is guaranteed any more, and 0.03 to 0.1 is what experiments need."""
    explore: bool = True
    """Play the action of the widest bounds at one stage of each episode."""
    cap: int = 200_000
    """Episodes after which to stop without a certificate."""
    period: int = 50
    """Episodes between plans, at least."""
    growth: float = 0.02
    """Episodes between plans, as a share of those played."""

    def __post_init__(self) -> None:
        if not 0.0 < self.delta < 1.0:
            raise ConfigError(f"delta is {self.delta}: the probability of failure lies between 0 and 1.")
        if self.bonus not in get_args(Bonus):
            raise ConfigError(f"bonus is {self.bonus!r}: it must be one of {', '.join(get_args(Bonus))}.")
        if not 0.0 <= self.scale < np.inf:
            raise ConfigError(f"scale is {self.scale}: the factor of the bonuses is not negative (0 trusts the counts).")
        if self.cap < 1 or self.period < 1 or not self.growth >= 0.0:
            raise ConfigError(
                f"cap is {self.cap}, period {self.period}, growth {self.growth}: cap and period are at least 1, growth is not negative."
            )


# --- bonuses ----------------------------------------------------------------------------------------------------------


def kl_radius(n: np.ndarray, delta: float) -> np.ndarray:
    """beta with KL(p^ || p) <= beta / n for all stages, states, actions and n at once, `[..., H, S, A]` like the counts n."""
    h, s, a = n.shape[-3:]
    return np.log(3.0 * s * a * h / delta) + s * np.log(8.0 * np.e * (n + 1.0))


def mean_radius(n: np.ndarray, delta: float) -> np.ndarray:
    """beta*, the same for the mean of one function of the next state."""
    h, s, a = n.shape[-3:]
    return np.log(3.0 * s * a * h / delta) + np.log(8.0 * np.e * (n + 1.0))


def uniform_bonus(n: np.ndarray, config: UCBVIEntConfig) -> np.ndarray:
    """The part of b_h that does not depend on values, `[..., H, S, A]`; 0 where nothing was seen."""
    horizon = n.shape[-3]
    left = np.arange(horizon, 0.0, -1.0)[:, None, None]  # H-h+1
    many = np.maximum(n, 1.0)
    if config.bonus == "theory":  # Pinsker: V_{h+1} lies in [0, H-h]
        b = (left - 1.0) * np.sqrt(kl_radius(n, config.delta) / (2.0 * many)) * config.scale
    elif config.bonus == "practical":
        b = left * np.sqrt(mean_radius(n, config.delta) / (2.0 * many)) * config.scale
    else:
        b = 14.0 * horizon**2 * kl_radius(n, config.delta) / many * config.scale**2
    return np.where(n > 0.0, b, 0.0)


# --- planning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bounds:
    """What counts say about the regularised values, and the policy that is optimistic in them."""

    upper: np.ndarray  # [..., H, S, A] Qup
    lower: np.ndarray  # [..., H, S, A] Qlo
    policy: np.ndarray  # [..., H, S, A]
    gap: np.ndarray  # [..., H + 1, S] G, the last row 0

    @property
    def probe(self) -> np.ndarray:
        """argmax_a (Qup - Qlo), `[..., H, S]`."""
        return (self.upper - self.lower).argmax(-1)


def plan(visits: np.ndarray, reward: np.ndarray, reference: np.ndarray, lam: float | np.ndarray, config: UCBVIEntConfig) -> Bounds:
    """Bounds from counts n_h(s, a, s') `[..., H, S, A, S]`, rewards and reference policy `[..., H, S, A]`, and lam `[...]`."""
    horizon, n_states, n_actions = reward.shape[-3:]
    lead = visits.shape[:-4]
    n = visits.sum(-1, dtype=np.float64)
    bonus, extra = uniform_bonus(n, config), certificate_term(n, config)
    lam = np.broadcast_to(np.asarray(lam, np.float64), lead)[..., None]  # [..., 1] beside states
    shape = (*lead, horizon, n_states, n_actions)
    upper, lower, policy = np.empty(shape), np.empty(shape), np.empty(shape)
    gap = np.zeros((*lead, horizon + 1, n_states))
    v_up, v_lo = np.zeros((*lead, n_states)), np.zeros((*lead, n_states))
    for h in reversed(range(horizon)):
        seen, most = n[..., h, :, :] > 0.0, float(horizon - h)
        columns = np.stack([v_up, v_lo, gap[..., h + 1, :], v_up**2], -1)  # one product for all expectations
        flat = visits[..., h, :, :, :].reshape(*lead, n_states * n_actions, n_states) @ columns
        means = flat.reshape(*lead, n_states, n_actions, 4) / np.maximum(n[..., h, :, :], 1.0)[..., None]
        up, lo, ahead, square = np.moveaxis(means, -1, 0)
        b = bonus[..., h, :, :]
        if config.bonus == "bernstein":
            variance = np.maximum(square - up**2, 0.0)
            star = mean_radius(n, config.delta)[..., h, :, :] / np.maximum(n[..., h, :, :], 1.0)
            b = b + 3.0 * config.scale * np.sqrt(variance * star) + (up - lo) / horizon
        r = reward[..., h, :, :]
        upper[..., h, :, :] = np.where(seen, np.clip(r + up + b, 0.0, most), most)
        lower[..., h, :, :] = np.where(seen, np.clip(r + lo - b, 0.0, most), 0.0)
        q_up, q_lo, ref = upper[..., h, :, :], lower[..., h, :, :], reference[..., h, :, :]
        v_up, pi = soft_maximum(q_up, ref, lam)
        policy[..., h, :, :] = pi
        v_lo = np.where(lam > 0.0, soft_maximum(q_lo, ref, lam)[0], (pi * q_lo).sum(-1))
        loss = np.square(q_up - q_lo).max(-1) / (2.0 * np.where(lam > 0.0, lam, 1.0))
        later = np.where(seen, np.minimum(horizon, (1.0 + 1.0 / horizon) * ahead + extra[..., h, :, :]), horizon)
        smooth = loss + (pi * later).sum(-1)
        gap[..., h, :] = np.minimum(most, np.where(lam > 0.0, smooth, (pi * (q_up - q_lo)).sum(-1)))
    return Bounds(upper, lower, policy, gap)


def certificate_term(n: np.ndarray, config: UCBVIEntConfig) -> np.ndarray:
    """(H+1)^2 beta / (2 n), what p^ G may fall short of p G beside the factor 1 + 1/H; `[..., H, S, A]`."""
    radius = mean_radius if config.bonus == "practical" else kl_radius
    return config.scale**2 * (n.shape[-3] + 1.0) ** 2 * radius(n, config.delta) / (2.0 * np.maximum(n, 1.0))


# --- the algorithm ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Identified:
    """Where each copy stopped."""

    policy: np.ndarray  # [..., H, S, A]
    certificate: np.ndarray  # [...] G_1 averaged over the start law: bounds V*_lam - V^pi_lam
    episodes: np.ndarray  # [...] int64, played until it stopped
    certified: np.ndarray  # [...] bool: certificate <= eps, as opposed to stopped by the cap


def batches(total: int, period: int, growth: float) -> list[int]:
    """Episodes between plans, max(period, growth t) at t, that add up to `total`."""
    sizes: list[int] = []
    t = 0
    while t < total:
        sizes.append(min(max(period, int(growth * t)), total - t))
        t += sizes[-1]
    return sizes


def identify(
    world: World,
    reference: np.ndarray,
    lam: float | np.ndarray,
    eps: float,
    config: UCBVIEntConfig,
    rng: np.random.Generator,
    reward: np.ndarray | None = None,
) -> Identified:
    """Play until the certificate G_1 is at most `eps`, or to the cap.

    `reference` `[..., H, S, A]`, `lam` `[...]` and `reward` `[..., H, S, A]` (one that was learned, in place of the world's) have copies
    in front, which stop one by one. Raises DataError where shapes disagree or rewards leave [0, 1].
    """
    if not eps > 0.0:
        raise ConfigError(f"eps is {eps}: the accuracy to stop at must be positive.")
    reward = checked_reward(world, world.reward if reward is None else reward)
    lead = np.broadcast_shapes(world.copies, reference.shape[:-3], np.shape(lam), reward.shape[:-3])
    if world.copies != ():
        raise DataError(f"the world has copies {world.copies}: give a lone world; the reference policy, lam and reward may have copies.")
    if reference.shape[-3:] != world.reward.shape[-3:]:
        raise DataError(f"reference has shape {reference.shape}: it must end in {world.reward.shape[-3:]}, stages by states by actions.")
    shape, copies = world.reward.shape[-3:], int(np.prod(lead))
    reward, reference = (np.broadcast_to(x, lead + shape).reshape(copies, *shape) for x in (reward, reference))
    lam = np.broadcast_to(np.asarray(lam, np.float64), lead).reshape(copies)
    policy, certificate = np.empty((copies, *shape)), np.empty(copies)
    episodes = np.zeros(copies, np.int64)
    running, visits, t = np.arange(copies), np.zeros((copies, *shape, shape[1])), 0
    for size in watched([*batches(config.cap, config.period, config.growth), 0], "planning and playing"):
        bounds = plan(visits, reward[running], reference[running], lam[running], config)
        value = bounds.gap[:, 0] @ world.initial
        policy[running], certificate[running], episodes[running] = bounds.policy, value, t
        going = value > eps
        if size == 0 or not going.any():
            break
        if not going.all():
            running, visits = running[going], visits[going]
        visits += visit_counts(world, bounds.policy[going], size, rng, bounds.probe[going] if config.explore else None)
        t += size
    return Identified(policy.reshape(*lead, *shape), certificate.reshape(lead), episodes.reshape(lead), certificate.reshape(lead) <= eps)


def checked_reward(world: World, reward: np.ndarray) -> np.ndarray:
    """Raises DataError unless `reward` ends in `[H, S, A]` of the world and lies in [0, 1], as the clips at H-h+1 need."""
    if reward.shape[-3:] != world.reward.shape[-3:]:
        raise DataError(f"reward has shape {reward.shape}: it must end in {world.reward.shape[-3:]}, stages by states by actions.")
    wrong = ~((reward >= 0.0) & (reward <= 1.0))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise DataError(f"reward{list(where)} is {reward[where]}: rewards must lie in [0, 1]; scale them.")
    return reward
