"""What a language model is aligned on: pairs of which one was preferred, completions with a score, or prompts alone.

    prompt, chosen, rejected [, margin | score_chosen, score_rejected]
    prompt, completion, score
    prompt [, any further columns, which a reward may need: tests, reference answers, …]

A text is a string, or a list of chat messages `{"role": …, "content": …}`; all rows of a data set are of one form. Of conversations
`chosen` and `rejected` may include the prompt, with a column `prompt` beside them or without one (as TRL and UltraFeedback have it):
what both begin with is the prompt. Every row is checked when it is read, and the first that cannot be learned from is named.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, overload

from surefoot.data.text_checks import Text, nearest, number, pair, prompt_alone, scored, wrong
from surefoot.data.text_rows import Part, Row, text_parts
from surefoot.errors import DataError, UnknownNameError

Kind: TypeAlias = Literal["pairs", "scored", "prompts"]

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected"),
    "scored": ("prompt", "completion", "score"),
    "prompts": ("prompt",),
}
"""What each kind of data must hold; a kind that is not named is the first of these that fits."""

MARGINS = ("margin", "score_chosen", "score_rejected")
ABOUT = ("source", "notes")


@dataclass(frozen=True, eq=False)
class Texts(ABC):
    """Base of the three kinds: rows of text, one list a column. `prompts` `[N]`; `notes` say what a reader should know."""

    prompts: list[Text]
    source: str = field(default="memory", kw_only=True)
    notes: list[str] = field(default_factory=list, kw_only=True)
    kind: ClassVar[Kind]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def chat(self) -> bool:
        """Texts are conversations rather than strings."""
        return bool(self.prompts) and not isinstance(self.prompts[0], str)

    def select(self, rows: Sequence[int]) -> Self:
        """These rows alone, in this order."""
        return replace(self, **{name: _taken(column, rows) for name, column in self._columns().items()})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the contents, whatever file and format they came from."""
        digest = hashlib.sha256(f"{self.kind} {len(self)}".encode())
        for name, column in self._columns().items():
            columns = column if isinstance(column, dict) else {name: column}
            for each, values in sorted(columns.items()):
                if values is not None:
                    digest.update(each.encode())
                    for value in values:
                        digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def _columns(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ABOUT}


@dataclass(frozen=True, eq=False)
class Preferences(Texts):
    """Of two completions of a prompt, `chosen` `[N]` was preferred to `rejected` `[N]`.

    `margins` `[N]`: by how much, where the file says so (`margin`, or `score_chosen` - `score_rejected`).
    """

    chosen: list[Text]
    rejected: list[Text]
    margins: list[float] | None = None
    kind: ClassVar[Kind] = "pairs"


@dataclass(frozen=True, eq=False)
class ScoredTexts(Texts):
    """Completions `[N]` of prompts with a score `[N]` each; a prompt may have several rows."""

    completions: list[Text]
    scores: list[float]
    kind: ClassVar[Kind] = "scored"


