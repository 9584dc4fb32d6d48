"""Who draws the responses that a policy learns from, and how often they are used: two of the three switches of a preference method.

Tajwar et al., arXiv 2404.14367v3: an epoch is N responses to every prompt, used in T gradient steps. They come from
the reference (offline) or from the policy as it is now. Between the two lie policies that draw only every k-th epoch, for k epochs at
once (then T passes go over the k batches), and groups of which a share is the reference's. Every arm of a study gets as many responses
and as many steps, and in a bandit the first epoch is the reference's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from surefoot.errors import ConfigError, DataError

ActionReward = Callable[[Tensor, Tensor], Tensor]
"""Rewards `[*copies, B, N]` of contexts `[*copies, B, D]` and actions `[*copies, B, N]`."""


@dataclass(frozen=True)
class Sampling:
    """The switches of on-policyness and re-use."""

    on_policy: bool = True
    """Draw from the policy that learns; else from the reference, a fresh slice every epoch."""
    samples: int = 10
    """Responses to each prompt in a group (N)."""
    reuse: int = 15
    """Gradient steps on the same responses (T)."""
    refresh: int = 1
    """Epochs that the policy draws for at once: at 1 it draws anew in each (on-policy)."""
    mix: float = 0.0
    """Share of each group that the reference draws even so."""

    def __post_init__(self) -> None:
        for name in ("samples", "reuse", "refresh"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if not 0.0 <= self.mix <= 1.0:
            raise ConfigError(f"mix is {self.mix}: a share of a group lies between 0 and 1.")

    @property
    def updates(self) -> int:
        """Gradient steps on the batches of one draw: T passes over `refresh` batches."""
        return self.reuse * self.refresh

    def from_reference(self, first: bool = False) -> int:
        """How many of a group the reference draws; all of them in the `first` draw."""
        return self.samples if first or not self.on_policy else round(self.mix * self.samples)

    def fresh(self, step: int) -> bool:
        """Whether update `step` (from 0) is the first on its batch: the first pass of a draw."""
        return step % self.updates < self.refresh

    def queries(self, used: int, prompts: int) -> int:
        """Rewards that were asked for in `used` batches of `prompts` prompts."""
        return -(-used // self.updates) * self.refresh * prompts * self.samples


@dataclass(frozen=True)
class ActionGroups:
    """N actions in each of B contexts, what they earned, and what was thought of them when they were drawn."""

    contexts: Tensor  # [*copies, B, D]
    actions: Tensor  # [*copies, B, N] int64
    rewards: Tensor  # [*copies, B, N]
    reference: Tensor  # [*copies, B, N] log ref(a|x)
    old: Tensor  # [*copies, B, N] log pi(a|x) of the policy at the draw


class SampledActions:
    """A source of `ActionGroups` in a bandit whose actions can be listed: the same contexts in every batch, T batches an epoch.

    `policy` maps contexts `[*copies, B, D]` to logits `[*copies, B, A]`; `reference` are log-probabilities that broadcast against those,
    finite everywhere (floor them: log 0 breaks every log-ratio). Equal seeds draw with equal random numbers whoever draws.
    Raises DataError for a reference or a reward that is not finite.
    """

    def __init__(self, policy: nn.Module, contexts: Tensor, reference: Tensor, reward: ActionReward, sampling: Sampling, *, seed: int = 0):
        if not reference.isfinite().all():
            raise DataError("the reference gives some action a probability of 0: floor it (exact masses, or add 1e-6 and renormalise).")
        self.policy, self.contexts, self.reward, self.sampling = policy, contexts, reward, sampling
        self.reference = reference
        self.generator = torch.Generator(contexts.device).manual_seed(seed)
        self.used = 0  # batches given so far
        self.drawn: ActionGroups | None = None  # with an axis of `refresh` epochs in front

    def __iter__(self) -> SampledActions:
        return self

    def __next__(self) -> ActionGroups:
        s = self.sampling
        if self.used % s.updates == 0:
            self.drawn = self._draw(first=self.used == 0)
        assert self.drawn is not None
        batch = self.used % s.refresh
        self.used += 1
        return _each(self.drawn, lambda x: x[batch])

    @torch.no_grad()
    def _draw(self, first: bool) -> ActionGroups:
        s = self.sampling
        own = self.policy(self.contexts).log_softmax(-1)  # [*copies, B, A]
        reference = self.reference.expand_as(own)
        u = torch.rand(s.refresh, *own.shape[:-1], s.samples, generator=self.generator, device=own.device, dtype=torch.float64)
        theirs = s.from_reference(first)
        actions = torch.cat([drawn_by(reference, u[..., :theirs]), drawn_by(own, u[..., theirs:])], -1)
        rewards = self.reward(self.contexts, actions)
        if not rewards.isfinite().all():
            raise DataError(f"after {self.used} batches the reward of an action is not finite: a reward is a finite number.")
        reference, own = (x.expand(s.refresh, *x.shape).gather(-1, actions) for x in (reference, own))
        return ActionGroups(self.contexts.expand(s.refresh, *self.contexts.shape), actions, rewards, reference, own)

    @property
    def queries(self) -> int:
        """Rewards asked for so far, of each copy."""
        return self.sampling.queries(self.used, self.contexts.shape[-2])

    def metrics(self) -> dict[str, float | list[float]]:
        """How many rewards were asked for."""
        return {"train/reward_queries": float(self.queries)}

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resume needs, what was drawn included."""
        state = {"used": torch.tensor(self.used), "generator": self.generator.get_state()}
        if self.drawn is not None:
            state |= {f"drawn.{field.name}": getattr(self.drawn, field.name) for field in fields(self.drawn)}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.used = int(state["used"])
        self.generator.set_state(state["generator"].cpu())
        kept = {field.name: state.get(f"drawn.{field.name}") for field in fields(ActionGroups)}
        self.drawn = ActionGroups(**{name: x.to(self.contexts.device) for name, x in kept.items() if x is not None}) if self.used else None


def drawn_by(logprobs: Tensor, u: Tensor) -> Tensor:
    """Actions by inversion, int64 `[k, *copies, B, n]`, of log-probabilities `[*copies, B, A]` and uniform draws `[k, *copies, B, n]`."""
    cumulative = logprobs.double().exp().cumsum(-1)
    cumulative = (cumulative / cumulative[..., -1:]).expand(u.shape[0], *cumulative.shape).contiguous()
    return torch.searchsorted(cumulative, u.contiguous(), right=True).clamp_(max=logprobs.shape[-1] - 1)


def _each(groups: ActionGroups, of: Callable[[Tensor], Tensor]) -> ActionGroups:
    return replace(groups, **{field.name: of(getattr(groups, field.name)) for field in fields(groups)})
