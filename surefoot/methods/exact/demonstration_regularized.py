"""DRRL: clone the demonstrations, then learn with a KL penalty towards the clone that is as strong as the demonstrations are many.

Tiapkin, Belomestny, Calandriello, Moulines, Munos, Naumov, Perrault, Valko, Menard, "Demonstration-Regularized RL", ICLR 2024,
arXiv 2310.17303:

    1. pi^BC from N^E trajectories without rewards                                    (behaviour_cloning)
    2. lam = eps_RL / eps_KL^2, where KL(pi^E || pi^BC) <= eps_KL^2
    3. a policy that is eps_RL-optimal for E_pi sum_h r_h - lam KL(pi_h || pi^BC_h)   (ucbvi_ent; lsvi_ucb_ent for linear MDPs)

If the expert is eps_E-optimal, V* - V^pi <= eps_E + 2 eps_RL, since V^pi >= V^pi_lam >= V*_lam - eps_RL >=
V^{pi^E} - lam eps_KL^2 - eps_RL. With preferences in place of rewards, step 3 learns from the most likely reward given comparisons of
pairs of episodes that pi^BC has played.

Departures: the paper bounds eps_KL^2 by S A H / N^E up to logarithms whose constants are not used here. The "theory" rule E KL <=
H S (A-1) / (N^E + 1) divided by delta (Markov's inequality); add-one smoothing has that for every expert, because in a state seen n times
E KL = sum_a p_a E log(p_a (n+A) / (k_a+1)) <= log((n+A) / (n+1)) <= (A-1) / (n+1), where Jensen's inequality and E[1/(k_a+1)] <=
1 / ((n+1) p_a) are used, and by the latter E[1/(n+1)] <= 1 / ((N^E+1) q) in a state that the expert visits with probability q. For
features, where the order alone is known, it is H d / (N^E delta).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from surefoot.envs.finite import FiniteMDP
from surefoot.errors import ConfigError
from surefoot.methods.exact.behaviour_cloning import Demonstrations, heldout_divergence, linear_softmax, smoothed_policy
from surefoot.methods.exact.lsvi_ucb_ent import Iterates, LSVIUCBEntConfig, learn_policies
from surefoot.methods.exact.planning import trajectory_kl
from surefoot.methods.exact.preference_reward import Judge, linear_reward, sample_pairs, tabular_reward
from surefoot.methods.exact.ucbvi_ent import Identified, UCBVIEntConfig, identify
from surefoot.methods.exact.visits import World

Rule = Literal["theory", "heldout", "oracle"]

SMALLEST = 1e-9
"""Divergence below which lam does not grow any more: the clone is the expert, and the learner stays with it."""


@dataclass(frozen=True)
class DRRLConfig:
    """What to reach, how strong the penalty is, and how to learn."""

    eps: float = 0.1
    """Loss against the best policy to end with, if the expert is optimal; eps_RL is half of it."""
    rule: Rule = "theory"
    """eps_KL^2: theory (from N^E alone), heldout (likelihood of trajectories held out), oracle (exact; needs the model and the expert)."""
    delta: float = 0.1
    """Probability with which the theory rule may fail."""
    smoothing: float = 1.0
    """Added to the counts of the clone (the theory rule is about 1)."""
    learner: UCBVIEntConfig = field(default_factory=UCBVIEntConfig)
    """The learner of finite MDPs."""
    linear: LSVIUCBEntConfig = field(default_factory=LSVIUCBEntConfig)
    """The learner of linear MDPs."""

    def __post_init__(self) -> None:
        if not self.eps > 0.0:
            raise ConfigError(f"eps is {self.eps}: the accuracy to reach must be positive.")
        if self.rule not in get_args(Rule):
            raise ConfigError(f"rule is {self.rule!r}: it must be one of {', '.join(get_args(Rule))}.")
        if not 0.0 < self.delta < 1.0:
            raise ConfigError(f"delta is {self.delta}: the probability of failure lies between 0 and 1.")


# --- step 2: how strong the penalty is --------------------------------------------------------------------------------


def theory_divergence(n: np.ndarray, horizon: int, n_states: int, n_actions: int, delta: float) -> np.ndarray:
    """eps_KL^2 `[...]` that add-one smoothing of n `[...]` trajectories exceeds with probability delta at most, for any expert."""
    return horizon * n_states * (n_actions - 1) / ((n + 1.0) * delta)


def linear_theory_divergence(n: np.ndarray, horizon: int, d: int, delta: float) -> np.ndarray:
    """The order of eps_KL^2 with features of dimension d, `[...]`; its constant is not known."""
    return horizon * d / (np.maximum(n, 1.0) * delta)


def divergence(
    world: World,
    clone: np.ndarray,
    theory: np.ndarray,
    config: DRRLConfig,
    held_out: Demonstrations | None = None,
    expert: np.ndarray | None = None,
) -> np.ndarray:
    """eps_KL^2 `[...]` of a clone `[..., H, S, A]` by the rule. Raises ConfigError where the rule lacks what it needs."""
    if config.rule == "theory":
        return theory
    if config.rule == "heldout":
        if held_out is None:
            raise ConfigError("rule is 'heldout', but no trajectories were held out: give held_out (behaviour_cloning.held_out splits).")
        return heldout_divergence(clone, held_out)
    if expert is None or not isinstance(world, FiniteMDP):
        raise ConfigError("rule is 'oracle', which needs the expert's policy and a world whose probabilities are known: choose 'heldout'.")
    return trajectory_kl(world, expert, clone)


def penalty(eps_rl: float, eps_kl2: np.ndarray) -> np.ndarray:
    """lam = eps_RL / eps_KL^2, `[...]`."""
    return eps_rl / np.maximum(eps_kl2, SMALLEST)


# --- the whole --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of it; copies on leading axes."""

    clone: np.ndarray  # [..., H, S, A] pi^BC
    eps_kl2: np.ndarray  # [...]
    lam: np.ndarray  # [...]
    found: Identified  # pi^RL, its certificate, and the episodes that it took
    reward: np.ndarray | None = None  # [..., H, S, A] learned from preferences

    @property
    def policy(self) -> np.ndarray:
        return self.found.policy