@dataclass(frozen=True, eq=False)
class Prompts(Texts):
    """Prompts alone, and whatever `columns` `{name: [N]}` stood beside them, for rewards that need it."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    kind: ClassVar[Kind] = "prompts"


def _taken(column: Any, rows: Sequence[int]) -> Any:
    if isinstance(column, dict):
        return {name: _taken(each, rows) for name, each in column.items()}
    return None if column is None else [column[i] for i in rows]


# --- reading --------------------------------------------------------------------------------------------------------


@overload
def read_preferences(ref: str | Path, kind: Literal["pairs"], *, split: str | None = None, skip_bad: bool = False) -> Preferences: ...
@overload
def read_preferences(ref: str | Path, kind: Literal["scored"], *, split: str | None = None, skip_bad: bool = False) -> ScoredTexts: ...
@overload
def read_preferences(ref: str | Path, kind: Literal["prompts"], *, split: str | None = None, skip_bad: bool = False) -> Prompts: ...
@overload
def read_preferences(ref: str | Path, kind: Kind | None = None, *, split: str | None = None, skip_bad: bool = False) -> Texts: ...
def read_preferences(ref: str | Path, kind: Kind | None = None, *, split: str | None = None, skip_bad: bool = False) -> Texts:
    """The data that `ref` names: JSON lines or Parquet, a folder of such files, a folder of `datasets.save_to_disk`, or OWNER/NAME on
    the Hugging Face Hub (`split` chooses among the splits of the last two). `kind` None: what the columns say.

    `skip_bad` leaves rows out that cannot be learned from (`notes` say how many, and what was wrong with the first) instead of
    refusing the data.

    Raises DataError naming file, row (of JSON lines the line, counted from 1; else the row, counted from 0), field and value;
    UnknownNameError for another kind or split; MissingExtraError without `datasets` where it is needed.
    """
    if kind is not None and kind not in COLUMNS:
        raise UnknownNameError("kind of data", kind, COLUMNS)
    parts = text_parts(ref, split)
    kind = kind or _kind_of(next((part for part in parts if part.columns), None))
    if not skip_bad:
        for part in parts:
            _check_columns(part, kind)
    rows, notes = _checked(parts, kind, str(ref), skip_bad)
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    if kind == "pairs":
        return Preferences(columns["prompt"], columns["chosen"], columns["rejected"], columns.get("margin"), source=str(ref), notes=notes)
    if kind == "scored":
        return ScoredTexts(columns["prompt"], columns["completion"], columns["score"], source=str(ref), notes=notes)
    return Prompts(columns.pop("prompt"), columns, source=str(ref), notes=notes)


def _kind_of(part: Part | None) -> Kind:
    """The kind that has these columns; pairs where no row can be read, which is then said of the first."""
    if part is None:
        return "pairs"
    for kind, needed in COLUMNS.items():
        if set(needed[1 if kind == "pairs" else 0 :]) <= set(part.columns):
            return kind
    wanted = "; ".join(", ".join(needed) for needed in COLUMNS.values())
    raise DataError(f"{part.name} holds {', '.join(part.columns[:12])}: give it the columns of one kind of data ({wanted}).")


def _check_columns(part: Part, kind: Kind) -> None:
    """What is in no row of a file is said once, about the file."""
    needed = COLUMNS[kind]
    for name in needed:
        if part.columns and name not in part.columns and not (kind == "pairs" and name == "prompt"):
            meant = nearest(name, [other for other in part.columns if other not in needed])
            do = f"rename {meant!r}" if meant else f"{kind} need {', '.join(needed)}"
            raise DataError(f"{part.name}: there is no column {name!r} (it holds {', '.join(part.columns[:12])}): {do}.")


def _checked(parts: Sequence[Part], kind: Kind, source: str, skip_bad: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that can be learned from, by column, and a note where others were left out."""
    good: list[dict[str, Any]] = []
    bad, first = 0, ""
    for part in parts:
        wanted = part.columns if kind == "prompts" else [name for name in (*COLUMNS[kind], *MARGINS) if name in part.columns]
        for row in part.rows(wanted):
            try:
                if row.problem:
                    raise wrong(row.where, row.problem, "copy or write the file again")
                found = ROWS[kind](row)
                if good:
                    _check_alike(found, good[0], row.where)
            except DataError as error:
                if not skip_bad:
                    raise
                bad, first = bad + 1, first or str(error)
            else:
                good.append(found)
    if not good:
        why = f"not one of its {bad:,} rows can be used; the first: {first}" if bad else "it holds no rows: copy or write it again."
        raise DataError(f"{source}: {why}")
    return good, [f"{bad:,} of {bad + len(good):,} rows were left out; the first: {first}"] if bad else []


def _check_alike(row: Mapping[str, Any], first: Mapping[str, Any], where: str) -> None:
    """A row is of the form of the first."""
    if isinstance(row["prompt"], str) != isinstance(first["prompt"], str):
        here, before = ("plain text", "chat messages") if isinstance(row["prompt"], str) else ("chat messages", "plain text")
        raise wrong(where, f"this row is of {here}, those before it are of {before}", "write all rows in one form")
    if ("margin" in row) != ("margin" in first):
        here = "no margin, though rows before it have one" if "margin" in first else "a margin, though rows before it have none"
        raise wrong(where, f"this row has {here}", "give all rows a margin or none")


def _pair(row: Row) -> dict[str, Any]:
    prompt, chosen, rejected = pair(row.values, row.where)
    found: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if "margin" in row.values:
        found["margin"] = number(row.values, "margin", row.where)
    elif "score_chosen" in row.values and "score_rejected" in row.values:
        better, worse = (number(row.values, name, row.where) for name in MARGINS[1:])
        found["margin"] = better - worse
    return found


def _scored(row: Row) -> dict[str, Any]:
    return dict(zip(COLUMNS["scored"], scored(row.values, row.where), strict=True))


def _prompt(row: Row) -> dict[str, Any]:
    return {**row.values, "prompt": prompt_alone(row.values, row.where)}


ROWS: dict[Kind, Callable[[Row], dict[str, Any]]] = {"pairs": _pair, "scored": _scored, "prompts": _prompt}
"""How a row of each kind is checked and taken apart. Raises DataError."""
