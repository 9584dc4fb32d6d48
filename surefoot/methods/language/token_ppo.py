"""PPO on text: the policy's own responses, scored as a whole, with a critic that values every token and the KL inside the reward.

Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593v2, as it is used in DR-PO (arXiv 2404.08495)
and PF-PPO (arXiv 2409.06957). An update is

1. responses of the policy as it is now, with their scores (`source` draws them);
2. log-probabilities of policy and reference and values, token by token; rewards, advantages, returns (`token_losses.py`);
3. some epochs over minibatches of responses: policy loss + value_weight * value loss, one step of the optimiser each.

Policy and critic are two networks in one optimiser, the critic with `critic_rate` times the policy's learning rate; the gradient of each
is clipped by itself. Log-probabilities are those at the temperature that the responses were drawn with (a `top_p` below 1 is not
undone: those of the whole distribution are used, as in OpenRLHF). Departure from DR-PO's code: whitening and losses leave padding out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from surefoot.data.completions import Completions, GroupBatch, Ids, Sequences, micro_batches
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Aligner, Metrics, Tuning, trained
from surefoot.methods.language.generated import Generated, Prefixes, TextReward
from surefoot.methods.language.sampling import Sampling
from surefoot.methods.language.token_losses import Average, RolloutTerms, TokenRollouts, adapted_kl_coef, token_mean, token_weights
from surefoot.policies.language import LanguagePolicy, Reference
from surefoot.policies.token_values import TokenValues


@dataclass(frozen=True)
class TokenPPOConfig(RolloutTerms):
    prompts: int = 512
    """Prompts of an update."""
    responses: int = 1
    """Responses to each prompt."""
    max_new_tokens: int = 53
    """Tokens after which a response is cut off."""
    temperature: float = 0.7
    """Of the responses while training."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have this much probability together."""
    epochs: int = 4
    """Passes over the responses of an update."""
    minibatches: int = 1
    """Optimiser steps of a pass."""
    kl_coef: float = 0.05
    """Weight of the KL to the reference, a nat against a unit of the reward."""
    kl_target: float | None = None
    """KL of a response in nats that the weight is adapted to; if not given it stays."""
    kl_horizon: float = 10_000.0
    """Responses over which it adapts."""
    missing_end: float | None = -1.0
    """Score of a response that did not end; if not given, whatever the reward says."""
    score_limit: float | None = None
    """Scores beyond plus or minus this are cut."""
    value_weight: float = 0.1
    """Weight of the critic's loss."""
    critic_rate: float = 1.0
    """The critic's learning rate as a multiple of the policy's."""
    average: Average = "tokens"
    """Losses are means over all tokens, or over each response's and then over responses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "responses", "max_new_tokens", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("temperature", "kl_horizon", "critic_rate", "kl_target", "score_limit"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigError(f"{name} is {value}: it must be positive and finite.")
        for name in ("kl_coef", "value_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if self.minibatches > self.prompts * self.responses:
            raise ConfigError(f"minibatches is {self.minibatches}: an update has only {self.prompts * self.responses} responses.")
        if self.average not in ("tokens", "responses"):
            raise ConfigError(f"average is {self.average!r}: losses are averaged over 'tokens' or 'responses'.")


class ActorCritic(nn.Module):
    """Policy and critic as one network, so that what spreads networks over processes sees one forward pass."""

    def __init__(self, policy: LanguagePolicy, critic: TokenValues):
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, sequences: Sequences, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of the completions' tokens, `[B, T]` each."""
        return self.policy(sequences, temperature), self.critic(sequences)


