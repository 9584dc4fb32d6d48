"""Policy smoothing: act on observations with fresh Gaussian noise, so that the return can be certified.

Kumar, Levine and Feizi, "Policy Smoothing for Provably Robust Reinforcement Learning" (ICLR 2022, arXiv 2106.11420 v3), section 4: at
step t the policy acts on o_t + delta_t, delta_t ~ N(0, sigma^2 I), and on the history of such noisy observations. The bounds that
follow from it are in `surefoot.evaluation.certificates`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.errors import ConfigError
from surefoot.policies.base import Memory, Policy


class Smoothed(Policy):
    """`inner` behind noise of standard deviation `sigma`, in the units of the observation, drawn once for each new frame.

    The noise is part of the policy: it is drawn when acting greedily too, from the caller's generator. sigma = 0 is `inner`
    itself. Around a `FrameStack` the stack keeps the noisy frames. `forward` and `decide` are without noise: who attacks averages over
    draws of its own.
    """

    def __init__(self, inner: Policy, sigma: float):
        super().__init__()
        if not 0.0 <= sigma < float("inf"):
            raise ConfigError(f"sigma is {sigma}: the standard deviation of the noise must be finite and not negative.")
        self.inner, self.sigma = inner, float(sigma)
        self.spec, self.copies, self.differentiable = inner.spec, inner.copies, inner.differentiable

    def config(self) -> dict[str, Any]:
        return {"sigma": self.sigma}

    def member(self, index: int) -> Policy:
        return Smoothed(self.inner.member(index), self.sigma)

    def start(self, n: int) -> Memory:
        return self.inner.start(n)

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        return self.inner.remember(obs, memory)

    def forward(self, obs: Tensor) -> Tensor:
        return self.inner(obs)

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        return self.inner.decide(obs, memory)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        if self.sigma > 0.0:
            obs = obs + self.sigma * torch.empty_like(obs).normal_(generator=generator)
        return self.inner.act(obs, memory, generator=generator, greedy=greedy)
