"""The card's picture of returns over a set of physics: a line, a map, slices of a box at its worst, or points that were searched.

The stronger the colour, the lower the return. A square marks the worst point, a ring the nominal physics.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from surefoot.evaluation.reporting.arms import shortened
from surefoot.evaluation.reporting.blocks import Figure
from surefoot.evaluation.reporting.commands import lacking
from surefoot.evaluation.reporting.dossier import Dossier
from surefoot.evaluation.reporting.drawing import CARD, INK, MUTED, SHADE, SIZE, WARN, WIDTH, axes, colour, name_axes, number, plain, svg
from surefoot.evaluation.reporting.evidence import Parameter, Stress
from surefoot.evaluation.reporting.findings import listed, plural, words

DEEPEST = 0.62  # opacity of the lowest return: numbers stay readable on it
WRITTEN = 7  # cells in a row, at most, in which numbers are written
TICKED = 6  # values named on an axis, at most
CELLS = 20  # in a row, at most, that are drawn one by one
POINTS = 400  # of a search, at most
PANELS = 3


def physics_drawn(dossier: Dossier, line: float | None) -> Figure:
    """The member that does worst, with what its picture shows in words; `line` is the least accepted return."""
    found = dossier.stress
    if found is None:
        return lacking(dossier, "Other physics", "stress")
    nominal = f"; nominal (ring) {words(found.nominal)}" if found.nominal else ""
    members = len(dossier.of(Stress))
    who = f" Shown: seed {(found.place.whom.member or 0) + 1}, the lowest of {members}." if members > 1 else ""
    part = line is not None and found.means.min() < line < found.means.max()
    below = " Shaded: below what is accepted." if part else ""
    shades = " The stronger the colour, the lower." if _mapped(found) else below
    how = f"{plural(len(found.points), 'point')} of a {'grid' if found.grid else 'search'}, {plural(found.place.episodes, 'episode')} each."
    caption = f"Worst (square) {words(found.worst)} at {found.at}{nominal}.{shades} {how}{who}"
    over = listed([parameter.name.replace("_", " ") for parameter in found.parameters])
    drawing = physics(found, arm=dossier.arm.place, line=line, alt=f"Mean return over {over}. {caption}")
    return Figure("Other physics", drawing, caption)


def physics(stress: Stress, *, arm: int, line: float | None, alt: str) -> Markup:
    """The picture that fits the number of parameters."""
    if _mapped(stress):
        return _maps(stress, alt)
    return _line(stress, arm, line, alt) if len(stress.parameters) == 1 else _profiles(stress, arm, line, alt)


def _mapped(stress: Stress) -> bool:
    return stress.grid and len(stress.parameters) in (2, 3) and all(len(p.values) > 1 for p in stress.parameters)


def named(parameter: Parameter) -> str:
    return shortened(parameter.name.replace("_", " "), 20) + (f" ({parameter.unit})" if parameter.unit else "")


# --- one parameter --------------------------------------------------------------------------------------------------


def _line(stress: Stress, arm: int, line: float | None, alt: str) -> Markup:
    figure, ax = axes(1.75)
    order = np.argsort(stress.points[:, 0], kind="stable")
    x, y = stress.points[order, 0], stress.means[order]
    low, high = stress.low[order], stress.high[order]
    known = np.isfinite(low) & np.isfinite(high)
    if stress.grid:
        ax.fill_between(x, np.where(known, low, y), np.where(known, high, y), color=colour(arm), alpha=0.17, lw=0)
        ax.plot(x, y, color=colour(arm), lw=1.8, marker="o" if len(x) < 15 else None, ms=3.5, solid_capstyle="round")
    else:
        ax.plot(x, y, "o", color=colour(arm), ms=4, alpha=0.7)
    _marks(ax, stress, 0)
    _accepted(ax, line)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    name_axes(ax, named(stress.parameters[0]), "mean return")
    return svg(figure, alt)


def _marks(ax: Axes, stress: Stress, column: int) -> None:
    """The worst point as a square, the nominal value as a dashed line with the return there as a ring."""
    ax.plot([stress.worst_at[column]], [stress.worst.value], "s", ms=7, color=WARN, mec=CARD, mew=0.8, zorder=4)
    nominal = stress.parameters[column].nominal
    if nominal is None:
        return
    ax.axvline(nominal, color=MUTED, lw=1, dashes=(3, 3), zorder=0)
    if stress.nominal is not None:
        ax.plot([nominal], [stress.nominal.value], "o", ms=7, mfc=CARD, mec=INK, mew=1.3, zorder=3)


def _accepted(ax: Axes, line: float | None) -> None:
    low, high = ax.get_ylim()
    if line is not None and low < line < high:
        ax.axhspan(low, line, color=WARN, alpha=0.1, lw=0, zorder=0)
        ax.axhline(line, color=WARN, lw=1, zorder=0)
    ax.set_ylim(low, high)


# --- two or three parameters on a grid ------------------------------------------------------------------------------


def _maps(stress: Stress, alt: str) -> Markup:
    """One map of two parameters; of three, each pair's slice through the worst point."""
    pairs = list(combinations(range(len(stress.parameters)), 2))
    figure, _ = axes(1.95 if len(pairs) == 1 else 1.75)
    figure.clear()
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for ax, (i, j) in zip(panels, pairs, strict=True):
        others = [k for k in range(len(stress.parameters)) if k not in (i, j)]
        own = np.isclose(stress.points[:, others], stress.worst_at[others]).all(-1)
        _map(ax, stress, own, i, j, small=len(pairs) > 1)
        fixed = [f"{shortened(stress.parameters[k].name.replace('_', ' '), 12)} {number(float(stress.worst_at[k]))}" for k in others]
        size = SIZE - 1.5 if others else SIZE
        name_axes(ax, named(stress.parameters[i]), "")
        ax.xaxis.label.set_size(size)
        ax.tick_params(labelsize=size)
        ax.set_title("\n".join([*(f"at {x}" for x in fixed), named(stress.parameters[j])]), loc="left", color=MUTED, size=size, pad=5)
    return svg(figure, alt)


