"""What `surefoot stress`, `diagnose` and `certify --actions` leave in a run's `evidence/` folder, as the robustness card needs it.

Attacks and certificates of returns are read by `robustness.py`, certificates at single inputs by `at_inputs.py`, comparisons of language
models by `aligned.py`. A file of another
form is passed over: `unread` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from surefoot.evaluation.reporting.aligned import read_comparison
from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.at_inputs import read_at_inputs
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.robustness import Finding, read_curves
from surefoot.evaluation.reporting.whom import MALFORMED, Whom, finite, text, whom_of
from surefoot.evaluation.statistics import Interval


@dataclass(frozen=True)
class Place:
    """Whose and where a piece of evidence is; a file that names no noise was played without any. `max_steps` None: not named."""

    file: str  # without its ending
    whom: Whom
    sigma: float
    env: str
    max_steps: int | None
    episodes: int


@dataclass(frozen=True)
class Parameter:
    """One number of the environment's physics, and the values that were tried on a grid (none if they were searched for)."""

    name: str
    nominal: float | None
    unit: str = ""
    values: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Stress:
    """Returns of one policy over a set of physics: P points of k parameters."""

    place: Place
    parameters: tuple[Parameter, ...]
    points: np.ndarray  # [P, k]
    means: np.ndarray  # [P]
    low: np.ndarray  # [P], -inf where not known
    high: np.ndarray  # [P]
    worst: Interval
    worst_at: np.ndarray  # [k]
    nominal: Interval | None
    grid: bool

    @property
    def at(self) -> str:
        """The worst point in words: `pole length 2 m, cart mass 0.5 kg`."""
        pairs = zip(self.parameters, self.worst_at, strict=True)
        return ", ".join(f"{p.name.replace('_', ' ')} {number(float(x))}{f' {p.unit}' if p.unit else ''}" for p, x in pairs)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The direction of the observation to which one policy's decision is most sensitive, over `states` states."""

    place: Place
    direction: np.ndarray  # [d], of unit length
    shape: tuple[int, ...]  # of the observation
    labels: tuple[str, ...] | None  # d names
    explained: float  # share of the sensitivity that lies in the direction
    states: int
    states_90: int | None  # that carry 90 % of the sensitivity
    ceiling: float | None  # how much of it the direction of a second, independent set of states carries, as a share of what this one does
    shifts: dict[str, float]  # the same for directions under a shift of what is seen
    against: tuple[str, float] | None  # and for the direction of another policy, by name
    scaled: bool  # the numbers of the observation are counted in their deviations over the states

    @property
    def pictured(self) -> bool:
        """The observation is an image."""
        return len(self.shape) >= 2 and self.labels is None


@dataclass(frozen=True, eq=False)
class Actions:
    """In what share of the states that a policy visits its choice is certified, over the l2 radius of a change.

    The choice that is certified is the one with the largest mean score over noise of `place.sigma`.
    """

    place: Place
    radii: np.ndarray  # [R]
    certified: np.ndarray  # [R]
    abstained: float  # share of states in which nothing is certified
    states: int
    confidence: float
    same: float | None  # share of states in which it is also the policy's own choice

    @property
    def noise(self) -> str:
        return f"noise of {self.place.sigma:g}"


Evidence = Finding | Stress | Diagnosis | Actions


def pieces(arm: Arm, stem: str, data: Mapping[str, Any]) -> list[Evidence]:
    """What a file says, one piece a member; none if it is of no form that is known."""
    readers: dict[str, Callable[..., Evidence]] = {"stress": _stress, "diagnosis": _diagnosis, "certified-actions": _actions}
    kind = data.get("kind")
    reader = readers.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return list(read_curves(arm, stem, data))
    try:
        return [reader(stem, data, member) for member in data["members"]]
    except MALFORMED:
        return []


def unread(arm: Arm) -> list[str]:
    """A sentence for each file of the evidence that is of another form than the verbs write."""
    lost = [stem for stem, data in arm.evidence.items() if not _read(arm, stem, data)]
    return [f"evidence/{stem}.json is of another form than this version writes, and was left out." for stem in lost]


def _read(arm: Arm, stem: str, data: Mapping[str, Any]) -> bool:
    return bool(read_at_inputs(arm, stem, data) or read_comparison([arm], data) or pieces(arm, stem, data))


# --- one reader a kind; each raises one of MALFORMED ----------------------------------------------------------------


