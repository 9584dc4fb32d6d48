"""A set of policies among which a bandit chooses one for each episode, by the returns that came of its choices.

Liu, Deng, Sun, Liang and Huang, "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024,
arXiv 2402.12673v1), adaptation at test time: EXP3 with implicit exploration (Neu, arXiv 1506.03271v3) over the K policies of the set,

    p = w / sum(w),  i ~ p,  x = return / scale,  w_i <- w_i exp(eta x / (p_i + g)),   eta = c sqrt(log K / (K T)),  g = eta / 2.

As in the official code it is gains that are estimated, and from below: Neu's bound on the regret is for losses, and a policy whose p has
fallen far below g is hardly tried again. Departures: log-weights are kept, so that nothing overflows; gains are within [0, 1],
(return - low) / (high - low), since negative ones would undo the exploration; episodes played side by side are drawn from the same p.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from surefoot.errors import ConfigError, PolicyError
from surefoot.policies.base import Memory, Policy, check_member

UNDRAWN = -1  # the choice of an episode that has not begun to act


class Exp3IX(nn.Module):
    """The bandit: `arms` K, of which one is drawn in each of about `rounds` T rounds; each of the `copies` has weights of its own."""

    log_weights: Tensor  # [*copies, K] float64

    def __init__(self, arms: int, *, rounds: int = 2000, c: float = 5.0, copies: tuple[int, ...] = ()):
        super().__init__()
        if arms < 1 or rounds < 1 or not 0.0 < c < float("inf"):
            raise ConfigError(f"EXP3 was given {arms} arms, {rounds} rounds and c = {c}: all must be positive and finite.")
        self.arms, self.rounds, self.c = arms, rounds, c
        self.eta = c * sqrt(log(arms) / (arms * rounds))
        self.exploration = 0.5 * self.eta  # g
        self.register_buffer("log_weights", torch.zeros(*copies, arms, dtype=torch.float64))

    def probabilities(self) -> Tensor:
        """p `[*copies, K]`."""
        return torch.softmax(self.log_weights, -1)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n arms `[*copies, n]` int64, independently from p."""
        p = self.probabilities()
        return torch.multinomial(p.reshape(-1, self.arms), n, replacement=True, generator=generator).view(*p.shape[:-1], n)

    def update(self, arm: Tensor, gain: Tensor) -> None:
        """Learn from `gain` `[*copies, n]` of the arms `[*copies, n]`, all drawn from p as it is now."""
        p = self.probabilities().gather(-1, arm)
        self.log_weights.scatter_add_(-1, arm, self.eta * gain.to(p) / (p + self.exploration))

    def commit(self, arm: Tensor) -> None:
        """From now on nothing but `arm` `[*copies]`."""
        self.log_weights.fill_(-torch.inf).scatter_(-1, arm.unsqueeze(-1), 0.0)


