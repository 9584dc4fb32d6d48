"""`surefoot train protected`: a run folder like any other, that equals the uninterrupted one when it is resumed, and misuse."""

import json

import numpy as np
import pytest
import torch

from surefoot.cli import main, train_protected
from surefoot.cli.train_protected import Payoff, parse
from surefoot.data.spec import Discrete, Spec
from surefoot.methods.online.protected import PRESETS
from surefoot.policies.families import Categorical
from surefoot.policies.loading import load_policy
from surefoot.policies.saving import read_policy, save_policy
from surefoot.steering.adaptive import Adaptive
from surefoot.training.run import Run

torch.set_num_threads(1)

TINY = (
    "--first-steps 64 --iterations 2 --train-steps 2 --n-steps 16 --n-envs 2 --minibatches 4 --epochs 1 --radius-length 1 --judge-every 1"
    " --judge-episodes 1 --episodes 3 --max-steps 12 --log-every 1 --checkpoint-every 1 --no-progress"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["train", "protected", *arguments])
    return code, *capsys.readouterr()


def test_a_run_that_is_judged_like_any_other_and_resumes_bit_for_bit(tmp_path, capsys, monkeypatch):
    start = ("--env", "Pendulum-v1", "--seeds", "2", *TINY.split())
    code, out, err = call(capsys, *start, "--out", "whole", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "whole" / "result.json").read_text())
    assert (result["method"], result["steps"], result["seeds"], result["policies"]) == ("protected", 64 + 2 * 64, 2, 3)
    assert np.shape(result["last"]["returns"]) == (2, 3)
    assert np.shape(result["natural"]) == (3, 2) and np.shape(result["attacked"]) == (2, 3, 2)
    means = np.array(result["attacked"])
    for k, gap in enumerate(result["gaps"], 1):
        np.testing.assert_allclose(gap, means[k - 1, k] - means[k - 1, :k].max(0), rtol=1e-9)
    policy = load_policy("whole")
    assert isinstance(policy, Adaptive) and len(policy.inners) == 3 and policy.copies == (2,)
    assert [policy.low, policy.high] == result["range"] and policy.low < policy.high
    assert read_policy("whole/attackers/2").spec.action.dim == 1  # PA-AD's: a direction of the action
    assert (tmp_path / "whole" / "report.html").exists() and "attacker 2" in err and "found   policy 2" in err
    assert main(["evaluate", "whole", "--episodes", "2"]) == 0

    fit, fitted = train_protected.fit, []

    def stopped(method, source, steps, **options):
        fitted.append(steps)
        if len(fitted) == 2:
            fit(method, source, steps // 2, **options)
            raise KeyboardInterrupt("stopped")
        return fit(method, source, steps, **options)

    monkeypatch.setattr(train_protected, "fit", stopped)
    code, _, err = call(capsys, *start, "--out", "stopped")
    assert code == 130 and "stopped in stage policy-1; saved: go on with `surefoot train protected --resume stopped`" in err
    assert len(load_policy("stopped").inners) == 1  # what there is so far
    monkeypatch.setattr(train_protected, "fit", fit)
    code, out, err = call(capsys, "--resume", "stopped", "--no-progress", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert {k: v for k, v in again.items() if k != "wall_s"} == {k: v for k, v in result.items() if k != "wall_s"}
    state = load_policy("stopped").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in policy.state_dict().items())
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 2


def test_it_starts_from_a_run_of_ppo_and_stops_where_nothing_is_gained(tmp_path, capsys):
    save_policy(Categorical(Spec((4,), Discrete(2)), (8,), (2,), activation="tanh"), tmp_path / "ppo" / "policy")
    (tmp_path / "ppo" / "config.json").write_text('{"env": "CartPole-v1"}')
    code, out, err = call(capsys, "--from", "ppo@0", *TINY.split(), "--delta", "1e9", "--attack", "sa_rl", "--out", "run", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["env"], result["policies"], result["steps"], len(result["gaps"])) == ("CartPole-v1", 1, 64, 1)
    assert "policy 1 is left out" in err and "1 (left out)" in err
    policy = load_policy("run")
    assert len(policy.inners) == 1
    first = load_policy("ppo@0").state_dict()
    assert all(torch.equal(value, first[name]) for name, value in policy.inners[0].state_dict().items())
    (tmp_path / "run" / "result.json").unlink()
    code, out, err = call(capsys, "--resume", "run", "--no-progress", "--json")
    assert code == 0 and json.loads(out)["attacked"] == result["attacked"], err


def test_the_settings_of_an_environment_of_the_paper_are_its_defaults(tmp_path):
    assert parse(["--env", "Ant-v5"])[1] == PRESETS["Ant"]
    options, config = parse(["--env", "Walker2d-v5", "--radius", "0.2"])
    assert (options.env, config.radius, config.kappa) == ("Walker2d-v5", 0.2, PRESETS["Walker2d"].kappa)
    assert parse(["--env", "Pendulum-v1"])[1] == PRESETS["Hopper"]
    (tmp_path / "run" / "policy").mkdir(parents=True)
    (tmp_path / "run" / "policy" / "policy.json").touch()
    (tmp_path / "run" / "config.json").write_text('{"env": "HalfCheetah-v5"}')
    assert parse(["--from", "run"])[1] == PRESETS["HalfCheetah"]


def test_gaps_and_the_range_of_returns():
    table = Payoff([np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]])], [np.array([[0.5, 2.5]])])
    assert table.gaps[0].tolist() == [2.0] and table.range == (0.5, 3.0)
    assert Payoff([np.array([[4.0, 4.0]])], []).range == (4.0, 5.0)  # a range has a width


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "protected learns in an environment: name one"),
        (("--env", "Pendulum-v1", "--seeds", "0"), "--seeds is 0"),
        (("--env", "Pendulum-v1", "--seed", "-1"), "--seed is -1"),
        (("--env", "Pendulum-v1", "--radius", "-1"), "radius is -1"),
        (("--env", "Pendulum-v1", "--max-steps", "0"), "max_steps"),
        (("--env", "Nowhere-v0"), "Nowhere"),
        (("--from", "nowhere"), "nowhere does not exist"),
        (("--from", "nowhere", "--seeds", "2"), "--seeds does not go with --from"),
        (("--resume", "nowhere"), "nowhere is not a run"),
    ],
)
def test_misuse_is_one_sentence_and_leaves_nothing_behind(tmp_path, capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and words in err
    assert not (tmp_path / "runs").exists()


def test_a_policy_of_another_environment_is_refused(tmp_path, capsys):
    save_policy(Categorical(Spec((4,), Discrete(2)), (8,), activation="tanh"), tmp_path / "own")
    code, _, err = call(capsys, "--from", "own")
    assert code == 2 and "name one" in err
    code, _, err = call(capsys, "--from", "own", "--env", "Pendulum-v1")
    assert code == 2 and "the first policy" in err
    save_policy(Categorical(Spec((4,), Discrete(2)), (8,)), tmp_path / "relu")
    code, _, err = call(capsys, "--from", "relu", "--env", "CartPole-v1")
    assert code == 2 and "cannot be learned on: start from one that ppo or sa_ppo learned" in err


def test_the_run_of_another_method_is_not_resumed(tmp_path, capsys):
    Run.create(tmp_path / "other", {"method": "sac"})
    code, _, err = call(capsys, "--resume", "other")
    assert code == 2 and "is a run of sac, not of protected" in err
    Run.create(tmp_path / "damaged", {"method": "protected"})
    code, _, err = call(capsys, "--resume", "damaged")
    assert code == 2 and "does not hold the settings of protected" in err
