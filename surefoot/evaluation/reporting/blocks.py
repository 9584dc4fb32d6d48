"""What a page is put together from: tables, figures, groups of arms that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.figures import swatch
from surefoot.evaluation.reporting.findings import words
from surefoot.evaluation.statistics import Interval

RANGE = "[95\u00a0%]"  # in headings


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, text or markup; on a narrow screen each row becomes a card, unless `compact`."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    compact: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its legend and what is to be said below it."""

    title: str
    drawing: Markup
    caption: str = ""
    legend: Sequence[tuple[Markup, str]] = ()


@dataclass(frozen=True)
class Group:
    """The arms that were judged in one environment under one limit of steps (`env` None: in none), the classifiers, or the language
    models."""

    name: str
    env: str | None
    arms: Sequence[Arm]


def groups(arms: Sequence[Arm]) -> list[Group]:
    """Arms by environment, in the order of the report."""
    found: dict[tuple[str | None, str], list[Arm]] = {}
    for arm in arms:
        without = "Classifiers" if arm.classifies else "Language models"
        name = place(arm.env, arm.max_steps if arm.env else None) if arm.acts else without
        found.setdefault((arm.env, name), []).append(arm)
    return [Group(name, env, own) for (env, name), own in found.items()]


def place(env: str | None, limit: int | None) -> str:
    """An environment in words."""
    if env is None:
        return "Without an environment"
    return env if limit is None else f"{env}, at most {limit} steps"


def legend(arms: Sequence[Arm]) -> list[tuple[Markup, str]]:
    return [(swatch(arm.place), arm.label) for arm in arms]


def named(arm: Arm) -> Markup:
    """An arm's name with its piece of line, for tables."""
    return Markup('<span class="arm">{} {}</span>').format(swatch(arm.place), arm.label)


def estimate(value: Interval | None) -> Markup:
    """A number with its interval, for tables."""
    if value is None:
        return Markup("–")
    text, _, rest = words(value).partition(" ")
    spread = Markup(' <span class="range">{}</span>').format(rest) if rest else ""
    return Markup('<span class="estimate">{}</span>{}').format(text, spread)
