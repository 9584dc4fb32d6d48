"""`surefoot certify`: bounds as in Python, fleets, defaults from the run, evidence for the report, misuse before any episode."""

import json
import sys

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation import certificates
from surefoot.evaluation.certificates import certify
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.saving import save_policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

AGENTS = """
def lean(obs):
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)
"""
LEAN = ("python:certify_agents:lean", "--env", "CartPole-v1")


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "certify_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "certify_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def save_run(folder, policy, **settings):
    save_policy(policy, folder / "policy")
    (folder / "config.json").write_text(json.dumps({"env": "CartPole-v1", "max_steps": 30, **settings}))


@pytest.fixture
def fleet(tmp_path):
    """A run of two members that learned with noise 0.3 on two frames; the policy is saved without the noise, as runs do."""
    policy = FrameStack(Categorical(Spec((8,), Discrete(2)), (8,), (2,)), 2)
    save_run(tmp_path / "run", policy, noise=0.3)
    return policy


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_policy_from_elsewhere_in_one_command(capsys):
    arguments = ("--sigma", "0.2", "--budgets", "0", "0.1", "--episodes", "200", "--max-steps", "50")
    code, out, err = call(capsys, "certify", *LEAN, *arguments, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert (row["sigma"], row["bound"], row["r_min"], row["r_max"], row["max_steps"]) == (0.2, "clopper", 0.0, 50.0, 50)
    (member,) = row["members"]
    assert 45 < member["lower"][0] <= member["mean"] <= 50
    assert member["lower"][1] < member["lower"][0]
    assert len(member["returns"]) == row["episodes"] == 200
    assert "confidence 0.95" in err and "B = 0.1" in err
    code, out, _ = call(capsys, "certify", *LEAN, *arguments)
    assert (code, out) == (0, "")


def test_a_fleet_is_certified_as_in_python_with_the_noise_of_its_run(capsys, fleet, tmp_path):
    code, out, err = call(capsys, "certify", "run", "--budgets", "0", "0.1", "--episodes", "40", "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    expected = certify(Smoothed(fleet, 0.3), "CartPole-v1", [0.0, 0.1], episodes=40, max_steps=30, seed=2000)
    np.testing.assert_array_equal([m["lower"] for m in row["members"]], expected.lower)
    assert row["sigma"] == 0.3
    assert "run@0" in err and "run@1" in err
    kept = json.loads((tmp_path / "run" / "evidence" / "certify.json").read_text())
    assert kept == row
    assert kept["command"] == "surefoot certify run --budgets 0 0.1 --episodes 40 --json"


def test_members_and_the_best_have_evidence_of_their_own(capsys, fleet, tmp_path):
    save_policy(fleet, tmp_path / "run" / "policy_best")
    few = ("--budgets", "0.1", "--episodes", "10")
    for ref in ("run@1", "run:best", "run:best@0"):
        assert call(capsys, "certify", ref, *few)[0] == 0
    assert sorted(p.name for p in (tmp_path / "run" / "evidence").iterdir()) == [
        "certify-best.json",
        "certify-best@0.json",
        "certify@1.json",
    ]
    lone = json.loads((tmp_path / "run" / "evidence" / "certify@1.json").read_text())
    assert len(lone["members"]) == 1


def test_other_noise_than_in_training_is_said(capsys, fleet):
    code, out, err = call(capsys, "certify", "run@0", "--sigma", "0.1", "--budgets", "0.1", "--episodes", "10", "--json")
    assert code == 0
    assert json.loads(out)["policies"][0]["sigma"] == 0.1
    assert "trained with noise of 0.3" in err


def test_a_policy_saved_with_its_noise_keeps_it(capsys, tmp_path):
    save_policy(Smoothed(Categorical(Spec((4,), Discrete(2)), (8,)), 0.25), tmp_path / "p")
    code, out, _ = call(
        capsys, "certify", "p", "--env", "CartPole-v1", "--budgets", "0.1", "--episodes", "10", "--max-steps", "20", "--json"
    )
    assert code == 0
    assert json.loads(out)["policies"][0]["sigma"] == 0.25
    assert not (tmp_path / "evidence").exists()


def test_returns_that_are_not_integers(capsys, tmp_path):
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), tmp_path / "p")
    few = ("--sigma", "0.1", "--budgets", "0.1", "--episodes", "20", "--max-steps", "10", "--json")
    _, out, _ = call(capsys, "certify", "p", "--env", "Pendulum-v1", *few)
    (row,) = json.loads(out)["policies"]
    assert row["bound"] == "dkw"
    assert row["r_min"] == pytest.approx(-162.737)
    _, out, _ = call(capsys, "certify", "p", "--env", "Pendulum-v1", "--r-min", "-500", *few)
    assert json.loads(out)["policies"][0]["r_min"] == -500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no policy was named"),
        ([*LEAN], "--sigma"),
        ([*LEAN, "--sigma", "-0.5"], "sigma is -0.5"),
        ([*LEAN, "--sigma", "0"], "sigma is 0"),
        ([*LEAN, "--sigma", "0.1", "--budgets", "-1"], "budget is -1"),
        ([*LEAN, "--sigma", "0.1", "--budgets"], "no attack budget"),
        ([*LEAN, "--sigma", "0.1", "--budgets", "nan"], "budget is nan"),
        ([*LEAN, "--sigma", "0.1", "--alpha", "2"], "alpha is 2"),
        ([*LEAN, "--sigma", "0.1", "--r-min", "0.5", "--bound", "clopper"], "two integers"),
        ([*LEAN, "--sigma", "0.1", "--r-max", "-4"], "must not be empty"),
        ([LEAN[0], "--env", "Hopper-v5", "--sigma", "0.1"], "--r-min"),
        ([LEAN[0], "--sigma", "0.1"], "--env"),
        ([*LEAN, "--sigma", "0.1", "--episodes", "0"], "episodes is 0"),
        ([*LEAN, "--sigma", "0.1", "--episodes", "1", "--bound", "dkw"], "confidence 0.95; take 2 or more"),
        ([*LEAN, "--sigma", "0.1", "--max-steps", "0"], "max_steps is 0"),
    ],
)
def test_misuse_exits_2_with_a_sentence_before_anything_is_played(capsys, arguments, words, monkeypatch):
    if "--episodes" not in arguments:
        monkeypatch.setattr(certificates, "rollout", None)
    code, out, err = call(capsys, "certify", *arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("surefoot: ")]
    assert len(lines) == 1 and words in lines[0]


def test_the_second_policy_is_checked_before_the_first_is_played(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "rollout", None)
    save_policy(Categorical(Spec((4,), Discrete(2)), (8,)), tmp_path / "plain")
    save_policy(Smoothed(Categorical(Spec((4,), Discrete(2)), (8,)), 0.1), tmp_path / "noisy")
    code, _, err = call(capsys, "certify", "noisy", "plain", "--env", "CartPole-v1")
    assert code == 2
    assert "plain was trained without noise" in err
