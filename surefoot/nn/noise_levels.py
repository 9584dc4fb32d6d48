"""Noise levels of diffusion models: x_t = x_0 + t z, z ~ N(0, I), and how a network is told about t.

Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models" (EDM), arXiv 2206.00364v2: the grid is
Eq. 5, the scalings are Table 1; the time input, 250 ln t (1000 times EDM's c_noise), is that of consistency models, arXiv 2303.01469.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from surefoot.errors import ConfigError

T_MIN, T_MAX, RHO, DATA_STD = 0.002, 80.0, 7.0, 0.5
"""Least and largest noise, curvature of the grid, standard deviation of the data, which lies in [-1, 1]."""


def noise_grid(n: int, t_min: float = T_MIN, t_max: float = T_MAX, rho: float = RHO) -> Tensor:
    """The n noise levels t_0 = t_max > ... > t_{n-1} = t_min, `[n]` float32: the noise *falls* with the index. Eq. 5."""
    if n < 2 or not 0.0 < t_min < t_max or not rho > 0.0:
        raise ConfigError(
            f"a noise grid of {n} levels from {t_max} to {t_min} with rho {rho}: it needs 2 levels, 0 < t_min < t_max, rho > 0."
        )
    share = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
    grid = (t_max ** (1 / rho) + share * (t_min ** (1 / rho) - t_max ** (1 / rho))) ** rho
    grid[0], grid[-1] = t_max, t_min  # not off by a rounding
    return grid.float()


def nearest_level(grid: Tensor, t: float) -> int:
    """Index of the level nearest to t."""
    return int((grid - t).abs().argmin())


# --- scalings (Table 1) -----------------------------------------------------------------------------------------------


def c_in(t: Tensor, std: float = DATA_STD) -> Tensor:
    """1 / sqrt(t^2 + std^2): gives a noisy input unit variance."""
    return (t.square() + std**2).rsqrt()


def c_skip(t: Tensor, std: float = DATA_STD) -> Tensor:
    """std^2 / (t^2 + std^2): how much of the noisy input a denoiser keeps."""
    return std**2 / (t.square() + std**2)


def c_out(t: Tensor, std: float = DATA_STD) -> Tensor:
    """t std / sqrt(t^2 + std^2): scale of what a denoiser's network adds."""
    return t * std * c_in(t, std)


def loss_weight(t: Tensor, std: float = DATA_STD) -> Tensor:
    """(t^2 + std^2) / (t std)^2 = 1 / c_out^2: gives every level of a denoiser's loss the same scale."""
    return (t.square() + std**2) / (t * std).square()


# --- what the network is told -----------------------------------------------------------------------------------------


def time_input(t: Tensor) -> Tensor:
    """250 ln t, finite at t = 0."""
    return 250.0 * torch.log(t + 1e-44)


def sinusoidal(value: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """`[b]` to `[b, width]`: cosines, then sines, of the value at width / 2 frequencies from 1 down to about 1 / period."""
    half = width // 2
    frequency = torch.exp(-log(period) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float().unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)
