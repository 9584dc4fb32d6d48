"""The card's chart of what is certified: the return over an attacker's budget, or the share of choices that no small change alters."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.blocks import Figure
from surefoot.evaluation.reporting.commands import lacking
from surefoot.evaluation.reporting.dossier import Dossier
from surefoot.evaluation.reporting.evidence import Actions
from surefoot.evaluation.reporting.figures import Budgets
from surefoot.evaluation.reporting.findings import listed, percent, plural
from surefoot.evaluation.reporting.robustness import Finding, at_least, size, telling

HEIGHT = 1.45  # inches


def certified_drawn(dossier: Dossier) -> Figure:
    """The return if there is a certificate of it, else the choices."""
    if dossier.certificates:
        return _returns(dossier)
    if dossier.actions is not None:
        return _choices(dossier, dossier.actions)
    if dossier.certified_with:
        return Figure("Certified", Markup('<p class="none">Not without noise: the policy {}.</p>').format(only_with_noise(dossier)))
    return lacking(dossier, "Certified", "certify")


def only_with_noise(dossier: Dossier) -> str:
    noise = listed([f"{sigma:g}" for sigma in dossier.certified_with])
    return f"acting with noise of {noise} has a card of its own"


def _returns(dossier: Dossier) -> Figure:
    """Bounds over the budget, and what attacks on the same policy under the same norm did."""
    certificates, arm = dossier.certificates, dossier.arm.place
    lowest = min(certificates, key=lambda each: telling(each).value or 0.0)
    known = [(level.budget, level.value) for level in lowest.levels if level.value is not None]
    drawn = [Budgets(arm, [budget for budget, _ in known], [bound for _, bound in known], bound=True)]
    attacks = [_dots(arm, curve) for attack in dossier.attacks for curve in attack.curves if curve.speaks_of(lowest)]
    attacks = [curve for curve in attacks if curve.values]
    alt = f"Certified mean return: {listed([f'{at_least(bound)} at budget {budget:g}' for budget, bound in known])}."
    x = f"attack budget {size('total')}"
    drawing = figures.robustness([*drawn, *attacks], x=x, y="mean return", alt=alt, height=HEIGHT)
    caption = f"Shaded: what no attacker can prevent (confidence {percent(lowest.confidence)})."
    caption += " Dots: attacks." if attacks else ""
    caption += f" Shown: {lowest.whom.which}, the lowest." if len(certificates) > 1 else ""
    caption += f" {_choices_said(dossier.actions)}" if dossier.actions is not None else ""
    return Figure("Certified return", drawing, caption)


def _dots(arm: int, curve: Finding) -> Budgets:
    known = [(level, level.value) for level in curve.levels if level.value is not None]
    sure = all(np.isfinite((level.low, level.high)).all() for level, _ in known)
    low, high = ([level.low for level, _ in known], [level.high for level, _ in known]) if sure else ((), ())
    return Budgets(arm, [level.budget for level, _ in known], [value for _, value in known], low, high)


def _choices(dossier: Dossier, actions: Actions) -> Figure:
    curve = Budgets(dossier.arm.place, actions.radii.tolist(), actions.certified.tolist(), bound=True)
    shares = [f"{percent(share)} at radius {radius:g}" for radius, share in zip(actions.radii, actions.certified, strict=True)]
    alt = f"Share of states with a certified action: {listed(shares)}."
    drawing = figures.robustness([curve], x="change of the observation (l2)", y="share of states", alt=alt, height=HEIGHT)
    members = len(dossier.of(Actions))
    who = f" Shown: {actions.place.whom.which}, the lowest of {members}." if members > 1 else ""
    return Figure("Certified actions", drawing, _choices_said(actions) + who)


def _choices_said(actions: Actions) -> str:
    """What the shares are shares of, and of which choice: it is not simply the policy's own."""
    same = "" if actions.same is None else f", which is its own in {percent(actions.same)}"
    none = f"; in {percent(actions.abstained)} nothing is certified" if actions.abstained else ""
    said = f"Of {plural(actions.states, 'state')} of its episodes, those where no such change alters the action chosen on average over"
    return f"{said} {actions.noise}{same} (confidence {percent(actions.confidence)} each){none}."
