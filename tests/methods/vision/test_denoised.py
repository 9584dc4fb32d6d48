"""Denoise-then-classify: EDM's denoiser against the exact one of a Gaussian, its solvers, its calls, and that it learns to denoise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.images import DIGITS, Epochs, LabelledImages, read_images
from surefoot.errors import ConfigError
from surefoot.evaluation.lvm_rs import cohen_inputs
from surefoot.methods.vision.classifier import image_spec, scaled
from surefoot.methods.vision.denoised import (
    DenoisedClassifier,
    Denoiser,
    DenoiserConfig,
    DenoiserTraining,
    calls,
    denoised,
    denoising_loss,
)
from surefoot.nn.noise_conditional import NetworkSize

SIZE = NetworkSize(width=16, depth=1)
STD = 0.3


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(x, t):
    """E[x_0 | x] of x_0 ~ N(0, STD^2): the best denoiser of all."""
    return STD**2 / (STD**2 + t**2) * x


# --- one denoiser -------------------------------------------------------------------------------------------------------


def test_a_denoiser_is_its_preconditioning_around_a_network():
    denoiser, x = Denoiser(image_spec((4, 4), 2), SIZE, drawn()), torch.randn(5, 4, 4, generator=drawn(1))
    for t in (0.05, 0.5, 3.0):
        inside = denoiser.network(x / (t**2 + 0.25) ** 0.5, 250.0 * torch.log(torch.tensor(t)))
        expected = 0.25 / (t**2 + 0.25) * x + 0.5 * t / (t**2 + 0.25) ** 0.5 * inside
        torch.testing.assert_close(denoiser(x, torch.tensor(t)), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(denoiser(x, torch.full((5,), t)), denoiser(x, torch.tensor(t)))
    torch.testing.assert_close(denoiser(x, torch.tensor(1e-6)), x, atol=1e-4, rtol=0)  # nothing to take away


def test_the_loss_of_a_denoiser_that_changes_nothing():
    """|x + t z - x|^2 weighted: (t^2 + 1/4) z^2 / (1/4)."""
    x, z = torch.rand(3, 4, 4, generator=drawn()), torch.randn(3, 4, 4, generator=drawn(1))
    t = torch.tensor([0.1, 1.0, 5.0])
    found = denoising_loss(lambda noisy, _: noisy, x, z, t)
    torch.testing.assert_close(found, (t**2 + 0.25) / 0.25 * z.square().flatten(1).mean(1), rtol=1e-4, atol=1e-5)


# --- solvers ------------------------------------------------------------------------------------------------------------


def test_one_step_is_one_call():
    x = torch.randn(6, 3, generator=drawn())
    torch.testing.assert_close(denoised(exact, x, 0.7), exact(x, torch.tensor(0.7)))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_many_steps_reach_the_exact_flow(solver):
    """dx/dt = x t / (STD^2 + t^2) from t to 0 is x STD / sqrt(STD^2 + t^2); Heun's error falls with the square of the step."""
    x = torch.tensor([[-0.9, 0.1, 0.8]], dtype=torch.float64)
    flow = x * STD / (STD**2 + 0.8**2) ** 0.5
    errors = [float((denoised(exact, x, 0.8, steps, solver) - flow).abs().max()) for steps in (10, 20, 40)]
    order = np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])
    assert errors[-1] < (1e-2 if solver == "euler" else 5e-4)
    assert np.allclose(order, 1.0 if solver == "euler" else 2.0, atol=0.35)


@given(st.integers(1, 6), st.sampled_from(["euler", "heun"]))
@settings(max_examples=12, deadline=None)
def test_calls_are_counted_right(steps, solver):
    asked = []

    def counted(x, t):
        asked.append(float(t))
        return exact(x, t)

    denoised(counted, torch.zeros(1, 2), 0.5, steps, solver)
    assert len(asked) + 1 == calls(steps, solver) and asked[0] == pytest.approx(0.5) and min(asked) > 0.0


