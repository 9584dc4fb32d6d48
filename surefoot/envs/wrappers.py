"""Wrappers of environments: what an agent observes, made harder on purpose."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, EnvError


class NoisyObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Adds Gaussian noise of standard deviation `sigma` to each new observation, in the observation's own units.

    The noise has a generator of its own, seeded by `reset(seed=...)`: the environment plays as it would without noise, and the same
    seed brings the same noise. Observations are not clipped: their space has no bounds. Integer observations become float32.
    sigma = 0 leaves observations as they are. Raises EnvError where observations are not arrays of numbers.
    """

    def __init__(self, env: gym.Env, sigma: float):
        if not 0.0 <= sigma < float("inf"):
            raise ConfigError(f"noise is {sigma}: the standard deviation of the observation noise must be finite and not negative.")
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box):
            raise EnvError(f"observation space {space} is not a Box: there is nothing to add noise to.")
        gym.utils.RecordConstructorArgs.__init__(self, sigma=sigma)
        super().__init__(env)
        self.sigma = float(sigma)
        self.rng = np.random.default_rng()
        self.dtype = np.float64 if space.dtype == np.float64 else np.float32
        if sigma > 0.0:
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, space.shape, self.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(derive_seed(seed, 1))  # not the seed itself, which is the environment's
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        if self.sigma == 0.0:
            return observation
        return observation + self.sigma * self.rng.standard_normal(observation.shape, self.dtype)
