"""Bandit decisions and learning per second: SquareCB by ridge regression and inverse gap weighting, beside Vowpal Wabbit's SquareCB.

Both have weights for every action and the same features, on one thread. Vowpal Wabbit runs in a process of its own
(`benchmarks/peer_vw.py`): the sides take turns, and the best round of each counts. It decides and learns one example at a time, and knows
the last example at once; ours decides one at a time or a batch at once, and learns a batch at once, as production does: the rows say which.

`bandits.json` has the rates, `bandits_scaling.json` the growth with the number of actions and of features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.beside import Peer
from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, exponent, save_figure, write
from surefoot.methods.exact.exploration import Explorer
from surefoot.methods.exact.regression_oracles import Model, Oracle, oracle

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-peers" / "bin" / "python"
POLICY = Explorer("igw", gamma=500.0)
BATCH = 3000  # rows of a generation, as in the claim
ROUNDS, ROUND_S = 4, 0.03  # rounds of each side, and about how long one takes
SETTINGS = ((6, 8), (8, 64), (64, 16))  # actions and features of the table
ACTIONS, FEATURES = (4, 8, 16, 32, 64, 128, 256, 512), (4, 8, 16, 32, 64, 128, 256, 512)
AT_FEATURES, AT_ACTIONS = 16, 8  # what is held while the other one grows


# --- the sides --------------------------------------------------------------------------------------------------------


class Ours:
    """A regression oracle with IGW on random rounds of so many actions and features; all actions are available."""

    def __init__(self, actions: int, features: int, learner: Oracle):
        rng = np.random.default_rng(0)
        self.context, self.action = rng.standard_normal((BATCH, features)), rng.integers(actions, size=BATCH)
        self.reward = (rng.random(BATCH) < 0.5).astype(np.float64)
        self.actions, self.learner = actions, learner
        self.model: Model = self.fit()

    def fit(self) -> Model:
        return self.learner.fit(self.context, self.action, self.reward, n_actions=self.actions)

    def learn(self, rows: int) -> float:
        """Seconds to learn from so many rows, a whole batch at a time."""
        batches = max(1, round(rows / BATCH))
        return cpu_seconds(lambda: [self.fit() for _ in range(batches)]) * rows / (batches * BATCH)

    def decide(self, rounds: int) -> float:
        """Seconds for the probabilities of so many rounds, a batch at once."""
        batches = max(1, round(rounds / BATCH))
        work = lambda: [POLICY.probabilities(self.model.predict(self.context)) for _ in range(batches)]  # noqa: E731
        return cpu_seconds(work) * rounds / (batches * BATCH)

    def decide_one(self, rounds: int) -> float:
        """The same, one round at a time."""
        contexts = [self.context[i % BATCH : i % BATCH + 1] for i in range(rounds)]
        return cpu_seconds(lambda: [POLICY.probabilities(self.model.predict(x)) for x in contexts])


def rates(sides: Mapping[str, Callable[[int], float]]) -> dict[str, float]:
    """Examples per second of each side, of its best round; the sides take turns."""
    examples, best = {}, dict.fromkeys(sides, 0.0)
    for side, run in sides.items():
        run(1)
        examples[side] = max(1, round(20 * ROUND_S / max(run(20), 1e-6)))
    for _ in range(ROUNDS):
        for side, run in sides.items():
            best[side] = max(best[side], examples[side] / run(examples[side]))
    return best


# --- rates ------------------------------------------------------------------------------------------------------------


def rate_rows(peer: Peer | None) -> list[dict[str, Any]]:
    """Decisions and learned rows per second of each side, and the ratio of ours to Vowpal Wabbit's faster way."""
    rows = []
    for actions, features in SETTINGS:
        ridge, trees = Ours(actions, features, oracle("ridge")), Ours(actions, features, oracle("boosting"))
        ours = {"decide, one at a time": ridge.decide_one, "decide, a batch at once": ridge.decide, "learn, a batch at once": ridge.learn}
        boosted = {
            f"boosting: {name}": side for name, side in (("decide, a batch at once", trees.decide), ("learn, a batch at once", trees.learn))
        }
        theirs = {}
        if peer is not None:
            for mode in ("decide text", "decide parsed", "learn text", "learn parsed"):
                theirs[mode] = partial(peer.run, mode, actions, features)
        best = rates(ours | boosted | theirs)
        for name in ours | boosted:
            row: dict[str, Any] = {"actions": actions, "features": features, "work": name, "surefoot": best[name]}
            if peer is not None and name in ours:  # Vowpal Wabbit has no boosting
                verb = name.split(",")[0]
                row |= {f"Vowpal Wabbit, {kind}": best[f"{verb} {kind}"] for kind in ("text", "parsed")}
                row["times its parsed"] = best[name] / best[f"{verb} parsed"]
            rows.append(row)
    return rows


# --- growth -----------------------------------------------------------------------------------------------------------


