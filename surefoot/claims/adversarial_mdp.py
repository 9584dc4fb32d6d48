"""The claim of refined linear-Q: regret sqrt(K) against losses that change every episode, where the predecessor has K^{2/3}."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from surefoot.claims.base import LEVEL, Check, Claim, Context, Scores, derived, finite_ends, per_seed, stated, table
from surefoot.envs.finite import LinearMDP, random_linear_mdp
from surefoot.evaluation.statistics import mean_interval, paired
from surefoot.methods.exact import covariance_inverse as covariance
from surefoot.methods.exact.adversarial_mdp import ALGORITHMS, AdversarialMDPConfig, RefinedLinearQ
from surefoot.methods.exact.adversarial_regret import compete, compete_in_epochs
from surefoot.methods.exact.linear_world import LinearWorld
from surefoot.methods.exact.simulator_free import SimulatorFree, SimulatorFreeConfig

HORIZON = 3
SIMULATOR_FREE: dict[str, Literal["logbarrier", "luo2021"]] = {
    "simulator_free": "logbarrier",
    "simulator_free_luo2021": "luo2021",
}
RATE = {"magnitude_reduced": 1 / 2, "logbarrier": 1 / 2, "luo2021": 2 / 3, "simulator_free": 8 / 9, "simulator_free_luo2021": 14 / 15}
"""Powers of K in the guarantees."""


@dataclass(frozen=True)
class Setting:
    """Worlds of one size, and the numbers of episodes, each of which is a run of its own with rates of its own."""

    episodes: tuple[int, ...]
    states: int = 8
    actions: int = 4
    d: int = 4
    sampled: bool = False  # covariances from 100 simulated episodes, bonuses from sampled continuations


FULL_ACTIONS = 128_000  # episodes of the full scale's runs with more actions
SMALL = {"": Setting((500, 2_000, 8_000, 32_000))}
FULL = {
    "": Setting((500, 2_000, 8_000, 32_000, 128_000, 1_000_000)),
    "16 actions, ": Setting((2_000, 8_000, 32_000, FULL_ACTIONS), actions=16),
    "50 actions, ": Setting((2_000, 8_000, 32_000, FULL_ACTIONS), actions=50),
    "64 states, sampled, ": Setting((500, 2_000, 8_000), states=64, sampled=True),
}


def run(context: Context) -> Scores:
    scores: Scores = {}
    for prefix, setting in (SMALL if context.scale == "small" else FULL).items():
        scores |= contests(context, prefix, setting)
    context.notes.append(
        "Slopes over these K hold logarithms and the episodes before anything is learned: they lie above the guarantees' powers of K for "
        "the baseline as well. Regret of the arms without a simulator counts the episodes of the policy cover."
    )
    scores["inverse error"] = {name: context.arm(values) for name, values in inverse_errors(context.seeds).items()}
    return scores


def contests(context: Context, prefix: str, setting: Setting) -> Scores:
    """Regret of all arms at each number of episodes; along the longest run, at powers of two as well."""
    model, losses = worlds(context.seeds, setting)
    scores: Scores = {}
    least: dict[str, list[np.ndarray]] = {name: [] for name in ALGORITHMS}
    for k in setting.episodes:
        longest = k == setting.episodes[-1]
        at = [2**j for j in range(5, k.bit_length()) if 2**j < k] + [k] if longest else [k]
        own: dict[str, Any] = {"covariance": "average", "bonus": "sampled"} if setting.sampled else {}
        learner = RefinedLinearQ(LinearWorld.of(model), [AdversarialMDPConfig(name, k, **own) for name in ALGORITHMS])
        contest = compete(learner, model.mdp, losses, at, lucks(context.seeds))
        regret = {name: contest.regret[:, i] for i, name in enumerate(ALGORITHMS)} | {"uniform": contest.uniform}
        for name in ALGORITHMS:
            least[name].append(learner.least[ALGORITHMS.index(name)])
        for arm, algorithm in SIMULATOR_FREE.items():
            free = SimulatorFree(model.features, SimulatorFreeConfig(k, algorithm))
            regret[arm] = compete_in_epochs(free, model.mdp, losses, at, lucks(context.seeds)).regret[:, 0]
        scores[f"{prefix}{panel(k)}"] = {name: context.arm(values[-1]) for name, values in regret.items()}
        if longest:
            scores[f"{prefix}along K = {k}"] = {name: context.arm(values.T) for name, values in regret.items()}
            context.facts[f"{prefix}along"] = at
        context.say(f"{prefix}K = {k}: played")
    scores[f"{prefix}least eta (Qhat - B)"] = {name: context.arm(np.array(values).T) for name, values in least.items()}
    return scores


def worlds(seeds: Sequence[int], setting: Setting) -> tuple[LinearMDP, Callable[[int], np.ndarray]]:
    """One linear MDP a seed, and losses 0.6 phi u_h + 0.4 w_k: which action is best is fixed, the level of all changes with log k."""
    s, a, d = setting.states, setting.actions, setting.d
    lone = [random_linear_mdp(np.random.default_rng(derived(seed, "data")), HORIZON, s, a, d) for seed in seeds]
    parts = zip(*((m.features, m.factors, m.theta, m.mdp.initial) for m in lone), strict=True)
    model = LinearMDP.of(*map(np.stack, parts))
    fixed = 0.6 * model.mdp.reward  # theta of the MDP is u
    return model, partial(_losses, np.stack([fixed, fixed + 0.4]))  # features sum to one, so that w_k is a constant


def _losses(by_level: np.ndarray, k: int) -> np.ndarray:
    """Losses of episode k, counted from 0: w = floor(2 log2(k + 1)) mod 2."""
    return by_level[int(2.0 * np.log2(k + 1)) % 2]


def lucks(seeds: Sequence[int]) -> list[np.random.Generator]:
    return [np.random.default_rng(derived(seed, "training")) for seed in seeds]


def inverse_errors(seeds: Sequence[int], gamma: float = 0.05, episodes: int = 1_000) -> dict[str, list[float]]:
    """||Si (Sigma + gamma I) - I||_2 of both estimates from the same 20 N draws, N as long as resampling needs for 1,000 episodes."""
    n = covariance.resampling_length(gamma, episodes)
    errors: dict[str, list[float]] = {"average": [], "mgr": []}
    for seed in seeds:
        rng = np.random.default_rng(derived(seed, "inverse"))
        phi = random_linear_mdp(rng, 1, 8, 4, 4).features.reshape(-1, 4)
        draws = phi[rng.integers(len(phi), size=(n, 20))]
        regular = phi.T @ phi / len(phi) + gamma * np.eye(4)
        estimates = covariance.averaged_inverse(draws.reshape(-1, 4), gamma), covariance.geometric_resampling(draws, gamma)
        for name, estimate in zip(errors, estimates, strict=True):
            errors[name].append(float(np.linalg.norm(estimate @ regular - np.eye(4), 2)))
    return errors


def panel(k: int) -> str:
    return f"regret at K = {k}"


# --- checks ----------------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    grid = sorted(int(name.rpartition(" ")[2]) for name in scores if name.startswith("regret at"))
    found = []
    for name, words in (("magnitude_reduced", "Algorithm 2"), ("logbarrier", "Algorithm 1")):
        found += [ratio(scores, 32_000, name, "luo2021", words, 1.5), flatter(scores, grid, name, words)]
    return [
        *found,
        in_range(scores, "magnitude_reduced", required=True),
        *(slope(scores, grid, name) for name in RATE),
        in_range(scores, "plain", required=False),
        ratio(scores, 32_000, "simulator_free", "simulator_free_luo2021", "Algorithm 1 without a simulator", 1.0, required=False),
        ratio(scores, 32_000, "simulator_free", "uniform", "Algorithm 1 without a simulator", 1.0, required=False),
        better_inverse(scores),
        *([gap_in_actions(scores)] if f"50 actions, {panel(FULL_ACTIONS)}" in scores else []),
    ]


def logs(scores: Scores, k: int, arm: str) -> np.ndarray:
    """log regret, `[seeds]`; regret below one episode's loss counts as that."""
    return np.log(np.maximum(per_seed(scores, panel(k), arm), 1.0))


