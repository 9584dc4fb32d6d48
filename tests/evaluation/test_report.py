"""The report: well-formed and alone, honest about what is missing, closed to hostile names and to the machine it was made on."""

import getpass
import json
import re
import socket
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest

from surefoot.data.spec import Continuous, Spec
from surefoot.errors import CheckpointError, ConfigError, EnvError
from surefoot.evaluation import report
from surefoot.evaluation.report import report_for_runs
from surefoot.evaluation.reporting import episodes
from surefoot.evaluation.reporting.animation import Clip
from surefoot.evaluation.reporting.arms import portable, read_arms
from surefoot.evaluation.statistics import hierarchical_interval, iqm_interval
from surefoot.policies.families import Deterministic
from surefoot.policies.saving import save_policy

VOID = {"meta", "link", "br", "img", "source", "input", "hr"}
PENDULUM = Spec((3,), Continuous((-2.0,), (2.0,)))


class Page(HTMLParser):
    """The tags of a page, checked to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "title"):
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def filmed(monkeypatch):
    """Rendering takes seconds and depends on the machine: here a clip is a pixel."""
    clip = Clip("data:image/webp;base64,AAAA", "data:image/png;base64,BBBB", 4, 3, 1.5, True)
    monkeypatch.setattr(episodes, "film", lambda episode, **_: clip)


def make_run(folder, method="td3_bc", *, mean=-300.0, members=3, seed=0, env="Pendulum-v1", **config):
    """A run folder as `surefoot train` leaves it, with made-up numbers."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    returns = mean + 20.0 * rng.standard_normal((members, 6))
    evaluated = {
        "returns": returns.tolist(),
        "mean": asdict(hierarchical_interval(scores=returns)),
        "iqm": asdict(iqm_interval(returns.mean(-1))),
    }
    settings = {
        "method": method,
        "data": "/home/somebody/secret place/my_log.npz",
        "env": env,
        "steps": 400,
        "seeds": members,
        "seed": 0,
        "max_steps": 20,
        "hyperparameters": {"alpha": 2.5, "hidden": [64, 64]},
        "command": f"surefoot train {method} --data '/home/somebody/secret place/my_log.npz' --out /home/somebody/runs/x",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "environment": {"system": "Linux x86_64", "cores": 2},
        "fingerprint": "5463891bffe5b33f" * 4,
        "log": {
            "source": "/home/somebody/secret/my_log.npz",
            "transitions": 10_000,
            "episodes": 50,
            "returns": {"mean": -1143.0, "max": -150.0},
        },
        **config,
    }
    result = {
        "method": method,
        "env": env,
        "data": settings["data"],
        "steps": 400,
        "seeds": members,
        "wall_s": 12.5,
        "last": evaluated if env else None,
        "best": evaluated | {"evaluations": 4} if env else None,
        "offline": None,
        "weighting": None,
        "warnings": ["/home/somebody/logs/my_log.npz marks no terminals"],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "result.json").write_text(json.dumps(result))
    rows = [{"step": s, "critic_loss": [100.0 / s] * members, "eval/return": [mean * 200 / s] * members} for s in range(100, 500, 100)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if env == "Pendulum-v1":
        save_policy(Deterministic(PENDULUM, (8,), (members,) if members > 1 else ()), folder / "policy")
    return folder


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def page_of(folders, tmp_path):
    path = report_for_runs(folders, tmp_path / "out" / "report.html")
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def runs(tmp_path):
    return [make_run(tmp_path / "good", "a2pr", mean=-200.0, seed=1), make_run(tmp_path / "bad", "td3_bc", mean=-900.0, seed=2)]


# --- what is in it --------------------------------------------------------------------------------------------------


def test_it_is_one_well_formed_file_that_loads_nothing(runs, tmp_path, filmed):
    page = page_of(runs, tmp_path)
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "xlink:href", "action", "data"):
            value = attrs.get(name, "")
            assert value.startswith(("data:", "#", "")) and (
                not value.startswith("http") or (tag == "a" and value.startswith("https://arxiv.org/"))
            )
    text = (tmp_path / "out" / "report.html").read_text()
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for attrs in page.all("a") if attrs["href"].startswith("#")]
    assert targets and set(targets) <= set(ids)


