"""Bandit logs as files: round trips, tables as others write them, and every mistake with file, column, row and value."""

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.data.bandit_columns import ColumnNames
from surefoot.data.bandit_files import read_bandit_log, write_bandit_log
from surefoot.data.bandit_log import BanditLog
from surefoot.errors import CheckpointError, ConfigError, DataError

SUFFIXES = ["parquet", "csv", "npz"]
TABLES = ["parquet", "csv"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small_log(n=40, seed=0, **fields) -> BanditLog:
    rng = np.random.default_rng(seed)
    available = rng.random((n, 3)) < 0.7
    action = rng.integers(0, 3, n)
    available[np.arange(n), action] = True
    arrays = {
        "context": rng.standard_normal((n, 2)),
        "action": action,
        "reward": rng.integers(0, 2, n),
        "propensity": rng.uniform(0.1, 1, n),
        "available": available,
        "generation": np.sort(rng.integers(0, 3, n)),
        "actions": ("visa", "amex", "mc"),
        "features": ("amount", "hour=late"),
    }
    return BanditLog(**arrays | fields)


def frame(n=60, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.lognormal(3, 1, n),
            "country": rng.choice(["NL", "DE", "FR"], n),
            "hour": rng.integers(0, 24, n),
            "action": rng.choice(["visa", "mc", "amex"], n),
            "reward": rng.integers(0, 2, n),
            "propensity": np.full(n, 1 / 3),
        }
    )


def write(table: pd.DataFrame, name: str) -> str:
    table.to_csv(name, index=False) if name.endswith("csv") else table.to_parquet(name)
    return name


def same(a: BanditLog, b: BanditLog) -> bool:
    names = ("context", "action", "reward", "available", "propensity", "generation", "action_features")
    equal = [np.array_equal(x, y) if x is not None else y is None for x, y in ((getattr(a, k), getattr(b, k)) for k in names)]
    return all(equal) and a.actions == b.actions and a.features == b.features


# --- what we write --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"propensity": None},
        {"action_features": np.array([[0.25], [0.5], [1e-300]])},
        {"available": np.ones((40, 3), bool), "actions": ("0", "1", "007")},
        {"action": np.zeros(40, np.int64), "available": np.ones((40, 3), bool)},  # two actions never taken keep their names
        {"context": np.empty((40, 0)), "features": ()},
        {"features": ("time", "click")},  # names that a foreign file would mean something else by
    ],
)
def test_a_log_comes_back_number_for_number(suffix, fields):
    log = small_log(**fields)
    write_bandit_log(log, f"log.{suffix}")
    assert same(read_bandit_log(f"log.{suffix}"), log)
    assert [name for name in os.listdir() if not name.startswith("log")] == []  # nothing is left beside it


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 1)), min_size=1, max_size=8),
    st.sampled_from(SUFFIXES),
)
def test_any_numbers_come_back(rows, suffix):
    values, actions = map(np.array, zip(*rows, strict=True))
    names = np.array(["a, b\n", 'say "no"'])
    log = BanditLog.from_arrays(values[:, None], names[actions], values, actions=names.tolist(), features=["x,\ny"])
    write_bandit_log(log, f"any.{suffix}")
    assert same(read_bandit_log(f"any.{suffix}"), log)


