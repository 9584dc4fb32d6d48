"""A reward from preferences: maximum likelihood under the Bradley-Terry model of pairs of whole trajectories.

Step 1 of the RLHF part of Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv 2310.17303 (Bradley and Terry, 1952):
P(tau_1 preferred to tau_0) = sigmoid(r(tau_1) - r(tau_0)), r(tau) = sum_h r_h(s_h, a_h), and with d = r(tau_1) - r(tau_0)

    r^ = argmin  -(1/n) sum_i [ o_i log sigmoid(d_i) + (1 - o_i) log sigmoid(-d_i) ]

over tables with entries in [0, 1], or over r_h = psi_h^T theta_h with values in [0, 1] and ||theta_h|| <= R. The loss is convex. No
pessimistic penalty follows: the KL term of the learner takes that part.

Departures: pairs of trajectories leave some directions of r open (a constant a stage, and what was never visited), where there is no
unique minimum: `pull` / 2 times the squared distance from `start` is added, small enough to decide nothing else. Linear rewards are kept
in [0, 1] by WALL / 2 times the squared excess of each value, which a fit may exceed by about 1/WALL before it is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.balls import minimise_in_balls
from surefoot.methods.exact.behaviour_cloning import check_features, whole
from surefoot.methods.exact.visits import World, trajectories

PULL = 1e-6
WALL = 100.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """Trajectories two by two, for somebody to say which is better."""

    states: np.ndarray  # [..., n, 2, H] int64
    actions: np.ndarray  # [..., n, 2, H] int64

    def returns(self, reward: np.ndarray) -> np.ndarray:
        """r(tau) `[..., n, 2]` under a table `[..., H, S, A]`."""
        lead, table = self._flat(reward)
        return table[self._index(reward.shape[-3:])].sum(-1).reshape(*lead, *self.states.shape[-3:-1])

    def _flat(self, reward: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
        lead = self.states.shape[:-3]
        return lead, np.broadcast_to(reward, lead + reward.shape[-3:]).reshape(-1)

    def _index(self, shape: tuple[int, ...]) -> np.ndarray:
        """Where in a flat table `[copies * H * S * A]` the visited pairs stand, `[copies, n, 2, H]`."""
        h, s, a = shape
        states, actions = (x.reshape(-1, *x.shape[-3:]) for x in (self.states, self.actions))
        copy = np.arange(len(states))[:, None, None, None]
        return ((copy * h + np.arange(h)) * s + states) * a + actions


def sample_pairs(world: World, policy: np.ndarray, n: int, rng: np.random.Generator) -> Pairs:
    """n pairs of independent episodes of each copy of `policy` `[..., H, S, A]`."""
    states, actions = trajectories(world, policy, 2 * n, rng)
    shape = (*states.shape[:-2], n, 2, states.shape[-1])
    return Pairs(states.reshape(shape), actions.reshape(shape))


def simulated_labels(pairs: Pairs, reward: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels `[..., n]` of somebody whose true reward is `reward`: 1 where the second of a pair is preferred."""
    d = difference(pairs.returns(reward))
    return (rng.random(d.shape) < sigmoid(d)).astype(np.int64)


