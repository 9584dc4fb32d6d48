"""Behaviour cloning: the policy is regressed on the logged actions; rewards are ignored.

Pomerleau, "Efficient Training of Artificial Neural Networks for Autonomous Navigation", Neural Computation 3(1), 1991; network and
optimiser are by default those of TD3+BC's actor, so that the two differ in the critic alone (TD3+BC with alpha 0 is this method).
Continuous actions: mean squared error of a tanh policy, in units of [-1, 1]. Discrete actions: cross-entropy of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.spec import Discrete, Spec, unit_action
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.nn.optimise import adam, descend
from surefoot.policies.families import Categorical, Deterministic


@dataclass(frozen=True)
class BCConfig:
    actor_lr: float = 3e-4
    """Adam's learning rate."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    batch_size: int = 256
    """Transitions in a batch."""

    def __post_init__(self) -> None:
        for name in ("actor_lr", "batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def squared_error(p: Tensor, a: Tensor) -> Tensor:
    """1/(B A) sum_bj (p_bj - a_bj)^2: `[...]` of actions `[..., B, A]`."""
    if p.shape != a.shape:
        raise ValueError(f"actions {tuple(p.shape)} and {tuple(a.shape)} must have one shape.")
    return (p - a).square().mean((-2, -1))


def cross_entropy(logits: Tensor, a: Tensor) -> Tensor:
    """-mean_b log softmax(logits)[a_b]: `[...]` of logits `[..., B, n]` and actions `[..., B]` int64."""
    if logits.shape[:-1] != a.shape:
        raise ValueError(f"logits {tuple(logits.shape)} must be [..., B, n] where actions {tuple(a.shape)} are [..., B].")
    return -torch.log_softmax(logits, -1).gather(-1, a.unsqueeze(-1)).squeeze(-1).mean(-1)


# --- method ---------------------------------------------------------------------------------------------------------


class BC(Method):
    """Imitates the log: a deterministic policy for continuous actions, a categorical one for discrete actions."""

    config_class: ClassVar[type] = BCConfig
    config: BCConfig

    def __init__(self, spec: Spec, config: BCConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        family = Categorical if isinstance(spec.action, Discrete) else Deterministic
        self.policy: Categorical | Deterministic = family(spec, config.hidden, self.copies, device=device, generator=self.generator)
        self.optimiser = adam(self.policy.net.parameters(), config.actor_lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.steps += 1
        s = self.normaliser(batch.obs)
        if isinstance(self.policy, Categorical):
            loss = cross_entropy(self.policy.net(s), batch.action)
        else:
            loss = squared_error(self.policy.unit(s), unit_action(batch.action, self.spec.box))
        descend(loss.sum(), self.optimiser)
        return {"actor_loss": loss.detach()}
