"""Log-probabilities are those of transformers, however rows are padded and put together."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surefoot.data.completions import Completions, micro_batches
from surefoot.policies.language import completion_logprobs
from tests.tiny_language import CONTEXT, VOCABULARY, tiny_policy

KINDS = ("gpt2", "llama", "gemma2")
ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)
batches = st.lists(st.tuples(ids, ids), min_size=1, max_size=4)
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=KINDS)
def policy(request):
    found = tiny_policy(request.param).eval()
    with torch.no_grad():
        for p in found.parameters():  # far from the uniform distribution that a new model gives
            p.mul_(4.0) if p.ndim > 1 else p
    return found


@torch.no_grad()
def by_transformers(policy, prompt, completion):
    """Each token's log-probability by the model's own loss: of a row without padding, one label at a time, the others ignored."""
    row = torch.tensor([[*prompt, *completion]])
    found = []
    for t in range(len(prompt), row.shape[1]):
        labels = torch.full_like(row, -100)
        labels[0, t] = row[0, t]
        found.append(-policy.model(input_ids=row, labels=labels).loss)
    return torch.stack(found)


@few
@given(batches, st.sampled_from(["left", "right"]))
def test_each_token_as_transformers_own_loss_has_it(policy, rows, side):
    completions = Completions(*map(list, zip(*rows, strict=True)))
    sequences = completions.padded(policy.pad, side=side)
    ours = policy.token_logprobs(sequences)
    assert ours.dtype == torch.float32 and not ours[~sequences.completion].any()
    for row, inside, (prompt, completion) in zip(ours, sequences.completion, rows, strict=True):
        torch.testing.assert_close(row[inside], by_transformers(policy, prompt, completion), atol=1e-5, rtol=0)


@few
@given(batches, st.integers(1, 50))
def test_how_rows_are_put_together_does_not_matter(policy, rows, max_tokens):
    completions = Completions(*map(list, zip(*rows, strict=True)))
    alone = torch.cat([policy.logprobs(completions.select([i]).padded(policy.pad)) for i in range(len(rows))]).detach()
    found = completion_logprobs(policy, completions, max_tokens=max_tokens)
    torch.testing.assert_close(found, alone, atol=1e-5 * CONTEXT, rtol=0)
    parts = micro_batches(completions.lengths, max_tokens)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    assert all(len(part) == 1 or len(part) * completions.lengths[part].max() <= max_tokens for part in parts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mean_over_a_padded_batch_is_transformers_loss(policy, side):
    """Prompt and padding excluded by labels, as a trainer of transformers does it."""
    completions = Completions([[1, 2, 3], [4], [5, 6]], [[7, 8], [9, 10, 11, 12, 13], [14]])
    sequences = completions.padded(policy.pad, side=side)
    labels = sequences.tokens.masked_fill(~sequences.completion, -100)
    with torch.no_grad():
        theirs = policy.model(
            input_ids=sequences.tokens, attention_mask=sequences.attention.long(), position_ids=sequences.positions, labels=labels
        ).loss
        ours = -policy.token_logprobs(sequences).sum() / sequences.completion.sum()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_gradient_is_that_of_transformers_loss(policy):
    completions = Completions([[1, 2, 3], [4]], [[7, 8], [9, 10, 11, 12, 13]])
    sequences = completions.padded(policy.pad)
    labels = sequences.tokens.masked_fill(~sequences.completion, -100)
    weights = [p for p in policy.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(
        policy.model(input_ids=sequences.tokens, attention_mask=sequences.attention.long(), labels=labels).loss, weights, allow_unused=True
    )
    ours = torch.autograd.grad(-policy.token_logprobs(sequences).sum() / sequences.completion.sum(), weights, allow_unused=True)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)
