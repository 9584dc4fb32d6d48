"""`surefoot data inspect|convert|collect|make`: look at a log, store it in another format, record one, or make one by a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.align import quiet
from surefoot.cli.data_texts import inspect_texts
from surefoot.cli.evaluate import finite, number
from surefoot.data.log import Log
from surefoot.data.statistics import Feature, Statistics, Summary, statistics
from surefoot.data.text_rows import is_text_data
from surefoot.data.validation import validate
from surefoot.data.writers import check_place, write_log
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.recipes.registry import RECIPES, make_log, open_log
from surefoot.recipes.worlds import WORLDS, make_world

SHOWN = ("0.25", "0.5", "0.75")
"""Quantiles in the table; --json has more."""


@dataclass(frozen=True)
class Inspect:
    """Say what is in a log (counts, returns, ranges, marks) or in texts (pairs, scored completions, prompts) and what about it looks
    odd, after checking every number or row of it."""

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")] = None
    """HDF5 (D4RL layout), npz, CSV, Parquet, a folder of Parquet, a packed log, minari:ID, or a recipe's name. Texts: JSON lines,
    Parquet, a folder of such files or one that datasets.save_to_disk wrote, or OWNER/NAME on the Hugging Face Hub."""
    env: str | None = None
    """Gymnasium environment to check the log against."""
    one_episode: bool = False
    """Accept a log that marks no episode ends, as one long episode."""
    split: str | None = None
    """Texts: which split of a Hugging Face data set."""
    skip_bad: bool = False
    """Texts: leave rows out that cannot be learned from, and count them."""
    json: bool = False
    """Print everything as JSON on standard output."""


@dataclass(frozen=True)
class Convert:
    """Store a log in another format, which the suffix says: .npz, .hdf5, .csv, .parquet; none: a packed log, mapped into memory."""

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")] = None
    """The log to read: whatever `surefoot data inspect` reads."""
    out: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = None
    """Where to: a file, a folder's name without suffix, or minari:ID."""
    env: str | None = None
    """Gymnasium environment it was recorded in: says the action space, which is stored."""
    one_episode: bool = False
    """Accept a log that marks no episode ends, as one long episode."""
    json: bool = False
    """Print what was written as JSON on standard output."""


@dataclass(frozen=True)
class Collect:
    """Record whole episodes of a policy, or of uniform random actions, as a log."""

    env: str | None = None
    """Gymnasium environment to play in."""
    out: str | None = None
    """Where to: a file (.npz, .hdf5, .csv, .parquet), a folder's name without suffix, or minari:ID."""
    policy: str = "random"
    """random, or a policy: a run folder (DIR, DIR@MEMBER, DIR:best), sb3:FILE.zip, onnx:FILE or python:MODULE:NAME."""
    episodes: int = 100
    """Episodes to record."""
    explore: bool = False
    """Act with exploration instead of greedily."""
    seed: int = 0
    """Seed of the episodes and of the policy's draws."""
    max_steps: int | None = None
    """Steps after which an episode is cut off (default: the environment's own limit)."""
    trust: bool = False
    """Load files that can only be read by executing them (Stable-Baselines3 zips contain pickles)."""
    json: bool = False
    """Print what was written as JSON on standard output."""


