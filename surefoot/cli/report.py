"""`surefoot report RUN…`: one HTML file about one or more runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from surefoot.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML file about some runs: a robustness card of each, what was learned from what, learning curves,
    returns with intervals and comparisons, certificates and attacks, an episode to watch, and how to get the numbers again.

    The card holds what `attack`, `stress`, `certify` and `diagnose` found out about a policy against the least return that is accepted.
    A run that has not finished can be reported too: the page says what is missing.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN…")] = ()
    """Run folders; each is one arm of the report, in this order."""
    out: Path | None = None
    """File to write (default: report.html in the run's folder; in the working directory if there are several runs)."""
    card: bool = False
    """Write the robustness cards alone, one printed page each (default file: card.html)."""
    drop: float = 0.2
    """Cards: how far below the clean return is accepted, as a share of it."""
    floor: float | None = None
    """Cards: the least return that is accepted, instead of --drop."""
    json: bool = False
    """Print where the report is, and the verdict on each policy, as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot report", description=Options.__doc__)
    if not options.runs:
        raise ConfigError("no run was named: give one or more run folders, for example surefoot report runs/a2pr runs/td3_bc.")
    name = "card.html" if options.card else "report.html"
    out = options.out or (options.runs[0] / name if len(options.runs) == 1 else Path(name))
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file to write (--out {out / name}).")
    from surefoot.evaluation.report import report_for_runs  # matplotlib takes a second that help and errors need not wait
    from surefoot.evaluation.reporting.arms import read_arms
    from surefoot.evaluation.reporting.card import verdicts
    from surefoot.evaluation.reporting.weighing import Tolerance

    tolerance = Tolerance(options.drop, options.floor)

    console = Console(stderr=True)
    with console.status(f"reporting {len(options.runs)} run{'s' if len(options.runs) > 1 else ''}"):
        page = report_for_runs(options.runs, out, tolerance=tolerance, card=options.card)
    found = verdicts(read_arms(options.runs), tolerance)
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    for each in found if options.card else []:
        console.print(f"{each['name']}: {each['headline']}", highlight=False, markup=False, soft_wrap=True)
    if options.json:
        print(json.dumps({"report": str(page), "runs": [str(run) for run in options.runs], "verdicts": found}, indent=2))
    return 0
