"""Batches: frozen dataclasses of tensors. Features are axis -1, the batch is axis -2 (features) or -1 (scalars)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """A batch of one-step transitions, `[*copies, B, ...]`, in the environment's own units.

    `terminated` is 1.0 where the episode truly ended (the value of `next_obs` is zero there); a time limit is not an end.
    """

    obs: Tensor  # [*copies, B, S]
    action: Tensor  # [*copies, B, A] float, or [*copies, B] int64 for discrete actions
    reward: Tensor  # [*copies, B]
    next_obs: Tensor  # [*copies, B, S]
    terminated: Tensor  # [*copies, B] 0.0 or 1.0
