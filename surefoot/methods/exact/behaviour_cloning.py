"""Behaviour cloning from demonstrations as counts: add-one smoothing in finite MDPs, a mixed linear softmax with features.

Section on behaviour cloning of Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv 2310.17303: pi^BC minimises
sum_h [sum_i log 1/pi_h(a_h^i | s_h^i) + R_h(pi_h)]. With R_h = sum_{s,a} log 1/pi_h(a|s) over all policies this is

    pi^BC_h(a|s) = (N_h(s,a) + 1) / (N_h(s) + A),     uniform where nothing was seen;

with features, pi_h(a|s) = (1 - k) softmax_a(psi_h(s,a)^T w_h) + k/A, ||w_h|| <= R, k = A/(N + A), where mixing takes the part of the
regulariser. pi^BC is positive everywhere, so that KL(expert || pi^BC) is finite.

Departure: the paper leaves the radius R free; 20 is enough for features of norm about 1 to give an action odds of e^20 and more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.balls import minimise_in_balls


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """What behaviour cloning keeps of N trajectories: how often each action was taken at each stage and state."""

    counts: np.ndarray  # [..., H, S, A]
    n: np.ndarray  # [...] trajectories

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises DataError unless the counts end in `[H, S, A]`."""
        if self.counts.shape[-3:] != shape:
            raise DataError(f"demonstrations are counted as {self.counts.shape}, but the world has stages, states and actions {shape}.")

    @staticmethod
    def of(states: np.ndarray, actions: np.ndarray, n_states: int, n_actions: int) -> Demonstrations:
        """From arrays `[..., N, H]` of whole numbers (all trajectories have H stages; leading axes are copies).

        Raises DataError, naming the place, where they disagree in shape, hold no trajectory, or leave the range.
        """
        states, actions = np.asarray(states), np.asarray(actions)
        if states.ndim < 2 or states.shape != actions.shape or states.size == 0:
            raise DataError(f"states {states.shape} and actions {actions.shape} must both be [N, H]: N trajectories of H stages.")
        states, actions = whole(states, n_states, "states"), whole(actions, n_actions, "actions")
        *lead, n, horizon = states.shape
        counts = np.zeros((*lead, horizon, n_states, n_actions), np.int64)
        copy, _, stage = np.indices((int(np.prod(lead)), n, horizon)).reshape(3, -1)
        flat = counts.reshape(-1, horizon, n_states, n_actions)
        np.add.at(flat, (copy, stage, states.reshape(-1), actions.reshape(-1)), 1)
        return Demonstrations(counts, np.full(lead, n))

    @staticmethod
    def of_log(log: Log, n_states: int, horizon: int | None = None) -> Demonstrations:
        """From a log whose observation is one whole number, the state, and whose actions are discrete; rewards are not looked at.

        The stage is the position in the episode. `horizon`: the longest episode's length if not given; shorter episodes are counted
        where they went, longer ones are a DataError.
        """
        if not isinstance(log.action, Discrete) or log.layout.obs_dim != 1:
            raise DataError(f"{log.source}: demonstrations of a finite MDP have one state number as observation and discrete actions.")
        lengths = log.episode_lengths
        horizon = int(lengths.max()) if horizon is None else horizon
        if lengths.max() > horizon:
            raise DataError(f"{log.source}: episode {int(lengths.argmax())} has {lengths.max()} steps, more than the horizon {horizon}.")
        states = whole(log.transitions.obs.numpy()[:, 0], n_states, f"{log.source}: obs")
        actions = whole(log.transitions.action.numpy(), log.action.n, f"{log.source}: action")
        stage = np.arange(len(log)) - np.repeat(log.episode_starts, lengths)
        counts = np.zeros((horizon, n_states, log.action.n), np.int64)
        np.add.at(counts, (stage, states, actions), 1)
        return Demonstrations(counts, np.array(len(lengths)))


def whole(x: np.ndarray, n: int, name: str) -> np.ndarray:
    """`x` as int64; raises DataError unless all are whole numbers from 0 to n - 1, naming the first that is not."""
    x = np.asarray(x)
    with np.errstate(invalid="ignore"):
        wrong = ~((x >= 0) & (x < n) & (x == np.floor(x)))  # NaN compares false
    if wrong.any():
        where = np.argwhere(wrong)[0].tolist()
        raise DataError(f"{name}{where} is {x[tuple(where)]}: it must be a whole number from 0 to {n - 1}.")
    return x.astype(np.int64)


