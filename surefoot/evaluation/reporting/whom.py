"""Which of a run's policies a file of its evidence is about, and how numbers are taken from such a file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from surefoot.evaluation.reporting.arms import shortened

MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading a file of another form can raise."""
LARGEST = 1e100  # beyond it, a number is no return: charts and their arithmetic would overflow


@dataclass(frozen=True)
class Whom:
    """`attack-pgd-best@2` is about member 2 of the best policies; `member` None: a lone policy."""

    best: bool = False
    member: int | None = None

    @property
    def which(self) -> str:
        """In words, counted from 1 as seeds are; empty for a lone last policy."""
        return ", ".join((["best"] if self.best else []) + ([f"seed {self.member + 1}"] if self.member is not None else []))

    @property
    def suffix(self) -> str:
        """What follows the run's folder in a command: `:best@2`."""
        return (":best" if self.best else "") + ("" if self.member is None else f"@{self.member}")


def whom_of(stem: str, member: int, members: int) -> Whom:
    """The policy that entry `member` of a file with `members` entries is about, by the name of the file."""
    named = named_in(stem)
    return Whom(named.best, member if members > 1 else named.member)


def named_in(stem: str) -> Whom:
    """The policy or fleet that a file's name stands for."""
    match = re.search(r"(-best)?(?:@(\d{1,6}))?$", stem)
    assert match is not None  # both parts may be empty
    return Whom(match[1] is not None, int(match[2]) if match[2] else None)


def finite(x: Any) -> float:
    """A number of a JSON file. Raises ValueError for what is none, or none that can be drawn (NaN, infinity)."""
    if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) or abs(x) > LARGEST:
        raise ValueError(f"{x!r} is not a finite number")
    return float(x)


def text(x: Any, length: int = 28) -> str:
    """A name of a JSON file, cut to what a chart has room for. Raises ValueError for what is none."""
    if not isinstance(x, str):
        raise ValueError(f"{x!r} is not a name")
    return shortened("".join(c for c in x if c.isprintable()), length)
