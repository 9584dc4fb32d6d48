"""`surefoot diagnose POLICY… [--against POLICY]`: the directions of the observation along which decisions are least stable."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number
from surefoot.cli.subjects import Subject, load_subjects, write_evidence
from surefoot.envs.labels import labels
from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.diagnosing_shifts import Shift, chosen, shifts
from surefoot.evaluation.diagnosis import Diagnosis, Settings, check, compared, diagnose, is_image, units, white
from surefoot.policies.base import Policy


@dataclass(frozen=True)
class Options:
    """Find the directions of the observation along which each policy's decisions are least stable, over states and time.

    The direction is drawn over the observation's own layout: an image as an image, a vector as bars with names. Quotients between 0 and 1
    say how much of the instability another set of states shares: other episodes, episodes under a shift, or another policy's.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip or python:MODULE:NAME (a torch module)."""
    against: str | None = None
    """A second policy to compare with, member by member or one for all."""
    shifts: tuple[str, ...] | None = None
    """Of images: brightness, blur, rotation, perspective, move, compression; of vectors: gain, offset; attacks: fgsm, and with discrete
    actions nesterov, deepfool, cw, elastic (default: all natural ones and fgsm; none: none)."""
    eps: float | None = None
    """Largest change of each number by fgsm and nesterov (default: of images 0.01 of white, else 0.1 of --units)."""
    units: Literal["auto", "observation", "deviation"] = "auto"
    """What the numbers of an observation are counted in: its own units, or each number's deviation over the states (auto: for vectors)."""
    temperature: float = 1.0
    """Of the softmax over action values: below 1 it looks closer at states where the decision is clear."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    episodes: int = 10
    """Episodes of each set of states."""
    states: int = 1_000
    """States of each set, evenly along its episodes."""
    labels: tuple[str, ...] | None = None
    """Names of the observation's numbers (default: the environment's, where they are known)."""
    seed: int = 5_000
    """Seed of the episodes."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    plot: Path | None = None
    """Draw into this PNG file too (one policy); a run's own picture is kept in its evidence folder."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot diagnose")
    if options.plot is not None and len(options.policies) > 1:
        raise ConfigError("--plot draws one policy: diagnose the others by themselves.")
    console = Console(stderr=True)
    loading: dict[str, Any] = {"env": options.env, "max_steps": options.max_steps, "trust": options.trust}
    subjects = load_subjects(options.policies, **loading)
    others = [None if options.against is None else _other(options.against, subject, loading) for subject in subjects]
    plans = [plan(subject, other, options) for subject, other in zip(subjects, others, strict=True)]  # what does not fit says so first
    results = []
    for made in plans:
        with console.status(made.subject.name) as status:
            results.append(diagnosed(made, options, argv, lambda line: status.update(line)))
        evidence = write_evidence(made.subject, "diagnosis", results[-1], console)
        _draw(results[-1], evidence, options.plot, console)
    console.print(*tables(results), sep="\n")
    for line in warnings(results):
        console.print(f"note: {line}", highlight=False)
    if options.json:
        print(json.dumps({"policies": results}, indent=2, allow_nan=False))
    return 0


# --- what is to be done -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One policy, what it is compared with, and how."""

    subject: Subject
    other: Subject | None
    settings: Settings
    which: Literal["observation", "deviation"]
    white: float
    labels: tuple[str, ...] | None

    def shifts(self, settings: Settings, options: Options) -> list[Shift]:
        """In the units of the settings."""
        shape, unit = self.subject.policy.spec.obs_shape, settings.unit
        eps = options.eps if options.eps is not None else 0.01 * self.white if is_image(shape) else 0.1
        known = shifts(self.subject.policy.spec, white=self.white, eps=eps, unit=unit)
        usual = tuple(name for name, shift in known.items() if shift.attack is None or name == "fgsm")
        return chosen(usual if options.shifts is None else () if options.shifts == ("none",) else options.shifts, known)


def plan(subject: Subject, other: Subject | None, options: Options) -> Plan:
    """Raises a SurefootError for whatever does not fit, before anything is played."""
    shape = subject.policy.spec.obs_shape
    check(subject.policy.member(0), subject.env)
    if other is not None:
        if other.policy.spec.obs_shape != shape:
            raise ConfigError(
                f"{other.name} sees observations of shape {other.policy.spec.obs_shape}, but {subject.name} of {shape}: they cannot be"
                " compared."
            )
        check(other.policy.member(0), subject.env)
        if other.members not in (1, subject.members):
            raise ConfigError(f"{other.name} has {other.members} members and {subject.name} {subject.members}: name one, {other.name}@0.")
    if options.eps is not None and not 0.0 <= options.eps < np.inf:
        raise ConfigError(f"eps is {options.eps}: it must be finite and not negative.")
    names = options.labels if options.labels is not None else labels(subject.env)
    if names is not None and len(names) != subject.policy.spec.obs_dim:
        raise ConfigError(f"{len(names)} labels were given for observations of {subject.policy.spec.obs_dim} numbers: give one for each.")
    which = options.units if options.units != "auto" else "observation" if is_image(shape) else "deviation"
    settings = Settings(subject.env, options.episodes, options.states, options.temperature, options.seed, max_steps=subject.max_steps)
    made = Plan(subject, other, settings, which, white(subject.env), names)
    made.shifts(settings, options)
    return made


def _other(ref: str, subject: Subject, loading: dict[str, Any]) -> Subject:
    """The policy to compare with, in the environment of the first."""
    (other,) = load_subjects([ref], **loading | {"env": subject.env, "max_steps": subject.max_steps})
    return other


