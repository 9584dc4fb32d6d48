"""Classifiers of Hugging Face's format: batches, padding, labels, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from surefoot.envs.classifiers import Classifier, forward, load_classifier
from surefoot.errors import ConfigError, DataError, UnknownNameError
from tests.tiny_language import CONTEXT, EOS, PAD, VOCABULARY, saved_model, tiny_tokenizer

torch.set_num_threads(1)

ROWS = [[1, 2, 3], [4], [5, 6, EOS], [7, 8, 9, 10, 11, EOS]]


def decoder(labels: int = 1, pad: int | None = PAD):
    torch.manual_seed(0)
    ids = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": pad, "bos_token_id": None}
    return GPT2ForSequenceClassification(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, num_labels=labels, **ids)).eval()


def encoder(labels: int = 2):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
    names = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
    sizes |= names if labels == 2 else {"num_labels": labels}
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, pad_token_id=PAD, **sizes))


def saved(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer(sep_token="<eos>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", [PAD, None])
@pytest.mark.parametrize("tokens", [1, 8, 10_000])
def test_a_batch_is_what_each_text_is_by_itself(pad, tokens):
    """Also where the model names no pad token: its last token is then found all the same."""
    model = decoder(pad=pad)
    alone = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in ROWS]).detach()
    found = Classifier(model, tiny_tokenizer(), max_tokens=tokens).logits({"input_ids": ROWS})
    torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)
    assert model.config.pad_token_id == pad  # as it was


def test_encoders_see_no_padding_and_know_the_parts_of_a_text():
    model = encoder().eval()
    kinds = [[0, 1, 1], [0], [0, 0, 1], [0, 0, 1, 1, 1, 1]]
    own = [model(input_ids=torch.tensor([a]), token_type_ids=torch.tensor([b])).logits for a, b in zip(ROWS, kinds, strict=True)]
    found = Classifier(model, tiny_tokenizer()).logits({"input_ids": ROWS, "token_type_ids": kinds})
    torch.testing.assert_close(found, torch.cat(own).detach(), atol=1e-6, rtol=1e-5)
    assert (found - Classifier(model, tiny_tokenizer()).logits({"input_ids": ROWS})).abs().max() > 1e-4


def test_gradients_flow_through_forward():
    model = decoder()
    forward(model, {"input_ids": ROWS}).sum().backward()
    assert model.score.weight.grad.abs().max() > 0


def test_labels_by_name_or_number(tmp_path):
    classifier = load_classifier(saved(tmp_path, encoder()))
    assert classifier.labels == ["NEGATIVE", "POSITIVE"] and classifier.context == CONTEXT
    assert [classifier.label(name) for name in ("POSITIVE", "positive", "1", "0")] == [1, 1, 1, 0]
    with pytest.raises(UnknownNameError, match="did you mean 'POSITIVE'"):
        classifier.label("POSITIV")
    with pytest.raises(UnknownNameError, match="known: NEGATIVE, POSITIVE"):
        classifier.label("2")


def test_texts_that_do_not_fit_are_named():
    classifier = Classifier(decoder(), tiny_tokenizer(), source="my-model")
    with pytest.raises(DataError, match=f"text 1 has {CONTEXT + 1} tokens, but my-model reads {CONTEXT}"):
        classifier.logits({"input_ids": [[1], [2] * (CONTEXT + 1)]})
    with pytest.raises(DataError, match="text 0 has no tokens for my-model"):
        classifier.logits({"input_ids": [[]]})


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no_folder is no sequence classifier that transformers can load"):
        load_classifier(tmp_path / "no_folder")
    with pytest.raises(ConfigError, match=r"has no trained weights for score.weight, so that its scores would be random"):
        load_classifier(saved_model(tmp_path / "language"))
    folder = saved(tmp_path / "pickled", decoder())
    torch.save(decoder().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="is no sequence classifier that transformers can load"):  # never unpickled
        load_classifier(folder)
