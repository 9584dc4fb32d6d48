"""`surefoot bandit simulate|replay`: the production loop of a contextual bandit where the truth is known, or along a log of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number
from surefoot.data.bandit_columns import ColumnNames
from surefoot.data.bandit_files import read_bandit_log, write_bandit_log
from surefoot.data.bandit_log import BanditLog
from surefoot.envs.bandits import DATASETS, Payments, World, classification
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.evaluation.off_policy import OffPolicy, evaluate_off_policy
from surefoot.evaluation.propensities import Propensities, with_propensities
from surefoot.evaluation.statistics import Interval, mean_interval, paired
from surefoot.methods.exact.adyen_bandits import Replay, Simulation, in_batches, replay, simulate
from surefoot.methods.exact.exploration import Explorer
from surefoot.methods.exact.regression_oracles import ORACLES, oracle

POLICIES = ("uniform", "epsilon-greedy", "softmax", "igw", "greedy")
SHOWN = ("ips", "snips", "dm", "dr")
"""Estimators of the table; clipped ones take their place where --clip is given."""


@dataclass(frozen=True)
class Shared:
    """What both commands ask: which policies, which oracle, which memory."""

    policies: tuple[str, ...] = ("uniform", "epsilon-greedy", "igw")
    """Explorers to compare: uniform, epsilon-greedy, softmax, igw (inverse gap weighting, SquareCB), greedy."""
    oracle: str = "boosting"
    """Regression oracle: boosting, lightgbm, logistic or ridge."""
    epsilon: float = 0.1
    """epsilon-greedy: probability of a uniform choice."""
    tau: float = 0.1
    """softmax: temperature, in units of the reward."""
    gamma: float | None = None
    """igw: weight of a gap in predicted reward (default: 10 times the root of the rows learned)."""
    mass: float | None = None
    """Let epsilon-greedy, softmax and igw explore equally often: mean probability of an action other than the best."""
    floor: float = 0.0
    """Every available action has at least floor / k."""
    window: int = 1
    """Past batches that a model learns from; 0: all of them."""
    delay: int = 0
    """Batches between an action and its reward."""
    weight_cap: float | None = None
    """Learn with importance weights, at most this large (default: plain regression, as the paper)."""
    seed: int = 0
    """Seed of everything random."""
    json: bool = False
    """Print the result as JSON on standard output."""


@dataclass(frozen=True)
class Simulate(Shared):
    """Play the loop of deploying, logging, and retraining on short memory, in a world whose mean rewards are known.

    Every policy meets the same contexts and the same luck. The table says what each earned, and what became of the next model.
    """

    world: str = "payments"
    """payments (the simulation), or classes as actions: breast_cancer, digits, iris, wine."""
    availability: float = 0.8
    """Probability that an action is available in a round."""
    generations: int = 6
    """Deployments after the first batch, which is uniform."""
    batch: int = 3_000
    """Rounds of a deployment."""
    seeds: int = 3
    """Repetitions, each with a world and luck of its own."""
    out: Path | None = None
    """Write the log of the last policy named, seed 0, here (.parquet, .csv or .npz)."""


@dataclass(frozen=True)
class Replayed(Shared):
    """Ask a log of one's own what other policies would have earned, had a model been retrained along it batch by batch.

    Estimates are IPS, SNIPS, DM and DR with 95 % intervals, beside the mean that was logged. A log without propensities gets fitted
    ones, and that is said; so is where the log does not know enough about a policy.
    """

    log: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")] = ""
    """The log: .parquet (or a folder of it), .csv or .npz, one row a decision."""
    batch: int | None = None
    """Rows of a batch, where the log has no column for it (default: ten batches)."""
    clip: float | None = None
    """Largest importance weight; the clipped estimates are shown."""
    sort: bool = False
    """Put rows in the order of their time instead of refusing them."""
    action: str | None = None
    """Column of the action that was taken (default: action, arm, …)."""
    reward: str | None = None
    """Column of the reward (default: reward, outcome, click, …)."""
    propensity: str | None = None
    """Column of the probability with which the action was chosen (default: propensity, pscore, …; fitted if there is none)."""
    generation: str | None = None
    """Column of the batch or deployment (default: generation, batch, …)."""
    time: str | None = None
    """Column of the time (default: timestamp, time, date)."""
    available: str | None = None
    """Column that lists the available actions (default: available, or columns available_NAME; all if there is none)."""
    features: tuple[str, ...] | None = None
    """Columns of the context (default: all others; text becomes one column a value)."""
    actions: tuple[str, ...] | None = None
    """Names of all actions, in order (default: those that occur)."""


COMMANDS: dict[str, tuple[type[Shared], str]] = {
    "simulate": (Simulate, "the loop where the truth is known: what exploring earns, and what it costs the next model"),
    "replay": (Replayed, "what other policies would have earned on a log of one's own"),
}


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in COMMANDS:
        raise UnknownNameError("command of surefoot bandit", argv[0], COMMANDS)
    kind, _ = COMMANDS[argv[0]]
    options = tyro.cli(kind, args=argv[1:], prog=f"surefoot bandit {argv[0]}", description=(kind.__doc__ or "").strip())
    explorers = {name: explorer(name, options) for name in options.policies}
    if not explorers:
        raise ConfigError(f"--policies is empty: name one or more of {', '.join(POLICIES)}.")
    if options.oracle not in ORACLES:
        raise UnknownNameError("regression oracle", options.oracle, ORACLES)
    result = simulated(options, explorers) if isinstance(options, Simulate) else replayed(options, explorers)  # type: ignore[arg-type]
    if options.json:
        print(json.dumps(finite({"command": " ".join(["surefoot", "bandit", *argv])} | result), indent=2))
    return 0


def usage() -> str:
    """The text of `surefoot bandit --help`."""
    lines = "\n".join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: surefoot bandit COMMAND [options]    (surefoot bandit COMMAND --help for its options)\n\n{lines}\n"


def explorer(name: str, options: Shared) -> Explorer:
    """A policy by its name, with the options that are about it. Raises UnknownNameError or ConfigError."""
    if name not in POLICIES:
        raise UnknownNameError("exploration policy", name, POLICIES)
    mass = options.mass if name in ("epsilon-greedy", "softmax", "igw") else None
    return Explorer(name, epsilon=options.epsilon, tau=options.tau, gamma=options.gamma, mass=mass, floor=options.floor)  # type: ignore[arg-type]


def window_of(options: Shared) -> int | None:
    """Past batches to learn from, None for all. Raises ConfigError for a negative number."""
    if options.window < 0:
        raise ConfigError(f"--window is {options.window}: learn from 1 or more past batches, or 0 for all.")
    return options.window or None


# --- simulate ---------------------------------------------------------------------------------------------------------


def simulated(options: Simulate, explorers: dict[str, Explorer]) -> dict[str, Any]:
    """Every policy on every seed; tables on standard error."""
    if options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}: at least one repetition is needed.")
    console, runs = Console(stderr=True), {}
    for name, policy in explorers.items():
        runs[name] = [played(options, policy, options.seed + i) for i in range(options.seeds)]
        console.print(generations_table(name, runs[name]))
    if options.out is not None:
        last = runs[list(runs)[-1]][0].log
        write_bandit_log(last, options.out)
        console.print(f"{len(last):,} decisions of {list(runs)[-1]} → {options.out}", highlight=False, markup=False, soft_wrap=True)
    rows = compared(runs)
    console.print(comparison_table(rows, options))
    return {
        "world": options.world,
        "comparison": rows,
        "generations": {name: [[row.to_json() for row in run.diagnostics] for run in several] for name, several in runs.items()},
    }


def played(options: Simulate, policy: Explorer, seed: int) -> Simulation:
    return simulate(
        world_of(options, seed),
        policy,
        oracle(options.oracle),
        options.generations,
        options.batch,
        options.delay,
        window_of(options),
        seed,
        weight_cap=options.weight_cap,
    )


def world_of(options: Simulate, seed: int) -> World:
    """The world of one seed. Raises UnknownNameError."""
    if options.world == "payments":
        return Payments.drawn(seed, availability=options.availability)
    if options.world not in DATASETS:
        raise UnknownNameError("world", options.world, ("payments", *DATASETS))
    return classification(options.world, availability=options.availability, seed=seed)


def compared(runs: dict[str, list[Simulation]]) -> list[dict[str, Any]]:
    """One row a policy: what its deployments earned and what its last model is worth, with intervals over seeds."""
    first = next(iter(runs))
    rows = []
    for name, several in runs.items():
        earned, worth = earned_by(several), np.array([run.values[-1] for run in several])
        row: dict[str, Any] = {"policy": name, "earned": spread(mean_interval(earned)), "last model": spread(mean_interval(worth))}
        if name != first:
            apart = paired(earned, earned_by(runs[first]))
            row["more than " + first] = {"value": apart.difference, "low": apart.low, "high": apart.high}
        rows.append(row)
    return rows


def earned_by(several: Sequence[Simulation]) -> np.ndarray:
    """Mean expected reward of the deployments after the first batch, one a seed."""
    return np.array([np.mean([row.expected_reward for row in run.diagnostics[1:]]) for run in several])


def spread(x: Interval) -> dict[str, float]:
    return {"value": x.value, "low": x.low, "high": x.high}


def generations_table(name: str, several: Sequence[Simulation]) -> Table:
    """A policy's generations, means over seeds."""
    out = Table(
        title=f"{name}: generation by generation, mean of {len(several)} seed{'s' if len(several) > 1 else ''}", title_justify="left"
    )
    columns = {
        "reward": "expected_reward",
        "positive": "positive_rate",
        "not greedy": "non_greedy",
        "entropy": "entropy",
        "effective rows": "ess",
        "calibration error": "calibration_error",
        "next model's value": "next_value",
        "picks the best": "next_best",
    }
    out.add_column("generation", justify="right")
    for title in columns:
        out.add_column(title, justify="right")
    for g in range(len(several[0].diagnostics)):
        cells = [[getattr(run.diagnostics[g], field) for run in several] for field in columns.values()]
        out.add_row(str(g), *("–" if None in cell else f"{np.mean(cell):.3f}" for cell in cells))
    return out


