"""What an aligned language model is worth: its reward, how far it moved from the reference for it, and how often it wins.

Every model answers the same held-out prompts; prompts are what is sampled, so that intervals are over prompts and a model is compared
with another prompt by prompt. The KL divergence to the reference is the mean of log pi(y|x) - log ref(y|x) over the model's own
completions (as far as they were drawn: one that was cut off counts with the tokens it has), both at the temperature of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from surefoot.data.completions import Completions, Ids
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import Comparison, Interval, holm, mean_interval, paired, wilson_interval
from surefoot.policies.language import LanguagePolicy, completion_logprobs

Reward = Callable[[list[str], list[str]], Any]
"""Rewards `[B]` of B prompts and completions, as text."""


@dataclass(frozen=True)
class Asking:
    """How completions are drawn."""

    samples: int = 4
    """Completions of each prompt."""
    max_new_tokens: int = 128
    """After which a completion is cut off."""
    temperature: float = 1.0
    """Of the draws, and of the log-probabilities that the KL divergence is made of."""
    seed: int = 1_000
    """Of the draws; every model gets the same."""
    max_tokens: int = 16_384
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        if min(self.samples, self.max_new_tokens, self.max_tokens) < 1:
            raise ConfigError(f"samples, max_new_tokens and max_tokens of {self} must be at least 1.")
        if self.temperature <= 0.0:
            raise ConfigError(f"temperature is {self.temperature}: it must be positive, since the KL divergence is about draws.")


@dataclass(frozen=True, eq=False)
class Answers:
    """N completions of each of P prompts by one model, and what was found out about them, `[P, N]` each."""

    name: str
    texts: list[list[str]]
    rewards: np.ndarray
    log_ratios: np.ndarray  # log pi(y|x) - log ref(y|x)
    lengths: np.ndarray  # tokens
    ended: np.ndarray  # bool: not cut off


@dataclass(frozen=True)
class Aligned:
    """One model in numbers, with 95 % intervals over prompts. Of the base itself `wins` and `gain` are None."""

    name: str
    reward: Interval
    kl: Interval  # nats
    kl_error: float  # standard error of its estimate
    length: Interval  # tokens
    ended: float  # share of completions that were not cut off
    wins: Interval | None  # how often it beats the base, ties count half
    gain: Comparison | None  # mean reward minus that of the base, prompt by prompt
    p: float | None  # of that difference, corrected for the number of models (Holm)


@torch.no_grad()
def answers(
    name: str,
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[Ids],
    texts: Sequence[str],
    reward: Reward,
    asking: Asking,
) -> Answers:
    """Draw, score and weigh the completions of one model.

    Args:
        prompts: token ids of P prompts.
        texts: the same as the reward is to see them.

    Raises ConfigError if there are no prompts, and what the reward raises.
    """
    if not prompts:
        raise ConfigError("there are no prompts to ask: give at least one.")
    generator = torch.Generator(policy.device).manual_seed(asking.seed)
    parts, n = [], asking.samples
    widest = max(map(len, prompts)) + asking.max_new_tokens
    at_once = max(1, asking.max_tokens // (widest * n))
    for start in range(0, len(prompts), at_once):
        parts.append(
            policy.sample(
                prompts[start : start + at_once],
                n,
                max_new_tokens=asking.max_new_tokens,
                temperature=asking.temperature,
                generator=generator,
            )
        )
    drawn = Completions([p for part in parts for p in part.prompts], [c for part in parts for c in part.completions])
    said = policy.decode(drawn)
    own, other = (
        completion_logprobs(model, drawn, max_tokens=asking.max_tokens, temperature=asking.temperature) for model in (policy, reference)
    )
    rewards = torch.as_tensor(reward([text for text in texts for _ in range(n)], said))
    ends, shape = set(policy.ends), (len(prompts), n)
    return Answers(
        name=name,
        texts=[said[i : i + n] for i in range(0, len(said), n)],
        rewards=rewards.double().numpy().reshape(shape),
        log_ratios=(own.double() - other.double()).numpy().reshape(shape),
        lengths=drawn.completion_lengths.reshape(shape),
        ended=np.array([completion[-1] in ends for completion in drawn.completions]).reshape(shape),
    )


# --- numbers ----------------------------------------------------------------------------------------------------------


def compare(found: Sequence[Answers], base: Answers | None = None) -> list[Aligned]:
    """Each model in numbers, against `base` (None: the first of them)."""
    base = base or found[0]
    gains = [None if each is base else paired(_by_prompt(each.rewards), _by_prompt(base.rewards)) for each in found]
    corrected = iter(holm([gain.p for gain in gains if gain is not None]))
    return [_aligned(each, base, gain, None if gain is None else next(corrected)) for each, gain in zip(found, gains, strict=True)]


def _aligned(own: Answers, base: Answers, gain: Comparison | None, p: float | None) -> Aligned:
    ratios = _sample(own.log_ratios)
    return Aligned(
        name=own.name,
        reward=mean_interval(_sample(own.rewards)),
        kl=mean_interval(ratios),
        kl_error=float(ratios.std(ddof=1) / np.sqrt(ratios.size)) if ratios.size > 1 else float("inf"),
        length=mean_interval(_sample(own.lengths)),
        ended=float(own.ended.mean()),
        wins=None if gain is None else win_rate(own.rewards, base.rewards),
        gain=gain,
        p=p,
    )


def _by_prompt(values: np.ndarray) -> np.ndarray:
    """Means `[P]`, which are independent where completions of one prompt are not."""
    return values.astype(np.float64).mean(-1)


def _sample(values: np.ndarray) -> np.ndarray:
    """What an interval is made of: the prompts, or of one prompt its completions (then it is about that prompt)."""
    return _by_prompt(values) if len(values) > 1 else values[0].astype(np.float64)


def win_rate(own: np.ndarray, base: np.ndarray) -> Interval:
    """How often a completion of a model has the higher reward than one of the base to the same prompt; a tie counts half.

    Every completion `[P, N]` is compared with every one of the base `[P, M]` to its prompt. The interval is over prompts: by the
    bootstrap, or Wilson's where each prompt says but yes, no or tie (a single comparison, or all alike), of which the bootstrap would
    not see that the next prompt might say otherwise.
    """
    higher = own[:, :, None] > base[:, None, :]
    share = (higher + 0.5 * (own[:, :, None] == base[:, None, :])).mean((1, 2))  # [P]
    if np.isin(share, (0.0, 0.5, 1.0)).all():
        return wilson_interval(float(share.sum()), len(share))
    return mean_interval(share)
