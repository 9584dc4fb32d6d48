"""Sources over tokenised data: every row once an epoch, groups of one prompt, and a resume that nobody can tell from no stop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.completions import Completions
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.pair_source import GroupSource, PairSource, grouped


def pairs(n, batch_size=2, seed=0):
    prompts = [[i] for i in range(n)]
    chosen, rejected = (Completions(prompts, [[k, i] for i in range(n)]) for k in (100, 200))
    return PairSource(chosen, rejected, torch.arange(n).float(), -torch.arange(n).float(), batch_size, seed=seed)


def groups(sizes, batch_size=1, size=2, seed=0):
    """Prompt g has `sizes[g]` completions, prompt by prompt in turn; row r has the score r and the reference -r."""
    rows = [g for i in range(max(sizes)) for g, n in enumerate(sizes) if i < n]
    completions = Completions([[g] for g in rows], [[r] for r in range(len(rows))])
    scores = torch.arange(len(rows)).float()
    return GroupSource(completions, scores, -scores, batch_size, size=size, seed=seed), rows


def test_an_epoch_has_each_pair_once_and_rows_stay_together():
    source = pairs(6)
    first, second = ([next(source) for _ in range(source.batches)] for _ in range(2))
    orders = [[prompt[0] for batch in epoch for prompt in batch.chosen.prompts] for epoch in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6)) and orders[0] != orders[1]
    for batch in first:
        own = torch.tensor([prompt[0] for prompt in batch.rejected.prompts])
        assert batch.chosen.prompts == batch.rejected.prompts
        assert batch.chosen.completions == [[100, i] for i in own.tolist()] and batch.rejected.completions == [
            [200, i] for i in own.tolist()
        ]
        assert torch.equal(batch.ref_chosen, own.float()) and torch.equal(batch.ref_rejected, -own.float())


def test_what_fits_no_batch_is_left_out_of_the_epoch():
    source = pairs(7, 3)
    assert source.batches == 2
    seen = [prompt[0] for _ in range(2) for prompt in next(source).chosen.prompts]
    assert len(set(seen)) == 6


@given(st.integers(0, 12), st.sampled_from(["pairs", "groups"]))
def test_a_resumed_source_goes_on_as_if_it_had_not_stopped(stop, kind):
    def new(seed):
        return pairs(5, seed=seed) if kind == "pairs" else groups([3, 5, 2, 4, 2], 2, seed=seed)[0]

    def told(batch):
        return batch.chosen if kind == "pairs" else batch.completions

    source = new(0)
    for _ in range(stop):
        next(source)
    resumed = new(1)
    resumed.load_state_dict({name: value.clone() for name, value in source.state_dict().items()})
    assert [told(next(resumed)) for _ in range(6)] == [told(next(source)) for _ in range(6)]


def test_groups_are_of_one_prompt():
    source, prompt_of = groups([2, 4, 3, 1], 3)
    assert source.left_out == 1 and source.batches == 1
    drawn = set()
    for _ in range(20):
        batch = next(source)
        assert batch.rewards.shape == batch.reference.shape == (3, 2) and batch.old is None
        rows = [completion[0] for completion in batch.completions.completions]
        assert batch.rewards.flatten().tolist() == rows and torch.equal(batch.reference, -batch.rewards)
        owners = [prompt_of[row] for row in rows]
        assert owners == [prompt[0] for prompt in batch.completions.prompts]
        assert owners[::2] == owners[1::2] and sorted(owners[::2]) == [0, 1, 2] and len(set(rows)) == 6
        drawn |= set(rows)
    assert drawn == {row for row, owner in enumerate(prompt_of) if owner != 3}  # of larger groups every row gets its turn


def test_grouped_keeps_the_order():
    assert grouped(Completions([[1], [2], [1], [1, 2]], [[0]] * 4)) == [[0, 2], [1], [3]]


def test_bad_input_is_named():
    two = Completions([[0], [1]], [[0], [1]])
    with pytest.raises(DataError, match=r"chosen, rejected and their reference log-probabilities have \[2, 2, 1, 2\] rows"):
        PairSource(two, two, torch.zeros(1), torch.zeros(2), 1)
    with pytest.raises(DataError, match="the reference log-probability of rejected in row 1 is -inf: it must be finite"):
        PairSource(two, two, torch.zeros(2), torch.tensor([0.0, -torch.inf]), 1)
    with pytest.raises(ConfigError, match="batch_size is 3, but the data hold only 2"):
        PairSource(two, two, torch.zeros(2), torch.zeros(2), 3)
    with pytest.raises(ConfigError, match="batch_size is 0: it must be at least 1"):
        PairSource(two, two, torch.zeros(2), torch.zeros(2), 0)
    with pytest.raises(DataError, match=r"have \[2, 1, 2\] rows"):
        GroupSource(two, torch.zeros(1), torch.zeros(2), 1)
    with pytest.raises(DataError, match="the score in row 0 is nan: it must be finite"):
        GroupSource(two, torch.tensor([torch.nan, 0.0]), torch.zeros(2), 1, size=1)
    with pytest.raises(DataError, match="no prompt has 2 scored completions, the most are 1: score more of them"):
        GroupSource(two, torch.zeros(2), torch.zeros(2), 1)
    with pytest.raises(ConfigError, match="a group has 0 completions"):
        GroupSource(two, torch.zeros(2), torch.zeros(2), 1, size=0)
