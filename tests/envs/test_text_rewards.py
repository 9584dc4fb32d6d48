"""Rewards of text: functions and classifiers, what each reads, and what is said when one fails."""

import json
import re

import numpy as np
import pytest
import torch

from surefoot.envs.classifiers import Classifier, load_classifier
from surefoot.envs.text_rewards import ClassifierOptions, ClassifierReward, checked, load_reward, messages
from surefoot.errors import ConfigError, DataError
from tests.envs.test_classifiers import decoder, encoder, saved
from tests.tiny_language import CONTEXT, EOS, tiny_tokenizer

torch.set_num_threads(1)

PROMPTS, COMPLETIONS = ["w1 w2", "w3"], ["w4", "w5 w6 w7"]
TEXTS = list(zip(PROMPTS, COMPLETIONS, strict=True))
TEMPLATE = "{% for m in messages %}{{ 'w0 ' if m['role'] == 'user' else 'w9 ' }}{{ m['content'] }} <eos> {% endfor %}"


def length(prompts, completions):
    return [float(len(text)) for text in completions]


# --- checked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("give", [list, np.array, torch.tensor, lambda x: np.array(x, np.float16), lambda x: torch.tensor(x).long()])
def test_numbers_of_any_kind(give):
    reward = checked(lambda prompts, completions: give(length(prompts, completions)))
    found = reward(PROMPTS, COMPLETIONS)
    assert found.dtype == torch.float32 and found.tolist() == [2.0, 8.0]
    assert checked(reward) is reward and reward([], []).shape == (0,)


def raises_at_w5(prompts, completions):
    if any("w5" in text for text in completions):
        raise ValueError("no w5 please.\nreally")
    return length(prompts, completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            raises_at_w5,
            r"the reward raises_at_w5 raises ValueError \(no w5 please\) for completion 1 of 2 \('w5 w6 w7' to the prompt 'w3'\)\.",
        ),
        (
            lambda p, c: [1.0, float("nan")],
            r"gave nan for completion 1 of 2 \('w5 w6 w7' to the prompt 'w3'\): it must be a finite number\.",
        ),
        (lambda p, c: np.array([-np.inf, 0.0]), "gave -inf for completion 0 of 2 "),
        (lambda p, c: [1e39, 0.0], "gave inf for completion 0 of 2 "),
        (lambda p, c: [1.0], r"gave shape \(1,\) for 2 completions: it must give one number for each, \(2,\)\."),
        (lambda p, c: 1.0, r"gave shape \(\) for 2 completions"),
        (lambda p, c: torch.zeros(2, 1), r"gave shape \(2, 1\) for 2 completions"),
        (lambda p, c: None, "for 2 completions: it must give one number for each"),
        (lambda p, c: ["good", "bad"], r"gave \['good', 'bad'\] for 2 completions: it must give one number for each\."),
        (lambda p, c: [1.0, [2.0]], "for 2 completions: it must give one number for each"),
    ],
)
def test_what_fails_is_named(reward, message):
    with pytest.raises(DataError, match=message):
        checked(reward)(PROMPTS, COMPLETIONS)


def test_what_fails_only_in_a_batch_is_said_so():
    def one_at_a_time(prompts, completions):
        if len(prompts) > 1:
            raise RuntimeError
        return [0.0]

    with pytest.raises(DataError, match="raises RuntimeError for 2 rows at once, though for none of them alone"):
        checked(one_at_a_time)(PROMPTS, COMPLETIONS)


def test_long_texts_are_shortened_and_lists_must_agree():
    with pytest.raises(DataError) as error:
        checked(lambda p, c: [np.nan], "my reward")(["p" * 500], ["c" * 500])
    assert str(error.value).startswith("my reward gave nan") and len(str(error.value)) < 250
    with pytest.raises(DataError, match="2 completions of 1 prompts"):
        checked(length)(["w1"], COMPLETIONS)


def test_a_sentence_of_its_own_is_left_as_it_is():
    def refuses(prompts, completions):
        raise ConfigError("the unit tests need --allow-code-execution.")

    with pytest.raises(ConfigError, match=r"^the unit tests need --allow-code-execution\.$"):
        checked(refuses)(PROMPTS, COMPLETIONS)


# --- functions by name ------------------------------------------------------------------------------------------------


def test_a_function_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_reward.py").write_text("def score(prompts, completions):\n    return [len(c) for c in completions]\nTABLE = {}\n")
    reward = load_reward("python:own_reward.py:score")
    assert reward(PROMPTS, COMPLETIONS).tolist() == [2.0, 8.0]
    assert reward.name == "the reward python:own_reward.py:score"
    with pytest.raises(ConfigError, match=r"python:own_reward\.py:TABLE is a dict: give a function of a list of prompts and"):
        load_reward("python:own_reward.py:TABLE")
    with pytest.raises(ConfigError, match="is a function, which takes no label, scale or form"):
        load_reward("python:own_reward.py:score", ClassifierOptions(label="1"))
    with pytest.raises(ConfigError, match=r"there is no file other\.py"):
        load_reward("python:other.py:score")


# --- classifiers ------------------------------------------------------------------------------------------------------


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_one_score(tmp_path):
    """A reward model's logit, of prompt and completion as one text."""
    folder = saved(tmp_path, decoder())
    classifier = load_classifier(folder)
    expected = torch.cat([classifier.model(input_ids=torch.tensor([ids(f"{p} {c}")])).logits[0] for p, c in TEXTS])
    reward = load_reward(str(folder), ClassifierOptions(form="text"))
    torch.testing.assert_close(reward([f"{p} " for p in PROMPTS], COMPLETIONS), expected, atol=1e-6, rtol=1e-5)
    share = load_reward(str(folder), ClassifierOptions(form="text", scale="probability"))
    torch.testing.assert_close(share([f"{p} " for p in PROMPTS], COMPLETIONS), expected.sigmoid(), atol=1e-6, rtol=1e-5)


