"""What a value function from paths costs, against paths, steps and features; beside numpy's least squares; and the error against dt.

Linear estimators are timed with the same ready-made features (evaluating features is the reader's own code), and include their
standard errors. `ctd0 network` is one update's gradient of a 32-32 network on a batch, a sixteenth of the paths. numpy's side is
least-squares Monte Carlo as one would write it: returns by a cumulative sum, and `numpy.linalg.lstsq`. Sides take turns; the least
CPU time of a few counts.

`martingale.json` has the cost and its growth, `martingale_error.json` the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, exponent, save_figure, write
from surefoot.data.paths import PathBatch
from surefoot.envs.diffusions import decaying_square
from surefoot.methods.exact.continuous_lstd import ESTIMATORS, fit_linear
from surefoot.methods.exact.martingale_diagnostics import relative_error
from surefoot.methods.exact.martingale_evaluation import MartingaleConfig, loss_of
from surefoot.methods.exact.value_functions import ValueNetwork

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

REPEATS = 5
SIZES = {"paths": (125, 250, 500, 1000, 2000, 4000), "steps": (25, 50, 100, 200, 400, 800), "features": (4, 8, 16, 32, 64, 128)}
AT = {"paths": 250, "steps": 100, "features": 8}  # what is held while another grows
THEORY = {"paths": "1", "steps": "1", "features": "2 at most"}
MESHES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
SHARE = 16  # a network learns from batches: of the paths that the others take at once it takes a sixteenth
NUMPY, NETWORK = "numpy.linalg.lstsq", "ctd0 network, a sixteenth of the paths"


# --- cost -----------------------------------------------------------------------------------------------------------


def sides_at(paths: int, steps: int, features: int) -> dict[str, Callable[[], Any]]:
    """What is timed, on one set of paths."""
    rng = np.random.default_rng(0)
    batch = decaying_square().batch(paths, 1.0 / steps, rng)
    # random waves of state and time, which vanish at the end
    across, along, phase = rng.normal(0.0, 20.0, features), rng.normal(0.0, 20.0, features), rng.uniform(0.0, 6.3, features)
    waves = batch.x * across + batch.to_go[..., None] * along + phase
    ready = replace(batch, x=batch.to_go[..., None] * np.cos(waves))  # the features are the state: to evaluate them is to look
    net, config = ValueNetwork(1, generator=torch.Generator().manual_seed(0)), MartingaleConfig("ctd0")
    sides: dict[str, Callable[[], Any]] = {name: partial(fit_linear, ready, lambda x, tau: x, name) for name in ESTIMATORS}
    some = decaying_square().batch(max(1, paths // SHARE), 1.0 / steps, rng)
    sides[NETWORK] = lambda: torch.autograd.grad(loss_of(net, some, config), list(net.parameters()))
    sides[NUMPY] = lambda: numpys(ready)
    return sides


def numpys(batch: PathBatch) -> np.ndarray:
    """Least-squares Monte Carlo on a regular mesh, by numpy's least squares."""
    g = np.cumsum((batch.reward * batch.dt)[:, ::-1], 1)[:, ::-1]
    return np.linalg.lstsq(batch.x[:, :-1].reshape(-1, batch.x.shape[-1]), g.reshape(-1), rcond=None)[0]


