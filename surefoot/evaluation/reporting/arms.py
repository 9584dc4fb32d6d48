"""What a run folder says, as the report needs it. What is missing or damaged never stops the reading; it is noted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.catalog import IMAGES, ROWS
from surefoot.errors import CheckpointError
from surefoot.evaluation.statistics import Interval, hierarchical_interval, iqm_interval, mean_interval

RETURN = "eval/return"
FIRST_STAGE = "pretraining/"
"""Folder of a run that holds a first stage's own run, and the beginning of its metrics' names here."""
_ROWS = {row.slug: row for row in ROWS}
_PATH = re.compile(r"(?<![\w./:~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":,;()]+[/\\])+(?=[^\s/\\'\":,;()])")


@dataclass(frozen=True)
class Series:
    """One metric over training: `steps` `[T]`, `values` `[T, F]` with NaN where a number was missing."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Returns of an evaluation, with the intervals of their mean and interquartile mean."""

    returns: np.ndarray  # [members, episodes]
    mean: Interval
    iqm: Interval
    evaluations: int | None = None  # that chose these policies, if they were chosen

    @property
    def members(self) -> np.ndarray:
        return self.returns.mean(-1)

    @property
    def sample(self) -> np.ndarray:
        """What comparisons draw from: the members' means of a fleet, the episodes of a lone policy."""
        return self.members if len(self.returns) > 1 else self.returns[0]


@dataclass(frozen=True, eq=False)
class Arm:
    """One run. `place` is its position in the report, which its colour follows; `problems` are sentences."""

    folder: Path
    place: int
    label: str
    config: dict[str, Any]
    result: dict[str, Any]
    series: dict[str, Series]
    evidence: dict[str, dict[str, Any]]  # by file name
    problems: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        return str(self.config.get("method") or self.result.get("method") or "")

    @property
    def paper(self) -> tuple[str, str]:
        """Citation and arXiv address of the method, where the catalog has them."""
        row = _ROWS.get(self.method)
        return (f"{row.authors}, {row.venue} {row.year}", row.url) if row else ("", "")

    @property
    def classifies(self) -> bool:
        """It is a classifier of images: it acts nowhere, so that there are no returns."""
        return self.method in _ROWS and IMAGES in _ROWS[self.method].learns_from

    @property
    def speaks(self) -> bool:
        """It is a language model: it acts nowhere either."""
        return isinstance(self.config.get("model"), str)

    @property
    def acts(self) -> bool:
        """It is a policy that acts, whose worth is its return."""
        return not (self.classifies or self.speaks)

    @property
    def reference(self) -> str:
        """What names the run on a command line; of a folder elsewhere only its last part, since a page is sent around."""
        folder = self.folder
        if folder.is_absolute():
            here = Path.cwd()
            folder = folder.relative_to(here) if folder.is_relative_to(here) else Path(folder.name)
        return folder_name(self.folder) if ".." in folder.parts or str(folder) == "." else str(folder)

    @cached_property
    def env(self) -> str | None:
        found = self.result.get("env") or self.config.get("env")
        return str(found) if found else None

    @property
    def max_steps(self) -> int | None:
        found = self.config.get("max_steps")
        return found if isinstance(found, int) else None

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on observations that the policy learned under and acts with."""
        return noise_of(self.config)

    @property
    def seeds(self) -> int | None:
        found = self.result.get("seeds") or self.config.get("seeds")
        return found if isinstance(found, int) else None

    @property
    def log(self) -> dict[str, Any]:
        """What was noted about the log when training began: source, counts, returns."""
        found = self.config.get("log")
        return found if isinstance(found, dict) else {}

    @property
    def fingerprint(self) -> str | None:
        found = self.config.get("fingerprint")
        return found if isinstance(found, str) else None

    @property
    def steps_done(self) -> int | None:
        """Updates that training has logged."""
        if self.result and isinstance(self.result.get("steps"), int):
            return int(self.result["steps"])
        ends: dict[bool, int] = {}  # of each stage, which counts from zero
        for name, s in self.series.items():
            stage = name.startswith(FIRST_STAGE)
            ends[stage] = max(ends.get(stage, 0), int(s.steps[-1]))
        return sum(ends.values()) if ends else None

    @cached_property
    def last(self) -> Scores | None:
        return scores(self.result.get("last"))

    @cached_property
    def best(self) -> Scores | None:
        return scores(self.result.get("best"))


# --- reading --------------------------------------------------------------------------------------------------------


def read_arms(folders: Sequence[str | Path]) -> list[Arm]:
    """The runs in the order given. Raises CheckpointError for a folder that holds nothing of a run."""
    arms = [_read(Path(folder), place) for place, folder in enumerate(folders)]
    twice = Counter(arm.label for arm in arms)
    names = Counter((arm.label, folder_name(arm.folder)) for arm in arms)
    for i, arm in enumerate(arms):
        if twice[arm.label] > 1:
            own = shortened(folder_name(arm.folder))
            more = own if names[arm.label, own] == 1 else f"{own}, run {i + 1}"
            arms[i] = Arm(**{**_fields(arm), "label": f"{arm.label} ({more})"})
    return arms


def _fields(arm: Arm) -> dict[str, Any]:
    return {name: getattr(arm, name) for name in Arm.__dataclass_fields__}


def _read(folder: Path, place: int) -> Arm:
    problems: list[str] = []
    config, result = (_json(folder / name, problems) for name in ("config.json", "result.json"))
    first = _metrics(folder / FIRST_STAGE / "metrics.jsonl", problems)
    series = {f"{FIRST_STAGE}{name}": found for name, found in first.items()} | _metrics(folder / "metrics.jsonl", problems)
    evidence = {path.stem: found for path in sorted((folder / "evidence").glob("*.json")) if (found := _json(path, problems)) is not None}
    if not (config or result or series or evidence):
        raise CheckpointError(f"{folder} is not a run folder: it holds no readable config.json, metrics.jsonl or result.json.")
    arm = Arm(folder, place, _label(folder, config or {}, result or {}), config or {}, result or {}, series, evidence, problems)
    if config is None:
        problems.append("config.json is missing, so the settings and the command are not known.")
    if result is None:
        of = f" of {arm.config['steps']:,}" if isinstance(arm.config.get("steps"), int) else ""
        done = f"the last logged update is {arm.steps_done:,}{of}" if arm.steps_done else "no update has been logged yet"
        nothing = (
            "nothing is certified yet" if arm.classifies else "its model is not there yet" if arm.speaks else "there are no final returns"
        )
        problems.append(f"training has not finished ({done}): {nothing}.")
    elif arm.last is None and arm.env:
        problems.append("result.json holds no final returns.")
    if not series:
        problems.append("metrics.jsonl holds no metrics, so there are no learning curves.")
    return arm


def _label(folder: Path, config: dict[str, Any], result: dict[str, Any]) -> str:
    method = str(config.get("method") or result.get("method") or folder_name(folder))
    name = _ROWS[method].name if method in _ROWS else shortened(method)
    weighting, noise = config.get("weighting"), noise_of(config)
    if isinstance(weighting, str) and weighting != "uniform":
        name += f" with {shortened(weighting)} weights"
    return name + (f" with noise {noise:g}" if noise else "")


def noise_of(config: dict[str, Any]) -> float:
    found = config.get("noise")
    return float(found) if isinstance(found, int | float) and found > 0 else 0.0


def _json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file, or none that can be read (which is noted)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    name = f"evidence/{path.name}" if path.parent.name == "evidence" else path.name
    problems.append(f"{name} cannot be read: it is damaged, or not a JSON object.")
    return None


def _metrics(path: Path, problems: list[str]) -> dict[str, Series]:
    """The metrics by name, with the newest value where a step was logged twice (after a resume)."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    values: dict[str, dict[int, list[float]]] = {}
    bad = 0
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    values.setdefault(str(name), {})[step] = _numbers(value)
        except (ValueError, KeyError, TypeError):
            bad += 1
    if bad > (not lines[-1].endswith("}") if lines else 0):  # a cut-off last line is what a killed run leaves
        problems.append(f"{bad} lines of metrics.jsonl cannot be read and were left out.")
    series = {}
    for name, rows in values.items():
        steps = np.array(sorted(rows))
        width = max(len(rows[step]) for step in steps)
        table = np.full((len(steps), width), np.nan)
        for i, step in enumerate(steps):
            table[i, : len(rows[step])] = rows[step]
        if np.isfinite(table).any():
            series[name] = Series(steps, np.where(np.isfinite(table), table, np.nan))
    return series


