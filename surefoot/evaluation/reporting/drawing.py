"""How the report draws: matplotlib's output as inline SVG that wears the page's own colours and font, and quiet frames for charts.

Colours are written as style variables of the page (`--arm-0`, `--muted`, …), so that one drawing is right in a light and in a
dark page; text stays text. An arm has the same colour and dash in every chart: `arm` is its place in the report.
"""

from __future__ import annotations

import re
from io import StringIO
from itertools import count
from warnings import catch_warnings, filterwarnings

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

COLOURS = 6
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.6), (7, 2, 1.5, 2), (4, 1.5), (9, 3))
"""A second sign beside colour, for those who see colours differently; in line widths."""
WIDTH = 4.25  # inches of 72 units: about the width of a phone, so that nothing has to shrink there
SIZE = 9.5  # of text, in the same units
INK, MUTED, GRID, CARD, WARN = "#010101", "#020202", "#030303", "#040404", "#060606"  # stand-ins, replaced by the page's variables
SHADE = (0.68, 0.42, 0.08)  # of pictures made of pixels, which cannot follow the page's variables: reads on light and on dark ground
_PAGE = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", CARD: "var(--card)", WARN: "var(--warn)"}
_PAGE |= {f"#0500{i:02x}": f"var(--arm-{i})" for i in range(COLOURS)}
_numbers = count()


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


TICKS = FuncFormatter(lambda value, _: number(round(value, 10)))


def axes(height: float) -> tuple[Figure, Axes]:
    """A figure of `height` inches with one quiet frame."""
    figure = Figure((WIDTH, max(height, 0.1)), layout="constrained")
    ax = figure.add_subplot()
    plain(ax)
    return figure, ax


def plain(ax: Axes) -> None:
    """A quiet frame: horizontal grid lines, a base line, nothing else."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color=GRID, lw=0.8)
    ax.tick_params(colors=MUTED, length=0, pad=4, labelsize=SIZE)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(TICKS)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(x=0.02, y=0.08)


def name_axes(ax: Axes, x: str, y: str) -> None:
    """Axis names: the vertical one lies above its axis, where it is read without turning the head."""
    ax.set_xlabel(x, color=MUTED, labelpad=5)
    if y:
        ax.set_title(y, loc="left", color=MUTED, size=SIZE, pad=7)


def reference(ax: Axes, value: float, text: str) -> None:
    ax.axhline(value, color=MUTED, lw=1, dashes=(3, 3), zorder=0)
    note = ax.annotate(text, (1, value), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED)
    note.set(horizontalalignment="right", size=SIZE - 1, zorder=5)
    note.set_bbox({"boxstyle": "square,pad=0.15", "facecolor": CARD, "edgecolor": "none", "alpha": 0.75})


def svg(figure: Figure, alt: str) -> Markup:
    """The drawing as an `<svg>` of the page: named ids, no metadata, no style of its own, colours and font of the page."""
    buffer = StringIO()
    with (
        catch_warnings(),
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "surefoot", "font.family": "DejaVu Sans", "font.size": SIZE}),
    ):
        filterwarnings("ignore", "Glyph .* missing")  # a letter that the font used for measuring lacks, but the page's may have
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