class Adaptive(Policy):
    """`inners`: policies for the same environment, of which one plays each episode, drawn at its first step from the caller's generator.

    The choice is in memory, `chosen` `[*copies, n]` int64. Before it is drawn, and without memory, `decide` is about the policy that is
    most likely: whoever attacks the first observation does not know the choice yet. `observe` learns from returns, of which `low` and
    `high` are about the least and the largest; without it p stays as it is, uniform at first. `rounds`, `c`: T and c of EXP3.
    Raises PolicyError unless the policies agree in what they see, what they do, and their copies; ConfigError for settings out of range.
    """

    def __init__(self, inners: Sequence[Policy], *, low: float, high: float, rounds: int = 2000, c: float = 5.0):
        super().__init__()
        if not inners:
            raise PolicyError("an adaptive set needs at least one policy.")
        first = inners[0]
        for i, other in enumerate(inners):
            if (other.spec.obs_shape, other.spec.action, other.copies) != (first.spec.obs_shape, first.spec.action, first.copies):
                raise PolicyError(f"policy {i} does not see and do what policy 0 does, or has other members: the policies of a set agree.")
        if not (isfinite(low) and isfinite(high) and low < high):
            raise ConfigError(f"low is {low} and high {high}: give about the least and the largest return of an episode.")
        self.inners = nn.ModuleList(inners)
        self.spec, self.copies = first.spec, tuple(first.copies)
        self.differentiable = all(inner.differentiable for inner in inners)
        self.low, self.high = float(low), float(high)
        self.selector = Exp3IX(len(inners), rounds=rounds, c=c, copies=self.copies)

    def config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "rounds": self.selector.rounds, "c": self.selector.c}

    def member(self, index: int) -> Policy:
        check_member(index, self.copies)
        lone = Adaptive([inner.member(index) for inner in self.policies], **self.config())
        weights = self.selector.log_weights
        lone.selector.log_weights.copy_(weights[index] if self.copies else weights)
        return lone.to(weights.device)

    @property
    def policies(self) -> list[Policy]:
        return [cast(Policy, inner) for inner in self.inners]

    @property
    def probabilities(self) -> Tensor:
        """How likely each policy is to play the next episode, `[*copies, K]`."""
        return self.selector.probabilities()

    def observe(self, returns: Tensor, memory: Memory) -> None:
        """Learn from the returns `[*copies, n]` of episodes whose choices are in `memory`. Raises PolicyError if there are none."""
        chosen = None if memory is None else memory["chosen"]
        if chosen is None or chosen.shape != returns.shape or (chosen == UNDRAWN).any():
            raise PolicyError("these returns are not of episodes that this set has played: give the memory that its last `act` returned.")
        if not torch.isfinite(returns).all():
            raise PolicyError("a return that is not finite cannot be learned from.")
        self.selector.update(chosen, ((returns.to(chosen.device) - self.low) / (self.high - self.low)).clamp(0.0, 1.0))

    # --- acting -------------------------------------------------------------------------------------------------------

    def start(self, n: int) -> Memory:
        memory = {"chosen": torch.full((*self.copies, n), UNDRAWN, device=self.selector.log_weights.device)}
        for i, inner in enumerate(self.policies):
            memory |= _filed(i, inner.start(n))
        return memory

    def forward(self, obs: Tensor) -> Tensor:
        return self.decide(obs)

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        batch = obs.shape[: obs.dim() - len(self.spec.obs_shape)]
        likeliest = self.selector.log_weights.argmax(-1, keepdim=True).expand(batch)
        chosen = likeliest if memory is None else torch.where(memory["chosen"] == UNDRAWN, likeliest, memory["chosen"])
        return _of([inner.decide(obs, _own(i, memory)) for i, inner in enumerate(self.policies)], chosen)

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        if memory is None:
            return None
        new = {"chosen": memory["chosen"]}
        for i, inner in enumerate(self.policies):
            new |= _filed(i, inner.remember(obs, _own(i, memory)))
        return new

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        if memory is None:
            memory = self.start(obs.shape[len(self.copies)])
            assert memory is not None
        chosen = memory["chosen"]
        if (chosen == UNDRAWN).any():
            chosen = torch.where(chosen == UNDRAWN, self.selector.draw(chosen.shape[-1], generator), chosen)
        actions, new = [], {"chosen": chosen}
        for i, inner in enumerate(self.policies):
            action, own = inner.act(obs, _own(i, memory), generator=generator, greedy=greedy)
            actions.append(action)
            new |= _filed(i, own)
        return _of(actions, chosen), new


def _of(outputs: list[Tensor], chosen: Tensor) -> Tensor:
    """In each row the output `[*copies, n(, A)]` of the policy that is chosen there `[*copies, n]`."""
    stacked = torch.stack(outputs)
    index = chosen if stacked.dim() == chosen.dim() + 1 else chosen.unsqueeze(-1)
    return stacked.gather(0, index.expand(1, *stacked.shape[1:]))[0]


def _own(i: int, memory: Memory) -> Memory:
    """The memory of policy i; None if it has none."""
    mark = f"{i}."
    own = {k.removeprefix(mark): v for k, v in (memory or {}).items() if k.startswith(mark)}
    return own or None


def _filed(i: int, memory: Memory) -> dict[str, Tensor]:
    return {f"{i}.{k}": v for k, v in (memory or {}).items()}
