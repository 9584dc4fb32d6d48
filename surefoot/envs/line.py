"""A walk on a line, small enough to see through: what the policy may borrow from the log is all that decides success."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

LENGTH, STEP, GOAL = 10.0, 0.5, 9.0


class Line(gym.Env):
    """x in [0, 10], action in [-1, 1]: x' = clip(x + action / 2, 0, 10), reward (x' - x) / (1/2), no terminal.

    Starts at x ~ U(0, 2); the time limit of the registered environment is 30 steps, of which 18 suffice to pass 9.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, LENGTH, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(0.0, 2.0))
        return self._observed(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.x = self.x, float(moved(np.asarray(self.x), np.asarray(action[0], np.float64)))
        return self._observed(), (self.x - before) / STEP, False, False, {}

    def _observed(self) -> np.ndarray:
        return np.array([self.x], np.float32)


def moved(x: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Where one step leads."""
    return np.clip(x + STEP * np.clip(action, -1.0, 1.0), 0.0, LENGTH)
