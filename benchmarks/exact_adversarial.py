"""Adversarial MDPs: what learning from an episode costs as the world grows, copies at once against one by one, and regret.

`adversarial.json` has the time of an episode for copies together and in a loop; `adversarial_scaling.json` fits powers over
the larger half of the sizes, beside those of the multiplications that the formulas ask for: by episode H (S^2 A + S A d^2 + d^3), and
H (S A)^2 d more where Algorithm 2 takes its expectation exactly.

The picture of regret is drawn from results/adversarial-mdp.json, or, where that was not measured yet, from two seeds of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, exponent, save_figure, write
from surefoot.claims.adversarial_mdp import CLAIM, RATE, SMALL, panel
from surefoot.envs.finite import LinearMDP, random_linear_mdp
from surefoot.methods.exact.adversarial_mdp import AdversarialMDPConfig, Algorithm, RefinedLinearQ
from surefoot.methods.exact.linear_world import LinearWorld
from surefoot.methods.exact.simulator_free import SimulatorFree, SimulatorFreeConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

ROOT = Path(__file__).resolve().parents[1]
REPEATS, AT_LEAST_S = 3, 0.02
SIZES = {"states": (16, 32, 64, 128, 256), "actions": (4, 8, 16, 32, 64), "dimension": (8, 16, 32, 64, 128), "stages": (4, 8, 16, 32, 64)}
AT = {"states": 32, "actions": 4, "dimension": 4, "stages": 3}  # what is held while another grows
COPIES = 50
ALGORITHMS: dict[str, Algorithm] = {"Algorithm 1": "logbarrier", "Algorithm 2": "magnitude_reduced"}


def best_times(works: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Least CPU seconds of one call of each, in turns, over a few rounds of enough calls to be measured."""
    calls = {name: max(1, round(AT_LEAST_S / max(cpu_seconds(work), 1e-6))) for name, work in works.items()}
    best = dict.fromkeys(works, np.inf)
    for _ in range(REPEATS):
        for name, work in works.items():
            n = calls[name]
            best[name] = min(best[name], cpu_seconds(partial(in_turn, [work] * n)) / n)
    return best


def in_turn(works: Sequence[Callable[[], Any]]) -> None:
    for work in works:
        work()


# --- one episode ------------------------------------------------------------------------------------------------------


def episode(model: LinearMDP, algorithms: Sequence[Algorithm]) -> Callable[[], None]:
    """Learning from one more episode, always the same, by a learner of the world's copies."""
    learner = RefinedLinearQ(LinearWorld.of(model), [AdversarialMDPConfig(name, episodes=10_000) for name in algorithms])
    path = np.zeros(learner.shape[:3], np.int64)
    return partial(learner.observe, path, path, np.full(path.shape, 0.5))


def growth() -> dict[str, dict[str, list[float]]]:
    """Seconds of an episode of each algorithm at each size, by what grows."""
    found: dict[str, dict[str, list[float]]] = {axis: {name: [] for name in ALGORITHMS} for axis in SIZES}
    for axis, sizes in SIZES.items():
        for size in sizes:
            at = AT | {axis: size}
            model = random_linear_mdp(np.random.default_rng(0), at["stages"], at["states"], at["actions"], at["dimension"])
            times = best_times({label: episode(model, [name]) for label, name in ALGORITHMS.items()})
            for label, seconds in times.items():
                found[axis][label].append(seconds)
    return found


def multiplications(axis: str, label: str) -> list[float]:
    counts = []
    for size in SIZES[axis]:
        at = AT | {axis: size}
        s, a, d, h = at["states"], at["actions"], at["dimension"], at["stages"]
        expectation = (s * a) ** 2 * d if label == "Algorithm 2" else 0
        counts.append(float(h * (2 * s * s * a + 2 * s * a * d * d + d**3 + expectation)))
    return counts


def exponent_rows(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    return [
        {
            "an episode of": label,
            "grows": axis,
            "sizes": f"{sizes[len(sizes) // 2]} to {sizes[-1]}",
            "ms at the largest": 1e3 * found[axis][label][-1],
            "exponent": exponent(sizes, found[axis][label]),
            "theory": exponent(sizes, multiplications(axis, label)),
        }
        for label in ALGORITHMS
        for axis, sizes in SIZES.items()
    ]


# --- copies -----------------------------------------------------------------------------------------------------------


def copy_rows() -> list[dict[str, Any]]:
    """Learning from an episode of many copies in the claim's world: one array program against a learner a copy."""
    rows, both = [], tuple(ALGORITHMS.values())
    for work, algorithms in {**{label: (name,) for label, name in ALGORITHMS.items()}, "both": both}.items():
        model = random_linear_mdp(np.random.default_rng(0), 3, 8, 4, 4, (COPIES,))
        alone: list[Callable[[], None]] = []
        for i in range(COPIES):
            own = LinearMDP.of(model.features[i], model.factors[i], model.theta[i], model.mdp.initial[i])
            alone += [episode(own, [name]) for name in algorithms]
        times = best_times({"together": episode(model, algorithms), "apart": partial(in_turn, alone)})
        rows.append(copy_row(f"{work}: an episode of {COPIES} copies", times))
    rows.append(copy_row(f"without a simulator: 1,000 episodes of {COPIES} copies", epoch_times()))
    return rows


def copy_row(work: str, times: Mapping[str, float]) -> dict[str, Any]:
    return {
        "work": work,
        "ms": 1e3 * times["together"],
        "the other way": "one copy after the other",
        "its ms": 1e3 * times["apart"],
        "ratio": times["apart"] / times["together"],
    }


def epoch_times() -> dict[str, float]:
    """Learning without a simulator: 1,000 episodes with an epoch each hundred."""
    model = random_linear_mdp(np.random.default_rng(0), 3, 8, 4, 4, (COPIES,))
    config = SimulatorFreeConfig(10_000, epoch=100, cover_policies=1, cover_episodes=1)

    def work(features: np.ndarray) -> None:
        learner = SimulatorFree(features, config)
        for n in (1, *[100] * 10):
            learner.begin(n)
            path = np.zeros((len(features), n, 3), np.int64)
            learner.observe(path, path, np.full(path.shape, 0.5))

    alone = [partial(work, one[None]) for one in model.features]
    return best_times({"together": partial(work, model.features), "apart": partial(in_turn, alone)})


# --- regret -----------------------------------------------------------------------------------------------------------


def claimed(result: Path) -> dict[str, Any]:
    """Scores of the claim, from its result or from seeds 900 and 901."""
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))["scores"]
    return CLAIM.run(CLAIM.context("small", 2, 900))


