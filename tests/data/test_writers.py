"""Every format gives back what was written, bit for bit, and is written whole or not at all."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as hypothesis_arrays

from surefoot.data.log import Log
from surefoot.data.readers import read_log
from surefoot.data.spec import Continuous, Discrete
from surefoot.data.writers import WRITERS, write_log
from surefoot.errors import CheckpointError, DataError
from surefoot.evaluation.recording import record
from surefoot.recipes.pendulum import mixed_log

FORMATS = [*(f"log{suffix}" for suffix in WRITERS), "packed"]


def logs() -> dict[str, Log]:
    box = mixed_log(seed=3, good=1, random=2)
    rng = np.random.default_rng(0)
    n = 40
    stacked = Log.from_arrays(
        rng.standard_normal((n, 2, 3)),
        rng.uniform(-1, 1, (n, 2)),
        rng.standard_normal(n),
        rng.standard_normal((n, 2, 3)),
        np.arange(n) == 11,
        np.isin(np.arange(n), [5, 11]),
        action_space=Continuous((-1.0, 0.1), (1.0, 1 / 3)),
        notes={"author": "“quoted”,\nwith lines, and a comma", "warnings": "a guess"},
    )
    stacked.packed[:, 6] = 0.2  # inside the odd box
    stacked.packed[:, 7] = 0.25
    return {"box": box, "discrete": record("random", "CartPole-v1", episodes=30, seed=0, max_steps=20), "stacked": stacked}


LOGS = logs()


def same(one: Log, other: Log) -> None:
    assert torch.equal(one.packed.view(torch.int32), other.packed.view(torch.int32))  # bit for bit
    np.testing.assert_array_equal(one.ends, other.ends)
    assert (one.obs_shape, one.action, one.env_id, one.notes) == (other.obs_shape, other.action, other.env_id, other.notes)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_what_is_written_is_read_back(name, log, tmp_path):
    write_log(log, tmp_path / "deep" / name)
    same(read_log(tmp_path / "deep" / name), log)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [name]  # no temporary files


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [7, 40])
def test_pieces_do_not_matter(name, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.data.writers.SLICE", rows)
    write_log(LOGS["stacked"], tmp_path / name)
    same(read_log(tmp_path / name), LOGS["stacked"])


@settings(max_examples=30, deadline=None)
@given(hypothesis_arrays(np.float32, (6, 6), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)), st.sampled_from(FORMATS))
def test_every_float_survives(tmp_path_factory, rows, name):
    rows[:, 1], rows[:, -1] = 0.5, [0, 1, 0, 0, 1, 0]
    ends = np.array([0, 1, 1, 0, 1, 1], bool)
    log = Log(torch.from_numpy(rows), ends, (1,), Continuous((0.1, -3.5e38), (0.7, 3.5e38)))
    folder = tmp_path_factory.mktemp("floats")
    write_log(log, folder / name)
    same(read_log(folder / name), log)


def test_cut_off_ends_are_truncations(tmp_path):
    log = LOGS["discrete"]
    write_log(log, tmp_path / "log.npz")
    with np.load(tmp_path / "log.npz") as saved:
        np.testing.assert_array_equal(saved["terminated"], log.transitions.terminated.numpy() == 1)
        np.testing.assert_array_equal(saved["truncated"], log.ends & ~saved["terminated"])
        assert saved["truncated"].any()
        assert saved["action"].dtype == np.int64


def test_the_layout_of_d4rl(tmp_path):
    write_log(LOGS["box"], tmp_path / "log.hdf5")
    with h5py.File(tmp_path / "log.hdf5") as file:
        assert set(file) == {"observations", "actions", "rewards", "next_observations", "terminals", "timeouts"}
        assert (file["observations"].dtype, file["terminals"].dtype, file["rewards"].shape) == (np.float32, bool, (600,))
        assert json.loads(file.attrs["surefoot"])["env_id"] == "Pendulum-v1"


def test_others_can_read_the_tables(tmp_path):
    log = LOGS["discrete"]
    write_log(log, tmp_path / "log.csv")
    write_log(log, tmp_path / "log.parquet")
    table = pd.read_csv(tmp_path / "log.csv", comment="#")
    assert list(table.columns[:6]) == ["obs_0", "obs_1", "obs_2", "obs_3", "action", "reward"]
    np.testing.assert_array_equal(table.action, log.transitions.action)
    np.testing.assert_array_equal(table[[f"obs_{i}" for i in range(4)]].astype(np.float32), log.transitions.obs)
    lists = pd.read_parquet(tmp_path / "log.parquet")
    np.testing.assert_array_equal(np.stack(lists.next_obs.to_list()), log.transitions.next_obs)
    assert pyarrow.parquet.read_schema(tmp_path / "log.parquet").names == ["obs", "action", "reward", "next_obs", "terminated", "truncated"]


def test_a_log_can_replace_itself_while_it_is_mapped(tmp_path):
    write_log(LOGS["box"], tmp_path / "packed")
    log = read_log(tmp_path / "packed")
    write_log(log, tmp_path / "packed")
    same(read_log(tmp_path / "packed"), log)


def test_what_must_not_be_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    for place, words in (("folder", "holds something else"), ("file", "is a file"), ("log.txt", "no kind that logs are written as")):
        with pytest.raises(DataError, match=words):
            write_log(LOGS["box"], tmp_path / place)
    (tmp_path / "log.npz").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        write_log(LOGS["box"], tmp_path / "log.npz")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_log(LOGS["box"], tmp_path / "file" / "log.npz")
    assert (tmp_path / "folder" / "precious.txt").read_text() == "keep me"
    assert (tmp_path / "file").read_text() == "keep me too"


@pytest.mark.parametrize("name", FORMATS)
def test_a_failed_write_leaves_the_old_log(name, tmp_path, monkeypatch):
    write_log(LOGS["box"], tmp_path / name)

    def fails(log):
        raise RuntimeError("in the middle")

    monkeypatch.setattr("surefoot.data.writers.to_json", fails)
    with pytest.raises(RuntimeError):
        write_log(LOGS["discrete"], tmp_path / name)
    monkeypatch.undo()
    same(read_log(tmp_path / name), LOGS["box"])
    assert [path.name for path in tmp_path.iterdir()] == [name]


KILLED = """
import os, sys
import numpy as np
from surefoot.data import writers
from surefoot.recipes.pendulum import mixed_log

real = np.save
def save(path, array):
    real(path, array)
    if str(path).endswith("ends.npy"):
        os.kill(os.getpid(), 9)
writers.np.save = save
writers.write_log(mixed_log(seed=9, good=1, random=1), sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_write_leaves_the_old_log(tmp_path):
    write_log(LOGS["box"], tmp_path / "packed")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "packed")], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    same(read_log(tmp_path / "packed"), LOGS["box"])


def test_discrete_actions_stay_discrete(tmp_path):
    for name in FORMATS:
        write_log(LOGS["discrete"], tmp_path / name)
        assert read_log(tmp_path / name).action == Discrete(2)
