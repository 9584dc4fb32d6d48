"""Algorithms 1 and 2: estimates and bonuses by hand and by enumeration, fleets against lone learners, regret, misuse."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.finite import FiniteMDP, LinearMDP, random_linear_mdp, random_mdp
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import adversarial_mdp
from surefoot.methods.exact.adversarial_mdp import (
    ALGORITHMS,
    AdversarialMDPConfig,
    RefinedLinearQ,
    bonus,
    dilated,
    dilated_sampled,
    loss_to_go,
    magnitude_shift,
    plain_estimate,
    rates,
    reduced_estimate,
)
from surefoot.methods.exact.adversarial_regret import compete
from surefoot.methods.exact.covariance_inverse import exact_inverse, squared_norm
from surefoot.methods.exact.linear_world import LinearWorld
from surefoot.methods.exact.planning import occupancy, policy_return

PHI = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.8, -0.6]])
P, GAMMA, H = np.array([0.4, 0.3, 0.2, 0.1]), 0.05, 2
SI = exact_inverse(PHI.T @ (P[:, None] * PHI), GAMMA)
SHIFT = magnitude_shift(PHI, SI, PHI, P, H)


def reduced(action, to_go):
    return reduced_estimate(PHI @ SI @ PHI[action], np.array(to_go), SHIFT, H)


# --- estimates -------------------------------------------------------------------------------------------------------------


def test_estimates_by_hand():
    np.testing.assert_allclose(SHIFT, [-0.050967, -0.033034, -0.455875, -0.806984], atol=1e-6)
    plain = plain_estimate(PHI @ SI @ PHI[2], np.array(2.0))
    np.testing.assert_allclose(plain, [-0.254837, 2.652194, 5.559226, -3.539405], atol=1e-6)
    np.testing.assert_allclose(reduced(2, 2.0), [-0.050967, 2.619160, 5.103351, -0.806984], atol=1e-6)


def test_means_are_the_same_and_the_bias_is_bounded():
    to_go = [1.5, 0.5, 2.0, 1.0]
    plain = sum(P[a] * plain_estimate(PHI @ SI @ PHI[a], np.array(to_go[a])) for a in range(4))
    np.testing.assert_allclose(plain, [1.233365, 1.145352, 1.057338, 0.352289], atol=1e-6)
    np.testing.assert_allclose(sum(P[a] * reduced(a, to_go[a]) for a in range(4)), plain, atol=1e-12)
    theta = np.array([1.2, 0.4])
    truth = PHI @ theta
    mean = sum(P[a] * plain_estimate(PHI @ SI @ PHI[a], truth[a]) for a in range(4))
    np.testing.assert_allclose(mean, [1.100330, 0.726192, 0.352053, 0.669033], atol=1e-6)
    norm = np.sqrt(squared_norm(PHI, SI))
    assert (np.abs(mean - truth) <= np.sqrt(GAMMA) * np.linalg.norm(theta) * norm).all()
    sharp = exact_inverse(PHI.T @ (P[:, None] * PHI), 1e-9)
    np.testing.assert_allclose(sum(P[a] * plain_estimate(PHI @ sharp @ PHI[a], truth[a]) for a in range(4)), truth, atol=1e-6)


def test_reduced_values_are_bounded_by_hand():
    least = np.min([reduced(a, to_go) for a in range(4) for to_go in (0.0, 1.0, 2.0)], 0)
    norm = np.sqrt(squared_norm(PHI, SI))
    assert (least >= SHIFT - 1e-12).all() and (-H * norm <= SHIFT).all()
    np.testing.assert_allclose(-H * norm, [-2.610466, -2.056310, -3.334434, -2.975438], atol=1e-6)
    assert -H / np.sqrt(GAMMA) == pytest.approx(-8.944272, abs=1e-6) and (-H * norm >= -H / np.sqrt(GAMMA)).all()


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(1e-4, 1.0), st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_reduced_values_are_bounded(seed, d, gamma, to_go):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(9, d))
    phi /= np.maximum(np.linalg.norm(phi, axis=-1, keepdims=True), 1.0)
    p = rng.dirichlet(np.full(9, 0.2))
    si = exact_inverse(phi.T @ (p[:, None] * phi), gamma)
    shift = magnitude_shift(phi, si, phi, p, 3)
    for k in range(9):
        assert (reduced_estimate(phi @ si @ phi[k], np.array(to_go), shift, 3) >= shift - 1e-9).all()
    assert (shift >= -3.0 * np.sqrt(squared_norm(phi, si)) - 1e-9).all() and (shift >= -3.0 / np.sqrt(gamma) - 1e-9).all()


def test_magnitude_from_draws_is_that_of_the_law():
    rng = np.random.default_rng(0)
    drawn = np.stack([magnitude_shift(PHI, SI, PHI[rng.choice(4, p=P, size=200)], None, H) for _ in range(100)])
    error = (drawn.mean(0) - SHIFT) / (drawn.std(0, ddof=1) / 10.0)
    assert np.abs(error).max() < 4.5


# --- bonuses ---------------------------------------------------------------------------------------------------------------


def test_dilated_bonus_by_hand():
    b, policy, transition = np.array([0.3, 0.1, 0.2]).reshape(3, 1, 1), np.ones((3, 1, 1)), np.ones((3, 1, 1, 1))
    np.testing.assert_allclose(dilated(b, policy, transition).reshape(-1), [0.788889, 0.366667, 0.2], atol=1e-6)
    assert loss_to_go(np.array([0.5, 0.25, 1.0])).tolist() == [1.75, 1.25, 1.0]


def test_dilated_bonus_is_an_expectation_over_paths():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 3, 3, 2)
    policy, b = rng.dirichlet(np.ones(2), (3, 3)), rng.random((3, 3, 2))

    def along(h, s, a):
        if h == 2:
            return b[h, s, a]
        onward = sum(mdp.transition[h, s, a, t] * policy[h + 1, t, c] * along(h + 1, t, c) for t in range(3) for c in range(2))
        return b[h, s, a] + (1 + 1 / 3) * onward

    brute = [[[along(h, s, a) for a in range(2)] for s in range(3)] for h in range(3)]
    np.testing.assert_allclose(dilated(b, policy, mdp.transition), brute, atol=1e-12)
    world = LinearWorld.of(mdp)
    drawn = np.stack([dilated_sampled(b[None, None], policy[None, None], world, rng)[0, 0] for _ in range(2000)])
    error = (drawn.mean(0) - brute)[:2] / (drawn[:, :2].std(0, ddof=1) / np.sqrt(2000))
    assert np.abs(error).max() < 4.5
    np.testing.assert_allclose(drawn[:, 2], np.broadcast_to(b[2], drawn[:, 2].shape))


def test_bonus_counts_the_policy_at_the_state():
    norm2, policy = np.array([[1.0, 3.0]]), np.array([[0.25, 0.75]])
    np.testing.assert_allclose(bonus(norm2, policy, 0.1), [[0.35, 0.55]])


# --- the algorithms --------------------------------------------------------------------------------------------------------


def copies(model, n):
    """n copies of a lone linear MDP."""
    parts = (model.features, model.factors, model.theta, model.mdp.initial)
    return LinearMDP.of(*(np.repeat(x[None], n, 0) for x in parts))


def play_one(learner, loss, seed=0):
    """One episode of every arm and copy in the learner's own world."""
    r, c, h = learner.shape[:3]
    rng = np.random.default_rng(seed)
    state, action = np.zeros((r, c, h), np.int64), np.zeros((r, c, h), np.int64)
    for t in range(h):
        state[..., t] = (
            learner.world.first((r, c), rng) if t == 0 else learner.world.next(t - 1, state[..., t - 1], action[..., t - 1], rng)
        )
        action[..., t] = learner.act(t, state[..., t], rng.random((r, c)))
    seen = loss[np.arange(h), state, action]
    learner.observe(state, action, seen)
    return state, action, seen


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_episode_by_the_definition(algorithm):
    rng = np.random.default_rng(1)
    model = random_linear_mdp(rng, 3, 4, 3, 2)
    learner = RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig(algorithm, episodes=50))
    play_one(learner, rng.random((3, 4, 3)))
    policy, before = learner.policy[0, 0].copy(), learner.cost[0, 0].copy()
    state, action, seen = play_one(learner, rng.random((3, 4, 3)), seed=2)
    r, d = rates(learner.arms[0], 3, 50), occupancy(model.mdp, policy)
    b = np.zeros((3, 4, 3))
    for h in range(3):
        phi = model.features[h]
        sigma = sum(d[h, s, a] * np.outer(phi[s, a], phi[s, a]) for s in range(4) for a in range(3))
        si = np.linalg.inv(sigma + r.gamma * np.eye(2))
        played, to_go = phi[state[0, 0, h], action[0, 0, h]], seen[0, 0, h:].sum()
        for s, a in itertools.product(range(4), range(3)):
            c = phi[s, a] @ si @ played
            q = c * to_go
            if algorithm == "magnitude_reduced":
                m = 3 * sum(d[h, t, e] * min(phi[s, a] @ si @ phi[t, e], 0.0) for t in range(4) for e in range(3))
                q += -3 * min(c, 0.0) + m
            before[h, s, a] += q
            b[h, s, a] = r.beta * (phi[s, a] @ si @ phi[s, a] + sum(policy[h, s, e] * phi[s, e] @ si @ phi[s, e] for e in range(3)))
    np.testing.assert_allclose(learner.cost[0, 0], before - dilated(b, policy, model.mdp.transition), rtol=1e-9, atol=1e-9)


