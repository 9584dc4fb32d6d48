"""`surefoot bandit simulate`: deploy, log, retrain on short memory, in a world whose mean rewards are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from surefoot.cli.bandit_policies import Loop, explorers, interval, oracle_of, window_of
from surefoot.data.bandit_files import check_bandit_place, write_bandit_log
from surefoot.envs.bandits import DATASETS, Payments, World, classification
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.evaluation.statistics import Comparison, Interval, mean_interval, paired
from surefoot.methods.exact.adyen_bandits import Simulation, check_loop, simulate

COLUMNS = {
    "earned": "expected_reward",
    "positives": "positive_rate",
    "not greedy": "non_greedy",
    "entropy": "entropy",
    "effective share": "ess",
    "calibration error": "calibration_error",
    "next model's value": "next_value",
    "picks the best": "next_best",
}
"""Columns of a policy's table, and the diagnostics that they show."""


@dataclass(frozen=True)
class Simulate(Loop):
    """Play the loop of deploying, logging and retraining on short memory, in a world whose mean rewards are known.

    Every policy meets the same contexts and the same luck. Tables say what each earned, what its log looks like, and how good the model
    is that learns from it.
    """

    world: str = "payments"
    """payments (routes of a payment), or classification data with the classes as actions: breast_cancer, digits, iris, wine."""
    availability: float = 0.8
    """Probability that an action is available in a round."""
    generations: int = 3
    """Deployments after the first batch, which is uniform."""
    batch: int = 3_000
    """Rounds of a batch."""
    window: int = 1
    """Past batches that a model learns from; 0: all of them."""
    seeds: int = 4
    """Repetitions, each with a world and luck of its own."""
    out: str | None = None
    """Write the log of the last policy named, first seed, here (.parquet, .csv or .npz)."""


@dataclass(frozen=True)
class Outcome:
    """One policy's deployments, over seeds."""

    policy: str
    earned: Interval  # expected reward a round, mean of the deployments after the first batch
    last_model: Interval  # value of the greedy policy of the last model, as a share of the best
    more: Comparison | None  # what it earned minus what the first policy earned, paired by seed; None for that policy itself


def simulated(options: Simulate) -> dict[str, Any]:
    """Every policy on every seed; tables on standard error, and the JSON-able result."""
    policies, model, window = explorers(options), oracle_of(options), window_of(options.window)
    check_loop(options.generations, options.batch)
    if options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}: at least one repetition is needed.")
    if options.out is not None:
        check_bandit_place(options.out)
    seeds = range(options.seed, options.seed + options.seeds)
    worlds = [world_of(options, seed) for seed in seeds]
    console = Console(stderr=True)
    runs: dict[str, list[Simulation]] = {}
    for name, policy in policies.items():
        runs[name] = [
            simulate(
                world, policy, model, options.generations, options.batch, options.delay, window, seed, weight_cap=options.weight_cap
            )
            for world, seed in zip(worlds, seeds, strict=True)
        ]  # fmt: skip
        console.print(generations_table(name, runs[name]))
    outcomes = compared(runs)
    console.print(comparison_table(outcomes, options))
    if options.out is not None:
        name, log = list(runs)[-1], list(runs.values())[-1][0].log
        write_bandit_log(log, options.out)
        console.print(
            f"{len(log):,} decisions of {name}, seed {options.seed} → {options.out}", highlight=False, markup=False, soft_wrap=True
        )
    return {
        "world": options.world,
        "seeds": list(seeds),
        "comparison": [asdict(outcome) for outcome in outcomes],
        "generations": {name: [[row.to_json() for row in run.diagnostics] for run in several] for name, several in runs.items()},
        "out": options.out,
    }


def world_of(options: Simulate, seed: int) -> World:
    """The world of one seed. Raises UnknownNameError, or ConfigError for an availability outside [0, 1]."""
    if not 0.0 <= options.availability <= 1.0:
        raise ConfigError(f"--availability is {options.availability}: it is a probability, from 0 to 1.")
    if options.world == "payments":
        return Payments.drawn(seed, availability=options.availability)
    if options.world not in DATASETS:
        raise UnknownNameError("world", options.world, ("payments", *DATASETS))
    return classification(options.world, availability=options.availability, seed=seed)


def compared(runs: Mapping[str, Sequence[Simulation]]) -> list[Outcome]:
    """What each policy's deployments earned and what its last model is worth, with intervals over seeds."""
    first = earned(next(iter(runs.values())))
    return [
        Outcome(
            name,
            mean_interval(earned(several)),
            mean_interval(np.array([run.values[-1] for run in several])),
            paired(earned(several), first) if i else None,
        )
        for i, (name, several) in enumerate(runs.items())
    ]


def earned(several: Sequence[Simulation]) -> np.ndarray:
    """Mean expected reward of the deployments after the first batch, one a seed."""
    return np.array([np.mean([row.expected_reward for row in run.diagnostics[1:]]) for run in several])


def generations_table(name: str, several: Sequence[Simulation]) -> Table:
    """A policy's generations, means over seeds."""
    of = f", mean of {len(several)} seeds" if len(several) > 1 else ""
    out = Table("generation", *COLUMNS, title=f"{name}: generation by generation{of}", title_justify="left", box=None, pad_edge=False)
    for g in range(len(several[0].diagnostics)):
        cells = [[getattr(run.diagnostics[g], field) for run in several] for field in COLUMNS.values()]
        out.add_row(str(g), *("–" if None in cell else f"{np.mean(cell):.3f}" for cell in cells))
    return out


def comparison_table(outcomes: Sequence[Outcome], options: Simulate) -> Table:
    """Policies beside each other, with intervals."""
    many = len(outcomes) > 1
    more = [f"more than {outcomes[0].policy} [95 %]"] if many else []
    columns = ("policy", "earned a round [95 %]", *more, "last model, share of the best [95 %]")
    seeds = f"{options.seeds} seeds" if options.seeds > 1 else "one seed"
    title = f"{options.world}: {options.generations} deployments of {options.batch:,} rounds, {seeds}"
    out = Table(*(column.replace("[", r"\[") for column in columns), title=title, title_justify="left", box=None, pad_edge=False)
    for x in outcomes:
        apart = ["" if x.more is None else interval(x.more)] if many else []
        out.add_row(x.policy, interval(x.earned), *apart, interval(x.last_model))
    return out