def ratio(scores: Scores, k: int, arm: str, baseline: str, words: str, threshold: float, required: bool = True) -> Check:
    """The baseline's regret over the arm's, as a geometric mean over seeds; the test is that it exceeds one."""
    test = paired(logs(scores, k, baseline), logs(scores, k, arm), "greater")
    value = float(np.exp(test.difference))
    return Check(
        name=f"{arm} against {baseline}",
        statement=f"at K = {k} the regret of {baseline} is at least {threshold:g} times that of {words}",
        panel=panel(k),
        value=value,
        ci95=finite_ends(float(np.exp(test.low)), float(np.exp(test.high))),
        test=f"{test.test}, of logs",
        p=test.p,
        threshold=threshold,
        required=required,
        holds=bool(value >= threshold and test.p < LEVEL),
    )


def slopes(scores: Scores, grid: Sequence[int], arm: str) -> np.ndarray:
    """Slope of log regret on log K by least squares, `[seeds]`."""
    x = np.log(grid) - np.mean(np.log(grid))
    return np.array([logs(scores, k, arm) for k in grid]).T @ x / (x @ x)


def flatter(scores: Scores, grid: Sequence[int], arm: str, words: str) -> Check:
    gap = mean_interval(slopes(scores, grid, "luo2021") - slopes(scores, grid, arm))
    return stated(
        f"{arm} flatter",
        f"the slope of log regret on log K is at least 0.05 lower for {words} than for Luo et al. (mean over seeds)",
        panel(grid[-1]),
        gap.value,
        gap.value >= 0.05,
        threshold=0.05,
        interval=gap,
    )


