"""The report's part on single inputs: in what share of them a classifier (or a choice of action) is certified, over the radius of a change.

From what `surefoot train rrcm` certifies at its end, and from what `surefoot certify` leaves in `evidence/` about classifiers and inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.blocks import Column, Figure, Table
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import Budgets
from surefoot.evaluation.reporting.findings import listed, percent, plural
from surefoot.evaluation.reporting.whom import MALFORMED, Whom, finite, text, whom_of

KIND = "certified-inputs"
LEAD = (
    "Somebody changes what is to be classified. A certificate is a promise about every change of at most its radius (l2, in units of the"
    " input): the answer stays the same."
)
NOTE = (
    "It is about the classifier with its noise: deploy it as what it answers to many noisy copies of an input. Each input's radius holds"
    " with its confidence by itself, so that of many a few may be wrong. Between the radii that were computed, the charts show what is"
    " certain, the share at the next larger one."
)
RULES = {"votes": "votes (Cohen et al. 2019)", "all": "scores (LVM-RS)"}
"""What counts of a noisy copy, by the option `--maps` of `surefoot certify`."""


@dataclass(frozen=True, eq=False)
class AtInputs:
    """The share of `n` inputs that are certified within each of `radii` `[R]`; where `labelled`, certified to be classified rightly."""

    arm: Arm
    whom: Whom
    inputs: str  # in words
    held_out: bool  # they are the images that training kept back
    labelled: bool
    n: int
    sigma: float
    samples: int
    rule: str
    confidence: float
    abstained: float  # share of the inputs
    average_radius: float
    radii: np.ndarray  # [R]
    certified: np.ndarray  # [R]

    @property
    def name(self) -> str:
        label = self.arm.label + (f" ({self.whom.which})" if self.whom.which else "")
        return label if self.sigma == self.arm.noise else f"{label}, certified with noise {self.sigma:g}"

    @property
    def where(self) -> tuple[str, str, bool]:
        """Shares compare where this is the same: the inputs, and whether their classes are known."""
        return self.inputs, (self.arm.fingerprint or "") if self.held_out else "", self.labelled

    @property
    def telling(self) -> tuple[float, float]:
        """The radius above zero to speak of, and its share: the largest that half of the inputs bear, else the smallest."""
        above = [(float(r), float(share)) for r, share in zip(self.radii, self.certified, strict=True) if r > 0.0]
        return ([pair for pair in above if pair[1] >= 0.5] or above[:1] or [(0.0, float(self.certified[0]))])[-1]


# --- reading --------------------------------------------------------------------------------------------------------


def at_inputs(arms: Sequence[Arm]) -> list[AtInputs]:
    """All of the runs; what training certified only where `surefoot certify` has not done the same with more samples."""
    found = []
    for arm in arms:
        later = [one for stem, data in arm.evidence.items() if (one := read_at_inputs(arm, stem, data)) is not None]
        first = while_training(arm)
        if first is not None and not any(one.held_out and one.sigma == first.sigma and one.samples >= first.samples for one in later):
            later.insert(0, first)
        found += later
    return found


def read_at_inputs(arm: Arm, stem: str, data: Mapping[str, Any]) -> AtInputs | None:
    """What a file of the evidence says; None if it is of another form."""
    if data.get("kind") != KIND:
        return None
    try:
        kept = bool(data["held_out"])
        source = _held_out(arm) if kept else _last_part(data["inputs"])
        return _checked(arm, whom_of(stem, 0, 1), source, kept, bool(data["labelled"]), finite(data["sigma"]), data, data["maps"])
    except MALFORMED:
        return None


def while_training(arm: Arm) -> AtInputs | None:
    """What the run certified at its end; None if it did not, or if its result is of another form."""
    try:
        data = arm.result["certified"]
        as_evidence = {**data, "n": data["images"], "certified": data["accuracy"]}
        return _checked(arm, Whom(), _held_out(arm), True, True, finite(arm.result["sigma"]), as_evidence, "votes")
    except MALFORMED:
        return None


def _held_out(arm: Arm) -> str:
    data = arm.config.get("data")
    return "held-out images" + (f" of {_last_part(data)}" if isinstance(data, str) and data else "")


def _last_part(path: Any) -> str:
    """A file's or a folder's own name. Raises one of MALFORMED for what is no path."""
    return text(re.split(r"[/\\]", path.rstrip("/\\"))[-1], 60)


def _checked(
    arm: Arm, whom: Whom, inputs: str, held_out: bool, labelled: bool, sigma: float, data: Mapping[str, Any], maps: str
) -> AtInputs:
    """Raises one of MALFORMED for numbers that fit no certificate."""
    n, radii, certified = int(data["n"]), *(np.array([finite(x) for x in data[name]]) for name in ("radii", "certified"))
    abstained = finite(data["abstained"]) / n
    shares = np.array([abstained, *certified])
    if radii.shape != certified.shape or not radii.size or (np.diff(radii) <= 0.0).any() or (shares < 0.0).any() or (shares > 1.0).any():
        raise ValueError("one share a radius is needed, radii in order")
    return AtInputs(
        arm=arm,
        whom=whom,
        inputs=inputs,
        held_out=held_out,
        labelled=labelled,
        n=n,
        sigma=sigma,
        samples=int(data["samples"]),
        rule=RULES[maps],
        confidence=1.0 - finite(data["alpha"]),
        abstained=abstained,
        average_radius=finite(data["average_radius"]),
        radii=radii,
        certified=certified,
    )


# --- section --------------------------------------------------------------------------------------------------------


def certified_at_inputs(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """A chart for each set of inputs, and the numbers; None if nothing is certified at any."""
    found = at_inputs(arms)
    if not found:
        return None
    places = list(dict.fromkeys(one.where for one in found))
    together = [[one for one in found if one.where == place] for place in places]
    tables = [table for own in together for table in _tables(own)]
    return {"lead": LEAD, "figures": [_figure(own) for own in together], "tables": tables, "note": NOTE}


def _figure(found: Sequence[AtInputs]) -> Figure:
    curves = [Budgets(one.arm.place, one.radii.tolist(), one.certified.tolist(), bound=True, steps=True) for one in found]
    first = found[0]
    title = f"Certified {'accuracy' if first.labelled else 'choices'}: {first.inputs}"
    said = "right, and no such change alters the answer" if first.labelled else "no such change alters the answer"
    ends = [f"{one.name} {_shares(one)}" for one in found]
    alt = f"Certified share of the inputs over the radius of a change: {'; '.join(ends)}."
    drawing = figures.robustness(curves, x="change of the input (l2)", y="share of the inputs", alt=alt)
    legend = [(figures.mark(curve), one.name) for curve, one in zip(curves, found, strict=True)]
    return Figure(title, drawing, f"Shaded: {said}.", legend)


def _shares(one: AtInputs) -> str:
    return listed([f"{percent(share)} at radius {radius:g}" for radius, share in zip(one.radii, one.certified, strict=True)])


def _tables(found: Sequence[AtInputs]) -> list[Table]:
    """A row a radius, a column a classifier: one table for each set of radii, which go with the noise."""
    tables = []
    for radii in dict.fromkeys(tuple(one.radii.tolist()) for one in found):
        own = [one for one in found if tuple(one.radii.tolist()) == radii]
        columns = [Column("certified within radius"), *(Column(one.name, True) for one in own)]
        rows: list[list[Any]] = [[f"{r:g}", *(percent(float(one.certified[i])) for one in own)] for i, r in enumerate(radii)]
        rows += [[name, *map(of, own)] for name, of in ABOUT]
        tables.append(Table(own[0].inputs[0].upper() + own[0].inputs[1:], columns, rows, compact=True))
    return tables


ABOUT: tuple[tuple[str, Callable[[AtInputs], str]], ...] = (
    ("mean radius", lambda one: number(one.average_radius)),
    ("abstains", lambda one: percent(one.abstained)),
    ("inputs", lambda one: f"{one.n:,}"),
    ("noisy copies of each", lambda one: f"{one.samples:,}"),
    ("certified by", lambda one: one.rule),
    ("confidence, each", lambda one: percent(one.confidence)),
)


def inputs_said(arms: Sequence[Arm]) -> list[Markup]:
    """One sentence for each certificate."""
    return [_said(one) for one in at_inputs(arms)]


def _said(one: AtInputs) -> Markup:
    radius, share = one.telling
    verb = "is right on" if one.labelled else "is sure of its answer on"
    about = f"{one.n:,} {one.inputs}" if one.held_out else f"{plural(one.n, 'input')} of {one.inputs}"
    sentence = Markup("<b>{}</b> {} <b>{}</b> of {}, and on <b>{}</b> under any change of at most {} (l2; certified, confidence {} each).")
    numbers = (percent(float(one.certified[0])), about, percent(share), f"{radius:g}", percent(one.confidence))
    return sentence.format(one.name, verb, *numbers)