def difference(returns: np.ndarray) -> np.ndarray:
    return returns[..., 1] - returns[..., 0]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def negative_log_likelihood(d: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over pairs `[...]` of -log P(label) at differences d `[..., n]`, and its derivative with respect to d `[..., n]`."""
    loss = np.logaddexp(0.0, np.where(labels == 1, -d, d)).mean(-1)
    return loss, (sigmoid(d) - labels) / d.shape[-1]


# --- the two reward classes -------------------------------------------------------------------------------------------


def tabular_reward(
    pairs: Pairs, labels: np.ndarray, n_states: int, n_actions: int, *, start: float = 0.5, pull: float = PULL, steps: int = 1000
) -> np.ndarray:
    """The table `[..., H, S, A]` in [0, 1] of greatest likelihood; what no pair can tell is left near `start`.

    Raises DataError where labels are not 0 or 1, or pairs do not fit them or leave the state and action space.
    """
    labels = checked(pairs, labels, n_states, n_actions)
    if not 0.0 <= start <= 1.0 or not pull >= 0.0:
        raise ConfigError(f"start is {start} and pull {pull}: start lies in [0, 1], and pull is not negative.")
    shape = (pairs.states.shape[-1], n_states, n_actions)
    size = int(np.prod((*labels.shape[:-1], *shape)))
    index = pairs._index(shape).reshape(*pairs.states.shape)
    sign = np.array([-1.0, 1.0])[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = negative_log_likelihood(difference(flat[index].sum(-1)), labels)
        spread = np.broadcast_to(slope[..., None, None] * sign, index.shape)
        gradient = np.bincount(index.reshape(-1), spread.reshape(-1), size)
        away = flat - start
        return float(value.sum() + 0.5 * pull * away @ away), gradient + pull * away

    options = {"maxiter": steps, "gtol": 1e-8, "ftol": 1e-12}
    found = minimize(loss, np.full(size, start), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * size, options=options)
    return np.clip(found.x, 0.0, 1.0).reshape(*labels.shape[:-1], *shape)


def linear_reward(
    pairs: Pairs, labels: np.ndarray, features: np.ndarray, *, radius: float | None = None, pull: float = PULL
) -> tuple[np.ndarray, np.ndarray]:
    """theta `[..., H, d]` of greatest likelihood, and the table psi^T theta `[..., H, S, A]` clipped to [0, 1].

    `features` psi `[H, S, A, d]`, the same for all copies; `radius` of theta_h: sqrt(d), as for linear MDPs, unless given.
    """
    if features.ndim != 4:
        raise DataError(f"features have shape {features.shape}: they must be [H, S, A, d].")
    h, s, a, d = features.shape
    check_features(features, (h, s, a))
    labels = checked(pairs, labels, s, a)
    if pairs.states.shape[-1] != h:
        raise DataError(f"features have {h} stages, but trajectories {pairs.states.shape[-1]}: they must agree.")
    psi = features[np.arange(h), pairs.states, pairs.actions]  # [..., n, 2, H, d]
    x = psi[..., 1, :, :] - psi[..., 0, :, :]
    lead = labels.shape[:-1]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = negative_log_likelihood(np.einsum("...nhd,...hd->...n", x, theta), labels)
        reward = np.einsum("hsad,...hd->...hsa", features, theta)
        excess = reward - np.clip(reward, 0.0, 1.0)
        gradient = np.einsum("...nhd,...n->...hd", x, slope) + WALL * np.einsum("hsad,...hsa->...hd", features, excess) + pull * theta
        return float(value.sum() + 0.5 * WALL * np.square(excess).sum() + 0.5 * pull * np.square(theta).sum()), gradient

    theta = minimise_in_balls(loss, (*lead, h, d), np.sqrt(d) if radius is None else radius)
    return theta, np.clip(np.einsum("hsad,...hd->...hsa", features, theta), 0.0, 1.0)


def checked(pairs: Pairs, labels: np.ndarray, n_states: int, n_actions: int) -> np.ndarray:
    """Labels as int64; raises DataError where they are not 0 or 1, one a pair, or where pairs leave the range."""
    if pairs.states.ndim < 3 or pairs.states.shape != pairs.actions.shape or pairs.states.shape[-2] != 2:
        raise DataError(f"pairs have states {pairs.states.shape} and actions {pairs.actions.shape}: both must be [..., n, 2, H].")
    labels = np.asarray(labels)
    if labels.shape != pairs.states.shape[:-2] or labels.size == 0:
        raise DataError(f"labels have shape {labels.shape}, but there are {pairs.states.shape[:-2]} pairs: give one label a pair.")
    whole(pairs.states, n_states, "states")
    whole(pairs.actions, n_actions, "actions")
    return whole(labels, 2, "labels")


Judge = Callable[[Pairs], np.ndarray]
"""Says which of each pair is better: pairs to labels `[..., n]`, 1 for the second."""
