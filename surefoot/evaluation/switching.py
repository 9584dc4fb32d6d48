"""Attacks that come and go: any attack, on in some blocks of episodes and off in others.

Liu et al., "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024, arXiv 2402.12673v1),
dynamic attacks: periodic (on and off in turn) and probabilistic (at the start of each block it is toggled with some probability). The
official code's schedule overwrites a part of itself; this is the one that the paper describes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import ConfigError
from surefoot.evaluation.attacking import Attacking
from surefoot.policies.base import Memory, Policy


class Switching:
    """`attack` in blocks of `every` episodes, in the order in which they are numbered; the first block is attacked.

    `probability` None: on and off in turn; else the chance that a block is the other way round than the one before.
    """

    def __init__(self, attack: Attacking, every: int = 100, *, probability: float | None = None, seed: int = 0):
        if every < 1:
            raise ConfigError(f"an attack that switches has blocks of {every} episodes: a block has at least 1.")
        if probability is not None and not 0.0 <= probability <= 1.0:
            raise ConfigError(f"the probability of switching is {probability}: it lies between 0 and 1.")
        self.attack, self.every, self.probability = attack, every, probability
        self.rng = np.random.default_rng(seed)
        self.blocks = [True]
        self.episodes = 0  # begun so far

    def attacked(self, n: int) -> np.ndarray:
        """`[n]` whether each of the first n episodes is attacked."""
        while len(self.blocks) * self.every < n:
            other = self.probability is None or self.rng.random() < self.probability
            self.blocks.append(self.blocks[-1] != other)
        return np.repeat(self.blocks, self.every)[:n]

    def start(self, n: int, policy: Policy) -> None:
        self.on = torch.from_numpy(self.attacked(self.episodes + n)[self.episodes :].copy())
        self.episodes += n
        self.attack.start(n, policy)

    def __call__(self, obs: Tensor, policy: Policy, memory: Memory, alive: Tensor) -> Tensor:
        return self.attack(obs, policy, memory, alive & self.on.to(alive.device))

    # --- the account is the attack's --------------------------------------------------------------------------------------

    @property
    def spent(self) -> np.ndarray:
        return self.attack.spent

    @property
    def tried(self) -> np.ndarray:
        return self.attack.tried

    @property
    def failed(self) -> np.ndarray:
        return self.attack.failed

    @property
    def zero_share(self) -> np.ndarray:
        return self.attack.zero_share
