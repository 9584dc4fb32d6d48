"""RPO: DPO with an imitation term on a baseline's completions, which is what an adversarial choice of the reward comes to.

Liu, Lu, Zhang, Liu, Guo, Yang, Blanchet, Wang, "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial
Regularizer", NeurIPS 2024, arXiv 2405.16436v3. Covers Algorithm 2, and the average form of Appendix F:

    sum    l(beta h) - eta beta log pi(y_b | x)
    mean   l(beta h) - coefficient log pi(y_b | x) / |y_b|

with h the log-ratio of winner and loser, |y_b| the tokens of the completion, and y_b the winner (Remark 5.4) or a draw from
completions that are `given` (the law of prompts may be another there, as in the theorem). Any loss of a margin can stand for
DPO's; with `flip_rate` it is rDPO's, L(x) - eps x / (1 - 2 eps) for DPO.

Departures: eta is 0 only where it is given as 0 (the official code takes eta < 1e-6 for 0). The two forms have a weight each, since they
differ by the length of a completion and by beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.completions import Completions, PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.losses import MARGIN_LOSSES, SftForm, check_flip_rate, robust, rpo
from surefoot.methods.language.pairwise import Margin, PairScores, Pairwise, check_beta, check_margin_loss, lengths_of
from surefoot.policies.language import LanguagePolicy


@dataclass(frozen=True)
class RPOConfig:
    beta: float = 0.01
    """Price of leaving the reference (section 6: 0.01 on UltraFeedback, 0.05 on dpo-mix-7k; 0.5 with the mean form)."""
    eta: float = 0.005
    """Weight of the SFT term in the sum form, in units of DPO's weight of a pair; 0 is DPO."""
    sft_form: SftForm = "sum"
    """sum: log-probability of the whole completion, as in the theory (chat); mean: a token's (Appendix F: reasoning)."""
    coefficient: float = 0.2
    """Weight of the SFT term in the mean form."""
    base_loss: Margin = "dpo"
    """Loss of the margin: dpo, ipo, hinge or probit."""
    flip_rate: float = 0.0
    """Assumed share of pairs that are recorded the wrong way round: above 0 the loss of the margin is rDPO's."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        for name in ("eta", "coefficient"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if self.sft_form not in ("sum", "mean"):
            raise ConfigError(f"sft_form is {self.sft_form!r}: it must be sum or mean.")
        check_margin_loss("base_loss", self.base_loss)
        check_flip_rate(self.flip_rate)

    @property
    def weight(self) -> float:
        """Of the SFT term in the chosen form."""
        return self.eta if self.sft_form == "sum" else self.coefficient


@dataclass(frozen=True)
class BasedPairs(PairBatch):
    """Pairs with one of the baseline's completions each, of that or another prompt."""

    baseline: Completions

    def select(self, rows: Sequence[int]) -> BasedPairs:
        return BasedPairs(**vars(super().select(rows)), baseline=self.baseline.select(rows))

    @property
    def lengths(self) -> np.ndarray:
        return np.maximum(super().lengths, self.baseline.lengths)


class RPO(Pairwise):
    """The learner. `given`: completions of a baseline policy, with their prompts, which are imitated in place of the winners.

    The metrics of `Pairwise` are without the SFT term.
    """

    config_class: ClassVar[type] = RPOConfig

    def __init__(
        self,
        policy: LanguagePolicy,
        config: RPOConfig,
        tuning: Tuning,
        total: int,
        *,
        given: Completions | None = None,
        accelerator: Any = None,
        seed: int = 0,
    ):
        super().__init__(policy, config, tuning, total, accelerator=accelerator, seed=seed)
        if given is not None and not len(given):
            raise ConfigError("the baseline has no completions: RPO imitates at least one.")
        self.given = given

    def losses(self, scores: PairScores, part: PairBatch) -> Tensor:
        config, base = self.config, MARGIN_LOSSES[self.config.base_loss]
        logp_b, imitated = (scores.further[0], part.baseline) if isinstance(part, BasedPairs) else (scores.logp_w, part.chosen)
        return rpo(
            config.beta * scores.h,
            logp_b,
            config.weight,
            config.beta,
            lengths=lengths_of(imitated, logp_b),
            form=config.sft_form,
            loss=lambda x: robust(base, x, config.flip_rate),
        )

    def texts(self, part: PairBatch) -> list[Completions]:
        return [*super().texts(part), part.baseline] if isinstance(part, BasedPairs) else super().texts(part)

    def update(self, batch: PairBatch) -> dict[str, Tensor]:
        return super().update(batch if self.given is None else self._based(batch, self.given))

    def _based(self, batch: PairBatch, given: Completions) -> BasedPairs:
        """Each pair with a completion of the baseline, drawn with replacement by the learner's own generator."""
        rows = torch.randint(len(given), (len(batch),), generator=self.generator, device=self.generator.device)
        return BasedPairs(**vars(batch), baseline=given.select(rows.tolist()))