def test_what_comes_out_is_an_image():
    found = denoised(lambda x, t: 9.0 * x, torch.tensor([[1.0, -1.0, 0.01]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0, 0.09]]))


def test_the_classifier_sees_clean_images_in_its_own_units():
    clean = torch.rand(5, 4, generator=drawn())
    seen = []

    def classifier(x):
        seen.append(x)
        return x

    def knows(x, t):
        assert float(t) == pytest.approx(0.5)  # 2 sigma: noise where images lie in [-1, 1]
        return scaled(clean)

    torch.testing.assert_close(DenoisedClassifier(torch.nn.Module(), torch.nn.Identity(), 0.25).sigma, 0.25)
    made = DenoisedClassifier(torch.nn.Identity(), torch.nn.Identity(), 0.25)
    made.denoiser, made.classifier = Called(knows), Called(classifier)
    made(clean + 0.25)
    torch.testing.assert_close(seen[0], clean)


class Called(torch.nn.Module):
    """A function as a module."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, *inputs):
        return self.of(*inputs)


# --- training -----------------------------------------------------------------------------------------------------------


def test_it_learns_to_denoise_digits_and_a_classifier_behind_it_certifies():
    train, rest = read_images(DIGITS, seed=0)
    learner = DenoiserTraining(image_spec(train.shape, 10), DenoiserConfig(steps=300, batch=128), NetworkSize(width=64, depth=1))
    source = Epochs(train, 128, whole=True)
    for _ in range(300):
        metrics = learner.update(next(source))
    x = scaled(rest.read())
    noisy = x + 0.5 * torch.randn(x.shape, generator=drawn(3))
    with torch.no_grad():
        after = float((denoised(learner.denoiser, noisy, 0.5) - x).square().mean())
    mean, spread = scaled(train.read()).mean(0), scaled(train.read()).var(0)
    linear = mean + spread / (spread + 0.25) * (noisy - mean)  # the best that looks at each pixel alone
    assert after < 0.9 * float((linear - x).square().mean()) < 0.9 * 0.25 and metrics["loss"].isfinite()

    centres = torch.stack([train.read()[train.y == k].flatten(1).mean(0) for k in range(10)])
    nearest = Called(lambda images: -torch.cdist(images.flatten(1), centres))
    found = cohen_inputs(DenoisedClassifier(learner.denoiser, nearest, 0.25), rest.read()[:20], 0.25, n=200, generator=drawn(4))
    assert np.mean([each.label == y for each, y in zip(found, rest.y.tolist(), strict=False)]) > 0.6


def test_the_same_seed_learns_the_same_and_a_resume_goes_on_bit_for_bit():
    def made(seed):
        return DenoiserTraining(image_spec((4, 4), 2), DenoiserConfig(steps=6, batch=8), SIZE, seed=seed)

    one, two = made(1), made(1)
    for i in range(5):
        if i == 2:
            state = {name: value.clone() for name, value in two.state_dict().items()}
            two = made(50)
            two.load_state_dict(state)
        batch = LabelledImages(torch.rand(8, 4, 4, generator=drawn(i)), torch.zeros(8, dtype=torch.int64))
        assert torch.equal(one.update(batch)["loss"], two.update(batch)["loss"])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DenoiserConfig(steps=0), "a denoiser of 0 steps"),
        (lambda: DenoiserConfig(log_std=0.0), "log_std 0.0"),
        (lambda: denoised(exact, torch.zeros(1, 2), 0.5, 0), "0 steps of 'euler'"),
        (lambda: denoised(exact, torch.zeros(1, 2), 0.5, 1, "midpoint"), "1 steps of 'midpoint'"),
        (lambda: denoised(exact, torch.zeros(1, 2), 0.001), "the noise is 0.001"),
    ],
)
def test_settings_outside_their_range_are_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
