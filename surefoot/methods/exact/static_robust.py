"""IWOCS in tables: a robust policy over a list of transition models, from one plain solution after the other.

Zouitine, Geist and Rachelson, "Solving robust MDPs as a sequence of static RL problems", arXiv 2410.06212v1: the meta-algorithm and its
tabular instance (value iteration, brute force over the list). With Q_i = min_{j <= i} Q*_{T_j} and pi_i greedy in it,
T_{i+1} = argmin_T V^{pi_i}_T(s_0). Q_i falls with i and is nowhere below the robust Q of an (s, a)-rectangular set; that it gets there is
not guaranteed, since the choice of T_{i+1} is a heuristic. Departures: policies are evaluated by a linear solve instead of 300 roll-outs
(`monte_carlo` is the paper's way), value iteration goes on to 1e-10 instead of 1e-3, and a model that is found again ends the search too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from surefoot.envs.finite import check_distribution, quantile
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.planning import expected

SWEEPS = 100_000  # of value iteration, after which it does not converge


@dataclass(frozen=True, eq=False)
class Models:
    """K discounted MDPs on the same S states and A actions, with one start state; checked on construction.

    Raises DataError where shapes disagree, a row of probabilities does not sum to one or a reward is not finite, ConfigError for gamma
    outside [0, 1] and a start that is no state.
    """

    transition: np.ndarray  # [K, S, A, S]
    reward: np.ndarray  # [K, S, A] expected
    gamma: float = 0.95
    start: int = 0

    def __post_init__(self) -> None:
        if self.transition.ndim != 4 or self.transition.shape[-1] != self.transition.shape[1] or not len(self.transition):
            raise DataError(f"transition has shape {self.transition.shape}: it must be [K, S, A, S] with at least one model.")
        if self.reward.shape != self.transition.shape[:-1]:
            raise DataError(f"reward has shape {self.reward.shape}: it must be {self.transition.shape[:-1]}.")
        check_distribution(self.transition, "transition")
        if not np.isfinite(self.reward).all():
            where = np.argwhere(~np.isfinite(self.reward))[0].tolist()
            raise DataError(f"reward{where} is {self.reward[tuple(where)]}: rewards must be finite.")
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        if not 0 <= self.start < self.n_states:
            raise ConfigError(f"start is {self.start}: the {self.n_states} states are numbered from 0.")

    @staticmethod
    def of(kernels: Sequence[np.ndarray] | np.ndarray, rewards: np.ndarray, gamma: float = 0.95, start: int = 0) -> Models:
        """From kernels `[K, S, A, S]` and rewards `[S, A]`, or `[S, A, S]` for steps, which all models share."""
        shapes = {np.shape(kernel) for kernel in kernels}
        if len(shapes) != 1:
            raise DataError(f"the kernels have shapes {sorted(shapes)}: give at least one, all of one shape [S, A, S].")
        transition, rewards = np.stack([np.asarray(kernel, np.float64) for kernel in kernels]), np.asarray(rewards, np.float64)
        if rewards.shape not in (transition.shape[1:], transition.shape[1:-1]):
            raise DataError(f"rewards have shape {rewards.shape}: they must be {transition.shape[1:-1]} or {transition.shape[1:]}.")
        if rewards.ndim == 3:
            return Models(transition, (transition * rewards).sum(-1), gamma, start)
        return Models(transition, np.broadcast_to(rewards, transition.shape[:-1]), gamma, start)

    def __len__(self) -> int:
        return len(self.transition)

    @property
    def n_states(self) -> int:
        return self.transition.shape[-1]


Search = Callable[[np.ndarray], tuple[int, float]]
"""Of a deterministic policy `[S]` the model in which it does worst, and its value there from the start."""


@dataclass(frozen=True, eq=False)
class Iteration:
    """Q_i, its greedy policy, and what the search found about it."""

    model: int  # T_i, which was solved
    q: np.ndarray  # [S, A] min over the models so far
    policy: np.ndarray  # [S] int64, the first of equally good actions
    claimed: float  # max_a Q_i(s_0, a)
    worst: int  # T_{i+1}
    value: float  # V^{pi_i}(s_0) there


@dataclass(frozen=True, eq=False)
class Solved:
    """The last iteration's policy, and the way there."""

    policy: np.ndarray  # [S] int64
    value: float  # its worst value from the start
    worst: int  # the model in which it has that
    models: tuple[int, ...]  # that were solved, T_0 first
    history: tuple[Iteration, ...]
    closed: bool  # the worst value is what Q promised, up to eps: the end that the paper's test sees


