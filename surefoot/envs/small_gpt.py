"""A language model small enough to be trained from scratch while one waits, for worlds that are made here: words, a GPT, its training.

All of it is ordinary transformers: what comes out saves, loads and trains like any other model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import ConfigError, MissingExtraError

END, PAD, UNKNOWN = "<end>", "<pad>", "<unknown>"


def word_tokenizer(words: Sequence[str]) -> Any:
    """A `PreTrainedTokenizerFast` with a token a word: texts are split at spaces, and decoded with a space between words.

    Raises ConfigError for a word that comes twice, is empty, or holds a space.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise MissingExtraError("transformers", "language") from None
    every = [PAD, END, UNKNOWN, *words]
    wrong = next((word for i, word in enumerate(every) if not word or " " in word or word in every[:i]), None)
    if wrong is not None:
        raise ConfigError(f"the word {wrong!r} cannot be a token: words are not empty, hold no space, and come once.")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(every)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def small_gpt(tokenizer: Any, *, layers: int = 2, width: int = 64, heads: int = 4, context: int = 64, seed: int = 0) -> Any:
    """A GPT-2 of these sizes with fresh weights and without dropout, that knows the tokenizer's end and padding."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        raise MissingExtraError("transformers", "language") from None
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


def train_gpt(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    steps: int,
    batch: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
) -> float:
    """Teach the model, in place, to write `completions` (ended by their end token) after `prompts`: Adam, cosine from `lr` to 0.

    Rows are taken in passes, each in an order of its own. Returns the mean loss of a completion's token over the last 50 steps, in nats.
    """
    if len(prompts) != len(completions) or not prompts:
        raise ConfigError(f"there are {len(prompts)} prompts and {len(completions)} completions: give as many of each, and at least one.")
    optimiser = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng, ahead, losses = random.Random(seed), list[int](), list[Tensor]()
    model.train()
    for _ in range(steps):
        while len(ahead) < batch:
            ahead += rng.sample(range(len(prompts)), len(prompts))
        rows, ahead = ahead[:batch], ahead[batch:]
        ids, labels = padded([prompts[i] for i in rows], [completions[i] for i in rows], int(model.config.pad_token_id))
        seen = torch.ones_like(ids)  # padding is on the right: nothing that counts sees it
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    return float(torch.stack(losses[-50:]).mean())


def padded(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids `[B, T]`, and the labels: those of the completions, -100 elsewhere."""
    lengths = [len(x) + len(y) for x, y in zip(prompts, completions, strict=True)]
    ids = torch.full((len(prompts), max(lengths)), pad)
    labels = torch.full_like(ids, -100)
    for row, (x, y) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, : lengths[row]] = torch.tensor([*x, *y])
        labels[row, len(x) : lengths[row]] = ids[row, len(x) : lengths[row]]
    return ids, labels
