"""The measured outcome of a claim as a JSON file: written whole or not at all, read back checked, judged again from its scores."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from surefoot.claims.base import Check, Claim, Context, Score, Scores, holds
from surefoot.errors import ConfigError, DataError
from surefoot.training.provenance import machine, versions

FIELDS = ("slug", "claim", "scale", "command", "commit", "machine", "versions", "wall_s", "scores", "checks", "holds", "notes")
"""What every result file holds; `facts` (fingerprints of the data, last and best, settings) come beside them."""


def outcome(claim: Claim, context: Context, scores: Scores, *, command: Sequence[str], wall_s: float) -> dict[str, Any]:
    """The result of one run, ready for JSON. Raises DataError if a score is NaN or infinite: nothing can be said about it."""
    checked(scores, f"the {claim.slug} claim")
    checks = claim.checks(scores)
    notes = list(context.notes)
    if context.scale == "small" and len(context.seeds) < claim.seeds:
        notes.append(
            f"{len(context.seeds)} of the claim's {claim.seeds} seeds were run: the verdict is about fewer seeds than it should be."
        )
    return {
        "slug": claim.slug,
        "claim": claim.statement,
        "scale": context.scale,
        "seeds": context.seeds,
        "command": " ".join(command),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "wall_s": round(wall_s, 1),
        "scores": scores,
        "checks": [asdict(check) for check in checks],
        "holds": holds(checks),
        "notes": notes,
        "facts": context.facts,
    }


def checked(scores: Mapping[str, Mapping[str, Mapping[str, Score]]], source: str) -> None:
    """Raises DataError unless there are scores and every one of them is a finite number."""
    if not scores:
        raise DataError(f"{source}: there are no scores: run the claim again.")
    for panel, arms in scores.items():
        for arm, seeds in arms.items():
            if not seeds:
                raise DataError(f"{source}: arm {arm!r} of panel {panel!r} has no seeds: run the claim again.")
            for seed, value in seeds.items():
                for x in value if isinstance(value, list) else [value]:
                    if not isinstance(x, (int, float)) or isinstance(x, bool) or not math.isfinite(x):
                        raise DataError(f"{source}: scores[{panel!r}][{arm!r}][{seed!r}] is {x!r}, but scores are finite numbers.")


def result_path(slug: str, scale: str, folder: Path) -> Path:
    """`folder/SLUG.json`, or `folder/SLUG.full.json`; raises ConfigError if the folder cannot be made (asked before a long run)."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}): choose another folder with --out.") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to: choose another folder with --out.")
    return folder / (f"{slug}.json" if scale == "small" else f"{slug}.{scale}.json")


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a result under a temporary name and rename it; raises ConfigError if that fails."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.stem}-", delete=False, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)  # temporary files are made private
        os.replace(file.name, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): choose another folder with --out.") from error


def read_result(path: Path) -> dict[str, Any]:
    """A result file; raises DataError if it is not JSON, lacks a field or holds a score that is no finite number."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): is it a result of `surefoot reproduce`?") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): write it again with `surefoot reproduce`.") from error
    missing = [name for name in FIELDS if not isinstance(result, dict) or name not in result]
    if missing:
        raise DataError(f"{path}: field {missing[0]!r} is missing: write it again with `surefoot reproduce`.")
    checked(result["scores"], str(path))
    return result


def read_check(row: Mapping[str, Any]) -> Check:
    """A check as it stands in a result file."""
    check = Check(**row)
    return replace(check, ci95=None if check.ci95 is None else (check.ci95[0], check.ci95[1]))


def discrepancies(result: Mapping[str, Any], claim: Claim) -> list[str]:
    """Where the stored checks and verdict differ from those its raw scores give; empty if they follow."""
    again = claim.checks(result["scores"])
    stored = [read_check(row) for row in result["checks"]]
    found = []
    if [c.name for c in stored] != [c.name for c in again]:
        return [f"{claim.slug}: checks {[c.name for c in stored]} are stored, but the scores give {[c.name for c in again]}."]
    for old, new in zip(stored, again, strict=True):
        for name, value in asdict(new).items():
            if not _same(getattr(old, name), value):
                found.append(
                    f"{claim.slug}, check {new.name!r}: {name} is stored as {getattr(old, name)!r}, but the scores give {value!r}."
                )
    if result["holds"] != holds(again):
        found.append(f"{claim.slug}: holds is stored as {result['holds']}, but the checks give {holds(again)}.")
    return found


def _same(a: object, b: object) -> bool:
    """Equal, numbers to nine digits (another build of numpy may round the last ones differently)."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return a == b


# --- provenance -----------------------------------------------------------------------------------------------------


def commit() -> str:
    """Git commit of the code that runs, with `+` if the package has changes that are not committed; "" outside a checkout."""
    folder = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if head.returncode != 0:
            return ""
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if changed.returncode else "")
