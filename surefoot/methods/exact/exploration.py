"""Exploration from predicted rewards: pure functions of scores `[..., K]` and what is available `[..., K]` to probabilities `[..., K]`.

Uniform, epsilon-greedy, softmax, greedy, and inverse gap weighting (IGW), the rule of SquareCB: Foster and Rakhlin,
arXiv 2002.04926v3, Algorithm 1 (after Abe and Long 1999). With k = |A| available actions, scores f and best action b (the first maximum):

    p_a = 1 / (k + gamma (f_b - f_a))  for a != b,    p_b = 1 - sum_{a != b} p_a.

As in Vowpal Wabbit: gamma = scale t^exponent after t learned examples, a floor that is a Euclidean projection (not a mixture), and
elimination of actions that cannot be best. Scores are rewards here and costs there. Departure: k is always the number of actions that
are available (or survive), never the number of all. All functions take leading axes, which are copies; parameters may be arrays `[...]`.
An action that is not available has probability exactly 0, and its score may be anything, NaN too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.nn.simplex import sparsemax

Kind = Literal["uniform", "epsilon-greedy", "softmax", "igw", "greedy"]
Parameter = float | np.ndarray


# --- the rules --------------------------------------------------------------------------------------------------------


def uniform(scores: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """p_a = 1 / k; the scores only give the shape (they may be NaN)."""
    there = _there(scores, available)
    return there / there.sum(-1, keepdims=True)


def greedy(scores: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """All on the best action; ties go to the first. What IGW with gamma = infinity and epsilon-greedy with 0 are."""
    p = np.zeros(np.shape(scores))
    np.put_along_axis(p, best_action(scores, available)[..., None], 1.0, -1)
    return p


def epsilon_greedy(scores: np.ndarray, available: np.ndarray | None = None, epsilon: Parameter = 0.1) -> np.ndarray:
    """p_a = epsilon / k + (1 - epsilon) 1[a = b]. Raises ConfigError outside 0 <= epsilon <= 1."""
    eps = _parameter(epsilon, "epsilon", 0.0, 1.0)
    return eps * uniform(scores, available) + (1.0 - eps) * greedy(scores, available)


def softmax(scores: np.ndarray, available: np.ndarray | None = None, tau: Parameter = 0.1) -> np.ndarray:
    """p_a ~ exp(f_a / tau), the Boltzmann rule. Raises ConfigError unless tau > 0."""
    f, _ = _masked(scores, available)
    with np.errstate(over="ignore", under="ignore"):  # gaps over a tiny tau: exp(-inf) = 0 is meant
        weights = np.exp((f - f.max(-1, keepdims=True)) / _parameter(tau, "tau", np.nextafter(0.0, 1.0)))
    return weights / weights.sum(-1, keepdims=True)


def inverse_gap(scores: np.ndarray, available: np.ndarray | None = None, gamma: Parameter = 100.0) -> np.ndarray:
    """IGW: p_a = 1 / (k + gamma (f_b - f_a)), the rest on b, which has 1 / k at least. Raises ConfigError for a negative gamma."""
    g = _parameter(gamma, "gamma", 0.0)
    f, there = _masked(scores, available)
    on_best = np.arange(f.shape[-1]) == f.argmax(-1)[..., None]
    gap = np.where(there, f.max(-1, keepdims=True) - f, 0.0)
    p = np.where(there & ~on_best, 1.0 / (there.sum(-1, keepdims=True) + g * gap), 0.0)
    return np.where(on_best, 1.0 - p.sum(-1, keepdims=True), p)  # the best has at least 1/k: each of the others has at most 1/k


def survivors(lower: np.ndarray, upper: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """Elimination: the available actions whose optimistic reward reaches the largest pessimistic one, `[..., K]` bool.

    Handed to a rule as what is available; the best action of any scores between the bounds is always among them.
    """
    low, there = _masked(lower, available)
    return there & (np.asarray(upper) >= low.max(-1, keepdims=True))


def floor_projection(p: np.ndarray, available: np.ndarray | None = None, epsilon: Parameter = 0.0) -> np.ndarray:
    """The distribution nearest to p (Euclidean) that gives every available action epsilon / k.

    With m = epsilon / k it is m + (1 - k m) sparsemax((p - m) / (1 - k m)). A p that lies above m already stays as it is, unlike under
    the mixture with uniform. Raises ConfigError outside 0 <= epsilon <= 1.
    """
    eps = _parameter(epsilon, "floor", 0.0, 1.0)
    there = _there(p, available)
    m = eps / there.sum(-1, keepdims=True)
    left = np.maximum(1.0 - eps, 1e-12)  # at epsilon = 1 nothing is left, and the projection is the uniform law
    rest = torch.from_numpy(np.where(there, (p - m) / left, -np.inf))
    return np.where(there, m + (1.0 - eps) * sparsemax(rest).numpy(), 0.0)


# --- how much exploration ---------------------------------------------------------------------------------------------


def power_gamma(learned: Parameter, scale: float = 10.0, exponent: float = 0.5) -> Parameter:
    """scale t^exponent after t learned examples: Vowpal Wabbit's schedule and defaults."""
    return scale * np.asarray(learned, np.float64) ** exponent


