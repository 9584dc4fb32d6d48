"""What is told about data of texts, by hand."""

import pytest

from surefoot.data.preferences import Preferences, Prompts, ScoredTexts
from surefoot.data.text_statistics import text_statistics


def test_pairs():
    data = Preferences(["p", "p", "pp", "p", "p"], ["aa", "aa", "a", "b", "c"], ["b", "b", "bb", "aa", "d"], [1.0, 1.0, -0.5, 2.0, 0.0])
    found = text_statistics(data)
    assert (found.kind, found.rows, found.prompts, found.conversations) == ("pairs", 5, 2, False)
    assert found.lengths["prompt"].mean == 1.2 and found.lengths["chosen"].max == 2
    assert found.longer_chosen == pytest.approx((1 + 1 + 0 + 0 + 0.5) / 5)
    assert found.values["margin"].min == -0.5 and found.completions_a_prompt is None
    assert found.warnings == [
        "1 of 5 pairs are there more than once.",
        "1 pairs are there both ways round: of those it is not known what was preferred.",
        "in 1 of 5 pairs the margin is negative: what was rejected has the higher score.",
    ]


def test_scored():
    found = text_statistics(ScoredTexts(["p", "q", "p"], ["a", "b", "c"], [0.0, 1.0, 2.0]))
    assert found.completions_a_prompt == (1, 2) and found.values["score"].mean == 1.0 and found.warnings == []
    found = text_statistics(ScoredTexts(["p", "q"], ["a", "b"], [1.0, 1.0], notes=["3 rows were left out"]))
    assert [line[:21] for line in found.warnings] == ["3 rows were left out", "no prompt has a secon", "all scores are 1: the"]


def test_conversations_and_prompts():
    asked = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}]
    found = text_statistics(Prompts([asked, asked], {"tests": [1, 2]}))
    assert found.conversations and found.prompts == 1 and found.columns == ["tests"]
    assert found.lengths["prompt"].mean == 5 and found.warnings == ["1 of 2 prompts are there more than once."]
