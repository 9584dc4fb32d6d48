"""Rewards of whole completions: a Python function, or a classifier of Hugging Face's format, and what is asked of either.

    reward(prompts, completions) -> one number for each, [B]

Both are lists of B strings: the prompt as it stands in the data (the JSON of its messages, if it is a conversation) and the completion
without special tokens. Every reward is asked through `checked`, which says at which completion it failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.classifiers import Classifier, Encoded, load_classifier
from surefoot.errors import ConfigError, DataError, SurefootError
from surefoot.own_code import python_object

TextReward: TypeAlias = Callable[[list[str], list[str]], Any]
"""Prompts `[B]` and completions `[B]` to B numbers: a list, an array or a tensor."""

Form = Literal["auto", "text", "pair", "chat", "tokens"]
Scale = Literal["logit", "probability"]


# --- whatever gives it ------------------------------------------------------------------------------------------------


class Checked:
    """A reward that answers with finite float32 numbers `[B]` on the CPU, or says for which completion it did not.

    Raises DataError where the reward raises, gives something else than one number each, or NaN or infinity.
    """

    def __init__(self, reward: TextReward, name: str):
        self.reward, self.name = reward, name

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        prompts, completions = list(prompts), list(completions)
        if len(prompts) != len(completions):
            raise DataError(
                f"{self.name} was asked about {len(completions)} completions of {len(prompts)} prompts: give one prompt for each."
            )
        if not prompts:
            return torch.zeros(0)
        given = asked(self.reward, self.name, (prompts, completions), lambda i: _which(i, prompts, completions))
        return self._numbers(given, prompts, completions)

    def _numbers(self, given: Any, prompts: list[str], completions: list[str]) -> Tensor:
        n = len(prompts)
        try:
            values = given.detach().cpu() if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, np.float64))
            values = values.to(torch.float32)
        except (TypeError, ValueError):
            raise DataError(f"{self.name} gave {_short(repr(given))} for {n} completions: it must give one number for each.") from None
        if values.shape != (n,):
            raise DataError(f"{self.name} gave shape {tuple(values.shape)} for {n} completions: it must give one number for each, ({n},).")
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise DataError(
                f"{self.name} gave {values[bad[0]].item()} for {_which(bad[0], prompts, completions)}: it must be a finite number."
            )
        return values


def asked(function: Callable[..., Any], name: str, columns: Sequence[list[str]], which: Callable[[int], str]) -> Any:
    """What a user's function answers about rows of texts, `columns` of B strings each.

    Raises DataError with `which(i)` for the first row that it raises for, found by asking about one at a time; SurefootErrors pass.
    """
    try:
        return function(*columns)
    except SurefootError:
        raise  # a sentence of its own
    except Exception as error:  # it is somebody else's, and raises what it likes
        for i, row in enumerate(zip(*columns, strict=True)):
            try:
                function(*([text] for text in row))
            except Exception as own:  # likewise
                raise DataError(f"{name} raises {_said(own)} for {which(i)}.") from own
        n = len(columns[0])
        raise DataError(f"{name} raises {_said(error)} for {n} rows at once, though for none of them alone.") from error


def checked(reward: TextReward, name: str | None = None) -> Checked:
    """`reward`, whose answers are checked; `name` stands in what is said of it."""
    if isinstance(reward, Checked):
        return reward
    return Checked(reward, name or f"the reward {getattr(reward, '__name__', type(reward).__name__)}")


def _which(i: int, prompts: list[str], completions: list[str]) -> str:
    return f"completion {i} of {len(prompts)} ({_short(repr(completions[i]))} to the prompt {_short(repr(prompts[i]))})"


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _said(error: Exception) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__} ({_short(words[0].rstrip('.'), 200)})" if words else type(error).__name__


# --- classifiers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierOptions:
    """How a classifier's answer becomes a reward."""

    label: str | None = None
    """Whose score it is, by name or number, where there are several classes (POSITIVE)."""
    scale: Scale = "logit"
    """The score as it is, or as a probability in [0, 1]."""
    form: Form = "auto"
    """What the classifier reads: prompt and completion as one text, as a pair of texts, as a conversation (its chat template), or as
    tokens (as the policy reads them, with an end token). auto: what it was saved with; else, of reward models (one score), the
    conversation if there is a template, a pair if the tokenizer can separate one; else one text."""
    truncate: bool = False
    """Cut off the beginning of a text that is longer than the classifier's context; else it is an error."""


