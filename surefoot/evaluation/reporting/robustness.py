"""The report's part on tampered observations: what is certified, what a real attack did, and whether the two agree.

Reads what `surefoot certify` and `surefoot attack` leave in a run's `evidence/` folder; what is not of their form is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import Arm, shortened
from surefoot.evaluation.reporting.blocks import RANGE, Column, Figure, Table, place
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import Budgets
from surefoot.evaluation.reporting.findings import listed, plural, words
from surefoot.evaluation.reporting.whom import MALFORMED, Whom, finite, text, whom_of
from surefoot.evaluation.statistics import Interval, mean_interval

LEAD = (
    "Somebody changes what the policy observes. A budget bounds the sum of all changes of an episode (their total l2 norm, in units of"
    " the observation). A certificate is a promise about every attacker within the budget; an attack is one attacker, really played."
)
NOTES = [
    "The certificate is about the mean return of the policy with its noise, in this environment, and about changes of observations"
    " alone: not about other dynamics, about changed actions, or about a single episode (Kumar, Levine and Feizi 2022).",
    "An attack that does little is no proof of safety: a stronger one may exist. Only the certificate speaks about all of them.",
]
SIZES = {"total": "over the episode (l2)", "l2": "at each step (l2)", "linf": "at each step (largest change)"}
"""What a budget bounds, in words that follow it: `0.2 at each step (l2)`."""
DRAWN = 2  # attacks on one policy in one chart, at most: of more, the worst
OWN_UNITS = " of the policy"  # marks norms of budgets that are counted in the units to which the policy scales observations


@dataclass(frozen=True)
class Level:
    """One budget: the certified lower bound, or the mean return under attack with its interval (None: the attack failed)."""

    budget: float
    value: float | None
    low: float = -np.inf
    high: float = np.inf
    vanished: float = 0.0  # share of the attack's gradients that were zero


@dataclass(frozen=True)
class Finding:
    """What was found out about one policy: a certificate (`kind` None) or the curve of an attack."""

    arm: Arm
    kind: str | None
    whom: Whom
    sigma: float
    env: str
    max_steps: int | None
    norm: str  # what a budget bounds: returns under different ones do not compare
    episodes: int
    levels: tuple[Level, ...]
    file: str  # of the evidence, without its ending
    mean: Interval | None = None  # of the episodes behind a certificate
    confidence: float = 0.95

    @property
    def who(self) -> str:
        own = self.arm.noise
        label = self.arm.label.replace(f" with noise {own:g}", "") + (f" ({self.whom.which})" if self.whom.which else "")
        noise = f"with noise {self.sigma:g}" if self.sigma > 0.0 else "without noise"
        if self.sigma == own:
            return f"{label} {noise}"
        return f"{label} trained with noise {own:g}, acting {noise}" if own else f"{label} acting {noise}"

    @property
    def name(self) -> str:
        if self.kind is None:
            return f"{self.who}: certified"
        return f"{self.who}: {self.kind} attack{'s' if self.kind.startswith('worst of ') else ''}"

    def speaks_of(self, other: Finding) -> bool:
        """Both are about the same policy in the same place."""
        same = ("whom", "sigma", "env", "max_steps", "norm")
        return self.arm is other.arm and all(getattr(self, name) == getattr(other, name) for name in same)


# --- reading --------------------------------------------------------------------------------------------------------


def findings(arms: Sequence[Arm]) -> list[Finding]:
    """All certificates and attacks, certificates first."""
    found = [finding for arm in arms for stem, data in arm.evidence.items() for finding in read_curves(arm, stem, data)]
    return sorted(found, key=lambda finding: (finding.kind is not None, -finding.sigma))


def read_curves(arm: Arm, stem: str, data: Mapping[str, Any]) -> list[Finding]:
    """One finding a member; none if the file is of another form."""
    try:
        members = data["members"]
        certificate = "lower" in members[0]
        kind = None if certificate else text(data["kind"])
        base: dict[str, Any] = {
            "arm": arm,
            "kind": kind,
            "sigma": finite(data["sigma"]),
            "env": text(data["env"], 60),
            "max_steps": None if data.get("max_steps") is None else int(data["max_steps"]),
            "norm": "total" if certificate else _norm(data),
            "episodes": int(data["episodes"]),
            "file": stem,
        }
        if certificate:
            base["confidence"] = 1.0 - finite(data["alpha"])
        budgets = [finite(b) for b in data["budgets"]]
        found = []
        for member in members:
            if certificate:
                levels = [Level(b, finite(x)) for b, x in zip(budgets, member["lower"], strict=True)]
            else:
                zero = member.get("vanished") or [0.0] * len(budgets)
                columns = zip(budgets, member["mean"], member["low"], member["high"], zero, strict=True)
                levels = [Level(b, *_attacked(mean, low, high), finite(share or 0.0)) for b, mean, low, high, share in columns]
            levels = sorted((level for level in levels if level.budget >= 0.0), key=lambda level: level.budget)
            whom = whom_of(stem, int(member["member"]), len(members))
            mean = _mean(member) if certificate else None
            found.append(Finding(**base, whom=whom, levels=tuple(levels), mean=mean))
    except MALFORMED:
        return []
    return [finding for finding in found if finding.levels]


def _norm(data: Mapping[str, Any]) -> str:
    """A budget in the policy's own units bounds something else than one in the observation's."""
    return text(data["norm"]) + (OWN_UNITS if data.get("units") == "policy" else "")


def size(norm: str) -> str:
    """What a budget of this norm bounds, in words."""
    said = SIZES.get(norm.removesuffix(OWN_UNITS), f"({norm.removesuffix(OWN_UNITS)})")
    return said[:-1] + ", in the policy's own units)" if norm.endswith(OWN_UNITS) else said


def _mean(member: Mapping[str, Any]) -> Interval:
    """The mean return behind a certificate; its interval is known if the file holds the returns."""
    returns = [finite(x) for x in member.get("returns") or ()]
    return mean_interval(returns) if len(returns) > 1 else Interval(finite(member["mean"]), -np.inf, np.inf)


def _attacked(mean: Any, low: Any, high: Any) -> tuple[float | None, float, float]:
    value = None if mean is None else finite(mean)
    return value, -np.inf if low is None else finite(low), np.inf if high is None else finite(high)


def at_least(bound: float) -> str:
    """A lower bound with four digits, never rounded up."""
    if bound == 0.0 or not np.isfinite(bound):
        return number(bound)
    scale = 10.0 ** (3 - np.floor(np.log10(abs(bound))))
    return number(float(np.floor(bound * scale + 1e-6) / scale))


# --- agreement ------------------------------------------------------------------------------------------------------


def promised(certificate: Finding, budget: float) -> float | None:
    """What the certificate promises at a budget: its bound there, or at the next larger budget that was certified."""
    levels = [level.value for level in certificate.levels if level.budget >= budget - 1e-9]
    return levels[0] if levels else None


def broken(certificate: Finding, attack: Finding) -> list[Level]:
    """Budgets at which an attack did more than the certificate allows, by more than the error of sampling."""
    bounds = [(level, promised(certificate, level.budget)) for level in attack.levels if level.value is not None]
    return [level for level, bound in bounds if bound is not None and level.value is not None and min(level.high, np.inf) < bound]


def said(arms: Sequence[Arm]) -> list[Markup]:
    """One sentence or two for each certificate."""
    found = findings(arms)
    sentences = []
    for certificate in (f for f in found if f.kind is None):
        at = telling(certificate)
        text = Markup(
            "<b>{}</b> on <b>{}</b> earns {} on average. Certified: whoever changes its observations by at most {} over an episode"
        )
        text = text.format(
            certificate.who, certificate.env, number(certificate.mean.value if certificate.mean else np.nan), f"{at.budget:g}"
        )
        bound = at_least(at.value if at.value is not None else -np.inf)
        text += Markup(" cannot push its mean return below <b>{}</b> (confidence {:.4g} %).").format(bound, 100 * certificate.confidence)
        attacks = [f for f in found if f.kind is not None and f.speaks_of(certificate)]
        if any(broken(certificate, attack) for attack in attacks):
            text += Markup(" <b>An attack pushed it below a certified bound, which should not happen: please report it.</b>")
        elif attacks:
            kinds = listed([str(attack.kind) for attack in attacks])
            text += Markup(" A real attack ({}) left it above the bound at every size that was tried.").format(kinds)
        sentences.append(text)
    return sentences


def telling(certificate: Finding) -> Level:
    """The level to speak of: the largest budget up to half of sigma, where certificates say most; else the smallest above zero."""
    above = [level for level in certificate.levels if level.budget > 0.0] or list(certificate.levels)
    return ([level for level in above if level.budget <= 0.5 * certificate.sigma + 1e-9] or above[:1])[-1]


# --- section --------------------------------------------------------------------------------------------------------


def robustness(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Charts of return over budget, one for each place and kind of budget, and the numbers; None if there is no evidence."""
    found = findings(arms)
    if not found:
        return None
    places = list(dict.fromkeys((f.env, f.max_steps, f.norm) for f in found))
    drawn = [_figure(*key, [f for f in found if (f.env, f.max_steps, f.norm) == key]) for key in places]
    certificates = [f for f in found if f.kind is None]
    tables = [_agreement(c, [f for f in found if f.kind is not None and f.speaks_of(c)]) for c in certificates]
    alone = [f for f in found if f.kind is not None and not any(f.speaks_of(c) for c in certificates)]
    tables += [_attack_table(attacks) for attacks in _together(alone)]
    return {"lead": LEAD, "figures": drawn, "tables": tables, "notes": NOTES if certificates else NOTES[1:]}


