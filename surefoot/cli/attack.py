"""`surefoot attack POLICY…`: the return when somebody really tampers with the observations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table

from surefoot.cli.certify import smoothed
from surefoot.cli.evaluate import finite, number
from surefoot.cli.subjects import Subject, load_subjects, write_evidence
from surefoot.envs.making import time_limit
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attack_curve import AttackCurve, check_observations, worst_of
from surefoot.evaluation.suite import KINDS, LEARNED, Named, Schedule, Settings, Suite
from surefoot.policies.deciding import scaling
from surefoot.steering.smoothed import Smoothed


@dataclass(frozen=True)
class Options:
    """Play each policy while an attacker changes what it observes, at several budgets.

    q: makes the agent take actions that it values less (discrete actions). fgsm, pgd: move the decision away from the one at the true
    observation; mad: move its distribution. rs: robust Sarsa, makes it do what a critic of its own returns dislikes. sa-rl, pa-ad:
    attackers that learn on this policy first. score: pgd from outputs alone. random: changes of the same norm, for comparison. suite:
    all that apply, and the worst. Policies without gradients take mad, rs (by their outputs), sa-rl, score and random. An attack that
    had nothing to go by is reported as failed.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    kind: Literal[Named, "suite"] = "q"
    """The attack."""
    budgets: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Attack budgets, in the units of --units."""
    norm: Literal["total", "l2", "linf"] = "total"
    """What a budget bounds: the l2 norm over the whole episode (as certificates do), or the l2 or largest change at each step."""
    units: Literal["observation", "policy"] = "observation"
    """What a budget is counted in: the observation's own units (as certificates do), or deviations by which the policy scales it."""
    switching: Literal["periodic", "random"] | None = None
    """The attack comes and goes: on and off in turn, or toggled at random, in blocks of episodes."""
    every: int = 10
    """switching: episodes in a block."""
    toggle: float = 0.1
    """switching at random: probability that a block is the other way round than the one before."""
    sigma: float | None = None
    """Noise of a smoothed policy (default: what the policy was trained with; 0: attack it without noise)."""
    thresholds: tuple[float, ...] = (0.0, 1.0, 2.0)
    """q: how much less an action must be valued to be worth forcing; the return is the least over these."""
    steps: int = 10
    """pgd, mad, rs, score: gradient steps for each observation."""
    step: float | None = None
    """Length of a gradient step: in units of the budget for q (default 0.01), as a share of the budget for the others (default 0.25)."""
    attacker_steps: int = 100_000
    """sa-rl, pa-ad: steps in which the attacker learns, at each budget and for each member."""
    horizon: int | None = None
    """With a total budget (not q): first steps of the episode that share it (default: all up to the step limit)."""
    draws: int = 32
    """Draws of a smoothed policy's noise that its decision is averaged over."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    episodes: int = 100
    """Episodes per member, budget and threshold."""
    seed: int = 3_000
    """Seed of the episodes, and of all that an attack learns."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result, with every return, as JSON on standard output."""


SIZES = {"total": "total l2 norm", "l2": "l2 norm at each step", "linf": "largest change at each step"}


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot attack")
    check(options)
    console = Console(stderr=True)
    loaded = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    subjects = [smoothed(subject, options.sigma, console) for subject in loaded]
    suites = [suite_of(subject, policy, options) for subject, policy in subjects]
    for suite in suites:
        for kind in kinds(suite, options):
            suite.check(kind, options.budgets)  # policies that cannot be attacked say so before the first is played
    results = []
    for (subject, policy), suite in zip(subjects, suites, strict=True):
        with console.status(subject.name) as status:
            suite.progress = telling(subject.name, status)
            results += attacked(subject, policy, suite, options, argv, console)
    console.print(table(results, options))
    for line in warnings(results):
        console.print(f"note: {line}", highlight=False)
    if options.json:
        print(json.dumps({"policies": results}, indent=2))
    return 0


def check(options: Options) -> None:
    """Raises what is wrong with the settings themselves, before a policy is loaded."""
    if not options.budgets:
        raise ConfigError("no attack budget was given: name one or more after --budgets, in units of the observation.")
    if options.every < 1 or not 0.0 <= options.toggle <= 1.0:
        raise ConfigError(f"every is {options.every} and toggle {options.toggle}: at least 1 episode, and a probability.")
    every: tuple[Named, ...] = KINDS if options.kind == "suite" else (options.kind,)
    for kind in every:
        if options.kind == "suite" and kind == "q" and options.norm != "total":
            continue
        for make in settings(options, None, horizon=1 if options.horizon is None else options.horizon).makers(kind).values():
            for budget in options.budgets:
                make(budget)
    if options.env is not None:
        check_observations(options.env)


