"""Behaviour cloning: its losses by hand and against torch, and experts that it must recover."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import ConfigError
from surefoot.methods.offline import bc
from surefoot.methods.offline.bc import BC, BCConfig, cross_entropy, squared_error
from surefoot.policies.families import Categorical, Deterministic


def test_losses_by_hand():
    p, a = torch.tensor([[0.5, 0.0], [-1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    assert squared_error(p, a).item() == pytest.approx((0.25 + 4.0 + 0.25) / 4)
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx((0.693147 + 0.126928) / 2, abs=1e-6)


def test_cross_entropy_equals_torchs():
    logits, a = torch.randn(3, 16, 5), torch.randint(5, (3, 16))
    expected = [F.cross_entropy(x, y).item() for x, y in zip(logits, a, strict=True)]
    assert cross_entropy(logits, a).tolist() == pytest.approx(expected)


@given(st.floats(-50, 50), st.integers(1, 6))
def test_cross_entropy_ignores_a_common_shift(shift, n):
    logits, a = torch.linspace(-1.0, 2.0, 4 * n).reshape(4, n), torch.arange(4) % n
    loss = cross_entropy(logits, a).item()
    assert loss >= -1e-6 and cross_entropy(logits + shift, a).item() == pytest.approx(loss, abs=1e-4)


def test_losses_check_shapes():
    with pytest.raises(ValueError, match="one shape"):
        squared_error(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=r"\[\.\.\., B, n\]"):
        cross_entropy(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64))


@pytest.mark.parametrize(("field", "value"), [("actor_lr", 0.0), ("batch_size", 0)])
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=field):
        BCConfig(**{field: value})


def expert_log(discrete: bool, n=3000, seed=0) -> Log:
    """torque 2 sin(3 s0) - s1 within [-2, 2], or the sign of it; rewards are noise."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (n, 2)) * [1.0, 10.0]
    action = (2.0 * np.sin(3.0 * obs[:, :1]) - 0.1 * obs[:, 1:]).clip(-2, 2)
    reward = rng.standard_normal(n)
    if discrete:
        return Log.from_arrays(obs, (action > 0).ravel(), reward, obs, np.zeros(n), action_space=Discrete(2))
    return Log.from_arrays(obs, action, reward, obs, np.zeros(n), action_space=Continuous((-2.0,), (2.0,)))


def trained(log: Log, steps=400, **settings) -> BC:
    method = BC(log.spec(), BCConfig(actor_lr=3e-3, hidden=(32, 32), **settings), copies=(2,))
    source = Logged(log, 128, copies=(2,))
    for _ in range(steps):
        method.update(next(source))
    return method


def imitation_error(method: BC, log: Log) -> torch.Tensor:
    action, _ = method.policy.act(log.transitions.obs.expand(2, -1, -1))
    if isinstance(method.policy, Categorical):
        return (action != log.transitions.action).float().mean(-1)
    return (action - log.transitions.action).abs().mean((-2, -1))


def test_recovers_a_continuous_expert(monkeypatch):
    fresh = expert_log(False, seed=1)
    method = trained(expert_log(False))
    assert isinstance(method.policy, Deterministic)
    assert imitation_error(method, fresh).max() < 0.15
    monkeypatch.setattr(bc, "squared_error", lambda p, a: squared_error(p, p.detach()))  # without the logged actions
    assert imitation_error(trained(expert_log(False)), fresh).min() > 0.5


def test_recovers_a_discrete_expert():
    fresh = expert_log(True, seed=1)
    assert imitation_error(trained(expert_log(True)), fresh).max() < 0.05
    assert imitation_error(trained(expert_log(True), steps=0), fresh).min() > 0.2


def test_rewards_are_ignored():
    log = expert_log(False)
    other = Log.from_arrays(
        log.transitions.obs.numpy(), log.transitions.action.numpy(), np.full(len(log), 7.0), log.transitions.obs.numpy(),
        np.ones(len(log)), action_space=log.action,
    )  # fmt: skip
    one, two = trained(log, steps=5), trained(other, steps=5)
    assert all(torch.equal(p, q) for p, q in zip(one.policy.parameters(), two.policy.parameters(), strict=True))
