"""UCBVI-Ent+: the card's oracles of planning, the bounds and the certificate, and the mathematics that the certificate rests on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.finite import draw, random_mdp, riverswim
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.planning import expected, kl, optimal_plan, policy_values, soft_maximum
from surefoot.methods.exact.ucbvi_ent import UCBVIEntConfig, batches, identify, kl_radius, mean_radius, plan
from surefoot.methods.exact.visits import Simulator, visit_counts


def known(mdp, n=1000.0):
    """Counts whose frequencies are the model's own probabilities."""
    return n * mdp.transition


def test_oracle_3_smoothness():
    reference, q1, q2 = np.array([0.25, 0.75]), np.array([1.0, 0.0]), np.array([0.7, 0.2])
    pi = soft_maximum(q1, reference, 0.5)[1]
    best = soft_maximum(q2, reference, 0.5)[0]
    loss = best - (pi @ q2 - 0.5 * kl(pi, reference))
    assert best == pytest.approx(0.378687, abs=5e-7)
    assert loss == pytest.approx(0.057075, abs=5e-7)
    assert loss <= np.abs(q1 - q2).max() ** 2 / (2 * 0.5) == pytest.approx(0.09)


@given(st.integers(0, 100_000), st.floats(0.01, 10.0))
@settings(max_examples=100, deadline=None)
def test_the_loss_of_a_wrong_q_is_quadratic(seed, lam):
    rng = np.random.default_rng(seed)
    q1, q2, reference = rng.random((50, 4)), rng.random((50, 4)), rng.dirichlet(np.ones(4), 50)
    pi = soft_maximum(q1, reference, lam)[1]
    loss = soft_maximum(q2, reference, lam)[0] - ((pi * q2).sum(-1) - lam * kl(pi, reference))
    assert (loss >= -1e-12).all() and (loss <= np.square(q1 - q2).max(-1) / (2 * lam) + 1e-12).all()


@given(st.integers(0, 100_000), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_the_certificates_correction(seed, horizon):
    """p g <= (1 + 1/H) p^ g + (H+1)^2 KL(p^ || p) / 2 for g in [0, H]."""
    rng = np.random.default_rng(seed)
    p, p_hat = rng.dirichlet(np.full(5, 0.3), (2, 200))
    g = horizon * rng.random((200, 5)) ** rng.choice([0.1, 1.0, 10.0])
    left = (p * g).sum(-1)
    right = (1 + 1 / horizon) * (p_hat * g).sum(-1) + (horizon + 1) ** 2 * kl(p_hat, p) / 2
    assert (left <= right + 1e-12).all()


@pytest.mark.parametrize("bonus", ["theory", "practical"])
def test_oracle_6_a_known_model(bonus):
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 5, 3)
    reference = rng.dirichlet(np.ones(3), (4, 5))
    zero = UCBVIEntConfig(bonus=bonus, scale=0.0)
    for lam in (0.0, 0.1, 1.0):
        found, exact = plan(known(mdp), mdp.reward, reference, lam, zero), optimal_plan(mdp, lam, reference)
        for q in (found.upper, found.lower):
            np.testing.assert_allclose(q, exact.q, atol=1e-12)
        np.testing.assert_allclose(found.policy, exact.policy, atol=1e-12)
        np.testing.assert_allclose(found.gap, 0.0, atol=1e-12)


def test_copies_with_penalties_of_their_own_are_planned_apart():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 5, 3)
    reference, lam = rng.dirichlet(np.ones(3), (3, 4, 5)), np.array([0.0, 0.1, 2.0])
    visits = visit_counts(mdp, reference, 200, rng)
    for bonus in ("theory", "bernstein", "practical"):
        config = UCBVIEntConfig(bonus=bonus, scale=0.1)
        together = plan(visits, np.broadcast_to(mdp.reward, reference.shape), reference, lam, config)
        for i in range(3):
            lone = plan(visits[i], mdp.reward, reference[i], float(lam[i]), config)
            for name in ("upper", "lower", "policy", "gap", "probe"):
                np.testing.assert_allclose(getattr(together, name)[i], getattr(lone, name), atol=1e-12)


