"""`surefoot compare MODEL…` of language models: what each earns on held-out prompts, how far it moved for it, and how often it wins."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.align import quiet
from surefoot.cli.align_settings import FLAGS, Reward
from surefoot.cli.align_workshop import reward_of
from surefoot.cli.evaluate import finite, number, words
from surefoot.cli.language_subjects import LanguageSubject, language_subject, shared
from surefoot.data.preferences import Prompts, read_preferences
from surefoot.data.tokenising import Tokenising, check_same_vocabulary, tokenised_prompts
from surefoot.errors import ConfigError
from surefoot.evaluation.alignment import Answers, Asking, answers, compare
from surefoot.files import replacing_file
from surefoot.policies.language import LanguagePolicy, Precision

PROMPTS_KEPT = 12
"""Prompts whose first answers are kept for the report."""


@dataclass(frozen=True)
class Task:
    """Ask language models the same held-out prompts and compare them with a base: mean reward, KL divergence to a reference, win rate,
    length, all with 95 % intervals over prompts (p-values of the difference in reward are corrected by Holm's method).

    What is found is kept in the runs' folders for `surefoot report`; --out writes a page of its own.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL…")] = ()
    """Runs of `surefoot align`, folders made by save_pretrained, or Hugging Face ids."""
    prompts: str | None = None
    """Held-out prompts: JSON lines, Parquet or a data set with a column prompt."""
    base: str | None = None
    """What the others are to beat (default: the model that the runs began from; else the first that is named)."""
    reference: str | None = None
    """What the KL divergence is to (default: the runs' own; else the base)."""
    limit: int = 200
    """Different prompts that are asked, the first of the file (0: all)."""
    split: str | None = None
    """Which split of a Hugging Face data set."""
    truncate: bool = False
    """Cut off the beginning of prompts that leave no room in the context."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: Precision = "fp32"
    """Of the forward passes."""
    trust: bool = False
    """Run Python code that a model brings along."""
    out: Path | None = None
    """HTML file to write, with frontier, win rates and answers side by side."""
    json: bool = False
    """Print the result as JSON on standard output."""


@dataclass(frozen=True)
class Options:
    """All that the verb is told."""

    task: Task = field(default_factory=Task)
    asking: Asking = field(default_factory=Asking)
    reward: Reward = field(default_factory=Reward)


def main(argv: list[str]) -> int:
    """Entry of the verb for language models; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot compare", description=Task.__doc__, config=FLAGS)
    task = options.task
    subjects = [language_subject(ref) for ref in dict.fromkeys(task.models)]
    subjects, base, reference = chosen(task, subjects)
    if task.prompts is None:
        raise ConfigError("there is nothing to ask: name held-out prompts (--prompts FILE).")
    if task.out is not None and task.out.is_dir():
        raise ConfigError(f"{task.out} is a folder: name a file to write (--out {task.out / 'compare.html'}).")
    console = Console(stderr=True)
    with quiet():
        found = found_out(options, subjects, base, reference, console)
    found |= {"command": shlex.join(["surefoot", "compare", *_portable(argv)])}
    console.print(table(found))
    keep(found, subjects, task.out, console)
    if task.json:
        print(json.dumps(found, indent=2))
    return 0


def chosen(task: Task, subjects: Sequence[LanguageSubject]) -> tuple[list[LanguageSubject], LanguageSubject, LanguageSubject]:
    """The models to ask, of which the base is one, the base and the reference. Raises ConfigError where there is nothing to compare."""
    if not subjects:
        raise ConfigError("no model was named: give runs of `surefoot align`, folders made by save_pretrained, or Hugging Face ids.")
    begun = task.base or shared(subjects, "model") or subjects[0].name
    base = _named(begun, subjects)
    asked = [*subjects] if base in subjects else [base, *subjects]
    if len(asked) < 2:
        raise ConfigError(f"{base.name} alone was named: a comparison needs two models, or a base (--base MODEL).")
    wanted = task.reference or shared(subjects, "reference")
    return asked, base, base if wanted is None else _named(wanted, asked)


def _named(ref: str, subjects: Sequence[LanguageSubject]) -> LanguageSubject:
    return next((each for each in subjects if each.name == ref), None) or language_subject(ref)


def _portable(argv: Sequence[str]) -> list[str]:
    """The words that say what was asked, without those that say where the answer goes."""
    kept = [word for word in argv if word != "--json" and not word.startswith("--out=")]
    return [word for i, word in enumerate(kept) if word != "--out" and (i == 0 or kept[i - 1] != "--out")]


# --- asking -----------------------------------------------------------------------------------------------------------


def found_out(
    options: Options, subjects: Sequence[LanguageSubject], base: LanguageSubject, reference: LanguageSubject, console: Console
) -> dict[str, Any]:
    """Ask every model; the result as JSON values."""
    task, asking = options.task, options.asking
    asked, texts = held_out(task)
    wanted = asked_reward(options.reward, subjects)
    reward = reward_of(wanted, asked, device=task.device, trust=task.trust)

    def load(each: LanguageSubject) -> LanguagePolicy:
        return each.load(precision=task.precision, device=task.device, trust=task.trust)

    anchor = load(reference)
    found: dict[str, Answers] = {}
    for each in subjects:
        with console.status(f"asking {each.name}"):
            policy = anchor if each.source == reference.source else load(each)
            check_same_vocabulary(policy, anchor)
            limits = Tokenising(max_length=policy.context, truncate=task.truncate)
            ids = tokenised_prompts(policy.tokenizer, asked.prompts, limits, room=asking.max_new_tokens, source=asked.source)
            found[each.name] = answers(each.name, policy, anchor, ids, texts, reward, asking)
    runs = [None if each.run is None else each.run.resolve().name for each in subjects]
    result = {
        "kind": "aligned",
        "models": [{**asdict(model), "run": run} for model, run in zip(compare(list(found.values()), found[base.name]), runs, strict=True)],
        "base": base.name,
        "reference": reference.name,
        "reward": str(wanted.reward),
        "prompts": len(texts),
        "prompts_fingerprint": asked.fingerprint,
        **asdict(asking),
        "answers": [
            {"prompt": text, "answers": [{"text": each.texts[i][0], "reward": float(each.rewards[i, 0])} for each in found.values()]}
            for i, text in enumerate(texts[:PROMPTS_KEPT])
        ],
    }
    return finite(result)


def held_out(task: Task) -> tuple[Prompts, list[str]]:
    """The different prompts that are asked, and each as the reward is to see it: text, or the JSON of a conversation."""
    data = read_preferences(str(task.prompts), "prompts", split=task.split)
    texts = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in data.prompts]
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    rows = list(first.values())[: task.limit or None]
    return data.select(rows), [texts[row] for row in rows]


