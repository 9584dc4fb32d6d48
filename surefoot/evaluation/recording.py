"""Recording whole episodes of a policy as a log that methods learn from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Spec
from surefoot.envs.making import env_spaces
from surefoot.errors import PolicyError
from surefoot.evaluation.rollouts import Step, play
from surefoot.policies.base import Memory, Policy


class UniformRandom(Policy):
    """Uniform actions, whatever is observed: what a log starts from when there is no policy yet."""

    differentiable = False

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        n, action = obs.shape[0], self.spec.action
        if isinstance(action, Continuous):
            low, high = torch.tensor(action.low), torch.tensor(action.high)
            return low + (high - low) * torch.rand(n, action.dim, generator=generator), memory
        return torch.randint(action.n, (n,), generator=generator), memory


def record(
    policy: Policy | str,
    env_id: str,
    *,
    episodes: int,
    seed: int,
    greedy: bool = True,
    max_steps: int | None = None,
    n_envs: int | None = None,
) -> Log:
    """The transitions of `episodes` whole episodes of one policy, or of 'random', in episode order.

    `greedy=False` records the policy with its exploration. Terminated and truncated stay apart: a time limit ends an episode
    in the log without being a terminal. Raises PolicyError for a fleet (choose a member), and what `play` raises.
    """
    if isinstance(policy, str):
        if policy != "random":
            raise PolicyError(f"record got the policy {policy!r}: give a policy object, or 'random'.")
        name, policy = "uniform random actions", UniformRandom(env_spaces(env_id))
    else:
        name = f"{type(policy).__name__} policy, {'greedy' if greedy else 'with exploration'}"
    if policy.copies:
        raise PolicyError("a log is recorded from one policy, and this is a fleet: choose a member (DIR@MEMBER).")
    parts = list(_waves(play(policy, env_id, episodes, seed=seed, greedy=greedy, max_steps=max_steps, n_envs=n_envs)))
    obs, action, reward, next_obs, terminated, truncated = (np.concatenate(field) for field in zip(*parts, strict=True))
    return Log.from_arrays(
        obs,
        action,
        reward,
        next_obs,
        terminated,
        truncated,
        action_space=policy.spec.action,
        source=f"recorded in {env_id}, seed {seed}",
        env_id=env_id,
        notes={"recipe": f"{episodes} episodes of {name} in {env_id}", "seed": str(seed)},
    )


def _waves(steps: Iterator[Step]) -> Iterator[tuple[np.ndarray, ...]]:
    """The fields of each wave as rows `[rows, ...]` in episode order."""
    wave: list[Step] = []
    for step in steps:
        if wave and step.first != wave[0].first:
            yield _rows(wave)
            wave = []
        wave.append(step)
    yield _rows(wave)


def _rows(wave: list[Step]) -> tuple[np.ndarray, ...]:
    """Steps of n slots as rows, one episode after the other, without what came after an episode's end."""
    alive = np.stack([step.alive for step in wave], 1)  # [n, T]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    return tuple(np.stack([getattr(step, name) for step in wave], 1)[alive] for name in names)
