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


UP, DOWN, LOWEST_START, HIGHEST_START, STAGES = 1.02, 0.98, 95.0, 105.0, 20


class AmericanPut(gym.Env):
    """When to exercise the right to sell at `strike`: the price moves up by 2 % with probability `p_up`, else down by 2 %.

    Observation: the price and the stages left, `[2]`. Actions: 0 holds, 1 exercises, pays max(0, strike - price) and ends. Starts at
    U(95, 105); after the last of `stages` the right is void, and the episode terminates (with more than 20, raise the environment's
    `max_episode_steps` too). `hold_only` forbids exercising (action 1 then holds too), which is how the paper's log was made.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, p_up: float = 0.5, strike: float = 100.0, stages: int = STAGES, hold_only: bool = False) -> None:
        _check_put(p_up, strike, stages)
        highest = np.array([np.ceil(HIGHEST_START * UP**stages), stages], np.float32)
        self.observation_space = gym.spaces.Box(np.zeros(2, np.float32), highest)
        self.action_space = gym.spaces.Discrete(2)
        self.p_up, self.strike, self.stages, self.hold_only = p_up, strike, stages, hold_only
        self.price, self.left = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.price, self.left = float(self.np_random.uniform(LOWEST_START, HIGHEST_START)), self.stages
        return self._observed(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if int(action) == 1 and not self.hold_only:
            return self._observed(), max(0.0, self.strike - self.price), True, False, {}
        self.price *= UP if self.np_random.random() < self.p_up else DOWN
        self.left -= 1
        return self._observed(), 0.0, self.left == 0, False, {}

    def _observed(self) -> np.ndarray:
        return np.array([self.price, self.left], np.float32)


def american_put_tree(start: np.ndarray, p_up: float = 0.5, strike: float = 100.0, stages: int = STAGES) -> FiniteMDP:
    """The put as an exact finite model, a copy for each start price `[...]`: state j < `stages` is "j rises so far", the last is "ended".

    At stage h the price is start 1.02^j 0.98^(h - j). Actions and payoffs are those of `AmericanPut`.
    """
    _check_put(p_up, strike, stages)
    start = np.asarray(start, np.float64)
    ended = stages  # a state beside 0 .. stages - 1 rises: after the last move nothing is left to decide
    transition = np.zeros((stages, ended + 1, 2, ended + 1))
    rises = np.arange(ended)
    transition[:, rises, 0, rises] = 1.0 - p_up
    transition[:, rises[:-1], 0, rises[1:]] = p_up
    transition[:, ended - 1, 0, ended] = p_up  # reached only with the last move
    transition[:, :, 1, ended] = transition[:, ended, :, ended] = 1.0
    reward = np.zeros((*start.shape, stages, ended + 1, 2))
    h = np.arange(stages)[:, None]
    reward[..., :ended, 1] = np.maximum(0.0, strike - put_price(start[..., None, None], h, rises))
    initial = np.zeros((*start.shape, ended + 1))
    initial[..., 0] = 1.0
    return FiniteMDP(np.broadcast_to(transition, (*start.shape, *transition.shape)), reward, initial)


def put_price(start: np.ndarray, h: np.ndarray | int, rises: np.ndarray | int) -> np.ndarray:
    """The price after h moves, `rises` of them up (what cannot be, more rises than moves, has a price too, and is never reached)."""
    return start * np.power(UP, rises) * np.power(DOWN, np.subtract(h, rises, dtype=np.float64))


def put_prices(n: int, horizon: int, p_up: float, rng: np.random.Generator) -> np.ndarray:
    """n price paths of an option that is held, `[n, horizon + 1]`."""
    moves = np.where(rng.random((n, horizon)) < p_up, UP, DOWN)
    return rng.uniform(LOWEST_START, HIGHEST_START, (n, 1)) * np.concatenate([np.ones((n, 1)), moves.cumprod(-1)], -1)


def _check_put(p_up: float, strike: float, stages: int) -> None:
    if not 0.0 <= p_up <= 1.0:
        raise ConfigError(f"p_up is {p_up}: a probability lies between 0 and 1.")
    if not 0.0 < strike < np.inf:
        raise ConfigError(f"strike is {strike}: a price is positive.")
    if stages < 1:
        raise ConfigError(f"stages is {stages}: there is at least one moment to decide at.")


# --- features of a number ---------------------------------------------------------------------------------------------


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
