"""The picture of a diagnosis: the sensitive direction over the observation's own layout, its spectrum, its course and its quotients.

An image's direction is drawn frame by frame, red where a brighter pixel helps another action, blue where a darker one does; a vector's as
bars with names. Next to it, where two policies are compared, the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surefoot.evaluation.diagnosing import fourier, spread
from surefoot.evaluation.diagnosis import frames_of, is_image
from surefoot.files import replacing_file

Result = Mapping[str, Any]
"""A `diagnosis.json`."""

OWN, OTHER = "tab:blue", "tab:orange"
BARS = 24  # at most, the largest ones


def draw(result: Result, path: Path) -> None:
    """The panels of each member, as a PNG. Raises CheckpointError if it cannot be written."""
    rows = [row for member in result["members"] for row in _rows(result, member)]
    figure = Figure(figsize=(max(sum(width for width, _ in row) for row in rows), 3.2 * len(rows)), layout="constrained")
    strips = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for strip, row in zip(strips, rows, strict=True):
        axes = strip.subplots(1, len(row), squeeze=False, width_ratios=[width for width, _ in row])[0]
        for ax, (_, panel) in zip(axes, row, strict=True):
            panel(ax)
    with replacing_file(path) as new:
        figure.savefig(new, format="png", dpi=110)


Panel = tuple[float, Callable[[Axes], None]]
"""Its width in inches, and what draws it."""


def _rows(result: Result, member: Mapping[str, Any]) -> list[list[Panel]]:
    """The panels of a member: a vector's in one row, an image's direction in one row for each policy and the rest below."""
    name = result["policy"] + (f"@{member['member']}" if len(result["members"]) > 1 else "")
    shown = [(name, member, OWN)]
    if "against" in member:
        shown.append((result["against"]["policy"], member["against"], OTHER))
    rest: list[Panel] = [
        (3.2, partial(_spectrum, shown=shown)),
        (3.4, partial(_course, shown=shown)),
        (3.8, partial(_quotients, member=member)),
    ]
    if is_image(result["obs_shape"]):
        return [_pictures(title, found, result["obs_shape"]) for title, found, _ in shown] + [rest]
    names = result["labels"] or [f"obs {i}" for i in range(len(member["direction"]))]
    return [[(4.2, partial(_bars, names=names, title=title, found=found, colour=colour)) for title, found, colour in shown] + rest]


def _pictures(title: str, found: Mapping[str, Any], obs_shape: Sequence[int]) -> list[Panel]:
    frames = frames_of(np.array(found["direction"], np.float64), obs_shape)
    width = 2.4 * len(frames) * frames.shape[2] / frames.shape[1]
    return [(width, partial(_image, frames=frames, words=_words(title, found))), (3.0, partial(_fourier, frame=frames[-1]))]


def _words(title: str, found: Mapping[str, Any]) -> str:
    return f"{title}\n{found['explained']:.0%} of the sensitivity"


def _image(ax: Axes, frames: np.ndarray, words: str) -> None:
    """The frames side by side, on one scale of colours about 0."""
    gap = np.full((frames.shape[1], max(1, frames.shape[2] // 20)), np.nan)
    strip = np.concatenate([part for frame in frames for part in (gap, frame)][1:], 1)
    bound = np.abs(frames).max()
    ax.imshow(strip, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(words + (", oldest frame first" if len(frames) > 1 else ""), loc="left", fontsize=9)


def _fourier(ax: Axes, frame: np.ndarray) -> None:
    magnitudes = fourier(frame)
    ax.imshow(np.log1p(magnitudes), cmap="magma", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"its Fourier magnitudes (last frame)\nspread {spread(magnitudes):.2f}", loc="left", fontsize=9)


def _bars(ax: Axes, names: Sequence[str], title: str, found: Mapping[str, Any], colour: str) -> None:
    direction = np.array(found["direction"], np.float64)
    order = np.argsort(-np.abs(direction), kind="stable")[:BARS]
    order = np.sort(order) if len(direction) <= BARS else order
    ax.barh(np.arange(len(order))[::-1], direction[order], color=colour)
    ax.set_yticks(np.arange(len(order))[::-1], [names[i] for i in order], fontsize=8)
    ax.axvline(0.0, color="grey", lw=0.8)
    rest = f", largest {len(order)} of {len(direction)}" if len(order) < len(direction) else ""
    ax.set_title(_words(title, found) + rest, loc="left", fontsize=9)


def _spectrum(ax: Axes, shown: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    """Eigenvalues as shares of the first."""
    for _, found, colour in shown:
        values = np.array(found["eigenvalues"], np.float64)
        ax.plot(np.arange(1, len(values) + 1), values / values[0], "o-", ms=3, color=colour)
    ax.set(xlabel="eigenvalue", ylim=(-0.03, 1.05))
    ax.set_title("as a share of the first", loc="left", fontsize=9)


def _course(ax: Axes, shown: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
    """The norm of the gradient along an episode, by its own mean, so that policies of other scales compare."""
    for _, found, colour in shown:
        values = np.array([np.nan if x is None else x for x in found["norms_by_step"]], np.float64)
        known = np.flatnonzero(~np.isnan(values))
        ax.plot(known, values[known] / found["norm_mean"], color=colour, lw=1, label=f"CV {found['norm_cv']:.2f}")
    ax.set(xlabel="step", ylim=(0.0, None))
    ax.legend(fontsize=8, frameon=False)
    ax.set_title("instability, by its mean", loc="left", fontsize=9)


def _quotients(ax: Axes, member: Mapping[str, Any]) -> None:
    """What of the sensitivity remains in the direction of another set of states."""
    found = {"other episodes": member["ceiling"]} | dict(member["shifts"])
    if "against" in member:
        found |= {"the other's, here": member["against"]["fcq"], "its own, there": member["against"]["fcq_back"]}
    places = np.arange(len(found))[::-1]
    ax.barh(places, [x or 0.0 for x in found.values()], color=["grey", *[OWN] * len(member["shifts"]), *[OTHER] * 2][: len(found)])
    ax.set_yticks(places, list(found), fontsize=8)
    ax.set(xlim=(0.0, 1.0))
    ax.set_title("feature correlation quotient", loc="left", fontsize=9)
