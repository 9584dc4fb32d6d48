"""The sequence panel of the on-policy claim: the bandit's actions as tokens, nine in a row, written by a small GPT.

A prompt is one token, the context; the reward is the mean over nine new tokens of the misaligned bump, the reference draws every token
by the bandit's law. The GPT is first trained on the reference's sequences; then best-of-N and IPO learn from it, on the reference's
samples or its own, with the learner and the source of `surefoot align` (`GroupAligner`, `Generated`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from surefoot.claims.base import derived
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.didactic_bandit import ACTIONS, CENTRES, bump, reference_logprobs
from surefoot.methods.language.generated import Generated
from surefoot.methods.language.on_policy_preferences import GroupAligner, Loss, OnPolicyPreferencesConfig
from surefoot.methods.language.sampling import Sampling
from surefoot.policies.language import LanguagePolicy, Reference

LENGTH, CONTEXTS = 9, 100
DRAWS, REUSE, BATCH = 40, 5, 25
"""Draws of 25 contexts with 10 responses each, five steps on each draw."""


@dataclass(frozen=True)
class SequenceTask:
    """One arm on one seed."""

    arm: str
    seed: int
    draws: int = DRAWS
    warm_up: int = 300  # steps of the GPT on the reference's sequences


LOSSES: tuple[Loss, ...] = ("bon", "ipo")
ARMS = {f"{loss} {'on-policy' if own else 'offline'}": (loss, own) for loss in LOSSES for own in (False, True)}


def sequence_reward(task: SequenceTask) -> float:
    """Mean reward of 1,000 sequences of the trained policy."""
    from surefoot.envs.small_gpt import word_tokenizer

    tokenizer = word_tokenizer([str(action) for action in range(ACTIONS)])
    policy = LanguagePolicy(_starting(tokenizer, task), tokenizer)
    loss, own = ARMS[task.arm]
    sampling = Sampling(on_policy=own, samples=10, reuse=REUSE)
    config = OnPolicyPreferencesConfig(loss, sampling)
    prompts = [[token] for token in range(CONTEXTS)]
    tuning = Tuning(lr=1e-3, schedule="constant", warmup=0.0)
    learner = GroupAligner(policy, config, tuning, task.draws * REUSE)
    source = Generated(
        policy, prompts, bumps, sampling, reference=Reference(policy), batch=BATCH, max_new_tokens=LENGTH, seed=derived(task.seed, "draws")
    )
    for _ in range(task.draws * REUSE):
        learner.update(next(source))
    judge = replace(sampling, on_policy=True, reuse=1)
    fresh = Generated(
        policy, prompts, bumps, judge, batch=CONTEXTS, max_new_tokens=LENGTH, with_reference=False, with_old=False,
        seed=derived(task.seed, "evaluation"),
    )  # fmt: skip
    return float(next(fresh).rewards.mean())


def bumps(prompts: list[str], completions: list[str]) -> list[float]:
    """Mean over nine tokens of the misaligned bump; what is no action is worth nothing."""
    table = bump(CENTRES["R1"]).tolist()
    return [sum(table[int(word)] for word in text.split() if word.isdigit()) / LENGTH for text in completions]


def _starting(tokenizer: object, task: SequenceTask) -> torch.nn.Module:
    """A GPT of 2 layers, width 48, that draws tokens as the reference does."""
    from surefoot.envs.small_gpt import small_gpt, train_gpt

    generator = torch.Generator().manual_seed(derived(task.seed, "data"))
    n = 64 * task.warm_up
    tokens = torch.multinomial(reference_logprobs().exp().expand(n, -1), LENGTH, replacement=True, generator=generator)
    prompts = torch.randint(CONTEXTS, (n, 1), generator=generator)
    seed = derived(task.seed, "training")
    model = small_gpt(tokenizer, layers=2, width=48, heads=3, context=16, seed=seed)
    train_gpt(model, prompts.tolist(), tokens.tolist(), steps=task.warm_up, batch=64, seed=seed)
    return model
