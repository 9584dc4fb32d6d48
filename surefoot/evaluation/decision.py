"""The decision of a policy as a function of what it is shown, and its gradient: what attacks climb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.errors import PolicyError
from surefoot.policies.base import Memory, Policy
from surefoot.policies.deciding import decide, outputs


@dataclass(frozen=True)
class Decision:
    """The decision at `x` of a policy with a memory; with `noise`, its mean over `samples` draws that are the same at every call.

    Everything called `x` is in units of `unit` (None: the observation's own); `noise` is in the observation's own.
    """

    policy: Policy
    memory: Memory  # [*copies, m, ...]
    noise: Tensor | None = None  # [*copies, m, samples, S] added to what is shown
    unit: Tensor | None = None  # [S] or [F, 1, S]

    @property
    def discrete(self) -> bool:
        return isinstance(self.policy.spec.action, Discrete)

    def select(self, columns: Tensor) -> Decision:
        """The same for some of the m episodes."""
        memory = self._of_memory(lambda v, axis: v.index_select(axis, columns))
        return Decision(
            self.policy, memory, None if self.noise is None else self.noise.index_select(len(self.policy.copies), columns), self.unit
        )

    def repeated(self, k: int) -> Decision:
        """The same for k points of each episode, one after the other: `x` `[*copies, m * k, S]`."""
        noise = None if self.noise is None else self.noise.repeat_interleave(k, len(self.policy.copies))
        return Decision(self.policy, self._of_memory(lambda v, axis: v.repeat_interleave(k, axis)), noise, self.unit)

    def _of_memory(self, change: Callable[[Tensor, int], Tensor]) -> Memory:
        return None if self.memory is None else {k: change(v, len(self.policy.copies)) for k, v in self.memory.items()}

    def raw(self, x: Tensor) -> Tensor:
        """`x` in the observation's own units."""
        return x if self.unit is None else x * self.unit

    def __call__(self, x: Tensor, *, choices: bool = False) -> Tensor:
        """Scores of the actions, or the action in units of half its range, `[*copies, m, A]` of observations `[*copies, m, S]`.

        `choices`: a policy that only names its action is heard too (as scores 1 and 0).
        """
        shape, ask = self.policy.spec.obs_shape, outputs if choices else decide
        x = self.raw(x)
        if self.noise is None:
            return ask(self.policy, x.unflatten(-1, shape), self.memory)
        shown = (x.unsqueeze(-2) + self.noise).flatten(-3, -2)  # [*copies, m * samples, S]
        every = ask(self.policy, shown.unflatten(-1, shape), self.repeated_memory)
        return every.unflatten(-2, (-1, self.noise.shape[-2])).mean(-2)

    @cached_property
    def repeated_memory(self) -> Memory:
        """The memory for each draw of the noise, `[*copies, m * samples, ...]`."""
        if self.noise is None:
            return self.memory
        draws = self.noise.shape[-2]
        return self._of_memory(lambda v, axis: v.repeat_interleave(draws, axis))

    def towards(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Scores at `x`, and the gradient of log softmax(scores)[target] `[*copies, m, S]`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            scores = self(x)
            chosen = torch.log_softmax(scores, -1).gather(-1, target.unsqueeze(-1))
            return scores.detach(), _gradient(chosen.sum(), x)

    def climb(self, x: Tensor, harm: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """`harm` `[*copies, m]` of the decision `[*copies, m, A]` at `x`, float64, and its gradient in `x` `[*copies, m, S]`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found = harm(self(x))
            return found.detach().double(), _gradient(found.sum(), x)


def _gradient(of: Tensor, x: Tensor) -> Tensor:
    if not of.requires_grad:
        raise PolicyError(
            "the policy's output has no gradient with respect to its observation: use an attack that needs none (--kind score or sa-rl)."
        )
    (gradient,) = torch.autograd.grad(of, x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient
