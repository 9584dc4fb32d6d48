"""A run folder: made, found again, logged to, rewound; one process at a time."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from surefoot.errors import CheckpointError
from surefoot.training.run import Run


def rows(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def scalars(run):
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_records_settings_versions_and_machine(tmp_path):
    run = Run.create(tmp_path / "deep" / "run", {"method": "bc", "steps": 3})
    config = json.loads((run.folder / "config.json").read_text())
    assert config["method"] == "bc"
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or config["versions"]["torch"] == torch.__version__
    assert config["environment"]["threads"] == torch.get_num_threads()
    again = Run.open(run.folder)
    assert again.config == run.config == config
    assert again.drift() == []
    again.config["versions"]["torch"] = "1.0"
    assert again.drift() == [f"torch 1.0, now {config['versions']['torch']}"]
    again.configure(steps=5)
    assert Run.open(run.folder).config["steps"] == 5


def test_folders_that_are_not_free_or_no_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {})
    with pytest.raises(CheckpointError, match=r"exists and is not empty.*--out.*--resume"):
        Run.create(tmp_path / "empty", {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("do not touch")
    with pytest.raises(CheckpointError, match="mine exists and is not empty") as caught:
        Run.create(tmp_path / "mine", {})
    assert "--resume" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be written"):
        Run.create(tmp_path / "mine" / "thesis" / "run", {})
    for folder in ("mine", "nowhere", "mine/thesis"):
        with pytest.raises(CheckpointError, match=f"{folder} is not a run"):
            Run.open(tmp_path / folder)
    (tmp_path / "empty" / "config.json").write_text('{"method": ')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Run.open(tmp_path / "empty")


def test_metrics_go_to_jsonl_and_tensorboard(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run.log(1, {"loss": 0.5, "q": [1.0, 3.0], "alone": [7.0]})
    run.log(2, {"loss": 0.25, "q": [2.0, 4.0], "alone": [8.0]})
    run.close()
    assert rows(run) == [
        {"step": 1, "loss": 0.5, "q": [1.0, 3.0], "alone": 7.0},
        {"step": 2, "loss": 0.25, "q": [2.0, 4.0], "alone": 8.0},
    ]
    assert scalars(run) == {
        "loss": [(1, 0.5), (2, 0.25)],
        "alone": [(1, 7.0), (2, 8.0)],
        "q/member_0": [(1, 1.0), (2, 2.0)],
        "q/member_1": [(1, 3.0), (2, 4.0)],
        "q/mean": [(1, 2.0), (2, 3.0)],
    }


def test_rewinding_drops_later_rows_cut_off_lines_and_leftovers(tmp_path):
    run = Run.create(tmp_path / "run", {})
    for step in range(1, 6):
        run.log(step, {"loss": float(step)})
    run.close()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed in the middle of a line
    (run.folder / ".checkpoint-abc").mkdir()
    (run.folder / ".result-abc.json").write_text("{")
    again = Run.open(run.folder)
    again.rewind(3)
    again.log(4, {"loss": 40.0})
    again.close()
    assert [row["loss"] for row in rows(again)] == [1.0, 2.0, 3.0, 40.0]
    assert scalars(again)["loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]  # TensorBoard forgets steps 4 and 5 too
    assert sorted(p.name for p in run.folder.iterdir()) == [".lock", "config.json", "metrics.jsonl", "tensorboard"]


def test_save_and_load(tmp_path):
    run = Run.create(tmp_path / "run", {})
    assert run.load() is None
    for step in (1, 2, 3):
        run.save(step, {"x": torch.full((2,), float(step))})
    again = Run.open(run.folder)
    assert torch.equal(again.load()["x"], torch.full((2,), 3.0))
    assert again.saved_step == 3
    assert again.seconds >= 0.0
    (run.folder / "checkpoint" / "state.json").write_text("{")
    again = Run.open(run.folder)
    assert torch.equal(again.load()["x"], torch.full((2,), 2.0))
    assert again.saved_step == 2
    assert sorted(p.name for p in run.folder.glob("checkpoint*")) == ["checkpoint"]  # the damaged one cannot push out the whole one
    again.save(3, {"x": torch.zeros(1)})
    shutil.rmtree(run.folder / "checkpoint")  # a kill between two renames
    assert torch.equal(Run.open(run.folder).load()["x"], torch.full((2,), 2.0))


def test_the_time_spent_goes_on_over_processes(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run._seconds = 1000.0
    run.save(1, {})
    again = Run.open(run.folder)
    again.load()
    assert 1000.0 <= again.seconds < 1100.0


def test_results_are_written_whole_and_a_damaged_one_does_not_count(tmp_path):
    run = Run.create(tmp_path / "run", {})
    assert run.finished() is None
    run.result({"steps": 3})
    assert run.finished() == {"steps": 3}
    (run.folder / "result.json").write_text('{"steps"')
    assert run.finished() is None


def test_how_to_go_on_depends_on_who_began(tmp_path):
    assert "surefoot train --resume" in Run.create(tmp_path / "a", {"command": "surefoot train bc"}).continued_by
    assert "run=Run.open(" in Run.create(tmp_path / "b", {}).continued_by


def test_two_processes_do_not_train_one_run(tmp_path):
    run = Run.create(tmp_path / "run", {})
    code = f"from surefoot.training.run import Run\nRun.open({str(run.folder)!r}).load()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "is being trained by another process" in done.stderr
    Run.open(run.folder).load()  # the same process may
    holder = (
        f"import os, signal\nfrom surefoot.training.run import Run\nRun.create({str(tmp_path / 'other')!r}, {{}})\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", holder], capture_output=True).returncode == -9
    assert Run.open(tmp_path / "other").load() is None  # whoever is killed holds nothing