class ClassifierReward:
    """The score that a sequence classifier gives to a completion of a prompt.

    A reward model that Surefoot trained (`methods.language.reward_model`) says in its config how it reads, and which bias makes the
    reference score 0 on average; it is subtracted.
    """

    def __init__(self, classifier: Classifier, options: ClassifierOptions | None = None):
        self.classifier, self.options = classifier, options or ClassifierOptions()
        own = getattr(classifier.model.config, "surefoot_reward", None) or {}
        self.bias = float(own.get("bias", 0.0))
        self.index = self._index()
        self.form = self._form(own) if self.options.form == "auto" else self.options.form
        if self.form == "chat" and not classifier.tokenizer.chat_template:
            raise ConfigError(f"the tokenizer of {classifier.source} has no chat template: let it read the form text or pair.")
        if self.options.truncate:
            classifier.tokenizer.truncation_side = "left"

    def __call__(self, prompts: list[str], completions: list[str]) -> Tensor:
        logits = self.classifier.logits(self.encoded(prompts, completions))
        if self.options.scale == "logit":
            return logits[:, self.index] - self.bias
        one_by_one = logits.shape[1] == 1 or self.classifier.model.config.problem_type == "multi_label_classification"
        return (logits.sigmoid() if one_by_one else logits.softmax(-1))[:, self.index]

    def encoded(self, prompts: list[str], completions: list[str]) -> Encoded:
        """Token ids of what the classifier is to read, without padding."""
        tokenizer, context = self.classifier.tokenizer, self.classifier.context
        cut: dict[str, Any] = {"truncation": True, "max_length": context} if self.options.truncate and context else {}
        match self.form:
            case "chat":
                texts = [_conversation(tokenizer, *row) for row in zip(prompts, completions, strict=True)]
                return tokenizer(texts, add_special_tokens=False, **cut)
            case "pair":
                cut = cut | {"truncation": "only_first"} if cut else cut
                return tokenizer([self._plain(p) for p in prompts], completions, **cut)
            case "tokens":
                return {"input_ids": self._as_policies_read(prompts, completions)}
            case _:
                return tokenizer([self._plain(p) + c for p, c in zip(prompts, completions, strict=True)], **cut)

    def _index(self) -> int:
        classifier, label = self.classifier, self.options.label
        if label is not None:
            return classifier.label(label)
        if len(classifier.labels) > 1:
            named = ", ".join(classifier.labels[:12])
            raise ConfigError(f"{classifier.source} has {len(classifier.labels)} classes ({named}): say whose score is the reward (label).")
        return 0

    def _form(self, own: dict[str, Any]) -> Form:
        tokenizer = self.classifier.tokenizer
        if "form" in own:
            return own["form"]
        if len(self.classifier.labels) > 1:
            return "text"
        if tokenizer.chat_template:
            return "chat"
        return "pair" if tokenizer.sep_token_id is not None else "text"

    def _plain(self, prompt: str) -> str:
        if messages(prompt) is not None:
            raise ConfigError(f"the prompts are conversations, but {self.classifier.source} reads the form {self.form}: it needs chat.")
        return prompt

    def _as_policies_read(self, prompts: list[str], completions: list[str]) -> list[list[int]]:
        """Prompt and completion with its end token; of a completion that ended at once, nothing is between the two."""
        from surefoot.data.tokenising import Tokenising, tokenised, tokenised_prompts

        tokenizer, source = self.classifier.tokenizer, "the completions to score"
        options = Tokenising(max_length=self.classifier.context, truncate=self.options.truncate)
        asked = [messages(prompt) or prompt for prompt in prompts]
        said = [i for i, completion in enumerate(completions) if completion]
        silent = [i for i, completion in enumerate(completions) if not completion]
        found = tokenised(tokenizer, [asked[i] for i in said], [completions[i] for i in said], options, source=source)
        alone = tokenised_prompts(tokenizer, [asked[i] for i in silent], options, room=1, source=source)
        rows = dict(zip(said, (p + c for p, c in zip(found.prompts, found.completions, strict=True)), strict=True))
        rows |= {i: [*prompt, tokenizer.eos_token_id] for i, prompt in zip(silent, alone, strict=True)}
        return [rows[i] for i in range(len(prompts))]


def messages(prompt: str) -> list[dict[str, str]] | None:
    """The conversation whose JSON the prompt is, or None if it is plain text."""
    if not prompt.startswith("[{"):
        return None
    try:
        found = json.loads(prompt)
    except ValueError:
        return None
    chat = isinstance(found, list) and all(isinstance(each, dict) and {"role", "content"} <= each.keys() for each in found)
    return found if chat else None


def _conversation(tokenizer: Any, prompt: str, completion: str) -> str:
    """Prompt and answer in the classifier's chat template, which brings its own special tokens."""
    said = messages(prompt) or [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template([*said, {"role": "assistant", "content": completion}], tokenize=False)


# --- by name ----------------------------------------------------------------------------------------------------------


def load_reward(
    ref: str,
    options: ClassifierOptions | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_tokens: int = 16_384,
    trust: bool = False,
) -> Checked:
    """The reward that a command line names, checked.

    - `python:MODULE:NAME` or `python:FILE.py:NAME`: a function of prompts and completions, or an object that can be called so.
    - a folder or Hugging Face id of a sequence classifier, read as `options` say (`ClassifierOptions`).

    Raises ConfigError where there is nothing of the kind, or `options` do not fit it.
    """
    if ref.startswith("python:"):
        if options is not None and options != ClassifierOptions():
            raise ConfigError(f"{ref} is a function, which takes no label, scale or form: those are for classifiers.")
        found = python_object(ref)
        if isinstance(found, type) or not callable(found):
            raise ConfigError(f"{ref} is a {type(found).__name__}: give a function of a list of prompts and a list of completions.")
        return checked(found, f"the reward {ref}")
    classifier = load_classifier(ref, device=device, dtype=dtype, max_tokens=max_tokens, trust=trust)
    return checked(ClassifierReward(classifier, options), f"the reward {ref}")
