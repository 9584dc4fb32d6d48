"""`surefoot bandit replay LOG`: what other policies would have earned, had a model been retrained along a log of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.bandit_policies import Loop, explorers, interval, oracle_of, tell, window_of
from surefoot.data.bandit_columns import ColumnNames
from surefoot.data.bandit_files import read_bandit_log
from surefoot.data.bandit_log import BanditLog
from surefoot.errors import ConfigError
from surefoot.evaluation.off_policy import OffPolicy, Spread, check_clip, cross_fitted, evaluate_off_policy
from surefoot.evaluation.propensities import Propensities, with_propensities
from surefoot.methods.exact.adyen_bandits import in_batches, replay

SHOWN = ("ips", "snips", "dm", "dr")
"""Estimators in the table; the clipped ones take their place with --clip."""

BATCHES = 10
"""Into so many a log is cut that does not say which rows were logged together."""


@dataclass(frozen=True)
class Replay(Loop):
    """Ask a log what other policies would have earned, had a model been retrained along it batch by batch.

    Estimates are IPS, SNIPS, DM and DR with 95 % intervals, beside the mean that was logged. A log without propensities gets fitted
    ones, and that is said; so is where the log does not know enough about a policy.
    """

    log: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")] = None
    """The log: .parquet (or a folder of it), .csv or .npz, one row a decision."""
    window: int = 0
    """Past batches that a model learns from; 0: all of them."""
    batch: int | None = None
    """Rows of a batch, in the order of the log (default: as the log says; ten batches if it does not)."""
    clip: float | None = None
    """Largest importance weight; clipped estimates are shown instead."""
    interval: Spread = "normal"
    """How intervals are made: normal (Student's t), or bootstrap over rows."""
    folds: int = 3
    """Parts of the log on which the reward model of DM and DR, and fitted propensities, are fitted in turn."""
    fit_propensities: bool = False
    """Fit propensities although the log has some."""
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
    """Column of the time (default: timestamp, time, date); each day becomes a batch unless the log says otherwise."""
    available: str | None = None
    """Column that lists the available actions (default: available, or columns available_NAME; all if there is none)."""
    features: str | None = None
    """Columns of the context, a,b,c (default: all others; text becomes one column a value)."""
    actions: str | None = None
    """Names of all actions, a,b,c (default: those that occur)."""


def replayed(options: Replay) -> dict[str, Any]:
    """Every policy on the log; table and warnings on standard error, and the JSON-able result."""
    if options.log is None:
        raise ConfigError("surefoot bandit replay needs a log, one row a decision: surefoot bandit replay LOG.parquet.")
    policies, model, window = explorers(options), oracle_of(options), window_of(options.window)
    check_clip(options.clip)
    console = Console(stderr=True)
    log = opened(options)
    tell(log.notes, console)
    fitted = None
    if log.propensity is None or options.fit_propensities:
        log, fitted = with_propensities(log, options.folds, options.seed)
        tell([fitted_words(fitted, log.source)], console)
    found: dict[str, OffPolicy] = {}
    deployments: dict[str, list[dict[str, Any]]] = {}
    q: np.ndarray | None = None
    for name, policy in policies.items():
        played = replay(log, policy, model, options.delay, window, options.seed, weight_cap=options.weight_cap)
        judged = played.log
        deployments[name] = [row.to_json() for row in played.diagnostics]
        if q is None:
            q = cross_fitted(judged, model, options.folds, options.seed)
        logger = None if fitted is None else fitted.pmf[-len(judged) :]  # the rows that are judged are the last ones
        found[name] = evaluate_off_policy(
            judged, played.probabilities, q=q, clip=options.clip, spread=options.interval, seed=options.seed, logger=logger
        )
    console.print(table(found, log, len(judged), options))
    for name, x in found.items():
        tell([f"{name}: {sentence}." for sentence in x.overlap.warnings], console)
    return {
        "log": log.source,
        "rows": len(log),
        "judged": len(judged),
        "generations": len(np.unique(log.generation)),
        "actions": list(log.actions),
        "features": list(log.features),
        "notes": list(log.notes),
        "propensities": "logged" if fitted is None else fitted.to_json(),
        "policies": {name: x.to_json() | {"generations": deployments[name]} for name, x in found.items()},
    }


def opened(options: Replay) -> BanditLog:
    """The log, cut into batches where it is one. Raises what `read_bandit_log` and `in_batches` raise."""
    assert options.log is not None
    names = ColumnNames(
        options.action,
        options.reward,
        options.propensity,
        options.generation,
        options.time,
        options.available,
        features=listing(options.features),
        actions=listing(options.actions),
    )
    log = read_bandit_log(options.log, names, sort=options.sort)
    if options.batch is not None:
        return in_batches(log, options.batch)
    if (log.generation != log.generation[0]).any():
        return log
    size = max(1, len(log) // BATCHES)
    note = f"the log does not say which rows were logged together: it is cut into batches of {size:,} (--batch)"
    return replace(in_batches(log, size), notes=(*log.notes, note))


def listing(text: str | None) -> tuple[str, ...] | None:
    """`a,b,c` as three names; None where nothing was said."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def fitted_words(fitted: Propensities, source: str) -> str:
    """What a user must know about propensities that nobody logged."""
    models = ", ".join(sorted(set(fitted.models.values())))
    losses = f"log loss {fitted.log_loss:.3f}, a uniform choice would give {fitted.uniform_log_loss:.3f}"
    quality = f"{models}; {losses}; calibration error {fitted.calibration:.3f}"
    return f"the propensities of {source} were fitted ({quality}): right only if the log holds all that the logger looked at"


def table(found: Mapping[str, OffPolicy], log: BanditLog, judged: int, options: Replay) -> Table:
    """What each policy would have earned, by estimator; DR's gain over what was logged."""
    logged = interval(next(iter(found.values())).logged)
    names = [name if options.clip is None or name == "dm" else f"clipped {name}" for name in SHOWN]
    title = f"{log.source}: {judged:,} of {len(log):,} rows judged, which earned {logged}"
    titles = [name.upper().replace("CLIPPED", "clipped") for name in names]
    out = Table("policy", *titles, f"gain, {titles[-1]}", "effective rows", title=title, title_justify="left", box=None, pad_edge=False)
    for policy, x in found.items():
        cells = [interval(x.values[name]) if name in x.values else "–" for name in names]
        cells.append(interval(x.gains[names[-1]]))
        out.add_row(policy, *(cell.replace(" \\[", "\n\\[") for cell in cells), f"{x.overlap.ess:,.0f}")  # narrow enough for a terminal
    return out
