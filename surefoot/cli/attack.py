"""`surefoot attack POLICY…`: the return when somebody really tampers with the observations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table

from surefoot.cli.certify import smoothed
from surefoot.cli.evaluate import finite, number
from surefoot.cli.subjects import Subject, load_subjects, write_evidence
from surefoot.envs.making import time_limit
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError
from surefoot.evaluation.attack_curve import attack_curve
from surefoot.evaluation.attacks import FGSM, PGD, Attack, QAttack, RandomAttack
from surefoot.steering.smoothed import Smoothed


@dataclass(frozen=True)
class Options:
    """Play each policy while an attacker changes what it observes, at several budgets.

    q: makes the agent take actions that it values less (discrete actions). fgsm and pgd: move the decision away from the one
    at the true observation. random: changes of the same norm, for comparison. A gradient that is zero everywhere is reported as failed.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    kind: Literal["q", "fgsm", "pgd", "random"] = "q"
    """The attack."""
    budgets: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Attack budgets, in units of the observation."""
    norm: Literal["total", "l2", "linf"] = "total"
    """What a budget bounds: the l2 norm over the whole episode (as certificates do), or the l2 or largest change at each step."""
    sigma: float | None = None
    """Noise of a smoothed policy (default: what the policy was trained with; 0: attack it without noise)."""
    thresholds: tuple[float, ...] = (0.0, 1.0, 2.0)
    """q: how much less an action must be valued to be worth forcing; the return is the least over these."""
    steps: int = 10
    """pgd: gradient steps for each observation."""
    step: float | None = None
    """Length of a gradient step: in units of the observation for q (default 0.01), as a share of the budget for pgd (default 0.25)."""
    horizon: int | None = None
    """fgsm, pgd, random with a total budget: first steps of the episode that share it (default: all up to the step limit)."""
    draws: int = 32
    """Draws of a smoothed policy's noise that its decision is averaged over."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    episodes: int = 100
    """Episodes per member, budget and threshold."""
    seed: int = 3_000
    """Seed of the episodes."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result, with every return, as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot attack")
    if not options.budgets:
        raise ConfigError("no attack budget was given: name one or more after --budgets, in units of the observation.")
    if options.kind == "q" and options.norm != "total":
        raise ConfigError(f"--norm {options.norm} is for fgsm, pgd and random: the Q-attack has one budget for the whole episode.")
    for make in variants(options, horizon=1).values():
        for budget in options.budgets:
            make(budget)  # checks every setting before a policy is loaded
    console = Console(stderr=True)
    loaded = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    subjects = [smoothed(subject, options.sigma, console) for subject in loaded]
    for subject, policy in subjects:
        horizon = time_limit(subject.env, subject.max_steps)
        for make in variants(options, horizon).values():
            make(options.budgets[0]).start(1, policy)  # policies that cannot be attacked say so before the first is played
    results = []
    for subject, policy in subjects:
        with console.status(subject.name) as status:

            def playing(budget: float, name: str, who: str = subject.name, status: Status = status) -> None:
                status.update(f"{who}: B = {budget:g}, {name}")

            results.append(attacked(subject, policy, options, argv, console, playing))
    console.print(table(results, options.kind, options.norm))
    for line in warnings(results):
        console.print(f"note: {line}", highlight=False)
    if options.json:
        print(json.dumps({"policies": results}, indent=2))
    return 0


def attacked(
    subject: Subject, policy: Smoothed, options: Options, argv: Sequence[str], console: Console, progress: Callable[[float, str], None]
) -> dict[str, Any]:
    """One policy's returns under attack as JSON, kept in its run folder too. `progress` is told each budget and variant."""
    limit = time_limit(subject.env, subject.max_steps)
    curve = attack_curve(
        policy,
        subject.env,
        options.budgets,
        variants(options, limit),
        episodes=options.episodes,
        seed=options.seed,
        max_steps=subject.max_steps,
        progress=progress,
    )
    about: dict[str, Any] = {"policy": subject.name, "command": shlex.join(["surefoot", "attack", *argv])}
    about |= {"kind": options.kind, "norm": options.norm, "sigma": policy.sigma, "max_steps": limit}
    result = about | finite(curve.to_json())
    write_evidence(subject, f"attack-{options.kind}", result, console)
    return result


def variants(options: Options, horizon: int) -> dict[str, Callable[[float], Attack]]:
    """The attacks among which the worst counts, by name, as functions of the budget."""
    seeds = [derive_seed(options.seed, 4, i) for i in range(len(options.thresholds))] or [0]
    common: dict[str, Any] = {"samples": options.draws, "seed": seeds[0]}
    if options.kind == "q":
        if not options.thresholds:
            raise ConfigError("no threshold was given: name one or more after --thresholds, in units of the policy's scores.")
        common["step"] = 0.01 if options.step is None else options.step
        return {
            f"threshold {t:g}": partial(QAttack, threshold=t, **(common | {"seed": s}))
            for t, s in zip(options.thresholds, seeds, strict=True)
        }
    common |= {"norm": options.norm, "horizon": horizon if options.horizon is None else options.horizon}
    if options.kind == "pgd":
        return {"pgd": partial(PGD, steps=options.steps, step=0.25 if options.step is None else options.step, **common)}
    return {options.kind: partial(FGSM if options.kind == "fgsm" else RandomAttack, **common)}


def table(results: Sequence[dict[str, Any]], kind: str, norm: str) -> Table:
    """One row a member, one column a budget."""
    size = {"total": "total l2 norm", "l2": "l2 norm at each step", "linf": "largest change at each step"}[norm]
    out = Table(title=f"mean return under the {kind} attack, {size} B [95 % interval]", title_justify="left")
    for name in ("policy", "env", "sigma", "episodes"):
        out.add_column(name)
    for budget in results[0]["budgets"]:
        out.add_column(f"B = {budget:g}", justify="right")
    for r in results:
        for m in r["members"]:
            name = r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{m['member']}"
            cells = [
                "failed" if mean is None else number(mean) + (rf" \[{number(low)}, {number(high)}]" if low is not None else "")
                for mean, low, high in zip(m["mean"], m["low"], m["high"], strict=True)
            ]
            out.add_row(name, r["env"], f"{r['sigma']:g}", str(r["episodes"]), *cells)
    return out


def warnings(results: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know about gradients that were zero."""
    lines = []
    for r in results:
        for m in r["members"]:
            name = r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{m['member']}"
            if any(m["failed"]):
                lines.append(
                    f"{name}: the gradient was zero everywhere, so this attack had no direction: its return says nothing about robustness."
                )
            elif max(m["vanished"]) > 0.1:
                lines.append(f"{name}: {max(m['vanished']):.0%} of the gradients were zero: the attack is weaker than it could be.")
    return lines