def asked_reward(given: Reward, subjects: Sequence[LanguageSubject]) -> Reward:
    """The reward of the command line, or that of the runs as they asked for it. Raises ConfigError if there is none, or not one alone."""
    if given.reward is not None:
        return given
    saved = [dict((each.settings.get("settings") or {}).get("Reward") or {}) for each in subjects if each.settings]
    own = saved[0] if saved and all(each == saved[0] for each in saved) else {}
    if own.get("reward") is None:
        raise ConfigError("there is nothing to score answers with: name a reward (--reward python:FILE.py:NAME, or a classifier's folder).")
    known = {name: value for name, value in own.items() if hasattr(given, name) and name != "allow_code_execution"}
    return replace(given, **known)  # what a model wrote runs only where this command line says so


# --- telling ----------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> Table:
    """The models for a terminal, one a column."""
    title = f"{found['prompts']} prompts, {found['samples']} answers each; base {found['base']}, KL to {found['reference']}; [95 %]"
    out = Table("", *(model["name"] for model in found["models"]), title=title, title_justify="left")
    for column in out.columns:
        column.overflow = "fold"  # numbers are not cut off
    rows = {
        "reward": lambda model: _said(model["reward"]),
        "KL": lambda model: _said(model["kl"]),
        "wins": lambda model: _said(model["wins"]) if model["wins"] else "base",
        "reward - base": lambda model: _said({key: model["gain"][key] for key in ("difference", "low", "high")}) if model["gain"] else "",
        "p (Holm)": lambda model: "" if model["p"] is None else number(model["p"]) if model["p"] >= 1e-3 else "< 0.001",
        "tokens": lambda model: number(model["length"]["value"]),
        "ended": lambda model: f"{model['ended']:.0%}",
    }
    for name, cell in rows.items():
        out.add_row(name, *(cell(model) for model in found["models"]))
    return out


def _said(interval: dict[str, float | None]) -> str:
    """An interval whose unknown ends are null."""
    return words({name: float("inf") if value is None else value for name, value in interval.items()})


def keep(found: dict[str, Any], subjects: Sequence[LanguageSubject], out: Path | None, console: Console) -> None:
    """Leave what was found in the runs' folders, and as a page where one was asked for."""
    for run in [each.run for each in subjects if each.run is not None]:
        path = run / "evidence" / "aligned.json"
        with replacing_file(path) as new:
            new.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        console.print(f"kept    {path}", highlight=False, soft_wrap=True)
    if out is not None:
        from surefoot.evaluation.report import comparison_page

        with replacing_file(out) as new:
            new.write_text(comparison_page(found), encoding="utf-8")
        console.print(f"page    {out}", highlight=False, soft_wrap=True)
