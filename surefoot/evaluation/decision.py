"""The decision of a policy as a differentiable function of what it is shown: what attacks climb."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.errors import PolicyError
from surefoot.policies.base import Memory, Policy


@dataclass(frozen=True)
class Decision:
    """The decision at `x` of a policy with a memory; with `noise`, its mean over `samples` draws that are the same at every call."""

    policy: Policy
    memory: Memory  # [*copies, m, ...]
    noise: Tensor | None = None  # [*copies, m, samples, S] added to what is shown

    @property
    def discrete(self) -> bool:
        return isinstance(self.policy.spec.action, Discrete)

    def select(self, columns: Tensor) -> Decision:
        """The same for some of the m episodes."""
        axis = len(self.policy.copies)
        memory = None if self.memory is None else {k: v.index_select(axis, columns) for k, v in self.memory.items()}
        return Decision(self.policy, memory, None if self.noise is None else self.noise.index_select(axis, columns))

    def __call__(self, x: Tensor) -> Tensor:
        """Scores of the actions, or the action in units of half its range, `[*copies, m, A]` of observations `[*copies, m, S]`."""
        shape = self.policy.spec.obs_shape
        if self.noise is None:
            return decide(self.policy, x.unflatten(-1, shape), self.memory)
        shown = (x.unsqueeze(-2) + self.noise).flatten(-3, -2)  # [*copies, m * samples, S]
        every = decide(self.policy, shown.unflatten(-1, shape), self.repeated_memory)
        return every.unflatten(-2, (-1, self.noise.shape[-2])).mean(-2)

    @cached_property
    def repeated_memory(self) -> Memory:
        """The memory for each draw of the noise, `[*copies, m * samples, ...]`."""
        if self.memory is None or self.noise is None:
            return self.memory
        return {k: v.repeat_interleave(self.noise.shape[-2], len(self.policy.copies)) for k, v in self.memory.items()}

    def towards(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Scores at `x`, and the gradient of log softmax(scores)[target] `[*copies, m, S]`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            scores = self(x)
            chosen = torch.log_softmax(scores, -1).gather(-1, target.unsqueeze(-1))
            return scores.detach(), _gradient(chosen.sum(), x)

    def harm(self, truth: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far the decision at `x` is from `truth`, the one at the true observation, `[*copies, m]`, and its gradient.

        Discrete actions: -log softmax(scores) of the action that is greedy in truth. Continuous ones: the squared change.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            shown = self(x)
            if self.discrete:
                harm = -torch.log_softmax(shown, -1).gather(-1, truth.argmax(-1, keepdim=True)).squeeze(-1)
            else:
                harm = (shown - truth).square().sum(-1)
            return harm.detach().double(), _gradient(harm.sum(), x)


def decide(policy: Policy, obs: Tensor, memory: Memory) -> Tensor:
    """`policy.decide`, with continuous actions in units of half their range, so that all of them count alike.

    Raises PolicyError where it gives something else than scores or actions.
    """
    output, action = policy.decide(obs, memory), policy.spec.action
    width = action.n if isinstance(action, Discrete) else action.dim
    if output.shape != (*obs.shape[: obs.dim() - len(policy.spec.obs_shape)], width) or not output.is_floating_point():
        raise PolicyError(
            f"the {type(policy).__name__} policy gives {tuple(output.shape)} {str(output.dtype).removeprefix('torch.')} where an attack"
            f" needs {width} {'scores' if isinstance(action, Discrete) else 'actions'} for each observation."
        )
    if isinstance(action, Discrete):
        return output
    return output / (0.5 * (output.new_tensor(action.high) - output.new_tensor(action.low)))


def _gradient(of: Tensor, x: Tensor) -> Tensor:
    if not of.requires_grad:
        raise PolicyError("the policy's output has no gradient with respect to its observation: use random changes (--kind random).")
    (gradient,) = torch.autograd.grad(of, x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient
