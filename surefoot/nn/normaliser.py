"""Observation scaling that travels with the policy: (x - mean) / std."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surefoot.data.spec import Spec


class Normaliser(nn.Module):
    """Scales observations `[*copies, B, S]` with statistics `[S]` or `[F, S]`; the identity if the spec has none."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec, device: str = "cpu"):
        super().__init__()
        self.active = spec.obs_mean is not None
        mean = torch.zeros(spec.obs_dim) if spec.obs_mean is None else spec.obs_mean.float()
        std = torch.ones(spec.obs_dim) if spec.obs_std is None else spec.obs_std.float()
        self.register_buffer("mean", mean.to(device).clone())
        self.register_buffer("std", std.to(device).clone())

    def forward(self, obs: Tensor) -> Tensor:
        if not self.active:
            return obs
        if self.mean.dim() == 1:
            return (obs - self.mean) / self.std
        return (obs - self.mean.unsqueeze(-2)) / self.std.unsqueeze(-2)
