"""`surefoot methods`: every system by what it learns from, and whether it is ready."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from surefoot.catalog import GROUPS, ROWS, Row, find


@dataclass(frozen=True)
class Options:
    """List the systems: what each learns from, its paper, and whether it is ready or planned; or say where one of them lives."""

    slug: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[SLUG]")] = None
    """Tell about this system alone."""
    status: Literal["all", "ready", "planned"] = "all"
    """Show only these."""
    json: bool = False
    """Print the rows as JSON on standard output."""


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    options = tyro.cli(Options, args=argv, prog="surefoot methods", description=Options.__doc__)
    rows = [find(options.slug)] if options.slug else [row for row in ROWS if options.status in ("all", row.status)]
    if options.json:
        print(json.dumps([asdict(row) | {"url": row.url} for row in rows], indent=2))
    elif options.slug:
        print(about(rows[0]))
    else:
        show(rows)
    return 0


def about(row: Row) -> str:
    """Where one system comes from and lives, as a few lines."""
    lines = [
        f"{row.slug} ({row.name}): {row.status}",
        f"paper    {row.title}; {row.authors}, {row.venue} {row.year}",
        f"arXiv    {row.url}" if row.url else "",
        f"learns   from {', '.join(row.learns_from)} ({row.kind}{', a fleet of seeds at once' if row.fleet else ', one seed at a time'})",
        f"lives    in {row.room}",
        f"claim    surefoot reproduce {row.slug}" if row.claim and row.status == "ready" else "",
        f"docs     docs/methods/{row.slug}.md" if row.status == "ready" else "",
    ]
    return "\n".join(filter(None, lines))


def show(rows: Sequence[Row]) -> None:
    """Print the rows as one table, grouped by what they learn from."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, style in (("method", "bold"), ("", ""), ("fleet", ""), ("paper", "")):
        table.add_column(name, style=style, overflow="fold", no_wrap=name == "method")
    for group, meaning in GROUPS.items():
        members = [row for row in rows if row.group == group]
        if not members:
            continue
        table.add_row()
        table.add_row(f"[cyan]{group}[/cyan]", "", "", f"[cyan]{meaning}[/cyan]")
        for row in sorted(members, key=lambda row: (row.status != "ready", ROWS.index(row))):
            status = "[green]ready[/green]" if row.status == "ready" else "[dim]planned[/dim]"
            arxiv = f" [dim]arXiv {row.arxiv}[/dim]" if row.arxiv else ""
            fleet = ("yes" if row.fleet else "no") if row.status == "ready" else ""
            table.add_row(row.slug, status, fleet, f"{row.name}, {row.venue} {row.year}{arxiv}")
    Console().print(table, highlight=False)
    ready = sum(row.status == "ready" for row in rows)
    Console().print(
        f"\n{ready} ready, {len(rows) - ready} planned. fleet: several seeds train as one computation. "
        "More about one: surefoot methods SLUG.",
        highlight=False,
    )
