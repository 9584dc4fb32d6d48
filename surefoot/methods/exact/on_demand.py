"""Algorithms 1 and 2 where states cannot be listed: the summed costs of a state are worked out when it is met.

Dai et al., arXiv 2301.12942v2 (and Luo et al., arXiv 2107.08346, for sampled bonuses). All that is kept are, by layer and episode, Si,
Si phi_k and L, from which at any state x

    S_k(x, .) = sum_{tau < k} Qhat_tau(x, .) - B_tau(x, .),
    B_tau(x, a) = b_tau(x, a) + (1 + 1/H) B_tau(x', a'),    x' ~ P(.|x, a) one simulated step, a' ~ pi_tau(.|x'),

with pi_tau(.|x) the leader on S_tau(x, .). Bonuses of a state ask for policies of states one layer on, at all earlier episodes: a
state met at the last layer costs of the order of k, one a layer earlier k (k A), and so on with a factor k A a layer. Two or three
layers and some hundreds of episodes are what this is for; where states can be listed, `adversarial_mdp` does the same in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from surefoot.envs.finite import quantile
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import covariance_inverse as covariance
from surefoot.methods.exact.adversarial_mdp import (
    AdversarialMDPConfig,
    bonus,
    loss_to_go,
    magnitude_shift,
    plain_estimate,
    rates,
    reduced_estimate,
)
from surefoot.methods.exact.episode_checks import check_stage
from surefoot.methods.exact.ftrl import exponential_weights, log_barrier

Features: TypeAlias = Callable[[int, np.ndarray], np.ndarray]
"""(stage, states [n, ...]) -> features of norm at most one, [n, A, d]."""

Step: TypeAlias = Callable[[int, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(stage, states [n, ...], actions [n], generator) -> next states [n, ...]."""

Start: TypeAlias = Callable[[int, np.random.Generator], np.ndarray]
"""(n, generator) -> first states [n, ...]."""


