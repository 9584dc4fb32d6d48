"""The world of short reviews (`envs/sentiment.py`) as an experiment: a bigram reference, a GPT trained on it, and files to align with.

What is exact: of any bigram policy the expected reward, the KL to the reference and the best trade-off between them. Of a GPT all of it is
estimated from its own samples, with an interval over prompts. The GPT is trained from scratch on samples of the bigram reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.completions import Ids
from surefoot.envs.sentiment import LENGTH, TOPICS, WORDS, Sentiment, all_prompts, all_words, topic_of
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import Interval, mean_interval
from surefoot.files import replacing_folder
from surefoot.nn.bigram import Bigram, optimal_value, random_logits, tilted
from surefoot.policies.language import LanguagePolicy, Reference

SHIFT = 0.5
"""How much topics differ: the spread of what a topic adds to a word's logit."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reviews:
    """Latent values and a reference that writes reviews; `reference` has a copy a topic, `[topics, L, V + 1, V]`."""

    sentiment: Sentiment
    reference: Bigram

    @staticmethod
    def drawn(seed: int) -> Reviews:
        """Position-dependent N(0, 1) bigram logits that all topics share, plus N(0, 0.5^2) a topic and word."""
        generator = torch.Generator().manual_seed(seed)
        shared = random_logits(LENGTH, len(WORDS), generator=generator, dtype=torch.float64)
        shift = SHIFT * torch.randn(len(TOPICS), 1, 1, len(WORDS), generator=generator, dtype=torch.float64)
        return Reviews(Sentiment.drawn(seed), Bigram(shared + shift).requires_grad_(False))

    # --- exact, of bigram policies with a copy a topic; means over topics ---------------------------------------------

    @property
    def values(self) -> Tensor:
        """What each word adds to the reward, `[topics, 1, V]`."""
        return torch.from_numpy(self.sentiment.values).unsqueeze(1)

    def expected(self, policy: Bigram) -> float:
        """E[R]."""
        return float(policy.expected(self.values).mean().detach())

    def kl(self, policy: Bigram) -> float:
        """KL(policy || reference), nats a review."""
        return float(policy.kl(self.reference).mean().detach())

    def best(self, beta: float) -> tuple[Bigram, float]:
        """The policy that maximises E[R] - beta KL, and that maximum."""
        return tilted(self.reference, self.values, beta), float(optimal_value(self.reference, self.values, beta).mean())

    # --- samples --------------------------------------------------------------------------------------------------------

    def written(self, prompts: Sequence[str], generator: torch.Generator) -> list[str]:
        """One review of the reference for each prompt."""
        topics = torch.tensor([topic_of(prompt) for prompt in prompts])
        so_far = torch.nn.functional.one_hot(topics, len(TOPICS)).cumsum(0)  # [n, topics]
        drawn = self.reference.sample(int(so_far[-1].max()), generator)  # [topics, most, L]
        turn = so_far.gather(1, topics[:, None]).squeeze(1) - 1
        return [" ".join(WORDS[w] for w in row) for row in drawn[topics, turn].tolist()]

    def pairs(self, n: int, seed: int) -> Iterator[Row]:
        """n pairs of different reviews, `prompt, chosen, rejected` by Bradley and Terry's law; prompts in turn."""
        prompts, generator, rng = _in_turn(n), torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        first, second = self.written(prompts, generator), self.written(prompts, generator)
        while same := [i for i in range(n) if first[i] == second[i]]:
            for i, again in zip(same, self.written([prompts[i] for i in same], generator), strict=True):
                second[i] = again
        for x, one, other, won in zip(prompts, first, second, self.sentiment.prefers(prompts, first, second, rng), strict=True):
            yield {"prompt": x, "chosen": one if won else other, "rejected": other if won else one}

    def scored(self, n: int, seed: int) -> Iterator[Row]:
        """n reviews with their rewards, `prompt, completion, score`; prompts in turn."""
        prompts = _in_turn(n)
        reviews = self.written(prompts, torch.Generator().manual_seed(seed))
        for x, y, score in zip(prompts, reviews, self.sentiment.reward(prompts, reviews), strict=True):
            yield {"prompt": x, "completion": y, "score": round(score, 6)}


def _in_turn(n: int) -> list[str]:
    every = all_prompts()
    return [every[i % len(every)] for i in range(n)]


# --- the GPT ----------------------------------------------------------------------------------------------------------


def reviewer(reviews: Reviews, seed: int, *, steps: int = 1500, batch: int = 64) -> tuple[LanguagePolicy, float]:
    """A GPT of 2 layers, width 64, trained from scratch on fresh samples of the reference; the policy, and its loss a token at the end."""
    from surefoot.envs.small_gpt import small_gpt, train_gpt, word_tokenizer

    tokenizer = word_tokenizer(all_words())
    prompts = _in_turn(steps * batch)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
    prompts = [prompts[i] for i in order.tolist()]
    texts = reviews.written(prompts, torch.Generator().manual_seed(seed))
    ids: list[list[Ids]] = [tokenizer(rows, add_special_tokens=False)["input_ids"] for rows in (prompts, texts)]
    ended = [[*review, int(tokenizer.eos_token_id)] for review in ids[1]]
    model = small_gpt(tokenizer, layers=2, width=64, seed=seed)
    loss = train_gpt(model, ids[0], ended, steps=steps, batch=batch, seed=seed)
    return LanguagePolicy(model, tokenizer), loss


