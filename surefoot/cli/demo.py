"""`surefoot demo`: the whole path in a few minutes, from a mostly-bad log to policies, a certificate, an attack and a report.

Everything is done by the verbs' own parts, with the settings that the command lines below stand for: each step can be repeated alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from surefoot import __version__
from surefoot.cli import attack, certify, train
from surefoot.cli.evaluate import number, words
from surefoot.cli.side_by_side import Stage, Teller, side_by_side
from surefoot.cli.subjects import load_subjects
from surefoot.data.writers import write_log
from surefoot.errors import ConfigError
from surefoot.files import replacing_file
from surefoot.methods.base import Method
from surefoot.recipes.pendulum import mixed_log, normalised
from surefoot.training.run import Run

LOG, REPORT, MARK = "pendulum-mixed.npz", "report.html", "demo.json"
OFFLINE = {"bc": "BC", "td3_bc": "TD3+BC", "a2pr": "A2PR"}
NOISE = {"dqn_noise": "0.2", "dqn_plain": "0"}
RUNS = (*OFFLINE, *NOISE)
MADE = (LOG, REPORT, *RUNS)  # what a demo leaves beside MARK, and replaces


@dataclass(frozen=True)
class Options:
    """Collect a mostly-bad Pendulum log and learn from it with BC, TD3+BC and A2PR, five seeds each; beside it, train a CartPole
    agent under noise, certify its return against tampered observations, and attack it, and one without noise; write one report.

    About four minutes on two cores. The same seed gives the same numbers.
    """

    out: Path = Path("demo")
    """Folder for the log, the runs and the report; that of an earlier demo is replaced."""
    quick: bool = False
    """A few seconds of everything: shows that it works, learns nothing."""
    seed: int = 0
    """Seed of log, training and evaluation."""


@dataclass(frozen=True)
class Scale:
    """How much of everything: options of the verbs."""

    offline: str
    dqn: str
    certify: str
    attack: str


FULL = Scale(
    offline="--steps 8000 --seeds 5 --eval-every 1000 --eval-episodes 4 --episodes 50",
    dqn="--steps 5000 --eval-every 500 --eval-episodes 100 --episodes 500",
    certify="--budgets 0 0.1 0.2 0.3 0.4 0.5 0.6 --episodes 10000",
    attack="--budgets 0 0.1 0.2 0.4 0.6 --episodes 100",
)
QUICK = Scale(
    offline="--steps 60 --seeds 2 --eval-every 30 --eval-episodes 2 --episodes 3 --log-every 20",
    dqn="--steps 128 --warmup 100 --eval-every 64 --eval-episodes 4 --episodes 20 --log-every 32",
    certify="--budgets 0 0.1 0.2 --episodes 200",
    attack="--budgets 0 0.2 --episodes 5",
)
METHODS = {
    "bc": "--hidden 64 64",
    "td3_bc": "--hidden 64 64",
    "a2pr": "--hidden 64 64 --critic-hidden 64 64 --vae-hidden 64 64",
    "dqn": "--hidden 128 128 --double --target-every 200 --exploration-updates 3000 --epsilon-end 0.05",
}
"""Small networks, and a schedule for little time: the methods' own options."""
THRESHOLDS = {"dqn_noise": "--thresholds 0 1 2", "dqn_plain": "--thresholds 0 4 8"}
"""How much worse an action must be for the attacker to want it; the worst for the agent counts."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot demo", description=Options.__doc__)
    if options.seed < 0:
        raise ConfigError(f"--seed is {options.seed}: it must not be negative.")
    console = Console(stderr=True)
    prepare(options, console)
    from surefoot.evaluation.report import report_for_runs  # matplotlib takes a second that help and errors need not wait

    log = mixed_log(seed=options.seed)
    write_log(log, options.out / LOG)
    console.print(
        f"log     {len(log):,} transitions of Pendulum: 45 random episodes, 5 good ones → {options.out / LOG}",
        highlight=False,
        soft_wrap=True,
    )
    jobs = {"the log": partial(pendulum, options), "CartPole": partial(cartpole, options)}
    stages = [Stage(slug, f"learn from the log: {name}") for slug, name in OFFLINE.items()]
    stages += [Stage("dqn_noise", "train on CartPole, with noise"), Stage("certify", "certify its return")]
    stages += [Stage("attack dqn_noise", "attack it"), Stage("dqn_plain", "train without noise"), Stage("attack dqn_plain", "attack that")]
    try:
        done = side_by_side(jobs, stages, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; what was trained so far is in {options.out}, the next demo starts from the beginning.") from None
    with console.status("writing the report"):
        page = report_for_runs([options.out / name for name in RUNS], options.out / REPORT)
    console.print()
    for part in (learned(done["the log"], log.episode_returns), defended(**done["CartPole"])):
        console.print(part, "", highlight=False)
    if options.quick:
        console.print("[yellow]--quick: everything was run, nothing was learned; leave it out for results that mean something.[/yellow]\n")
    console.print(f"report  [bold]{page}[/bold]  (one file: open it in a browser)\n", highlight=False, soft_wrap=True)
    console.print(next_steps(options.out), highlight=False, soft_wrap=True)
    return 0


def prepare(options: Options, console: Console) -> None:
    """An empty place for the demo. Raises ConfigError for a folder that holds something else, CheckpointError if it cannot be written."""
    out = options.out
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file()):
        raise ConfigError(f"{out} exists and is not the folder of an earlier demo: choose another one (--out).")
    if (out / MARK).is_file():
        console.print(f"replacing the earlier demo in {out}", highlight=False)
        for name in MADE:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    with replacing_file(out / MARK) as new:
        new.write_text(json.dumps({"surefoot": __version__, "seed": options.seed, "quick": options.quick}) + "\n", encoding="utf-8")


# --- the two jobs, each in a process of its own ---------------------------------------------------------------------


class Steps:
    """Tells how far training is (a callback of `fit`)."""

    every = 50

    def __init__(self, tell: Teller, stage: str, steps: int):
        self.tell, self.stage, self.steps = tell, stage, steps

    def __call__(self, step: int, method: Method, run: Run | None) -> None:
        self.tell(self.stage, 0.95 * step / self.steps, f"{step:,} of {self.steps:,} updates")


def trained(argv: Sequence[str], stage: str, tell: Teller) -> dict[str, Any]:
    """The result of `surefoot train` with these arguments."""
    tell(stage, 0.0)
    session, _ = train.begin(list(argv))
    result = session.train(progress=False, callbacks=[Steps(tell, stage, session.config.steps)])
    tell(stage, 1.0, f"mean return {words(result['last']['mean'])}")
    return result


def pendulum(options: Options, tell: Teller) -> dict[str, Any]:
    """Learn from the log with each method; results by method."""
    scale, results = QUICK if options.quick else FULL, {}
    for slug in OFFLINE:
        place = ["--data", str(options.out / LOG), "--seed", str(options.seed), "--out", str(options.out / slug)]
        results[slug] = trained([slug, *place, *METHODS[slug].split(), *scale.offline.split()], slug, tell)
    return results


def cartpole(options: Options, tell: Teller) -> dict[str, Any]:
    """Train with noise, certify and attack the policy that did best while training; the same without noise and certificate."""
    scale, results = QUICK if options.quick else FULL, {}
    for run, noise in NOISE.items():
        place = ["--env", "CartPole-v1", "--max-steps", "200", "--frame-stack", "5", "--noise", noise, "--seed", str(options.seed)]
        trained(["dqn", *place, "--out", str(options.out / run), *METHODS["dqn"].split(), *scale.dqn.split()], run, tell)
        best = f"{options.out / run}:best"
        if run == "dqn_noise":
            results["certificate"] = certified([best, *scale.certify.split()], tell)
        results[run] = attacked([best, *scale.attack.split(), *THRESHOLDS[run].split()], f"attack {run}", tell)
    return results


def certified(argv: list[str], tell: Teller) -> dict[str, Any]:
    """The result of `surefoot certify` with these arguments."""
    wanted: Any = tyro.cli(certify.Options, args=argv)
    quiet = Console(stderr=True)
    subject, policy = certify.smoothed(load_subjects(wanted.policies, env=wanted.env)[0], wanted.sigma, quiet)

    def playing(ended: int) -> None:
        tell("certify", min(0.99, 0.01 + ended / wanted.episodes), f"{ended:,} of {wanted.episodes:,} noisy episodes")

    tell("certify", 0.0)
    found = certify.certified(subject, policy, wanted, argv, quiet, playing)
    tell("certify", 1.0, f"{wanted.episodes:,} noisy episodes, mean return {number(found['members'][0]['mean'])}")
    return found


def attacked(argv: list[str], stage: str, tell: Teller) -> dict[str, Any]:
    """The result of `surefoot attack` with these arguments."""
    wanted: Any = tyro.cli(attack.Options, args=argv)
    quiet = Console(stderr=True)
    subject, policy = certify.smoothed(load_subjects(wanted.policies, env=wanted.env)[0], wanted.sigma, quiet)
    suite = attack.suite_of(subject, policy, wanted)
    rounds = len(wanted.thresholds) * len([budget for budget in wanted.budgets if budget > 0.0])
    begun = iter(range(rounds))

    def playing(line: str) -> None:
        if not line.startswith("B = 0,"):
            tell(stage, max(0.01, next(begun) / rounds), line)

    suite.progress = playing
    tell(stage, 0.0)
    (found,) = attack.attacked(subject, policy, suite, wanted, argv, quiet)
    last = found["members"][0]["mean"][-1]
    tell(stage, 1.0, f"mean return {'not known' if last is None else number(last)} at size {wanted.budgets[-1]:g}")
    return found


# --- what came of it ------------------------------------------------------------------------------------------------


def learned(results: dict[str, Any], logged: np.ndarray) -> Group:
    """What each method made of the log, beside the log itself."""
    table = _table("", r"mean return \[95 %]", "score")
    table.add_row("the log itself", number(logged.mean()), f"{normalised(logged.mean()):.0f}", style="dim", end_section=True)
    for slug, result in results.items():
        mean = result["last"]["mean"]
        table.add_row(f"{OFFLINE[slug]}, {result['seeds']} seeds", escape(words(mean)), f"{normalised(mean['value']):.0f}")
    note = "score: 0 is a random policy, 100 the controller behind the log's 5 good episodes"
    return Group("[bold]Learned from the log[/bold] (return of an episode of Pendulum, higher is better)", table, f"[dim]{note}[/dim]")


def defended(certificate: dict[str, Any], dqn_noise: dict[str, Any], dqn_plain: dict[str, Any]) -> Group:
    """At each size of attack: the certified bound, what the attack did, and what it did to the agent without noise."""
    lower = dict(zip(certificate["budgets"], certificate["members"][0]["lower"], strict=True))
    table = _table(
        "attack\nsize",
        "certified:\nat least",
        "with noise,\n" + r"attacked \[95 %]",
        "\ncertificate",
        "without noise,\n" + r"attacked \[95 %]",
    )
    for budget, seen, plain in zip(dqn_noise["budgets"], _levels(dqn_noise), _levels(dqn_plain), strict=True):
        verdict = "–" if seen["value"] is None else "[green]holds" if seen["high"] >= lower[budget] else "[red]broken"
        table.add_row(f"{budget:g}", f"{floor(lower[budget])}", _said(seen), verdict, _said(plain))
    note = (
        "size: l2 norm of all changes of an episode's observations\n"
        f"noise: standard deviation {certificate['sigma']:g}, added to each observation by the agent itself\n"
        f"certified with confidence {100 * (1 - certificate['alpha']):.0f} % from {certificate['episodes']:,} episodes"
    )
    return Group("[bold]Observations tampered with[/bold] (return of an episode of CartPole, at most 200)", table, f"[dim]{note}[/dim]")


def _table(first: str, *others: str) -> Table:
    table = Table(Column(first, no_wrap=True), box=box.SIMPLE_HEAD, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _levels(found: dict[str, Any]) -> list[dict[str, Any]]:
    member = found["members"][0]
    names = ("value", "low", "high")
    return [dict(zip(names, level, strict=True)) for level in zip(member["mean"], member["low"], member["high"], strict=True)]


def _said(level: dict[str, Any]) -> str:
    return "failed" if level["value"] is None else rf"{level['value']:.0f} \[{level['low']:.0f}, {level['high']:.0f}]"


def next_steps(out: Path) -> str:
    """What to try now, as commands that work from here."""
    command = "surefoot" if shutil.which("surefoot") else os.path.relpath(sys.argv[0])
    tries = {
        "look at the log": f"data inspect {out / LOG}",
        "favour its good episodes": f"train td3_bc --data {out / LOG} --weighting aw --steps 8000 --hidden 64 64",
        "play one of the policies": f"evaluate {out / 'a2pr'}@0 --episodes 200",
        "more noise, another bound": f"certify {out / 'dqn_noise'}:best --sigma 0.4 --budgets 0 0.2 0.4",
        "your own log": "train a2pr --data my_log.npz     (columns: docs/data.md)",
    }
    lines = [f"  {what:<26} {command} {arguments}" for what, arguments in tries.items()]
    return "What to try next:\n" + "\n".join(lines)
