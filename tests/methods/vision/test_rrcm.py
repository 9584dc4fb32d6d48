"""rRCM's pre-training: InfoNCE, schedules and gradients against the numbers of the card, the loop, and what consistency teaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.augmenting import Augmentation
from surefoot.data.images import DIGITS, Epochs, LabelledImages, read_images
from surefoot.errors import ConfigError
from surefoot.evaluation.certificates import clopper_pearson_lower
from surefoot.evaluation.lvm_rs import cohen
from surefoot.evaluation.radii import radius_one_sided
from surefoot.methods.vision.classifier import image_spec, represent, scaled
from surefoot.methods.vision.rrcm import (
    PRESETS,
    RRCM,
    Branch,
    RRCMConfig,
    discrimination_loss,
    infonce,
    preset,
    scales,
    target_rate,
    trajectory_loss,
)
from surefoot.nn.noise_conditional import NetworkSize, network
from surefoot.nn.noise_levels import noise_grid
from surefoot.nn.optimise import frozen_copy

SIZE = NetworkSize(width=16, depth=1, representation=8)
TINY = RRCMConfig(steps=4, batch=8, warmup=2, hidden=8, projection=4)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def branch(seed=0):
    return Branch(network((4, 4), SIZE, generator=drawn(seed)), SIZE.width_out, 8, 4)


# --- oracles ------------------------------------------------------------------------------------------------------------


def test_infonce_by_hand():
    """Oracle 1."""
    h, k = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(infonce(h, k, 0.2), [0.207990, 0.028727], atol=1e-6)
    same = torch.ones(8, 3)
    np.testing.assert_allclose(infonce(same, same, 0.2), np.full(8, 2.079442), atol=5e-7)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.05, 5.0))
@settings(max_examples=30, deadline=None)
def test_infonce_is_cross_entropy_and_knows_no_lengths(seed, b, tau):
    """Oracles 1 and 2."""
    h, k, by = (torch.randn(b, 5, generator=drawn(seed + i)) for i in range(3))
    found = infonce(h, k, tau)
    u, v = torch.nn.functional.normalize(h, dim=-1), torch.nn.functional.normalize(k, dim=-1)
    expected = torch.nn.functional.cross_entropy(u @ v.T / tau, torch.arange(b), reduction="none")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    longer = by[:, :1].abs() + 0.1
    torch.testing.assert_close(infonce(h * longer, k / longer, tau), found, atol=1e-3, rtol=1e-3)
    assert (found >= -1e-4).all() and (found <= np.log(b) + 2.0 / tau + 1e-4).all()


def test_schedules():
    """Oracle 4."""
    assert [scales(s, 300_000) for s in (0, 1, 129_200, 129_203, 129_300, 300_000)] == [21, 41, 41, 41, 81, 81]
    for s, rate in ((0, 0.99), (30_000, 0.9963078), (75_000, 0.9994512), (150_000, 0.9998893)):
        assert target_rate(s, 300_000) == pytest.approx(rate, abs=5e-8)
    assert target_rate(30_000, 300_000, sharpness=10.0) == pytest.approx(0.9945924, abs=5e-8)
    assert RRCMConfig().levels == RRCMConfig(steps=300_000).levels == 81


@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 5), st.floats(1.0, 30.0))
def test_schedules_only_rise(steps, first, times, sharpness):
    last = first * times
    found = [scales(s, steps, first, last) for s in range(0, steps + 1, max(1, steps // 17))]
    rates = [target_rate(s, steps, 0.9, 0.99, sharpness) for s in range(0, steps + 1, max(1, steps // 17))]
    assert found == sorted(found) and first + 1 == found[0] and max(found) <= last + 1
    assert rates == sorted(rates) and rates[0] == pytest.approx(0.9) and max(rates) <= 0.99


def test_the_goal_of_the_trajectory_gets_no_gradient():
    """Oracle 6: as if e(x + t' z, t') were a constant; and the target network gets none of the other term."""
    net, x, z = network((4, 4), SIZE, generator=drawn()), torch.rand(6, 4, 4, generator=drawn(1)), torch.randn(6, 4, 4, generator=drawn(2))
    t, t_next = torch.tensor(0.8), torch.tensor(0.5)
    found = torch.autograd.grad(trajectory_loss(net, x, z, t, t_next, 0.2).mean(), list(net.parameters()))
    goal = represent(net, x + t_next * z, t_next).detach()
    expected = torch.autograd.grad(infonce(represent(net, x + t * z, t), goal, 0.2).mean(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    k = torch.randn(6, 3, generator=drawn(3), requires_grad=True)
    assert not infonce(k.detach(), k, 0.2).requires_grad

    online = branch()
    target = frozen_copy(online).requires_grad_(True)
    discrimination_loss(online, target, x, x.flip(-1), torch.tensor(0.002), 0.2).mean().backward()
    assert all(p.grad is None for p in target.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in online.projector.parameters() if p.dim() == 2)


def test_certificates_of_the_card():
    """Oracle 8: votes of 100,000 (and 10,000) to radii at sigma 0.25."""
    for votes, n, low, radius in ((99_990, 100_000, 0.999759, 0.872552), (60_000, 100_000, 0.595201, 0.060236)):
        p = float(clopper_pearson_lower(votes, n, 0.001))
        assert p == pytest.approx(low, abs=5e-7) and float(radius_one_sided(p, 0.25)) == pytest.approx(radius, abs=5e-7)
    for n, radius in ((100_000, 0.952864), (10_000, 0.799644)):
        assert float(radius_one_sided(float(clopper_pearson_lower(n, n, 0.001)), 0.25)) == pytest.approx(radius, abs=5e-7)
    always = cohen(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2), torch.zeros(1), 0.25, n=10_000, alpha=0.001)
    assert always.label == 1 and always.radius == pytest.approx(0.799644, abs=5e-7)


# --- the loop -----------------------------------------------------------------------------------------------------------


def batches(seed=0, n=8):
    x = torch.rand(n, 4, 4, generator=drawn(seed))
    return LabelledImages(x, torch.arange(n) % 2)


def method(config=TINY, seed=0, **change):
    return RRCM(image_spec((4, 4), 2), config, SIZE, Augmentation(**change), seed=seed)


def test_an_update_is_the_sum_of_both_terms_at_one_level_and_one_noise(monkeypatch):
    """What the losses are given: neighbouring levels of the grid, the same z, clean views at the least level."""
    import surefoot.methods.vision.rrcm as module

    seen = {}

    def discriminated(online, target, a, b, t_least, temperature):
        seen["a"], seen["b"], seen["least"] = a, b, t_least
        return discrimination_loss(online, target, a, b, t_least, temperature)

    def kept(encoder, x, z, t, t_next, temperature):
        seen.update(x=x, z=z, t=t, t_next=t_next)
        return trajectory_loss(encoder, x, z, t, t_next, temperature)

    monkeypatch.setattr(module, "discrimination_loss", discriminated)
    monkeypatch.setattr(module, "trajectory_loss", kept)
    learner, batch = method(shift=0, contrast=0.0), batches()
    for step in range(4):
        n_levels = scales(step, 4)
        metrics = learner.update(batch)
        grid = noise_grid(n_levels)
        n = int((grid == seen["t"]).nonzero())
        assert seen["t"].dim() == 0 and seen["t_next"] == grid[n + 1] < seen["t"] and seen["least"] == grid[-1]
        torch.testing.assert_close(seen["x"], scaled(batch.x))
        for view in ("a", "b"):
            torch.testing.assert_close(seen[view], scaled(batch.x) + grid[-1] * seen["z"])
        assert metrics["loss"] == pytest.approx(float(metrics["discrimination"] + metrics["consistency"]))


def test_targets_move_by_their_rates_and_statistics_stay_their_own():
    learner = method(replace(TINY, steps=100, average=0.9))
    start = learner.target.encoder.enter.weight.clone(), learner.average.enter.weight.clone()
    learner.update(batches())
    now = learner.online.encoder.enter.weight
    torch.testing.assert_close(learner.target.encoder.enter.weight, start[0] * 0.99 + now * 0.01)
    torch.testing.assert_close(learner.average.enter.weight, start[1] * 0.9 + now * 0.1)
    assert not any(p.requires_grad for p in (*learner.target.parameters(), *learner.average.parameters()))
    learned = learner.learned()
    assert all(p.requires_grad for p in learned.parameters()) and learned.enter.weight.data_ptr() != learner.average.enter.weight.data_ptr()


def test_the_same_seed_learns_the_same_and_a_resume_goes_on_bit_for_bit():
    one, two = method(seed=5), method(seed=5)
    other = method(seed=6)
    for i in range(4):
        if i == 2:  # a new process: another object, everything from the state
            state = {name: value.clone() for name, value in two.state_dict().items()}
            two = method(seed=77)
            two.load_state_dict(state)
        first, second = one.update(batches(i)), two.update(batches(i))
        other.update(batches(i))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert not torch.equal(one.average.enter.weight, other.average.enter.weight)


def test_a_transformer_trains_too():
    size = NetworkSize("vit", width=16, depth=1, heads=2, patch=2)
    learner = RRCM(image_spec((3, 4, 4), 2), TINY, size, Augmentation(flip=True, crop=0.5))
    x = torch.rand(8, 3, 4, 4, generator=drawn())
    before = learner.online.encoder.class_token.clone()
    for _ in range(2):
        metrics = learner.update(LabelledImages(x, torch.zeros(8, dtype=torch.int64)))
    assert all(bool(value.isfinite()) for value in metrics.values()) and not torch.equal(before, learner.online.encoder.class_token)


def retrieved(consistency):
    """Share of held-out digits whose noisy representation is nearest to that of the same digit with a little less noise."""
    train, rest = read_images(DIGITS, seed=0)
    config = replace(RRCMConfig(), steps=150, warmup=20, batch=128, consistency=consistency)
    size = NetworkSize(width=64, depth=1, representation=32)
    learner = RRCM(image_spec(train.shape, 10), config, size, Augmentation(), seed=0)
    source = Epochs(train, config.batch, whole=True)
    for _ in range(config.steps):
        learner.update(next(source))
    x, grid = scaled(rest.read()), noise_grid(81)
    z = torch.randn(x.shape, generator=drawn(1))
    with torch.no_grad():
        noisy, cleaner = (represent(learner.average, x + grid[i] * z, grid[i]) for i in (53, 63))  # t = 0.49 and 0.14
        u, v = torch.nn.functional.normalize(noisy, dim=-1), torch.nn.functional.normalize(cleaner, dim=-1)
    return float(((u @ v.T).argmax(1) == torch.arange(len(x))).float().mean())


def test_consistency_along_the_trajectory_is_what_keeps_a_representation_under_noise():
    """Without the term the same training recognises far fewer images behind their noise (0.42 for 0.74 of 540)."""
    kept, lost = retrieved(1.0), retrieved(0.0)
    assert kept > 0.6 and kept > lost + 4 * (0.5 / 540) ** 0.5  # four standard errors, at the most that they can be


# --- settings -----------------------------------------------------------------------------------------------------------


def test_presets_are_the_papers():
    cifar, imagenet = PRESETS["cifar10"], PRESETS["imagenet"]
    assert (cifar.pretraining.steps, cifar.pretraining.batch, cifar.pretraining.last_rate) == (300_000, 2048, 0.9999)
    assert (imagenet.pretraining.steps, imagenet.pretraining.weight_decay, imagenet.network.patch) == (600_000, 0.03, 16)
    strengths = {(name, sigma): preset(name, sigma).tuning.strength for name in ("small", "cifar10") for sigma in (0.25, 0.5, 1.0)}
    assert [strengths["small", s] for s in (0.25, 0.5)] == [10.0, 2.0]
    assert [strengths["cifar10", s] for s in (0.25, 0.5, 1.0)] == [10.0, 20.0, 20.0]
    with pytest.raises(ConfigError, match="preset is 'mnist'"):
        preset("mnist", 0.25)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 1}, "batch is 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"consistency": -1.0}, "consistency is -1.0"),
        ({"last_scales": 10}, "last_scales is 10"),
        ({"last_rate": 0.5}, "rates of the target are 0.99 and 0.5"),
        ({"average": 1.0}, "of the average 1.0"),
    ],
)
def test_settings_outside_their_range_are_refused(change, match):
    with pytest.raises(ConfigError, match=match):
        replace(RRCMConfig(), **change)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ConfigError, match=r"InfoNCE of \(3, 2\) and \(2, 2\)"):
        infonce(torch.zeros(3, 2), torch.zeros(2, 2), 0.2)
    with pytest.raises(ConfigError, match=r"\(64,\) are vectors"):
        RRCM(image_spec((64,), 10), TINY, SIZE, Augmentation())
