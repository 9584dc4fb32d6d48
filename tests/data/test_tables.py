"""CSV and Parquet as others write them: pandas frames, list columns, shards, gaps."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from surefoot.data.log import Log
from surefoot.data.metadata import WARNINGS
from surefoot.data.readers import read_log
from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import DataError

BOX = Continuous((-1.0, -1.0), (1.0, 1.0))


def arrays(n=60, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((n, 3)).astype(np.float32)
    return {
        "obs": obs,
        "action": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "reward": rng.standard_normal(n).astype(np.float32),
        "next_obs": np.concatenate([obs[1:], obs[:1]]),
        "terminated": np.arange(n) == 29,
        "truncated": np.arange(n) == n - 1,
    }


def frame(a) -> pd.DataFrame:
    columns = {}
    for name, array in a.items():
        columns |= {name: array} if array.ndim == 1 else {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
    return pd.DataFrame(columns)


def expected(a, space=BOX) -> str:
    return Log.from_arrays(**a, action_space=space).fingerprint


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_pandas_frame(suffix, tmp_path):
    table, path = frame(arrays()), tmp_path / f"log.{suffix}"
    table = table[np.random.default_rng(0).permutation(table.columns)]  # the order of columns does not matter
    table["comment"] = "none"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    log = read_log(path, action_space=BOX)
    assert log.fingerprint == expected(arrays())
    table.drop(columns=["action_0", "action_1"]).assign(action=np.arange(60) % 3).pipe(
        lambda t: t.to_csv(path, index=False) if suffix == "csv" else t.to_parquet(path)
    )
    assert read_log(path).action == Discrete(3)
    assert "0 to 2" in read_log(path).notes[WARNINGS]


def test_columns_of_lists(tmp_path):
    a = arrays()
    pd.DataFrame({name: list(array) for name, array in a.items()}).to_parquet(tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet", action_space=BOX).fingerprint == expected(a)
    fixed = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(a[name].reshape(-1)), a[name].shape[1]) for name in ("obs", "next_obs", "action")
    }
    rest = {name: pa.array(array) for name, array in a.items() if array.ndim == 1}
    pyarrow.parquet.write_table(pa.table(fixed | rest), tmp_path / "log.parquet", row_group_size=7)
    assert read_log(tmp_path / "log.parquet", action_space=BOX).fingerprint == expected(a)


def test_an_episode_column_instead_of_marks(tmp_path):
    table = frame(arrays()).drop(columns=["terminated", "truncated"])
    table["episode"] = np.repeat(["first", "second", "third"], 20)
    for path in (tmp_path / "log.csv", tmp_path / "log.parquet"):
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
        assert read_log(path).episode_lengths.tolist() == [20, 20, 20]


def test_a_folder_of_parquet_is_one_log_in_the_order_of_names(tmp_path):
    a = arrays()
    table = frame(a)
    for i, part in enumerate(np.array_split(np.arange(60), 11)):
        table.iloc[part].to_parquet(tmp_path / f"part-{i}.parquet")  # part-10 comes after part-9
    (tmp_path / "README.txt").write_text("not data")
    log = read_log(tmp_path, action_space=BOX)
    assert log.fingerprint == expected(a)
    assert log.episode_lengths.tolist() == [30, 30]
    table.iloc[:5].drop(columns="reward").to_parquet(tmp_path / "part-3.parquet")
    with pytest.raises(DataError, match=r"part-3.parquet has other columns than part-0.parquet"):
        read_log(tmp_path)
    (tmp_path / "part-3.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"part-3.parquet cannot be read"):
        read_log(tmp_path)


def test_a_file_an_episode(tmp_path):
    for i in range(3):
        frame(arrays(20, seed=i)).assign(terminated=False, truncated=False).drop(columns=["truncated"]).to_parquet(
            tmp_path / f"{i}.parquet"
        )
    log = read_log(tmp_path, one_episode=True)
    assert log.episode_lengths.tolist() == [20, 20, 20]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="obs_1"), "column 'obs_1' is missing"),
        (lambda t: t.assign(reward=t.reward.where(t.index != 7)), "'reward' is nan in row 7"),
        (lambda t: t.assign(obs_2=np.where(t.index == 9, np.inf, t.obs_2)), "'obs' is inf in row 9, feature 2"),
        (lambda t: t.assign(obs_0="warm"), "log.*(text|warm|Python objects)"),
        (lambda t: t.assign(terminated=np.where(t.index == 3, 7, 0)), "'terminated' is 7 in row 3"),
        (lambda t: t.iloc[:0], "no transitions"),
        (lambda t: t.iloc[:1], "one transition"),
        (lambda t: t.drop(columns=["terminated", "truncated"]), "--one-episode"),
        (lambda t: t.drop(columns=["reward"]), "no field 'reward'"),
    ],
)
def test_tables_that_are_no_logs(suffix, change, words, tmp_path):
    table, path = change(frame(arrays())), tmp_path / f"log.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    with pytest.raises(DataError, match=words):
        read_log(path)


def test_missing_marks_and_ragged_lists(tmp_path):
    table = frame(arrays())
    table["terminated"] = pd.array([None if i == 4 else False for i in range(60)], dtype="boolean")
    table.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="'terminated' is nan in row 4"):
        read_log(tmp_path / "log.parquet")
    a = arrays()
    ragged = {name: list(array) for name, array in a.items()}
    ragged["obs"][8] = np.zeros(2, np.float32)
    pd.DataFrame(ragged).to_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="'obs' is a list of 2 in row 8, but has 3 numbers before"):
        read_log(tmp_path / "log.parquet")
    ragged["obs"][8] = None
    pd.DataFrame(ragged).to_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="'obs' is missing in row 8"):
        read_log(tmp_path / "log.parquet")


def test_numbers_of_other_kinds(tmp_path):
    a = arrays()
    table = frame(a)
    table["reward"] = (10 * table.reward).round().astype("int8")
    table["obs_0"] = table.obs_0.astype("float64").astype("category")
    table["terminated"] = table.terminated.astype("int32")
    table.to_parquet(tmp_path / "log.parquet")
    a["reward"] = np.round(10 * a["reward"]) + 0.0  # no -0.0 among integers
    assert read_log(tmp_path / "log.parquet", action_space=BOX).fingerprint == expected(a)


def test_empty_files_of_a_folder_and_hidden_ones_do_not_matter(tmp_path):
    table = frame(arrays())
    for name, rows in (("0", slice(0, 0)), ("1", slice(0, 40)), ("2", slice(0, 0)), ("3", slice(40, 60)), ("4", slice(0, 0))):
        table.iloc[rows].to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "._0.parquet").write_bytes(b"left behind by a file manager")
    assert read_log(tmp_path, action_space=BOX).fingerprint == expected(arrays())


def test_text_files_of_other_systems(tmp_path):
    text = frame(arrays()).to_csv(index=False)
    (tmp_path / "log.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read_log(tmp_path / "log.csv", action_space=BOX).fingerprint == expected(arrays())
