"""`surefoot train iwocs`: a run folder like any other, that equals the uninterrupted one when it is resumed, and misuse."""

import json
import shlex

import pytest
import torch

from surefoot.cli import main, train_iwocs
from surefoot.policies.loading import load_policy
from surefoot.training.run import Run

torch.set_num_threads(1)

TINY = shlex.split(
    "--env InvertedPendulum-v5 --hidden 8 8 --batch-size 16 --buffer-size 1000 --warmup 60 --env-steps 4 --n-envs 2 --default-steps 140"
    " --model-steps 140 --models 2 --percentiles 50 100 --search grid --grid 2 --episodes 1 --max-steps 25 --checkpoint-every 10"
    " --no-progress"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["train", "iwocs", *arguments])
    return code, *capsys.readouterr()


def numbers(folder):
    return load_policy(str(folder)).state_dict()


def test_a_run_that_is_judged_like_any_other_and_resumes_bit_for_bit(tmp_path, capsys, monkeypatch):
    code, out, err = call(capsys, *TINY, "--out", "whole", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["method"] == "iwocs" and result["steps"] == 140 * len(result["history"])
    assert len(result["last"]["returns"][0]) == 10 and result["history"][0]["model"] is None
    stress = json.loads((tmp_path / "whole" / "evidence" / "stress.json").read_text())
    assert result["stress"]["worst"] == stress["members"][0]["worst"] and len(stress["points"]) == 4
    assert (tmp_path / "whole" / "report.html").exists() and "default policy" in err
    assert main(["evaluate", "whole", "--episodes", "2"]) == 0
    assert main(["stress", "whole", "--grid", "2", "--episodes", "1", "--over", "whole/physics.json"]) == 0

    monkeypatch.setattr("surefoot.evaluation.report.report_for_runs", lambda runs, page: page)  # seen once, it takes seconds
    fit, fitted = train_iwocs.fit, []

    def stopped(method, source, steps, **options):
        fitted.append(steps)
        if len(fitted) == 2:
            fit(method, source, steps // 2, **options)
            raise KeyboardInterrupt("stopped")
        return fit(method, source, steps, **options)

    monkeypatch.setattr(train_iwocs, "fit", stopped)
    code, _, err = call(capsys, *TINY, "--out", "stopped")
    assert code == 130 and "stopped in stage model-1; saved: go on with `surefoot train iwocs --resume stopped`" in err
    monkeypatch.setattr(train_iwocs, "fit", fit)
    code, out, err = call(capsys, "--resume", "stopped", "--no-progress", "--json")
    assert code == 0, err
    same = {"last", "history", "stress", "steps"}
    assert {k: v for k, v in json.loads(out).items() if k in same} == {k: v for k, v in result.items() if k in same}
    whole, again = numbers("whole"), numbers("stopped")
    assert whole.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in whole.items())
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    assert rows[0] == rows[1]
    assert json.loads(call(capsys, "--resume", "stopped", "--json")[1]) == json.loads(out)  # complete: said again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "iwocs learns in an environment: name one"),
        (("--env", "InvertedPendulum-v5", "--over", "torso mass"), "no physical parameter 'torso mass'"),
        (("--env", "Swimmer-v5"), "Swimmer-v5 has no set of parameters of its own"),
        (("--env", "InvertedPendulum-v5", "--grid", "1"), "--grid is 1"),
        (("--env", "InvertedPendulum-v5", "--seed", "-1"), "--seed is -1"),
        (("--env", "InvertedPendulum-v5", "--model-steps", "5"), "model_steps is 5"),
        (("--env", "CartPole-v1"), "this method needs continuous actions"),
        (("--resume", "nowhere"), "nowhere is not a run"),
    ],
)
def test_misuse_is_one_sentence_and_leaves_nothing_behind(tmp_path, capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and words in err
    assert not (tmp_path / "runs").exists()


def test_the_run_of_another_method_is_not_resumed(tmp_path, capsys):
    Run.create(tmp_path / "other", {"method": "sac"})
    code, _, err = call(capsys, "--resume", "other")
    assert code == 2 and "is a run of sac, not of iwocs" in err
    Run.create(tmp_path / "damaged", {"method": "iwocs"})
    code, _, err = call(capsys, "--resume", "damaged")
    assert code == 2 and "does not hold the settings of iwocs" in err