def held_out(
    states: np.ndarray, actions: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(states, actions) `[..., N, H]` to learn from, and those of a random `share` of the trajectories, at least one in each part."""
    n = states.shape[-2]
    if not 0.0 < share < 1.0 or n < 2:
        raise ConfigError(f"share is {share} of {n} trajectories: it lies between 0 and 1, and there must be two trajectories at least.")
    order, few = rng.permutation(n), min(max(1, round(share * n)), n - 1)
    kept, out = order[few:], order[:few]
    return (states[..., kept, :], actions[..., kept, :]), (states[..., out, :], actions[..., out, :])


# --- policies ---------------------------------------------------------------------------------------------------------


def smoothed_policy(counts: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """pi^BC from counts `[..., A]`: (N(s,a) + smoothing) / (N(s) + A smoothing). Raises ConfigError unless smoothing > 0."""
    if not smoothing > 0.0:
        raise ConfigError(f"smoothing is {smoothing}: it must be positive, or the KL to the cloned policy is infinite.")
    raised = counts + smoothing
    return raised / raised.sum(-1, keepdims=True)


@dataclass(frozen=True, eq=False)
class LinearSoftmax:
    """A cloned policy with features: (1 - mixing) softmax_a(psi^T w) + mixing / A at every stage."""

    weights: np.ndarray  # [..., H, d]
    mixing: np.ndarray  # [...] k

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """`[..., H, S, A]` at `features` `[..., H, S, A, d]`."""
        logits = np.einsum("...hsad,...hd->...hsa", features, self.weights)
        k = self.mixing[..., None, None, None]
        return (1.0 - k) * softmax(logits) + k / features.shape[-2]


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear_softmax(
    demonstrations: Demonstrations, features: np.ndarray, radius: float = 20.0, mixing: float | np.ndarray | None = None
) -> LinearSoftmax:
    """Maximum likelihood over ||w_h|| <= radius with `features` psi `[..., H, S, A, d]`; `mixing` A / (N + A) unless given.

    Copies and stages are fitted at once, from uniform play; the mixing makes the likelihood a little less than concave. Where the
    demonstrations never went the optimum may be flat, and any of its points is returned. Raises DataError where features do not fit the
    demonstrations or are not finite.
    """
    counts = demonstrations.counts
    check_features(features, counts.shape[-3:])
    n_actions = counts.shape[-1]
    k = np.asarray(n_actions / (demonstrations.n + n_actions) if mixing is None else mixing, np.float64)
    if not ((k >= 0.0) & (k < 1.0)).all():
        raise ConfigError(f"mixing is {k}: the share of the uniform policy lies in [0, 1).")
    lead = np.broadcast_shapes(counts.shape[:-3], features.shape[:-4], k.shape)
    k = np.broadcast_to(k, lead)
    share = counts / np.maximum(demonstrations.n, 1)[..., None, None, None]  # mean over trajectories: copies of one scale

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixed, rest = k[..., None, None, None], 1.0 - k[..., None, None, None]
        p = softmax(np.einsum("...hsad,...hd->...hsa", features, w))
        pi = rest * p + mixed / n_actions
        pi = np.maximum(pi, np.finfo(np.float64).tiny)
        u = share * rest * p / pi  # d sum_a share log pi / d logits = u - p sum_a u
        g = p * u.sum(-1, keepdims=True) - u
        return float(-(share * np.log(pi)).sum()), np.einsum("...hsad,...hsa->...hd", features, g)

    shape = (*lead, counts.shape[-3], features.shape[-1])
    return LinearSoftmax(minimise_in_balls(loss, shape, radius), k)


def check_features(features: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises DataError unless features are finite, `[..., H, S, A, d]`, and of norm at most 1 (a little rounding allowed)."""
    if features.ndim < 4 or features.shape[-4:-1] != shape:
        raise DataError(f"features have shape {features.shape}: they must be [..., H, S, A, d] with H, S, A = {shape}.")
    norm = np.linalg.norm(features, axis=-1)
    wrong = ~(norm <= 1.0 + 1e-6)  # NaN compares false
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise DataError(f"features{list(where)} have norm {norm[where]:g}: norms must be finite and at most 1; divide by the largest.")


def heldout_divergence(policy: np.ndarray, demonstrations: Demonstrations) -> np.ndarray:
    """Mean negative log-likelihood of a trajectory, `[...]`: in expectation KL(expert || policy) plus the expert's own entropy.

    An upper bound of the KL for demonstrations that `policy` was not learned from, and equal to it for a deterministic expert.
    """
    return -(demonstrations.counts * np.log(policy)).sum((-3, -2, -1)) / demonstrations.n
