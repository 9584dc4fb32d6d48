"""rDPO: preference optimisation from pairs of which a known share is recorded the wrong way round.

Ray Chowdhury, Kini, Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", ICML 2024, arXiv 2403.00409.
With x = beta h of a recorded pair and l the loss of a clean one, the loss is

    l_rob(x) = [(1 - eps) l(x) - eps l(-x)] / (1 - 2 eps)

whose mean over flips of probability eps is l(x). For DPO's it is l(x) - eps / (1 - 2 eps) x: each pair's weight is DPO's plus a constant.
The transform is `losses.robust`, and does for IPO, hinge and probit what it does for DPO; for a reward model that is fitted to pairs,
see `reward_model.py`. A baseline under the same interface, conservative DPO, is `pairwise.py` with label smoothing.

Departures: none in the loss. The paper's eps is set to the rate of flips; where it is not known, a few pairs that were checked by hand
give it (docs/methods/rdpo.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surefoot.data.completions import PairBatch
from surefoot.methods.language.losses import MARGIN_LOSSES, check_flip_rate, robust
from surefoot.methods.language.pairwise import Margin, PairScores, Pairwise, check_beta, check_margin_loss


@dataclass(frozen=True)
class RDPOConfig:
    beta: float = 0.1
    """Price of leaving the reference (Table 4)."""
    flip_rate: float = 0.1
    """eps: assumed share of pairs whose winner and loser are swapped, below 0.5; 0 is DPO."""
    base: Margin = "dpo"
    """Loss that is made robust: dpo, ipo, hinge or probit."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_flip_rate(self.flip_rate)
        check_margin_loss("base", self.base)


class RDPO(Pairwise):
    """The learner. Its loss may be negative, and has no lower bound on a finite data set: about one epoch, with a falling rate."""

    config_class: ClassVar[type] = RDPOConfig

    def losses(self, scores: PairScores, part: PairBatch) -> Tensor:
        return robust(MARGIN_LOSSES[self.config.base], self.config.beta * scores.h, self.config.flip_rate)
