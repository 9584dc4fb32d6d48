"""Episodes that an adaptive set plays while it learns which of its policies to trust: what the selector earns, round by round.

Liu et al., arXiv 2402.12673v1, adaptation at test time. A round is one episode. Reported is what was really earned; what the best fixed
policy of the set would have earned is another question, and needs episodes of its own (`rollout` of `set.policies[i]`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from surefoot.errors import PolicyError
from surefoot.evaluation.rollouts import Perturbation, play
from surefoot.policies.base import Policy
from surefoot.steering.adaptive import Adaptive


@dataclass(frozen=True)
class Adapted:
    """Rounds in their order."""

    returns: np.ndarray  # [*copies, rounds] undiscounted
    chosen: np.ndarray  # [*copies, rounds] int64, which policy played
    probabilities: np.ndarray  # [*copies, rounds, K] from which it was drawn

    def mean(self, last: float = 1.0) -> np.ndarray:
        """`[*copies]` mean return of the last share of the rounds."""
        n = self.returns.shape[-1]
        return self.returns[..., n - max(1, round(last * n)) :].mean(-1)


def adapt(
    policies: Policy,
    env_id: str,
    rounds: int,
    *,
    seed: int,
    perturb: Perturbation | None = None,
    side_by_side: int = 1,
    max_steps: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Adapted:
    """Play `rounds` episodes with `policies`, an `Adaptive` set, which learns from each: its weights are other ones afterwards.

    `side_by_side` episodes are drawn from the same p and learned from together, which is faster, and adapts later by as much.
    `perturb`: an attack, of which the set is told nothing; one that comes and goes is a `Switching`. `progress` is told the rounds that
    are done and the mean return of the newest. Raises PolicyError for another kind of policy, and what `play` raises.
    """
    if not isinstance(policies, Adaptive):
        raise PolicyError(f"a {type(policies).__name__} policy has nothing to choose from: give an Adaptive set.")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    returns, done = np.zeros(0), 0
    for step in play(policies, env_id, rounds, seed=seed, max_steps=max_steps, n_envs=side_by_side, perturb=perturb):
        if returns.shape != step.alive.shape:
            returns = np.zeros(step.alive.shape)
        returns += np.where(step.alive, step.reward, 0.0)
        if (step.alive & ~(step.terminated | step.truncated)).any():
            continue
        p = policies.probabilities.unsqueeze(-2).expand(*returns.shape, -1).cpu().numpy()
        assert step.memory is not None
        policies.observe(torch.from_numpy(returns), step.memory)
        parts.append((returns, step.memory["chosen"].cpu().numpy(), p))
        done += returns.shape[-1]
        if progress is not None:
            progress(done, float(returns.mean()))
        returns = np.zeros(0)
    axis = len(policies.copies)
    return Adapted(*(np.concatenate(column, axis) for column in zip(*parts, strict=True)))
