"""What a log is besides its numbers, as JSON that our writers put beside them: action space, shapes, environment, provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import DataError

KEY = "surefoot"
"""Under this name the JSON stands in a file: a member of an npz, an attribute of an HDF5, an entry of a Parquet schema."""

FORMAT = 1

WARNINGS = "warnings"
"""The note in `Log.notes` that holds what a reader had to guess, one warning a line."""

GUESSED_SPACE = "the action space was taken to be"
"""How the warning begins that an environment, once it is named, makes void."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its log; empty for files that others wrote."""

    action: Continuous | Discrete | None = None
    obs_shape: tuple[int, ...] | None = None
    env_id: str | None = None
    notes: dict[str, str] = field(default_factory=dict)


def to_json(log: Log) -> str:
    """The metadata of a log."""
    box = log.action
    action: dict[str, Any] = {"low": box.low, "high": box.high} if isinstance(box, Continuous) else {"n": box.n}
    return json.dumps({"format": FORMAT, "action": action, "obs_shape": log.obs_shape, "env_id": log.env_id, "notes": log.notes})


def from_json(text: str, source: str) -> Metadata:
    """The inverse of `to_json`; raises DataError where the text is damaged or of a later format."""
    try:
        saved = json.loads(text)
        if saved["format"] != FORMAT:
            raise DataError(f"{source} is of format {saved['format']}, this version of surefoot reads format {FORMAT}: update surefoot.")
        action = saved["action"]
        space = Discrete(int(action["n"])) if "n" in action else Continuous(_floats(action["low"]), _floats(action["high"]))
        env_id = None if saved["env_id"] is None else str(saved["env_id"])
        notes = {str(key): str(value) for key, value in saved["notes"].items()}
        return Metadata(space, tuple(map(int, saved["obs_shape"])), env_id, notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: what surefoot wrote about the log is damaged ({error!r}): write the log again.") from None


def add_warnings(notes: dict[str, str], warnings: list[str]) -> dict[str, str]:
    """The notes with more warnings, each once."""
    lines = list(dict.fromkeys([*notes.get(WARNINGS, "").splitlines(), *warnings]))
    return notes | {WARNINGS: "\n".join(lines)} if lines else dict(notes)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(x) for x in values)
