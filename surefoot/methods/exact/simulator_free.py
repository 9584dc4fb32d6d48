"""Adversarial linear MDPs without a simulator: Algorithm 1's log-barrier on estimates from played episodes alone.

Dai, Luo, Wei and Zimmert, ICML 2023, arXiv 2301.12942v2, section on linear MDPs: regret K^{8/9}, where Luo, Wei and Lee (arXiv 2107.08346,
whose scheme it takes over, policy cover included) have K^{14/15}. The transition is unknown and cannot be simulated:

1. A policy cover: M0 policies, each greedy for an optimistic reward of one at pairs with ||phi||^2_{Gamma^-1} >= alpha / M0, play N0
   episodes each. Sigma_cov = Gamma / M0, and a state is known where ||phi(x,a)||^2_{Sigma_cov^-1} <= alpha for all a.
2. Epochs of W episodes with one policy pi; with probability delta an episode (Y = 1) follows a policy of the cover up to and including
   a stage h* drawn uniformly, and pi thereafter. Weights w_h = (1 - Y) + Y H 1[h = h*] make all of them say something about pi.
3. One half of an epoch gives Si = (gamma I + mean w phi phi^T)^{-1}; the other theta = Si mean[w phi L_h].
4. b as in `adversarial_mdp`, on known states alone; the rest of the dilated bonus by regression:
   B(x,a) = b(x,a) + phi(x,a)^T Si mean[w phi D_h], D_h = sum_{i > h} (1 + 1/H)^{i-h} b(x_i, a_i).
5. The log-barrier at every state on S = sum_e (phi^T theta_e - B_e).

`luo2021` inverts by matrix geometric resampling and uses exponential weights, at the rates of its own regret.

Departures. Constants are ours, and so are the powers of K (see `rates`), which balance the regret that the scheme pays for. The
optimism of the cover has a constant of use (`optimism`) in place of the theory's 60 d H sqrt(log K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from surefoot.envs.finite import FiniteMDP, quantile
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import covariance_inverse as covariance
from surefoot.methods.exact.adversarial_mdp import bonus, loss_to_go
from surefoot.methods.exact.episode_checks import as_path, check_episodes, check_indices, check_stage
from surefoot.methods.exact.ftrl import exponential_weights, log_barrier
from surefoot.methods.exact.linear_world import check_features
from surefoot.methods.exact.planning import occupancy


@dataclass(frozen=True)
class SimulatorFreeConfig:
    """Raises ConfigError for settings out of range; None takes what `rates` says for so many episodes."""

    episodes: int  # K
    algorithm: Literal["logbarrier", "luo2021"] = "logbarrier"
    eta: float | None = None  # learning rate
    gamma: float | None = None  # regularisation of the covariance
    beta: float | None = None  # size of the bonus
    alpha: float | None = None  # squared norm below which a state is known
    delta: float | None = None  # share of episodes that begin with the cover
    epoch: int | None = None  # W: episodes with one policy
    cover_policies: int | None = None  # M0
    cover_episodes: int | None = None  # N0, of each policy of the cover
    optimism: float = 0.5  # multiplies ||phi||_{Gamma^-1} where the cover plans

    def __post_init__(self) -> None:
        if self.algorithm not in ("logbarrier", "luo2021"):
            raise ConfigError(f"algorithm is {self.algorithm!r}: it must be 'logbarrier' or 'luo2021'.")
        if self.episodes < 2:
            raise ConfigError(f"episodes is {self.episodes}: at least two are needed.")
        for name in ("eta", "gamma", "alpha"):
            if (value := getattr(self, name)) is not None and not 0.0 < value < np.inf:
                raise ConfigError(f"{name} is {value}: it must be positive.")
        for name in ("beta", "optimism"):
            if (value := getattr(self, name)) is not None and not 0.0 <= value < np.inf:
                raise ConfigError(f"{name} is {value}: it must not be negative.")
        if self.delta is not None and not 0.0 <= self.delta <= 1.0:
            raise ConfigError(f"delta is {self.delta}: a share lies between 0 and 1.")
        for name, least in (("epoch", 2), ("cover_policies", 1), ("cover_episodes", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ConfigError(f"{name} is {value}: at least {least}.")


@dataclass(frozen=True)
class Rates:
    eta: float
    gamma: float
    beta: float
    alpha: float
    delta: float
    epoch: int
    cover_policies: int
    cover_episodes: int


def rates(config: SimulatorFreeConfig, horizon: int) -> Rates:
    """The config's own, or powers of K that make all parts of the regret K^{1-a}: a = 1/9, or 1/15 for `luo2021`.

    Unknown states cost K / alpha, the cover delta K, and beta ||phi||^2_Si <= beta alpha / delta <= 1/H ties beta = K^{-2a}, to
    which eta is tied by stability; the bias gamma K / beta gives gamma = K^{-3a}. The penalty W / eta of learning once an
    epoch leaves W = K^{1-3a}: 1/gamma^2 episodes, enough for an averaged inverse, if a = 1/9. Exponential weights need
    eta <= gamma / H and so W = K^{1-4a}, and resampling W >= gamma^{-3} and more, which ends at a = 1/15.
    """
    k, h = float(config.episodes), float(horizon)
    if config.algorithm == "logbarrier":
        a, gamma, epoch, alpha = 1 / 9, 0.3 * k ** (-3 / 9), 0.1 * k ** (6 / 9), 2.0 * k ** (1 / 9)
        eta = 40.0 / h * k ** (-2 * a)
    else:
        a, gamma, epoch, alpha = 1 / 15, 4.0 * k ** (-3 / 15), 0.03 * k ** (11 / 15), 5.0 * k ** (1 / 15)
        eta = gamma / h
    policies = max(1, round(4.0 * alpha))  # more than alpha, or the identity in Gamma alone would make all states known
    found = Rates(
        eta=eta,
        gamma=gamma,
        beta=0.02 * h * k ** (-2 * a),
        alpha=alpha,
        delta=0.1 * k**-a,
        epoch=max(2, round(epoch)),
        cover_policies=policies,
        cover_episodes=max(1, round(0.02 * k ** (1 - a) / policies)),
    )
    own = {name: value for name in found.__dataclass_fields__ if (value := getattr(config, name)) is not None}
    return replace(found, **own)


class SimulatorFree:
    """C copies in one array program; each round of `begin`, `act` at every stage and `observe` is n episodes with one policy.

    A lone learner (one copy) may be played with `act(h, state)` and `end_episode(path)` alone.
    """

    def __init__(self, features: np.ndarray, config: SimulatorFreeConfig, seed: int = 0):
        """`features` `[C, H, S, A, d]`, or `[H, S, A, d]` for a lone learner, of norm at most one."""
        if features.ndim not in (4, 5):
            raise DataError(f"features have shape {features.shape}: they must be [H, S, A, d], or [C, H, S, A, d] for copies.")
        features = features[None] if features.ndim == 4 else features
        check_features(features)
        c, n_stages, s, a, d = self.shape = features.shape
        self.config, self.rates = config, rates(config, n_stages)
        self.rng = np.random.default_rng(seed)
        self._phi = np.ascontiguousarray(features.reshape(c, n_stages, s * a, d))
        self._gram = np.zeros((c, n_stages, d, d)) + np.eye(d)  # Gamma
        self._moved = np.zeros((c, n_stages, d, s))  # (1/N0) sum phi(x_h, a_h) 1[x_{h+1} = .]: all that regression on values needs
        self.cover = np.empty((0, *features.shape[:-1]))  # policies of the cover, [M0, C, H, S, A]
        self.known: np.ndarray = np.zeros((c, n_stages, s), bool)
        self.cost = np.zeros(features.shape[:-1])  # S
        self.policy = self._exploring()  # of this block, before coins
        self.left = self.rates.cover_episodes  # episodes left in this block
        self._rounds: list[tuple[np.ndarray, ...]] = []
        self._coins: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def covering(self) -> bool:
        """Whether the policy cover is still being played."""
        return len(self.cover) < self.rates.cover_policies

    # --- playing -----------------------------------------------------------------------------------------------------------

    def begin(self, n: int = 1, u: np.ndarray | None = None) -> None:
        """Toss the coins of the next n episodes, which must not reach past `left`, the end of this block; `u` `[C, n, 3]` is their luck."""
        if not 1 <= n <= self.left:
            raise ConfigError(f"n is {n}: {self.left} episodes are left of this block, begin from 1 to so many.")
        c, n_stages = self.shape[:2]
        u = self.rng.random((c, n, 3)) if u is None else u
        covered = (u[..., 0] < self.rates.delta) & (not self.covering)
        until = np.where(covered, (u[..., 1] * n_stages).astype(np.int64), -1)  # the last stage at which the cover is followed
        self._coins = until, (u[..., 2] * len(self.cover)).astype(np.int64)

    def act(self, h: int, state: int | np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """Actions at stage h in `state` `[C, n]`; `u` `[C, n]` is the luck of the draw, if it is to be the caller's.

        A lone learner that is given a lone state at stage 0 begins an episode by itself.
        """
        c, n_stages, n_states = self.shape[:3]
        check_stage(h, n_stages)
        lone, at = np.ndim(state) == 0 and c == 1, np.atleast_2d(state)
        check_indices(at, n_states, "state", h)
        if self._coins is None:
            if not (lone and h == 0):
                raise ConfigError("no episodes were begun: call begin(n) before act.")
            self.begin()
        assert self._coins is not None
        until, which = self._coins
        copy = np.arange(c)[:, None]
        p = self.policy[copy, h, at]
        if (covered := until >= h).any():
            p = np.where(covered[..., None], self.cover[which, copy, h, at], p)
        action = quantile(p, self.rng.random(until.shape) if u is None else u)
        return action[0, 0] if lone else action

    def end_episode(self, path: Sequence[tuple[int, int, float]]) -> None:
        """Learn from the episode that a lone learner just played: H times (state, action, loss)."""
        self.observe(*as_path(path, self.shape[1]))

    def observe(self, state: np.ndarray, action: np.ndarray, loss: np.ndarray) -> None:
        """Take in the n episodes that were begun, `[C, n, H]` each; at the end of a block, learn from it.

        Raises DataError for losses outside [0, 1].
        """
        if self._coins is None:
            raise ConfigError("no episodes were begun: call begin(n) and act before observe.")
        until, counts = self._coins[0], (self.shape[2], self.shape[3])
        check_episodes(state, action, loss, (*until.shape, self.shape[1]), counts, "copies by episodes by stages")
        self._rounds.append((state, action, loss, until))
        self._coins = None
        self.left -= until.shape[1]
        if self.left == 0:
            state, action, loss, until = (np.concatenate(parts, 1) for parts in zip(*self._rounds, strict=True))
            self._rounds = []
            if self.covering:
                self._learn_to_cover(state, action)
            else:
                self._learn(np.swapaxes(state * self.shape[3] + action, 1, 2), np.swapaxes(loss_to_go(loss), 1, 2), until)

    def visited(self, mdp: FiniteMDP) -> np.ndarray:
        """Probability of every pair in an episode of this block in a world `[C, H, S, A]`, coins and all: for measuring regret."""
        here = occupancy(mdp, self.policy)
        if self.covering or self.rates.delta == 0.0:
            return here
        covered = occupancy(mdp, self.cover).mean(0)
        total, n_stages = (1.0 - self.rates.delta) * here, self.shape[1]
        for last in range(n_stages):  # h*
            law = covered.copy()
            for h in range(last + 1, n_stages):
                state = np.einsum("csa,csat->ct", law[:, h - 1], mdp.transition[:, h - 1])
                law[:, h] = state[..., None] * self.policy[:, h]
            total += self.rates.delta / n_stages * law
        return total

    # --- learning ----------------------------------------------------------------------------------------------------------

    def _exploring(self) -> np.ndarray:
        """The policy that is greedy for reaching what is not covered yet, by optimistic least squares, `[C, H, S, A]` one-hot."""
        c, n_stages, s, a = self.shape[:4]
        inverse = np.linalg.inv(self._gram)
        norm2 = covariance.squared_norm(self._phi, inverse)
        slack = norm2 - self.rates.alpha / self.rates.cover_policies
        reward = np.clip(1.0 + self.config.episodes * slack, 0.0, 1.0)  # a step at zero, with a ramp of width 1/K
        policy, value = np.zeros((c, n_stages, s, a)), np.zeros((c, s))
        for h in reversed(range(n_stages)):
            weight = inverse[:, h] @ (self._moved[:, h] @ value[..., None])
            q = reward[:, h] + self.config.optimism * np.sqrt(norm2[:, h]) + (self._phi[:, h] @ weight)[..., 0]
            q = np.minimum(q, n_stages).reshape(c, s, a)
            policy[:, h], value = np.eye(a)[q.argmax(-1)], q.max(-1)
        return policy

    def _learn_to_cover(self, state: np.ndarray, action: np.ndarray) -> None:
        """Gamma and the regression's sums of N0 episodes `[C, N0, H]`; after the last policy of the cover, what is known."""
        c, n_stages, n_states, n_actions = self.shape[:4]
        pair = np.swapaxes(state * n_actions + action, 1, 2)
        phi = self._features_of(pair)
        self._gram += np.swapaxes(phi, -1, -2) @ phi / pair.shape[-1]
        after = np.eye(n_states)[np.swapaxes(state[..., 1:], 1, 2)]  # [C, H - 1, N0, S]
        self._moved[:, :-1] += np.swapaxes(phi[:, :-1], -1, -2) @ after / pair.shape[-1]
        self.cover = np.concatenate([self.cover, self.policy[None]])
        if self.covering:
            self.policy, self.left = self._exploring(), self.rates.cover_episodes
            return
        norm2 = covariance.squared_norm(self._phi, np.linalg.inv(self._gram / self.rates.cover_policies))
        self.known = np.all((norm2 <= self.rates.alpha).reshape(c, n_stages, n_states, n_actions), -1)
        self._follow()

    def _learn(self, pair: np.ndarray, to_go: np.ndarray, until: np.ndarray) -> None:
        """One epoch: pairs and losses to go `[C, H, W]`, and the last stages of the cover `[C, W]` (-1: none)."""
        n_stages, half = self.shape[1], pair.shape[-1] // 2
        stage, until = np.arange(n_stages)[:, None], until[:, None]
        weight = np.where(until < 0, 1.0, n_stages * (until == stage))  # [C, H, W]
        phi = self._features_of(pair)
        inverse = self._inverse(phi[:, :, :half], weight[:, :, :half])
        norm2 = covariance.squared_norm(self._phi, inverse).reshape(self.shape[:-1])
        b = bonus(norm2, self.policy, self.rates.beta) * self.known[..., None]
        other = phi[:, :, half:], weight[:, :, half:]
        theta = regressed(inverse, *other, to_go[:, :, half:])
        later = regressed(inverse, *other, self._bonus_to_go(b, pair[:, :, half:]))
        self.cost += (self._phi @ (theta - later)[..., None]).reshape(b.shape) - b
        self._follow()

    def _inverse(self, phi: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Si from the first half of an epoch, `[C, H, d, d]`: averaged, or resampled in as many repetitions as it is long enough for."""
        if self.config.algorithm == "logbarrier":
            return covariance.averaged_inverse(phi, self.rates.gamma, weight)
        n_stages, n = self.shape[1], phi.shape[2]
        scaled = phi * np.sqrt(weight)[..., None]  # of squared norm up to H: the step must be smaller by as much
        step = min(covariance.STEP / n_stages, 1.0 / (n_stages + self.rates.gamma))
        length = min(n, math.ceil(covariance.STEP / step * covariance.resampling_length(self.rates.gamma, self.config.episodes)))
        times = n // length
        rows = scaled[:, :, : times * length].reshape(*scaled.shape[:2], length, times, scaled.shape[-1])
        return covariance.geometric_resampling(np.moveaxis(rows, 2, 0), self.rates.gamma, step)

    def _bonus_to_go(self, b: np.ndarray, pair: np.ndarray) -> np.ndarray:
        """D_h = sum_{i > h} (1 + 1/H)^{i-h} b(x_i, a_i) along played pairs, `[C, H, n]`."""
        c, n_stages = self.shape[:2]
        met = b.reshape(c, n_stages, -1)[np.arange(c)[:, None, None], np.arange(n_stages)[:, None], pair]
        later = np.zeros(met.shape)
        for h in reversed(range(n_stages - 1)):
            later[:, h] = (1.0 + 1.0 / n_stages) * (met[:, h + 1] + later[:, h + 1])
        return later

    def _follow(self) -> None:
        leader = log_barrier if self.config.algorithm == "logbarrier" else exponential_weights
        self.policy, self.left = leader(self.cost, self.rates.eta), self.rates.epoch

    def _features_of(self, pair: np.ndarray) -> np.ndarray:
        """phi `[C, H, n, d]` of pairs `[C, H, n]`."""
        c, n_stages = self.shape[:2]
        return self._phi[np.arange(c)[:, None, None], np.arange(n_stages)[:, None], pair]


def regressed(inverse: np.ndarray, phi: np.ndarray, weight: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Si mean[w phi y], `[..., d]`, of `phi` `[..., n, d]`, and weights and targets `[..., n]`."""
    moment = np.swapaxes(phi, -1, -2) @ (weight * target)[..., None] / phi.shape[-2]
    return (inverse @ moment)[..., 0]
