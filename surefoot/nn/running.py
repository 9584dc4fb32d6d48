"""Running mean and variance of what has been seen, one set a member, exact however it was cut into batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Moments of rows `[*copies, B, S]`, merged batch by batch (Chan, Golub and LeVeque 1979), in float64."""

    count: Tensor  # rows seen, []
    mean: Tensor  # [*copies, S]
    square: Tensor  # sum of squared deviations from the mean, [*copies, S]

    def __init__(self, shape: tuple[int, ...], device: str = "cpu"):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device=device))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64, device=device))
        self.register_buffer("square", torch.zeros(shape, dtype=torch.float64, device=device))

    def add(self, rows: Tensor) -> None:
        """Take in rows `[*copies, B, S]`."""
        rows = rows.double()
        n, mean = rows.shape[-2], rows.mean(-2)
        total = self.count + n
        delta = mean - self.mean
        self.square += (rows - mean.unsqueeze(-2)).square().sum(-2) + delta.square() * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count.copy_(total)

    def std(self) -> Tensor:
        """Standard deviation `[*copies, S]`, float32, with 1e-8 added to the variance; 1 before anything was seen."""
        seen = (self.square / self.count.clamp_min(1.0) + 1e-8).sqrt()
        return torch.where(self.count > 0, seen, 1.0).float()  # nothing here waits for the device
