"""SA-DQN: DQN whose greedy action may not change where its observation is changed a little.

Zhang, Chen, Xiao, Li, Liu, Boning and Hsieh, "Robust Deep Reinforcement Learning against Adversarial Perturbations on State
Observations" (NeurIPS 2020, arXiv 2003.08938v7), its hinge for Q-learning, with the inner maximum found by projected gradient descent.
To the loss of each batch it adds

    kappa R,   R = mean_s max( max_{|s' - s|_inf <= eps(t)} max_{a != a*} Q(s', a) - Q(s', a*), -c ),   a* = argmax_a Q(s, a) held fixed.

eps rises linearly from 0, in units of scaled observations; on Atari the paper has eps = 1/255 for pixels in [0, 1]. Departures: DQN's
own exploration and uniform replay (the paper has prioritised replay); the convex relaxation of the inner maximum is not covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.errors import ConfigError
from surefoot.methods.online.dqn import DQN, DQNConfig


@dataclass(frozen=True)
class SADQNConfig(DQNConfig):
    double: bool = True
    """Double DQN: the network chooses the action at the next observation, the target network values it."""
    dueling: bool = True
    """The value of the observation and the advantages of the actions apart (see `nn.conv.Dueling`)."""
    radius: float = 1.0 / 255.0
    """Largest change of each number of the scaled observation that the policy is made robust to (eps)."""
    kappa: float = 0.02
    """Weight of the regulariser."""
    margin: float = 1.0
    """By how much the greedy action's value is to exceed the others' (c); beyond it nothing more is asked."""
    radius_length: int = 10_000
    """Updates over which the radius rises from 0 to its full size (0: it is there at once)."""
    pgd_steps: int = 10
    """Steps of the search for the worst observation."""
    pgd_step: float = 0.25
    """Length of a step, as a share of the radius."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("radius", "kappa", "margin", "radius_length"):
            if not 0.0 <= getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if self.pgd_steps < 1 or not 0.0 < self.pgd_step < inf:
            raise ConfigError(f"pgd_steps is {self.pgd_steps} and pgd_step {self.pgd_step}: at least one step, of positive length.")

    def radius_at(self, update: int) -> float:
        """eps(t) at the t-th update, the first of which is 1."""
        return self.radius * (min(update / self.radius_length, 1.0) if self.radius_length else 1.0)


# --- losses -----------------------------------------------------------------------------------------------------------


def overtaking(values: Tensor, best: Tensor) -> Tensor:
    """max_{a != a*} Q(a) - Q(a*): `[..., B]` of values `[..., B, n]` and a* `[..., B]` int64. Negative while a* is greedy."""
    if values.shape[:-1] != best.shape:
        raise ValueError(f"values {tuple(values.shape)} must be [..., B, n] where actions {tuple(best.shape)} are [..., B].")
    own = best.unsqueeze(-1)
    others = values.scatter(-1, own, -inf)
    return others.amax(-1) - values.gather(-1, own).squeeze(-1)


def hinge(overtaken: Tensor, margin: float) -> Tensor:
    """mean_b of max(x_b, -c): `[...]` of `[..., B]`."""
    return overtaken.clamp_min(-margin).mean(-1)


# --- method -----------------------------------------------------------------------------------------------------------


class SADQN(DQN):
    """DQN with the regulariser; with kappa or radius 0 it is DQN (with the same settings), bit for bit."""

    config_class: ClassVar[type] = SADQNConfig
    config: SADQNConfig

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        metrics = super().update(batch)
        return metrics | {"radius": torch.full(self.copies, self.config.radius_at(self.steps), device=self.device)}

    def regulariser(self, s: Tensor, values: Tensor) -> Tensor | None:
        eps = self.config.radius_at(self.steps)
        if eps == 0.0 or self.config.kappa == 0.0:
            return None
        best = values.detach().argmax(-1)
        worst = self.worst(s, best, eps)
        return self.config.kappa * hinge(overtaking(self.policy.net(worst), best), self.config.margin)

    def worst(self, s: Tensor, best: Tensor, eps: float) -> Tensor:
        """Observations `[*copies, B, S]` within eps of `s` at which `best` is overtaken most, or most nearly, from a random start."""
        low, high = s - eps, s + eps
        found = s + eps * torch.empty_like(s).uniform_(-1.0, 1.0, generator=self.generator)
        for _ in range(self.config.pgd_steps):
            found.requires_grad_()
            (slope,) = torch.autograd.grad(overtaking(self.policy.net(found), best).sum(), found)
            found = torch.clamp(found.detach() + self.config.pgd_step * eps * slope.sign(), low, high)
        return found
