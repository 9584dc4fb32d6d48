"""Natural policy gradient with data-set resets on a finite world: the form of DR-PO that its theorems are about.

Chang et al., "Dataset Reset Policy Optimization for RLHF", 2024, arXiv 2404.08495, the algorithm of Theorem 5.7 with natural policy
gradient as its optimiser. Given trajectories that somebody played, each iteration starts N short episodes at states of theirs: a random
trajectory, a random stage h, the policy of now from s_h on. The rewards from there are what Q_h(s_h, a_h) is regressed on, and

    pi_{t+1}(a|s) ~ pi_ref(a|s)^{eta lam / (eta lam + 1)} pi_t(a|s)^{1 / (eta lam + 1)} exp(eta Q(s, a) / (eta lam + 1)),

the maximiser of <Q, p> - lam KL(p || pi_ref) - KL(p || pi_t) / eta. So the policy improves wherever the data went, even if it would hardly
ever get there by itself. What is returned is the uniform mixture of all iterates. A reward learned from preferences
(`preference_reward.py`) stands where `reward` does.

Departures: the regression is over tables, a mean a cell, where a cell that was not visited counts 0 (the least-squares table of smallest
norm); the step size 1 / (r_max sqrt(T)) is read off the rates that the paper's corollary states. `starts="reference"` is the paper's
PPO++, for worlds that cannot be reset: the state is reached by playing the reference. `starts="initial"` resets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from surefoot.envs.finite import FiniteMDP, draw
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.planning import policy_return

Starts = Literal["data", "reference", "initial"]


@dataclass(frozen=True)
class DatasetResetConfig:
    iterations: int = 100
    """T, mirror steps."""
    episodes: int = 1000
    """N, episodes an iteration."""
    lam: float = 0.0
    """Weight of the KL to the reference."""
    eta: float | None = None
    """Step size; 1 / (r_max sqrt(T)) if not given, r_max the largest return of an episode."""
    starts: Starts = "data"
    """Where episodes start: at states of the data, at states that the reference reaches, or where the world starts."""

    def __post_init__(self) -> None:
        for name in ("iterations", "episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if not self.lam >= 0.0:
            raise ConfigError(f"lam is {self.lam}: the weight of the KL penalty is not negative.")
        if self.eta is not None and not self.eta > 0.0:
            raise ConfigError(f"eta is {self.eta}: the step size must be positive.")
        if self.starts not in ("data", "reference", "initial"):
            raise ConfigError(f"starts is {self.starts!r}: episodes start at 'data', 'reference' or 'initial'.")


@dataclass(frozen=True, eq=False)
class Mixture:
    """The uniform mixture of the iterates: one of them is drawn for each whole episode."""

    policies: np.ndarray  # [T, H, S, A]

    def value(self, mdp: FiniteMDP) -> float:
        """Expected return: the mean of the iterates'."""
        return float(policy_return(mdp, self.policies).mean())


def mirror_step(policy: np.ndarray, reference: np.ndarray, q: np.ndarray, eta: float, lam: float) -> np.ndarray:
    """pi_{t+1}, `[..., A]`, of pi_t, pi_ref and Q of that shape; what pi_t or (with lam > 0) pi_ref rules out stays ruled out."""
    if np.isinf(eta):  # the limit, in which pi_t is forgotten
        if not lam > 0.0:
            raise ConfigError("eta is infinite and lam is 0: nothing would hold the policy; give one of them a positive, finite value.")
        old, anchor, gain = 0.0, 1.0, 1.0 / lam
    else:
        old, anchor, gain = (part / (eta * lam + 1.0) for part in (1.0, eta * lam, eta))
    with np.errstate(divide="ignore"):
        logits = gain * q
        for weight, p in ((old, policy), (anchor, reference)):
            if weight > 0.0:
                logits = logits + weight * np.log(p)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def fitted_q(
    mdp: FiniteMDP, policy: np.ndarray, states: np.ndarray, stages: np.ndarray, rng: np.random.Generator, reward: np.ndarray
) -> np.ndarray:
    """Q `[H, S, A]` of one iteration: episode i starts in `states[i]` at stage `stages[i]` and follows `policy`.

    A cell is the mean of the sums of `reward` `[H, S, A]` from its first pair on; 0 where no episode started with that pair.
    """
    first = np.zeros(len(states), np.int64)
    total, state = np.zeros(len(states)), states.copy()
    for h in range(mdp.horizon):
        running = np.flatnonzero(stages <= h)
        action = draw(policy[h, state[running]], rng)
        first[running] = np.where(stages[running] == h, action, first[running])
        total[running] += reward[h, state[running], action]
        state[running] = draw(mdp.transition[h, state[running], action], rng)
    sums, counts = np.zeros(mdp.reward.shape), np.zeros(mdp.reward.shape)
    np.add.at(sums, (stages, states, first), total)
    np.add.at(counts, (stages, states, first), 1.0)
    return sums / np.maximum(counts, 1.0)


