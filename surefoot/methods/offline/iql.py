"""IQL: values by expectile regression on logged actions alone, and a policy by advantage-weighted regression.

Kostrikov, Nair, Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022, arXiv 2110.06169: Eq. 5 (V),
Eq. 6 (Q), Eq. 7 (policy), Alg. 1. The steps, their order and the defaults are those of the official code for MuJoCo: V, then the
actor with the new V, then the critics with the new V, then the target critics; the advantage is the same min of the target critics
as in V's loss. A box of actions gets a normal policy around a tanh mean with one learned standard deviation a dimension.

Departures: observations are scaled by the log's statistics (a spec without them turns that off); networks start from torch's default
initialisation, not from orthogonal matrices. The official code multiplies the rewards of MuJoCo logs by 1000 / (best - worst
return); here that is asked for by `scale_rewards` and off by default, since it depends on the log as a whole. Discrete actions, which
the paper does not have, get a categorical policy and one-hot actions at the critics; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.spec import Discrete, Spec, unit_action
from surefoot.errors import ConfigError, DataError
from surefoot.methods.base import Method
from surefoot.methods.offline.td3 import critic_loss, td_target
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.families import Categorical, NormalPolicy


@dataclass(frozen=True)
class IQLConfig:
    expectile: float = 0.7
    """Expectile of the logged actions' values that V(s) is: 0.5 is their mean, near 1 their best (AntMaze: 0.9)."""
    temperature: float = 3.0
    """Inverse temperature beta of the weights exp(beta A) of logged actions: 0 is behaviour cloning (AntMaze: 10)."""
    max_weight: float = 100.0
    """Bound of those weights."""
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actor at the start."""
    actor_lr_steps: int | None = 1_000_000
    """Updates over which the actor's learning rate falls to 0 along a cosine; it stays there (None: it does not fall)."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics."""
    value_lr: float = 3e-4
    """Adam's learning rate of V."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of all networks."""
    batch_size: int = 256
    """Transitions in a batch."""
    scale_rewards: bool = False
    """Multiply rewards by 1000 / (best - worst return of the log's episodes), as the official code does for MuJoCo locomotion."""

    def __post_init__(self) -> None:
        if not 0.0 < self.expectile < 1.0:
            raise ConfigError(f"expectile is {self.expectile}: it must lie between 0 and 1, both excluded.")
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        if not 0.0 < self.tau <= 1.0:
            raise ConfigError(f"tau is {self.tau}: it must lie above 0 and be at most 1.")
        if not self.temperature >= 0.0:
            raise ConfigError(f"temperature is {self.temperature}: it must not be negative.")
        for name in ("max_weight", "actor_lr", "critic_lr", "value_lr", "batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        if self.actor_lr_steps is not None and self.actor_lr_steps < 1:
            raise ConfigError(f"actor_lr_steps is {self.actor_lr_steps}: it must be at least 1, or None.")


# --- losses ---------------------------------------------------------------------------------------------------------


def expectile_loss(q: Tensor, v: Tensor, expectile: float) -> Tensor:
    """mean_b |expectile - 1(u < 0)| u^2, u = Q - V (Eq. 5): `[...]` of values `[..., B]`."""
    if q.shape != v.shape:
        raise ValueError(f"values {tuple(q.shape)} and {tuple(v.shape)} must have one shape.")
    u = q - v
    return (torch.where(u > 0.0, expectile, 1.0 - expectile) * u.square()).mean(-1)


def advantage_weights(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """min(exp(beta A), max_weight): weights of Eq. 7, `[..., B]`; the paper does not have the bound, its code does."""
    return (temperature * advantage).exp().clamp(max=max_weight)


def weighted_regression(logprob: Tensor, weight: Tensor) -> Tensor:
    """-mean_b w_b log pi(a_b|s_b) (Eq. 7): `[...]` of log-densities and weights `[..., B]`."""
    if logprob.shape != weight.shape:
        raise ValueError(f"log-densities {tuple(logprob.shape)} and weights {tuple(weight.shape)} must have one shape.")
    return -(weight * logprob).mean(-1)


# --- method ---------------------------------------------------------------------------------------------------------


class IQL(Method):
    """V(s) is an expectile of the logged Q(s, a), Q backs V up, and pi imitates actions by exp(beta (Q - V)) (Alg. 1)."""

    config_class: ClassVar[type] = IQLConfig
    config: IQLConfig

    def __init__(self, spec: Spec, config: IQLConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        discrete = isinstance(spec.action, Discrete)
        family = Categorical if discrete else NormalPolicy
        n_in = spec.obs_dim + (spec.n_actions if discrete else spec.box.dim)
        self.policy: Categorical | NormalPolicy = family(spec, config.hidden, self.copies, device=device, generator=self.generator)
        self.critic = Critic(n_in, config.hidden, n=2, copies=self.copies, generator=self.generator, device=device)
        self.value = Critic(spec.obs_dim, config.hidden, n=1, copies=self.copies, generator=self.generator, device=device)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimiser = adam(self.policy.parameters(), config.actor_lr)
        self.critic_optimiser = adam(self.critic.parameters(), config.critic_lr)
        self.value_optimiser = adam(self.value.parameters(), config.value_lr)
        self.reward_scale = torch.ones(*self.copies, 1, device=device)
        self.prepared = not config.scale_rewards

    def prepare(self, logs: Sequence[Log]) -> None:
        """Set each member's reward scale from its log, if `scale_rewards` asks for it. Raises DataError if all returns are equal."""
        if not self.config.scale_rewards:
            return
        members = self.copies[0] if self.copies else 1
        if len(logs) not in (1, members):
            raise ConfigError(f"{len(logs)} logs were given for {members} members: give one shared log, or one log a member.")
        scales = [1000.0 / _range_of_returns(log) for log in logs]
        self.reward_scale.copy_(torch.tensor(scales).reshape(-1, *(1,) * len(self.copies)))
        self.prepared = True

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        if not self.prepared:
            raise ConfigError("scale_rewards needs the returns of the whole log: call `prepare([log])` before the first update.")
        self.steps += 1
        t = self.in_units(batch)
        with torch.no_grad():
            q = self.target_critic(t.obs, t.action).amin(-2)  # [*copies, B]
        loss_v = expectile_loss(q, self.value(t.obs).squeeze(-2), self.config.expectile)
        descend(loss_v.sum(), self.value_optimiser)
        with torch.no_grad():  # the new V of s and s' at once
            v, next_v = self.value(torch.cat((t.obs, t.next_obs), -2)).chunk(2, -1)  # [*copies, 1, B]
        advantage = q - v.squeeze(-2)

        weight = advantage_weights(advantage, self.config.temperature, self.config.max_weight)
        loss_pi = weighted_regression(self.logprob(t.obs, batch.action), weight)
        self.actor_optimiser.param_groups[0]["lr"] = self.actor_lr()
        descend(loss_pi.sum(), self.actor_optimiser)

        y = td_target(t.reward, t.terminated, next_v, self.config.gamma)  # Eq. 6: no action of s' is needed
        loss_q = critic_loss(self.critic(t.obs, t.action), y)
        descend(loss_q.sum(), self.critic_optimiser)
        polyak_(self.target_critic, self.critic, self.config.tau)
        return {
            "value_loss": loss_v.detach(),
            "critic_loss": loss_q.detach(),
            "actor_loss": loss_pi.detach(),
            "v_mean": v.mean((-2, -1)),
            "advantage_mean": advantage.mean(-1),
            "clipped_weights": (weight >= self.config.max_weight).float().mean(-1),
        }

    def in_units(self, batch: Transitions) -> Transitions:
        """The batch as the networks see it: scaled observations and rewards, actions in [-1, 1] or one-hot `[*copies, B, n]`."""
        if isinstance(self.spec.action, Discrete):
            each = torch.arange(self.spec.n_actions, device=batch.action.device)
            action = (batch.action.unsqueeze(-1) == each).float()
        else:
            action = unit_action(batch.action, self.spec.box)
        reward = batch.reward * self.reward_scale if self.config.scale_rewards else batch.reward
        return Transitions(self.normaliser(batch.obs), action, reward, self.normaliser(batch.next_obs), batch.terminated)

    def logprob(self, s: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s), `[*copies, B]`, of scaled observations and actions as they were logged."""
        if isinstance(self.policy, Categorical):
            return torch.log_softmax(self.policy.net(s), -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return self.policy.distribution(s).log_prob(unit_action(action, self.spec.box))

    def actor_lr(self) -> float:
        """The actor's learning rate at this update: a cosine from `actor_lr` at the first one to 0 after `actor_lr_steps`."""
        if self.config.actor_lr_steps is None:
            return self.config.actor_lr
        share = min(self.steps - 1, self.config.actor_lr_steps) / self.config.actor_lr_steps
        return self.config.actor_lr * 0.5 * (1.0 + cos(pi * share))


def _range_of_returns(log: Log) -> float:
    spread = float(log.episode_returns.max() - log.episode_returns.min())
    if spread <= 0.0:
        raise DataError(f"{log.source}: all episodes have one return, so rewards cannot be scaled by its range: leave scale_rewards off.")
    return spread
