"""Texts as token ids, so that what is trained on is what sampling sees.

- A prompt is tokenised by itself, as it is when the model is asked. A completion's tokens are those after it in the text of the two
  together; where a token there lies across the boundary (`"a " + "b"` with a token `" b"`), those of the completion by itself.
- Conversations are written by the tokenizer's chat template: the prompt with the opening of an answer, the completion up to its end.
- A prompt begins with the begin token where the tokenizer puts one before a text, once. A completion ends with an end token.
- Longer than the context: an error that names the row, or, if asked, cut: the completion is kept whole if half of the context or less
  is left to the prompt, of which the last tokens stay (after its begin token); of a completion that is still too long the first
  tokens stay, and it has no end then. Both completions of a pair see the same prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from surefoot.data.completions import Completions, Ids
from surefoot.data.preferences import Preferences
from surefoot.data.text_checks import Text
from surefoot.errors import ConfigError, DataError, UnknownNameError, first_line


@dataclass(frozen=True)
class Tokenising:
    """How texts become tokens."""

    max_length: int | None = None
    """Most tokens of a prompt with its completion (None: any number)."""
    truncate: bool = False
    """Cut what is longer, instead of refusing it."""
    ends: tuple[int, ...] = ()
    """Tokens beside the tokenizer's own end token that end a completion (a model's generation settings may name some)."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ConfigError(f"max_length is {self.max_length}: a prompt and its completion need at least 2 tokens.")


# --- the tokenizer --------------------------------------------------------------------------------------------------


def ready_tokenizer(tokenizer: Any, eos_token: str | None = None) -> Any:
    """The tokenizer with an end token, and with a token for padding: if it has none the end token, since padding is masked anyway.

    `eos_token` names one of its tokens as the end. Raises ConfigError if there is none, UnknownNameError if it is no token.
    """
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise UnknownNameError("token", eos_token, tokenizer.get_vocab())
        tokenizer.eos_token = eos_token
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer has no end token, so that no completion could learn to end: name the one of its tokens that is meant"
            " (--eos-token)."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class Model(Protocol):
    """What a check of the vocabulary needs of a policy."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def vocabulary(self) -> int: ...  # rows of the embedding


def check_vocabulary(policy: Model) -> None:
    """Every token has a row in the model's embedding. Raises ConfigError."""
    last = max(policy.tokenizer.get_vocab().values())
    if last >= policy.vocabulary:
        raise ConfigError(
            f"the tokenizer has tokens up to {last:,}, the model's embedding {policy.vocabulary:,} rows: give the tokenizer that belongs to"
            " the model, or enlarge its embedding (resize_token_embeddings)."
        )


def check_same_vocabulary(policy: Model, reference: Model) -> None:
    """Token ids mean the same to both, as a comparison of their log-probabilities takes for granted. Raises ConfigError."""
    if policy.vocabulary != reference.vocabulary:
        what = f"{policy.vocabulary:,} tokens, the reference {reference.vocabulary:,}"
        raise ConfigError(f"model and reference have different vocabularies (the model {what}): both must be of one family.")
    own, other = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    if own != other:
        token = min((token for token in {*own, *other} if own.get(token) != other.get(token)), key=lambda token: own.get(token, len(own)))
        what = f"{token!r} is {own.get(token, 'none')} in the model and {other.get(token, 'none')} in the reference"
        raise ConfigError(f"model and reference have different vocabularies (token {what}): both must be of one family.")


# --- texts ----------------------------------------------------------------------------------------------------------


