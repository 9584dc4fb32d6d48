"""CQL(H): a soft actor-critic whose critics are pushed down where the policy and chance would go, and up at logged actions.

Kumar, Zhou, Tucker, Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020, arXiv 2006.04779: Eq. 4
(CQL(H)) with the importance weights of its appendix on implementation, on the losses of `methods.online.sac`. The order of the steps
and the defaults are those of the official code with the settings its README gives for MuJoCo: weight 5 without the Lagrange
multiplier, actor at 1e-4, three hidden layers of 256, no entropy in the target, behaviour cloning in the first 40,000 updates.
All samples are drawn from the policy before its step.

Departures: observations are scaled by the log's statistics; the policy's output is that of `Gaussian` (log std squashed into
[-5, 2]). A weight of 0 is SAC on a fixed log.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn

from surefoot.data.batches import Transitions
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.methods.offline.td3 import critic_loss
from surefoot.methods.online.sac import actor_loss, soft_target, temperature_loss
from surefoot.nn.distributions import TanhNormal
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.families import Gaussian

MAX_MULTIPLIER = 1e6  # bound of the Lagrange multiplier, as in the official code


@dataclass(frozen=True)
class CQLConfig:
    min_q_weight: float = 5.0
    """Weight of the conservative gap (the official code: 5 or 10 for MuJoCo, and 1 where lagrange_threshold is set)."""
    lagrange_threshold: float | None = None
    """Weighted gap that a Lagrange multiplier on the weight is tuned to (None: the weight is fixed)."""
    n_actions: int = 10
    """Actions drawn for the gap at each state: uniformly, from the policy there, and from the policy at the next state, each."""
    backup_entropy: bool = False
    """Count the entropy in the critics' target, as SAC does."""
    bc_steps: int = 40_000
    """Updates at the start in which the actor imitates the log instead of climbing the critics."""
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    actor_lr: float = 1e-4
    """Adam's learning rate of the actor."""
    alpha_lr: float = 1e-4
    """Adam's learning rate of the temperature (0 keeps it at alpha_start; the official code takes the actor's)."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics and of the Lagrange multiplier."""
    alpha_start: float = 1.0
    """Temperature (weight of the entropy) at the start of training."""
    target_entropy: float | None = None
    """Entropy that the temperature is tuned to, in nats (None: minus the number of action dimensions)."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    batch_size: int = 256
    """Transitions in a batch."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        if not 0.0 < self.tau <= 1.0:
            raise ConfigError(f"tau is {self.tau}: it must lie above 0 and be at most 1.")
        for name in ("min_q_weight", "bc_steps", "alpha_lr"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        for name in ("n_actions", "actor_lr", "critic_lr", "alpha_start", "batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def conservative_gap(q: Tensor, logdensity: Tensor, q_data: Tensor) -> Tensor:
    """mean_b (log sum_i exp(Q(s_b, a_i)) / p(a_i) - Q(s_b, a_b)), a_i ~ p (Eq. 4): one a critic, `[..., n]`.

    `q` `[..., n, N, B]` at N sampled actions, `logdensity` `[..., N, B]` of each under what it was drawn from, `q_data`
    `[..., n, B]`. The sum less log N estimates log of the integral of exp Q; the constant log N moves no weight and is left in.
    """
    if q.dim() != logdensity.dim() + 1 or q.shape[-2:] != logdensity.shape[-2:] or q_data.shape != (*q.shape[:-2], q.shape[-1]):
        raise ValueError(
            f"values {tuple(q.shape)} must be [..., n, N, B] where log-densities {tuple(logdensity.shape)} are [..., N, B] "
            f"and logged values {tuple(q_data.shape)} [..., n, B]."
        )
    return (torch.logsumexp(q - logdensity.unsqueeze(-3), -2) - q_data).mean(-1)


def cloning_loss(logprob: Tensor, logprob_data: Tensor, alpha: Tensor) -> Tensor:
    """mean_b (alpha log pi(a|s_b) - log pi(a_b|s_b)): `[...]`; SAC's actor loss with the log's actions in place of the critics."""
    if logprob.shape != logprob_data.shape or alpha.shape != logprob.shape[:-1]:
        raise ValueError(f"log-densities {tuple(logprob.shape)}, {tuple(logprob_data.shape)} and alpha {tuple(alpha.shape)} must agree.")
    return (alpha.unsqueeze(-1) * logprob - logprob_data).mean(-1)


def multiplier_loss(log_multiplier: Tensor, excess: Tensor) -> Tensor:
    """-min(exp(log_multiplier), 1e6) mean_i excess_i: `[...]` of gaps beyond their threshold `[..., n]`; grows while they are positive."""
    if log_multiplier.shape != excess.shape[:-1]:
        raise ValueError(f"multipliers {tuple(log_multiplier.shape)} must be [...] where gaps {tuple(excess.shape)} are [..., n].")
    return -log_multiplier.exp().clamp(max=MAX_MULTIPLIER) * excess.detach().mean(-1)


# --- method ---------------------------------------------------------------------------------------------------------


class CQL(Method):
    """min_Q w E[ log int exp Q(s, a) da - Q(s, a_logged) ] + Bellman error (Eq. 4), and SAC's actor on that Q."""

    config_class: ClassVar[type] = CQLConfig
    config: CQLConfig

    def __init__(self, spec: Spec, config: CQLConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.target_entropy = -float(spec.box.dim) if config.target_entropy is None else config.target_entropy
        self.policy: Gaussian = Gaussian(spec, config.hidden, self.copies, device=device, generator=self.generator)
        self.critic = Critic(spec.obs_dim + spec.box.dim, config.hidden, copies=self.copies, generator=self.generator, device=device)
        self.target_critic = frozen_copy(self.critic)
        self.log_alpha = nn.Parameter(torch.full(self.copies, config.alpha_start, device=device).log())
        self.log_multiplier = nn.Parameter(torch.zeros(self.copies, device=device))  # stays 0 if there is no threshold
        self.actor_optimiser = adam(self.policy.net.parameters(), config.actor_lr)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr)
        self.alpha_optimiser = adam([self.log_alpha], config.alpha_lr)
        self.multiplier_optimiser = adam([self.log_multiplier], config.critic_lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.steps += 1
        t = self.in_units(batch)
        policy = self.policy.distribution(t.obs)
        a, logprob = policy.sample(self.generator)  # [*copies, B, A], [*copies, B]
        descend(temperature_loss(self.log_alpha, logprob, self.target_entropy).sum(), self.alpha_optimiser)
        alpha = self.log_alpha.detach().exp()  # [*copies]

        with torch.no_grad():  # what the critics need of the policy, before its step
            next_policy = self.policy.distribution(t.next_obs)
            y = self.target(t, next_policy, alpha)
            proposals = self.proposals(policy, next_policy)

        if self.steps <= self.config.bc_steps:
            loss_pi = cloning_loss(logprob, policy.log_prob(t.action), alpha)
        else:
            loss_pi = actor_loss(self.critic(t.obs, a), logprob, alpha)
        descend(loss_pi.sum(), self.actor_optimiser)

        metrics = self.learn_critic(t, y, *proposals)
        polyak_(self.target_critic, self.critic, self.config.tau)
        return metrics | {"actor_loss": loss_pi.detach(), "entropy": -logprob.detach().mean(-1), "alpha": alpha}

    def learn_critic(self, t: Transitions, y: Tensor, proposals: Tensor, logdensity: Tensor) -> dict[str, Tensor]:
        """The critics' step; `proposals` `[*copies, N, B, A]` were drawn with `logdensity` `[*copies, N, B]`."""
        n, batch = logdensity.shape[-2:]
        s = t.obs.unsqueeze(-3).expand(*proposals.shape[:-1], -1)  # [*copies, N, B, S]
        q = self.critic(torch.cat((t.obs, s.flatten(-3, -2)), -2), torch.cat((t.action, proposals.flatten(-3, -2)), -2))
        q_data, q_proposed = q[..., :batch], q[..., batch:].unflatten(-1, (n, batch))  # [*copies, 2, B], [*copies, 2, N, B]
        bellman = critic_loss(q_data, y)
        gap = self.config.min_q_weight * conservative_gap(q_proposed, logdensity, q_data)  # [*copies, 2]
        conservative = gap.sum(-1)
        if self.config.lagrange_threshold is not None:
            excess = gap - self.config.lagrange_threshold
            conservative = self.log_multiplier.detach().exp().clamp(max=MAX_MULTIPLIER) * excess.sum(-1)
            descend(multiplier_loss(self.log_multiplier, excess).sum(), self.multiplier_optimiser)
        descend((bellman + conservative).sum(), self.critic_optimiser)
        return {"critic_loss": bellman.detach(), "conservative_loss": conservative.detach(), "q_mean": q_data.detach().mean((-2, -1))}

    @torch.no_grad()
    def target(self, t: Transitions, next_policy: TanhNormal, alpha: Tensor) -> Tensor:
        """y of the target critics at an action of the policy, without its entropy unless asked for: `[*copies, B]`."""
        next_a, next_logprob = next_policy.sample(self.generator)
        entropy_weight = alpha if self.config.backup_entropy else torch.zeros_like(alpha)
        return soft_target(t.reward, t.terminated, self.target_critic(t.next_obs, next_a), next_logprob, entropy_weight, self.config.gamma)

    @torch.no_grad()
    def proposals(self, policy: TanhNormal, next_policy: TanhNormal) -> tuple[Tensor, Tensor]:
        """Actions to push down at each state: uniform ones, and of the policy there and at the next state; log-densities beside them."""
        n, shape = self.config.n_actions, policy.mu.shape
        uniform = policy.mu.new_empty(*shape[:-2], n, *shape[-2:]).uniform_(-1.0, 1.0, generator=self.generator)
        next_a, next_logprob = next_policy.samples(n, self.generator)
        a, logprob = policy.samples(n, self.generator)
        return torch.cat((uniform, next_a, a), -3), torch.cat((torch.full_like(logprob, shape[-1] * log(0.5)), next_logprob, logprob), -2)