def learn(
    world: World,
    demonstrations: Demonstrations,
    config: DRRLConfig | None = None,
    seed: int | np.random.Generator = 0,
    *,
    held_out: Demonstrations | None = None,
    expert: np.ndarray | None = None,
) -> Learned:
    """From demonstrations to a policy in a finite world whose rewards are known.

    `held_out`: trajectories that are not among `demonstrations`, for the heldout rule; `expert` `[H, S, A]`, for the oracle rule.
    """
    config, rng = config or DRRLConfig(), np.random.default_rng(seed)
    clone, eps_kl2, lam = _cloned(world, demonstrations, config, held_out, expert)
    return Learned(clone, eps_kl2, lam, identify(world, clone, lam, config.eps / 2.0, config.learner, rng))


def learn_from_preferences(
    world: World,
    demonstrations: Demonstrations,
    judge: Judge,
    pairs: int,
    config: DRRLConfig | None = None,
    seed: int | np.random.Generator = 0,
    *,
    held_out: Demonstrations | None = None,
    expert: np.ndarray | None = None,
) -> Learned:
    """The same where rewards are not known: `judge` says which of `pairs` pairs of the clone's episodes are better."""
    config, rng = config or DRRLConfig(), np.random.default_rng(seed)
    clone, eps_kl2, lam = _cloned(world, demonstrations, config, held_out, expert)
    shown = sample_pairs(world, clone, pairs, rng)
    reward = tabular_reward(shown, judge(shown), world.n_states, world.n_actions)
    return Learned(clone, eps_kl2, lam, identify(world, clone, lam, config.eps / 2.0, config.learner, rng, reward), reward)


def _cloned(
    world: World, demonstrations: Demonstrations, config: DRRLConfig, held_out: Demonstrations | None, expert: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps 1 and 2 in a finite world: pi^BC, eps_KL^2 and lam."""
    demonstrations.check(world.reward.shape[-3:])
    clone = smoothed_policy(demonstrations.counts, config.smoothing)
    theory = theory_divergence(demonstrations.n, world.horizon, world.n_states, world.n_actions, config.delta)
    eps_kl2 = divergence(world, clone, theory, config, held_out, expert)
    return clone, eps_kl2, penalty(config.eps / 2.0, eps_kl2)


@dataclass(frozen=True, eq=False)
class LearnedLinear:
    """The same with features, where there is no certificate."""

    clone: np.ndarray  # [..., H, S, A] pi^BC
    eps_kl2: np.ndarray  # [...]
    lam: np.ndarray  # [...]
    iterates: Iterates
    reward: np.ndarray | None = None  # [..., H, S, A] learned from preferences

    @property
    def policy(self) -> np.ndarray:
        """The last policy."""
        return self.iterates.last


def learn_linear(
    world: World,
    features: np.ndarray,
    demonstrations: Demonstrations,
    config: DRRLConfig | None = None,
    seed: int | np.random.Generator = 0,
    *,
    held_out: Demonstrations | None = None,
    expert: np.ndarray | None = None,
    judge: Judge | None = None,
    pairs: int = 1000,
) -> LearnedLinear:
    """From demonstrations to policies where transitions and rewards are linear in `features` `[H, S, A, d]`.

    With a `judge` the rewards are not looked at, and are learned from the answers about `pairs` pairs of the clone's episodes.
    """
    config, rng = config or DRRLConfig(), np.random.default_rng(seed)
    demonstrations.check(world.reward.shape[-3:])
    clone = linear_softmax(demonstrations, features).probabilities(features)
    theory = linear_theory_divergence(demonstrations.n, world.horizon, features.shape[-1], config.delta)
    eps_kl2 = divergence(world, clone, theory, config, held_out, expert)
    lam, reward = penalty(config.eps / 2.0, eps_kl2), None
    if judge is not None:
        shown = sample_pairs(world, clone, pairs, rng)
        reward = linear_reward(shown, judge(shown), features)[1]
    return LearnedLinear(clone, eps_kl2, lam, learn_policies(world, features, clone, lam, config.linear, rng, reward), reward)
