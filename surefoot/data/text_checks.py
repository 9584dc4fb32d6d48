"""Checks of single rows of text: what is wrong, in which field of which row, and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, TypeAlias

from surefoot.errors import DataError

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[Message]
"""A string, or a conversation: messages with a role and a content (and whatever else a chat template asks for)."""

OTHER_NAMES = {
    "prompt": ("question", "instruction", "query", "input"),
    "chosen": ("preferred", "accepted", "winner", "response_chosen"),
    "rejected": ("dispreferred", "loser", "response_rejected"),
    "completion": ("response", "answer", "output", "text"),
    "score": ("reward", "rating", "label"),
}
"""What our columns are called elsewhere, to be suggested."""

ASSISTANT = "assistant"
SHOWN = 60  # characters of a value in a message


def wrong(where: str, what: str, remedy: str) -> DataError:
    """The error about one row."""
    return DataError(f"{where}: {what}: {remedy}, or leave such rows out (--skip-bad).")


def nearest(field: str, there: Collection[str]) -> str | None:
    """The column that was probably meant by `field`."""
    near = difflib.get_close_matches(field, [str(name) for name in there], n=1, cutoff=0.6)
    return next((name for name in OTHER_NAMES.get(field, ()) if name in there), near[0] if near else None)


def absent(values: Mapping[str, Any], field: str, where: str) -> DataError:
    """The error about a field that a row lacks."""
    if field in values:
        return wrong(where, f"field {field!r} is null", "give it a value")
    meant = nearest(field, values)
    return wrong(where, f"there is no field {field!r}", f"rename {meant!r}" if meant else "give it")


# --- values ---------------------------------------------------------------------------------------------------------


def number(values: Mapping[str, Any], field: str, where: str) -> float:
    """A finite number."""
    value = values.get(field)
    if value is None:
        raise absent(values, field, where)
    if not isinstance(value, Real | Decimal):
        raise wrong(where, f"field {field!r} is {_shown(value)} ({type(value).__name__})", "it must be a number")
    if not math.isfinite(value):
        raise wrong(where, f"field {field!r} is {value}", "it must be finite")
    return float(value)


def text(values: Mapping[str, Any], field: str, where: str) -> Text:
    """A string, or a list of one or more messages (what is null in them is left out: tables fill up with it)."""
    value = values.get(field)
    if value is None:
        raise absent(values, field, where)
    if isinstance(value, str):
        return _whole(value, f"field {field!r}", where)
    if not isinstance(value, list):
        what = f"field {field!r} is {_shown(value)} ({type(value).__name__})"
        raise wrong(where, what, "it must be a string or a list of messages {role, content}")
    if not value:
        raise wrong(where, f"field {field!r} is a conversation without messages", "give it at least one")
    return [_message(each, f"message {i} of field {field!r}", where) for i, each in enumerate(value)]


def _message(value: Any, what: str, where: str) -> Message:
    if not isinstance(value, dict):
        raise wrong(where, f"{what} is {_shown(value)}", "it must be an object {role, content}")
    for key in ("role", "content"):
        if not isinstance(value.get(key), str):
            said = f"has no {key!r} (it has {', '.join(map(str, value))})" if key not in value else f"has {key} {_shown(value[key])}"
            raise wrong(where, f"{what} {said}", f"{key!r} must be a string")
        _whole(value[key], what, where)
    return {str(key): each for key, each in value.items() if each is not None}


def _whole(value: str, what: str, where: str) -> str:
    """JSON can write half a character (a lone surrogate), which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise wrong(where, f"{what} has half a character at {error.start} ({value[error.start]!a})", "write it whole") from None
    return value


def _shown(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= SHOWN else f"{told[: SHOWN - 1]}…"


# --- rows -----------------------------------------------------------------------------------------------------------


def prompt_alone(values: Mapping[str, Any], where: str) -> Text:
    """The prompt of a row that is nothing but a prompt."""
    return text(values, "prompt", where)


def scored(values: Mapping[str, Any], where: str) -> tuple[Text, Text, float]:
    """Prompt, completion and score of a row; of a conversation that begins with the prompt, what comes after it."""
    prompt, (completion,) = _apart(text(values, "prompt", where), {"completion": text(values, "completion", where)}, where)
    return prompt, completion, number(values, "score", where)


def pair(values: Mapping[str, Any], where: str) -> tuple[Text, Text, Text]:
    """Prompt, chosen and rejected of a row; what chosen and rejected of a conversation both begin with is the prompt."""
    chosen, rejected = (text(values, field, where) for field in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise wrong(where, "of 'chosen' and 'rejected' one is a string and one is a list of messages", "write both alike")
    if chosen == rejected:
        raise wrong(where, f"'chosen' and 'rejected' are equal ({_shown(chosen)})", "a pair needs two different completions")
    prompt = text(values, "prompt", where) if values.get("prompt") is not None else None
    if isinstance(chosen, list) and isinstance(rejected, list) and not isinstance(prompt, list):
        prompt = _shared(prompt, chosen, rejected, where)
    if prompt is None:
        raise absent(values, "prompt", where)
    prompt, (first, second) = _apart(prompt, {"chosen": chosen, "rejected": rejected}, where)
    return prompt, first, second


def _shared(prompt: str | None, chosen: list[Message], rejected: list[Message], where: str) -> Text | None:
    """The prompt of conversations: the messages that both begin with; `prompt` as it is where they do not include it."""
    most = min(len(chosen), len(rejected)) - 1
    shared = chosen[: next((i for i in range(most) if chosen[i] != rejected[i]), most)]
    if prompt is None and not shared:
        raise wrong(where, "there is no 'prompt', nor do 'chosen' and 'rejected' begin with the same messages", "give the prompt")
    if prompt is not None and shared and all(message["content"] != prompt for message in shared):
        what = f"'chosen' and 'rejected' begin with the same messages, but 'prompt' ({_shown(prompt)}) is none of them"
        raise wrong(where, what, "write the prompt as they have it")
    return shared or prompt


def _apart(prompt: Text, completions: dict[str, Text], where: str) -> tuple[Text, list[Text]]:
    """Prompt and completions in one form, the prompt no longer in the completions; checks that there is something in each."""
    if any(isinstance(completion, list) for completion in completions.values()) and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    rest = [_completion(field, completion, prompt, where) for field, completion in completions.items()]
    return prompt, rest


def _completion(field: str, completion: Text, prompt: Text, where: str) -> Text:
    if isinstance(completion, list) and completion[: len(prompt)] == prompt:
        completion = completion[len(prompt) :]
    contents = [completion] if isinstance(completion, str) else [message["content"] for message in completion]
    if not any(content.strip() for content in contents):
        raise wrong(where, f"field {field!r} is an empty completion", "give it text")
    if isinstance(completion, list):
        other = next((message["role"] for message in completion if message["role"] != ASSISTANT), None)
        if other is not None:
            what = f"field {field!r} has a message of role {other!r} after the prompt"
            raise wrong(where, what, f"only what the {ASSISTANT!r} says is learned, so put all before it into the prompt")
        return completion
    return completion if isinstance(prompt, str) else [{"role": ASSISTANT, "content": completion}]
