"""`surefoot compare POLICY POLICY…`: which is better, by how much, and how sure one may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import evaluate, finite, number, table, words
from surefoot.cli.language_subjects import is_language
from surefoot.cli.subjects import load_subjects
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import holm, probability_of_improvement, welch


@dataclass(frozen=True)
class Options:
    """Play each policy under the same seed and compare every pair: difference of mean returns with Welch's test (p-values
    corrected for the number of pairs by Holm's method) and the probability that one does better than the other.

    Language models (runs of `surefoot align`, folders of Hugging Face's format) are asked prompts instead:
    `surefoot compare --prompts --help` has the options for them.

    Fleets are compared by their members' mean returns (a statement about methods), single policies by their episodes (a
    statement about these policies alone).
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Two or more run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policies' runs)."""
    episodes: int = 100
    """Episodes per member."""
    seed: int = 1_000
    """Seed of the episodes."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the runs' limit, or the environment's own)."""
    explore: bool = False
    """Act with exploration instead of greedily."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if "--prompts" in argv or any(is_language(word) for word in argv):
        from surefoot.cli.compare_language import main as compare_language

        return compare_language(argv)
    options = tyro.cli(Options, args=argv, prog="surefoot compare")
    if len(options.policies) < 2:
        raise ConfigError(f"{len(options.policies)} policies were named: a comparison needs two or more.")
    subjects = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    places = {(s.env, s.max_steps) for s in subjects}
    if len(places) > 1:
        raise ConfigError(f"the policies' runs differ in environment or step limit ({places}): choose with --env and --max-steps.")
    unit = "seeds" if min(s.members for s in subjects) > 1 else "episodes"
    if unit == "episodes" and max(s.members for s in subjects) > 1:
        raise ConfigError("fleets and single policies cannot be compared: name a member of each fleet (DIR@MEMBER).")
    results = evaluate(subjects, options.episodes, seed=options.seed, greedy=not options.explore)
    pairs = compare(results, unit)
    console = Console(stderr=True)
    console.print(table(results))
    console.print(pair_table(pairs, unit))
    if options.json:
        print(json.dumps(finite({"seed": options.seed, "unit": unit, "policies": results, "pairs": pairs}), indent=2))
    return 0


def compare(results: Sequence[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Every pair of rows of `evaluate`; the sample is the members' means (`unit` 'seeds') or the episodes of single policies."""
    samples = [np.array(r["member_means"]) if unit == "seeds" else np.array(r["returns"][0]) for r in results]
    pairs: list[dict[str, Any]] = []
    for i, j in combinations(range(len(results)), 2):
        test = asdict(welch(samples[i], samples[j]))
        better = asdict(probability_of_improvement(samples[i], samples[j]))
        pairs.append({"first": results[i]["policy"], "second": results[j]["policy"], **test, "probability_of_improvement": better})
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = p
    return pairs


def pair_table(pairs: Sequence[dict[str, Any]], unit: str) -> Table:
    """The comparisons for a terminal."""
    out = Table("first", "second", "first - second [95 %]", "p (Holm)", "P(first is better) [95 %]", title=f"pairs (sample: {unit})")
    for pair in pairs:
        difference = words({k: pair[k] for k in ("difference", "low", "high")})
        p = number(pair["p_holm"]) if pair["p_holm"] >= 1e-3 else "< 0.001"
        out.add_row(pair["first"], pair["second"], difference, p, words(pair["probability_of_improvement"]))
    return out
