"""What the commands that train in stages share: how a run is resumed, carried out and told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tyro

from surefoot.training.run import Run


@dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped; it ends as if it had not been. A run that is complete reports its result again."""

    resume: Path
    """Run folder to continue."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""


@dataclass(frozen=True)
class ResumeTo(Resume):
    """Continue a run that was stopped; it ends as if it had not been. A run that is complete reports its result again."""

    steps: int | None = None
    """Train until this many updates (default: the number the run was started with); a falling learning rate follows its first plan."""


class Told(Protocol):
    """Options that say how much is told."""

    @property
    def no_progress(self) -> bool: ...
    @property
    def json(self) -> bool: ...


class Staged(Protocol):
    """A run folder and the stages that fill it."""

    @property
    def run(self) -> Run: ...
    def train(self, progress: bool) -> dict[str, Any]: ...
    def report(self, result: dict[str, Any]) -> None: ...


def resumed(argv: Sequence[str], method: str) -> Resume | None:
    """What `--resume` asks for, if it is among the words of `surefoot train METHOD`."""
    if not any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return None
    flags = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(Resume, args=list(argv), prog=f"surefoot train {method}", description=Resume.__doc__, config=flags)


def carry_out(training: Staged, told: Told) -> int:
    """Train what is not trained yet, and tell the result; returns the exit code."""
    result = training.run.finished() or training.train(not told.no_progress)
    training.report(result)
    if told.json:
        print(json.dumps(result, indent=2))
    return 0
