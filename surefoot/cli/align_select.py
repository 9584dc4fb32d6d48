"""`surefoot align select`: which of a prompt's responses a reward can be relied on for, before PF-PPO learns from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from surefoot.data.preferences import Prompts, read_preferences
from surefoot.errors import ConfigError, DataError
from surefoot.files import replacing_file
from surefoot.methods.language.filtration import Line, Strategy, chosen, lines_of

AT_ONCE = 64  # prompts that are completed side by side

Reward = Callable[[list[str], list[str]], Tensor]
Names = tuple[Literal["all", "best", "best_worst", "best_random", "pow", "top", "top_bottom", "top_random"], ...]


@dataclass(frozen=True)
class Options:
    """Of each strategy of PF-PPO the R^2 between rewards and true scores on the responses that it keeps: take the one with the largest.

    Responses are drawn by --model for the prompts in --data, rewarded by --reward and truly scored by --score; or they are in a file
    with a row a response (--samples). R^2 is about the model that drew them: look again when training has moved it far.
    """

    model: str | None = None
    """The model that training will start from: a folder that save_pretrained made, or a Hugging Face id."""
    data: str | None = None
    """Calibration prompts; whatever surefoot align takes (a column prompt)."""
    reward: str | None = None
    """The reward that training will use: python:FILE.py:NAME, a classifier's folder or id, or tests."""
    score: str | None = None
    """What is true: python:FILE.py:NAME, a classifier, or tests."""
    samples: str | None = None
    """Instead of all that: a file with columns prompt, reward, score."""
    tests_column: str = "tests"
    """Column of unit tests for --reward tests."""
    score_column: str = "hidden_tests"
    """Column of unit tests for --score tests."""
    strategies: Names = ("all", "best", "best_worst", "best_random", "pow")
    """What to compare."""
    power: float = 2.0
    """pow: a response counts |reward|^power, for rewards around 0."""
    upper: float | None = None
    """top, top_bottom, top_random: rewards above it count."""
    lower: float | None = None
    """top_bottom: rewards below it count, too."""
    groups: int | None = None
    """Take the means of so many groups of like reward for points, as the paper does with scores of 0 and 1 (say 20)."""
    one_rank: bool = False
    """Let a strategy win that keeps one rank only (confirm it by a trial run: it never sees a bad response)."""
    responses: int = 5
    """Responses to each prompt."""
    limit: int | None = None
    """Use the first so many prompts."""
    max_new_tokens: int = 512
    """Tokens after which a response is cut off."""
    temperature: float = 1.0
    """Of the responses."""
    top_p: float = 0.9
    """Draw among the likeliest tokens that have this much probability together."""
    seed: int = 0
    """Of the draws."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model lives."""
    trust: bool = False
    """Let a model bring Python code of its own."""
    allow_code_execution: bool = False
    """Run programs that the model writes (tests). They run in limited processes, which are no security sandbox."""
    save: Path | None = None
    """Write the responses with rewards and scores here (JSON lines), to be read by --samples."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def __post_init__(self) -> None:
        if self.responses < 2:
            raise ConfigError(f"--responses is {self.responses}: with fewer than 2 there is nothing to select.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}: it must be at least 1.")
        if not self.strategies:
            raise ConfigError("--strategies is empty: name at least one.")


def main(argv: list[str]) -> int:
    """Entry of the command; returns the exit code."""
    flags = (tyro.conf.FlagCreatePairsOff,)
    options = tyro.cli(Options, args=argv, prog="surefoot align select", description=Options.__doc__, config=flags)
    strategies = [Strategy(name, options.power, options.upper, options.lower) for name in options.strategies]
    console = Console(stderr=True)
    rewards, scores = from_file(options) if options.samples is not None else drawn(options, console)
    lines = lines_of(rewards, scores, strategies, options.groups)
    said = f"{len(rewards):,} prompts with {sum(map(len, rewards)):,} responses"
    console.print(table(lines, said, options.groups))
    best = chosen(lines, strategies, options.one_rank)
    console.print(f"train with: --strategy {best}", highlight=False)
    if options.json:
        result: dict[str, Any] = {"chosen": best, "groups": options.groups, "prompts": len(rewards), "responses": sum(map(len, rewards))}
        result |= {name: {strategy: getattr(line, name) for strategy, line in lines.items()} for name in ("r_squared", "slope")}
        print(json.dumps(result, indent=2))
    return 0


def table(lines: dict[str, Line], said: str, groups: int | None) -> Table:
    """R^2 of each strategy, the largest first."""
    points = "responses" if groups is None else f"{groups} groups of like reward"
    out = Table("strategy", "R^2", "slope", title=f"true score against reward, {said}; points are {points}", title_justify="left")
    for name, line in sorted(lines.items(), key=lambda item: -item[1].r_squared):
        out.add_row(name, f"{line.r_squared:.3f}", f"{line.slope:.3g}")
    return out


# --- where responses come from ----------------------------------------------------------------------------------------


def from_file(options: Options) -> tuple[list[Tensor], list[Tensor]]:
    """Rewards and scores of each prompt `[N]` from a file with a row a response; rows of a prompt need not stand together.

    Raises DataError naming the row where one is no finite number, or if no prompt has two responses.
    """
    given = next((name for name in ("model", "data", "reward", "score") if getattr(options, name) is not None), None)
    if given is not None:
        raise ConfigError(f"--samples holds responses with their rewards and scores: leave --{given} out.")
    texts = read_preferences(str(options.samples), "prompts")
    groups: dict[str, list[tuple[float, float]]] = {}
    for row, prompt in enumerate(texts.prompts):
        values = (_number(texts, name, row) for name in ("reward", "score"))
        groups.setdefault(json.dumps(prompt), []).append((next(values), next(values)))
    several = [torch.tensor(group, dtype=torch.float64) for group in groups.values() if len(group) > 1][: options.limit]
    if not several:
        raise DataError(f"{texts.source} has one response to each prompt: give several, a row each with the same prompt.")
    return [group[:, 0] for group in several], [group[:, 1] for group in several]


def _number(texts: Prompts, name: str, row: int) -> float:
    if name not in texts.columns:
        raise DataError(f"{texts.source} has no column {name!r}: a row is a response, with prompt, reward and score.")
    value = texts.columns[name][row]
    if not isinstance(value, int | float) or not isfinite(value):
        raise DataError(f"{texts.source}, row {row}: field {name!r} is {value!r}; it must be a finite number.")
    return float(value)


def drawn(options: Options, console: Console) -> tuple[list[Tensor], list[Tensor]]:
    """Rewards and scores of each prompt `[N]` for responses that the model draws now."""
    from surefoot.data.tokenising import Tokenising, ready_tokenizer, tokenised_prompts
    from surefoot.policies.language import LanguagePolicy

    for name in ("model", "data", "reward", "score"):
        if getattr(options, name) is None:
            raise ConfigError(f"surefoot align select needs --{name} (or --samples, a file of responses with rewards and scores).")
    texts = read_preferences(str(options.data), "prompts")
    texts = texts.select(range(min(options.limit or len(texts), len(texts))))
    reward, score = (judge(str(getattr(options, name)), name, texts, options) for name in ("reward", "score"))
    policy = LanguagePolicy.load(str(options.model), device=options.device, trust=options.trust)
    ready_tokenizer(policy.tokenizer)
    room = Tokenising(max_length=policy.context, ends=tuple(policy.ends))
    prompts = tokenised_prompts(policy.tokenizer, texts.prompts, room, room=options.max_new_tokens, source=texts.source)
    said = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in texts.prompts]
    generator = torch.Generator(policy.device).manual_seed(options.seed)
    drawing: dict[str, Any] = {name: getattr(options, name) for name in ("max_new_tokens", "temperature", "top_p")}
    rows: list[dict[str, Any]] = []
    with console.status(f"{options.responses} responses to each of {len(prompts):,} prompts"):
        for begin in range(0, len(prompts), AT_ONCE):
            completions = policy.sample(prompts[begin : begin + AT_ONCE], options.responses, generator=generator, **drawing)
            asked = [prompt for prompt in said[begin : begin + AT_ONCE] for _ in range(options.responses)]
            answers = policy.decode(completions)
            values = (judged(asked, answers).tolist() for judged in (reward, score))
            columns = zip(asked, answers, *values, strict=True)
            rows += [dict(zip(("prompt", "completion", "reward", "score"), row, strict=True)) for row in columns]
    if options.save is not None:
        with replacing_file(options.save) as new:
            new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    both = (torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in ("reward", "score"))
    rewards, scores = (list(each.view(-1, options.responses)) for each in both)
    return rewards, scores


def judge(ref: str, name: str, texts: Prompts, options: Options) -> Reward:
    """A reward by its name; `tests` are those in a column beside the prompts."""
    from surefoot.envs.execution import confinement
    from surefoot.envs.text_rewards import load_reward
    from surefoot.envs.unit_tests import unit_test_reward

    if ref != "tests":
        return load_reward(ref, device=options.device, trust=options.trust)
    column = options.tests_column if name == "reward" else options.score_column
    found = unit_test_reward(texts, options.allow_code_execution, column=column)
    for gap in confinement().gaps:
        Console(stderr=True).print(f"note: {gap}", highlight=False, markup=False, soft_wrap=True)
    return found
