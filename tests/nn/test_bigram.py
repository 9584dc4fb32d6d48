"""Exact quantities of bigram policies against enumeration of every sequence."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import ConfigError
from surefoot.nn.bigram import DRAW, Bigram, optimal_value, random_logits, tilted

LENGTH, VOCABULARY = 3, 4
ALL = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))  # [64, 3]


def policy(seed=0, copies=(2,), length=LENGTH, vocabulary=VOCABULARY):
    return Bigram(random_logits(length, vocabulary, copies, torch.Generator().manual_seed(seed), torch.float64))


def rewards(values, tokens=ALL):
    """sum_t values[t, y_t] of every sequence."""
    return sum(values[..., t, :].index_select(-1, tokens[:, t]) for t in range(tokens.shape[-1]))


def test_probabilities_are_products_of_the_table():
    p = policy(copies=())
    table = p.logits.softmax(-1)
    for tokens, got in zip(ALL, p.token_logprobs(ALL), strict=True):
        previous = [VOCABULARY, *tokens[:-1].tolist()]
        want = [table[t, previous[t], y].log() for t, y in enumerate(tokens)]
        torch.testing.assert_close(got, torch.stack(want))
    torch.testing.assert_close(p.logprobs(ALL).exp().sum(), torch.ones((), dtype=torch.float64))


def test_copies_stand_apart():
    p = policy(copies=(2, 3))
    tokens = p.sample(7, torch.Generator().manual_seed(1))
    assert tokens.shape == (2, 3, 7, LENGTH)
    for i, j in itertools.product(range(2), range(3)):
        lone = Bigram(p.logits[i, j])
        torch.testing.assert_close(p.token_logprobs(tokens)[i, j], lone.token_logprobs(tokens[i, j]))
        torch.testing.assert_close(p.marginals()[i, j], lone.marginals())
        torch.testing.assert_close(p.kl(policy(1, (2, 3)))[i, j], lone.kl(Bigram(policy(1, (2, 3)).logits[i, j])))
    torch.testing.assert_close(p.token_logprobs(ALL)[1, 2], Bigram(p.logits[1, 2]).token_logprobs(ALL))  # rows shared by all copies


def test_expectations_against_enumeration():
    p, q = policy(), policy(1)
    logp, logq = p.logprobs(ALL), q.logprobs(ALL)
    values = torch.randn(2, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    marginals = torch.stack(
        [torch.stack([logp.exp() @ (ALL[:, t] == v).double() for v in range(VOCABULARY)], -1) for t in range(LENGTH)], -2
    )
    torch.testing.assert_close(p.marginals(), marginals)
    torch.testing.assert_close(p.expected(values), (logp.exp() * rewards(values)).sum(-1))
    torch.testing.assert_close(p.kl(q), (logp.exp() * (logp - logq)).sum(-1))
    torch.testing.assert_close(p.entropy(), -(logp.exp() * logp).sum(-1))


def test_tilted_is_the_best_policy():
    reference, beta = policy(3), 0.7
    values = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4), dtype=torch.float64)  # the same at every position
    best, value = tilted(reference, values, beta), optimal_value(reference, values, beta)
    logits = reference.logprobs(ALL) + rewards(values.expand(LENGTH, VOCABULARY)) / beta
    torch.testing.assert_close(best.logprobs(ALL), logits.log_softmax(-1))
    torch.testing.assert_close(value, beta * logits.logsumexp(-1))
    torch.testing.assert_close(value, best.expected(values) - beta * best.kl(reference))
    for seed in range(20):
        other = Bigram(best.logits + 0.1 * policy(seed).logits)
        assert (other.expected(values) - beta * other.kl(reference) < value).all()


def test_samples_have_the_law_of_the_table():
    p, n = policy(5), 40_000
    tokens = p.sample(n, torch.Generator().manual_seed(6))
    index = (tokens * torch.tensor([16, 4, 1])).sum(-1)
    counts = torch.stack([torch.bincount(row, minlength=64) for row in index]).double()
    expected = n * p.logprobs(ALL).exp().detach()
    chi2 = ((counts - expected).square() / expected).sum(-1)  # 63 degrees of freedom: mean 63, standard deviation 11.2
    assert (chi2 < 63 + 5 * 11.2).all()


def test_forced_tokens_are_taken_and_the_rest_is_drawn():
    p = policy(7)
    forced = torch.tensor([[3, DRAW, DRAW], [1, 2, DRAW], [DRAW, DRAW, DRAW], [0, 1, 2]]).repeat(5000, 1)
    tokens = p.sample(len(forced), torch.Generator().manual_seed(8), forced)
    taken = (forced != DRAW).expand(tokens.shape)
    assert (tokens[taken] == forced.expand(tokens.shape)[taken]).all()
    after = tokens[:, 1::4, 2]  # of the prefix 1, 2
    share = torch.stack([(after == v).double().mean(-1) for v in range(VOCABULARY)], -1)
    torch.testing.assert_close(share, p.logits.softmax(-1)[:, 2, 2].detach(), atol=4 * 0.5 / 5000**0.5, rtol=0)


def test_impossible_tokens_are_never_drawn():
    logits = random_logits(2, 3, (), torch.Generator().manual_seed(9))
    logits[..., 1] = -1e9
    assert (Bigram(logits).sample(5000, torch.Generator().manual_seed(10)) != 1).all()


def test_gradients_of_the_objective_are_those_of_finite_differences():
    reference, start, direction = policy(11, ()), policy(13, ()).logits.detach(), policy(14, ()).logits.detach()
    values = torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(12), dtype=torch.float64)

    def objective(p):
        return p.expected(values) - 0.5 * p.kl(reference) + 0.1 * p.entropy() + p.logprobs(ALL).sum()

    p = Bigram(start)
    (gradient,) = torch.autograd.grad(objective(p), [p.logits])
    ahead, behind = (objective(Bigram(start + h * direction)) for h in (1e-5, -1e-5))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 2e-5, rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 10_000), st.floats(0.05, 5.0))
def test_invariants(length, vocabulary, seed, beta):
    p, q = policy(seed, (), length, vocabulary), policy(seed + 1, (), length, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(p.marginals().sum(-1), torch.ones(length, dtype=torch.float64))
    assert p.kl(q) >= 0.0 and p.entropy() >= 0.0
    torch.testing.assert_close(p.kl(p), torch.zeros((), dtype=torch.float64))
    best, shifted = tilted(p, values, beta), tilted(p, values + 3.0, beta)
    torch.testing.assert_close(best.log_table(), shifted.log_table())
    torch.testing.assert_close(optimal_value(p, values + 3.0, beta), optimal_value(p, values, beta) + 3.0 * length)
    assert optimal_value(p, values, beta) >= p.expected(values) - 1e-9


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"bigram logits have shape \(2, 3, 3\): it must be \[\*copies, L, V \+ 1, V\]"):
        Bigram(torch.zeros(2, 3, 3))
    with pytest.raises(ConfigError, match="beta is 0: it must be positive"):
        tilted(policy(), torch.zeros(VOCABULARY), 0)