def test_one_hot_features_and_one_stage_are_exp3():
    mdp = FiniteMDP(np.ones((1, 1, 3, 1)), np.zeros((1, 1, 3)), np.ones(1))
    learner = RefinedLinearQ(LinearWorld.of(mdp), AdversarialMDPConfig("luo2021", episodes=10, eta=0.3, gamma=0.1, beta=0.0))
    weights = np.zeros(3)
    for a, loss in [(0, 1.0), (2, 0.25), (0, 0.5), (1, 0.0)]:
        p = np.exp(-0.3 * weights) / np.exp(-0.3 * weights).sum()
        np.testing.assert_allclose(learner.policy[0, 0, 0, 0], p)
        learner.end_episode([(0, a, loss)])
        weights[a] += loss / (p[a] + 0.1)
    np.testing.assert_allclose(learner.cost[0, 0, 0, 0], weights)


def test_bandit_of_two_arms_is_the_golden_section():
    mdp = FiniteMDP(np.ones((1, 1, 2, 1)), np.zeros((1, 1, 2)), np.ones(1))
    config = AdversarialMDPConfig("logbarrier", episodes=10, eta=0.6, gamma=0.1, beta=0.0)
    learner = RefinedLinearQ(LinearWorld.of(mdp), config)
    learner.end_episode([(0, 1, 1.0)])  # 1 / (1/2 + 0.1) at eta 0.6: a gap of one
    np.testing.assert_allclose(learner.policy[0, 0, 0, 0], [0.618034, 0.381966], atol=1e-6)


