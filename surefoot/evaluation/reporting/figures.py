"""The report's charts: drawn by matplotlib and handed over as inline SVG that wears the page's own colours and font.

Colours are written as style variables of the page (`--arm-0`, `--muted`, …), so that one drawing is right in a light and in a
dark page; text stays text. An arm has the same colour and dash in every chart: `arm` is its place in the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import count

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from surefoot.evaluation.statistics import Interval

COLOURS = 6
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.6), (7, 2, 1.5, 2), (4, 1.5), (9, 3))
"""A second sign beside colour, for those who see colours differently; in line widths."""
WIDTH = 4.25  # inches of 72 units: about the width of a phone, so that nothing has to shrink there
SIZE = 9.5  # of text, in the same units
INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#040404"  # stand-ins, replaced by the page's variables
_PAGE = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", CARD: "var(--card)"}
_PAGE |= {f"#0500{i:02x}": f"var(--arm-{i})" for i in range(COLOURS)}
_numbers = count()


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


def colour(arm: int | None) -> str:
    """The stand-in for an arm's colour."""
    return INK if arm is None else f"#0500{arm % COLOURS:02x}"


def number(x: float) -> str:
    """Four significant digits, thousands apart, a real minus sign; no exponent for what returns usually are."""
    if not np.isfinite(x):
        return "∞" if x > 0 else "−∞" if x < 0 else "?"
    size = abs(x)
    text = f"{x:.4g}" if 1e-3 <= size < 1e4 or x == 0 else f"{x:,.0f}" if 1e4 <= size < 1e9 else f"{x:.2e}"
    return text.replace("-", "−")


_TICKS = FuncFormatter(lambda value, _: number(round(value, 10)))


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
    figure, ax = _axes(2.65)
    ends = np.concatenate([end[np.isfinite(end)] for c in drawn for end in (c.middle, c.low, c.high) if end is not None])
    logarithmic = not references and ends.min() > 0.0 and ends.max() > 100.0 * ends.min()
    for c in drawn:
        few = "o" if np.isfinite(c.middle).sum() < 2 else None  # a line of one point would be invisible
        ax.plot(c.x, c.middle, color=colour(c.arm), lw=1.8, dashes=DASHES[c.arm % len(DASHES)], marker=few, solid_capstyle="round")
        if c.low is not None and c.high is not None:
            ax.fill_between(c.x, c.low, c.high, color=colour(c.arm), alpha=0.17, lw=0)
    for value, text in references:
        _reference(ax, value, text)
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=5))
        ax.yaxis.set_major_formatter(_TICKS)
        ax.yaxis.set_minor_locator(NullLocator())
        y += ", log scale"
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    _label(ax, x, y)
    return _svg(figure, alt)


def intervals(rows: Sequence[Row], *, x: str, alt: str, references: Sequence[tuple[float, str]] = ()) -> Markup:
    """One row an estimate, from the top: its label, the values behind it as rings, the interval as a bar, the estimate as a dot."""
    head = 0.28 * len(references)
    figure, ax = _axes(0.62 + head + 0.5 * len(rows))
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
    _label(ax, x, "")
    return _svg(figure, alt)


def robustness(drawn: Sequence[Budgets], *, x: str, y: str, alt: str) -> Markup:
    """Certified lower bounds as lines over shaded ground, attacked returns as points."""
    figure, ax = _axes(2.9)
    for d in drawn:
        budgets, values = np.asarray(d.budgets, float), np.asarray(d.values, float)
        if d.bound:
            ax.plot(budgets, values, color=colour(d.arm), lw=2, solid_capstyle="round")
            ax.fill_between(budgets, values, min(0.0, values.min()), color=colour(d.arm), alpha=0.13, lw=0)
            continue
        if len(d.low) == len(values):
            ax.vlines(budgets, d.low, d.high, color=colour(d.arm), lw=2, alpha=0.45)
        marker, face = ("s", CARD) if d.hollow else ("o", colour(d.arm))
        ax.plot(budgets, values, color=colour(d.arm), lw=1, dashes=(2, 2), marker=marker, ms=5.5, mfc=face, mec=colour(d.arm))
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.0) if low < 0.1 * high else low, high)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    _label(ax, x, y)
    return _svg(figure, alt)


def trace(columns: Sequence[tuple[str, np.ndarray]], *, arm: int, x: str, alt: str) -> Markup:
    """Each quantity over the steps of one episode, one strip below the other."""
    figure, _ = _axes(0)
    figure.clear()
    figure.set_size_inches(WIDTH, 0.5 + 0.48 * len(columns))
    strips = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (label, values) in zip(strips, columns, strict=True):
        _plain(ax)
        ax.plot(np.arange(len(values)), values, color=colour(arm), lw=1.2)
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.axhline(np.mean(values), color=GRID, lw=0.8, zorder=0)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", color=INK)
        ax.spines["bottom"].set_visible(ax is strips[-1])
        ax.tick_params(labelbottom=ax is strips[-1])
    _label(strips[-1], x, "")
    return _svg(figure, alt)


# --- what they share ------------------------------------------------------------------------------------------------


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure((WIDTH, max(height, 0.1)), layout="constrained")
    ax = figure.add_subplot()
    _plain(ax)
    return figure, ax


def _plain(ax: Axes) -> None:
    """A quiet frame: horizontal grid lines, a base line, nothing else."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color=GRID, lw=0.8)
    ax.tick_params(colors=MUTED, length=0, pad=4, labelsize=SIZE)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(_TICKS)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(x=0.02, y=0.08)


def _label(ax: Axes, x: str, y: str) -> None:
    """Axis names: the vertical one lies above its axis, where it is read without turning the head."""
    ax.set_xlabel(x, color=MUTED, labelpad=5)
    if y:
        ax.set_title(y, loc="left", color=MUTED, size=SIZE, pad=7)


def _reference(ax: Axes, value: float, text: str) -> None:
    ax.axhline(value, color=MUTED, lw=1, dashes=(3, 3), zorder=0)
    note = ax.annotate(text, (1, value), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED)
    note.set(horizontalalignment="right", size=SIZE - 1, zorder=5)
    note.set_bbox({"boxstyle": "square,pad=0.15", "facecolor": CARD, "edgecolor": "none", "alpha": 0.75})


def _svg(figure: Figure, alt: str) -> Markup:
    """The drawing as an `<svg>` of the page: named ids, no metadata, no style of its own, colours and font of the page."""
    buffer = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "surefoot", "font.family": "DejaVu Sans", "font.size": SIZE}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>|<!--.*?-->", "", body, flags=re.S)
    prefix = f"c{next(_numbers)}-"
    body = re.sub(r' id="[^"]*_\d+"', "", body)  # names of artists that nothing refers to
    body = re.sub(r'( id="|xlink:href="#|url\(#)', lambda m: m[1].replace("xlink:", "") + prefix, body)
    body = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'(?:, [^;\"]*)?", r"\1var(--font)", body)
    body = re.sub("|".join(_PAGE), lambda m: _PAGE[m[0]], body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    return Markup(f'<svg class="chart" viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(alt)}">{body}</svg>')
