"""Wrong labels on purpose: preference pairs whose winner and loser are swapped at random, to study a loss or to check a flip rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from surefoot.errors import ConfigError, DataError

T = TypeVar("T")


def flips(shape: tuple[int, ...], rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Which pairs are swapped, bool of `shape`: each with probability `rate`, independent of everything else.

    A smaller rate with the generator in the same state swaps a subset of them. Raises ConfigError unless 0 <= rate <= 1.
    """
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"the rate of flips is {rate}: it must lie between 0 and 1.")
    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device) < rate


def swapped(chosen: Sequence[T], rejected: Sequence[T], where: Tensor) -> tuple[list[T], list[T]]:
    """The pairs with winner and loser exchanged `where` `[n]` says so, others as they are. Raises DataError unless all have n entries."""
    if not len(chosen) == len(rejected) == len(where):
        raise DataError(f"{len(chosen)} chosen, {len(rejected)} rejected completions and {len(where)} flips: give one of each a pair.")
    pairs = [(r, c) if swap else (c, r) for c, r, swap in zip(chosen, rejected, where.tolist(), strict=True)]
    return [c for c, _ in pairs], [r for _, r in pairs]