def _map(ax: Axes, stress: Stress, own: np.ndarray, i: int, j: int, *, small: bool) -> None:
    plain(ax)
    across, up = stress.parameters[i].values, stress.parameters[j].values
    top, bottom = float(stress.means.max()), float(stress.means.min())
    side = max(len(across), len(up))
    apart = side <= CELLS and not small  # else a picture of pixels: many small cells would show their seams
    pixels = np.zeros((len(up), len(across), 4))
    for point, mean in zip(stress.points[own], stress.means[own], strict=True):
        x, y = _nearest(across, point[i]), _nearest(up, point[j])
        depth = 0.04 + (DEEPEST - 0.04) * ((top - mean) / (top - bottom) if top > bottom else 0.0)
        pixels[y, x] = (*SHADE, depth)
        if apart:
            ax.add_patch(Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, facecolor=WARN, alpha=float(depth), lw=0))
        if side <= WRITTEN and not small:
            ax.text(x, y, number(float(f"{mean:.3g}")), ha="center", va="center", color=INK, size=SIZE - 1)
    if not apart:
        ax.imshow(pixels, interpolation="nearest", aspect="auto", origin="lower")
    worst = _nearest(across, stress.worst_at[i]), _nearest(up, stress.worst_at[j])
    ax.add_patch(Rectangle((worst[0] - 0.5, worst[1] - 0.5), 1, 1, fill=False, edgecolor=INK, lw=1.8, zorder=3))
    nominal = stress.parameters[i].nominal, stress.parameters[j].nominal
    if nominal[0] is not None and nominal[1] is not None:
        at = np.interp(nominal[0], across, np.arange(len(across))), np.interp(nominal[1], up, np.arange(len(up)))
        aside = (0.34, 0.29) if side <= WRITTEN and not small else (0.0, 0.0)  # of the number in the cell
        ax.plot([at[0] + aside[0]], [at[1] + aside[1]], "o", ms=5, mfc=CARD, mec=INK, mew=1.3, zorder=4)
    ax.set(xlim=(-0.5, len(across) - 0.5), ylim=(-0.5, len(up) - 0.5))
    for axis, values, most in ((ax.xaxis, across, 3 if small else TICKED + 1), (ax.yaxis, up, 3 if small else TICKED)):
        shown = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))
        axis.set_ticks(shown, [number(float(f"{values[k]:.3g}")) for k in shown])
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)


def _nearest(values: tuple[float, ...], x: float) -> int:
    return int(np.abs(np.asarray(values) - x).argmin())


# --- points that were searched, or more parameters than a map has ---------------------------------------------------


def _profiles(stress: Stress, arm: int, line: float | None, alt: str) -> Markup:
    """Return over each of the parameters that it follows most, the same points in each panel."""
    follows = [abs(_correlation(stress.points[:, k], stress.means)) for k in range(len(stress.parameters))]
    shown = sorted(np.argsort(follows, kind="stable")[::-1][:PANELS].tolist())
    figure, _ = axes(1.75)
    figure.clear()
    figure.set_size_inches(WIDTH, 1.75)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    own = np.unique(np.linspace(0, len(stress.means) - 1, min(POINTS, len(stress.means))).round().astype(int))
    for ax, k in zip(panels, shown, strict=True):
        plain(ax)
        ax.plot(stress.points[own, k], stress.means[own], "o", color=colour(arm), ms=3, alpha=0.45, mew=0)
        _marks(ax, stress, k)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(x=0.08)
        name_axes(ax, named(stress.parameters[k]), "mean return" if ax is panels[0] else "")
        ax.xaxis.label.set_size(SIZE - 1.0)
    for ax in panels:
        _accepted(ax, line)
    return svg(figure, alt)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of ranks; 0 where one of both does not vary."""
    a, b = (np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(float) for v in (x, y))
    return float(np.corrcoef(a, b)[0, 1]) if len(x) > 1 and np.ptp(x) > 0.0 and np.ptp(y) > 0.0 else 0.0