def test_the_score_of_a_class(tmp_path):
    folder = saved(tmp_path, encoder())
    classifier = load_classifier(folder)
    logits = classifier.logits({"input_ids": [ids(f"{p} {c}") for p, c in TEXTS]})
    prompts = [f"{p} " for p in PROMPTS]
    found = {
        scale: load_reward(str(folder), ClassifierOptions(label="positive", scale=scale))(prompts, COMPLETIONS)
        for scale in ("logit", "probability")
    }
    torch.testing.assert_close(found["logit"], logits[:, 1])
    torch.testing.assert_close(found["probability"], logits.softmax(-1)[:, 1])
    with pytest.raises(ConfigError, match=r"has 2 classes \(NEGATIVE, POSITIVE\): say whose score is the reward \(label\)"):
        load_reward(str(folder))


def form(tokenizer, model, **options):
    return ClassifierReward(Classifier(model, tokenizer), ClassifierOptions(**options))


def test_what_auto_is():
    assert form(tiny_tokenizer(), encoder(), label="1").form == "text"
    assert form(tiny_tokenizer(), encoder(labels=1)).form == "text"
    assert form(tiny_tokenizer(sep_token="<eos>"), encoder(labels=1)).form == "pair"
    templated = tiny_tokenizer()
    templated.chat_template = TEMPLATE
    assert form(templated, decoder()).form == "chat"
    assert form(templated, encoder(), label="1").form == "text"
    assert form(templated, decoder(), form="pair").form == "pair"


def test_forms():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    chat = json.dumps([{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}, {"role": "user", "content": "w3"}])
    read = form(tokenizer, decoder()).encoded(["w1 w2", chat], ["w4", "w5"])["input_ids"]
    assert read == [ids("w0 w1 w2 <eos> w9 w4 <eos>"), ids("w0 w1 <eos> w9 w2 <eos> w0 w3 <eos> w9 w5 <eos>")]
    pair = form(tokenizer, decoder(), form="pair").encoded(PROMPTS, COMPLETIONS)
    assert pair["input_ids"] == [ids(f"{p} {c}") for p, c in TEXTS]  # this tokenizer puts nothing between
    tokens = form(tokenizer, decoder(), form="tokens").encoded(PROMPTS, COMPLETIONS)
    assert tokens["input_ids"] == [[*ids(f"{p} {c}"), EOS] for p, c in TEXTS]
    with pytest.raises(ConfigError, match="the prompts are conversations, but the classifier reads the form text: it needs chat"):
        form(tokenizer, decoder(), form="text")([chat], ["w1"])
    with pytest.raises(ConfigError, match="the tokenizer of the classifier has no chat template"):
        form(tiny_tokenizer(), decoder(), form="chat")


def test_a_completion_that_ended_at_once_has_a_score():
    """A policy may draw its end token first."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    rewards = {kind: form(tokenizer, decoder(), form=kind) for kind in ("tokens", "text", "pair", "chat")}
    assert rewards["tokens"].encoded(["w1", "w2", "w3"], ["", "w4", ""])["input_ids"] == [[1, EOS], [2, 4, EOS], [3, EOS]]
    for reward in rewards.values():
        assert reward(["w1", "w2"], ["", "w4"]).isfinite().all() and reward(["w1"], [""]).shape == (1,)


def test_long_texts_are_refused_or_cut_at_the_beginning():
    prompts, completions = ["w1 " * CONTEXT, "w2 "], ["w3", "w4"]
    with pytest.raises(DataError, match=f"text 0 has {CONTEXT + 1} tokens, but the classifier reads {CONTEXT}"):
        form(tiny_tokenizer(), decoder())(prompts, completions)
    for kind in ("text", "pair", "tokens"):
        reward = form(tiny_tokenizer(), decoder(), truncate=True, form=kind)
        read = reward.encoded(prompts, completions)["input_ids"]
        assert len(read[0]) == CONTEXT and 3 in read[0][-2:] and len(read[1]) in (2, 3)
        assert reward(prompts, completions).isfinite().all()


def test_the_bias_of_our_own_reward_models_is_subtracted(tmp_path):
    model = decoder()
    folder = saved(tmp_path / "plain", model)
    model.config.surefoot_reward = {"form": "tokens", "bias": 1.5}
    own = load_reward(str(saved(tmp_path / "own", model)))
    assert own.reward.form == "tokens" and own.reward.bias == 1.5
    plain = load_reward(str(folder), ClassifierOptions(form="tokens"))
    torch.testing.assert_close(own(PROMPTS, COMPLETIONS), plain(PROMPTS, COMPLETIONS) - 1.5)


def test_conversations_are_told_from_text():
    assert messages('[{"role": "user", "content": "hi"}]') == [{"role": "user", "content": "hi"}]
    assert messages('[{"role": "user"') is None and messages("[{}]") is None and messages("[1, 2]") is None and messages("hello") is None


def test_names_stand_in_what_is_said(tmp_path):
    folder = saved(tmp_path, decoder())
    with pytest.raises(DataError, match=re.escape(f"{folder} reads {CONTEXT}")):
        load_reward(str(folder), ClassifierOptions(form="text"))(["w1 " * CONTEXT], ["w2"])
