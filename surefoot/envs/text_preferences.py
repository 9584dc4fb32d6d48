"""Which of two completions is preferred, as a probability: what labels the pairs of a policy that plays against itself.

    preference(prompts, first, second) -> P(first is preferred to second), [B]

All three are lists of B strings, as rewards are asked (`text_rewards`). A preference need not come from a reward: three completions may
beat each other in a circle. It is made of a reward (`BradleyTerry`), of a classifier of Hugging Face's format that reads both completions
(`PairClassifier`), or is a function of yours; each is asked through `checked_preference`, which says at which pair it failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.classifiers import Classifier, load_classifier
from surefoot.envs.text_rewards import TextReward, asked, checked, messages
from surefoot.errors import ConfigError, DataError
from surefoot.own_code import python_object

Preference: TypeAlias = Callable[[list[str], list[str], list[str]], Any]
"""Prompts `[B]`, first and second completions `[B]` to B probabilities that the first is preferred: a list, an array or a tensor."""


# --- whatever gives it ------------------------------------------------------------------------------------------------


class CheckedPreference:
    """A preference that answers with float64 probabilities `[B]` on the CPU, or says for which pair it did not.

    Raises DataError where it raises, or gives something else than one number from 0 to 1 each.
    """

    def __init__(self, preference: Preference, name: str):
        self.preference, self.name = preference, name

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        pairs = list(prompts), list(first), list(second)
        if not pairs[0]:
            return torch.zeros(0, dtype=torch.float64)
        return self._numbers(asked(self.preference, self.name, pairs, lambda i: _which(i, pairs)), pairs)

    def _numbers(self, given: Any, pairs: tuple[list[str], ...]) -> Tensor:
        n = len(pairs[0])
        try:
            p = given.detach().cpu().double() if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, np.float64))
        except (TypeError, ValueError):
            raise DataError(f"{self.name} gave a {type(given).__name__} for {n} pairs: it must give one probability for each.") from None
        if p.shape != (n,):
            raise DataError(f"{self.name} gave shape {tuple(p.shape)} for {n} pairs: it must give one probability for each, ({n},).")
        bad = (~((p >= 0.0) & (p <= 1.0))).nonzero().flatten().tolist()  # NaN too
        if bad:
            raise DataError(f"{self.name} gave {float(p[bad[0]])} for {_which(bad[0], pairs)}: a probability lies between 0 and 1.")
        return p


def checked_preference(preference: Preference, name: str | None = None) -> CheckedPreference:
    """`preference`, whose answers are checked; `name` stands in what is said of it."""
    if isinstance(preference, CheckedPreference):
        return preference
    return CheckedPreference(preference, name or f"the preference {getattr(preference, '__name__', type(preference).__name__)}")


def _which(i: int, pairs: tuple[list[str], ...]) -> str:
    prompt, first, second = (repr(texts[i] if len(texts[i]) <= 60 else f"{texts[i][:59]}…") for texts in pairs)
    return f"pair {i} of {len(pairs[0])} ({first} against {second} to the prompt {prompt})"


# --- from a reward ----------------------------------------------------------------------------------------------------


class BradleyTerry:
    """P(first > second) = sigmoid((r(first) - r(second)) / scale), which draws no circles.

    Raises ConfigError for a scale that is not positive; `reward` is asked through `text_rewards.checked`.
    """

    def __init__(self, reward: TextReward, scale: float = 1.0):
        if not 0.0 < scale < float("inf"):
            raise ConfigError(f"the scale of rewards is {scale}: it must be positive (a lead of it is preferred with 73 %).")
        self.reward, self.scale = checked(reward), scale

    def __call__(self, prompts: list[str], first: list[str], second: list[str]) -> Tensor:
        a, b = self.reward(prompts + prompts, first + second).double().chunk(2)
        return torch.sigmoid((a - b) / self.scale)


# --- from a judge of pairs --------------------------------------------------------------------------------------------


class BothOrders:
    """A judge asked twice, (P(a > b) + 1 - P(b > a)) / 2: without its taste for the first or second place, and antisymmetric."""

    def __init__(self, preference: Preference):
        self.preference = checked_preference(preference)

    def __call__(self, prompts: list[str], first: list[str], second: list[str]) -> Tensor:
        a, b = self.preference(prompts + prompts, first + second, second + first).chunk(2)
        return 0.5 * (a + 1.0 - b)


@dataclass(frozen=True)
class PairOptions:
    """How a classifier reads a pair, and which of its answers means that the first is preferred."""

    template: str = "{prompt}\n\nResponse A: {first}\n\nResponse B: {second}"
    """What it reads; it must have been trained on this layout. Conversations are laid out as lines of `role: content`."""
    label: str | None = None
    """The class that prefers the first, by name or number, where there are two; a single score is the first's logit."""
    one_order: bool = False
    """Ask once, in the order as it is, instead of in both orders."""
    truncate: bool = False
    """Cut off the beginning of a text that is longer than the classifier's context; else it is an error."""

    def __post_init__(self) -> None:
        missing = [name for name in ("{prompt}", "{first}", "{second}") if name not in self.template]
        if missing:
            raise ConfigError(f"the template of the pair classifier lacks {missing[0]}: it must name {{prompt}}, {{first}} and {{second}}.")


