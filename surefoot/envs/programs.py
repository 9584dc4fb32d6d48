"""A small world of programs: an instruction of one to three steps, a function body to write, visible and hidden unit tests.

    prompt       add 3 , cap 9 :
    completion   x = x + 3 ; x = min ( x , 9 ) ; return x
    program      def f(x): {completion}
    tests        assert f(0) == 3 …          three, which a reward may use
    hidden_tests assert f(-7) == -4 …        twelve, which are the truth

The programmer whose work the model learned from makes mistakes: a wrong number, the opposite operation, a step left out, two swapped.
So about half of the model's programs are right, it knows how to write the others too, and a reward can teach it to. Values of this
world's own programs are computed from their steps: making it (`recipes/programs.py`) executes nothing; judging what a model writes does
(`unit_tests.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

PROGRAM = "def f(x): {completion}"
NUMBERS = tuple(str(n) for n in range(1, 10))
MOST_STEPS, VISIBLE, HIDDEN = 3, 3, 12
INPUTS = range(-20, 21)

SLIP = 0.25
"""How often the programmer gets a step wrong."""
SWAP = 0.1
"""How often two steps are swapped."""


@dataclass(frozen=True)
class Kind:
    """A kind of step: how it is written, what it does, and what it is taken for by mistake."""

    code: str
    value: Callable[[int, int], int]
    opposite: str


KINDS: dict[str, Kind] = {
    "add": Kind("x = x + {}", lambda x, n: x + n, "take"),
    "take": Kind("x = x - {}", lambda x, n: x - n, "add"),
    "from": Kind("x = {} - x", lambda x, n: n - x, "take"),
    "times": Kind("x = x * {}", lambda x, n: x * n, "over"),
    "over": Kind("x = x // {}", lambda x, n: x // n, "mod"),
    "mod": Kind("x = x % {}", lambda x, n: x % n, "over"),
    "cap": Kind("x = min ( x , {} )", lambda x, n: min(x, n), "floor"),
    "floor": Kind("x = max ( x , {} )", lambda x, n: max(x, n), "cap"),
}
WORDS = (*KINDS, *NUMBERS, ",", ":", "x", "=", "+", "-", "*", "//", "%", "min", "max", "(", ")", ";", "return")

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    kind: str
    number: int

    def __call__(self, x: int) -> int:
        return KINDS[self.kind].value(x, self.number)

    @property
    def code(self) -> str:
        return KINDS[self.kind].code.format(self.number)


@dataclass(frozen=True)
class Exercise:
    """An instruction, and the numbers that visible and hidden tests try."""

    steps: tuple[Step, ...]
    visible: tuple[int, ...]
    hidden: tuple[int, ...]

    @staticmethod
    def drawn(rng: random.Random) -> Exercise:
        steps = tuple(Step(rng.choice(tuple(KINDS)), rng.randint(2, 9)) for _ in range(rng.randint(1, MOST_STEPS)))
        inputs = rng.sample(INPUTS, VISIBLE + HIDDEN)
        return Exercise(steps, tuple(inputs[:VISIBLE]), tuple(inputs[VISIBLE:]))

    @property
    def prompt(self) -> str:
        return " , ".join(f"{step.kind} {step.number}" for step in self.steps) + " :"

    def row(self) -> Row:
        """The prompt with its tests, as a line of `prompts.jsonl`."""
        tests = {
            name: [f"assert f({x}) == {value(self.steps, x)}" for x in inputs]
            for name, inputs in (("tests", self.visible), ("hidden_tests", self.hidden))
        }
        return {"prompt": self.prompt, **tests, "program": PROGRAM}

    def score(self, steps: Sequence[Step]) -> float:
        """The share of hidden tests that a program of these steps passes."""
        return sum(value(steps, x) == value(self.steps, x) for x in self.hidden) / len(self.hidden)


def value(steps: Iterable[Step], x: int) -> int:
    """What a program of these steps gives for x."""
    for step in steps:
        x = step(x)
    return x


def body(steps: Iterable[Step]) -> str:
    """The program as the model writes it."""
    return " ; ".join([*(step.code for step in steps), "return x"])


def attempt(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    """What the programmer makes of an instruction: each step may go wrong in one of three ways, and two may change places."""
    written: list[Step] = []
    for step in steps:
        mistake = rng.choice(("number", "kind", "left out")) if rng.random() < SLIP else None
        if mistake == "number":
            step = replace(step, number=rng.choice([n for n in (step.number - 1, step.number + 1) if 1 <= n <= 9]))
        elif mistake == "kind":
            step = replace(step, kind=KINDS[step.kind].opposite)
        if mistake != "left out":
            written.append(step)
    if len(written) > 1 and rng.random() < SWAP:
        i = rng.randrange(len(written) - 1)
        written[i], written[i + 1] = written[i + 1], written[i]
    return tuple(written)
