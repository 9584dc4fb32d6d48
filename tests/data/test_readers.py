"""Files and folders as logs: D4RL-layout HDF5, npz, packed logs; what is cut off, foreign or a pickle is refused in one sentence."""

import gc
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from surefoot.data.log import Log
from surefoot.data.metadata import WARNINGS
from surefoot.data.readers import READERS, read_log
from surefoot.data.spec import Continuous, Discrete
from surefoot.data.writers import write_log
from surefoot.errors import DataError, EnvError, UnknownNameError

BOX = Continuous((-2.0,), (2.0,))


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def arrays(n=300, length=100, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.standard_normal((n, 3)).astype(np.float32),
        "action": rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        "reward": rng.standard_normal(n).astype(np.float32),
        "next_obs": rng.standard_normal((n, 3)).astype(np.float32),
        "terminated": np.arange(n) == 49,
        "truncated": (np.arange(n) + 1) % length == 0,
    }


def log_of(a) -> Log:
    return Log.from_arrays(**a, action_space=BOX)


# --- npz ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    save(tmp_path / "log.npz", **arrays(), extra=np.arange(3), infos=np.array("text"))
    log = read_log(tmp_path / "log.npz", action_space=BOX)
    assert log.fingerprint == log_of(arrays()).fingerprint
    assert (log.source, log.env_id, log.notes) == (str(tmp_path / "log.npz"), None, {})


def test_npz_with_other_names_kinds_and_orders(tmp_path):
    a = arrays()
    others = {
        "observations": np.asfortranarray(a["obs"].astype(np.float64)),
        "actions": a["action"][:, 0].astype(">f8"),
        "rewards": a["reward"].astype(np.float64)[:, None],
        "next_observations": a["next_obs"],
        "terminals": a["terminated"].astype(np.float32),
        "timeouts": a["truncated"].astype(np.int64),
    }
    np.savez(tmp_path / "log.npz", **others)
    assert read_log(tmp_path / "log.npz", action_space=BOX).fingerprint == log_of(a).fingerprint


def test_environment_says_the_action_space(tmp_path):
    np.savez(tmp_path / "log.npz", **arrays())
    assert "taken to be" in read_log(tmp_path / "log.npz").notes[WARNINGS]
    log = read_log(tmp_path / "log.npz", env_id="Pendulum-v1")
    assert (log.action, log.env_id, log.notes) == (BOX, "Pendulum-v1", {})
    with pytest.raises(EnvError, match=r"CartPole-v1 disagree: .*\(3,\) in the log, \(4,\) in CartPole-v1"):
        read_log(tmp_path / "log.npz", env_id="CartPole-v1")
    with pytest.raises(UnknownNameError, match="Pendulum-v1"):
        read_log(tmp_path / "log.npz", env_id="Pendulm-v1")


# --- HDF5 -----------------------------------------------------------------------------------------------------------


def d4rl_file(path, a, names=("observations", "actions", "rewards", "terminals", "timeouts")):
    """As D4RL writes it: float32, bool marks, infos and metadata in groups, compressed; no next observations."""
    ours = {"observations": "obs", "actions": "action", "rewards": "reward", "terminals": "terminated", "timeouts": "truncated"}
    with h5py.File(path, "w") as file:
        for name in names:
            file.create_dataset(name, data=a[ours[name]], compression="gzip")
        file.create_dataset("infos/qpos", data=np.zeros((len(a["reward"]), 5)))
        file["metadata/algorithm"] = "SAC"


def test_a_file_of_d4rl(tmp_path):
    a = arrays()
    d4rl_file(tmp_path / "hopper_medium.hdf5", a)
    log = read_log(tmp_path / "hopper_medium.hdf5", action_space=BOX)
    t = log.transitions
    assert len(log) == 297  # three time limits
    assert log.episode_lengths.tolist() == [50, 49, 99, 99]
    rows = np.flatnonzero(~a["truncated"])
    np.testing.assert_array_equal(t.obs.numpy(), a["obs"][rows])
    goes_on = ~a["terminated"][rows]
    np.testing.assert_array_equal(t.next_obs.numpy()[goes_on], a["obs"][rows + 1][goes_on])
    assert t.terminated.sum() == 1
    assert "3 transitions" in log.notes[WARNINGS]


