"""Log-probabilities of chosen tokens, in chunks or at once."""

import pytest
import torch

from surefoot.nn.token_logprobs import token_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [7, 33, 10_000])
def test_values_and_gradients_are_those_of_log_softmax(temperature, chunk):
    head = torch.nn.Linear(5, 11).double()
    hidden = torch.randn(13, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (13,))
    weights = torch.randn(13)
    whole = (head(hidden).float() / temperature).log_softmax(-1)[torch.arange(13), targets]
    inputs = [hidden, head.weight, head.bias]
    expected = torch.autograd.grad((whole * weights).sum(), inputs)
    ours = token_logprobs(head, hidden, targets, vocabulary=11, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(ours, whole, rtol=0, atol=1e-6)
    for found, wanted in zip(torch.autograd.grad((ours * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(head, hidden, targets, vocabulary=11, temperature=temperature, chunk=chunk), ours)


def test_no_more_logits_than_a_chunk_are_there_at_once():
    seen = []

    def head(hidden):
        seen.append(len(hidden))
        return hidden @ torch.ones(4, 10)

    token_logprobs(head, torch.randn(9, 4), torch.zeros(9, dtype=torch.int64), vocabulary=10, chunk=30)
    assert seen == [3, 3, 3]


def test_half_precision_is_reduced_in_float32():
    head = torch.nn.Linear(8, 400).bfloat16()
    hidden = torch.randn(6, 8).bfloat16()
    found = token_logprobs(head, hidden, torch.arange(6), vocabulary=400)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head(hidden).float().log_softmax(-1)[torch.arange(6), torch.arange(6)], rtol=0, atol=1e-6)
