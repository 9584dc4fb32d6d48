"""The report's charts of returns: over training, over the attack budget, as dots with intervals, over an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from surefoot.evaluation.reporting.drawing import (
    CARD,
    COLOURS,
    DASHES,
    GRID,
    INK,
    MUTED,
    SIZE,
    TICKS,
    WIDTH,
    axes,
    colour,
    name_axes,
    plain,
    reference,
    svg,
)
from surefoot.evaluation.statistics import Interval


@dataclass(frozen=True)
class Curve:
    """One arm's line over `x` `[T]`, with a band from `low` to `high` where there is one."""

    arm: int
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """One estimate with its interval and the values behind it; `arm` None is drawn in the page's ink."""

    label: str
    interval: Interval
    points: Sequence[float] = ()
    arm: int | None = None


@dataclass(frozen=True)
class Budgets:
    """Return over the attack budget: a line (a certified bound), or points with intervals (attacks that were really made)."""

    arm: int
    budgets: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    bound: bool = False
    hollow: bool = False
    steps: bool = False  # a bound that is not known between two budgets: there it is that of the larger one


def swatch(arm: int) -> Markup:
    """A piece of an arm's line, for legends."""
    dash = " ".join(f"{2 * d:g}" for d in DASHES[arm % len(DASHES)])
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true"><path d="M1 4H29" fill="none" stroke="var(--arm-{})" '
        'stroke-width="2.5" stroke-dasharray="{}"/></svg>'
    ).format(arm % COLOURS, dash)


def mark(drawn: Budgets) -> Markup:
    """The sign of one curve of `robustness`, for its legend."""
    dashes = '<path d="M1 4H29" stroke="var({0})" stroke-dasharray="3 3"/>'
    if drawn.bound:
        shape = '<path d="M1 1H29V8H1Z" fill="var({0})" opacity=".2"/><path d="M1 1.2H29" stroke="var({0})" stroke-width="2.4"/>'
    elif drawn.hollow:
        shape = dashes + '<path d="M11 .8h7v6.4h-7z" fill="var(--card)" stroke="var({0})" stroke-width="1.6"/>'
    else:
        shape = dashes + '<circle cx="15" cy="4" r="3.6" fill="var({0})"/>'
    drawing = Markup(shape).format(f"--arm-{drawn.arm % COLOURS}")
    return Markup('<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">{}</svg>').format(drawing)


# --- charts ---------------------------------------------------------------------------------------------------------


def curves(drawn: Sequence[Curve], *, x: str, y: str, alt: str, references: Sequence[tuple[float, str]] = ()) -> Markup:
    """Lines with bands over `x`; a logarithmic axis where positive values span more than two orders of magnitude."""
    figure, ax = axes(2.65)
    ends = np.concatenate([end[np.isfinite(end)] for c in drawn for end in (c.middle, c.low, c.high) if end is not None])
    logarithmic = not references and ends.min() > 0.0 and ends.max() > 100.0 * ends.min()
    for c in drawn:
        few = "o" if np.isfinite(c.middle).sum() < 2 else None  # a line of one point would be invisible
        ax.plot(c.x, c.middle, color=colour(c.arm), lw=1.8, dashes=DASHES[c.arm % len(DASHES)], marker=few, solid_capstyle="round")
        if c.low is not None and c.high is not None:
            ax.fill_between(c.x, c.low, c.high, color=colour(c.arm), alpha=0.17, lw=0)
    for value, text in references:
        reference(ax, value, text)
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=5))
        ax.yaxis.set_major_formatter(TICKS)
        ax.yaxis.set_minor_locator(NullLocator())
        y += ", log scale"
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(ax, x, y)
    return svg(figure, alt)