def comparison_table(rows: Sequence[dict[str, Any]], options: Simulate) -> Table:
    """Policies beside each other, with intervals."""
    first = rows[0]["policy"]
    out = Table(
        title=f"{options.world}, {options.generations} deployments of {options.batch:,} rounds, {options.seeds} seeds", title_justify="left"
    )
    for title in ("policy", "earned a round [95 %]", f"more than {first} [95 %]", "last model, share of the best [95 %]"):
        out.add_column(title)
    for row in rows:
        more = row.get("more than " + first)
        out.add_row(row["policy"], interval(row["earned"]), "" if more is None else interval(more), interval(row["last model"]))
    return out


# --- replay -----------------------------------------------------------------------------------------------------------


def replayed(options: Replayed, explorers: dict[str, Explorer]) -> dict[str, Any]:
    """Every policy on the log; tables and warnings on standard error."""
    if not options.log:
        raise ConfigError("surefoot bandit replay needs a log: a .parquet, .csv or .npz file with one row a decision.")
    console = Console(stderr=True)
    log = opened(options)
    tell(log.notes, console)
    logger, fitted = None, None
    if log.propensity is None:
        with console.status("fitting propensities"):
            log, fitted = with_propensities(log, seed=options.seed)
        console.print(fitted_words(log, fitted), highlight=False, markup=False, soft_wrap=True)
    rows, warnings = [], {}
    for name, policy in explorers.items():
        made = replay(log, policy, oracle(options.oracle), options.delay, window_of(options), options.seed, weight_cap=options.weight_cap)
        if fitted is not None:
            logger = fitted.pmf[len(log) - len(made.log) :]  # the rows that are judged are the last ones
        found = evaluate_off_policy(made.log, made.probabilities, q=made.scores, clip=options.clip, logger=logger, seed=options.seed)
        rows.append(judged(name, made, found))
        warnings[name] = found.overlap.warnings
    console.print(replay_table(rows, log, options))
    for name, sentences in warnings.items():
        tell([f"{name}: {sentence}" for sentence in sentences], console)
    learned = "a model that was retrained along the log, which never saw the row that it is asked about"
    console.print(f"Estimates are about rows after the first batch; policies act on {learned}.", highlight=False, soft_wrap=True)
    description = {
        "log": log.source,
        "rows": len(log),
        "actions": list(log.actions),
        "features": list(log.features),
        "notes": list(log.notes),
    }
    return description | {"propensities": "logged" if fitted is None else fitted_json(fitted), "policies": rows}