def settings(options: Options, policy: Smoothed | None, horizon: int | None = None) -> Settings:
    """The options as the suite has them. Raises PolicyError where a policy's own units are asked for and it does not say them."""
    known = None
    if options.units == "policy" and policy is not None:
        known = scaling(policy)
        if known is None:
            raise PolicyError(
                f"the {type(policy.inner).__name__} policy does not say how it scales observations: give budgets in the observation's own"
                " units (--units observation)."
            )
    return Settings(
        norm=options.norm,
        horizon=options.horizon if horizon is None else horizon,
        scale=None if known is None else known[1],
        samples=options.draws,
        thresholds=options.thresholds,
        steps=options.steps,
        step=None if options.kind == "suite" else options.step,
        attacker_steps=options.attacker_steps,
        seed=options.seed,
    )


def suite_of(subject: Subject, policy: Smoothed, options: Options) -> Suite:
    probability = options.toggle if options.switching == "random" else None
    schedule = None if options.switching is None else Schedule(options.every, probability)
    return Suite(policy, subject.env, settings(options, policy), max_steps=subject.max_steps, schedule=schedule)


def kinds(suite: Suite, options: Options) -> tuple[Named, ...]:
    return suite.applicable() if options.kind == "suite" else (options.kind,)


def telling(who: str, status: Status) -> Callable[[str], None]:
    return lambda line: status.update(f"{who}: {line}")


def attacked(
    subject: Subject, policy: Smoothed, suite: Suite, options: Options, argv: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    """One policy's returns under each attack as JSON, kept in its run folder too; of a suite the worst of them last, which is not kept."""
    about: dict[str, Any] = {"policy": subject.name, "command": shlex.join(["surefoot", "attack", *argv])}
    where: dict[str, Any] = {"norm": options.norm, "units": options.units, "sigma": policy.sigma}
    where["max_steps"] = time_limit(subject.env, subject.max_steps)
    if options.switching is not None:
        toggle = {"toggle": options.toggle} if options.switching == "random" else {}
        where["switching"] = {"kind": options.switching, "every": options.every} | toggle
    suffix = "" if options.switching is None else f"-{options.switching}"
    curves: dict[str, AttackCurve] = {}
    results = []
    for kind in kinds(suite, options):
        curves[kind] = suite.play(kind, options.budgets, episodes=options.episodes)
        slopes = {"slopes": "outputs"} if suite.by_outputs(kind) else {}
        results.append(about | {"kind": f"{kind}{suffix}"} | where | slopes | finite(curves[kind].to_json()))
        write_evidence(subject, f"attack-{kind}{suffix}", results[-1], console)
    if options.kind == "suite":
        results.append(about | {"kind": f"worst{suffix}"} | where | finite(worst_of(curves).to_json()))
    return results


def table(results: Sequence[dict[str, Any]], options: Options) -> Table:
    """One row a member (of a suite a row an attack, and one for the worst), one column a budget."""
    suite = options.kind == "suite"
    kind = "attack" if suite else f"{results[0]['kind']} attack"
    units = "" if options.units == "observation" else ", in the policy's own units"
    out = Table(title=f"mean return under the {kind}, {SIZES[options.norm]} B{units} [95 % interval]", title_justify="left")
    for name in ("policy", *(["attack"] if suite else []), "env", "sigma", "episodes"):
        out.add_column(name)
    for budget in results[0]["budgets"]:
        out.add_column(f"B = {budget:g}", justify="right")
    for r in results:
        for m in r["members"]:
            cells = [
                "failed" if mean is None else number(mean) + (rf" \[{number(low)}, {number(high)}]" if low is not None else "")
                for mean, low, high in zip(m["mean"], m["low"], m["high"], strict=True)
            ]
            out.add_row(_name(r, m), *([r["kind"]] if suite else []), r["env"], f"{r['sigma']:g}", str(r["episodes"]), *cells)
    return out


def _name(r: dict[str, Any], m: dict[str, Any]) -> str:
    return r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{m['member']}"


def warnings(results: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know about attacks that had nothing to go by."""
    lines = []
    for r in results:
        for m in r["members"]:
            who = f"{_name(r, m)}, {r['kind']}"
            if any(m["failed"]):
                lines.append(f"{who}: {why_failed(r, m)}: its return says nothing about robustness.")
            elif max(m["vanished"]) > 0.1 and not r["kind"].startswith("worst"):
                slopes = "slopes" if "slopes" in r else "gradients"
                lines.append(f"{who}: {max(m['vanished']):.0%} of the {slopes} were zero: the attack is weaker than it could be.")
    return lines


def why_failed(r: dict[str, Any], m: dict[str, Any]) -> str:
    name = r["kind"].removesuffix("-periodic").removesuffix("-random")
    if name == "worst":
        return "every attack that looked for harm failed"
    if name in LEARNED and max(m["vanished"]) < 1.0:
        return "the attacker that was trained did not lower the return of its check episodes"
    if "slopes" in r:
        return "the policy gave the same output wherever it was asked, so this attack had no direction"
    return "the gradient was zero everywhere, so this attack had no direction"
