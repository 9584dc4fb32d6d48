"""Losses of alignment: numbers worked out by hand, gradients, limits, and TRL's own loss code on the same log-probabilities."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from surefoot.errors import ConfigError
from surefoot.methods.language.losses import (
    MARGIN_LOSSES,
    anchor,
    best_of_n,
    conservative,
    copg,
    copg_group,
    copg_policy_gradient,
    dpo,
    hinge,
    inpo,
    ipo,
    log_ratio,
    probit,
    reward_weighted,
    robust,
    rpo,
    sft,
    squared_margin,
)
from surefoot.nn.lbfgs import minimise


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, *inputs):
    """Of the summed loss with respect to each input."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(loss(*inputs).sum(), inputs)


def close(got, want, digits=6):
    torch.testing.assert_close(got, want if isinstance(want, torch.Tensor) else torch.full_like(got, want), atol=0.6 * 10**-digits, rtol=0)


# --- rDPO -------------------------------------------------------------------------------------------------------------


def test_no_flips_is_dpo_to_the_last_bit():
    x = drawn(100)
    close(robust(dpo, t(0.25), 0.0), 0.575939)
    assert torch.equal(robust(dpo, x, 0.0), dpo(x)) and torch.equal(conservative(dpo, x, 0.0), dpo(x))


def test_the_worked_pair():
    h = log_ratio(t(-12.0), t(-15.0), t(-13.5), t(-14.0))
    close(h, 2.5)
    for x, eps, want, smoothed in (
        (0.25, 0.1, 0.544689, 0.600939), (0.25, 0.3, 0.388439, 0.650939), (0.25, 0.4, 0.075939, 0.675939),
        (-1.3, 0.1, 1.703508, 1.411008), (-1.3, 0.3, 2.516008, 1.151008), (-1.3, 0.4, 4.141008, 1.021008),
    ):  # fmt: skip
        close(robust(dpo, t(x), eps), want)
        close(conservative(dpo, t(x), eps), smoothed)
    for eps, weight in ((0.1, 0.562823), (0.3, 1.187823), (0.4, 2.437823)):
        close(-gradient(lambda x, eps=eps: robust(dpo, x, eps), 0.1 * h)[0], weight)
    close(-gradient(lambda x: conservative(dpo, x, 0.3), t(0.25))[0], torch.sigmoid(t(-0.25)) - 0.3)


def test_the_mean_over_flips_is_the_clean_loss():
    close(robust(dpo, t(0.7), 0.35), -0.413481)
    close(robust(dpo, t(-0.7), 0.35), 1.919853)
    close(0.65 * robust(dpo, t(0.7), 0.35) + 0.35 * robust(dpo, t(-0.7), 0.35), 0.403186)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(MARGIN_LOSSES)), st.floats(-20, 20), st.floats(0.0, 0.49))
def test_unbiased_for_every_loss(name, x, eps):
    loss, x = MARGIN_LOSSES[name], t(x)
    torch.testing.assert_close((1 - eps) * robust(loss, x, eps) + eps * robust(loss, -x, eps), loss(x), atol=1e-9, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30), st.floats(0.0, 0.45))
def test_the_equivalent_form_and_its_gradient(x, eps):
    x, tilt = t(x), eps / (1 - 2 * eps)
    torch.testing.assert_close(robust(dpo, x, eps), dpo(x) - tilt * x, atol=1e-12, rtol=1e-12)
    (slope,) = gradient(lambda x: robust(dpo, x, eps), x)
    torch.testing.assert_close(slope, -(torch.sigmoid(-x) + tilt), atol=1e-12, rtol=1e-12)