def opened(options: Replayed) -> BanditLog:
    """The log, cut into batches where it has one alone."""
    roles = ("action", "reward", "propensity", "generation", "time", "available", "features", "actions")
    log = read_bandit_log(options.log, ColumnNames(**{role: getattr(options, role) for role in roles}), sort=options.sort)
    if options.batch is not None:
        return in_batches(log, options.batch)
    if len(np.unique(log.generation)) > 1:
        return log
    size = max(1, len(log) // 10)
    note = f"the log does not say which rows were logged together: it is cut into batches of {size:,} (--batch)"
    return replace(in_batches(log, size), notes=(*log.notes, note))


def judged(name: str, made: Replay, found: OffPolicy) -> dict[str, Any]:
    """One policy's estimates as JSON."""
    return {
        "policy": name,
        "rows": len(made.log),
        "logged": spread(found.logged),
        "values": {k: spread(x) for k, x in found.values.items()},
        "gains": {k: spread(x) for k, x in found.gains.items()},
        "clipped": found.clipped,
        "effective rows": found.overlap.ess,
        "overlap": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(found.overlap).items()},
        "not greedy": made.diagnostics[-1].non_greedy,
    }


def fitted_words(log: BanditLog, fitted: Propensities) -> str:
    """What was done for a log without propensities, and what it rests on."""
    models = ", ".join(sorted(set(fitted.models.values())))
    quality = f"log loss {fitted.log_loss:.3f} (uniform {fitted.uniform_log_loss:.3f}), calibration error {fitted.calibration:.3f}"
    return (
        f"note: {log.source} holds no propensities: they were fitted ({models}; {quality}), and the estimates are right only if the log"
        " holds all that the logger looked at."
    )


