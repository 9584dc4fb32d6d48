"""`surefoot train protected --env ENV`: a first policy, then others that are better against some attacker, as one adaptive set.

Each stage is a run of its own in `RUN/stages/`, which resumes bit for bit, so a resumed run equals the uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number, summary
from surefoot.cli.session import table as returns_table
from surefoot.cli.stages import carry_out, resumed
from surefoot.cli.subjects import Subject, read_settings
from surefoot.data.rollouts import Rollouts
from surefoot.envs.making import check_fits, env_spaces, time_limit
from surefoot.envs.seeding import derive_seed
from surefoot.errors import CheckpointError, ConfigError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online.adversary import Adversary
from surefoot.methods.online.opponents import mean_returns
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.methods.online.protected import PRESETS, ProtectedConfig, check_first, discovery
from surefoot.policies.base import Policy
from surefoot.policies.loading import load_policy, run_folder
from surefoot.policies.saving import read_policy, save_policy
from surefoot.steering.adaptive import Adaptive
from surefoot.training.fit import fit
from surefoot.training.run import Run

FLAGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)

FIRST = "first"  # the folder of the policy that the others start from, where --from names one
ATTACKERS = "attackers"  # the folder of the attackers' policies, by number: attacker k is the one that policy k was found with


@dataclass(frozen=True)
class Options:
    """Where to learn, from what, and where the results go."""

    env: str | None = None
    """Gymnasium environment to learn in (with --from: by default the one of that run)."""
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """A run of ppo or sa_ppo (DIR, DIR@MEMBER, DIR:best) whose policy is the first one; without it PPO learns one."""
    first_steps: int = 1_000_000
    """Environment steps of PPO on the first policy, where it is not given."""
    seeds: int = 1
    """Members of the fleet: independent sets, trained side by side in one computation (with --from: as many as that policy has)."""
    seed: int = 0
    """Everything random derives from it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks live."""
    out: Path | None = None
    """Run folder to create (default: runs/protected-DATE-TIME)."""
    episodes: int = 50
    """Episodes of each policy, and of the set, in the end."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the environment's own limit)."""
    log_every: int = 10_000
    """Environment steps between rows of metrics."""
    checkpoint_every: int = 100_000
    """Environment steps between checkpoints."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def __post_init__(self) -> None:
        for name in ("first_steps", "seeds", "episodes", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}: it must not be negative.")
        if self.from_ is not None and self.seeds > 1:
            raise ConfigError("--seeds does not go with --from: there are as many members as the policy has.")


def main(argv: list[str]) -> int:
    """Entry of `surefoot train protected`; returns the exit code."""
    console, again = Console(stderr=True), resumed(argv, "protected")
    if again is not None:
        return carry_out(Training.resume(again.resume, console), again)
    options, config = parse(argv)
    return carry_out(Training.create(options, config, argv, console), options)


def parse(argv: list[str]) -> tuple[Options, ProtectedConfig]:
    """The options and the method's settings, flags without a prefix; an environment of the paper brings its own defaults."""
    arguments = dataclasses.make_dataclass("Arguments", [("training", Options), ("protected", ProtectedConfig)])
    description = "PROTECTED: discover policies one after the other, each the best there is against some attacker on the observations."
    how: dict[str, Any] = {"prog": "surefoot train protected", "description": description, "config": FLAGS}
    parsed: Any = tyro.cli(arguments, args=argv, **how)
    preset = PRESETS.get((environment(parsed.training) or "").split("-")[0])
    if preset is not None:
        parsed = tyro.cli(arguments, args=argv, default=arguments(Options(), preset), **how)
    return parsed.training, parsed.protected


