"""The TD3 core that TD3+BC, A2PR and PRDC share: twin critics, target smoothing, a delayed actor, slow targets.

Fujimoto, van Hoof, Meger, "Addressing Function Approximation Error in Actor-Critic Methods", 2018, arXiv 1802.09477v3 (Alg. 1);
the actor's scale lambda is that of TD3+BC, arXiv 2106.06860v2 (Eq. 5). Departures: observations are scaled by the log's
statistics and actions to [-1, 1], so the paper's noise and clip are shares of that range; without a regulariser lambda scales the
actor's whole loss, which Adam all but ignores, so that `TD3` alone is the paper's TD3 on a fixed log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.families import Deterministic


@dataclass(frozen=True)
class TD3Config:
    alpha: float = 2.5
    """Weight of the critic's value against the regulariser (lambda = alpha / mean |Q|)."""
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.005
    """Share of the online network that enters its target at each actor step."""
    policy_freq: int = 2
    """Critic steps for each step of the actor and the targets."""
    target_noise: float = 0.2
    """Standard deviation of the noise on target actions, which lie in [-1, 1]."""
    noise_clip: float = 0.5
    """Bound of that noise."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actor."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] | None = None
    """Widths of the critics' hidden layers (None: as the actor's)."""
    batch_size: int = 256
    """Transitions in a batch."""

    @property
    def critic_widths(self) -> tuple[int, ...]:
        return self.hidden if self.critic_hidden is None else self.critic_hidden

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        if not 0.0 < self.tau <= 1.0:
            raise ConfigError(f"tau is {self.tau}: it must lie above 0 and be at most 1.")
        for name in ("alpha", "target_noise", "noise_clip"):
            if getattr(self, name) < 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        for name in ("policy_freq", "batch_size", "actor_lr", "critic_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def td_target(reward: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - terminated) min_i Q_i(s', a'), arXiv 1802.09477 Eq. 10: `[..., B]` of `next_q` `[..., n, B]`."""
    _check_critics(next_q, reward)
    return reward + (gamma * (1.0 - terminated)) * next_q.amin(-2)


def critic_loss(q: Tensor, y: Tensor) -> Tensor:
    """sum_i mean_b (Q_i - y)^2: `[...]` of `q` `[..., n, B]` and `y` `[..., B]`."""
    _check_critics(q, y)
    return (q - y.unsqueeze(-2)).square().mean(-1).sum(-1)


def value_loss(q: Tensor, alpha: float) -> Tensor:
    """-lambda mean_b Q(s, pi(s)), lambda = alpha / mean_b |Q| without gradient (arXiv 2106.06860 Eq. 5): `[...]` of `q` `[..., B]`.

    1e-8 keeps lambda finite where all values are zero.
    """
    scale = alpha / (q.detach().abs().mean(-1) + 1e-8)
    return -scale * q.mean(-1)


def regulariser(p: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1/(B A) sum_bj w_b (p_bj - target_bj)^2: `[...]` of actions `[..., B, A]` and weights `[..., B]` (None: 1)."""
    if p.shape != target.shape or (weight is not None and weight.shape != p.shape[:-1]):
        raise ValueError(f"actions {tuple(p.shape)}, targets {tuple(target.shape)} and weights must agree.")
    square = (p - target).square()
    if weight is not None:
        square = square * weight.unsqueeze(-1)
    return square.mean((-2, -1))


def _check_critics(q: Tensor, y: Tensor) -> None:
    if q.dim() != y.dim() + 1 or q.shape[-1] != y.shape[-1]:
        raise ValueError(f"critic values {tuple(q.shape)} must be [..., n, B] where targets {tuple(y.shape)} are [..., B].")


# --- method ---------------------------------------------------------------------------------------------------------


class TD3(Method):
    """TD3 on a fixed log; a subclass gives `reg_target`, what the actor is pulled to."""

    config_class: ClassVar[type] = TD3Config
    config: TD3Config

    def __init__(self, spec: Spec, config: TD3Config, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.policy: Deterministic = Deterministic(spec, config.hidden, self.copies, device=device, generator=self.generator)
        self.critic = Critic(
            spec.obs_dim + spec.box.dim, config.critic_widths, n=2, copies=self.copies, generator=self.generator, device=device
        )
        self.target_actor = frozen_copy(self.policy.net)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimiser = adam(self.policy.net.parameters(), config.actor_lr)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.steps += 1
        t = self.in_units(batch)
        metrics = self.learn_values(t)
        if self.steps % self.config.policy_freq == 0:
            metrics |= self.learn_actor(t)
            polyak_(self.target_critic, self.critic, self.config.tau)
            polyak_(self.target_actor, self.policy.net, self.config.tau)
        return metrics

    def learn_values(self, t: Transitions) -> dict[str, Tensor]:
        """The critics' step."""
        return self.learn_critic(t, self.target(t, self.next_action(t)))

    @torch.no_grad()
    def next_action(self, t: Transitions) -> Tensor:
        """a~' = clip(pi'(s') + clip(noise)), target policy smoothing (arXiv 1802.09477, section 5.3): `[*copies, B, A]`."""
        noise = torch.empty_like(t.action).normal_(std=self.config.target_noise, generator=self.generator)
        noise.clamp_(-self.config.noise_clip, self.config.noise_clip)
        return noise.add_(torch.tanh(self.target_actor(t.next_obs))).clamp_(-1.0, 1.0)

    @torch.no_grad()
    def target(self, t: Transitions, next_action: Tensor) -> Tensor:
        """y of the target critics at a~': `[*copies, B]`."""
        return td_target(t.reward, t.terminated, self.target_critic(t.next_obs, next_action), self.config.gamma)

    def learn_critic(self, t: Transitions, y: Tensor) -> dict[str, Tensor]:
        loss = critic_loss(self.critic(t.obs, t.action), y)  # [*copies]
        descend(loss.sum(), self.critic_optimiser)
        return {"critic_loss": loss.detach(), "target_mean": y.mean(-1)}

    def learn_actor(self, t: Transitions) -> dict[str, Tensor]:
        """The actor's step on -lambda Q1(s, pi(s)) and the regulariser."""
        p = self.policy.unit(t.obs)
        q = self.critic.first(t.obs, p)  # [*copies, B]
        loss = value_loss(q, self.config.alpha)
        pull = self.reg_target(t.obs, p, t.action)
        metrics = {"q_mean": q.detach().mean(-1)}
        if pull is not None:
            distance = regulariser(p, *pull)
            loss = loss + distance
            metrics["regulariser"] = distance.detach()
        descend(loss.sum(), self.actor_optimiser)
        return metrics | {"actor_loss": loss.detach()}

    def reg_target(self, s: Tensor, p: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Where the actor is pulled to, `[*copies, B, A]`, and each sample's weight `[*copies, B]` (None: 1); None: nowhere.

        `s` are scaled observations, `p` the policy's and `a` the logged actions in [-1, 1].
        """
        return None
