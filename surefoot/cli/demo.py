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
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
MADE = (LOG, REPORT, *OFFLINE, "dqn")  # what a demo leaves beside MARK, and replaces


@dataclass(frozen=True)
class Options:
    """Collect a mostly-bad Pendulum log and learn from it with BC, TD3+BC and A2PR, five seeds each; beside it, train a CartPole
    agent under noise, certify its return against tampered observations and attack it; write one report about all of it.

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
    dqn="--steps 20000 --eval-every 1000 --eval-episodes 50 --episodes 500",
    certify="--budgets 0 0.05 0.1 0.2 0.3 0.4 --episodes 10000",
    attack="--budgets 0 0.1 0.2 0.3 0.4 --episodes 100",
)
QUICK = Scale(
    offline="--steps 60 --seeds 2 --eval-every 30 --eval-episodes 2 --episodes 3 --log-every 20",
    dqn="--steps 128 --warmup 100 --eval-every 64 --eval-episodes 4 --episodes 20 --log-every 32",
    certify="--budgets 0 0.1 0.2 --episodes 200",
    attack="--budgets 0 0.2 --episodes 5",
)
NETS = {"bc": "--hidden 64 64", "td3_bc": "--hidden 64 64", "a2pr": "--hidden 64 64 --critic-hidden 64 64 --vae-hidden 64 64"}


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
    console.print(f"log     {len(log):,} transitions of Pendulum: 45 random episodes, 5 good ones → {options.out / LOG}", highlight=False)
    jobs = {"the log": partial(pendulum, options), "CartPole": partial(cartpole, options)}
    stages = [Stage(slug, f"learn from the log: {name}") for slug, name in OFFLINE.items()]
    stages += [Stage("dqn", "train on CartPole, with noise"), Stage("certify", "certify its return"), Stage("attack", "attack it")]
    done = side_by_side(jobs, stages, console)
    with console.status("writing the report"):
        page = report_for_runs([options.out / name for name in (*OFFLINE, "dqn")], options.out / REPORT)
    console.print()
    for table in (learned(done["the log"], log.episode_returns), defended(**done["CartPole"])):
        console.print(table, "")
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
        results[slug] = trained([slug, *place, *NETS[slug].split(), *scale.offline.split()], slug, tell)
    return results


def cartpole(options: Options, tell: Teller) -> dict[str, Any]:
    """Train with noise, then certify and attack the policy that did best while training."""
    scale, run = QUICK if options.quick else FULL, options.out / "dqn"
    place = ["--env", "CartPole-v1", "--max-steps", "200", "--seed", str(options.seed), "--out", str(run)]
    trained(["dqn", *place, "--noise", "0.2", "--frame-stack", "5", *scale.dqn.split()], "dqn", tell)
    best = f"{run}:best"

    quiet = Console(stderr=True)
    words = [best, *scale.certify.split()]
    wanted: Any = tyro.cli(certify.Options, args=words)
    subject, policy = certify.smoothed(load_subjects([best], env=None)[0], None, quiet)

    def certifying(ended: int) -> None:
        tell("certify", min(0.99, ended / wanted.episodes), f"{ended:,} of {wanted.episodes:,} noisy episodes")

    tell("certify", 0.0)
    certificate = certify.certified(subject, policy, wanted, words, quiet, certifying)
    tell("certify", 1.0, f"{wanted.episodes:,} noisy episodes, mean return {number(certificate['members'][0]['mean'])}")

    words = [best, *scale.attack.split()]
    against: Any = tyro.cli(attack.Options, args=words)
    rounds = [(budget, threshold) for budget in against.budgets for threshold in against.thresholds if budget > 0.0]
    begun = iter(range(len(rounds)))

    def attacking(budget: float, name: str) -> None:
        if budget > 0.0:
            tell("attack", next(begun) / len(rounds), f"size {budget:g}, {name}")

    tell("attack", 0.0)
    attacked = attack.attacked(subject, policy, against, words, quiet, attacking)
    tell("attack", 1.0, f"{against.episodes} episodes for each of {len(against.budgets)} sizes and {len(against.thresholds)} thresholds")
    return {"certificate": certificate, "attacked": attacked}


# --- what came of it ------------------------------------------------------------------------------------------------


def learned(results: dict[str, Any], logged: np.ndarray) -> Table:
    """What each method made of the log, beside the log itself."""
    title = "Learned from the log: mean return of an episode, higher is better"
    table = Table(title=title, title_justify="left", caption="score: 0 is random, 100 the good controller that made 5 of the 50 episodes")
    table.add_column("")
    for name in (r"mean return \[95 %]", "score"):
        table.add_column(name, justify="right")
    table.add_row("the log itself", number(logged.mean()), f"{normalised(logged.mean()):.0f}", style="dim", end_section=True)
    for slug, result in results.items():
        mean = result["last"]["mean"]
        table.add_row(f"{OFFLINE[slug]}, {result['seeds']} seeds", escape(words(mean)), f"{normalised(mean['value']):.0f}")
    return table


def defended(certificate: dict[str, Any], attacked: dict[str, Any]) -> Table:
    """The certified bound beside what the attack did, at each size of attack that both know."""
    (bound,), (seen,) = certificate["members"], attacked["members"]
    lower = dict(zip(certificate["budgets"], bound["lower"], strict=True))
    table = Table(title="CartPole, its observations tampered with: mean return of at most 200", title_justify="left")
    for name in ("size of the attack", "certified: at least", r"really attacked \[95 %]", "certificate"):
        table.add_column(name, justify="right")
    for budget, mean, low, high in zip(attacked["budgets"], seen["mean"], seen["low"], seen["high"], strict=True):
        if mean is None:
            said, verdict = "the attack failed", "–"
        else:
            said = escape(words({"value": mean, "low": low, "high": high}))
            verdict = "[green]holds[/green]" if high >= lower[budget] else "[red]broken[/red]"
        table.add_row(f"{budget:g}", number(lower[budget]), said, verdict)
    table.caption = (
        f"size: l2 norm of all changes of an episode; the agent acts on observations with noise of {certificate['sigma']:g};"
        f" certified with confidence {100 * (1 - certificate['alpha']):.0f} % from {certificate['episodes']:,} episodes"
    )
    return table


def next_steps(out: Path) -> str:
    """What to try now, as commands that work from here."""
    command = "surefoot" if shutil.which("surefoot") else os.path.relpath(sys.argv[0])
    tries = {
        "look at the log": f"data inspect {out / LOG}",
        "favour its good episodes": f"train td3_bc --data {out / LOG} --weighting aw --steps 8000 --hidden 64 64",
        "play one of the policies": f"evaluate {out / 'a2pr'}@0 --episodes 200",
        "more noise, another bound": f"certify {out / 'dqn'}:best --sigma 0.4 --budgets 0 0.2 0.4",
        "your own log": "train a2pr --data my_log.npz     (columns: docs/data.md)",
    }
    lines = [f"  {what:<26} {command} {arguments}" for what, arguments in tries.items()]
    return "What to try next:\n" + "\n".join(lines)