def by_hand(visits, reward, reference, lam, config):
    """The recursions of the docstring with Python loops, in the theory and practical modes, lam > 0."""
    horizon, n_states, n_actions = reward.shape
    up, lo, gap = np.zeros((horizon + 1, n_states)), np.zeros((horizon + 1, n_states)), np.zeros((horizon + 1, n_states))
    for h in reversed(range(horizon)):
        for s in range(n_states):
            q_up, q_lo, later = np.zeros(n_actions), np.zeros(n_actions), np.zeros(n_actions)
            for a in range(n_actions):
                n = visits[h, s, a].sum()
                most = horizon - h
                if n == 0:
                    q_up[a], q_lo[a], later[a] = most, 0.0, horizon
                    continue
                p = visits[h, s, a] / n
                theory = config.bonus == "theory"
                beta = np.log(3 * n_states * n_actions * horizon / config.delta)
                beta += (n_states if theory else 1) * np.log(8 * np.e * (n + 1))
                b = config.scale * (most - theory) * np.sqrt(beta / (2 * n))
                q_up[a] = min(max(reward[h, s, a] + p @ up[h + 1] + b, 0), most)
                q_lo[a] = min(max(reward[h, s, a] + p @ lo[h + 1] - b, 0), most)
                extra = config.scale**2 * (horizon + 1) ** 2 * beta / (2 * n)
                later[a] = min(horizon, (1 + 1 / horizon) * p @ gap[h + 1] + extra)
            weights = reference[h, s] * np.exp(q_up / lam)
            up[h, s] = lam * np.log(weights.sum())
            lo[h, s] = lam * np.log((reference[h, s] * np.exp(q_lo / lam)).sum())
            gap[h, s] = min(horizon - h, ((q_up - q_lo) ** 2).max() / (2 * lam) + weights / weights.sum() @ later)
    return up, lo, gap


@pytest.mark.parametrize("bonus", ["theory", "practical"])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_planning_is_its_recursion(bonus, scale):
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 3, 4, 2, concentration=0.3)
    reference = rng.dirichlet(np.ones(2), (3, 4))
    visits = visit_counts(mdp, reference, 60, rng)
    assert (visits.sum(-1) == 0).any()  # the unvisited rule is met
    config = UCBVIEntConfig(bonus=bonus, scale=scale)
    found = plan(visits, mdp.reward, reference, 0.5, config)
    up, _, gap = by_hand(visits, mdp.reward, reference, 0.5, config)
    np.testing.assert_allclose(soft_maximum(found.upper, reference, 0.5)[0], up[:-1], atol=1e-12)
    np.testing.assert_allclose(found.gap, gap, atol=1e-12)
    assert (found.upper[visits.sum(-1) == 0] == np.broadcast_to(np.arange(3, 0, -1.0)[:, None, None], (3, 4, 2))[visits.sum(-1) == 0]).all()


@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("bonus", ["theory", "bernstein"])
def test_oracle_7_bounds_hold(lam, bonus):
    """Eight seeds of RiverSwim, 960 entries each time: no violation of the bounds, and none of the certificate."""
    river, rng = riverswim(), np.random.default_rng(0)
    reference = rng.dirichlet(np.ones(2), (8, 10, 6))
    config = UCBVIEntConfig(bonus=bonus)
    reward = np.broadcast_to(river.reward, reference.shape)
    visits = np.zeros((8, 10, 6, 2, 6))
    found = plan(visits, reward, reference, lam, config)
    for batch in (0, 100, 3000, 100_000, 30_000_000):
        visits += visit_counts(river, found.policy, batch, rng, found.probe)
        found = plan(visits, reward, reference, lam, config)
        for i in range(8):
            exact = optimal_plan(river, lam, reference[i])
            assert (found.lower[i] <= exact.q + 1e-12).all() and (exact.q <= found.upper[i] + 1e-12).all()
            loss = exact.v - policy_values(river, found.policy[i], lam, reference[i])
            assert (loss <= found.gap[i] + 1e-12).all()
    if lam == 1.0 and bonus == "theory":
        assert found.gap[:, 0, 0].max() < 0.1  # and by then it says something


def test_the_certificate_of_plain_learning_bounds_a_loss_that_upper_minus_best_lower_does_not():
    """One way leads to a choice between a sure 0.9 and an unseen arm: the optimist takes the arm, and may get nothing."""
    transition = np.zeros((2, 2, 2, 2))
    transition[..., 1] = 1.0
    reward = np.zeros((2, 2, 2))
    reward[1, 1, 0] = 0.9
    visits = np.zeros((2, 2, 2, 2))
    visits[0, 0, :, 1] = visits[1, 1, 0, 1] = 1e6  # action 1 of state 1 was never taken
    found = plan(visits, reward, np.full((2, 2, 2), 0.5), 0.0, UCBVIEntConfig(scale=0.01))
    assert found.policy[1, 1].tolist() == [0.0, 1.0]
    assert found.gap[0, 0] >= 0.9  # what is lost if the arm pays nothing


