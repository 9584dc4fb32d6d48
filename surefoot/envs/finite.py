"""Finite-horizon Markov decision processes as arrays, and the worlds that exact methods are tried on.

Leading axes are copies: hundreds of random worlds, or one, are the same program. Stages are 0 .. H-1 here where papers write 1 .. H.
RiverSwim is Strehl and Littman's (2008) chain in the form of Tiapkin et al. (arXiv 2310.17303); linear MDPs are those of Jin et al.
(arXiv 1907.05388): P_h(s'|s,a) = phi_h(s,a)^T mu_h(s') and r_h(s,a) = phi_h(s,a)^T theta_h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.errors import ConfigError, DataError

TOLERANCE = 1e-8  # by which probabilities may miss a sum of one


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """Transition probabilities, expected rewards and start law of H stages, S states and A actions; checked on construction.

    Raises DataError where a row of probabilities is negative or does not sum to one, naming it, or where shapes disagree.
    """

    transition: np.ndarray  # [..., H, S, A, S]
    reward: np.ndarray  # [..., H, S, A]
    initial: np.ndarray  # [..., S]

    def __post_init__(self) -> None:
        if self.transition.ndim < 4 or self.transition.shape[-1] != self.transition.shape[-3]:
            raise DataError(f"transition has shape {self.transition.shape}: it must be [..., H, S, A, S].")
        if self.reward.shape != self.transition.shape[:-1]:
            raise DataError(
                f"reward has shape {self.reward.shape}, but transition {self.transition.shape} asks for {self.transition.shape[:-1]}."
            )
        if self.initial.shape != (*self.copies, self.n_states):
            raise DataError(f"initial has shape {self.initial.shape}: it must be {(*self.copies, self.n_states)}, a probability a state.")
        check_distribution(self.transition, "transition")
        check_distribution(self.initial, "initial")
        if not np.isfinite(self.reward).all():
            where = np.argwhere(~np.isfinite(self.reward))[0].tolist()
            raise DataError(f"reward{where} is {self.reward[tuple(where)]}: rewards must be finite.")

    @property
    def copies(self) -> tuple[int, ...]:
        return self.transition.shape[:-4]

    @property
    def horizon(self) -> int:
        return self.transition.shape[-4]

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]

    @property
    def n_actions(self) -> int:
        return self.transition.shape[-2]

    @staticmethod
    def stationary(transition: np.ndarray, reward: np.ndarray, horizon: int, start: int = 0) -> FiniteMDP:
        """The same `[..., S, A, S]` and `[..., S, A]` at all stages, from one start state. Raises ConfigError for a horizon below 1."""
        if horizon < 1:
            raise ConfigError(f"horizon is {horizon}: an episode has at least one stage.")
        n = transition.shape[-1]
        if not 0 <= start < n:
            raise ConfigError(f"start is {start}: the {n} states are numbered from 0.")
        initial = np.zeros((*transition.shape[:-3], n))
        initial[..., start] = 1.0
        repeated = np.repeat(transition[..., None, :, :, :], horizon, -4), np.repeat(reward[..., None, :, :], horizon, -3)
        return FiniteMDP(*repeated, initial)


@dataclass(frozen=True, eq=False)
class Episodes:
    """n played episodes of a lone MDP."""

    state: np.ndarray  # [n, H + 1] int64, the state after the last step included
    action: np.ndarray  # [n, H] int64
    reward: np.ndarray  # [n, H] expected rewards of the pairs that were visited


@dataclass(frozen=True, eq=False)
class LinearMDP:
    """An MDP that is linear in known features: P_h = phi_h mu_h, r_h = phi_h theta_h."""

    mdp: FiniteMDP
    features: np.ndarray  # [..., H, S, A, d] phi
    factors: np.ndarray  # [..., H, d, S] mu, each row a distribution
    theta: np.ndarray  # [..., H, d]

    @staticmethod
    def of(features: np.ndarray, factors: np.ndarray, theta: np.ndarray, initial: np.ndarray) -> LinearMDP:
        """Put one together; raises DataError where the products are no probabilities."""
        transition = np.einsum("...hsad,...hdt->...hsat", features, factors)
        reward = np.einsum("...hsad,...hd->...hsa", features, theta)
        return LinearMDP(FiniteMDP(transition, reward, initial), features, factors, theta)


def check_distribution(p: np.ndarray, name: str) -> None:
    """Raises DataError unless every row `[..., n]` is a probability distribution, naming the first that is not."""
    wrong = ~((p >= 0.0).all(-1) & (np.abs(p.sum(-1) - 1.0) <= TOLERANCE * p.shape[-1]))  # NaN compares false
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        row = p[where]
        what = f"holds {row.min():g}" if (row < 0.0).any() else f"sums to {row.sum():.10g}"
        raise DataError(f"{name}{list(where) if where else ''} {what}: probabilities are not negative and sum to one.")


# --- playing ----------------------------------------------------------------------------------------------------------


def draw(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index of every row of probabilities `[..., n]`, by inversion, `[...]` int64; what has probability zero is never drawn."""
    return quantile(p, rng.random(p.shape[:-1]))


