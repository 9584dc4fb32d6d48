"""Learning with demonstrations: episodes against their number, and what a plan costs as the world grows.

`demonstrations.json` has the time of whole runs, together and one after the other, and of drawing counts against playing rows;
`demonstrations_scaling.json` fits powers over the larger half of the sizes. In theory a plan of UCBVI-Ent+ takes H S^2 A
multiplications, one of LSVI-UCB-Ent H (S^2 A + S A d^2 + d^3), and the episodes fall as 1 / N^E.

The picture of episodes is drawn from results/demonstration-regularized.json, or, where that was not measured yet, from seeds of its own.
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
from surefoot.claims.demonstration_regularized import CLAIM, RIVERS
from surefoot.envs.finite import draw
from surefoot.methods.exact import lsvi_ucb_ent, ucbvi_ent
from surefoot.methods.exact.behaviour_cloning import Demonstrations
from surefoot.methods.exact.demonstration_regularized import DRRLConfig, learn
from surefoot.methods.exact.ucbvi_ent import UCBVIEntConfig
from surefoot.methods.exact.visits import Simulator, visit_counts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
REPEATS, AT_LEAST_S = 3, 0.02
STATES, ACTIONS, STAGES = (20, 40, 80, 160, 320), (8, 16, 32, 64, 128), (5, 10, 20, 40, 80)
S, A, H = 60, 4, 10  # what is held while another grows
DIMENSIONS = (16, 32, 64, 128, 256)


def best_time(work: Callable[[], Any]) -> float:
    """Least CPU seconds of one call, over a few rounds of enough calls to be measured."""
    calls = max(1, round(AT_LEAST_S / max(cpu_seconds(work), 1e-6)))
    return min(cpu_seconds(lambda: [work() for _ in range(calls)]) / calls for _ in range(REPEATS))


# --- whole runs -------------------------------------------------------------------------------------------------------


def run_rows(seeds: int = 20) -> list[dict[str, Any]]:
    """Time of a fleet of runs at 1000 demonstrations against the same runs one by one; of 1000 episodes drawn and played."""
    river = RIVERS["small"]
    rng = np.random.default_rng(900)
    demos = Demonstrations(visit_counts(river.mdp, river.expert, np.full(seeds, 1000), rng).sum(-1), np.full(seeds, 1000))
    config = DRRLConfig(rule="oracle", learner=UCBVIEntConfig(bonus="practical", scale=0.03))
    episodes = learn(river.mdp, demos, config, 900, expert=river.expert).found.episodes
    lone = [Demonstrations(counts, n) for counts, n in zip(demos.counts, demos.n, strict=True)]

    def apart() -> None:
        for i, one in enumerate(lone):
            learn(river.mdp, one, config, 901 + i, expert=river.expert)

    times: dict[str, list[float]] = {"together": [], "apart": []}
    for _ in range(REPEATS):  # in turns
        times["together"].append(cpu_seconds(lambda: learn(river.mdp, demos, config, 900, expert=river.expert)))
        times["apart"].append(cpu_seconds(apart))
    together, one_by_one = min(times["together"]), min(times["apart"])
    simulator = Simulator(lambda h, s, a: draw(river.mdp.transition[h, s, a], rng), river.mdp.reward, river.mdp.initial)
    probe = np.zeros(river.expert.shape[:2], np.int64)
    drawn, played = (best_time(partial(visit_counts, w, river.expert, 1000, rng, probe)) for w in (river.mdp, simulator))
    return [
        {
            "work": f"{seeds} runs to the certificate, 1000 demonstrations, {int(episodes.sum()):,} episodes",
            "seconds": together,
            "the other way": "one run after the other",
            "its seconds": one_by_one,
            "ratio": one_by_one / together,
        },
        {
            "work": "1000 episodes of 10 stages, counts drawn",
            "seconds": drawn,
            "the other way": "played row by row in a simulator",
            "its seconds": played,
            "ratio": played / drawn,
        },
    ]


# --- growth -----------------------------------------------------------------------------------------------------------


def plan_seconds(states: int, actions: int, stages: int) -> float:
    """One plan of UCBVI-Ent+ from counts that are dense."""
    rng = np.random.default_rng(0)
    visits = rng.integers(1, 10, (stages, states, actions, states)).astype(np.float64)
    shape = visits.shape[:-1]
    reward, reference = rng.random(shape), np.full(shape, 1.0 / actions)
    config = UCBVIEntConfig(bonus="practical", scale=0.03)
    return best_time(lambda: ucbvi_ent.plan(visits, reward, reference, 0.5, config))


def linear_seconds(d: int) -> float:
    """One plan of LSVI-UCB-Ent with features of dimension d."""
    rng = np.random.default_rng(0)
    visits = rng.integers(1, 10, (H, S, A, S)).astype(np.float64)
    features = rng.dirichlet(np.ones(d), (H, S, A))
    reward, reference = rng.random((H, S, A)), np.full((H, S, A), 1.0 / A)
    return best_time(lambda: lsvi_ucb_ent.plan(visits, features, reward, reference, 0.5, 0.1, 1.0))


def growth() -> dict[str, dict[str, Any]]:
    """Seconds of a plan at each size, and the count of multiplications: `{axis: {"sizes", "seconds", "theory"}}`."""
    return {
        "states": line(STATES, lambda n: plan_seconds(n, A, H), lambda n: float(n) ** 2),
        "actions": line(ACTIONS, lambda n: plan_seconds(S, n, H), float),
        "stages": line(STAGES, lambda n: plan_seconds(S, A, n), float),
        "feature dimension": line(DIMENSIONS, linear_seconds, lambda n: float(S * S * A + S * A * n**2 + n**3)),
    }


def line(sizes: Sequence[int], seconds: Callable[[int], float], theory: Callable[[int], float]) -> dict[str, Any]:
    return {"sizes": list(sizes), "seconds": [seconds(n) for n in sizes], "theory": [theory(n) for n in sizes]}


def exponent_rows(found: Mapping[str, Mapping[str, Any]], episodes: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for axis, one in found.items():
        sizes = one["sizes"]
        rows.append(
            {
                "cost": "a plan of " + ("LSVI-UCB-Ent" if axis == "feature dimension" else "UCBVI-Ent+"),
                "grows": axis,
                "sizes": f"{sizes[len(sizes) // 2]} to {sizes[-1]}",
                "exponent": exponent(sizes, one["seconds"]),
                "theory": exponent(sizes, one["theory"]),
            }
        )
    sizes, mean = episodes["sizes"], np.log(episodes["drrl"]).mean(-1)
    slope = float(np.polyfit(np.log(sizes), mean, 1)[0])
    sampled = {"cost": "episodes to the certificate", "grows": "demonstrations", "sizes": f"{sizes[0]} to {sizes[-1]}"}
    return [*rows, sampled | {"exponent": slope, "theory": -1.0}]


# --- episodes ---------------------------------------------------------------------------------------------------------


def claimed_episodes(result: Path) -> dict[str, Any]:
    """Episodes `[sizes, seeds]` of DRRL and `[seeds]` without demonstrations, from the claim's result or from seeds 900 to 904."""
    if result.exists():
        scores = json.loads(result.read_text(encoding="utf-8"))["scores"]
    else:
        scores = CLAIM.run(CLAIM.context("small", 5, 900))
    arms = scores["episodes"]
    sizes = sorted(int(arm.split()[1]) for arm in arms if arm.startswith("drrl "))
    return {
        "sizes": sizes,
        "drrl": np.array([list(arms[f"drrl {n}"].values()) for n in sizes]),
        "none": np.array(list(arms["none"].values())),
    }


