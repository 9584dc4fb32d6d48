"""Paths in continuous time: each with time stamps of its own, as many as it has, as close together as they are.

A `Paths` is a whole log, ragged and packed; a `PathBatch` is some of its paths as rectangular arrays, which is what estimators
compute with. Shorter paths of a batch are filled up by repeating their last row, steps of no time in which nothing is earned:
every sum over steps (each is weighted by dt, or by an increment) is then exact without a mask.

Rewards are *rates*: in row i the rate from time stamp i to the next. A log that holds what was earned in each step says so
(`reward="per_step"`), and is divided by dt once, here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from surefoot.errors import ConfigError, DataError

REWARDS = ("rate", "per_step", "none")
"""What a log's rewards are: earned in a unit of time, earned from one row to the next, or not there (only the end pays)."""

POINTS, MANY, MOST = 1 << 14, 64, 1 << 21
"""Rows of a block, filled up: what is computed from them then stays in the processor's cache. Up to MANY paths are taken together
for as long as they have MOST rows at most, since recursions step through time once a block."""


@dataclass(frozen=True, eq=False)
class PathBatch:
    """P paths of up to N steps; any leading axes are copies (seeds), each with paths of its own. All arrays float64."""

    t: np.ndarray  # [*copies, P, N + 1] time since the path's first row
    x: np.ndarray  # [*copies, P, N + 1, d] states
    reward: np.ndarray  # [*copies, P, N] reward rate from each row to the next
    payoff: np.ndarray | None = None  # [*copies, P] what the end of the path pays; None where nothing ends

    def __post_init__(self) -> None:
        p, n = self.reward.shape[-2:] if self.reward.ndim >= 2 else (0, 0)
        lead = self.reward.shape[:-2]
        fits = self.t.shape == (*lead, p, n + 1) and self.x.ndim == len(lead) + 3 and self.x.shape[:-1] == self.t.shape
        fits = fits and (self.payoff is None or self.payoff.shape == (*lead, p))
        if not fits or p == 0 or n == 0:
            shapes = f"t {self.t.shape}, x {self.x.shape}, reward {self.reward.shape}"
            shapes += "" if self.payoff is None else f", payoff {self.payoff.shape}"
            raise DataError(f"{shapes} do not fit each other: they must be [P, N + 1], [P, N + 1, d], [P, N] and [P], with P, N >= 1.")

    @property
    def dt(self) -> np.ndarray:
        """Lengths of the steps `[*copies, P, N]`; 0 where a path is filled up."""
        return np.diff(self.t, axis=-1)

    @property
    def to_go(self) -> np.ndarray:
        """Time left until the path's end `[*copies, P, N + 1]`; exactly 0 at its last row and where it is filled up."""
        return self.t[..., -1:] - self.t

    @property
    def copies(self) -> tuple[int, ...]:
        return self.reward.shape[:-2]

    def blocks(self, points: int = POINTS) -> Iterator[PathBatch]:
        """The same paths, a few at a time."""
        rows = self.t[..., 0, :].size  # of one path, all copies
        size = max(1, points // rows, min(MANY, MOST // rows))
        for i in range(0, self.t.shape[-2], size):
            these = slice(i, i + size)
            payoff = None if self.payoff is None else self.payoff[..., these]
            yield PathBatch(self.t[..., these, :], self.x[..., these, :, :], self.reward[..., these, :], payoff)


@dataclass(frozen=True, eq=False)
class Paths:
    """A log of P paths, M rows in all, one path after the other. Made by `Paths.of` or `read_paths`, which check it."""

    t: np.ndarray  # [M] time stamps, increasing within a path
    x: np.ndarray  # [M, d] states
    reward: np.ndarray  # [M] reward rate from each row to the next (0 in a path's last row)
    payoff: np.ndarray | None  # [P] what the end of each path pays
    starts: np.ndarray  # [P + 1] first row of each path, and M
    names: tuple[str, ...]  # what the log calls each path
    source: str = "arrays"

    @staticmethod
    def of(
        path: np.ndarray,
        t: np.ndarray,
        x: np.ndarray,
        reward: np.ndarray | None = None,
        payoff: np.ndarray | float | None = None,
        *,
        reward_is: str = "rate",
        source: str = "arrays",
    ) -> Paths:
        """A log from columns: `path` `[M]` says which path a row belongs to; `t` `[M]`, `x` `[M]` or `[M, d]`, `reward` `[M]`.

        Rows of one path may lie apart, but must be in order of time. `payoff`: one number for all, one a path `[P]` (in order of
        first appearance), or a column `[M]` whose last row of each path counts (the others empty, zero, or the same number).
        `reward_is`: one of `REWARDS`. The reward in a path's last row is not used and may be missing.

        Raises DataError naming path, row (counted from 0) and value; ConfigError for another `reward_is`.
        """
        if reward_is not in REWARDS:
            raise ConfigError(f"reward is {reward_is!r}: it is one of {', '.join(REWARDS)}.")
        path, t, x = np.asarray(path), _floats(t, "t", source), _floats(x, "x", source)
        x = x[:, None] if x.ndim == 1 else x
        if path.ndim != 1 or t.shape != path.shape or x.ndim != 2 or x.shape[:1] != t.shape:
            raise DataError(f"{source}: path {path.shape}, t {t.shape} and x {x.shape} must be [M], [M] and [M] or [M, d].")
        if len(path) == 0:
            raise DataError(f"{source} holds no rows: paths need two rows at least.")
        order, starts, names = _grouped(path, source)
        rows = Rows(order, starts, names, source)
        t, x = t[order], x[order]
        rows.finite(t, "t")
        rows.finite(x, "x")
        rows.increasing(t)
        rate = rows.rates(None if reward_is == "none" else reward, t, per_step=reward_is == "per_step")
        return Paths(t, x, rate, rows.payoffs(payoff), starts, names, source)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each path `[P]`."""
        return np.diff(self.starts)

    def batch(self, index: np.ndarray | None = None) -> PathBatch:
        """The paths `index` (numbers of paths `[*copies, P]`, with repeats; all of them by default), filled up to the longest."""
        index = np.arange(len(self)) if index is None else np.asarray(index)
        first, last = self.starts[index], self.starts[index + 1] - 1
        rows = np.minimum(first[..., None] + np.arange(int((last - first).max()) + 1), last[..., None])
        t = self.t[rows]
        payoff = None if self.payoff is None else self.payoff[index]
        return PathBatch(t - t[..., :1], self.x[rows], self.reward[rows[..., :-1]], payoff)

    def blocks(self, points: int = POINTS) -> Iterator[tuple[np.ndarray, PathBatch]]:
        """All paths in batches of similar length, each of at most `points` rows (or few long paths), with their numbers."""
        order = np.argsort(self.lengths, kind="stable")
        i = 0
        while i < len(order):
            shortest, j = int(self.lengths[order[i]]), i + 1
            while j < len(order) and (longest := int(self.lengths[order[j]])) <= 2 * shortest:
                rows = longest * (j + 1 - i)
                if rows > points and (j + 1 - i > MANY or rows > MOST):
                    break
                j += 1
            yield order[i:j], self.batch(order[i:j])
            i = j

    def split(self, share: float, seed: int = 0) -> tuple[Paths, Paths]:
        """Two logs of whole paths, drawn at random: `share` of them to fit, and the rest to judge the fit by."""
        n = round(share * len(self))
        if not 0 < n < len(self):
            raise ConfigError(f"share is {share}: of {len(self)} paths it must leave at least one on each side.")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.only(np.sort(order[:n])), self.only(np.sort(order[n:]))

    def only(self, index: np.ndarray) -> Paths:
        """A log of the paths `index` `[K]` alone."""
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in index])
        starts = np.concatenate([[0], np.cumsum(self.lengths[index])])
        payoff = None if self.payoff is None else self.payoff[index]
        names = tuple(self.names[i] for i in index)
        return replace(self, t=self.t[rows], x=self.x[rows], reward=self.reward[rows], payoff=payoff, starts=starts, names=names)


# --- checks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows in order of their paths, and where the log has each: what an error needs to name."""

    order: np.ndarray  # [M] row of the log
    starts: np.ndarray
    names: tuple[str, ...]
    source: str

    def where(self, k: int) -> str:
        """The k-th row in order of paths, as the log's owner knows it."""
        path = int(np.searchsorted(self.starts, k, side="right")) - 1
        return f"{self.source}: path {self.names[path]!r}, row {self.order[k]}"

    @property
    def last(self) -> np.ndarray:
        return self.starts[1:] - 1

    def finite(self, values: np.ndarray, field: str) -> None:
        bad = ~np.isfinite(values).reshape(len(values), -1).all(-1)
        if bad.any():
            k = int(np.argmax(bad))
            raise DataError(f"{self.where(k)}: {field} is {_shown(values[k])}: fill it in, or drop the row.")

    def increasing(self, t: np.ndarray) -> None:
        short = np.flatnonzero(np.diff(self.starts) < 2)
        if len(short):
            raise DataError(f"{self.where(int(self.starts[short[0]]))} is the path's only one: a path needs two rows at least; drop it.")
        wrong = np.diff(t) <= 0.0
        wrong[self.last[:-1]] = False  # from one path to the next, clocks may go anywhere
        if wrong.any():
            k = int(np.argmax(wrong)) + 1
            what = f"{self.where(k)}: t is {t[k]:.12g}"
            if t[k] == t[k - 1]:
                raise DataError(f"{what} as in row {self.order[k - 1]} before it: a path has one row at a time; keep one of them.")
            raise DataError(f"{what}, but {t[k - 1]:.12g} in row {self.order[k - 1]} before it: sort each path by time.")

    def rates(self, reward: np.ndarray | None, t: np.ndarray, *, per_step: bool) -> np.ndarray:
        """Reward rates `[M]`, 0 in last rows."""
        if reward is None:
            return np.zeros(len(t))
        rewards = _floats(reward, "reward", self.source)
        if rewards.shape != t.shape:
            raise DataError(f"{self.source}: reward {rewards.shape} must have a number for each of the {len(t)} rows.")
        rewards = rewards[self.order].copy()
        rewards[self.last] = 0.0  # no step follows
        self.finite(rewards, "reward")
        if per_step:
            steps = np.diff(t, append=t[-1] + 1.0)
            steps[self.last] = 1.0
            rewards /= steps
        return rewards

    def payoffs(self, payoff: np.ndarray | float | None) -> np.ndarray | None:
        """What the end of each path pays, `[P]`."""
        if payoff is None:
            return None
        values = _floats(payoff, "payoff", self.source)
        n = len(self.names)
        if values.ndim == 0:
            values = np.full(n, float(values))
        elif values.shape == self.order.shape:
            values = self._at_the_end(values[self.order])
        elif values.shape != (n,):
            raise DataError(f"{self.source}: payoff {values.shape} must be one number, one a path ({n}) or one a row ({len(self.order)}).")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            what = f"{self.where(int(self.last[bad[0]]))} is the last, and has no terminal payoff ({_shown(values[bad[0]])})"
            raise DataError(f"{what}: fill it in, give one payoff for all paths, or drop the path.")
        return values

    def _at_the_end(self, column: np.ndarray) -> np.ndarray:
        """The last row's payoff of each path; others must not say something else."""
        ends = column[self.last]
        known = np.repeat(ends, np.diff(self.starts))
        other = ~np.isnan(column) & (column != 0.0) & (column != known) & ~np.isnan(known)
        if other.any():
            k = int(np.argmax(other))
            raise DataError(f"{self.where(k)}: payoff is {column[k]:g}, but {known[k]:g} at the path's end: only the last row pays.")
        return ends


def _grouped(path: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows in order of paths (each path's in the order of the log), first row of each path and M, and the paths' names."""
    missing = np.array([value is None or value != value for value in path.tolist()])  # NaN is not itself
    if missing.any():
        raise DataError(f"{source}: row {int(np.argmax(missing))} does not say which path it belongs to: fill in its path.")
    labels = path.astype(str) if path.dtype.kind in "OUS" else path
    names, first, number = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # paths in order of first appearance
    order = np.argsort(rank[number], kind="stable")
    counts = np.bincount(rank[number], minlength=len(names))
    appearing = [str(name) for name in names[np.argsort(first)]]
    return order, np.concatenate([[0], np.cumsum(counts)]), tuple(appearing)


def _floats(values: np.ndarray | float, field: str, source: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{source}: {field} holds {array.dtype} instead of numbers: store it as numbers.")
    return array.astype(np.float64)


def _shown(value: np.ndarray) -> str:
    """A row's value as an error shows it."""
    return f"{np.asarray(value).tolist()}"
