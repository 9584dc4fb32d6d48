"""`surefoot methods`."""

import json

import pytest

from surefoot.cli import main


def test_the_list_is_grouped_and_counts(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "logged data" in out and "a2pr" in out and "beso" in out and "planned" in out


def test_json_has_every_row(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 57
    a2pr = next(row for row in rows if row["slug"] == "a2pr")
    assert a2pr["arxiv"] == "2405.19909v3" and a2pr["status"] == "ready" and a2pr["url"].endswith(a2pr["arxiv"])


@pytest.mark.parametrize("status", ["ready", "planned"])
def test_one_status_alone(capsys, status):
    assert main(["methods", "--status", status, "--json"]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)} == {status}


def test_one_system(capsys):
    assert main(["methods", "policy-smoothing"]) == 0
    out = capsys.readouterr().out
    assert "surefoot.steering.smoothed" in out and "2106.11420v3" in out
    assert main(["methods", "policy-smoothin"]) == 2
    assert "did you mean 'policy-smoothing'" in capsys.readouterr().err
