"""The recipes by name, what each costs, and one way to open a log whatever it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from surefoot.data.log import Log
from surefoot.data.readers import read_log
from surefoot.data.writers import write_log
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.recipes import line, locomotion, pendulum

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """A log that can be made here."""

    env_id: str
    about: str  # what is in it and what it costs, for `surefoot data make`
    seed: int  # the seed that the name stands for
    make: Callable[[int, Path, Say], Log]  # (seed, folder for what a longer recipe leaves on its way, progress)
    cached: bool  # worth keeping: it takes minutes or hours


RECIPES: dict[str, Recipe] = {
    "pendulum-mixed": Recipe(
        pendulum.ENV_ID,
        "45 random and 5 good episodes of Pendulum, 10,000 transitions; a second",
        0,
        lambda seed, folder, say: pendulum.mixed_log(seed),
        cached=False,
    ),
    "line-barred": Recipe(
        line.ENV_ID,
        "6,000 steps of a line world that never move right where it matters; a moment",
        0,
        lambda seed, folder, say: line.barred_log(seed),
        cached=False,
    ),
} | {
    f"{world}-{kind}": Recipe(task.env_id, f"{about} ({task.env_id})", 0, partial(locomotion.make_log, world, kind), cached=True)
    for world, task in locomotion.TASKS.items()
    for kind, about in locomotion.KINDS.items()
}


def cache_folder() -> Path:
    """Where logs that took long to make are kept: $SUREFOOT_CACHE, else ~/.cache/surefoot."""
    return Path(os.environ.get("SUREFOOT_CACHE") or Path.home() / ".cache" / "surefoot")


def make_log(name: str, *, seed: int | None = None, progress: Say | None = None, cache: bool = True) -> Log:
    """The log of a recipe: made now, or read from the cache where making it takes long.

    Raises UnknownNameError with the nearest names, ConfigError for a negative seed.
    """
    if name not in RECIPES:
        raise UnknownNameError("data set", name, RECIPES)
    recipe = RECIPES[name]
    seed = recipe.seed if seed is None else seed
    if seed < 0:
        raise ConfigError(f"seed is {seed}: it must not be negative.")
    say = progress if progress is not None else lambda line: None
    folder = cache_folder() / f"{name.split('-')[0]}-seed{seed}"  # the four logs of one environment share a training
    path = cache_folder() / "logs" / f"{name}-seed{seed}"
    if not (recipe.cached and cache):
        return recipe.make(seed, folder, say)
    if path.exists():
        return read_log(path)
    log = recipe.make(seed, folder, say)
    write_log(log, path)
    return log


def open_log(ref: str | Path, *, progress: Say | None = None, **options: Any) -> Log:
    """A recipe's log by its name, or whatever `read_log` reads (`options` are its own)."""
    if str(ref) in RECIPES and not Path(ref).exists():
        return make_log(str(ref), progress=progress)
    try:
        return read_log(ref, **options)
    except DataError:
        if not Path(ref).exists() and not Path(ref).suffix and ":" not in str(ref) and "/" not in str(ref):
            raise UnknownNameError("data set", str(ref), RECIPES) from None
        raise
