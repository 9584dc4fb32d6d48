"""Language models small enough for a test: random weights, a vocabulary of words, made in milliseconds."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from surefoot.policies.language import LanguagePolicy

WORDS = 20
EOS, PAD, BOS, UNK = WORDS, WORDS + 1, WORDS + 2, WORDS + 3
VOCABULARY = WORDS + 4
CONTEXT = 32


def tiny_tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """Words w0 … w19 between blanks, and the special tokens; `pad_token=None` leaves one out."""
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<eos>": EOS, "<pad>": PAD, "<bos>": BOS, "<unk>": UNK}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special | changes)


def tiny_model(kind: str = "gpt2", seed: int = 0) -> Any:
    """Two layers, width 16, random weights."""
    torch.manual_seed(seed)
    ids = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, **ids))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=CONTEXT, **ids))
    if kind == "gemma2":  # has a soft cap on its logits
        from transformers import Gemma2Config, Gemma2ForCausalLM

        sizes |= {"num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.01}
        return Gemma2ForCausalLM(Gemma2Config(**sizes, max_position_embeddings=CONTEXT, **ids))
    raise ValueError(kind)


def tiny_policy(kind: str = "gpt2", seed: int = 0) -> LanguagePolicy:
    """A fresh policy around `tiny_model`."""
    return LanguagePolicy(tiny_model(kind, seed), tiny_tokenizer())


def saved_model(folder: Path, kind: str = "gpt2", seed: int = 0) -> Path:
    """The same as a folder that `save_pretrained` made."""
    tiny_policy(kind, seed).save(folder)
    return folder


@cache
def some_prompts() -> list[list[int]]:
    """Prompts of different lengths."""
    return [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11]]
