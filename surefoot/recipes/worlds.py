"""Whole experiments with text that are made here: a small model, data to align it with, and a reward that is the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.errors import ConfigError

Say = Callable[[str], None]


@dataclass(frozen=True)
class World:
    """A folder that can be made by `surefoot data make NAME --out FOLDER`."""

    about: str  # what is in it and what it costs
    make: Callable[[Path, int, Say], dict[str, Any]]  # (folder, seed, progress) -> JSON-able facts


def _sentiment(folder: Path, seed: int, say: Say) -> dict[str, Any]:
    from surefoot.recipes.sentiment import make_sentiment

    return make_sentiment(folder, seed, say=say)


def _programs(folder: Path, seed: int, say: Say) -> dict[str, Any]:
    from surefoot.recipes.programs import make_programs

    return make_programs(folder, seed, say=say)


WORLDS: dict[str, World] = {
    "sentiment": World("short reviews with a latent reward: model, pairs, scores, prompts, reward.py; a minute", _sentiment),
    "programs": World("tiny programs with hidden unit tests: model, pairs, scores, prompts; a minute", _programs),
}


def make_world(name: str, folder: Path | None, *, seed: int | None = None, progress: Say | None = None) -> dict[str, Any]:
    """Make a world of `WORLDS` as a folder; what is known of it. Raises ConfigError without a folder, or for one that exists."""
    if folder is None:
        raise ConfigError(f"{name} is a folder of files: say where to with --out FOLDER.")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name another folder.")
    if seed is not None and seed < 0:
        raise ConfigError(f"seed is {seed}: it must not be negative.")
    return WORLDS[name].make(folder, seed or 0, progress if progress is not None else lambda line: None)
