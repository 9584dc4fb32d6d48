"""The commands behind a card."""

import json

import pytest

from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.commands import command, measure, sources, written
from surefoot.evaluation.reporting.dossier import dossiers


@pytest.mark.parametrize(
    ("stem", "settings", "verb", "line"),
    [
        ("stress", {}, "certify", "surefoot certify run --sigma 0.1"),
        ("stress", {"noise": 0.2}, "certify", "surefoot certify run"),
        ("attack-q", {"noise": 0.2}, "certify", "surefoot certify run"),
        ("stress-best@1", {}, "diagnose", "surefoot diagnose run:best@1"),
        ("stress", {}, "attack", "surefoot attack run --kind pgd --norm linf --budgets 0 0.05 0.1 0.2"),
    ],
)
def test_commands_name_the_policy(arm, made, stem, settings, verb, line):
    evidence = made.stress() if stem.startswith("stress") else made.attack("q", (480.0, 450.0, 400.0), norm="total", sigma=0.2)
    assert command(dossiers([arm({stem: evidence}, **settings)])[0], verb) == line


def test_what_acts_without_noise_says_so_on_the_card_of_a_policy_with_noise(arm, made):
    (found,) = dossiers([arm({"certificate": made.certificate((470.0, 430.0, 310.0))}, noise=0.2)])
    said = "not measured (it acts without noise, on a card of its own): run <code>surefoot diagnose run</code>"
    assert measure(found, "diagnose") == said
    assert measure(found, "stress") == "not measured: run <code>surefoot stress run</code>"


# --- where the numbers are from -------------------------------------------------------------------------------------


def test_every_file_that_counts_has_its_command(arm, made):
    (found,) = dossiers([arm(made.everything())])
    by_file = {file: line for files, line in sources(found) for file in files.split(", ")}
    assert set(by_file) == {"result", *made.everything()}
    for stem, data in made.everything().items():
        assert by_file[stem] == data["command"]
    assert by_file["result"] == "the command is not in the file"


def test_the_clean_return_is_from_the_run_or_from_beside_an_attack(tmp_path, made):
    run = made.write_run(tmp_path / "run", {"attack-pgd": made.attack("pgd", (480.0, 470.0, 460.0))})
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"command": "surefoot train dqn --out /home/me/runs/dqn"}))
    (found,) = dossiers(read_arms([run]))
    assert ("result", "surefoot train dqn --out …/dqn") in sources(found)
    (run / "result.json").unlink()
    (found,) = dossiers(read_arms([run]))
    assert found.clean.file == "evidence/attack-pgd.json" and [files for files, _ in sources(found)] == ["attack-pgd"]


def test_a_suite_is_one_command(arm, made):
    line = "surefoot attack run --kind suite"
    evidence = {f"attack-{k}": made.attack(k, (480.0, 470.0, 460.0), command=line) for k in "abcdefgh"}
    (found,) = dossiers([arm(evidence)])
    assert (f"{', '.join(f'attack-{k}' for k in 'abcde')}, 3 more", line) in sources(found)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, ""),
        ("surefoot train dqn", "surefoot train dqn"),
        (["surefoot", "train", "/home/me/x y.npz"], "surefoot train …/x y.npz"),
        ("surefoot --data 'unclosed", "surefoot --data 'unclosed"),
    ],
)
def test_a_command_line_names_no_folder_of_the_machine(found, line):
    assert written(found) == line
