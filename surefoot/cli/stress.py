"""`surefoot stress POLICY…`: the return over a set of physical parameters, and the worst of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.status import Status
from rich.table import Table

from surefoot.cli.certify import smoothed
from surefoot.cli.evaluate import finite, number
from surefoot.cli.subjects import Subject, load_subjects, write_evidence
from surefoot.envs.making import time_limit
from surefoot.envs.physics import Parameter
from surefoot.envs.uncertainty import chosen
from surefoot.errors import ConfigError
from surefoot.evaluation.stress import stress
from surefoot.steering.smoothed import Smoothed


@dataclass(frozen=True)
class Options:
    """Play each policy where the physics of its environment is another: masses, friction, damping, wind, lengths.

    A grid shows the whole set; cmaes searches it for the worst point, which is then played again. The same episodes are played at every
    point. What lies outside of the set is not measured.
    """

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    over: str | None = None
    """A JSON file of parameters, a set of the environment (2d, 3d), or names joined by commas (default: the environment's first set)."""
    grid: int = 10
    """Values of each parameter, from end to end."""
    search: Literal["grid", "cmaes"] = "grid"
    """All points of a grid, or 6 generations of 100 candidates of CMA-ES."""
    episodes: int = 5
    """Episodes at each point, per member."""
    sigma: float | None = None
    """Noise of a smoothed policy (default: what the policy was trained with; 0: without noise)."""
    env: str | None = None
    """Gymnasium environment (default: the one of the policy's run)."""
    seed: int = 4_000
    """Seed of the episodes."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the run's limit, or the environment's own)."""
    plot: Path | None = None
    """Draw the returns over the parameters into this PNG file."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print the result as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot stress")
    if options.grid < 2 or options.episodes < 1:
        raise ConfigError(f"--grid is {options.grid} and --episodes {options.episodes}: they must be at least 2 and 1.")
    console = Console(stderr=True)
    loaded = load_subjects(options.policies, env=options.env, max_steps=options.max_steps, trust=options.trust)
    sets = [chosen(options.over, subject.env) for subject in loaded]
    subjects = [smoothed(subject, options.sigma, console) for subject in loaded]
    if options.plot is not None and len(set(sets)) > 1:
        raise ConfigError("the policies are stressed over different parameters, which one picture cannot show: plot them one by one.")
    results = []
    for (subject, policy), parameters in zip(subjects, sets, strict=True):
        with console.status(subject.name) as status:
            results.append(stressed(subject, policy, parameters, options, argv, status))
        write_evidence(subject, "stress", results[-1], console)
    for over in dict.fromkeys(map(set_words, results)):
        console.print(table([r for r in results if set_words(r) == over]))
    if options.plot is not None:
        from surefoot.evaluation.stress_map import draw  # matplotlib takes a second

        draw(results, options.plot)
        console.print(f"drawn   {options.plot}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps({"policies": results}, indent=2))
    return 0


def stressed(
    subject: Subject, policy: Smoothed, parameters: Sequence[Parameter], options: Options, argv: Sequence[str], status: Status
) -> dict[str, Any]:
    """One policy's result, JSON-able; progress is told to `status`."""
    found = stress(
        policy,
        subject.env,
        parameters,
        search=options.search,
        n=options.grid,
        episodes=options.episodes,
        seed=options.seed,
        max_steps=subject.max_steps,
        progress=lambda ended, every: status.update(f"{subject.name}: {ended:,} of {every:,} episodes"),
    )
    about = {"policy": subject.name, "command": shlex.join(["surefoot", "stress", *argv])}
    how = {"sigma": policy.sigma, "max_steps": time_limit(subject.env, subject.max_steps), "seed": options.seed}
    return about | finite(found.to_json()) | how


def table(results: Sequence[dict[str, Any]]) -> Table:
    """One row a member; the policies are stressed over one set."""
    out = Table(title=f"mean return over {set_words(results[0])} [95 % interval]", title_justify="left")
    for name in ("policy", "env", "sigma", "episodes", "as made", "average", "worst", "where"):
        out.add_column(name)
    for r in results:
        for m in r["members"]:
            name = r["policy"] if len(r["members"]) == 1 else f"{r['policy']}@{m['member']}"
            where = ", ".join(f"{key} {value:.4g}" for key, value in m["worst"]["point"].items())
            average = "" if m["average"] is None else number(m["average"])
            out.add_row(name, r["env"], f"{r['sigma']:g}", str(r["episodes"]), _words(m["nominal"]), average, _words(m["worst"]), where)
    return out


def set_words(result: dict[str, Any]) -> str:
    """`pole mass 1 to 31 x cart mass 1 to 11`."""
    return " x ".join(f"{p['name']} {p['low']:g} to {p['high']:g}" for p in result["parameters"])


def _words(found: dict[str, float | None]) -> str:
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    assert mean is not None
    return number(mean) + (rf" \[{number(low)}, {number(high)}]" if low is not None and high is not None else "")
