"""Log-probabilities of chosen tokens from hidden states, without the logits of a whole batch ever being in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 2**24
"""Logits that are in memory at once (64 MiB as float32); more are computed in chunks, and again for the gradient."""


def token_logprobs(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *, vocabulary: int, temperature: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """Log-probability of each target under softmax(head(hidden) / temperature), as float32 whatever the network's precision.

    Args:
        head: hidden states [n, D] to logits [n, V].
        hidden: [N, D], the state from which each target is predicted.
        targets: [N] int64.
        vocabulary: V, which says how many targets make a chunk of at most `chunk` logits.

    Returns: [N].
    """

    def chosen(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = head(hidden).float() / temperature
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)

    rows = max(1, chunk // vocabulary)
    if len(targets) <= rows:
        return chosen(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([chosen(h, t) for h, t in parts])
    return torch.cat([checkpoint(chosen, h, t, use_reentrant=False) for h, t in parts])
