"""`surefoot train iwocs --env ENV`: a default policy, then SAC on the worst models, one after the other, in one run folder.

Each stage is a run of its own in `RUN/stages/`, which resumes bit for bit; searches are deterministic and are done again. So a resumed run
equals the uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number, summary
from surefoot.cli.session import table as returns_table
from surefoot.cli.stages import carry_out, resumed
from surefoot.cli.stress import Options as StressOptions
from surefoot.cli.stress import stressed
from surefoot.cli.stress import table as stress_table
from surefoot.cli.subjects import Subject, write_evidence
from surefoot.envs.making import time_limit
from surefoot.envs.physics import Parameter
from surefoot.envs.seeding import derive_seed
from surefoot.envs.uncertainty import chosen, read_set
from surefoot.errors import CheckpointError, ConfigError
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.stress import worst_case
from surefoot.files import replacing_file
from surefoot.methods.online.iwocs import Found, Iteration, IWOCSConfig, Solution, StaticProblems, StaticSAC, iwocs, learner, solutions
from surefoot.methods.online.sac import SAC
from surefoot.policies.base import Policy
from surefoot.policies.saving import save_policy
from surefoot.steering.smoothed import Smoothed
from surefoot.training.fit import fit
from surefoot.training.run import Run

FLAGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)

PHYSICS = "physics.json"  # the set, in a run's folder


@dataclass(frozen=True)
class Options:
    """Where to learn, over what physics, and where the results go."""

    env: str | None = None
    """Gymnasium environment to learn in."""
    over: str | None = None
    """A JSON file of parameters, a set of the environment (2d, 3d), or names joined by commas (default: the environment's first set)."""
    search: Literal["cmaes", "grid"] = "cmaes"
    """How the worst physics is searched."""
    grid: int = 10
    """Values of each parameter, in a search on a grid and in the stress test at the end."""
    search_episodes: int = 1
    """Episodes for each candidate of a search."""
    episodes: int = 5
    """Episodes at each point of the stress test at the end (and ten times as many with the physics as it is)."""
    seed: int = 0
    """Everything random derives from it."""
    out: Path | None = None
    """Run folder to create (default: runs/iwocs-DATE-TIME)."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the environment's own limit)."""
    log_every: int = 1_000
    """Updates between rows of metrics."""
    checkpoint_every: int = 10_000
    """Updates between checkpoints."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def __post_init__(self) -> None:
        for name in ("grid", "search_episodes", "episodes", "log_every", "checkpoint_every"):
            least = 2 if name == "grid" else 1
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least {least}.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}: it must not be negative.")


def main(argv: list[str]) -> int:
    """Entry of `surefoot train iwocs`; returns the exit code."""
    console, again = Console(stderr=True), resumed(argv, "iwocs")
    if again is not None:
        return carry_out(Training.resume(again.resume, console), again)
    options, config = parse(argv)
    return carry_out(Training.create(options, config, argv, console), options)


def parse(argv: list[str]) -> tuple[Options, IWOCSConfig]:
    """The options and the method's settings, flags without a prefix."""
    arguments = dataclasses.make_dataclass("Arguments", [("training", Options), ("iwocs", IWOCSConfig)])
    description = "IWOCS: a robust policy from a sequence of ordinary problems, each on the worst physics that was found so far."
    parsed: Any = tyro.cli(arguments, args=argv, prog="surefoot train iwocs", description=description, config=FLAGS)
    return parsed.training, parsed.iwocs


@dataclass(frozen=True)
class Training:
    """One run folder and what it is to hold."""

    run: Run
    options: Options
    config: IWOCSConfig
    parameters: tuple[Parameter, ...]
    console: Console

    @staticmethod
    def create(options: Options, config: IWOCSConfig, argv: Sequence[str], console: Console) -> Training:
        """A new run; nothing is left behind by settings that do not fit."""
        if options.env is None:
            raise ConfigError("iwocs learns in an environment: name one (--env InvertedPendulum-v5).")
        parameters = chosen(options.over, options.env)
        learner(options.env, parameters, config, seed=0, max_steps=options.max_steps)[1].close()  # does everything fit?
        settings = {name: value for name, value in asdict(options).items() if name not in ("out", "no_progress", "json")}
        total = config.default_steps + config.models * config.model_steps
        about = {"method": "iwocs", "hyperparameters": asdict(config), "steps": total, "seeds": 1, "data": None}
        out = options.out or Path("runs") / f"iwocs-{time.strftime('%Y%m%d-%H%M%S')}"
        run = Run.create(out, settings | about | {"command": shlex.join(["surefoot", "train", "iwocs", *argv])})
        with replacing_file(run.folder / PHYSICS) as new:
            new.write_text(json.dumps({"parameters": [asdict(p) for p in parameters]}, indent=1) + "\n", encoding="utf-8")
        names = ", ".join(p.name for p in parameters)
        console.print(f"iwocs · {options.env} · {names} · at most {total:,} steps → {run.folder}", highlight=False, soft_wrap=True)
        return Training(run, options, config, parameters, console)

    @staticmethod
    def resume(folder: Path, console: Console) -> Training:
        """A run that was stopped, from its folder alone. Raises CheckpointError if these are not the settings of such a run."""
        run = Run.open(folder)
        if run.config.get("method") != "iwocs":
            raise ConfigError(f"{run.folder} is a run of {run.config.get('method')}, not of iwocs: leave the method out.")
        try:
            hyperparameters: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in run.config["hyperparameters"].items()}
            names = {f.name for f in dataclasses.fields(Options)} & run.config.keys()
            options, config = Options(**{name: run.config[name] for name in names}), IWOCSConfig(**hyperparameters)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{run.folder / 'config.json'} does not hold the settings of iwocs ({error}): start a new run.") from None
        assert options.env is not None
        return Training(run, options, config, read_set(run.folder / PHYSICS, options.env), console)

    # --- stages -------------------------------------------------------------------------------------------------------

    def train(self, progress: bool) -> dict[str, Any]:
        """All stages, the policy, and what it is worth."""
        options, config = self.options, self.config
        assert options.env is not None

        def solve(i: int, going: Sequence[int], points: Sequence[tuple[float, ...]]) -> list[Solution]:
            sac, source = learner(options.env or "", self.parameters, config, points, seed=self._seed(1, i), max_steps=options.max_steps)
            self._fit(f"model-{i}", sac, source, config.model_steps, progress)
            assert isinstance(sac, StaticSAC)
            return solutions(sac, source)

        def search(policy: Policy) -> Found:
            settings: dict[str, Any] = {"search": options.search, "episodes": options.search_episodes, "max_steps": options.max_steps}
            settings |= {"n": options.grid} if options.search == "grid" else {}
            with self.console.status("searching the worst physics"):
                return Found(*worst_case(policy, options.env or "", self.parameters, seed=self._seed(2), **settings))

        seed = self._seed(0)
        sac, source = learner(options.env, self.parameters, config, seed=seed, method=SAC, randomise=True, max_steps=options.max_steps)
        self._fit("default", sac, source, config.default_steps, progress)
        self.run.rewind(-1)  # the rows of the history are told again
        told = count()
        (sequence,) = iwocs([sac.policy], solve, search, config, lambda _, row: self._tell(next(told), row))
        if sequence.ended:
            self.console.print("end     the worst physics is one that was solved already", highlight=False, soft_wrap=True)
        self.run.close()
        save_policy(sequence.best.policy, self.run.folder / "policy")
        result = self._judge(sequence)
        self.run.result(result)
        return result

    def _fit(self, stage: str, sac: Any, source: Any, steps: int, progress: bool) -> None:
        """One stage from where it is to its end."""
        folder = self.run.folder / "stages" / stage
        there = (folder / "config.json").is_file()
        run = Run.open(folder) if there else Run.create(folder, {"method": type(sac).__name__, "stage": stage, "env": self.options.env})
        self.console.print(f"stage   {stage}: {steps:,} steps", highlight=False, soft_wrap=True)
        every: dict[str, Any] = {"log_every": self.options.log_every, "checkpoint_every": self.options.checkpoint_every}
        try:
            fit(sac, source, self.config.updates_of(steps), run=run, progress=progress, **every)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped in stage {stage}; saved: go on with `surefoot train iwocs --resume {self.run.folder}`."
            ) from None
        finally:
            run.close()
            source.close()

    def _tell(self, i: int, row: Iteration) -> None:
        """Row i of the history, to the terminal and to metrics.jsonl."""
        where = ", ".join(f"{p.name} {x:.4g}" for p, x in zip(self.parameters, row.found.point, strict=True))
        who = "default policy" if row.model is None else f"{i} {'model' if i == 1 else 'models'}, threshold {row.threshold:.4g}"
        self.console.print(f"worst   {number(row.found.value)} at {where} ({who})", highlight=False, soft_wrap=True)
        self.run.log(i, {"search/worst_return": row.found.value, **({} if row.threshold is None else {"search/threshold": row.threshold})})

    # --- the end ------------------------------------------------------------------------------------------------------

    def _judge(self, sequence: StaticProblems) -> dict[str, Any]:
        """Returns with the physics as it is, on seeds that nothing was chosen by, and the stress test."""
        options, best = self.options, sequence.best
        assert options.env is not None
        subject = Subject(str(self.run.folder), best.policy, options.env, options.max_steps, self.run.folder)
        with self.console.status("judging") as status:
            n = 10 * options.episodes
            played = rollout(best.policy, options.env, n, seed=self._seed(3), max_steps=options.max_steps)
            over = str(self.run.folder / PHYSICS)
            settings = StressOptions(over=over, grid=options.grid, episodes=options.episodes, seed=self._seed(4))
            words = [subject.name, "--over", over, "--grid", str(options.grid), "--episodes", str(options.episodes), "--seed"]
            stress = stressed(subject, Smoothed(best.policy, 0.0), self.parameters, settings, [*words, str(settings.seed)], status)
        write_evidence(subject, "stress", stress, self.console)
        row = summary(subject, played)
        seen = [{"model": r.model, "threshold": r.threshold, "found": asdict(r.found), "best": r is best} for r in sequence.history]
        (member,) = stress["members"]
        return finite(
            {
                "method": "iwocs",
                "env": options.env,
                "data": None,
                "steps": self.config.default_steps + self.config.model_steps * len(sequence.solutions),
                "seeds": 1,
                "wall_s": round(self.run.seconds, 1),
                "last": {name: row[name] for name in ("returns", "mean", "iqm")},
                "best": None,
                "offline": None,
                "weighting": None,
                "warnings": [],
                "history": seen,
                "stress": {name: member[name] for name in ("worst", "average", "nominal")},
                "max_steps": time_limit(options.env, options.max_steps),
            }
        )

    def report(self, result: dict[str, Any]) -> None:
        """The result as tables and a page."""
        from surefoot.evaluation.report import report_for_runs  # matplotlib takes a second that help and errors need not wait

        self.console.print(returns_table(result))
        self.console.print(models_table(result, self.parameters))
        evidence = json.loads((self.run.folder / "evidence" / "stress.json").read_text(encoding="utf-8"))
        self.console.print(stress_table([evidence]))
        page = report_for_runs([self.run.folder], self.run.folder / "report.html")
        self.console.print(f"run     {self.run.folder}\nreport  {page}", highlight=False, soft_wrap=True)

    def _seed(self, *key: int) -> int:
        return derive_seed(self.options.seed, *key)


def models_table(result: dict[str, Any], parameters: Sequence[Parameter]) -> Table:
    """The history for a terminal: which models were solved, and what the worst case was then."""
    out = Table("solved", "threshold", "worst return found", "at", title="the sequence")
    words = lambda point: ", ".join(f"{p.name} {x:.4g}" for p, x in zip(parameters, point, strict=True))  # noqa: E731
    for row in result["history"]:
        solved = "default policy" if row["model"] is None else words(row["model"])
        threshold = "" if row["threshold"] is None else number(row["threshold"])
        worst = number(row["found"]["value"]) + (" (the best: handed back)" if row["best"] else "")
        out.add_row(solved, threshold, worst, words(row["found"]["point"]))
    return out
