"""A ring of packed transitions: what a source that steps an environment keeps, a batch of which is one row gather."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surefoot.data.log import Layout


class Ring:
    """The newest `length` steps of `slots` environments of each of `members`, `[members, length, slots, D]` float32.

    All environments step together, so one step is one write; the oldest step is overwritten. `ends` marks the steps that
    ended an episode, terminated or truncated (`terminated` alone is in the rows, see `Layout`).
    """

    def __init__(self, layout: Layout, length: int, slots: int = 1, members: int = 1, device: str = "cpu"):
        self.length, self.slots, self.members = length, slots, members
        self.rows = torch.empty(members, length, slots, layout.width, device=device)  # pages are taken as they are written
        self.ends = np.zeros((members, length, slots), bool)
        self.size = 0  # steps that are filled
        self.next = 0  # step that is written next
        self._flat = self.rows.view(-1, layout.width)
        self._first = (torch.arange(members, device=device) * (length * slots)).unsqueeze(-1)  # each member's first row in _flat

    def write(self, rows: Tensor, ends: np.ndarray) -> None:
        """One step: rows `[members, slots, D]` and whether each ended its episode, `[members, slots]`."""
        self.rows[:, self.next].copy_(rows)
        self.ends[:, self.next] = ends
        self.next = (self.next + 1) % self.length
        self.size = min(self.size + 1, self.length)

    def newest(self) -> Tensor:
        """The last step written, `[members, slots, D]` on the CPU."""
        return self.rows[:, self.next - 1].cpu()

    def cut(self, member: int, slot: int) -> None:
        """Let the last step written end that environment's episode, which does not go on."""
        self.ends[member, self.next - 1, slot] = True

    def draw(self, batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Uniform draws with replacement for each member: `[batches, members, batch_size]` for `gather`."""
        shape = (batches, self.members, batch_size)
        return torch.randint(self.size * self.slots, shape, generator=generator, device=self.rows.device) + self._first

    def gather(self, drawn: Tensor) -> Tensor:
        """The rows of one batch, `[members, batch_size]` to `[members, batch_size, D]`."""
        return self._flat.index_select(0, drawn.reshape(-1)).view(*drawn.shape, self._flat.shape[1])

    def recorded(self, member: int) -> tuple[Tensor, np.ndarray]:
        """A member's rows `[N, D]` on the CPU and episode ends `[N]`, oldest first, one environment after the other.

        The episodes that run at the newest step are cut off there; of the oldest ones the beginning may be overwritten.
        """
        order = (np.arange(self.size) + (self.next if self.size == self.length else 0)) % self.length
        rows = self.rows[member].index_select(0, torch.from_numpy(order).to(self.rows.device)).cpu()
        ends = self.ends[member, order]
        ends[-1] = True
        return rows.transpose(0, 1).reshape(-1, rows.shape[-1]), ends.T.reshape(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The filled part; of a lone member without a copy, so write it out before the next step."""
        return {
            "rows": self.rows[:, : self.size].contiguous(),
            "ends": torch.from_numpy(self.ends[:, : self.size].copy()),
            "next": torch.tensor(self.next),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.size, self.next = state["rows"].shape[1], int(state["next"])
        self.rows[:, : self.size].copy_(state["rows"])
        self.ends[:, : self.size] = state["ends"].numpy()