def quantile(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The index at which the cumulated probabilities `[..., n]` pass `u` `[...]` in [0, 1): what `draw` draws with that luck."""
    cumulative = p.cumsum(-1)
    return ((u * cumulative[..., -1])[..., None] >= cumulative).sum(-1)  # rounding may leave the sum a little off one


def play(mdp: FiniteMDP, policy: np.ndarray, n: int, rng: np.random.Generator) -> Episodes:
    """n episodes of a lone MDP under `policy`, `[H, S, A]`, or `[n, H, S, A]` with one a row."""
    h, s, a = mdp.reward.shape
    policies = np.broadcast_to(policy, (n, h, s, a))
    state, action, reward = np.empty((n, h + 1), np.int64), np.empty((n, h), np.int64), np.empty((n, h))
    state[:, 0] = draw(np.broadcast_to(mdp.initial, (n, s)), rng)
    rows = np.arange(n)
    for t in range(h):
        action[:, t] = draw(policies[rows, t, state[:, t]], rng)
        reward[:, t] = mdp.reward[t, state[:, t], action[:, t]]
        state[:, t + 1] = draw(mdp.transition[t, state[:, t], action[:, t]], rng)
    return Episodes(state, action, reward)


# --- worlds -----------------------------------------------------------------------------------------------------------


def riverswim(states: int = 6, horizon: int = 10) -> FiniteMDP:
    """A river: 0 swims left, which is safe and poor (0.005 at the left end); 1 swims right against the current (1 at the far end)."""
    if states < 3:
        raise ConfigError(f"states is {states}: a river has two ends and something between them, so at least 3.")
    transition, reward = np.zeros((states, 2, states)), np.zeros((states, 2))
    for s in range(states):
        transition[s, 0, max(s - 1, 0)] = 1.0
    transition[0, 1, :2] = 0.4, 0.6
    for s in range(1, states - 1):
        transition[s, 1, s - 1 : s + 2] = 0.05, 0.6, 0.35
    transition[-1, 1, -2:] = 0.4, 0.6
    reward[0, 0], reward[-1, 1] = 0.005, 1.0
    return FiniteMDP.stationary(transition, reward, horizon)


def random_mdp(
    rng: np.random.Generator, horizon: int, states: int, actions: int, copies: tuple[int, ...] = (), concentration: float = 1.0
) -> FiniteMDP:
    """Rows from Dirichlet(concentration, ...), rewards uniform in [0, 1], from state 0."""
    transition = rng.dirichlet(np.full(states, concentration), (*copies, horizon, states, actions))
    return FiniteMDP(transition, rng.random((*copies, horizon, states, actions)), _from_first(copies, states))


def random_linear_mdp(
    rng: np.random.Generator, horizon: int, states: int, actions: int, d: int, copies: tuple[int, ...] = (), concentration: float = 0.3
) -> LinearMDP:
    """phi_h(s, a) and the rows of mu_h from symmetric Dirichlet laws, theta uniform in [0, 1], from state 0."""
    features = rng.dirichlet(np.full(d, concentration), (*copies, horizon, states, actions))
    factors = rng.dirichlet(np.full(states, concentration), (*copies, horizon, d))
    return LinearMDP.of(features, factors, rng.random((*copies, horizon, d)), _from_first(copies, states))


def _from_first(copies: tuple[int, ...], states: int) -> np.ndarray:
    initial = np.zeros((*copies, states))
    initial[..., 0] = 1.0
    return initial
