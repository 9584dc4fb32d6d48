"""Where a policy stands by all that was found out about it: the one line on top of its robustness card.

A verdict counts what was measured and nothing else: an attack that failed is as one that was never played, and what is missing can
raise no verdict above `OPEN`. Worse numbers never give a better verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from surefoot.evaluation.reporting.findings import listed
from surefoot.evaluation.reporting.weighing import Point

ASKED = {"clean": "without attack", "attack": "under attack", "physics": "in other physics"}
"""What must be known for a verdict, in words that follow `falls` and `holds`."""


class Verdict(IntEnum):
    """From the worst to the best."""

    FALLS = 0
    """Something that was tried brings its return below the least accepted."""
    OPEN = 1
    """Nothing did, but something was not measured, or cannot be told apart from chance."""
    HELD = 2
    """The return surely stayed above in all that was tried; against what was not tried there is no promise."""
    CERTIFIED = 3
    """It did, and a certificate promises so against whoever changes observations within a budget."""

    @property
    def sign(self) -> str:
        return "✕?✓✓"[self]

    @property
    def word(self) -> str:
        return ("falls", "not known", "held", "held and certified")[self]


def judge(points: Sequence[Point]) -> Verdict:
    """The verdict of what was weighed."""
    if any(point.side == "against" for point in points):
        return Verdict.FALLS
    if _open(points):
        return Verdict.OPEN
    return Verdict.CERTIFIED if ("for", "certificate") in _said(points) else Verdict.HELD


def headline(points: Sequence[Point]) -> str:
    """The verdict in a sentence."""
    verdict = judge(points)
    if verdict == Verdict.FALLS:
        where = dict.fromkeys(ASKED[point.about] for point in points if point.side == "against" and point.about in ASKED)
        return f"Falls below what is accepted {listed(list(where))}." if where else "A certificate was broken."
    if verdict == Verdict.OPEN:
        return f"Not known whether it holds {listed([ASKED[about] for about in _open(points)])}."
    if verdict == Verdict.HELD:
        return "Held in all that was tried; beyond that nothing is promised."
    return "Held in all that was tried, and certified within a budget."


def _open(points: Sequence[Point]) -> list[str]:
    """What must be known and is not; that nobody disturbs it needs no point of its own where the line is a share of that return."""
    said = _said(points)
    return [about for about in ASKED if ("unknown", about) in said or (about != "clean" and ("for", about) not in said)]


def _said(points: Sequence[Point]) -> set[tuple[str, str]]:
    return {(point.side, point.about) for point in points}
