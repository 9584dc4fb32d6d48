"""What a user can get wrong, each as one sentence: what is wrong, where, and what to do.

The command line prints the sentence without a traceback and exits 2; in Python they are ordinary exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: Exception) -> str:
    """What another library's error says, as part of a sentence of ours: its first line without a full stop, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class SurefootError(Exception):
    """Base of every error a user can cause; `str(error)` is a whole sentence."""


class DataError(SurefootError):
    """A log, file or batch that cannot be learned from (names the file, the field, the row and the value)."""


class ConfigError(SurefootError):
    """A setting outside its range, or settings that exclude each other."""


class EnvError(SurefootError):
    """An environment that cannot be made, or that disagrees with the data or the policy."""


class PolicyError(SurefootError):
    """A policy that cannot be loaded or does not fit what is asked of it."""


class CheckpointError(SurefootError):
    """A run folder or checkpoint that cannot be written or read."""


class DivergedError(SurefootError):
    """A loss became NaN or infinite; the last good checkpoint is kept."""


class NotTrustedError(SurefootError):
    """A file that can only be read by executing it (a pickle), without `--trust`."""


class MissingExtraError(SurefootError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(f"this needs the package {package!r}, which is not installed: pip install 'surefoot[{extra}]'.")


class UnknownNameError(SurefootError):
    """A name that nothing answers to, with the nearest ones that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known: {', '.join(known[:12])}{f' and {len(known) - 12} more' if len(known) > 12 else ''}."
        )
        super().__init__(f"unknown {kind} {name!r}: {hint}")
