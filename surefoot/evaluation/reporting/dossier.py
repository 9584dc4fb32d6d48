"""All evidence about one policy, from wherever in the run's folder it lies: what a robustness card is made from.

A policy with other noise, in another environment or under another limit of steps is another policy: it has a dossier of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from surefoot.envs.making import time_limit
from surefoot.errors import SurefootError
from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.evidence import Actions, Diagnosis, Evidence, Stress, pieces
from surefoot.evaluation.reporting.findings import plural
from surefoot.evaluation.reporting.robustness import Finding, Level
from surefoot.evaluation.reporting.whom import Whom, named_in
from surefoot.evaluation.statistics import Interval, mean_interval

Kind = TypeVar("Kind", Stress, Diagnosis, Actions)


@dataclass(frozen=True)
class Measured:
    """One quantity of each policy of a dossier: of one, or of the members of a fleet. Where an attack failed there is none."""

    members: tuple[tuple[int | None, Interval], ...]
    failed: int = 0
    given: Interval | None = None  # of all members together, where it was computed from every episode

    @cached_property
    def overall(self) -> Interval:
        """The lone policy's own interval, or that of the mean over members."""
        if self.given is not None:
            return self.given
        intervals = [interval for _, interval in self.members]
        return intervals[0] if len(intervals) == 1 else mean_interval([interval.value for interval in intervals])

    @property
    def lowest(self) -> tuple[int | None, Interval]:
        return min(self.members, key=lambda member: member[1].value)

    @property
    def values(self) -> list[float]:
        return [interval.value for _, interval in self.members]


@dataclass(frozen=True)
class Clean:
    """The return that nobody disturbs, and how it is known."""

    measured: Measured
    source: str
    file: str  # of the run's folder


@dataclass(frozen=True)
class Attacked:
    """One attack on the policies of a dossier: one curve a member."""

    kind: str
    norm: str
    curves: tuple[Finding, ...]

    @property
    def budgets(self) -> list[float]:
        """Those above zero at which anything was played."""
        return sorted({level.budget for curve in self.curves for level in curve.levels if level.budget > 0.0})

    def levels(self, budget: float) -> list[tuple[int | None, Level]]:
        return [(c.whom.member, level) for c in self.curves for level in c.levels if np.isclose(level.budget, budget, rtol=1e-6, atol=0.0)]

    def at(self, budget: float) -> Measured | None:
        """The returns at a budget; None where it was not played."""
        levels = self.levels(budget)
        known = [(member, Interval(level.value, level.low, level.high)) for member, level in levels if level.value is not None]
        return Measured(tuple(known), len(levels) - len(known)) if levels else None


@dataclass(frozen=True, eq=False)
class Dossier:
    """`whom.member` None: the lone policy, or the whole fleet."""

    arm: Arm
    whom: Whom
    sigma: float
    env: str | None
    limit: int | None
    evidence: tuple[Evidence, ...] = ()
    certified_with: tuple[float, ...] = ()  # noise with which the same policy has a certificate, on a card of its own

    @property
    def name(self) -> str:
        """As `robustness.Finding.who` says it, without the noise where that is what the policy learned with."""
        label = self.arm.label + (f" ({self.whom.which})" if self.whom.which else "")
        if self.sigma == self.arm.noise:
            return label
        return f"{label}, acting {f'with noise {self.sigma:g}' if self.sigma else 'without noise'}"

    @property
    def reference(self) -> str:
        """What names the policy on a command line."""
        return self.arm.reference + self.whom.suffix

    @property
    def members(self) -> int:
        """Policies that the dossier is about."""
        of = self.arm.seeds or 1
        return 1 if self.whom.member is not None else max(of, *(len(found) for found in self._by_sort.values()), 1)

    @cached_property
    def _by_sort(self) -> dict[tuple[str, ...], list[Evidence]]:
        found: dict[tuple[str, ...], list[Evidence]] = {}
        for piece in self.evidence:
            found.setdefault(_sort(piece), []).append(piece)
        return found

    @property
    def attacks(self) -> list[Attacked]:
        curves = [(sort, found) for sort, found in self._by_sort.items() if sort[0] == "attack"]
        return [Attacked(sort[1], sort[2], tuple(piece for piece in found if isinstance(piece, Finding))) for sort, found in curves]

    @property
    def certificates(self) -> list[Finding]:
        return [piece for piece in self.evidence if isinstance(piece, Finding) and piece.kind is None]

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The pieces of one kind, one a member."""
        return [piece for piece in self.evidence if isinstance(piece, kind)]

    @property
    def stress(self) -> Stress | None:
        """Of the member that does worst."""
        return min(self.of(Stress), key=lambda stress: stress.worst.value, default=None)

    @property
    def actions(self) -> Actions | None:
        """Of the member with the fewest certified choices."""
        return min(self.of(Actions), key=lambda actions: float(actions.certified.mean()), default=None)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Of the member that is most one-sided."""
        return max(self.of(Diagnosis), key=lambda diagnosis: diagnosis.explained, default=None)

    @cached_property
    def clean(self) -> Clean | None:
        """From the run's own evaluation, if it is about this policy in this place; else from what the evidence says of no attack."""
        return _evaluated(self) or _beside(self)


def norms(dossier: Dossier) -> dict[str, list[Attacked]]:
    """The attacks by what their budget bounds: returns under budgets of different norms do not compare."""
    found: dict[str, list[Attacked]] = {}
    for attack in dossier.attacks:
        found.setdefault(attack.norm, []).append(attack)
    return found


