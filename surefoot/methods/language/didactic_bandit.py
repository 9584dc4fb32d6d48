"""The didactic bandit of the on-policy study: a hundred ordered actions, a lopsided reference, and a bump of reward somewhere else.

Tajwar et al., arXiv 2404.14367v3, and `bandit_experiment/` of the official code: contexts x ~ U[0, 1]^100, actions 0 to 99.
The reference is the law of tanh(z), z Cauchy (location -0.7, scale 0.4), over a hundred equal bins of [-1, 1]; the same in every context.
R(a) = exp(-((a - c) / w)^2): with c = 70 the bump lies where the reference hardly goes, with c = 20 where it does often.

Departure: bins have their exact Cauchy masses, the outermost ones the tails too, where the code counts 10,000 samples; so none is empty.
"""

from __future__ import annotations

from math import atanh, pi

import torch
from torch import Tensor, nn

from surefoot.methods.language.sampling import ActionReward
from surefoot.nn.distributions import Choice
from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, descend

ACTIONS, CONTEXT = 100, 100
CENTRES = {"R1": 70.0, "R2": 20.0}
"""Where the bump is: misaligned with the reference, and aligned."""


def reference_logprobs(actions: int = ACTIONS, location: float = -0.7, scale: float = 0.4) -> Tensor:
    """Log-probabilities of the bins, float32 `[actions]`."""
    inner = [atanh(2.0 * i / actions - 1.0) for i in range(1, actions)]
    below = 0.5 + ((torch.tensor(inner, dtype=torch.float64) - location) / scale).atan() / pi
    ends = torch.cat([below.new_zeros(1), below, below.new_ones(1)])
    return ends.diff().log().float()


def bump(centre: float | Tensor, width: float = 10.0, actions: int = ACTIONS) -> Tensor:
    """R(a) `[..., actions]` of centres `[...]`."""
    apart = torch.arange(actions) - torch.as_tensor(centre, dtype=torch.float32).unsqueeze(-1)
    return (-(apart / width).square()).exp()


def rewarded_by(table: Tensor) -> ActionReward:
    """The reward of every action in every context by a table `[*copies, actions]` (or fewer leading axes)."""

    def reward(contexts: Tensor, actions: Tensor) -> Tensor:
        return table.unsqueeze(-2).expand(*actions.shape[:-1], table.shape[-1]).gather(-1, actions)

    return reward


class ContextPolicy(nn.Module):
    """Linear(D, 50), LayerNorm, ReLU, 256, 256, to logits of all actions: `[*copies, B, D]` to `[*copies, B, A]`."""

    def __init__(
        self, copies: tuple[int, ...] = (), context: int = CONTEXT, actions: int = ACTIONS, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.first = MLP((context, 50), copies, generator=generator)
        self.scale = nn.Parameter(torch.ones(*copies, 1, 50))
        self.shift = nn.Parameter(torch.zeros(*copies, 1, 50))
        self.rest = MLP((50, 256, 256, actions), copies, generator=generator)

    def forward(self, contexts: Tensor) -> Tensor:
        x = nn.functional.layer_norm(self.first(contexts), (50,))
        return self.rest(torch.relu(x * self.scale + self.shift))


def fit_to_reference(policy: nn.Module, contexts: Tensor, reference: Tensor, steps: int = 100, lr: float = 0.01) -> Tensor:
    """Where every arm starts: Adam on KL(pi || ref) at the contexts `[*copies, B, D]`; returns the last KL `[*copies]`."""
    optimiser = adam(policy.parameters(), lr)
    kl = torch.zeros(())
    for _ in range(steps):
        kl = Choice(policy(contexts)).kl(Choice(reference)).mean(-1)
        descend(kl.sum(), optimiser)
    return kl.detach()
