"""The classifier at one noise level: its formula, what it refuses, and that it is saved, read back and certified like any policy."""

import pytest
import torch

from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation.lvm_rs import certify_inputs, cohen_inputs
from surefoot.methods.vision.classifier import HEAD_STD, NoiseClassifier, by_row, image_spec, represent, scaled
from surefoot.nn.noise_conditional import NetworkSize
from surefoot.nn.noise_levels import noise_grid
from surefoot.policies.loading import load_classifier
from surefoot.policies.saving import read_policy, save_policy

SIZE = NetworkSize(width=16, depth=1, representation=6)
VIT = NetworkSize("vit", width=8, depth=1, heads=2, patch=2)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier(sigma=0.25, shape=(4, 4), size=SIZE, spread=True):
    made = NoiseClassifier(image_spec(shape, 3), size, sigma, generator=drawn())
    if spread:
        torch.nn.init.normal_(made.head.weight, generator=drawn(1))
    return made.eval()


def images(n=5, shape=(4, 4)):
    return torch.rand(n, *shape, generator=drawn(2))


def test_logits_are_the_formula():
    """W e(c_in(t) x, 250 ln t) + b with x in [-1, 1] and t the level of the grid nearest to 2 sigma."""
    for sigma, level in ((0.25, 0.492707), (0.5, 0.965417), (1.0, 2.003647)):
        made, x = classifier(sigma), images()
        t = torch.tensor(level)
        inputs = (2.0 * x - 1.0) / (t**2 + 0.25).sqrt()
        expected = made.encoder(inputs, 250.0 * t.log()) @ made.head.weight.T + made.head.bias
        torch.testing.assert_close(made(x), expected, atol=1e-3, rtol=1e-3)
        assert made.noise == 2.0 * sigma and made.level == noise_grid(81)[int((noise_grid(81) - 2 * sigma).abs().argmin())]


def test_a_level_for_each_row_is_that_level_for_all():
    made, x = classifier(), scaled(images())
    one = represent(made.encoder, x, torch.tensor(0.7))
    torch.testing.assert_close(represent(made.encoder, x, torch.full((5,), 0.7)), one)
    assert by_row(torch.ones(5), x).shape == (5, 1, 1) and by_row(torch.tensor(1.0), x).dim() == 0


def test_a_head_starts_near_nothing():
    """Truncated normal of 2e-5, bias 0: every class has the same chance."""
    made = classifier(spread=False)
    assert 0.0 < made.head.weight.abs().max() < 5.5 * HEAD_STD and not made.head.bias.any()
    torch.testing.assert_close(made(images()).softmax(-1), torch.full((5, 3), 1 / 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("size", "shape"), [(SIZE, (4, 4)), (SIZE, (7,)), (VIT, (4, 4)), (VIT, (3, 4, 6))])
def test_it_is_saved_read_back_and_certified_the_same(size, shape, tmp_path):
    made, x = classifier(0.5, shape, size), images(shape=shape)
    save_policy(made, tmp_path / "policy")
    back, as_classifier = read_policy(tmp_path / "policy"), load_classifier(str(tmp_path / "policy"), shape)
    assert isinstance(back, NoiseClassifier) and back.config() == made.config() and back.spec == made.spec
    for other in (back, as_classifier):
        assert torch.equal(other(x), made(x))
        ours, theirs = (cohen_inputs(one, x, 0.5, n=200, generator=drawn(3)) for one in (made, other))
        assert ours == theirs
    action, memory = made.act(x)
    assert torch.equal(action, made(x).argmax(-1)) and memory is None
    sampled = torch.stack([made.act(x, generator=drawn(i), greedy=False)[0] for i in range(40)])
    assert sampled.dtype == torch.int64 and len(sampled.unique()) > 1
    assert made.member(0) is made
    with pytest.raises(PolicyError, match="there is no member 1"):
        made.member(1)


def test_attacks_and_diagnoses_get_its_gradient():
    made, x = classifier(), images().requires_grad_(True)
    (gradient,) = torch.autograd.grad(made(x)[:, 0].sum(), x)
    assert gradient.shape == x.shape and bool((gradient != 0.0).any())


def test_what_cannot_be_classified_is_refused():
    made = classifier()
    with pytest.raises(PolicyError, match=r"expects images of shape \(4, 4\) in a batch, but got \(4, 4\)"):
        made(torch.zeros(4, 4))
    with pytest.raises(PolicyError, match=r"but got \(2, 5, 4\)"):
        made(torch.zeros(2, 5, 4))
    with pytest.raises(PolicyError, match=r"254.5 away from 0.5, where noise of 0.25 takes no image in \[0, 1\]: scale the images"):
        made(torch.full((1, 4, 4), 255.0))
    assert made(images() + 0.25 * torch.randn(5, 4, 4, generator=drawn())).isfinite().all()
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="sigma is"):
            classifier(sigma)


def test_logits_that_are_not_finite_certify_nothing():
    made = classifier()
    torch.nn.init.constant_(made.head.bias, float("nan"))
    for certify in (cohen_inputs, certify_inputs):
        with pytest.raises(DataError, match="a logit that is NaN or infinite"):
            certify(made, images(), 0.25, n=200)


def test_one_class_certifies_nothing():
    alone = NoiseClassifier(image_spec((4, 4), 1), SIZE, 0.25, generator=drawn())
    with pytest.raises(DataError, match="logits of c >= 2 classes"):
        cohen_inputs(alone, images(), 0.25, n=200)