def _figure(env: str, max_steps: int | None, norm: str, found: Sequence[Finding]) -> Figure:
    drawn, marks, ends = [], [], []
    attacks = [f for f in found if f.kind is not None]
    several = [own for own in _together(attacks) if len(own) > DRAWN]
    merged = [worst_of(own) for own in several]
    for f in [*(f for f in found if not any(f in own for own in several)), *merged]:
        levels = [level for level in f.levels if level.value is not None]
        if not levels:
            continue
        budgets, values = [level.budget for level in levels], [level.value for level in levels if level.value is not None]
        known = all(np.isfinite((level.low, level.high)).all() for level in levels) and f.kind is not None
        low, high = ([level.low for level in levels], [level.high for level in levels]) if known else ((), ())
        curve = Budgets(f.arm.place, budgets, values, low, high, bound=f.kind is None, hollow=f.sigma == 0.0)
        drawn.append(curve)
        marks.append((figures.mark(curve), shortened(f.name, 60)))
        ends.append(f"{f.name} {number(values[0])} at budget {budgets[0]:g} and {number(values[-1])} at {budgets[-1]:g}")
    alt = f"Mean return over attack budget: {listed(ends)}."
    drawing = figures.robustness(drawn, x=f"attack budget {size(norm)}", y="mean return", alt=alt)
    caption = "Shaded: what no attacker within the budget can prevent." if any(d.bound for d in drawn) else ""
    caption += " Of several attacks the worst at each budget is drawn." if merged else ""
    return Figure(place(env, max_steps), drawing, caption.strip(), marks)


