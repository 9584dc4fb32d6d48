"""The worlds of CoPG's claim, small enough that the optimum and every policy's distance from it are exact.

`Bandit`: prompts with a few responses each, policies are tables of logits. `Sequences`: bigram policies over whole sequences, additive
rewards. Both draw pairs from a behaviour that is not the reference, and have a world of its own for each seed: the leading axis F.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from surefoot.claims.base import derived
from surefoot.nn.bigram import Bigram, optimal_value, random_logits

BETA = 0.5


@dataclass(frozen=True)
class Pairs:
    """Pairs of each seed, and what is known of them whatever the policy; the two responses stand on axis 2."""

    prompt: Tensor  # [F, N] int64
    response: Tensor  # [F, N, 2] int64, or [F, N, 2, L] tokens
    reward: Tensor  # [F, N, 2]
    ref: Tensor  # [F, N, 2] log pi_ref(y|x)
    behaviour: Tensor  # [F, N, 2] log-probability under the law that drew it
    prompt_mean: Tensor  # [F, N] mean reward of the prompt's responses in these data
    chosen: Tensor  # [F, N] int64, which of the two a Bradley-Terry judge of the rewards prefers

    def select(self, rows: Tensor) -> Pairs:
        """The pairs at `rows` `[F, B]`."""
        return Pairs(*(_at(getattr(self, field.name), rows) for field in fields(self)))


def _at(x: Tensor, rows: Tensor) -> Tensor:
    return x.gather(1, rows.view(*rows.shape, *(1,) * (x.dim() - 2)).expand(*rows.shape, *x.shape[2:]))


class World(Protocol):
    """What the arms learn in. Policies are logits `[F, ...]`."""

    start: Tensor  # the reference's

    def logprobs(self, logits: Tensor, pairs: Pairs) -> Tensor:
        """log pi(y|x), `[F, B, 2]`."""

    def values(self, logits: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """E_pi[R] and E_pi[R_b] of each pair's prompt, exact, `[F, B]` or `[F, 1]`."""

    def logged(self, n: int, seeds: Sequence[int]) -> Pairs:
        """`n` pairs of each seed from the behaviour."""

    def fresh(self, logits: Tensor, n: int, source: list[torch.Generator]) -> Pairs:
        """`n` pairs that the policy draws; nobody judges them."""

    def gap(self, logits: Tensor) -> Tensor:
        """J(pi*) - J(pi), `[F]`."""


@dataclass(frozen=True)
class Rows:
    """A batch of pairs under the present policy."""

    world: World
    logits: Tensor
    pairs: Pairs
    logp: Tensor  # [F, B, 2] log pi(y|x), with gradient

    @classmethod
    def of(cls, world: World, logits: Tensor, pairs: Pairs) -> Rows:
        return cls(world, logits, pairs, world.logprobs(logits, pairs))

    @property
    def contrast(self) -> Tensor:
        """d: the log-ratio of the first response less that of the second, `[F, B]`."""
        ratio = self.logp - self.pairs.ref
        return ratio[..., 0] - ratio[..., 1]

    @property
    def regularised(self) -> Tensor:
        """R_b = R - beta (log pi - log pi_ref), `[F, B, 2]`."""
        return self.pairs.reward - BETA * (self.logp - self.pairs.ref)

    @property
    def margin(self) -> Tensor:
        """beta times the log-ratio of the preferred response less that of the other, `[F, B]`."""
        return BETA * self.contrast * (1 - 2 * self.pairs.chosen)

    def values(self) -> tuple[Tensor, Tensor]:
        """E_pi[R] and E_pi[R_b] of each pair's prompt, `[F, B]` or `[F, 1]`, without gradient."""
        with torch.no_grad():
            return self.world.values(self.logits, self.pairs)


# --- prompts with a few responses each --------------------------------------------------------------------------------