@dataclass(frozen=True)
class Judged:
    """What a language policy's own samples say of it: means over prompts with 95 % intervals."""

    reward: Interval
    kl: Interval  # to the reference, nats a review


def judged(policy: LanguagePolicy, reference: Reference, sentiment: Sentiment, *, each: int = 8, seed: int = 0) -> Judged:
    """Of `each` reviews of every prompt. The KL is the mean of log pi - log ref over them, which is unbiased."""
    from surefoot.policies.language import completion_logprobs

    texts = all_prompts()
    prompts: list[Ids] = policy.tokenizer(texts, add_special_tokens=False)["input_ids"]
    generator = torch.Generator(policy.device).manual_seed(seed)
    drawn = policy.sample(prompts, each, max_new_tokens=LENGTH + 1, generator=generator)
    reward = np.array(sentiment.reward([x for x in texts for _ in range(each)], policy.decode(drawn)))
    apart = completion_logprobs(policy, drawn, max_tokens=16_384) - reference.logprobs(drawn, max_tokens=16_384)
    by_prompt = (x.reshape(len(texts), each).mean(-1) for x in (reward, apart.double().numpy()))
    return Judged(*map(mean_interval, by_prompt))


# --- files ------------------------------------------------------------------------------------------------------------


def make_sentiment(
    folder: Path | str,
    seed: int = 0,
    *,
    pairs: int = 4096,
    scored: int = 4096,
    steps: int = 1500,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the whole experiment to `folder`: model/, prefs.jsonl, scored.jsonl, prompts.jsonl, reward.py and README.md; returns facts.

    The folder appears whole, or not at all. Raises ConfigError if it exists, or for numbers below 1 or a negative seed.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name another folder.")
    if seed < 0 or min(pairs, scored, steps) < 1:
        raise ConfigError(f"seed is {seed}, pairs {pairs}, scored {scored}, steps {steps}: a seed is not negative, numbers are at least 1.")
    reviews = Reviews.drawn(seed)
    say(f"a GPT of 2 layers learns to write reviews: {steps:,} steps")
    policy, loss = reviewer(reviews, seed, steps=steps)
    own = judged(policy, Reference(policy), reviews.sentiment, seed=seed)
    facts = {
        "seed": seed,
        "pairs": pairs,
        "scored": scored,
        "prompts": len(all_prompts()),
        "reference reward": reviews.expected(reviews.reference),
        "best reward, beta 0.5": reviews.expected(reviews.best(0.5)[0]),
        "KL of the best, beta 0.5": reviews.kl(reviews.best(0.5)[0]),
        "GPT reward": own.reward.value,
        "GPT reward, 95 %": [own.reward.low, own.reward.high],
        "GPT loss a token": loss,
        "reference entropy a token": float(reviews.reference.entropy().mean()) / (LENGTH + 1),
    }
    with replacing_folder(folder) as new:
        policy.save(new / "model")
        _write_rows(new / "prefs.jsonl", reviews.pairs(pairs, seed + 1))
        _write_rows(new / "scored.jsonl", reviews.scored(scored, seed + 2))
        _write_rows(new / "prompts.jsonl", ({"prompt": prompt} for prompt in all_prompts()))
        (new / "reward.py").write_text(reviews.sentiment.source(), encoding="utf-8")
        (new / "README.md").write_text(_about(facts), encoding="utf-8")
    return facts


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _about(facts: Mapping[str, Any]) -> str:
    low, high = facts["GPT reward, 95 %"]
    return f"""# Short reviews

Made by `surefoot data make sentiment`, seed {facts["seed"]}. Reviews of eight words answer {facts["prompts"]} prompts about eight topics;
every word has a latent value, and a review is worth the sum.

| file | what it is |
| --- | --- |
| `model/` | a GPT of 2 layers that writes such reviews (an ordinary Hugging Face folder) |
| `prefs.jsonl` | {facts["pairs"]:,} pairs of reviews, `prompt, chosen, rejected`, by Bradley and Terry's law on the reward |
| `scored.jsonl` | {facts["scored"]:,} reviews, `prompt, completion, score`, the score being the reward |
| `prompts.jsonl` | the prompts |
| `reward.py` | the reward: `--reward python:reward.py:reward` |

What is known: the reference that the GPT learned from earns {facts["reference reward"]:.3f} on average, exactly; the GPT
{facts["GPT reward"]:.3f} [{low:.3f}, {high:.3f}]. The best bigram policy at beta 0.5 earns
{facts["best reward, beta 0.5"]:.3f}, with a KL of {facts["KL of the best, beta 0.5"]:.2f} nats a review.
"""
