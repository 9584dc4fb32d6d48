"""Every way a user can get it wrong, through the command line: exit code 2, one sentence on stderr, no traceback, nothing left behind."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.envs.making import env_spaces
from surefoot.policies.families import Categorical
from surefoot.policies.saving import save_policy
from surefoot.recipes.pendulum import mixed_log


class Payload:
    """Unpickling this creates a file: what a malicious log or policy would do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def arrays(n=300, length=100, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ends = (np.arange(n) + 1) % length == 0
    return {
        "obs": rng.standard_normal((n, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        "reward": rng.standard_normal(n).astype(np.float32),
        "next_obs": rng.standard_normal((n, 3)).astype(np.float32),
        "terminated": np.zeros(n, bool),
        "truncated": ends,
    }


def spoil(field: str, value: float):
    def change(a: dict[str, np.ndarray]) -> None:
        a[field].reshape(-1)[7] = value

    return change


def drop(*fields: str):
    def change(a: dict[str, np.ndarray]) -> None:
        for field in fields:
            del a[field]

    return change


def replace(field: str, make):
    def change(a: dict[str, np.ndarray]) -> None:
        a[field] = make(a[field])

    return change


BAD_LOGS = {
    "nan observation": (spoil("obs", np.nan), ["obs", "nan"]),
    "infinite reward": (spoil("reward", np.inf), ["reward", "inf"]),
    "nan next observation": (spoil("next_obs", np.nan), ["next_obs", "nan"]),
    "nan action": (spoil("action", np.nan), ["action", "nan"]),
    "missing reward": (drop("reward"), ["reward"]),
    "missing action": (drop("action"), ["action"]),
    "no marks of any kind": (drop("terminated", "truncated"), ["terminated"]),
    "no end is ever marked": (replace("truncated", np.zeros_like), ["truncated"]),
    "shapes that disagree": (replace("action", lambda a: a[:-5]), ["action", "295", "300"]),
    "text instead of numbers": (replace("obs", lambda a: a.astype(str)), ["obs"]),
    "empty": (lambda a: [a.update({k: v[:0]}) for k, v in list(a.items())], ["no transitions"]),
}


def fails(capsys, argv: list[str], *words: str) -> str:
    """Runs the command; it must exit 2 with one sentence that has these words (case aside)."""
    capsys.readouterr()
    code = main(argv)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    lines = [line for line in err.strip().splitlines() if line.startswith("surefoot:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == ""
    for word in words:
        assert word.lower() in lines[0].lower(), (word, lines[0])
    return lines[0]


def train(source: object, tmp_path: Path, *more: str) -> list[str]:
    return ["train", "bc", "--data", str(source), "--steps", "2", "--out", str(tmp_path / "run"), "--no-progress", *more]


@pytest.mark.parametrize("name", BAD_LOGS)
def test_bad_npz(name, tmp_path, capsys):
    change, words = BAD_LOGS[name]
    a = arrays()
    change(a)
    np.savez(tmp_path / "log.npz", **a)
    fails(capsys, train(tmp_path / "log.npz", tmp_path), "log.npz", *words)
    assert not (tmp_path / "run").exists()


def test_row_and_value_are_named(tmp_path, capsys):
    a = arrays()
    a["reward"][123] = np.inf
    np.savez(tmp_path / "log.npz", **a)
    fails(capsys, ["data", "inspect", str(tmp_path / "log.npz")], "reward", "123", "inf")


def test_action_outside_the_space(tmp_path, capsys):
    a = arrays()
    a["action"][5] = 2.5
    np.savez(tmp_path / "log.npz", **a)
    fails(capsys, train(tmp_path / "log.npz", tmp_path, "--env", "Pendulum-v1"), "action", "2.5")


def test_environment_and_data_disagree(tmp_path, capsys):
    np.savez(tmp_path / "log.npz", **arrays())
    fails(capsys, train(tmp_path / "log.npz", tmp_path, "--env", "Hopper-v5"), "Hopper-v5", "3", "11")
    fails(capsys, train(tmp_path / "log.npz", tmp_path, "--env", "CartPole-v1"), "CartPole-v1")


def test_cut_off_files(tmp_path, capsys):
    from surefoot.data.writers import write_log

    log = mixed_log(0, good=1, random=1)
    for name in ("log.npz", "log.hdf5", "log.parquet"):
        path = tmp_path / name
        write_log(log, str(path))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fails(capsys, train(path, tmp_path), name)
        path.write_bytes(b"")
        fails(capsys, train(path, tmp_path), name)


def test_pickles_are_refused_not_executed(tmp_path, capsys):
    trap = tmp_path / "executed"
    np.savez(tmp_path / "log.npz", **{**arrays(), "obs": np.array([Payload(trap)] * 300, object)})
    fails(capsys, train(tmp_path / "log.npz", tmp_path), "log.npz")
    (tmp_path / "log.pkl").write_bytes(pickle.dumps(Payload(trap)))
    fails(capsys, train(tmp_path / "log.pkl", tmp_path), "pickle")
    torch.save(Payload(trap), tmp_path / "log.pt")
    fails(capsys, train(tmp_path / "log.pt", tmp_path), "pickle")
    assert not trap.exists()


def test_sb3_zip_needs_trust(tmp_path, capsys):
    trap = tmp_path / "executed"
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", pickle.dumps(Payload(trap)))
    for verb in ("evaluate", "certify", "attack"):
        argv = [verb, f"sb3:{path}", "--env", "CartPole-v1"]
        if verb != "evaluate":
            argv += ["--budgets", "0.1"]
        fails(capsys, argv, "--trust", "pickle")
    assert not trap.exists()


def test_unknown_names_offer_the_nearest(tmp_path, capsys):
    np.savez(tmp_path / "log.npz", **arrays())
    fails(capsys, ["trian"], "train")
    fails(capsys, ["train", "a2p", "--data", "x.npz"], "a2pr")
    fails(capsys, train(tmp_path / "log.npz", tmp_path, "--env", "Pendulum-v9"), "Pendulum")
    fails(capsys, ["data", "make", "hoper-medium-replay"], "hopper-medium-replay")
    fails(capsys, ["reproduce", "a2rp"], "a2pr")
    fails(capsys, train(tmp_path / "no-such.npz", tmp_path), "no-such.npz")
    fails(capsys, train("minari:no/such-v0", tmp_path), "no/such-v0")


def test_planned_methods_say_so(capsys):
    fails(capsys, ["train", "beso"], "planned")
    fails(capsys, ["reproduce", "beso"], "planned")


def policy(folder: Path) -> str:
    save_policy(Categorical(env_spaces("CartPole-v1"), (8,)), folder)
    return str(folder)


def test_negative_settings(tmp_path, capsys):
    p = policy(tmp_path / "p")
    fails(capsys, ["certify", p, "--env", "CartPole-v1", "--sigma", "-0.1", "--budgets", "0.1"], "sigma", "-0.1")
    fails(capsys, ["certify", p, "--env", "CartPole-v1", "--sigma", "0.2", "--budgets", "-0.1"], "budget", "-0.1")
    fails(capsys, ["attack", p, "--env", "CartPole-v1", "--budgets", "-0.1"], "budget", "-0.1")


def test_policy_and_environment_disagree(tmp_path, capsys):
    p = policy(tmp_path / "p")
    fails(capsys, ["evaluate", p, "--env", "Pendulum-v1"], "Pendulum-v1")
    fails(capsys, ["evaluate", p + "@3", "--env", "CartPole-v1"], "member")
    fails(capsys, ["evaluate", str(tmp_path / "nothing"), "--env", "CartPole-v1"], "nothing")


def test_folders_that_cannot_be_written(tmp_path, capsys):
    np.savez(tmp_path / "log.npz", **arrays())
    (tmp_path / "file").write_text("in the way")
    argv = train(tmp_path / "log.npz", tmp_path)
    argv[argv.index("--out") + 1] = str(tmp_path / "file" / "run")
    fails(capsys, argv, "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("do not overwrite")
    fails(capsys, train(tmp_path / "log.npz", tmp_path), "run")
    assert (tmp_path / "run" / "precious").read_text() == "do not overwrite"


def test_resume_of_what_is_no_run(tmp_path, capsys):
    fails(capsys, ["train", "--resume", str(tmp_path)], str(tmp_path))


def test_missing_data_and_env(tmp_path, capsys):
    fails(capsys, ["train", "bc", "--out", str(tmp_path / "run")], "--data")
    fails(capsys, ["train", "sac", "--out", str(tmp_path / "run")], "--env")
    fails(capsys, ["train", "sac", "--env", "CartPole-v1", "--out", str(tmp_path / "run")], "continuous")
    fails(capsys, ["train", "dqn", "--env", "Pendulum-v1", "--out", str(tmp_path / "run")], "discrete")
    assert not (tmp_path / "run").exists()


def test_one_transition_and_constant_observations_train_with_a_warning(tmp_path, capsys):
    a = {k: v[:1] for k, v in arrays().items()}
    a["truncated"][:] = True
    np.savez(tmp_path / "one.npz", **a)
    fails(capsys, train(tmp_path / "one.npz", tmp_path), "one transition")
    a = arrays()
    a["obs"][:, 1] = 3.0
    a["next_obs"][:, 1] = 3.0
    np.savez(tmp_path / "constant.npz", **a)
    assert main(train(tmp_path / "constant.npz", tmp_path, "--fqe-steps", "2")) == 0
    assert "constant" in capsys.readouterr().err
