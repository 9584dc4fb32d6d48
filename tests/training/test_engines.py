"""Independent tasks give the same in one process and in several, in their order, and fail loudly."""

import os
from functools import partial

import pytest
import torch

from surefoot.errors import ConfigError
from surefoot.training.engines import run_tasks


def power(exponent, base):
    return base**exponent, torch.get_num_threads(), os.getpid()


def fails_at(bad, task):
    if task == bad:
        raise ConfigError(f"task {task} cannot be done.")
    return task


def test_results_do_not_depend_on_the_number_of_processes():
    here = run_tasks(partial(power, 3), [1, 2, 3, 4])
    done = []
    elsewhere = run_tasks(partial(power, 3), [1, 2, 3, 4], jobs=2, done=lambda i, task: done.append((i, task)))
    assert [r[0] for r in here] == [r[0] for r in elsewhere] == [1, 8, 27, 64]
    assert {r[2] for r in here} == {os.getpid()}
    assert os.getpid() not in {r[2] for r in elsewhere}
    assert {r[1] for r in elsewhere} == {1}
    assert sorted(done) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_one_after_the_other_tells_as_it_goes():
    done = []
    assert run_tasks(partial(fails_at, None), ["a", "b"], done=lambda i, task: done.append((i, task))) == ["a", "b"]
    assert done == [(0, "a"), (1, "b")]
    assert run_tasks(partial(fails_at, None), ["a"], jobs=3) == ["a"]
    assert run_tasks(partial(fails_at, None), []) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_task_is_raised_here(jobs):
    with pytest.raises(ConfigError, match="task 1 cannot be done"):
        run_tasks(partial(fails_at, 1), [0, 1, 2, 3], jobs=jobs)


def test_at_least_one_process():
    with pytest.raises(ConfigError, match="jobs is 0"):
        run_tasks(partial(fails_at, None), [1], jobs=0)