def learn(
    mdp: FiniteMDP,
    data: np.ndarray,
    reference: np.ndarray,
    config: DatasetResetConfig,
    rng: np.random.Generator,
    reward: np.ndarray | None = None,
) -> Mixture:
    """The mixture of T iterates from pi_1 = `reference` `[H, S, A]`, on a lone world that can be reset.

    `data`: states `[n, H]` of played trajectories (`Episodes.state[:, :-1]`); `reward` `[H, S, A]`: the world's own if not given.
    Raises DataError where the data are no states of the world.
    """
    _check(mdp, data, reference)
    reward = mdp.reward if reward is None else reward
    eta = config.eta if config.eta is not None else 1.0 / (_largest_return(reward) * np.sqrt(config.iterations))
    policies = np.empty((config.iterations, *mdp.reward.shape))
    policies[0] = reference
    for t in range(config.iterations):
        states, stages = _starts(mdp, data, reference, config, rng)
        q = fitted_q(mdp, policies[t], states, stages, rng, reward)
        if t + 1 < config.iterations:
            policies[t + 1] = mirror_step(policies[t], reference, q, eta, config.lam)
    return Mixture(policies)


def _starts(
    mdp: FiniteMDP, data: np.ndarray, reference: np.ndarray, config: DatasetResetConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """States and stages `[N]` at which the episodes of an iteration start."""
    n = config.episodes
    if config.starts == "initial":
        return draw(np.broadcast_to(mdp.initial, (n, mdp.n_states)), rng), np.zeros(n, np.int64)
    stages = rng.integers(mdp.horizon, size=n)
    if config.starts == "data":
        return data[rng.integers(len(data), size=n), stages], stages
    state = draw(np.broadcast_to(mdp.initial, (n, mdp.n_states)), rng)
    for h in range(mdp.horizon - 1):
        before = np.flatnonzero(stages > h)
        action = draw(reference[h, state[before]], rng)
        state[before] = draw(mdp.transition[h, state[before], action], rng)
    return state, stages


def _largest_return(reward: np.ndarray) -> float:
    """A bound of the size of an episode's return: the largest reward of each stage, added up."""
    return max(float(np.abs(reward).max((-2, -1)).sum()), np.finfo(np.float64).tiny)


def _check(mdp: FiniteMDP, data: np.ndarray, reference: np.ndarray) -> None:
    if mdp.copies:
        raise DataError(f"the world has copies {mdp.copies}: resets are for a lone one.")
    if reference.shape != mdp.reward.shape:
        raise DataError(f"reference has shape {reference.shape}: it must be {mdp.reward.shape}, stages by states by actions.")
    if data.ndim != 2 or not len(data) or data.shape[1] != mdp.horizon or data.dtype.kind not in "iu":
        raise DataError(f"data have shape {data.shape} and type {data.dtype}: they must be states [n, {mdp.horizon}], whole numbers.")
    wrong = np.argwhere((data < 0) | (data >= mdp.n_states))
    if wrong.size:
        i, h = wrong[0].tolist()
        raise DataError(f"data[{i}, {h}] is {data[i, h]}: the {mdp.n_states} states are numbered from 0.")