def test_hdf5_with_next_observations_drops_nothing(tmp_path):
    a = arrays()
    d4rl_file(tmp_path / "log.h5", a)
    with h5py.File(tmp_path / "log.h5", "a") as file:
        file["next_observations"] = a["next_obs"]
    assert read_log(tmp_path / "log.h5", action_space=BOX).fingerprint == log_of(a).fingerprint


def test_hdf5_without_marks(tmp_path):
    d4rl_file(tmp_path / "log.hdf5", arrays(), names=("observations", "actions", "rewards"))
    with pytest.raises(DataError, match=r"log.hdf5: nothing marks.*terminated.*--one-episode"):
        read_log(tmp_path / "log.hdf5")
    assert len(read_log(tmp_path / "log.hdf5", one_episode=True).episode_ends) == 1


def test_hdf5_that_points_to_another_file_is_not_followed(tmp_path):
    a = arrays()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["reward"] = a["reward"]
    with h5py.File(tmp_path / "log.h5", "w") as file:
        for name in ("obs", "action", "next_obs", "terminated"):
            file[name] = a[name]
        file["reward"] = h5py.ExternalLink("secret.h5", "/reward")
    with pytest.raises(DataError, match="no field 'reward'"):
        read_log(tmp_path / "log.h5")
    layout = h5py.VirtualLayout((300,), np.float32)
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "reward", (300,))
    with h5py.File(tmp_path / "log.h5", "a") as file:
        del file["reward"]
        file.create_virtual_dataset("reward", layout)
    with pytest.raises(DataError, match="no field 'reward'"):
        read_log(tmp_path / "log.h5")


def test_the_inside_of_a_minari_data_set(tmp_path):
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file["episode_0/rewards"] = np.zeros(3)
    with pytest.raises(DataError, match="minari:ID"):
        read_log(tmp_path / "main_data.hdf5")


# --- packed logs ----------------------------------------------------------------------------------------------------


def big(n=200_000) -> Log:
    rng = np.random.default_rng(0)
    packed = rng.random((n, 9), np.float32)
    packed[:, -1] = 0.0
    return Log(torch.from_numpy(packed), (np.arange(n) + 1) % 500 == 0, (3,), BOX, env_id="Pendulum-v1", notes={"seed": "3"})


def test_a_packed_log_is_mapped_not_copied(tmp_path):
    """What holds for 10 million transitions: reading takes no memory for the rows, and batches come from the file's own pages."""
    log = big()
    expected, size = log.fingerprint, log.packed.nbytes
    write_log(log, tmp_path / "packed")
    del log
    gc.collect()
    tracemalloc.start()
    log = read_log(tmp_path / "packed")
    spec = log.spec()
    assert tracemalloc.get_traced_memory()[1] < size / 4  # slices of the check that every number is finite
    tracemalloc.stop()
    assert log.fingerprint == expected
    assert (log.env_id, log.notes, log.action, spec.obs_shape) == ("Pendulum-v1", {"seed": "3"}, BOX, (3,))
    with (tmp_path / "packed" / "packed.npy").open("r+b") as file:  # a write to the file shows in the tensor
        file.seek(-9 * 4, os.SEEK_END)
        file.write(np.float32(0.125).tobytes())
    assert log.packed[-1, 0] == 0.125
    assert log.transitions.obs[-1, 0] == 0.125


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_reading_a_packed_log_takes_no_memory_of_its_own(tmp_path):
    write_log(big(), tmp_path / "packed")

    def own() -> int:
        gc.collect()
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("RssAnon")) * 1024

    read_log(tmp_path / "packed")  # warm up allocators
    before = own()
    logs = [read_log(tmp_path / "packed") for _ in range(10)]
    assert own() - before < 2 * logs[0].packed.nbytes


