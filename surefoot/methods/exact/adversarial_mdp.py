"""Refined regret for adversarial MDPs with linear Q-functions: policies against losses that an adversary changes every episode.

Dai, Luo, Wei and Zimmert, ICML 2023, arXiv 2301.12942v2: Algorithm 1 (`logbarrier`), Algorithm 2 (`magnitude_reduced`), and what
they improve on, `luo2021` (Luo, Wei and Lee, arXiv 2107.08346). In episode k the transition is fixed, losses are seen along the
played path alone, and at every layer h, with Si ~ (Sigma_h^{pi_k} + gamma I)^{-1} and c(x,a) = phi(x,a)^T Si phi(x_h, a_h):

    Qhat(x,a) = c(x,a) L_h                                       plain
    Qhat(x,a) = c(x,a) L_h - H (c(x,a))_- + H E_pi (c(x,a))_-    magnitude-reduced: the same mean, >= -H/sqrt(gamma) for -H/gamma
    b(x,a)    = beta (||phi(x,a)||^2_Si + E_{a' ~ pi} ||phi(x,a')||^2_Si)
    B(x,a)    = b(x,a) + (1 + 1/H) E B(x', a')                   dilated; at the last layer B = b

and every state follows the regularised leader on S = sum_k (Qhat_k - B_k), with the log-barrier or with exponential weights.
L_h is the loss from h on. Stages are 0 .. H-1.

Departures. The paper's constants leave play almost uniform below 1e6 episodes: `rates` has its powers of K with constants that
are of use, and a multiplier. The algorithms are here for spaces whose states can be listed; for others see `on_demand`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from surefoot.envs.finite import quantile
from surefoot.errors import ConfigError
from surefoot.methods.exact import covariance_inverse as covariance
from surefoot.methods.exact.episode_checks import as_path, check_episodes, check_indices, check_stage
from surefoot.methods.exact.ftrl import exponential_weights, log_barrier
from surefoot.methods.exact.linear_world import LinearWorld

Algorithm = Literal["logbarrier", "magnitude_reduced", "luo2021", "plain"]
IN_CACHE = 2**17  # numbers that are worked on at once where all pairs meet all pairs
ALGORITHMS: tuple[Algorithm, ...] = ("logbarrier", "magnitude_reduced", "luo2021", "plain")


@dataclass(frozen=True)
class AdversarialMDPConfig:
    """Which algorithm, for how many episodes, and what it may compute. Raises ConfigError for settings out of range."""

    algorithm: Algorithm = "magnitude_reduced"  # `plain`: the plain estimator and exponential weights at the rates of magnitude_reduced
    episodes: int | None = None  # K; None: unknown, so that all starts anew at 2, 4, 8, ... (doubling)
    c: float = 4.0  # multiplies the default rates
    eta: float | None = None  # learning rate; None: that of `rates`
    gamma: float | None = None  # regularisation of the covariance
    beta: float | None = None  # size of the bonus
    covariance: Literal["exact", "average", "mgr"] = "exact"  # exact needs the transition; the others M simulated episodes
    bonus: Literal["exact", "sampled"] = "exact"  # sampled: one simulated continuation of every pair
    draws: int = 100  # M: simulated episodes averaged over (repetitions of MGR, for which 20 will do)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm is {self.algorithm!r}: it must be one of {', '.join(ALGORITHMS)}.")
        if self.covariance not in ("exact", "average", "mgr"):
            raise ConfigError(f"covariance is {self.covariance!r}: it must be 'exact', 'average' or 'mgr'.")
        if self.bonus not in ("exact", "sampled"):
            raise ConfigError(f"bonus is {self.bonus!r}: it must be 'exact' or 'sampled'.")
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"episodes is {self.episodes}: at least one, or None if their number is unknown.")
        if self.draws < 1:
            raise ConfigError(f"draws is {self.draws}: at least one simulated episode is needed.")
        for name, value in (("c", self.c), ("eta", self.eta), ("gamma", self.gamma)):
            if value is not None and not 0.0 < value < np.inf:
                raise ConfigError(f"{name} is {value}: it must be positive.")
        if self.beta is not None and not 0.0 <= self.beta < np.inf:
            raise ConfigError(f"beta is {self.beta}: it must not be negative; 0 does without bonuses.")


@dataclass(frozen=True)
class Rates:
    eta: float
    gamma: float
    beta: float


def rates(config: AdversarialMDPConfig, horizon: int, episodes: int) -> Rates:
    """Learning rate, regularisation and bonus for K episodes: the config's own, or the powers of K that balance the regret.

    With exponential weights eta Qhat >= -1 is what ties eta to gamma: eta <= gamma / H for the plain estimator, hence K^{-2/3},
    eta <= sqrt(gamma) / H for the reduced one, hence K^{-1/2}. The log-barrier needs neither, and learns eight times faster.
    """
    c, h, k = config.c, float(horizon), float(episodes)
    if config.algorithm == "luo2021":
        gamma = c * k ** (-2 / 3)
        found = Rates(gamma / h, gamma, 0.02 * h * k ** (-1 / 3))
    else:
        faster = 8.0 if config.algorithm == "logbarrier" else 1.0
        found = Rates(faster * c / (h * k**0.5), c * c / k, 0.02 * h / k**0.5)
    own = {name: value for name in ("eta", "gamma", "beta") if (value := getattr(config, name)) is not None}
    return replace(found, **own)


# --- estimates and bonuses -------------------------------------------------------------------------------------------------


def loss_to_go(loss: np.ndarray) -> np.ndarray:
    """L_h = sum_{i >= h} l_i, `[..., H]`."""
    return loss[..., ::-1].cumsum(-1)[..., ::-1]


def plain_estimate(c: np.ndarray, to_go: np.ndarray) -> np.ndarray:
    """Qhat = c L_h, `[..., n]`, of c `[..., n]` and L `[...]`."""
    return c * to_go[..., None]


def reduced_estimate(c: np.ndarray, to_go: np.ndarray, shift: np.ndarray, horizon: int) -> np.ndarray:
    """Qhat = c L_h - H (c)_- + m, `[..., n]`; the clip is multiplied by H, the most that L can be, so that Qhat >= m."""
    return c * to_go[..., None] - horizon * np.minimum(c, 0.0) + shift


def magnitude_shift(phi: np.ndarray, inverse: np.ndarray, played: np.ndarray, p: np.ndarray | None, horizon: int) -> np.ndarray:
    """m = H E (phi^T Si phi')_-, `[..., n]`, of `phi` `[..., n, d]`: phi' in `played` `[..., M, d]` with probabilities `p` `[..., M]`.

    Without `p` they are M draws. Si must be the estimate's own, and the draws others than those Si was made from.
    """
    seen = inverse @ np.swapaxes(played, -1, -2)  # [..., d, M]
    total = np.empty(np.broadcast_shapes(phi.shape[:-2], seen.shape[:-2]) + phi.shape[-2:-1])
    rows = max(1, IN_CACHE // max(1, total[..., 0].size * seen.shape[-1]))
    for i in range(0, phi.shape[-2], rows):
        c = phi[..., i : i + rows, :] @ seen  # [..., rows, M]
        np.minimum(c, 0.0, out=c)
        total[..., i : i + rows] = c.mean(-1) if p is None else (c @ p[..., None])[..., 0]
    return horizon * total


def bonus(norm2: np.ndarray, policy: np.ndarray, beta: float | np.ndarray) -> np.ndarray:
    """b = beta (||phi||^2_Si + E_{a' ~ pi(.|x)} ||phi(x, a')||^2_Si), `[..., A]`, of squared norms and probabilities `[..., A]`."""
    return np.asarray(beta)[..., None] * (norm2 + (policy * norm2).sum(-1, keepdims=True))


def dilated(b: np.ndarray, policy: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """B = b + (1 + 1/H) E B(x', a'), `[..., H, S, A]`, by one pass backwards through `transition` `[..., H, S, A, S]`."""
    n_stages, n_states, n_actions = b.shape[-3:]
    total = b.copy()
    for h in reversed(range(n_stages - 1)):
        value = (policy[..., h + 1, :, :] * total[..., h + 1, :, :]).sum(-1)
        rows = transition[..., h, :, :, :].reshape(*transition.shape[:-4], n_states * n_actions, n_states)
        total[..., h, :, :] += (1.0 + 1.0 / n_stages) * (rows @ value[..., None]).reshape(*value.shape, n_actions)
    return total


def dilated_sampled(b: np.ndarray, policy: np.ndarray, world: LinearWorld, rng: np.random.Generator) -> np.ndarray:
    """The same with one simulated (x', a') for every pair, `[R, C, H, S, A]`: without bias, and every pair asked once an episode."""
    r, c, n_stages, n_states, n_actions = b.shape
    rows, cols = np.arange(r)[:, None, None, None], np.arange(c)[:, None, None]
    state = np.broadcast_to(np.arange(n_states)[:, None], (r, c, n_states, n_actions))
    action = np.broadcast_to(np.arange(n_actions), state.shape)
    total = b.copy()
    for h in reversed(range(n_stages - 1)):
        after = world.next(h, state, action, rng)
        then = quantile(policy[rows, cols, h + 1, after], rng.random(after.shape))
        total[:, :, h] += (1.0 + 1.0 / n_stages) * total[rows, cols, h + 1, after, then]
    return total


# --- the algorithms --------------------------------------------------------------------------------------------------------


class RefinedLinearQ:
    """R arms on C copies of a world, all in one array program; alone (one config, one copy) it is `act` and `end_episode`.

    Arms may differ in all but covariance, bonus, draws, and whether the number of episodes is known. Raises ConfigError where
    they do, or where exact computations are asked of a world that can only be simulated.
    """

    def __init__(self, world: LinearWorld, arms: AdversarialMDPConfig | Sequence[AdversarialMDPConfig], seed: int = 0):
        self.world = world
        self.arms = (arms,) if isinstance(arms, AdversarialMDPConfig) else tuple(arms)
        self.config = _shared(self.arms, world)
        self.rng = np.random.default_rng(seed)
        r, c, h, s, a = len(self.arms), world.copies, world.horizon, world.n_states, world.n_actions
        self.shape = (r, c, h, s, a)
        self._barrier = np.flatnonzero([arm.algorithm == "logbarrier" for arm in self.arms])
        self._weights = np.flatnonzero([arm.algorithm != "logbarrier" for arm in self.arms])
        self._reduced = np.flatnonzero([arm.algorithm == "magnitude_reduced" for arm in self.arms])
        self._phi = np.ascontiguousarray(world.features.reshape(c, h, s * a, world.dim))
        self._phi_t = np.ascontiguousarray(np.swapaxes(self._phi, -1, -2))
        self.episode = 0  # how many were learned from
        self.least = np.full((r, c), np.inf)  # least eta (Qhat - B) so far: exponential weights need it above -1 or so
        self._restart(2 if self.config.episodes is None else None)

    def _restart(self, episodes: int | None) -> None:
        """Forget all, and take the rates for so many episodes (for each arm's own number, if None)."""
        found = [rates(arm, self.world.horizon, episodes or arm.episodes or 1) for arm in self.arms]
        self.eta, self.gamma, self.beta = (np.array([[getattr(f, name)] for f in found]) for name in ("eta", "gamma", "beta"))  # [R, 1]
        self.cost = np.zeros(self.shape)  # S
        self._follow()

    def _follow(self) -> None:
        """pi(.|x) of every state from its summed costs."""
        self.policy = np.empty(self.shape)
        self._visited: np.ndarray | None = None
        for who, leader in ((self._barrier, log_barrier), (self._weights, exponential_weights)):
            if len(who):
                self.policy[who] = leader(self.cost[who], self.eta[who, :, None, None])

    def visited(self) -> np.ndarray:
        """Probability of every pair at every layer under the policies of this episode, `[R, C, H, S, A]`; needs the transition."""
        if self._visited is None:
            if self.world.transition is None or self.world.initial is None:
                raise ConfigError("this world can only be simulated: what is visited is known where the transition is.")
            r, c, n_stages, s, a = self.shape
            visited = np.empty(self.shape)
            state = np.broadcast_to(self.world.initial, (r, c, s))
            for h in range(n_stages):
                visited[:, :, h] = state[..., None] * self.policy[:, :, h]
                if h + 1 < n_stages:
                    rows = self.world.transition[:, h].reshape(c, s * a, s)
                    state = (visited[:, :, h].reshape(r, c, 1, s * a) @ rows)[..., 0, :]
            self._visited = visited
        return self._visited

    # --- one episode -----------------------------------------------------------------------------------------------------

    def act(self, h: int, state: int | np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """Draw actions at stage h, `[R, C]` (one number as a 0-d array for a lone learner given a lone state).

        `u` `[R, C]` in [0, 1) is the luck of the draw, if it is to be the caller's.
        """
        state = np.asarray(state)
        check_stage(h, self.world.horizon)
        check_indices(state, self.world.n_states, "state", h)
        r, c = self.shape[:2]
        p = self.policy[np.arange(r)[:, None], np.arange(c), h, state]
        action = quantile(p, self.rng.random((r, c)) if u is None else u)
        return action[0, 0] if state.ndim == 0 and r == c == 1 else action

    def end_episode(self, path: Sequence[tuple[int, int, float]]) -> None:
        """Learn from the pairs and losses of the episode that a lone learner just played: H times (state, action, loss)."""
        if self.shape[:2] != (1, 1):
            raise ConfigError(f"this learner has {self.shape[0]} arms on {self.shape[1]} worlds: give `observe` their paths as arrays.")
        self.observe(*as_path(path, self.world.horizon))

    def observe(self, state: np.ndarray, action: np.ndarray, loss: np.ndarray) -> None:
        """Learn from one episode of every arm and copy, `[R, C, H]` each. Raises DataError for losses outside [0, 1]."""
        counts = self.world.n_states, self.world.n_actions
        check_episodes(state, action, loss, self.shape[:3], counts, "arms by copies by stages")
        difference = self._estimate_less_bonus(state * self.world.n_actions + action, loss_to_go(loss))
        self.least = np.minimum(self.least, self.eta * difference.min((-3, -2, -1)))
        self.cost += difference
        self.episode += 1
        due = self.episode + 2  # blocks of 2, 4, 8, ... episodes end when this is a power of two
        if self.config.episodes is None and due & (due - 1) == 0:
            self._restart(due)
        else:
            self._follow()

    def _estimate_less_bonus(self, pair: np.ndarray, to_go: np.ndarray) -> np.ndarray:
        """Qhat - B of every state and action, `[R, C, H, S, A]`, from the pairs played and their losses to go, `[R, C, H]`."""
        inverse = self._inverse()
        played = self._features_of(pair[..., None])[..., 0, :]
        c = (self._phi @ (inverse @ played[..., None]))[..., 0]  # [R, C, H, SA]
        estimate = plain_estimate(c, to_go)
        if len(who := self._reduced):
            estimate[who] = reduced_estimate(c[who], to_go[who], self._shift(who, inverse[who]), self.world.horizon)
        norm2 = covariance.squared_norm(self._phi, inverse).reshape(self.shape)
        b = bonus(norm2, self.policy, self.beta[..., None, None])
        if self.config.bonus == "sampled":
            total = dilated_sampled(b, self.policy, self.world, self.rng)
        else:
            assert self.world.transition is not None
            total = dilated(b, self.policy, self.world.transition)
        return estimate.reshape(self.shape) - total

    def _inverse(self) -> np.ndarray:
        """Si of every layer, `[R, C, H, d, d]`."""
        gamma = self.gamma[..., None]
        if self.config.covariance == "exact":
            weight = self.visited().reshape(*self.shape[:3], 1, -1)
            return covariance.exact_inverse((self._phi_t * weight) @ self._phi, gamma)
        if self.config.covariance == "average":
            return covariance.averaged_inverse(self._simulated(), gamma)
        length = covariance.resampling_length(float(self.gamma.min()), self.config.episodes or self.episode + 1)
        return covariance.geometric_resampling((self._simulated() for _ in range(length)), gamma)

    def _shift(self, who: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """m of the arms with the magnitude-reduced estimator, `[R', C, H, SA]`."""
        if self.config.covariance == "exact":
            p = self.visited()[who].reshape(len(who), *self.shape[1:3], -1)
            return magnitude_shift(self._phi, inverse, self._phi, p, self.world.horizon)
        return magnitude_shift(self._phi, inverse, self._simulated()[who], None, self.world.horizon)  # draws of their own

    def _simulated(self) -> np.ndarray:
        """phi of `draws` simulated episodes under the policies of this one, `[R, C, H, M, d]`."""
        return self._features_of(self.world.simulate(self.policy, self.config.draws, self.rng))

    def _features_of(self, pair: np.ndarray) -> np.ndarray:
        """phi `[R, C, H, n, d]` of pairs `[R, C, H, n]`."""
        c, h = self.shape[1:3]
        return self._phi[np.arange(c)[:, None, None], np.arange(h)[:, None], pair]


def _shared(arms: Sequence[AdversarialMDPConfig], world: LinearWorld) -> AdversarialMDPConfig:
    """The config whose shared fields hold for all arms; raises ConfigError where they differ, or ask too much of the world."""
    if not arms:
        raise ConfigError("there are no arms: give one config or more.")
    first = arms[0]
    for name in ("covariance", "bonus", "draws"):
        if len(values := {getattr(arm, name) for arm in arms}) > 1:
            raise ConfigError(f"arms differ in {name} ({', '.join(sorted(map(str, values)))}): run them as learners of their own.")
    if len({arm.episodes is None for arm in arms}) > 1:
        raise ConfigError("some arms know the number of episodes and some do not: run them as learners of their own.")
    if world.transition is None and (first.covariance == "exact" or first.bonus == "exact"):
        name = "covariance" if first.covariance == "exact" else "bonus"
        other = "average" if name == "covariance" else "sampled"
        raise ConfigError(f"{name} is 'exact', but this world can only be simulated: use {name}={other!r}.")
    return first
