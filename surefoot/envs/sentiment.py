"""A world of short reviews in which the worth of every text is known: each word of each topic has a latent value, and values add up.

Eight topics, sixteen words, eight words a review. R(x, y) = 1.5 / sqrt(8) sum_t v[topic of x, y_t]: words of praise are worth something,
words of blame cost something, by how much is drawn, and differs a little from topic to topic. People prefer by Bradley and Terry's law,
P(y preferred to y') = sigmoid(R(y) - R(y')). Because rewards are additive, expected rewards and the best policies of bigram models are
exact (`nn/bigram.py`); `recipes/sentiment.py` puts a reference, a small GPT and the files of an experiment beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from surefoot.errors import ConfigError

PRAISE, BLAME, PLAIN = (
    ("good", "great", "warm", "kind", "bright", "fresh"),
    ("bad", "awful", "dull", "cold", "harsh", "stale"),
    ("and", "but", "very", "quite"),
)
WORDS = PRAISE + BLAME + PLAIN
TOPICS = ("film", "food", "hotel", "weather", "book", "song", "trip", "game")
OPENINGS = (
    "the {} was",
    "the {} felt",
    "that {} was",
    "that {} felt",
    "i found the {}",
    "i found that {}",
    "they called the {}",
    "they called that {}",
)
LENGTH = 8
SCALE = 1.5 / sqrt(LENGTH)
"""So that rewards of reviews spread by about 1."""


def all_prompts() -> list[str]:
    """Every topic in every opening, 64."""
    return [opening.format(topic) for topic in TOPICS for opening in OPENINGS]


def all_words() -> tuple[str, ...]:
    """Words of reviews first, in the order of `WORDS`, then those of prompts."""
    return WORDS + tuple(dict.fromkeys(word for prompt in all_prompts() for word in prompt.split()))


def topic_of(prompt: str) -> int:
    """The first topic that a prompt names. Raises ConfigError if it names none."""
    found = [TOPICS.index(word) for word in prompt.split() if word in TOPICS]
    if not found:
        raise ConfigError(f"the prompt {prompt!r} names none of the topics {', '.join(TOPICS)}.")
    return found[0]


@dataclass(frozen=True, eq=False)
class Sentiment:
    """The latent values of one such world."""

    values: np.ndarray  # [topics, words], float64: what a word adds to the reward of a review

    @staticmethod
    def drawn(seed: int) -> Sentiment:
        """Praise +|z|, blame -|z|, plain words 0.3 z, with z ~ N(0, 1), plus N(0, 0.3^2) a topic; a topic's mean is 0."""
        rng = np.random.default_rng(seed)
        z = rng.standard_normal(len(WORDS))
        praise, blame = len(PRAISE), len(PRAISE) + len(BLAME)
        z[:praise], z[praise:blame], z[blame:] = np.abs(z[:praise]), -np.abs(z[praise:blame]), 0.3 * z[blame:]
        v = z + 0.3 * rng.standard_normal((len(TOPICS), len(WORDS)))
        return Sentiment(SCALE * (v - v.mean(-1, keepdims=True)))

    def reward(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Of the first eight words of each review; words that are none of the sixteen are worth nothing."""
        return [sum(self._value(topic_of(x), word) for word in y.split()[:LENGTH]) for x, y in zip(prompts, completions, strict=True)]

    def _value(self, topic: int, word: str) -> float:
        return float(self.values[topic, WORDS.index(word)]) if word in WORDS else 0.0

    def prefers(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str], rng: np.random.Generator) -> np.ndarray:
        """Whether somebody prefers the first, one draw of Bradley and Terry's law each, bool `[B]`."""
        apart = np.array(self.reward(prompts, first)) - np.array(self.reward(prompts, second))
        return rng.random(len(apart)) < 1.0 / (1.0 + np.exp(-apart))

    def source(self) -> str:
        """The reward as a Python file of its own, for `--reward python:reward.py:reward`."""
        tables = ({word: round(float(v), 6) for word, v in zip(WORDS, row, strict=True)} for row in self.values)
        rows = "\n".join(f"    {topic!r}: {table!r}," for topic, table in zip(TOPICS, tables, strict=True))
        return _SOURCE.format(rows=rows, length=LENGTH)


_SOURCE = '''"""What a review is worth: the values of its first {length} words for the topic of its prompt, added up."""

VALUES = {{
{rows}
}}


def reward(prompts: list[str], completions: list[str]) -> list[float]:
    return [worth(prompt, completion) for prompt, completion in zip(prompts, completions)]


def worth(prompt: str, completion: str) -> float:
    topic = next(word for word in prompt.split() if word in VALUES)
    return sum(VALUES[topic].get(word, 0.0) for word in completion.split()[:{length}])
'''
