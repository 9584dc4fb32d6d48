"""From the columns of a file to a `BanditLog`: which column is what, actions and their availability by name, the order of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surefoot.data.bandit_features import read_features
from surefoot.data.bandit_log import BanditLog, action_indices, action_name, check_numbers, check_propensity
from surefoot.data.bandit_table import Table, as_dates, as_number, flags, no_column, numbers, shown
from surefoot.errors import ConfigError, DataError

ROLES: dict[str, tuple[str, ...]] = {
    "action": ("action", "actions", "arm", "arm_id"),
    "reward": ("reward", "rewards", "outcome", "click"),
    "propensity": ("propensity", "propensities", "pscore", "propensity_score"),
    "generation": ("generation", "generation_id", "batch", "batch_id"),
    "time": ("timestamp", "time", "date"),
    "available": ("available", "available_actions"),
}
"""What a column is for, and what it is called in other people's files; the first that a file has is read."""

PREFIX = "available_"
"""Columns `available_<action>`, true or false, say row by row whether the action could be chosen."""

SEPARATOR = "|"
"""Between the names of available actions where one text lists them, as in a CSV: `visa|amex`."""


@dataclass(frozen=True)
class ColumnNames:
    """Which of a file's columns is what, where it does not go by one of the names in `ROLES`."""

    action: str | None = None
    reward: str | None = None
    propensity: str | None = None
    generation: str | None = None
    time: str | None = None
    available: str | None = None
    features: tuple[str, ...] | None = None  # None: every column that is nothing else
    actions: tuple[str, ...] | None = None  # names of all actions, in order; None: those that occur


def bandit_log(table: Table, names: ColumnNames, sort: bool = False) -> BanditLog:
    """The log in these columns. `sort`: put rows that are out of order in order instead of refusing them.

    Raises DataError naming file, column, row and value; ConfigError where `names` asks for what cannot be.
    """
    roles = assign(table, names)
    source = table.source
    actions, index, available, marks = read_actions(table, roles, names.actions or table.actions)
    reward = numbers(table, roles["reward"])
    check_numbers(reward, f"column {roles['reward']!r}", source)
    propensity = None
    if "propensity" in roles:
        propensity = numbers(table, roles["propensity"])
        check_propensity(propensity, f"column {roles['propensity']!r}", source)
    used = {column: f"the log's {role}" for role, column in roles.items()} | dict.fromkeys(marks, "about availability")
    reserved = {alias: role for role, aliases in ROLES.items() for alias in aliases}
    context, features, notes = read_features(table, names.features or table.features, used, reserved)
    missing = ~available[np.arange(table.n), index]
    if missing.any():
        row = int(np.argmax(missing))
        what = f"{actions[index[row]]} in row {row}, which was not available there"
        raise DataError(f"{source}: column {roles['action']!r} is {what}: repair one of the two columns.")
    generation, order = read_order(table, roles, sort)
    if "generation" not in roles and generation.any():
        notes.append(f"each day in column {roles['time']!r} became a generation, {generation.max() + 1} of them")
    return BanditLog(
        context=context[order],
        action=index[order],
        reward=reward[order],
        available=available[order],
        propensity=None if propensity is None else propensity[order],
        generation=generation[order],
        actions=actions,
        features=features,
        action_features=table.action_features,
        source=source,
        notes=tuple(notes),
    )


def assign(table: Table, names: ColumnNames) -> dict[str, str]:
    """Which column plays which role, `{role: column}`. Raises DataError for a column that is named and missing, or needed and missing."""
    roles: dict[str, str] = {}
    for role, aliases in ROLES.items():
        named = getattr(names, role)
        if named is not None and named not in table.columns:
            raise no_column(table, named)
        features = (table.features or ()) if role in ("action", "reward", "propensity") else names.features or table.features or ()
        column = named or next((alias for alias in aliases if alias in table.columns and alias not in features), None)
        if column is not None:
            roles[role] = column
    for role in ("action", "reward"):
        if role not in roles:
            there = ", ".join(list(table.columns)[:12])
            raise DataError(f"{table.source}: no column is called {role!r}; it holds {there}: name the column (--{role}).")
    taken: dict[str, str] = {}
    for role, column in roles.items():
        if column in taken:
            raise ConfigError(f"column {column!r} is to be {taken[column]} and {role} at once: name another one.")
        taken[column] = role
    return roles


# --- actions and what was available ---------------------------------------------------------------------------------


def read_actions(
    table: Table, roles: Mapping[str, str], named: tuple[str, ...] | None
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, list[str]]:
    """(names of the K actions, index of the one taken `[n]`, which were available `[n, K]`, columns `available_<action>` that say so).

    The actions are those that are `named`, else those that have a column of availability, else those that occur.
    """
    column, source = roles["action"], table.source
    values = table.columns[column]
    if values.ndim != 1 or values.dtype.kind == "M":
        raise DataError(f"{source}: column {column!r} must hold one action a row, a number or a name.")
    gone = np.array([x is None or x != x for x in values.tolist()])  # NaN differs from itself
    if gone.any():
        raise DataError(f"{source}: column {column!r} is missing in row {int(np.argmax(gone))}: remove that row.")
    lists = table.columns[roles["available"]] if "available" in roles else None
    occurring = _occurring(values, lists)
    marks = [] if lists is not None else available_columns(table, named or occurring)
    actions = named or tuple(mark.removeprefix(PREFIX) for mark in marks) or occurring
    if len(actions) < 2:
        raise DataError(f"{source}: column {column!r} holds only one action ({actions[0]}): name all that could be chosen (--actions a,b).")
    index = action_indices(values, actions, f"column {column!r}", source)
    if lists is not None:
        return actions, index, from_lists(lists, actions, roles["available"], source), marks
    available = np.ones((table.n, len(actions)), bool)
    for mark in marks:
        available[:, actions.index(mark.removeprefix(PREFIX))] = flags(table, mark)
    return actions, index, available, marks


