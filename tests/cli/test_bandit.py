"""`surefoot bandit`: simulate writes a log that replay reads; own columns, fitted propensities, misuse."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from surefoot.cli import main
from surefoot.data.bandit_files import read_bandit_log, write_bandit_log
from surefoot.envs.bandits import Payments
from surefoot.methods.exact.adyen_bandits import simulate
from surefoot.methods.exact.exploration import Explorer
from surefoot.methods.exact.regression_oracles import oracle

QUICK = ("--oracle", "ridge", "--generations", "2", "--batch", "200", "--seeds", "2")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def log(tmp_path):
    run = simulate(Payments.drawn(0), Explorer("epsilon-greedy", epsilon=0.5), oracle("ridge"), 3, 400, holdout=100)
    write_bandit_log(run.log, tmp_path / "log.parquet")
    return run.log


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["bandit", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_simulate_shows_generations_and_compares(capsys, tmp_path):
    code, out, err = call(capsys, "simulate", *QUICK, "--mass", "0.1", "--out", "made.parquet", "--json")
    assert code == 0 and "generation by generation" in err and "more than uniform" in err and "made.parquet" in err
    result = json.loads(out)
    rows = {row["policy"]: row for row in result["comparison"]}
    assert rows["igw"]["earned"]["value"] > rows["uniform"]["earned"]["value"]
    assert len(result["generations"]["igw"]) == 2 and len(result["generations"]["igw"][0]) == 3
    assert result["generations"]["igw"][0][1]["non_greedy"] == pytest.approx(0.1, abs=1e-6)
    made = read_bandit_log(tmp_path / "made.parquet")
    assert len(made) == 600 and made.propensity is not None and made.generation.max() == 2


def test_simulate_on_classes(capsys):
    code, out, _ = call(capsys, "simulate", *QUICK, "--world", "wine", "--policies", "igw", "--seeds", "1", "--json")
    assert code == 0 and json.loads(out)["world"] == "wine"


def test_replay_of_a_log(capsys, log):
    code, out, err = call(capsys, "replay", "log.parquet", "--oracle", "ridge", "--json")
    assert code == 0 and "the logged policy earned" in err and "DR's gain" in err
    result = json.loads(out)
    assert result["propensities"] == "logged" and result["rows"] == 1600
    rows = {row["policy"]: row for row in result["policies"]}
    assert set(rows["igw"]["values"]) == {"ips", "snips", "dm", "dr"} and rows["igw"]["rows"] == 1200
    assert rows["igw"]["gains"]["dr"]["value"] > rows["uniform"]["gains"]["dr"]["value"]


def test_clipped_estimates_take_their_place(capsys, log):
    code, out, err = call(capsys, "replay", "log.parquet", "--oracle", "ridge", "--clip", "1.5", "--policies", "igw", "--json")
    assert code == 0 and "CLIPPED DR" in err
    assert json.loads(out)["policies"][0]["clipped"] > 0.0


def test_own_columns_and_propensities_that_were_not_logged(capsys, log, tmp_path):
    names = np.array(["visa", "amex", "sepa", "ideal", "pix", "klarna"])
    table = {"route": names[log.action].tolist(), "paid": log.reward, "amount": log.context[:, 0], "hour": log.context[:, 1]}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "own.parquet")
    columns = ("--action", "route", "--reward", "paid", "--features", "amount", "hour")
    code, out, err = call(capsys, "replay", "own.parquet", *columns, "--oracle", "ridge", "--policies", "igw", "--batch", "400", "--json")
    assert code == 0 and "holds no propensities: they were fitted" in err
    result = json.loads(out)
    assert result["propensities"]["log_loss"] > 0.0 and sorted(result["actions"]) == sorted(names)
    assert result["features"] == ["amount", "hour"]
    code, _, err = call(capsys, "replay", "own.parquet", *columns, "--oracle", "ridge", "--policies", "igw")
    assert code == 0 and "it is cut into batches of 160" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("replay",), "needs a log"),
        (("replay", "none.parquet"), "none.parquet"),
        (("replay", "log.parquet", "--policies", "thompson"), "unknown exploration policy 'thompson'"),
        (("replay", "log.parquet", "--oracle", "forest"), "unknown regression oracle 'forest'"),
        (("replay", "log.parquet", "--action", "arm"), "arm"),
        (("replay", "log.parquet", "--batch", "5000"), "batch is 5000"),
        (("replay", "log.parquet", "--clip", "-1", "--oracle", "ridge"), "clip is -1"),
        (("replay", "log.parquet", "--window", "-2"), "--window is -2"),
        (("simulate", "--world", "mnist", *QUICK), "unknown world 'mnist'"),
        (("simulate", "--seeds", "0"), "--seeds is 0"),
        (("simulate", "--epsilon", "2"), "epsilon is 2"),
        (("simulate", "--policies", "greedy", "--mass", "0.1", "--generations", "0"), "generations is 0"),
        (("guess",), "unknown command of surefoot bandit 'guess'"),
    ],
)
def test_misuse_is_one_sentence(capsys, log, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err and "Traceback" not in err


def test_help(capsys):
    assert call(capsys, "--help")[0] == 0
