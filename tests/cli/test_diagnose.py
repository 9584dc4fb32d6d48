"""`surefoot diagnose`: vectors, images and members; what it writes and draws, what the card reads of it, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.envs.making import env_spaces
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.evidence import Diagnosis, pieces
from surefoot.policies.families import Categorical
from surefoot.policies.saving import save_policy

CATCH, CARTPOLE = "surefoot/Catch-v0", "CartPole-v1"


@pytest.fixture
def make_run(tmp_path):
    """A run folder with an untrained policy, as `surefoot train` leaves it."""

    def make(name, env_id, copies=(), **options):
        generator = torch.Generator().manual_seed(len(name))
        policy = Categorical(env_spaces(env_id), (32,), copies, generator=generator, **options)
        folder = tmp_path / name
        save_policy(policy, folder / "policy")
        returns = {"returns": [[1.0, 2.0]] * (copies[0] if copies else 1)}
        seeds = copies[0] if copies else 1
        settings = {"method": "dqn", "env": env_id, "noise": 0.0, "max_steps": 20, "steps": 10, "seeds": seeds}
        result = {"method": "dqn", "env": env_id, "steps": 10, "seeds": seeds, "last": returns, "best": None}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "metrics.jsonl").write_text('{"step": 10, "loss": 0.5}\n')
        return folder

    return make


def diagnose(capsys, *argv):
    """The exit code, standard output and standard error."""
    code = main(["diagnose", *map(str, argv)])
    return code, *capsys.readouterr()


def test_vectors_are_bars_with_names_and_the_card_reads_them(make_run, capsys):
    run = make_run("run", CARTPOLE, (2,))
    code, out, err = diagnose(capsys, run, "--episodes", 3, "--states", 40, "--json")
    assert code == 0
    (result,) = json.loads(out)["policies"]
    assert result == json.loads((run / "evidence" / "diagnosis.json").read_text())
    assert (run / "evidence" / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert (result["kind"], result["env"], result["max_steps"], result["obs_shape"]) == ("diagnosis", CARTPOLE, 20, [4])
    assert result["labels"][2] == "pole angle"
    assert result["units"] == "deviation"
    assert [m["member"] for m in result["members"]] == [0, 1]
    for m in result["members"]:
        assert np.linalg.norm(m["direction"]) == pytest.approx(1.0, abs=1e-5)
        assert set(m["shifts"]) == {"gain", "offset", "fgsm"}
        assert 0.0 < m["explained"] <= 1.0
        assert m["states"] <= 40
    assert "least stable" in err
    (arm,) = read_arms([run])
    found = [piece for stem, data in arm.evidence.items() for piece in pieces(arm, stem, data)]
    assert len(found) == 2
    assert all(isinstance(piece, Diagnosis) and piece.labels and not piece.pictured for piece in found)


def test_two_policies_from_pixels(make_run, capsys):
    own, other = make_run("own", CATCH, network="conv"), make_run("other", CATCH, network="dueling_mlp")
    options = ["--episodes", 3, "--shifts", "blur", "fgsm", "--json"]
    code, out, _ = diagnose(capsys, own, "--against", other, *options)
    assert code == 0
    (result,) = json.loads(out)["policies"]
    assert (result["obs_shape"], result["labels"], result["units"], result["states"]) == ([2, 10, 10], None, "observation", 27)
    (member,) = result["members"]
    assert set(member["shifts"]) == {"blur", "fgsm"}
    assert result["against"] == {"policy": str(other), "fcq": member["against"]["fcq"], "fcq_back": member["against"]["fcq_back"]}
    assert 0.0 <= result["against"]["fcq"] < 1.0
    assert not (other / "evidence").exists()
    back = json.loads(diagnose(capsys, other, "--against", own, *options)[1])["policies"][0]
    assert back["against"]["fcq"] == pytest.approx(result["against"]["fcq_back"], abs=1e-9)
    (arm,) = read_arms([own])
    (piece,) = pieces(arm, "diagnosis", result)
    assert piece.pictured


def test_a_policy_is_itself(make_run, capsys):
    run = make_run("run", CARTPOLE, (2,))
    out = diagnose(capsys, f"{run}@1", "--against", f"{run}@1", "--episodes", 2, "--shifts", "none", "--json")[1]
    (result,) = json.loads(out)["policies"]
    assert result["members"][0]["shifts"] == {}
    assert (result["against"]["fcq"], result["against"]["fcq_back"]) == pytest.approx((1.0, 1.0))
    assert (run / "evidence" / "diagnosis@1.json").is_file()


def test_the_seed_decides(make_run, capsys):
    run = make_run("run", CARTPOLE)
    first, again, other = (
        json.loads(diagnose(capsys, run, "--episodes", 2, "--shifts", "none", "--seed", seed, "--json")[1])["policies"][0]["members"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_names_and_a_picture_of_one_s_own(make_run, capsys, tmp_path):
    run = make_run("run", CARTPOLE)
    code, out, err = diagnose(
        capsys, run, "--episodes", 2, "--shifts", "none", "--labels", "a", "b", "c", "d", "--plot", tmp_path / "mine.png", "--json"
    )
    assert code == 0
    assert json.loads(out)["policies"][0]["labels"] == ["a", "b", "c", "d"]
    assert (tmp_path / "mine.png").is_file()
    assert str(tmp_path / "mine.png") in err


def test_what_says_little_is_said_to(make_run, capsys):
    """A policy that is saturated but for a few states."""
    run = make_run("run", CARTPOLE)
    policy = Categorical(env_spaces(CARTPOLE), ())
    with torch.no_grad():
        policy.net.weights[0].copy_(torch.tensor([[0.0, 0.0], [0.0, 2000.0], [0.0, 0.0], [0.0, 0.0]]))
    save_policy(policy, run / "policy")
    err = diagnose(capsys, run, "--shifts", "none", "--states", 200, "--episodes", 20)[2]
    assert "carry 90 % of it" in " ".join(err.split())


def test_a_shift_under_which_there_is_no_direction_is_said_and_not_counted(make_run, capsys):
    """One unit that is on while the picture is dark: a brighter one switches it off."""
    run = make_run("run", CATCH)
    policy = Categorical(env_spaces(CATCH), (1,))
    with torch.no_grad():
        policy.net.weights[0].fill_(-1.0)
        policy.net.biases[0].fill_(36.0)
    save_policy(policy, run / "policy")
    code, out, err = diagnose(capsys, run, "--episodes", 2, "--shifts", "brightness", "--json")
    assert code == 0
    (member,) = json.loads(out)["policies"][0]["members"]
    assert member["shifts"] == {"brightness": None}
    assert member["ceiling"] is not None
    assert "no direction to compare" in " ".join(err.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no policy was named"),
        (["{cartpole}", "--episodes", "0"], "episodes is 0"),
        (["{cartpole}", "--temperature", "0"], "temperature is 0"),
        (["{cartpole}", "--eps", "-1"], "eps is -1"),
        (["{cartpole}", "--eps", "nan"], "eps is nan"),
        (["{cartpole}", "--labels", "a", "b"], "2 labels were given for observations of 4 numbers"),
        (["{cartpole}", "--shifts", "blur"], "unknown shift 'blur'"),
        (["{cartpole}", "--against", "{catch}"], r"sees observations of shape \(2, 10, 10\)"),
        (["{cartpole}", "--against", "{fleet}"], "has 3 members and .* 1: name one"),
        (["{cartpole}", "{cartpole}", "--plot", "x.png"], "--plot draws one policy"),
        (["{cartpole}", "--env", "FrozenLake-v1"], "needs observations in a Box"),
        (["{cartpole}", "--env", "Acrobot-v1"], "shows observations of shape"),
        (["python:tests.cli.test_diagnose:act", "--env", CARTPOLE], "gives no gradient"),
        (["{cartpole}", "--against", "python:tests.cli.test_diagnose:act"], "gives no gradient"),
        (["{dead}", "--episodes", "1"], r"dead: the gradient is zero at all \d+ states"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make_run, capsys, monkeypatch, argv, message):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    runs = {"cartpole": make_run("cartpole", CARTPOLE), "catch": make_run("catch", CATCH), "fleet": make_run("fleet", CARTPOLE, (3,))}
    runs["dead"] = make_run("dead", CARTPOLE)
    dead = Categorical(env_spaces(CARTPOLE), ())
    torch.nn.init.zeros_(dead.net.weights[0])
    save_policy(dead, runs["dead"] / "policy")
    code, out, err = diagnose(capsys, *(word.format(**runs) for word in argv))
    assert code == 2
    assert out == ""
    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1


def act(obs):
    """A policy without gradients."""
    return (obs[:, 2] > 0.0).astype(int)