def slope(scores: Scores, grid: Sequence[int], arm: str) -> Check:
    """Measured slopes beside the guarantees, which say nothing about constants and lower powers at these K."""
    mean = mean_interval(slopes(scores, grid, arm))
    return stated(
        f"slope of {arm}",
        f"the slope of log regret on log K is at most {RATE[arm]:.3g}, the power of the guarantee",
        panel(grid[-1]),
        mean.value,
        mean.value <= RATE[arm],
        threshold=RATE[arm],
        interval=mean,
        required=False,
    )


def in_range(scores: Scores, arm: str, required: bool) -> Check:
    least = float(table(scores, "least eta (Qhat - B)", arm).min())
    return stated(
        f"range of {arm}",
        "eta (Qhat - B), which exponential weights need above about -1, never falls below -1.1 (value: the least of all runs)",
        "least eta (Qhat - B)",
        least,
        least >= -1.1,
        threshold=-1.1,
        required=required,
    )


def gap_in_actions(scores: Scores) -> Check:
    """Of the full scale: the guarantees are a factor sqrt(A) apart."""

    def gap(prefix: str) -> np.ndarray:
        own, other = (per_seed(scores, f"{prefix}{panel(FULL_ACTIONS)}", arm) for arm in ("logbarrier", "magnitude_reduced"))
        return np.log(np.maximum(own, 1.0)) - np.log(np.maximum(other, 1.0))

    wider = mean_interval(gap("50 actions, ") - gap(""))
    return stated(
        "gap in actions",
        f"at K = {FULL_ACTIONS} log regret of Algorithm 1 less that of Algorithm 2 is larger with 50 actions than with 4",
        f"50 actions, {panel(FULL_ACTIONS)}",
        wider.value,
        wider.value > 0.0,
        threshold=0.0,
        interval=wider,
        required=False,
    )


def better_inverse(scores: Scores) -> Check:
    test = paired(per_seed(scores, "inverse error", "mgr"), per_seed(scores, "inverse error", "average"), "greater")
    return Check(
        name="inverse",
        statement="from the same draws the averaged inverse is closer to the truth than resampling",
        panel="inverse error",
        value=test.difference,
        ci95=finite_ends(test.low, test.high),
        test=test.test,
        p=test.p,
        threshold=0.0,
        required=False,
        holds=bool(test.difference > 0.0 and test.p < LEVEL),
    )


CLAIM = Claim(
    slug="adversarial-mdp",
    title="Refined Regret for Adversarial MDPs with Linear Function Approximation",
    statement="Against losses that an adversary changes every episode, the log-barrier and the magnitude-reduced estimator have regret "
    "of the order of sqrt(K), where the same scheme with plain estimates and exponential weights has K^{2/3}.",
    seeds=5,
    arms={
        "magnitude_reduced": "Algorithm 2: exponential weights on magnitude-reduced estimates",
        "logbarrier": "Algorithm 1: the log-barrier on plain estimates",
        "luo2021": "Luo et al. (2021): exponential weights on plain estimates, at the rates that they need",
        "plain": "the same at the rates of Algorithm 2, for which it has no guarantee",
        "simulator_free": "Algorithm 1 without a simulator: policy cover, averaged inverse, regression of bonuses",
        "simulator_free_luo2021": "the same with exponential weights, resampled inverse and the rates that these need",
        "uniform": "uniform play",
        "average": "the inverse of averaged draws",
        "mgr": "matrix geometric resampling from the same draws",
    },
    panels={
        **{panel(k): f"summed expected loss of {k:,} episodes above the best fixed policy's" for k in SMALL[""].episodes},
        "along K = 32000": "the same within the longest run, after 32, 64, ..., 16384 and 32000 episodes",
        "least eta (Qhat - B)": "least value in a run, by K",
        "inverse error": "spectral norm of Si (Sigma + gamma I) - I",
    },
    scales={
        "small": "Random linear MDPs, H 3, 8 states, 4 actions, d 4; K = 500, 2,000, 8,000 and 32,000, each with its own rates; exact "
        "covariances and bonuses, exact regret.",
        "full": "The same to K = 1,000,000; 16 and 50 actions to 128,000; 64 states with sampled covariances and bonuses to 8,000.",
    },
    run=run,
    checks=checks,
)