def test_population_minimisers():
    recorded = 0.7 * 0.8 + 0.3 * 0.2
    assert recorded == pytest.approx(0.62)
    for loss, want in (
        (dpo, 0.489548),
        (lambda x: conservative(dpo, x, 0.3), 0.192593),
        (lambda x: robust(dpo, x, 0.3), 1.386294),
    ):
        risk = lambda x, loss=loss: (recorded * loss(t(x)) + (1 - recorded) * loss(t(-x))).item()  # noqa: E731
        found = minimize_scalar(risk, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
        assert found.x == pytest.approx(want, abs=2e-6)  # a parabola's bottom is flat


def test_other_bases():
    close(robust(hinge, t(0.4, 1.5), 0.2), t(0.333333, -0.833333))
    close(robust(ipo, t(0.4), 0.2), -0.256667)
    x = drawn(20)
    apart = robust(ipo, x, 0.2) - squared_margin(x, 0.5 / (1 - 0.4))  # IPO with a larger target, and a constant
    close(apart, apart[0].item(), 12)
    close(probit(t(0.0, 1.0, -30.0)), t(math.log(2), 0.172753780, 454.321243957), 8)  # the last: by the asymptotic series


def test_extreme_margins_stay_finite():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([-1e4, 1e4], dtype=dtype)
        for loss in MARGIN_LOSSES.values():
            assert loss(x).isfinite().all() and all(g.isfinite().all() for g in gradient(loss, x))
        assert dpo(x).tolist() == [1e4, 0.0]


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
def test_gradients_are_those_of_finite_differences(name):
    x = drawn(6).requires_grad_()
    for transform in (robust, conservative):
        assert torch.autograd.gradcheck(lambda x, transform=transform: transform(MARGIN_LOSSES[name], x, 0.3), (x,))


# --- RPO --------------------------------------------------------------------------------------------------------------


def test_the_worked_pair_of_rpo():
    logp_w, logp_l, ref_w, ref_l = t(-42.0), t(-44.0), t(-40.0), t(-41.5)
    x = 0.1 * log_ratio(logp_w, logp_l, ref_w, ref_l)
    close(x, 0.05)
    close(dpo(x), 0.668460)
    close(rpo(x, logp_w, 0.005, 0.1), 0.689460)
    close(rpo(x, logp_w, 0.2, 0.1), 1.508460)
    close(rpo(x, logp_w, 0.2, 0.1, lengths=t(20.0), form="mean"), 1.088460)
    up, down = gradient(lambda a, b: rpo(0.1 * log_ratio(a, b, ref_w, ref_l), a, 0.005, 0.1), logp_w, logp_l)
    close(up, -0.049250)
    close(down, 0.048750)


def test_limits_of_rpo():
    x, logp = drawn(50), -drawn(50, seed=1).abs() * 40
    assert torch.equal(rpo(x, logp, 0.0, 0.1), dpo(x))  # to the last bit
    eta = 1e9
    torch.testing.assert_close(rpo(x, logp, eta, 0.1) / (eta * 0.1), sft(logp), atol=1e-6, rtol=1e-6)
    for shift in (3.0, -7.0):  # of both reference log-probabilities of a prompt
        ref_w, ref_l = drawn(50, seed=2), drawn(50, seed=3)
        margins = [0.1 * log_ratio(logp, logp - 1.0, ref_w + c, ref_l + c) for c in (0.0, shift)]
        torch.testing.assert_close(*(rpo(m, logp, 0.2, 0.1) for m in margins))


def test_rpo_is_the_inner_minimum_of_the_adversary():
    """eta E_pi[r] - eta beta KL - eta E_base[r] at pi = pi_r is the SFT term, up to the reference's constant."""
    r, ref, base, beta, eta = t(1.0, 0.2, -0.5, 2.0), t(0.4, 0.3, 0.2, 0.1), t(0.5, 0.5, 0.0, 0.0), 0.7, 0.3
    best = (ref.log() + r / beta).softmax(-1)
    close(best, t(0.427164, 0.102169, 0.025057, 0.445610))
    left = eta * ((best * r).sum() - beta * (best * (best / ref).log()).sum() - (base * r).sum())
    right = eta * beta * (base * (sft(best.log()) - sft(ref.log()))).sum()
    close(left, 0.106202)
    close(right, 0.106202)


@pytest.mark.parametrize(
    ("eta", "want", "margin"),
    [
        (0.0, (0.642857, 0.071429, 0.285714), math.log(3)),
        (1e-3, (0.899856, 0.100144, 0.0), None),
        (0.1, (0.886380, 0.113620, 0.0), 1.027145),
        (1.0, (0.819448, 0.180552, 0.0), 0.756308),
    ],
)
def test_what_was_never_compared_loses_its_mass_for_every_eta(eta, want, margin):
    ref, beta, p = t(0.3, 0.3, 0.4).log(), 0.5, 0.75

    def population(logits):
        logp = logits.log_softmax(-1)
        x = beta * log_ratio(logp[:1], logp[1:2], ref[:1], ref[1:2])
        return (p * rpo(x, logp[:1], eta, beta) + (1 - p) * rpo(-x, logp[1:2], eta, beta)).sum()

    found = minimise(population, ref, iterations=2000, tolerance=1e-13).softmax(-1)
    close(found, t(*want), 5 if eta else 6)
    if margin is not None:
        assert beta * (found[0] / found[1]).log().item() == pytest.approx(margin, abs=2e-6)


def test_rpo_takes_another_preference_loss():
    x, logp, eps = drawn(30), -drawn(30, seed=1).abs(), 0.3
    got = rpo(x, logp, 0.2, 0.1, loss=lambda x: robust(dpo, x, eps))
    torch.testing.assert_close(got, dpo(x) - eps * x / (1 - 2 * eps) - 0.2 * 0.1 * logp)


# --- CoPG and INPO --------------------------------------------------------------------------------------------------------


def test_the_worked_pair_of_copg():
    logp_1, logp_2, ref_1, ref_2, reward, beta = t(-7.2), t(-9.1), t(-8.0), t(-8.5), t(0.9), 0.5
    d = log_ratio(logp_1, logp_2, ref_1, ref_2)
    close(d, 1.4)
    close(copg(d, reward, beta), 0.04)
    paper = lambda d: -(reward - 0.5 * beta * d) * d  # noqa: E731  # minus what the paper maximises
    close(-paper(d), 0.77)
    close((reward**2 - (reward - beta * d) ** 2) / (2 * beta), 0.77)
    for loss in (lambda d: copg(d, reward, beta), lambda d: copg_policy_gradient(d, reward, beta), paper):
        up, down = gradient(lambda a, b, loss=loss: loss(log_ratio(a, b, ref_1, ref_2)), logp_1, logp_2)
        close(torch.cat([up, down]), t(-0.2, 0.2))


def test_copg_with_quarter_rewards_is_ipo():
    d, beta = t(1.7), 0.5
    close(copg(d, t(0.5), beta), 0.1225)
    torch.testing.assert_close(copg(d, t(0.5), beta), 0.5 * beta * squared_margin(d, 0.5 / beta))
    torch.testing.assert_close(copg(d, t(0.5), beta), ipo(beta * d) / (2 * beta))


def test_copg_of_groups():
    rewards, beta = t(0.3, -1.0, 0.7, 0.2), 0.5
    close(2 * beta * copg_group(rewards, beta), torch.tensor(2.146667, dtype=torch.float64))
    pairs = sum((rewards[i] - rewards[j]) ** 2 for i in range(4) for j in range(i))
    close(2 * beta * copg_group(rewards, beta), pairs / 3)
    logp = drawn(4)
    (slope,) = gradient(lambda logp: copg_group(rewards + beta * (drawn(4) - logp), beta), logp)
    close(slope, -t(0.333333, -1.4, 0.866667, 0.2))  # minus leave-one-out advantages
    two = drawn(5, 2)
    torch.testing.assert_close(copg_group(two, beta), copg(t(0.0).expand(5), two[:, 0] - two[:, 1], beta))
    with pytest.raises(ConfigError, match="a group has 1 completion: CoPG contrasts at least two"):
        copg_group(rewards[:1], beta)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 5.0), st.floats(0.1, 10.0))
