"""Swapping winners and losers of preference pairs at random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.flips import flips, swapped
from surefoot.errors import ConfigError, DataError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_rate_is_met_and_the_seed_decides():
    flip = flips((40_000,), 0.3, generator())
    assert flip.dtype == torch.bool and abs(flip.double().mean().item() - 0.3) < 4 * (0.21 / 40_000) ** 0.5
    assert torch.equal(flip, flips((40_000,), 0.3, generator())) and not torch.equal(flip, flips((40_000,), 0.3, generator(1)))
    assert not flips((100,), 0.0).any() and flips((100,), 1.0).all()


def test_fewer_flips_are_a_subset_of_more():
    few, many = (flips((1000,), rate, generator()) for rate in (0.1, 0.4))
    assert (few <= many).all() and few.sum() < many.sum()


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.booleans()), max_size=20))
def test_pairs_stay_together_and_swapping_twice_undoes_it(rows):
    chosen, rejected = [c for c, _, _ in rows], [r for _, r, _ in rows]
    where = torch.tensor([swap for _, _, swap in rows], dtype=torch.bool)
    once = swapped(chosen, rejected, where)
    assert [{c, r} for c, r in zip(*once, strict=True)] == [{c, r} for c, r in zip(chosen, rejected, strict=True)]
    assert [pair[0] for pair in zip(*once, strict=True)] == [r if swap else c for c, r, swap in rows]
    assert swapped(*once, where) == (chosen, rejected)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"the rate of flips is 1\.2: it must lie between 0 and 1"):
        flips((3,), 1.2)
    with pytest.raises(DataError, match="2 chosen, 2 rejected completions and 3 flips"):
        swapped(["a", "b"], ["c", "d"], torch.zeros(3, dtype=torch.bool))