class PairClassifier:
    """P(first > second) by a sequence classifier that reads the prompt with both completions in one text.

    Raises ConfigError for a classifier of more than two classes, or of two without a label.
    """

    def __init__(self, classifier: Classifier, options: PairOptions | None = None):
        self.classifier, self.options = classifier, options or PairOptions()
        n, label = len(classifier.labels), self.options.label
        if n > 2:
            raise ConfigError(f"{classifier.source} has {n} classes: a judge of pairs has a score, or one class for each of the two.")
        if n == 2 and label is None:
            named = " or ".join(classifier.labels)
            raise ConfigError(f"{classifier.source} has two classes: say which means that the first is preferred (label), {named}.")
        self.index = 0 if label is None else classifier.label(label)
        if self.options.truncate:
            classifier.tokenizer.truncation_side = "left"

    def __call__(self, prompts: list[str], first: list[str], second: list[str]) -> Tensor:
        context = self.classifier.context
        cut: dict[str, Any] = {"truncation": True, "max_length": context} if self.options.truncate and context else {}
        texts = [self._laid_out(*row) for row in zip(prompts, first, second, strict=True)]
        logits = self.classifier.logits(self.classifier.tokenizer(texts, **cut))
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(-1)[:, self.index]

    def _laid_out(self, prompt: str, first: str, second: str) -> str:
        """The template, filled in at once so that braces in a text stay what they are."""
        said = messages(prompt)
        plain = prompt if said is None else "\n".join(f"{each['role']}: {each['content']}" for each in said)
        texts = {"prompt": plain, "first": first, "second": second}
        return re.sub(r"\{(prompt|first|second)\}", lambda found: texts[found[1]], self.options.template)


# --- by name ----------------------------------------------------------------------------------------------------------


def load_preference(
    ref: str,
    options: PairOptions | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_tokens: int = 16_384,
    trust: bool = False,
) -> CheckedPreference:
    """The preference that a command line names, checked.

    - `python:MODULE:NAME` or `python:FILE.py:NAME`: a function of prompts, first and second completions.
    - a folder or Hugging Face id of a sequence classifier that reads both completions, as `options` say.

    Raises ConfigError where there is nothing of the kind, or `options` do not fit it.
    """
    if ref.startswith("python:"):
        if options is not None and options != PairOptions():
            raise ConfigError(f"{ref} is a function, which takes no template or label: those are for classifiers.")
        found = python_object(ref, example="my_judge:prefers")
        if isinstance(found, type) or not callable(found):
            raise ConfigError(f"{ref} is a {type(found).__name__}: give a function of prompts, first and second completions.")
        return checked_preference(found, f"the preference {ref}")
    judge = PairClassifier(load_classifier(ref, device=device, dtype=dtype, max_tokens=max_tokens, trust=trust), options)
    return checked_preference(judge if judge.options.one_order else BothOrders(judge), f"the preference {ref}")
