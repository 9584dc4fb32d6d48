"""Shuffled passes over rows that are taken a few at a time, one pass running on into the next."""

from __future__ import annotations

import torch
from torch import Tensor


class Passes:
    """Passes over n rows, an order of its own in each. The generator may be somebody else's too."""

    def __init__(self, n: int, generator: torch.Generator):
        self.n, self.generator = n, generator
        self.ahead: list[int] = []  # what is left of this pass

    def take(self, k: int) -> list[int]:
        """The next k rows."""
        while len(self.ahead) < k:
            self.ahead += torch.randperm(self.n, generator=self.generator).tolist()
        rows, self.ahead = self.ahead[:k], self.ahead[k:]
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        """Where it is, the generator included."""
        return {"n": torch.tensor(self.n), "generator": self.generator.get_state(), "ahead": torch.tensor(self.ahead, dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.n, self.ahead = int(state["n"]), state["ahead"].tolist()
        self.generator.set_state(state["generator"].cpu())
