"""PRDC: TD3 whose actor is pulled to the action of the nearest logged pair of state and action, wherever in the log it is.

Ran, Li, Zhang, Zhang, Yu, "Policy Regularization with Dataset Constraint for Offline Reinforcement Learning", ICML 2023,
arXiv 2306.06569v2. Covers the point-to-set distance d_beta and the actor's objective, in the official code's form: the mean squared
error of the action part, where the paper has the whole unsquared distance (whose gradient points the same way). The nearest
neighbour alone is used (the code's k = 1). Departures: those of `td3`; features that do not vary are left out of the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.data.log import Log
from surefoot.data.spec import Spec, unit_action
from surefoot.errors import ConfigError
from surefoot.methods.offline.td3 import TD3, TD3Config
from surefoot.nn.nearest import NearestPairIndex


@dataclass(frozen=True)
class PRDCConfig(TD3Config):
    beta: float = 2.0
    """Weight of the distance between (scaled) states against that between actions; large makes PRDC TD3+BC."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.beta < float("inf"):
            raise ConfigError(f"beta is {self.beta}: it must be finite and not negative.")


# --- method ---------------------------------------------------------------------------------------------------------


class PRDC(TD3):
    """pi = argmax E[ lambda Q(s, pi(s)) - (pi(s) - a^)^2 ], a^ of the logged pair nearest to (s, pi(s)) in [beta s, a]."""

    config_class: ClassVar[type] = PRDCConfig
    config: PRDCConfig

    def __init__(self, spec: Spec, config: PRDCConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.indices: list[NearestPairIndex] = []  # one for all members or one each; built by `prepare`, in no checkpoint

    def prepare(self, logs: Sequence[Log]) -> None:
        """Build the search index of each log, or one for all if they are the same."""
        members = self.copies[0] if self.copies else 1
        if len(logs) not in (1, members):
            raise ConfigError(f"{len(logs)} logs were given for {members} members: give one shared log, or one log a member.")
        shared = all(log is logs[0] for log in logs)
        self.indices = [self._index(log, member) for member, log in enumerate(logs[:1] if shared else logs)]

    def _index(self, log: Log, member: int) -> NearestPairIndex:
        """The index of `log` in the units that the networks see: scaled observations, actions in [-1, 1]."""
        mean, std = self.normaliser.mean, self.normaliser.std
        if mean.dim() == 2:  # each member has statistics of its own
            mean, std = mean[member], std[member]
        t = log.transitions
        action = unit_action(t.action.to(self.device), self.spec.box)
        return NearestPairIndex((t.obs.to(self.device) - mean) / std, action, self.config.beta)

    def reg_target(self, s: Tensor, p: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """a^ (a constant): searched anew at each actor step, since p moves."""
        if not self.indices:
            raise ConfigError("PRDC searches the log while it learns: call `prepare([log])` before the first update.")
        if len(self.indices) == 1:
            return self._nearest(self.indices[0], s, p), None
        pairs = zip(self.indices, s, p, strict=True)
        return torch.stack([self._nearest(index, s_i, p_i) for index, s_i, p_i in pairs]), None

    @staticmethod
    def _nearest(index: NearestPairIndex, s: Tensor, p: Tensor) -> Tensor:
        rows, _ = index.query(s, p)
        return index.actions[rows]
