"""How often certificates hold, where the truth is known: measured by simulation, beside what they state.

A certificate that is stated with confidence 1 - alpha may be wrong in a share of alpha of repetitions, not more. Cases are chosen to be
hard: a linear boundary, where the radius of votes is exact; a point on a boundary, where any radius at all is wrong; attacks that
attain the bound on the return. Tests run the same cases with fewer repetitions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.measuring import RESULTS, write
from surefoot.data.spec import Discrete, Spec
from surefoot.evaluation import lvm_rs
from surefoot.evaluation.certificates import (
    certified_return,
    certified_return_per_step,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from surefoot.evaluation.certified_actions import certify_actions
from surefoot.evaluation.lvm_rs import VOTES, Certified, Map, certify_inputs, cohen_inputs, interval_level, simplex_maps
from surefoot.evaluation.radii import bernstein_shift
from surefoot.policies.families import Categorical
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed

REPETITIONS = 20_000
SIGMA = 0.5
MAPS = simplex_maps((0.5, 4.0))


@dataclass(frozen=True)
class Case:
    """One certificate on one case: `held(repetitions, seed)` says of each repetition whether all it stated was true."""

    certificate: str
    case: str
    alpha: float
    held: Callable[[int, int], np.ndarray]
    sound: bool = True  # it is meant to hold


# --- intervals --------------------------------------------------------------------------------------------------------


def clopper_pearson(p: float, trials: int, level: float, side: str) -> Callable[[int, int], np.ndarray]:
    def held(n: int, seed: int) -> np.ndarray:
        k = np.random.default_rng(seed).binomial(trials, p, n)
        return clopper_pearson_lower(k, trials, level) <= p if side == "lower" else clopper_pearson_upper(k, trials, level) >= p

    return held


LAWS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float]] = {
    "skewed (beta 0.3, 3)": (lambda rng, shape: rng.beta(0.3, 3.0, shape), 0.3 / 3.3),
    "rare (1 in 20)": (lambda rng, shape: (rng.random(shape) < 0.05).astype(float), 0.05),
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
}


def bernstein(law: str, samples: int, level: float, side: str) -> Callable[[int, int], np.ndarray]:
    def held(n: int, seed: int) -> np.ndarray:
        draw, mean = LAWS[law]
        x = draw(np.random.default_rng(seed), (n, samples))
        shift = bernstein_shift(x.std(1, ddof=1), samples, level)
        return x.mean(1) - shift <= mean if side == "lower" else x.mean(1) + shift >= mean

    return held


# --- radii ------------------------------------------------------------------------------------------------------------


def plane(x: Tensor) -> Tensor:
    """Two classes apart at x_0 = 0: smoothing does not move the boundary, so |x_0| is the radius."""
    return torch.stack([2.0 * x[:, 0], -2.0 * x[:, 0]], -1)


def at_distance(
    distance: float, alpha: float, certify: Callable[..., list[Certified]], classifier: Callable[[Tensor], Tensor] = plane, **settings: Any
) -> Callable[[int, int], np.ndarray]:
    """Every repetition is an input of class 0 at this distance of where the class changes; at none, any radius is wrong."""

    def held(n: int, seed: int) -> np.ndarray:
        x = torch.tensor([distance, 0.0]).expand(n, 2)
        generator = torch.Generator().manual_seed(seed)
        found = certify(classifier, x, SIGMA, n0=50, n=500, alpha=alpha, generator=generator, **settings)
        if distance == 0.0:
            return np.array([each.radius == 0.0 for each in found])
        return np.array([each.radius <= distance and each.label != 1 for each in found])

    return held


def slab(x: Tensor) -> Tensor:
    """Three classes: left and right of a thin slab, and within it. At its middle left and right are alike, with or without noise."""
    return torch.stack([-x[:, 0], x[:, 0], 0.1 - x[:, 0].abs()], -1)


@dataclass(frozen=True)
class ManySizes:
    """Two classes at a point of their boundary, with logits (s, -s): the sign of s is even, its size 10^(6 j) with probability (1 - q) q^j.

    Sparsemax at inverse temperature 10^(-6 j) counts the votes of the sizes from j up and is 1/2 elsewhere (to six digits), so its
    moments over n samples follow from how many there are of each size and sign. The true radius is 0 for every map.
    """

    sizes: int = 9
    q: float = 0.3

    @property
    def maps(self) -> list[Map]:
        return [Map("argmax"), *(Map("sparsemax", 10.0 ** (-6 * j)) for j in range(self.sizes))]

    def counts(self, n: int, repetitions: int, rng: np.random.Generator) -> np.ndarray:
        """How many of n samples are of each size and sign, `[repetitions, sizes, 2]`."""
        probabilities = (1.0 - self.q) * self.q ** np.arange(self.sizes)
        probabilities[-1] = self.q ** (self.sizes - 1)
        return rng.multinomial(n, np.repeat(probabilities / 2.0, 2), repetitions).reshape(repetitions, self.sizes, 2)

    def moments(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations `[repetitions, maps, 2]` of samples with these counts."""
        n = counts[0].sum()
        larger = counts[:, ::-1].cumsum(1)[:, ::-1]
        won, lost = (np.concatenate([larger[:, :1, i], larger[..., i]], 1) for i in (0, 1))  # the argmax first: all sizes
        mean = 0.5 + (won - lost) / (2.0 * n)
        std = np.sqrt(np.maximum((won + lost) / 4.0 - n * (mean - 0.5) ** 2, 0.0) / (n - 1))
        return np.stack([mean, 1.0 - mean], -1), np.stack([std, std], -1)


