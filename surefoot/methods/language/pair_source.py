"""Sources over data that was tokenised before training: preferred pairs, and scored completions in groups of one prompt.

Each epoch goes through the rows in a new order; what is left of an epoch and fits no batch is left out of that epoch. A resumed source
gives the batches that the uninterrupted one would have given: its state is the random state before the epoch, and the place in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from surefoot.data.completions import Completions, GroupBatch, PairBatch
from surefoot.errors import ConfigError, DataError

Batch = TypeVar("Batch")


class Shuffled(ABC, Generic[Batch]):
    """Base of both: batches of `batch_size` of `n` rows, in a new order each epoch. Endless."""

    def __init__(self, n: int, batch_size: int, seed: int):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: it must be at least 1.")
        if batch_size > n:
            raise ConfigError(f"batch_size is {batch_size}, but the data hold only {n}: take smaller batches, or more data.")
        self.n, self.batch_size = n, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self._begin()

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.n // self.batch_size

    def _begin(self) -> None:
        """A new epoch."""
        self.before = self.generator.get_state()  # of the epoch
        self.order = torch.randperm(self.n, generator=self.generator).tolist()
        self.used = 0  # batches of this epoch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self.used == self.batches:
            self._begin()
        rows = self.order[self.used * self.batch_size : (self.used + 1) * self.batch_size]
        self.used += 1
        return self.at(rows)

    @abstractmethod
    def at(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.before, "used": torch.tensor(self.used)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._begin()
        self.used = int(state["used"])


class PairSource(Shuffled[PairBatch]):
    """`PairBatch` of tokenised pairs.

    Args:
        chosen, rejected: N rows with the same prompts.
        ref_chosen, ref_rejected: their log-probabilities under the reference `[N]`.
        batch_size: pairs a batch.

    Raises DataError where the four disagree in length or a log-probability is not finite, ConfigError for a batch size that does not fit.
    """

    def __init__(
        self, chosen: Completions, rejected: Completions, ref_chosen: Tensor, ref_rejected: Tensor, batch_size: int, *, seed: int = 0
    ):
        sizes = [len(chosen), len(rejected), len(ref_chosen), len(ref_rejected)]
        if len(set(sizes)) > 1:
            raise DataError(f"chosen, rejected and their reference log-probabilities have {sizes} rows: they must have as many.")
        for name, values in (("chosen", ref_chosen), ("rejected", ref_rejected)):
            _check_finite(values, f"the reference log-probability of {name}")
        self.pairs = PairBatch(chosen, rejected, ref_chosen, ref_rejected)
        super().__init__(len(chosen), batch_size, seed)

    def at(self, rows: Sequence[int]) -> PairBatch:
        return self.pairs.select(rows)


class GroupSource(Shuffled[GroupBatch]):
    """`GroupBatch` of scored completions: `size` of each prompt, drawn anew each epoch where a prompt has more.

    Args:
        completions: rows in any order; those with the same prompt, token by token, are one group.
        scores: of each row `[R]`.
        reference: log-probability of each row under the reference `[R]`.
        batch_size: prompts a batch.
        size: completions of each prompt; prompts with fewer are left out (`left_out` counts them).

    Raises DataError where the three disagree in length, a number is not finite, or no prompt has enough rows; ConfigError for a batch
    size that does not fit.
    """

    def __init__(self, completions: Completions, scores: Tensor, reference: Tensor, batch_size: int, *, size: int = 2, seed: int = 0):
        sizes = [len(completions), len(scores), len(reference)]
        if len(set(sizes)) > 1:
            raise DataError(f"completions, scores and reference log-probabilities have {sizes} rows: they must have as many.")
        if size < 1:
            raise ConfigError(f"a group has {size} completions: it must have at least 1.")
        _check_finite(scores, "the score")
        _check_finite(reference, "the reference log-probability")
        groups = grouped(completions)
        self.completions, self.scores, self.reference, self.size = completions, scores, reference, size
        self.groups = [rows for rows in groups if len(rows) >= size]
        self.left_out = len(groups) - len(self.groups)
        if not self.groups:
            largest = max(map(len, groups), default=0)
            raise DataError(f"no prompt has {size} scored completions, the most are {largest}: score more of them, or take smaller groups.")
        super().__init__(len(self.groups), batch_size, seed)

    def _begin(self) -> None:
        super()._begin()
        self.drawn = [
            [rows[i] for i in torch.randperm(len(rows), generator=self.generator)[: self.size].tolist()] if len(rows) > self.size else rows
            for rows in self.groups
        ]

    def at(self, rows: Sequence[int]) -> GroupBatch:
        index = [i for group in rows for i in self.drawn[group]]
        shape = (len(rows), self.size)
        return GroupBatch(self.completions.select(index), self.scores[index].view(shape), self.reference[index].view(shape))


def grouped(completions: Completions) -> list[list[int]]:
    """Rows that have the same prompt, in the order in which prompts first occur."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(completions.prompts):
        found.setdefault(tuple(prompt), []).append(row)
    return list(found.values())


def _check_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise DataError(f"{what} in row {row} is {float(values[row])}: it must be finite.")
