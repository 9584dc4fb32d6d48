"""The card's picture of the direction to which a policy is most sensitive, over the observation's own layout."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from surefoot.evaluation.diagnosis import frames_of
from surefoot.evaluation.reporting.arms import shortened
from surefoot.evaluation.reporting.blocks import Figure
from surefoot.evaluation.reporting.commands import lacking
from surefoot.evaluation.reporting.dossier import Dossier
from surefoot.evaluation.reporting.drawing import GRID, INK, MUTED, SHADE, SIZE, WARN, WIDTH, axes, colour, svg
from surefoot.evaluation.reporting.evidence import Diagnosis
from surefoot.evaluation.reporting.findings import listed, percent, plural

SHOWN = 8  # bars


def direction_drawn(dossier: Dossier) -> Figure:
    """The member that is most one-sided, with how much its direction says."""
    shown = dossier.diagnosis
    if shown is None:
        return lacking(dossier, "Sensitive direction", "diagnose")
    name, share = strongest(shown)
    units = ", numbers counted in their deviations" if shown.scaled else ""
    said = f"It carries {percent(shown.explained)} of the decision's sensitivity{units}."
    others = [] if shown.ceiling is None else [f"the direction of other episodes carries {percent(shown.ceiling)}"]
    if shown.shifts:
        weakest = min(shown.shifts, key=lambda shift: shown.shifts[shift])
        others.append(f"the one under {weakest.replace('_', ' ')} {percent(shown.shifts[weakest])}")
    if shown.against is not None:
        others.append(f"the one of {shown.against[0]} {percent(shown.against[1])}")
    said += f" Compared with it, {listed(others)}." if others else ""
    if shown.states_90 is not None:
        said += f" {shown.states_90:,} of {plural(shown.states, 'state')} carry 90\u00a0%."
    members = len(dossier.of(Diagnosis))
    who = f" Shown: {shown.place.whom.which}, the most one-sided of {members}." if members > 1 else ""
    alt = f"The direction of the observation that the policy is most sensitive to; {percent(share)} of it is {name}."
    return Figure("Sensitive direction", sensitive(shown, arm=dossier.arm.place, alt=alt), said + who)


def sensitive(diagnosis: Diagnosis, *, arm: int, alt: str) -> Markup:
    return _picture(diagnosis, alt) if diagnosis.pictured else _bars(diagnosis, arm, alt)


def names(diagnosis: Diagnosis) -> list[str]:
    """What each number of the observation is called, numbered where nobody named it."""
    return list(diagnosis.labels or (f"obs {i}" for i in range(diagnosis.direction.size)))


def strongest(diagnosis: Diagnosis) -> tuple[str, float]:
    """The part of the observation with the largest share of the direction, and that share; of an image the channel or frame."""
    if not diagnosis.pictured:
        shares = diagnosis.direction**2
        return names(diagnosis)[int(shares.argmax())], float(shares.max())
    per_channel = (frames_of(diagnosis.direction, diagnosis.shape) ** 2).sum((-2, -1))
    return f"channel {int(per_channel.argmax()) + 1} of {len(per_channel)}", float(per_channel.max())


def _bars(diagnosis: Diagnosis, arm: int, alt: str) -> Markup:
    """The largest components, signed so that the largest points up, with their share of the direction."""
    direction = diagnosis.direction * (1.0 if diagnosis.direction[np.abs(diagnosis.direction).argmax()] > 0.0 else -1.0)
    order = np.argsort(-np.abs(direction), kind="stable")
    few = len(order) if len(order) <= SHOWN else SHOWN - 1
    shown, rest = order[:few], order[few:]
    labels = [shortened(names(diagnosis)[i], 26) for i in shown]
    figure, ax = axes(0.34 + 0.225 * (len(shown) + bool(len(rest))))
    places = np.arange(len(shown))[::-1] + (1 if len(rest) else 0)
    ax.barh(places, direction[shown], height=0.62, color=colour(arm), lw=0)
    for place, i in zip(places, shown, strict=True):
        _share(ax, place, direction[i] ** 2, INK)
    if len(rest):
        _share(ax, 0, (direction[rest] ** 2).sum(), MUTED)
        places, labels = np.append(places, 0), [*labels, f"{len(rest)} others"]
    ax.axvline(0.0, color=MUTED, lw=1)
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", labelcolor=INK)
    ax.set(xlim=(min(-0.05, 1.1 * direction.min()), max(0.05, 1.1 * direction.max())), ylim=(-0.6, len(places) - 0.4))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.spines["bottom"].set_visible(False)
    return svg(figure, alt)


def _share(ax: Axes, place: float, share: float, shade: str) -> None:
    ax.annotate(percent(share), (1.02, place), xycoords=("axes fraction", "data"), va="center", color=shade, size=SIZE - 0.5)


def _picture(diagnosis: Diagnosis, alt: str) -> Markup:
    """How much each pixel counts, all channels together: the more, the stronger the colour."""
    strength = np.sqrt((frames_of(diagnosis.direction, diagnosis.shape) ** 2).sum(0))
    rows, columns = strength.shape
    height = min(1.9, max(0.9, (WIDTH - 0.6) * rows / columns))
    figure, ax = axes(height)
    shaded = np.empty((rows, columns, 4))
    shaded[..., :3] = SHADE
    shaded[..., 3] = strength / strength.max()
    ax.imshow(shaded, interpolation="nearest", aspect="equal")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=True, color=GRID)
    note = f"{columns} × {rows} pixels\nstrongest: {100.0 * strength.max() ** 2:.2g}\u00a0%\nof the direction"
    ax.annotate(note, (1.04, 0.98), xycoords="axes fraction", va="top", color=MUTED, size=SIZE - 0.5)
    ax.plot([strength.argmax() % columns], [strength.argmax() // columns], "s", ms=6, mfc="none", mec=WARN, mew=1.2)
    return svg(figure, alt)
