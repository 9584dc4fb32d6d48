"""One optimiser step, and target networks: the two things every method does after its loss."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def adam(params: Iterable[Tensor], lr: float) -> torch.optim.Adam:
    """Adam with one fused kernel; elementwise, so one optimiser serves a whole fleet."""
    params = list(params)
    return torch.optim.Adam(params, lr=lr, fused=True, capturable=params[0].is_cuda)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float | None = None, copies: tuple[int, ...] = ()) -> None:
    """One step on `loss`, with gradients of the optimiser's own parameters and nothing else.

    `loss` is a scalar: the batch mean, summed over copies, which keeps the gradients of a fleet's members separate. `max_norm`
    bounds the gradient's norm, of each of the `copies` by itself.
    """
    params = [p for group in optimiser.param_groups for p in group["params"]]
    for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = g
    if max_norm is not None:
        clip_norm_(params, max_norm, copies)
    optimiser.step()


def clip_norm_(params: Iterable[Tensor], max_norm: float, copies: tuple[int, ...] = ()) -> None:
    """Scale the gradients so that each copy's total norm is at most `max_norm` (a fleet's members are clipped apart)."""
    grads = [p.grad for p in params if p.grad is not None]
    lead = len(copies)
    square = sum(g.square().flatten(lead).sum(-1) for g in grads)  # [*copies]
    scale = (max_norm / (torch.as_tensor(square).sqrt() + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.reshape(*scale.shape, *(1,) * (g.dim() - lead)))


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online, for all parameters at once."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


def frozen_copy(module: M) -> M:
    """A target network: the same weights, no gradients."""
    return copy.deepcopy(module).requires_grad_(False)
