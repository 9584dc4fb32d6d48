"""A source for methods that learn from pairs of the policy's own: sample, label, fit, round after round.

A round takes the next prompts of a shuffled pass over them, draws responses from the policy as it is then (pi_t), has a preference label
pairs of them, and caches the log-probabilities of both responses under the reference and under pi_t. Its batches go through the pairs
`epochs` times, in an order of their own in each pass; then the policy that they made plays the next round. For INPO (Zhang et al., arXiv
2407.00617v4) and, since each batch is a `PairBatch` against the reference, for DPO, IPO and their kin online.

Departures. Every round has the same number of updates, so that a schedule can be laid over them: where a tournament dropped pairs, those
that are left come up more often. A resumed source equals the uninterrupted one bit for bit: the pairs, their log-probabilities, the order
and the random states are its state. The policy's weights are not: they belong to the learner, which is restored beside it. A preference
that draws random numbers of its own is outside of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.data.completions import Completions, Ids, PairBatch, concatenated, prefixed, within
from surefoot.envs.text_preferences import BradleyTerry, Preference, checked_preference
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.pair_selection import Pairs, Selection, best_worst, random_pair, tournament
from surefoot.methods.language.passes import Passes
from surefoot.policies.language import LanguagePolicy, Reference, completion_logprobs


@dataclass(frozen=True)
class SelfPlaySettings:
    """How much is drawn in a round, which pairs are made of it, and how often they are used."""

    rounds: int = 3
    """How often to sample, label and fit (T)."""
    prompts: int = 20_000
    """Prompts of a round; all of them where there are fewer."""
    selection: Selection = "random"
    """random: two responses, as the theory asks; best_worst: of a reward; tournament: by comparisons."""
    candidates: int = 8
    """Responses drawn for each prompt, with best_worst and tournament (random draws two)."""
    batch: int = 128
    """Pairs of an update."""
    epochs: int = 2
    """Passes over the pairs of a round."""
    max_new_tokens: int = 256
    """After which a response is cut off."""
    temperature: float = 1.0
    """Of the draws; anything but 1 draws from another policy than the one whose log-probabilities are fitted."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have this much probability together; below 1 the same holds."""
    prompts_at_once: int = 64
    """Prompts whose responses are drawn side by side: what fits into memory."""
    max_tokens: int = 16_384
    """Tokens of one forward pass, padding included, when log-probabilities are cached."""

    def __post_init__(self) -> None:
        for name in ("rounds", "prompts", "batch", "epochs", "max_new_tokens", "prompts_at_once", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if not self.temperature > 0.0 or not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"temperature is {self.temperature} and top_p {self.top_p}: positive, and in (0, 1].")
        k = self.candidates
        if self.selection == "tournament" and (k < 4 or k & (k - 1)):
            raise ConfigError(f"candidates is {k}: a tournament needs a power of two, at least 4.")
        if self.selection == "best_worst" and k < 2:
            raise ConfigError(f"candidates is {k}: the best and the worst are of at least two.")

    @property
    def draws(self) -> int:
        """Responses to each prompt."""
        return 2 if self.selection == "random" else self.candidates


