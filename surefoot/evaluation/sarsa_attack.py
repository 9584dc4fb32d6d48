"""The robust Sarsa attack (RS): a critic learned from the policy's own episodes, and changes that make it choose what the critic dislikes.

Zhang et al., "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations" (NeurIPS 2020, arXiv
2003.08938v7), App. D.2: Q(s, a) of the policy as it is, by TD on (s, a, r, s', a'), with a penalty on how much Q moves when the
action does, so that its gradient says something: max over |b - a|_inf <= eps of (Q(s, b) - Q(s, a))^2, bounded by interval
arithmetic through the network. Then PGD on Q(s, mu(s + delta)), downwards.

Departures: smooth L1 for the TD error and a slowly moving target network; rewards in units in which values are about 1. Noise of our own
on the greedy actions, in place of the policy's draws, lets the critic see more than one action in a state whatever the policy is.
Where actions are discrete, Q is taken in its mean over softmax(scores), which is smooth in them, and there is no penalty. Around a
frame stack the critic sees the newest frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from surefoot.data.spec import Discrete, Spec
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.rollouts import device_of, play
from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.base import Memory, Policy


@dataclass(frozen=True)
class SarsaConfig:
    steps: int = 20_000
    """Steps of the policy in the environment that the critic learns from."""
    updates: int = 2_000
    """Gradient steps of the critic."""
    batch: int = 256
    """Steps in each."""
    learning_rate: float = 1e-3
    """Adam's."""
    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.01
    """How fast the target network follows."""
    penalty: float = 0.1
    """Weight of the penalty on how Q moves with the action."""
    eps: float = 0.02
    """How far the action moves there, in half ranges."""
    noise: float = 0.1
    """On the actions from which it learns: deviation in half ranges, or probability of a random one."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        for name in ("steps", "updates", "batch", "learning_rate", "tau"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        for name in ("penalty", "eps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        if not (0.0 <= self.gamma < 1.0 and 0.0 <= self.noise <= 1.0):
            raise ConfigError(f"gamma is {self.gamma} and noise {self.noise}: they lie between 0 and 1, gamma below it.")


class Exploring(Policy):
    """`inner` with noise on what it does: what an action is worth is learned from more than one in a state."""

    def __init__(self, inner: Policy, noise: float):
        super().__init__()
        self.inner, self.noise, self.spec, self.copies = inner, noise, inner.spec, inner.copies

    def start(self, n: int) -> Memory:
        return self.inner.start(n)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        action, memory = self.inner.act(obs, memory, generator=generator, greedy=greedy)
        if isinstance(self.spec.action, Discrete):
            other = torch.randint(self.spec.n_actions, action.shape, generator=generator, device=action.device)
            return torch.where(torch.rand(action.shape, generator=generator, device=action.device) < self.noise, other, action), memory
        low, high = action.new_tensor(self.spec.box.low), action.new_tensor(self.spec.box.high)
        moved = action + self.noise * 0.5 * (high - low) * torch.empty_like(action).normal_(generator=generator)
        return moved.clamp(low, high), memory


@dataclass(frozen=True)
class Pairs:
    """Steps with what the policy did next, `[*copies, N, ...]`; rows that are not `valid` had no next action."""

    obs: Tensor
    action: Tensor  # half ranges [.., A], or int64
    reward: Tensor
    next_obs: Tensor
    next_action: Tensor
    terminated: Tensor  # bool
    valid: Tensor  # bool


class SarsaCritic(nn.Module):
    """Q(s, a) `[*copies, n]` of observations `[*copies, n, S]` (scaled inside) and actions in half ranges, or Q(s, .) `[*copies, n, A]`."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec, hidden: tuple[int, ...], mean: Tensor, std: Tensor, generator: torch.Generator):
        super().__init__()
        self.discrete = isinstance(spec.action, Discrete)
        copies = tuple(mean.shape[:-1])
        sizes = (spec.obs_dim, *hidden, spec.n_actions) if self.discrete else (spec.obs_dim + spec.box.dim, *hidden, 1)
        self.net = MLP(sizes, copies, generator=generator, device=str(mean.device))
        self.register_buffer("mean", mean.unsqueeze(-2))
        self.register_buffer("std", std.unsqueeze(-2))

    def scaled(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) / self.std

    def of(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of scaled observations."""
        if self.discrete:
            return self.net(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return self.net(torch.cat([obs, action], -1)).squeeze(-1)


def interval(net: MLP, x: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a ReLU network's output over the box `x` +- `radius` `[*copies, B, in]` (interval bound propagation)."""
    last = len(net.weights) - 1
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        x, radius = x @ w + b.unsqueeze(-2), radius @ w.abs()
        if i < last:
            low, high = torch.relu(x - radius), torch.relu(x + radius)
            x, radius = 0.5 * (low + high), 0.5 * (high - low)
    return x - radius, x + radius


def smoothness(critic: SarsaCritic, obs: Tensor, action: Tensor, q: Tensor, eps: float) -> Tensor:
    """Bound on max over |b - a|_inf <= eps of (Q(s, b) - Q(s, a))^2, `[*copies, B]`, of scaled observations."""
    radius = torch.cat([torch.zeros_like(obs), torch.full_like(action, eps)], -1)
    low, high = interval(critic.net, torch.cat([obs, action], -1), radius)
    return torch.maximum(high.squeeze(-1) - q, q - low.squeeze(-1)).square()


def fit_sarsa(
    policy: Policy,
    env_id: str,
    config: SarsaConfig | None = None,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> SarsaCritic:
    """A critic of `policy` (of each member) from its own steps. `progress` is told the share of updates done.

    Raises ConfigError where no step follows another, and what environments raise.
    """
    c = SarsaConfig() if config is None else config
    acting = Exploring(policy, c.noise)
    data, lead = collect(acting, env_id, c.steps, seed=derive_seed(seed, 0), max_steps=max_steps), len(policy.copies)
    generator = torch.Generator(data.obs.device).manual_seed(derive_seed(seed, 1))
    weight = data.valid.float()  # rows are drawn among those of each member that are valid
    share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)
    mean = (share * data.obs).sum(-2)
    std = (share * (data.obs - mean.unsqueeze(-2)).square()).sum(-2).sqrt().clamp_min(1e-4)
    critic = SarsaCritic(policy.spec, c.hidden, mean, std, generator)
    target, optimiser = frozen_copy(critic), adam(critic.parameters(), c.learning_rate)
    size = (weight * data.reward.abs()).sum(-1) / weight.sum(-1)
    reward = data.reward * ((1.0 - c.gamma) / size.clamp_min(1e-8)).unsqueeze(-1)
    obs, next_obs = critic.scaled(data.obs), critic.scaled(data.next_obs)
    for i in range(c.updates):
        rows = torch.multinomial(weight.reshape(-1, weight.shape[-1]), c.batch, replacement=True, generator=generator)
        rows = rows.reshape(*policy.copies, c.batch)
        s, a, r, s_next, a_next, done = (
            _take(x, rows, lead) for x in (obs, data.action, reward, next_obs, data.next_action, data.terminated.float())
        )
        with torch.no_grad():
            goal = r + c.gamma * (1.0 - done) * target.of(s_next, a_next)
        q = critic.of(s, a)
        loss = smooth_l1_loss(q, goal, reduction="none").mean(-1)
        if not critic.discrete and c.penalty:
            loss = loss + c.penalty * smoothness(critic, s, a, q, c.eps).mean(-1)
        descend(loss.sum(), optimiser)
        polyak_(target, critic, c.tau)
        if progress is not None and i % 100 == 99:
            progress((i + 1) / c.updates)
    return critic.requires_grad_(False)


def collect(policy: Policy, env_id: str, steps: int, *, seed: int, max_steps: int | None = None) -> Pairs:
    """So many greedy steps of each member, wave after wave of episodes. Raises ConfigError where no step follows another."""
    waves: list[list[tuple[Tensor, ...]]] = []
    first, left, device = -1, torch.full(policy.copies, steps), device_of(policy)
    for step in play(policy, env_id, steps, seed=seed, max_steps=max_steps, n_envs=max(1, 32 // prod(policy.copies))):
        if step.first != first:
            first = step.first
            waves.append([])
        columns = (step.obs, step.action, step.reward, step.next_obs, step.terminated, step.alive)
        waves[-1].append(tuple(torch.as_tensor(x, device=device) for x in columns))
        left -= torch.as_tensor(step.alive.sum(-1))
        if (left <= 0).all():
            break
    parts = [_paired(rows, policy) for rows in waves]
    pairs = Pairs(*(torch.cat(column, len(policy.copies)) for column in zip(*parts, strict=True)))
    if not pairs.valid.any(-1).all():
        raise ConfigError(f"in {env_id} no step is followed by another: robust Sarsa (rs) needs longer episodes (--max-steps).")
    return pairs


def _paired(rows: list[tuple[Tensor, ...]], policy: Policy) -> tuple[Tensor, ...]:
    """One wave's steps, each with the next one's action: `[*copies, T n, ...]`."""
    lead, spec = len(policy.copies), policy.spec
    obs, action, reward, next_obs, terminated, alive = (torch.stack(column, lead) for column in zip(*rows, strict=True))
    if isinstance(spec.action, Discrete):
        action = action.long()
    else:
        action = (action / (0.5 * (action.new_tensor(spec.action.high) - action.new_tensor(spec.action.low)))).float()
    following = torch.cat([action.narrow(lead, 1, len(rows) - 1), action.narrow(lead, len(rows) - 1, 1)], lead)
    goes_on = torch.cat([alive.narrow(lead, 1, len(rows) - 1), torch.zeros_like(alive.narrow(lead, 0, 1))], lead)
    valid = alive & (terminated | goes_on)
    seen, shown_next = (x.float().flatten(lead + 2) for x in (obs, next_obs))
    return tuple(x.flatten(lead, lead + 1) for x in (seen, action, reward.float(), shown_next, following, terminated, valid))


def _take(x: Tensor, rows: Tensor, lead: int) -> Tensor:
    """Rows `[*copies, B]` of `x` `[*copies, N, ...]`."""
    if x.dim() == lead + 1:
        return x.gather(-1, rows)
    return x.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, x.shape[-1]))


@dataclass(frozen=True)
class Worth:
    """The objective of RS: -Q(s, decision shown), s being the true observation."""

    critic: SarsaCritic

    def anchor(self, near: Tensor, truth: Tensor, decision: Decision) -> Tensor:
        return self.critic.scaled(decision.raw(near))

    def harm(self, shown: Tensor, anchor: Tensor, decision: Decision) -> Tensor:
        if self.critic.discrete:
            return -(torch.softmax(shown, -1) * self.critic.net(anchor)).sum(-1)
        return -self.critic.of(anchor, shown)