def on_the_boundary(alpha: float, mode: lvm_rs.Mode, n: int = 1_000_000, n0: int = 500) -> Callable[[int, int], np.ndarray]:
    """LVM-RS on moments: what `certify_inputs` does after it has drawn its samples."""

    def held(repetitions: int, seed: int) -> np.ndarray:
        case, rng = ManySizes(), np.random.default_rng(seed)
        maps, rows = case.maps, np.arange(repetitions)
        settings: dict[str, Any] = {"n": n, "level": interval_level(alpha, mode, maps, 2), "sigma": SIGMA, "lipschitz": None}

        def largest(maps: list[list[Map]], moments: Sequence[np.ndarray], labels: list[int] | None = None) -> list[Certified]:
            mean, std = (torch.from_numpy(part) for part in moments)
            return lvm_rs._largest(maps, mean, std, labels=labels, **settings)

        best = largest([maps] * repetitions, case.moments(case.counts(n0 if mode == "split" else n, repetitions, rng)))
        if mode == "split":
            chosen = np.array([maps.index(each.chosen) for each in best])
            own = [part[rows, chosen][:, None] for part in case.moments(case.counts(n, repetitions, rng))]
            best = largest([[each.chosen] for each in best], own, labels=[each.label for each in best])
        return np.array([each.radius <= 0.0 for each in best])

    return held


# --- returns ----------------------------------------------------------------------------------------------------------

THRESHOLDS = np.array([-0.3, 0.1, 0.4, 0.8, 1.5])
BUDGETS = np.array([0.0, 0.2, 0.5])


def best_attack(thresholds: np.ndarray = THRESHOLDS, budgets: np.ndarray = BUDGETS) -> np.ndarray:
    """Expected return `[K]` under the strongest attack of an episode that returns how many thresholds sum_t w_t (o_t + noise) stays below.

    With |w| = 1, moving the observations along w moves the sum by the whole budget, which is the worst for all thresholds at once.
    """
    return stats.norm.cdf((thresholds - budgets[:, None]) / SIGMA).sum(-1)


def whole_return(alpha: float, bound: Any, thresholds: np.ndarray = THRESHOLDS, episodes: int = 100) -> Callable[[int, int], np.ndarray]:
    def held(n: int, seed: int) -> np.ndarray:
        total = SIGMA * np.random.default_rng(seed).normal(size=(n, episodes))
        returns, truth = (total[..., None] <= thresholds).sum(-1).astype(float), best_attack(thresholds)
        settings: dict[str, Any] = {"alpha": alpha, "bound": bound, "r_min": 0.0, "r_max": float(len(thresholds))}
        return np.array([(certified_return(own, BUDGETS, SIGMA, **settings) <= truth).all() for own in returns])

    return held


