"""Maps from scores to the probability simplex: sparsemax beside torch's own softmax."""

from __future__ import annotations

import torch
from torch import Tensor


def sparsemax(z: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Euclidean projection of `scale * z` onto the simplex, 1-Lipschitz in l2 (Martins and Astudillo, arXiv 1602.02068v2, Alg. 1).

    `z` `[..., c]`; `scale`, positive, is a number or broadcasts against `z` from `[..., 1]`: many inverse temperatures share one sort.
    """
    z = z - z.amax(-1, keepdim=True)
    ordered, k = scale * z.sort(-1, descending=True).values, torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    sums = ordered.cumsum(-1)
    size = (1.0 + k * ordered > sums).sum(-1, keepdim=True)  # of the support
    tau = (sums.gather(-1, size - 1) - 1.0) / size
    return (scale * z - tau).clamp_min(0.0)
