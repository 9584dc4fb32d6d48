"""Unit tests as a reward: what a completion is run as, and what the columns beside the prompts must hold."""

import pytest
import torch

from surefoot.data.preferences import Prompts
from surefoot.envs.execution import UnitTest
from surefoot.envs.unit_tests import Exercise, exercises, unit_test_reward
from surefoot.errors import ConfigError, DataError

TESTS = [["assert f(1) == 2", "assert f(5) == 6"], "assert f(2) == 4\nassert f(3) == 6"]


def texts(tests=TESTS, **columns):
    return Prompts(["add one", "double"], source="p.jsonl", columns={"tests": tests, **columns})


def test_the_reward_is_the_share_of_tests_passed():
    reward = unit_test_reward(texts(program=["def f(x): {completion}", None]), True)
    prompts = ["add one", "add one", "add one", "double", "double"]
    completions = ["return x + 1", "return 2", "return (", "def f(x): return 2 * x", "def f(x): return x + 2"]
    assert torch.equal(reward(prompts, completions), torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0]))
    whole = unit_test_reward(texts(program=["def f(x): {completion}", None]), True, all_or_nothing=True)
    assert torch.equal(whole(prompts, completions), torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]))


def test_fenced_code_counts_where_there_is_any():
    each = Exercise((UnitTest("f(1)", "1"),))
    assert each.code("Sure!\n```python\ndef f(x): return x\n```\nThat is all.") == "def f(x): return x\n"
    assert each.code("```\nfirst\n```\nor rather\n```py\nsecond\n") == "second\n"  # cut off before it was closed
    assert each.code("def f(x): return x") == "def f(x): return x"
    assert Exercise(each.tests, "def f(x):\n{completion}\nprint('{}')").code("    return x") == "def f(x):\n    return x\nprint('{}')"


def test_conversations_are_known_by_their_json():
    messages = [{"role": "user", "content": "add one"}]
    found = exercises(Prompts([messages], source="p", columns={"tests": [["assert f(1) == 2"]]}))
    assert list(found) == ['[{"role": "user", "content": "add one"}]']


def test_other_columns_can_be_the_tests():
    reward = unit_test_reward(texts(hidden=[["assert f(0) == 1"], ["assert f(1) == 2"]]), True, column="hidden")
    assert reward(["add one"], ["def f(x): return x + 1"]).tolist() == [1.0]


def test_it_must_be_allowed():
    with pytest.raises(ConfigError, match="--allow-code-execution"):
        unit_test_reward(texts())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (texts([["assert f(1) == 2"], []]), r"p.jsonl, row 1, field 'tests' is '\[\]'"),
        (texts([["assert f(1) == 2"], [3]]), "row 1, field 'tests' is .* each a text"),
        (texts([["assert f(1) == 2"], None]), "row 1, field 'tests' is 'None'"),
        (texts([["assert f(1) == 2", "assert f("], ["assert True"]]), "row 0, field 'tests', test 1 is no Python"),
        (texts([["assert f(1) == 2"], "  "]), "row 1, field 'tests' is empty"),
        (texts(program=["def f(x): {completion}", "def f(x):"]), r"row 1, field 'program' is 'def f\(x\):'"),
        (
            Prompts(["a", "a"], source="p.jsonl", columns={"tests": [["assert True"], ["assert False"]]}),
            "row 1: the prompt 'a' comes again",
        ),
    ],
)
def test_bad_rows_are_named(given, message):
    with pytest.raises(DataError, match=message):
        unit_test_reward(given, True)


def test_a_missing_column_and_an_unknown_prompt_are_named():
    with pytest.raises(ConfigError, match=r"p.jsonl has no column 'tests' beside its prompts \(no others\)"):
        unit_test_reward(Prompts(["a"], source="p.jsonl"), True)
    with pytest.raises(ConfigError, match=r"no column 'hidden' beside its prompts \(tests\)"):
        unit_test_reward(texts(), True, column="hidden")
    with pytest.raises(DataError, match="there are no tests for the prompt 'other'"):
        unit_test_reward(texts(), True)(["other"], ["x"])
