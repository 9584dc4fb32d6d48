"""SFT: the likelihood of completions, which is what a model is usually trained on before it is aligned, and the simplest baseline.

The loss is the mean over a batch's tokens of -log pi (of the completions, end tokens included), so that a long completion counts as much
as it has tokens; with `average` "completions" each counts the same, whatever its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from surefoot.data.completions import Completions, micro_batches
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Aligner, Metrics
from surefoot.methods.language.losses import sft
from surefoot.methods.language.pair_source import Shuffled
from surefoot.methods.language.pairwise import lengths_of


@dataclass(frozen=True)
class SFTConfig:
    average: Literal["tokens", "completions"] = "tokens"
    """The loss is a mean over all tokens of a batch, or over each completion's and then over completions."""

    def __post_init__(self) -> None:
        if self.average not in ("tokens", "completions"):
            raise ConfigError(f"average is {self.average!r}: the loss is averaged over 'tokens' or 'completions'.")


class SFT(Aligner):
    """One step on a batch of `Completions`. `logp` is the mean log-probability of a token."""

    config_class: ClassVar[type] = SFTConfig
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]] = "scored"
    config: SFTConfig

    def update(self, batch: Completions) -> Metrics:
        tokens, rows = int(batch.completion_lengths.sum()), len(batch)

        def share(part: Completions) -> tuple[Tensor, Metrics]:
            logp = self.logprobs(part)
            seen = {"logp": logp.detach().sum() / tokens}
            if self.config.average == "tokens":
                return sft(logp).sum() / tokens, seen
            return sft(logp, lengths_of(part, logp), "mean").sum() / rows, seen

        parts = micro_batches(batch.lengths, self.tuning.micro_tokens, multiple_of=self.processes)
        return self.descend([batch.select(part) for part in parts], share)


class CompletionSource(Shuffled[Completions]):
    """Batches of completions that were tokenised before."""

    def __init__(self, completions: Completions, batch_size: int, *, seed: int = 0):
        self.completions = completions
        super().__init__(len(completions), batch_size, seed)

    def at(self, rows: Sequence[int]) -> Completions:
        return self.completions.select(rows)
