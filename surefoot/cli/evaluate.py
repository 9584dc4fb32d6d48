"""`surefoot evaluate POLICY…`: returns over fresh episodes, with intervals; or, from a log alone, an estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.subjects import Subject, load_subjects
from surefoot.data.spec import Continuous
from surefoot.data.validation import validate
from surefoot.errors import ConfigError
from surefoot.evaluation.offline import evaluate_offline
from surefoot.evaluation.rollouts import Rollout, rollout
from surefoot.evaluation.statistics import Interval, hierarchical_interval, iqm_interval, mean_interval
from surefoot.policies.loading import load_policy
from surefoot.recipes.registry import open_log


@dataclass(frozen=True)
class Options:
    """Play whole episodes of each policy and report the undiscounted return with 95 % intervals.

    A fleet's interval is about the method (its seeds are the sample, then their episodes); a single policy's is about that policy.
    With --data nothing is played: each policy is judged from a log, by fitted Q evaluation and the distance to logged actions.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    data: str | None = None
    """Judge from this log instead: a file, a folder, minari:ID, or a recipe's name."""
    gamma: float = 0.99
    """--data: discount of the value that is estimated."""
    fqe_steps: int = 10_000
    """--data: updates of fitted Q evaluation."""
    episodes: int = 100
    """Episodes per member."""
    seed: int = 1_000
    """Seed of the episodes; policies that are evaluated under one seed meet the same starts."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    explore: bool = False
    """Act with exploration instead of greedily."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result, with every return, as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot evaluate")
    if options.data is not None:
        judged = from_log(options)
        Console(stderr=True).print(log_table(judged, options.data))
        if options.json:
            print(json.dumps(finite({"seed": options.seed, "data": options.data, "policies": judged}), indent=2))
        return 0
    subjects = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    results = evaluate(subjects, options.episodes, seed=options.seed, greedy=not options.explore)
    Console(stderr=True).print(table(results))
    if options.json:
        print(json.dumps(finite({"seed": options.seed, "greedy": not options.explore, "policies": results}), indent=2))
    return 0


def from_log(options: Options) -> list[dict[str, Any]]:
    """One JSON-able row a policy: what the log says about it, nothing played.

    Raises ConfigError if no policy is named, and what `open_log`, `load_policy` and `evaluate_offline` raise.
    """
    if not options.policies:
        raise ConfigError("no policy was named: give a run folder, DIR@MEMBER, sb3:FILE.zip, onnx:FILE or python:MODULE:NAME.")
    assert options.data is not None
    console, rows = Console(stderr=True), []
    log = open_log(options.data, progress=console.print, env_id=options.env)
    for ref in options.policies:
        policy = load_policy(ref, trust=options.trust, env_id=options.env or log.env_id)
        if isinstance(policy.spec.action, Continuous) and isinstance(log.action, Continuous):
            log = replace(log, action=policy.spec.action)  # of a log that names no box, the policy's is the one that counts
            validate(log)
        with console.status(f"{ref}: {options.fqe_steps:,} steps of fitted Q evaluation"):
            judged = evaluate_offline(policy, log, gamma=options.gamma, steps=options.fqe_steps, seed=options.seed)
        rows.append({"policy": ref, **judged.to_json()})
    return rows


def log_table(rows: Sequence[dict[str, Any]], data: str) -> Table:
    """The estimates for a terminal, one row a member."""
    columns = ("value of the policy", "of the log", "Bellman error", "distance to logged actions")
    out = Table("policy", *columns, title=f"judged from {data} alone: estimates, only as good as its coverage")
    for r in rows:
        for i, numbers in enumerate(zip(r["value"], r["bellman_error"], r["action_distance"], strict=True)):
            name = r["policy"] if len(r["value"]) == 1 else f"{r['policy']}@{i}"
            out.add_row(name, number(numbers[0]), number(r["logged_value"]), *map(number, numbers[1:]))
    return out


def evaluate(subjects: Sequence[Subject], episodes: int, *, seed: int, greedy: bool = True) -> list[dict[str, Any]]:
    """One JSON-able row a policy: its returns `[members, episodes]`, their mean and IQM with intervals."""
    console = Console(stderr=True)
    results = []
    for subject in subjects:
        with console.status(f"{subject.name}: {episodes} episodes of {subject.env}"):
            played = rollout(subject.policy, subject.env, episodes, seed=seed, greedy=greedy, max_steps=subject.max_steps)
        results.append(summary(subject, played))
    return results


def summary(subject: Subject, played: Rollout) -> dict[str, Any]:
    """The row of one policy."""
    returns = played.returns.reshape(subject.members, -1)
    mean = mean_interval(returns[0]) if len(returns) == 1 else hierarchical_interval(scores=returns)
    middle = iqm_interval(returns[0] if len(returns) == 1 else returns.mean(-1))  # of a fleet: over its members
    return {
        "policy": subject.name,
        "env": subject.env,
        "max_steps": subject.max_steps,
        "members": subject.members,
        "episodes": returns.shape[1],
        "mean": asdict(mean),
        "iqm": asdict(middle),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "length": float(played.lengths.mean()),
        "terminated": float(played.terminated.mean()),
        "member_means": returns.mean(-1).tolist(),
        "returns": returns.tolist(),
    }


def table(results: Sequence[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    out = Table("policy", "env", "members", "episodes", "mean return [95 %]", "IQM [95 %]", "min", "max", "steps", title="returns")
    for r in results:
        cells = (r["policy"], r["env"], str(r["members"]), str(r["episodes"]), words(r["mean"]), words(r["iqm"]))
        out.add_row(*cells, *(number(r[k]) for k in ("min", "max", "length")))
    return out


def words(interval: dict[str, float] | Interval) -> str:
    """`value [low, high]`, or the value alone where one value says nothing about spread."""
    value, low, high = interval.values() if isinstance(interval, dict) else (interval.value, interval.low, interval.high)
    return number(value) + (f" [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else "")


def number(x: float) -> str:
    """Four significant digits, without an exponent for what returns usually are."""
    return f"{x:.4g}" if 1e-3 <= abs(x) < 1e4 or x == 0 else f"{x:.0f}" if 1e4 <= abs(x) < 1e9 else f"{x:.3e}"


def finite(value: Any) -> Any:
    """The same with null for infinite ends of intervals, which JSON cannot write."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
