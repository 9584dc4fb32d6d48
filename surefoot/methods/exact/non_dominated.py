"""PROTECTED in tables: a small set of policies such that whatever an attacker does, one of them is nearly the best there is.

Liu, Deng, Sun, Liang and Huang, "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024,
arXiv 2402.12673v1): the optimality gap of a set, dominance, and discovery, here on payoff matrices J(pi, nu) (rows are policies, columns
attackers), and small state-adversarial MDPs (an attacker shows the policy another state than the true one) that give such a matrix.

    Gap(set) = max_nu ( max_pi J(pi, nu) - max_{pi' in set} J(pi', nu) )                                                            (gap)
    (pi, nu) = argmax_{pi, nu} ( J(pi, nu) - max_{pi' in set} J(pi', nu) ), pi joins the set                                        (1)

pi is dominated by a set if some mixture w of it does as well under every attacker: max_w min_nu sum_w w J(pi', nu) - J(pi, nu), its slack,
is not negative. By duality minus that slack is what pi gains under the best *mixture* of attackers, so one linear program answers both;
a set whose pure gap is 0 may have a positive mixed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from scipy.optimize import linprog

from surefoot.envs.finite import check_distribution
from surefoot.errors import ConfigError, DataError

LARGEST = 1_000_000  # entries of a payoff matrix that is written out


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of a set, and where it is attained."""

    value: float
    policy: int  # that joins the set next
    attack: np.ndarray  # [N] weights of the attackers under which it gains so much: one of them is 1 if they are pure


@dataclass(frozen=True, eq=False)
class Dominance:
    """How a policy compares with mixtures of a set: dominated if `slack` >= 0."""

    slack: float
    weights: np.ndarray  # [len(set)] the best mixture
    attack: np.ndarray  # [N] the mixture of attackers under which no mixture does better

    @property
    def dominated(self) -> bool:
        return self.slack >= -1e-9  # what the solver's tolerance leaves


# --- gap, dominance, discovery ----------------------------------------------------------------------------------------


def gap(payoff: np.ndarray, members: Sequence[int], *, mixed: bool = False) -> Gap:
    """The gap of a set of rows of `payoff` `[P, N]` over pure attackers, or over mixtures of them. The first of equally good ones."""
    payoff, members = _checked(payoff, members)
    if not mixed:
        gain = payoff - payoff[members].max(0)
        policy, attacker = np.unravel_index(gain.argmax(), gain.shape)
        return Gap(float(gain[policy, attacker]), int(policy), np.eye(payoff.shape[1])[attacker])
    found = [dominance(payoff, p, members) for p in range(len(payoff))]
    best = int(np.argmin([each.slack for each in found]))
    return Gap(-found[best].slack, best, found[best].attack)


