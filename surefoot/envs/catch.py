"""Catch from pixels: a ball falls through a textured picture, and a paddle on the last row is to be under it.

Small enough that an agent learns it in seconds, but an image all the same: most of its numbers say nothing about the ball, and a
policy may lean on them or not. After the task of Mnih et al., "Recurrent Models of Visual Attention" (arXiv 1406.6247v1), section 4.2.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 10  # rows and columns
WIDTH = 3  # of the paddle
GREY = 0.2  # brightness of the texture's pixels
STEPS = SIZE - 1  # of an episode
LEFT, STAY, RIGHT = range(3)

TEXTURE = GREY * np.random.default_rng(0).integers(0, 2, (SIZE, SIZE)).astype(np.float32)
"""The background, the same in every episode: about half of the pixels are grey."""


class Catch(gym.Env):
    """Observation `[2, 10, 10]` in [0, 1]: the last two frames, oldest first (the first one twice at the start).

    The ball starts anywhere on the first row, and falls one row a step, moving by its drift of -1, 0 or 1 columns; where it touches a wall
    the drift is drawn anew. Actions move the paddle left, not at all, or right. The 9th step ends the episode, with a reward of 1 if
    the ball falls on the paddle, else -1.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2, SIZE, SIZE), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.row = self.column = self.drift = 0
        self.paddle = SIZE // 2  # its middle
        self.frame = TEXTURE

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.paddle = 0, SIZE // 2
        self.column, self.drift = int(self.np_random.integers(SIZE)), self._drawn_drift()
        self.frame = self._drawn()
        return np.stack([self.frame, self.frame]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.column in (0, SIZE - 1):
            self.drift = self._drawn_drift()
        self.row += 1
        self.column = min(max(self.column + self.drift, 0), SIZE - 1)
        self.paddle = min(max(self.paddle + int(action) - STAY, WIDTH // 2), SIZE - 1 - WIDTH // 2)
        before, self.frame = self.frame, self._drawn()
        landed = self.row == SIZE - 1
        caught = abs(self.column - self.paddle) <= WIDTH // 2
        return np.stack([before, self.frame]), (1.0 if caught else -1.0) if landed else 0.0, landed, False, {}

    def _drawn_drift(self) -> int:
        return int(self.np_random.integers(-1, 2))

    def _drawn(self) -> np.ndarray:
        """The picture now, `[10, 10]`."""
        frame = TEXTURE.copy()
        frame[-1, self.paddle - WIDTH // 2 : self.paddle + WIDTH // 2 + 1] = 1.0
        frame[self.row, self.column] = 1.0
        return frame
