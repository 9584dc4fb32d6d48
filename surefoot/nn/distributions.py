"""Distributions on the trailing-axis convention, with their own generators (torch.distributions has none)."""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class TanhNormal:
    """tanh(u), u ~ N(mu, exp(log_std)^2), with the log-density of Haarnoja et al. 2018 (arXiv 1812.05905, App. C).

    `log_std` is squashed smoothly into [-5, 2], as is common for SAC. All tensors `[*copies, B, A]`.
    """

    def __init__(self, mu: Tensor, log_std: Tensor):
        self.mu = mu
        self.log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1.0)

    def mode(self) -> Tensor:
        return torch.tanh(self.mu)

    def sample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A reparameterised draw `[*copies, B, A]` and its log-probability `[*copies, B]`."""
        noise = torch.empty_like(self.mu).normal_(generator=generator)
        u = self.mu + self.log_std.exp() * noise
        return torch.tanh(u), self._log_prob(u, noise)

    def log_prob(self, unit: Tensor) -> Tensor:
        """Log-density `[*copies, B]` of an action in (-1, 1) (clamped 1e-6 inside, where atanh is finite)."""
        u = torch.atanh(unit.clamp(-1.0 + 1e-6, 1.0 - 1e-6))
        return self._log_prob(u, (u - self.mu) / self.log_std.exp())

    def _log_prob(self, u: Tensor, noise: Tensor) -> Tensor:
        normal = -0.5 * noise.square() - self.log_std - 0.5 * log(2.0 * pi)
        log_det = 2.0 * (log(2.0) - u - softplus(-2.0 * u))  # log(1 - tanh(u)^2), stable for large |u|
        return (normal - log_det).sum(-1)