@dataclass(frozen=True)
class SelfPlayBatch(PairBatch):
    """A `PairBatch` against the reference, with what pi_t, which drew both responses in round t, thought of them."""

    cur_chosen: Tensor  # [B] log-probability (sum over the completion) under pi_t
    cur_rejected: Tensor  # [B]
    round: int  # t = 1, 2, ...

    def select(self, rows: Sequence[int]) -> SelfPlayBatch:
        """Some of the pairs, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        part = super().select(rows)
        known = part.chosen, part.rejected, part.ref_chosen, part.ref_rejected
        return SelfPlayBatch(*known, self.cur_chosen[index], self.cur_rejected[index], self.round)


class SelfPlay:
    """Batches of labelled pairs, `SelfPlayBatch`, `updates` of them.

    Args:
        policy: what learns, and draws.
        prompts: token ids of each prompt.
        preference: which of two completions is better (`envs.text_preferences`); best_worst needs one with a reward, `BradleyTerry`.
        settings: see there.
        texts: the prompts as the preference is to see them; decoded from `prompts` where they are not given.
        reference: what log-ratios are against; by default the policy as it is now.
        accelerator: of Hugging Face's Accelerate: its processes, each with a whole policy, share the drawing; all get all pairs.

    Raises ConfigError for a selection that the preference cannot serve, DataError where there are no prompts, where the preference gives
    what is no probability, or where a round leaves no pair.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        prompts: Sequence[Ids],
        preference: Preference,
        settings: SelfPlaySettings | None = None,
        *,
        texts: Sequence[str] | None = None,
        reference: Reference | None = None,
        accelerator: Any = None,
        seed: int = 0,
    ):
        settings = settings or SelfPlaySettings()
        if not prompts:
            raise DataError("there are no prompts to answer: give at least one.")
        if texts is not None and len(texts) != len(prompts):
            raise DataError(f"there are {len(texts)} texts for {len(prompts)} prompts: give one for each.")
        if settings.selection == "best_worst" and not isinstance(preference, BradleyTerry):
            raise ConfigError("best_worst picks by a reward: give one (--reward, or BradleyTerry(reward)), or select by tournament.")
        self.policy, self.settings = policy, settings
        self.reward = preference.reward if isinstance(preference, BradleyTerry) else None
        self.preference = checked_preference(preference)
        self.reference, self.accelerator = reference or Reference(policy), accelerator
        self.prompts = [list(prompt) for prompt in prompts]
        self.texts = list(texts) if texts is not None else policy.tokenizer.batch_decode(self.prompts, skip_special_tokens=True)
        self.generator = torch.Generator().manual_seed(seed)  # of the seed of each round
        self.prompt_order = Passes(len(self.prompts), torch.Generator().manual_seed(seed))
        self.pair_order = Passes(0, torch.Generator().manual_seed(seed + 1))
        self.used = 0  # batches given so far
        self.comparisons = 0  # pairs that the preference was asked about, or responses that the reward was
        self.pairs: SelfPlayBatch | None = None  # those of this round

    @property
    def updates_a_round(self) -> int:
        s = self.settings
        return -(-min(s.prompts, len(self.prompts)) * s.epochs // s.batch)

    @property
    def updates(self) -> int:
        """Batches of all rounds together."""
        return self.settings.rounds * self.updates_a_round

    def __iter__(self) -> SelfPlay:
        return self

    def __next__(self) -> SelfPlayBatch:
        if self.used >= self.updates:
            raise StopIteration
        if self.used % self.updates_a_round == 0:
            self.pairs = self._play(self.used // self.updates_a_round + 1)
            self.pair_order.n, self.pair_order.ahead = len(self.pairs), []
        assert self.pairs is not None
        self.used += 1
        return self.pairs.select(self.pair_order.take(min(self.settings.batch, len(self.pairs))))

    # --- a round ------------------------------------------------------------------------------------------------------

    def _play(self, t: int) -> SelfPlayBatch:
        """Draw, label and cache the pairs of round t, all processes together. Prompts of like length are drawn side by side."""
        rows = sorted(self.prompt_order.take(min(self.settings.prompts, len(self.prompts))), key=lambda row: len(self.prompts[row]))
        seed = int(torch.randint(2**62, (), generator=self.generator))
        before = self.comparisons
        if self.accelerator is None or self.accelerator.num_processes == 1:
            pairs = self._played(rows, seed, t)
        else:
            from accelerate.utils import gather_object

            first, every = self.accelerator.process_index, self.accelerator.num_processes
            mine = self._played(rows[first::every], seed + first, t)
            parts = gather_object([(mine, self.comparisons - before)])
            pairs, self.comparisons = _joined([part for part, _ in parts]), before + sum(asked for _, asked in parts)
        if not len(pairs):
            raise DataError(f"round {t} left no pair of {len(rows)} prompts: no tournament's winner won its last duel; use more prompts.")
        return pairs

    def _played(self, rows: list[int], seed: int, t: int) -> SelfPlayBatch:
        """The pairs of these prompts."""
        s = self.settings
        tokens, luck = torch.Generator(self.policy.device).manual_seed(seed), torch.Generator().manual_seed(seed)
        chunks = [rows[i : i + s.prompts_at_once] for i in range(0, len(rows), s.prompts_at_once)]
        parts = [self._labelled(chunk, tokens, luck) for chunk in chunks]
        chosen, rejected = concatenated([won for won, _ in parts]), concatenated([lost for _, lost in parts])
        ref_chosen, ref_rejected = (self.reference.logprobs(side, max_tokens=s.max_tokens) for side in (chosen, rejected))
        cur_chosen, cur_rejected = (completion_logprobs(self.policy, side, max_tokens=s.max_tokens) for side in (chosen, rejected))
        return SelfPlayBatch(chosen, rejected, ref_chosen, ref_rejected, cur_chosen, cur_rejected, t)

    def _labelled(self, rows: list[int], tokens: torch.Generator, luck: torch.Generator) -> tuple[Completions, Completions]:
        """The winners and losers of a pair a prompt, less those that were not kept."""
        s, k = self.settings, self.settings.draws
        prompts = [self.prompts[row] for row in rows]
        drawn = self.policy.sample(prompts, k, max_new_tokens=s.max_new_tokens, temperature=s.temperature, top_p=s.top_p, generator=tokens)
        pairs = self._selected(rows, self.policy.decode(drawn), luck)
        kept = pairs.kept.nonzero().squeeze(-1)
        return drawn.select((kept * k + pairs.winner[kept]).tolist()), drawn.select((kept * k + pairs.loser[kept]).tolist())

    def _selected(self, rows: list[int], answers: list[str], luck: torch.Generator) -> Pairs:
        """A pair of each prompt's K answers, which stand prompt by prompt."""
        k, b = self.settings.draws, len(rows)

        def duel(first: Tensor, second: Tensor) -> Tensor:
            place = torch.arange(b).unsqueeze(-1) * k
            texts = [self.texts[row] for row in rows for _ in range(first.shape[-1])]
            p = self.preference(texts, _those(answers, place + first), _those(answers, place + second))
            self.comparisons += len(texts)
            return p.view(first.shape)

        match self.settings.selection:
            case "random":
                return random_pair(duel, b, torch.rand(b, generator=luck, dtype=torch.float64))
            case "tournament":
                return tournament(duel, b, k)
            case "best_worst":
                assert self.reward is not None
                self.comparisons += b * k
                return best_worst(self.reward([self.texts[row] for row in rows for _ in range(k)], answers).view(b, k))

    # --- what it says, and its state ----------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float | list[float]]:
        """Of the round that is being learned from."""
        if self.pairs is None:
            return {}
        pairs = self.pairs
        apart = pairs.cur_chosen - pairs.ref_chosen + pairs.cur_rejected - pairs.ref_rejected
        return {
            "train/round": float(pairs.round),
            "train/pairs": float(len(pairs)),
            "train/comparisons": float(self.comparisons),
            "train/chosen_tokens": float(pairs.chosen.completion_lengths.mean()),
            "train/rejected_tokens": float(pairs.rejected.completion_lengths.mean()),
            "train/log_ratio": float(apart.mean() / 2.0),  # of pi_t to the reference: an estimate of its KL where pairs are random
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resume needs, but for the policy."""
        state = {"used": torch.tensor(self.used), "comparisons": torch.tensor(self.comparisons)}
        state["generator"] = self.generator.get_state()
        for name, order in (("prompt_order", self.prompt_order), ("pair_order", self.pair_order)):
            state |= prefixed(name, order.state_dict())
        if self.pairs is not None:
            pairs = self.pairs
            state |= prefixed("chosen", pairs.chosen.packed()) | prefixed("rejected", pairs.rejected.packed())
            state |= {name: getattr(pairs, name) for name in CACHED} | {"round": torch.tensor(pairs.round)}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.used, self.comparisons = int(state["used"]), int(state["comparisons"])
        self.generator.set_state(state["generator"].cpu())
        self.prompt_order.load_state_dict(within("prompt_order", state))
        self.pair_order.load_state_dict(within("pair_order", state))
        self.pairs = None
        if "round" in state:
            chosen, rejected = (Completions.unpacked(within(side, state)) for side in ("chosen", "rejected"))
            ref_chosen, ref_rejected, cur_chosen, cur_rejected = (state[name] for name in CACHED)
            self.pairs = SelfPlayBatch(chosen, rejected, ref_chosen, ref_rejected, cur_chosen, cur_rejected, int(state["round"]))


CACHED = ("ref_chosen", "ref_rejected", "cur_chosen", "cur_rejected")


def _joined(parts: Sequence[SelfPlayBatch]) -> SelfPlayBatch:
    """The pairs of all parts of one round."""
    chosen, rejected = (concatenated([getattr(part, side) for part in parts]) for side in ("chosen", "rejected"))
    ref_chosen, ref_rejected, cur_chosen, cur_rejected = (torch.cat([getattr(part, name) for part in parts]) for name in CACHED)
    return SelfPlayBatch(chosen, rejected, ref_chosen, ref_rejected, cur_chosen, cur_rejected, parts[0].round)


def _those(texts: Sequence[str], places: Tensor) -> list[str]:
    return [texts[i] for i in places.flatten().tolist()]
