"""`surefoot data`: tables on stderr, JSON alone on stdout, files where they were asked for, misuse in a sentence."""

import json
import sys

import numpy as np
import pytest

from surefoot.cli import main
from surefoot.data.readers import read_log
from surefoot.data.spec import Continuous, Spec
from surefoot.data.writers import write_log
from surefoot.evaluation.recording import record
from surefoot.policies.families import Deterministic
from surefoot.policies.saving import save_policy
from surefoot.recipes.pendulum import mixed_log

AGENT = """
def left(obs):
    return (obs[:, 2] * 0).astype(int)
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    (tmp_path / "data_agents.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "data_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path):
    made = mixed_log(seed=0, good=1, random=2)
    write_log(made, tmp_path / "my_log.npz")
    return made


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["data", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_prints_a_table_or_json(capsys, log):
    code, out, err = call(capsys, "inspect", "my_log.npz")
    assert (code, out) == (0, "")
    for words in ("600", "0 terminated, 3 truncated", "Pendulum-v1", "[-2, 2]", log.fingerprint[:16], "note: the log holds only 600"):
        assert words in err
    code, out, _ = call(capsys, "inspect", "my_log.npz", "--env", "Pendulum-v1", "--json")
    found = json.loads(out)
    assert (code, found["episodes"], found["fingerprint"]) == (0, 3, log.fingerprint)
    assert found["returns"]["mean"] == pytest.approx(log.episode_returns.mean())


def test_inspect_says_what_texts_are(capsys, tmp_path):
    rows = [{"prompt": "p", "chosen": "yes", "rejected": "n"}, {"prompt": "q", "chosen": "", "rejected": "n"}]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(capsys, "inspect", "prefs.jsonl") == (
        2,
        "",
        "surefoot: prefs.jsonl, line 2: field 'chosen' is an empty completion: give it text, or leave such rows out (--skip-bad).\n",
    )
    code, out, err = call(capsys, "inspect", "prefs.jsonl", "--skip-bad")
    assert (code, out) == (0, "")
    for words in (
        "preferred and rejected completions (pairs)",
        "1 of plain text",
        "in 100.0% of the pairs",
        "note: 1 of 2 rows were left out",
    ):
        assert words in err
    code, out, _ = call(capsys, "inspect", "prefs.jsonl", "--skip-bad", "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["rows"], found["lengths"]["chosen"]["mean"]) == (0, "pairs", 1, 3.0)


def test_inspect_counts_discrete_actions_and_cuts_long_observations(capsys, tmp_path):
    write_log(record("random", "CartPole-v1", episodes=5, seed=0), tmp_path / "cart.hdf5")
    assert "2 discrete actions" in call(capsys, "inspect", "cart.hdf5")[2]
    rng = np.random.default_rng(0)
    wide = {"obs": (30, 20), "action": 30, "reward": 30, "next_obs": (30, 20)}
    np.savez("wide.npz", terminated=np.ones(30), **{name: rng.random(shape) for name, shape in wide.items()})
    code, _, err = call(capsys, "inspect", "wide.npz")
    assert code == 0
    assert "and 8 more" in err
    assert "note: the action space was taken to be [-1, 1]" in err


@pytest.mark.parametrize("out", ["new.hdf5", "new.csv", "new.parquet", "new", "minari:mine/new-v0"])
def test_convert(capsys, log, out):
    code, said, err = call(capsys, "convert", "my_log.npz", out, "--json")
    assert code == 0
    assert json.loads(said)["fingerprint"] == read_log(out).fingerprint == log.fingerprint
    assert f"600 transitions in 3 episodes, mean return {log.episode_returns.mean():.4g} → {out}" in err


def test_convert_stores_the_environment_and_one_episode(capsys, tmp_path):
    n = 40
    rng = np.random.default_rng(0)
    np.savez("raw.npz", observations=rng.random((n, 3)), actions=rng.uniform(-0.5, 0.5, (n, 1)), rewards=np.arange(n))
    assert call(capsys, "convert", "raw.npz", "new.npz")[0] == 2
    code, out, err = call(capsys, "convert", "raw.npz", "new.npz", "--env", "Pendulum-v1", "--one-episode")
    assert (code, out) == (0, "")
    assert "1 transitions that end an episode" in err
    new = read_log("new.npz")
    assert (new.env_id, new.action, len(new), len(new.episode_ends)) == ("Pendulum-v1", Continuous((-2.0,), (2.0,)), n - 1, 1)


def test_collect_random_play(capsys):
    arguments = ("collect", "--env", "CartPole-v1", "--episodes", "12", "--seed", "3", "--max-steps", "20", "--out", "cart.parquet")
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0
    expected = record("random", "CartPole-v1", episodes=12, seed=3, max_steps=20)
    assert json.loads(out)["fingerprint"] == read_log("cart.parquet").fingerprint == expected.fingerprint
    assert "12 episodes" in err


def test_collect_from_policies(capsys, tmp_path):
    policy = Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,), (2,))
    save_policy(policy, tmp_path / "run" / "policy")
    common = ("--env", "Pendulum-v1", "--episodes", "2", "--max-steps", "30")
    assert call(capsys, "collect", "--policy", "run@1", "--out", "one.npz", *common)[0] == 0
    expected = record(policy.member(1), "Pendulum-v1", episodes=2, seed=0, max_steps=30)
    assert read_log("one.npz").fingerprint == expected.fingerprint
    code, _, err = call(capsys, "collect", "--policy", "run", "--out", "two.npz", *common)
    assert code == 2
    assert "choose a member" in err
    assert not (tmp_path / "two.npz").exists()
    cart = ("--env", "CartPole-v1", "--episodes", "2")
    assert call(capsys, "collect", "--policy", "python:data_agents:left", "--out", "left.npz", *cart)[0] == 0
    assert (read_log("left.npz").transitions.action == 0).all()


def test_make(capsys, tmp_path):
    code, out, err = call(capsys, "make", "pendulum-mixed", "--out", "made.npz", "--seed", "4", "--json")
    assert code == 0
    assert json.loads(out)["fingerprint"] == read_log("made.npz").fingerprint == mixed_log(seed=4).fingerprint
    assert "10,000 transitions in 50 episodes" in err
    code, out, err = call(capsys, "make", "pendulum-mixed", "--json")
    assert json.loads(out)["fingerprint"] == mixed_log(seed=0).fingerprint
    assert "--data pendulum-mixed" in err
    code, out, _ = call(capsys, "make")
    assert "hopper-medium-replay" in out
    assert json.loads(call(capsys, "make", "--json")[1])["pendulum-mixed"]["env"] == "Pendulum-v1"


def test_recipes_are_logs_wherever_one_is_asked_for(capsys):
    code, out, _ = call(capsys, "inspect", "pendulum-mixed", "--json")
    assert (code, json.loads(out)["transitions"]) == (0, 10_000)
    assert call(capsys, "convert", "pendulum-mixed", "copy")[0] == 0
    assert read_log("copy").fingerprint == mixed_log(seed=0).fingerprint


def test_help_is_enough_to_get_going(capsys):
    for arguments in ((), ("--help",)):
        code, out, _ = call(capsys, *arguments)
        assert code == 0
        assert all(f"  {name}" in out for name in ("inspect", "convert", "collect", "make"))
    with pytest.raises(SystemExit) as stop:
        main(["data", "convert", "--help"])
    assert stop.value.code == 0
    assert "LOG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspct", "x.npz"], "did you mean 'inspect'"),
        (["inspect"], "needs a log"),
        (["inspect", "nothing.npz"], "no file or folder nothing.npz"),
        (["inspect", "pendulum-mixd"], "did you mean 'pendulum-mixed'"),
        (["inspect", "my_log.npz", "--env", "Pendulm-v1"], "did you mean 'Pendulum-v1'"),
        (["inspect", "my_log.npz", "--env", "Hopper-v5"], "(11,) in Hopper-v5"),
        (["convert", "my_log.npz"], "where to store it"),
        (["convert", "my_log.npz", "new.xls"], "new.xls is of no kind"),
        (["convert", "my_log.npz", "my_log.npz/new.npz"], "cannot be written"),
        (["make", "pendulum-mixd"], "did you mean 'pendulum-mixed'"),
        (["make", "pendulum-mixed", "--seed", "-1"], "seed is -1"),
        (["collect", "--out", "x.npz"], "--env"),
        (["collect", "--env", "CartPole-v1"], "--out"),
        (["collect", "--env", "CartPol-v1", "--out", "x.npz"], "did you mean 'CartPole-v1'"),
        (["collect", "--env", "CartPole-v1", "--out", "x.npz", "--episodes", "0"], "episodes is 0"),
        (["collect", "--env", "CartPole-v1", "--out", "x.npz", "--policy", "nowhere"], "nowhere does not exist"),
        (["collect", "--env", "CartPole-v1", "--out", "x.txt", "--episodes", "1000000"], "x.txt is of no kind"),  # before it plays
        (["make", "hopper-expert", "--out", "x.txt"], "x.txt is of no kind"),
    ],
)
def test_misuse_exits_2_with_a_sentence(capsys, log, tmp_path, arguments, words):
    before = sorted(tmp_path.iterdir())
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("surefoot: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_a_bandit_log_is_sent_to_its_own_verb(capsys, tmp_path):
    np.savez(tmp_path / "bandit.npz", context=np.zeros((3, 2)), action=np.zeros(3, int), reward=np.zeros(3), propensity=np.full(3, 0.5))
    assert main(["data", "inspect", "bandit.npz"]) == 2
    assert "a log of a contextual bandit is read by `surefoot bandit replay`" in capsys.readouterr().err
