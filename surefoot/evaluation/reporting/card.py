"""The robustness card: one page about one policy for whoever has to decide whether to deploy it.

The verdict, a tile a number, what speaks for it, against it and is not known, a chart a kind of evidence, and the files and commands
that the numbers are from. What was not measured has the command that measures it in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.attacked import attacks_drawn
from surefoot.evaluation.reporting.blocks import RANGE, Column, Figure, Table, estimate, place
from surefoot.evaluation.reporting.certified import certified_drawn, only_with_noise
from surefoot.evaluation.reporting.commands import command, lacking, sources
from surefoot.evaluation.reporting.directions import direction_drawn, strongest
from surefoot.evaluation.reporting.dossier import Attacked, Dossier, Measured, dossiers, norms
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.evidence import Stress
from surefoot.evaluation.reporting.figures import swatch
from surefoot.evaluation.reporting.findings import percent
from surefoot.evaluation.reporting.heat_map import physics_drawn
from surefoot.evaluation.reporting.robustness import at_least, size, telling
from surefoot.evaluation.reporting.verdict import headline, judge
from surefoot.evaluation.reporting.weighing import Tolerance, of_attacks, returns_at, telling_budget, weigh

NORMS_SHOWN = 2
ATTACKS_SHOWN = {1: 9, 2: 5}  # by the number of charts of attacks, so that all fits one sheet
SIDES = (("for", "Speaks for it"), ("against", "Speaks against it"), ("unknown", "Is not known"))


@dataclass(frozen=True)
class Tile:
    """One number of the card; `warn`: it is below the line."""

    name: str
    value: Markup
    note: Markup | str = ""
    warn: bool = False


def cards(arms: Sequence[Arm], tolerance: Tolerance) -> dict[str, Any] | None:
    """A card for each policy with evidence; runs without any share a list of commands, or have the card if there is no other.

    None if there are but classifiers, whose robustness is no matter of returns.
    """
    found = dossiers(arms)
    if not found:
        return None
    known = [dossier for dossier in found if dossier.evidence] or found[:1]
    bare = [dossier for dossier in found if dossier not in known]
    return {
        "cards": [card(dossier, tolerance, f"card-{i + 1}") for i, dossier in enumerate(known)],
        "comparison": comparison(found, tolerance) if len(found) > 1 else None,
        "bare": [(swatch(d.arm.place), d.name, [command(d, verb) for verb in ("attack", "stress", "certify", "diagnose")]) for d in bare],
        "line": tolerance.said,
    }


def card(dossier: Dossier, tolerance: Tolerance, anchor: str = "card-1") -> dict[str, Any]:
    """One card for the template."""
    line = _line(dossier, tolerance)
    points = weigh(dossier, tolerance)
    return {
        "anchor": anchor,
        "mark": swatch(dossier.arm.place),
        "name": dossier.name,
        "place": place(dossier.env, dossier.limit) + (f", {dossier.members} seeds" if dossier.members > 1 else ""),
        "reference": dossier.reference,
        "verdict": judge(points),
        "headline": headline(points),
        "tiles": tiles(dossier, line),
        "stacks": pictures(dossier, line),
        "sides": [(side, title, [point.text for point in points if point.side == side]) for side, title in SIDES],
        "line": number(line) if line is not None else None,
        "rule": tolerance.said,
        "sources": sources(dossier),
    }


def _line(dossier: Dossier, tolerance: Tolerance) -> float | None:
    return tolerance.line(dossier.clean.measured.overall if dossier.clean else None)


def verdicts(arms: Sequence[Arm], tolerance: Tolerance) -> list[dict[str, Any]]:
    """The verdict on each policy for JSON: how it is named on a command line, the verdict, its sentence and the least accepted return."""
    found = []
    for dossier in dossiers(arms):
        points = weigh(dossier, tolerance)
        about = {
            "policy": dossier.reference,
            "name": dossier.name,
            "sigma": dossier.sigma,
            "env": dossier.env,
            "least_accepted": _line(dossier, tolerance),
        }
        found.append(about | {"verdict": judge(points).word, "headline": headline(points)})
    return found


# --- tiles ----------------------------------------------------------------------------------------------------------

NOTHING = Markup('<span class="none">not measured</span>')


def tiles(dossier: Dossier, line: float | None) -> list[Tile]:
    """Clean, attacked, certified, worst physics, direction: one number each."""
    found = [_clean_tile(dossier, line), *_attack_tiles(dossier, line), _certified_tile(dossier)]
    return [*found, _physics_tile(dossier, line), _direction_tile(dossier)]


def _fleet(measured: Measured) -> str:
    return f"lowest seed {number(measured.lowest[1].value)}; " if len(measured.members) > 1 else ""


def _share(measured: Measured, dossier: Dossier) -> str:
    """How far below the clean return, where there is such a share."""
    clean = dossier.clean.measured.overall.value if dossier.clean else 0.0
    share = (clean - measured.overall.value) / abs(clean) if clean else 0.0
    return f": {percent(share)} less" if 0.005 <= share < 10.0 else ""


def _low(measured: Measured, line: float | None) -> bool:
    return line is not None and measured.lowest[1].value < line


def _clean_tile(dossier: Dossier, line: float | None) -> Tile:
    if dossier.clean is None:
        return Tile("Clean return", NOTHING)
    measured = dossier.clean.measured
    return Tile("Clean return", estimate(measured.overall), _fleet(measured) + dossier.clean.source, _low(measured, line))


def _attack_tiles(dossier: Dossier, line: float | None) -> list[Tile]:
    """The worst attack of each norm that is shown."""
    found = []
    for attacks in _shown(dossier, line):
        budget = telling_budget(attacks, line)
        returns = {} if budget is None else returns_at(attacks, budget)
        if returns:
            kind = min(returns, key=lambda name: returns[name].overall.value)
            note = f"{_fleet(returns[kind])}{kind}, {budget:g} {size(attacks[0].norm)}{_share(returns[kind], dossier)}"
            found.append(Tile("Under attack", estimate(returns[kind].overall), note, _low(returns[kind], line)))
        elif budget is not None:
            found.append(Tile("Under attack", Markup('<span class="none">failed</span>'), "says nothing about robustness"))
    return found or [Tile("Under attack", NOTHING)]


def _shown(dossier: Dossier, line: float | None) -> list[list[Attacked]]:
    """The attacks by norm: those that brought the return below the line first, as many norms as there is room for."""
    found = list(norms(dossier).values())
    found.sort(key=lambda attacks: all(point.side != "against" for point in of_attacks(attacks, line)))
    return found[:NORMS_SHOWN]


def _certified_tile(dossier: Dossier) -> Tile:
    levels = [telling(certificate) for certificate in dossier.certificates]
    actions = dossier.actions
    if levels:
        level = min(levels, key=lambda each: each.value or 0.0)
        value = Markup('<span class="estimate">≥ {}</span>').format(at_least(level.value or 0.0))
        return Tile("Certified return", value, f"whoever changes at most {level.budget:g} {size('total')}")
    if actions is not None:
        radius, share = next(((r, s) for r, s in zip(actions.radii, actions.certified, strict=True) if r > 0.0), (0.0, 0.0))
        value = Markup('<span class="estimate">{}</span>').format(percent(share))
        return Tile("Certified actions", value, f"of states, under any change of {radius:g} (l2)")
    if dossier.certified_with:
        return Tile("Certified", Markup('<span class="none">not without noise</span>'), only_with_noise(dossier))
    return Tile("Certified", NOTHING)


def _physics_tile(dossier: Dossier, line: float | None) -> Tile:
    found = dossier.stress
    if found is None:
        return Tile("Worst physics", NOTHING)
    members = len(dossier.of(Stress))
    who = f"seed {(found.place.whom.member or 0) + 1}, the lowest of {members}; " if members > 1 else ""
    return Tile("Worst physics", estimate(found.worst), f"{who}at {found.at}", line is not None and found.worst.value < line)


def _direction_tile(dossier: Dossier) -> Tile:
    found = dossier.diagnosis
    if found is None:
        return Tile("Sensitive direction", NOTHING)
    value = Markup('<span class="estimate">{}</span>').format(percent(found.explained))
    return Tile("In one direction", value, f"of its sensitivity; mostly {strongest(found)[0]}")


# --- charts ---------------------------------------------------------------------------------------------------------


def pictures(dossier: Dossier, line: float | None) -> list[list[Figure]]:
    """A chart for each kind of evidence in two columns; where there is none, the command that would get it stands in its place."""
    shown = _shown(dossier, line)
    found = [attacks_drawn(dossier, attacks, line, ATTACKS_SHOWN[len(shown)]) for attacks in shown]
    found = found or [lacking(dossier, "Attacked", "attack")]
    return [[*found, certified_drawn(dossier)], [physics_drawn(dossier, line), direction_drawn(dossier)]]


# --- several policies -----------------------------------------------------------------------------------------------


def comparison(found: Sequence[Dossier], tolerance: Tolerance) -> Table:
    """A row a policy; returns under attack compare where size and norm are the same."""
    several = len({dossier.env for dossier in found}) > 1
    rows = []
    for dossier in found:
        points = weigh(dossier, tolerance)
        where = Markup("<small>{}</small>").format(dossier.env or "no environment") if several else ""
        name = Markup('<span class="arm">{} {}</span>{}').format(swatch(dossier.arm.place), dossier.name, where)
        own = tiles(dossier, _line(dossier, tolerance))
        shown = (own[0], own[1], *own[-3:-1])  # of attacks under several norms the first; a direction is nothing to compare
        verdict = Markup('<span class="estimate">{} {}</span>').format(judge(points).sign, judge(points).word)
        rows.append([name, verdict, *(Markup("{}<small>{}</small>").format(tile.value, tile.note) for tile in shown)])
    names = (f"clean {RANGE}", f"under attack {RANGE}", "certified", f"worst physics {RANGE}")
    return Table("Policies compared", [Column("policy"), Column("verdict"), *(Column(name, True) for name in names)], rows)
