"""Logs of paths: ragged, irregular, read from anywhere, and refused in one sentence that names path and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.path_tables import read_paths
from surefoot.data.paths import MANY, PathBatch, Paths
from surefoot.errors import ConfigError, DataError, SurefootError, UnknownNameError

CSV = """path,t,x_0,x_1,reward,payoff
a,0.0,1.0,5,2.0,
a,0.5,2.0,5,4.0,
b,10.0,-1.0,6,1.0,
a,2.0,3.0,5,,7.0
b,12.0,-2.0,6,,0.5
"""


@pytest.fixture
def log(tmp_path):
    def write(text=CSV, name="log.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def columns(**changed):
    base = {
        "path": np.array(["a", "a", "a", "b", "b"]),
        "t": np.array([0.0, 0.5, 2.0, 10.0, 12.0]),
        "x": np.array([1.0, 2.0, 3.0, -1.0, -2.0]),
        "reward": np.array([2.0, 4.0, 0.0, 1.0, 0.0]),
        "payoff": np.array([np.nan, np.nan, 7.0, np.nan, 0.5]),
    }
    return base | changed


# --- what is read ---------------------------------------------------------------------------------------------------


def test_a_csv_with_interleaved_paths(log):
    paths = read_paths(log())
    assert paths.names == ("a", "b") and paths.starts.tolist() == [0, 3, 5]
    np.testing.assert_array_equal(paths.t, [0.0, 0.5, 2.0, 10.0, 12.0])
    np.testing.assert_array_equal(paths.x, [[1, 5], [2, 5], [3, 5], [-1, 6], [-2, 6]])
    np.testing.assert_array_equal(paths.reward, [2.0, 4.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(paths.payoff, [7.0, 0.5])


def test_rewards_per_step_are_divided_by_dt_once(log):
    np.testing.assert_allclose(read_paths(log(), reward="per_step").reward, [4.0, 4.0 / 1.5, 0.0, 0.5, 0.0])


def test_shorter_paths_are_filled_up_with_steps_of_no_time():
    batch = Paths.of(**columns()).batch()
    np.testing.assert_array_equal(batch.t, [[0.0, 0.5, 2.0], [0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(batch.dt, [[0.5, 1.5], [2.0, 0.0]])
    np.testing.assert_array_equal(batch.to_go, [[2.0, 1.5, 0.0], [2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(batch.x[1, :, 0], [-1.0, -2.0, -2.0])
    copies = Paths.of(**columns()).batch(np.array([[0, 1, 1], [1, 1, 1]]))
    assert copies.copies == (2,) and copies.x.shape == (2, 3, 3, 1) and copies.payoff.shape == (2, 3)


def test_the_same_log_from_csv_parquet_and_npz(log, tmp_path):
    expected = read_paths(log())
    table = pa.table(
        {
            "path": pa.array(["a", "a", "b", "a", "b"]).dictionary_encode(),
            "t": [0.0, 0.5, 10.0, 2.0, 12.0],
            "x": [[1.0, 5.0], [2.0, 5.0], [-1.0, 6.0], [3.0, 5.0], [-2.0, 6.0]],
            "reward": pa.array([2, 4, 1, None, None]),
            "payoff": [None, None, None, 7.0, 0.5],
        }
    )
    pa.parquet.write_table(table, tmp_path / "log.parquet")
    arrays = {"path": np.array([0, 0, 1, 0, 1]), "t": np.array([0.0, 0.5, 10.0, 2.0, 12.0]), "x": np.array(table["x"].to_pylist())}
    np.savez(tmp_path / "log.npz", **arrays, reward=np.array([2.0, 4.0, 1.0, 9.0, 9.0]), payoff=np.array([7.0, 0.5]))
    for name in ("log.parquet", "log.npz"):
        read = read_paths(tmp_path / name)
        for field in ("t", "x", "reward", "payoff", "starts"):
            np.testing.assert_array_equal(getattr(read, field), getattr(expected, field))


def test_own_names_and_dates(log):
    text = "patient,when,glucose,dose,cost\n7,2024-01-01 00:00:00,5.5,1,2\n7,2024-01-01 12:00:00,6.0,0,\n"
    own = {"path": "patient", "t": "when", "x": ["glucose", "dose"], "reward": "cost"}
    paths = read_paths(log(text), columns=own, payoff=0.0, time_unit="day")
    np.testing.assert_allclose(paths.t, [0.0, 0.5])
    np.testing.assert_array_equal(paths.x, [[5.5, 1.0], [6.0, 0.0]])
    assert paths.names == ("7",) and paths.payoff.tolist() == [0.0]
    days = "path,t,x,reward\na,2024-01-01,1,1\na,2024-01-08,2,1\n"
    np.testing.assert_allclose(read_paths(log(days), time_unit="week").t, [0.0, 1.0])


def test_payoffs_of_every_form():
    for payoff in (columns()["payoff"], np.array([7.0, 0.5]), np.array([0.0, 0.0, 7.0, 0.5, 0.5])):
        np.testing.assert_array_equal(Paths.of(**columns(payoff=payoff)).payoff, [7.0, 0.5])
    assert Paths.of(**columns(payoff=None)).payoff is None
    np.testing.assert_array_equal(Paths.of(**columns(payoff=2.0)).payoff, [2.0, 2.0])


def test_no_rewards_on_the_way(log):
    text = "path,t,x,payoff\na,0,1,\na,1,2,3\n"
    assert read_paths(log(text), reward="none").reward.tolist() == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(60, 400))
def test_blocks_hold_each_path_once_and_are_small(lengths, points):
    paths = ragged(lengths)
    seen = []
    for index, batch in paths.blocks(points):
        rows = batch.t.size
        assert rows <= points or len(index) <= MANY
        assert rows <= 2 * sum(lengths[i] for i in index)
        np.testing.assert_array_equal(batch.dt.sum(-1), [paths.batch(np.array([i])).t[0, -1] for i in index])
        seen += index.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    whole = paths.batch()
    parts = list(whole.blocks(points))
    for field in ("t", "x", "reward", "payoff"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field))


def ragged(lengths):
    path = np.repeat(np.arange(len(lengths)), lengths)
    t = np.concatenate([np.arange(n) * 1.0 for n in lengths])
    return Paths.of(path, t, np.sin(t + path), np.ones(len(t)), 0.0)


def test_a_split_is_by_whole_paths():
    fit, judge = ragged([2, 3, 4, 5, 6]).split(0.6, seed=1)
    assert len(fit) == 3 and len(judge) == 2 and {*fit.names, *judge.names} == set("01234")
    assert fit.lengths.tolist() == [int(name) + 2 for name in fit.names]
    with pytest.raises(ConfigError, match=r"share is 0\.05: of 5 paths"):
        ragged([2, 3, 4, 5, 6]).split(0.05)


# --- what is refused ------------------------------------------------------------------------------------------------

MISTAKES = [
    ({"t": [0.0, 2.0, 0.5, 10.0, 12.0]}, r"path 'a', row 2: t is 0\.5, but 2 in row 1 before it: sort each path"),
    ({"t": [0.0, 0.5, 0.5, 10.0, 12.0]}, r"path 'a', row 2: t is 0\.5 as in row 1 before it"),
    ({"t": [0.0, 0.5, np.nan, 10.0, 12.0]}, r"path 'a', row 2: t is nan"),
    ({"x": [1.0, 2.0, 3.0, np.inf, -2.0]}, r"path 'b', row 3: x is \[inf\]"),
    ({"reward": [2.0, np.nan, 0.0, 1.0, 0.0]}, r"path 'a', row 1: reward is nan"),
    ({"path": ["a", "a", "a", "b", "c"]}, r"path 'b', row 3 is the path's only one"),
    ({"path": ["a", "a", None, "b", "b"]}, r"row 2 does not say which path"),
    ({"payoff": [np.nan, np.nan, np.nan, np.nan, 0.5]}, r"path 'a', row 2 is the last, and has no terminal payoff \(nan\)"),
    ({"payoff": [np.nan, 3.0, 7.0, np.nan, 0.5]}, r"path 'a', row 1: payoff is 3, but 7 at the path's end"),
    ({"payoff": [1.0, 2.0, 3.0]}, r"payoff \(3,\) must be one number, one a path \(2\) or one a row \(5\)"),
    ({"reward": [1.0, 2.0]}, r"reward \(2,\) must have a number for each of the 5 rows"),
    ({"x": np.array(list("abcde"))}, r"x holds <U1 instead of numbers"),
    ({"t": [0.0, 1.0]}, r"path \(5,\), t \(2,\) and x \(5, 1\) must be"),
    ({"path": [], "t": [], "x": []}, r"holds no rows"),
]


@pytest.mark.parametrize(("changed", "message"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_mistakes_in_columns(changed, message):
    with pytest.raises(DataError, match=message):
        Paths.of(**columns(**{name: np.asarray(value) for name, value in changed.items()}))


FILES = [
    ("path,t,x\na,0,1\na,1,2\n", {}, DataError, "there is no column 'reward' .*holds path, t, x: name it"),
    ("who,t,x,reward\na,0,1,1\na,1,2,1\n", {}, DataError, "there is no column 'path'"),
    ("path,t,speed,reward\na,0,1,1\na,1,2,1\n", {}, DataError, "there is no column 'x'"),
    ("path,t,x_0,x_2,reward\na,0,1,1,1\na,1,2,1,1\n", {}, DataError, "column 'x_1' is missing"),
    ("path,t,x,reward\na,0,one,1\na,1,two,1\n", {}, DataError, "column 'x' holds text"),
    ("path,t,x,reward\na,0,1,1\na,x,2,1\n", {}, DataError, "t holds object instead of numbers"),
    (CSV, {"columns": {"x": "x_7"}}, UnknownNameError, "unknown column of .* 'x_7'.*x_0"),
    (CSV, {"columns": {"state": "x_0"}}, UnknownNameError, "unknown column 'state'"),
    (CSV, {"columns": {"t": ["t", "x_0"]}}, ConfigError, "columns has 2 names for 't'"),
    (CSV, {"reward": "sum"}, ConfigError, "reward is 'sum': it is one of rate, per_step, none"),
    (CSV, {"payoff": 0.0}, ConfigError, "has the column 'payoff': do not give"),
    (CSV, {"time_unit": "day"}, ConfigError, "are numbers already"),
    (CSV, {"time_unit": "dy"}, UnknownNameError, "did you mean 'day'"),
    ("path,t,x,reward\na,2024-01-01,1,1\na,2024-01-02,2,1\n", {}, ConfigError, "are dates: say with time_unit"),
    ("", {}, DataError, "cannot be read as csv"),
]


@pytest.mark.parametrize(("text", "options", "error", "message"), FILES, ids=[row[3] for row in FILES])
def test_mistakes_in_files(log, text, options, error, message):
    with pytest.raises(error, match=message):
        read_paths(log(text), **options)


def test_files_that_are_none(tmp_path, log):
    log()
    for name, message in (("lg.csv", "did you mean .*log.csv"), ("log.pkl", "is a pickle"), ("log.txt", "is of no kind")):
        with pytest.raises(DataError, match=message):
            read_paths(tmp_path / name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    np.savez(tmp_path / "objects.npz", path=np.array([None], object))
    for name, message in (
        ("one.npz", "holds one array"),
        ("cut.parquet", "cut off or damaged"),
        ("objects.npz", "column 'path' holds Python objects"),
    ):
        with pytest.raises(DataError, match=message):
            read_paths(tmp_path / name)
    pa.parquet.write_table(
        pa.table({"path": [0, 0], "t": [0.0, 1.0], "x": [[1.0], [1.0, 2.0]], "reward": [0.0, 0.0]}), tmp_path / "r.parquet"
    )
    with pytest.raises(DataError, match="column 'x' holds lists of"):
        read_paths(tmp_path / "r.parquet")


def test_batches_that_do_not_fit():
    with pytest.raises(DataError, match=r"do not fit each other"):
        PathBatch(np.zeros((2, 3)), np.zeros((2, 3, 1)), np.zeros((2, 3)))
    with pytest.raises(SurefootError, match="P, N >= 1"):
        PathBatch(np.zeros((2, 1)), np.zeros((2, 1, 1)), np.zeros((2, 0)))
