"""`surefoot attack`: curves as in Python, every kind, failed attacks that say so, evidence, misuse."""

import json
import sys

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.saving import save_policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

AGENTS = """
import torch

def lean(obs):
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)

class Steps(torch.nn.Module):
    def forward(self, x):
        left = (x[:, 2] < 0).float()
        return torch.stack([left, 1.0 - left], -1) + 0.0 * x.sum(-1, keepdim=True)

steps = Steps()
"""
FEW = ("--episodes", "4", "--max-steps", "12")


@pytest.fixture(autouse=True)
def agents(tmp_path, monkeypatch):
    (tmp_path / "attack_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "attack_agents", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def fleet(tmp_path):
    """A CartPole run of two members that lean with the pole, one of them the wrong way."""
    policy = Categorical(Spec((4,), Discrete(2)), (), (2,))
    with torch.no_grad():
        policy.net.biases[0].zero_()
        policy.net.weights[0].zero_()
        policy.net.weights[0][:, 2:, 1] = torch.tensor([[1.0], [-1.0]])
    save_policy(policy, tmp_path / "run" / "policy")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"env": "CartPole-v1", "max_steps": 60}))
    return policy


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_q_attack_of_a_fleet_with_evidence(capsys, fleet, tmp_path):
    arguments = ("--budgets", "0", "2", "--thresholds", "0", "0.05", "--step", "0.1", "--episodes", "10", "--json")
    code, out, err = call(capsys, "attack", "run", *arguments)
    assert code == 0
    (row,) = json.loads(out)["policies"]
    good, _ = row["members"]
    assert (row["kind"], row["norm"], row["sigma"], row["max_steps"]) == ("q", "total", 0.0, 60)
    assert row["variants"] == ["threshold 0", "threshold 0.05"]
    plain = rollout(fleet, "CartPole-v1", 10, seed=3000, max_steps=60).returns
    np.testing.assert_array_equal([m["returns"][0] for m in row["members"]], plain)
    assert good["mean"][1] < 45 < good["mean"][0] == 60.0
    assert good["mean"][1] == min(means[1] for means in good["variant_means"].values())
    assert good["spent"][1] <= 2.0
    assert "run@0" in err and "run@1" in err
    assert json.loads((tmp_path / "run" / "evidence" / "attack-q.json").read_text()) == row


@pytest.mark.parametrize("kind", ["q", "fgsm", "pgd", "random"])
def test_every_kind_attacks_a_smoothed_policy(capsys, kind, fleet, tmp_path):
    save_policy(Smoothed(fleet.member(0), 0.1), tmp_path / "p")
    code, out, _ = call(capsys, "attack", "p", "--env", "CartPole-v1", "--kind", kind, "--budgets", "0.4", "--draws", "4", *FEW, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert (row["kind"], row["sigma"]) == (kind, 0.1)
    assert row["members"][0]["spent"][0] <= 0.4 + 1e-6
    code, out, _ = call(capsys, "attack", "p", "--env", "CartPole-v1", "--kind", kind, "--sigma", "0", "--budgets", "0.4", *FEW, "--json")
    assert json.loads(out)["policies"][0]["sigma"] == 0.0


def test_continuous_actions_and_budgets_at_each_step(capsys, tmp_path):
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), tmp_path / "p")
    norm = ("--env", "Pendulum-v1", "--budgets", "0.1", "--norm", "linf")
    code, out, err = call(capsys, "attack", "p", *norm, "--kind", "pgd", "--steps", "2", *FEW, "--json")
    assert code == 0
    (row,) = json.loads(out)["policies"]
    assert row["norm"] == "linf"
    assert 0.1 * np.sqrt(12) < row["members"][0]["spent"][0] <= 0.1 * np.sqrt(3 * 12) + 1e-6
    assert "largest change at each step" in err


def test_a_failed_attack_shows_no_return(capsys):
    agent = ("python:attack_agents:steps", "--env", "CartPole-v1")
    code, out, err = call(capsys, "attack", *agent, "--budgets", "0", "0.5", "--step", "0.1", *FEW, "--json")
    assert code == 0
    (member,) = json.loads(out)["policies"][0]["members"]
    assert member["mean"][0] is not None
    assert member["mean"][1] is None
    assert member["failed"] == [False, True]
    assert "failed" in err
    assert "says nothing about robustness" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--budgets", "-0.1"], "budget is -0.1"),
        (["run", "--budgets"], "no attack budget"),
        (["run", "--sigma", "-1"], "sigma is -1"),
        (["run", "--thresholds"], "no threshold"),
        (["run", "--thresholds", "-1"], "threshold is -1"),
        (["run", "--draws", "0"], "samples is 0"),
        (["run", "--step", "0"], "step 0"),
        (["run", "--kind", "pgd", "--steps", "0"], "steps is 0"),
        (["run", "--norm", "linf"], "for fgsm, pgd and random"),
        (["run", "--episodes", "0"], "episodes is 0"),
        (["run", "--kind", "fgsm", "--horizon", "0"], "horizon 0"),
        (["python:attack_agents:lean", "--env", "CartPole-v1"], "gives no gradient"),
        (["pendulum", "--env", "Pendulum-v1"], "discrete actions"),
        (["run", "pendulum", "--env", "CartPole-v1"], "discrete actions"),
        ([], "no policy was named"),
    ],
)
def test_misuse_exits_2_with_a_sentence(capsys, fleet, tmp_path, arguments, words):
    save_policy(Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (8,)), tmp_path / "pendulum")
    code, out, err = call(capsys, "attack", *arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("surefoot: ")]
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "run" / "evidence").exists()