def test_every_section_is_there(runs, tmp_path, filmed):
    words = page_of(runs, tmp_path).words()
    for heading in ("In short", "Summary", "What was learned from what", "Learning curves", "Final returns", "Every pair, with tests"):
        assert heading in words
    for heading in ("One episode", "How to get these numbers again", "How to read this page"):
        assert heading in words
    assert "What is missing" not in words
    for value in (
        "A2PR",
        "TD3+BC",
        "10,000",
        "chosen by 4 evaluations",
        "5463891bffe5b33f",
        "torch 2.13.0",
        "cores 2",
        "Critic loss",
        "12 s",
    ):
        assert value in words
    assert "A2PR did best" in words and "It beats TD3+BC by" in words


def test_charts_and_pictures_have_words_for_those_who_do_not_see_them(runs, tmp_path, filmed):
    page = page_of(runs, tmp_path)
    charts = [attrs for attrs in page.all("svg") if "aria-hidden" not in attrs]
    assert len(charts) >= 4
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in charts)
    assert all(attrs["alt"] for attrs in page.all("img"))
    moving = [attrs["media"] for attrs in page.all("source")]
    assert len(moving) == 2 and all("prefers-reduced-motion" in media for media in moving)
    assert page.all("html")[0]["lang"] == "en" and page.all("meta")[1]["name"] == "viewport"


def test_an_arm_has_one_colour_everywhere(runs, tmp_path, filmed):
    text = report_for_runs(runs, tmp_path / "report.html").read_text()
    both = {f"--arm-{i}" for i in range(2)}
    charts = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    assert both <= set(re.findall(r"var\((--arm-\d)\)", charts[0]))
    assert set(re.findall(r"var\((--arm-\d)\)", "".join(charts))) == both
    assert not re.search(r"#0[1-5]0", text)  # no stand-in is left


def test_numbers_of_the_summary_are_those_of_the_result(runs, tmp_path, filmed):
    words = page_of(runs, tmp_path).words()
    mean = json.loads((runs[0] / "result.json").read_text())["last"]["mean"]
    assert f"{mean['value']:.4g} [{mean['low']:.4g}, {mean['high']:.4g}]".replace("-", "−") in words


def test_arms_of_one_method_are_told_apart(tmp_path):
    arms = read_arms([make_run(tmp_path / "one"), make_run(tmp_path / "two"), make_run(tmp_path / "three", weighting="aw")])
    assert [arm.label for arm in arms] == ["TD3+BC (one)", "TD3+BC (two)", "TD3+BC with aw weights"]


def test_environments_are_kept_apart(runs, tmp_path, filmed):
    other = make_run(tmp_path / "cart", "dqn", env="CartPole-v1", mean=150.0)
    words = page_of([*runs, other], tmp_path).words()
    assert "judged in Pendulum-v1, at most 20 steps and CartPole-v1, at most 20 steps" in words
    assert "A2PR − TD3+BC" in words and "DQN −" not in words


def test_fleets_and_single_policies_are_not_compared(runs, tmp_path, filmed):
    words = page_of([runs[0], make_run(tmp_path / "lone", "bc", members=1)], tmp_path).words()
    assert "no pair is compared" in words


def test_a_policy_judged_from_its_log_alone(tmp_path):
    run = make_run(tmp_path / "run", env=None)
    offline = {
        "value": [-80.0, -90.0, -85.0],
        "logged_value": -120.0,
        "bellman_error": [1.0] * 3,
        "action_distance": [0.25] * 3,
        "gamma": 0.99,
    }
    change(run / "result.json", offline=offline)
    words = page_of([run], tmp_path).words()
    assert "Judged from the log alone" in words and "An estimate, not a bound" in words and "−85" in words and "0.25" in words
    assert "One episode" not in words and "What is missing" not in words


# --- what is not in it ----------------------------------------------------------------------------------------------


def test_nothing_of_the_machine_is_in_it(runs, tmp_path, filmed):
    text = report_for_runs(runs, tmp_path / "report.html").read_text()
    assert "my_log.npz" in text
    for secret in ("somebody", "secret", str(tmp_path), "/home/", socket.gethostname()):
        assert secret not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see /home/me/logs/my_log.npz, row 3", "see …/my_log.npz, row 3"),
        ("--data=/data/x/my_log.npz", "--data=…/my_log.npz"),
        ("~/logs/a.npz", "…/a.npz"),
        (r"C:\Users\me\log.npz", "…/log.npz"),
        ("https://arxiv.org/abs/2405.19909v3", "https://arxiv.org/abs/2405.19909v3"),
        ("minari:D4RL/door/human-v2", "minari:D4RL/door/human-v2"),
        ("runs/a2pr@2 and m/s", "runs/a2pr@2 and m/s"),
    ],
)
def test_paths_are_cut_to_their_last_part(text, shown):
    assert portable(text) == shown


