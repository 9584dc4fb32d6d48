"""A few long jobs at once, each in a process of its own with one thread, under one live display; none outlives this process."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from surefoot.errors import SurefootError

PATIENCE = 20.0  # seconds a process that is asked to stop may take to save what it has


@dataclass(frozen=True)
class Stage:
    """One line of the display: a step of a job, begun and ended by name."""

    name: str
    text: str


class Teller:
    """What a job is handed to say how far it is."""

    def __init__(self, messages: Any):
        self.messages = messages
        self.next = 0.0

    def __call__(self, stage: str, share: float, text: str = "") -> None:
        """`stage` is done to `share` (of 1). Messages between beginning and end are sent a few times a second only."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # nobody is left to work for
        if 0.0 < share < 1.0 and time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 0.2
        self.messages.put(("stage", stage, share, text))


Job = Callable[[Teller], Any]


def side_by_side(jobs: Mapping[str, Job], stages: Sequence[Stage], console: Console) -> dict[str, Any]:
    """What each job returns (picklable), by name. `jobs` are importable functions or `functools.partial` of such.

    An error in a job stops the others and is raised here; so does Ctrl-C or SIGTERM, as KeyboardInterrupt. Jobs do not write to
    the terminal: their standard error is dropped.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    messages: Any = context.Queue()
    processes = {name: context.Process(target=_work, args=(name, job, messages), name=f"surefoot {name}") for name, job in jobs.items()}
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _Display(stages, console) as display:
            for process in processes.values():
                process.start()
            return _collect(processes, messages, display)
    finally:
        _stop(list(processes.values()))
        signal.signal(signal.SIGTERM, before)


def _collect(processes: Mapping[str, SpawnProcess], messages: Any, display: _Display) -> dict[str, Any]:
    results: dict[str, Any] = {}
    while len(results) < len(processes):
        try:
            kind, name, *rest = messages.get(timeout=0.5)
        except queue.Empty:
            for name, process in processes.items():
                if name not in results and not process.is_alive() and messages.empty():
                    raise RuntimeError(f"the process of {name} ended with code {process.exitcode}") from None
            continue
        if kind == "stage":
            display.show(name, *rest)
        elif kind == "result":
            results[name] = rest[0]
        elif kind == "refused":
            raise SurefootError(rest[0])
        else:
            raise RuntimeError(f"{name} failed:\n{rest[0]}")
    return results


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """End what still runs: politely first, so that a run saves itself."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _work(name: str, job: Job, messages: Any) -> None:
    """The child process: Ctrl-C is the parent's business, which asks to stop with SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silent = open(os.devnull, "w")  # noqa: SIM115  stays open as long as the process
    os.dup2(silent.fileno(), 2)
    sys.stderr = silent
    torch.set_num_threads(1)
    try:
        messages.put(("result", name, job(Teller(messages))))
    except KeyboardInterrupt:
        pass
    except SurefootError as error:
        messages.put(("refused", name, str(error)))
    except BaseException:
        messages.put(("failed", name, traceback.format_exc()))


class _Sign(SpinnerColumn):
    """Spins for what is going on, and not yet for what is to come."""

    def render(self, task: Task) -> RenderableType:
        return super().render(task) if task.started else Text("·", style="dim")


class _Display:
    """All stages from the start, so that one sees what is to come; where there is no terminal, a line as each one ends."""

    def __init__(self, stages: Sequence[Stage], console: Console):
        self.console, self.live = console, console.is_terminal
        columns = (_Sign(finished_text="[green]✓"), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
        note = TextColumn("{task.fields[note]}", style="dim", markup=False)
        self.progress = Progress(*columns, note, console=console, disable=not self.live)
        self.texts = {stage.name: stage.text for stage in stages}
        self.tasks = {stage.name: self.progress.add_task(stage.text, total=1.0, start=False, note="") for stage in stages}
        self.begun: set[str] = set()

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, name: str, share: float, note: str) -> None:
        if name not in self.begun:
            self.begun.add(name)
            self.progress.start_task(self.tasks[name])
        self.progress.update(self.tasks[name], completed=share, note=note)
        if share >= 1.0 and not self.live:
            self.console.print(f"{self.texts[name]}: {note or 'done'}", highlight=False, soft_wrap=True)