def test_invariances_of_copg(seed, beta, scale):
    d, reward, c = drawn(8, seed=seed), drawn(8, seed=seed + 1), drawn(8, seed=seed + 2)
    torch.testing.assert_close(copg(d, reward * scale, beta * scale), scale * copg(d, reward, beta))
    group = drawn(8, 3, seed=seed)
    torch.testing.assert_close(copg_group(group + c[:, None], beta), copg_group(group, beta))


def test_the_pair_of_inpo():
    logp, ref, cur = (t(-10.0), t(-11.0)), (t(-10.5), t(-10.8)), (t(-9.8), t(-10.9))
    for eta, want in ((0.3, 2.25), (0.005, 9966.694444)):
        h = log_ratio(*logp, *(anchor(r, c, eta / 3, eta) for r, c in zip(ref, cur, strict=True)))
        close(h, 1 / 6)
        close(inpo(h, eta), want)


def test_limits_of_inpo():
    logp, ref, cur = drawn(2, 9), drawn(2, 9, seed=1), drawn(2, 9, seed=2)
    assert torch.equal(anchor(ref, cur, 0.3, 0.3), ref) and torch.equal(anchor(ref, cur, 0.0, 0.3), cur)
    torch.testing.assert_close(anchor(ref, ref, 0.1, 0.3), ref)  # the first iteration, whatever tau
    h = log_ratio(*logp, *ref)
    torch.testing.assert_close(inpo(h, 0.3), ipo(0.3 * h) / 0.3**2)