class Bandit:
    """Uniform prompts, a table of rewards `[F, S, A]`, log-probabilities of the reference and of who draws first and second."""

    def __init__(self, reward: Tensor, reference: Tensor, behaviour: tuple[Tensor, Tensor]):
        self.reward, self.start, self.behaviour = reward, reference, behaviour

    def logprobs(self, logits: Tensor, pairs: Pairs) -> Tensor:
        return look_up(logits.log_softmax(-1), pairs.prompt, pairs.response)

    def values(self, logits: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        logp = logits.log_softmax(-1)
        of_reward = (logp.exp() * self.reward).sum(-1)
        return of_reward.gather(1, pairs.prompt), self._regularised(logp).gather(1, pairs.prompt)

    def logged(self, n: int, seeds: Sequence[int]) -> Pairs:
        source = generators(seeds, "data")
        prompt = self._prompts(n, source)
        pairs = self._scored(prompt, [draw(law, prompt, source) for law in self.behaviour])
        won = (pairs.reward[..., 0] - pairs.reward[..., 1]).sigmoid()
        pairs.chosen.copy_(uniform(source, n) >= won)
        count = torch.zeros(self.reward.shape[:2], dtype=won.dtype).scatter_add_(1, prompt, torch.ones_like(won))
        total = torch.zeros_like(count).scatter_add_(1, prompt, pairs.reward.mean(-1))
        pairs.prompt_mean.copy_((total / count.clamp(min=1.0)).gather(1, prompt))
        return pairs

    def fresh(self, logits: Tensor, n: int, source: list[torch.Generator]) -> Pairs:
        prompt, now = self._prompts(n, source), logits.detach().log_softmax(-1)
        return self._scored(prompt, [draw(now, prompt, source) for _ in range(2)])

    def gap(self, logits: Tensor) -> Tensor:
        return (self._regularised(self.optimum()) - self._regularised(logits.log_softmax(-1))).mean(-1)

    def optimum(self) -> Tensor:
        """log pi*, `[F, S, A]`: pi* is the reference times exp(R / beta), normalised."""
        return (self.start + self.reward / BETA).log_softmax(-1)

    def _regularised(self, logp: Tensor) -> Tensor:
        """E_pi[R_b] of each prompt, `[F, S]`."""
        return (logp.exp() * (self.reward - BETA * (logp - self.start))).sum(-1)

    def _prompts(self, n: int, source: list[torch.Generator]) -> Tensor:
        return (uniform(source, n) * self.reward.shape[1]).long()

    def _scored(self, prompt: Tensor, responses: list[Tensor]) -> Pairs:
        response = torch.stack(responses, -1)
        law = torch.stack([look_up(law, prompt, each) for law, each in zip(self.behaviour, responses, strict=True)], -1)
        reward, ref = (look_up(table, prompt, response) for table in (self.reward, self.start))
        return Pairs(prompt, response, reward, ref, law, torch.zeros_like(reward[..., 0]), torch.zeros_like(prompt))


def three_arms(seeds: Sequence[int]) -> Bandit:
    """The paper's toy, the same for all seeds: one prompt, a uniform reference, pairs from two skewed laws."""
    table = lambda row: torch.tensor(row, dtype=torch.float64).expand(len(seeds), 1, 3)  # noqa: E731
    laws = table([0.1, 0.2, 0.7]).log(), table([0.05, 0.05, 0.9]).log()
    return Bandit(table([2.5, 2.0, 1.0]), table([1.0, 1.0, 1.0]).log_softmax(-1), laws)


def mis_centred(seeds: Sequence[int], prompts: int = 32, responses: int = 16) -> Bandit:
    """Rewards c(x) + g(x, a), c ~ N(0, 3^2), g ~ N(0, 1); reference and behaviour are softmax of independent N(0, 1) logits."""
    source = generators(seeds, "game")
    centre = torch.stack([torch.randn(prompts, 1, generator=generator, dtype=torch.float64) for generator in source])
    drawn = torch.stack([torch.randn(3, prompts, responses, generator=generator, dtype=torch.float64) for generator in source])
    behaviour = drawn[:, 2].log_softmax(-1)
    return Bandit(3.0 * centre + drawn[:, 0], drawn[:, 1].log_softmax(-1), (behaviour, behaviour))


def look_up(table: Tensor, prompt: Tensor, response: Tensor) -> Tensor:
    """Entries of `table` `[F, S, A]` at prompts `[F, n]` and responses `[F, n]` or `[F, n, k]`."""
    where = prompt.view(*prompt.shape, *(1,) * (response.dim() - 2)) * table.shape[-1] + response
    return table.flatten(1).gather(1, where.flatten(1)).view(response.shape)


def draw(logp: Tensor, prompt: Tensor, source: list[torch.Generator]) -> Tensor:
    """A response to each prompt `[F, n]` from the law `logp` `[F, S, A]`, by its distribution function."""
    below = _at(logp.exp().cumsum(-1)[..., :-1], prompt)
    return (uniform(source, prompt.shape[1])[..., None] >= below).sum(-1)


# --- sequences --------------------------------------------------------------------------------------------------------


class Sequences:
    """Bigram policies; R(y) = sum_t values[t, y_t] with the values 1.5 / sqrt(L) v[token], v ~ N(0, 1) centred.

    Pairs come from a model whose logits are the reference's with as much noise again.
    """

    def __init__(self, seeds: Sequence[int], vocabulary: int = 12, length: int = 6):
        source = generators(seeds, "game")
        draws = [[random_logits(length, vocabulary, (), generator, torch.float64) for generator in source] for _ in range(2)]
        self.start, noise = (torch.stack(each) for each in draws)
        self.reference, self.behaviour = Bigram(self.start), Bigram(self.start + noise)
        v = torch.stack([torch.randn(vocabulary, generator=generator, dtype=torch.float64) for generator in source])
        values = 1.5 / length**0.5 * (v - v.mean(-1, keepdim=True))
        self.reward_of = values[:, None].expand(-1, length, -1)  # [F, L, V]

    def logprobs(self, logits: Tensor, pairs: Pairs) -> Tensor:
        return sequence_logprobs(logits.log_softmax(-1), pairs.response)

    def values(self, logits: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        reward = Bigram(logits).expected(self.reward_of)
        return reward[:, None], (reward - BETA * Bigram(logits).kl(self.reference))[:, None]

    def logged(self, n: int, seeds: Sequence[int]) -> Pairs:
        source = generators(seeds, "data")
        pairs = self._scored(self.behaviour, n, source)
        pairs.chosen.copy_(uniform(source, n) >= (pairs.reward[..., 0] - pairs.reward[..., 1]).sigmoid())
        pairs.prompt_mean.copy_(pairs.reward.mean((-2, -1))[:, None].expand(-1, n))
        return pairs

    def fresh(self, logits: Tensor, n: int, source: list[torch.Generator]) -> Pairs:
        return self._scored(Bigram(logits), n, source)

    @torch.no_grad()
    def gap(self, logits: Tensor) -> Tensor:
        policy = Bigram(logits)
        best = optimal_value(self.reference, self.reward_of, BETA)
        return best - (policy.expected(self.reward_of) - BETA * policy.kl(self.reference))

    @torch.no_grad()
    def _scored(self, drawer: Bigram, n: int, source: list[torch.Generator]) -> Pairs:
        each = [Bigram(logits).sample(2 * n, generator) for logits, generator in zip(drawer.logits, source, strict=True)]
        tokens = torch.stack(each).unflatten(1, (n, 2))  # [F, n, 2, L]
        prompt = torch.zeros(tokens.shape[:2], dtype=torch.long)
        reward = self.reward_of[:, 0].gather(1, tokens.flatten(1)).view(tokens.shape).sum(-1)
        ref, law = (sequence_logprobs(model.log_table(), tokens) for model in (self.reference, self.behaviour))
        return Pairs(prompt, tokens, reward, ref, law, torch.zeros_like(reward[..., 0]), torch.zeros_like(prompt))


def sequence_logprobs(table: Tensor, tokens: Tensor) -> Tensor:
    """log-probability of each sequence, `[F, n, 2]`, under log P `[F, L, V + 1, V]`; `tokens` `[F, n, 2, L]`."""
    length, vocabulary = table.shape[1], table.shape[-1]
    before = torch.cat([torch.full_like(tokens[..., :1], vocabulary), tokens[..., :-1]], -1)
    cell = ((vocabulary + 1) * torch.arange(length) + before) * vocabulary + tokens
    return table.flatten(1).gather(1, cell.flatten(1)).view(tokens.shape).sum(-1)


# --- random numbers, of each seed by itself ---------------------------------------------------------------------------


def generators(seeds: Sequence[int], purpose: str) -> list[torch.Generator]:
    """One a seed, so that a seed's numbers do not depend on which others it runs beside."""
    return [torch.Generator().manual_seed(derived(seed, purpose)) for seed in seeds]


def uniform(source: list[torch.Generator], n: int) -> Tensor:
    """`[F, n]` in [0, 1)."""
    return torch.stack([torch.rand(n, generator=generator, dtype=torch.float64) for generator in source])


def shuffled(n: int, batch: int, source: list[torch.Generator]) -> Iterator[Tensor]:
    """Rows `[F, batch]` of one shuffled epoch of `n` after the other, without end."""
    left = torch.empty(len(source), 0, dtype=torch.long)
    while True:
        if left.shape[1] < batch:
            left = torch.cat([left, torch.stack([torch.randperm(n, generator=generator) for generator in source])], 1)
        yield left[:, :batch]
        left = left[:, batch:]
