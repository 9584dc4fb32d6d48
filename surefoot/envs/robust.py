"""Worlds whose dynamics shift after the log was made: the toy linear MDP and the American put of Tang, Liu and Xu (arXiv 2411.18612)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.finite import FiniteMDP, LinearMDP
from surefoot.errors import ConfigError

# --- the toy linear MDP -----------------------------------------------------------------------------------------------

CHOICES = np.array(list(itertools.product((-1, 1), repeat=4)))
"""The 16 actions of the toy, `[16, 4]`."""

FAILED = 3
"""The toy's state of failure, x4: reward 0 for ever."""


def toy_linear_mdp(delta: float = 0.3, xi: float = 0.2) -> LinearMDP:
    """Five states x1 .. x5, three stages, 16 actions in {-1, 1}^4, four features; it starts in x1.

    v(a) = delta + xi / 4 sum_j a_j is the chance of reaching x5, which pays 1 a stage; x4, which is reached once in a thousand, pays
    nothing. Raises ConfigError unless 0 <= delta - xi and delta + xi <= 1.
    """
    v = delta + xi / 4.0 * CHOICES.sum(-1)  # [16]
    if v.min() < 0.0 or v.max() > 1.0:
        raise ConfigError(f"delta is {delta} and xi {xi}: the chances delta +- xi must lie between 0 and 1.")
    phi = np.zeros((5, 16, 4))
    for i in range(3):
        phi[i, :, i], phi[i, :, 3] = 1.0 - v, v
    phi[3, :, 2] = phi[4, :, 3] = 1.0
    mu = np.zeros((4, 5))
    mu[0, [1, 3]] = mu[1, [2, 3]] = 0.999, 0.001
    mu[2, 3] = mu[3, 4] = 1.0
    theta = np.zeros((3, 4))
    theta[1:, 3] = 1.0
    return LinearMDP.of(np.broadcast_to(phi, (3, 5, 16, 4)), np.broadcast_to(mu, (3, 4, 5)), theta, np.eye(5)[0])


def perturbed_toy(world: LinearMDP, q: float) -> FiniteMDP:
    """The toy in which a share q of what would have reached x5 in the first step fails instead, and nothing else does in it."""
    if not 0.0 <= q <= 1.0:
        raise ConfigError(f"q is {q}: a share lies between 0 and 1.")
    v = world.features[0, 0, :, 3]
    transition = world.mdp.transition.copy()
    transition[0, 0] = 0.0
    transition[0, 0, :, 1], transition[0, 0, :, FAILED], transition[0, 0, :, 4] = 1.0 - v, q * v, (1.0 - q) * v
    return FiniteMDP(transition, world.mdp.reward, world.mdp.initial)


# --- the American put -------------------------------------------------------------------------------------------------


class AmericanPut(gym.Env):
    """When to exercise the right to sell at `strike`: the price moves up by 2 % with probability `p_up`, else down by 2 %.

    Observation: the price, `[1]`. Actions: 0 holds, 1 exercises, pays max(0, strike - price) and ends. Starts at U(95, 105); the time
    limit of the registered environment is 20 stages, after which the right is void. `hold_only` forbids exercising (action 1 then
    holds too), which is how the paper's log was made.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, p_up: float = 0.5, strike: float = 100.0, hold_only: bool = False) -> None:
        if not 0.0 <= p_up <= 1.0:
            raise ConfigError(f"p_up is {p_up}: a probability lies between 0 and 1.")
        self.observation_space = gym.spaces.Box(0.0, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.p_up, self.strike, self.hold_only, self.price = p_up, strike, hold_only, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.price = float(self.np_random.uniform(95.0, 105.0))
        return np.array([self.price], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if int(action) == 1 and not self.hold_only:
            return np.array([self.price], np.float32), max(0.0, self.strike - self.price), True, False, {}
        self.price *= 1.02 if self.np_random.random() < self.p_up else 0.98
        return np.array([self.price], np.float32), 0.0, False, False, {}


@dataclass(frozen=True)
class Tents:
    """Triangular features of one number on a grid: phi_i(x) = max(0, 1 - |x - x_i| / width), x_i = low + i width, i = 0 .. n - 1.

    They sum to one within the grid (not beyond its ends, as in the paper's option).
    """

    low: float
    width: float
    n: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[...]` to `[..., n]`."""
        grid = self.low + self.width * np.arange(self.n)
        return np.maximum(0.0, 1.0 - np.abs(np.asarray(x, np.float64)[..., None] - grid) / self.width)


def put_prices(n: int, horizon: int, p_up: float, rng: np.random.Generator) -> np.ndarray:
    """n price paths of an option that is held, `[n, horizon + 1]`."""
    moves = np.where(rng.random((n, horizon)) < p_up, 1.02, 0.98)
    return rng.uniform(95.0, 105.0, (n, 1)) * np.concatenate([np.ones((n, 1)), moves.cumprod(-1)], -1)
