"""The tables of README.md and docs/, rendered from results/ and the catalog: nobody types a number.

A page marks a table with `<!-- table: NAME -->` and `<!-- end of table -->`; `python -m surefoot.claims.tables --write` renders what
stands between them, `--check` says which pages differ and which stored verdicts do not follow from their raw scores.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot.catalog import GROUPS, ROWS, Row, find
from surefoot.claims.base import per_seed
from surefoot.claims.results import discrepancies, read_result
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.evaluation.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(?P<open>^<!-- table: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(?P<close>^<!-- end of table -->$)", re.M | re.S)
NOT_YET = "not measured yet"

# --- numbers ----------------------------------------------------------------------------------------------------------


def number(x: float | None) -> str:
    """Three significant digits, or whole from a thousand on; an infinite end of an interval is shown as such."""
    if x is None:
        return "unbounded"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def measured(check: Mapping[str, Any]) -> str:
    """One check's value, interval, p and threshold."""
    parts = [number(check["value"])]
    if check["ci95"] is not None:
        parts.append(f"[{number(check['ci95'][0])}, {number(check['ci95'][1])}]")
    text = " ".join(parts)
    if check["p"] is not None:
        text += f", {p_value(check['p'])}"
    return text


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table in Markdown; `right` names the columns that are aligned right."""
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    cells = [head, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


# --- the tables -------------------------------------------------------------------------------------------------------


def stored(slug: str, scale: str = "small") -> dict[str, Any] | None:
    """The reported result of a claim, or None if it was not measured yet."""
    path = ROOT / "results" / (f"{slug}.json" if scale == "small" else f"{slug}.{scale}.json")
    return read_result(path) if path.exists() else None


def claimants() -> list[Row]:
    """Systems that have a claim and are ready."""
    return [row for row in ROWS if row.claim and row.status == "ready"]


def claims_table() -> str:
    """Every ready system's claim: its required checks and the verdict."""
    rows = []
    for row in claimants():
        if stored(row.slug) is None:
            rows.append([f"`{row.slug}`", row.title, NOT_YET, ""])
        for result in filter(None, (stored(row.slug), stored(row.slug, "full"))):
            checks = [check for check in result["checks"] if check["required"]]
            text = "<br>".join(f"{'✓' if check['holds'] else '✗'} {check['statement']}: {measured(check)}" for check in checks)
            name = f"`{row.slug}`" + (", full scale" if result["scale"] == "full" else "")
            rows.append([name, result["claim"], text, verdict(result)])
    return markdown(("system", "the claim, in miniature", "measured [95 % interval]", "verdict"), rows)


def verdicts_table(to: str) -> str:
    """The same in short: the verdict, and the required checks that failed; `to` is the path from the page to the methods' pages."""
    rows = []
    for row in claimants():
        for result in filter(None, (stored(row.slug), stored(row.slug, "full"))):
            checks = [check for check in result["checks"] if check["required"]]
            failed = [f"✗ {check['statement']}: {measured(check)}" for check in checks if not check["holds"]]
            name = f"[`{row.slug}`]({to}{row.slug}.md)" + (", full scale" if result["scale"] == "full" else "")
            count = f"{len(checks) - len(failed)} of {len(checks)} checks"
            rows.append([name, result["claim"], "<br>".join([f"{verdict(result)}; {count}", *failed])])
    return markdown(("system", "the claim, in miniature", "verdict"), rows)


def verdict(result: Mapping[str, Any]) -> str:
    """Whether the claim holds, on how many seeds, in what time."""
    seeds, wall_s = len(result["seeds"]), result["wall_s"]
    took = f"{wall_s / 60.0:.0f} min" if wall_s >= 90 else f"{wall_s:.0f} s"
    return f"{'**holds**' if result['holds'] else '**does not hold**'}, {seeds} seed{'s' if seeds > 1 else ''}, {took}"


def outcome_table(slug: str) -> str:
    """One claim's arms and checks, its notes, and the command that measured it."""
    find(slug)
    result = stored(slug)
    if result is None:
        return f"{NOT_YET.capitalize()}: `surefoot reproduce {slug} --out results` writes it.\n"
    arms = []
    for panel, columns in result["scores"].items():
        for arm in columns:
            values = per_seed(result["scores"], panel, arm)
            mean = mean_interval(values)
            interval = f"[{number(mean.low)}, {number(mean.high)}]" if len(values) > 1 else "one seed"
            arms.append([panel, arm, number(mean.value), interval, str(len(values))])
    checks = [
        [
            check["name"],
            check["statement"],
            measured(check),
            "" if check["threshold"] is None else number(check["threshold"]),
            ("yes" if check["holds"] else "**no**") + ("" if check["required"] else " (reported only)"),
        ]
        for check in result["checks"]
    ]
    notes = "".join(f"- {note}\n" for note in result["notes"])
    return (
        f"The claim {verdict(result)}. Measured by `{result['command']}` on {result['machine']['cores']} cores, "
        f"commit {result['commit'][:10] or 'unknown'}.\n\n"
        + markdown(("panel", "arm", "mean over seeds", "95 % interval", "seeds"), arms, right=(2, 4))
        + "\n"
        + markdown(("check", "statement", "measured [95 % interval]", "threshold", "holds"), checks, right=(3,))
        + (f"\n{notes}" if notes else "")
    )