def intervals(rows: Sequence[Row], *, x: str, alt: str, references: Sequence[tuple[float, str]] = ()) -> Markup:
    """One row an estimate, from the top: its label, the values behind it as rings, the interval as a bar, the estimate as a dot."""
    head = 0.28 * len(references)
    figure, ax = axes(0.62 + head + 0.5 * len(rows))
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        low, high = row.interval.low, row.interval.high
        ax.plot(row.points, np.full(len(row.points), place), "o", ms=5, mfc="none", mec=colour(row.arm), alpha=0.6, mew=1)
        if np.isfinite(low) and np.isfinite(high):
            ax.plot([low, high], [place, place], color=colour(row.arm), lw=3.5, solid_capstyle="round", alpha=0.45)
        ax.plot([row.interval.value], [place], "o", ms=7, color=colour(row.arm), mec=CARD, mew=1)
        name = ax.annotate(row.label, (0, place), (0, 7), xycoords=("axes fraction", "data"), textcoords="offset points", color=INK)
        name.set_in_layout(False)  # a long one may reach over the frame, but not squeeze it
        name.set_bbox({"boxstyle": "square,pad=0.1", "facecolor": CARD, "edgecolor": "none"})  # no line runs through the name
    ax.margins(x=0.05)
    for i, (value, text) in enumerate(references):
        ax.axvline(value, color=MUTED, lw=1, dashes=(3, 3), zorder=0)
        height = len(rows) - 0.2 + 0.56 * (len(references) - 1 - i)
        left = value < sum(ax.get_xlim()) / 2.0
        note = ax.annotate(text, (value, height), (4 if left else -4, 0), textcoords="offset points", color=MUTED, size=SIZE - 1)
        note.set_horizontalalignment("left" if left else "right")
    ax.set_ylim(-0.5, len(rows) - 0.5 + 0.35 + 0.56 * len(references))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.set_yticks([])
    ax.spines["bottom"].set_visible(False)
    name_axes(ax, x, "")
    return svg(figure, alt)


def robustness(drawn: Sequence[Budgets], *, x: str, y: str, alt: str, height: float = 2.9) -> Markup:
    """Certified lower bounds as lines over shaded ground, attacked returns as points."""
    figure, ax = axes(height)
    for d in drawn:
        budgets, values = np.asarray(d.budgets, float), np.asarray(d.values, float)
        if d.bound:
            style = "steps-pre" if d.steps else "default"
            ax.plot(budgets, values, color=colour(d.arm), lw=2, solid_capstyle="round", drawstyle=style)
            step: Literal["pre"] | None = "pre" if d.steps else None
            ax.fill_between(budgets, values, min(0.0, values.min()), color=colour(d.arm), alpha=0.13, lw=0, step=step)
            continue
        if len(d.low) == len(values):
            ax.vlines(budgets, d.low, d.high, color=colour(d.arm), lw=2, alpha=0.45)
        marker, face = ("s", CARD) if d.hollow else ("o", colour(d.arm))
        ax.plot(budgets, values, color=colour(d.arm), lw=1, dashes=(2, 2), marker=marker, ms=5.5, mfc=face, mec=colour(d.arm))
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.0) if low < 0.1 * high else low, high)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(ax, x, y)
    return svg(figure, alt)


def trace(columns: Sequence[tuple[str, np.ndarray]], *, arm: int, x: str, alt: str) -> Markup:
    """Each quantity over the steps of one episode, one strip below the other."""
    figure, _ = axes(0)
    figure.clear()
    figure.set_size_inches(WIDTH, 0.5 + 0.48 * len(columns))
    strips = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (label, values) in zip(strips, columns, strict=True):
        plain(ax)
        ax.plot(np.arange(len(values)), values, color=colour(arm), lw=1.2)
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.axhline(np.mean(values), color=GRID, lw=0.8, zorder=0)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", color=INK)
        ax.spines["bottom"].set_visible(ax is strips[-1])
        ax.tick_params(labelbottom=ax is strips[-1])
    name_axes(strips[-1], x, "")
    return svg(figure, alt)
