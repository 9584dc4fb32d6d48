"""Sequence classifiers of Hugging Face's format: what reward models, judges of pairs and sentiment scores are published as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.data.completions import Ids, micro_batches
from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError, first_line

Encoded = Mapping[str, Sequence[Ids]]
"""What a tokenizer makes of B texts without padding: `input_ids`, and `token_type_ids` where the model tells parts of a text apart."""


class Classifier:
    """A sequence classifier with its tokenizer, asked without gradient in batches of like length."""

    def __init__(self, model: Any, tokenizer: Any, *, source: str = "the classifier", max_tokens: int = 16_384):
        self.model, self.tokenizer, self.source, self.max_tokens = model.eval().requires_grad_(False), tokenizer, source, max_tokens

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in order."""
        named = self.model.config.id2label
        return [str(named[i]) for i in range(int(self.model.config.num_labels))]

    def label(self, name: str) -> int:
        """Index of a class by its name, whatever the case, or by its number; raises UnknownNameError."""
        folded = [each.casefold() for each in self.labels]
        if name.casefold() in folded:
            return folded.index(name.casefold())
        if name.isdecimal() and int(name) < len(folded):
            return int(name)
        raise UnknownNameError(f"label of {self.source}", name, self.labels)

    @property
    def context(self) -> int | None:
        """Tokens that a text may have; None if neither model nor tokenizer says."""
        named = (getattr(self.model.config.get_text_config(), key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
        found = [int(length) for length in (*named, self.tokenizer.model_max_length) if length is not None and 0 < length < 1e9]
        return min(found, default=None)

    def check_lengths(self, encoded: Encoded) -> None:
        """Raises DataError naming the first text that is empty or longer than the context."""
        for i, ids in enumerate(encoded["input_ids"]):
            if not ids:
                raise DataError(f"text {i} has no tokens for {self.source}: an empty text cannot be classified.")
            if self.context is not None and len(ids) > self.context:
                raise DataError(
                    f"text {i} has {len(ids)} tokens, but {self.source} reads {self.context}: shorten it, or allow truncation, which cuts "
                    "off its beginning."
                )

    @torch.no_grad()
    def logits(self, encoded: Encoded) -> Tensor:
        """Scores of all classes for each text, `[B, C]` float32 on the CPU. Raises DataError for a text that does not fit."""
        self.check_lengths(encoded)
        rows = encoded["input_ids"]
        found = torch.zeros(len(rows), int(self.model.config.num_labels))
        lengths = torch.tensor([len(ids) for ids in rows], dtype=torch.int64).numpy()
        for part in micro_batches(lengths, self.max_tokens):
            found[part] = forward(self.model, {name: [column[i] for i in part] for name, column in encoded.items()}).float().cpu()
        return found


def forward(model: Any, encoded: Encoded) -> Tensor:
    """Logits `[B, C]` of texts of any lengths, padded on the right.

    Models that read the last token find it as the last one that is not padding. Where the model names no token for that, one is taken
    that ends none of the texts: they are then read at their very last token, as each would be by itself.
    """
    ids = encoded["input_ids"]
    config = model.config.get_text_config()
    known = config.pad_token_id
    pad = known if known is not None else _other_than({row[-1] for row in ids})
    width = max(map(len, ids))
    device = next(model.parameters()).device

    def padded(rows: Sequence[Ids], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.int64, device=device)

    inputs = {"input_ids": padded(ids, pad), "attention_mask": padded([[1] * len(row) for row in ids], 0)}
    if "token_type_ids" in encoded:
        inputs["token_type_ids"] = padded(encoded["token_type_ids"], 0)
    config.pad_token_id = pad
    try:
        return model(**inputs).logits
    finally:
        config.pad_token_id = known


def _other_than(taken: set[int]) -> int:
    return next(token for token in range(len(taken) + 1) if token not in taken)


def load_classifier(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, max_tokens: int = 16_384, trust: bool = False
) -> Classifier:
    """The classifier of a folder that `save_pretrained` made, or of a Hugging Face id.

    `max_tokens` of one forward pass, padding included; `trust` lets a model bring Python code of its own. Raises ConfigError if it
    cannot be loaded, or if its last layer was never trained (a language model, loaded as a classifier, would answer at random).
    """
    transformers = transformers_or_say()
    try:
        with quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust)
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                str(source), dtype=dtype, trust_remote_code=trust, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{source} is no sequence classifier that transformers can load ({reason}): give a folder made by save_pretrained, with the "
            "tokenizer's files and weights as safetensors, or a model id."
        ) from None
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"{source} has no trained weights for {missing[0]}, so that its scores would be random: give a model that was trained to"
            " classify or to score."
        )
    return Classifier(model.to(device), tokenizer, source=str(source), max_tokens=max_tokens)


def transformers_or_say() -> Any:
    """The package; raises MissingExtraError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "language") from None
    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars, and what it says about weights that are new or unused: that is checked, and said, here."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