@dataclass(frozen=True)
class Training:
    """One run folder and what it is to hold."""

    run: Run
    env: str
    options: Options
    config: ProtectedConfig
    console: Console

    @staticmethod
    def create(options: Options, config: ProtectedConfig, argv: Sequence[str], console: Console) -> Training:
        """A new run; nothing is left behind by settings that do not fit."""
        env = environment(options)
        if env is None:
            raise ConfigError("protected learns in an environment: name one (--env Hopper-v5), or a run to start from (--from DIR).")
        first = None if options.from_ is None else check_first(load_policy(options.from_, env_id=env))
        spec = env_spaces(env)
        time_limit(env, options.max_steps)
        if first is not None:
            check_fits("the first policy", first.spec, env, spec)
        options = replace(options, env=env)
        settings = {name: value for name, value in asdict(options).items() if name not in ("out", "no_progress", "json")}
        total = config.iterations * config.steps + (options.first_steps if first is None else 0)
        members = options.seeds if first is None else (first.copies or (1,))[0]
        about = {"method": "protected", "hyperparameters": asdict(config), "steps": total, "seeds": members, "data": None}
        out = options.out or Path("runs") / f"protected-{time.strftime('%Y%m%d-%H%M%S')}"
        run = Run.create(out, settings | about | {"command": shlex.join(["surefoot", "train", "protected", *argv])})
        if first is not None:
            save_policy(first, run.folder / FIRST)
        what = f"protected · {env} · {config.iterations} policies beside the first · {total:,} steps"
        console.print(f"{what} → {run.folder}", highlight=False, soft_wrap=True)
        return Training(run, env, options, config, console)

    @staticmethod
    def resume(folder: Path, console: Console) -> Training:
        """A run that was stopped, from its folder alone. Raises CheckpointError if these are not the settings of such a run."""
        run = Run.open(folder)
        if run.config.get("method") != "protected":
            raise ConfigError(f"{run.folder} is a run of {run.config.get('method')}, not of protected: leave the method out.")
        try:
            names = {f.name for f in dataclasses.fields(Options)} & run.config.keys()
            given_first = {"seeds": 1} if run.config["from_"] is not None else {}
            options = Options(**{name: run.config[name] for name in names} | given_first)
            config, env = ProtectedConfig(**run.config["hyperparameters"]), run.config["env"]
        except (KeyError, TypeError) as error:
            where = run.folder / "config.json"
            raise CheckpointError(f"{where} does not hold the settings of protected ({error}): start a new run.") from None
        return Training(run, env, options, config, console)

    # --- stages -------------------------------------------------------------------------------------------------------

    def train(self, progress: bool) -> dict[str, Any]:
        """All stages; after each the set that there is is saved. Then what it is worth."""
        policies, attackers = [self._first(progress)], list[Adversary]()
        table = Payoff([self._natural(policies[0])], [])
        self._save(policies, table)
        self.run.rewind(-1)  # the rows of the history are told again
        for k in range(1, self.config.iterations + 1):
            method, source = discovery(policies[-1], policies, self.env, self.config, seed=self._seed(1, k), **self._where)
            self._fit(f"policy-{k}", method, source, self.config.steps, progress)
            found = method.policy.requires_grad_(False)
            method.attacking.requires_grad_(False)
            attackers.append(method.adversary)
            table = self._extended(table, policies, found, attackers)
            self._tell(k, table)
            save_policy(method.attacking, self.run.folder / ATTACKERS / str(k))
            if self.config.delta is not None and (table.gaps[-1] <= self.config.delta).all():
                self.console.print(f"stop    the gap is not above {self.config.delta:g}: policy {k} is left out", highlight=False)
                break
            policies.append(found)
            self._save(policies, table)
        self.run.close()
        result = self._judge(policies, table)
        self.run.result(result)
        return result

    def _first(self, progress: bool) -> Policy:
        """The policy that the others start from: the one that was given, or PPO's."""
        options, config = self.options, self.config
        if options.from_ is not None:
            return read_policy(self.run.folder / FIRST, options.device).requires_grad_(False)
        ppo = PPOConfig(
            n_steps=config.n_steps, n_envs=config.n_envs, minibatch=config.attacker_ppo.minibatch, gamma=config.gamma,
            gae_lambda=config.gae_lambda, anneal=options.first_steps,
        )  # fmt: skip
        method = PPO(env_spaces(self.env), ppo, (options.seeds,), options.device, self._seed(0, 0))
        where: dict[str, Any] = {"copies": (options.seeds,), "n_envs": ppo.n_envs, "seed": self._seed(0, 1), **self._where}
        self._fit("policy-0", method, Rollouts(self.env, method.policy, ppo.n_steps, **where), options.first_steps, progress)
        return method.policy.requires_grad_(False)

    def _fit(self, stage: str, method: Any, source: Any, steps: int, progress: bool) -> None:
        """One stage from where it is to its end."""
        folder = self.run.folder / "stages" / stage
        there = (folder / "config.json").is_file()
        run = Run.open(folder) if there else Run.create(folder, {"method": type(method).__name__, "stage": stage, "env": self.env})
        self.console.print(f"stage   {stage}: {steps:,} steps", highlight=False, soft_wrap=True)
        every: dict[str, Any] = {"log_every": self.options.log_every, "checkpoint_every": self.options.checkpoint_every}
        try:
            fit(method, source, steps, run=run, progress=progress, **every)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped in stage {stage}; saved: go on with `surefoot train protected --resume {self.run.folder}`."
            ) from None
        finally:
            run.close()
            source.close()

    # --- what the policies are worth ----------------------------------------------------------------------------------

    def _natural(self, policy: Policy) -> np.ndarray:
        """Returns without attack `[members, episodes]`, the same starts for every policy."""
        options = self.options
        played = rollout(policy, self.env, options.episodes, seed=self._seed(2), max_steps=options.max_steps)
        return played.returns.reshape(-1, options.episodes)

    def _attacked(self, policy: Policy, adversary: Adversary, k: int) -> np.ndarray:
        """Mean return under attacker k as it has learned, `[members, 1]`, the same starts for every policy."""
        means = mean_returns(policy, adversary, self.env, self.options.episodes, seed=self._seed(3, k), **self._where)
        return means.double().cpu().numpy().reshape(-1, 1)

    def _extended(self, table: Payoff, policies: Sequence[Policy], found: Policy, attackers: Sequence[Adversary]) -> Payoff:
        """The table with one policy more, and the attacker that it was found with."""
        with self.console.status(f"{len(policies) + 1} policies under {len(attackers)} attackers"):
            *known, newest = attackers
            rows = [np.hstack([means, self._attacked(found, known[j], j + 1)]) for j, means in enumerate(table.attacked)]
            rows.append(np.hstack([self._attacked(each, newest, len(attackers)) for each in (*policies, found)]))
            return Payoff([*table.natural, self._natural(found)], rows)

    def _save(self, policies: Sequence[Policy], table: Payoff) -> None:
        low, high = table.range
        save_policy(Adaptive(policies, low=low, high=high), self.run.folder / "policy")

    def _tell(self, k: int, table: Payoff) -> None:
        """Iteration k, to the terminal and to metrics.jsonl."""
        gap, natural = table.gaps[-1], table.natural[-1].mean(-1)
        what = f"{number(natural.mean())} without attack; gap {number(gap.mean())} under its own attacker"
        self.console.print(f"found   policy {k}: {what}", highlight=False, soft_wrap=True)
        self.run.log(k, {"discovery/gap": gap.tolist(), "discovery/natural_return": natural.tolist()})

    # --- the end ------------------------------------------------------------------------------------------------------

    def _judge(self, policies: Sequence[Policy], table: Payoff) -> dict[str, Any]:
        """Fresh episodes of the set as it is saved, on seeds that nothing was chosen by, beside what is known of its policies."""
        options, config = self.options, self.config
        chosen = read_policy(self.run.folder / "policy", options.device)
        subject = Subject(str(self.run.folder), chosen, self.env, options.max_steps, self.run.folder)
        with self.console.status(f"{options.episodes} episodes of {self.env} with the set"):
            row = summary(subject, rollout(chosen, self.env, options.episodes, seed=self._seed(4), max_steps=options.max_steps))
        return finite(
            {
                "method": "protected",
                "env": self.env,
                "data": None,
                "steps": len(table.attacked) * config.steps + (options.first_steps if options.from_ is None else 0),
                "seeds": subject.members,
                "wall_s": round(self.run.seconds, 1),
                "last": {name: row[name] for name in ("returns", "mean", "iqm")},
                "best": None,
                "offline": None,
                "weighting": None,
                "warnings": [],
                "policies": len(policies),
                "natural": [returns.mean(-1).tolist() for returns in table.natural],
                "attacked": [means.T.tolist() for means in table.attacked],
                "gaps": [gap.tolist() for gap in table.gaps],
                "range": list(table.range),
                "max_steps": time_limit(self.env, options.max_steps),
            }
        )

    def report(self, result: dict[str, Any]) -> None:
        """The result as tables and a page."""
        from surefoot.evaluation.report import report_for_runs  # matplotlib takes a second that help and errors need not wait

        self.console.print(returns_table(result))
        self.console.print(policies_table(result))
        page = report_for_runs([self.run.folder], self.run.folder / "report.html")
        self.console.print(f"run     {self.run.folder}\nreport  {page}", highlight=False, soft_wrap=True)

    @property
    def _where(self) -> dict[str, Any]:
        return {"device": self.options.device, "max_steps": self.options.max_steps}

    def _seed(self, *key: int) -> int:
        return derive_seed(self.options.seed, *key)


