"""What an attack on one step counts as harm: how far the decision is from the one at the true observation.

- `Departure`: cross-entropy of the action that is greedy in truth, or the squared change of the action: what FGSM and PGD were made for.
- `Divergence`: KL(pi(s) || pi(s + eps)), the maximal action difference (MAD) of Zhang et al., "Robust Deep Reinforcement Learning
  against Adversarial Perturbations on State Observations" (NeurIPS 2020, arXiv 2003.08938v7), Eq. 12 and App. D. For continuous actions it
  is the squared change of the mean in units of the policy's own deviation (in half ranges where it has none).

A third is the robust Sarsa critic's (`evaluation.sarsa_attack`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from surefoot.data.spec import Continuous
from surefoot.evaluation.decision import Decision
from surefoot.nn.distributions import LOG_STD_MAX, LOG_STD_MIN
from surefoot.policies.base import Policy
from surefoot.policies.families import NormalPolicy


class Objective(Protocol):
    """Harm in two parts, so that what does not move during an attack on a step is worked out once."""

    def anchor(self, near: Tensor, truth: Tensor, decision: Decision) -> Tensor:
        """What stays, `[*copies, m, K]`, of true observations `near` `[*copies, m, S]` and the decisions there `[*copies, m, A]`."""

    def harm(self, shown: Tensor, anchor: Tensor, decision: Decision) -> Tensor:
        """`[*copies, m]` of a decision `shown` `[*copies, m, A]`."""


class Departure:
    """-log softmax(scores) of the action that is greedy in truth; the squared change of a continuous action.

    What lies beyond the box, where an action is clipped, counts a tenth: enough to find the way back in.
    """

    def anchor(self, near: Tensor, truth: Tensor, decision: Decision) -> Tensor:
        return truth.argmax(-1, keepdim=True) if decision.discrete else _mostly_clipped(truth, decision.policy.spec.box)

    def harm(self, shown: Tensor, anchor: Tensor, decision: Decision) -> Tensor:
        if decision.discrete:
            return -torch.log_softmax(shown, -1).gather(-1, anchor).squeeze(-1)
        return (_mostly_clipped(shown, decision.policy.spec.box) - anchor).square().sum(-1)


class Divergence:
    """KL(pi(s) || pi(s + eps))."""

    def anchor(self, near: Tensor, truth: Tensor, decision: Decision) -> Tensor:
        return torch.log_softmax(truth, -1) if decision.discrete else truth

    def harm(self, shown: Tensor, anchor: Tensor, decision: Decision) -> Tensor:
        if decision.discrete:
            return (anchor.exp() * (anchor - torch.log_softmax(shown, -1))).sum(-1)
        return 0.5 * ((shown - anchor) / deviation(decision.policy)).square().sum(-1)


def _mostly_clipped(action: Tensor, box: Continuous) -> Tensor:
    """An action in half ranges, with a tenth of what is outside the box."""
    low, high = action.new_tensor(box.low), action.new_tensor(box.high)
    half = 0.5 * (high - low)
    inside = torch.minimum(torch.maximum(action, low / half), high / half)
    return inside + 0.1 * (action - inside)


def deviation(policy: Policy) -> Tensor | float:
    """The deviation of a continuous action in half ranges, `[*copies, 1, A]`, where it does not depend on the observation; else 1."""
    inner = getattr(policy, "inner", None)
    if isinstance(inner, Policy):
        return deviation(inner)
    if not isinstance(policy, NormalPolicy):
        return 1.0
    return policy.log_std.detach().clamp(LOG_STD_MIN, LOG_STD_MAX).exp().unsqueeze(-2)
