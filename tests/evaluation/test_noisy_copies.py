"""Noisy copies of inputs: their law, moments and votes whatever the parts they come in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.evaluation import noisy_copies
from surefoot.evaluation.lvm_rs import all_outputs, simplex_maps
from surefoot.evaluation.noisy_copies import NoisyCopies, moments, votes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_copies_have_the_law_of_the_noise_and_inputs_do_not_share_it():
    x = torch.tensor([[1.0, -2.0], [0.0, 5.0], [3.0, 3.0]])
    copies = torch.cat(list(NoisyCopies(lambda x: x, x, 0.5, 1000, generator()).logits(20_000)), 1)
    assert copies.shape == (3, 20_000, 2) and copies.dtype == torch.float64
    np.testing.assert_allclose(copies.mean(1), x, atol=4 * 0.5 / np.sqrt(20_000))
    flat = (copies - x[:, None]).permute(0, 2, 1).reshape(6, -1).numpy()
    np.testing.assert_allclose(np.cov(flat), 0.25 * np.eye(6), atol=4 * 0.25 * np.sqrt(2 / 20_000))


@given(st.integers(0, 1000), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from([1, 50, 1 << 22]))
@settings(deadline=None)
def test_moments_and_votes_are_those_of_all_samples(seed, sizes, held):
    parts = [torch.randn(2, b, 3, generator=generator(seed), dtype=torch.float64) for b in (*sizes, 2)]
    maps, whole = simplex_maps((0.5, 4.0)), torch.cat(parts, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noisy_copies, "MAPPED", held)
        mean, std = moments(lambda z: all_outputs(maps, z), iter(parts), len(maps))
    outputs = all_outputs(maps, whole).numpy()
    np.testing.assert_allclose(mean, outputs.mean(2), atol=1e-12)
    np.testing.assert_allclose(std, outputs.std(2, ddof=1), atol=1e-9)
    counts = votes(iter(parts), 3).numpy()
    np.testing.assert_array_equal(counts, [np.bincount(each.argmax(-1), minlength=3) for each in whole.numpy()])


def test_passes_are_as_large_as_the_inputs_allow():
    at_once = lambda *shape: NoisyCopies(lambda x: x, torch.zeros(1, *shape), 0.5, None, generator()).at_once  # noqa: E731
    assert at_once(4) == 4096 and at_once(64) == 1024 and at_once(3, 224, 224) == 64
