"""`surefoot bandit`: tables on stderr, JSON alone on stdout, a log that is written and read again, misuse in a sentence."""

import json

import numpy as np
import pandas as pd
import pytest

from surefoot.cli import main
from surefoot.cli.bandit_policies import Loop, Remembering, explorer, interval
from surefoot.data.bandit_files import read_bandit_log
from surefoot.evaluation.statistics import Interval
from surefoot.methods.exact.regression_oracles import LinearRidge

QUICK = ("--oracle", "ridge", "--seeds", "2", "--generations", "2", "--batch", "400")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["bandit", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def payments(n=1200, seed=0) -> pd.DataFrame:
    """Payments as a company might log them: a text column, two acquirers of which one is better for large amounts."""
    rng = np.random.default_rng(seed)
    amount, country = rng.lognormal(3, 1, n), rng.choice(["NL", "DE", "FR"], n)
    large = amount > np.exp(3)
    route = np.where(rng.random(n) < np.where(large, 0.7, 0.4), "north", "south")
    good = rng.random(n) < np.where((route == "north") == large, 0.9, 0.5)
    p = np.where((route == "north") == large, np.where(large, 0.7, 0.6), np.where(large, 0.3, 0.4))
    when = pd.date_range("2026-03-01", periods=n, freq="10min")
    return pd.DataFrame({"amount": amount, "country": country, "acquirer": route, "authorised": good, "p": p, "timestamp": when})


COLUMNS = ("--action", "acquirer", "--reward", "authorised", "--propensity", "p")


@pytest.fixture
def log():
    table = payments()
    table.to_parquet("payments.parquet")
    return table


# --- simulate -------------------------------------------------------------------------------------------------------


def test_simulate_prints_tables_and_writes_the_log(capsys):
    code, out, err = call(capsys, "simulate", *QUICK, "--policies", "uniform", "igw:200", "--out", "log.parquet")
    assert (code, out) == (0, "")
    for words in ("uniform: generation by generation, mean of 2 seeds", "igw:200", "more than uniform", "payments: 2 deployments of 400"):
        assert words in err
    assert "1,200 decisions of igw:200, seed 0 → log.parquet" in err
    log = read_bandit_log("log.parquet")
    assert len(log) == 1200
    assert log.generation.tolist() == np.repeat([0, 1, 2], 400).tolist()
    assert log.propensity is not None
    assert not log.available.all()


def test_simulate_json_is_all_there_is_on_stdout(capsys):
    code, out, _ = call(capsys, "simulate", *QUICK, "--policies", "uniform", "igw", "--json")
    result = json.loads(out)
    uniform, igw = result["comparison"]
    assert code == 0
    assert uniform["more"] is None
    assert igw["more"]["difference"] == pytest.approx(igw["earned"]["value"] - uniform["earned"]["value"])
    assert igw["more"]["difference"] > 0.03  # exploiting earns more than choosing at random
    assert len(result["generations"]["igw"]) == 2
    assert [row["generation"] for row in result["generations"]["igw"][0]] == [0, 1, 2]
    assert json.loads(call(capsys, "simulate", *QUICK, "--policies", "uniform", "igw", "--json")[1]) == result  # one seed, one result


def test_simulate_classes_as_actions_with_delay_and_equal_exploration(capsys):
    arguments = ("--world", "iris", "--availability", "1", "--delay", "1", "--window", "0", "--mass", "0.1", "--seeds", "1")
    out = call(capsys, "simulate", *QUICK[:2], *arguments, "--batch", "60", "--policies", "epsilon-greedy", "igw", "greedy", "--json")[1]
    generations = json.loads(out)["generations"]
    assert [row["learned"] for row in generations["igw"][0]] == [0, 0, 60, 120]
    for name in ("epsilon-greedy", "igw"):
        assert generations[name][0][-1]["non_greedy"] == pytest.approx(0.1, abs=1e-6)
    assert generations["greedy"][0][-1]["non_greedy"] == 0.0


# --- replay ---------------------------------------------------------------------------------------------------------


def test_replay_of_a_table_of_ones_own(capsys, log):
    code, out, err = call(capsys, "replay", "payments.parquet", *COLUMNS, "--oracle", "ridge", "--clip", "5", "--json")
    result = json.loads(out)
    assert code == 0
    for words in ("'country' holds text", "each day in column 'timestamp' became a generation, 9 of them", "clipped DR", "effective rows"):
        assert words in err
    assert "were fitted" not in err
    assert (result["propensities"], result["actions"], result["rows"]) == ("logged", ["north", "south"], 1200)
    assert result["judged"] == 1200 - 144  # the first day trains the first model
    assert result["features"] == ["amount", "country=DE", "country=FR", "country=NL"]
    found = result["policies"]
    assert set(found) == {"uniform", "epsilon-greedy", "igw", "greedy"}
    for row in found.values():
        assert set(row["values"]) == {"ips", "snips", "dm", "dr", "clipped ips", "clipped snips", "clipped dr"}
        assert row["logged"]["value"] == pytest.approx(log.authorised[144:].mean())
        assert row["gains"]["dr"]["value"] == pytest.approx(row["values"]["dr"]["value"] - row["logged"]["value"])
        assert len(row["generations"]) == 8
    truth = 0.7  # of the uniform policy: the right route for half, by construction
    assert found["uniform"]["values"]["dr"]["low"] < truth < found["uniform"]["values"]["dr"]["high"]
    assert found["greedy"]["values"]["dr"]["value"] > found["uniform"]["values"]["dr"]["value"]


def test_replay_fits_propensities_that_were_not_logged_and_says_so(capsys, log):
    log.drop(columns="p").to_csv("payments.csv", index=False)
    arguments = (*COLUMNS[:4], "--oracle", "ridge", "--features", "amount", "--policies", "uniform", "--json")
    code, out, err = call(capsys, "replay", "payments.csv", *arguments)
    result = json.loads(out)
    assert code == 0
    assert "the propensities of payments.csv were fitted" in err
    assert result["propensities"]["log_loss"] <= result["propensities"]["uniform_log_loss"]
    assert result["features"] == ["amount"]
    fitted = result["policies"]["uniform"]["values"]["snips"]
    arguments = (*COLUMNS, *arguments[4:])
    logged = json.loads(call(capsys, "replay", "payments.parquet", *arguments)[1])["policies"]["uniform"]["values"]["snips"]
    assert fitted["value"] == pytest.approx(logged["value"], abs=0.03)
    again = json.loads(call(capsys, "replay", "payments.parquet", *arguments, "--fit-propensities")[1])
    assert again["policies"]["uniform"]["values"]["snips"] == fitted  # logged ones were put aside


def test_replay_warns_where_the_log_cannot_tell(capsys, log):
    log.assign(p=1.0).to_parquet("sure.parquet")
    code, _, err = call(capsys, "replay", "sure.parquet", *COLUMNS, "--oracle", "ridge", "--policies", "uniform")
    assert code == 0
    assert "note: uniform: the logger never chose at random" in err


def test_replay_cuts_a_log_without_batches(capsys, log):
    arguments = (*COLUMNS, "--oracle", "ridge", "--policies", "uniform", "--json")
    log.drop(columns="timestamp").to_parquet("plain.parquet")
    _, out, err = call(capsys, "replay", "plain.parquet", *arguments)
    assert "cut into batches of 120" in err
    assert json.loads(out)["generations"] == 10
    assert json.loads(call(capsys, "replay", "plain.parquet", *arguments, "--batch", 600)[1])["generations"] == 2
    log.sample(frac=1.0, random_state=0).to_parquet("mixed.parquet")
    code, out, err = call(capsys, "replay", "mixed.parquet", *arguments)
    assert (code, out) == (2, "")
    assert "rows must stand in the order they were logged" in err
    assert json.loads(call(capsys, "replay", "mixed.parquet", *arguments, "--sort")[1])["generations"] == 9


def test_what_simulate_writes_replay_reads(capsys):
    """The truth is known: what a fixed policy earns in the world lies in the interval that the log alone gives."""
    call(capsys, "simulate", "--oracle", "ridge", "--policies", "epsilon-greedy:0.5", "--seeds", "1", "--out", "log.npz")
    arguments = ("--oracle", "ridge", "--policies", "uniform", "epsilon-greedy:0.5", "--window", "1", "--json")
    result = json.loads(call(capsys, "replay", "log.npz", *arguments)[1])["policies"]
    same = result["epsilon-greedy:0.5"]  # retrained on the same windows, it is the logger itself
    assert same["values"]["ips"]["value"] == pytest.approx(same["logged"]["value"], abs=1e-9)
    assert same["overlap"]["ess_share"] == pytest.approx(1.0)
    assert result["uniform"]["gains"]["dr"]["high"] < 0.0


# --- the parts ------------------------------------------------------------------------------------------------------


def test_policies_by_name_and_number():
    options = Loop(epsilon=0.2, mass=0.3, floor=0.05)
    assert (explorer("epsilon-greedy", options).epsilon, explorer("epsilon-greedy", options).mass) == (0.2, 0.3)
    assert (explorer("epsilon-greedy:0.4", options).epsilon, explorer("epsilon-greedy:0.4", options).mass) == (0.4, None)
    assert explorer("igw:500", options).gamma == 500.0
    assert explorer("softmax:0.01", options).tau == 0.01
    assert explorer("greedy", options).mass is None
    assert explorer("uniform", options).floor == 0.05


def test_an_oracle_does_not_learn_the_same_rows_twice():
    fits = []

    class Counting(LinearRidge):
        def fit(self, *arguments, **options):
            fits.append(1)
            return super().fit(*arguments, **options)

    rng = np.random.default_rng(0)
    remembering = Remembering(Counting())
    x, a, r = rng.normal(size=(50, 2)), rng.integers(0, 2, 50), rng.random(50)
    first = remembering.fit(x, a, r, n_actions=2)
    assert remembering.fit(x.copy(), a, r, n_actions=2) is first
    assert remembering.fit(x, a, 1 - r, n_actions=2) is not first
    assert remembering.fit(x, a, r, n_actions=2, seed=1) is not first
    assert len(fits) == 3


def test_intervals_as_words():
    assert interval(Interval(0.5, 0.25, 0.75)) == r"0.500 \[0.250, 0.750]"
    assert interval(Interval(0.5, -np.inf, np.inf)) == "0.5"
    assert interval(Interval(12345.6, 12000.0, 12700.0)) == r"12346 \[12000, 12700]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("repay", "x.csv"), "unknown bandit command 'repay': did you mean 'replay'"),
        (("replay",), "needs a log, one row a decision"),
        (("replay", "nowhere.csv"), "there is no file or folder nowhere.csv"),
        (("replay", "payments.parquet"), r"no column is called 'action'; it holds amount, country, acquirer"),
        (("replay", "payments.parquet", "--action", "aquirer"), "no column 'aquirer': did you mean 'acquirer'?"),
        (("replay", "payments.parquet", *COLUMNS, "--features", "amount,authorised"), "'authorised', which is the log's reward"),
        (("replay", "payments.parquet", *COLUMNS, "--actions", "north,west"), "is south in row"),
        (("replay", "payments.parquet", *COLUMNS, "--batch", "1200"), "retraining with delay 0 needs at least 2"),
        (("replay", "payments.parquet", *COLUMNS, "--clip", "0"), "clip is 0.0"),
        (("replay", "payments.parquet", *COLUMNS, "--folds", "1", "--oracle", "ridge"), "cannot be split into 1 folds"),
        (("simulate", "--policies", "igv"), "unknown exploration policy 'igv': did you mean 'igw'"),
        (("simulate", "--policies", "greedy:3"), "'greedy:3' gives the greedy policy a number"),
        (("simulate", "--policies", "igw:much"), "'igw:much' should be igw:NUMBER, its gamma"),
        (("simulate", "--policies", "epsilon-greedy:1.5"), "epsilon is 1.5"),
        (("simulate", "--policies"), "--policies is empty"),
        (("simulate", "--oracle", "forest"), "unknown regression oracle 'forest'"),
        (("simulate", "--world", "paymens"), "unknown world 'paymens': did you mean 'payments'"),
        (("simulate", "--seeds", "0"), "--seeds is 0"),
        (("simulate", "--window", "-1"), "--window is -1"),
        (("simulate", "--trees", "0"), "--trees is 0"),
        (("simulate", "--generations", "0"), "generations is 0"),
        (("simulate", "--availability", "2"), "--availability is 2.0"),
        (("simulate", "--out", "log.xlsx"), "log.xlsx is of no kind that bandit logs are written as"),
        (("simulate", "--oracle", "ridge", "--delay", "-1"), "delay is -1"),
    ],
)
def test_misuse_is_a_sentence(capsys, log, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_help(capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert "simulate" in out and "replay" in out
    with pytest.raises(SystemExit) as stopped:
        main(["bandit", "replay", "--help"])
    assert stopped.value.code == 0
    assert "--fit-propensities" in capsys.readouterr().out
