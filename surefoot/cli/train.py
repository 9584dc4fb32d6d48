"""`surefoot train METHOD --data LOG` or `--env ENV`: a fleet of seeds, evaluated, saved and reported in a run folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from surefoot.cli.session import Session, SessionConfig
from surefoot.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What to learn from, how long, and where the results go."""

    data: str | None = None
    """Log to learn from: an HDF5 (D4RL layout), npz, CSV or Parquet file, a folder of Parquet, minari:ID, or a recipe's name."""
    env: str | None = None
    """Gymnasium environment to evaluate in (and to learn in, for online methods); the log's own if it names one."""
    steps: int = 100_000
    """Updates (gradient steps of the critic, or of the policy where there is none)."""
    seeds: int = 1
    """Members of the fleet: independent seeds trained side by side in one computation."""
    seed: int = 0
    """Seed of the fleet; everything random derives from it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks and the log live."""
    out: Path | None = None
    """Run folder to create (default: runs/METHOD-DATE-TIME)."""
    weighting: Literal["uniform", "rw", "aw", "topk"] = "uniform"
    """How transitions are drawn: uniformly, by return (rw), by advantage over the start state (aw), or from the top 10% episodes."""
    weighting_alpha: float = 0.1
    """Temperature of rw and aw weights; smaller favours the best episodes more."""
    one_episode: bool = False
    """Accept a log that marks no episode ends, as one long episode."""
    eval_every: int = 10_000
    """Updates between evaluations while training (0: never)."""
    eval_episodes: int = 10
    """Episodes of each evaluation while training, per member."""
    episodes: int = 50
    """Episodes of the final evaluation, per member, on seeds of its own."""
    max_steps: int | None = None
    """Steps after which an episode is cut off, if not the environment's own limit."""
    frame_stack: int = 1
    """Last observations the policy sees at once (online methods)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on every observation while training and evaluating (online methods; see certify)."""
    checkpoint_every: int = 10_000
    """Updates between checkpoints."""
    log_every: int = 1_000
    """Updates between rows of metrics."""
    progress: bool = True
    """Show a progress bar."""
    json: bool = False
    """Print the result as JSON on standard output."""


@dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped; the result equals that of an uninterrupted run."""

    resume: Path
    """Run folder to continue."""
    steps: int | None = None
    """Train until this many updates, if not the number the run was started with."""
    progress: bool = True
    """Show a progress bar."""
    json: bool = False
    """Print the result as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    from surefoot.methods.registry import LEARNERS, OFFLINE, ONLINE, learner

    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: surefoot train METHOD [options]        (surefoot train METHOD --help lists them all)\n"
            "       surefoot train --resume DIR [--steps N]\n\n"
            f"methods that learn from a log (--data):        {', '.join(OFFLINE)}\n"
            f"methods that learn in an environment (--env):  {', '.join(ONLINE)}"
        )
        return 0
    if argv[0].startswith("-"):
        if "--resume" not in "".join(argv):
            raise ConfigError(f"the first word after train must be a method ({', '.join(LEARNERS)}), or --resume DIR.")
        again = tyro.cli(Resume, args=argv, prog="surefoot train", description=Resume.__doc__)
        session = Session.resume(again.resume, steps=again.steps)
        return _finish(session, resumed=True, progress=again.progress, as_json=again.json)
    name = argv[0]
    if name not in LEARNERS:
        from surefoot.catalog import find, require_ready

        require_ready(find(name))  # a planned system, or an unknown name, says so
        raise ConfigError(f"{name!r} is not a learner: see `surefoot methods` for where it lives and how it is used.")
    method_class = learner(name)
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [("options", tyro.conf.OmitArgPrefixes[Options]), ("method", tyro.conf.OmitArgPrefixes[method_class.config_class])],  # type: ignore[misc]
    )
    description = (sys.modules[method_class.__module__].__doc__ or "").strip().split("\n\n")[0]
    parsed: Any = tyro.cli(arguments, args=argv[1:], prog=f"surefoot train {name}", description=description)
    options: Options = parsed.options
    out = options.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    shared = {f.name: getattr(options, f.name) for f in dataclasses.fields(SessionConfig) if hasattr(options, f.name)}
    config = SessionConfig(method=name, hyperparameters=dataclasses.asdict(parsed.method), **shared)
    session = Session.create(config, out, command=["surefoot", "train", *argv])
    return _finish(session, resumed=False, progress=options.progress, as_json=options.json)


def _finish(session: Session, *, resumed: bool, progress: bool, as_json: bool) -> int:
    """Train, evaluate, save, report, print."""
    import json

    from rich.console import Console

    result = session.train(resume=resumed, progress=progress)
    console = Console(stderr=True)
    console.print(session.table(result))
    from surefoot.evaluation.report import report_for_runs

    page = report_for_runs([session.run.folder], session.run.folder / "report.html")
    console.print(f"run     {session.run.folder}\nreport  {page}", highlight=False)
    if as_json:
        print(json.dumps(result, indent=2))
    return 0