class TokenPPO(Aligner):
    """PPO with a critic of the policy's own kind. `steps` counts steps of the optimiser: `epochs * minibatches` an update.

    `critic`: a copy of the policy under a fresh head if not given (`TokenValues.load` makes one of a reward model); `reference`: what
    the policy is now. A method that learns from some of the responses only, or from some more often, overrides `rows`.
    """

    config_class: ClassVar[type] = TokenPPOConfig
    learns_from: ClassVar[Literal["pairs", "scored", "prompts"]] = "prompts"
    config: TokenPPOConfig

    def __init__(
        self,
        policy: LanguagePolicy,
        config: TokenPPOConfig,
        tuning: Tuning,
        total: int,
        *,
        critic: TokenValues | None = None,
        reference: Reference | None = None,
        accelerator: Any = None,
        seed: int = 0,
    ):
        critic = TokenValues.of(policy) if critic is None else critic
        groups: list[dict[str, Any]] = [{"params": trained(policy)}, {"params": trained(critic), "scale": config.critic_rate}]
        both = ActorCritic(policy, critic)
        super().__init__(policy, config, tuning, total, network=both, groups=groups, accelerator=accelerator, seed=seed)
        self.critic, self.reference = critic, Reference(policy) if reference is None else reference
        self.kl_coef = torch.tensor(config.kl_coef, device=policy.device)

    def source(
        self,
        prompts: Sequence[Ids],
        reward: TextReward,
        *,
        texts: Sequence[Any] | None = None,
        prefixes: Prefixes | None = None,
        seed: int = 0,
    ) -> Generated:
        """Batches of fresh responses to `prompts`, drawn and scored as the configuration says."""
        c = self.config
        return Generated(
            self.policy,
            prompts,
            reward,
            Sampling(samples=c.responses, reuse=1),
            texts=texts,
            reference=self.reference,
            batch=c.prompts,
            max_new_tokens=c.max_new_tokens,
            temperature=c.temperature,
            top_p=c.top_p,
            max_tokens=self.tuning.micro_tokens,
            prefixes=prefixes,
            with_reference=False,
            with_old=False,
            accelerator=self.accelerator,
            seed=seed,
        )

    # --- one update ---------------------------------------------------------------------------------------------------

    def update(self, batch: GroupBatch) -> Metrics:
        """All epochs on a batch of responses that the policy has just drawn."""
        completions, c = batch.completions, self.config
        rollouts, seen = self.judged(batch)
        steps = [self._step(completions, rollouts, rows) for rows in self.rows(batch.rewards)]
        if c.kl_target is not None:
            self.kl_coef.copy_(adapted_kl_coef(self.kl_coef, seen["kl"], len(completions), c.kl_target, c.kl_horizon))
        return seen | {name: torch.stack([step[name] for step in steps]).mean(0) for name in steps[0]}

    @torch.no_grad()
    def judged(self, batch: GroupBatch) -> tuple[TokenRollouts, Metrics]:
        """Step 2: what the batch's responses are learned from, `[B N, T]`, and what is to be told about them."""
        completions, c = batch.completions, self.config
        mask, drawn = self._masks(batch)
        logprob, reference, value = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))
        for part in micro_batches(completions.lengths, self.tuning.micro_tokens):
            rows, sequences = torch.tensor(part, device=mask.device), self._padded(completions, part)
            found = (*self._network(sequences, c.temperature), self.reference.token_logprobs(sequences, c.temperature))
            for buffer, x in zip((logprob, value, reference), found, strict=True):
                buffer[rows] = in_columns(x, sequences, mask[rows])
        ended = self._ended(completions)
        score = self._scores(batch.rewards.flatten(), ended).to(mask.device)
        rollouts = TokenRollouts.of(logprob, reference, value, score, mask, drawn, self.kl_coef, c)
        apart = (rollouts.returns - value).square()
        spread = token_mean((rollouts.returns - token_mean(rollouts.returns, mask)).square(), mask)
        return rollouts, {
            "score": score.mean(),
            "ended": ended.float().mean(),
            "kl": ((logprob - reference) * drawn).sum(-1).mean(),  # of what the policy drew itself, a response
            "kl_coef": self.kl_coef.clone(),
            "completion_tokens": mask.sum(-1).float().mean(),
            "trained_tokens": drawn.sum(-1).float().mean(),
            "explained_variance": 1.0 - token_mean(apart, mask) / spread.clamp_min(1e-12),
        }

    def rows(self, rewards: Tensor) -> Iterator[Tensor]:
        """The responses `[b]` of each step, of those whose `rewards` are `[B, N]`: every one once an epoch, in a random order."""
        for _ in range(self.config.epochs):
            order = torch.randperm(rewards.numel(), generator=self.generator, device=self.generator.device)
            yield from order.tensor_split(self.config.minibatches)

    def _step(self, completions: Completions, rollouts: TokenRollouts, rows: Tensor) -> Metrics:
        """Step 3: one step of the optimiser on a minibatch of responses, in as many parts as memory asks for.

        A response that is there several times is computed once and counts as often.
        """
        rows, times = rows.unique(return_counts=True)
        c, chosen, order = self.config, rollouts.select(rows), rows.tolist()
        weights = token_weights(chosen.drawn, c.average, times), token_weights(chosen.mask, c.average, times)

        def loss(part: list[int]) -> tuple[Tensor, Metrics]:
            own = torch.tensor(part, device=rows.device)
            sequences, terms = self._padded(completions, [order[i] for i in part]), chosen.select(own)
            logprob, value = (in_columns(x, sequences, terms.mask) for x in self._network(sequences, c.temperature))
            of_policy, of_critic = terms.losses(logprob, value, c)
            of_policy, of_critic = (of_policy * weights[0][own]).sum(), (of_critic * weights[1][own]).sum()
            moved = (logprob - terms.old_logprob).detach()
            return of_policy + c.value_weight * of_critic, {
                "policy_loss": of_policy,
                "value_loss": of_critic,
                "approx_kl": ((moved.exp() - 1.0 - moved) * weights[0][own]).sum(),  # Schulman's estimate of small variance
                "clipped": ((moved.exp() - 1.0).abs().gt(c.clip) * weights[0][own]).sum(),
            }

        lengths = completions.lengths[order]
        return self.descend(micro_batches(lengths, self.tuning.micro_tokens, multiple_of=self.processes), loss)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _masks(self, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        """Which columns of a response are tokens, and which of those the policy drew itself, `[B N, T]` each."""
        lengths = torch.from_numpy(batch.completions.completion_lengths)
        columns = torch.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        forced = torch.zeros_like(lengths) if batch.forced is None else batch.forced.flatten()
        return mask.to(self.policy.device), (mask & (columns >= forced[:, None])).to(self.policy.device)

    def _ended(self, completions: Completions) -> Tensor:
        """Which responses were not cut off `[B N]`."""
        ends = set(self.policy.ends)
        return torch.tensor([ids[-1] in ends for ids in completions.completions])

    def _scores(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Rewards `[B N]` as PPO takes them."""
        c = self.config
        score = rewards if c.score_limit is None else rewards.clamp(-c.score_limit, c.score_limit)
        return score if c.missing_end is None else torch.where(ended, score, c.missing_end)

    def _padded(self, completions: Completions, rows: Sequence[int]) -> Sequences:
        return completions.select(rows).padded(self.policy.pad, device=self.policy.device)

    def token_logprobs(self, sequences: Sequences, temperature: float = 1.0) -> Tensor:
        return self._network(sequences, temperature)[0]

    def _clip(self) -> Tensor:
        """Policy and critic apart, so that neither's gradient shortens the other's; the policy's length."""
        longest = self.tuning.gradient_clip or math.inf
        clip = nn.utils.clip_grad_norm_ if self.accelerator is None else self.accelerator.clip_grad_norm_
        clip(trained(self.critic), longest)
        return clip(trained(self.policy), longest)


def in_columns(x: Tensor, sequences: Sequences, mask: Tensor) -> Tensor:
    """What stands at the completions' tokens in `x` `[B, width of the sequences]`, in the columns `[B, T]` that `mask` `[B, T]` names."""
    return torch.zeros(mask.shape, device=x.device, dtype=x.dtype).masked_scatter(mask, x[sequences.completion])
