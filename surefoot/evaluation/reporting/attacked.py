"""The card's chart of attacks under one norm at one budget: a row each, its interval drawn and written, the worst marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from surefoot.evaluation.reporting.blocks import RANGE, Figure
from surefoot.evaluation.reporting.dossier import Attacked, Dossier
from surefoot.evaluation.reporting.drawing import CARD, GRID, INK, MUTED, SIZE, WARN, axes, colour, svg
from surefoot.evaluation.reporting.findings import listed, plural, words
from surefoot.evaluation.reporting.robustness import size
from surefoot.evaluation.reporting.weighing import returns_at, telling_budget
from surefoot.evaluation.statistics import Interval

ROW = 0.235  # inches


@dataclass(frozen=True)
class Bar:
    """`interval` None: there is no number, and `note` says why."""

    label: str
    interval: Interval | None
    points: Sequence[float] = ()
    note: str = ""


def bars(rows: Sequence[Bar], *, arm: int, line: float | None, alt: str) -> Markup:
    """Rows from the top, the first being the return without attack, which a dashed line carries down; the worst is a diamond.

    `line`: the least accepted return, below which the ground is shaded.
    """
    figure, ax = axes(0.34 + ROW * (len(rows) + (line is not None)))
    places = np.arange(len(rows))[::-1]
    known = [row.interval.value for row in rows[1:] if row.interval is not None]
    for place, row in zip(places, rows, strict=True):
        worst = row is not rows[0] and row.interval is not None and row.interval.value == min(known)
        low = line is not None and row.interval is not None and row.interval.value < line
        shade = WARN if low else colour(arm)
        note = row.note
        if row.interval is not None:
            ax.plot(row.points, np.full(len(row.points), place), "o", ms=4, mfc="none", mec=shade, alpha=0.6, mew=0.9)
            ends = [row.interval.low, row.interval.high]
            if np.isfinite(ends).all():
                ax.plot(ends, [place, place], color=shade, lw=3.2, solid_capstyle="round", alpha=0.45)
            ax.plot([row.interval.value], [place], "D" if worst else "o", ms=6, color=shade, mec=CARD, mew=0.8)
            note = words(row.interval)
        side = ax.annotate(
            note,
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=shade if low else MUTED if row.interval is None else INK,
        )
        side.set(size=SIZE - 0.5, weight="bold" if worst else "normal")
    if rows[0].interval is not None:
        ax.axvline(rows[0].interval.value, color=MUTED, lw=1, dashes=(3, 3), zorder=0)
    _ground(ax, line, len(rows))
    ax.set_yticks(places, [row.label for row in rows])
    ax.tick_params(axis="y", labelcolor=INK)
    ax.set_ylim(-0.6, len(rows) - 0.4 + (0.75 if line is not None else 0.0))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.spines["bottom"].set_visible(False)
    return svg(figure, alt)


def _ground(ax: Axes, line: float | None, rows: int) -> None:
    """Shade what lies below the least accepted return, and name it."""
    ax.margins(x=0.06)
    ax.autoscale_view()
    low, high = ax.get_xlim()
    if line is None:
        return
    low, high = min(low, line - 0.06 * (high - low)), max(high, line + 0.06 * (high - low))
    ax.axvspan(low, line, color=WARN, alpha=0.1, lw=0, zorder=0)
    ax.axvline(line, color=WARN, lw=1, zorder=0)
    left = line > (low + high) / 2.0
    text = ax.annotate("least accepted", (line, rows - 0.2), (-4 if left else 4, 0), textcoords="offset points", color=WARN, size=SIZE - 1)
    text.set(horizontalalignment="right" if left else "left", verticalalignment="center")
    text.set_in_layout(False)
    ax.set_xlim(low, high)


def attacks_drawn(dossier: Dossier, attacks: Sequence[Attacked], line: float | None, most: int) -> Figure:
    """The clean return, and below it each attack at one budget, the lowest first."""
    budget = telling_budget(attacks, line)
    norm = attacks[0].norm
    title = "Attacked" if budget is None else f"Attacked: {budget:g} {size(norm)}"
    rows = [_bar(attack, budget) for attack in attacks]
    rows.sort(key=lambda row: row.interval.value if row.interval is not None else np.inf)
    hidden = [row.interval is None for row in rows[most:]]
    less = [f"{hidden.count(False)} that did less"] * (False in hidden) + [f"{hidden.count(True)} without a number here"] * (True in hidden)
    more = f" Not shown: {listed(less)}." if hidden else ""
    clean = dossier.clean.measured if dossier.clean else None
    first = Bar("no attack", clean.overall if clean else None, clean.values if clean and len(clean.members) > 1 else (), "not measured")
    drawn = [first, *rows[:most]]
    said = [f"{row.label} {words(row.interval) if row.interval is not None else row.note}" for row in drawn]
    drawing = bars(drawn, arm=dossier.arm.place, line=line, alt=f"{title}. Mean returns with 95 % intervals: {listed(said)}.")
    return Figure(title, drawing, f"Mean return {RANGE}, {_size_said(attacks, budget, line)}{more}")


def _bar(attack: Attacked, budget: float | None) -> Bar:
    measured = attack.at(budget) if budget is not None else None
    if measured is None:
        sizes = listed([f"{b:g}" for b in attack.budgets])
        return Bar(attack.kind, None, note=f"not played at this size, but at {sizes}" if sizes else "not played")
    if not measured.members:
        return Bar(attack.kind, None, note="failed: says nothing")
    return Bar(attack.kind, measured.overall, measured.values if len(measured.members) > 1 else ())


def _size_said(attacks: Sequence[Attacked], budget: float | None, line: float | None) -> str:
    sizes = sorted({b for attack in attacks for b in attack.budgets})
    counts = sorted({curve.episodes for attack in attacks for curve in attack.curves})
    over = f"{plural(counts[0], 'episode')} each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} episodes"
    if budget is None or len(sizes) < 2:
        return f"{over}."
    fallen = line is not None and any(measured.lowest[1].value < line for measured in returns_at(attacks, budget).values())
    why = "the smallest that brings it below what is accepted" if fallen else "the largest that most attacks share"
    return f"{over}. Sizes tried: {listed([f'{b:g}' for b in sizes])}; shown is {why}."
