"""The world of programs: its values are Python's own, its tests are true, its programmer makes the mistakes that are said."""

import random

import pytest

from surefoot.envs.execution import UnitTest, run_programs
from surefoot.envs.programs import HIDDEN, KINDS, PROGRAM, VISIBLE, WORDS, Exercise, Step, attempt, body, value


def run(code):
    """What Python makes of a program of this world's own (nothing a model wrote)."""
    namespace = {}
    exec(PROGRAM.replace("{completion}", code), namespace)
    return namespace["f"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_does_what_its_code_does(kind):
    step = Step(kind, 3)
    f = run(body([step]))
    assert [f(x) for x in range(-20, 21)] == [step(x) for x in range(-20, 21)]
    assert KINDS[KINDS[kind].opposite].code != KINDS[kind].code


def test_programs_are_written_in_the_vocabulary():
    rng = random.Random(0)
    for _ in range(200):
        exercise = Exercise.drawn(rng)
        assert set(f"{exercise.prompt} {body(attempt(exercise.steps, rng))}".split()) <= set(WORDS)


def test_tests_hold_for_the_right_program_and_find_wrong_ones():
    rng = random.Random(0)
    wrong = found = 0
    for _ in range(200):
        exercise, steps = Exercise.drawn(rng), None
        row = exercise.row()
        assert (len(row["tests"]), len(row["hidden_tests"])) == (VISIBLE, HIDDEN) and not set(row["tests"]) & set(row["hidden_tests"])
        right = run(body(exercise.steps))
        for test in row["tests"] + row["hidden_tests"]:
            exec(test, {"f": right})
        steps = attempt(exercise.steps, rng)
        wrong += any(value(steps, x) != value(exercise.steps, x) for x in range(-20, 21))
        found += exercise.score(steps) < 1.0
    assert 0.95 * wrong <= found <= wrong


def test_scores_are_what_running_the_programs_gives():
    rng = random.Random(1)
    exercises = [Exercise.drawn(rng) for _ in range(8)]
    attempts = [attempt(exercise.steps, rng) for exercise in exercises]
    jobs = [
        (PROGRAM.replace("{completion}", body(steps)), [UnitTest.parsed(test) for test in exercise.row()["hidden_tests"]])
        for exercise, steps in zip(exercises, attempts, strict=True)
    ]
    outcomes = run_programs(jobs, allow_code_execution=True)
    expected = [exercise.score(steps) for exercise, steps in zip(exercises, attempts, strict=True)]
    assert [outcome.share for outcome in outcomes] == pytest.approx(expected)
    assert 0 < sum(expected) < 8


def test_about_half_of_the_programmers_work_is_right():
    rng = random.Random(2)
    exercises = [Exercise.drawn(rng) for _ in range(2000)]
    right = sum(exercise.score(attempt(exercise.steps, rng)) == 1.0 for exercise in exercises) / 2000
    assert 0.5 < right < 0.72
