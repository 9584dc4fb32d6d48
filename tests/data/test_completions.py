"""Ragged token ids, their padding, and which rows share a forward pass."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.completions import Completions, GroupBatch, PairBatch, concatenated, micro_batches
from surefoot.errors import DataError

ids = st.lists(st.integers(0, 30), max_size=6)
rows = st.lists(st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=6), ids), max_size=8)


def of(pairs) -> Completions:
    return Completions([p for p, _ in pairs], [c for _, c in pairs])


@given(rows, st.sampled_from(["left", "right"]))
def test_padding_keeps_every_token_and_marks_it(pairs, side):
    texts = of(pairs)
    padded = texts.padded(99, side=side)
    for i, (prompt, completion) in enumerate(pairs):
        own = padded.attention[i]
        assert padded.tokens[i][own].tolist() == prompt + completion
        assert padded.tokens[i][padded.completion[i]].tolist() == completion
        assert (padded.tokens[i][~own] == 99).all()
        assert padded.positions[i][own].tolist() == list(range(len(prompt) + len(completion)))
        edge = 0 if side == "right" else -1
        assert own[edge]  # the text begins or ends at the edge
    assert padded.tokens.shape == (len(pairs), max(texts.lengths, default=0))


@given(rows)
def test_what_is_packed_comes_back(pairs):
    texts = of(pairs)
    assert Completions.unpacked(texts.packed()) == texts


def test_rows_can_be_chosen_and_joined():
    texts = of([([1], [2, 3]), ([4, 5], []), ([6], [7])])
    assert texts.select([2, 0]) == of([([6], [7]), ([1], [2, 3])])
    assert concatenated([texts.select([0]), texts.select([1, 2])]) == texts
    assert texts.lengths.tolist() == [3, 2, 2] and texts.completion_lengths.tolist() == [2, 0, 1]


def test_what_does_not_fit_is_named():
    with pytest.raises(DataError, match="2 prompts for 1 completions"):
        Completions([[1], [2]], [[3]])
    with pytest.raises(DataError, match="row 1 has a prompt without tokens"):
        Completions([[1], []], [[3], [4]]).padded(0)


def test_pairs_and_groups_keep_what_belongs_together():
    chosen, rejected = of([([1], [2]), ([3], [4]), ([5], [6])]), of([([1], [7, 7]), ([3], [8]), ([5], [9])])
    pairs = PairBatch(chosen, rejected, torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]))
    some = pairs.select([2, 0])
    assert some.chosen.completions == [[6], [2]] and some.ref_chosen.tolist() == [2.0, 0.0] and some.ref_rejected.tolist() == [5.0, 3.0]
    assert pairs.lengths.tolist() == [3, 2, 2]
    rows = of([([b], [b, i][: i + 1]) for b in (1, 2) for i in (0, 1)])
    groups = GroupBatch(rows, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2), torch.ones(2, 2))
    last = groups.select([1])
    assert len(last) == 1 and last.completions.prompts == [[2], [2]] and last.rewards.tolist() == [[3.0, 4.0]]
    assert last.old is not None and groups.lengths.tolist() == [3, 3]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200), st.integers(1, 4), st.integers(1, 2))
def test_every_row_is_in_one_part_and_no_part_is_too_large(lengths, most, processes, rows_each):
    parts = micro_batches(np.array(lengths), most, rows_each=rows_each, multiple_of=processes)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * rows_each * max(lengths[i] for i in part) <= most
    assert len(parts) % processes == 0 or len(parts) == len(lengths)


def test_rows_of_like_length_share_a_part():
    parts = micro_batches(np.array([10, 1, 9, 2, 1]), 20)
    assert parts == [[0, 2], [3, 4, 1]]  # 2 * 10 tokens, and 3 * 2 where mixed rows would cost 10 each