def fitted_json(fitted: Propensities) -> dict[str, Any]:
    models = {str(k): v for k, v in fitted.models.items()}
    return {"models": models, "log_loss": fitted.log_loss, "uniform_log_loss": fitted.uniform_log_loss, "calibration": fitted.calibration}


def replay_table(rows: Sequence[dict[str, Any]], log: BanditLog, options: Replayed) -> Table:
    """What each policy would have earned, by estimator; DR's gain over the logged policy last."""
    logged = interval(rows[0]["logged"])
    out = Table(
        title=f"{log.source}: {rows[0]['rows']:,} of {len(log):,} rows judged; the logged policy earned {logged}", title_justify="left"
    )
    names = [f"clipped {name}" if options.clip is not None and name != "dm" else name for name in SHOWN]
    for title in ("policy", *(name.upper() for name in names), f"{names[-1].upper()}'s gain", "effective rows"):
        out.add_column(title)
    for row in rows:
        cells = [interval(row["values"][name]) if name in row["values"] else "–" for name in names]
        gain = interval(row["gains"][names[-1]]) if names[-1] in row["gains"] else "–"
        out.add_row(row["policy"], *cells, gain, f"{row['effective rows']:,.0f}")
    return out


def interval(x: dict[str, float]) -> str:
    """`value [low, high]`, as rich prints it."""
    if not np.isfinite([x["low"], x["high"]]).all():
        return number(x["value"])
    return f"{x['value']:.4f} \\[{x['low']:.4f}, {x['high']:.4f}]"


def tell(sentences: Sequence[str], console: Console) -> None:
    for sentence in sentences:
        console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)
