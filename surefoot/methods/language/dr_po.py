"""DR-PO: PPO whose responses begin, now and then, where a response of the data set has got to already.

Chang et al., "Dataset Reset Policy Optimization for RLHF", 2024, arXiv 2404.08495; official code: Cornell-RL/drpo. Text can be reset: a
share of the roll-outs starts with a random prefix of a response that people preferred, and the policy finishes it. Only what the policy
drew itself is trained (`drawn`), though the log-probabilities, KL and values of the prefix are computed as usual and enter whitening and
critic. Everything else is PPO: no further network, the same compute.

With a reset in every roll-out (reset_prob 1, the paper's Table 5) the first token of a response is never trained; the default here is
0.5. Prefixes come from whatever responses are given: preferred ones (never rejected ones), human references, samples of the SFT policy.
Where there are none the reference can play the first tokens (the paper's PPO++). The form for finite worlds, with its natural policy
gradient, is `methods/exact/dataset_reset.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from surefoot.data.completions import Ids
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.generated import Generated, Prefixes, TextReward
from surefoot.methods.language.token_ppo import TokenPPO, TokenPPOConfig


@dataclass(frozen=True)
class DRPOConfig(TokenPPOConfig):
    reset_prob: float = 0.5
    """Share of the roll-outs that start from a prefix (0: PPO; 1: as in the paper, and the first token is never trained)."""
    reset_source: Literal["data", "reference"] = "data"
    """Whose prefixes: those of the responses given, or the reference's own (PPO++)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.reset_prob <= 1.0:
            raise ConfigError(f"reset_prob is {self.reset_prob}: the share of roll-outs that start from the data lies between 0 and 1.")
        if self.reset_source not in ("data", "reference"):
            raise ConfigError(f"reset_source is {self.reset_source!r}: prefixes come from 'data' or 'reference'.")


# --- resets -----------------------------------------------------------------------------------------------------------


def reset_lengths(lengths: Tensor, reset_prob: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """How many tokens of a response of n tokens are taken over, `[..., B]` int64 of `lengths` `[..., B]`.

    With probability `reset_prob` uniform on 1 .. n - 1, otherwise 0, and 0 where n < 2: at least one token is the policy's. `reset_prob`
    is a number, or a tensor that broadcasts (copies with shares of their own). With the number 0 nothing is drawn, so that what
    follows is PPO's to the last bit. Raises ConfigError for a share outside [0, 1].
    """
    share = torch.as_tensor(reset_prob, device=lengths.device)
    if not bool(((share >= 0.0) & (share <= 1.0)).all()):
        raise ConfigError(f"reset_prob is {reset_prob}: the share of roll-outs that start from the data lies between 0 and 1.")
    if not bool(share.any()):
        return torch.zeros_like(lengths)
    whether, where = torch.rand(2, *lengths.shape, generator=generator, device=lengths.device, dtype=torch.float64)
    most = (lengths - 1).clamp_min(0)
    k = torch.minimum((where * most).long() + 1, most)
    return torch.where(whether < share, k, 0)


def prefixes_of(
    responses: Sequence[Sequence[Ids]], each: int, reset_prob: float, ends: Sequence[int], most: int, generator: torch.Generator
) -> list[Ids]:
    """Prefixes for `each` completions a prompt, prompt by prompt; empty where there is no reset.

    `responses[i]` are those of prompt i, of which one is drawn for each completion (none: no reset). A response counts up to its
    first end token, or to `most` tokens, so that a prefix is never complete.
    """
    chosen: list[Ids] = []
    for own in responses:
        picks = torch.randint(max(len(own), 1), (each,), generator=generator) if len(own) > 1 else torch.zeros(each, dtype=torch.int64)
        chosen += [_up_to_end(own[i], ends, most) if own else [] for i in picks.tolist()]
    k = reset_lengths(torch.tensor([len(ids) for ids in chosen]), reset_prob, generator)
    return [ids[:n] for ids, n in zip(chosen, k.tolist(), strict=True)]


def _up_to_end(ids: Ids, ends: Sequence[int], most: int) -> Ids:
    """The tokens up to the first end token, which is the last of them; at most `most`."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[: min(stop, most)])


# --- method -----------------------------------------------------------------------------------------------------------


class DRPO(TokenPPO):
    """PPO with data-set resets. `source` draws roll-outs that are reset; what they were given, the policy loss leaves out."""

    config_class: ClassVar[type] = DRPOConfig
    config: DRPOConfig

    def source(
        self,
        prompts: Sequence[Ids],
        reward: TextReward,
        *,
        texts: Sequence[Any] | None = None,
        prefixes: Prefixes | None = None,
        responses: Sequence[Sequence[Ids]] | None = None,
        seed: int = 0,
    ) -> Generated:
        """Batches of fresh responses, a share of which begins with a prefix of one of the prompt's own `responses` (token ids).

        Raises DataError where responses are needed and there are none, or not those of each prompt.
        """
        if prefixes is None and self.config.reset_prob > 0.0:
            prefixes = self._data_prefixes(prompts, responses) if self.config.reset_source == "data" else self._reference_prefixes(prompts)
        return super().source(prompts, reward, texts=texts, prefixes=prefixes, seed=seed)

    def _data_prefixes(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]] | None) -> Prefixes:
        if responses is None or not any(any(own) for own in responses):
            raise DataError("there is no response to reset to: give responses (preferred ones), or set reset_source to 'reference'.")
        if len(responses) != len(prompts):
            raise DataError(f"there are responses to {len(responses)} prompts, but {len(prompts)} prompts: give a list for each prompt.")

        def draw(rows: list[int], generator: torch.Generator) -> list[Ids]:
            return self._prefixes([responses[row] for row in rows], generator)

        return draw

    def _reference_prefixes(self, prompts: Sequence[Ids]) -> Prefixes:
        """Prefixes of responses that the reference draws anew each time."""

        def draw(rows: list[int], generator: torch.Generator) -> list[Ids]:
            c, whose = self.config, self.reference.policy
            seed = int(torch.randint(2**31, (), generator=generator))
            own = torch.Generator(self.policy.device).manual_seed(seed)
            drawing: dict[str, Any] = {"max_new_tokens": c.max_new_tokens, "temperature": c.temperature, "top_p": c.top_p}
            with whose.reference() if whose.adapted else nullcontext(whose) as reference:
                played = reference.sample([prompts[row] for row in rows], c.responses, generator=own, **drawing)
            return self._prefixes([[ids] for ids in played.completions], generator, each=1)

        return draw

    def _prefixes(self, responses: Sequence[Sequence[Ids]], generator: torch.Generator, each: int | None = None) -> list[Ids]:
        c = self.config
        return prefixes_of(responses, each or c.responses, c.reset_prob, self.policy.ends, c.max_new_tokens, generator)