# --- pictures ---------------------------------------------------------------------------------------------------------

BLUE, ORANGE, GREY = "#1b6ca8", "#d1702a", "0.55"


def plot_episodes(episodes: Mapping[str, Any], path: Path) -> None:
    """Episodes to the certificate against the number of demonstrations, a dot a seed."""
    sizes, drrl, none = np.array(episodes["sizes"]), episodes["drrl"], episodes["none"]
    figure, axis = plt.subplots(figsize=(7.2, 4.4))
    axis.loglog(sizes, drrl, "o", color=BLUE, alpha=0.5, ms=5)
    mean = np.exp(np.log(drrl).mean(-1))
    axis.loglog(sizes, mean, "-", color=BLUE, lw=2, label="with demonstrations (DRRL)")
    axis.axhline(np.exp(np.log(none).mean()), color=ORANGE, lw=2, label="without demonstrations")
    through = np.exp(np.log(mean * sizes).mean())
    axis.loglog(sizes, through / sizes, ":", color=GREY, lw=1.5, label="slope -1")
    axis.set(xlabel="demonstrations", ylabel="episodes until the certificate", title="RiverSwim, 6 states, 10 stages, eps = 0.1")
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ticks = [n for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000) if 0.7 * mean.min() < n < 1.5 * drrl.max()]
    axis.set_yticks(ticks, [f"{n:,}" for n in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    save_figure(figure, path)


def plot_growth(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Milliseconds of a plan against each size, with the count of multiplications through the last point."""
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.4), sharey=True)
    for axis, (name, one) in zip(axes, found.items(), strict=True):
        sizes, seconds, theory = (np.array(one[key], np.float64) for key in ("sizes", "seconds", "theory"))
        colour = ORANGE if name == "feature dimension" else BLUE
        axis.loglog(sizes, 1e3 * seconds, "o-", color=colour, ms=5, label="measured")
        axis.loglog(sizes, 1e3 * seconds[-1] * theory / theory[-1], ":", color=GREY, label="multiplications")
        axis.set(xlabel=name, title="LSVI-UCB-Ent" if name == "feature dimension" else "UCBVI-Ent+")
        axis.set_xticks(sizes, [f"{n:.0f}" for n in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds per plan")
    axes[0].legend(fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def main(out: Path = RESULTS) -> None:
    """Write both results and both pictures."""
    rows, found = run_rows(), growth()
    episodes = claimed_episodes(ROOT / "results" / "demonstration-regularized.json")
    write("demonstrations", rows, out)
    write("demonstrations_scaling", exponent_rows(found, episodes), out)
    images = IMAGES if out == RESULTS else out
    plot_episodes(episodes, images / "demonstrations-episodes.png")
    plot_growth(found, images / "demonstrations-scaling.png")


if __name__ == "__main__":
    main()
