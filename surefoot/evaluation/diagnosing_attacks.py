"""The attacks under which RA-NLD looks at a policy's directions: deterministic ones, each on the observation of one step.

- `fgsm`: Goodfellow et al., arXiv 1412.6572v3; `nesterov`: Lin et al. (NI-FGSM), arXiv 1908.06281v5, Eq. 6-8. Both stay within `eps`.
- `deepfool`: Moosavi-Dezfooli et al., arXiv 1511.04599v3, Alg. 2; `elastic`: Chen et al. (EAD), arXiv 1709.04114v3, Alg. 1, of which
  Carlini and Wagner's l2 attack (arXiv 1608.04644v2) is the case beta = 0. Both look for a small change that makes another action win,
  however small that is, and need discrete actions.

Everything is in units of `unit` `[d]` (None: the observation's own). The greedy action at the true observation is held fixed. Departures:
`elastic` takes its constant c from a grid, and keeps the least change it meets that works; where none does, nothing is changed.
For attacks with budgets over an episode and returns under them see `evaluation.attacks`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from surefoot.data.spec import Discrete
from surefoot.errors import PolicyError
from surefoot.evaluation.diagnosing import gradients
from surefoot.evaluation.visited import Visited
from surefoot.policies.base import Memory, Policy
from surefoot.policies.deciding import decide

Unit = Tensor | None


def fgsm(policy: Policy, obs: Tensor, memory: Memory, eps: float, unit: Unit = None) -> Tensor:
    """One step of `eps` for each number of each observation, in the direction that changes the decision most.

    Of continuous actions it is the first right singular vector of the action's Jacobian. Where the gradient is zero nothing moves.
    """
    rows = gradients(policy, Visited(obs, memory, np.zeros(len(obs), np.int64), np.zeros(len(obs), np.int64)), unit=unit)
    steepest = rows[:, 0] if rows.shape[1] == 1 else torch.linalg.svd(rows, full_matrices=False).Vh[:, 0]
    return obs + _raw(eps * steepest.sign(), unit).reshape(obs.shape)


def nesterov(
    policy: Policy, obs: Tensor, memory: Memory, eps: float, unit: Unit = None, *, steps: int = 10, momentum: float = 1.0
) -> Tensor:
    """`steps` sign steps of eps / steps along a momentum whose gradients are taken where it leads."""
    best, delta, g = _greedy(policy, obs, memory), torch.zeros_like(obs).flatten(1), torch.zeros_like(obs).flatten(1)
    alpha = eps / steps
    for _ in range(steps):
        _, slope = _climb(policy, obs, delta + alpha * momentum * g, memory, unit, lambda q: cross_entropy(q, best, reduction="none"))
        g = momentum * g + slope / slope.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        delta = (delta + alpha * g.sign()).clamp(-eps, eps)
    return obs + _raw(delta, unit).reshape(obs.shape)


def deepfool(policy: Policy, obs: Tensor, memory: Memory, unit: Unit = None, *, steps: int = 20, overshoot: float = 0.02) -> Tensor:
    """Steps to the nearest border between the greedy action and another, as if scores were linear, until another action wins."""
    best, delta = _greedy(policy, obs, memory), torch.zeros_like(obs).flatten(1)
    actions = torch.arange(policy.spec.n_actions, device=obs.device)
    for _ in range(steps):
        gaps, slopes = [], []
        for action in actions:  # Q(a) - Q(a*) and its gradient, one pass an action
            gap, slope = _climb(policy, obs, (1.0 + overshoot) * delta, memory, unit, partial(_lead, action=action, best=best))
            gaps.append(gap)
            slopes.append(slope)
        gap, slope = torch.stack(gaps, -1), torch.stack(slopes, -2)  # [n, A], [n, A, d]
        size = slope.norm(dim=-1)
        far = torch.where((actions == best.unsqueeze(-1)) | (size == 0.0), torch.inf, gap.abs() / size)
        nearest = far.argmin(-1, keepdim=True)
        running = (gap.amax(-1) <= 0.0) & torch.isfinite(far.gather(-1, nearest).squeeze(-1))
        if not running.any():
            break
        way = slope.gather(-2, nearest.unsqueeze(-1).expand(-1, 1, slope.shape[-1])).squeeze(-2)
        step = (gap.gather(-1, nearest).abs() + 1e-4) * way / size.gather(-1, nearest).square()
        delta = torch.where(running.unsqueeze(-1), delta + step, delta)
    return obs + _raw((1.0 + overshoot) * delta, unit).reshape(obs.shape)


CONSTANTS = (1.0, 10.0, 100.0, 1_000.0)


def elastic(
    policy: Policy, obs: Tensor, memory: Memory, unit: Unit = None, *, beta: float = 0.0, lr: float = 0.01, steps: int = 50
) -> Tensor:
    """Iterative shrinkage-thresholding on c max(Q(a*) - max_a Q(a), 0) + |delta|_2^2 + beta |delta|_1, for each c of `CONSTANTS`."""
    best, flat = _greedy(policy, obs, memory), obs.flatten(1)
    found, least = torch.zeros_like(flat), torch.full((len(obs),), torch.inf, device=obs.device)

    def held(q: Tensor) -> Tensor:
        return _of(q, best) - q.scatter(-1, best.unsqueeze(-1), -torch.inf).amax(-1)

    for c in CONSTANTS:
        delta = torch.zeros_like(flat)
        for _ in range(steps):
            margin, slope = _climb(policy, obs, delta, memory, unit, held)
            length = delta.square().sum(-1) + beta * delta.abs().sum(-1)
            better = (margin < 0.0) & (length < least)
            found, least = torch.where(better.unsqueeze(-1), delta, found), torch.where(better, length, least)
            step = delta - lr * (c * slope * (margin >= 0.0).unsqueeze(-1) + 2.0 * delta)
            delta = step.sign() * (step.abs() - lr * beta).clamp_min(0.0)
    return obs + _raw(found, unit).reshape(obs.shape)


def _greedy(policy: Policy, obs: Tensor, memory: Memory) -> Tensor:
    """a* of each observation, `[n]`. Raises PolicyError for continuous actions."""
    if not isinstance(policy.spec.action, Discrete):
        raise PolicyError("this attack makes another action win, which needs discrete actions: use fgsm.")
    with torch.no_grad():
        return decide(policy, obs, memory).argmax(-1)


def _lead(q: Tensor, action: Tensor, best: Tensor) -> Tensor:
    """Q(a) - Q(a*), `[n]`."""
    return q[:, action] - _of(q, best)


def _of(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _climb(
    policy: Policy, obs: Tensor, delta: Tensor, memory: Memory, unit: Unit, harm: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """`harm` `[n]` of the scores at obs + delta, and its gradient in delta, `[n, d]`."""
    with torch.enable_grad():
        delta = delta.detach().requires_grad_()
        value = harm(decide(policy, obs + _raw(delta, unit).reshape(obs.shape), memory))
        (slope,) = torch.autograd.grad(value.sum(), delta)
    return value.detach(), slope


def _raw(delta: Tensor, unit: Unit) -> Tensor:
    """A change in the observation's own units."""
    return delta if unit is None else delta * unit
