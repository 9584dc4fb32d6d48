"""Certificates at single inputs: read as they were written, set side by side, and in the place of returns where the run is a classifier."""

import json

import pytest

from surefoot.errors import ConfigError
from surefoot.evaluation.report import render, report_for_runs
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.at_inputs import at_inputs, certified_at_inputs, inputs_said, read_at_inputs
from surefoot.evaluation.reporting.card import verdicts
from surefoot.evaluation.reporting.evidence import unread
from surefoot.evaluation.reporting.weighing import Tolerance

SHARES = [0.9, 0.8, 0.6, 0.2]


def evidence(**changes):
    """`certified-inputs.json` as `surefoot certify` writes it, but for the inputs one by one."""
    found = {"policy": "run", "command": "surefoot certify run", "kind": "certified-inputs"}
    found |= {"held_out": True, "inputs": "run/held_out.npz", "labelled": True, "n": 50, "abstained": 2}
    found |= {"sigma": 0.25, "alpha": 0.05, "samples": 10_000, "maps": "all"}
    return found | {"average_radius": 0.3, "radii": [0.0, 0.125, 0.25, 0.5], "certified": SHARES} | changes


def write_run(folder, sigma=0.25, certified=True, **files):
    """The run folder of a classifier, with metrics of both stages."""
    (folder / "evidence").mkdir(parents=True)
    (folder / "pretraining").mkdir()
    config = {
        "method": "rrcm",
        "env": None,
        "data": "/home/somebody/digits.npz",
        "noise": sigma,
        "steps": 30,
        "seeds": 1,
        "max_steps": None,
    }
    (folder / "config.json").write_text(json.dumps(config | {"fingerprint": "5463891bffe5b33f" * 4}))
    own = {"images": 100, "samples": 1000, "alpha": 0.001, "abstained": 3, "average_radius": 0.25, "seconds_each": 0.1}
    own |= {"radii": [0.0, 0.5 * sigma, sigma], "accuracy": [0.95, 0.7, 0.4]}
    result = {"method": "rrcm", "env": None, "steps": 30, "seeds": 1, "wall_s": 3.0, "last": None, "best": None, "sigma": sigma}
    (folder / "result.json").write_text(json.dumps(result | {"certified": own if certified else None}))
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "loss": 1.0}\n')
    (folder / "pretraining" / "metrics.jsonl").write_text('{"step": 10, "loss": 9.0}\n{"step": 20, "loss": 8.0}\n')
    for stem, data in files.items():
        (folder / "evidence" / f"{stem.replace('_', '-')}.json").write_text(json.dumps(data))
    return folder


def arm_of(folder, **settings):
    return read_arms([write_run(folder, **settings)])[0]


# --- reading --------------------------------------------------------------------------------------------------------


def test_what_training_certified(tmp_path):
    (found,) = at_inputs([arm_of(tmp_path / "run")])
    assert (found.name, found.inputs, found.n, found.samples) == ("rRCM with noise 0.25", "held-out images of digits.npz", 100, 1000)
    assert found.certified.tolist() == [0.95, 0.7, 0.4] and found.abstained == 0.03 and found.confidence == pytest.approx(0.999)
    assert found.telling == (0.125, 0.7)  # the largest radius that half of the images bear


def test_what_was_certified_later_with_more_copies_takes_its_place(tmp_path):
    (found,) = at_inputs([arm_of(tmp_path / "run", certified_inputs=evidence())])
    assert found.samples == 10_000 and found.certified.tolist() == SHARES


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"samples": 500}, "rRCM with noise 0.25"),
        ({"held_out": False, "inputs": "/home/somebody/mine.npz"}, "rRCM with noise 0.25"),
        ({"sigma": 0.5}, "rRCM with noise 0.25, certified with noise 0.5"),
    ],
)
def test_what_is_about_something_else_stands_beside_it(tmp_path, changes, name):
    first, second = at_inputs([arm_of(tmp_path / "run", certified_inputs=evidence(**changes))])
    assert first.samples == 1000 and second.name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"radii": [0.0]},
        {"radii": [0.2, 0.1, 0.3, 0.4]},
        {"certified": [2.0] * 4},
        {"n": 0},
        {"maps": "new"},
        {"inputs": 3, "held_out": False},
    ]
    + [{name: None} for name in ("radii", "certified", "sigma", "alpha", "samples", "abstained", "average_radius")],
)
def test_a_file_of_another_form_is_passed_over_and_named(tmp_path, changes):
    arm = arm_of(tmp_path / "run", certified_inputs=evidence(**changes))
    assert read_at_inputs(arm, "certified-inputs", arm.evidence["certified-inputs"]) is None and len(at_inputs([arm])) == 1
    assert unread(arm) == ["evidence/certified-inputs.json is of another form than this version writes, and was left out."]


@pytest.mark.parametrize("certified", [{}, {"images": 0}, [], "x"])
def test_a_damaged_result_is_survived(tmp_path, certified):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"certified": certified}))
    assert at_inputs(read_arms([folder])) == []


