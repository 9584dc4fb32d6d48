"""A policy that decides on the last k observations, for one that shows it only the newest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.data.spec import Spec
from surefoot.errors import PolicyError
from surefoot.policies.base import Memory, Policy


class FrameStack(Policy):
    """`inner` sees `[frame_{t-k+1}, ..., frame_t]` flattened, oldest first; at an episode's start the first frame k times.

    The memory is `frames` `[*copies, n, k, S]` and `started` `[*copies, n]`. What enters the stack stays as it was seen: noise
    on an observation is drawn once, not again while it is stale.
    """

    def __init__(self, inner: Policy, k: int, obs_shape: tuple[int, ...] | None = None):
        super().__init__()
        if k < 1 or inner.spec.obs_dim % k or inner.start(1) is not None:
            raise PolicyError(
                f"a stack of {k} frames needs a policy without memory whose {inner.spec.obs_dim} observed numbers are {k} frames."
            )
        self.inner, self.k, self.copies = inner, k, inner.copies
        self.differentiable = inner.differentiable
        shape = (inner.spec.obs_dim // k,) if obs_shape is None else tuple(obs_shape)
        self.spec = Spec(shape, inner.spec.action)  # scaling is the inner policy's

    def config(self) -> dict[str, Any]:
        return {"k": self.k, "obs_shape": list(self.spec.obs_shape)}

    def member(self, index: int) -> Policy:
        return FrameStack(self.inner.member(index), self.k, self.spec.obs_shape)

    def start(self, n: int) -> Memory:
        device = next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        frames = torch.zeros(*self.copies, n, self.k, self.spec.obs_dim, device=device)
        return {"frames": frames, "started": torch.zeros(*self.copies, n, dtype=torch.bool, device=device)}

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        newest = self.flat(obs).unsqueeze(-2)
        if memory is None:
            memory = self.start(obs.shape[len(self.copies)])
        assert memory is not None
        pushed = torch.cat([memory["frames"][..., 1:, :], newest], -2)
        started = memory["started"]
        frames = torch.where(started[..., None, None], pushed, newest.expand_as(pushed))
        return {"frames": frames, "started": torch.ones_like(started)}

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        return self.inner.decide(self._stacked(self.remember(obs, memory)))

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        memory = self.remember(obs, memory)
        action, _ = self.inner.act(self._stacked(memory), generator=generator, greedy=greedy)
        return action, memory

    def _stacked(self, memory: Memory) -> Tensor:
        assert memory is not None
        return memory["frames"].flatten(-2)
