"""The world of short reviews as an experiment: what is exact agrees with samples, the files are whole, and a GPT comes near."""

import json

import numpy as np
import pytest
import torch

from surefoot.envs.sentiment import LENGTH, WORDS, all_prompts
from surefoot.errors import ConfigError
from surefoot.recipes.sentiment import Reviews, judged, make_sentiment, reviewer
from surefoot.recipes.worlds import WORLDS, make_world

torch.set_num_threads(1)
TEXTS = ("prefs", "scored", "prompts")


@pytest.fixture(scope="module")
def reviews():
    return Reviews.drawn(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "reviews"
    return folder, make_sentiment(folder, 3, pairs=128, scored=64, steps=5)


def test_the_expected_reward_is_that_of_samples(reviews):
    rows = list(reviews.scored(64 * 200, seed=1))  # as many of each prompt
    score = np.array([row["score"] for row in rows])
    assert abs(score.mean() - reviews.expected(reviews.reference)) < 4.0 * score.std() / len(score) ** 0.5
    assert all(len(row["completion"].split()) == LENGTH for row in rows[:100])


def test_the_best_policy_is_best(reviews):
    best, value = reviews.best(0.5)
    assert reviews.expected(best) - 0.5 * reviews.kl(best) == pytest.approx(value, abs=1e-6)
    assert value > reviews.expected(reviews.reference) and reviews.kl(reviews.reference) == pytest.approx(0.0, abs=1e-9)
    for beta in (0.4, 0.6):  # the best of another trade-off is worse in this one
        other = reviews.best(beta)[0]
        assert reviews.expected(other) - 0.5 * reviews.kl(other) < value


def test_reviews_of_a_topic_are_its_own(reviews):
    """Reviews come from the table of their prompt's topic: their words are as frequent as its marginals say."""
    prompts = ["the film was"] * 4000 + ["the game was"] * 10
    texts = reviews.written(prompts, torch.Generator().manual_seed(0))[:4000]
    counts = np.array([sum(text.split()[0] == word for text in texts) for word in WORDS]) / 4000
    expected = reviews.reference.marginals()[0, 0].detach().numpy()
    assert (np.abs(counts - expected) < 5.0 * np.sqrt(expected * (1.0 - expected) / 4000) + 1e-3).all()


def test_pairs_are_different_and_labelled_by_the_reward(reviews):
    pairs = list(reviews.pairs(4000, seed=2))
    assert all(row["chosen"] != row["rejected"] for row in pairs) and {row["prompt"] for row in pairs} == set(all_prompts())
    x = [row["prompt"] for row in pairs]
    d = np.subtract(*(reviews.sentiment.reward(x, [row[name] for row in pairs]) for name in ("chosen", "rejected")))
    p = 1.0 / (1.0 + np.exp(-np.abs(d)))  # that the better one of a pair is the chosen one
    assert abs((d > 0).mean() - p.mean()) < 4.0 * (p * (1.0 - p)).mean() ** 0.5 / 4000**0.5


def test_the_folder_is_whole(made):
    folder, facts = made
    assert {path.name for path in folder.iterdir()} == {"README.md", "model", "reward.py", *(f"{name}.jsonl" for name in TEXTS)}
    rows = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()] for name in TEXTS}
    assert [len(rows[name]) for name in TEXTS] == [128, 64, 64]
    assert set(rows["prefs"][0]) == {"prompt", "chosen", "rejected"} and set(rows["scored"][0]) == {"prompt", "completion", "score"}
    space = {}
    exec(compile((folder / "reward.py").read_text(), "reward.py", "exec"), space)
    found = space["reward"]([row["prompt"] for row in rows["scored"]], [row["completion"] for row in rows["scored"]])
    np.testing.assert_allclose(found, [row["score"] for row in rows["scored"]], atol=2e-5)
    assert facts["seed"] == 3 and f"{facts['reference reward']:.3f}" in (folder / "README.md").read_text()
    assert json.loads(json.dumps(facts)) == facts


def test_the_folder_is_what_the_readers_read(made):
    from surefoot.data.preferences import read_preferences
    from surefoot.policies.language import LanguagePolicy

    folder, _ = made
    policy = LanguagePolicy.load(folder / "model")
    assert policy.ends == [policy.tokenizer.eos_token_id]
    assert policy.tokenizer.decode(policy.tokenizer("the film was good")["input_ids"]) == "the film was good"
    assert [len(read_preferences(folder / f"{name}.jsonl")) for name in TEXTS] == [128, 64, 64]


def test_the_same_seed_makes_the_same_files(made, tmp_path):
    folder, _ = made
    make_sentiment(tmp_path / "again", 3, pairs=128, scored=64, steps=5)
    for name in ("prefs.jsonl", "scored.jsonl", "reward.py", "model/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_gpt_learns_to_write_reviews(reviews):
    """After 120 steps its loss lies between the reference's entropy and that of random words, and its reviews end where they should."""
    from surefoot.policies.language import Reference

    policy, loss = reviewer(reviews, 0, steps=120)
    entropy = float(reviews.reference.entropy().mean()) / (LENGTH + 1)
    assert entropy < loss < np.log(len(WORDS))
    found = judged(policy, Reference(policy), reviews.sentiment, each=4)
    assert found.kl.value == pytest.approx(0.0, abs=1e-4) and found.reward.low < found.reward.value < found.reward.high
    prompts = policy.tokenizer(all_prompts(), add_special_tokens=False)["input_ids"]
    drawn = policy.sample(prompts, 1, max_new_tokens=LENGTH + 4, generator=torch.Generator().manual_seed(0))
    assert np.mean(drawn.completion_lengths == LENGTH + 1) > 0.8


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        make_sentiment(tmp_path)
    with pytest.raises(ConfigError, match="seed is -1"):
        make_sentiment(tmp_path / "new", -1)
    with pytest.raises(ConfigError, match="say where to with --out"):
        make_world("sentiment", None)
    with pytest.raises(ConfigError, match="seed is -2"):
        make_world("programs", tmp_path / "new", seed=-2)
    with pytest.raises(ConfigError, match="exists already"):
        make_world("sentiment", tmp_path)
    assert set(WORLDS) == {"sentiment", "programs"} and not (tmp_path / "new").exists()


def test_the_command_lists_worlds_and_asks_for_a_folder(capsys, tmp_path, monkeypatch):
    from surefoot.cli import main
    from surefoot.recipes import worlds

    assert main(["data", "make", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentiment"]["env"] is None
    for argv, words in ((["sentiment"], "--out FOLDER"), (["sentimen"], "did you mean 'sentiment'")):
        assert main(["data", "make", *argv]) == 2 and words in capsys.readouterr().err
    monkeypatch.setitem(worlds.WORLDS, "sentiment", worlds.World("", lambda folder, seed, say: {"seed": seed}))
    assert main(["data", "make", "sentiment", "--out", str(tmp_path / "new"), "--seed", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / "new"), "seed": 4}
