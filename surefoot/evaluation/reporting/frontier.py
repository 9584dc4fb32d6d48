"""The report's chart of reward over KL divergence: models as dots with intervals, trainings as paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from surefoot.evaluation.reporting.drawing import CARD, COLOURS, DASHES, GRID, axes, colour, name_axes, svg
from surefoot.evaluation.statistics import Interval


@dataclass(frozen=True)
class Point:
    """One model; `arm` is the place whose colour it has."""

    arm: int
    kl: Interval
    reward: Interval


@dataclass(frozen=True, eq=False)
class Path:
    """One training, `[T]` each."""

    arm: int
    kl: np.ndarray
    reward: np.ndarray


def dot(arm: int) -> Markup:
    """The sign of a model, for legends."""
    sign = '<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true"><circle cx="15" cy="4" r="3.8" fill="var(--arm-{})"/></svg>'
    return Markup(sign).format(arm % COLOURS)


def frontier(points: Sequence[Point], paths: Sequence[Path] = (), *, alt: str) -> Markup:
    """Reward upwards, KL divergence to the right: up and to the left is better."""
    figure, ax = axes(2.9)
    for path in paths:
        ax.plot(path.kl, path.reward, color=colour(path.arm), lw=1.6, dashes=DASHES[path.arm % len(DASHES)], alpha=0.8)
        ax.plot(path.kl[:1], path.reward[:1], "o", ms=5, mfc=CARD, mec=colour(path.arm), mew=1.2, zorder=3)
        ax.plot(path.kl[-1:], path.reward[-1:], "o", ms=6, color=colour(path.arm), mec=CARD, mew=1, zorder=3)
    for point in points:
        for found, across in ((point.kl, True), (point.reward, False)):
            if np.isfinite(found.low) and np.isfinite(found.high):
                draw = ax.hlines if across else ax.vlines
                draw(point.reward.value if across else point.kl.value, found.low, found.high, color=colour(point.arm), lw=2.6, alpha=0.45)
        ax.plot([point.kl.value], [point.reward.value], "o", ms=7, color=colour(point.arm), mec=CARD, mew=1, zorder=3)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.margins(0.06, 0.1)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(ax, "KL divergence to the reference (nats)", "mean reward")
    return svg(figure, alt)
