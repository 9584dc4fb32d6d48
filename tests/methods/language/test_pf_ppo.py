"""PF-PPO on a tiny language model: which responses its steps see, that it is PPO where nothing is filtered, and what its losses are."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.filtration import Strategy, resampled
from surefoot.methods.language.pf_ppo import PFPPO, PFPPOConfig
from surefoot.methods.language.token_losses import clipped_policy_loss, token_advantages
from surefoot.methods.language.token_ppo import TokenPPO, TokenPPOConfig
from surefoot.nn.bigram import Bigram, random_logits
from tests.tiny_language import some_prompts, tiny_policy

SMALL = PFPPOConfig(prompts=4, responses=5, max_new_tokens=4, top_p=1.0, minibatches=2)
TUNING = Tuning(lr=1e-3, schedule="constant", warmup=0.0)


def by_first_word(prompts, completions):
    """A reward that differs between most responses."""
    return torch.tensor([float(sum(map(ord, text))) / 500.0 - 1.0 for text in completions])


def learner(config=SMALL, seed=0):
    return PFPPO(tiny_policy(), config, TUNING, 100, seed=seed)


def rows_of(config, rewards, seed=0):
    return [rows.tolist() for rows in learner(config, seed).rows(rewards)]


REWARDS = torch.tensor([[0.2, 1.4, -0.7, 0.9, -0.1], [2.0, 0.3, 0.5, -1.5, 1.0]])


# --- which responses --------------------------------------------------------------------------------------------------


def test_reweighting_keeps_the_number_of_steps_and_their_size():
    for strategy in ("all", "best", "best_worst", "best_random", "pow"):
        for epochs in (1, 3):
            rows = rows_of(replace(SMALL, strategy=strategy, epochs=epochs), REWARDS)
            assert [len(step) for step in rows] == [5, 5] * epochs


def test_reweighting_draws_from_what_counts_and_keeps_doubles():
    rows = [*chain(*rows_of(replace(SMALL, strategy="best_worst", epochs=50), REWARDS))]
    assert set(rows) == {1, 2, 5, 8}
    one_step = rows_of(replace(SMALL, strategy="best", minibatches=1), REWARDS)[0]
    assert len(one_step) == 10 and set(one_step) == {1, 5}


def test_filtering_shrinks_the_batch_once_an_update():
    rows = rows_of(replace(SMALL, strategy="best_random", mode="filter", epochs=3), REWARDS)
    assert [len(step) for step in rows] == [2, 2] * 3  # two of each prompt
    passes = [sorted(chain(*rows[i : i + 2])) for i in (0, 2, 4)]
    assert passes[0] == passes[1] == passes[2] and {1, 5} < set(passes[0])
    assert rows_of(replace(SMALL, strategy="best", mode="filter", minibatches=8), REWARDS[:1]) == [[1]]  # fewer responses than steps


def test_with_one_response_it_is_ppo_bit_for_bit():
    plain = TokenPPOConfig(prompts=4, responses=1, max_new_tokens=4, minibatches=2)
    shared = {name: getattr(plain, name) for name in TokenPPOConfig.__dataclass_fields__}
    states = []
    for method in (
        TokenPPO(tiny_policy(), plain, TUNING, 100),
        *(
            PFPPO(tiny_policy(), PFPPOConfig(**shared, strategy=s, mode=m), TUNING, 100)
            for s, m in (("best_worst", "reweight"), ("best", "filter"))
        ),
    ):
        source = method.source(some_prompts(), by_first_word)
        for _ in range(2):
            method.update(next(source))
        states.append(method.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], x) for name, x in states[0].items())


def test_filtering_all_is_ppo_with_several_responses():
    """The same responses in every pass, in an order of its own."""
    for step in (rows_of(replace(SMALL, strategy="all", mode="filter"), REWARDS), rows_of(SMALL, REWARDS[:, :1])):
        assert sorted(chain(*step)) == list(range(sum(map(len, step))))


def test_an_update_learns_from_what_is_kept_alone():
    """Advantages are normalised over all responses, and then the steps see the best ones and no other."""
    method, seen = learner(replace(SMALL, strategy="best")), []
    batch = next(method.source(some_prompts(), by_first_word))
    step = method._step
    method._step = lambda completions, rollouts, rows: seen.append((rollouts, rows)) or step(completions, rollouts, rows)  # type: ignore[method-assign]
    metrics = method.update(batch)
    best = Strategy("best").weights(batch.rewards).flatten().nonzero().flatten().tolist()
    assert {row for _, rows in seen for row in rows.tolist()} <= set(best)
    rollouts = seen[0][0]
    mask = rollouts.mask
    assert float(rollouts.advantage[mask].mean()) == pytest.approx(0.0, abs=1e-5)  # of all, not of the best
    assert float(rollouts.advantage[mask].std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert metrics["kept_score"] == pytest.approx(float(batch.rewards.max(-1).values.mean()), abs=1e-5)
    assert metrics["kept_score"] > metrics["score"]


def test_the_same_seed_gives_the_same_weights_and_a_resume_too():
    method, again = learner(), learner(seed=5)
    source = method.source(some_prompts(), by_first_word, seed=1)
    method.update(next(source))
    other = again.source(some_prompts(), by_first_word, seed=9)
    again.load_state_dict(method.state_dict())
    other.load_state_dict(source.state_dict())
    for x, y in ((method, source), (again, other)):
        x.update(next(y))
    state = again.state_dict()
    assert all(torch.equal(state[name], x) for name, x in method.state_dict().items())


# --- the card's numbers -----------------------------------------------------------------------------------------------


def test_advantages_are_those_of_the_card():
    value, reward = torch.tensor([[0.5, 0.2, -0.1]]), torch.tensor([[-0.01, 0.02, 1.0]])
    advantage, returns = token_advantages(reward, value, torch.ones(1, 3, dtype=torch.bool), 1.0, 0.95)
    torch.testing.assert_close(advantage, torch.tensor([[0.416750, 0.765000, 1.100000]]), atol=5e-7, rtol=0.0)
    torch.testing.assert_close(returns, torch.tensor([[0.916750, 0.965000, 1.000000]]), atol=5e-7, rtol=0.0)


def gradient(policy, tokens, advantage, old=None):
    logprob = policy.token_logprobs(tokens)
    loss = clipped_policy_loss(logprob, logprob.detach() if old is None else old, advantage, 0.2).mean()
    return torch.autograd.grad(loss, policy.logits)[0]


def test_where_the_ratio_is_one_the_gradient_is_that_of_the_weighted_likelihood():
    policy = Bigram(random_logits(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    tokens = policy.sample(32, torch.Generator().manual_seed(1))
    advantage = torch.randn(32, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    likelihood = torch.autograd.grad(-(advantage * policy.token_logprobs(tokens)).mean(), policy.logits)[0]
    torch.testing.assert_close(gradient(policy, tokens, advantage), likelihood, atol=1e-12, rtol=1e-10)


def test_reweighting_all_has_the_gradient_of_all_on_average():
    """20,000 resampled minibatches at once: the mean gradient is that of the whole batch within 4.5 standard errors."""
    policy = Bigram(random_logits(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    tokens = policy.sample(10, torch.Generator().manual_seed(1))
    advantage = torch.randn(10, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64).expand(10, 2)
    each = torch.stack([gradient(policy, tokens[i : i + 1], advantage[i : i + 1]) for i in range(10)])  # one a response
    rows = resampled(Strategy("all").weights(torch.randn(20_000, 2, 5)).flatten(1), 5, torch.Generator().manual_seed(3))
    means = each.flatten(1)[rows].mean(1)  # [20_000, cells]
    error = means.std(0) / 20_000**0.5
    assert bool(((means.mean(0) - gradient(policy, tokens, advantage).flatten()).abs() <= 4.5 * error + 1e-12).all())


# --- settings ---------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_card():
    c = PFPPOConfig()
    assert (c.responses, c.strategy, c.mode, c.epochs) == (5, "best_random", "reweight", 1)
    assert (c.kl_coef, c.clip, c.value_clip, c.gamma, c.gae_lambda) == (0.01, 0.2, 0.2, 1.0, 0.95)
    assert (c.temperature, c.top_p, c.whiten_rewards, c.score_limit) == (1.0, 0.9, True, 10.0)
    assert c.critic_rate * 5e-7 == pytest.approx(9e-6) and c.prompts * c.responses // c.minibatches == 256


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="mode is 'drop'"):
        PFPPOConfig(mode="drop")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="best_random"):
        PFPPOConfig(strategy="best_randm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ranks has 2 weights for 5 responses"):
        PFPPOConfig(strategy="custom", ranks=(1.0, 0.0))
    with pytest.raises(DataError, match="no response counts"):
        rows_of(replace(SMALL, strategy="top", upper=100.0), REWARDS)
