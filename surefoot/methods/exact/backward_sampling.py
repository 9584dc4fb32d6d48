"""Which particle at t could a particle at t+1 have come from: draws from the backward weights, and the means under them.

    B_t^{i,l} ~ W_t^l m(x_t^l, x_{t+1}^i),    l = 1..N

From the table of all pairs (cost N^2 a step), or by rejection (Douc et al. 2011): propose l ~ W_t and accept with probability
m(x_t^l, x_{t+1}^i) / max m, at a cost of order N where m is bounded and the model mixes. Rejection alone may never end for a particle in
the tails, so it is hybrid (Dau and Chopin 2022, arXiv 2207.00976): whoever is still waiting is drawn from its row of the table, which is
exact. As in nchopin/particles that is so after N trials; unlike there also as soon as those rows cost no more than a few draws a particle
do, since a trial for a handful of particles costs an array program as much as one for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from surefoot.envs.state_space import StateSpaceModel, per_chain
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.particle_filter import Step
from surefoot.methods.exact.resampling import draw, multinomial, take

Backward = Literal["table", "rejection"]

BLOCK = 2**18
"""Entries of a table that are held at once (2 MiB): what fits a processor's cache is several times faster than what does not."""

REST = 64
"""Rejection stops once the rows of those still waiting have at most REST entries a draw."""


def backward_draws(
    model: StateSpaceModel, before: Step, x_next: Tensor, draws: int, generator: torch.Generator, how: Backward = "table"
) -> Tensor:
    """Indices `[R, N, draws]` into the particles `before`, independent draws for each of the particles `x_next` `[R, N, dx]`.

    Raises DataError if no particle can have led to one of them, and ConfigError for a bound of m that is none.
    """
    if how == "rejection":
        return by_rejection(model, before, x_next, draws, generator)
    drawn = []
    for rows in blocks(before, x_next):
        b = backward_table(model, before, x_next[:, rows])
        u = torch.rand((*b.shape[:2], draws), dtype=b.dtype, generator=generator, device=b.device)
        drawn.append(draw(b, u))
    return drawn[0] if len(drawn) == 1 else torch.cat(drawn, 1)


def backward_table(model: StateSpaceModel, before: Step, x_next: Tensor) -> Tensor:
    """B up to a factor a row: particles `before` `[R, N, dx]` and `x_next` `[R, n, dx]` -> `[R, n, N]`, the largest of each row 1."""
    log_m = model.log_m(before.t, before.x.unsqueeze(1), x_next.unsqueeze(2))
    if log_m.shape != (*x_next.shape[:2], before.x.shape[1]):
        name, wanted = f"{type(model).__name__}.log_m", (*x_next.shape[:2], before.x.shape[1])
        raise ConfigError(f"{name} returned {tuple(log_m.shape)} for all pairs: it must broadcast over all axes but the last, to {wanted}.")
    log_b = log_m + before.log_w.unsqueeze(1)
    top = log_b.amax(-1, keepdim=True)
    if not math.isfinite(top.sum().item()):
        chain, i = (~torch.isfinite(top.squeeze(-1))).nonzero()[0].tolist()
        what = f"no particle at step {before.t} can have led to x = {x_next[chain, i].tolist()} at step {before.t + 1} (chain {chain})"
        raise DataError(f"{what}: log m is -inf or NaN for all of them, so widen the transition's noise or check the reference path.")
    return log_b.sub_(top).exp_()


def blocks(before: Step, x_next: Tensor) -> Iterator[slice]:
    """Slices of the particles `x_next` whose tables are of a size that the cache holds."""
    n = x_next.shape[1]
    size = max(1, BLOCK // before.w.numel())
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


def by_rejection(
    model: StateSpaceModel, before: Step, x_next: Tensor, draws: int, generator: torch.Generator, max_trials: int | None = None
) -> Tensor:
    """The same draws, of expected cost of order N. `model.log_m_bound` must be known."""
    (chains, n), count = x_next.shape[:2], before.w.shape[1]
    bound = model.log_m_bound(before.t)
    waiting = torch.arange(n * draws, device=x_next.device).expand(chains, -1)  # [R, P] which draws, P the most that any chain waits for
    active = torch.ones_like(waiting, dtype=torch.bool)  # False: padding, where a chain waits for fewer than P
    found = torch.zeros_like(waiting, memory_format=torch.contiguous_format)
    for _ in range(count if max_trials is None else max_trials):
        proposed = multinomial(before.w, waiting.shape[1], generator)
        log_m = model.log_m(before.t, take(before.x, proposed), take(x_next, waiting // draws))
        log_accept = log_m - per_chain(bound, log_m)
        if (log_accept > 1e-9).any():
            name, excess = type(model).__name__, float(log_accept.max())
            raise ConfigError(f"{name}.log_m_bound is exceeded by {excess:.3g} at step {before.t}: it must bound log_m from above.")
        u = torch.rand(log_accept.shape, dtype=log_accept.dtype, generator=generator, device=log_accept.device)
        accepted = active & (u.log() < log_accept)
        found.scatter_(1, waiting, torch.where(accepted, proposed, found.gather(1, waiting)))
        active = active & ~accepted
        left = int(active.sum(1).max())
        active, order = active.to(torch.int8).topk(left, 1)
        active, waiting = active.bool(), waiting.gather(1, order)
        if left * count <= REST * n * draws:
            break
    if waiting.shape[1]:
        rest = by_table(model, before, take(x_next, waiting // draws), generator)
        found.scatter_(1, waiting, torch.where(active, rest, found.gather(1, waiting)))
    return found.reshape(chains, n, draws)


def by_table(model: StateSpaceModel, before: Step, x_next: Tensor, generator: torch.Generator) -> Tensor:
    """One draw for each of `x_next` `[R, P, dx]`: `[R, P]`."""
    return backward_draws(model, before, x_next, 1, generator).squeeze(-1)
