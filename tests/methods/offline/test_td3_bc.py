"""TD3+BC: d3rlpy's steps, its limits, and a log on which both halves of its objective are needed."""

import numpy as np
import torch

from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous
from surefoot.methods.offline.bc import BC, BCConfig
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig


def test_steps_equal_d3rlpy(recorded):
    record = recorded("td3_bc")
    record.compare(TD3BC(record.log.spec(scale_obs=False), TD3BCConfig(**record.settings)))


def test_paper_defaults():
    c = TD3BCConfig()
    assert (c.alpha, c.gamma, c.tau, c.policy_freq, c.target_noise, c.noise_clip) == (2.5, 0.99, 0.005, 2, 0.2, 0.5)
    assert (c.actor_lr, c.critic_lr, c.hidden, c.critic_widths, c.batch_size) == (3e-4, 3e-4, (256, 256), (256, 256), 256)


def bandit(seed=0, n=4000) -> Log:
    """Logged actions lie around 0.3 s, no farther than 0.3 from it; the reward is the action, so a critic alone wants a = 1."""
    rng = np.random.default_rng(seed)
    s = rng.uniform(-1, 1, (n, 1))
    a = 0.3 * s + rng.uniform(-0.3, 0.3, (n, 1))
    return Log.from_arrays(s, a, a.ravel(), s, np.ones(n), action_space=Continuous((-1.0,), (1.0,)))


def actions(method, log, steps=800) -> torch.Tensor:
    source = Logged(log, 128, copies=method.copies)
    for _ in range(steps):
        method.update(next(source))
    grid = torch.linspace(-1.0, 1.0, 21)[:, None]
    return (method.policy(grid.expand(*method.copies, 21, 1)) - 0.3 * grid).detach()


def test_improves_on_the_log_and_stays_near_it(monkeypatch):
    log, fast = bandit(), {"hidden": (32, 32), "actor_lr": 1e-3, "critic_lr": 3e-3}
    better = actions(TD3BC(log.spec(), TD3BCConfig(**fast, alpha=0.3), copies=(2,)), log)
    assert better.min() > 0.05 and better.max() < 0.8
    imitation = actions(TD3BC(log.spec(), TD3BCConfig(**fast, alpha=0.0), copies=(2,)), log)
    assert imitation.abs().max() < 0.1  # without the critic: the mean of the log
    monkeypatch.setattr(TD3BC, "reg_target", lambda self, s, p, a: None)
    assert actions(TD3BC(log.spec(), TD3BCConfig(**fast, alpha=0.3), copies=(2,)), log).min() > 0.6  # without imitation: off the data


def test_alpha_zero_is_behaviour_cloning():
    """The same gradient, hence the same policy, step by step, if the actor is stepped at every update."""
    log = bandit()
    td3_bc = TD3BC(log.spec(), TD3BCConfig(hidden=(16,), alpha=0.0, policy_freq=1))
    bc = BC(log.spec(), BCConfig(hidden=(16,)))
    bc.policy.load_state_dict(td3_bc.policy.state_dict())
    one, two = Logged(log, 64), Logged(log, 64)
    for _ in range(20):
        td3_bc.update(next(one))
        bc.update(next(two))
    grid = torch.linspace(-1.0, 1.0, 21)[:, None]
    torch.testing.assert_close(td3_bc.policy(grid), bc.policy(grid))


def test_metrics_are_one_a_member():
    log = bandit()
    method = TD3BC(log.spec(), TD3BCConfig(hidden=(16,)), copies=(3,))
    source = Logged(log, 16, copies=(3,))
    method.update(next(source))
    metrics = method.update(next(source))
    assert set(metrics) == {"critic_loss", "target_mean", "q_mean", "regulariser", "actor_loss"}
    assert all(m.shape == (3,) and not m.requires_grad for m in metrics.values())
    assert (metrics["regulariser"] > 0.0).all()
