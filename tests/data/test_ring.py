"""The ring buffer: what is kept after it wraps around, in which order, and how uniformly it is drawn from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from surefoot.data.log import Layout
from surefoot.data.ring import Ring

LAYOUT = Layout(obs_dim=1, action_dim=1, discrete=False)


def numbered(ring, steps):
    """Writes steps whose obs is 100 member + 10 slot + step / 1000; step 3 of slot 1 ends an episode."""
    for step in range(steps):
        rows = torch.zeros(ring.members, ring.slots, LAYOUT.width)
        for member in range(ring.members):
            for slot in range(ring.slots):
                rows[member, slot, 0] = 100 * member + 10 * slot + step / 1000
        ends = np.zeros((ring.members, ring.slots), bool)
        ends[:, 1:2] = step == 3
        ring.write(rows, ends)


@settings(deadline=None)
@given(length=st.integers(1, 6), slots=st.integers(1, 3), members=st.integers(1, 3), steps=st.integers(1, 15))
def test_it_keeps_the_newest_steps_in_order(length, slots, members, steps):
    ring = Ring(LAYOUT, length, slots, members)
    numbered(ring, steps)
    kept = np.arange(max(0, steps - length), steps)
    assert ring.size == len(kept)
    for member in range(members):
        rows, ends = ring.recorded(member)
        expected = np.concatenate([100 * member + 10 * slot + kept / 1000 for slot in range(slots)])
        np.testing.assert_allclose(rows[:, 0].numpy(), expected, rtol=1e-6)
        marked = {slot * len(kept) + len(kept) - 1 for slot in range(slots)}  # the newest step of each environment
        if slots > 1 and 3 in kept:
            marked.add(len(kept) + int(np.flatnonzero(kept == 3)[0]))
        assert set(np.flatnonzero(ends)) == marked
    assert not ring.ends[:, ring.next - 1].any() or steps == 4  # reading it marks nothing in the ring itself
    torch.testing.assert_close(ring.newest()[:, 0, 0], torch.arange(members) * 100.0 + (steps - 1) / 1000)


@pytest.mark.parametrize("steps", [5, 40])  # partly filled, and wrapped around
def test_draws_are_uniform_and_each_members_own(steps):
    ring = Ring(LAYOUT, 20, 2, 2)
    numbered(ring, steps)
    drawn = ring.draw(50, 400, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 2, 400)
    rows = torch.stack([ring.gather(d) for d in drawn])
    assert rows.shape == (50, 2, 400, LAYOUT.width)
    for member in range(2):
        seen, counts = np.unique(rows[:, member, :, 0].numpy(), return_counts=True)
        assert len(seen) == min(steps, 20) * 2
        assert ((seen >= 100 * member) & (seen < 100 * member + 20)).all()
        assert stats.chisquare(counts).pvalue > 1e-3
    assert not torch.equal(drawn[:, 0], drawn[:, 1] - 40)


def test_state_returns_to_the_same_ring():
    for steps in (0, 3, 11):
        ring, other = Ring(LAYOUT, 5, 2, 2), Ring(LAYOUT, 5, 2, 2)
        numbered(ring, steps)
        state = ring.state_dict()
        assert state["rows"].shape == (2, min(steps, 5), 2, LAYOUT.width)
        assert all(value.is_contiguous() for value in state.values())
        numbered(other, 4)
        other.load_state_dict({name: value.clone() for name, value in state.items()})
        for each in (ring, other):
            each.write(torch.full((2, 2, LAYOUT.width), 7.0), np.ones((2, 2), bool))
        assert (other.size, other.next) == (ring.size, ring.next)
        for member in range(2):
            for ours, theirs in zip(ring.recorded(member), other.recorded(member), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        draws = [each.draw(3, 10, torch.Generator().manual_seed(1)) for each in (ring, other)]
        assert torch.equal(*draws)
