"""What speaks for deploying a policy, what speaks against it, and what is not known: sentences computed from a dossier's numbers.

Each number is held against the least return that the reader accepts (`Tolerance`); what was not measured, or cannot be told apart from
chance, is not known. `verdict.py` makes one verdict of these points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from markupsafe import Markup

from surefoot.errors import ConfigError
from surefoot.evaluation.reporting.commands import measure
from surefoot.evaluation.reporting.dossier import Attacked, Dossier, Measured, norms
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.evidence import Diagnosis, Stress
from surefoot.evaluation.reporting.findings import listed, percent, plural, words
from surefoot.evaluation.reporting.robustness import at_least, broken, size
from surefoot.evaluation.statistics import Interval

Side = Literal["for", "against", "unknown"]
About = Literal["clean", "attack", "failure", "physics", "certificate", "actions", "direction", "scope"]
Standing = Literal["above", "below", "unsure"]
WEAK = 0.1  # share of gradients that were zero above which an attack is weaker than it could be
NAMED = 6  # attacks in a sentence; of more, their number is said
SCOPE = "Whatever was not tried: lost or late observations, changed actions, other tasks, stronger attackers."


@dataclass(frozen=True)
class Tolerance:
    """The least return that is accepted: `floor`, or `drop` (a share) below the return without attack.

    Raises ConfigError for a drop that is no share.
    """

    drop: float = 0.2
    floor: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.drop < 1.0:
            raise ConfigError(f"the tolerated drop is {self.drop:g}: it is a share of the clean return, above 0 and below 1.")
        if self.floor is not None and not abs(self.floor) < float("inf"):
            raise ConfigError(f"the least accepted return is {self.floor:g}: it must be a finite number.")

    def line(self, clean: Interval | None) -> float | None:
        """None where no line can be drawn: a share of a return that may be zero says nothing."""
        if self.floor is not None:
            return self.floor
        if clean is None or clean.low <= 0.0 <= clean.high:
            return None
        return clean.value - self.drop * abs(clean.value)

    @property
    def said(self) -> str:
        if self.floor is not None:
            return f"a return of {number(self.floor)} (--floor)"
        return f"{percent(self.drop)} below the clean return (--drop {self.drop:g}; or name a return: --floor)"


@dataclass(frozen=True)
class Point:
    side: Side
    about: About
    text: Markup


def point(side: Side, about: About, text: str, *values: object) -> Point:
    """`text` is markup of this module, `values` are what a run says: they are escaped."""
    return Point(side, about, Markup(text).format(*values))


def weigh(dossier: Dossier, tolerance: Tolerance) -> list[Point]:
    """All that can be said, the gravest first on each side."""
    clean = dossier.clean
    line = tolerance.line(clean.measured.overall if clean else None)
    points = [*contradictions(dossier), *of_clean(dossier, tolerance, line)]
    points += [found for attacks in norms(dossier).values() for found in of_attacks(attacks, line)]
    points += [*of_physics(dossier, line), *of_certificates(dossier, line), *of_actions(dossier), *of_directions(dossier)]
    return [*points, *unmeasured(dossier), point("unknown", "scope", SCOPE)]


def stands(measured: Measured, line: float) -> Standing:
    """Where the members lie: below the line if any does, above it if that is sure (by its 95 % interval) of each."""
    if any(interval.value < line for _, interval in measured.members):
        return "below"
    sure = measured.members and not measured.failed and all(interval.low >= line for _, interval in measured.members)
    return "above" if sure else "unsure"


def whose(member: int | None, measured: Measured) -> str:
    """`of seed 3, the lowest of 5,` of a fleet."""
    return "" if len(measured.members) < 2 or member is None else f" of seed {member + 1}, the lowest of {len(measured.members)},"


# --- one kind of evidence each --------------------------------------------------------------------------------------


def contradictions(dossier: Dossier) -> list[Point]:
    """Attacks that did more than a certificate allows: something is broken."""
    for certificate in dossier.certificates:
        for attack in dossier.attacks:
            if any(curve.speaks_of(certificate) and broken(certificate, curve) for curve in attack.curves):
                text = "<b>The {} attack pushed the return below a certified bound, which should not happen: please report it.</b>"
                return [point("against", "certificate", text, attack.kind)]
    return []


def of_clean(dossier: Dossier, tolerance: Tolerance, line: float | None) -> list[Point]:
    if dossier.clean is None:
        return [point("unknown", "clean", "The return without attack, {}", measure(dossier, "attack"))]
    measured = dossier.clean.measured
    if line is None:
        text = "Where to draw the line: the clean return, {}, may be zero, so that a share of it says nothing. Name the least return: {}"
        return [point("unknown", "clean", text, words(measured.overall), measure(dossier, "floor"))]
    if tolerance.floor is None:
        return []  # the line is a share of this return: it cannot lie below
    member, lowest = measured.lowest
    side: dict[Standing, Side] = {"above": "for", "below": "against", "unsure": "unknown"}
    text = "Without attack the return{} is {}; the least accepted is {}."
    return [point(side[stands(measured, line)], "clean", text, whose(member, measured), words(lowest), number(line))]


def of_attacks(attacks: Sequence[Attacked], line: float | None) -> list[Point]:
    """Attacks under one norm: up to what budget they surely leave the return above the line, and from which on they do not.

    Random changes can speak against a policy, but not for it.
    """
    points = _frailties(attacks)
    at = {budget: found for budget in _budgets(attacks) if (found := returns_at(attacks, budget))}
    if line is None or not at:
        return points
    norm, least = size(attacks[0].norm), number(line)
    standings = {budget: {kind: stands(measured, line) for kind, measured in found.items()} for budget, found in at.items()}
    fallen = next((budget for budget, found in standings.items() if "below" in found.values()), None)
    unsure = next((budget for budget, found in standings.items() if "unsure" in found.values()), None)
    searched = {budget: found for budget, found in standings.items() if any(map(searches, found))}
    held = list(takewhile(lambda budget: set(searched[budget].values()) == {"above"}, searched))
    if fallen is not None:
        text = "The {} attack lowers the return{} to <b>{}</b> by changes of at most {:g} {}: less than {}."
        kind, measured = worst_of(at[fallen])
        member, lowest = measured.lowest
        points.insert(0, point("against", "attack", text, kind, whose(member, measured), words(lowest), fallen, norm, least))
    if unsure is not None and (fallen is None or unsure < fallen):
        text = "Whether changes of at most {:g} {} lower the return below {}: the intervals reach below it, play more episodes."
        points.append(point("unknown", "attack", text, unsure, norm, least))
    if held:
        text = "Under changes of at most {:g} {}, no attack tried ({}) lowered the return below {}."
        points.append(point("for", "attack", text, held[-1], norm, _kinds(searched[held[-1]]), least))
    elif not searched:
        points.append(
            point("unknown", "attack", "What an attacker {} can do: random changes are no attacker, try one that searches.", norm)
        )
    return points


def searches(kind: str) -> bool:
    """Random changes, also those that come and go (`random-periodic`), search for nothing: they say little however they end."""
    return kind.split("-")[0] != "random"


def worst_of(found: dict[str, Measured]) -> tuple[str, Measured]:
    """The attack under which the lowest member does worst."""
    return min(found.items(), key=lambda item: item[1].lowest[1].value)


def returns_at(attacks: Sequence[Attacked], budget: float) -> dict[str, Measured]:
    """By kind, of the attacks that were played at a budget and did not fail."""
    return {attack.kind: measured for attack in attacks if (measured := attack.at(budget)) and measured.members}


def telling_budget(attacks: Sequence[Attacked], line: float | None) -> float | None:
    """The budget to speak of: the smallest at which an attack goes below the line, else the largest of those that most attacks share."""
    budgets = _budgets(attacks)
    fallen = [b for b in budgets if line is not None and any(stands(m, line) == "below" for m in returns_at(attacks, b).values())]
    return fallen[0] if fallen else max(budgets, key=lambda b: (len(returns_at(attacks, b)), b), default=None)


def _budgets(attacks: Sequence[Attacked]) -> list[float]:
    return sorted({budget for attack in attacks for budget in attack.budgets})


def _frailties(attacks: Sequence[Attacked]) -> list[Point]:
    """What must be known of attacks that had no direction, or often none."""
    failed: list[str] = []
    part: list[str] = []
    weak: list[str] = []
    for attack in attacks:
        levels = [level for curve in attack.curves for level in curve.levels if level.budget > 0.0]
        lost = sum(level.value is None for level in levels)
        if lost:
            (failed if lost == len(levels) else part).append(attack.kind)
        elif max((level.vanished for level in levels), default=0.0) > WEAK:
            weak.append(attack.kind)
    points = []
    if failed:
        points.append(point("unknown", "failure", "{} failed: says nothing about robustness.", _attacks(failed)))
    if part:
        points.append(point("unknown", "failure", "{} failed at some sizes: says nothing about robustness there.", _attacks(part)))
    if weak:
        text = "{} may be weaker than it could be: more than {} of the gradients were zero."
        points.append(point("unknown", "failure", text, _attacks(weak), percent(WEAK)))
    return points


def _attacks(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} attacks" if len(kinds) > NAMED else f"The attack{'s' if len(kinds) > 1 else ''} {listed(kinds)}"


def _kinds(kinds: Iterable[str]) -> str:
    names = sorted(kinds)
    return f"{len(names)} kinds" if len(names) > NAMED else listed(names)


def of_physics(dossier: Dossier, line: float | None) -> list[Point]:
    at = dossier.stress
    if at is None or line is None:
        return []
    measured = Measured(tuple((stress.place.whom.member, stress.worst) for stress in dossier.of(Stress)))
    who, lowest, least = whose(at.place.whom.member, measured), words(at.worst), number(line)
    where = stands(measured, line)
    if where == "below":
        text = "In other physics the return{} falls to <b>{}</b>, at {}: less than {}."
        points = [point("against", "physics", text, who, lowest, at.at, least)]
    elif where == "above":
        tried = f"{plural(len(at.points), 'point')} of {listed([p.name.replace('_', ' ') for p in at.parameters])}"
        points = [point("for", "physics", "Over {}, the return{} stays at {} or more: not below {}.", tried, who, lowest, least)]
    else:
        text = "Whether the worst physics, {}, is below {}: {} reaches below it, play more episodes."
        points = [point("unknown", "physics", text, at.at, least, lowest)]
    return points + _nominal(at, dossier)


def _nominal(stress: Stress, dossier: Dossier) -> list[Point]:
    """A nominal return that is clearly not the clean one: then the two were not played alike."""
    clean = dict(dossier.clean.measured.members).get(stress.place.whom.member) if dossier.clean else None
    if clean is None or stress.nominal is None or (stress.nominal.high >= clean.low and stress.nominal.low <= clean.high):
        return []
    text = "Why the nominal physics gives {}, and the evaluation {}: they were not played alike (noise, starts, limits, policy)."
    return [point("unknown", "physics", text, words(stress.nominal), words(clean))]


def of_certificates(dossier: Dossier, line: float | None) -> list[Point]:
    """The largest budget at which the bound of every member is not below the line."""
    promised: dict[float, float] = {}
    for certificate in dossier.certificates:
        for level in certificate.levels:
            if level.value is not None and level.budget > 0.0:
                promised[level.budget] = min(level.value, promised.get(level.budget, level.value))
    if not promised or line is None:
        return []
    sure, kept = percent(dossier.certificates[0].confidence), [budget for budget, bound in promised.items() if bound >= line]
    if kept:
        text = "Certified: whoever changes observations by at most {:g} {} cannot push the mean return below <b>{}</b> (confidence {})."
        return [point("for", "certificate", text, max(kept), size("total"), at_least(promised[max(kept)]), sure)]
    text = "What is certified, at least {} under changes of at most {:g} {}, is less than {}: a weak promise, not damage that was seen."
    smallest = min(promised)
    return [point("unknown", "certificate", text, at_least(promised[smallest]), smallest, size("total"), number(line))]


def of_actions(dossier: Dossier) -> list[Point]:
    """The largest radius at which most of the states of every member keep their action; a promise about actions, not about returns."""
    least = dossier.actions
    if least is None:
        return []
    kept = [(r, share) for r, share in zip(least.radii, least.certified, strict=True) if share >= 0.5 and r > 0.0]
    if not kept:
        return [point("unknown", "actions", "Whether small changes alter its actions: in most of its states, none is certified.")]
    radius, share = kept[-1]
    text = "In {} of {}, no change of at most {:g} (l2) alters the action that it chooses on average over {}."
    return [point("for", "actions", text, percent(share), plural(least.states, "state"), radius, least.noise)]


def of_directions(dossier: Dossier) -> list[Point]:
    """A direction is no damage; without an attack that searches, what it can do is not known."""
    searched = [a for a in dossier.attacks if searches(a.kind) and any((m := a.at(b)) and m.members for b in a.budgets)]
    if not dossier.of(Diagnosis) or searched:
        return []
    return [point("unknown", "direction", "What changes along the sensitive direction do to the return: no attack has used it.")]


def unmeasured(dossier: Dossier) -> list[Point]:
    """What nobody has looked at yet; the charts' places have the commands."""
    promises = any(level.budget > 0.0 for certificate in dossier.certificates for level in certificate.levels)
    lacking: list[tuple[About, str, bool]] = [
        ("attack", "What an attacker of its observations can do", not _budgets(dossier.attacks)),
        ("physics", "How it fares in other physics", not dossier.of(Stress)),
        ("certificate", "What holds against every attacker", not promises),
        ("direction", "Which changes of its observation it is most sensitive to", not dossier.of(Diagnosis)),
    ]
    return [point("unknown", about, "{}: not measured.", what) for about, what, lacks in lacking if lacks]
