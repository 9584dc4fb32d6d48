"""`surefoot align select`: the R^2 rule as a command, from a file and from a model."""

import json

import pytest

from surefoot.cli.align_select import main
from surefoot.errors import ConfigError, DataError
from surefoot.recipes.programs import make_programs

ROWS = {"a": ((0.2, 0), (1.4, 1), (-0.7, 0), (0.9, 1), (-0.1, 1)), "b": ((2, 1), (0.3, 1), (0.5, 0), (-1.5, 0), (1, 0))}


@pytest.fixture
def samples(tmp_path):
    """The card's table, its prompts mixed."""
    rows = [{"prompt": p, "reward": r, "score": s} for i in range(5) for p in ROWS for r, s in [ROWS[p][i]]]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "programs"
    make_programs(folder, prompts=6, held_out=1, scored=1, pairs=1, steps=40)
    return folder


def test_a_file_of_samples_gives_the_numbers_of_the_card(samples, capsys):
    assert main(["--samples", str(samples), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["chosen"] == "best_worst" and (found["prompts"], found["responses"]) == (2, 10)
    expected = {"all": 0.268817, "best": 0.0, "best_worst": 0.940048, "best_random": 0.438389}
    assert {name: found["r_squared"][name] for name in expected} == pytest.approx(expected, abs=5e-7)
    assert "--strategy best_worst" in err and "0.940" in err


def test_strategies_and_groups_can_be_chosen(samples, capsys):
    assert main(["--samples", str(samples), "--json", "--strategies", "top", "all", "--upper", "0.8", "--groups", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["r_squared"]) == {"top", "all"} and found["groups"] == 2
    assert found["r_squared"]["all"] == pytest.approx(1.0)  # a line through two points
    assert main(["--samples", str(samples), "--json", "--one-rank"]) == 0


def test_a_model_draws_and_what_it_drew_can_be_read_again(world, tmp_path, capsys):
    reward = tmp_path / "reward.py"
    reward.write_text("def short(prompts, completions):\n    return [-float(len(text)) for text in completions]\n")
    tests = {"tests": ["assert True"], "hidden_tests": [f"assert n < {n}" for n in range(4, 80, 3)], "program": "n = len('{completion}')"}
    lines = [json.loads(line) | tests for line in (world / "prompts.jsonl").read_text().splitlines()]
    prompts, saved = tmp_path / "prompts.jsonl", tmp_path / "drawn.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        "--model",
        str(world / "model"),
        "--data",
        str(prompts),
        "--reward",
        f"python:{reward}:short",
        "--score",
        "tests",
    ]
    words += ["--allow-code-execution", "--responses", "3", "--limit", "4", "--max-new-tokens", "12", "--save", str(saved), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["responses"]) == (4, 12) and 0.5 < found["r_squared"]["all"] <= 1.0
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    assert len(rows) == 12 and all(row["reward"] == -len(row["completion"]) for row in rows)
    assert main(["--samples", str(saved), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["r_squared"], again["slope"]) == (found["r_squared"], found["slope"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, r"row 4: field 'score' is None; it must be a finite number|row .*'score'"),
        ({"reward": "high"}, "field 'reward' is 'high'; it must be a finite number"),
    ],
)
def test_bad_rows_are_named(samples, change, message):
    lines = samples.read_text().splitlines()
    lines[4] = json.dumps(json.loads(lines[4]) | change)
    samples.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message):
        main(["--samples", str(samples)])


def test_bad_requests_are_named(samples, world, tmp_path):
    single = tmp_path / "single.jsonl"
    single.write_text('{"prompt": "a", "reward": 1.0, "score": 0}\n')
    drawing = ["--model", str(world / "model"), "--data", str(world / "prompts.jsonl"), "--score", "tests"]
    for words, error, message in (
        ([], ConfigError, "needs --model"),
        (drawing, ConfigError, "needs --reward"),
        ([*drawing, "--reward", "tests"], ConfigError, "--allow-code-execution"),
        (["--samples", str(samples), "--model", "m"], ConfigError, "leave --model out"),
        (["--samples", str(single)], DataError, "one response to each prompt"),
        (["--samples", str(world / "prompts.jsonl")], DataError, "has no column 'reward'"),
        (["--samples", str(samples), "--strategies", "top"], ConfigError, "needs upper"),
        (["--samples", str(samples), "--strategies", "best"], ConfigError, "keeps one rank only"),
        (["--samples", str(samples), "--responses", "1"], ConfigError, "--responses is 1"),
        (["--samples", str(samples), "--limit", "0"], ConfigError, "--limit is 0"),
    ):
        with pytest.raises(error, match=message):
            main(words)