def test_places_that_are_refused(tmp_path):
    log = small_log()
    with pytest.raises(DataError, match=r"log\.xlsx is of no kind .* take \.parquet, \.csv, \.npz"):
        write_bandit_log(log, "log.xlsx")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        write_bandit_log(log, "taken.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_bandit_log(log, "file/log.csv")
    with pytest.raises(DataError, match="feature 'reward' cannot be written beside the log's own column"):
        write_bandit_log(small_log(features=("reward", "b")), "log.csv")


# --- what others write ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", TABLES)
def test_a_pandas_frame(suffix):
    table = frame().assign(merchant=[f"m{i}" for i in range(60)], row=np.arange(60), seen=pd.date_range("2026-01-01", periods=60, freq="h"))
    log = read_bandit_log(write(table, f"log.{suffix}"))
    assert log.actions == ("amex", "mc", "visa")
    assert log.features[:2] == ("amount", "country=DE")
    assert log.context.shape[1] == (5 if suffix == "parquet" else len(log.features))
    assert np.array_equal(log.context[:, 0], table.amount)
    assert np.array_equal(log.context[:, 1], table.country == "DE")
    said = " | ".join(log.notes)
    assert "'country' holds text: it became 3 features" in said
    assert "'merchant' holds more than 32 different texts" in said
    assert "'row' counts the rows" in said
    chosen = read_bandit_log(f"log.{suffix}", ColumnNames(features=("hour", "amount")))
    assert chosen.features == ("hour", "amount")
    assert np.array_equal(chosen.context, table[["hour", "amount"]].to_numpy())


@pytest.mark.parametrize("suffix", TABLES)
def test_columns_by_other_names(suffix):
    table = frame().rename(columns={"action": "acquirer", "reward": "authorised", "propensity": "p", "hour": "day_batch"})
    table = table.sort_values("day_batch").assign(reward=7.0)
    names = ColumnNames(action="acquirer", reward="authorised", propensity="p", generation="day_batch")
    log = read_bandit_log(write(table, f"log.{suffix}"), names)
    assert np.array_equal(log.reward, table.authorised)
    assert np.array_equal(log.generation, table.day_batch)
    assert "reward" not in log.features  # a second reward among the features would give the outcome away
    assert any("'reward' sounds like another reward" in note for note in log.notes)
    with pytest.raises(ConfigError, match="'authorised', which is the log's reward"):
        read_bandit_log(f"log.{suffix}", ColumnNames("acquirer", "authorised", features=("amount", "authorised")))
    with pytest.raises(ConfigError, match="'acquirer' is to be action and reward at once"):
        read_bandit_log(f"log.{suffix}", ColumnNames("acquirer", "acquirer"))
    with pytest.raises(DataError, match=r"there is no column 'acquire': did you mean 'acquirer'\?"):
        read_bandit_log(f"log.{suffix}", ColumnNames("acquire"))
    with pytest.raises(DataError, match=r"no column is called 'action'; it holds amount, .*\(--action\)"):
        read_bandit_log(f"log.{suffix}")


def test_lists_of_contexts_and_of_available_actions():
    n = 20
    rng = np.random.default_rng(0)
    context, action = rng.standard_normal((n, 3)), rng.integers(0, 3, n)
    available = rng.random((n, 4)) < 0.5
    available[np.arange(n), action] = True
    common = {"context": list(context), "action": action, "reward": np.ones(n)}
    names = [[str(k) for k in np.flatnonzero(row)] for row in available]
    for column in (list(available), names, [list(map(int, x)) for x in names], ["|".join(x) for x in names]):
        pd.DataFrame(common | {"available": column}).to_parquet("log.parquet")
        log = read_bandit_log("log.parquet")
        assert np.array_equal(log.context, context)
        assert log.features == ("context_0", "context_1", "context_2")
        assert log.actions == ("0", "1", "2", "3")
        assert np.array_equal(log.available, available)
    np.savez("log.npz", context=context, action=action, reward=np.ones(n), available=available)
    assert np.array_equal(read_bandit_log("log.npz").available, available)
    pd.DataFrame(common | {"available": [*names[:5], None, *names[6:]]}).to_parquet("log.parquet")
    with pytest.raises(DataError, match="'available' is missing in row 5"):
        read_bandit_log("log.parquet")
    pd.DataFrame(common | {"available": names}).to_parquet("log.parquet")
    with pytest.raises(DataError, match=r"'available' lists '3' in row [0-9]+, which is none of the actions 0, 1, 2"):
        read_bandit_log("log.parquet", ColumnNames(actions=("0", "1", "2")))


@pytest.mark.parametrize("suffix", TABLES)
def test_a_column_of_availability_an_action(suffix):
    table = frame()
    for name in ("visa", "mc", "amex", "cash"):  # cash is never taken
        table[f"available_{name}"] = (table.action == name) | (table.hour > 12)
    log = read_bandit_log(write(table, f"log.{suffix}"))
    assert log.actions == ("visa", "mc", "amex", "cash")
    assert np.array_equal(log.available[:, 3], table.hour > 12)
    assert not any(name.startswith("available") for name in log.features)
    late = table.assign(available_visa=False)
    row = int(np.argmax(late.action == "visa"))
    with pytest.raises(DataError, match=f"'action' is visa in row {row}, which was not available there"):
        read_bandit_log(write(late, f"late.{suffix}"))
    with pytest.raises(DataError, match=r"'available_mc' is 2\.0 in row 4"):
        read_bandit_log(write(table.assign(available_mc=np.where(table.index == 4, 2, 1)), f"late.{suffix}"))
    with pytest.raises(DataError, match=r"'action' is mc in row [0-9]+, which is none of the actions visa, amex, cash"):
        read_bandit_log(write(table.drop(columns="available_mc"), f"late.{suffix}"))
    credit = read_bandit_log(write(frame().assign(available_credit=350.5), f"credit.{suffix}"))
    assert "available_credit" in credit.features  # no action is called so


@pytest.mark.parametrize("suffix", TABLES)
def test_dates_make_days_and_rows_out_of_order_are_refused_or_sorted(suffix):
    table = frame(50).assign(timestamp=pd.date_range("2026-01-30 20:00", periods=50, freq="h"))
    log = read_bandit_log(write(table, f"log.{suffix}"))
    assert log.generation.tolist() == [0] * 4 + [1] * 24 + [2] * 22
    assert any("'timestamp'" in note and "day" in note for note in log.notes)
    assert "timestamp" not in log.features
    mixed = table.iloc[np.random.default_rng(0).permutation(50)]
    row = int(np.argmax(np.diff(mixed.timestamp.to_numpy()) < np.timedelta64(0))) + 1
    with pytest.raises(DataError, match=rf"'timestamp' is .*2026-.* in row {row}, after .*\(--sort\)"):
        read_bandit_log(write(mixed, f"mixed.{suffix}"))
    assert same(read_bandit_log(f"mixed.{suffix}", sort=True), log)
    zoned = table.assign(timestamp=[f"2026-01-30T20:{i:02d}:00Z" for i in range(50)])
    assert read_bandit_log(write(zoned, f"zoned.{suffix}")).generation.tolist() == [0] * 50
    with pytest.raises(DataError, match="'timestamp' is 'noon' in row 0, which is no date"):
        read_bandit_log(write(table.assign(timestamp="noon"), f"noon.{suffix}"))
    ticks = table.assign(timestamp=np.arange(50)[::-1] * 0.5)
    with pytest.raises(DataError, match=r"'timestamp' is .*24\.0.* in row 1, after .*24\.5"):
        read_bandit_log(write(ticks, f"ticks.{suffix}"))
    assert read_bandit_log(f"ticks.{suffix}", sort=True).context[0, 0] == table.amount.iloc[-1]


@pytest.mark.parametrize("suffix", TABLES)
def test_batches_by_number_and_by_name(suffix):
    table = frame(30).assign(batch=np.repeat([3, 4, 9], 10))
    assert read_bandit_log(write(table, f"log.{suffix}")).generation.tolist() == table.batch.tolist()
    named = table.assign(batch=np.repeat(["spring", "autumn", "winter"], 10))
    assert read_bandit_log(write(named, f"log.{suffix}")).generation.tolist() == np.repeat([0, 1, 2], 10).tolist()
    named.loc[20, "batch"] = "spring"
    with pytest.raises(DataError, match="'batch' is 'spring' in row 20, after 'autumn'"):
        read_bandit_log(write(named, f"log.{suffix}"))
    with pytest.raises(DataError, match=r"'batch' is 0\.5 in row 3"):
        read_bandit_log(write(table.assign(batch=np.where(table.index < 3, 0, 0.5)), f"log.{suffix}"))
    with pytest.raises(DataError, match=r"'batch' is (missing|nan) in row 2"):
        read_bandit_log(write(table.assign(batch=table.batch.where(table.index != 2)), f"log.{suffix}"))
    within = frame(30).assign(batch=np.repeat([0, 1, 2], 10), time=np.tile(np.arange(10), 3))  # the clock starts again in each batch
    assert len(read_bandit_log(write(within, f"log.{suffix}"))) == 30


def test_a_folder_of_parquet_is_one_log_in_the_order_of_names(tmp_path):
    table = frame(60)
    (tmp_path / "days").mkdir()
    for i, part in enumerate(np.array_split(np.arange(60), 11)):
        table.iloc[part].to_parquet(f"days/day-{i}.parquet")
    log = read_bandit_log("days")
    assert np.array_equal(log.context[:, 0], table.amount)
    table.iloc[:3].drop(columns="hour").to_parquet("days/day-5.parquet")
    with pytest.raises(DataError, match=r"day-5\.parquet has other columns than day-0\.parquet"):
        read_bandit_log("days")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none is a folder without \.parquet files"):
        read_bandit_log("none")


def test_numbers_of_other_kinds():
    table = frame()
    table["hour"] = table.hour.astype("float32").astype("category")
    table["reward"] = table.reward.astype(bool)
    table["action"] = table.action.astype("category")
    table["first"] = pd.array([True] * 60, dtype="boolean")
    table.to_parquet("log.parquet")
    log = read_bandit_log("log.parquet")
    assert log.features == ("amount", "country=DE", "country=FR", "country=NL", "hour", "first")
    assert np.array_equal(log.reward, table.reward)
    decimals = pa.table({"action": [0, 1], "reward": pa.array([1, 2], pa.decimal128(5, 2)), "note": pa.array([None, None])})
    pyarrow.parquet.write_table(decimals, "log.parquet")
    log = read_bandit_log("log.parquet")
    assert (log.reward.tolist(), log.d, log.notes) == ([1.0, 2.0], 0, ("column 'note' is empty, so it is no feature",))


def test_the_first_rows_of_a_csv_do_not_decide_for_the_rest(tmp_path):
    rows = ["x,action,reward"] + [f"{i},a,1" for i in range(200_000)] + ["0.5,b,0.25"]  # whole numbers beyond the first block
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    log = read_bandit_log("log.csv")
    assert (log.context[-1, 0], log.reward[-1], log.actions) == (0.5, 0.25, ("a", "b"))


def test_missing_text_is_a_value_of_its_own():
    for path in ("log.csv", "log.parquet"):
        log = read_bandit_log(write(frame().assign(country=[None, "NA", "NL"] * 20), path))
        assert log.features[1:3] == ("country=(missing)", "country=NA")  # Namibia


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(amount=t.amount.where(t.index != 7)), "'amount' is nan in row 7"),
        (lambda t: t.assign(hour=np.where(t.index == 9, np.inf, t.hour)), "'hour' is inf in row 9"),
        (lambda t: t.assign(reward=t.reward.where(t.index != 3)), "'reward' is nan in row 3"),
        (lambda t: t.assign(reward=np.where(t.index == 2, -np.inf, t.reward)), "'reward' is -inf in row 2"),
        (lambda t: t.assign(reward=np.where(t.index == 4, "yes", "1")), "'reward' is 'yes' in row 4, which is not a number"),
        (lambda t: t.assign(propensity=np.where(t.index == 5, 0.0, 0.5)), "'propensity' is 0 in row 5"),
        (lambda t: t.assign(propensity=np.where(t.index == 5, -0.1, 0.5)), "'propensity' is -0.1 in row 5"),
        (lambda t: t.assign(propensity=np.where(t.index == 5, 1.5, 0.5)), "'propensity' is 1.5 in row 5"),
        (lambda t: t.assign(propensity=t.propensity.where(t.index < 50)), "'propensity' is missing in row 50 and 9 others"),
        (lambda t: t.rename(columns={"propensity": "pscore"}).assign(pscore=2.0), "'pscore' is 2 in row 0"),
        (lambda t: t.assign(action=t.action.where(t.index != 8)), "'action' is missing in row 8"),
        (lambda t: t.assign(action="visa"), r"only one action \(visa\)"),
        (
            lambda t: t.assign(amount=np.where(t.index == 6, "much", t.amount.astype(str))),
            "'amount' is 'much' in row 6, but mostly numbers",
        ),
        (lambda t: t.iloc[:0], "holds no rows"),
        (lambda t: t.drop(columns="reward"), "no column is called 'reward'"),
    ],
)
def test_tables_that_are_no_logs(suffix, change, words):
    path = write(change(frame()), f"mine.{suffix}")
    with pytest.raises(DataError, match=words) as caught:
        read_bandit_log(path)
    assert str(caught.value).startswith(path)


