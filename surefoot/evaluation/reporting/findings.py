"""What the numbers of some runs say, in sentences that a newcomer understands and a statistician need not object to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from markupsafe import Markup

from surefoot.evaluation.reporting.arms import Arm, Scores
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.statistics import Comparison, Interval, holm, probability_of_improvement, welch

Unit = Literal["seeds", "episodes"]
"""What comparisons draw from."""


@dataclass(frozen=True)
class Pair:
    """Two arms compared: first minus second, p corrected for the number of pairs, and how often the first does better."""

    first: Arm
    second: Arm
    difference: Comparison
    p: float
    better: Interval

    @property
    def name(self) -> str:
        return f"{self.first.label} − {self.second.label}"

    @property
    def gain(self) -> Interval:
        return Interval(self.difference.difference, self.difference.low, self.difference.high)


def words(interval: Interval) -> str:
    """`value [low, high]`, or the value alone where nothing is known about its spread."""
    known = np.isfinite(interval.low) and np.isfinite(interval.high)
    return number(interval.value) + (f" [{number(interval.low)}, {number(interval.high)}]" if known else "")


def p_words(p: float) -> str:
    return "p < 0.001" if p < 1e-3 else f"p = {p:.2g}"


def percent(share: float) -> str:
    """`38 %`, `99.9 %` where that is nearer than a whole number would be, with a blank that does not break."""
    text = f"{100.0 * share:.4g}" if share > 0.99 else f"{100.0 * share:.0f}"
    return text + "\u00a0%"


def plural(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def unit(arms: Sequence[Arm]) -> Unit | None:
    """'seeds' for fleets, 'episodes' for lone policies, None where both are mixed."""
    lone = {len(arm.last.returns) == 1 for arm in arms if arm.last}
    return None if len(lone) != 1 else "episodes" if lone.pop() else "seeds"


def pairs(arms: Sequence[Arm]) -> list[Pair]:
    """Every two arms with final returns, the better one first; none where fleets and lone policies are mixed."""
    scored = sorted(_scored(arms), key=lambda arm_scores: -arm_scores[1].mean.value)
    if unit(arms) is None:
        return []
    found = [
        (a, b, welch(x.sample, y.sample), probability_of_improvement(x.sample, y.sample)) for (a, x), (b, y) in combinations(scored, 2)
    ]
    corrected = holm([test.p for _, _, test, _ in found])
    return [Pair(a, b, test, p, better) for (a, b, test, better), p in zip(found, corrected, strict=True)]


def returns_said(env: str, arms: Sequence[Arm]) -> list[Markup]:
    """Who did best in one environment, by how much, and how sure that is."""
    scored = sorted(_scored(arms), key=lambda arm_scores: -arm_scores[1].mean.value)
    if not scored:
        return []
    (first, best), rest = scored[0], scored[1:]
    over = plural(best.returns.shape[1], "episode")
    if len(best.returns) > 1:
        over = f"{plural(len(best.returns), 'seed')}, {over} each"
    if not rest:
        sentence = Markup("On <b>{}</b>, {} reaches a mean return of <b>{}</b> ({}).")
        return [sentence.format(env, first.label, words(best.mean), over)]
    against = [pair for pair in pairs(arms) if pair.first is first]
    clear = [f"{pair.second.label} by {words(pair.gain)} ({p_words(pair.p)})" for pair in against if pair.p < 0.05]
    unclear = [pair.second.label for pair in against if pair.p >= 0.05]
    best_said = Markup("did best: a mean return of" if clear else "has the highest mean return,")
    said = Markup("On <b>{}</b>, <b>{}</b> {} <b>{}</b> ({}).").format(env, first.label, best_said, words(best.mean), over)
    if clear:
        said += Markup(" It beats {}.").format(listed(clear))
    if unclear:
        said += Markup(" Its lead over {} may be chance.").format(listed(unclear))
    if against and unit(arms) == "episodes":
        said += Markup(" This is about these policies; about the methods, one seed each says little.")
    return [said]


def _scored(arms: Sequence[Arm]) -> list[tuple[Arm, Scores]]:
    return [(arm, arm.last) for arm in arms if arm.last is not None]
