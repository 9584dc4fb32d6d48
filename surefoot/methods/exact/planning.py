"""Exact planning in finite-horizon MDPs: values, occupancies, optimal policies, and the same with a KL penalty.

Puterman, "Markov Decision Processes", 1994, chapter 4, for the recursions; the KL-regularised ones are those of Tiapkin et al.,
arXiv 2310.17303: V*_h(s) = F(Q*_h(s, .)) with F(q) = lam log sum_a ref(a) exp(q_a / lam), and
pi*_h(a|s) ~ ref_h(a|s) exp(Q*_h(s, a) / lam).
All arrays may have leading axes, which are copies. Stages are 0 .. H-1, and V_H = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.envs.finite import FiniteMDP
from surefoot.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Plan:
    """An optimal policy and its values."""

    q: np.ndarray  # [..., H, S, A]
    v: np.ndarray  # [..., H + 1, S], the last row 0
    policy: np.ndarray  # [..., H, S, A] probabilities


def optimal_plan(mdp: FiniteMDP, lam: float = 0.0, reference: np.ndarray | None = None) -> Plan:
    """Maximise E sum_h r_h - lam KL(pi_h || ref_h); lam = 0 is plain value iteration (ties go to the first action).

    `reference` `[..., H, S, A]`: uniform if not given. Raises ConfigError for a negative lam.
    """
    if reference is None:
        reference = np.full(mdp.reward.shape, 1.0 / mdp.n_actions)
    q, v = np.empty(mdp.reward.shape), np.zeros((*mdp.copies, mdp.horizon + 1, mdp.n_states))
    policy = np.empty(mdp.reward.shape)
    for h in reversed(range(mdp.horizon)):
        q[..., h, :, :] = mdp.reward[..., h, :, :] + expected(mdp.transition[..., h, :, :, :], v[..., h + 1, :])
        v[..., h, :], policy[..., h, :, :] = soft_maximum(q[..., h, :, :], reference[..., h, :, :], lam)
    return Plan(q, v, policy)


def soft_maximum(q: np.ndarray, reference: np.ndarray, lam: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F(q) = max_pi <pi, q> - lam KL(pi || ref), `[...]`, and the pi `[..., A]` that attains it; lam = 0: the maximum, first action first.

    `lam`: a number, or an array that broadcasts against `[...]` (copies with penalties of their own, 0 among them).
    Raises ConfigError for a negative lam. Actions with reference probability 0 are never played where lam > 0.
    """
    lam = np.asarray(lam, np.float64)
    if not (lam >= 0.0).all():
        raise ConfigError(f"lam is {lam[~(lam >= 0.0)][0]}: the weight of the KL penalty is not negative.")
    if not lam.any():
        best = q.argmax(-1)
        return q.max(-1), np.eye(q.shape[-1])[best]
    hard, lam = lam == 0.0, np.where(lam == 0.0, 1.0, lam)[..., None]
    top = np.where(reference > 0.0, q, -np.inf).max(-1, keepdims=True)
    weights = reference * np.exp(np.minimum(q - top, 0.0) / lam)
    total = weights.sum(-1, keepdims=True)
    value, policy = (top + lam * np.log(total))[..., 0], weights / total
    if not hard.any():
        return value, policy
    return np.where(hard, q.max(-1), value), np.where(hard[..., None], np.eye(q.shape[-1])[q.argmax(-1)], policy)


def policy_values(mdp: FiniteMDP, policy: np.ndarray, lam: float = 0.0, reference: np.ndarray | None = None) -> np.ndarray:
    """V^pi, `[..., H + 1, S]`, of `policy` `[..., H, S, A]`; with lam > 0 less lam KL(pi_h || ref_h) at every stage."""
    check_policy(mdp, policy)
    reward = np.broadcast_to(mdp.reward, policy.shape)
    if lam > 0.0:
        if reference is None:
            raise ConfigError("lam is positive, but there is no reference policy: give one.")
        reward = reward - lam * kl(policy, reference)[..., None]
    v = np.zeros((*policy.shape[:-3], mdp.horizon + 1, mdp.n_states))
    for h in reversed(range(mdp.horizon)):
        q = reward[..., h, :, :] + expected(mdp.transition[..., h, :, :, :], v[..., h + 1, :])
        v[..., h, :] = (policy[..., h, :, :] * q).sum(-1)
    return v


def policy_return(mdp: FiniteMDP, policy: np.ndarray, lam: float = 0.0, reference: np.ndarray | None = None) -> np.ndarray:
    """Expected return from the start law, `[...]`."""
    return (mdp.initial * policy_values(mdp, policy, lam, reference)[..., 0, :]).sum(-1)


def occupancy(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Probability of being in s and playing a at stage h, `[..., H, S, A]`; sums to one at every stage."""
    check_policy(mdp, policy)
    visited = np.empty(np.broadcast_shapes(policy.shape, mdp.reward.shape))
    state = np.broadcast_to(mdp.initial, visited.shape[:-3] + mdp.initial.shape[-1:])
    for h in range(mdp.horizon):
        visited[..., h, :, :] = state[..., None] * policy[..., h, :, :]
        state = np.einsum("...sa,...sat->...t", visited[..., h, :, :], mdp.transition[..., h, :, :, :])
    return visited


def trajectory_kl(mdp: FiniteMDP, policy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL of the laws of whole episodes, `[...]`: E_pi sum_h KL(pi_h(.|s_h) || other_h(.|s_h)).

    Infinite where pi does what `other` rules out.
    """
    here, apart = occupancy(mdp, policy).sum(-1), kl(policy, other)
    return (here * np.where(here > 0.0, apart, 0.0)).sum((-2, -1))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of rows `[..., n]`, with 0 log 0 = 0 and infinity where q is 0 and p is not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0.0, p * (np.log(p) - np.log(q)), 0.0).sum(-1)


def expected(transition: np.ndarray, v: np.ndarray) -> np.ndarray:
    """P V: `[..., S, A, S]` and `[..., S]` give `[..., S, A]`."""
    return np.einsum("...sat,...t->...sa", transition, v)


def check_policy(mdp: FiniteMDP, policy: np.ndarray) -> None:
    """Raises DataError unless `policy` ends in `[H, S, A]` of this MDP."""
    if policy.shape[-3:] != mdp.reward.shape[-3:]:
        raise DataError(f"policy has shape {policy.shape}: it must end in {mdp.reward.shape[-3:]}, stages by states by actions.")
