"""Bigram sequence policies with a table for each position: small enough that marginals, KL and the best policy are exact.

A sequence has L tokens out of V; token t depends on token t - 1. Rewards here are additive, R(y) = sum_t values[t, y_t], so forward
and backward dynamic programming give everything about a policy that is otherwise estimated from samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surefoot.errors import ConfigError

DRAW = -1
"""In `forced` tokens: this one is drawn."""


class Bigram(nn.Module):
    """A policy over sequences, or a stack of copies of it: logits `[*copies, L, V + 1, V]` of position, previous token, token.

    Row V stands for "no token before" and is used at position 0 alone; the rows that a position cannot meet are never read.
    Raises ConfigError for logits of another shape.
    """

    def __init__(self, logits: Tensor):
        super().__init__()
        if logits.dim() < 3 or logits.shape[-2] != logits.shape[-1] + 1:
            raise ConfigError(f"bigram logits have shape {tuple(logits.shape)}: it must be [*copies, L, V + 1, V].")
        self.logits = nn.Parameter(logits.detach().clone())

    @property
    def copies(self) -> tuple[int, ...]:
        return tuple(self.logits.shape[:-3])

    @property
    def length(self) -> int:
        return self.logits.shape[-3]

    @property
    def vocabulary(self) -> int:
        return self.logits.shape[-1]

    def log_table(self) -> Tensor:
        """log P(token | position, previous token), `[*copies, L, V + 1, V]`."""
        return self.logits.log_softmax(-1)

    def token_logprobs(self, tokens: Tensor) -> Tensor:
        """log-probability of each token given the one before, `[*copies, B, L]`; `tokens` `[*copies, B, L]`, or `[B, L]` for all copies."""
        tokens = tokens.expand(*self.copies, *tokens.shape[-2:])
        cell = self._rows(tokens) * self.vocabulary + tokens
        return self.log_table().flatten(-3).gather(-1, cell.flatten(-2)).view(tokens.shape)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """log-probability of every sequence, `[*copies, B]`."""
        return self.token_logprobs(tokens).sum(-1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, forced: Tensor | None = None) -> Tensor:
        """`n` sequences of each copy, `[*copies, n, L]` int64.

        `forced` `[*copies, n, L]` (or fewer leading axes): tokens that are taken as they are, `DRAW` (-1) where one is drawn.
        """
        cdf = self.logits.softmax(-1).cumsum(-1)
        u = torch.rand(*self.copies, n, self.length, generator=generator, dtype=cdf.dtype, device=cdf.device)
        tokens = torch.empty(u.shape, dtype=torch.int64, device=cdf.device)
        previous = torch.full(u.shape[:-1], self.vocabulary, device=cdf.device)
        for t in range(self.length):
            rows = cdf[..., t, :, :].gather(-2, previous.unsqueeze(-1).expand(*previous.shape, self.vocabulary))
            below = rows <= u[..., t, None] * rows[..., -1:]  # sums of rounded probabilities end beside 1
            previous = below.sum(-1).clamp_(max=self.vocabulary - 1)
            if forced is not None:
                previous = torch.where(forced[..., t] == DRAW, previous, forced[..., t])
            tokens[..., t] = previous
        return tokens

    def marginals(self) -> Tensor:
        """P(token at position), `[*copies, L, V]`."""
        table = self.logits.softmax(-1)
        at = [table[..., 0, -1, :]]
        for t in range(1, self.length):
            at.append((at[-1].unsqueeze(-2) @ table[..., t, :-1, :]).squeeze(-2))
        return torch.stack(at, -2)

    def expected(self, values: Tensor) -> Tensor:
        """E[sum_t values[t, y_t]], `[*copies]`; `values` broadcasts against `[*copies, L, V]`."""
        return (self.marginals() * values).sum((-2, -1))

    def kl(self, other: Bigram) -> Tensor:
        """KL(self || other) over whole sequences, in nats, `[*copies]`."""
        mine = self.log_table()
        return self._mean_over_steps((mine.exp() * (mine - other.log_table())).sum(-1))

    def entropy(self) -> Tensor:
        """Of whole sequences, in nats, `[*copies]`."""
        mine = self.log_table()
        return self._mean_over_steps(-(mine.exp() * mine).sum(-1))

    def _mean_over_steps(self, of_row: Tensor) -> Tensor:
        """What is met on the way, summed: `of_row` `[*copies, L, V + 1]` weighted by how probable the previous token is."""
        later = (self.marginals()[..., :-1, :] * of_row[..., 1:, :-1]).sum((-2, -1))
        return of_row[..., 0, -1] + later

    def _rows(self, tokens: Tensor) -> Tensor:
        """Row of the flattened table that each token is drawn from, `[..., B, L]`."""
        previous = torch.cat([torch.full_like(tokens[..., :1], self.vocabulary), tokens[..., :-1]], -1)
        return previous + (self.vocabulary + 1) * torch.arange(self.length, device=tokens.device)


def random_logits(
    length: int, vocabulary: int, copies: tuple[int, ...] = (), generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Independent N(0, 1) logits, `[*copies, L, V + 1, V]`."""
    return torch.randn(*copies, length, vocabulary + 1, vocabulary, generator=generator, dtype=dtype)


def tilted(reference: Bigram, values: Tensor, beta: float) -> Bigram:
    """The policy that maximises E[R] - beta KL(. || reference) for R(y) = sum_t values[t, y_t]: proportional to reference * exp(R / beta).

    `values` broadcasts against `[*copies, L, V]`; `beta > 0`.
    """
    return Bigram(_tilt(reference, values, beta)[0])


def optimal_value(reference: Bigram, values: Tensor, beta: float) -> Tensor:
    """That maximum, beta log E_reference[exp(R / beta)], `[*copies]`."""
    return beta * _tilt(reference, values, beta)[1]


def _tilt(reference: Bigram, values: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Logits of the tilted policy, and log Z: backward over positions, with the log-normaliser of what follows each token."""
    if not beta > 0.0:
        raise ConfigError(f"beta is {beta}: it must be positive.")
    table = reference.log_table()
    gain = (values / beta).expand(*reference.copies, reference.length, reference.vocabulary)
    logits, ahead = torch.empty_like(table), torch.zeros_like(table[..., 0, 0, :])  # [*copies, V], after this token
    for t in reversed(range(reference.length)):
        logits[..., t, :, :] = table[..., t, :, :] + (gain[..., t, :] + ahead).unsqueeze(-2)
        z = logits[..., t, :, :].logsumexp(-1)  # [*copies, V + 1]
        ahead = z[..., :-1]
    return logits, z[..., -1]
