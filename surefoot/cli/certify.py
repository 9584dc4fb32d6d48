"""`surefoot certify POLICY…`: what the expected return cannot fall below, whatever an attacker of the observations does; or, with
`--actions`, with `--inputs` and for classifiers, how far an observation or an input can be moved before a choice changes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from surefoot.cli import certify_actions, certify_inputs
from surefoot.cli.evaluate import number
from surefoot.cli.subjects import Subject, load_subjects, noise_for, write_evidence
from surefoot.errors import ConfigError
from surefoot.evaluation.certificates import certify, check_settings, settle_range
from surefoot.steering.smoothed import Smoothed


@dataclass(frozen=True)
class Options:
    """Play noisy, unattacked episodes of each policy and bound its expected return against every attacker whose changes of the
    observations have a total l2 norm of at most a budget, over the whole episode (policy smoothing). With --actions: the l2 radius
    around states along the policy's own episodes in which its smoothed choice stays the same (LVM-RS). With --inputs: the same around
    inputs of a classifier, or observations of a log. The run of an image classifier (train rrcm) is certified at the images it kept back.

    The certificate is of the policy with the noise, which must be the one that is deployed. Members of a fleet are certified together:
    they share alpha, so that the best may be chosen by its bound; DIR@MEMBER certifies one alone.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    sigma: float | None = None
    """Standard deviation of the noise, in units of the observation (default: what the policy was trained with)."""
    budgets: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    """Attack budgets, in units of the observation."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    episodes: int | None = None
    """Episodes per member; more make the bound tighter (default: 10,000; with --actions, along which the states lie: 10)."""
    alpha: float = 0.05
    """Probability that the bounds are wrong: they hold with confidence 1 - alpha, all budgets together; a choice's radius by itself."""
    bound: Literal["auto", "clopper", "dkw"] = "auto"
    """clopper: Clopper-Pearson at each integer; dkw: a band, for any returns; auto: clopper where returns are known to be integers."""
    r_min: float | None = None
    """A value that no episode's return can fall below (known for Gymnasium's classic control)."""
    r_max: float | None = None
    """A value that no episode's return can exceed (needed by clopper)."""
    seed: int = 2_000
    """Seed of the episodes; it must not be one that the policy or sigma was chosen with."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    actions: bool = False
    """Certify choices instead of returns: the discrete actions of the policy at states along greedy episodes of its own."""
    states: int = 200
    """With --actions: how many of each member, evenly spaced."""
    inputs: Path | None = None
    """Certify choices instead of returns: an npz with x (and classes y), or a log, whose observations are taken. POLICY is then a
    classifier (onnx:FILE, python:MODULE:NAME: a torch module or a function to scores) or a policy with discrete actions. (Default for
    the run of a classifier: its held_out.npz.)"""
    limit: int = 100
    """With --inputs: how many of them, evenly spaced."""
    samples: int = 10_000
    """With --actions and --inputs: noisy copies of each state or input that certify it."""
    selection: int = 500
    """With --actions and --inputs: further noisy copies, on which the class and the map to the simplex are chosen."""
    maps: Literal["all", "votes"] = "all"
    """With --actions and --inputs: what counts of a noisy copy. all: its scores, through the map that suits the input (LVM-RS); votes:
    which is the largest, alone."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result, with every return, as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot certify")
    if options.inputs is not None and options.actions:
        raise ConfigError("--actions certifies at a policy's own states and --inputs at those of a file: give one of the two.")
    classifiers = [ref for ref in options.policies if certify_inputs.held_out(ref) is not None]
    if classifiers and options.actions:
        raise ConfigError(f"{classifiers[0]} is a classifier, which visits no states of its own: leave --actions out.")
    if options.inputs is not None or classifiers:
        return certify_inputs.main(options, argv)
    check_settings(options.budgets, 1.0 if options.sigma is None else options.sigma, options.alpha)
    console = Console(stderr=True)
    loaded = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    subjects = [smoothed(subject, options.sigma, console) for subject in loaded]
    for subject, policy in subjects:
        if not policy.sigma > 0.0:
            raise ConfigError(f"{subject.name} was trained without noise: give the standard deviation of the noise (--sigma).")
        if not options.actions:
            settle_range(subject.env, subject.max_steps, options.bound, options.r_min, options.r_max)
    if options.actions:
        return certify_actions.main(subjects, options, argv, console)
    results = []
    for subject, policy in subjects:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"{subject.name}: noisy episodes of {subject.env}", total=subject.members * episodes(options))
            results.append(certified(subject, policy, options, argv, console, partial(_completed, bar, task)))
    console.print(table(results))
    if options.json:
        print(json.dumps({"policies": results}, indent=2))
    return 0


def episodes(options: Options) -> int:
    """How many make a certificate of the return."""
    return 10_000 if options.episodes is None else options.episodes


def certified(
    subject: Subject, policy: Smoothed, options: Options, argv: Sequence[str], console: Console, progress: Callable[[int], None]
) -> dict[str, Any]:
    """One policy's certificate as JSON, kept in its run folder too."""
    certificate = certify(
        policy,
        subject.env,
        options.budgets,
        episodes=episodes(options),
        alpha=options.alpha,
        bound=options.bound,
        r_min=options.r_min,
        r_max=options.r_max,
        max_steps=subject.max_steps,
        seed=options.seed,
        progress=progress,
    )
    result = {"policy": subject.name, "command": shlex.join(["surefoot", "certify", *argv]), **certificate.to_json()}
    write_evidence(subject, "certify", result, console)
    return result


def _completed(bar: Progress, task: TaskID, ended: int) -> None:
    bar.update(task, completed=ended)


def smoothed(subject: Subject, sigma: float | None, console: Console) -> tuple[Subject, Smoothed]:
    """The policy behind noise of `sigma`, by default its own; noise that it has already is replaced."""
    sigma = noise_for(subject.name, subject.policy, subject.run, sigma, console)
    policy = subject.policy.inner if isinstance(subject.policy, Smoothed) else subject.policy
    return subject, Smoothed(policy, sigma)


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a member, one column a budget."""
    budgets = results[0]["budgets"]
    alpha = results[0]["alpha"]
    out = Table(
        title=f"expected return is at least … with confidence {1.0 - alpha:.4g}, against attacks of total l2 norm B", title_justify="left"
    )
    for name in ("policy", "env", "sigma", "bound", "episodes", "mean"):
        out.add_column(name)
    for budget in budgets:
        out.add_column(f"B = {budget:g}", justify="right")
    for r in results:
        for member in r["members"]:
            name = r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{member['member']}"
            cells = (name, r["env"], f"{r['sigma']:g}", r["bound"], str(r["episodes"]), number(member["mean"]))
            out.add_row(*cells, *map(number, member["lower"]))
    return out
