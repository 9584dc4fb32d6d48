"""One update on groups of scored completions, whatever the loss: what CoPG, reward-weighted regression and best-of-n share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from torch import Tensor

from surefoot.data.completions import GroupBatch, micro_batches
from surefoot.methods.language.aligner import Aligner, Metrics

GroupLoss: TypeAlias = Callable[[GroupBatch, Tensor], tuple[Tensor, Metrics]]
"""Some groups of a batch and log pi of their completions `[B, N]`, with gradient: the loss of each prompt `[B]`, and metrics `[B]`."""


def descend_groups(aligner: Aligner, batch: GroupBatch, loss: GroupLoss) -> Metrics:
    """One step on the mean over prompts of `loss`, whose metrics are averaged likewise; a group is never parted.

    Added to them are the mean `reward`, and `log_ratio`: log pi - log ref of the batch's completions, in nats (an estimate of the KL to
    the reference only if the policy drew them).
    """
    n = batch.rewards.shape[1]

    def share(groups: list[int]) -> tuple[Tensor, Metrics]:
        part = batch.select(groups)
        logp = aligner.logprobs(part.completions).view(part.rewards.shape)
        part = _beside(part, logp)
        own, seen = loss(part, logp)
        seen = seen | {"log_ratio": (logp.detach() - part.reference).mean(-1), "reward": part.rewards.mean(-1)}
        return own.sum() / len(batch), {name: value.sum() / len(batch) for name, value in seen.items()}

    parts = micro_batches(batch.lengths, aligner.tuning.micro_tokens, rows_each=n, multiple_of=aligner.processes)
    return aligner.descend(parts, share)


def _beside(part: GroupBatch, logp: Tensor) -> GroupBatch:
    """The part with its numbers on the device, and of the precision, of `logp`."""
    old = None if part.old is None else part.old.to(logp)
    return replace(part, rewards=part.rewards.to(logp), reference=part.reference.to(logp), old=old)
