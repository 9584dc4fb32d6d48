"""Judging a policy from a log alone, where there is no simulator: fitted Q evaluation and the distance to logged actions.

Fitted Q evaluation: Le, Voloshin and Yue 2019 (arXiv 1903.08738, Algorithm 3), with a target network moved by Polyak
averaging instead of repeated regressions, as is usual for networks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Discrete, unit_action
from surefoot.errors import ConfigError, EnvError, PolicyError
from surefoot.nn.mlp import Critic
from surefoot.nn.normaliser import Normaliser
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.base import Policy


@dataclass(frozen=True)
class OfflineEvaluation:
    """What a log says about a policy; lists have one entry a member.

    `value` estimates the discounted return from the log's start states. It is an estimate, not a bound: it is only as good
    as the log's coverage of what the policy would do, and a policy far from the logged actions makes it meaningless.
    """

    value: list[float]
    logged_value: float  # mean discounted return of the log's own episodes, for comparison
    bellman_error: list[float]  # root mean squared, on held-out transitions, in units of reward
    action_distance: list[float]  # root mean squared distance to logged actions in [-1, 1] units (discrete: share that differ)
    gamma: float
    steps: int
    held_out: int  # transitions the fit did not see

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def split_episodes(log: Log, share: float = 0.1, seed: int = 0) -> tuple[Log, Log]:
    """Training and held-out logs, split by whole episodes; a log of one episode is split in time.

    Raises ConfigError if either part would be empty.
    """
    n = len(log.episode_ends)
    if n < 2:
        cut = round(len(log) * (1.0 - share))
        held = np.arange(len(log)) >= cut
    else:
        chosen = np.random.default_rng(seed).permutation(n)[: max(1, round(n * share))]
        held = np.isin(np.repeat(np.arange(n), log.episode_lengths), chosen)
    if held.all() or not held.any():
        raise ConfigError(f"{log.source}: {len(log)} transitions cannot be split with a held-out share of {share}: use more data.")
    return _part(log, np.flatnonzero(~held)), _part(log, np.flatnonzero(held))


def _part(log: Log, rows: np.ndarray) -> Log:
    ends = log.ends[rows].copy()
    ends[-1] = True
    return log.select(rows, ends)


class QNetwork(torch.nn.Module):
    """Q(s, a) on normalised observations and unit (or one-hot) actions, one network a member of the policy's fleet."""

    def __init__(self, log: Log, hidden: tuple[int, ...], copies: tuple[int, ...], generator: torch.Generator):
        super().__init__()
        self.action_space = log.action
        self.normaliser = Normaliser(log.spec())
        width = log.action.n if isinstance(log.action, Discrete) else log.action.dim
        self.critic = Critic(log.layout.obs_dim + width, hidden, n=1, copies=copies, generator=generator)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values `[*copies, B]` of `obs` `[*copies, B, S]` and actions in the environment's units."""
        if isinstance(self.action_space, Discrete):
            action = one_hot(action, self.action_space.n).float()
        else:
            action = unit_action(action, self.action_space)
        return self.critic(self.normaliser(obs), action).squeeze(-2)


def fqe_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - terminated) Q(s', pi(s')), all `[*copies, B]`."""
    return reward + gamma * (1.0 - terminated) * next_value


@torch.no_grad()
def policy_actions(policy: Policy, obs: Tensor) -> Tensor:
    """Greedy actions of a memoryless policy on flat observations `[*copies, B, S]`."""
    return policy.act(obs.reshape(*obs.shape[:-1], *policy.spec.obs_shape))[0]


def evaluate_offline(
    policy: Policy,
    log: Log,
    *,
    gamma: float = 0.99,
    steps: int = 10_000,
    hidden: tuple[int, ...] = (256, 256),
    batch_size: int = 256,
    lr: float = 3e-4,
    tau: float = 0.005,
    held_out: float = 0.1,
    seed: int = 0,
) -> OfflineEvaluation:
    """Fit Q^pi on the log and average it over the log's start states.

    Raises EnvError if log and policy disagree in shapes or actions, PolicyError for a policy that carries memory between
    steps (its state cannot be reconstructed from shuffled transitions), ConfigError for settings outside their range.
    """
    if policy.spec.obs_shape != log.obs_shape or policy.spec.action != log.action:
        raise EnvError(
            f"{log.source} has observations {log.obs_shape} and {log.action}, "
            f"the policy {policy.spec.obs_shape} and {policy.spec.action}: they must be of one environment."
        )
    if policy.start(1) is not None:
        raise PolicyError("a policy with memory (a frame stack) cannot be judged from single transitions: evaluate it in an environment.")
    if not 0.0 <= gamma < 1.0 or steps < 1:
        raise ConfigError(f"gamma is {gamma} and steps {steps}: gamma must be in [0, 1) and steps at least 1.")
    generator = torch.Generator().manual_seed(seed)
    train, test = split_episodes(log, held_out, seed)
    q = QNetwork(train, hidden, policy.copies, generator)
    target, optimiser = frozen_copy(q), adam(q.parameters(), lr)
    source = Logged(train, batch_size, copies=policy.copies, seed=seed)
    for _ in range(steps):
        batch = next(source)
        with torch.no_grad():
            y = _target(target, policy, batch, gamma)
        descend((q(batch.obs, batch.action) - y).square().mean(-1).sum(), optimiser)
        polyak_(target, q, tau)
    with torch.no_grad():
        held = _shared(test, policy.copies)
        bellman = (q(held.obs, held.action) - _target(q, policy, held, gamma)).square().mean(-1).sqrt()
        starts = log.transitions.obs[torch.from_numpy(log.episode_starts)].expand(*policy.copies, -1, -1)
        value = q(starts, policy_actions(policy, starts)).mean(-1)
    return OfflineEvaluation(
        value=value.reshape(-1).tolist(),
        logged_value=float(discounted_returns(log, gamma).mean()),
        bellman_error=bellman.reshape(-1).tolist(),
        action_distance=action_distance(policy, test).reshape(-1).tolist(),
        gamma=gamma,
        steps=steps,
        held_out=len(test),
    )


def _target(q: QNetwork, policy: Policy, batch: Transitions, gamma: float) -> Tensor:
    next_value = q(batch.next_obs, policy_actions(policy, batch.next_obs))
    return fqe_target(batch.reward, batch.terminated, next_value, gamma)


def _shared(log: Log, copies: tuple[int, ...]) -> Transitions:
    """The whole log as one batch, the same for every member (views, no copies)."""
    t = log.transitions
    return Transitions(*(x.expand(*copies, *x.shape) for x in (t.obs, t.action, t.reward, t.next_obs, t.terminated)))


def action_distance(policy: Policy, log: Log) -> Tensor:
    """Root mean squared distance of the policy's actions to the logged ones, in [-1, 1] units, `[*copies]`.

    For discrete actions the share of transitions on which they differ.
    """
    t = _shared(log, policy.copies)
    action = policy_actions(policy, t.obs)
    if isinstance(log.action, Discrete):
        return (action != t.action).double().mean(-1)
    difference = unit_action(action, log.action) - unit_action(t.action, log.action)
    return difference.double().square().mean((-1, -2)).sqrt()


def discounted_returns(log: Log, gamma: float) -> np.ndarray:
    """Discounted return of each logged episode, `[E]`."""
    rewards = log.transitions.reward.double().numpy()
    within = np.arange(len(log)) - np.repeat(log.episode_starts, log.episode_lengths)
    return np.add.reduceat(rewards * gamma**within, log.episode_starts)
