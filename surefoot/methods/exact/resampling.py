"""Resampling of particles: how many offspring each gets, by its weight, for many rows of weights at once.

Multinomial, stratified and systematic, all unbiased: index i is drawn n W_i times on average (Douc, Cappé and Moulines 2005).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Resample: TypeAlias = Callable[[Tensor, int, torch.Generator], Tensor]
"""Weights `[R, N]`, number of draws n, generator -> indices `[R, n]`."""


def draw(w: Tensor, u: Tensor) -> Tensor:
    """The indices `[..., n]` that uniform numbers `[..., n]` fall on under weights `[..., N]`, which need not sum to one."""
    cdf = w.cumsum(-1)
    return torch.searchsorted(cdf, u * cdf[..., -1:], right=True).clamp_(max=w.shape[-1] - 1)


def multinomial(w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n independent draws a row: weights `[R, N]` -> indices `[R, n]`."""
    return draw(w, torch.rand((*w.shape[:-1], n), dtype=w.dtype, generator=generator, device=w.device))


def stratified(w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """One draw from each of n strata of equal mass."""
    u = torch.rand((*w.shape[:-1], n), dtype=w.dtype, generator=generator, device=w.device)
    return draw(w, (u + torch.arange(n, dtype=w.dtype, device=w.device)) / n)


def systematic(w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n equidistant points with one random start: index i is drawn floor(n W_i) or ceil(n W_i) times."""
    u = torch.rand((*w.shape[:-1], 1), dtype=w.dtype, generator=generator, device=w.device)
    return draw(w, (u + torch.arange(n, dtype=w.dtype, device=w.device)) / n)


RESAMPLING: dict[str, Resample] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
}


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` `[R, N, d]` at `index` `[R, ...]`, chain by chain: `[R, ..., d]`."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).reshape(*index.shape, x.shape[-1])
