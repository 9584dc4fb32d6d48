"""PRDC: the card's oracles, d3rlpy's steps, its limits, and an action borrowed from where it was logged (see also nn/test_nearest)."""

import numpy as np
import pytest
import torch

from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, stack_specs
from surefoot.errors import ConfigError
from surefoot.methods.offline.prdc import PRDC, PRDCConfig
from surefoot.methods.offline.td3 import regulariser, value_loss
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig

BOX = Continuous((-2.0, -1.0), (2.0, 1.0))
TINY = {"hidden": (16, 16), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.1}


def random_log(seed=0, n=400, scale=1.0) -> Log:
    rng = np.random.default_rng(seed)
    obs, action = scale * rng.standard_normal((n, 3)) + 5.0, rng.uniform(-1, 1, (n, 2)) * [2.0, 1.0]
    return Log.from_arrays(obs, action, rng.standard_normal(n), obs[::-1], rng.random(n) < 0.1, action_space=BOX)


# --- the card's toy ---------------------------------------------------------------------------------------------------

STATES = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
ACTIONS = np.array([[0.9], [-0.9], [0.1], [-0.4], [0.5]])
ASKED_S, ASKED_P = torch.tensor([[0.1, 0.0], [0.9, 0.2], [0.5, 0.4]]), torch.tensor([[-0.8], [-0.5], [0.9]])


def toy(beta: float) -> PRDC:
    log = Log.from_arrays(STATES, ACTIONS, np.zeros(5), STATES, np.zeros(5), action_space=Continuous((-1.0,), (1.0,)))
    method = PRDC(log.spec(scale_obs=False), PRDCConfig(hidden=(8,), beta=beta))
    method.prepare([log])
    return method


@pytest.mark.parametrize(("beta", "rows", "mse"), [(2.0, [0, 1, 4], 1.070000), (0.0, [1, 3, 0], 0.006667), (100.0, [0, 1, 4], 1.070000)])
def test_regulariser_of_the_card(beta, rows, mse):
    p = ASKED_P.clone().requires_grad_()
    target, weight = toy(beta).reg_target(ASKED_S, p, torch.zeros_like(p))
    assert weight is None and not target.requires_grad and target.dtype == torch.float32  # a constant, in the policy's dtype
    assert torch.equal(target, torch.tensor(ACTIONS[rows]).float())
    loss = regulariser(p, target)
    assert loss.item() == pytest.approx(mse, abs=1e-6)
    loss.backward()
    if beta == 2.0:
        assert p.grad.flatten().tolist() == pytest.approx([-1.133333, 0.266667, 0.266667], abs=1e-6)


def test_lambda_of_the_card():
    q = torch.tensor([4.0, -1.0, -7.0], requires_grad=True)
    loss = value_loss(q, 40.0)
    loss.backward()
    assert loss.item() == pytest.approx(13.333333) and (-3.0 * q.grad).tolist() == pytest.approx([10.0] * 3)


def test_no_pull_where_the_pair_is_logged():
    p = torch.tensor(ACTIONS[:3]).float().requires_grad_()
    target, _ = toy(2.0).reg_target(torch.tensor(STATES[:3]).float(), p, torch.zeros(3, 1))
    loss = regulariser(p, target)
    loss.backward()
    assert loss.item() == 0.0 and p.grad.abs().max() == 0.0


# --- steps ------------------------------------------------------------------------------------------------------------


def test_steps_equal_d3rlpy(recorded):
    record = recorded("prdc")
    method = PRDC(record.log.spec(scale_obs=False), PRDCConfig(**record.settings, beta=2.0))
    method.prepare([record.log])
    record.compare(method)


def test_a_huge_beta_is_td3_bc():
    """All states are distinct, so each state's nearest pair is its own: the same steps, to the last bit."""
    log = random_log()
    prdc, td3_bc = PRDC(log.spec(), PRDCConfig(**TINY, beta=1e6)), TD3BC(log.spec(), TD3BCConfig(**TINY))
    prdc.prepare([log])
    one, two = Logged(log, 64), Logged(log, 64)
    for _ in range(6):
        ours, theirs = prdc.update(next(one)), td3_bc.update(next(two))
    assert torch.equal(ours["actor_loss"], theirs["actor_loss"])
    assert all(torch.equal(p, q) for p, q in zip(prdc.policy.parameters(), td3_bc.policy.parameters(), strict=True))


def test_a_smaller_beta_is_not():
    log = random_log()
    prdc, td3_bc = PRDC(log.spec(), PRDCConfig(**TINY)), TD3BC(log.spec(), TD3BCConfig(**TINY))
    prdc.prepare([log])
    one, two = Logged(log, 64), Logged(log, 64)
    for _ in range(2):
        ours, theirs = prdc.update(next(one)), td3_bc.update(next(two))
    assert ours["regulariser"] < 0.7 * theirs["regulariser"]  # the nearest pair is nearer than one's own


