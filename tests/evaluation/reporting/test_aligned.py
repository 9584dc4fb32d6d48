"""The report's part on language models, from evidence with made-up numbers."""

import json

import pytest

from surefoot.errors import ConfigError
from surefoot.evaluation.report import comparison_page, render
from surefoot.evaluation.reporting.aligned import aligned, comparisons, read_comparison
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.blocks import groups
from surefoot.evaluation.reporting.evidence import unread
from surefoot.evaluation.reporting.returns import learning_curves


def interval(value, half=0.1):
    return {"value": value, "low": value - half, "high": value + half}


def model(name, reward, kl, run=None, base=False):
    wins = None if base else interval(0.7)
    return {
        "name": name,
        "run": run,
        "reward": interval(reward),
        "kl": interval(kl),
        "kl_error": 0.05,
        "length": interval(20.0),
        "ended": 0.9,
        "wins": wins,
        "gain": None,
        "p": None if base else 0.0002,
    }


def comparison(**changes):
    models = [model("sft", 1.0, 0.0, base=True), model("runs/first", 2.0, 1.5, "first"), model("/home/me/second", 2.5, 6.0, "second")]
    answers = [{"prompt": "Say <b>yes</b>", "answers": [{"text": f"answer {i}", "reward": float(i)} for i in range(3)]}]
    found = {"kind": "aligned", "models": models, "base": "sft", "reference": "/home/me/sft", "reward": "score.py:score", "prompts": 50}
    return found | {"samples": 4, "answers": answers, "command": "surefoot compare runs/first /home/me/second --prompts p.jsonl"} | changes


@pytest.fixture
def folders(tmp_path):
    """Two runs of which the comparison was about both, as `surefoot compare` leaves them."""
    for i, name in enumerate(("first", "second")):
        folder = tmp_path / name
        (folder / "evidence").mkdir(parents=True)
        config = {"method": ("rdpo", "rpo")[i], "model": "sft", "data": "prefs.jsonl", "fingerprint": "f" * 64, "seed": 0, "env": None}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "result.json").write_text(json.dumps({"steps": 3, "wall_s": 1.0}))
        rows = [{"step": k, "loss": 1.0, "margin": 0.1 * k, "eval/kl": 0.5 * k, "eval/reward": 1.0 + k} for k in range(1, 4)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "evidence" / "aligned.json").write_text(json.dumps(comparison()))
    return [tmp_path / "first", tmp_path / "second"]


def test_a_comparison_of_two_runs_is_shown_once(folders):
    arms = read_arms(folders)
    (one,) = comparisons(arms)
    assert [each.arm.label if each.arm else None for each in one.models] == [None, "rDPO", "RPO"]
    assert (one.base, one.reference) == ("sft", "…/sft")
    page = render(arms)
    for words in (
        "Language models",
        "50 prompts, 4 answers each, reward score.py:score",
        "<b>RPO</b> earns a reward of <b>2.5 [2.4, 2.6]</b>",
    ):
        assert words in page
    assert page.count("Answers side by side") == 1 and "Say &lt;b&gt;yes&lt;/b&gt;" in page
    assert "/home/me" not in page and "2 runs, compared on held-out prompts." in page
    for words in ("Final returns", "Without an environment", "judged from the log alone", "What is missing", "Robustness of"):
        assert words not in page


def test_models_keep_the_colours_of_their_runs(folders):
    (shown,) = aligned(read_arms(folders[::-1]))["comparisons"]
    marks = [str(mark) for mark, *_ in shown["answers"][0][1]]
    assert [next(i for i in range(6) if f"--arm-{i}" in mark) for mark in marks] == [2, 1, 0]  # second is arm 0 here, sft no arm


def test_what_is_told_of_training_comes_first(folders):
    arms = read_arms(folders)
    (section,) = learning_curves(groups(arms))
    assert section["name"] == "Language models"
    assert [figure.title for figure in section["first"]] == ["Eval / reward", "Eval / kl", "Margin", "Loss"]
    way = aligned(arms)["training"]
    assert "rDPO from reward 2 at KL 0.5 to 4 at 1.5" in way.drawing


def test_a_run_that_was_not_compared_says_how(folders):
    for folder in folders:
        (folder / "evidence" / "aligned.json").unlink()
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    arms = read_arms(folders)
    assert aligned(arms) is None
    page = render(arms)
    assert "it was not asked anything: run <code>surefoot compare " in page and "--prompts HELD_OUT --reward REWARD</code>" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"models": []},
        {"models": [model("sft", 1.0, 0.0, base=True)]},  # fewer than there are answers
        {"models": [{"name": "x"}]},
        {"base": None},
        {"answers": [{"prompt": 3, "answers": []}]},
        {"prompts": "many"},
    ],
)
def test_evidence_of_another_form_is_left_out(folders, changes):
    (folders[0] / "evidence" / "aligned.json").write_text(json.dumps(comparison(**changes)))
    arm = read_arms(folders[:1])[0]
    assert comparisons([arm]) == []
    assert unread(arm) == ["evidence/aligned.json is of another form than this version writes, and was left out."]
    with pytest.raises(ConfigError, match="this is no comparison of language models"):
        comparison_page(comparison(**changes))


def test_what_it_reads_is_not_unread(folders):
    (arm, _) = read_arms(folders)
    assert unread(arm) == [] and read_comparison([], {"kind": "stress"}) is None


def test_a_page_of_its_own():
    page = comparison_page(comparison())
    for words in ("3 models compared on held-out prompts.", "Reward over KL", "surefoot compare runs/first …/second --prompts p.jsonl"):
        assert words in page
    assert "/home/me" not in page and page.count("<svg") > 6
