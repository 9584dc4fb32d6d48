"""Preferences by a reward, by a judge, by a function of the user's; and what is said where one fails."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from surefoot.envs.classifiers import Classifier
from surefoot.envs.text_preferences import (
    BothOrders,
    BradleyTerry,
    PairClassifier,
    PairOptions,
    checked_preference,
    load_preference,
)
from surefoot.errors import ConfigError, DataError
from tests.tiny_language import CONTEXT, PAD, VOCABULARY, tiny_tokenizer

TEMPLATE = "{prompt} w0 {first} w0 {second}"


def judge_model(classes: int) -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=CONTEXT, vocab_size=VOCABULARY, num_labels=classes, pad_token_id=PAD,
        id2label={0: "FIRST", 1: "SECOND"} if classes == 2 else None,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config)


def judge(classes: int = 1, **options) -> PairClassifier:
    return PairClassifier(Classifier(judge_model(classes), tiny_tokenizer()), PairOptions(template=TEMPLATE, **options))


def length(prompts, completions):
    return [float(len(c)) for c in completions]


def test_bradley_terry():
    p = BradleyTerry(length)(["x", "x"], ["aaa", "a"], ["a", "a"])
    torch.testing.assert_close(p, torch.tensor([2.0, 0.0], dtype=torch.float64).sigmoid())
    torch.testing.assert_close(BradleyTerry(length, 4.0)(["x"], ["aaa"], ["a"]), torch.tensor([0.5], dtype=torch.float64).sigmoid())
    with pytest.raises(ConfigError, match="scale of rewards is 0"):
        BradleyTerry(length, 0.0)
    with pytest.raises(DataError, match="gave nan for completion 1 of 2"):
        BradleyTerry(lambda prompts, completions: [0.0, float("nan")])(["x"], ["a"], ["b"])


def test_both_orders_take_out_the_taste_for_a_place():
    def first_is_better(prompts, first, second):
        return torch.tensor([0.2 + 0.6 * (a > b) for a, b in zip(first, second, strict=True)]) + 0.15

    both = BothOrders(first_is_better)
    p, q = both(["x"], ["b"], ["a"]), both(["x"], ["a"], ["b"])
    assert float(p) == pytest.approx(0.8, abs=1e-6) and float(p + q) == pytest.approx(1.0)


def test_a_classifier_reads_both_completions():
    rows = ["w1 w2", "w3"], ["w4", "w5 w6"], ["w7 w8 w9", "w4"]
    one = judge()
    texts = ["w1 w2 w0 w4 w0 w7 w8 w9", "w3 w0 w5 w6 w0 w4"]
    alone = [one.classifier.model(torch.tensor([tiny_tokenizer()(text)["input_ids"]])).logits.item() for text in texts]
    torch.testing.assert_close(one(*rows), torch.tensor(alone).sigmoid())
    two = judge(2, label="second")
    p = two(*rows)
    torch.testing.assert_close(p + judge(2, label="0")(*rows), torch.ones(2))
    assert float(p[0]) != float(p[1])


def test_texts_are_laid_out_at_once_and_conversations_in_lines():
    asked = judge()
    assert asked._laid_out("say {second}", "a{first}", "b") == "say {second} w0 a{first} w0 b"
    chat = json.dumps([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}])
    assert asked._laid_out(chat, "a", "b") == "user: hello\nassistant: yes w0 a w0 b"


def test_too_long_a_text():
    long = " ".join(["w1"] * CONTEXT)
    with pytest.raises(DataError, match=f"text 1 has {CONTEXT + 4} tokens"):
        judge()(["w1", long], ["w2", "w2"], ["w3", "w3"])
    assert judge(truncate=True)([long], ["w2"], ["w3"]).shape == (1,)


def test_by_name(tmp_path):
    folder = tmp_path / "judge"
    judge_model(1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    both, once = (load_preference(str(folder), PairOptions(template=TEMPLATE, one_order=one)) for one in (False, True))
    row, turned = (["w1"], ["w2"], ["w3"]), (["w1"], ["w3"], ["w2"])
    assert float(both(*row)) == pytest.approx((float(once(*row)) + 1.0 - float(once(*turned))) / 2.0)
    (tmp_path / "mine.py").write_text("def longer(prompts, a, b):\n    return [float(len(x) > len(y)) for x, y in zip(a, b)]\nNUMBER = 1\n")
    own = load_preference(f"python:{tmp_path / 'mine.py'}:longer")
    assert own(["x", "x"], ["aa", "a"], ["a", "aa"]).tolist() == [1.0, 0.0]
    with pytest.raises(ConfigError, match="is a int: give a function"):
        load_preference(f"python:{tmp_path / 'mine.py'}:NUMBER")
    with pytest.raises(ConfigError, match="takes no template or label"):
        load_preference(f"python:{tmp_path / 'mine.py'}:longer", PairOptions(label="1"))


def raises_at_bad(prompts, first, second):
    if "bad" in first:
        raise RuntimeError("no such word.")
    return [0.5] * len(first)


@pytest.mark.parametrize(
    ("preference", "message"),
    [
        (lambda p, a, b: [0.5, 1.5], r"gave 1.5 for pair 1 of 2 \('bad' against 'd' to the prompt 'y'\): a probability lies between"),
        (lambda p, a, b: [float("nan"), 0.5], "gave nan for pair 0 of 2"),
        (lambda p, a, b: 0.5, r"gave shape \(\) for 2 pairs"),
        (lambda p, a, b: torch.zeros(2, 1), r"gave shape \(2, 1\) for 2 pairs"),
        (lambda p, a, b: ["yes", "no"], "gave a list for 2 pairs: it must give one probability for each"),
        (raises_at_bad, r"raises_at_bad raises RuntimeError \(no such word\) for pair 1 of 2 \('bad' against 'd'"),
        (lambda p, a, b: 1 / (len(p) - 2), "raises ZeroDivisionError .* though for none of them alone"),
    ],
)
def test_what_a_preference_may_not_do(preference, message):
    with pytest.raises(DataError, match=message):
        checked_preference(preference)(["x", "y"], ["a", "bad"], ["c", "d"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: PairOptions(template="{prompt} {first}"), "lacks {second}"),
        (lambda: judge(2), r"two classes: say which means that the first is preferred \(label\), FIRST or SECOND"),
        (lambda: judge(3), "has 3 classes"),
    ],
)
def test_judges_that_cannot_serve(mistake, message):
    with pytest.raises(ConfigError, match=message):
        mistake()