def tokenised_prompts(
    tokenizer: Any, prompts: Sequence[Text], options: Tokenising = Tokenising(), *, room: int = 0, source: str = "memory"
) -> list[Ids]:
    """Token ids of each prompt, with `room` tokens of the context left for a completion.

    Raises DataError naming the row that is too long or has no tokens, ConfigError where conversations meet no chat template.
    """
    found = _begun(tokenizer, _encoded(tokenizer, _written(tokenizer, prompts, source)), source)
    if options.max_length is None:
        return found
    most = options.max_length - room
    if most < 1:
        raise ConfigError(f"completions of {room} tokens leave no room for a prompt in {options.max_length}: ask for shorter ones.")
    for i, prompt in enumerate(found):
        if len(prompt) > most and not options.truncate:
            more = f", which leaves no room for {room} new ones in" if room else ", more than"
            raise DataError(f"{source}, row {i}: the prompt has {len(prompt)} tokens{more} {options.max_length}: {SHORTEN}")
    return [_last(tokenizer, prompt, most) for prompt in found]


def tokenised(
    tokenizer: Any, prompts: Sequence[Text], completions: Sequence[Text], options: Tokenising = Tokenising(), *, source: str = "memory"
) -> Completions:
    """Token ids of prompts and completions, row by row. Raises as `tokenised_prompts`."""
    return _tokenised(tokenizer, prompts, [completions], options, source)[0]


def tokenised_pairs(tokenizer: Any, data: Preferences, options: Tokenising = Tokenising()) -> tuple[Completions, Completions]:
    """The chosen and the rejected completions with their prompts. Raises as `tokenised_prompts`."""
    chosen, rejected = _tokenised(tokenizer, data.prompts, [data.chosen, data.rejected], options, data.source)
    return chosen, rejected


def _tokenised(
    tokenizer: Any, prompts: Sequence[Text], columns: Sequence[Sequence[Text]], options: Tokenising, source: str
) -> list[Completions]:
    """The same prompts with each column of completions."""
    asked = _written(tokenizer, prompts, source)
    before = _encoded(tokenizer, asked)
    begun = _begun(tokenizer, before, source)
    answers = [_completions(tokenizer, prompts, asked, before, column, options, source) for column in columns]
    rows = [_fitted(tokenizer, begun[i], row, options, f"{source}, row {i}") for i, row in enumerate(zip(*answers, strict=True))]
    kept = [prompt for prompt, _ in rows]
    return [Completions(kept, [own[k] for _, own in rows]) for k in range(len(columns))]


def _begun(tokenizer: Any, prompts: Sequence[Ids], source: str) -> list[Ids]:
    """Prompts after the begin token: where the tokenizer puts one before texts, and where there would be nothing else."""
    begin = tokenizer.bos_token_id
    always = begin is not None and list(tokenizer("", verbose=False)["input_ids"][:1]) == [begin]
    found = [[begin, *ids] if begin is not None and ids[:1] != [begin] and (always or not ids) else ids for ids in prompts]
    empty = next((i for i, ids in enumerate(found) if not ids), None)
    if empty is not None:
        raise DataError(f"{source}, row {empty}: the prompt has no tokens, and the tokenizer no begin token: write something there.")
    return found


def _completions(
    tokenizer: Any,
    prompts: Sequence[Text],
    asked: Sequence[str],
    before: Sequence[Ids],
    completions: Sequence[Text],
    options: Tokenising,
    source: str,
) -> list[Ids]:
    """Each completion's tokens, its end token included; `asked` and `before` are the prompts as text and as tokens."""
    rows = enumerate(zip(prompts, asked, completions, strict=True))
    found = _after(tokenizer, asked, before, [_answer(tokenizer, *row, f"{source}, row {i}") for i, row in rows])
    ends = {tokenizer.eos_token_id, *options.ends}
    for i, (ids, completion) in enumerate(zip(found, completions, strict=True)):
        if not isinstance(completion, str):  # templates write more after the end of a message, such as a line's end
            del ids[max((place for place, token in enumerate(ids) if token in ends), default=len(ids) - 1) + 1 :]
        if not ids:
            raise DataError(f"{source}, row {i}: the completion has no tokens: write something that the tokenizer does not drop.")
        if ids[-1] not in ends:
            ids.append(tokenizer.eos_token_id)
    return found


