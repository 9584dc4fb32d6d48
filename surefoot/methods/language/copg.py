"""CoPG: the policy gradient of a reward less beta KL, from completions that anything drew, as a regression on contrasts.

Flet-Berliac et al., "Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion", EMNLP 2024,
arXiv 2406.19185v1, sections 3 and 4; k completions of a prompt as in Cohere's Command A report, arXiv 2504.00698v1. With the regularised
reward R_b(x, y) = R(x, y) - beta [log pi(y|x) - log ref(y|x)], which is one number for all completions of a prompt where pi is the optimum,

    loss = k / (k - 1) sum_i (R_b(y_i) - mean_j R_b(y_j))^2 / (2 beta)               k completions y_i of one prompt
         = (R(y_1) - R(y_2) - beta d)^2 / (2 beta)                                   k = 2, d = the log-ratio of y_1 less that of y_2
    gradient = - sum_i [R_b(y_i) - mean_{j != i} R_b(y_j)] grad log pi(y_i)          leave-one-out, with the KL inside the reward

Whatever law drew the completions, as long as it could draw each, the minimiser is ref(y|x) exp(R(x, y) / beta), normalised. No importance
weights, no clipping, no value network. Rewards of +-1/4 for winner and loser are IPO; on fresh samples the gradient is twice RLOO's.

Offline, batches come from `pair_source.GroupSource` (a file of scored completions); on-policy from `generated.Generated`; replayed, a mix
of fresh samples and earlier ones, from `replayed.Replayed`. Departures: the 1 / (2 beta) of the regression is kept (the paper's objective
has it, Command A's formula does not), so that the gradient is a policy gradient's whatever beta is; there is no scaling of rewards.
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
class CoPGConfig:
    beta: float = 0.06
    """Price of a nat of KL to the reference, in units of the reward. 0.03 to 0.1 worked in the paper, with rewards of spread about 1."""
    responses: int = 2
    """Completions of a prompt that are contrasted with each other (k)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < float("inf"):
            raise ConfigError(f"beta is {self.beta}: it must be positive and finite.")
        if self.responses < 2:
            raise ConfigError(f"responses is {self.responses}: CoPG contrasts at least two of each prompt.")


def regularised_reward(reward: Tensor, logp: Tensor, reference: Tensor, beta: float) -> Tensor:
    """R_b = R - beta (log pi - log ref), `[..., k]`; log-probabilities are sums over tokens, never means."""
    return reward - beta * (logp - reference)


def leave_one_out(regularised: Tensor) -> Tensor:
    """R_b(y_i) less the mean of the others' of its group, `[..., k]`: the weight of grad log pi(y_i) in minus the gradient."""
    k = regularised.shape[-1]
    return (regularised - regularised.mean(-1, keepdim=True)) * (k / (k - 1))


class CoPG(Aligner):
    """One step on the mean contrast of the batch's prompts.

    `residual` is the mean |R_b - mean of its group|, in units of the reward, which falls to 0 at the optimum; `reach` the log-ratio that
    the rewards ask for, mean |R - mean of its group| / beta, in nats: in the hundreds no policy gets there, and beta is too small.
    """

    config_class: ClassVar[type] = CoPGConfig
    learns_from: ClassVar = "scored"
    config: CoPGConfig

    def update(self, batch: GroupBatch) -> Metrics:
        beta = self.config.beta

        def contrast(part: GroupBatch, logp: Tensor) -> tuple[Tensor, Metrics]:
            regularised = regularised_reward(part.rewards, logp, part.reference, beta)
            seen = {"residual": _spread(regularised.detach()), "reach": _spread(part.rewards) / beta}
            return losses.copg_group(regularised, beta), seen | {"regularised": regularised.detach().mean(-1)}

        return descend_groups(self, batch, contrast)


def _spread(x: Tensor) -> Tensor:
    """Mean distance from the mean of the group, `[B]` of `[B, k]`."""
    return (x - x.mean(-1, keepdim=True)).abs().mean(-1)