def _together(attacks: Sequence[Finding]) -> list[list[Finding]]:
    """The attacks on one policy in one place under one norm."""
    found: list[list[Finding]] = []
    for attack in attacks:
        own = next((own for own in found if own[0].speaks_of(attack)), None)
        found.append([attack]) if own is None else own.append(attack)
    return found


def worst_of(attacks: Sequence[Finding]) -> Finding:
    """One curve of several attacks on one policy: at each budget the lowest of those that did not fail."""
    budgets = sorted({level.budget for attack in attacks for level in attack.levels})
    known = [[x for attack in attacks for x in attack.levels if x.budget == budget and x.value is not None] for budget in budgets]
    levels = tuple(min(found, key=lambda level: level.value or 0.0) for found in known if found)
    return replace(attacks[0], kind=f"worst of {len(attacks)}", levels=levels)


def _agreement(certificate: Finding, attacks: Sequence[Finding]) -> Table:
    """A row a budget: the bound, what each attack did, whether they agree."""
    budgets = sorted({level.budget for f in (certificate, *attacks) for level in f.levels})
    columns = [Column("budget"), Column("certified: at least", True), *(Column(f"{f.kind} attack [95\u00a0%]", True) for f in attacks)]
    rows = []
    for budget in budgets:
        own = next((level.value for level in certificate.levels if abs(level.budget - budget) < 1e-9), None)
        row: list[Any] = [f"{budget:g}", "–" if own is None else at_least(own)]
        verdicts = []
        for attack in attacks:
            level = next((level for level in attack.levels if abs(level.budget - budget) < 1e-9), None)
            row.append(_cell(level))
            if level is not None and level.value is not None and promised(certificate, budget) is not None:
                verdicts.append("no" if level in broken(certificate, attack) else "yes")
        rows.append(row + ["no" if "no" in verdicts else "yes" if verdicts else "–"] if attacks else row)
    sure = f"{100 * certificate.confidence:.4g} %"
    name = f"{certificate.who}: certified with confidence {sure} from {plural(certificate.episodes, 'episode')}"
    return Table(name, columns + ([Column("holds")] if attacks else []), rows, compact=len(attacks) <= 1)


def _attack_table(attacks: Sequence[Finding]) -> Table:
    """A row a budget of one attack; of several on one policy a row an attack."""
    first = attacks[0]
    if len(attacks) == 1:
        rows = [(f"{level.budget:g}", _cell(level)) for level in first.levels]
        name = f"{first.name}, {plural(first.episodes, 'episode')} a budget"
        return Table(name, [Column("budget"), Column(f"mean return {RANGE}", True)], rows, compact=True)
    budgets = sorted({level.budget for attack in attacks for level in attack.levels})
    columns = [Column("attack"), *(Column(f"budget {budget:g}", True) for budget in budgets)]
    at = [{level.budget: level for level in attack.levels} for attack in attacks]
    many = [(str(attack.kind), *(_cell(levels.get(budget)) for budget in budgets)) for attack, levels in zip(attacks, at, strict=True)]
    return Table(f"{first.who}: mean return {RANGE} under {len(attacks)} attacks, budgets {size(first.norm)}", columns, many)


def _cell(level: Level | None) -> str:
    if level is None:
        return "–"
    return "failed" if level.value is None else words(Interval(level.value, level.low, level.high))
