"""The picture of a stress test: a curve over one parameter, a heat map over two, slices through the worst point for more.

The square marks the worst point, the ring the parameters of the environment as it is made (seen through the slice, if there are more).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from surefoot.files import replacing_file

Result = Mapping[str, Any]
"""What `Stress.to_json` gives, with the `policy`'s name."""


def draw(results: Sequence[Result], path: Path) -> None:
    """A row of panels for each member of each policy, on one scale of returns, as a PNG. Raises CheckpointError if it cannot be written."""
    rows = [(result, member) for result in results for member in result["members"]]
    k = len(results[0]["parameters"])
    pairs = list(combinations(range(k), 2)) or [(0, 0)]
    figure = Figure(figsize=(4.6 * len(pairs) + 0.6, 3.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(pairs), squeeze=False)
    played = np.concatenate([_finite(member["means"]) for _, member in rows])
    scale = Normalize(played.min(), max(played.max(), played.min() + 1e-9))
    for axes, (result, member) in zip(panels, rows, strict=True):
        name = result["policy"] + (f"@{member['member']}" if len(result["members"]) > 1 else "")
        for ax, pair in zip(axes, pairs, strict=True):
            if k == 1:
                _curve(ax, result, member)
            else:
                drawn = _map(ax, result, member, pair, scale)
        axes[0].set_title(f"{name}: worst {member['worst']['mean']:.4g}", loc="left", fontsize=10)
        if k > 1:
            figure.colorbar(drawn, ax=list(axes), label="mean return", shrink=0.9)
    with replacing_file(path) as new:
        figure.savefig(new, format="png", dpi=130)


def _finite(values: Sequence[float | None]) -> np.ndarray:
    return np.array([x for x in values if x is not None], np.float64)


def _label(parameter: Mapping[str, Any]) -> str:
    return parameter["name"] + (f" ({parameter['unit']})" if parameter["unit"] else "")


def _curve(ax: Axes, result: Result, member: Mapping[str, Any]) -> None:
    """Mean return with its interval over one parameter."""
    (parameter,) = result["parameters"]
    x, y, low, high = (np.array(a, np.float64) for a in (np.ravel(result["points"]), member["means"], member["low"], member["high"]))
    ax.fill_between(x, np.where(np.isfinite(low), low, y), np.where(np.isfinite(high), high, y), alpha=0.2, lw=0)
    ax.plot(x, y, marker="o", ms=3)
    ax.plot(member["worst"]["point"][parameter["name"]], member["worst"]["mean"], "s", mfc="none", mec="crimson", ms=9)
    ax.plot(parameter["nominal"], member["nominal"]["mean"], "o", mfc="none", mec="black", ms=9)
    ax.set(xlabel=_label(parameter), ylabel="mean return")


def _map(ax: Axes, result: Result, member: Mapping[str, Any], pair: tuple[int, int], scale: Normalize) -> Any:
    """Two of the parameters: of a grid the cells whose other parameters are the worst ones, of a search all its points."""
    parameters, points = result["parameters"], np.array(result["points"], np.float64)
    means = np.array([np.nan if x is None else x for x in member["means"]], np.float64)
    i, j = pair
    worst = np.array([member["worst"]["point"][p["name"]] for p in parameters])
    others = [k for k in range(len(parameters)) if k not in pair]
    if result["search"] == "grid":
        across, up = (np.array(parameters[k]["values"]) for k in pair)
        own = np.isclose(points[:, others], worst[others]).all(-1)
        drawn: Any = ax.pcolormesh(across, up, means[own].reshape(len(across), len(up)).T, norm=scale, shading="nearest")
    else:
        drawn = ax.scatter(points[:, i], points[:, j], c=means, norm=scale, s=12)
    ax.plot(worst[i], worst[j], "s", mfc="none", mec="crimson", mew=2, ms=11)
    made = parameters[i]["nominal"], parameters[j]["nominal"]
    box = all(p["low"] <= x <= p["high"] for p, x in zip((parameters[i], parameters[j]), made, strict=True))
    if box:
        ax.plot(*made, "o", mfc="none", mec="white", mew=2, ms=8)
    ax.set(xlabel=_label(parameters[i]), ylabel=_label(parameters[j]))
    if others and result["search"] == "grid":
        fixed = ", ".join(f"{parameters[k]['name']} {worst[k]:.3g}" for k in others)
        ax.set_title(f"at {fixed}", loc="right", fontsize=8)
    return drawn
