"""Two ways to imitate the better of scored completions, which is what CoPG has to beat: they never push a completion down.

Reward-weighted regression (Peters and Schaal, ICML 2007; Peng et al., arXiv 1910.00177v3 with an advantage in the reward's place): the
likelihood of each completion, weighted by exp(R / beta). Its minimiser is mu exp(R / beta), normalised, where mu drew the completions: it
holds to mu, not to the reference. Best-of-n distillation: the likelihood of the best of each prompt's n completions alone.

Departure: by default the weights of a prompt's completions add up to their number, so that no prompt drowns the others because its
rewards are higher; `per_prompt` False is the published form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surefoot.data.completions import GroupBatch
from surefoot.errors import ConfigError
from surefoot.methods.language import losses
from surefoot.methods.language.aligner import Aligner, Metrics
from surefoot.methods.language.scored import descend_groups


@dataclass(frozen=True)
class RewardWeightedConfig:
    beta: float = 1.0
    """Difference of rewards that makes a completion weigh e times as much."""
    responses: int = 2
    """Completions of a prompt in a batch."""
    per_prompt: bool = True
    """Let the weights of each prompt's completions add up to their number; else they are exp(R / beta) as it is."""
    largest: float | None = None
    """Largest weight (none: any). Without `per_prompt` a single high reward can outweigh a batch."""

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < float("inf"):
            raise ConfigError(f"beta is {self.beta}: it must be positive and finite.")
        least = 2 if self.per_prompt else 1
        if self.responses < least:
            raise ConfigError(f"responses is {self.responses}: it must be at least {least}.")
        if self.largest is not None and not self.largest > 0.0:
            raise ConfigError(f"largest is {self.largest}: a bound of weights is positive.")


@dataclass(frozen=True)
class BestOfNConfig:
    responses: int = 4
    """Completions of a prompt, of which the best is imitated."""

    def __post_init__(self) -> None:
        if self.responses < 2:
            raise ConfigError(f"responses is {self.responses}: the best of one is the one, give at least 2.")


def centred(reward: Tensor, beta: float) -> Tensor:
    """Rewards less beta log of the mean exp(R / beta) of their group, `[..., k]`: exp(. / beta) then has mean 1, and never overflows."""
    log_k = reward.new_tensor(reward.shape[-1]).log()
    return reward - beta * ((reward / beta).logsumexp(-1, keepdim=True) - log_k)


class RewardWeighted(Aligner):
    """One step on -exp(R / beta) log pi, averaged over completions. `weight` is the mean of the largest weight of each prompt."""

    config_class: ClassVar[type] = RewardWeightedConfig
    learns_from: ClassVar = "scored"
    config: RewardWeightedConfig

    def update(self, batch: GroupBatch) -> Metrics:
        c = self.config

        def weighted(part: GroupBatch, logp: Tensor) -> tuple[Tensor, Metrics]:
            own = centred(part.rewards, c.beta) if c.per_prompt else part.rewards
            return losses.reward_weighted(logp, own, c.beta, c.largest).mean(-1), {"weight": (own / c.beta).exp().amax(-1)}

        return descend_groups(self, batch, weighted)


class BestOfN(Aligner):
    """One step on -log pi of the best completion of each prompt. `best` is its mean reward."""

    config_class: ClassVar[type] = BestOfNConfig
    learns_from: ClassVar = "scored"
    config: BestOfNConfig

    def update(self, batch: GroupBatch) -> Metrics:
        def best(part: GroupBatch, logp: Tensor) -> tuple[Tensor, Metrics]:
            return losses.best_of_n(logp, part.rewards), {"best": part.rewards.amax(-1)}

        return descend_groups(self, batch, best)
