"""LSVI-UCB-Ent: the KL-regularised learner for linear MDPs, whose cost depends on the features' dimension and not on what was played.

Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv 2310.17303, after LSVI-UCB (Jin et al., arXiv 1907.05388). Backwards, with
F(q) = lam log sum_a ref(a) exp(q_a / lam):

    Lambda_h = alpha I + sum_k psi_k psi_k^T,     w_h = Lambda_h^{-1} sum_k psi_k (r_k + V_{h+1}(s'_k))     for Vup and for Vlo
    Qup_h = clip(psi^T wup + B ||psi||_{Lambda^-1}, 0, H-h+1),     Qlo_h = clip(psi^T wlo - B ||psi||_{Lambda^-1}, 0, H-h+1)

and pi_h ~ ref_h exp(Qup_h / lam); each episode plays argmax_a (Qup - Qlo) at one stage. There is no model, hence no certificate: a
budget of episodes is played, and the result is the uniform mixture over episodes of the policies that played them (one is drawn for each
whole episode), or in practice the last one.

Sums over episodes are kept as counts of (s, a, s'), so that a plan costs the same after any number of episodes. With one-hot features and
alpha -> 0 these are the recursions of `ucbvi_ent` with a bonus B / sqrt(n).

Departures: B = scale * d H sqrt(log(d T / delta)) is the order that is known, not the paper's constant. As in `ucbvi_ent`, lam = 0 takes
Vlo = <pi, Qlo>.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.behaviour_cloning import check_features
from surefoot.methods.exact.planning import soft_maximum
from surefoot.methods.exact.ridge import Gram
from surefoot.methods.exact.ucbvi_ent import Bounds, batches, checked_reward
from surefoot.methods.exact.visits import World, visit_counts
from surefoot.progress import watched


@dataclass(frozen=True)
class LSVIUCBEntConfig:
    """The budget, how wide the bounds are, and how often to plan."""

    episodes: int = 10_000
    """T, the budget."""
    scale: float = 1.0
    """c: factor of the bonus; experiments need 0.001 to 0.1."""
    ridge: float = 1.0
    """alpha."""
    delta: float = 0.1
    """Probability of failure in the bonus's logarithm."""
    explore: bool = True
    """Play the action of the widest bounds at one stage of each episode."""
    period: int = 50
    """Episodes between plans, at least."""
    growth: float = 0.02
    """Episodes between plans, as a share of those played."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.period < 1 or not self.growth >= 0.0:
            raise ConfigError(
                f"episodes is {self.episodes}, period {self.period}, growth {self.growth}: two are at least 1, growth is not negative."
            )
        if not 0.0 <= self.scale < np.inf or not self.ridge > 0.0:
            raise ConfigError(f"scale is {self.scale} and ridge {self.ridge}: the scale is not negative, and the ridge is positive.")
        if not 0.0 < self.delta < 1.0:
            raise ConfigError(f"delta is {self.delta}: the probability of failure lies between 0 and 1.")


def bonus_factor(d: int, horizon: int, config: LSVIUCBEntConfig) -> float:
    """B."""
    return config.scale * d * horizon * float(np.sqrt(np.log(d * config.episodes / config.delta)))


def plan(
    visits: np.ndarray, features: np.ndarray, reward: np.ndarray, reference: np.ndarray, lam: float | np.ndarray, b: float, ridge: float
) -> Bounds:
    """Bounds from counts `[..., H, S, A, S]`, features `[H, S, A, d]`, rewards and reference `[..., H, S, A]`, lam `[...]`; no gap."""
    horizon, n_states, n_actions, d = features.shape
    lead = visits.shape[:-4]
    n = visits.sum(-1).reshape(*lead, horizon, -1)  # [..., H, SA]
    psi = features.reshape(horizon, -1, d)
    weighted = n[..., None] * psi
    gram = Gram.of_matrix(np.swapaxes(psi, -1, -2) @ weighted + ridge * np.eye(d))
    width = b * np.linalg.norm(psi @ np.swapaxes(gram.factor, -1, -2), axis=-1).reshape(*lead, horizon, n_states, n_actions)
    lam = np.broadcast_to(np.asarray(lam, np.float64), lead)[..., None]
    upper, lower, policy = (np.empty((*lead, horizon, n_states, n_actions)) for _ in range(3))
    v_up, v_lo = np.zeros((*lead, n_states)), np.zeros((*lead, n_states))
    for h in reversed(range(horizon)):
        seen = visits[..., h, :, :, :].reshape(*lead, n_states * n_actions, n_states)
        r = (n[..., h, :] * reward[..., h, :, :].reshape(*reward.shape[:-3], -1))[..., None]
        targets = r + seen @ np.stack([v_up, v_lo], -1)  # [..., SA, 2] sums over episodes
        w = gram.inverse[..., h, :, :] @ (psi[h].T @ targets)  # [..., d, 2]
        up, lo = np.moveaxis((psi[h] @ w).reshape(*lead, n_states, n_actions, 2), -1, 0)
        upper[..., h, :, :] = np.clip(up + width[..., h, :, :], 0.0, horizon - h)
        lower[..., h, :, :] = np.clip(lo - width[..., h, :, :], 0.0, horizon - h)
        ref = reference[..., h, :, :]
        v_up, pi = soft_maximum(upper[..., h, :, :], ref, lam)
        v_lo = np.where(lam > 0.0, soft_maximum(lower[..., h, :, :], ref, lam)[0], (pi * lower[..., h, :, :]).sum(-1))
        policy[..., h, :, :] = pi
    return Bounds(upper, lower, policy, np.zeros((*lead, 0, n_states)))


@dataclass(frozen=True, eq=False)
class Iterates:
    """Policies that played, and how many of the episodes each of them played."""

    policies: np.ndarray  # [K, ..., H, S, A]
    episodes: np.ndarray  # [K] sums to T
    last: np.ndarray  # [..., H, S, A] planned after the last episode

    def mixture(self, values: np.ndarray) -> np.ndarray:
        """What the mixture over episodes is worth, from what each iterate is worth `[K, ...]`."""
        return np.tensordot(self.episodes / self.episodes.sum(), values, 1)

    def drawn(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """One policy for each of n whole episodes, `[n, ..., H, S, A]`, as the mixture is meant to be played."""
        return self.policies[rng.choice(len(self.episodes), n, p=self.episodes / self.episodes.sum())]


def learn_policies(
    world: World,
    features: np.ndarray,
    reference: np.ndarray,
    lam: float | np.ndarray,
    config: LSVIUCBEntConfig,
    rng: np.random.Generator,
    reward: np.ndarray | None = None,
) -> Iterates:
    """Play T episodes; `features` `[H, S, A, d]` of norm at most 1, `reference` `[..., H, S, A]` and `lam` `[...]` with copies in front.

    `reward` `[..., H, S, A]`: one that was learned, in place of the world's. Raises DataError where shapes disagree.
    """
    reward = checked_reward(world, world.reward if reward is None else reward)
    shape = world.reward.shape[-3:]
    if world.copies != ():
        raise DataError(f"the world has copies {world.copies}: give a lone world; the reference policy, lam and reward may have copies.")
    if features.ndim != 4:
        raise DataError(f"features have shape {features.shape}: they must be [H, S, A, d], the same for all copies.")
    check_features(features, shape)
    if reference.shape[-3:] != shape:
        raise DataError(f"reference has shape {reference.shape}: it must end in {shape}, stages by states by actions.")
    lead = np.broadcast_shapes(reference.shape[:-3], np.shape(lam), reward.shape[:-3])
    b = bonus_factor(features.shape[-1], shape[0], config)
    sizes = batches(config.episodes, config.period, config.growth)
    visits, policies = np.zeros((*lead, *shape, shape[1])), []
    for size in watched(sizes, "planning and playing"):
        bounds = plan(visits, features, reward, reference, lam, b, config.ridge)
        policies.append(bounds.policy)
        visits += visit_counts(world, bounds.policy, size, rng, bounds.probe if config.explore else None)
    last = plan(visits, features, reward, reference, lam, b, config.ridge).policy
    return Iterates(np.stack(policies), np.array(sizes), last)
