"""The minimum of a smooth function of a few numbers, where all data fit at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def minimise(objective: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 300, tolerance: float = 1e-10) -> Tensor:
    """Where L-BFGS with a strong Wolfe line search ends from `start`: a detached tensor of its shape.

    `objective` gives a scalar, in float64 for a minimum to more than a few digits; `tolerance` is that of the gradient's largest entry.
    A function without a minimum is followed for `iterations`.
    """
    x = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x], max_iter=iterations, tolerance_grad=tolerance, tolerance_change=1e-14, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value = objective(x)
        (x.grad,) = torch.autograd.grad(value, [x])
        return value

    optimiser.step(closure)
    return x.detach()