class OnDemandLinearQ:
    """A lone learner for states that are arrays of any kind; covariances and bonuses are simulated (`config.draws` episodes each)."""

    def __init__(self, features: Features, step: Step, start: Start, horizon: int, config: AdversarialMDPConfig, seed: int = 0):
        """Raises ConfigError for exact modes, resampling, or an unknown number of episodes."""
        if config.covariance != "average" or config.bonus != "sampled" or config.episodes is None:
            raise ConfigError("states that cannot be listed need covariance='average', bonus='sampled' and a number of episodes.")
        if horizon < 1:
            raise ConfigError(f"horizon is {horizon}: an episode has at least one stage.")
        self._features, self._step, self._start = features, step, start
        self.horizon, self.config, self.rates = horizon, config, rates(config, horizon, config.episodes)
        self.rng = np.random.default_rng(seed)
        self._leader = log_barrier if config.algorithm == "logbarrier" else exponential_weights
        self.inverse: list[np.ndarray] = []  # Si of every episode, [H, d, d]
        self.played: list[np.ndarray] = []  # Si phi_k, [H, d]
        self.to_go: list[np.ndarray] = []  # L, [H]
        self.draws: list[np.ndarray] = []  # phi that the magnitude's expectation is taken over, [H, M, d]
        self._met: dict[tuple[int, bytes], tuple[int, np.ndarray]] = {}  # costs of lone states, and from how many episodes

    @property
    def episode(self) -> int:
        """How many episodes were learned from."""
        return len(self.inverse)

    def act(self, h: int, state: np.ndarray | float) -> int:
        """Draw an action at stage h in one state."""
        check_stage(h, self.horizon)
        return int(quantile(self._leader(self.cost(h, state), self.rates.eta), self.rng.random(())))

    def cost(self, h: int, state: np.ndarray | float) -> np.ndarray:
        """S(x, .), `[A]`, of one state, remembered: the next time it is met, only what happened since is added."""
        x = np.asarray(state)[None]
        begin, known = self._met.get((h, x.tobytes()), (0, None))
        cost = self._rolled(h, x, self.features(h, x), np.array([self.episode]), begin, known)
        self._met[h, x.tobytes()] = self.episode, cost
        return cost[0]

    def end_episode(self, path: Sequence[tuple[np.ndarray | float, int, float]]) -> None:
        """Learn from the episode just played: H times (state, action, loss). Raises DataError for losses outside [0, 1]."""
        if len(path) != self.horizon:
            raise DataError(f"the episode has {len(path)} steps: it must have {self.horizon}, one a stage.")
        loss = np.array([step[2] for step in path], np.float64)
        if not ((loss >= 0.0) & (loss <= 1.0)).all():
            h = int(np.argmin((loss >= 0.0) & (loss <= 1.0)))
            raise DataError(f"the loss at stage {h} is {loss[h]:g}: losses lie in [0, 1]; rescale them.")
        phi = np.stack([self.features(h, np.asarray(x)[None])[0, a] for h, (x, a, _) in enumerate(path)])
        inverse = covariance.averaged_inverse(self._simulated(), self.rates.gamma)
        draws = self._simulated() if self.config.algorithm == "magnitude_reduced" else np.empty((self.horizon, 0, phi.shape[-1]))
        self.inverse.append(inverse)
        self.played.append((inverse @ phi[..., None])[..., 0])
        self.to_go.append(loss_to_go(loss))
        self.draws.append(draws)

    def features(self, h: int, x: np.ndarray) -> np.ndarray:
        """phi of all actions in states `[n, ...]`, `[n, A, d]`, checked."""
        phi = np.asarray(self._features(h, x), np.float64)
        if phi.ndim != 3 or len(phi) != len(x):
            raise DataError(f"features, stage {h}, returned shape {phi.shape} for {len(x)} states: it must be [n, actions, d].")
        largest = np.linalg.norm(phi, axis=-1).max(initial=0.0)
        if not largest <= 1.0 + 1e-9:
            raise DataError(f"features, stage {h}, have norm {largest:g}: the norm must be at most 1; divide by the largest.")
        return phi

    # --- what is worked out when a state is met --------------------------------------------------------------------------------

    def _rolled(self, h: int, x: np.ndarray, phi: np.ndarray, age: np.ndarray, begin: int, cost: np.ndarray | None) -> np.ndarray:
        """S of states x `[n, ...]` after `age` `[n]` episodes, `[n, A]`, going on from `cost` after `begin` episodes."""
        cost = np.zeros(phi.shape[:2]) if cost is None else cost.copy()
        later = self._continued(h, x, phi.shape[1], age, begin)
        for tau in range(begin, int(age.max(initial=0))):
            on = age > tau
            b = self._bonus(h, phi[on], self._leader(cost[on], self.rates.eta), self.inverse[tau][h])
            cost[on] += self._estimate(h, phi[on], tau) - b - later[on, tau - begin]
        return cost

    def _continued(self, h: int, x: np.ndarray, n_actions: int, age: np.ndarray, begin: int) -> np.ndarray:
        """(1 + 1/H) B_tau(x', a') with one simulated x' for every state, action and tau in `begin .. age - 1`, `[n, T, A]`."""
        later = np.zeros((len(x), max(int(age.max(initial=0)) - begin, 0), n_actions))
        if h + 1 == self.horizon or later.size == 0 or self.rates.beta == 0.0:
            return later
        which, tau, action = np.nonzero(np.broadcast_to((begin + np.arange(later.shape[1]) < age[:, None])[..., None], later.shape))
        after = self._step(h, x[which], action, self.rng)
        later[which, tau, action] = (1.0 + 1.0 / self.horizon) * self._dilated(h + 1, after, begin + tau)
        return later

    def _dilated(self, h: int, x: np.ndarray, age: np.ndarray) -> np.ndarray:
        """B_age(x, a) with a ~ pi_age(.|x), `[n]`, by simulated continuations."""
        phi = self.features(h, x)
        policy = self._leader(self._rolled(h, x, phi, age, 0, None), self.rates.eta)
        action = quantile(policy, self.rng.random(len(x)))
        b = self._bonus(h, phi, policy, np.stack([inverse[h] for inverse in self.inverse])[age])[np.arange(len(x)), action]
        if h + 1 == self.horizon:
            return b
        return b + (1.0 + 1.0 / self.horizon) * self._dilated(h + 1, self._step(h, x, action, self.rng), age)

    def _estimate(self, h: int, phi: np.ndarray, tau: int) -> np.ndarray:
        """Qhat_tau, `[n, A]`."""
        c = phi @ self.played[tau][h]
        if self.config.algorithm != "magnitude_reduced":
            return plain_estimate(c, self.to_go[tau][h])
        shift = magnitude_shift(phi, self.inverse[tau][h], self.draws[tau][h], None, self.horizon)
        return reduced_estimate(c, self.to_go[tau][h], shift, self.horizon)

    def _bonus(self, h: int, phi: np.ndarray, policy: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """b, `[n, A]`."""
        return bonus(covariance.squared_norm(phi, inverse), policy, self.rates.beta)

    def _simulated(self) -> np.ndarray:
        """phi along simulated episodes under this episode's policies, `[H, M, d]`."""
        m = self.config.draws
        x, found = self._start(m, self.rng), []
        for h in range(self.horizon):
            phi, (states, back) = self.features(h, x), np.unique(x, axis=0, return_inverse=True)
            if len(states) == 1:  # the first state, as a rule: remembered
                cost = self.cost(h, states[0])[None]
            else:
                cost = self._rolled(h, states, self.features(h, states), np.full(len(states), self.episode), 0, None)
            action = quantile(self._leader(cost, self.rates.eta)[back.reshape(-1)], self.rng.random(m))
            found.append(phi[np.arange(m), action])
            if h + 1 < self.horizon:
                x = self._step(h, x, action, self.rng)
        return np.stack(found)