def _numbers(value: Any) -> list[float]:
    return [np.nan if x is None else float(x) for x in (value if isinstance(value, list) else [value])]


# --- values ---------------------------------------------------------------------------------------------------------


def scores(found: Any) -> Scores | None:
    """The `last` or `best` entry of a result; None if it holds no returns."""
    try:
        returns = np.array(found["returns"], np.float64)
        returns = returns.reshape(1, -1) if returns.ndim == 1 else returns
        if returns.ndim != 2 or returns.size == 0 or not np.isfinite(returns).all():
            return None
    except (KeyError, TypeError, ValueError):
        return None
    lone = len(returns) == 1
    mean = interval(found.get("mean")) or (mean_interval(returns[0]) if lone else hierarchical_interval(scores=returns))
    middle = interval(found.get("iqm")) or iqm_interval(returns[0] if lone else returns.mean(-1))
    evaluations = found.get("evaluations")
    return Scores(returns, mean, middle, evaluations if isinstance(evaluations, int) else None)


def interval(found: Any) -> Interval | None:
    """`{value, low, high}` of a JSON file, where null is an end that is not known."""
    try:
        low, high = (end if end is not None else sign * np.inf for end, sign in ((found["low"], -1), (found["high"], 1)))
        return Interval(float(found["value"]), float(low), float(high))
    except (KeyError, TypeError, ValueError):
        return None


def folder_name(folder: Path) -> str:
    """A folder's own name, also for `.`."""
    return folder.resolve().name or "run"


def shortened(text: str, length: int = 40) -> str:
    """The text, or its beginning: names stand in charts."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def without_folder(text: str) -> str:
    """The last part of an absolute path, anything else as it is (for values that are one path, blanks and all)."""
    absolute = Path(text).is_absolute() or re.match(r"[A-Za-z]:[\\/]", text)
    last = re.split(r"[/\\]", text.rstrip("/"))[-1]
    return f"…/{last}" if absolute and len(text.splitlines()) == 1 else text


def portable(text: str) -> str:
    """The text with absolute paths cut to their last part: a report is to be sent around, a machine's folders are not."""
    return _PATH.sub("…/", text)
