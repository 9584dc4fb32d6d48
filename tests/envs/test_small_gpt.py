"""A small GPT: its words, that it learns, and that training is what its numbers say."""

import pytest
import torch

from surefoot.envs.small_gpt import END, PAD, UNKNOWN, padded, small_gpt, train_gpt, word_tokenizer
from surefoot.errors import ConfigError

WORDS = ["a", "b", "(", ")", "//"]


def test_words_come_back_as_they_were(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = word_tokenizer(WORDS)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each("a // ( b )")["input_ids"]
        assert len(ids) == 5 and each.decode([*ids, each.eos_token_id], skip_special_tokens=True) == "a // ( b )"
        assert each("c")["input_ids"] == [each.unk_token_id]
        assert (each.pad_token, each.eos_token, each.unk_token) == (PAD, END, UNKNOWN)


def test_it_learns_what_follows_a_prompt():
    tokenizer = word_tokenizer(WORDS)
    prompts = tokenizer(["a", "b", "a a"])["input_ids"]
    completions = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(["b ( )", "//", "a"])["input_ids"]]
    model = small_gpt(tokenizer, width=16, heads=2, context=8)
    loss = train_gpt(model, prompts, completions, steps=120, batch=3, lr=1e-2)
    assert loss < 0.1 and not model.training
    generated = model.generate(torch.tensor([prompts[0]]), max_new_tokens=4, do_sample=False)
    assert generated[0, 1:].tolist() == completions[0]


def test_training_is_a_function_of_the_seed_and_leaves_others_alone():
    tokenizer = word_tokenizer(WORDS)
    rows = [[3], [4]], [[5, 1], [6, 6, 1]]
    before = torch.random.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        model = small_gpt(tokenizer, width=16, heads=2, seed=seed)
        train_gpt(model, *rows, steps=3, batch=2, seed=seed)
        weights.append(model.transformer.wte.weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_labels_are_the_completions_alone():
    ids, labels = padded([[3, 4], [5]], [[6, 1], [7, 8, 1]], pad=0)
    assert ids.tolist() == [[3, 4, 6, 1], [5, 7, 8, 1]]
    assert labels.tolist() == [[-100, -100, 6, 1], [-100, 7, 8, 1]]


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], [PAD]])
def test_words_that_cannot_be_tokens_are_named(words):
    with pytest.raises(ConfigError, match="cannot be a token"):
        word_tokenizer(words)


def test_rows_must_belong_together():
    model = small_gpt(word_tokenizer(WORDS), width=16, heads=2)
    with pytest.raises(ConfigError, match="2 prompts and 1 completions"):
        train_gpt(model, [[3], [4]], [[1]], steps=1)
