"""`surefoot reproduce`: exit codes, the result file, misuse."""

import json

import numpy as np
import pytest

import surefoot.claims
from surefoot.claims import base
from surefoot.claims.results import discrepancies, read_result
from surefoot.cli import main
from surefoot.errors import DataError


def toy(gap: float) -> base.Claim:
    def run(context: base.Context) -> base.Scores:
        rng = [np.random.default_rng(base.derived(seed, "data")) for seed in context.seeds]
        context.facts["fingerprint"] = "none"
        context.say("running")
        return {"A": {arm: context.arm([r.normal(loc) for r in rng]) for arm, loc in (("new", gap), ("old", 0.0))}}

    def checks(scores: base.Scores) -> list[base.Check]:
        return [base.difference(scores, "A", "new", "old", name="a", statement="new beats old", threshold=1.0)]

    scales = {"small": "a toy", "full": "a big toy"}
    return base.Claim("toy", "Toy", "new beats old", 5, {"new": "new", "old": "old"}, {"A": "score"}, scales, run, checks)


@pytest.fixture
def claim(monkeypatch):
    def use(gap):
        monkeypatch.setattr(surefoot.claims, "claim", lambda slug: toy(gap))
        return toy(gap)

    return use


def test_a_claim_that_holds(claim, tmp_path, capsys):
    used = claim(20.0)
    assert main(["reproduce", "toy", "--out", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    result = read_result(tmp_path / "toy.json")
    assert json.loads(shown.out) == result and "holds" in shown.err
    assert result["holds"] and result["command"] == f"surefoot reproduce toy --out {tmp_path} --json"
    assert result["seeds"] == [0, 1, 2, 3, 4] and result["facts"] == {"fingerprint": "none"} and not result["notes"]
    assert result["versions"]["torch"] and result["machine"]["cores"]
    assert discrepancies(result, used) == []
    assert [p.name for p in tmp_path.iterdir()] == ["toy.json"]


def test_a_claim_that_does_not(claim, tmp_path):
    claim(0.0)
    assert main(["reproduce", "toy", "--out", str(tmp_path)]) == 3
    assert not read_result(tmp_path / "toy.json")["holds"]


def test_fewer_seeds_are_noted_and_offsets_shift(claim, tmp_path):
    claim(20.0)
    assert main(["reproduce", "toy", "--seeds", "3", "--seed-offset", "40", "--out", str(tmp_path)]) == 0
    result = read_result(tmp_path / "toy.json")
    assert list(result["scores"]["A"]["new"]) == ["40", "41", "42"]
    assert "3 of the claim's 5 seeds" in result["notes"][0]


def test_the_default_folder_is_not_results(claim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim(20.0)
    assert main(["reproduce", "toy", "--scale", "full"]) == 0
    assert (tmp_path / "runs" / "reproduce" / "toy.full.json").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a2prr"], "did you mean 'a2pr'"),
        (["beso"], "beso is planned, not yet implemented"),
        (["iql"], "baseline"),
    ],
)
def test_misuse_exits_2_with_a_sentence(argv, sentence, capsys):
    assert main(["reproduce", *argv]) == 2
    assert sentence in capsys.readouterr().err


def test_numbers_out_of_range_and_unwritable_folders(claim, tmp_path, capsys):
    claim(20.0)
    assert main(["reproduce", "toy", "--seeds", "0"]) == 2
    assert main(["reproduce", "toy", "--seed-offset", "-1", "--out", str(tmp_path)]) == 2
    (tmp_path / "file").write_text("")
    assert main(["reproduce", "toy", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_score_that_is_not_finite_is_no_result(claim, tmp_path, capsys):
    claim(float("nan"))
    assert main(["reproduce", "toy", "--out", str(tmp_path)]) == 2
    assert "scores['A']['new']['0'] is nan" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_forged_result_is_seen(claim, tmp_path):
    used = claim(0.0)
    main(["reproduce", "toy", "--out", str(tmp_path)])
    path = tmp_path / "toy.json"
    result = read_result(path)
    result["checks"][0]["holds"] = result["holds"] = True
    found = discrepancies(result, used)
    assert len(found) == 2 and "check 'a': holds is stored as True" in found[0] and "holds is stored as True" in found[1]
    result["checks"] = []
    assert "are stored, but the scores give" in discrepancies(result, used)[0]


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("{}", "field 'slug' is missing"), ("[]", "field 'slug' is missing")])
def test_a_broken_result_file_is_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "toy.json"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_result(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_result(tmp_path / "none.json")
