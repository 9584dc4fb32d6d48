"""`surefoot reproduce SLUG`: a paper's headline claim, in miniature or in full, with the statistics and the verdict."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.table import Table

HOLDS, FAILS = 0, 3


@dataclass(frozen=True)
class Options:
    """Run a paper's headline claim against the baseline it names, and say whether it holds (exit code 0) or not (3)."""

    slug: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SLUG")]
    """The system, by its name in `surefoot methods`."""
    scale: Literal["small", "full"] = "small"
    """small: minutes on two cores; full: the paper's own experiment, which needs its data and a GPU."""
    seeds: int | None = None
    """How many seeds (default: the number the claim is about)."""
    seed_offset: int = 0
    """Shifts every seed, of data, training and evaluation: a repetition on seeds that nobody has seen."""
    data: str | None = None
    """Logs for the full scale: a file, a folder, or minari:ID."""
    jobs: int = 2
    """Processes that may be used, each with one thread."""
    out: Path | None = None
    """Folder for SLUG.json, or SLUG.full.json (default: runs/reproduce, so that the reported results/ are not replaced by accident)."""
    json: bool = False
    """Print the result file on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns 0 if the claim holds, 3 if it does not."""
    options = tyro.cli(Options, args=argv, prog="surefoot reproduce", description=Options.__doc__)
    from surefoot.claims import claim as find_claim

    claim = find_claim(options.slug)
    import json

    import torch
    from rich.console import Console

    from surefoot.claims.results import outcome, result_path, write_result

    console = Console(stderr=True)
    torch.set_num_threads(1)
    extra = {"data": options.data, "jobs": options.jobs, "say": lambda line: console.print(f"[dim]{line}[/dim]", highlight=False)}
    path = result_path(claim.slug, options.scale, options.out or Path("runs") / "reproduce")
    context = claim.context(options.scale, options.seeds, options.seed_offset, **extra)
    console.print(f"[bold]{claim.title}[/bold]: {claim.statement}\n{claim.scales[options.scale]}", highlight=False)
    start = time.perf_counter()
    scores = claim.run(context)
    wall_s = time.perf_counter() - start
    result = outcome(claim, context, scores, command=["surefoot", "reproduce", *argv], wall_s=wall_s)
    write_result(result, path)
    console.print(arms_table(result, claim.panels), checks_table(result))
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False)
    verdict = "[bold green]holds[/bold green]" if result["holds"] else "[bold red]does not hold[/bold red]"
    console.print(
        f"{claim.slug}: the claim {verdict} ({len(context.seeds)} seeds, {wall_s / 60.0:.1f} min)\nresult  {path}", highlight=False
    )
    if options.json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
    return HOLDS if result["holds"] else FAILS


def arms_table(result: dict[str, Any], panels: Any) -> Table:
    """Mean of each arm over seeds with its 95 % interval."""
    from rich.table import Table

    from surefoot.claims.base import per_seed
    from surefoot.evaluation.statistics import mean_interval

    rows = Table(title="scores: mean over seeds [95 % interval]", title_justify="left")
    for name in ("panel", "arm", "mean", "interval", "seeds"):
        rows.add_column(name, justify="right" if name in ("mean", "seeds") else "left")
    for panel, arms in result["scores"].items():
        first = f"{panel}: {panels[panel]}" if panel in panels else panel
        for arm in arms:
            values = per_seed(result["scores"], panel, arm)
            mean = mean_interval(values)
            interval = f"[{mean.low:.4g}, {mean.high:.4g}]" if len(values) > 1 else "one seed"
            rows.add_row(first, arm, f"{mean.value:.4g}", rf"\{interval}", str(len(values)))
            first = ""
        rows.add_section()
    return rows


def checks_table(result: dict[str, Any]) -> Table:
    """Each check with its value, threshold, p and verdict."""
    from rich.table import Table

    rows = Table(title="checks", title_justify="left")
    for name in ("check", "statement", "value", "threshold", "p", "holds"):
        rows.add_column(name, justify="right" if name in ("value", "threshold", "p") else "left")
    for check in result["checks"]:
        number = {key: "" if check[key] is None else f"{check[key]:.3g}" for key in ("value", "threshold", "p")}
        mark = ("[green]yes[/green]" if check["holds"] else "[red]no[/red]") + ("" if check["required"] else " (reported only)")
        rows.add_row(check["name"], check["statement"], *number.values(), mark)
    return rows