def theory(work: str, actions: int, features: int) -> float:
    """Multiplications for one batch: scores of n contexts; or K Gram matrices of n rows altogether, and their inverses."""
    p = features + 1.0
    return BATCH * p * actions if work == "decide" else BATCH * p**2 + actions * p**3


def growth(peer: Peer | None) -> dict[str, dict[str, Any]]:
    """Seconds per example at each size, `{"decide, actions": {"sizes": ..., "surefoot": ..., ...}}`."""
    found: dict[str, dict[str, Any]] = {}
    for axis, sizes in (("actions", ACTIONS), ("features", FEATURES)):
        for size in sizes:
            actions, features = (size, AT_FEATURES) if axis == "actions" else (AT_ACTIONS, size)
            ridge = Ours(actions, features, oracle("ridge"))
            for work, run in (("decide", ridge.decide), ("learn", ridge.learn)):
                sides: dict[str, Callable[[int], float]] = {"surefoot": run}
                if peer is not None:
                    sides["Vowpal Wabbit"] = partial(peer.run, f"{work} parsed", actions, features)
                line = found.setdefault(f"{work}, {axis}", {"sizes": list(sizes), "theory": []} | {side: [] for side in sides})
                line["theory"].append(theory(work, actions, features))
                for side, rate in rates(sides).items():
                    line[side].append(1.0 / rate)
    return found


def exponent_rows(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fitted exponents beside those that the count of multiplications has over the same sizes."""
    rows = []
    for name, line in found.items():
        work, axis = name.split(", ")
        row: dict[str, Any] = {"work": work, "grows": axis, "sizes": f"{line['sizes'][len(line['sizes']) // 2]} to {line['sizes'][-1]}"}
        row |= {
            f"exponent, {side}": exponent(line["sizes"], line[side]) for side in ("surefoot", "theory", "Vowpal Wabbit") if side in line
        }
        rows.append(row)
    return rows


COLOURS = {"surefoot": "#1b6ca8", "Vowpal Wabbit": "#d1702a", "theory": "0.6"}


def plot_growth(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Microseconds per example against the number of actions and of features, with the theory's slope through our last point."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for panel, axis in zip(axes, ("actions", "features"), strict=True):
        for work, marker in (("decide", "o"), ("learn", "s")):
            line = found[f"{work}, {axis}"]
            sizes = np.array(line["sizes"])
            for side in ("surefoot", "Vowpal Wabbit"):
                if side in line:
                    panel.loglog(sizes, 1e6 * np.array(line[side]), marker + "-", color=COLOURS[side], label=f"{side}, {work}", ms=5)
            shape = np.array(line["theory"])
            scaled = 1e6 * line["surefoot"][-1] * shape / shape[-1]
            panel.loglog(sizes, scaled, ":", color=COLOURS["theory"], label="multiplications" if work == "decide" else None)
        held = f"{AT_FEATURES} features" if axis == "actions" else f"{AT_ACTIONS} actions"
        panel.set(xlabel=f"number of {axis}", title=f"{held}")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("microseconds per example")
    axes[0].legend(fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def plot_generations(result: Path, path: Path) -> None:
    """The claim's runs of many generations: greedy value after each as a share of the best, a line a seed, their mean, a panel an arm."""
    stored = json.loads(result.read_text(encoding="utf-8"))
    runs = stored["scores"]["generations"]
    names = {"uniform": "uniform", "epsilon 0.1": "epsilon-greedy 0.1", "igw 500": "IGW (SquareCB), gamma 500"}
    figure, axes = plt.subplots(1, len(runs), figsize=(10, 3.6), sharey=True)
    for panel, (arm, seeds) in zip(axes, runs.items(), strict=True):
        for values in seeds.values():
            panel.plot(values, "-", color=COLOURS["surefoot"], alpha=0.35, lw=1.2)
        panel.plot(np.mean(list(seeds.values()), 0), "o-", color=COLOURS["surefoot"], lw=2, ms=4)
        panel.set(xlabel="learned from generation", title=names[arm])
        panel.set_xticks(range(0, 13, 3))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("value of the next model's\ngreedy policy, share of the best")
    figure.tight_layout()
    save_figure(figure, path)


def main(out: Path = RESULTS, python: str | None = None) -> None:
    """Write both results and their pictures; without a peer's Python (.venv-peers, or `python`) its columns are left out."""
    there = Path(python) if python is not None else PEER
    peer = Peer(there, "peer_vw.py") if there.exists() else None
    try:
        rows, found = rate_rows(peer), growth(peer)
    finally:
        if peer is not None:
            peer.close()
    note = "" if peer is None else f", Vowpal Wabbit {peer.version}"
    write("bandits", rows, out, note=note)
    write("bandits_scaling", exponent_rows(found), out, note=note)
    images = IMAGES if out == RESULTS else out
    plot_growth(found, images / "bandits-scaling.png")
    result = ROOT / "results" / "adyen-bandits.json"
    if result.exists():
        plot_generations(result, images / "bandit-generations.png")


if __name__ == "__main__":
    main()
