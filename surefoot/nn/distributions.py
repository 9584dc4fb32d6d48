"""Distributions on the trailing-axis convention, with their own generators (torch.distributions has none)."""

from __future__ import annotations

from math import e, log, pi

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
        return torch.tanh(u), _tanh_normal(u, noise, self.log_std)

    def samples(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n draws of each, without gradient: `[*copies, n, B, A]` and their log-probabilities `[*copies, n, B]`."""
        mu, log_std = self.mu.detach().unsqueeze(-3), self.log_std.detach().unsqueeze(-3)
        noise = mu.new_empty(*mu.shape[:-3], n, *mu.shape[-2:]).normal_(generator=generator)
        u = mu + log_std.exp() * noise
        return torch.tanh(u), _tanh_normal(u, noise, log_std)

    def log_prob(self, unit: Tensor) -> Tensor:
        """Log-density `[*copies, B]` of an action in (-1, 1) (clamped 1e-6 inside, where atanh is finite)."""
        u = torch.atanh(unit.clamp(-1.0 + 1e-6, 1.0 - 1e-6))
        return _tanh_normal(u, (u - self.mu) / self.log_std.exp(), self.log_std)


class Normal:
    """N(mu, exp(log_std)^2) with independent dimensions; `mu` `[*copies, B, A]`, `log_std` shaped like it or `[*copies, 1, A]`."""

    def __init__(self, mu: Tensor, log_std: Tensor):
        self.mu, self.log_std = mu, log_std

    def mode(self) -> Tensor:
        return self.mu

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw `[*copies, B, A]`."""
        return self.mu + self.log_std.exp() * torch.empty_like(self.mu).normal_(generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `[*copies, B]` of `x` `[*copies, B, A]`."""
        return _normal((x - self.mu) / self.log_std.exp(), self.log_std)

    def entropy(self) -> Tensor:
        """`[*copies, B]`, in nats."""
        return (self.log_std + 0.5 * log(2.0 * pi * e)).expand_as(self.mu).sum(-1)


class Choice:
    """One of n, from logits `[*copies, B, n]`."""

    def __init__(self, logits: Tensor):
        self.logprobs = torch.log_softmax(logits, -1)

    def mode(self) -> Tensor:
        return self.logprobs.argmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw `[*copies, B]` int64: the largest of logits and Gumbel noise."""
        noise = torch.empty_like(self.logprobs).exponential_(generator=generator)
        return (self.logprobs - noise.clamp_min(1e-30).log()).argmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability `[*copies, B]` of `x` `[*copies, B]` int64."""
        return self.logprobs.gather(-1, x.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """`[*copies, B]`, in nats."""
        return -(self.logprobs.exp() * self.logprobs).sum(-1)

    def kl(self, other: Choice) -> Tensor:
        """KL(self || other), `[*copies, B]`, in nats."""
        return (self.logprobs.exp() * (self.logprobs - other.logprobs)).sum(-1)


def _normal(noise: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of mu + exp(log_std) noise, summed over the last axis."""
    return (-0.5 * noise.square() - log_std - 0.5 * log(2.0 * pi)).sum(-1)


def _tanh_normal(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of tanh(u), u = mu + exp(log_std) noise: the normal's less log(1 - tanh(u)^2), stable for large |u|."""
    return _normal(noise, log_std) - 2.0 * (log(2.0) - u - softplus(-2.0 * u)).sum(-1)