# --- pictures ---------------------------------------------------------------------------------------------------------

LOOK = {
    "uniform": ("0.55", "", "uniform play"),
    "simulator_free_luo2021": ("#d8a48f", "v", "Luo et al. 2021, no simulator"),
    "simulator_free": ("#8fb8d8", "s", "Algorithm 1, no simulator"),
    "luo2021": ("#c0392b", "v", "Luo et al. 2021"),
    "magnitude_reduced": ("#3aa17e", "^", "Algorithm 2"),
    "logbarrier": ("#1b6ca8", "s", "Algorithm 1"),
}


def plot_regret(scores: Mapping[str, Any], path: Path) -> None:
    """Regret of runs of each length, and along the longest; means over seeds, a faint line a seed."""
    grid = SMALL[""].episodes
    along = f"along K = {grid[-1]}"
    at = [2**j for j in range(5, 15)] + [grid[-1]]
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.9), sharey=True)
    for arm, (colour, marker, label) in LOOK.items():
        each = np.array([list(scores[panel(k)][arm].values()) for k in grid])
        within = np.array(list(scores[along][arm].values())).T
        for axis, x, y in ((axes[0], np.array(grid), each), (axes[1], np.array(at), within)):
            own = label
            if axis is axes[0] and arm in RATE:
                slope = np.polyfit(np.log(grid), np.log(np.maximum(each, 1.0)).mean(-1), 1)[0]
                own = f"{label}: slope {slope:.2f} (guarantee {RATE[arm]:.2f})"
            style = "--" if arm == "uniform" else "-"
            axis.loglog(x, np.maximum(y, 1.0), style, color=colour, alpha=0.2, lw=0.8)
            axis.loglog(x, np.maximum(y.mean(-1), 1.0), marker + style, color=colour, lw=1.8, ms=5, label=own)
    axes[0].set(xlabel="episodes K, a run each", ylabel="regret", title="regret of runs of K episodes")
    axes[1].set(xlabel="episode", title=f"regret within the run of {grid[-1]:,} episodes")
    axes[0].set_xticks(grid, [f"{k:,}" for k in grid])
    axes[1].set_xticks([32, 256, 2048, 16384], ["32", "256", "2,048", "16,384"])
    for axis in axes:
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=4.0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="lower center", ncols=2, frameon=False, fontsize=9.5)
    figure.tight_layout(rect=(0.0, 0.17, 1.0, 1.0))
    save_figure(figure, path)


def plot_growth(found: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Milliseconds of an episode against each size, with the count of multiplications through the last point."""
    figure, axes = plt.subplots(1, 4, figsize=(10.4, 3.7), sharey=True)
    for axis, (name, sizes) in zip(axes, SIZES.items(), strict=True):
        for label, colour, marker in (("Algorithm 2", "#3aa17e", "^"), ("Algorithm 1", "#1b6ca8", "s")):
            ms, count = 1e3 * np.array(found[name][label]), np.array(multiplications(name, label))
            axis.loglog(sizes, ms, marker + "-", color=colour, ms=5, label=label)
            axis.loglog(sizes, ms[-1] * count / count[-1], ":", color=colour, lw=1.3, label=f"multiplications, {label}")
        axis.set(xlabel=name, title=", ".join(f"{other} {AT[other]}" for other in SIZES if other != name))
        axis.title.set_fontsize(8)
        axis.set_xticks(sizes, [f"{n:.0f}" for n in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0.05, 2e3 * max(max(line) for one in found.values() for line in one.values()))  # shared
    axes[0].set_ylabel("milliseconds per episode")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0.0, 0.09, 1.0, 1.0))
    save_figure(figure, path)


def main(out: Path = RESULTS) -> None:
    """Write both results and both pictures (with the docs, or beside results that go elsewhere)."""
    rows, found = copy_rows(), growth()
    write("adversarial", rows, out, note=f", NumPy {np.__version__}")
    write("adversarial_scaling", exponent_rows(found), out, note=f", NumPy {np.__version__}")
    images = IMAGES if out == RESULTS else out
    plot_growth(found, images / "adversarial-mdp-scaling.png")
    plot_regret(claimed(ROOT / "results" / "adversarial-mdp.json"), images / "adversarial-mdp-regret.png")


if __name__ == "__main__":
    main()
