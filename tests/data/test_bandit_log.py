"""Bandit logs in memory: what they hold, how they are put together, and everything that they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.bandit_log import BanditLog, action_indices, concatenate
from surefoot.errors import DataError

GOOD = {
    "context": np.array([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0], [3.5, 4.0]]),
    "action": np.array([0, 2, 1, 0]),
    "reward": np.array([1.0, 0.0, 1.0, 0.5]),
    "available": np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], bool),
    "propensity": np.array([0.5, 0.25, 1.0, 0.1]),
    "generation": np.array([0, 0, 1, 1]),
    "actions": ("visa", "amex", "mc"),
}


def changed(**fields) -> BanditLog:
    return BanditLog(**GOOD | fields)


def at(name, row, value):
    array = GOOD[name].copy()
    array[row] = value
    return array


def test_a_log_has_types_sizes_and_names():
    log = changed(context=GOOD["context"].astype(np.float32), action=GOOD["action"].astype(np.int8), reward=[1, 0, 1, 0])
    assert (len(log), log.K, log.d, log.source) == (4, 3, 2, "memory")
    assert (log.context.dtype, log.action.dtype, log.reward.dtype, log.generation.dtype) == (np.float64, np.int64, np.float64, np.int64)
    assert log.features == ("context_0", "context_1")
    assert changed(context=np.empty((4, 0))).d == 0  # a bandit without a context


def test_rows_by_mask_and_by_index():
    log = changed()
    mask = np.array([True, False, True, False])
    for part in (log.rows(mask), log.rows(np.flatnonzero(mask))):
        assert part.action.tolist() == [0, 1]
        assert part.propensity.tolist() == [0.5, 1.0]
        assert part.generation.tolist() == [0, 1]
        assert part.actions == log.actions
    assert changed(propensity=None).rows(mask).propensity is None


def test_logs_are_joined():
    log = changed()
    late = changed(generation=np.array([1, 1, 2, 2]))
    joined = concatenate([log, late], "both")
    assert len(joined) == 8
    assert joined.source == "both"
    assert joined.generation.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert np.array_equal(joined.rows(np.arange(4)).context, log.context)
    assert concatenate([log, changed(propensity=None, generation=np.array([1, 1, 1, 1]))]).propensity is None
    with pytest.raises(DataError, match="differ in actions or features"):
        concatenate([log, changed(actions=("a", "b", "c"))])
    with pytest.raises(DataError, match="no bandit logs"):
        concatenate([])
    with pytest.raises(DataError, match="'generation' is 0 in row 4, after 1"):
        concatenate([log, log])


def test_from_arrays_keeps_actions_by_name():
    x, r = np.zeros((3, 1)), np.zeros(3)
    log = BanditLog.from_arrays(x, np.array(["b", "a", "b"]), r)
    assert (log.actions, log.action.tolist()) == (("a", "b"), [1, 0, 1])
    assert log.available.all()
    assert log.propensity is None
    assert log.generation.tolist() == [0, 0, 0]
    assert BanditLog.from_arrays(x, np.array([0, 3, 0]), r).actions == ("0", "1", "2", "3")
    assert BanditLog.from_arrays(x, np.array([10.0, 20.0, 10.0]), r).actions == ("10", "20")
    log = BanditLog.from_arrays(x, np.array([5, 7, 5]), r, actions=[3, 5, 7])
    assert log.action.tolist() == [1, 2, 1]
    with pytest.raises(DataError, match=r"'action' is 8 in row 1, which is none of the actions 3, 5, 7"):
        BanditLog.from_arrays(x, np.array([5, 8, 5]), r, actions=[3, 5, 7])
    with pytest.raises(DataError, match="only one action"):
        BanditLog.from_arrays(x, np.array(["a", "a", "a"]), r)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"context": at("context", 2, np.nan)}, "'context' is nan in row 2, feature 0"),
        ({"reward": at("reward", 1, np.inf)}, "'reward' is inf in row 1"),
        ({"propensity": at("propensity", 1, 0.0)}, "'propensity' is 0 in row 1"),
        ({"propensity": at("propensity", 3, -0.5)}, "'propensity' is -0.5 in row 3"),
        ({"propensity": at("propensity", 0, 1.2)}, r"'propensity' is 1.2 in row 0"),
        ({"propensity": at("propensity", [1, 3], np.nan)}, "'propensity' is missing in row 1 and 1 others"),
        ({"propensity": np.full(4, np.nan)}, "leave the column out and have it fitted"),
        ({"action": at("action", 3, 3)}, "'action' is 3 in row 3, which is none of the 3 actions"),
        ({"action": at("action", 0, -1)}, "'action' is -1 in row 0"),
        ({"action": at("action", 1, 1)}, r"'action' is amex in row 1, which was not available there \(visa, mc was\)"),
        ({"generation": np.array([0, 1, 0, 1])}, "'generation' is 0 in row 2, after 1"),
        ({"generation": np.array([0.0, 0.5, 1.0, 1.0])}, "'generation' holds float64 instead of whole numbers"),
        ({"available": GOOD["available"].astype(float)}, "'available' holds float64 instead of true or false"),
        ({"available": GOOD["available"][:, :2]}, r"'available' has shape \[4, 2\]"),
        ({"reward": np.zeros(3)}, r"\[4, 2\], but 3 rewards"),
        ({"reward": np.array(["a", "b", "c", "d"])}, "'reward' holds .* instead of numbers"),
        ({"context": np.zeros(4)}, r"'context' has shape \[4\]"),
        ({"features": ("one",)}, "1 features are named, but the context has 2"),
        ({"actions": ("visa",)}, r"only one action \(visa\)"),
        ({"actions": ("visa", "visa", "mc")}, "two actions are called 'visa'"),
        ({"action_features": np.zeros((2, 4))}, r"'action_features' has shape \[2, 4\]"),
        ({"action_features": np.full((3, 1), np.nan)}, "'action_features' is nan in row 0"),
        ({name: value[:0] for name, value in GOOD.items() if name != "actions"}, "holds no rows"),
    ],
)
def test_what_no_log_may_hold(fields, words):
    with pytest.raises(DataError, match=words):
        changed(**fields)
    with pytest.raises(DataError, match=r"^mine\.csv: "):
        changed(**fields, source="mine.csv")


@given(st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=30))
def test_names_and_indices_are_inverse(names):
    index = action_indices(np.array(names), ("z", "x", "y"), "action", "memory")
    assert [("z", "x", "y")[i] for i in index] == names
    assert index.tolist() == action_indices(np.array(names, object), ("z", "x", "y"), "action", "memory").tolist()
