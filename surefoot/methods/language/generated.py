"""A source for methods that learn from what the policy says: completions of the policy as it is now, scored as they are drawn.

Every draw takes the next prompts of a shuffled pass over them, N completions of each, with a reward, the reference's log-probability and
the policy's own. Its batches are used T times, in an order of their own in each pass (`Sampling` has the switches; Tajwar et al., arXiv
2404.14367v3). Where the policy starts at its reference, the first draw is the reference's by itself.

A resumed source equals the uninterrupted one bit for bit: what was drawn, the order and the random state are its state. The policy's
weights are not: they belong to the learner, which is restored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from surefoot.data.completions import Completions, GroupBatch, Ids, concatenated, joined, prefixed, within
from surefoot.envs.text_rewards import TextReward, checked
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.passes import Passes
from surefoot.methods.language.sampling import Sampling
from surefoot.policies.language import LanguagePolicy, Reference, completion_logprobs

Prefixes = Callable[[list[int], torch.Generator], Sequence[Ids]]
"""Of prompts, by their rows: the tokens that each completion begins with, N a prompt (DR-PO's resets; empty: none)."""


class Generated:
    """Batches of `batch` prompts with N scored completions each, `GroupBatch`.

    Args:
        policy: what learns, and draws.
        prompts: token ids of each prompt.
        reward: of prompts and completions as text.
        sampling: who draws, how many, and how often they are used.
        texts: the prompts as the reward is to see them; decoded from `prompts` where they are not given.
        reference: what log-ratios are against, and what draws where `sampling` says so; None: the policy as it is now.
        batch: prompts of an update.
        max_new_tokens, temperature, top_p: of a completion, as in `LanguagePolicy.sample`.
        max_tokens: tokens of one forward pass, padding included, when log-probabilities are computed.
        prefixes: what completions begin with.
        with_reference, with_old: False where the method computes its own; the batch then holds zeros, or no `old`.
        accelerator: of Hugging Face's Accelerate: its processes, each with a whole policy, share the drawing; all get the whole batch.

    Raises ConfigError for settings outside their range, DataError where there are no prompts or the reward fails (`envs.text_rewards`).
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        prompts: Sequence[Ids],
        reward: TextReward,
        sampling: Sampling,
        *,
        texts: Sequence[Any] | None = None,
        reference: Reference | None = None,
        batch: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 16_384,
        prefixes: Prefixes | None = None,
        with_reference: bool = True,
        with_old: bool = True,
        accelerator: Any = None,
        seed: int = 0,
    ):
        if not prompts:
            raise DataError("there are no prompts to complete: give at least one.")
        for name, value in (("batch", batch), ("max_new_tokens", max_new_tokens), ("max_tokens", max_tokens)):
            if value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1.")
        if texts is not None and len(texts) != len(prompts):
            raise DataError(f"there are {len(texts)} texts for {len(prompts)} prompts: give one for each.")
        if reference is None and (with_reference or sampling.from_reference()):
            reference = Reference(policy)
        self.policy, self.reference, self.reward, self.sampling = policy, reference, checked(reward), sampling
        self.prompts = [list(prompt) for prompt in prompts]
        self.texts = list(texts) if texts is not None else policy.tokenizer.batch_decode(self.prompts, skip_special_tokens=True)
        self.batch, self.max_tokens, self.prefixes, self.accelerator = batch, max_tokens, prefixes, accelerator
        self.drawing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        self.with_reference, self.with_old = with_reference, with_old
        self.generator = torch.Generator().manual_seed(seed)  # of prompts, orders and prefixes, and of a seed for the tokens of each draw
        self.used = 0  # batches given so far
        self.passes = Passes(len(self.prompts), self.generator)
        self.drawn: GroupBatch | None = None  # all groups of a draw
        self.order = torch.zeros(0, dtype=torch.int64)  # of its groups in this pass

    def __iter__(self) -> Generated:
        return self

    def __next__(self) -> GroupBatch:
        s, size = self.sampling, self.batch
        if self.used % s.updates == 0:
            self.drawn = self._draw(self.passes.take(size * s.refresh))
            self.order = torch.arange(size * s.refresh)
        elif self.used % s.refresh == 0:
            self.order = torch.randperm(size * s.refresh, generator=self.generator)
        assert self.drawn is not None
        place = self.used % s.refresh
        self.used += 1
        return self.drawn.select(self.order[place * size : (place + 1) * size].tolist())

    # --- drawing ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _draw(self, rows: list[int]) -> GroupBatch:
        """N completions of each prompt, from all processes together."""
        n = self.sampling.samples
        forced = None if self.prefixes is None else [list(ids) for ids in self.prefixes(rows, self.generator)]
        if forced is not None and len(forced) != n * len(rows):
            raise ConfigError(f"{len(forced)} prefixes were given for {len(rows)} prompts with {n} completions each: give one for each.")
        seed = int(torch.randint(2**62, (), generator=self.generator))
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return self._drawn_here(rows, forced, seed)
        from accelerate.utils import gather_object

        first, every = self.accelerator.process_index, self.accelerator.num_processes
        mine = list(range(first, len(rows), every))
        own = None if forced is None else [ids for g in mine for ids in forced[g * n : (g + 1) * n]]
        drawn = self._drawn_here([rows[g] for g in mine], own, seed + first)
        parts = gather_object([(mine, drawn)])
        place = [g for groups, _ in parts for g in groups]
        return joined([part for _, part in parts]).select(sorted(range(len(place)), key=place.__getitem__))

    def _drawn_here(self, rows: list[int], forced: list[Ids] | None, seed: int) -> GroupBatch:
        """Of each group the reference's completions first, then the policy's own."""
        n, theirs = self.sampling.samples, self.sampling.from_reference()
        generator = torch.Generator(self.policy.device).manual_seed(seed)
        parts = []
        if theirs:
            assert self.reference is not None
            with self.reference.policy.reference() if self.policy.adapted else nullcontext():
                parts.append(self._completed(self.reference.policy, rows, slice(0, theirs), forced, generator))
        if theirs < n:
            parts.append(self._completed(self.policy, rows, slice(theirs, n), forced, generator))
        completions = parts[0] if len(parts) == 1 else _group_by_group(parts, len(rows))
        rewards = self._rewarded(rows, completions)
        reference, old = torch.zeros_like(rewards), None
        if self.with_reference:
            assert self.reference is not None
            reference = self.reference.logprobs(completions, max_tokens=self.max_tokens).view_as(rewards)
        if self.with_old:
            old = completion_logprobs(self.policy, completions, max_tokens=self.max_tokens).view_as(rewards)
        given = None if forced is None else _given(forced, completions).view_as(rewards)
        return GroupBatch(completions, rewards, reference, old, given)

    def _completed(
        self, policy: LanguagePolicy, rows: list[int], part: slice, forced: list[Ids] | None, generator: torch.Generator
    ) -> Completions:
        """The completions `part` of each group."""
        n, count = self.sampling.samples, part.stop - part.start
        own = None if forced is None else [ids for g in range(len(rows)) for ids in forced[g * n : (g + 1) * n][part]]
        return policy.sample([self.prompts[row] for row in rows], count, generator=generator, forced=own, **self.drawing)

    def _rewarded(self, rows: list[int], completions: Completions) -> Tensor:
        """Rewards `[B, N]` on the CPU."""
        n = self.sampling.samples
        texts = [self.texts[row] for row in rows for _ in range(n)]
        return self.reward(texts, self.policy.decode(completions)).view(len(rows), n)

    # --- what it says, and its state ----------------------------------------------------------------------------------

    @property
    def queries(self) -> int:
        """Rewards asked for so far."""
        return self.sampling.queries(self.used, self.batch)

    def metrics(self) -> dict[str, float | list[float]]:
        """Rewards asked for, and of the newest draw the mean reward and length."""
        found: dict[str, float | list[float]] = {"train/reward_queries": float(self.queries)}
        if self.drawn is not None:
            found["train/reward"] = float(self.drawn.rewards.mean())
            found["train/completion_tokens"] = float(self.drawn.completions.completion_lengths.mean())
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resume needs, but for the policy."""
        state = {
            "used": torch.tensor(self.used),
            "order": self.order,
            **prefixed("passes", self.passes.state_dict()),  # and with it the generator, which is the same
        }
        if self.drawn is not None:
            state |= prefixed("drawn", self.drawn.packed())
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.used = int(state["used"])
        self.passes.load_state_dict(within("passes", state))
        self.order = state["order"]
        self.drawn = GroupBatch.unpacked(within("drawn", state)) if self.used else None


def _given(forced: Sequence[Ids], completions: Completions) -> Tensor:
    """How many tokens of each completion were given and not drawn, `[rows]`."""
    return torch.tensor([min(len(ids), len(own)) for ids, own in zip(forced, completions.completions, strict=True)])


def _group_by_group(parts: Sequence[Completions], groups: int) -> Completions:
    """The first part's completions of a prompt, then the second's, prompt by prompt."""
    sizes = [len(part) // max(groups, 1) for part in parts]
    return concatenated(
        [part.select(range(g * size, (g + 1) * size)) for g in range(groups) for part, size in zip(parts, sizes, strict=True)]
    )
