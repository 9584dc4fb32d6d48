"""States that a policy visits: a number of them, evenly along episodes of its own, each with the policy's memory of what came before.

The episodes are played twice from one seed: once to see how long they are, once to keep the states that were chosen. So nothing but
those is ever held, however large the observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.base import Memory, Policy


@dataclass(frozen=True, eq=False)
class Visited:
    """n states of one policy (a member of a fleet), in the order of episodes and their steps."""

    obs: Tensor  # [n, *obs_shape] as the environment showed it
    memory: dict[str, Tensor] | None  # [n, ...] the policy's before it saw obs
    episode: np.ndarray  # [n]
    step: np.ndarray  # [n] from 0

    def __len__(self) -> int:
        return len(self.obs)


def visited(
    policy: Policy,
    env_id: str,
    states: int,
    *,
    episodes: int = 10,
    seed: int = 0,
    greedy: bool = True,
    max_steps: int | None = None,
    n_envs: int | None = None,
) -> list[Visited]:
    """Of each member `states` states, evenly spaced along its `episodes` episodes put one after the other (all if there are no more).

    Raises ConfigError for numbers below 1, EnvError for an environment that does not play the same twice from one seed, and what
    `rollout` raises.
    """
    if states < 1:
        raise ConfigError(f"states is {states}: at least one is needed.")
    played: dict[str, Any] = {"seed": seed, "greedy": greedy, "max_steps": max_steps, "n_envs": n_envs}
    lengths = rollout(policy, env_id, episodes, **played).lengths.reshape(prod(policy.copies), episodes)
    keeper = _Keeper([_evenly(own, states) for own in lengths])
    rollout(policy, env_id, episodes, perturb=keeper, **played)
    if any(len(found) < len(wanted) for found, wanted in zip(keeper.found, keeper.wanted, strict=True)):
        raise EnvError(f"environment {env_id!r} played other episodes from the same seed the second time: its states cannot be taken.")
    return [_joined(found) for found in keeper.found]


def _evenly(lengths: np.ndarray, states: int) -> np.ndarray:
    """(episode, step) of evenly spaced steps of episodes of these lengths, `[n, 2]`."""
    ends = lengths.cumsum()
    at = np.linspace(0, ends[-1] - 1, min(states, int(ends[-1]))).round().astype(np.int64)
    episode = np.searchsorted(ends, at, side="right")
    return np.stack([episode, at - (ends - lengths)[episode]], -1)


class _Keeper:
    """A `Perturbation` that changes nothing and keeps what the wanted steps of each member show."""

    def __init__(self, wanted: list[np.ndarray]):
        self.wanted = wanted
        self.found: list[list[tuple[int, int, Tensor, Memory]]] = [[] for _ in wanted]
        self.first = self.n = 0

    def start(self, n: int, policy: Policy) -> None:
        self.first, self.n, self.t = self.first + self.n, n, 0

    def __call__(self, obs: Tensor, policy: Policy, memory: Memory, alive: Tensor) -> Tensor:
        for f, wanted in enumerate(self.wanted):
            own = (lambda x: x[f]) if policy.copies else (lambda x: x)  # noqa: B023  used within this turn
            for episode in wanted[wanted[:, 1] == self.t, 0].tolist():
                i = episode - self.first
                if 0 <= i < self.n and bool(own(alive)[i]):
                    before = None if memory is None else {name: own(value)[i].clone() for name, value in memory.items()}
                    self.found[f].append((episode, self.t, own(obs)[i].clone(), before))
        self.t += 1
        return obs


def _joined(found: list[tuple[int, int, Tensor, Memory]]) -> Visited:
    found = sorted(found, key=lambda each: each[:2])
    memories = [each[3] for each in found]
    first = memories[0]
    memory = None if first is None else {name: torch.stack([m[name] for m in memories if m is not None]) for name in first}
    return Visited(
        torch.stack([each[2] for each in found]), memory, np.array([each[0] for each in found]), np.array([each[1] for each in found])
    )
