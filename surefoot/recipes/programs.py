"""The world of programs (`envs/programs.py`) as files: a small GPT that imitates a programmer who makes mistakes, and data to align it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from surefoot.envs.programs import WORDS, Exercise, Row, attempt, body
from surefoot.envs.small_gpt import small_gpt, train_gpt, word_tokenizer
from surefoot.errors import ConfigError
from surefoot.files import replacing_folder
from surefoot.policies.language import LanguagePolicy


def make_programs(
    folder: Path | str,
    seed: int = 0,
    *,
    prompts: int = 512,
    held_out: int = 128,
    scored: int = 2048,
    pairs: int = 512,
    steps: int = 1600,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the world to `folder`: model/, prompts.jsonl, held_out.jsonl, scored.jsonl and prefs.jsonl; what is known of it.

    The model is a GPT of 2 layers that has imitated the programmer for `steps` steps. `scored.jsonl` has the programmer's work with the
    share of hidden tests that it passes; `prefs.jsonl` pairs of it (few, so that a reward model made from them is a noisy one).
    The folder appears whole or not at all. Raises ConfigError if it exists, or for numbers below 1 or a negative seed.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name another folder.")
    sizes = {"prompts": prompts, "held_out": held_out, "scored": scored, "pairs": pairs, "steps": steps}
    if seed < 0 or min(sizes.values()) < 1:
        raise ConfigError(f"seed is {seed} and {sizes}: a seed is not negative, numbers are at least 1.")
    rng = random.Random(seed)
    every = _different(prompts + held_out, rng)
    say(f"a GPT of 2 layers learns to write programs: {steps:,} steps")
    policy, loss = programmer(seed, steps)
    with replacing_folder(folder) as new:
        policy.save(new / "model")
        _write(new / "prompts.jsonl", (exercise.row() for exercise in every[:prompts]))
        _write(new / "held_out.jsonl", (exercise.row() for exercise in every[prompts:]))
        _write(new / "scored.jsonl", _scored(every[:prompts], scored, rng))
        _write(new / "prefs.jsonl", _pairs(every[:prompts], pairs, rng))
        (new / "README.md").write_text(README, encoding="utf-8")
    return {"seed": seed, **sizes, "loss a token": round(loss, 4), "vocabulary": len(WORDS)}


def programmer(seed: int, steps: int, batch: int = 32) -> tuple[LanguagePolicy, float]:
    """A GPT that has imitated the programmer on fresh exercises, and its loss a token at the end."""
    rng, tokenizer = random.Random(f"programmer {seed}"), word_tokenizer(WORDS)
    exercises = [Exercise.drawn(rng) for _ in range(steps * batch)]
    asked = tokenizer([exercise.prompt for exercise in exercises])["input_ids"]
    done = tokenizer([body(attempt(exercise.steps, rng)) for exercise in exercises])["input_ids"]
    model = small_gpt(tokenizer, seed=seed)
    loss = train_gpt(model, asked, [[*ids, tokenizer.eos_token_id] for ids in done], steps=steps, batch=batch, seed=seed)
    return LanguagePolicy(model, tokenizer), loss


def _different(n: int, rng: random.Random) -> list[Exercise]:
    """n exercises of different prompts."""
    found: dict[str, Exercise] = {}
    while len(found) < n:
        exercise = Exercise.drawn(rng)
        found.setdefault(exercise.prompt, exercise)
    return list(found.values())


def _scored(exercises: Sequence[Exercise], n: int, rng: random.Random) -> Iterator[Row]:
    """The programmer's work on the exercises in turn, each with its share of hidden tests."""
    for i in range(n):
        exercise = exercises[i % len(exercises)]
        steps = attempt(exercise.steps, rng)
        yield {"prompt": exercise.prompt, "completion": body(steps), "score": round(exercise.score(steps), 6)}


def _pairs(exercises: Sequence[Exercise], n: int, rng: random.Random) -> Iterator[Row]:
    """Two attempts at an exercise of which one passes more hidden tests."""
    for i in range(n):
        exercise = exercises[i % len(exercises)]
        first, second = exercise.steps, exercise.steps
        while exercise.score(first) == exercise.score(second):
            first, second = attempt(exercise.steps, rng), attempt(exercise.steps, rng)
        if exercise.score(first) < exercise.score(second):
            first, second = second, first
        yield {"prompt": exercise.prompt, "chosen": body(first), "rejected": body(second)}


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


README = """# A small world of programs

Made by `surefoot data make programs`. `model/` is a GPT that imitates a programmer who makes mistakes; `prompts.jsonl` has instructions
with visible `tests` and `hidden_tests`, `held_out.jsonl` others to judge by, `scored.jsonl` the programmer's work with the share of hidden
tests that it passes, `prefs.jsonl` pairs of it.

    surefoot align reward-model --model model --data prefs.jsonl --lr 3e-4 --epochs 4 --out runs/reward
    surefoot align select --model model --data prompts.jsonl --reward runs/reward/policy --score tests --allow-code-execution \\
        --max-new-tokens 30 --limit 200
    surefoot align pf-ppo --model model --data prompts.jsonl --reward tests --allow-code-execution --strategy best_worst \\
        --out runs/pf-ppo --prompts 64 --minibatches 2 --max-new-tokens 30 --lr 3e-4 --critic-rate 3 --steps 60

The last takes four minutes on two cores. Judge by `hidden_tests` of `held_out.jsonl`.
"""