def test_without_value_and_state_actions_go_to_the_closest_logged_one():
    """alpha = 0, beta = 0: each p moves to a logged action value, whichever state that belongs to."""
    rng = np.random.default_rng(0)
    s, a = rng.uniform(-1, 1, (500, 1)), rng.choice([-0.6, 0.1, 0.7], (500, 1))
    log = Log.from_arrays(s, a, np.zeros(500), s, np.ones(500), action_space=Continuous((-1.0,), (1.0,)))
    method = PRDC(log.spec(), PRDCConfig(hidden=(32, 32), actor_lr=3e-3, alpha=0.0, beta=0.0, policy_freq=1))
    method.prepare([log])
    source = Logged(log, 128)
    for _ in range(300):
        method.update(next(source))
    away = (method.policy(torch.linspace(-0.9, 0.9, 19)[:, None]) - torch.tensor([-0.6, 0.1, 0.7])).abs()  # [19, 3]
    assert away.amin(-1).max() < 0.05


# --- the index --------------------------------------------------------------------------------------------------------


def test_the_index_holds_what_the_networks_see():
    log = random_log(scale=30.0)
    method = PRDC(log.spec(), PRDCConfig(hidden=(8,), beta=2.0))
    method.prepare([log])
    t = log.transitions
    rows = torch.from_numpy(method.indices[0].tree.data)
    torch.testing.assert_close(rows[:, :3].float(), 2.0 * method.normaliser(t.obs))
    torch.testing.assert_close(rows[:, 3:].float(), t.action / torch.tensor([2.0, 1.0]))
    assert rows[:, :3].std(0).float().tolist() == pytest.approx([2.0] * 3, rel=0.01)


def test_one_index_for_a_shared_log_and_one_each_for_logs_of_their_own():
    logs = [random_log(seed, scale=10.0**seed) for seed in range(3)]
    shared = PRDC(logs[0].spec(), PRDCConfig(**TINY), copies=(3,))
    shared.prepare([logs[0]])
    assert len(shared.indices) == 1
    shared.prepare([logs[0]] * 3)
    assert len(shared.indices) == 1
    spec = stack_specs([log.spec() for log in logs])
    fleet = PRDC(spec, PRDCConfig(**TINY), copies=(3,))
    fleet.prepare(logs)
    t = fleet.in_units(next(Logged(logs, 32, copies=(3,))))
    p = fleet.policy.unit(t.obs).detach()
    target, _ = fleet.reg_target(t.obs, p, t.action)
    for i, log in enumerate(logs):
        lone = PRDC(log.spec(), PRDCConfig(**TINY))
        lone.prepare([log])
        assert torch.equal(target[i], lone.reg_target(t.obs[i], p[i], t.action[i])[0])
    shared.update(next(Logged(logs[0], 32, copies=(3,))))
    fleet.update(next(Logged(logs, 32, copies=(3,))))


def test_the_index_is_in_no_checkpoint():
    log = random_log()
    method = PRDC(log.spec(), PRDCConfig(**TINY))
    names = set(method.state_dict())
    method.prepare([log])
    assert set(method.state_dict()) == names == set(TD3BC(log.spec(), TD3BCConfig(**TINY)).state_dict())


def test_a_search_without_a_log():
    log = random_log()
    method = PRDC(log.spec(), PRDCConfig(**TINY, policy_freq=1))
    with pytest.raises(ConfigError, match="prepare"):
        method.update(next(Logged(log, 32)))
    with pytest.raises(ConfigError, match="2 logs were given for 3 members"):
        PRDC(log.spec(), PRDCConfig(**TINY), copies=(3,)).prepare([log, random_log(1)])


@pytest.mark.parametrize("beta", [-1.0, float("inf"), float("nan")])
def test_settings_out_of_range(beta):
    with pytest.raises(ConfigError, match="beta"):
        PRDCConfig(beta=beta)


def test_paper_defaults():
    c = PRDCConfig()
    assert (c.alpha, c.beta, c.gamma, c.tau, c.policy_freq, c.target_noise, c.noise_clip) == (2.5, 2.0, 0.99, 0.005, 2, 0.2, 0.5)
    assert (c.actor_lr, c.critic_lr, c.hidden, c.critic_widths, c.batch_size) == (3e-4, 3e-4, (256, 256), (256, 256), 256)


# --- learning ---------------------------------------------------------------------------------------------------------


def band(seed=0, n=4000) -> Log:
    """Larger actions pay more; but where |s| < 0.3 the log never went above 0."""
    rng = np.random.default_rng(seed)
    s, a = rng.uniform(-1, 1, (n, 1)), rng.uniform(-1, 1, (n, 1))
    a = np.where(np.abs(s) < 0.3, -np.abs(a), a)
    return Log.from_arrays(s, a, a.ravel(), s, np.ones(n), action_space=Continuous((-1.0,), (1.0,)))


def action_in_the_band(cls, config, steps=600) -> torch.Tensor:
    log = band()
    method, source = cls(log.spec(), config, copies=(2,)), Logged(log, 128, copies=(2,))
    method.prepare([log])
    for _ in range(steps):
        method.update(next(source))
    return method.policy(torch.zeros(2, 1, 1)).detach().flatten()


def test_borrows_an_action_never_logged_at_that_state():
    fast = {"hidden": (32, 32), "actor_lr": 1e-3, "critic_lr": 3e-3, "alpha": 0.5}
    assert action_in_the_band(PRDC, PRDCConfig(**fast, beta=2.0)).min() > 0.7
    tied = action_in_the_band(PRDC, PRDCConfig(**fast, beta=1e6))  # the softer constraint switched off
    assert tied.max() < 0.3
    torch.testing.assert_close(tied, action_in_the_band(TD3BC, TD3BCConfig(**fast)), atol=0.02, rtol=0.0)  # some states are 1e-6 apart