def best_times(sides: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    best = dict.fromkeys(sides, np.inf)
    for repeat in range(REPEATS + 1):
        for name, work in sides.items():
            seconds = cpu_seconds(work)
            if repeat > 0:  # the first warms up
                best[name] = min(best[name], seconds)
    return best


def growth() -> dict[str, dict[str, list[float]]]:
    """Seconds of every side at every size, by what grows."""
    found: dict[str, dict[str, list[float]]] = {}
    for axis, sizes in SIZES.items():
        line: dict[str, list[float]] = {}
        for size in sizes:
            for name, seconds in best_times(sides_at(**(AT | {axis: size}))).items():
                line.setdefault(name, []).append(seconds)
        found[axis] = line
    return found


def cost_rows(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Each estimator's time on the most paths, its ratio to numpy's, and its exponents."""
    rows = []
    for name in found["paths"]:
        row: dict[str, Any] = {
            "estimator": name,
            "ms": 1e3 * found["paths"][name][-1],
            "times numpy's": found["paths"][name][-1] / found["paths"][NUMPY][-1],
            "times numpy's, 128 features": found["features"][name][-1] / found["features"][NUMPY][-1],
        }
        if name == NETWORK:  # has no features, and is one update of many
            row |= {"times numpy's": "", "times numpy's, 128 features": ""}
        for axis, sizes in SIZES.items():
            no_features = name == NETWORK and axis == "features"
            row[f"exponent in {axis} (theory {THEORY[axis]})"] = "" if no_features else exponent(sizes, found[axis][name])
        rows.append(row)
    return rows


# --- error ----------------------------------------------------------------------------------------------------------


def features(x: np.ndarray, tau: np.ndarray) -> list[np.ndarray]:
    square = x[..., 0] ** 2
    return [square * tau, tau, tau**2, square * tau**2]


def errors() -> dict[str, list[float]]:
    """Relative L2 error of each linear estimator on every mesh: the mean of 8 seeds, 2,000 paths each, judged on others."""
    problem = decaying_square()
    found: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for dt in MESHES:
        rngs = [np.random.default_rng(seed) for seed in range(8)]
        batch, fresh = problem.batch(2000, dt, rngs), problem.batch(1000, dt, np.random.default_rng(99))
        for name in ESTIMATORS:
            found[name].append(float(relative_error(fit_linear(batch, features, name), problem.value, fresh).mean()))
    return found


# --- the picture ----------------------------------------------------------------------------------------------------

LOOK = {
    "clstd0": ("#1b6ca8", "o", "CLSTD(0)"),
    "clstd": ("#3aa17e", "s", "CLSTD(0.5)"),
    "lsmc": ("#7b5ea7", "^", "least-squares Monte Carlo"),
    "mstde": ("#c0392b", "v", "mean-square TD error"),
    NETWORK: ("#d1902a", "D", "CTD(0), one network update, paths/16"),
    NUMPY: ("0.45", "x", "numpy.linalg.lstsq"),
}


def plot(found: Mapping[str, Mapping[str, Sequence[float]]], wrong: Mapping[str, Sequence[float]], path: Path) -> None:
    """Milliseconds against paths, steps and features with the theory's slope, and the error against the step."""
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 7.4))
    for panel, (axis, sizes) in zip(axes.flat, SIZES.items(), strict=False):
        for name, (colour, marker, label) in LOOK.items():
            if name != NETWORK or axis != "features":
                panel.loglog(sizes, 1e3 * np.array(found[axis][name]), marker + "-", color=colour, label=label, ms=5, lw=1.3)
        slope, last = (2 if axis == "features" else 1), 1e3 * found[axis]["clstd0"][-1]
        half = np.array(sizes[len(sizes) // 2 - 1 :])
        panel.loglog(half, 0.45 * last * (half / half[-1]) ** slope, "k--", lw=1, label=f"theory: slope {slope}")
        held = ", ".join(f"{AT[other]} {other}" for other in SIZES if other != axis)
        panel.set_title(f"cost against {axis} ({held})", fontsize=10)
        panel.set_xlabel(axis)
        panel.set_ylabel("milliseconds")
    last_panel = axes[1, 1]
    for name in ESTIMATORS:
        colour, marker, label = LOOK[name]
        last_panel.loglog(MESHES, wrong[name], marker + "-", color=colour, label=label, ms=5, lw=1.3)
    last_panel.invert_xaxis()
    last_panel.set_title("error against the step: smaller steps to the right", fontsize=10)
    last_panel.set_xlabel("dt")
    last_panel.set_ylabel("relative L2 error")
    for panel, ticks in zip(axes.flat, (*SIZES.values(), MESHES), strict=True):
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3, lw=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more, named = axes[1, 0].get_legend_handles_labels()
    figure.legend([*handles, more[-1]], [*labels, named[-1]], loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0.0, 0.07, 1.0, 1.0))
    save_figure(figure, path)


def main(out: Path = RESULTS) -> None:
    """Write `martingale.json`, `martingale_error.json` and the picture (with the docs, or beside results that go elsewhere)."""
    found, wrong = growth(), errors()
    write("martingale", cost_rows(found), out, note=f", NumPy {np.__version__}")
    write("martingale_error", [{"dt": dt} | {name: wrong[name][i] for name in ESTIMATORS} for i, dt in enumerate(MESHES)], out)
    plot(found, wrong, (IMAGES if out == RESULTS else out) / "martingale-scaling.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
