"""Groups of scored completions drawn now, together with ones drawn in earlier steps: what an off-policy method can learn from again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.data.completions import GroupBatch, joined, prefixed, within
from surefoot.errors import ConfigError


class Replayed:
    """Batches of which `share` are earlier groups, and the rest what `fresh` draws. Endless if `fresh` is.

    Args:
        fresh: a source of `GroupBatch` (`Generated`); its state is part of this one's.
        share: of a batch, at least 0 and below 1; what has not been drawn yet cannot be replayed, so that the first batches are smaller.
        capacity: groups that are kept; the oldest go first.
        start: groups to begin with, for example those of a file of scored completions.

    Raises ConfigError for a share or capacity outside its range.
    """

    def __init__(self, fresh: Any, *, share: float = 0.5, capacity: int = 8192, start: GroupBatch | None = None, seed: int = 0):
        if not 0.0 <= share < 1.0:
            raise ConfigError(f"share is {share}: the share of earlier groups is at least 0 and below 1.")
        if capacity < 1:
            raise ConfigError(f"capacity is {capacity}: at least one group must be kept.")
        self.fresh, self.share, self.capacity = fresh, share, capacity
        self.generator = torch.Generator().manual_seed(seed)
        self.kept = start

    def __iter__(self) -> Replayed:
        return self

    def __next__(self) -> GroupBatch:
        new = next(self.fresh)
        earlier = self._earlier(round(self.share / (1.0 - self.share) * len(new)))
        batch = new if earlier is None else joined([new, earlier])
        kept = new if self.kept is None else joined([self.kept, new])
        self.kept = kept if len(kept) <= self.capacity else kept.select(range(len(kept) - self.capacity, len(kept)))
        return batch

    def _earlier(self, n: int) -> GroupBatch | None:
        """Up to `n` different groups of those that are kept."""
        if self.kept is None or n == 0:
            return None
        return self.kept.select(torch.randperm(len(self.kept), generator=self.generator)[:n].tolist())

    def metrics(self) -> dict[str, Any]:
        """What `fresh` has to say, and how many groups are kept."""
        own = self.fresh.metrics() if hasattr(self.fresh, "metrics") else {}
        return own | {"train/kept_groups": float(0 if self.kept is None else len(self.kept))}

    def state_dict(self) -> dict[str, Tensor]:
        """Its own random state and kept groups, and the state of `fresh`."""
        state = {"generator": self.generator.get_state()} | prefixed("fresh", self.fresh.state_dict())
        return state if self.kept is None else state | prefixed("kept", self.kept.packed())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.fresh.load_state_dict(within("fresh", state))
        kept = within("kept", state)
        self.kept = GroupBatch.unpacked(kept) if kept else None