def step_by_step(alpha: float, episodes: int = 100) -> Callable[[int, int], np.ndarray]:
    """Step t is rewarded if the mean of what was seen so far, times sqrt(t + 1), stays below a threshold: a change of B in every
    observation moves that by sqrt(t + 1) B."""

    def held(n: int, seed: int) -> np.ndarray:
        steps = np.arange(1, len(THRESHOLDS) + 1)
        seen = SIGMA * np.random.default_rng(seed).normal(size=(n, episodes, len(steps))).cumsum(-1) / np.sqrt(steps)
        truth = stats.norm.cdf((THRESHOLDS - BUDGETS[:, None] * np.sqrt(steps)) / SIGMA).sum(-1)
        rewards = (seen <= THRESHOLDS).astype(float)
        return np.array([(certified_return_per_step(own, BUDGETS, SIGMA, alpha=alpha) <= truth).all() for own in rewards])

    return held


# --- actions ----------------------------------------------------------------------------------------------------------

STEPS, OLD, NEW = 5, torch.tensor([0.5, -1.0]), torch.tensor([1.0, 2.0])  # weights of the older and the newest frame


class Places(gym.Env):
    """Shows a random point of the plane at each of a few steps, whatever is done."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._shown(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._shown(), 0.0, self.t >= STEPS, False, {}

    def _shown(self) -> np.ndarray:
        return (0.5 * self.np_random.normal(size=2)).astype(np.float32)


if "surefoot-benchmarks/Places-v0" not in gym.registry:
    gym.register("surefoot-benchmarks/Places-v0", entry_point="benchmarks.coverage:Places", max_episode_steps=STEPS)


def linear_on_two_frames() -> FrameStack:
    """Takes action 0 iff OLD . (frame before) + NEW . (newest frame) > 0."""
    policy = Categorical(Spec((4,), Discrete(2)), ())
    with torch.no_grad():
        w = torch.cat([OLD, NEW])
        policy.net.weights[0].copy_(torch.stack([w, -w], -1))
        policy.net.biases[0].zero_()
    return FrameStack(policy, 2)


def own_actions(alpha: float, maps: list[Map] = MAPS) -> Callable[[int, int], np.ndarray]:
    """Every repetition is a state along the policy's episodes; the newest frame's distance to where the action changes is known."""

    def held(n: int, seed: int) -> np.ndarray:
        policy = Smoothed(linear_on_two_frames(), SIGMA)
        settings: dict[str, Any] = {"n0": 30, "n": 200, "alpha": alpha, "maps": maps}
        settings |= {"states": n, "episodes": -(-n // STEPS), "seed": seed}
        found = certify_actions(policy, "surefoot-benchmarks/Places-v0", **settings).members[0]
        states, labels = found.states, np.array([each.label for each in found.certified])
        assert states.memory is not None
        older = torch.where(states.memory["started"][:, None], states.memory["frames"][:, -1], 0.0)
        weight = torch.where(states.memory["started"][:, None], NEW, OLD + NEW)  # at the first step the frame is its own memory
        score = (older @ OLD + (states.obs * weight).sum(-1)).numpy()
        distance, action = np.abs(score) / weight.norm(dim=-1).numpy(), (score < 0.0).astype(int)
        radius = np.array([each.radius for each in found.certified])
        return (labels == lvm_rs.ABSTAIN) | ((labels == action) & (radius <= distance))

    return held


# --- all of them ------------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    five, fifth, plane_ = 0.05, 0.2, "linear, two classes, at half a sigma, 500 samples"
    middle = "on a boundary, three classes, 500 samples"
    tie = "on a boundary, logits of 9 sizes, 1,000,000 samples"
    total = "linear Gaussian episodes, 100, at 3 budgets together"
    sides = ("lower", "upper")
    found = [
        *(
            Case(f"Clopper-Pearson, {side}", f"100 trials, p = {p:g}", five, clopper_pearson(p, 100, five, side))
            for p in (0.03, 0.5, 0.9)
            for side in sides
        ),
        *(
            Case(f"empirical Bernstein, {side}", f"200 samples, {law}", five, bernstein(law, 200, five, side))
            for law in LAWS
            for side in sides
        ),
        Case("votes (Cohen et al.)", plane_, five, at_distance(SIGMA / 2, five, cohen_inputs)),
        Case("LVM-RS, split", plane_, five, at_distance(SIGMA / 2, five, certify_inputs, maps=MAPS)),
        Case("LVM-RS, split, votes alone", plane_, five, at_distance(SIGMA / 2, five, certify_inputs, maps=VOTES)),
        Case("LVM-RS, union", plane_, five, at_distance(SIGMA / 2, five, certify_inputs, maps=MAPS, mode="union")),
        Case("LVM-RS, official", plane_, five, at_distance(SIGMA / 2, five, certify_inputs, maps=MAPS, mode="official"), sound=False),
        Case("LVM-RS, split", middle, fifth, at_distance(0.0, fifth, certify_inputs, slab, maps=MAPS)),
        Case("LVM-RS, split, votes alone", middle, fifth, at_distance(0.0, fifth, certify_inputs, slab, maps=VOTES)),
        Case("LVM-RS, union", middle, fifth, at_distance(0.0, fifth, certify_inputs, slab, maps=MAPS, mode="union")),
        Case("LVM-RS, split", tie, fifth, on_the_boundary(fifth, "split")),
        Case("LVM-RS, union", tie, fifth, on_the_boundary(fifth, "union")),
        Case("LVM-RS, official", tie, fifth, on_the_boundary(fifth, "official"), sound=False),
        Case("return, Clopper-Pearson", total, five, whole_return(five, "clopper")),
        Case("return, Clopper-Pearson, won or lost", total, five, whole_return(five, "clopper", THRESHOLDS[2:3])),
        Case("return, DKW band", total, five, whole_return(five, "dkw")),
        Case("return, a budget for each step", total, five, step_by_step(five)),
        Case("actions (LVM-RS)", "linear on two stacked frames, 200 samples a state", five, own_actions(five)),
        Case("actions (votes)", "linear on two stacked frames, 200 samples a state", five, own_actions(five, VOTES)),
    ]
    return found


def times_held(case: Case, repetitions: int, seed: int) -> int:
    """In how many repetitions all that was stated was true."""
    return int(case.held(repetitions, seed).sum())


def contradicted(case: Case, number: int, repetitions: int, level: float) -> bool:
    """Whether so few would be true with probability below `level`, if each were with probability 1 - alpha (exact, one-sided)."""
    return bool(stats.binom.cdf(number, repetitions, 1.0 - case.alpha) < level)


def rows(chosen: Sequence[Case], repetitions: int) -> list[dict[str, Any]]:
    out = []
    for i, case in enumerate(chosen):
        number = times_held(case, repetitions, 1000 + i)
        ends = [float(bound(number, repetitions, 0.005)) for bound in (clopper_pearson_lower, clopper_pearson_upper)]
        short = number < (1.0 - case.alpha) * repetitions
        verdict = "**no**" if contradicted(case, number, repetitions, 0.005) else "within error" if short else "yes"
        row = {"certificate": case.certificate, "truth known for": case.case, "stated, %": 100.0 * (1.0 - case.alpha)}
        row |= {"held, %": round(100.0 * number / repetitions, 2), "99 % interval": "[{:.2f}, {:.2f}]".format(*(100.0 * x for x in ends))}
        row |= {"repetitions": repetitions, "holds": verdict}
        out.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    return out


def main(out: Path = RESULTS) -> None:
    """Write `coverage.json`."""
    torch.set_num_threads(1)
    write("coverage", rows(cases(), REPETITIONS), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