def iwocs(
    models: Models,
    first: int = 0,
    *,
    iterations: int | None = None,
    eps: float = 1e-6,
    tolerance: float = 1e-10,
    search: Search | None = None,
) -> Solved:
    """The meta-algorithm from model `first`, with at most `iterations` searches (None: as many as there are models).

    It stops when |V^{pi_i}(s_0) - max_a Q_i(s_0, a)| <= eps in the worst model, or when that model has been solved already.
    """
    iterations = len(models) if iterations is None else iterations
    if iterations < 1:
        raise ConfigError(f"iterations is {iterations}: at least one is needed.")
    if not 0 <= first < len(models):
        raise ConfigError(f"first is {first}: the {len(models)} models are numbered from 0.")
    search = exact_search(models) if search is None else search
    solved, history = [first], []
    q = value_iteration(models, first, tolerance)
    for _ in range(iterations):
        policy = q.argmax(-1)  # ties: the first action
        worst, value = search(policy)
        claimed = float(q[models.start].max())
        history.append(Iteration(solved[-1], q, policy, claimed, worst, value))
        if abs(value - claimed) <= eps or worst in solved:
            break
        solved.append(worst)
        q = np.minimum(q, value_iteration(models, worst, tolerance))
    last = history[-1]
    closed = abs(last.value - last.claimed) <= eps
    return Solved(last.policy, last.value, last.worst, tuple(row.model for row in history), tuple(history), closed)


# --- solving ----------------------------------------------------------------------------------------------------------


def value_iteration(models: Models, k: int, tolerance: float = 1e-10) -> np.ndarray:
    """Q* of model k, `[S, A]`, to a relative accuracy of `tolerance`."""
    return _iterated(models, lambda v: models.reward[k] + models.gamma * expected(models.transition[k], v), tolerance)


def robust_value_iteration(models: Models, tolerance: float = 1e-10) -> np.ndarray:
    """Robust Q `[S, A]` of the (s, a)-rectangular hull, where the model is chosen anew for every (s, a)."""
    return _iterated(models, lambda v: (models.reward + models.gamma * expected(models.transition, v)).min(0), tolerance)


def _iterated(models: Models, backup: Callable[[np.ndarray], np.ndarray], tolerance: float) -> np.ndarray:
    """The fixed point of Q = backup(max_a Q). Raises ConfigError where there is none (gamma 1 and a walk that need not end)."""
    v = np.zeros(models.n_states)
    change = max(tolerance * (1.0 - models.gamma if models.gamma < 1.0 else 1.0), 1e-14)  # of a sweep; 1 / (1 - gamma) of it is left
    for _ in range(SWEEPS):
        q = backup(v)
        if np.abs(q.max(-1) - v).max() <= change * max(1.0, np.abs(v).max()):
            return q
        v = q.max(-1)
    raise ConfigError(f"value iteration does not converge with gamma {models.gamma}: take one below 1, or let every walk end.")


# --- searching --------------------------------------------------------------------------------------------------------


def exact_search(models: Models) -> Search:
    """Brute force over the list by linear solves; the first of equally bad models."""

    def search(policy: np.ndarray) -> tuple[int, float]:
        values = policy_values(models, policy)[:, models.start]
        worst = int(values.argmin())
        return worst, float(values[worst])

    return search


def policy_values(models: Models, policy: np.ndarray) -> np.ndarray:
    """V^pi of every model, `[K, S]`, of a deterministic policy `[S]`: (I - gamma P_pi) V = r_pi.

    With gamma 1, states that are never left and pay nothing have value 0; raises ConfigError if other walks never end.
    """
    states = np.arange(models.n_states)
    p, r = models.transition[:, states, policy], models.reward[:, states, policy]  # [K, S, S], [K, S]
    ends = (p[:, states, states] == 1.0) & (r == 0.0)
    system = np.eye(models.n_states) - models.gamma * np.where(ends[..., None], 0.0, p)
    try:
        return np.linalg.solve(system, r[..., None])[..., 0]
    except np.linalg.LinAlgError:
        raise ConfigError("gamma is 1 and a walk under the policy never ends: take a discount below 1.") from None


def monte_carlo(models: Models, rng: np.random.Generator, rollouts: int = 300, length: int = 10_000) -> Search:
    """The paper's search: discounted returns of `rollouts` walks of at most `length` steps in every model, with the same luck."""

    def search(policy: np.ndarray) -> tuple[int, float]:
        k = np.repeat(np.arange(len(models)), rollouts)
        state, total, weight = np.full(len(k), models.start), np.zeros(len(k)), 1.0
        for _ in range(length):
            action = policy[state]
            total += weight * models.reward[k, state, action]
            state = quantile(models.transition[k, state, action], np.tile(rng.random(rollouts), len(models)))
            weight *= models.gamma
            if weight < 1e-12:
                break
        values = total.reshape(len(models), rollouts).mean(-1)
        worst = int(values.argmin())
        return worst, float(values[worst])

    return search