# --- putting evidence together --------------------------------------------------------------------------------------


def dossiers(arms: Sequence[Arm]) -> list[Dossier]:
    """One for each policy that there is evidence about, and one for each run without any. Classifiers act nowhere, and have none."""
    return [dossier for arm in arms if arm.acts for dossier in _of_run(arm)]


def _of_run(arm: Arm) -> list[Dossier]:
    found = [(named_in(stem), piece) for stem, data in arm.evidence.items() for piece in pieces(arm, stem, data)]
    limit = _limit(arm, (piece for _, piece in found))
    keyed = [((named, *_where(piece, arm, limit)), piece) for named, piece in found]
    keys = sorted({key for key, _ in keyed}, key=lambda key: (key[0].best, key[0].member or 0, key[1] != arm.noise, str(key[2:])))
    if not keys:
        return [Dossier(arm, Whom(), arm.noise, arm.env, limit)]
    certified = [key for key, piece in keyed if isinstance(piece, Finding) and piece.kind is None]
    found_of = {key: tuple(_about(key, keyed)) for key in keys}
    with_noise = {
        key: tuple(sorted({other[1] for other in certified if other != key and _but_noise(other) == _but_noise(key)})) for key in keys
    }
    return [Dossier(arm, *key, evidence=found_of[key], certified_with=with_noise[key]) for key in keys]


Key = tuple[Whom, float, str, int | None]


def _about(key: Key, keyed: Sequence[tuple[Key, Evidence]]) -> list[Evidence]:
    """What bears this key, and for one member what its fleet's files say about it, unless it has its own of that sort."""
    own = [piece for other, piece in keyed if other == key]
    named, *where = key
    if named.member is None:
        return own
    fleet = [piece for other, piece in keyed if other == (Whom(named.best), *where) and _whom(piece) == named]
    sorts = {_sort(piece) for piece in own}
    return own + [piece for piece in fleet if _sort(piece) not in sorts]


def _but_noise(key: Key) -> tuple[Whom, str, int | None]:
    return key[0], key[2], key[3]


def _whom(piece: Evidence) -> Whom:
    return piece.whom if isinstance(piece, Finding) else piece.place.whom


def evidence_file(piece: Evidence) -> str:
    """Where a piece lies in the run's folder."""
    return f"evidence/{piece.file if isinstance(piece, Finding) else piece.place.file}.json"


def _where(piece: Evidence, arm: Arm, limit: int | None) -> tuple[float, str, int | None]:
    """Noise, environment and limit; a limit that a file does not name is the run's own.

    Certified choices belong to the policy as the run has it, whose states they are about; their noise is that of the averaging.
    """
    place = piece if isinstance(piece, Finding) else piece.place
    own = limit if place.env == arm.env or arm.env is None else None
    noise = arm.noise if isinstance(piece, Actions) else place.sigma
    return noise, place.env, place.max_steps if place.max_steps is not None else own


def _sort(piece: Evidence) -> tuple[str, ...]:
    if isinstance(piece, Finding):
        return ("certificate",) if piece.kind is None else ("attack", piece.kind, piece.norm)
    return (type(piece).__name__,)


def _limit(arm: Arm, found: Iterable[Evidence]) -> int | None:
    """The run's limit of steps, or its environment's own; where that is not known here, what the evidence names first."""
    try:
        return time_limit(arm.env, arm.max_steps) if arm.env else arm.max_steps
    except SurefootError:
        places = (piece if isinstance(piece, Finding) else piece.place for piece in found)
        return next((place.max_steps for place in places if place.max_steps is not None), None)


# --- the return without attack --------------------------------------------------------------------------------------


def _evaluated(dossier: Dossier) -> Clean | None:
    arm, member = dossier.arm, dossier.whom.member
    scores = arm.best if dossier.whom.best else arm.last
    if scores is None or dossier.sigma != arm.noise or dossier.env != arm.env or dossier.limit != _limit(arm, ()):
        return None
    returns = scores.returns
    if member is not None and member >= len(returns):
        return None
    rows = [(member, returns[member])] if member is not None else [(i if len(returns) > 1 else None, row) for i, row in enumerate(returns)]
    over = f"{plural(returns.shape[1], 'episode')}{' each' if len(rows) > 1 else ''}"
    if len(returns) == 1:
        return Clean(Measured(((member, scores.mean),)), over, "result.json")
    given = scores.mean if member is None else None
    return Clean(Measured(tuple((i, mean_interval(row)) for i, row in rows), given=given), over, "result.json")


def _beside(dossier: Dossier) -> Clean | None:
    """The return at budget 0 of an attack, of a certificate's episodes, or in the nominal physics."""
    for attack in dossier.attacks:
        measured = attack.at(0.0)
        if measured is not None and measured.members:
            first = attack.curves[0]
            return Clean(measured, f"{plural(first.episodes, 'episode')}, played beside the {attack.kind} attack", evidence_file(first))
    certified = [(c.whom.member, c.mean) for c in dossier.certificates if c.mean is not None]
    if certified:
        behind = dossier.certificates[0]
        return Clean(Measured(tuple(certified)), f"{plural(behind.episodes, 'episode')} behind the certificate", evidence_file(behind))
    stressed = [stress for stress in dossier.of(Stress) if stress.nominal is not None]
    nominal = tuple((stress.place.whom.member, stress.nominal) for stress in stressed if stress.nominal is not None)
    return Clean(Measured(nominal), "in the nominal physics", evidence_file(stressed[0])) if nominal else None
