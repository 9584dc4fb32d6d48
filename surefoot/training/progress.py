"""How far training is, on standard error: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

REFRESH, LINE = 0.2, 30.0  # seconds between updates of the bar, and between lines where there is no terminal


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "")


class TrainingProgress:
    """Shows steps, steps a second, the time left and the last metrics while its block runs; nothing if not `shown`."""

    def __init__(self, step: int, steps: int, shown: bool = True):
        self.steps, self.shown, self.text = steps, shown, ""
        console = Console(stderr=True)
        self.live = shown and console.is_terminal
        text = TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True))  # gets the room that is left
        columns = (BarColumn(20), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), text)
        self.bar = Progress(*columns, console=console, refresh_per_second=4, expand=True, disable=not self.live)
        self.task = self.bar.add_task("", total=steps, completed=step, metrics="")
        self.console = console
        self.next = time.monotonic() + (REFRESH if self.live else LINE)
        self.since = (step, time.monotonic())

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def metrics(self, values: Mapping[str, float | Sequence[float]]) -> None:
        """The last metrics; of a fleet their means are shown."""
        means = {k: sum(v) / len(v) if isinstance(v, Sequence) else v for k, v in values.items()}
        self.text = "  ".join(f"{name} {value:.4g}" for name, value in means.items())

    def step(self, step: int) -> None:
        """`step` steps are done. Cheap: looks at the clock, and draws only when it is time."""
        if not self.shown or (time.monotonic() < self.next and step < self.steps):
            return
        if self.live:
            self.next = time.monotonic() + REFRESH
            self.bar.update(self.task, completed=step, metrics=self.text)
        else:
            before, then = self.since
            self.since = (step, time.monotonic())
            self.next = self.since[1] + LINE
            rate = (step - before) / max(self.since[1] - then, 1e-9)
            self.console.print(f"step {step:,} of {self.steps:,}  {rate:,.0f} steps/s  {self.text}", highlight=False, soft_wrap=True)
