"""Learners on preference pairs whose loss is a function of the log-ratio: DPO, IPO, hinge, with or without label smoothing.

Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290v3 (Eq. 7); Azar et al., arXiv 2310.12036v2 (IPO); Zhao et al.,
arXiv 2305.10425v1 (SLiC's hinge); label smoothing is conservative DPO (Mitchell, 2023). They are the baselines of rDPO, RPO and INPO, which
are the same learner with other losses: those give `losses` and inherit the rest.

Departure: IPO is written with x = beta h, (x - 1/2)^2, which is the paper's loss times beta^2: same minimum, gradients of DPO's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from torch import Tensor

from surefoot.data.completions import Completions, PairBatch, concatenated, micro_batches
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Aligner, Metrics
from surefoot.methods.language.losses import MARGIN_LOSSES, check_flip_rate, conservative, log_ratio

Margin = Literal["dpo", "ipo", "hinge", "probit"]
"""Names of `MARGIN_LOSSES`."""


@dataclass(frozen=True)
class PairwiseConfig:
    beta: float = 0.1
    """Price of leaving the reference: the implicit reward is beta log(pi / reference)."""
    loss: Margin = "dpo"
    """Loss of the margin beta h: dpo (logistic), ipo (squared), hinge (SLiC) or probit."""
    label_smoothing: float = 0.0
    """Assumed share of wrong labels in conservative DPO; 0 believes them all."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_margin_loss("loss", self.loss)
        check_flip_rate(self.label_smoothing, "label_smoothing")


def check_beta(beta: float, name: str = "beta") -> None:
    """Raises ConfigError unless positive and finite."""
    if not 0.0 < beta < float("inf"):
        raise ConfigError(f"{name} is {beta}: it must be positive and finite.")


def check_margin_loss(name: str, loss: str) -> None:
    """Raises ConfigError for a loss that does not exist."""
    if loss not in get_args(Margin):
        raise ConfigError(f"{name} is {loss!r}: it must be one of {', '.join(get_args(Margin))}.")


@dataclass(frozen=True)
class PairScores:
    """Log-probabilities of the pairs of one forward pass, `[B]` each, in float32."""

    logp_w: Tensor
    logp_l: Tensor
    ref_w: Tensor
    ref_l: Tensor
    further: list[Tensor] = field(default_factory=list)  # of what `texts` added

    @property
    def h(self) -> Tensor:
        return log_ratio(self.logp_w, self.logp_l, self.ref_w, self.ref_l)


class Pairwise(Aligner):
    """One step on a `PairBatch`: both completions in one forward pass, a loss a pair, and how the likelihoods move.

    Metrics are means over the batch: `margin` (scale times h, the implicit reward of the chosen less that of the rejected), `accuracy`
    (share of pairs with a positive one), and `chosen` and `rejected`, the change of log-probability since the reference, in nats: both
    may fall while the margin grows.
    """

    config_class: ClassVar[type] = PairwiseConfig
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]] = "pairs"

    def losses(self, scores: PairScores, part: PairBatch) -> Tensor:
        """One loss a pair, `[B]`."""
        return conservative(MARGIN_LOSSES[self.config.loss], self.config.beta * scores.h, self.config.label_smoothing)

    def texts(self, part: PairBatch) -> list[Completions]:
        """What goes through the policy, as many rows each: chosen, rejected, and what a loss needs besides."""
        return [part.chosen, part.rejected]

    @property
    def scale(self) -> float:
        """What makes an implicit reward of a log-ratio."""
        return float(self.config.beta)

    def update(self, batch: PairBatch) -> dict[str, Tensor]:
        rows = micro_batches(batch.lengths, self.tuning.micro_tokens, rows_each=len(self.texts(batch)), multiple_of=self.processes)
        return self.descend([batch.select(each) for each in rows], lambda part: self._share(part, len(batch)))

    def _share(self, part: PairBatch, n: int) -> tuple[Tensor, Metrics]:
        """The part's share of the batch's mean loss and metrics."""
        texts = self.texts(part)
        logp_w, logp_l, *further = self.logprobs(concatenated(texts)).chunk(len(texts))
        ref_w, ref_l = part.ref_chosen.to(logp_w), part.ref_rejected.to(logp_l)
        scores = PairScores(logp_w, logp_l, ref_w, ref_l, further)
        seen = {
            "margin": self.scale * scores.h,
            "accuracy": (scores.h > 0.0).to(logp_w),
            "chosen": logp_w - ref_w,
            "rejected": logp_l - ref_l,
        }
        return self.losses(scores, part).sum() / n, {name: value.detach().sum() / n for name, value in seen.items()}


def lengths_of(completions: Completions, like: Tensor) -> Tensor:
    """Tokens of each completion, `[B]`, on the device and of the kind of `like`."""
    return like.new_tensor(completions.completion_lengths)
