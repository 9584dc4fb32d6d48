"""The world of short reviews: what they are worth, and that the reward file says the same."""

import numpy as np
import pytest

from surefoot.envs.sentiment import BLAME, LENGTH, PRAISE, SCALE, TOPICS, WORDS, Sentiment, all_prompts, all_words, topic_of
from surefoot.errors import ConfigError


@pytest.fixture(scope="module")
def world():
    return Sentiment.drawn(0)


def test_a_review_is_worth_the_sum_of_its_words(world):
    film, food = TOPICS.index("film"), TOPICS.index("food")
    good, dull = WORDS.index("good"), WORDS.index("dull")
    found = world.reward(["the film was", "i found the food", "the film was"], ["good dull good", "dull", "good nonsense"])
    expected = [2 * world.values[film, good] + world.values[film, dull], world.values[food, dull], world.values[film, good]]
    np.testing.assert_allclose(found, expected)
    assert world.reward(["the film was"], [" ".join(["good"] * 12)])[0] == pytest.approx(LENGTH * world.values[film, good])


def test_praise_is_worth_more_than_blame():
    assert len(WORDS) == len(set(WORDS)) == 16 and len(all_words()) == len(set(all_words()))
    for seed in range(5):
        values = Sentiment.drawn(seed).values
        assert values[:, : len(PRAISE)].mean() > values[:, len(PRAISE) : len(PRAISE) + len(BLAME)].mean() + SCALE
        np.testing.assert_allclose(values.mean(-1), 0.0, atol=1e-12)
    assert not np.array_equal(Sentiment.drawn(0).values, Sentiment.drawn(1).values)


def test_prompts_name_their_topic():
    prompts = all_prompts()
    assert len(prompts) == len(set(prompts)) == 64 and sorted({topic_of(p) for p in prompts}) == list(range(8))
    with pytest.raises(ConfigError, match="names none of the topics film, food"):
        topic_of("the car was")


def test_people_prefer_by_bradley_and_terry(world):
    n = 20_000
    x, y, z = ["the film was"] * n, ["good warm"] * n, ["dull"] * n
    d = world.reward(x[:1], y[:1])[0] - world.reward(x[:1], z[:1])[0]
    share = world.prefers(x, y, z, np.random.default_rng(0)).mean()
    assert abs(share - 1.0 / (1.0 + np.exp(-d))) < 4.0 * 0.5 / n**0.5


def test_the_reward_file_says_the_same(world):
    space = {}
    exec(compile(world.source(), "reward.py", "exec"), space)
    rng = np.random.default_rng(0)
    prompts = all_prompts()
    reviews = [" ".join(rng.choice([*WORDS, "odd"], size=int(rng.integers(0, 12)))) for _ in prompts]
    np.testing.assert_allclose(space["reward"](prompts, reviews), world.reward(prompts, reviews), atol=1e-5)
