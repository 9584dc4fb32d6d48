"""What particle filters and smoothers cost: against the number of particles and of steps, and beside the package `particles`.

Everything runs on one scalar linear Gaussian series, on one thread. `particles` runs in a process of its own
(`benchmarks/peer_particles.py`), which waits while we compute and the other way round; the sides take turns, the best turn of each counts.
It has no replications side by side: there a step of R filters is R steps of one, and its rate is that of one filter after the other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from benchmarks.beside import Peer
from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, exponent, save_figure, write
from surefoot.envs.state_space import LinearGaussian, simulate
from surefoot.methods.exact.paris_particle_gibbs import PPGConfig, paris, ppg
from surefoot.methods.exact.particle_filter import particle_filter

matplotlib.use("Agg")
from matplotlib import pyplot as plt

A, Q, R = 0.95, 0.2, 0.3
T, TURNS = 100, 3
MODEL = LinearGaussian(A, Q, 1.0, R, Q / (1.0 - A**2))

SHORT = 6  # steps of the series on which particles are varied
STEPS, FEW = (50, 100, 200, 400, 800), 64  # steps that are varied, with so many particles
LARGE = 3  # sizes, the largest, that exponents are fitted to: below, what a step costs whatever its size is all there is


def series(steps: int) -> torch.Tensor:
    return simulate(MODEL, steps, seed=0)[1][:, 0]


def product(t: int, x: torch.Tensor, x_next: torch.Tensor) -> torch.Tensor:
    return x * x_next


Work = Callable[[torch.Tensor, int, int], Any]  # series, particles, chains

N1, N2 = (100, 400, 1600, 3200, 6400, 12_800), (100, 200, 400, 800, 1600, 3200)
WAYS: dict[str, tuple[Work, int, tuple[int, ...]]] = {
    "bootstrap filter": (lambda y, n, r: particle_filter(MODEL, y, particles=n, chains=r), 1, (100, 1000, 10_000, 25_000, 50_000, 100_000)),
    "PaRIS, by rejection": (lambda y, n, r: paris(MODEL, y, product, particles=n, chains=r, backward="rejection"), 1, N1),
    "PaRIS, table": (lambda y, n, r: paris(MODEL, y, product, particles=n, chains=r), 2, N2),
    "exact in the draws": (lambda y, n, r: paris(MODEL, y, product, particles=n, chains=r, draws=None), 2, N2),
    "PPG, table, 3 sweeps": (lambda y, n, r: ppg(MODEL, y, product, PPGConfig(n, sweeps=3, burn_in=1), chains=r), 2, N2),
}
"""What is timed, the power of N that it should cost, and the N that it is timed at (a filter needs many to feel them)."""


def seconds(work: Work, y: torch.Tensor, n: int, chains: int = 1) -> float:
    return min(cpu_seconds(lambda: work(y, n, chains)) for _ in range(TURNS))


def scaling(out: Path = RESULTS, images: Path = IMAGES) -> None:
    """Write `particles_scaling.json` and its picture."""
    rows, curves = [], {}
    for name, (work, power, sizes) in WAYS.items():
        work(series(SHORT), 50, 1)  # warm
        by_n = [seconds(work, series(SHORT), n) for n in sizes]
        by_t = [seconds(work, series(t), FEW) for t in STEPS]
        curves[name] = by_n, by_t
        rows.append(
            {
                "method": name,
                "exponent in particles": exponent(sizes, by_n, LARGE),
                "theory": power,
                "exponent in steps": exponent(STEPS, by_t, LARGE),
                "theory for steps": 1,
                "milliseconds a step, N = 100": 1e3 * by_n[0] / SHORT,
                "largest N": sizes[-1],
                "milliseconds a step there": 1e3 * by_n[-1] / SHORT,
            }
        )
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), file=sys.stderr)
    write("particles_scaling", rows, out)
    draw(curves, images / "particles-scaling.png")


def draw(curves: dict[str, tuple[list[float], list[float]]], path: Path) -> None:
    """Two log-log panels: a step's time against N, and a series' time against T."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), dpi=160, layout="constrained")
    for name, (by_n, by_t) in curves.items():
        left.loglog(WAYS[name][2], [1e3 * s / SHORT for s in by_n], "o-", ms=4, lw=1.6, label=name)
        right.loglog(STEPS, by_t, "o-", ms=4, lw=1.6)
    for name, text in {"PaRIS, table": "N²", "bootstrap filter": "N"}.items():
        _, power, sizes = WAYS[name]
        ends = np.array([sizes[-3], sizes[-1]], float)
        line = 0.5 * 1e3 * curves[name][0][-1] / SHORT * (ends / ends[-1]) ** power
        left.loglog(ends, line, "k--", lw=1)
        left.annotate(text, (ends[1], line[1]), xytext=(5, -5), textcoords="offset points")
    guide = 0.5 * np.array(STEPS) * curves["bootstrap filter"][1][-1] / STEPS[-1]
    right.loglog(STEPS, guide, "k--", lw=1)
    right.annotate("T", (STEPS[-1], guide[-1]), xytext=(5, -5), textcoords="offset points")
    left.set(xlabel="particles N", ylabel="milliseconds a step", title=f"{SHORT} steps, one chain")
    right.set(xlabel="steps T", ylabel="seconds a series", title=f"{FEW} particles, one chain")
    right.set_xticks(STEPS, [str(t) for t in STEPS])
    for axes in (left, right):
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


# --- beside `particles` -----------------------------------------------------------------------------------------------


CASES = (  # what, ours, theirs, particles, runs of theirs that are timed
    ("bootstrap filter", "bootstrap filter", "filter", 1000, 10),
    ("PaRIS, 2 draws", "PaRIS, table", "paris", 100, 1),
    ("exact in the draws", "exact in the draws", "on2", 100, 1),
)


def compared(peer: Peer | None) -> list[dict[str, Any]]:
    """Steps a second, of a lone filter and of a hundred at once."""
    rows = []
    y = series(T)
    for what, ours, theirs, n, runs in CASES:
        work = WAYS[ours][0]
        best = {"one": 0.0, "hundred": 0.0, "peer": 0.0}
        for turn in range(TURNS + 1):  # the first warms up
            rates = {
                "one": T * runs / cpu_seconds(lambda work=work, n=n, runs=runs: [work(y, n, 1) for _ in range(runs)]),  # type: ignore[misc]
                "hundred": 100 * T / cpu_seconds(lambda work=work, n=n: work(y, n, 100)),  # type: ignore[misc]
                "peer": 0.0 if peer is None else T * runs / peer.run(theirs, n, runs),
            }
            best = {side: max(best[side], rates[side]) if turn else 0.0 for side in best}
        for chains, side in ((1, "one"), (100, "hundred")):
            row = {"method": what, "particles": n, "replications": chains, "surefoot, steps a second": best[side]}
            if peer is not None:
                row |= {"particles 0.4": best["peer"], "times particles": best[side] / best["peer"]}
            rows.append(row)
            print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), file=sys.stderr)
    return rows


def main(out: Path = RESULTS, python: str | None = None, images: Path = IMAGES) -> None:
    """Write `particles_scaling.json` with its picture, and `particles.json`; without a peer's Python its columns are left out."""
    torch.set_num_threads(1)
    scaling(out, images)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "series.npy", series(T)[:, 0].numpy())
        peer = None if python is None else Peer(python, "peer_particles.py", str(Path(folder) / "series.npy"))
        try:
            rows = compared(peer)
        finally:
            if peer is not None:
                peer.close()
    write("particles", rows, out, note="" if peer is None else f", particles {peer.version}")