def test_the_run_stops_when_certified_and_copies_stop_apart():
    river, rng = riverswim(), np.random.default_rng(0)
    expert = np.broadcast_to(np.array([0.001, 0.999]), (3, 10, 6, 2))
    lam = np.array([10.0, 2.0, 1e-3])
    config = UCBVIEntConfig(bonus="practical", scale=0.03, cap=12_000)
    found = identify(river, expert, lam, 0.05, config, rng)
    assert found.certified.tolist() == [True, True, False]
    assert found.episodes[0] < found.episodes[1] < found.episodes[2] == 12_000
    assert (found.certificate[:2] <= 0.05).all() and found.certificate[2] > 0.05
    for i in range(2):
        exact = optimal_plan(river, lam[i], expert[i]).v[0, 0]
        assert exact - policy_values(river, found.policy[i], lam[i], expert[i])[0, 0] <= found.certificate[i]


def test_a_simulator_does_as_well_as_its_model():
    river, rng = riverswim(), np.random.default_rng(0)
    simulator = Simulator(lambda h, s, a: draw(river.transition[h, s, a], rng), river.reward, river.initial)
    expert = np.broadcast_to(np.array([0.001, 0.999]), (10, 6, 2))
    config = UCBVIEntConfig(bonus="practical", scale=0.03)
    ours, theirs = (identify(world, expert, 5.0, 0.05, config, rng) for world in (simulator, river))
    assert ours.certified and theirs.certified and ours.policy.shape == (10, 6, 2)
    assert abs(np.log(ours.episodes / theirs.episodes)) < 0.1


def test_radii_and_batches():
    n = np.full((1, 2, 2), 9.0)
    assert kl_radius(n, 0.1)[0, 0, 0] == pytest.approx(np.log(120) + 2 * np.log(80 * np.e))
    assert mean_radius(n, 0.1)[0, 0, 0] == pytest.approx(np.log(120) + np.log(80 * np.e))
    assert batches(120, 50, 0.02) == [50, 50, 20]
    sizes = batches(200_000, 50, 0.02)
    assert sum(sizes) == 200_000 and max(sizes) <= 4000


def test_expected_values_agree_with_the_model_of_counts():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 1, 4, 2)
    found = plan(known(mdp), mdp.reward, np.full((1, 4, 2), 0.5), 0.3, UCBVIEntConfig(scale=0.0))
    np.testing.assert_allclose(found.upper[0], mdp.reward[0] + expected(mdp.transition[0], np.zeros(4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delta": 1.0}, "delta is 1.0: the probability of failure"),
        ({"bonus": "small"}, "bonus is 'small': it must be one of theory, bernstein, practical"),
        ({"scale": -0.1}, "scale is -0.1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"cap": 0}, "cap is 0"),
        ({"period": 0}, "period 0"),
        ({"growth": -1.0}, "growth -1.0"),
    ],
)
def test_settings_outside_their_range(settings, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        UCBVIEntConfig(**settings)


def test_misuse_is_one_sentence():
    river, rng, half = riverswim(), np.random.default_rng(0), np.full((10, 6, 2), 0.5)
    config = UCBVIEntConfig(cap=50)
    with pytest.raises(ConfigError, match="eps is 0"):
        identify(river, half, 1.0, 0.0, config, rng)
    with pytest.raises(ConfigError, match=r"lam is -1\.0"):
        identify(river, half, -1.0, 0.1, config, rng)
    with pytest.raises(DataError, match=r"reference has shape \(5, 6, 2\)"):
        identify(river, half[:5], 1.0, 0.1, config, rng)
    with pytest.raises(DataError, match=r"reward has shape \(5, 6, 2\)"):
        identify(river, half, 1.0, 0.1, config, rng, half[:5])
    bad = river.reward.copy()
    bad[3, 2, 1] = 1.5
    with pytest.raises(DataError, match=r"reward\[3, 2, 1\] is 1\.5: rewards must lie in \[0, 1\]"):
        identify(river, half, 1.0, 0.1, config, rng, bad)
    with pytest.raises(DataError, match=r"the world has copies \(2,\): give a lone world"):
        identify(random_mdp(rng, 3, 2, 2, copies=(2,)), np.full((3, 2, 2), 0.5), 1.0, 0.1, config, rng)
