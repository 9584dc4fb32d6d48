"""PPO: several epochs of policy gradient on fresh steps, clipped where the policy has moved away from the one that took them.

Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347v2: Eq. 7 (the clipped surrogate), Eq. 9 (with value loss and
entropy), Eq. 11-12 (advantages, which are those of "Generalized Advantage Estimation", arXiv 1506.02438v6), Alg. 1. As in the codes that
the field compares with (Stable-Baselines3, CleanRL): actor and critic are apart, tanh, orthogonal, advantages are scaled to mean 0 and
variance 1 in each minibatch, the gradient's norm is bounded, observations are scaled by running statistics that belong to the policy,
rewards by the running deviation of their discounted sum.
From the same weights, rows and minibatches an update gives the weights that Stable-Baselines3's gives (tested). Departures: a box is
rescaled to [-1, 1] (so sigma 1 is half its width); a time limit is bootstrapped from the true last observation (CleanRL takes it for
a termination); what scales moves between batches and not at every step, the first batch being scaled by itself; nothing is clipped at
10 deviations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.nn.distributions import Choice, Normal
from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, descend
from surefoot.nn.running import RunningMoments
from surefoot.policies.families import Categorical, NormalPolicy


@dataclass(frozen=True)
class PPOConfig:
    n_steps: int = 2048
    """Steps of each environment between updates."""
    n_envs: int = 1
    """Environments that are stepped side by side."""
    epochs: int = 10
    """Passes over the steps of an update."""
    minibatch: int = 64
    """Steps in a minibatch (the last one of an epoch is left out where it would not be full)."""
    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Between one-step advantages (0) and sums of rewards (1)."""
    clip: float = 0.2
    """How far the ratio of new to old probability may move from 1 and still gain."""
    learning_rate: float = 3e-4
    """Adam's learning rate of actor and critic."""
    eps: float = 1e-5
    """Adam's epsilon (torch's own default is 1e-8; Stable-Baselines3 and CleanRL use this one)."""
    anneal: int = 0
    """Steps over which the learning rate falls linearly to 0 (0: it stays)."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy."""
    max_norm: float = 0.5
    """Largest norm of a gradient."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic."""
    raw_obs: bool = False
    """Do not scale observations by running statistics (which are saved with the policy)."""
    raw_reward: bool = False
    """Do not divide rewards by the running deviation of their discounted sum."""

    def __post_init__(self) -> None:
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it lies between 0 and 1.")
        for name in ("n_steps", "n_envs", "epochs", "minibatch", "clip", "learning_rate", "eps", "max_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        for name in ("anneal", "value_weight", "entropy_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        if not 2 <= self.minibatch <= self.n_steps * self.n_envs:
            raise ConfigError(
                f"minibatch is {self.minibatch}: it must be between 2 and the {self.n_steps * self.n_envs} steps of an update."
            )


# --- advantages and losses --------------------------------------------------------------------------------------------


def gae(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t) (Eq. 11-12), all `[..., T, N]`.

    V(s_{t+1}) is 0 where `terminated`; the sum stops where the episode `ended`. The recursion is along T.
    """
    delta = reward + gamma * (1.0 - terminated) * next_value - value
    carry = gamma * lam * (1.0 - ended)
    advantage = torch.empty_like(delta)
    following = torch.zeros_like(delta[..., 0, :])
    for t in reversed(range(delta.shape[-2])):
        following = delta[..., t, :] + carry[..., t, :] * following
        advantage[..., t, :] = following
    return advantage


def clipped_surrogate(logprob: Tensor, old_logprob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-mean_b min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = pi / pi_old (Eq. 7): `[...]` of `[..., B]`.

    For either sign of A this is min(ratio A, A + clip |A|), which costs less to differentiate.
    """
    if not logprob.shape == old_logprob.shape == advantage.shape:
        raise ValueError(f"{tuple(logprob.shape)}, {tuple(old_logprob.shape)} and {tuple(advantage.shape)} must all be [..., B].")
    ratio = (logprob - old_logprob).exp()
    return -torch.minimum(ratio * advantage, advantage + clip * advantage.abs()).mean(-1)


def standardised(x: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 along the last axis."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8)


def minibatches(rows: Sequence[Tensor], order: Tensor, size: int, lead: int) -> Iterator[tuple[Tensor, ...]]:
    """Tensors `[*copies, B, ...]` (axis `lead` is B), whose rows are put in `order`, in pieces of `size`; those left over are left out.

    One gather an epoch, of which the pieces are views: a gather a piece would cost a twentieth of an update.
    """
    order = order[: len(order) // size * size]
    return zip(*(x.index_select(lead, order).split(size, lead) for x in rows), strict=True)


# --- method -----------------------------------------------------------------------------------------------------------


class PPO(Method):
    """Maximise the clipped surrogate on each batch of fresh steps (Alg. 1). `steps` counts environment steps a member."""

    config_class: ClassVar[type] = PPOConfig
    config: PPOConfig
    policy: NormalPolicy | Categorical

    def __init__(self, spec: Spec, config: PPOConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        copies = tuple(copies)
        if not config.raw_obs:  # each member's own statistics
            spec = replace(spec, obs_mean=torch.zeros(*copies, spec.obs_dim), obs_std=torch.ones(*copies, spec.obs_dim))
        super().__init__(spec, config, copies, device, seed)
        shared: dict[str, Any] = {"activation": "tanh", "device": device, "generator": self.generator}
        if isinstance(spec.action, Discrete):
            self.policy = Categorical(spec, config.hidden, copies, **shared)
        else:
            self.policy = NormalPolicy(spec, config.hidden, copies, squashed=False, **shared)
        self.critic = MLP((spec.obs_dim, *config.hidden, 1), copies, **shared)
        self.policy.net.orthogonal_(0.01, self.generator)
        self.critic.orthogonal_(1.0, self.generator)
        self.normaliser = self.policy.normaliser
        self.optimiser = adam([*self.policy.parameters(), *self.critic.parameters()], config.learning_rate, config.eps)
        self.obs_moments = RunningMoments((*copies, spec.obs_dim), device)
        self.return_moments = RunningMoments((*copies, 1), device)
        self.discounted = torch.zeros(*copies, config.n_envs, device=device)  # running discounted sums of rewards

    def update(self, batch: Segments) -> dict[str, Tensor]:
        c, lead, first = self.config, len(self.copies), self.steps == 0
        if first:  # played unscaled, which a policy with a last layer of 0.01 hardly feels; learned from under its own scaling
            self._refresh(batch.obs)
        reward = batch.reward if c.raw_reward else self._scaled(batch)
        obs = self.normaliser(batch.obs.flatten(lead, lead + 1))  # [*copies, T N, S]; after the first batch, as the actor saw them
        action, shape = batch.action.flatten(lead, lead + 1), batch.reward.shape
        with torch.no_grad():
            old_logprob = self.policy.distribution(obs).log_prob(action)
            value = self.critic(obs).squeeze(-1)
            next_value = self.critic(self.normaliser(batch.next_obs.flatten(lead, lead + 1))).squeeze(-1)
            advantage = gae(reward, value.view(shape), next_value.view(shape), batch.terminated, batch.ended, c.gamma, c.gae_lambda)
            advantage = advantage.flatten(lead)
            returns = advantage + value
        self._anneal()
        rows = (obs, action, old_logprob, advantage, returns)
        losses = [self._descend(*minibatch) for minibatch in self._epochs(rows, c.minibatch)]
        policy_loss, value_loss = (torch.stack(loss).mean(0) for loss in zip(*losses, strict=True))
        metrics = self._moved(obs, action, old_logprob) | {"policy_loss": policy_loss, "value_loss": value_loss}
        metrics["explained_variance"] = 1.0 - (returns - value).var(-1) / returns.var(-1).clamp_min(1e-12)
        if not first:
            self._refresh(batch.obs)
        self.steps += shape[-2] * shape[-1]
        return metrics

    def _epochs(self, rows: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of all epochs, each epoch in an order of its own, of tensors `[*copies, B, ...]`."""
        lead = len(self.copies)
        for _ in range(self.config.epochs):
            order = torch.randperm(rows[0].shape[lead], generator=self.generator, device=self.device)
            yield from minibatches(rows, order, size, lead)

    def _descend(self, obs: Tensor, action: Tensor, old_logprob: Tensor, advantage: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """One step of Eq. 9 on a minibatch `[*copies, b]`; its policy and value loss, `[*copies]`."""
        c = self.config
        distribution = self.policy.distribution(obs)
        policy_loss = clipped_surrogate(distribution.log_prob(action), old_logprob, standardised(advantage), c.clip)
        value_loss = (self.critic(obs).squeeze(-1) - returns).square().mean(-1)
        loss = policy_loss + c.value_weight * value_loss
        if c.entropy_weight:
            loss = loss - c.entropy_weight * distribution.entropy().mean(-1)
        extra = self.regulariser(obs, distribution)
        if extra is not None:
            loss = loss + extra
        descend(loss.sum(), self.optimiser, c.max_norm, self.copies)
        return policy_loss.detach(), value_loss.detach()

    def regulariser(self, obs: Tensor, distribution: Normal | Choice) -> Tensor | None:
        """What a method that extends PPO adds to the loss of a minibatch, `[*copies]`, of scaled observations `[*copies, b, S]`."""
        return None

    @torch.no_grad()
    def _moved(self, obs: Tensor, action: Tensor, old_logprob: Tensor) -> dict[str, Tensor]:
        """How far the policy is now from the one that played, `[*copies]` each."""
        distribution = self.policy.distribution(obs)
        moved = distribution.log_prob(action) - old_logprob
        return {
            "entropy": distribution.entropy().mean(-1),
            "approx_kl": (moved.exp() - 1.0 - moved).mean(-1),  # Schulman's estimate of small variance
            "clipped": (moved.exp() - 1.0).abs().gt(self.config.clip).float().mean(-1),
        }

    def _scaled(self, batch: Segments) -> Tensor:
        """Rewards divided by the running deviation of their discounted sum, which this batch enters first."""
        sums = torch.empty_like(batch.reward)
        for t in range(batch.reward.shape[-2]):
            self.discounted = self.discounted * self.config.gamma + batch.reward[..., t, :]
            sums[..., t, :] = self.discounted
            self.discounted = self.discounted * (1.0 - batch.ended[..., t, :])
        self.return_moments.add(sums.flatten(len(self.copies)).unsqueeze(-1))
        return batch.reward / self.return_moments.std().unsqueeze(-1)

    def _refresh(self, obs: Tensor) -> None:
        """The policy's scaling with these observations `[*copies, T, N, S]` too, for the next ones to be played with."""
        if self.config.raw_obs:
            return
        self.obs_moments.add(obs.flatten(len(self.copies), len(self.copies) + 1))
        self.normaliser.mean.copy_(self.obs_moments.mean)
        self.normaliser.std.copy_(self.obs_moments.std())

    def _anneal(self) -> None:
        if self.config.anneal:
            left = max(1.0 - self.steps / self.config.anneal, 0.0)
            self.optimiser.param_groups[0]["lr"] = self.config.learning_rate * left