def test_text_features_that_are_asked_for_and_dates():
    path = write(frame().assign(name=[f"n{i}" for i in range(60)], seen=pd.Timestamp("2026-01-01")), "log.parquet")
    with pytest.raises(DataError, match=r"'name' holds 60 different texts \('n0' in row 0\), more than the 32"):
        read_bandit_log(path, ColumnNames(features=("name",)))
    with pytest.raises(DataError, match="'seen' holds dates: turn them into numbers"):
        read_bandit_log(path, ColumnNames(features=("seen",)))
    with pytest.raises(DataError, match="no column 'amont': did you mean 'amount'"):
        read_bandit_log(path, ColumnNames(features=("amont",)))
    with pytest.raises(DataError, match=r"'action' is amex in row [0-9]+, which is none of the actions visa, mc"):
        read_bandit_log(path, ColumnNames(actions=("visa", "mc")))


def test_files_that_cannot_be_read(tmp_path):
    write_bandit_log(small_log(), "log.parquet")
    with pytest.raises(DataError, match=r"no file or folder .*lag\.parquet: did you mean .*log\.parquet"):
        read_bandit_log("lag.parquet")
    for name in ("log.pkl", "log.xlsx", "empty.csv"):
        (tmp_path / name).write_text("" if name == "empty.csv" else "x")
    with pytest.raises(DataError, match="is a pickle"):
        read_bandit_log("log.pkl")
    with pytest.raises(DataError, match="of no kind that is read as a bandit log"):
        read_bandit_log("log.xlsx")
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        read_bandit_log("empty.csv")
    whole = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet cannot be read as Parquet"):
        read_bandit_log("cut.parquet")
    (tmp_path / "twice.csv").write_text("action,reward,x,x\n0,1,2,3\n1,1,2,3\n")
    with pytest.raises(DataError, match="two columns are called 'x'"):
        read_bandit_log("twice.csv")
    (tmp_path / "ragged.csv").write_text("action,reward\n0,1\n1\n")
    with pytest.raises(DataError, match=r"ragged\.csv cannot be read as CSV"):
        read_bandit_log("ragged.csv")