@dataclass(frozen=True, eq=False)
class Payoff:
    """Returns of the policies that were found, without attack and under the attackers that they were found with."""

    natural: list[np.ndarray]  # of policies 0 to K, [members, episodes]
    attacked: list[np.ndarray]  # under attackers 1 to K means, [members, K + 1]

    @property
    def gaps(self) -> list[np.ndarray]:
        """By how much policy k does better under attacker k than the best of those before it, `[members]` (Eq. 1)."""
        return [means[:, k] - means[:, :k].max(-1) for k, means in enumerate(self.attacked, 1)]

    @property
    def range(self) -> tuple[float, float]:
        """About the least and the largest return of an episode."""
        everything = np.concatenate([part.reshape(-1) for part in (*self.natural, *self.attacked)])
        low, high = float(everything.min()), float(everything.max())
        return low, high if high > low else low + 1.0


def environment(options: Options) -> str | None:
    """Where to learn: as was asked for, or in the environment of the run to start from."""
    if options.env is not None or options.from_ is None:
        return options.env
    run = run_folder(options.from_)
    return None if run is None else read_settings(run).get("env")


def policies_table(result: dict[str, Any]) -> Table:
    """The policies for a terminal: means over members, without attack and under each attacker."""
    rows = [result["natural"], *result["attacked"]]
    out = Table("policy", "without attack", *(f"attacker {k}" for k in range(1, len(rows))), title="mean return of each policy")
    for i in range(len(result["natural"])):
        out.add_row(f"{i}{'' if i < result['policies'] else ' (left out)'}", *(number(float(np.mean(row[i]))) for row in rows))
    return out