def _place(stem: str, data: Mapping[str, Any], member: Mapping[str, Any]) -> Place:
    limit = data.get("max_steps")
    return Place(
        file=stem,
        whom=whom_of(stem, int(member["member"]), len(data["members"])),
        sigma=finite(data.get("sigma") or 0.0),
        env=text(data["env"], 60),
        max_steps=None if limit is None else int(limit),
        episodes=int(data.get("episodes") or 0),
    )


def _stress(stem: str, data: Mapping[str, Any], member: Mapping[str, Any]) -> Stress:
    parameters = tuple(_parameter(found) for found in data["parameters"])
    points = np.array([[finite(x) for x in point] for point in data["points"]])
    if not parameters or points.ndim != 2 or points.shape[1] != len(parameters):
        raise ValueError("points do not fit the parameters")
    columns = [np.array([finite(x) if x is not None else none for x in member[name]]) for name, none in _ENDS]
    if any(column.shape != points.shape[:1] for column in columns):
        raise ValueError("one mean a point is needed")
    means, low, high = columns
    played = np.isfinite(means)
    if not played.any():
        raise ValueError("no point was played")
    point = [member["worst"]["point"][found["name"]] for found in data["parameters"]]
    return Stress(
        place=_place(stem, data, member),
        parameters=parameters,
        points=points[played],
        means=means[played],
        low=low[played],
        high=high[played],
        worst=_interval(member["worst"]),
        worst_at=np.array([finite(x) for x in point]),
        nominal=_interval(member["nominal"]) if member.get("nominal") else None,
        grid=data.get("search", "grid") == "grid",
    )


_ENDS = (("means", np.nan), ("low", -np.inf), ("high", np.inf))


def _parameter(found: Mapping[str, Any]) -> Parameter:
    nominal = found.get("nominal")
    values = tuple(sorted({finite(x) for x in found.get("values") or ()}))
    return Parameter(text(found["name"]), None if nominal is None else finite(nominal), text(found.get("unit") or "", 12), values)


def _interval(found: Mapping[str, Any]) -> Interval:
    low, high = found.get("low"), found.get("high")
    return Interval(finite(found["mean"]), -np.inf if low is None else finite(low), np.inf if high is None else finite(high))


def _diagnosis(stem: str, data: Mapping[str, Any], member: Mapping[str, Any]) -> Diagnosis:
    direction = np.array([finite(x) for x in member["direction"]])
    shape = tuple(int(n) for n in data.get("obs_shape") or direction.shape)
    labels = None if data.get("labels") is None else tuple(map(text, data["labels"]))
    length = float(np.linalg.norm(direction))
    if not length or prod(shape) != direction.size or (labels is not None and len(labels) != direction.size):
        raise ValueError("the direction does not fit the observation")
    ceiling, states_90 = member.get("ceiling"), member.get("states_90")
    return Diagnosis(
        place=_place(stem, data, member),
        direction=direction / length,
        shape=shape,
        labels=labels,
        explained=finite(member["explained"]),
        states=int(data["states"]),
        states_90=None if states_90 is None else int(states_90),
        ceiling=None if ceiling is None else finite(ceiling),
        against=_against(data, member),
        shifts={text(name): finite(x) for name, x in (member.get("shifts") or {}).items() if x is not None},
        scaled=data.get("units") == "deviation",
    )


def _against(data: Mapping[str, Any], member: Mapping[str, Any]) -> tuple[str, float] | None:
    found = data.get("against")
    return (text(found["policy"]), finite((member.get("against") or found)["fcq"])) if found else None


def _actions(stem: str, data: Mapping[str, Any], member: Mapping[str, Any]) -> Actions:
    radii, certified = (np.array([finite(x) for x in member[name]]) for name in ("radii", "certified"))
    states = int(member.get("states", data["states"]))
    if radii.shape != certified.shape or not radii.size or states < 1 or (np.diff(radii) < 0.0).any():
        raise ValueError("one share a radius is needed, radii in order")
    abstained = finite(member["abstained"])
    if not 0.0 <= abstained <= 1.0 or (certified < 0.0).any() or (certified > 1.0).any():
        raise ValueError("a share is not between 0 and 1")
    return Actions(
        place=_place(stem, data, member),
        radii=radii,
        certified=certified,
        abstained=abstained,
        states=states,
        confidence=1.0 - finite(data["alpha"]),
        same=None if member.get("same") is None else finite(member["same"]),
    )