def test_packed_logs_that_do_not_fit_together(tmp_path):
    write_log(big(1000), tmp_path / "packed")
    np.save(tmp_path / "packed" / "ends.npy", np.zeros(999, bool))
    with pytest.raises(DataError, match="do not fit each other"):
        read_log(tmp_path / "packed")
    np.save(tmp_path / "packed" / "ends.npy", np.ones(1000, bool))
    np.save(tmp_path / "packed" / "packed.npy", np.zeros((1000, 9)))
    with pytest.raises(DataError, match="do not fit each other"):
        read_log(tmp_path / "packed")
    (tmp_path / "packed" / "packed.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="cannot be read as a packed log"):
        read_log(tmp_path / "packed")
    (tmp_path / "packed" / "log.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError):
        read_log(tmp_path / "packed")


def test_a_packed_log_is_checked_too(tmp_path):
    log = big(70_000)
    log.packed[68_000, 1] = float("nan")
    write_log(log, tmp_path / "packed")
    with pytest.raises(DataError, match="packed: field 'obs' is nan in row 68000, feature 1"):
        read_log(tmp_path / "packed")
    write_log(big(1000), tmp_path / "packed")
    with pytest.raises(EnvError, match="CartPole-v1"):
        read_log(tmp_path / "packed", env_id="CartPole-v1")
    with pytest.raises(DataError, match="action space given has 2"):
        read_log(tmp_path / "packed", action_space=Continuous((0.0, 0.0), (1.0, 1.0)))
    assert read_log(tmp_path / "packed", action_space=Continuous((-4.0,), (4.0,))).action.high == (4.0,)


# --- what is no log -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*READERS])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_off_files_are_refused_by_name(suffix, share, tmp_path):
    path = tmp_path / f"log{suffix}"
    write_log(log_of(arrays()), path)
    whole = path.read_bytes()
    cut = whole[: int(len(whole) * share)]
    if suffix == ".csv":  # text can be cut between two lines, which nobody can see
        cut = cut[:-3] if cut.endswith(b"\n") else cut
    path.write_bytes(cut)
    with pytest.raises(DataError, match=f"log{suffix}"):
        read_log(path)


@pytest.mark.parametrize("suffix", [*READERS])
def test_files_that_are_something_else(suffix, tmp_path):
    path = tmp_path / f"log{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(DataError, match=f"log{suffix}"):
        read_log(path)


def test_pickles_are_refused_and_not_executed(tmp_path):
    trap = tmp_path / "executed"
    for suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        (tmp_path / f"log{suffix}").write_bytes(pickle.dumps(Payload(trap)))
        with pytest.raises(DataError, match=f"log{suffix} is a pickle"):
            read_log(tmp_path / f"log{suffix}")
    for suffix in READERS:  # under another name
        (tmp_path / f"log{suffix}").write_bytes(pickle.dumps(Payload(trap)))
        with pytest.raises(DataError, match=f"log{suffix}"):
            read_log(tmp_path / f"log{suffix}")
    for field in ("obs", "surefoot", "episode"):
        np.savez(tmp_path / "objects.npz", **(arrays() | {field: np.array([Payload(trap)] * 300, object)}))
        with pytest.raises(DataError, match=r"objects.npz"):
            read_log(tmp_path / "objects.npz")
    np.save(tmp_path / "one.npy", arrays()["obs"])
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"one array.*np.savez"):
        read_log(tmp_path / "one.npz")
    assert not trap.exists()


def test_paths_that_lead_nowhere(tmp_path):
    write_log(log_of(arrays()), tmp_path / "my_log.npz")
    with pytest.raises(DataError, match=r"no file or folder .*my_lgo.npz: did you mean .*my_log.npz"):
        read_log(tmp_path / "my_lgo.npz")
    with pytest.raises(DataError, match=r"no file or folder .*there/log.npz"):
        read_log(tmp_path / "not" / "there" / "log.npz")
    with pytest.raises(DataError, match=r"name a file in it \(my_log.npz\)"):
        read_log(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt is of no kind .*\.hdf5, \.h5, \.npz"):
        read_log(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no log.json"):
        read_log(tmp_path / "empty")


def test_damaged_metadata(tmp_path):
    a = arrays()
    np.savez(tmp_path / "log.npz", **a, surefoot=np.array('{"format": 1}'))
    with pytest.raises(DataError, match="damaged"):
        read_log(tmp_path / "log.npz")
    np.savez(tmp_path / "log.npz", **a, surefoot=np.array('{"format": 2}'))
    with pytest.raises(DataError, match="update surefoot"):
        read_log(tmp_path / "log.npz")


def test_discrete_logs(tmp_path):
    a = arrays() | {"action": np.random.default_rng(0).integers(3, size=300)}
    np.savez(tmp_path / "log.npz", **a)
    assert read_log(tmp_path / "log.npz").action == Discrete(3)
    assert read_log(tmp_path / "log.npz", action_space=Discrete(5)).action == Discrete(5)
