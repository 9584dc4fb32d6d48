"""Is this a log that can be learned from, and what about it should its user know?

Errors are what makes learning impossible or meaningless; warnings are what a user may have meant, and more often has not.
Everything is computed in slices, so that a memory-mapped log of 10 million transitions is never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from surefoot.data.checks import check_actions, check_finite, check_flags, check_size, check_spec
from surefoot.data.columns import SLICE
from surefoot.data.log import Log
from surefoot.data.metadata import GUESSED_SPACE, WARNINGS
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError

FEW = 1000  # transitions below which a log is called small
NARROW = 0.5  # share of the box below which the range of the actions is called narrow
REPEATED = 0.05  # share of repeated transitions above which they are mentioned


def validate(log: Log, *, env: Spec | None = None, env_id: str | None = None) -> list[str]:
    """Warnings about a log that can be learned from; each is one sentence.

    Raises DataError for what cannot be learned from (fewer than two transitions, NaN or infinity, marks other than 0 and 1,
    actions outside the action space; row and value are named), EnvError where `env` (called `env_id`) shows or takes something else.
    """
    check_contents(log)
    guesses = log.notes.get(WARNINGS, "").splitlines()
    if env is not None:
        s, a = log.layout.obs_dim, log.layout.action_dim
        discrete = True if isinstance(log.action, Discrete) else None  # whole numbers may have been stored as floats
        check_spec(log.obs_shape, a, discrete, log.source, env, env_id)
        for start, rows in slices(log):
            check_actions(rows[:, s : s + a], env.action, start, log.source, env_id)
        log = replace(log, action=env.action)  # from here on the environment's is the space that counts
        guesses = [line for line in guesses if not line.startswith(GUESSED_SPACE)]
    return guesses + warnings_about(log)


def check_contents(log: Log) -> None:
    """Raises DataError at the first row that holds what no log may hold."""
    check_size(len(log), log.source)
    if len(log.ends) != len(log) or not log.ends[-1]:
        raise DataError(f"{log.source}: there must be one mark of an episode's end a transition, and the last must be set.")
    s, a = log.layout.obs_dim, log.layout.action_dim
    fields = {"obs": slice(0, s), "action": slice(s, s + a), "reward": slice(s + a, s + a + 1), "next_obs": slice(s + a + 1, -1)}
    for start, rows in slices(log):
        for name, columns in fields.items():
            check_finite(rows[:, columns], name, start, log.source)
        check_flags(rows[:, -1], "terminated", start, log.source)
        unmarked = (rows[:, -1] == 1.0) & ~log.ends[start : start + len(rows)]
        if unmarked.any():
            row = start + int(np.argmax(unmarked))
            raise DataError(f"{log.source}: field 'terminated' is 1 in row {row}, but its episode goes on there: mark the end.")
        check_actions(rows[:, s : s + a], log.action, start, log.source)


def slices(log: Log) -> Iterator[tuple[int, np.ndarray]]:
    """The packed rows in pieces: (index of the first row, `[m, D]`)."""
    for start in range(0, len(log), SLICE):
        yield start, log.packed[start : start + SLICE].numpy()


# --- warnings -------------------------------------------------------------------------------------------------------


def warnings_about(log: Log) -> list[str]:
    """What looks unlike a log one would want to learn from."""
    s, a = log.layout.obs_dim, log.layout.action_dim
    low, high = np.full(log.layout.width, np.inf), np.full(log.layout.width, -np.inf)
    jumps, hashes = 0, np.empty(len(log), np.uint64)
    taken = np.zeros(log.action.n, bool) if isinstance(log.action, Discrete) else None
    last: np.ndarray | None = None  # next_obs of the row before the slice
    for start, rows in slices(log):
        low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        hashes[start : start + len(rows)] = row_hashes(rows)
        if taken is not None:
            taken |= np.bincount(rows[:, s].astype(np.int64), minlength=len(taken)) > 0
        obs, next_obs = rows[:, :s], rows[:, s + a + 1 : -1]
        inside = ~log.ends[start : start + len(rows) - 1]
        jumps += int(np.count_nonzero(apart(next_obs[:-1], obs[1:]) & inside))
        if last is not None and not log.ends[start - 1]:
            jumps += int(apart(last[None], obs[:1])[0])
        last = next_obs[-1].copy()
    return [
        *_about_size(log),
        *_about_constants(low, high, s, a, terminates=high[-1] == 1.0),
        *_about_continuity(log, jumps),
        *_about_actions(log, low[s : s + a], high[s : s + a], taken),
        *_about_repetition(hashes),
    ]


def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[m]` bool: rows that differ by more than rounding, as the D4RL loaders have it (1e-6)."""
    return (np.abs(x - y) > 1e-6 + 1e-6 * np.abs(y)).any(-1)


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each row `[m, D]` float32: equal rows have equal hashes."""
    mixed = np.full(len(rows), np.uint64(0x9E3779B97F4A7C15))
    for column in np.ascontiguousarray(rows).view(np.uint32).T:
        mixed = (mixed ^ column) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _about_size(log: Log) -> Iterator[str]:
    if len(log) < FEW:
        yield f"the log holds only {len(log)} transitions: little can be learned from them"
    if len(log.episode_ends) == 1:
        yield "the log is one episode: returns cannot be compared, and nothing can be held out but its end"


def _about_constants(low: np.ndarray, high: np.ndarray, s: int, a: int, terminates: bool) -> Iterator[str]:
    constant = np.flatnonzero(low[:s] == high[:s])
    if len(constant):
        listed = ", ".join(f"{i} ({low[i]:g})" for i in constant[:8]) + (" …" if len(constant) > 8 else "")
        yield f"observations have constant features, which say nothing: {listed}"
    if low[s + a] == high[s + a]:
        told = "only when an episode terminates tells good from bad" if terminates else "nothing tells good from bad"
        yield f"all rewards are {low[s + a]:g}: {told}"


def _about_continuity(log: Log, jumps: int) -> Iterator[str]:
    if jumps:
        yield (
            f"at {jumps} rows inside episodes next_obs is not the obs of the row that follows: "
            "are time limits left unmarked (truncated), or were rows shuffled or left out?"
        )


def _about_actions(log: Log, low: np.ndarray, high: np.ndarray, taken: np.ndarray | None) -> Iterator[str]:
    if taken is not None:
        never = np.flatnonzero(~taken)
        if len(never):
            yield f"of {len(taken)} actions {len(never)} are never taken ({', '.join(map(str, never[:8]))}{' …' if len(never) > 8 else ''})"
        return
    assert isinstance(log.action, Continuous)
    box_low, box_high = np.array(log.action.low), np.array(log.action.high)
    share = (high - low) / np.maximum(box_high - box_low, 1e-12)
    narrow = np.flatnonzero(share < NARROW)
    if len(narrow):
        listed = ", ".join(f"[{low[j]:.3g}, {high[j]:.3g}] of [{box_low[j]:.3g}, {box_high[j]:.3g}] in dimension {j}" for j in narrow[:4])
        yield f"actions are narrower than their box: {listed}{' …' if len(narrow) > 4 else ''}: is it the right box?"


def _about_repetition(hashes: np.ndarray) -> Iterator[str]:
    distinct = 1 + int(np.count_nonzero(np.diff(np.sort(hashes))))
    share = 1.0 - distinct / len(hashes)
    if share > REPEATED:
        yield f"{share:.0%} of the transitions repeat another one exactly"
