"""The report's part on tampered observations: what is certified, what a real attack did, and whether the two agree.

Reads what `surefoot certify` and `surefoot attack` leave in a run's `evidence/` folder; what is not of their form is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.arms import Arm, shortened
from surefoot.evaluation.reporting.blocks import Column, Figure, Table, place
from surefoot.evaluation.reporting.figures import Budgets, number
from surefoot.evaluation.reporting.findings import listed, plural, words
from surefoot.evaluation.statistics import Interval

LEAD = (
    "Somebody changes what the policy observes. A budget bounds the sum of all changes of an episode (their total l2 norm, in units of"
    " the observation). A certificate is a promise about every attacker within the budget; an attack is one attacker, really played."
)
NOTES = [
    "The certificate is about the mean return of the policy with its noise, in this environment, and about changes of observations"
    " alone: not about other dynamics, about changed actions, or about a single episode (Kumar, Levine and Feizi 2022).",
    "An attack that does little is no proof of safety: a stronger one may exist. Only the certificate speaks about all of them.",
]
NORMS = {
    "total": "attack budget over the episode (l2)",
    "l2": "attack budget at each step (l2)",
    "linf": "attack budget at each step (largest change)",
}


@dataclass(frozen=True)
class Level:
    """One budget: the certified lower bound, or the mean return under attack with its interval (None: the attack failed)."""

    budget: float
    value: float | None
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Finding:
    """What was found out about one policy: a certificate (`kind` None) or the curve of an attack."""

    arm: Arm
    kind: str | None
    which: str  # of the run's policies, in words
    sigma: float
    env: str
    max_steps: int | None
    norm: str
    episodes: int
    levels: tuple[Level, ...]
    mean: float | None = None  # of the episodes behind a certificate
    confidence: float = 0.95

    @property
    def who(self) -> str:
        own = self.arm.noise
        label = self.arm.label.replace(f" with noise {own:g}", "") + (f" ({self.which})" if self.which else "")
        noise = f"with noise {self.sigma:g}" if self.sigma > 0.0 else "without noise"
        if self.sigma == own:
            return f"{label} {noise}"
        return f"{label} trained with noise {own:g}, acting {noise}" if own else f"{label} acting {noise}"

    @property
    def name(self) -> str:
        return f"{self.who}: certified" if self.kind is None else f"{self.who}: {self.kind} attack"

    def speaks_of(self, other: Finding) -> bool:
        """Both are about the same policy in the same place."""
        same = ("which", "sigma", "env", "max_steps", "norm")
        return self.arm is other.arm and all(getattr(self, name) == getattr(other, name) for name in same)


# --- reading --------------------------------------------------------------------------------------------------------


def findings(arms: Sequence[Arm]) -> list[Finding]:
    """All certificates and attacks, certificates first."""
    found = [finding for arm in arms for stem, data in arm.evidence.items() for finding in _read(arm, stem, data)]
    return sorted(found, key=lambda finding: (finding.kind is not None, -finding.sigma))


def _read(arm: Arm, stem: str, data: Mapping[str, Any]) -> list[Finding]:
    """One finding a member; none if the file is of another form."""
    try:
        members = data["members"]
        certificate = "lower" in members[0]
        kind = None if certificate else str(data["kind"])
        base: dict[str, Any] = {
            "arm": arm,
            "kind": kind,
            "sigma": float(data["sigma"]),
            "env": str(data["env"]),
            "max_steps": None if data.get("max_steps") is None else int(data["max_steps"]),
            "norm": "total" if certificate else str(data["norm"]),
            "episodes": int(data["episodes"]),
        }
        if certificate:
            base["confidence"] = 1.0 - float(data["alpha"])
        budgets = [float(b) for b in data["budgets"]]
        found = []
        for member in members:
            if certificate:
                levels = [Level(b, float(x)) for b, x in zip(budgets, member["lower"], strict=True)]
            else:
                columns = zip(budgets, member["mean"], member["low"], member["high"], strict=True)
                levels = [Level(b, *_attacked(mean, low, high)) for b, mean, low, high in columns]
            number_of = int(member["member"]) if len(members) > 1 else _member_in(stem)
            mean = float(member["mean"]) if certificate else None
            found.append(Finding(**base, which=_which(stem, number_of), levels=tuple(sorted(levels, key=lambda x: x.budget)), mean=mean))
    except (KeyError, IndexError, TypeError, ValueError):
        return []
    return found


def _attacked(mean: Any, low: Any, high: Any) -> tuple[float | None, float, float]:
    return None if mean is None else float(mean), -np.inf if low is None else float(low), np.inf if high is None else float(high)


def _member_in(stem: str) -> int | None:
    match = re.search(r"@(\d+)$", stem)
    return int(match[1]) if match else None


def _which(stem: str, member: int | None) -> str:
    parts = ["best"] if "-best" in stem else []
    return ", ".join(parts + ([f"seed {member + 1}"] if member is not None else []))


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
        at = _telling(certificate)
        text = Markup(
            "<b>{}</b> on <b>{}</b> earns {} on average. Certified: whoever changes its observations by at most {} over an episode"
        )
        text = text.format(certificate.who, certificate.env, number(certificate.mean or 0.0), f"{at.budget:g}")
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


def _telling(certificate: Finding) -> Level:
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
    tables += [_attack_table(f) for f in alone]
    return {"lead": LEAD, "figures": drawn, "tables": tables, "notes": NOTES if certificates else NOTES[1:]}


def _figure(env: str, max_steps: int | None, norm: str, found: Sequence[Finding]) -> Figure:
    drawn, marks, ends = [], [], []
    for f in found:
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
    drawing = figures.robustness(drawn, x=NORMS.get(norm, "attack budget"), y="mean return", alt=alt)
    caption = "Shaded: what no attacker within the budget can prevent." if any(d.bound for d in drawn) else ""
    return Figure(place(env, max_steps), drawing, caption, marks)


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


def _attack_table(attack: Finding) -> Table:
    rows = [(f"{level.budget:g}", _cell(level)) for level in attack.levels]
    name = f"{attack.name}, {plural(attack.episodes, 'episode')} a budget"
    return Table(name, [Column("budget"), Column("mean return [95\u00a0%]", True)], rows, compact=True)


def _cell(level: Level | None) -> str:
    if level is None:
        return "–"
    return "failed" if level.value is None else words(Interval(level.value, level.low, level.high))
