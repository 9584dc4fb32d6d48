"""Texts as token ids: prompts with completions, ragged while they are stored and padded only for a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import DataError

Ids = list[int]
"""Token ids of one text."""


@dataclass(frozen=True)
class Sequences:
    """Rows of one forward pass, `[B, T]` each."""

    tokens: Tensor  # int64; whatever stands for padding where attention is false
    attention: Tensor  # bool; false on padding
    completion: Tensor  # bool; true on the tokens that the policy chose

    @property
    def positions(self) -> Tensor:
        """Position of each token in its own text `[B, T]`, wherever the padding is (0 on padding before it)."""
        return (self.attention.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Completions:
    """Prompts and what was answered to each, as token ids. A completion that ended holds its end token."""

    prompts: list[Ids]
    completions: list[Ids]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.completions):
            raise DataError(f"there are {len(self.prompts)} prompts for {len(self.completions)} completions: give one for each.")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, prompt included `[B]`."""
        return np.array([len(p) + len(c) for p, c in zip(self.prompts, self.completions, strict=True)], dtype=np.int64)

    @property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each completion `[B]`."""
        return np.array([len(c) for c in self.completions], dtype=np.int64)

    def select(self, rows: Iterable[int]) -> Completions:
        """Some of the rows, in the given order."""
        rows = list(rows)
        return Completions([self.prompts[i] for i in rows], [self.completions[i] for i in rows])

    def padded(self, pad: int, *, side: Literal["left", "right"] = "right", device: torch.device | str = "cpu") -> Sequences:
        """All rows at the length of the longest, with `pad` before or after the shorter ones.

        Raises DataError for an empty prompt: there is nothing that the first token could be predicted from.
        """
        empty = [i for i, prompt in enumerate(self.prompts) if not prompt]
        if empty:
            raise DataError(f"row {empty[0]} has a prompt without tokens: give it at least one, such as a begin token.")
        lengths = self.lengths
        width = int(lengths.max(initial=0))
        tokens = np.full((len(self), width), pad, dtype=np.int64)
        attention, completion = np.zeros(tokens.shape, dtype=bool), np.zeros(tokens.shape, dtype=bool)
        for i, (p, c) in enumerate(zip(self.prompts, self.completions, strict=True)):
            start = width - int(lengths[i]) if side == "left" else 0
            stop = start + int(lengths[i])
            tokens[i, start:stop] = p + c
            attention[i, start:stop] = True
            completion[i, start + len(p) : stop] = True
        return Sequences(*(torch.from_numpy(each).to(device) for each in (tokens, attention, completion)))

    # --- as tensors, for checkpoints ----------------------------------------------------------------------------------

    def packed(self) -> dict[str, Tensor]:
        """All token ids in a row and the length of each text: what `unpacked` makes the same rows of."""
        parts = {"prompts": self.prompts, "completions": self.completions}
        state = {name: torch.tensor([t for row in rows for t in row], dtype=torch.int64) for name, rows in parts.items()}
        return state | {f"{name}_lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64) for name, rows in parts.items()}

    @staticmethod
    def unpacked(state: dict[str, Tensor]) -> Completions:
        """The rows that `packed` gave."""

        def rows(name: str) -> list[Ids]:
            return [each.tolist() for each in state[name].split(state[f"{name}_lengths"].tolist())]

        return Completions(rows("prompts"), rows("completions"))


def concatenated(parts: Sequence[Completions]) -> Completions:
    """The rows of all parts, one part after the other."""
    return Completions([p for part in parts for p in part.prompts], [c for part in parts for c in part.completions])


def prefixed(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries of a part's state under its name, for a checkpoint."""
    return {f"{name}.{key}": value for key, value in state.items()}


def within(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries that `prefixed` put under a name."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


@dataclass(frozen=True)
class PairBatch:
    """Two completions for each of B prompts, of which one was preferred, and what is subtracted from each one's log-probability."""

    chosen: Completions
    rejected: Completions
    ref_chosen: Tensor  # [B] log-probability (sum over the completion) under the reference; a method may put another anchor here
    ref_rejected: Tensor  # [B]

    def __len__(self) -> int:
        return len(self.chosen)

    def select(self, rows: Sequence[int]) -> PairBatch:
        """Some of the pairs, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return PairBatch(self.chosen.select(rows), self.rejected.select(rows), self.ref_chosen[index], self.ref_rejected[index])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer of the two `[B]`."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)


@dataclass(frozen=True)
class GroupBatch:
    """N scored completions for each of B prompts; row `b * N + i` of `completions` is completion i of prompt b."""

    completions: Completions  # B * N rows
    rewards: Tensor  # [B, N]
    reference: Tensor  # [B, N] log-probability (sum over the completion) under the reference
    old: Tensor | None = None  # [B, N] under the policy that drew them, where that is known
    forced: Tensor | None = None  # [B, N] first tokens of each completion that were given and not drawn

    def __len__(self) -> int:
        return self.rewards.shape[0]

    def select(self, groups: Sequence[int]) -> GroupBatch:
        """Some of the prompts with their groups, in the given order."""
        n, index = self.rewards.shape[1], torch.as_tensor(groups, dtype=torch.int64)
        rows = [g * n + i for g in groups for i in range(n)]
        old, forced = (None if x is None else x[index] for x in (self.old, self.forced))
        return GroupBatch(self.completions.select(rows), self.rewards[index], self.reference[index], old, forced)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest completion of each prompt, prompt included `[B]`."""
        return self.completions.lengths.reshape(self.rewards.shape).max(-1)

    def packed(self) -> dict[str, Tensor]:
        """All of it as tensors, for a checkpoint."""
        columns = {name: x for name in COLUMNS if (x := getattr(self, name)) is not None}
        return columns | prefixed("completions", self.completions.packed())

    @staticmethod
    def unpacked(state: dict[str, Tensor]) -> GroupBatch:
        """What `packed` gave."""
        columns = {name: state[name] for name in COLUMNS if name in state}
        return GroupBatch(Completions.unpacked(within("completions", state)), **columns)


COLUMNS = ("rewards", "reference", "old", "forced")
"""Of a `GroupBatch`, beside its completions."""


def joined(parts: Sequence[GroupBatch]) -> GroupBatch:
    """The prompts of all parts, one part after the other. A column that one of them lacks is left out.

    Raises DataError where groups differ in size.
    """
    sizes = sorted({part.rewards.shape[1] for part in parts if len(part)})
    if len(sizes) > 1:
        raise DataError(f"groups of {sizes} completions cannot be in one batch: draw and keep as many of each prompt.")
    columns = {name: [x for part in parts if (x := getattr(part, name)) is not None] for name in COLUMNS}
    whole = {name: torch.cat(each) for name, each in columns.items() if len(each) == len(parts)}
    return GroupBatch(concatenated([part.completions for part in parts]), **whole)


def micro_batches(lengths: np.ndarray, max_tokens: int, *, rows_each: int = 1, multiple_of: int = 1) -> list[list[int]]:
    """Which rows share a forward pass: rows of like length together, at most `max_tokens` tokens with padding (one row at least).

    `lengths` [B] are tokens a row, of which each counts `rows_each` times (2: a pair). The number of passes is a multiple of
    `multiple_of` where there are rows enough, so that as many processes have as many passes each.
    """
    order = np.argsort(lengths, kind="stable")[::-1]
    batches: list[list[int]] = []
    for row in order.tolist():  # longest first: the first of a batch says how wide it is
        if batches and lengths[batches[-1][0]] * rows_each * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    while len(batches) % multiple_of and max(map(len, batches)) > 1:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        rows = batches.pop(largest)
        batches[largest:largest] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return batches
