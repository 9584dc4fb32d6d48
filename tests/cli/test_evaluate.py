"""`surefoot evaluate` and `surefoot compare`: the table on stderr, JSON alone on stdout, defaults from the run, misuse."""

import json
import sys

import numpy as np
import pytest

from surefoot.cli import main
from surefoot.data.spec import Continuous, Spec
from surefoot.data.writers import write_log
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Deterministic
from surefoot.policies.saving import save_policy
from surefoot.recipes.pendulum import mixed_log

AGENTS = """
def lean(obs):
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)

def left(obs):
    return (obs[:, 2] * 0).astype(int)
"""


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "cli_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def fleet(tmp_path):
    policy = Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,), (3,))
    save_policy(policy, tmp_path / "run" / "policy")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"env": "Pendulum-v1", "max_steps": 50}))
    return policy


def call(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_evaluate_prints_a_table_and_json(capsys):
    arguments = ("evaluate", "python:cli_agents:lean", "--env", "CartPole-v1", "--episodes", "20", "--max-steps", "200", "--json")
    code, out, err = call(capsys, *arguments)
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert row["mean"] == {"value": 200.0, "low": 200.0, "high": 200.0}
    assert np.shape(row["returns"]) == (1, 20)
    assert "python:cli_agents:lean" in err
    code, out, _ = call(capsys, *arguments[:-1])
    assert (code, out) == (0, "")


def test_environment_and_limit_come_from_the_run(capsys, fleet):
    code, out, _ = call(capsys, "evaluate", "run", "run@1", "--episodes", "6", "--json")
    assert code == 0
    whole, one = json.loads(out)["policies"]
    expected = rollout(fleet, "Pendulum-v1", 6, seed=1000, max_steps=50)
    np.testing.assert_allclose(whole["returns"], expected.returns)
    assert (whole["members"], one["members"], whole["length"]) == (3, 1, 50.0)
    assert whole["mean"]["value"] == pytest.approx(expected.returns.mean())
    assert whole["mean"]["low"] < whole["mean"]["value"] < whole["mean"]["high"]


def test_one_episode_has_no_interval_and_json_is_valid(capsys, fleet):
    code, out, _ = call(capsys, "evaluate", "run@0", "--episodes", "1", "--json")
    assert code == 0
    assert "Infinity" not in out
    assert json.loads(out)["policies"][0]["mean"]["low"] is None


def test_a_log_alone_is_enough(capsys, tmp_path):
    log = mixed_log(0, good=2, random=2)
    write_log(log, tmp_path / "log.npz")
    save_policy(Deterministic(log.spec(), (8,), (2,)), tmp_path / "fleet")
    code, out, err = call(capsys, "evaluate", "fleet", "--data", "log.npz", "--fqe-steps", "5", "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert len(row["value"]) == len(row["action_distance"]) == 2
    assert row["steps"] == 5
    assert "fleet@1" in err
    code, _, err = call(capsys, "evaluate", "fleet", "--data", "lag.npz")
    assert code == 2
    assert "log.npz" in err


def test_compare_tells_better_from_worse(capsys):
    policies = ("python:cli_agents:lean", "python:cli_agents:left", "python:cli_agents:left")
    code, out, err = call(capsys, "compare", *policies, "--env", "CartPole-v1", "--episodes", "30", "--json")
    assert code == 0
    result = json.loads(out)
    clear, also, same = result["pairs"]
    assert result["unit"] == "episodes"
    assert clear["low"] > 100
    assert clear["probability_of_improvement"]["low"] > 0.9
    assert clear["p"] <= clear["p_holm"] < 1e-6
    assert (same["difference"], same["p_holm"]) == (0.0, 1.0)  # one seed, the same starts
    assert also["difference"] == clear["difference"]
    assert "< 0.001" in err


def test_compare_takes_the_seeds_of_fleets_as_the_sample(capsys, fleet):
    code, out, _ = call(capsys, "compare", "run", "run", "--episodes", "4", "--json")
    assert code == 0
    assert json.loads(out)["unit"] == "seeds"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate"], "no policy was named"),
        (["evaluate", "nowhere"], "does not exist"),
        (["evaluate", "python:cli_agents:lean"], "--env"),
        (["evaluate", "python:cli_agents:lean", "--env", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["evaluate", "python:cli_agents:left", "--env", "CartPole-v1", "--episodes", "0"], "episodes is 0"),
        (["evaluate", "python:cli_agents:left", "--env", "CartPole-v1", "--max-steps", "0"], "max_steps is 0"),
        (["evaluate", "sb3:none.zip", "--env", "CartPole-v1"], "there is no file"),
        (["compare", "python:cli_agents:left", "--env", "CartPole-v1"], "two or more"),
    ],
)
def test_misuse_exits_2_with_a_sentence(capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("surefoot: ")
    assert any(word in err for word in words.split("|"))
    assert "Traceback" not in err


def test_fleets_are_not_compared_with_single_policies(capsys, fleet):
    code, _, err = call(capsys, "compare", "run", "run@0")
    assert code == 2
    assert "DIR@MEMBER" in err
