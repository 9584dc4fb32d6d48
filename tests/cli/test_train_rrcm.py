"""`surefoot train rrcm`: from images to a certified classifier, stopped and resumed, on folders of pictures, and misuse."""

import json
from shlex import split as words_of

import numpy as np
import pytest
import torch
from PIL import Image

from surefoot.cli import main, train_rrcm
from surefoot.policies.loading import load_policy

torch.set_num_threads(1)

TINY = words_of(
    "--images tiny.npz --held-out 0.5 --certified 4 --samples 200 --checkpoint-every 5 --log-every 1 --no-progress --pretraining.steps 8"
    " --pretraining.batch 16 --pretraining.warmup 2 --pretraining.hidden 8 --pretraining.projection 4 --network.width 8 --network.depth 1"
    " --network.representation 8 --tuning.epochs 2 --tuning.batch 8"
)
VIT = words_of("--network.kind vit --network.heads 2 --network.patch 2 --network.width 8 --augmentation.flip --size 4")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Two classes of 20 images: the one bright above, the other below."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    y = np.arange(40) % 2
    x = np.random.default_rng(0).random((40, 4, 4)) * 0.3
    x[y == 0, :2] += 0.6
    x[y == 1, 2:] += 0.6
    np.savez(tmp_path / "tiny.npz", x=x, y=y)


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["train", "rrcm", *arguments])
    return code, *capsys.readouterr()


def numbers(folder):
    return dict(load_policy(str(folder)).state_dict())


