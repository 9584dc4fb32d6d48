"""Resets to the states of played episodes, for any environment that is a function of its seed: DR-PO's idea outside of text.

Chang et al., "Dataset Reset Policy Optimization for RLHF", arXiv 2404.08495: a share of the episodes starts at a random step of a random
episode of the data. The state is restored by playing the episode's actions again from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, DataError, EnvError


@dataclass(frozen=True, eq=False)
class Played:
    """An episode as it can be played again."""

    seed: int
    actions: np.ndarray  # [T, ...] as the environment takes them


class DatasetResets(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Starts a share of the episodes inside played ones, after 1 .. T - 1 of the T actions of a random one; the others as ever.

    What is drawn belongs to the seed of `reset(seed=...)`, as the environment's own luck does. A time limit inside counts the actions
    that were played again. Raises ConfigError for a share outside [0, 1], DataError where no episode has two actions, and in `reset`
    EnvError where an episode ends earlier than it did: then the environment is no function of its seed, or the actions are another's.
    """

    def __init__(self, env: gym.Env, played: Sequence[Played], reset_prob: float = 0.5):
        if not 0.0 <= reset_prob <= 1.0:
            raise ConfigError(f"reset_prob is {reset_prob}: the share of episodes that start from the data lies between 0 and 1.")
        gym.utils.RecordConstructorArgs.__init__(self, played=played, reset_prob=reset_prob)
        super().__init__(env)
        self.played = [episode for episode in played if len(episode.actions) >= 2]
        self.reset_prob = reset_prob
        if not self.played:
            raise DataError("no played episode has two actions or more: there is no state inside one to start from.")
        self.rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(derive_seed(seed, 2))  # not the seed itself, which is the environment's
        if self.rng.random() >= self.reset_prob:
            return super().reset(seed=seed, options=options)
        episode = self.played[self.rng.integers(len(self.played))]
        steps = int(self.rng.integers(1, len(episode.actions)))
        observation, info = self.env.reset(seed=episode.seed, options=options)
        for t, action in enumerate(episode.actions[:steps]):
            observation, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                raise EnvError(
                    f"the episode of seed {episode.seed} ended after {t + 1} of its {len(episode.actions)} actions when played again: "
                    "resets need an environment that does the same again for the same seed, and the actions that it was given."
                )
        self.unwrapped.np_random = np.random.default_rng(self.rng.integers(2**63))  # what follows has luck of its own
        return observation, info