def test_arms_and_copies_are_lone_learners():
    rng = np.random.default_rng(0)
    model, loss = random_linear_mdp(rng, 2, 5, 3, 3, (3,)), rng.random((2, 5, 3))
    arms = [AdversarialMDPConfig(name, episodes=20) for name in ALGORITHMS]
    fleet = RefinedLinearQ(LinearWorld.of(model), arms)
    paths = [play_one(fleet, loss, seed=k) for k in range(5)]
    for i, c in itertools.product(range(4), range(3)):
        own = LinearMDP.of(model.features[c], model.factors[c], model.theta[c], model.mdp.initial[c])
        lone = RefinedLinearQ(LinearWorld.of(own), arms[i])
        for state, action, seen in paths:
            lone.end_episode(list(zip(state[i, c].tolist(), action[i, c].tolist(), seen[i, c].tolist(), strict=True)))
        np.testing.assert_allclose(lone.cost[0, 0], fleet.cost[i, c], rtol=1e-10, atol=1e-10)


def regret_of(learner, model, episodes, seed=0):
    """Regret at fixed losses (the rewards of the world), `[R, C]`, and that of uniform play."""
    generators = [np.random.default_rng([seed, i]) for i in range(model.mdp.copies[0])]
    contest = compete(learner, model.mdp, lambda k: model.mdp.reward, [episodes], generators)
    return contest.regret[0], contest.uniform[0]