def paper(row: Row) -> str:
    """A row's paper as a link."""
    text = f"{row.authors}, {row.venue} {row.year}"
    return f"[{text}]({row.url})" if row.url else text


def ready_table(to: str) -> str:
    """The systems that are ready; `to` is the path from the page to the methods' pages."""
    rows = [
        [row.group, f"[`{row.slug}`]({to}{row.slug}.md)", row.name, paper(row), row.kind]
        for group in GROUPS
        for row in ROWS
        if row.status == "ready" and row.group == group
    ]
    return markdown(("learns from", "name", "method", "paper", "kind"), rows)


def planned_table() -> str:
    """The systems that are planned, by what they learn from."""
    rows = []
    for group in GROUPS:
        members = [row for row in ROWS if row.status == "planned" and row.group == group]
        if members:
            linked = (f"[{row.slug}]({row.url})" if row.url else row.slug for row in members)
            rows.append([group, ", ".join(linked)])
    return markdown(("learns from", "planned"), rows)


def catalog_table() -> str:
    """All systems, with where they live."""
    rows = [
        [row.group, f"`{row.slug}`", paper(row), row.kind, f"`{row.room}`", row.status]
        for group in GROUPS
        for row in ROWS
        if row.group == group
    ]
    return markdown(("learns from", "name", "paper", "kind", "module", "status"), rows)


def benchmark_table(name: str) -> str:
    """`benchmarks/results/NAME.json`: its rows, and the machine and command that measured them."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.exists():
        return f"{NOT_YET.capitalize()}: `make bench` writes it.\n"
    bench = json.loads(path.read_text(encoding="utf-8"))
    columns = list(dict.fromkeys(key for row in bench["rows"] for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in bench["rows"]]
    right = [i for i, column in enumerate(columns) if all(isinstance(row.get(column), (int, float)) for row in bench["rows"])]
    words = [column.replace("_", " ") for column in columns]
    return f"Measured by `{bench['command']}` on {bench['machine']}.\n\n" + markdown(words, cells, right)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


TABLES: dict[str, Callable[..., str]] = {
    "claims": claims_table,
    "verdicts": verdicts_table,
    "outcome": outcome_table,
    "ready": ready_table,
    "planned": planned_table,
    "catalog": catalog_table,
    "benchmark": benchmark_table,
}
"""What can stand in a marker: `<!-- table: NAME ARGUMENT -->`."""


# --- pages ------------------------------------------------------------------------------------------------------------


def rendered(text: str) -> str:
    """A page's text with every marked table rendered anew; raises UnknownNameError for a table that does not exist."""

    def render(match: re.Match[str]) -> str:
        name, *arguments = match["name"].split()
        if name not in TABLES:
            raise UnknownNameError("table", name, TABLES)
        return f"{match['open']}{TABLES[name](*arguments)}{match['close']}"

    return MARKED.sub(render, text)


def pages() -> list[Path]:
    """README.md and the pages of docs/; raises ConfigError outside a checkout."""
    if not (ROOT / "README.md").exists():
        raise ConfigError(f"{ROOT} is not a checkout of surefoot: the tables are those of its README and docs.")
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def problems() -> list[str]:
    """Pages that differ from what the results give, and stored verdicts that do not follow from their scores."""
    from surefoot.claims import claim

    found = [
        f"{path.relative_to(ROOT)}: a table is out of date: run `make tables`."
        for path in pages()
        if rendered(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    ]
    for row in claimants():
        for result in filter(None, (stored(row.slug), stored(row.slug, "full"))):
            found += discrepancies(result, claim(row.slug))
    return found


def main(argv: list[str]) -> int:
    """`--write` renders the pages, `--check` returns 1 if one differs."""
    if argv not in (["--write"], ["--check"]):
        print("usage: python -m surefoot.claims.tables --write | --check", file=sys.stderr)
        return 2
    try:
        if argv == ["--write"]:
            for path in pages():
                text = path.read_text(encoding="utf-8")
                if (new := rendered(text)) != text:
                    path.write_text(new, encoding="utf-8")
                    print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
            return 0
        found = problems()
    except (ConfigError, DataError, UnknownNameError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
