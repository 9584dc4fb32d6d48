"""PF-PPO: several responses to a prompt, and PPO on those whose reward can be relied on.

Shen and Zhang, "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation", arXiv 2409.06957: the filtered policy mu of section 4,
whose samples are treated as if they were the policy's own (no importance weights). What to keep is decided beforehand by R^2
(`filtration.lines_of`; `surefoot align select`). After the official code (swtheing/PF-PPO-RLHF, its per-prompt version; a later port
takes extremes of the whole batch instead):

1. of each prompt N responses; rewards, values and advantages of all of them, advantages normalised over all (`TokenPPO.judged`)
2. weights of the responses by the rank of their raw reward within the prompt (`filtration.Strategy`)
3. `reweight`: as many minibatches as PPO has, drawn with replacement in proportion to the weights
   `filter`: responses are left out once, the rest is PPO's ordinary pass

Policy and critic see the same minibatches. Departures: best_random is (1/2, 1/(2(N-1)), ...), which the code's 0.4 and 0.1 are for N = 5;
`filter` is there for every strategy (the code has it for best_random), by systematic sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from surefoot.data.completions import GroupBatch
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Metrics
from surefoot.methods.language.filtration import Strategy, filtered, resampled
from surefoot.methods.language.token_losses import Average, TokenRollouts
from surefoot.methods.language.token_ppo import TokenPPO, TokenPPOConfig


@dataclass(frozen=True)
class PFPPOConfig(TokenPPOConfig):
    strategy: Literal["all", "best", "best_worst", "best_random", "pow", "top", "top_bottom", "top_random", "custom"] = "best_random"
    """Which responses to learn from; `surefoot align select` measures which ones can be relied on."""
    mode: Literal["reweight", "filter"] = "reweight"
    """Draw responses in proportion to their weights, or leave out those that do not count."""
    power: float = 2.0
    """pow: a response counts |reward|^power, for rewards around 0."""
    upper: float | None = None
    """top, top_bottom, top_random: rewards above it count (top_random: the others half as much)."""
    lower: float | None = None
    """top_bottom: rewards below it count, too."""
    ranks: tuple[float, ...] = ()
    """custom: weights of the ranks, from the worst response to the best."""
    prompts: int = 256
    """Prompts of an update."""
    responses: int = 5
    """Responses to each prompt."""
    max_new_tokens: int = 512
    """Tokens after which a response is cut off."""
    temperature: float = 1.0
    """Of the responses while training."""
    top_p: float = 0.9
    """Draw among the likeliest tokens that have this much probability together."""
    epochs: int = 1
    """Passes over the responses of an update."""
    minibatches: int = 5
    """Optimiser steps of a pass (256 responses each, as in the paper)."""
    kl_coef: float = 0.01
    """Weight of the KL to the reference, a nat against a unit of the reward."""
    missing_end: float | None = None
    """Score of a response that did not end; if not given, whatever the reward says."""
    score_limit: float | None = 10.0
    """Scores beyond plus or minus this are cut (ranks are those of the raw scores)."""
    value_weight: float = 1.0
    """Weight of the critic's loss."""
    critic_rate: float = 18.0
    """The critic's learning rate as a multiple of the policy's (9e-6 and 5e-7 in the paper)."""
    average: Average = "responses"
    """Losses are means over all tokens, or over each response's and then over responses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("reweight", "filter"):
            raise ConfigError(f"mode is {self.mode!r}: responses are used by 'reweight' or by 'filter'.")
        self.kept.check(self.responses)

    @property
    def kept(self) -> Strategy:
        """The strategy with its settings."""
        return Strategy(self.strategy, self.power, self.upper, self.lower, self.ranks)


class PFPPO(TokenPPO):
    """PPO on filtered responses. With one response a prompt there is nothing to rank, and it is PPO bit for bit."""

    config_class: ClassVar[type] = PFPPOConfig
    config: PFPPOConfig

    def rows(self, rewards: Tensor) -> Iterator[Tensor]:
        """The responses `[b]` of each step, of those whose raw `rewards` are `[B, N]`."""
        c = self.config
        if rewards.shape[-1] == 1:
            yield from super().rows(rewards)
            return
        weights = c.kept.weights(rewards.to(self.generator.device))
        kept = filtered(weights, self.generator) if c.mode == "filter" else None
        for _ in range(c.epochs):
            if kept is None:
                order = resampled(weights.flatten(), rewards.numel(), self.generator)
            else:
                order = kept[torch.randperm(len(kept), generator=self.generator, device=kept.device)]
            yield from order.tensor_split(min(c.minibatches, len(order)))

    def judged(self, batch: GroupBatch) -> tuple[TokenRollouts, Metrics]:
        """What `TokenPPO` says, and the mean score of what is learned from."""
        rollouts, seen = super().judged(batch)
        weights = self.config.kept.weights(batch.rewards)
        return rollouts, seen | {"kept_score": (weights * batch.rewards).sum() / weights.sum()}
