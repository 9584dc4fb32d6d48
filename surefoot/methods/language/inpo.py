"""INPO: self-play on pairs that a general preference labels, each round regressed on the reference and on the policy that drew them.

Zhang et al., "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning", ICLR 2025, arXiv
2407.00617v4: the step of online mirror descent, the loss of Algorithm 1, and the growing eta of the last-iterate theorem. In round t both
responses are pi_t's own, and with the preferred one first

    h = log pi(w)/pi(l) - tau/eta log ref(w)/ref(l) - (1 - tau/eta) log pi_t(w)/pi_t(l)
    loss = (h - 1/(2 eta))^2                                                              the mean over pairs

whose minimiser over all policies is the exact step, `preference_game.PreferenceGame.step`. eta is an INVERSE step size: larger is slower.
tau = eta is online IPO against the reference, tau = 0 against pi_t; in the first round, where pi_t is the reference, every tau is both.

`SelfPlay` draws and labels, this fits. Departures: one optimiser and one schedule of the learning rate over all rounds, where the paper
trains each round by itself. In log-probabilities of short texts the target 1/(2 eta) = 100 of the default is out of reach: take 0.1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from surefoot.data.completions import PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.exact.preference_game import check_eta, growing_eta
from surefoot.methods.language.losses import anchor, inpo, log_ratio
from surefoot.methods.language.pairwise import PairScores, Pairwise
from surefoot.methods.language.self_play import SelfPlayBatch


@dataclass(frozen=True)
class INPOConfig:
    eta: float = 0.005
    """Inverse step size of mirror descent: the price of leaving the policy that a round begins with. The paper tried 0.1 to 0.002."""
    tau: float | None = None
    """Price of leaving the reference, at most eta (default: eta / 3)."""
    growing: bool = False
    """In round t take tau (t + 2) / 2 for eta, with which the last round's policy converges; needs tau, and eta is not used."""

    def __post_init__(self) -> None:
        for name, value in (("eta", self.eta), ("tau", self.tau)):
            if value is not None and not 0.0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}: it must be finite and not negative.")
        if self.growing and not self.tau:
            raise ConfigError(f"tau is {self.tau}, and eta is to grow with it: give a positive tau.")
        check_eta(self.eta_of(1), self.price)

    @property
    def price(self) -> float:
        """tau, whether given or not."""
        return self.eta / 3.0 if self.tau is None else self.tau

    def eta_of(self, t: int) -> float:
        """eta of round t = 1, 2, ..."""
        return growing_eta(self.price, t) if self.growing else self.eta


class INPO(Pairwise):
    """Fit the pairs of a round. A plain `PairBatch` is taken for pairs of the first round, whose pi_t is the reference."""

    config_class: ClassVar[type] = INPOConfig
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]] = "prompts"
    config: INPOConfig

    def losses(self, scores: PairScores, part: PairBatch) -> Tensor:
        """(h - 1/(2 eta))^2 of each pair, `[B]`."""
        eta = self.config.eta_of(part.round if isinstance(part, SelfPlayBatch) else 1)
        return inpo(log_ratio(scores.logp_w, scores.logp_l, *self.anchors(scores, part, eta)), eta)

    def anchors(self, scores: PairScores, part: PairBatch, eta: float) -> tuple[Tensor, Tensor]:
        """tau/eta log ref + (1 - tau/eta) log pi_t of winners and losers, `[B]` each."""
        if not isinstance(part, SelfPlayBatch):
            return scores.ref_w, scores.ref_l
        cur_w, cur_l = part.cur_chosen.to(scores.ref_w), part.cur_rejected.to(scores.ref_l)
        return anchor(scores.ref_w, cur_w, self.config.price, eta), anchor(scores.ref_l, cur_l, self.config.price, eta)

    @property
    def scale(self) -> float:
        """What makes an implicit reward of a log-ratio to the reference: in the first round INPO is IPO with beta = eta."""
        return self.config.eta_of(1)