# --- section --------------------------------------------------------------------------------------------------------


def test_noise_levels_share_a_chart_and_have_tables_of_their_own(tmp_path):
    arms = read_arms([write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "c", sigma=0.5)])
    section = certified_at_inputs(arms)
    (figure,) = section["figures"]
    assert figure.title == "Certified accuracy: held-out images of digits.npz" and len(figure.legend) == 3
    assert "rRCM with noise 0.5 95\u00a0% at radius 0, 70\u00a0% at radius 0.25 and 40\u00a0% at radius 0.5" in figure.drawing
    first, second = section["tables"]
    assert [column.name for column in first.columns[1:]] == ["rRCM with noise 0.25 (a)", "rRCM with noise 0.25 (b)"]
    assert first.rows[1] == ["0.125", "70\u00a0%", "70\u00a0%"] and second.rows[1] == ["0.25", "70\u00a0%"]
    assert ["certified by", "votes (Cohen et al. 2019)"] in second.rows and ["inputs", "100"] in second.rows


def test_between_radii_the_chart_shows_what_is_certain(tmp_path, monkeypatch):
    from surefoot.evaluation.reporting import figures

    seen = []
    monkeypatch.setattr(figures, "svg", lambda figure, alt: seen.append(figure.axes[0].lines[0]) or "")
    certified_at_inputs([arm_of(tmp_path / "run")])
    assert seen[0].get_drawstyle() == "steps-pre"  # left of a radius its own share holds, which is the smaller one


def test_choices_without_known_classes_are_not_called_right(arm):
    policy = arm({"certified-inputs@1": evidence(held_out=False, labelled=False, inputs="logs/mine.npz")}, name="dqn")
    (figure,) = certified_at_inputs([policy])["figures"]
    assert figure.title == "Certified choices: mine.npz" and "right" not in figure.caption
    (said,) = inputs_said([policy])
    assert said.startswith(
        "<b>DQN (seed 2), certified with noise 0.25</b> is sure of its answer on <b>90\u00a0%</b> of 50 inputs of mine.npz"
    )
    assert unread(policy) == []


# --- page -----------------------------------------------------------------------------------------------------------


def test_the_report_of_a_classifier_is_about_what_is_certified(tmp_path):
    page = render(read_arms([write_run(tmp_path / "run", certified_inputs=evidence())]))
    for words in (
        "1 run, certified at inputs.",
        "is right on <b>90\u00a0%</b> of 50 held-out images of digits.npz, and on <b>60\u00a0%</b> under any change of at most 0.25 (l2;",
        "Certified accuracy: held-out images",
        "Pretraining / loss",
        "surefoot certify run",
        "All settings",
        "Mean radius",
    ):
        assert words in page
    for words in (
        "eturn",
        "surefoot attack",
        "Robustness card",
        "What is missing",
        "One episode",
        "somebody",
        'href="#card"',
        'href="#summary"',
    ):
        assert words not in page.split("<body>")[1]
    assert verdicts(read_arms([tmp_path / "run"]), Tolerance()) == []


def test_beside_an_agent_each_has_its_own_part(tmp_path, made):
    agent = made.write_run(tmp_path / "agent", {"attack-pgd": made.attack("pgd", (480.0, 440.0, 190.0))}, env="CartPole-v1")
    page = render(read_arms([agent, write_run(tmp_path / "run")]))
    assert "2 runs, judged in CartPole-v1, at most 500 steps and certified at inputs." in page
    assert "Robustness card: DQN" in page and "Policies compared" not in page and "<h3>Classifiers</h3>" in page


@pytest.mark.parametrize(
    ("lost", "certified", "said"),
    [
        (None, False, "nothing is certified: run <code>surefoot certify run</code>."),
        ("result.json", True, "training has not finished (the last logged update is 30 of 30): nothing is certified yet."),
    ],
)
def test_what_is_not_certified_is_said(tmp_path, lost, certified, said):
    folder = write_run(tmp_path / "run", certified=certified)
    if lost:
        (folder / lost).unlink()
    page = render(read_arms([folder]))
    assert said in page and "from the log alone" not in page and "Certified at inputs" not in page


def test_a_classifier_has_no_robustness_card(tmp_path, made):
    folders = [made.write_run(tmp_path / "agent", {}), write_run(tmp_path / "run")]
    with pytest.raises(ConfigError, match=r"run is the run of a classifier: a robustness card is about a policy's returns"):
        report_for_runs(folders, tmp_path / "card.html", card=True)
    assert not (tmp_path / "card.html").exists()


def test_hostile_names_are_only_text(tmp_path):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>.npz"
    folder = write_run(tmp_path / "run", certified_inputs=evidence(held_out=False, inputs=evil))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data": evil}))
    page = render(read_arms([folder]))
    assert "<script" not in page and "<img" not in page
