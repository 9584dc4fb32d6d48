"""`surefoot demo --quick`, end to end: log, three learners, certificate, attack, report, and what to try next."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tyro
from rich.console import Console

from surefoot.cli import demo, main, train
from surefoot.cli.settings import SessionConfig
from surefoot.data.readers import read_log
from surefoot.recipes.pendulum import mixed_log


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quick demo in the folder `place`, and what it said."""
    place = tmp_path_factory.mktemp("demo")
    done = subprocess.run([sys.executable, "-m", "surefoot", "demo", "--quick"], cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return place / "demo", done


def test_everything_is_made(made):
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == [
        "a2pr",
        "bc",
        "demo.json",
        "dqn_noise",
        "dqn_plain",
        "pendulum-mixed.npz",
        "report.html",
        "td3_bc",
    ]
    assert sorted(path.name for path in (folder / "dqn_noise" / "evidence").iterdir()) == ["attack-q-best.json", "certify-best.json"]
    for name in ("a2pr", "bc", "td3_bc"):
        assert len(json.loads((folder / name / "result.json").read_text())["last"]["returns"]) == 2


def test_the_log_is_the_recipes(made):
    log = read_log(made[0] / "pendulum-mixed.npz")
    assert log.fingerprint == mixed_log(seed=0).fingerprint


def test_a_newcomer_is_told_what_came_of_it(made):
    _, done = made
    assert done.stdout == ""
    for words in ("45 random episodes", "learn from the log: A2PR", "mean return", "certified", "holds", "demo/report.html"):
        assert words in done.stderr
    assert "broken" not in done.stderr and "What to try next" in done.stderr


def test_the_report_is_about_all_of_it(made):
    text = re.sub(r"<[^>]*>", "", (made[0] / "report.html").read_text())
    for words in ("A2PR", "TD3+BC", "DQN with noise 0.2", "A real attack (q) left it above the bound", "Certified and attacked", "10,000"):
        assert words in text
    assert "What is missing" not in text and str(made[0].parent) not in text


def test_what_is_proposed_can_be_done(made, monkeypatch):
    """The commands at the end parse, and so does each one that the runs note; those stand for the settings of the run."""
    folder, done = made
    monkeypatch.chdir(folder.parent)
    proposed = re.findall(r" \S*(?:surefoot|__main__\.py) (.*)", done.stderr[done.stderr.index("What to try next") :])
    assert len(proposed) == 5

    class ParsedError(Exception):
        pass

    real = tyro.cli

    def parse_only(*args, **kwargs):
        real(*args, **kwargs)
        raise ParsedError

    noted = {name: json.loads((folder / name / "config.json").read_text()) for name in ("bc", "td3_bc", "a2pr", "dqn_noise")}
    for config in noted.values():
        words = shlex.split(config["command"])
        options, hyperparameters = train.parse(words[2], words[3:])
        assert options.steps == config["steps"] and list(hyperparameters.hidden) == config["hyperparameters"]["hidden"]
        assert SessionConfig.from_json(config, "").noise == options.noise
    monkeypatch.setattr(tyro, "cli", parse_only)
    for line in proposed:
        with pytest.raises(ParsedError):
            main(shlex.split(line.split("     ")[0]))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(made, tmp_path, monkeypatch):
    folder, _ = made
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--quick"]) == 0
    for name in ("bc", "td3_bc", "a2pr", "dqn_noise", "dqn_plain"):
        first, again = (place / name / "policy" / "policy.safetensors" for place in (folder, tmp_path / "demo"))
        assert first.read_bytes() == again.read_bytes()
    for name in ("certify-best.json", "attack-q-best.json"):
        first, again = (place / "dqn_noise" / "evidence" / name for place in (folder, tmp_path / "demo"))
        assert first.read_text() == again.read_text()


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    options, quiet = demo.Options(out=tmp_path / "demo", quick=True), Console(quiet=True)
    demo.prepare(options, quiet)
    (options.out / "a2pr").mkdir()
    for name in ("a2pr/result.json", "report.html", "mine.txt"):
        (options.out / name).write_text("{}")
    demo.prepare(options, quiet)
    assert sorted(path.name for path in options.out.iterdir()) == ["demo.json", "mine.txt"]


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 2
    assert "not the folder of an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert main(["demo", "--seed", "-1", "--out", str(tmp_path / "new")]) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_ctrl_c_leaves_no_process_behind(tmp_path):
    demo_process = subprocess.Popen(
        [sys.executable, "-m", "surefoot", "demo", "--out", "demo"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not list(tmp_path.glob("demo/*/metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(demo_process.pid, signal.SIGINT)  # what a terminal does
    _, said = demo_process.communicate(timeout=60)
    assert demo_process.returncode == 130 and "stopped" in said and "Traceback" not in said
    until = time.monotonic() + 20  # multiprocessing's own tracker ends when it sees that its parent is gone
    while somebody_is_in(demo_process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not somebody_is_in(demo_process.pid)


def somebody_is_in(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_budgets_of_attack_and_certificate_meet():
    for scale in (demo.FULL, demo.QUICK):
        certified, attacked = (
            set(re.findall(r"(?<= )[\d.]+(?= )", text.split("--episodes")[0].removeprefix("--budgets")))
            for text in (scale.certify, scale.attack)
        )
        assert attacked <= certified and len(attacked) > 1


def test_scores_of_the_table_are_normalised():
    mean = {"value": -160.0, "low": -170.0, "high": -150.0}
    table = demo.learned({"bc": {"last": {"mean": mean}, "seeds": 5}}, np.array([-1240.0])).renderables[1]
    assert list(table.columns[2].cells) == ["0", "100"]


def test_a_broken_certificate_is_not_hidden():
    certificate = {"budgets": [0.0, 0.2], "members": [{"lower": [150.0, 90.0]}], "sigma": 0.2, "alpha": 0.05, "episodes": 100}
    seen = {"budgets": [0.0, 0.2], "members": [{"mean": [160.0, 50.0], "low": [155.0, 45.0], "high": [165.0, 55.0]}]}
    failed = {"budgets": [0.0, 0.2], "members": [{"mean": [160.0, None], "low": [155.0, None], "high": [165.0, None]}]}
    table = demo.defended(certificate, seen, failed).renderables[1]
    assert list(table.columns[3].cells) == ["[green]holds", "[red]broken"]
    assert list(table.columns[4].cells)[1] == "failed"
