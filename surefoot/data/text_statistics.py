"""What is in data of prompts and completions, in numbers: `surefoot data inspect`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from surefoot.data.preferences import Kind, Preferences, Prompts, ScoredTexts, Texts
from surefoot.data.statistics import Summary, summary
from surefoot.data.text_checks import Text


@dataclass(frozen=True)
class TextStatistics:
    """What is in the rows; `to_json` is what `surefoot data inspect --json` prints. Lengths are in characters."""

    source: str
    kind: Kind
    rows: int
    conversations: bool
    prompts: int  # different ones
    lengths: dict[str, Summary]  # of prompts, and of each column of completions
    values: dict[str, Summary]  # scores or margins
    longer_chosen: float | None  # share of pairs of which the longer completion was preferred (half of those of one length)
    completions_a_prompt: tuple[int, int] | None  # of scored ones, the fewest and the most
    columns: list[str]  # beside the prompts
    fingerprint: str
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def text_statistics(data: Texts) -> TextStatistics:
    """Counts, lengths, scores and what looks odd."""
    completions: dict[str, list[Text]] = {}
    values: dict[str, list[float]] = {}
    columns: list[str] = []
    longer, each = None, None
    prompts = Counter(map(_key, data.prompts))
    warnings = [*data.notes]
    if isinstance(data, Preferences):
        completions = {"chosen": data.chosen, "rejected": data.rejected}
        values = {"margin": data.margins} if data.margins is not None else {}
        difference = _lengths(data.chosen) - _lengths(data.rejected)
        longer = float(((difference > 0) + 0.5 * (difference == 0)).mean())
        warnings += _of_pairs(data)
    elif isinstance(data, ScoredTexts):
        completions, values = {"completion": data.completions}, {"score": data.scores}
        each = (min(prompts.values()), max(prompts.values()))
        warnings += _of_scored(data, each)
    elif isinstance(data, Prompts):
        columns = list(data.columns)
        warnings += _repeated([_key(prompt) for prompt in data.prompts], "prompts")
    return TextStatistics(
        source=data.source,
        kind=data.kind,
        rows=len(data),
        conversations=data.chat,
        prompts=len(prompts),
        lengths={name: summary(_lengths(texts)) for name, texts in {"prompt": data.prompts, **completions}.items()},
        values={name: summary(np.array(found)) for name, found in values.items()},
        longer_chosen=longer,
        completions_a_prompt=each,
        columns=columns,
        fingerprint=data.fingerprint,
        warnings=warnings,
    )


def _key(text: Text) -> str:
    return text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=str)


def _lengths(texts: Sequence[Text]) -> np.ndarray:
    """Characters of each text, of a conversation those of its messages `[N]`."""
    return np.array([len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text) for text in texts])


def _of_pairs(data: Preferences) -> list[str]:
    rows = list(zip(map(_key, data.prompts), map(_key, data.chosen), map(_key, data.rejected), strict=True))
    seen = set(rows)
    turned = sum((prompt, rejected, chosen) in seen for prompt, chosen, rejected in seen) // 2
    found = _repeated(rows, "pairs")
    if turned:
        found.append(f"{turned:,} pairs are there both ways round: of those it is not known what was preferred.")
    against = sum(margin < 0.0 for margin in data.margins or ())
    if against:
        found.append(f"in {against:,} of {len(data):,} pairs the margin is negative: what was rejected has the higher score.")
    return found


def _of_scored(data: ScoredTexts, each: tuple[int, int]) -> list[str]:
    found = _repeated(list(zip(map(_key, data.prompts), map(_key, data.completions), strict=True)), "completions")
    if each[1] == 1:
        found.append("no prompt has a second completion: methods that compare the completions of a prompt find nothing to compare.")
    if len(set(data.scores)) == 1:
        found.append(f"all scores are {data.scores[0]:g}: there is nothing to learn from.")
    return found


def _repeated(rows: Sequence[Any], what: str) -> list[str]:
    more = len(rows) - len(set(rows))
    return [f"{more:,} of {len(rows):,} {what} are there more than once."] if more else []
