"""The one protocol every policy answers to, whichever method learned it and wherever it comes from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from surefoot.data.spec import Spec
from surefoot.errors import PolicyError

Memory = dict[str, Tensor] | None
"""What a policy carries from step to step (frame stacks, hidden state): tensors `[*copies, n, ...]`, or None."""


class Policy(nn.Module):
    """Acts on batches of raw observations; carries its own observation and action scaling.

    `copies` is `()` for a lone policy and `(F,)` for a fleet, whose observations are `[F, n, *obs_shape]`.
    Subclasses implement `forward` (the differentiable decision: an action for deterministic policies, the mean for Gaussian
    ones, logits or action values `[..., n, n_actions]` for discrete ones; attacks take its gradient) and `act`.
    """

    spec: Spec
    copies: tuple[int, ...] = ()
    differentiable: bool = True  # False for policies that cannot give a gradient of `forward` with respect to obs

    def start(self, n: int) -> Memory:
        """Memory for n fresh episodes a copy."""
        return None

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        """Actions in the environment's units: `[*copies, n, A]` float or `[*copies, n]` int64, and the new memory."""
        raise NotImplementedError

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        """The memory after `obs` was seen, without acting; what `act` would return beside its action."""
        return memory

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        """`forward` for a policy that has `memory` of the steps before: the differentiable decision at `obs`, without any draw."""
        return self(obs)

    def member(self, index: int) -> Policy:
        """One policy of a fleet, as a lone policy that shares no storage with it."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """JSON-able keyword arguments that rebuild this policy's structure (weights come from the state dict)."""
        raise NotImplementedError

    def flat(self, obs: Tensor) -> Tensor:
        """`[..., *obs_shape] -> [..., S]` float32. Raises PolicyError if the shape is another one."""
        k = len(self.spec.obs_shape)
        if tuple(obs.shape[obs.dim() - k :]) != self.spec.obs_shape:
            raise PolicyError(
                f"the policy expects observations of shape {self.spec.obs_shape}, but got {tuple(obs.shape)}: is it the right environment?"
            )
        return obs.flatten(-k).float() if k > 1 else obs.float()


def check_member(index: int, copies: tuple[int, ...]) -> None:
    """Raises PolicyError unless `index` names a member of a fleet of `copies`."""
    n = copies[0] if copies else 1
    if not 0 <= index < n:
        raise PolicyError(f"there is no member {index}: the fleet has members 0 to {n - 1}.")
