"""Run programs that a model wrote, and their unit tests, each in a limited process of its own. **This is no security sandbox.**

It is made for programs that are wrong, wasteful or unlucky, and for those that a reward has taught to fool their tests; not for an
adversary with an exploit of the kernel. Nothing runs unless the caller says `allow_code_execution=True`.

A program gets Python without site-packages, an empty environment, an empty folder that is removed, no input, none of our descriptors,
and `Limits`; it is ended as a process group. Where Linux allows it, it gets namespaces of its own (no network, no other process in sight,
none of its own survives it), its folder in memory, a user of its own if ours is root, no capabilities, and Landlock (nothing but Python
and the system's libraries can be read, nothing outside its folder written). What a machine does not allow `confinement().gaps` says in
sentences; whoever runs programs should print them.

**Verdicts.** A test is an `assert`. Of `assert EXPRESSION == LITERAL` the program's process is told the expression alone; the value comes
back as plain data and is compared here, with a literal that never was there. Neither printing, nor ending with exit code 0, nor an object
that equals everything passes: only the right value does. Other statements can only be judged by the process itself. A secret token marks
what it reports, which stops accidents and simple tricks, and not a program that searches its own memory for it.

Not covered: exploits of the kernel; sockets that are files, where our user may write to them; how busy the machine gets within the limits;
and, where namespaces are missing, what `gaps` says.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from surefoot.envs.confining import Confinement, Limits, Ran, confinement, run_confined
from surefoot.errors import ConfigError, DataError

__all__ = ["Confinement", "Limits", "Outcome", "UnitTest", "check_allowed", "confinement", "run_program", "run_programs"]

NOT_PYTHON = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


@dataclass(frozen=True)
class UnitTest:
    """An expression and the literal that it must equal, or statements that must not raise."""

    text: str
    literal: str | None = None  # Python source; it never enters the program's process

    @staticmethod
    def parsed(text: str, where: str = "a test") -> UnitTest:
        """`assert EXPRESSION == LITERAL`, either way round, or any statements. Raises DataError, naming `where`, if it is no Python."""
        try:
            body = ast.parse(text).body
        except NOT_PYTHON as error:
            raise DataError(f"{where} is no Python ({error}): {text[:60]!r}; write an assert.") from None
        if not body:
            raise DataError(f"{where} is empty: write an assert.")
        only = body[0].test if len(body) == 1 and isinstance(body[0], ast.Assert) else None
        if isinstance(only, ast.Compare) and len(only.ops) == 1 and isinstance(only.ops[0], ast.Eq):
            for mine, other in ((only.left, only.comparators[0]), (only.comparators[0], only.left)):
                if _is_literal(other):
                    return UnitTest(ast.unparse(mine), ast.unparse(other))
        return UnitTest(text)

    @property
    def request(self) -> dict[str, str]:
        """What the program's process is told of it."""
        return {"kind": "statement" if self.literal is None else "expression", "text": self.text}

    def failure(self, fact: dict[str, Any]) -> str | None:
        """Why what the process told is no pass; None if it is one."""
        if "error" in fact:
            return str(fact["error"])[:200]
        if self.literal is None:
            return None if fact.get("passed") is True else "it did not come to its end"
        try:
            value = decoded(fact["value"])
            return None if value == ast.literal_eval(self.literal) else f"{self.text} gives {value!r:.60}, not {self.literal}"
        except (KeyError, *NOT_PYTHON):
            return "what it gives is no plain data"


@dataclass(frozen=True)
class Outcome:
    """What became of a program: of each test whether it passed and if not, why; why the program ended too early; what it printed."""

    passed: tuple[bool, ...]
    failures: tuple[str | None, ...]
    ended: str | None
    output: str

    @property
    def share(self) -> float:
        """Tests passed, of all (of no tests: 1 if the program came to its end)."""
        return sum(self.passed) / len(self.passed) if self.passed else float(self.ended is None)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except NOT_PYTHON:
        return False
    return True


def decoded(value: Any) -> Any:
    """The plain data that `confined.encoded` made JSON of. Raises TypeError or ValueError for anything else."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in items}
    if kind == "bytes":
        return bytes.fromhex(items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decoded(item) for item in items)


def check_allowed(allow_code_execution: bool) -> None:
    """Raises ConfigError unless it was said that programs of a model may run."""
    if not allow_code_execution:
        raise ConfigError(
            "this runs programs that a model wrote, in limited processes that are no security sandbox: say --allow-code-execution "
            "(in Python allow_code_execution=True) if that is what you want."
        )


def run_programs(
    jobs: Sequence[tuple[str, Sequence[UnitTest]]],
    limits: Limits | None = None,
    *,
    allow_code_execution: bool = False,
    workers: int | None = None,
) -> list[Outcome]:
    """Run each (code, tests), the tests after the code and in its namespace, `workers` of them at a time (default: one a core).

    A program that comes twice with the same tests runs once. Raises ConfigError without `allow_code_execution`, EnvError if no
    process can be had.
    """
    check_allowed(allow_code_execution)
    own, namespaces = Limits() if limits is None else limits, confinement().namespaces
    keys = [(code, tuple(tests)) for code, tests in jobs]
    different = list(dict.fromkeys(keys))

    def judged(key: tuple[str, tuple[UnitTest, ...]]) -> Outcome:
        code, tests = key
        return judge(run_confined(code, [test.request for test in tests], own, namespaces), tests)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:  # threads that only wait
        outcomes = dict(zip(different, pool.map(judged, different), strict=True))
    return [outcomes[key] for key in keys]


def run_program(code: str, tests: Sequence[str], limits: Limits | None = None, *, allow_code_execution: bool = False) -> Outcome:
    """`run_programs` of one, its tests as source. Raises DataError, too, for a test that is no Python."""
    check_allowed(allow_code_execution)
    parsed = [UnitTest.parsed(test, f"test {i}") for i, test in enumerate(tests)]
    return run_programs([(code, parsed)], limits, allow_code_execution=True)[0]


def judge(ran: Ran, tests: Sequence[UnitTest]) -> Outcome:
    """The verdict on what a program left. Where it has told more than there are tests, or code failed, no test passes."""
    ended = ran.ended
    if ran.facts and "raised" in ran.facts[0]:
        ended = str(ran.facts[0]["raised"])
    if len(ran.facts) > len(tests) and ended is None:
        ended = "it told more than it was asked"
    told = ran.facts if ended is None or len(ran.facts) <= len(tests) else []
    failures: list[str | None] = [test.failure(fact) for test, fact in zip(tests, told, strict=False)]
    failures += [ended or "it ended before this test"] * (len(tests) - len(failures))
    if ended is None and len(told) < len(tests):
        ended = "it ended before its tests did"
    return Outcome(tuple(failure is None for failure in failures), tuple(failures), ended, ran.output)
