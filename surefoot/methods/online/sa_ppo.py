"""SA-PPO: PPO whose decisions may not change much where its observation is changed a little.

Zhang, Chen, Xiao, Li, Liu, Boning and Hsieh, "Robust Deep Reinforcement Learning against Adversarial Perturbations on State
Observations" (NeurIPS 2020, arXiv 2003.08938v7): Eq. 5-6 and Alg. 1, with the inner maximum found by stochastic gradient Langevin
dynamics (section 3.2), as in the code that PROTECTED (arXiv 2402.12673v1) builds on. To the loss of each minibatch it adds

    kappa R,   R = mean_s max_{|s' - s|_inf <= eps(t)} sum_i ((mu_i(s') - mu_i(s)) / sigma_i)^2,

twice the KL divergence of the two Gaussians, where mu(s) is held fixed: the gradient is that of mu(s') and sigma. eps rises linearly over
training, in units of scaled observations. Departures: with discrete actions R is twice KL(pi(s) || pi(s')), which the paper leaves to
SA-DQN; the convex relaxation that the paper has beside Langevin dynamics is not covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.nn.distributions import Choice, Normal
from surefoot.policies.families import Categorical, NormalPolicy

INVERSE_TEMPERATURE = 1e-5
"""Of the Langevin noise, as in the official code: nearly none."""


@dataclass(frozen=True)
class SAPPOConfig(PPOConfig):
    radius: float = 0.075
    """Largest change of each scaled observation that the policy is made robust to (eps)."""
    kappa: float = 0.3
    """Weight of the regulariser."""
    radius_start: int = 1
    """Update at which the radius begins to rise from 0."""
    radius_length: int = 732
    """Updates over which it rises to its full size (0: it is there at once)."""
    langevin_steps: int = 2
    """Steps of the search for the worst observation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("radius", "kappa", "radius_start", "radius_length"):
            if not 0.0 <= getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if self.langevin_steps < 1:
            raise ConfigError(f"langevin_steps is {self.langevin_steps}: at least one is needed.")

    def radius_at(self, update: int) -> float:
        """eps(t) at the t-th update, the first of which is 1."""
        if self.radius_length == 0:
            return self.radius if update >= self.radius_start else 0.0
        return self.radius * min(max((update - self.radius_start) / self.radius_length, 0.0), 1.0)


# --- losses -----------------------------------------------------------------------------------------------------------


def departure(moved: Normal | Choice, anchor: Normal | Choice) -> Tensor:
    """How far the decision has moved from `anchor`, which is held fixed but for sigma: `[*copies, b]`."""
    if isinstance(moved, Normal) and isinstance(anchor, Normal):
        return ((moved.mu - anchor.mu.detach()) / moved.log_std.exp()).square().sum(-1)
    assert isinstance(moved, Choice) and isinstance(anchor, Choice)
    fixed = anchor.logprobs.detach()
    return 2.0 * (fixed.exp() * (fixed - moved.logprobs)).sum(-1)


def langevin(
    policy: NormalPolicy | Categorical, obs: Tensor, anchor: Normal | Choice, eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    """An observation `[*copies, b, S]` within eps of each of `obs` (both scaled) at which the decision departs most, by Langevin steps."""
    low, high, step = obs - eps, obs + eps, eps / steps
    noise = lambda: torch.empty_like(obs).normal_(generator=generator)  # noqa: E731
    worst = obs + step * noise().sign()  # at s itself the departure has no gradient
    for i in range(steps):
        worst.requires_grad_()
        (slope,) = torch.autograd.grad(departure(policy.distribution(worst), anchor).sum(), worst)
        scale = sqrt(2.0 * step * INVERSE_TEMPERATURE) / (i + 2)
        worst = torch.clamp(worst.detach() + step * (slope + scale * noise()).sign(), low, high)
    return worst


# --- method -----------------------------------------------------------------------------------------------------------


class SAPPO(PPO):
    """PPO with the regulariser; with radius or kappa 0 it is PPO, bit for bit."""

    config_class: ClassVar[type] = SAPPOConfig
    config: SAPPOConfig

    def __init__(self, spec: Spec, config: SAPPOConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.updates = 0

    def update(self, batch: Segments) -> dict[str, Tensor]:
        self.updates += 1
        metrics = super().update(batch)
        return metrics | {"radius": torch.full(self.copies, self.config.radius_at(self.updates), device=self.device)}

    def regulariser(self, obs: Tensor, distribution: Normal | Choice) -> Tensor | None:
        eps = self.config.radius_at(self.updates)
        if eps == 0.0 or self.config.kappa == 0.0:
            return None
        worst = langevin(self.policy, obs, distribution, eps, self.config.langevin_steps, self.generator)
        return self.config.kappa * departure(self.policy.distribution(worst), distribution).mean(-1)
