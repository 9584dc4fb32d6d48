"""How far a long computation is: a bar on standard error, in a terminal, once it has run for a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

PATIENCE = 1.0  # seconds before anything is drawn


def watched(items: Sequence[Item], what: str, console: Console | None = None) -> Iterator[Item]:
    """The items one by one; from the first second on, a bar says how many of them are done.

    `what` is what is going on ("episodes"). Nothing is drawn where standard error is no terminal, or within the first second.
    """
    console = Console(stderr=True) if console is None else console
    if not console.is_terminal:
        yield from items
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    task = bar.add_task(what, total=len(items))
    due, shown = time.monotonic() + PATIENCE, False
    try:
        for i, item in enumerate(items):
            if time.monotonic() >= due:
                if not shown:
                    bar.start()
                    shown = True
                bar.update(task, completed=i)
                due = time.monotonic() + 0.1
            yield item
    finally:
        if shown:
            bar.stop()