def test_a_run_is_certified_like_any_classifier_and_resumes_bit_for_bit(tmp_path, capsys, monkeypatch):
    code, out, err = call(capsys, *TINY, "--out", "whole", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "whole" / "result.json").read_text())
    assert (result["method"], result["steps"], result["sigma"]) == ("rrcm", 8 + 2 * 3, 0.25)
    found = result["certified"]
    assert found["images"] == 4 and len(found["accuracy"]) == len(found["radii"]) and found["radii"][0] == 0.0
    assert "certify surefoot certify whole\n" in err
    kept = np.load(tmp_path / "whole" / "held_out.npz")
    assert kept["x"].shape == (20, 4, 4) and kept["y"].shape == (20,)
    assert main(words_of("certify whole --samples 300 --limit 5 --json")) == 0
    assert json.loads(capsys.readouterr().out)["classifiers"][0]["n"] == 5
    kept = json.loads((tmp_path / "whole" / "evidence" / "certified-inputs.json").read_text())
    assert (kept["held_out"], kept["sigma"], kept["samples"]) == (True, 0.25, 300)
    assert main(["report", "whole"]) == 0
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "Certified accuracy: held-out images of tiny.npz" in page and "Pretraining / loss" in page and "surefoot attack" not in page

    for name, stage in (("first", "pretraining"), ("second", "")):  # stopped in each stage in turn
        fit, stages = train_rrcm.fit, []

        def stopped(method, source, steps, *, run, stages=stages, fit=fit, last=not stage, **options):
            stages.append(steps)
            if len(stages) == 1 + last:
                fit(method, source, steps // 2, run=run, **options)
                raise KeyboardInterrupt("stopped")
            return fit(method, source, steps, run=run, **options)

        monkeypatch.setattr(train_rrcm, "fit", stopped)
        code, _, err = call(capsys, *TINY, "--out", name)
        assert code == 130 and f"go on with `surefoot train rrcm --resume {name}`" in err
        monkeypatch.setattr(train_rrcm, "fit", fit)
        code, out, err = call(capsys, "--resume", name, "--no-progress", "--json")
        assert code == 0, err
        timed = {"wall_s", "certified"}
        again = json.loads(out)
        assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in result.items() if k not in timed}
        assert again["certified"] | {"seconds_each": 0} == found | {"seconds_each": 0}
        ours, theirs = numbers("whole"), numbers(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
        for part in ("metrics.jsonl", "pretraining/metrics.jsonl"):
            assert (tmp_path / "whole" / part).read_text() == (tmp_path / name / part).read_text()
    assert json.loads(call(capsys, "--resume", "whole", "--json")[1]) == result  # complete: said again


def test_another_noise_level_costs_the_second_stage_alone(tmp_path, capsys):
    assert call(capsys, *TINY, "--out", "first")[0] == 0
    words = words_of("--pretrained first --sigma 0.5 --out second --tuning.epochs 1 --certified 0 --json --no-progress")
    code, out, err = call(capsys, *words)
    assert code == 0, err
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert json.loads(out)["certified"] is None and not (tmp_path / "second" / "pretraining").exists()
    assert config["settings"]["pretraining"]["steps"] == 8 and config["settings"]["tuning"]["strength"] == 2.0
    assert load_policy("second").sigma == 0.5
    ours, theirs = (np.load(tmp_path / name / "held_out.npz")["x"] for name in ("first", "second"))
    assert np.array_equal(ours, theirs)  # what the encoder never saw stays unseen

    for words, match in (
        (("--seed", "3"), "--seed is 3, but first was trained with 0, which is kept: leave --seed out"),
        (("--images", "digits"), "--images is digits, but first was trained with tiny.npz"),
        (("--pretraining.steps", "9"), r"--pretraining.* differ from those of first"),
    ):
        code, _, err = call(capsys, "--pretrained", "first", "--out", "third", *words)
        assert code == 2 and match in " ".join(err.split()) and not (tmp_path / "third").exists()
    np.savez(tmp_path / "tiny.npz", x=np.zeros((40, 4, 4)), y=np.arange(40) % 2)
    for words in (("--pretrained", "first", "--out", "third"), ("--resume", "stopped")):
        if words[0] == "--resume":
            (tmp_path / "second").rename(tmp_path / "stopped")
            (tmp_path / "stopped" / "result.json").unlink()
        code, _, err = call(capsys, *words)
        assert code == 2 and "its fingerprint has changed" in err


@pytest.mark.parametrize("split", [(), ("train", "val")])
def test_folders_of_pictures_and_the_layout_of_imagenet(split, tmp_path, capsys):
    for part in split or ("",):
        for label, name in enumerate(("n01", "n02")):
            for i in range(8):
                path = tmp_path / "pictures" / part / name / f"{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (7 + i, 5), (30 * i, 200 * label, 9)).save(path)  # of many sizes
    words = [*TINY, *VIT, "--images", "pictures", "--pretraining.batch", "4", "--out", "run"]
    code, out, err = call(capsys, *words, "--json")
    assert code == 0, err
    assert load_policy("run").spec.obs_shape == (3, 4, 4)
    assert len(np.load(tmp_path / "run" / "held_out.npz")["y"]) == (16 if split else 8)
    assert json.loads(out)["certified"]["images"] == 4


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--images", "nowhere"], "nowhere is neither 'digits', nor a folder"),
        (["--sigma", "0"], "--sigma is 0.0"),
        (["--alpha", "1"], "--alpha is 1.0"),
        (["--samples", "5"], "--samples is 5: it must be at least 100"),
        (["--device", "cuda"], "no CUDA device"),
        (["--pretraining.temperature", "0"], "temperature is 0.0"),
        (["--augmentation.shift", "4"], "shift is 4: it must be smaller than the 4 pixels"),
        (["--network.kind", "vit", "--network.patch", "3"], "patches of 3 do not tile images of 4 x 4"),
        (["--tuning.layer-decay", "2"], "layer_decay is 2.0"),
        (["--pretrained", "nothing"], "nothing is not a run"),
        (["--resume", "nothing"], "nothing is not a run"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing_behind(words, match, tmp_path, capsys):
    if words == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is one")
    arguments = words if words[0] == "--resume" else [*TINY, *words, "--out", "run"]
    code, _, err = call(capsys, *arguments)
    assert code == 2 and match in " ".join(err.split()) and not (tmp_path / "run").exists()


def test_images_must_be_named_and_of_two_classes(tmp_path, capsys):
    code, _, err = call(capsys)
    assert code == 2 and "no images were named: give --images" in err
    np.savez(tmp_path / "one.npz", x=np.zeros((6, 4, 4)), y=np.zeros(6, int))
    code, _, err = call(capsys, "--images", "one.npz")
    assert code == 2 and "field 'y' holds the one class 0" in err
    (tmp_path / "empty").mkdir()
    code, _, err = call(capsys, "--images", "empty")
    assert code == 2 and "empty has 0 sub-folders" in err


def test_runs_of_other_methods_are_not_resumed(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"method": "sac"}))
    code, _, err = call(capsys, "--resume", "other")
    assert code == 2 and "other is a run of sac, not of rrcm" in err
    (tmp_path / "other" / "config.json").write_text(json.dumps({"method": "rrcm", "options": {}}))
    code, _, err = call(capsys, "--resume", "other")
    assert code == 2 and "does not hold the settings of rrcm" in err


def test_a_pretraining_that_is_not_finished_cannot_be_started_from(tmp_path, capsys, monkeypatch):
    def none(*arguments, **options):
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(train_rrcm, "fit", none)
    assert call(capsys, *TINY, "--out", "first")[0] == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "--pretrained", "first", "--out", "second")
    assert code == 2 and "is at step 0 of 8: finish it first (surefoot train rrcm --resume first)" in err


def test_a_learning_rate_that_blows_up_is_named(capsys):
    code, _, err = call(capsys, *TINY, "--out", "run", "--pretraining.lr", "1e30")
    assert code == 2 and "start again with a smaller learning rate (--pretraining.lr, --tuning.lr)" in " ".join(err.split())
