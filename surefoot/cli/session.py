"""A training run from its settings to its result: create or resume, train, save the policies, judge them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number, summary, words
from surefoot.cli.parts import FINAL_EPISODES, OFFLINE, Parts, build, framed, noisy
from surefoot.cli.settings import SessionConfig
from surefoot.cli.subjects import Subject
from surefoot.data.statistics import brief
from surefoot.errors import CheckpointError, ConfigError
from surefoot.evaluation.offline import evaluate_offline
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.saving import read_policy, save_policy
from surefoot.training.fit import Callback, fit
from surefoot.training.run import Run, check_free


class Session:
    """One run folder and the parts that its settings stand for."""

    def __init__(self, run: Run, parts: Parts, console: Console):
        self.run, self.parts, self.config, self.console = run, parts, parts.config, console

    @staticmethod
    def create(config: SessionConfig, out: Path, command: Sequence[str]) -> Session:
        """A new run; its folder is made last, so that nothing is left behind by settings or data that do not fit."""
        check_free(out)
        console = Console(stderr=True)
        parts = build(config, console.print)
        log = {} if parts.log is None else {"fingerprint": parts.log.fingerprint, "log": brief(parts.log)}
        run = Run.create(out, parts.config.to_json() | {"command": shlex.join(command), "fingerprint": None} | log)
        session = Session(run, parts, console)
        session._introduce()
        return session

    @staticmethod
    def resume(run: Run, steps: int | None = None) -> Session:
        """A run that was stopped (or is to be trained longer, until `steps`), rebuilt from its `config.json` alone.

        Raises CheckpointError if these are not the settings of a run or the data has changed, ConfigError if it is beyond `steps`.
        """
        config = SessionConfig.from_json(run.config, str(run.folder / "config.json"))
        console = Console(stderr=True)
        if steps is not None and steps != config.steps:
            config = replace(config, steps=steps)
            run.load()
            if run.saved_step is not None and steps < run.saved_step:
                raise ConfigError(f"{run.folder} is at step {run.saved_step} already: --steps {steps} lies behind it.")
        parts = build(config, console.print)
        fingerprint = None if parts.log is None else parts.log.fingerprint
        if fingerprint != run.config.get("fingerprint"):
            raise CheckpointError(
                f"{config.data} does not hold what it held when {run.folder} was started (its fingerprint has changed): "
                "resume with the data as it was, or start a new run."
            )
        parts.warnings.extend(f"{change}: the run goes on, but not bit for bit" for change in run.drift())
        run.configure(steps=config.steps)
        session = Session(run, parts, console)
        session._introduce()
        return session

    def train(self, *, progress: bool = True, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
        """Train to the end, save and judge; returns the result, which is in `result.json` too.

        `callbacks` are called beside the evaluation while training.
        Raises KeyboardInterrupt with a sentence that says how to go on, and what `fit` raises.
        """
        config, parts = self.config, self.parts
        fit(
            parts.method,
            parts.source,
            config.steps,
            run=self.run,
            callbacks=[*([] if parts.evaluation is None else [parts.evaluation]), *callbacks],
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            progress=progress,
        )
        self.run.close()
        try:
            self._save()
            result = self._judge()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped while judging; what was learned is saved: {self.run.continued_by}.") from None
        self.run.result(result)
        return result

    def _introduce(self) -> None:
        """What is going to happen, on standard error."""
        config, log = self.config, self.parts.log
        learns = "" if log is None else f" · {len(log):,} transitions of {config.data}"
        acts = "" if config.env is None else f" · {config.env}"
        fleet = f" · {config.seeds} seeds" if config.seeds > 1 else ""
        self.console.print(
            f"{config.method}{learns}{acts}{fleet} · {config.steps:,} steps → {self.run.folder}", highlight=False, soft_wrap=True
        )
        for warning in self.parts.warnings:
            self.console.print(f"note: {warning}", highlight=False, markup=False, soft_wrap=True)
        if self.parts.weighting is not None and log is not None:
            w = self.parts.weighting
            self.console.print(
                f"weighting {w['kind']}: J_w, the return of the weighted log, is {number(w['weighted_return'])} (unweighted "
                f"{number(w['uniform_return'])}); effective sample size {number(w['ess'])} of {len(log):,} transitions, "
                f"{number(w['effective_episodes'])} of {len(log.episode_ends):,} episodes",
                highlight=False,
                soft_wrap=True,
            )

    def _save(self) -> None:
        save_policy(framed(self.parts.method.policy, self.config), self.run.folder / "policy")
        evaluation = self.parts.evaluation
        if evaluation is not None and evaluation.evaluations:
            best = evaluation.best_policy(self.parts.method.policy)
            save_policy(framed(best, self.config), self.run.folder / "policy_best")

    def _judge(self) -> dict[str, Any]:
        """The result of what was saved: returns where there is an environment, an estimate from the log else."""
        config, parts, evaluation = self.config, self.parts, self.parts.evaluation
        result: dict[str, Any] = {
            "method": config.method,
            "env": config.env,
            "data": config.data,
            "steps": config.steps,
            "seeds": config.seeds,
            "wall_s": round(self.run.seconds, 1),
            "last": None,
            "best": None,
            "offline": None,
            "weighting": parts.weighting,
            "warnings": parts.warnings,
        }
        if config.env is not None:
            result["last"] = self._returns("policy")
            if evaluation is not None and evaluation.evaluations:
                result["best"] = self._returns("policy_best") | {"evaluations": evaluation.evaluations}
        elif parts.log is not None:
            with self.console.status(f"judging from the log: {config.fqe_steps:,} steps of fitted Q evaluation"):
                policy = read_policy(self.run.folder / "policy")
                gamma = config.hyperparameters.get("gamma", 0.99)
                judged = evaluate_offline(policy, parts.log, gamma=min(gamma, 0.999), steps=config.fqe_steps, seed=parts.seed(OFFLINE))
            result["offline"] = judged.to_json()
        return finite(result)

    def _returns(self, which: str) -> dict[str, Any]:
        """Fresh episodes of a saved policy, on seeds that nothing was chosen by."""
        config = self.config
        assert config.env is not None
        policy = noisy(read_policy(self.run.folder / which), config)
        with self.console.status(f"{config.episodes} episodes of {config.env} with {which}"):
            played = rollout(policy, config.env, config.episodes, seed=self.parts.seed(FINAL_EPISODES), max_steps=config.max_steps)
        row = summary(Subject(which, policy, config.env, config.max_steps, self.run.folder), played)
        return {name: row[name] for name in ("returns", "mean", "iqm")}


def finished(run: Run, steps: int | None = None) -> dict[str, Any] | None:
    """The result of a run that is complete (and needs not be trained until other `steps`); None if there is something to do."""
    result = run.finished()
    if result is None or result.get("steps") != run.config.get("steps") or steps not in (None, result["steps"]):
        return None
    return result


def table(result: dict[str, Any]) -> Table:
    """A result for a terminal."""
    steps = f"{result['method']}, {result['steps']:,} steps"
    if result["offline"] is not None:
        offline = result["offline"]
        out = Table(
            "value of the policy", "of the log", "Bellman error", "distance to logged actions", title=f"{steps}, judged from the log"
        )
        for value, error, distance in zip(offline["value"], offline["bellman_error"], offline["action_distance"], strict=True):
            out.add_row(*map(number, (value, offline["logged_value"], error, distance)))
        return out
    out = Table("policy", "mean return [95 %]", "IQM [95 %]", "episodes", title=f"{steps}, {result['env']}")
    for which in ("last", "best"):
        row = result[which]
        if row is not None:
            chosen = f" of {row['evaluations']}" if which == "best" else ""
            members, episodes = len(row["returns"]), len(row["returns"][0])
            mean, middle = ({k: nan if v is None else v for k, v in row[kind].items()} for kind in ("mean", "iqm"))
            out.add_row(which + chosen, words(mean), words(middle), f"{members} x {episodes}" if members > 1 else str(episodes))
    return out