def test_hostile_names_are_only_text(tmp_path, filmed):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    run = make_run(tmp_path / "run")
    change(
        run / "config.json",
        method=evil,
        data=evil,
        seed=evil,
        versions={evil: evil},
        environment={evil: [evil]},
        hyperparameters={evil: evil},
    )
    change(run / "config.json", log={evil: evil}, command=evil, fingerprint=evil)
    change(run / "result.json", warnings=[evil], weighting={evil: evil}, method=evil)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, evil: 2.0}) + "\n" + json.dumps({"step": 2, evil: 3.0}) + "\n")
    page = page_of([run, make_run(tmp_path / "two", evil.replace("/", ""))], tmp_path)
    names = {tag for tag, _ in page.tags}
    assert "script" not in names and len(page.all("img")) == 2
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "alert(1)" in page.words() and "{{ 7 * 7 }}" in page.words()


# --- what is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("result.json", "training has not finished (the last logged update is 400 of 400)"),
        ("config.json", "config.json is missing"),
        ("metrics.jsonl", "there are no learning curves"),
    ],
)
def test_a_missing_piece_is_said(runs, tmp_path, filmed, lost, said):
    (runs[0] / lost).unlink()
    words = page_of(runs, tmp_path).words()
    assert "What is missing" in words and said in words and "TD3+BC" in words


def test_a_run_that_has_just_begun(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("result.json", "metrics.jsonl"):
        (run / name).unlink()
    (run / "policy" / "policy.json").write_text("{}")
    words = page_of([run], tmp_path).words()
    assert "no update has been logged yet" in words and "No episode could be played" in words


def test_a_killed_runs_last_line_is_left_out_in_silence(runs, tmp_path):
    path = runs[0] / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 500, "critic_l')
    arm = read_arms(runs)[0]
    assert arm.problems == [] and arm.series["critic_loss"].steps.tolist() == [100, 200, 300, 400]


def test_damaged_files_are_said(runs, tmp_path, filmed):
    (runs[0] / "result.json").write_text("{")
    (runs[0] / "metrics.jsonl").write_text('nonsense\n[1]\n{"step": 5, "loss": [1.0, null, NaN]}\n{"step": 6, "loss": "x"}\n')
    words = page_of(runs, tmp_path).words()
    assert "result.json cannot be read" in words and "3 lines of metrics.jsonl cannot be read" in words


def test_a_step_logged_twice_counts_once_and_last(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 4, "loss": 3.0}\n')
    series = read_arms([run])[0].series["loss"]
    assert series.steps.tolist() == [2, 4] and series.values.tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize(
    "junk", [{"last": {"returns": "x"}}, {"last": {"returns": [[1.0], [2.0, 3.0]]}}, {"last": [], "best": 3, "seeds": "many"}]
)
def test_odd_results_are_survived(tmp_path, filmed, junk):
    run = make_run(tmp_path / "run")
    change(run / "result.json", **junk)
    assert "no final returns" in page_of([run], tmp_path).words()


def test_where_nothing_can_be_rendered_the_episode_is_drawn(runs, tmp_path, monkeypatch):
    def cannot(episode, **_):
        raise EnvError("Pendulum-v1 could not be drawn here (no screen).")

    monkeypatch.setattr(episodes, "film", cannot)
    page = page_of(runs[:1], tmp_path)
    assert "could not be drawn here (no screen)" in page.words() and not page.all("img")
    assert any("saw and did" in attrs.get("aria-label", "") for attrs in page.all("svg"))


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run folder"):
        report_for_runs([tmp_path], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="no run"):
        report_for_runs([], tmp_path / "report.html")


def test_nothing_is_left_behind_when_it_fails(runs, tmp_path, filmed, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(report, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_for_runs(runs, tmp_path / "out" / "report.html")
    assert list((tmp_path / "out").iterdir()) == []
