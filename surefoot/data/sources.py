"""Sources: iterables of batches. `Logged` samples a fixed log; `Replayed` (sources that step an environment) is in `replayed.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.errors import ConfigError

BLOCK = 64  # batches whose indices are drawn at once


class Logged:
    """Uniform or weighted batches, drawn with replacement from logs held on the device.

    Give one log (shared by all copies, held once) or one log a member. `weights`: `[N]` sampling probabilities of the
    transitions, of one shared log, or a list with one entry a member.
    """

    def __init__(
        self,
        logs: Log | Sequence[Log],
        batch_size: int,
        *,
        copies: tuple[int, ...] = (),
        weights: np.ndarray | Sequence[np.ndarray] | None = None,
        device: str = "cpu",
        seed: int = 0,
    ):
        self.logs = [logs] if isinstance(logs, Log) else list(logs)
        members = copies[0] if copies else 1
        if len(self.logs) not in (1, members):
            raise ConfigError(f"{len(self.logs)} logs were given for {members} members: give one shared log, or one log a member.")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: it must be at least 1.")
        self.copies, self.batch_size, self.device, self.members = tuple(copies), batch_size, device, members
        self.layout = self.logs[0].layout
        self.rows = [log.packed.to(device) for log in self.logs]
        self.generator = torch.Generator(device).manual_seed(seed)
        self.cumulative = [_cumulative(w, device) for w in _per_log(weights, len(self.logs))]
        self._block: Tensor | None = None  # [members, BLOCK, B] drawn indices
        self._block_state = self.generator.get_state()  # generator state before the block was drawn
        self._used = BLOCK

    def __iter__(self) -> Logged:
        return self

    def __next__(self) -> Transitions:
        if self._used == BLOCK:
            self._draw()
        assert self._block is not None
        index = self._block[:, self._used]
        self._used += 1
        if len(self.rows) == 1:
            rows = self.rows[0].index_select(0, index.reshape(-1))
        else:
            rows = torch.cat([r.index_select(0, i) for r, i in zip(self.rows, index, strict=True)])
        return self.layout.unpack(rows.reshape(*self.copies, self.batch_size, -1))

    def _draw(self) -> None:
        self._block_state = self.generator.get_state()
        shape = (BLOCK, self.batch_size)
        draws = []
        for member in range(self.members):
            which = member if len(self.rows) > 1 else 0
            n, cumulative = len(self.rows[which]), self.cumulative[which]
            if cumulative is None:
                draws.append(torch.randint(n, shape, generator=self.generator, device=self.device))
            else:
                u = torch.rand(shape, generator=self.generator, device=self.device, dtype=torch.float64)
                draws.append(torch.searchsorted(cumulative, u, right=True).clamp_(max=n - 1))
        self._block = torch.stack(draws)
        self._used = 0

    def state_dict(self) -> dict[str, Tensor]:
        fresh = self._used == BLOCK  # the next batch starts a new block, from the generator as it is now
        return {"generator": self.generator.get_state() if fresh else self._block_state, "used": torch.tensor(self._used)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._used = BLOCK
        used = int(state["used"])
        if used < BLOCK:
            self._draw()
            self._used = used


def _per_log(weights: np.ndarray | Sequence[np.ndarray] | None, n: int) -> list[np.ndarray | None]:
    if weights is None:
        return [None] * n
    listed = [weights] if isinstance(weights, np.ndarray) else list(weights)
    if len(listed) != n:
        raise ConfigError(f"{len(listed)} weight vectors were given for {n} logs: give one a log.")
    return list(listed)


def _cumulative(weights: np.ndarray | None, device: str) -> Tensor | None:
    if weights is None:
        return None
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ConfigError("sampling weights must be finite, not negative, and not all zero.")
    total = np.cumsum(weights, dtype=np.float64)
    return torch.from_numpy(total / total[-1]).to(device)
