"""`surefoot report`: where the page goes, what is printed where, what is refused."""

import json

import pytest

from surefoot.cli import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs with metrics alone: enough for a report, and quick to draw."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"method": "td3_bc", "steps": 10}))
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n')
    return tmp_path


def test_one_run_keeps_its_report(runs, capsys):
    assert main(["report", "one"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "one/report.html" in said.err
    assert "TD3+BC" in (runs / "one" / "report.html").read_text()


def test_several_runs_are_reported_here(runs, capsys):
    assert main(["report", "one", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "report.html" and found["runs"] == ["one", "two"]
    assert [(each["policy"], each["verdict"], each["least_accepted"]) for each in found["verdicts"]] == [
        ("one", "not known", None),
        ("two", "not known", None),
    ]
    text = (runs / "report.html").read_text()
    assert "TD3+BC (one)" in text and "TD3+BC (two)" in text


def test_out_names_the_file(runs):
    assert main(["report", "one", "--out", "pages/mine.html"]) == 0
    assert (runs / "pages" / "mine.html").is_file() and not (runs / "one" / "report.html").exists()


def test_the_card_alone(runs, capsys):
    assert main(["report", "one", "--card", "--drop", "0.3", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["report"] == "one/card.html"
    assert "TD3+BC: Not known whether it holds without attack, under attack and in other physics." in printed.err
    text = (runs / "one" / "card.html").read_text()
    assert "Robustness card: TD3+BC" in text and "30\u00a0% below the clean return (--drop 0.3" in text and "Learning curves" not in text


def test_a_floor_that_the_reader_names(runs):
    assert main(["report", "one", "two", "--floor", "-150"]) == 0
    assert "a return of −150 (--floor)" in (runs / "report.html").read_text()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "no run was named"),
        (["one", "--drop", "2"], "the tolerated drop is 2: it is a share of the clean return"),
        (["one", "--floor", "nan"], "the least accepted return is nan"),
        (["three"], "three is not a run folder"),
        (["one", "--out", "two"], "two is a folder: name a file to write"),
        (["one", "--out", "one/config.json/report.html"], "cannot be written"),
    ],
)
def test_mistakes_are_sentences(runs, capsys, argv, sentence):
    assert main(["report", *argv]) == 2
    assert sentence in capsys.readouterr().err