def test_npz_files_that_are_no_logs():
    np.savez("log.npz", context=np.zeros((3, 1)), action=np.array([0, 1, 0]), reward=np.zeros(2))
    with pytest.raises(DataError, match="columns differ in their number of rows"):
        read_bandit_log("log.npz")
    np.savez("log.npz", context=np.zeros((3, 1)), action=np.array([0, 1, None], object), reward=np.zeros(3))
    with pytest.raises(DataError, match="'action' holds Python objects, a pickle, which is not opened"):
        read_bandit_log("log.npz")
    np.save("array.npy", np.zeros(3))
    os.rename("array.npy", "array.npz")
    with pytest.raises(DataError, match=r"array\.npz holds one array"):
        read_bandit_log("array.npz")


def test_metadata_of_a_later_format_or_damaged(tmp_path):
    write_bandit_log(small_log(), "log.csv")
    text = (tmp_path / "log.csv").read_text()
    (tmp_path / "new.csv").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match=r"new\.csv is of format 2.*update surefoot"):
        read_bandit_log("new.csv")
    (tmp_path / "bad.csv").write_text(text.replace('"format": 1', '"fmt": 1'))
    with pytest.raises(DataError, match=r"bad\.csv: what surefoot wrote about the log is damaged"):
        read_bandit_log("bad.csv")
