"""Training with noise and consistency: the regulariser by hand, what each stage trains, rates by layer, and what consistency gains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from surefoot.data.images import DIGITS, Epochs, LabelledImages, read_images
from surefoot.errors import ConfigError
from surefoot.methods.vision.classifier import image_spec, represent, scaled
from surefoot.methods.vision.noise_trained import NoiseTrained, TuningConfig, consistency_terms, probe_loss
from surefoot.nn.noise_conditional import NetworkSize, network

SIZE = NetworkSize(width=16, depth=2, representation=8)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, seed=0):
    return LabelledImages(torch.rand(n, 4, 4, generator=drawn(seed)), torch.arange(n) % 3)


def method(config=None, seed=0, **change):
    return NoiseTrained(image_spec((4, 4), 3), config or TuningConfig(epochs=2), 0.25, SIZE, epoch=3, seed=seed, **change)


# --- the regulariser ----------------------------------------------------------------------------------------------------


def test_the_regulariser_by_hand():
    """Oracle 5."""
    logits = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]]])  # two copies of one image
    np.testing.assert_allclose(logits.softmax(-1).mean(0)[0], [0.5279, 0.3452, 0.1270], atol=5.1e-5)
    kl, entropy = consistency_terms(logits)
    assert kl.item() == pytest.approx(0.2572, abs=5e-5) and entropy.item() == pytest.approx(0.9665, abs=5e-5)
    assert (10.0 * kl + 0.5 * entropy).item() == pytest.approx(3.0554, abs=5e-5)
    kl, entropy = consistency_terms(logits[:1].expand(3, 1, 3))
    assert kl.item() == pytest.approx(0.0, abs=1e-6) and entropy.item() > 0.0


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 6), st.floats(0.1, 30.0))
@settings(max_examples=40, deadline=None)
def test_the_regulariser_is_torchs_divergence_and_never_negative(seed, m, c, scale):
    logits = scale * torch.randn(m, 5, c, generator=drawn(seed))
    kl, entropy = consistency_terms(logits)
    p, logp = logits.softmax(-1), logits.log_softmax(-1)
    mean = p.mean(0)
    expected = torch.stack([kl_div(each, mean, reduction="none").sum(-1) for each in logp]).mean(0)
    torch.testing.assert_close(kl, expected, atol=1e-4, rtol=1e-4)
    assert (kl >= -1e-4).all() and (entropy >= -1e-6).all() and (entropy <= np.log(c) + 1e-5).all()
    # lambda KL + eta H is cross entropy against the mean if both weights agree
    torch.testing.assert_close(kl + entropy, -(mean * logp).sum(-1).mean(0), atol=1e-4, rtol=1e-4)


def test_the_mean_prediction_moves_too():
    """No gradient is stopped: it differs from that with the mean held fixed."""
    logits = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]]], requires_grad=True)
    (whole,) = torch.autograd.grad(consistency_terms(logits)[0].sum(), logits)
    mean = logits.softmax(-1).mean(0).detach()
    fixed = -(mean * logits.log_softmax(-1)).sum(-1).mean(0)
    (stopped,) = torch.autograd.grad(fixed.sum(), logits)
    assert not torch.allclose(whole, stopped, atol=1e-3)


def test_certain_predictions_have_no_infinite_logarithm():
    logits = torch.tensor([[[1e4, 0.0]], [[1e4, 0.0]]], requires_grad=True)
    kl, entropy = consistency_terms(logits)
    (kl + entropy).sum().backward()
    assert kl.isfinite() and entropy.isfinite() and logits.grad.isfinite().all()


# --- stages -------------------------------------------------------------------------------------------------------------


def test_an_update_is_the_papers_loss():
    learner, data = method(TuningConfig(epochs=2, copies=3, strength=7.0, entropy=0.3)), batch()
    again = method(TuningConfig(epochs=2, copies=3, strength=7.0, entropy=0.3))
    z = torch.randn(3, 6, 4, 4, generator=again.generator)
    logits = torch.stack([again.classifier.logits(scaled(data.x) + 0.5 * each) for each in z])  # noise of 0.25 in [0, 1]
    kl, entropy = (each.mean() for each in consistency_terms(logits))
    likelihood = torch.stack([cross_entropy(each, data.y) for each in logits]).mean()
    metrics = learner.update(data)
    torch.testing.assert_close(metrics["loss"], (likelihood + 7.0 * kl + 0.3 * entropy).detach())
    torch.testing.assert_close(metrics["cross_entropy"], likelihood.detach())


def test_rates_fall_layer_by_layer_from_the_head():
    learner = method(TuningConfig(epochs=2, lr=1.0, head_lr=3.0, layer_decay=0.5))
    encoder, groups = learner.classifier.encoder, learner.optimiser.param_groups
    assert [group["lr"] for group in groups] == [0.5**4, 0.5**3, 0.5**2, 0.5, 3.0]  # input, two blocks, output, head
    assert groups[0]["params"][0] is encoder.enter.weight and groups[-1]["params"][0] is learner.classifier.head.weight


def test_a_probe_trains_the_head_alone_on_clean_images():
    config = TuningConfig(epochs=1, probe_epochs=1, freeze_head=True)
    learner, data = method(config), batch()
    encoder, head = ([p.clone() for p in part.parameters()] for part in (learner.classifier.encoder, learner.classifier.head))
    logits = learner.classifier.head(represent(learner.classifier.encoder, scaled(data.x), torch.tensor(0.002)))
    expected = probe_loss(logits, data.y).detach()
    torch.testing.assert_close(learner.update(data)["probe_loss"], expected)
    assert expected.item() == pytest.approx(2.0 * np.log(3), abs=1e-3)  # of a head near 0: cross entropy, and as much entropy
    learner.update(data), learner.update(data)
    assert all(torch.equal(a, b) for a, b in zip(encoder, learner.classifier.encoder.parameters(), strict=True))
    probed = [p.clone() for p in learner.classifier.head.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(head, probed, strict=True))
    assert "kl" in learner.update(data)  # the probe is over: now the encoder, and the head stays
    assert all(torch.equal(a, b) for a, b in zip(probed, learner.classifier.head.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(encoder, learner.classifier.encoder.parameters(), strict=True))


def test_a_given_encoder_is_where_it_starts():
    encoder = network((4, 4), SIZE, generator=drawn(9))
    assert method(encoder=encoder).classifier.encoder is encoder


def test_a_resume_goes_on_bit_for_bit():
    config = TuningConfig(epochs=2, probe_epochs=1, layer_decay=0.8, warmup=0.3)
    for stop in (1, 3, 5):
        one, two = method(config, seed=3), method(config, seed=3)
        for i in range(7):
            if i == stop:
                state = {name: value.clone() for name, value in two.state_dict().items()}
                two = method(config, seed=99)
                two.load_state_dict(state)
            first, second = one.update(batch(seed=i)), two.update(batch(seed=i))
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
        ours, theirs = one.classifier.state_dict(), two.classifier.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def disagreement(strength):
    """How far the classifier's answers on held-out digits move between noisy copies, and how often the mean answer is right."""
    train, rest = read_images(DIGITS, seed=0)
    size = NetworkSize(width=64, depth=1, representation=32)
    config = replace(TuningConfig(), epochs=12, strength=strength, entropy=0.0)
    source = Epochs(train, config.batch, seed=0)
    learner = NoiseTrained(image_spec(train.shape, 10), config, 0.5, size, epoch=source.batches, seed=0)
    for _ in range(learner.total):
        learner.update(next(source))
    x = rest.read()
    with torch.no_grad():
        noisy = x + 0.5 * torch.randn(20, *x.shape, generator=drawn(1))
        logits = learner.classifier(noisy.flatten(0, 1)).unflatten(0, (20, len(x)))
    right = (logits.softmax(-1).mean(0).argmax(-1) == rest.y).float().mean()
    return float(consistency_terms(logits)[0].mean()), float(right)


def test_consistency_is_what_makes_noisy_copies_agree():
    """With the term off the same training leaves answers that differ from copy to copy far more."""
    (kept, right), (lost, also) = disagreement(5.0), disagreement(0.0)
    assert kept < 0.6 * lost and right > also > 0.5


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"copies": 0}, "copies is 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"warmup": 1.0}, "warmup 1.0"),
        ({"freeze_head": True}, "freeze_head is on, but probe_epochs is 0"),
    ],
)
def test_settings_outside_their_range_are_refused(change, match):
    with pytest.raises(ConfigError, match=match):
        TuningConfig(**change)


def test_logits_of_one_copy_without_an_axis_are_refused():
    with pytest.raises(ConfigError, match=r"logits of shape \(5, 3\): consistency is among the copies"):
        consistency_terms(torch.zeros(5, 3))
