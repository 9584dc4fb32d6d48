"""Augmentations: what they keep, and that they are what they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.augmenting import Augmentation, contrasted, cropped, mirrored, shifted
from surefoot.errors import ConfigError


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.sampled_from([(6, 5), (3, 6, 5)]))
@settings(max_examples=25, deadline=None)
def test_images_stay_images(seed, shape):
    x = torch.rand(4, *shape, generator=drawn(seed))
    found = Augmentation(shift=2, contrast=0.4, crop=0.3, flip=True)(x, drawn(seed + 1))
    assert found.shape == x.shape and found.min() >= 0.0 and found.max() <= 1.0 and found.dtype == x.dtype
    assert torch.equal(found, Augmentation(2, 0.4, 0.3, True)(x, drawn(seed + 1)))


def test_a_shift_moves_the_whole_image_by_whole_pixels():
    x = torch.zeros(300, 1, 5, 5)
    x[:, 0, 2, 2] = 1.0
    at = shifted(x, 1, drawn()).flatten(1).argmax(1)
    assert set(at.tolist()) == {5 * r + c for r in (1, 2, 3) for c in (1, 2, 3)}
    corner = torch.zeros(1, 5, 5)
    corner[0, 0, 0] = 1.0
    assert all(shifted(corner, 1, drawn(seed)).sum() in (0.0, 1.0) for seed in range(9))  # it may leave, and nothing enters


def test_half_are_mirrored():
    x = torch.arange(3.0).expand(1000, 2, 3)
    found = mirrored(x, drawn())
    flipped = (found == x.flip(-1)).all(-1).all(-1)
    assert (flipped | (found == x).all(-1).all(-1)).all() and abs(flipped.float().mean() - 0.5) < 4 * 0.5 / 1000**0.5


def test_contrast_is_one_factor_an_image():
    x = torch.full((500, 4), 0.5)
    factor = contrasted(x, 0.1, drawn()) / x
    assert (factor == factor[:, :1]).all() and factor.min() >= 0.9 - 1e-6 and factor.max() <= 1.1 + 1e-6 and factor.std() > 0.05


def test_a_crop_of_the_whole_image_is_the_image():
    x = torch.rand(3, 2, 6, 6, generator=drawn())
    square = cropped(x, 0.999999, drawn(1))  # of the area: its sides may still differ, so the shorter one is cut a little
    assert (square - x).abs().mean() < 0.2
    ramp = torch.linspace(0, 1, 8).expand(200, 8, 8)
    small = cropped(ramp, 0.1, drawn(2))
    spread = small[:, 0, -1] - small[:, 0, 0]
    assert (spread > 0).all() and spread.min() < 0.5  # never mirrored, often a part


@pytest.mark.parametrize(
    ("settings", "shape", "match"),
    [
        ({"shift": -1}, (8, 8), "a shift of -1"),
        ({"contrast": 1.0}, (8, 8), "contrast 1.0"),
        ({"crop": 0.0}, (8, 8), "crop 0.0"),
        ({"shift": 1}, (64,), r"\(64,\) are vectors"),
        ({"shift": 8}, (8, 8), "shift is 8"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(settings, shape, match):
    with pytest.raises(ConfigError, match=match):
        Augmentation(**settings).check(shape)


def test_vectors_can_change_their_contrast():
    alone = Augmentation(shift=0)
    alone.check((64,))
    x = torch.rand(5, 64, generator=drawn())
    assert alone(x, drawn(1)).shape == x.shape