def available_columns(table: Table, actions: Sequence[str]) -> list[str]:
    """The columns `available_<action>`, if any of them is about one of these actions; `available_credit` alone is a feature."""
    found = [name for name in table.columns if name.startswith(PREFIX) and name not in (table.features or ())]
    return found if any(name.removeprefix(PREFIX) in actions for name in found) else []


def _occurring(values: np.ndarray, lists: np.ndarray | None) -> tuple[str, ...]:
    """Names of the actions that were taken or are listed as available; numbers in their order, then text.

    Where availability is K marks a row, the actions must be the numbers 0 to K - 1.
    """
    if lists is not None and lists.dtype == bool and lists.ndim == 2 and values.dtype.kind in "iu":
        return tuple(map(str, range(lists.shape[1])))
    found = {action_name(x) for x in (np.unique(values).tolist() if values.dtype.kind in "biufU" else set(values.tolist()))}
    if lists is not None and lists.dtype != bool:
        found |= {name for row in lists.tolist() if row is not None for name in _listed(row)}
    sizes = {name: as_number(name) for name in found}
    return tuple(sorted(found, key=lambda name: (sizes[name] is None, sizes[name] or 0.0, name)))


def _listed(row: object) -> list[str]:
    """One row's available actions by name."""
    if isinstance(row, str):
        return [part.strip() for part in row.split(SEPARATOR) if part.strip()]
    return [action_name(x) for x in np.asarray(row, object).reshape(-1).tolist()]


def from_lists(lists: np.ndarray, actions: Sequence[str], name: str, source: str) -> np.ndarray:
    """Availability `[n, K]` from a column of lists: of names (or one text `a|b`), or of K marks true or false in the order of actions."""
    n, K = len(lists), len(actions)
    if lists.dtype == bool:
        if lists.shape != (n, K):
            raise DataError(f"{source}: column {name!r} has {lists.shape[-1]} marks a row for {K} actions: give one an action.")
        return lists
    place = {action: i for i, action in enumerate(actions)}
    out = np.zeros((n, K), bool)
    for row, value in enumerate(lists.tolist()):
        if value is None:
            raise DataError(f"{source}: column {name!r} is missing in row {row}: list the actions that could be chosen there.")
        for action in _listed(value):
            if action not in place:
                known = ", ".join(actions[:8])
                raise DataError(f"{source}: column {name!r} lists {action!r} in row {row}, which is none of the actions {known}.")
            out[row, place[action]] = True
    return out


# --- the order of rows ----------------------------------------------------------------------------------------------


def read_order(table: Table, roles: Mapping[str, str], sort: bool) -> tuple[np.ndarray, np.ndarray]:
    """(generation of each row `[n]` int64, the order `[n]` in which rows are to stand: by generation, then by time).

    Without a generation each day of a time in dates is one; times that are plain numbers give an order alone. Raises DataError at the
    first row that is out of order, unless `sort`.
    """
    keys = [(roles[role], moments(table, roles[role], role)) for role in ("generation", "time") if role in roles]
    generation = np.zeros(table.n, np.int64)
    if "generation" in roles:
        generation = _whole(table, *keys[0])
    elif keys and keys[0][1].dtype.kind == "M":
        generation = np.unique(keys[0][1].astype("datetime64[D]"), return_inverse=True)[1].astype(np.int64)
    if sort:
        return generation, np.lexsort([*(values for _, values in keys[::-1]), generation])  # the last key counts first
    for name, values in keys:
        back = values[1:] < values[:-1]
        if name != keys[0][0]:
            back &= generation[1:] == generation[:-1]  # the clock may start again with each generation
        if back.any():
            row = int(np.argmax(back)) + 1
            was, before = (shown(str(x)) for x in table.columns[name][[row, row - 1]])
            what = f"{was} in row {row}, after {before}"
            raise DataError(
                f"{table.source}: column {name!r} is {what}: rows must stand in the order they were logged; sort them (--sort)."
            )
    return generation, np.arange(table.n)


def moments(table: Table, name: str, role: str) -> np.ndarray:
    """A column of times or batches as values that can be sorted: numbers, dates, or (batches by name) their order of appearance."""
    column = table.columns[name]
    if column.dtype == object:
        gone = [row for row, value in enumerate(column.tolist()) if value is None]
        if gone:
            raise DataError(f"{table.source}: column {name!r} is missing in row {gone[0]}: give every row a {role}, or remove it.")
        dates = as_dates(column)
        if dates is not None:
            return dates
        if role == "generation":
            place = {value: i for i, value in enumerate(dict.fromkeys(column.tolist()))}
            return np.array([place[value] for value in column.tolist()], np.int64)
        raise DataError(
            f"{table.source}: column {name!r} is {shown(column[0])} in row 0, which is no date (2026-01-31 12:00:00) or number."
        )
    if column.dtype.kind == "M":
        if np.isnat(column).any():
            raise DataError(f"{table.source}: column {name!r} is missing in row {int(np.argmax(np.isnat(column)))}: remove that row.")
        return column
    check_numbers(column, f"column {name!r}", table.source)
    return column


def _whole(table: Table, name: str, values: np.ndarray) -> np.ndarray:
    """Numbers of generations, as int64; dates become their rank. Raises DataError at the first fraction."""
    if values.dtype.kind == "M":
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    wrong = values != np.floor(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{table.source}: column {name!r} is {values[row]} in row {row}: batches are numbered 0, 1, 2, ...")
    return values.astype(np.int64)
