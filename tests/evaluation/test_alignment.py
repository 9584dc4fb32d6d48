"""Aligned models in numbers: by hand where it can be, and the KL divergence against its exact value."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.completions import Completions
from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.alignment import Answers, Asking, answers, compare, win_rate
from surefoot.evaluation.statistics import wilson_interval
from tests.tiny_language import EOS, VOCABULARY, tiny_policy


def made(name, rewards, log_ratios=None, lengths=None):
    rewards = np.array(rewards, float)
    ratios = np.zeros(rewards.shape) if log_ratios is None else np.array(log_ratios, float)
    tokens = np.full(rewards.shape, 3) if lengths is None else np.array(lengths)
    return Answers(name, [["x"] * rewards.shape[1]] * len(rewards), rewards, ratios, tokens, tokens < 4)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_answers_hold_what_the_model_said():
    policy, reference = tiny_policy(seed=0), tiny_policy(seed=1)
    prompts, texts = [[1, 2], [3]], ["w1 w2", "w3"]
    seen = []

    def reward(prompts, completions):
        seen.append((prompts, completions))
        return [float(len(completion.split())) for completion in completions]

    asking = Asking(samples=3, max_new_tokens=5, seed=7)
    found = answers("mine", policy, reference, prompts, texts, reward, asking)
    drawn = policy.sample(prompts, 3, max_new_tokens=5, generator=torch.Generator().manual_seed(7))
    assert seen == [(["w1 w2"] * 3 + ["w3"] * 3, policy.decode(drawn))]
    assert [text for row in found.texts for text in row] == policy.decode(drawn)
    assert found.rewards.shape == (2, 3) and found.rewards.flatten().tolist() == reward([], policy.decode(drawn))
    assert found.lengths.flatten().tolist() == [len(c) for c in drawn.completions]
    assert found.ended.flatten().tolist() == [c[-1] == EOS for c in drawn.completions]
    own, other = (model.logprobs(drawn.padded(0)).double() for model in (policy, reference))
    np.testing.assert_allclose(found.log_ratios.flatten(), (own - other).detach(), atol=1e-5)
    assert not answers("same", policy, policy, prompts, texts, reward, asking).log_ratios.any()


def test_few_tokens_at_once_draw_from_the_same_model():
    """Prompts that do not fit into one pass are asked in turn."""
    policy = tiny_policy()
    prompts = [[1], [2, 3], [4]]
    found = answers("p", policy, policy, prompts, ["a", "b", "c"], lambda _, c: [0.0] * len(c), Asking(2, 4, max_tokens=12))
    assert found.rewards.shape == (3, 2) and len(found.texts) == 3


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_kl_divergence_is_the_exact_one(temperature):
    """Of one token the divergence is a sum over the vocabulary; the estimate is within four standard errors of it."""
    policy, reference = tiny_policy(seed=0), tiny_policy(seed=1)
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(3.0)
    prompts = [[i % 20, (3 * i) % 20] for i in range(60)]
    rows = Completions([prompt for prompt in prompts for _ in range(VOCABULARY)], [[token] for _ in prompts for token in range(VOCABULARY)])
    with torch.no_grad():
        p, q = (model.logprobs(rows.padded(0), temperature).double().view(60, VOCABULARY) for model in (policy, reference))
    torch.testing.assert_close(p.exp().sum(-1), torch.ones(60, dtype=torch.float64), atol=1e-5, rtol=0)
    exact = float((p.exp() * (p - q)).sum(-1).mean())
    asking = Asking(samples=16, max_new_tokens=1, temperature=temperature)
    found = answers("p", policy, reference, prompts, ["x"] * 60, lambda _, c: [0.0] * len(c), asking)
    error = float(found.log_ratios.std(-1, ddof=1).mean() / math.sqrt(16 * 60))
    assert exact > 10 * error  # it is not just any small number
    assert found.log_ratios.mean() == pytest.approx(exact, abs=4 * error)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"temperature is 0.0: it must be positive"):
        Asking(temperature=0.0)
    with pytest.raises(ConfigError, match="must be at least 1"):
        Asking(samples=0)
    policy = tiny_policy()
    with pytest.raises(ConfigError, match="there are no prompts to ask"):
        answers("p", policy, policy, [], [], lambda p, c: [], Asking())


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_models_in_numbers():
    base = made("base", [[0, 1], [2, 3], [1, 1]])
    better = made("better", [[1, 2], [3, 4], [2, 2]], [[0.5, 0.7], [0.1, 0.3], [0.2, 0.0]], [[1, 4], [2, 2], [3, 3]])
    first, second = compare([base, better])
    assert (first.name, first.wins, first.gain, first.p, first.kl.value) == ("base", None, None, None, 0.0)
    assert (
        second.reward.value == pytest.approx(14 / 6)
        and second.length.value == pytest.approx(15 / 6)
        and second.ended == pytest.approx(5 / 6)
    )
    ratios = np.array([0.6, 0.2, 0.1])
    assert second.kl.value == pytest.approx(0.3) and second.kl_error == pytest.approx(ratios.std(ddof=1) / math.sqrt(3))
    assert second.gain is not None and second.gain.difference == pytest.approx(1.0) and second.gain.test.startswith("paired t-test")
    assert second.gain.p == second.p == 0.0  # a difference of exactly 1 everywhere
    assert second.wins is not None and second.wins.value == pytest.approx((7 / 8 + 7 / 8 + 1.0) / 3)


def test_p_values_are_corrected_for_the_number_of_models():
    rng = np.random.default_rng(0)
    models = [made(str(i), rng.normal(0.3 * i, 1.0, (40, 2))) for i in range(3)]
    one, both = compare(models[:2], models[0])[1], compare(models, models[0])
    assert one.gain == both[1].gain and one.p == one.gain.p
    raw = sorted((each.gain.p, each.p) for each in both[1:])
    assert raw[0][1] == pytest.approx(min(1.0, 2 * raw[0][0])) and raw[1][1] == pytest.approx(max(raw[1][0], raw[0][1]))


def test_one_prompt_speaks_about_itself():
    found = compare([made("base", [[0.0, 1.0, 2.0]]), made("other", [[1.0, 2.0, 4.0]], [[0.1, 0.2, 0.6]])])[1]
    assert found.reward.low < 7 / 3 < found.reward.high and found.kl_error == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3))
    assert found.gain is not None and (found.gain.low, found.p) == (-math.inf, 1.0)


scores = st.integers(0, 3).map(float)


@given(
    st.integers(1, 6).flatmap(
        lambda p: st.tuples(*(st.lists(st.lists(scores, min_size=2, max_size=2), min_size=p, max_size=p) for _ in range(2)))
    )
)
def test_a_win_of_one_is_a_loss_of_the_other(pair):
    own, base = (np.array(each) for each in pair)
    first, second = win_rate(own, base), win_rate(base, own)
    assert first.value == pytest.approx(1.0 - second.value)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for row, other in zip(own, base, strict=True) for a in row for b in other]
    assert first.value == pytest.approx(np.mean(wins))
    assert first.low <= first.value + 1e-9 and first.value <= first.high + 1e-9


def test_a_win_everywhere_leaves_room_for_doubt():
    found = win_rate(np.ones((10, 3)), np.zeros((10, 2)))
    assert found.value == 1.0 and found.low == pytest.approx(wilson_interval(10, 10).low) and 0.7 < found.low < 0.73


# --- Wilson's interval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 10), (10, 10), (37, 80)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_wilson_is_scipys(k, n, level):
    from scipy.stats import binomtest

    theirs = binomtest(k, n).proportion_ci(level, method="wilson")
    ours = wilson_interval(k, n, level)
    assert (ours.value, ours.low, ours.high) == pytest.approx((k / n, theirs.low, theirs.high), abs=1e-12)


def test_wilson_of_nothing():
    with pytest.raises(DataError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)
    with pytest.raises(DataError, match="0 successes in 0 trials"):
        wilson_interval(0, 0)
