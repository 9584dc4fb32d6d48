"""`surefoot train`: help, fleets, the run folder, stopping and resuming, what is refused."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.cli import main
from surefoot.cli.train import Options, parse
from surefoot.data.writers import write_log
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.registry import LEARNERS, learner
from surefoot.policies.loading import load_policy
from surefoot.recipes.pendulum import mixed_log
from surefoot.training.run import Run

SMALL = ("--hidden", "8", "8", "--batch-size", "8", "--eval-episodes", "1", "--episodes", "2", "--max-steps", "20", "--no-progress")
FILES = ("metrics.jsonl", "policy/policy.safetensors", "checkpoint/tensors.safetensors")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with a log, and no drawing of reports (which is tested elsewhere)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("surefoot.evaluation.report.report_for_runs", lambda runs, page: page)
    write_log(mixed_log(0, good=1, random=4), tmp_path / "log.npz")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def trained(capsys, out, *arguments, method="td3_bc", data=("--data", "log.npz", "--env", "Pendulum-v1")):
    """A run that trained without a fault; its result."""
    code, text, err = call(capsys, method, *data, "--out", out, *SMALL, "--json", *arguments)
    assert code == 0, err
    return json.loads(text)


def contents(run):
    return {name: (Path(run) / name).read_bytes() for name in FILES}


# --- help and flags -------------------------------------------------------------------------------------------------


def test_help_is_enough_to_get_going(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for words in ("usage: surefoot train METHOD", "--resume DIR", "examples:", *LEARNERS):
        assert words in out


@pytest.mark.parametrize("name", LEARNERS)
def test_every_setting_is_a_flag_with_its_help_and_default(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    settings, options = dataclasses.fields(learner(name).config_class), dataclasses.fields(Options)
    assert not {f.name for f in settings} & {f.name for f in options}, "a setting has the name of an option: rename it"
    with pytest.raises(SystemExit) as stopped:
        main(["train", name, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for field in (*settings, *options):
        flag = ("--no-" if field.default is True else "--") + field.name.replace("_", "-")  # a switch that is on is turned off
        lines = [line for line in out.splitlines() if re.search(rf"{flag}(?![\w-])", line)]
        assert lines, flag
        assert field.type != "bool" or not lines[0].count("--no-") > 1
    assert out.count("(default:") >= len(settings) + len(options) - 1  # (required) nowhere
    assert parse(name, [])[1] == learner(name).config_class()


def test_flags_reach_the_method(capsys):
    options, settings = parse("td3_bc", ["--alpha", "4", "--hidden", "32", "16", "--steps", "7", "--no-progress"])
    assert (settings.alpha, settings.hidden, options.steps, options.no_progress) == (4.0, (32, 16), 7, True)
    trained(capsys, "run", "--steps", "2", "--alpha", "4")
    config = json.loads(Path("run/config.json").read_text())
    assert config["hyperparameters"]["alpha"] == 4.0
    assert config["command"].startswith("surefoot train td3_bc --data log.npz")


def test_a_wrong_flag_exits_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "bc", "--data", "log.npz", "--stepz", "3"])
    assert stopped.value.code == 2
    assert "steps" in capsys.readouterr().err


# --- what a run leaves behind ---------------------------------------------------------------------------------------


def test_a_fleet_of_five_is_five_policies_that_can_be_told_apart(capsys):
    result = trained(capsys, "run", "--steps", "30", "--seeds", "5", "--eval-every", "10", "--log-every", "10")
    assert np.shape(result["last"]["returns"]) == np.shape(result["best"]["returns"]) == (5, 2)
    assert result["best"]["evaluations"] == 3
    assert result["last"]["mean"]["value"] == pytest.approx(np.mean(result["last"]["returns"]))
    assert result["last"]["mean"]["low"] < result["last"]["mean"]["value"] < result["last"]["mean"]["high"]
    assert json.loads(Path("run/result.json").read_text()) == result

    fleet, obs = load_policy("run"), torch.tensor([[1.0, 0.0, 0.5]])
    together = fleet.act(obs.expand(5, 1, 3))[0]
    alone = torch.stack([load_policy(f"run@{i}").act(obs)[0] for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert len({round(float(action), 4) for action in alone.detach().flatten()}) == 5
    best = load_policy("run:best@3")
    assert best.copies == ()
    assert not torch.equal(best.act(obs)[0], alone[3])

    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "critic_loss" in row] == [10, 20, 30]
    assert [row["step"] for row in rows if "eval/return" in row] == [10, 20, 30]
    assert all(len(value) == 5 for row in rows for name, value in row.items() if name != "step")


def test_the_final_returns_are_those_of_the_saved_policy(capsys):
    result = trained(capsys, "run", "--steps", "3", "--seed", "4")
    from surefoot.cli.parts import FINAL_EPISODES
    from surefoot.envs.seeding import derive_seed

    again = rollout(load_policy("run"), "Pendulum-v1", 2, seed=derive_seed(4, FINAL_EPISODES), max_steps=20)
    np.testing.assert_allclose(result["last"]["returns"][0], again.returns)
    assert result["best"] is None  # never evaluated while training


def test_json_is_all_there_is_on_stdout(capsys):
    code, out, err = call(capsys, "bc", "--data", "log.npz", "--env", "Pendulum-v1", "--steps", "2", "--out", "run", *SMALL[:-1], "--json")
    assert code == 0
    keys = {"method", "env", "data", "steps", "seeds", "wall_s", "last", "best", "offline", "weighting", "warnings"}
    assert json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")).keys() == keys
    for words in ("bc", "1,000 transitions", "step 2 of 2", "mean return", "report"):
        assert words in err
    code, out, err = call(capsys, "bc", "--data", "log.npz", "--env", "Pendulum-v1", "--steps", "2", "--out", "other", *SMALL)
    assert (code, out) == (0, "")
    assert "step 2 of 2" not in err


def test_one_episode_has_a_value_without_an_interval(capsys):
    result = trained(capsys, "run", "--steps", "2", "--episodes", "1")
    assert result["last"]["mean"]["low"] is None


def test_without_an_environment_the_log_judges(capsys):
    log = mixed_log(0, good=1, random=2)
    write_log(dataclasses.replace(log, env_id=None, notes={}), "own.npz")
    result = trained(capsys, "run", "--steps", "2", "--seeds", "2", "--fqe-steps", "3", data=("--data", "own.npz"))
    assert (result["env"], result["last"], result["best"]) == (None, None, None)
    assert len(result["offline"]["value"]) == 2
    assert result["offline"]["steps"] == 3


def test_the_log_names_the_environment(capsys):
    assert trained(capsys, "run", "--steps", "2", data=("--data", "pendulum-mixed"))["env"] == "Pendulum-v1"
    log = dataclasses.replace(mixed_log(0, good=1, random=2), env_id="elsewhere/Pendulum-v7")
    write_log(log, "strange.npz")
    code, _, err = call(capsys, "bc", "--data", "strange.npz", "--out", "strange", "--steps", "2", "--fqe-steps", "2", *SMALL)
    assert code == 0
    assert "note: the log says that it was recorded in elsewhere/Pendulum-v7" in err


def test_weighting_says_what_is_left_of_the_log(capsys):
    code, _, err = call(capsys, "bc", "--data", "log.npz", "--weighting", "rw", "--steps", "2", "--out", "run", *SMALL)
    assert code == 0
    assert "J_w" in err
    assert "effective sample size" in err
    weighting = json.loads(Path("run/result.json").read_text())["weighting"]
    assert weighting["kind"] == "rw"
    assert weighting["weighted_return"] > weighting["uniform_return"]
    assert 1 <= weighting["ess"] < 1000


def test_an_online_run_with_frames_and_noise(capsys):
    online = ("--env", "CartPole-v1", "--frame-stack", "3", "--noise", "0.1", "--warmup", "16", "--env-steps", "8", "--n-envs", "4")
    result = trained(capsys, "run", "--steps", "10", "--seeds", "2", "--eval-every", "5", "--log-every", "5", method="dqn", data=online)
    policy = load_policy("run")
    assert policy.spec.obs_shape == (4,)
    assert type(policy).__name__ == "FrameStack"
    assert np.shape(result["best"]["returns"]) == (2, 2)
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("train/env_steps" in row for row in rows)


def test_steps_of_an_on_policy_run_are_steps_in_the_environment(capsys):
    settings = ("--env", "Pendulum-v1", "--n-steps", "8", "--n-envs", "2", "--minibatch", "8", "--epochs", "1", "--hidden", "8")
    code, _, err = call(
        capsys, "ppo", *settings, "--steps", "40", "--max-steps", "20", "--log-every", "16", "--eval-every", "20", "--eval-episodes", "1",
        "--episodes", "2", "--out", "run",
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["train/env_steps"] for row in rows if "train/env_steps" in row] == [16.0, 32.0, 48.0]
    assert [row["step"] for row in rows if "eval/return" in row] == [32, 48]
    assert load_policy("run").normaliser.active


def test_the_default_folder_is_under_runs(capsys):
    code, _, _ = call(capsys, "bc", "--data", "log.npz", "--steps", "2", *SMALL)
    assert code == 0
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"bc-\d{8}-\d{6}", run.name)


# --- the same seed, and going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bc", "td3_bc", "a2pr", "prdc", "iql", "cql"])
def test_one_seed_is_one_result_and_a_longer_run_is_the_same_run(method, capsys):
    """Trained twice it is equal bit for bit; trained to 12 and then to 24 it equals 24 at once. Another seed is another run."""
    settings = ("--log-every", "4", "--eval-every", "6", "--seeds", "2")
    trained(capsys, "whole", "--steps", "24", *settings, method=method)
    trained(capsys, "parts", "--steps", "12", *settings, method=method)
    assert contents("parts") != contents("whole")
    code, out, err = call(capsys, "--resume", "parts", "--steps", "24", "--no-progress", "--json")
    assert code == 0, err
    assert contents("parts") == contents("whole")
    assert {**json.loads(out), "wall_s": 0} == {**json.loads(Path("whole/result.json").read_text()), "wall_s": 0}
    assert json.loads(Path("parts/config.json").read_text())["steps"] == 24
    trained(capsys, "other", "--steps", "24", *settings, "--seed", "1", method=method)
    assert contents("other")["policy/policy.safetensors"] != contents("whole")["policy/policy.safetensors"]


def test_the_same_command_twice_is_the_same_online(capsys):
    online = ("--env", "Pendulum-v1", "--warmup", "20", "--buffer-size", "100")
    for out in ("one", "two"):
        trained(capsys, out, "--steps", "20", "--seeds", "2", method="sac", data=online)
    assert contents("one") == contents("two")


def test_a_complete_run_reports_its_result_again(capsys):
    result = trained(capsys, "run", "--steps", "4")
    before = contents("run")
    Path("log.npz").unlink()  # it is not even read
    code, out, _ = call(capsys, "--resume", "run", "--json")
    assert (code, json.loads(out)) == (0, result)
    assert contents("run") == before
    code, _, err = call(capsys, "bc", "--resume", "run")
    assert code == 2
    assert "is a run of td3_bc, not of bc" in err
    assert call(capsys, "td3_bc", "--resume", "run")[0] == 0
    assert call(capsys, "--resume=run")[0] == 0


def test_a_run_does_not_go_back(capsys):
    trained(capsys, "run", "--steps", "4")
    code, _, err = call(capsys, "--resume", "run", "--steps", "3")
    assert code == 2
    assert "at step 4 already" in err


def test_changed_data_is_refused(capsys):
    trained(capsys, "run", "--steps", "4")
    write_log(mixed_log(1, good=1, random=4), "log.npz")
    code, _, err = call(capsys, "--resume", "run", "--steps", "8")
    assert code == 2
    assert "log.npz does not hold what it held when run was started" in err
    assert json.loads(Path("run/config.json").read_text())["steps"] == 4


def test_a_run_of_another_kind_is_not_resumed(capsys):
    Run.create("python", {"what": "made by fit"})
    code, _, err = call(capsys, "--resume", "python")
    assert code == 2
    assert "does not hold the settings" in err


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(capsys):
    settings = ("--log-every", "2", "--checkpoint-every", "3", "--eval-every", "4")
    trained(capsys, "whole", "--steps", "16", *settings)
    trained(capsys, "run", "--steps", "8", *settings)
    tensors = Path("run/checkpoint/tensors.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-100])
    code, _, err = call(capsys, "--resume", "run", "--steps", "16", "--no-progress")
    assert code == 0, err
    assert contents("run") == contents("whole")


def test_ctrl_c_saves_says_how_to_resume_and_exits_130(capsys):
    settings = ("--steps", "2000", "--log-every", "5", "--eval-every", "0", "--hidden", "8", "8", "--batch-size", "8", "--episodes", "2")
    arguments = ["train", "bc", "--data", "log.npz", *settings, "--max-steps", "20", "--out"]
    # a background job of a shell ignores SIGINT, and so would its children
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from surefoot.cli import main; sys.exit(main())"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments, "run"], stderr=subprocess.PIPE, text=True, env=env)
    while process.poll() is None and not Path("run/metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130, err
    assert re.search(r"^surefoot: stopped after step \d+; saved: go on with `surefoot train --resume run`\.$", err, re.M), err
    assert "Traceback" not in err
    assert not Path("run/result.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert call(capsys, "--resume", "run", "--no-progress")[0] == 0
        assert call(capsys, *arguments[1:], "whole", "--no-progress")[0] == 0
    finally:
        torch.set_num_threads(threads)
    assert contents("run") == contents("whole")


def test_a_diverged_run_keeps_a_policy(capsys):
    settings = ("--steps", "50", "--checkpoint-every", "1", "--log-every", "1", "--critic-lr", "1e9", "--eval-every", "0")
    code, out, err = call(capsys, "td3_bc", "--data", "log.npz", "--out", "run", *settings, *SMALL)
    assert (code, out) == (2, "")
    (sentence,) = (line for line in err.splitlines() if line.startswith("surefoot: "))
    found = re.search(
        r"training diverged: at step (\d+) .*checkpoint keeps step (\d+).*`surefoot (train --resume run --steps \d+)`", sentence
    )
    assert found, sentence
    assert 1 <= int(found[2]) < int(found[1])
    assert not Path("run/policy").exists()
    assert main([*found[3].split(), "--no-progress"]) == 0
    assert all(p.isfinite().all() for p in load_policy("run").parameters())


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bc", "--data", "log.npz", "--frame-stack", "2"], ["--frame-stack", "dqn, sac", "not bc"]),
        (["bc", "--data", "log.npz", "--noise", "0.1"], ["--noise", "not bc"]),
        (["bc", "--data", "log.npz", "--noise", "-1"], ["--noise is -1"]),
        (["bc", "--data", "log.npz", "--steps", "0"], ["--steps is 0"]),
        (["bc", "--data", "log.npz", "--seeds", "0"], ["--seeds is 0"]),
        (["bc", "--data", "log.npz", "--seed", "-1"], ["--seed is -1"]),
        (["bc", "--data", "log.npz", "--log-every", "0"], ["--log-every is 0"]),
        (["bc", "--data", "log.npz", "--batch-size", "0"], ["batch_size is 0"]),
        (["bc", "--data", "log.npz", "--weighting", "rw", "--weighting-alpha", "0"], ["alpha is 0"]),
        (["bc", "--data", "log.npz", "--max-steps", "0"], ["max_steps is 0"]),
        (["sac", "--env", "Pendulum-v1", "--weighting", "aw"], ["--weighting", "not sac"]),
        (["sac", "--env", "Pendulum-v1", "--data", "log.npz", "--log-share", "0"], ["--log-share is 0"]),
        (["sac", "--env", "Pendulum-v1", "--data", "log.npz", "--noise", "0.1"], ["do not go with --data"]),
        (["dqn", "--env", "CartPole-v1", "--data", "log.npz"], ["CartPole-v1"]),
        (["ppo", "--env", "Pendulum-v1", "--data", "log.npz"], ["not from a log", "leave --data out"]),
        (["ppo"], ["--env"]),
        (["--steps", "3"], ["must be a method"]),
        (["policy-smoothing"], ["not learned with", "docs/methods/policy-smoothing.md"]),
        (["r2pvi"], ["not learned with", "docs/methods/r2pvi.md"]),
        (["td3-bc", "--data", "log.npz"], ["td3_bc"]),
    ],
)
def test_misuse_is_one_sentence_and_leaves_nothing(arguments, words, capsys):
    out = ["--out", "run"] if not arguments[0].startswith("-") else []
    code, text, err = call(capsys, *arguments, *out)
    assert (code, text) == (2, "")
    (sentence,) = (line for line in err.splitlines() if line.startswith("surefoot: "))
    assert "Traceback" not in err
    for word in words:
        assert word in sentence
    assert not Path("run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(capsys):
    code, _, err = call(capsys, "bc", "--data", "log.npz", "--device", "cuda", "--out", "run")
    assert code == 2
    assert "no CUDA device" in err
