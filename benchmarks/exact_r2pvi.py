"""What robust value iteration costs against features and episodes, against its constrained rival, and many data sets at once.

In theory a stage takes K d^2 + d^3 multiplications for the regression weights of K episodes, which is all but K d (tv, kl) or K d log K
(chi-square) of it: with more episodes than features, exponents of 2 in d and 1 in K. The search adds its evaluations, each K d.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, exponent, save_figure, write
from surefoot.methods.exact.logged_features import FeaturedEpisodes
from surefoot.methods.exact.r2pvi import R2PVIConfig, r2pvi

WIDTHS, EPISODES, HORIZON, ACTIONS, REPEATS = (10, 20, 40, 80, 160), (100, 400, 1600, 6400), 3, 4, 3
RADIUS = 0.1

ARMS = {
    "R2PVI, total variation": R2PVIConfig("tv"),
    "R2PVI, KL": R2PVIConfig("kl"),
    "R2PVI, chi-square": R2PVIConfig("chi2"),
    "PEVI": R2PVIConfig("none"),
    "DRPVI, exact": R2PVIConfig("tv", radius=RADIUS),
    "DRPVI, searched": R2PVIConfig("tv", radius=RADIUS, search=True),
}


def episodes(n: int, d: int, copies: tuple[int, ...] = (), seed: int = 0) -> FeaturedEpisodes:
    """Random features on the simplex."""
    rng = np.random.default_rng(seed)
    phi = rng.dirichlet(np.full(d, 0.3), (*copies, n, HORIZON))
    after = rng.dirichlet(np.full(d, 0.3), (*copies, n, HORIZON, ACTIONS))
    there = np.ones(phi.shape[:-1], bool)
    return FeaturedEpisodes(phi, rng.random(phi.shape[:-1]), after, there, there)


def milliseconds(log: FeaturedEpisodes) -> dict[str, float]:
    """CPU time of every arm on one log, the best of a few rounds, in turns."""
    best = dict.fromkeys(ARMS, np.inf)
    for i in range(REPEATS):
        for name, config in ARMS.items():
            if i == 0 or not config.search:
                best[name] = min(best[name], 1e3 * cpu_seconds(lambda config=config: r2pvi(log, config)))
    return best


def main(out: Path = RESULTS) -> None:
    """Write `r2pvi.json` (cost and exponents), `r2pvi_copies.json` (many data sets at once) and the log-log plot."""
    r2pvi(episodes(10, 4), R2PVIConfig())  # once before the clock runs
    wide, long = [milliseconds(episodes(400, d)) for d in WIDTHS], [milliseconds(episodes(n, 40)) for n in EPISODES]
    by_width, by_length = ({name: [times[name] for times in sizes] for name in ARMS} for sizes in (wide, long))
    fastest = by_width["R2PVI, total variation"]
    rows: list[dict[str, Any]] = []
    for name in ARMS:
        rows.append(
            {
                "method": name,
                **{f"ms, d = {d}": by_width[name][i] for i, d in enumerate(WIDTHS) if d in (10, 40, 160)},
                "exponent in d (theory: 2)": exponent(WIDTHS, by_width[name], 3),
                "exponent in episodes (theory: 1)": exponent(EPISODES, by_length[name], 3),
                "times total variation (d = 40)": by_width[name][2] / fastest[2],
            }
        )
    write("r2pvi", rows, out)
    many = episodes(100, 20, (200,))
    arrays = {k: v for k, v in vars(many).items() if isinstance(v, np.ndarray)}
    each = [FeaturedEpisodes(**{k: v[i] for k, v in arrays.items()}) for i in range(200)]
    together = apart = np.inf
    for _ in range(REPEATS):  # in turns
        together = min(together, cpu_seconds(lambda: r2pvi(many, R2PVIConfig("tv"))))
        apart = min(apart, cpu_seconds(lambda: [r2pvi(one, R2PVIConfig("tv")) for one in each]))
    row = {"data sets": 200, "one by one, ms": 1e3 * apart, "as one program, ms": 1e3 * together, "ratio": apart / together}
    write("r2pvi_copies", [row], out)
    draw(by_width, by_length, (IMAGES if out == RESULTS else out) / "r2pvi-scaling.png")


def draw(by_width: dict[str, list[float]], by_length: dict[str, list[float]], path: Path) -> None:
    """Milliseconds on logarithmic axes."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, constrained_layout=True)
    panels = ((axes[0], WIDTHS, by_width, "features d (400 episodes)"), (axes[1], EPISODES, by_length, "episodes (d = 40)"))
    for axis, x, lines, label in panels:
        for name, y in lines.items():
            axis.loglog(x, y, "--" if name.startswith("DRPVI") else "-", marker="o", markersize=4, label=name)
        axis.set(xlabel=label)
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("CPU milliseconds")
    axes[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path)
