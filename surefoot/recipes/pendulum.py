"""A mostly-bad Pendulum log: random episodes with a few good ones, made in a second, without training."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import action_space

ENV_ID = "Pendulum-v1"
RANDOM_RETURN, GOOD_RETURN = -1240.0, -160.0
"""Mean returns of uniform random actions and of the noiseless controller: the 0 and 100 of the normalised score."""


def controller(obs: np.ndarray) -> np.ndarray:
    """Energy-shaping swing-up: observations `[n, 3]` (cos, sin, angular velocity) to torques `[n, 1]` in [-2, 2].

    Pumps energy E = w^2/6 + 5 cos(theta) towards its value upright, and stabilises linearly near the top.
    """
    theta, velocity = np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]
    energy = velocity**2 / 6.0 + 5.0 * np.cos(theta)
    swing = np.sign(velocity) * np.clip(2.0 * (5.0 - energy), -2.0, 2.0)
    balance = -(8.0 * theta + 1.6 * velocity)
    near_top = (np.cos(theta) > 0.85) & (np.abs(velocity) < 3.5)
    return np.clip(np.where(near_top, balance, swing), -2.0, 2.0)[:, None]


def mixed_log(seed: int, good: int = 5, random: int = 45, noise: float = 0.3) -> Log:
    """`random` episodes of uniform actions, then `good` episodes of the controller with N(0, noise) on its torque.

    Episodes have 200 steps and end by the time limit (truncated, never terminated). All randomness derives from `seed`.
    """
    episodes = good + random
    rng = np.random.default_rng(seed)
    env = gym.make_vec(ENV_ID, episodes, vectorization_mode="sync")
    space = action_space(env.single_action_space)
    obs, _ = env.reset(seed=int(rng.integers(2**31)))  # sub-environment i is seeded with this + i
    columns: list[tuple[np.ndarray, ...]] = []
    truncated = np.zeros(episodes, bool)
    while not truncated.any():
        uniform = rng.uniform(-2.0, 2.0, (episodes, 1))
        noisy = np.clip(controller(obs) + noise * rng.standard_normal((episodes, 1)), -2.0, 2.0)
        action = np.where(np.arange(episodes)[:, None] < random, uniform, noisy).astype(np.float32)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        columns.append((obs, action, reward, next_obs, terminated, truncated))
        obs = next_obs
    env.close()
    # [T, n, ...] -> [n, T, ...] -> rows in episode order
    fields = [np.stack(column, 1).reshape(-1, *column[0].shape[1:]) for column in zip(*columns, strict=True)]
    notes = {"recipe": f"pendulum-mixed: {random} uniform random + {good} controller episodes (torque noise {noise})", "seed": str(seed)}
    return Log.from_arrays(*fields, action_space=space, source=f"recipe pendulum-mixed, seed {seed}", env_id=ENV_ID, notes=notes)


def normalised(returns: np.ndarray) -> np.ndarray:
    """Score: 0 for random actions, 100 for the noiseless controller."""
    return 100.0 * (returns - RANDOM_RETURN) / (GOOD_RETURN - RANDOM_RETURN)
