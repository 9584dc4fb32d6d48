"""`surefoot train METHOD --data LOG` or `--env ENV`: a fleet of seeds, evaluated, saved and reported in a run folder."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from surefoot.catalog import find, require_ready
from surefoot.cli.session import Session, finished, table
from surefoot.cli.settings import SessionConfig
from surefoot.cli.stages import ResumeTo
from surefoot.errors import ConfigError
from surefoot.methods.registry import LEARNERS, OFFLINE, ON_POLICY, ONLINE, learner
from surefoot.training.run import Run

BY_STAGES = {
    "iwocs": "surefoot.cli.train_iwocs",
    "protected": "surefoot.cli.train_protected",
    "rrcm": "surefoot.cli.train_rrcm",
}
"""Methods that train several learners in turn; each has a command of its own."""

FLAGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class Options:
    """What to learn from, for how long, and where the results go."""

    data: str | None = None
    """Log to learn from: an HDF5 (D4RL layout), npz, CSV or Parquet file, a folder of Parquet, minari:ID, or a recipe's name."""
    env: str | None = None
    """Gymnasium environment to evaluate in, and to learn in for online methods (default: the one the log names)."""
    steps: int = 100_000
    """Updates (gradient steps of the critic, or of the policy where there is none); of ppo, steps in the environment."""
    seeds: int = 1
    """Members of the fleet: independent seeds trained side by side in one computation."""
    seed: int = 0
    """Seed of the fleet; everything random derives from it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks and the log live."""
    out: Path | None = None
    """Run folder to create (default: runs/METHOD-DATE-TIME)."""
    weighting: Literal["uniform", "rw", "aw", "topk"] = "uniform"
    """How logged transitions are drawn: uniformly, by return (rw), by advantage over the start state (aw), the top 10% episodes (topk)."""
    weighting_alpha: float = 0.1
    """Temperature of rw and aw weights; a smaller one favours the best episodes more."""
    one_episode: bool = False
    """Accept a log that marks no episode ends, as one long episode."""
    log_share: float = 0.5
    """Share of each batch that comes from the log, for online methods that are given --data."""
    eval_every: int = 10_000
    """Updates between evaluations while training (0: never); the best policy is chosen by them."""
    eval_episodes: int = 10
    """Episodes of each evaluation while training, per member."""
    episodes: int = 50
    """Episodes of the final evaluation, per member, on seeds of its own."""
    fqe_steps: int = 10_000
    """Updates of fitted Q evaluation, which judges the policy where there is no environment."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the environment's own limit)."""
    frame_stack: int = 1
    """Last observations that the policy sees at once (online methods)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on every observation while training and evaluating (online methods; see certify)."""
    checkpoint_every: int = 10_000
    """Updates between checkpoints."""
    log_every: int = 1_000
    """Updates between rows of metrics."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""


def usage() -> str:
    """The text of `surefoot train --help`."""
    return (
        "usage: surefoot train METHOD [options]         (surefoot train METHOD --help lists them, with the method's own settings)\n"
        "       surefoot train --resume DIR [--steps N]\n\n"
        "Learn a policy, evaluate it with intervals, and write a run folder with policy, metrics, checkpoints and report.\n\n"
        f"methods that learn from a log (--data):        {', '.join(OFFLINE)}\n"
        f"methods that learn in an environment (--env):  {', '.join(ONLINE | ON_POLICY)}\n"
        f"methods in stages, with options of their own:  {', '.join(BY_STAGES)}\n\n"
        "examples:\n"
        "  surefoot train a2pr --data pendulum-mixed --steps 8000 --seeds 5 --out runs/a2pr\n"
        "  surefoot train td3_bc --data my_log.npz --weighting aw\n"
        "  surefoot train dqn --env CartPole-v1 --steps 20000\n"
        "  surefoot train --resume runs/a2pr\n"
    )


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] in BY_STAGES:
        return import_module(BY_STAGES[argv[0]]).main(argv[1:])
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return _resume(argv)
    name = argv[0]
    if name.startswith("-"):
        raise ConfigError(f"the first word after train must be a method ({', '.join(LEARNERS)}), or --resume DIR.")
    if name not in LEARNERS:
        require_ready(find(name))  # a planned system, or an unknown name, says so
        raise ConfigError(f"{name} is not learned with `surefoot train`: docs/methods/{name}.md shows how it is used.")
    return _finish(*begin(argv))


def begin(argv: Sequence[str]) -> tuple[Session, Options]:
    """A new session from a method's name and its arguments."""
    name = argv[0]
    options, hyperparameters = parse(name, list(argv[1:]))
    out = options.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    shared = {f.name: getattr(options, f.name) for f in dataclasses.fields(SessionConfig) if hasattr(options, f.name)}
    config = SessionConfig(method=name, hyperparameters=dataclasses.asdict(hyperparameters), **shared)
    return Session.create(config, out, command=["surefoot", "train", *argv]), options


def parse(name: str, argv: list[str]) -> tuple[Options, Any]:
    """The options and the method's own settings; both are flags without a prefix (no name is in both: see the tests)."""
    method_class = learner(name)
    arguments = dataclasses.make_dataclass("Arguments", [("training", Options), (name, method_class.config_class)])
    description = (sys.modules[method_class.__module__].__doc__ or "").strip().split("\n\n")[0]
    parsed: Any = tyro.cli(arguments, args=argv, prog=f"surefoot train {name}", description=description, config=FLAGS)
    return parsed.training, getattr(parsed, name)


def _resume(argv: list[str]) -> int:
    """`train --resume DIR`, or `train METHOD --resume DIR` for the method that the run has."""
    name = argv[0] if argv[0] in LEARNERS else None
    words = argv[1:] if name else argv
    options = tyro.cli(ResumeTo, args=words, prog="surefoot train", description=ResumeTo.__doc__, config=FLAGS)
    run = Run.open(options.resume)
    if name is None and run.config.get("method") in BY_STAGES:
        return import_module(BY_STAGES[run.config["method"]]).main(argv)
    if name not in (None, run.config.get("method")):
        raise ConfigError(f"{run.folder} is a run of {run.config.get('method')}, not of {name}: leave the method out.")
    done = finished(run, options.steps)
    if done is None:
        return _finish(Session.resume(run, options.steps), options)
    return _report(run, done, options)


def _finish(session: Session, options: Options | ResumeTo) -> int:
    """Train, evaluate, save, report, print."""
    result = session.train(progress=not options.no_progress)
    return _report(session.run, result, options)


def _report(run: Run, result: dict[str, Any], options: Options | ResumeTo) -> int:
    """The result as a table, a page, and JSON where it was asked for."""
    from surefoot.evaluation.report import report_for_runs  # matplotlib takes a second that help and errors need not wait

    console = Console(stderr=True)
    console.print(table(result))
    page = report_for_runs([run.folder], run.folder / "report.html")
    console.print(f"run     {run.folder}\nreport  {page}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps(result, indent=2))
    return 0