def _after(tokenizer: Any, asked: Sequence[str], before: Sequence[Ids], answers: Sequence[str]) -> list[Ids]:
    """The tokens of answers after prompts, none of which lies across the boundary."""
    if not tokenizer.is_fast or not answers:  # a slow one does not say where a token lies
        return _encoded(tokenizer, answers)
    both = tokenizer(
        [a + b for a, b in zip(asked, answers, strict=True)], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    rows = zip(asked, before, both["input_ids"], both["offset_mapping"], strict=True)
    found = [list(ids[len(own) :]) if _parted(len(text), own, ids, places) else None for text, own, ids, places in rows]
    alone = iter(_encoded(tokenizer, [answer for answer, ids in zip(answers, found, strict=True) if ids is None]))
    return [next(alone) if ids is None else ids for ids in found]


def _parted(boundary: int, own: Ids, ids: Sequence[int], places: Sequence[tuple[int, int]]) -> bool:
    """Whether the tokens of both texts begin with those of the first, and end there where its last character does."""
    n = len(own)
    return len(ids) > n and list(ids[:n]) == own and (n == 0 or places[n - 1][1] <= boundary) and places[n][0] >= boundary


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]] if texts else []


# --- conversations --------------------------------------------------------------------------------------------------


def _written(tokenizer: Any, prompts: Sequence[Text], source: str) -> list[str]:
    """Prompts as the text that the model sees: conversations with the opening of the answer that is asked for."""
    return [
        prompt if isinstance(prompt, str) else _templated(tokenizer, prompt, True, f"{source}, row {i}") for i, prompt in enumerate(prompts)
    ]


def _answer(tokenizer: Any, prompt: Text, asked: str, completion: Text, where: str) -> str:
    """What the model is to say after `asked`: a string as it is, messages as the template continues the conversation."""
    if isinstance(completion, str):
        return completion
    whole = _templated(tokenizer, [*prompt, *completion], False, where)
    if not whole.startswith(asked):
        raise DataError(
            f"{where}: the tokenizer's chat template writes an answer otherwise than it opens one for the model, so that training on it"
            " would not teach what sampling asks for: give it a template without that (tokenizer.chat_template)."
        )
    return whole[len(asked) :]


def _templated(tokenizer: Any, messages: Sequence[Any], opening: bool, where: str) -> str:
    if not tokenizer.chat_template:
        raise ConfigError(f"{where} is a conversation, but the tokenizer has no chat template: give plain texts, or set its template.")
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opening))
    except Exception as error:  # templates are programs that raise what they like
        raise DataError(
            f"{where}: the tokenizer's chat template refuses the conversation ({first_line(error)}): write it as the template asks."
        ) from None


# --- the context ----------------------------------------------------------------------------------------------------

SHORTEN = "shorten it, or have it cut (--truncate)."


def _fitted(tokenizer: Any, prompt: Ids, completions: Sequence[Ids], options: Tokenising, where: str) -> tuple[Ids, list[Ids]]:
    """A prompt and its completions within the context, cut by the rules above. Raises DataError where cutting was not asked for."""
    most, longest = options.max_length, max(map(len, completions))
    if most is None or len(prompt) + longest <= most:
        return prompt, list(completions)
    if not options.truncate:
        what = f"prompt and completion have {len(prompt)} + {longest} tokens, more than the {most} of the context"
        raise DataError(f"{where}: {what}: {SHORTEN}")
    kept = _last(tokenizer, prompt, max(most // 2, most - longest))
    return kept, [completion[: most - len(kept)] for completion in completions]


def _last(tokenizer: Any, prompt: Ids, most: int) -> Ids:
    """The last tokens of a prompt, after its begin token."""
    if len(prompt) <= most:
        return prompt
    begin = prompt[:1] if prompt[0] == tokenizer.bos_token_id and most > 1 else []
    return [*begin, *prompt[len(prompt) - most + len(begin) :]]