def squarecb_gamma(actions: int, rounds: float, squared_regret: float, delta: float = 0.05) -> float:
    """sqrt(K T / (Reg_sq(T) + log(2 / delta))): Foster and Rakhlin's Theorem 1, for an online oracle of that squared-loss regret."""
    return float(np.sqrt(actions * rounds / (squared_regret + np.log(2.0 / delta))))


def falcon_gamma(actions: int, learned: Parameter, log_models: float, delta: float = 0.05, c: float = 1.0) -> Parameter:
    """c sqrt(K n / log(|F| / delta)) for an offline oracle that learned from n rows (Simchi-Levi and Xu, arXiv 2003.12699).

    `log_models` is log |F|, the logarithm of how many models the oracle chooses among.
    """
    return c * np.sqrt(actions * np.asarray(learned, np.float64) / (log_models + np.log(1.0 / delta)))


def non_greedy(p: np.ndarray, scores: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """P(an action other than the best is played), `[...]`: the exploration mass at which policies are comparable."""
    return 1.0 - np.take_along_axis(p, best_action(scores, available)[..., None], -1)[..., 0]


def matched(
    rule: Callable[..., np.ndarray],
    scores: np.ndarray,
    available: np.ndarray | None,
    mass: Parameter,
    low: float = 1e-6,
    high: float = 1e12,
) -> np.ndarray:
    """The parameter of a rule (`inverse_gap`, `softmax`, `epsilon_greedy`) at which P(non-greedy), averaged over rows, is `mass`.

    Bisection of its logarithm between `low` and `high`, for scores `[..., n, K]`: one parameter `[...]` for each copy. Raises
    ConfigError where no parameter in that range gives the mass (ties with the best action never stop being explored).
    """
    mass = np.broadcast_to(np.asarray(mass, np.float64), scores.shape[:-2])

    def excess(log_parameter: np.ndarray) -> np.ndarray:
        return non_greedy(rule(scores, available, np.exp(log_parameter)[..., None]), scores, available).mean(-1) - mass

    if rule is epsilon_greedy:
        high = 1.0
    ends = np.full(mass.shape, np.log(low)), np.full(mass.shape, np.log(high))
    at_low, at_high = excess(ends[0]), excess(ends[1])
    outside = at_low * at_high > 0.0
    if outside.any():
        where = tuple(np.argwhere(outside)[0].tolist())
        reach = sorted((float((at_low + mass)[where]), float((at_high + mass)[where])))
        raise ConfigError(
            f"no {rule.__name__} policy explores with mean probability {mass[where]:g} here: it reaches {reach[0]:.4g} to {reach[1]:.4g}."
        )
    sign = np.sign(at_high - at_low)
    for _ in range(80):  # 18 decades halve to rounding
        middle = 0.5 * (ends[0] + ends[1])
        above = sign * excess(middle) > 0.0
        ends = np.where(above, ends[0], middle), np.where(above, middle, ends[1])
    return np.exp(0.5 * (ends[0] + ends[1]))


# --- what it costs, and what it is worth ------------------------------------------------------------------------------


def regret(p: np.ndarray, reward: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """sum_a p_a (f(a*) - f(a)), `[...]`: what p loses to the best available action under these mean rewards."""
    f, there = _masked(reward, available)
    return f.max(-1) - (p * np.where(there, f, 0.0)).sum(-1)


def worst_regret(p: np.ndarray, scores: np.ndarray, gamma: Parameter, available: np.ndarray | None = None) -> np.ndarray:
    """sup over all true f* of regret(p, f*) - (gamma / 4) sum_a p_a (f_a - f*_a)^2, `[...]`, exactly.

    For IGW it is at most 2 k / gamma (Foster and Rakhlin, Lemma 3), whence SquareCB's regret bound. It is attained at an action a* with
    f*_a = f_a - 2 / gamma elsewhere and f*_{a*} = f_{a*} + 2 (1 - p_{a*}) / (gamma p_{a*}), which leaves
    f_{a*} - <p, f> + (1 - p_{a*}) / (gamma p_{a*}) to maximise over a*. Infinite if an available action is never played.
    """
    g = _parameter(gamma, "gamma", np.nextafter(0.0, 1.0))
    f, there = _masked(scores, available)
    with np.errstate(divide="ignore", invalid="ignore"):
        doubt = np.where(there & (p < 1.0), (1.0 - p) / (g * p), 0.0)
    return np.where(there, f + doubt, -np.inf).max(-1) - (p * np.where(there, f, 0.0)).sum(-1)


def entropy(p: np.ndarray) -> np.ndarray:
    """-sum_a p_a log p_a in nats, `[...]`."""
    return -(p * np.log(np.where(p > 0.0, p, 1.0))).sum(-1)


# --- a policy by name -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explorer:
    """An exploration policy and its settings, for the loop and the command line; parameters of other kinds are ignored."""

    kind: Kind = "igw"
    """uniform, epsilon-greedy, softmax, igw (inverse gap weighting, SquareCB) or greedy"""
    epsilon: float = 0.1
    """probability of a uniform choice (epsilon-greedy)"""
    tau: float = 0.1
    """temperature, in units of the reward (softmax)"""
    gamma: float | None = None
    """weight of a gap in predicted reward (igw); none: gamma_scale times t^gamma_exponent after t learned examples"""
    gamma_scale: float = 10.0
    """scale of the schedule of gamma"""
    gamma_exponent: float = 0.5
    """exponent of the schedule of gamma"""
    mass: float | None = None
    """choose epsilon, tau or gamma so that the mean probability of a non-greedy action is this on the batch at hand (before the floor)"""
    floor: float = 0.0
    """every available action has at least floor / k (by projection)"""
    mellowness: float | None = None
    """explore only actions that may be best, judged by an excess of this times log(K t) in the oracle's loss (0.001 in Vowpal Wabbit)"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnknownNameError("exploration policy", str(self.kind), get_args(Kind))
        for name in ("epsilon", "floor", "mass"):
            if getattr(self, name) is not None:
                _parameter(getattr(self, name), name, 0.0, 1.0)
        _parameter(self.tau, "tau", np.nextafter(0.0, 1.0))
        for name in ("gamma", "gamma_scale", "mellowness"):
            if getattr(self, name) is not None:
                _parameter(getattr(self, name), name, 0.0)
        if self.mass is not None and self.kind in ("uniform", "greedy"):
            raise ConfigError(f"mass is {self.mass}, but the {self.kind} policy has nothing to adjust: use epsilon-greedy, softmax or igw.")

    def strength(self, scores: np.ndarray, available: np.ndarray | None, learned: int) -> float:
        """epsilon, tau or gamma for scores `[n, K]` of an oracle that learned from so many rows; 0 for kinds without a parameter."""
        rule = RULES[self.kind]
        if rule is None:
            return 0.0
        if self.mass is not None:
            return float(matched(rule, scores, available, self.mass))
        if self.kind == "igw":
            return float(power_gamma(learned, self.gamma_scale, self.gamma_exponent)) if self.gamma is None else self.gamma
        return self.epsilon if self.kind == "epsilon-greedy" else self.tau

    def decide(
        self, scores: np.ndarray, available: np.ndarray | None = None, learned: int = 0, half_width: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        """Probabilities `[n, K]` for scores `[n, K]`, and the parameter they were made with.

        `half_width` `[n, K]` of the scores' confidence bounds eliminates what cannot be best. The floor holds for eliminated actions too:
        it is there so that the log can judge other policies.
        """
        may = available if half_width is None else survivors(scores - half_width, scores + half_width, available)
        rule, strength = RULES[self.kind], self.strength(scores, may, learned)
        p = rule(scores, may, strength) if rule is not None else (uniform if self.kind == "uniform" else greedy)(scores, may)
        return (floor_projection(p, available, self.floor) if self.floor > 0.0 else p), strength

    def probabilities(self, scores: np.ndarray, available: np.ndarray | None = None, learned: int = 0) -> np.ndarray:
        """Probabilities `[n, K]` for scores `[n, K]` of an oracle that learned from so many rows."""
        return self.decide(scores, available, learned)[0]


RULES: dict[str, Callable[..., np.ndarray] | None] = {
    "uniform": None, "greedy": None, "epsilon-greedy": epsilon_greedy, "softmax": softmax, "igw": inverse_gap,
}  # fmt: skip
"""The rules that have a parameter, by kind."""


# --- checks -----------------------------------------------------------------------------------------------------------


def best_action(scores: np.ndarray, available: np.ndarray | None = None) -> np.ndarray:
    """The available action with the largest score, the first among equals, `[...]` int64."""
    return _masked(scores, available)[0].argmax(-1)


def _masked(scores: np.ndarray, available: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(scores in float64, -inf where not available; what is available). Raises DataError for NaN or infinity among the available."""
    there = _there(scores, available)
    f = np.where(there, np.asarray(scores, np.float64), -np.inf)
    if not (np.isfinite(f) | ~there).all():
        where = tuple(np.argwhere(~np.isfinite(f) & there)[0].tolist())
        raise DataError(f"score{list(where)} is {f[where]}: the predicted reward of an available action must be finite.")
    return f, there


def _there(scores: np.ndarray, available: np.ndarray | None) -> np.ndarray:
    """What is available, in the shape of the scores. Raises DataError where shapes disagree or nothing is available."""
    shape = np.shape(scores)
    if not shape or shape[-1] == 0:
        raise DataError(f"scores have shape {list(shape)}: they must be [..., K], a number an action.")
    if available is None:
        return np.ones(shape, np.bool_)
    there = np.asarray(available)
    if there.dtype != np.bool_ or there.shape[-1:] != shape[-1:]:
        raise DataError(f"available is {there.dtype}{list(there.shape)}, but scores are {list(shape)}: give true or false for each action.")
    there = np.broadcast_to(there, shape)
    if not there.any(-1).all():
        where = np.argwhere(~there.any(-1))[0].tolist()
        raise DataError(f"no action is available{f' in row {where[-1]}' if where else ''}: there must be at least one to choose.")
    return there


def _parameter(value: Parameter, name: str, low: float, high: float = np.inf) -> np.ndarray:
    """A parameter `[...]` as `[..., 1]`. Raises ConfigError outside its range, and for infinity and NaN."""
    array = np.asarray(value, np.float64)
    wrong = ~((array >= low) & (array <= high) & np.isfinite(array))
    if wrong.any():
        allowed = (
            f"lie between {low:g} and {high:g}" if high < np.inf else ("be positive and finite" if low else "be finite and not negative")
        )
        raise ConfigError(f"{name} is {array[wrong][0]}: it must {allowed}.")
    return array[..., None]
