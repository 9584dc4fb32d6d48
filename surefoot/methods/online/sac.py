"""SAC: an off-policy actor-critic that maximises return plus entropy, and tunes the weight between the two.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv 1812.05905v2: Eq. 5 with Eq. 3 (critics), Eq. 9 (actor),
Eq. 18 (temperature), Alg. 1, the appendices on bounded actions and hyperparameters. Departures: the temperature's loss is linear in
log alpha, as in Stable-Baselines3, where Eq. 18 is linear in alpha (same sign, but the step does not shrink with alpha); actions are
in units of [-1, 1], and so are their densities and the target entropy -A; the actor's log std is squashed smoothly into [-5, 2],
as in CleanRL, whose `warmup` is the default too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from surefoot.data.batches import Transitions
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.families import Gaussian


@dataclass(frozen=True)
class SACConfig:
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actor."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics."""
    alpha_lr: float = 3e-4
    """Adam's learning rate of the temperature (0 keeps it at alpha_start)."""
    eps: float = 1e-8
    """Adam's epsilon (torch's own)."""
    alpha_start: float = 1.0
    """Temperature (weight of the entropy) at the start of training."""
    target_entropy: float | None = None
    """Entropy that the temperature is tuned to, in nats (None: minus the number of action dimensions)."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    batch_size: int = 256
    """Transitions in a batch."""
    buffer_size: int = 1_000_000
    """Newest transitions that are kept and learned from."""
    warmup: int = 5_000
    """Uniform random steps in the environment before learning."""
    env_steps: int = 1
    """Environment steps that are taken at once, before each `updates` updates."""
    updates: int = 1
    """Updates after each `env_steps` environment steps."""
    n_envs: int = 1
    """Environments that are stepped side by side (they share the environment steps)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        if not 0.0 < self.tau <= 1.0:
            raise ConfigError(f"tau is {self.tau}: it must lie above 0 and be at most 1.")
        for name in ("alpha_lr", "warmup"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        for name in ("actor_lr", "critic_lr", "eps", "alpha_start", "batch_size", "buffer_size", "env_steps", "updates", "n_envs"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def soft_target(reward: Tensor, terminated: Tensor, next_q: Tensor, next_logprob: Tensor, alpha: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - terminated) (min_i Q_i(s', a') - alpha log pi(a'|s')), Eq. 3 in Eq. 5: `[..., B]`.

    `next_q` `[..., n, B]`, `alpha` `[...]`, all others `[..., B]`.
    """
    _check_critics(next_q, reward)
    _check_alpha(alpha, next_logprob)
    return reward + (gamma * (1.0 - terminated)) * (next_q.amin(-2) - alpha.unsqueeze(-1) * next_logprob)


def critic_loss(q: Tensor, y: Tensor) -> Tensor:
    """sum_i mean_b (Q_i - y)^2 / 2 (Eq. 5): `[...]` of `q` `[..., n, B]` and `y` `[..., B]`."""
    _check_critics(q, y)
    return 0.5 * (q - y.unsqueeze(-2)).square().mean(-1).sum(-1)


def actor_loss(q: Tensor, logprob: Tensor, alpha: Tensor) -> Tensor:
    """mean_b (alpha log pi(a|s) - min_i Q_i(s, a)), a ~ pi reparameterised (Eq. 9): `[...]` of `q` `[..., n, B]`."""
    _check_critics(q, logprob)
    _check_alpha(alpha, logprob)
    return (alpha.unsqueeze(-1) * logprob - q.amin(-2)).mean(-1)


def temperature_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float) -> Tensor:
    """-log alpha mean_b (log pi(a|s) + target entropy) (Eq. 18): `[...]`; alpha grows while the entropy is below its target."""
    _check_alpha(log_alpha, logprob)
    return -log_alpha * (logprob.detach().mean(-1) + target_entropy)


def _check_critics(q: Tensor, y: Tensor) -> None:
    if q.dim() != y.dim() + 1 or q.shape[-1] != y.shape[-1]:
        raise ValueError(f"critic values {tuple(q.shape)} must be [..., n, B] where targets {tuple(y.shape)} are [..., B].")


def _check_alpha(alpha: Tensor, logprob: Tensor) -> None:
    if alpha.shape != logprob.shape[:-1]:
        raise ValueError(f"temperatures {tuple(alpha.shape)} must be [...] where log-densities {tuple(logprob.shape)} are [..., B].")


# --- method ---------------------------------------------------------------------------------------------------------


class SAC(Method):
    """pi = argmax E[ sum_t gamma^t (r_t + alpha H(pi(.|s_t))) ], with alpha tuned so that H meets its target (Alg. 1)."""

    config_class: ClassVar[type] = SACConfig
    config: SACConfig

    def __init__(self, spec: Spec, config: SACConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.target_entropy = -float(spec.box.dim) if config.target_entropy is None else config.target_entropy
        self.policy: Gaussian = Gaussian(spec, config.hidden, self.copies, device=device, generator=self.generator)
        self.critic = Critic(spec.obs_dim + spec.box.dim, config.hidden, copies=self.copies, generator=self.generator, device=device)
        self.target_critic = frozen_copy(self.critic)
        self.log_alpha = nn.Parameter(torch.full(self.copies, config.alpha_start, device=device).log())
        self.actor_optimiser = adam(self.policy.net.parameters(), config.actor_lr, config.eps)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr, config.eps)
        self.alpha_optimiser = adam([self.log_alpha], config.alpha_lr, config.eps)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.steps += 1
        t = self.in_units(batch)
        a, logprob = self.policy.distribution(t.obs).sample(self.generator)  # [*copies, B, A], [*copies, B]
        alpha = self.log_alpha.detach().exp()  # [*copies]
        descend(temperature_loss(self.log_alpha, logprob, self.target_entropy).sum(), self.alpha_optimiser)

        next_a, next_logprob = self.next_action(t)
        y = self.target(t, next_a, next_logprob, alpha)
        loss_q = critic_loss(self.critic(t.obs, t.action), y)
        descend(loss_q.sum(), self.critic_optimiser)
        more = self.also_learn(t, next_a)

        q = self.critic(t.obs, a)  # [*copies, 2, B]
        loss_pi = actor_loss(q, logprob, alpha)
        descend(loss_pi.sum(), self.actor_optimiser)
        polyak_(self.target_critic, self.critic, self.config.tau)
        return {
            "critic_loss": loss_q.detach(),
            "actor_loss": loss_pi.detach(),
            "q_mean": q.detach().mean((-2, -1)),
            "entropy": -logprob.detach().mean(-1),
            "alpha": alpha,
            **more,
        }

    @torch.no_grad()
    def next_action(self, t: Transitions) -> tuple[Tensor, Tensor]:
        """A fresh unit action of the policy at the next observation and its log-density: `[*copies, B, A]`, `[*copies, B]`."""
        return self.policy.distribution(t.next_obs).sample(self.generator)

    @torch.no_grad()
    def target(self, t: Transitions, next_a: Tensor, next_logprob: Tensor, alpha: Tensor) -> Tensor:
        """y of the target critics at that action: `[*copies, B]`."""
        return soft_target(t.reward, t.terminated, self.target_critic(t.next_obs, next_a), next_logprob, alpha, self.config.gamma)

    def also_learn(self, t: Transitions, next_a: Tensor) -> dict[str, Tensor]:
        """What a method that extends SAC learns from the same batch, after the critics; its metrics."""
        return {}
