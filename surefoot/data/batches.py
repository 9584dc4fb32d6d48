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


@dataclass(frozen=True)
class Segments:
    """Stretches of T steps in N environments side by side, as the policy that learns from them played them.

    `terminated` is 1.0 where the episode truly ended; `ended` also where a time limit cut it off, after which the next row is of
    another episode. `next_obs` is always the true next observation, so that values may be bootstrapped from it.
    """

    obs: Tensor  # [*copies, T, N, S]
    action: Tensor  # [*copies, T, N, A] float, as drawn: in units of [-1, 1], before clipping; or [*copies, T, N] int64
    reward: Tensor  # [*copies, T, N]
    next_obs: Tensor  # [*copies, T, N, S]
    terminated: Tensor  # [*copies, T, N] 0.0 or 1.0
    ended: Tensor  # [*copies, T, N] 0.0 or 1.0
