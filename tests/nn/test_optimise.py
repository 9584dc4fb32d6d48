"""Steps, clipping and targets against torch's own, and members that never meet."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, clip_norm_, descend, frozen_copy, polyak_


def test_adam_equals_torchs_plain_adam():
    start = torch.randn(4, 3)
    ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a, b = adam([ours], 1e-2), torch.optim.Adam([plain], lr=1e-2, foreach=False)
    for step in range(5):
        descend((ours * (ours - step)).sum(), a)
        b.zero_grad()
        (plain * (plain - step)).sum().backward()
        b.step()
    torch.testing.assert_close(ours, plain)


def test_descend_takes_gradients_of_what_is_stepped_only():
    critic, actor = nn.Linear(2, 1), nn.Linear(3, 2)
    before = critic.weight.clone()
    descend(critic(actor(torch.randn(4, 3))).mean(), adam(actor.parameters(), 1e-3))
    assert critic.weight.grad is None and critic.bias.grad is None and torch.equal(critic.weight, before)
    assert actor.weight.grad is not None


def test_gradients_that_come_out_transposed():
    """A lone network's last weight gets its gradient as a transposed view, which a fused kernel would read in the wrong order."""
    net, x = MLP((3, 16, 2)), torch.randn(8, 3)
    (gradient,) = torch.autograd.grad(net(x).square().sum(), [net.weights[-1]])
    assert not gradient.is_contiguous()
    plain = copy.deepcopy(net)
    descend(net(x).square().sum(), adam(net.parameters(), 1e-2))
    plain(x).square().sum().backward()
    torch.optim.Adam(plain.parameters(), lr=1e-2, foreach=False).step()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_descend_needs_a_loss_of_its_parameters():
    with pytest.raises(RuntimeError):
        descend(torch.ones(1, requires_grad=True).sum(), adam(nn.Linear(2, 1).parameters(), 1e-3))


def gradients(copies=(3,)):
    params = [nn.Parameter(torch.zeros(*copies, 4, 2)), nn.Parameter(torch.zeros(*copies, 2))]
    for p in params:
        p.grad = torch.randn_like(p) * 10.0 ** torch.arange(-1.0, 2.0).reshape(3, *(1,) * (p.dim() - 1))  # norms of 0.1, 1 and 10 or so
    return params


def test_clipping_is_torchs_for_each_copy():
    params = gradients()
    expected = []
    for i in range(3):
        lone = [nn.Parameter(p[i].detach().clone()) for p in params]
        for p, q in zip(lone, params, strict=True):
            p.grad = q.grad[i].clone()
        torch.nn.utils.clip_grad_norm_(lone, 2.0)
        expected.append([p.grad for p in lone])
    clip_norm_(params, 2.0, (3,))
    for i in range(3):
        for p, g in zip(params, expected[i], strict=True):
            torch.testing.assert_close(p.grad[i], g)


@given(st.floats(0.01, 100.0))
def test_clipped_norms_are_bounded(max_norm):
    params = gradients()
    before = sum(p.grad.flatten(1).square().sum(1) for p in params).sqrt()
    clip_norm_(params, max_norm, (3,))
    after = sum(p.grad.flatten(1).square().sum(1) for p in params).sqrt()
    assert (after <= max_norm * 1.0001).all()
    torch.testing.assert_close(after, before.clamp(max=max_norm), rtol=1e-3, atol=1e-4)


def test_descend_clips_each_copy():
    net, x = MLP((2, 1), (2,)), torch.randn(2, 8, 2)
    x[1] *= 1e6
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    before = [p.detach().clone() for p in net.parameters()]
    descend(net(x).square().mean((-2, -1)).sum(), optimiser, 0.5, (2,))
    moved = sum((p - b).flatten(1).square().sum(1) for p, b in zip(net.parameters(), before, strict=True)).sqrt()
    assert moved[1].item() == pytest.approx(0.5, rel=1e-3) and 0.0 < moved[0] <= 0.5001


@given(st.floats(0.0, 1.0))
def test_polyak(tau):
    online, target = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = [(1.0 - tau) * t.detach() + tau * o.detach() for t, o in zip(target.parameters(), online.parameters(), strict=True)]
    polyak_(target, online, tau)
    for t, e in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(t.detach(), e)


def test_frozen_copy():
    net = MLP((3, 4, 1), (2,))
    target = frozen_copy(net)
    assert not any(p.requires_grad for p in target.parameters()) and all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        net.weights[0].add_(1.0)
    assert not torch.equal(net.weights[0], target.weights[0])


def test_adam_is_torchs_fused_kernel_bit_for_bit_and_continues_from_its_state():
    start = [torch.randn(5, 3), torch.randn(3)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    a, b = adam(ours, 1e-2), torch.optim.Adam(theirs, lr=1e-2, fused=True)
    for step in range(6):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
        if step == 2:  # each takes over the other's state
            saved = copy.deepcopy((a.state_dict(), b.state_dict()))  # states are shared with who loads them, if not copied
            a.load_state_dict(saved[1])
            b.load_state_dict(saved[0])
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
