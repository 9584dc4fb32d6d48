"""Unit tests as a reward: the share of a prompt's tests that a completion passes, run in limited processes (`execution`: no sandbox).

The tests stand beside the prompts, in columns of the same data:

    prompt     what the model is asked
    tests      a list of asserts, or one text of Python statements
    program    optional: what is run, with {completion} in it; without it the completion alone is

`"program": "def f(x):\\n{completion}"` makes a function of its body. Where a completion has fenced code (```), the last such block counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.data.preferences import Prompts
from surefoot.envs.confining import Limits
from surefoot.envs.execution import Outcome, UnitTest, check_allowed, run_programs
from surefoot.envs.text_rewards import Checked, checked
from surefoot.errors import ConfigError, DataError

PLACE = "{completion}"
FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """What a prompt's completions are run in, and tested by."""

    tests: tuple[UnitTest, ...]
    program: str = PLACE

    def code(self, completion: str) -> str:
        """The program that a completion makes."""
        blocks = FENCED.findall(completion)
        return self.program.replace(PLACE, blocks[-1] if blocks else completion)


class UnitTests:
    """Of prompts and completions the share of tests passed, `[B]`; with `all_or_nothing` 1 for all of them and 0 else.

    Prompts are texts, conversations as JSON. Raises ConfigError without `allow_code_execution`, DataError for a prompt without tests.
    """

    def __init__(
        self,
        exercises: dict[str, Exercise],
        limits: Limits | None = None,
        *,
        allow_code_execution: bool = False,
        all_or_nothing: bool = False,
        workers: int | None = None,
    ):
        check_allowed(allow_code_execution)
        self.exercises, self.limits, self.all_or_nothing, self.workers = exercises, limits, all_or_nothing, workers

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        shares = torch.tensor([outcome.share for outcome in self.outcomes(prompts, completions)], dtype=torch.float32)
        return shares.eq(1.0).float() if self.all_or_nothing else shares

    def outcomes(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Outcome]:
        """What became of each program, test by test."""
        unknown = next((prompt for prompt in prompts if prompt not in self.exercises), None)
        if unknown is not None:
            raise DataError(f"there are no tests for the prompt {unknown[:60]!r}: they stand beside the prompts, in the column 'tests'.")
        own = [self.exercises[prompt] for prompt in prompts]
        jobs = [(each.code(completion), each.tests) for each, completion in zip(own, completions, strict=True)]
        return run_programs(jobs, self.limits, allow_code_execution=True, workers=self.workers)


def unit_test_reward(texts: Prompts, allow_code_execution: bool = False, *, column: str = "tests", **options: Any) -> Checked:
    """The reward that the tests in a column of these prompts make; `options` as of `UnitTests`.

    Raises ConfigError without `allow_code_execution`, DataError naming the row where tests or program cannot be used.
    """
    check_allowed(allow_code_execution)
    return checked(UnitTests(exercises(texts, column), allow_code_execution=True, **options), f"the unit tests of {texts.source}")


def exercises(texts: Prompts, column: str = "tests") -> dict[str, Exercise]:
    """Each prompt's tests. Raises DataError naming the row, ConfigError if there is no such column."""
    columns = getattr(texts, "columns", {})
    if column not in columns:
        known = ", ".join(columns) or "no others"
        raise ConfigError(
            f"{texts.source} has no column {column!r} beside its prompts ({known}): unit tests stand there, a list of asserts."
        )
    found: dict[str, Exercise] = {}
    templates = columns.get("program", [PLACE] * len(texts))
    for row, (prompt, tests, program) in enumerate(zip(texts.prompts, columns[column], templates, strict=True)):
        where, key = f"{texts.source}, row {row}", prompt if isinstance(prompt, str) else json.dumps(prompt)
        each = Exercise(_parsed(tests, f"{where}, field {column!r}"), _template(program, where))
        if found.setdefault(key, each) != each:
            raise DataError(f"{where}: the prompt {key[:60]!r} comes again with other tests; give each prompt one set of tests.")
    return found


def _parsed(tests: Any, where: str) -> tuple[UnitTest, ...]:
    listed = [tests] if isinstance(tests, str) else tests
    if not isinstance(listed, list) or not listed or not all(isinstance(test, str) for test in listed):
        raise DataError(f"{where} is {str(tests)[:60]!r}: it must be a list of asserts, each a text, with at least one.")
    return tuple(UnitTest.parsed(test, where if isinstance(tests, str) else f"{where}, test {i}") for i, test in enumerate(listed))


def _template(program: Any, where: str) -> str:
    if program is None:
        return PLACE
    if not isinstance(program, str) or PLACE not in program:
        raise DataError(f"{where}, field 'program' is {str(program)[:60]!r}: it must be a text with {PLACE} in it.")
    return program