def dominance(payoff: np.ndarray, policy: int, members: Sequence[int]) -> Dominance:
    """max_{w, t} t with sum_w w J(pi', nu) - J(policy, nu) >= t for every nu, by linear programming; the multipliers are the attackers."""
    payoff, members = _checked(payoff, members)
    if not 0 <= policy < len(payoff):
        raise ConfigError(f"policy is {policy}: the {len(payoff)} policies are numbered from 0.")
    k, n = len(members), payoff.shape[1]
    result = linprog(
        np.r_[np.zeros(k), -1.0],
        A_ub=np.c_[-payoff[members].T, np.ones(n)],
        b_ub=-payoff[policy],
        A_eq=np.r_[np.ones(k), 0.0][None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * k + [(None, None)],
    )
    return Dominance(float(-result.fun), result.x[:k], -result.ineqlin.marginals)


@dataclass(frozen=True, eq=False)
class Discovered:
    """Policies in the order in which they were found, the gap that made each join (none for the first), and the gap that is left."""

    members: tuple[int, ...]
    gaps: tuple[float, ...]
    left: float


def discover(payoff: np.ndarray, first: int, *, most: int | None = None, delta: float = 1e-9, mixed: bool = False) -> Discovered:
    """Discovery by Eq. 1 from row `first` until the gap is at most `delta` or the set has `most` policies (None: any number)."""
    if (most is not None and most < 1) or delta < 0.0:
        raise ConfigError(f"most is {most} and delta {delta}: a set has at least one policy, and a gap to stop at is not negative.")
    members: list[int] = [first]
    gaps: list[float] = []
    while True:
        found = gap(payoff, members, mixed=mixed)
        if found.value <= delta or len(members) == most or found.policy in members:
            return Discovered(tuple(members), tuple(gaps), max(found.value, 0.0))
        members.append(found.policy)
        gaps.append(found.value)


def minimax(payoff: np.ndarray) -> int:
    """The single policy that does best under its own worst attacker."""
    return int(_checked(payoff, [0])[0].min(1).argmax())


def worst_attack(payoff: np.ndarray, members: Sequence[int]) -> int:
    """The pure attacker under which the best policy of the set does worst."""
    payoff, members = _checked(payoff, members)
    return int(payoff[members].max(0).argmin())


def _checked(payoff: np.ndarray, members: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Raises DataError for what is no payoff matrix, ConfigError for what is no set of its rows."""
    payoff = np.asarray(payoff, np.float64)
    if payoff.ndim != 2 or not payoff.size:
        raise DataError(f"the payoff has shape {payoff.shape}: it must be [policies, attackers], with at least one of each.")
    if not np.isfinite(payoff).all():
        where = np.argwhere(~np.isfinite(payoff))[0].tolist()
        raise DataError(f"payoff{where} is {payoff[tuple(where)]}: payoffs must be finite.")
    outside = [int(m) for m in members if not 0 <= m < len(payoff)]
    if not len(members) or outside:
        raise ConfigError(f"the set is {list(members)}: it holds at least one of the {len(payoff)} policies, numbered from 0.")
    return payoff, [int(m) for m in members]


# --- state-adversarial MDPs -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StateAdversarial:
    """A discounted MDP whose policy is shown one of the states `shown[s]` when it is in s; the true one must be among them.

    Checked on construction. Raises DataError for what is no MDP, ConfigError for a discount outside [0, 1) and states that cannot be shown.
    """

    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A]
    start: np.ndarray  # [S]
    shown: tuple[tuple[int, ...], ...]  # of each state
    gamma: float = 0.9

    def __post_init__(self) -> None:
        t = self.transition
        if t.ndim != 3 or t.shape[0] != t.shape[2] or self.reward.shape != t.shape[:2] or self.start.shape != t.shape[:1]:
            shapes = f"{t.shape}, {self.reward.shape} and {self.start.shape}"
            raise DataError(f"transition, reward and start have shapes {shapes}: they must be [S, A, S], [S, A] and [S].")
        check_distribution(t, "transition")
        check_distribution(self.start, "start")
        if not np.isfinite(self.reward).all():
            raise DataError("reward holds a number that is not finite: rewards must be finite.")
        if not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"gamma is {self.gamma}: the discount lies in [0, 1).")
        if len(self.shown) != len(t):
            raise ConfigError(f"shown has {len(self.shown)} entries for {len(t)} states: name the states that each may be shown as.")
        for s, seen in enumerate(self.shown):
            if s not in seen or not all(0 <= o < len(t) for o in seen):
                raise ConfigError(f"state {s} may be shown as {seen}: these must be states, and {s} itself be one of them.")

    @staticmethod
    def random(rng: np.random.Generator, states: int = 4, actions: int = 3, concentration: float = 0.2) -> StateAdversarial:
        """Dirichlet transitions, uniform rewards and start; state s may be shown as s or as s + 1 (in a ring)."""
        transition = rng.dirichlet([concentration] * states, size=(states, actions))
        reward = rng.uniform(size=(states, actions))
        shown = tuple((s, (s + 1) % states) for s in range(states))
        return StateAdversarial(transition, reward, np.full(states, 1.0 / states), shown)

    @property
    def policies(self) -> np.ndarray:
        """All deterministic maps from what is shown to an action, `[A^S, S]`."""
        n_states, n_actions = self.reward.shape
        return np.array(list(product(range(n_actions), repeat=n_states)))

    @property
    def attackers(self) -> np.ndarray:
        """All deterministic maps from states to what is shown, `[N, S]`; the first of them shows the truth."""
        truth_first = [(s, *(o for o in seen if o != s)) for s, seen in enumerate(self.shown)]
        return np.array(list(product(*truth_first)))

    def payoff(self) -> np.ndarray:
        """J(pi, nu) = (1 - gamma) times the value from the start, `[A^S, N]`, of every policy under every attacker.

        Raises ConfigError where that are more than a million numbers.
        """
        n_states, n_actions = self.reward.shape
        size = n_actions**n_states * prod(map(len, self.shown))
        if size > LARGEST:
            raise ConfigError(f"{size:,} pairs of policy and attacker cannot be written out: at most {LARGEST:,} can: take fewer states.")
        action = self.policies[:, self.attackers]  # [P, N, S] taken in each true state
        states = np.arange(n_states)
        p, r = self.transition[states, action], self.reward[states, action]  # [P, N, S, S], [P, N, S]
        value = np.linalg.solve(np.eye(n_states) - self.gamma * p, r[..., None])[..., 0]
        return (1.0 - self.gamma) * value @ self.start
