"""`surefoot data inspect` of texts: what a language model is aligned on, after every row of it was checked."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import finite, number
from surefoot.data.preferences import read_preferences
from surefoot.data.statistics import Summary
from surefoot.data.text_statistics import TextStatistics, text_statistics

KINDS = {
    "pairs": "preferred and rejected completions (pairs)",
    "scored": "completions with scores (scored)",
    "prompts": "prompts alone (prompts)",
}


def inspect_texts(ref: str, *, split: str | None, skip_bad: bool, as_json: bool, console: Console) -> None:
    """Print what is in the data. Raises DataError naming the first row that cannot be learned from."""
    with console.status(f"reading {ref}"):
        found = text_statistics(read_preferences(ref, split=split, skip_bad=skip_bad))
    show(found, console)
    if as_json:
        print(json.dumps(finite(found.to_json()), indent=2))


def show(found: TextStatistics, console: Console) -> None:
    """Statistics for a terminal."""
    head = Table(title=found.source, box=None, show_header=False, pad_edge=False)
    fewest, most = found.completions_a_prompt or (0, 0)
    each = f", {fewest}{f' to {most}' if most > fewest else ''} completions each" if most else ""
    for name, value in (
        ("kind", KINDS[found.kind]),
        ("rows", f"{found.rows:,} {'conversations' if found.conversations else 'of plain text'}"),
        ("prompts", f"{found.prompts:,} different{each}"),
        ("longer is preferred", f"in {found.longer_chosen:.1%} of the pairs" if found.longer_chosen is not None else ""),
        *((name, _said(x)) for name, x in found.values.items()),
        ("more columns", ", ".join(found.columns)),
        ("fingerprint", found.fingerprint[:16]),
    ):
        if value:
            head.add_row(name, value)
    console.print(head)
    table = Table("characters", "mean", "std", "min", "25%", "50%", "75%", "max", box=None, pad_edge=False)
    for name, x in found.lengths.items():
        table.add_row(name, *map(number, (x.mean, x.std, x.min, *(x.quantiles[level] for level in ("0.25", "0.5", "0.75")), x.max)))
    console.print(table)
    for warning in found.warnings:
        console.print(f"note: {warning}", highlight=False, markup=False, soft_wrap=True)


def _said(x: Summary) -> str:
    return f"mean {number(x.mean)}, std {number(x.std)}, from {number(x.min)} to {number(x.max)}"