# --- results ----------------------------------------------------------------------------------------------------------


def diagnosed(made: Plan, options: Options, argv: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """One policy's diagnosis as JSON."""
    subject, other = made.subject, made.other
    members = [_member(made, i, options, say) for i in range(subject.members)]
    result: dict[str, Any] = {
        "policy": subject.name,
        "command": shlex.join(["surefoot", "diagnose", *argv]),
        "kind": "diagnosis",
        "env": subject.env,
        "episodes": options.episodes,
        "max_steps": made.settings.max_steps,
        "states": min(member["states"] for member in members),
        "temperature": options.temperature,
        "units": made.which,
        "seed": options.seed,
        "obs_shape": list(subject.policy.spec.obs_shape),
        "labels": None if made.labels is None else list(made.labels),
        "members": members,
    }
    if other is not None:
        means = {key: float(np.mean([member["against"][key] for member in members])) for key in ("fcq", "fcq_back")}
        result["against"] = {"policy": other.name, **means}
    return finite(result)


def _member(made: Plan, i: int, options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """The diagnosis of member i, and what it is compared with."""
    subject, other = made.subject, made.other
    policy = subject.policy.member(i)
    own_name = subject.name if subject.members == 1 else f"{subject.name}@{i}"
    states = made.settings.visited(policy)
    settings = replace(made.settings, unit=units(made.which, states))
    own = _named(own_name, lambda: diagnose(policy, settings, made.shifts(settings, options), states=states, say=_telling(own_name, say)))
    found = {"member": i, **own.to_json()}
    if other is not None:
        theirs: Policy = other.policy.member(i if other.members > 1 else 0)
        against = _named(other.name, lambda: diagnose(theirs, settings, say=_telling(other.name, say)))
        there, back = compared(own, against)
        found["against"] = against.to_json() | {"fcq": there, "fcq_back": back}
    return found


def _telling(who: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{who}: {line}")


def _named(who: str, find: Callable[[], Diagnosis]) -> Diagnosis:
    """Errors of what was seen say whose it was."""
    try:
        return find()
    except DataError as error:
        raise DataError(f"{who}: {error}") from None


def _draw(result: dict[str, Any], evidence: Path | None, plot: Path | None, console: Console) -> None:
    from surefoot.evaluation.diagnosis_map import draw  # matplotlib takes a second

    for path in ([] if evidence is None else [evidence.with_suffix(".png")]) + ([] if plot is None else [plot]):
        draw(result, path)
        console.print(f"drawn   {path}", highlight=False, soft_wrap=True)


def tables(results: Sequence[dict[str, Any]]) -> list[Table]:
    """What was found, one row a member, and the quotients."""
    found = Table(title="the direction along which decisions are least stable", title_justify="left")
    for name in ("policy", "strongest in", "explains", "CV of norm", "states", "90 % from"):
        found.add_column(name, justify="left" if name in ("policy", "strongest in") else "right")
    members = [(r, m) for r in results for m in r["members"]]
    quotients = Table(title="share of the sensitivity that the direction of another set of states finds", title_justify="left")
    quotients.add_column("states")
    for r, m in members:
        found.add_row(_name(r, m), strongest(r, m), f"{m['explained']:.0%}", number(m["norm_cv"]), str(m["states"]), str(m["states_90"]))
        quotients.add_column(_name(r, m), justify="right")
    sets = {"of other episodes": [m["ceiling"] for _, m in members]}
    for name in dict.fromkeys(name for _, m in members for name in m["shifts"]):
        sets[f"under {name}"] = [m["shifts"].get(name) for _, m in members]
    if "against" in results[0]:
        for name, key in (("the other's", "fcq"), ("the other's, by this direction", "fcq_back")):
            sets[name] = [m["against"][key] for _, m in members]
    for name, found_there in sets.items():
        quotients.add_row(name, *("none" if x is None else f"{x:.2f}" for x in found_there))
    return [found, quotients]


def strongest(result: dict[str, Any], member: dict[str, Any]) -> str:
    """Where the direction is largest: the name of a number, or the frame, row and column of a pixel."""
    at = int(np.abs(member["direction"]).argmax())
    share = member["direction"][at] ** 2
    shape = result["obs_shape"]
    name = result["labels"][at] if result["labels"] else f"obs {at}"
    if is_image(shape):
        name = "pixel " + ", ".join(str(int(i)) for i in np.unravel_index(at, shape))
    return f"{name} ({100.0 * share:.2g} %)"


def _name(r: dict[str, Any], m: dict[str, Any]) -> str:
    return r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{m['member']}"


def warnings(results: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know before trusting a direction."""
    return [f"{_name(r, m)}: {line}" for r in results for m in r["members"] for line in doubts(m)]


def doubts(member: dict[str, Any]) -> list[str]:
    ceiling, explained, few = member["ceiling"] or 0.0, member["explained"], member["states_90"]
    lines = []
    if any(x is None for x in (member["ceiling"], *member["shifts"].values())):
        lines.append("where the table says none, the gradient is zero at every state: there is no direction to compare.")
    if ceiling < 0.5:
        lines.append(
            f"states of other episodes have another direction (quotient {ceiling:.2f}): give more episodes and states, or take this one for"
            " these states alone."
        )
    elif explained < 2.0 / len(member["direction"]):
        lines.append(f"no direction stands out (the first explains {explained:.1%}): quotients near 1 mean little then.")
    if few < 0.02 * member["states"]:
        lines.append(f"{few} of {member['states']} states carry 90 % of it: the policy is nearly saturated.")
    return lines
