"""Where independent runs are computed: one after the other in this process, or in several processes with one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from surefoot.errors import ConfigError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int = 1, done: Callable[[int, Task], None] | None = None
) -> list[Result]:
    """`function` of every task, in order of the tasks, in up to `jobs` processes.

    `function` must be importable (a module's own function, or a `functools.partial` of one). Results do not depend on `jobs`.
    `done(i, task)` is called here as each task ends. An error in a task is raised here, and what has not begun is dropped.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: at least one process is needed.")
    if jobs == 1 or len(tasks) == 1:
        results = []
        for i, task in enumerate(tasks):
            results.append(function(task))
            if done is not None:
                done(i, task)
        return results
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _one_thread) as pool:
        futures = {pool.submit(function, task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                i = futures[future]
                future.result()  # raises the task's error at once
                if done is not None:
                    done(i, tasks[i])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    ordered = sorted(futures, key=futures.__getitem__)
    return [future.result() for future in ordered]


def _one_thread() -> None:
    torch.set_num_threads(1)