def test_learns_and_not_without_its_estimates(monkeypatch):
    """Regret well below uniform play's; with estimates switched off (monkeypatched to zero) there is no learning."""
    model = random_linear_mdp(np.random.default_rng(0), 3, 5, 4, 3, (4,))
    arms = [AdversarialMDPConfig(name, episodes=800) for name in ("magnitude_reduced", "logbarrier")]
    regret, uniform = regret_of(RefinedLinearQ(LinearWorld.of(model), arms), model, 800)
    assert (regret.mean(1) < 0.45 * uniform.mean()).all()
    monkeypatch.setattr(adversarial_mdp, "loss_to_go", np.zeros_like)
    regret, uniform = regret_of(RefinedLinearQ(LinearWorld.of(model), arms), model, 800)
    assert (regret.mean(1) > 0.8 * uniform.mean()).all()


def test_reduction_keeps_estimates_in_range_and_plain_ones_leave_it(monkeypatch):
    """eta (Qhat - B) >= -1.1 for Algorithm 2; with its two terms switched off (monkeypatched) it is far below."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 1, 1, 8, 3))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    world = LinearWorld.of(FiniteMDP(np.ones((6, 1, 1, 8, 1)), np.zeros((6, 1, 1, 8)), np.ones((6, 1))))
    world = LinearWorld(features, world.transition, world.initial)
    loss = 0.5 + 0.5 * features[..., 0]

    def least():
        learner, luck = RefinedLinearQ(world, AdversarialMDPConfig("magnitude_reduced", episodes=1500)), np.random.default_rng(1)
        at = np.arange(6)[:, None]
        for _ in range(1500):
            action = learner.act(0, np.zeros((1, 6), np.int64), luck.random((1, 6)))
            learner.observe(np.zeros((1, 6, 1), np.int64), action[..., None], loss[at, 0, 0, action.T][:, 0][None, :, None])
        return learner.least

    assert (least() >= -1.1).all()
    monkeypatch.setattr(adversarial_mdp, "reduced_estimate", lambda c, to_go, shift, horizon: plain_estimate(c, to_go))
    assert (least() < -1.1).any()


@pytest.mark.parametrize("algorithm", ["logbarrier", "magnitude_reduced"])
def test_bonuses_explore(algorithm):
    """Without losses every state moves towards what is covered least; a bonus that were added to losses would do the opposite."""
    model = random_linear_mdp(np.random.default_rng(3), 1, 4, 4, 3, (3,))
    model.mdp.initial[:] = 0.25
    learner = RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig(algorithm, episodes=100, beta=0.3, gamma=0.01))
    d, phi = learner.visited()[0].reshape(3, 16, 1), model.features.reshape(3, 16, 3)
    norm2 = squared_norm(phi, exact_inverse(np.swapaxes(phi, 1, 2) @ (d * phi), 0.01)).reshape(3, 4, 4)
    play_one(learner, np.zeros((1, 4, 4)))
    assert ((learner.policy[0, :, 0] * norm2).sum(-1) > norm2.mean(-1)).all()


@pytest.mark.parametrize("covariance", ["average", "mgr"])
def test_a_simulator_is_enough(covariance):
    model = random_linear_mdp(np.random.default_rng(0), 2, 4, 3, 2)
    flat = model.mdp.transition

    def step(h, state, action, rng):
        return np.array([rng.choice(4, p=flat[h, s, a]) for s, a in zip(state, action, strict=True)])

    own = {"covariance": covariance, "bonus": "sampled", "draws": 30}
    config = AdversarialMDPConfig("magnitude_reduced", episodes=60, gamma=0.2, eta=0.5, **own)
    known, simulated = LinearWorld.of(model), LinearWorld.simulated(model.features, step)
    learner = RefinedLinearQ(simulated, config, seed=1)
    for k in range(3):
        x, path = 0, []
        for h in range(2):
            a = int(learner.act(h, x))
            path.append((x, a, 0.5))
            x = int(step(h, [x], [a], np.random.default_rng([k, h]))[0])
        learner.end_episode(path)
    assert np.isfinite(learner.cost).all() and learner.episode == 3
    # one episode on the same path, sampled many times over, has the mean of exact computation up to the bias of an averaged inverse
    many = RefinedLinearQ(LinearWorld.of(copies(model, 300)), config, seed=2)
    exact = RefinedLinearQ(known, AdversarialMDPConfig("magnitude_reduced", episodes=60, gamma=0.2, eta=0.5))
    path = np.array([0, 2]), np.array([1, 0]), np.array([0.2, 0.9])
    for learner in (many, exact):
        learner.observe(*(np.broadcast_to(x, (*learner.shape[:2], 2)) for x in path))
    np.testing.assert_allclose(many.cost.mean(1)[0], exact.cost[0, 0], atol=0.12)


def test_unknown_number_of_episodes_starts_anew_at_powers_of_two():
    model = random_linear_mdp(np.random.default_rng(0), 2, 3, 2, 2)
    learner = RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig("logbarrier"))
    fresh = []
    for k in range(31):
        if not learner.cost.any():
            fresh.append((k, round((8 * 4 / (2 * learner.eta[0, 0])) ** 2)))
        play_one(learner, np.full((2, 3, 2), 0.5), seed=k)
    assert fresh == [(0, 2), (2, 4), (6, 8), (14, 16), (30, 32)]


def test_regret_is_exact():
    rng = np.random.default_rng(0)
    model = random_linear_mdp(rng, 2, 3, 2, 2, (2,))
    tables = rng.random((40, 2, 2, 3, 2))
    learner = RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig("magnitude_reduced", episodes=40))
    contest = compete(learner, model.mdp, lambda k: tables[k], [7, 40], [np.random.default_rng(i) for i in range(2)])
    assert contest.episodes.tolist() == [7, 40] and contest.regret.shape == (2, 1, 2)
    for n, uniform in zip((7, 40), contest.uniform, strict=True):
        total = tables[:n].sum(0)
        for c in range(2):
            lone = FiniteMDP(model.mdp.transition[c], total[c], model.mdp.initial[c])
            each = itertools.product(*[range(2)] * 6)
            returns = [policy_return(lone, np.eye(2)[np.array(actions).reshape(2, 3)]) for actions in each]
            assert uniform[c] == pytest.approx(policy_return(lone, np.full((2, 3, 2), 0.5)) - min(returns))


def test_copies_do_not_depend_on_their_neighbours():
    model = random_linear_mdp(np.random.default_rng(0), 2, 3, 2, 2, (3,))
    both = regret_of(RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig(episodes=20)), model, 20)[0]
    one = LinearMDP.of(model.features[:1], model.factors[:1], model.theta[:1], model.mdp.initial[:1])
    alone = regret_of(RefinedLinearQ(LinearWorld.of(one), AdversarialMDPConfig(episodes=20)), one, 20)[0]
    np.testing.assert_allclose(alone[0, 0], both[0, 0], rtol=1e-10)


# --- misuse ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"algorithm": "exp3"}, "algorithm is 'exp3': it must be one of logbarrier"),
        ({"covariance": "none"}, "covariance is 'none'"),
        ({"bonus": "none"}, "bonus is 'none'"),
        ({"episodes": 0}, "episodes is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"gamma": -1.0}, r"gamma is -1\.0: it must be positive"),
        ({"beta": -1.0}, r"beta is -1\.0"),
    ],
)
def test_settings_are_checked(settings, match):
    with pytest.raises(ConfigError, match=match):
        AdversarialMDPConfig(**settings)


def test_misuse_is_one_sentence():
    model = random_linear_mdp(np.random.default_rng(0), 2, 3, 2, 2)
    world, config = LinearWorld.of(model), AdversarialMDPConfig(episodes=10)
    learner = RefinedLinearQ(world, config)
    with pytest.raises(DataError, match="the episode has 1 steps: it must have 2"):
        learner.end_episode([(0, 0, 0.5)])
    with pytest.raises(DataError, match="the state at stage 1 is 3: states are 0 to 2"):
        learner.end_episode([(0, 0, 0.5), (3, 0, 0.5)])
    with pytest.raises(DataError, match="the action at stage 0 is -1: actions are 0 to 1"):
        learner.end_episode([(0, -1, 0.5), (0, 0, 0.5)])
    with pytest.raises(DataError, match=r"the loss at stage 1 is 1\.5: losses lie in \[0, 1\]"):
        learner.end_episode([(0, 0, 0.5), (0, 0, 1.5)])
    with pytest.raises(DataError, match="the loss at stage 0 is nan"):
        learner.end_episode([(0, 0, np.nan), (0, 0, 0.5)])
    with pytest.raises(DataError, match="stage is 2"):
        learner.act(2, 0)
    with pytest.raises(DataError, match="the state at stage 0 is 7"):
        learner.act(0, 7)
    with pytest.raises(DataError, match=r"state has shape \(1, 2\)"):
        learner.observe(np.zeros((1, 2), int), np.zeros((1, 1, 2), int), np.zeros((1, 1, 2)))
    with pytest.raises(DataError, match="states are float64"):
        learner.end_episode([(0.5, 0, 0.5), (0, 0, 0.5)])
    fleet = RefinedLinearQ(world, [config, AdversarialMDPConfig("logbarrier", episodes=10)])
    with pytest.raises(ConfigError, match="2 arms on 1 worlds"):
        fleet.end_episode([(0, 0, 0.5), (0, 0, 0.5)])
    with pytest.raises(ConfigError, match="no arms"):
        RefinedLinearQ(world, [])
    with pytest.raises(ConfigError, match="arms differ in covariance"):
        RefinedLinearQ(world, [config, AdversarialMDPConfig(episodes=10, covariance="average")])
    with pytest.raises(ConfigError, match="some arms know the number"):
        RefinedLinearQ(world, [config, AdversarialMDPConfig()])


def test_misuse_of_worlds_is_one_sentence():
    features = random_linear_mdp(np.random.default_rng(0), 2, 3, 2, 2).features
    with pytest.raises(DataError, match="features of stage 0, state 0, action 0 have norm"):
        LinearWorld.simulated(features * 9.0, lambda h, x, a, rng: x)
    with pytest.raises(DataError, match=r"they must be \[H, S, A, d\]"):
        LinearWorld.simulated(features[0], lambda h, x, a, rng: x)
    with pytest.raises(ConfigError, match="start is 3"):
        LinearWorld.simulated(features, lambda h, x, a, rng: x, start=3)
    world = LinearWorld.simulated(features, lambda h, x, a, rng: x + 5)
    with pytest.raises(ConfigError, match="covariance is 'exact', but this world can only be simulated: use covariance='average'"):
        RefinedLinearQ(world, AdversarialMDPConfig(episodes=10))
    with pytest.raises(ConfigError, match="bonus is 'exact', but this world can only be simulated"):
        RefinedLinearQ(world, AdversarialMDPConfig(episodes=10, covariance="average"))
    learner = RefinedLinearQ(world, AdversarialMDPConfig(episodes=10, covariance="average", bonus="sampled"))
    with pytest.raises(DataError, match="step, stage 0, returned state 5"):
        learner.end_episode([(0, 0, 0.5), (0, 0, 0.5)])
    with pytest.raises(ConfigError, match="can only be simulated"):
        learner.visited()
    broken = LinearWorld.simulated(features, lambda h, x, a, rng: x / 2)
    with pytest.raises(DataError, match="returned float64"):
        RefinedLinearQ(broken, learner.arms[0]).end_episode([(0, 0, 0.5), (0, 0, 0.5)])


def test_misuse_of_contests_is_one_sentence():
    model = random_linear_mdp(np.random.default_rng(0), 2, 3, 2, 2, (2,))
    learner = RefinedLinearQ(LinearWorld.of(model), AdversarialMDPConfig(episodes=10))
    two = [np.random.default_rng(i) for i in range(2)]
    with pytest.raises(DataError, match="for 1 generators"):
        compete(learner, model.mdp, lambda k: model.mdp.reward, [5], two[:1])
    with pytest.raises(ConfigError, match="name the numbers of episodes"):
        compete(learner, model.mdp, lambda k: model.mdp.reward, [], two)
    with pytest.raises(DataError, match=r"losses of episode 0 at \[0, 0, 0, 0\] are 2"):
        compete(learner, model.mdp, lambda k: np.full((2, 2, 3, 2), 2.0), [5], two)
    with pytest.raises(DataError, match=r"losses of episode 0 have shape \(5,\)"):
        compete(learner, model.mdp, lambda k: np.zeros(5), [5], two)