@dataclass(frozen=True)
class Make:
    """Make a log by one of the recipes, or a world of text as a folder; logs that take long are kept, and can be given by their names."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = None
    """Name of the recipe (without one they are listed)."""
    out: str | None = None
    """Where to: a file (.npz, .hdf5, .csv, .parquet), a folder's name without suffix, or minari:ID; for a world of text a new folder."""
    seed: int | None = None
    """Seed of everything in it (default: the recipe's own, which its name stands for)."""
    cache: bool = True
    """Read the log if it was made before, and keep it."""
    json: bool = False
    """Print what was made as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<9} {(options.__doc__ or '').splitlines()[0]}" for name, (options, _) in COMMANDS.items())
        print(f"usage: surefoot data COMMAND [options]    (surefoot data COMMAND --help for the options of a command)\n\n{rows}")
        return 0
    if argv[0] not in COMMANDS:
        raise UnknownNameError("data command", argv[0], COMMANDS)
    options, command = COMMANDS[argv[0]]
    command(tyro.cli(options, args=argv[1:], prog=f"surefoot data {argv[0]}", description=options.__doc__))
    return 0


# --- the commands ---------------------------------------------------------------------------------------------------


def inspect(options: Inspect) -> None:
    ref = _named(options.data, "inspect", "a log, or texts")
    console = Console(stderr=True)
    if ref not in RECIPES and is_text_data(ref):
        inspect_texts(ref, split=options.split, skip_bad=options.skip_bad, as_json=options.json, console=console)
        return
    log = open_log(ref, progress=console.print, **_reading(options.env, options.one_episode))
    env = env_spaces(options.env) if options.env is not None else None
    found = statistics(log, env=env, env_id=options.env)
    show(found, console)
    if options.json:
        print(json.dumps(finite(found.to_json()), indent=2))


def convert(options: Convert) -> None:
    ref, out = _named(options.data, "convert", "a log and where to store it"), _named(options.out, "convert", "where to store it, too")
    console = Console(stderr=True)
    log = open_log(ref, progress=console.print, **_reading(options.env, options.one_episode))
    _write(log, out, options.json, console)


def collect(options: Collect) -> None:
    from surefoot.evaluation.recording import record
    from surefoot.policies.loading import load_policy

    if options.env is None or options.out is None:
        raise ConfigError("surefoot data collect needs an environment and a place: --env ENV --out FILE.")
    check_place(options.out)
    console = Console(stderr=True)
    greedy = not options.explore
    policy = "random" if options.policy == "random" else load_policy(options.policy, trust=options.trust, env_id=options.env)
    with console.status(f"{options.episodes} episodes of {options.env}"):
        log = record(policy, options.env, episodes=options.episodes, seed=options.seed, greedy=greedy, max_steps=options.max_steps)
    _write(log, options.out, options.json, console)


def make(options: Make) -> None:
    console = Console(stderr=True)
    if options.name is None:
        if options.json:
            listed = {name: {"env": recipe.env_id, "about": recipe.about} for name, recipe in RECIPES.items()}
            print(json.dumps(listed | {name: {"env": None, "about": world.about} for name, world in WORLDS.items()}, indent=2))
        else:
            table = Table("recipe", "environment", "what it is", box=None, pad_edge=False)
            for name, recipe in RECIPES.items():
                table.add_row(name, recipe.env_id, recipe.about)
            for name, world in WORLDS.items():
                table.add_row(name, "text", world.about)
            Console().print(table)
        return
    if options.name in WORLDS:
        make_text(options, console)
        return
    if options.name not in RECIPES:
        raise UnknownNameError("recipe", options.name, RECIPES | WORLDS)
    if options.out is not None:
        check_place(options.out)
    log = make_log(options.name, seed=options.seed, progress=console.print, cache=options.cache)
    if options.out is not None:
        _write(log, options.out, options.json, console)
        return
    found = statistics(log)
    show(found, console)
    console.print(f"its name can be given wherever a log is asked for: --data {options.name}", highlight=False, markup=False)
    if options.json:
        print(json.dumps(finite(found.to_json()), indent=2))


def make_text(options: Make, console: Console) -> None:
    """A world of text as a folder, with what is known of it."""
    assert options.name is not None
    folder = Path(options.out) if options.out is not None else None
    with quiet():
        say = lambda line: console.print(line, highlight=False, markup=False)  # noqa: E731
        facts = make_world(options.name, folder, seed=options.seed, progress=say)
    if options.json:
        print(json.dumps({"out": options.out} | finite(facts), indent=2))
    console.print(f"{options.name} → {options.out}: its README.md says what is in it", highlight=False, markup=False, soft_wrap=True)


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "inspect": (Inspect, inspect),
    "convert": (Convert, convert),
    "collect": (Collect, collect),
    "make": (Make, make),
}


def _named(ref: str | None, command: str, what: str) -> str:
    if ref is None:
        raise ConfigError(f"surefoot data {command} needs {what} (surefoot data {command} --help).")
    return ref


def _reading(env: str | None, one_episode: bool) -> dict[str, Any]:
    """Options of `read_log`."""
    return {"env_id": env, "one_episode": one_episode}


def _write(log: Log, out: str, as_json: bool, console: Console) -> None:
    """Check a log and write it; says what was written."""
    warnings = validate(log)
    write_log(log, out)
    tell(warnings, console)
    written = {"out": out, "transitions": len(log), "episodes": len(log.episode_ends), "env_id": log.env_id, "fingerprint": log.fingerprint}
    if as_json:
        print(json.dumps(written | {"mean_return": float(log.episode_returns.mean()), "warnings": warnings}, indent=2))
    returns = f"mean return {number(log.episode_returns.mean())}"
    console.print(
        f"{len(log):,} transitions in {len(log.episode_ends):,} episodes, {returns} → {out}", highlight=False, markup=False, soft_wrap=True
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def tell(warnings: Sequence[str], console: Console) -> None:
    """Warnings, a line each."""
    for warning in warnings:
        console.print(f"note: {warning}", highlight=False, markup=False, soft_wrap=True)


def show(found: Statistics, console: Console) -> None:
    """Statistics for a terminal."""
    ends = f"{found.terminated:,} terminated, {found.truncated:,} truncated"
    action = found.action
    space = f"{action['n']} discrete actions" if "n" in action else f"box of {len(action['low'])}"
    head = Table(title=found.source, box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("transitions", f"{found.transitions:,}"),
        ("episodes", f"{found.episodes:,}: {ends}"),
        ("environment", found.env_id or "not said"),
        ("observations", "x".join(map(str, found.obs_shape)) + " features"),
        ("actions", space),
        ("recipe", found.notes.get("recipe", "")),
        ("fingerprint", found.fingerprint[:16]),
    ):
        if value:
            head.add_row(name, value)
    console.print(head)
    console.print(_episodes(found))
    console.print(_features(found))
    tell(found.warnings, console)


def _episodes(found: Statistics) -> Table:
    table = Table("episodes", "mean", "std", "min", *(f"{float(level):.0%}" for level in SHOWN), "max")
    for name, x in (("return", found.returns), ("length", found.lengths)):
        table.add_row(name, *map(number, _cells(x)))
    table.caption = f"positive-sided variance of returns: {number(found.positive_sided_variance)}"
    return table


def _cells(x: Summary) -> list[float]:
    return [x.mean, x.std, x.min, *(x.quantiles[level] for level in SHOWN), x.max]


def _features(found: Statistics, most: int = 12) -> Table:
    """Ranges of reward, observations and actions; of long observations the first."""
    table = Table("column", "mean", "std", "min", "max", "box")
    rows: list[tuple[str, Feature, str]] = [("reward", found.reward, "")]
    rows += [(f"obs {i}", x, "") for i, x in enumerate(found.obs[:most])]
    for i, x in enumerate(found.actions[:most]):
        rows.append((f"action {i}", x, f"[{number(found.action['low'][i])}, {number(found.action['high'][i])}]"))
    for name, x, box in rows:
        table.add_row(name, *map(number, (x.mean, x.std, x.min, x.max)), box)
    counts = np.array(found.action_counts[:most])
    for i, count in enumerate(counts):
        table.add_row(f"action {i}", f"{count / found.transitions:.1%}", "", "", "", "")
    left_out = max(len(found.obs) - most, 0) + max(len(found.actions) - most, 0) + max(len(found.action_counts) - most, 0)
    if left_out:
        table.caption = f"and {left_out} more (--json has all)"
    return table