# --- groups of completions --------------------------------------------------------------------------------------------------


def test_losses_of_groups():
    logp, rewards = t(0.5, 0.2, 0.2, 0.1).log(), t(0.2, 0.9, 0.4, 0.1)
    close(best_of_n(logp, rewards), torch.tensor(1.609438, dtype=torch.float64))
    assert best_of_n(logp.expand(3, 4), rewards).shape == (3,) and best_of_n(logp, t(1.0, 1.0, 0.0, 1.0)) == -logp[0]  # first of equals
    close(reward_weighted(logp, rewards, 0.5).mean(), torch.tensor(4.291210, dtype=torch.float64))
    torch.testing.assert_close(reward_weighted(logp, rewards, math.inf), sft(logp))
    torch.testing.assert_close(reward_weighted(logp, 100.0 * rewards, 0.5, largest=10.0), -10.0 * logp)


# --- conventions --------------------------------------------------------------------------------------------------------------


def test_copies_in_front_change_nothing():
    logp, ref, rewards = drawn(2, 3, 4, 7), drawn(2, 7, seed=1), drawn(7, seed=2)
    h = log_ratio(*logp, *ref)  # [3, 4, 7]
    for loss in (
        lambda h: robust(dpo, 0.1 * h, 0.2),
        lambda h: conservative(hinge, h, 0.2),
        lambda h: rpo(h, h, 0.1, 0.1, lengths=torch.full((7,), 5), form="mean"),
        lambda h: copg(h, rewards, 0.5),
        lambda h: inpo(h, 0.3),
    ):
        assert loss(h).shape == h.shape
        torch.testing.assert_close(loss(h)[1, 2], loss(h[1, 2]))


def test_single_precision_is_kept():
    x = torch.zeros(3)
    assert all(loss(x).dtype == torch.float32 for loss in MARGIN_LOSSES.values())
    assert robust(dpo, x, 0.3).dtype == rpo(x, x, 0.1, 0.1).dtype == copg(x, x, 0.5).dtype == torch.float32


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: robust(dpo, t(0.1), 0.5), "flip_rate is 0.5: it must be at least 0 and below 0.5"),
        (lambda: conservative(dpo, t(0.1), -0.1), "flip_rate is -0.1"),
        (lambda: robust(dpo, t(0.1), math.nan), "flip_rate is nan"),
        (lambda: log_ratio(t(1, 2), t(1, 2), t(1, 2)[:, None], t(1, 2)), r"shapes \(2,\), \(2,\), \(2, 1\), \(2,\)"),
        (lambda: rpo(t(0.1), t(-1.0), -0.1, 0.1), "eta is -0.1: it must be finite and not negative"),
        (lambda: sft(t(-1.0), form="mean"), "the mean form of the SFT term needs the lengths"),
        (lambda: sft(t(-1.0), form="both"), "the SFT term's form is 'both': it must be sum or mean"),
        (lambda: anchor(t(0.0), t(0.0), 0.4, 0.3), "tau is 0.4 and eta 0.3: 0 <= tau <= eta"),
        (lambda: best_of_n(t(0.0, 1.0), t(0.0, 1.0, 2.0)), "their last axes must be the same rows"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ConfigError, match=message):
        mistake()


