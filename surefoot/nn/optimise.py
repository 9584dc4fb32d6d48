"""One optimiser step, and target networks: the two things every method does after its loss."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class FusedAdam(torch.optim.Adam):
    """torch's fused Adam: same kernel, same numbers, same state, but without the bookkeeping around it.

    That bookkeeping (grouping by device, hooks) costs more than the arithmetic on networks of our
    size: a twentieth of a TD3+BC update.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients in `p.grad`; every parameter must have one."""
        for group in self.param_groups:
            params = group["params"]
            if params[0] not in self.state:
                for p in params:
                    zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                    self.state[p] = {"step": torch.zeros((), device=p.device), **zeros}
            states = [self.state[p] for p in params]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1.0)
            torch._fused_adam_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=None,
                found_inf=None,
            )

    step.hooked = True  # type: ignore[attr-defined]  # torch wraps what is not: a profiler's record a step


def adam(params: Iterable[Tensor], lr: float, eps: float = 1e-8) -> FusedAdam:
    """Adam with one fused kernel; elementwise, so one optimiser serves a whole fleet."""
    params = list(params)
    return FusedAdam(params, lr=lr, eps=eps, fused=True, capturable=params[0].is_cuda)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float | None = None, copies: tuple[int, ...] = ()) -> None:
    """One step on `loss`, with gradients of the optimiser's own parameters and nothing else.

    `loss` is a scalar: the batch mean, summed over copies, which keeps the gradients of a fleet's members separate. `max_norm`
    bounds the gradient's norm, of each of the `copies` by itself.
    """
    params = [p for group in optimiser.param_groups for p in group["params"]]
    for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = g.contiguous()  # the fused kernel reads gradients in memory order, and autograd may give a transposed view
    if max_norm is not None:
        clip_norm_(params, max_norm, copies)
    optimiser.step()


def clip_norm_(params: Iterable[Tensor], max_norm: float, copies: tuple[int, ...] = ()) -> None:
    """Scale the gradients so that each copy's total norm is at most `max_norm` (a fleet's members are clipped apart)."""
    grads = [p.grad for p in params if p.grad is not None]
    lead = len(copies)
    if not lead:  # one kernel for all
        total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_mul_(grads, (max_norm / (total + 1e-6)).clamp(max=1.0))
        return
    square = sum(g.square().flatten(lead).sum(-1) for g in grads)  # [*copies]
    scale = (max_norm / (torch.as_tensor(square).sqrt() + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.reshape(*scale.shape, *(1,) * (g.dim() - lead)))


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online, for all parameters at once."""
    torch._foreach_lerp_(_parameters(target), _parameters(online), tau)


def _parameters(module: nn.Module) -> list[Tensor]:
    """`list(module.parameters())` without its search for parameters that are shared: networks here share none."""
    return [p for part in module.modules() for p in part._parameters.values() if p is not None]


def frozen_copy(module: M) -> M:
    """A target network: the same weights, no gradients."""
    return copy.deepcopy(module).requires_grad_(False)