# --- TRL ------------------------------------------------------------------------------------------------------------------


def trl_loss(loss_type, token_logp, ref_chosen, ref_rejected, mask, *, beta, label_smoothing=0.0, loss_weights=None):
    """What TRL's DPOTrainer computes from the log-probabilities `[2 B, T]` of its model: its own code, without a model.

    Row i and row B + i are winner and loser of a pair; `mask` says which tokens are the completion's.
    """
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    rows, width = token_logp.shape
    parts = {name: torch.zeros(rows, width) for name in ("entropy", "mean_logits")}
    outputs = SimpleNamespace(log_probs=token_logp, is_top1=torch.zeros(rows, width, dtype=torch.bool), **parts)

    class Model:
        training = True

        def __call__(self, **inputs):
            return outputs

    alone = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    itself = SimpleNamespace(
        accelerator=alone, model=Model(), beta=beta, label_smoothing=label_smoothing, precompute_ref_logps=True,
        loss_types=loss_type if isinstance(loss_type, list) else [loss_type], loss_weights=loss_weights or [1.0],
        aux_loss_enabled=False, ld_alpha=None, f_divergence_type="reverse_kl", use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    whole = torch.cat([torch.zeros(rows, 1, dtype=torch.bool), mask], 1).long()  # a first token that nothing predicts
    inputs = {
        "input_ids": torch.zeros_like(whole), "attention_mask": torch.ones_like(whole), "completion_mask": whole,
        "ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected,
    }  # fmt: skip
    return trainer._compute_loss(itself, itself.model, inputs, return_outputs=False)


def pairs(lengths, seed=0):
    """Token log-probabilities of B winners and B losers of given lengths, their mask, sums, and the reference's sums."""
    rows, width = len(lengths), max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    token_logp = -drawn(rows, width, seed=seed).abs() * mask
    token_logp.requires_grad_()
    return token_logp, mask, token_logp.sum(-1).chunk(2), drawn(rows, seed=seed + 1).chunk(2)


@pytest.mark.parametrize(
    ("loss_type", "loss", "smoothing"),
    [
        ("sigmoid", dpo, 0.0),
        ("hinge", hinge, 0.0),
        ("robust", lambda x: robust(dpo, x, 0.3), 0.3),
        ("robust", lambda x: robust(dpo, x, 0.0), 0.0),
    ],
)
def test_the_loss_and_gradient_are_those_of_trl(loss_type, loss, smoothing):
    token_logp, mask, (logp_w, logp_l), ref = pairs([3, 5, 7, 4, 6, 2])
    theirs = trl_loss(loss_type, token_logp, *ref, mask, beta=0.2, label_smoothing=smoothing)
    ours = loss(0.2 * log_ratio(logp_w, logp_l, *ref)).mean()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(each, token_logp, retain_graph=True)[0] for each in (ours, theirs)))


def test_ipo_is_trls_on_completions_of_one_token():
    """TRL divides log-probabilities by length, the paper does not."""
    token_logp, mask, (logp_w, logp_l), ref = pairs([1, 1, 1, 1])
    theirs = trl_loss("ipo", token_logp, *ref, mask, beta=0.2)
    torch.testing.assert_close(ipo(0.2 * log_ratio(logp_w, logp_l, *ref)).mean() / 0.2**2, theirs)


def test_rpo_is_trls_sigmoid_with_sft_where_lengths_are_equal():
    """TRL's SFT part is a mean over the tokens of the batch, ours over rows of the mean of each: one number at one length."""
    token_logp, mask, (logp_w, logp_l), ref = pairs([4] * 6)
    theirs = trl_loss(["sigmoid", "sft"], token_logp, *ref, mask, beta=0.2, loss_weights=[1.0, 0.3])
    x, lengths = 0.2 * log_ratio(logp_w, logp_l, *ref), mask.sum(-1)[:3]
    torch.testing.assert_close(rpo(x, logp_w, 0.3, 0.2, lengths=lengths, form="mean").mean(), theirs)
    torch.testing.assert_close(rpo(x, logp_w, 0.3 / (0.2 * 4), 0.2).mean(), theirs)  # the sum form, with eta to match
