"""Algorithm 1 without a simulator: its coins, weights, regression and policy cover, by enumeration; learning; misuse."""

import numpy as np
import pytest

from surefoot.envs.finite import LinearMDP, draw, random_linear_mdp
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact import simulator_free
from surefoot.methods.exact.adversarial_regret import compete_in_epochs
from surefoot.methods.exact.covariance_inverse import averaged_inverse, geometric_resampling, squared_norm
from surefoot.methods.exact.planning import occupancy
from surefoot.methods.exact.simulator_free import SimulatorFree, SimulatorFreeConfig, rates, regressed


def world(copies=3, horizon=3, states=4, actions=3, d=2, seed=0):
    return random_linear_mdp(np.random.default_rng(seed), horizon, states, actions, d, (copies,))


def play(learner, model, n, seed=0, loss=None):
    """n episodes of every copy, and what was seen `[C, n, H]`."""
    rng = np.random.default_rng(seed)
    c, h = learner.shape[:2]
    learner.begin(n)
    state, action = np.zeros((c, n, h), np.int64), np.zeros((c, n, h), np.int64)
    copy = np.arange(c)[:, None]
    for t in range(h):
        before = (copy, t - 1, state[..., t - 1], action[..., t - 1])
        came_from = np.repeat(model.mdp.initial[:, None], n, 1) if t == 0 else model.mdp.transition[before]
        state[..., t] = draw(came_from, rng)
        action[..., t] = learner.act(t, state[..., t], rng.random((c, n)))
    table = model.mdp.reward if loss is None else loss
    seen = table[copy[..., None], np.arange(h), state, action]
    return state, action, seen


def covered(model, **own):
    """A learner whose cover is complete."""
    learner = SimulatorFree(model.features, SimulatorFreeConfig(4000, cover_policies=6, cover_episodes=50, **own), seed=1)
    while learner.covering:
        learner.observe(*play(learner, model, learner.left, seed=len(learner.cover)))
    return learner


def test_one_epoch_by_the_definition():
    """Weights, halves, bonuses to go and the update against loops over episodes."""
    model = world()
    learner = covered(model, delta=0.5, epoch=40, alpha=4.0)
    assert learner.known.any() and not learner.known.all()
    state, action, seen = play(learner, model, 40)
    until, policy, r, before = learner._coins[0].copy(), learner.policy.copy(), learner.rates, learner.cost.copy()
    assert set(until.reshape(-1)) == {-1, 0, 1, 2}
    learner.observe(state, action, seen)
    for c in range(3):
        phi = model.features[c, np.arange(3), state[c], action[c]]  # [40, 3, d]
        weight = np.where(until[c, :, None] < 0, 1.0, 3.0 * (until[c, :, None] == np.arange(3)))
        si = []
        for h in range(3):
            sigma = sum(weight[e, h] * np.outer(phi[e, h], phi[e, h]) for e in range(20)) / 20
            si.append(np.linalg.inv(sigma + r.gamma * np.eye(2)))
        b = np.zeros((3, 4, 3))
        for h in range(3):
            norm2 = np.einsum("sad,de,sae->sa", model.features[c, h], si[h], model.features[c, h])
            b[h] = r.beta * (norm2 + (policy[c, h] * norm2).sum(-1, keepdims=True)) * learner.known[c, h][:, None]
        for h in range(3):
            theta, later = np.zeros(2), np.zeros(2)
            for e in range(20, 40):
                theta += weight[e, h] * phi[e, h] * seen[c, e, h:].sum() / 20
                to_go = sum((4 / 3) ** (i - h) * b[i, state[c, e, i], action[c, e, i]] for i in range(h + 1, 3))
                later += weight[e, h] * phi[e, h] * to_go / 20
            expected = before[c, h] + model.features[c, h] @ si[h] @ (theta - later) - b[h]
            np.testing.assert_allclose(learner.cost[c, h], expected, rtol=1e-9, atol=1e-9)


def test_weights_make_the_mixture_of_covariances():
    """E w phi phi^T = (1 - delta) Sigma_pi + delta Sigma_cov, to 4.5 standard errors; `visited` is the law that is played."""
    model = world(copies=1)
    learner = covered(model, delta=0.4, epoch=20_000)
    learner.policy = np.random.default_rng(0).dirichlet(np.ones(3), (1, 3, 4))
    state, action, _ = play(learner, model, 20_000)
    until = learner._coins[0][0]
    law, cover, here = (
        learner.visited(model.mdp)[0],
        occupancy(model.mdp, learner.cover).mean(0)[0],
        occupancy(model.mdp, learner.policy)[0],
    )
    for h in range(3):
        pair = state[0, :, h] * 3 + action[0, :, h]
        share = np.bincount(pair, minlength=12) / 20_000
        error = (share - law[h].reshape(-1)) / np.sqrt(np.maximum(law[h].reshape(-1), 1e-4) / 20_000)
        assert np.abs(error).max() < 4.5
        weight = np.where(until < 0, 1.0, 3.0 * (until == h))
        each = weight[:, None] * np.eye(12)[pair]
        mixture = (0.6 * here[h] + 0.4 * cover[h]).reshape(-1)
        error = (each.mean(0) - mixture) / np.maximum(each.std(0) / np.sqrt(20_000), 1e-3)
        assert np.abs(error).max() < 4.5


def test_regression_is_without_bias():
    """With the true covariance inverse, Si mean[w phi L] is theta of Q for a linear Q: here by least squares on all the data."""
    rng = np.random.default_rng(0)
    phi, theta = rng.normal(size=(2, 500, 3)), rng.normal(size=(2, 3))
    target, weight = (phi @ theta[..., None])[..., 0], rng.random((2, 500))
    np.testing.assert_allclose(regressed(averaged_inverse(phi, 1e-12, weight), phi, weight, target), theta, atol=1e-8)


def test_the_cover_reaches_what_uniform_play_does_not():
    """A corridor: features of the far end are seen by walking right all the way, 1/16 of the time by chance."""
    n = 5
    features, factors = np.zeros((1, n, n, 2, 2 * n)), np.zeros((1, n, 2 * n, n))
    for s in range(n):
        for a in range(2):
            features[0, :, s, a, 2 * s + a] = 1.0
            factors[0, :, 2 * s + a, min(s + 1, n - 1) if a else 0] = 1.0
    model = LinearMDP.of(features, factors, np.zeros((1, n, 2 * n)), np.eye(n)[:1])
    learner = SimulatorFree(features, SimulatorFreeConfig(4000, cover_policies=40, cover_episodes=4, alpha=20.0))
    while learner.covering:
        learner.observe(*play(learner, model, learner.left, seed=len(learner.cover)))
    end = occupancy(model.mdp, learner.cover).mean(0)[0, 4, 4]
    assert (end > 2.0 / 32.0).all()  # uniform play: 1/32 for each of the two actions
    norm2 = squared_norm(features.reshape(1, n, -1, 2 * n), np.linalg.inv(learner._gram / 40)).reshape(1, n, n, 2)
    np.testing.assert_array_equal(learner.known, (norm2 <= 20.0).all(-1))
    assert learner.known[0, 4, 4] and not learner.known[0, 0, 4]  # the first stage is at the near end always


def regret(seed=0, **own):
    model = random_linear_mdp(np.random.default_rng(seed), 3, 5, 4, 3, (4,))
    learner = SimulatorFree(model.features, SimulatorFreeConfig(4000, **own))
    generators = [np.random.default_rng(i) for i in range(4)]
    contest = compete_in_epochs(learner, model.mdp, lambda k: model.mdp.reward, [4000], generators)
    return contest.regret[0, 0].mean(), contest.uniform[0].mean()


def test_learns_and_not_without_its_estimates(monkeypatch):
    """Regret well below uniform play's; with estimates switched off (monkeypatched to zero) there is no learning."""
    found, uniform = regret()
    assert found < 0.5 * uniform
    monkeypatch.setattr(simulator_free, "loss_to_go", np.zeros_like)
    found, uniform = regret()
    assert found > 0.8 * uniform


def test_resampled_inverse_is_that_of_the_module():
    model = world(copies=2)
    learner = SimulatorFree(model.features, SimulatorFreeConfig(100, "luo2021", gamma=0.5))
    rng = np.random.default_rng(0)
    phi, weight = rng.random((2, 3, 400, 2)) / 2, np.where(rng.random((2, 3, 400)) < 0.5, 3.0, 0.0)
    found = learner._inverse(phi, weight)
    step, length = 0.5 / 3, int(np.ceil(3 * np.ceil(2 / 0.5 * np.log(100))))
    rows = (phi * np.sqrt(weight)[..., None])[:, :, : 400 // length * length].reshape(2, 3, length, -1, 2)
    np.testing.assert_allclose(found, geometric_resampling(np.moveaxis(rows, 2, 0), 0.5, step))


def test_one_at_a_time_is_the_same_learner():
    model = world(copies=1)
    lone, fleet = (
        SimulatorFree(model.features, SimulatorFreeConfig(200, cover_policies=2, cover_episodes=3, epoch=4), seed=5) for _ in range(2)
    )
    rng = np.random.default_rng(0)
    for _ in range(14):
        path, x = [], 0
        for h in range(3):
            a = int(lone.act(h, x))
            path.append((x, a, float(model.mdp.reward[0, h, x, a])))
            x = int(draw(model.mdp.transition[0, h, x, a], rng))
        lone.end_episode(path)
        fleet.begin(1)
        fleet.observe(*(np.array(part)[None, None] for part in zip(*path, strict=True)))
    assert not lone.covering and lone.cost.any()
    np.testing.assert_array_equal(lone.cover, fleet.cover)
    np.testing.assert_array_equal(lone.known, fleet.known)


def test_powers_of_k():
    few, many = (rates(SimulatorFreeConfig(k), 3) for k in (1_000, 512_000))  # 512 = 8^3 = 2^9
    assert few.alpha * 2.0 == pytest.approx(many.alpha) and few.delta / 2.0 == pytest.approx(many.delta)
    assert few.beta / 4.0 == pytest.approx(many.beta) and few.eta / 4.0 == pytest.approx(many.eta)
    assert few.gamma / 8.0 == pytest.approx(many.gamma) and few.epoch * 64 == many.epoch
    old = rates(SimulatorFreeConfig(32_768, "luo2021"), 3)
    assert old.eta == pytest.approx(old.gamma / 3) and old.gamma == pytest.approx(4.0 / 8.0) and old.beta == pytest.approx(0.06 / 4.0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"algorithm": "exp3"}, "algorithm is 'exp3'"),
        ({"episodes": 1}, "episodes is 1"),
        ({"eta": 0.0}, r"eta is 0\.0: it must be positive"),
        ({"beta": -1.0}, r"beta is -1\.0"),
        ({"delta": 1.5}, r"delta is 1\.5"),
        ({"epoch": 1}, "epoch is 1: at least 2"),
        ({"cover_policies": 0}, "cover_policies is 0"),
    ],
)
def test_settings_are_checked(settings, match):
    with pytest.raises(ConfigError, match=match):
        SimulatorFreeConfig(**{"episodes": 100} | settings)


def test_misuse_is_one_sentence():
    model = world(copies=1)
    learner = SimulatorFree(model.features[0], SimulatorFreeConfig(1000, cover_episodes=3))
    with pytest.raises(ConfigError, match="no episodes were begun: call begin"):
        learner.observe(np.zeros((1, 1, 3), int), np.zeros((1, 1, 3), int), np.zeros((1, 1, 3)))
    with pytest.raises(ConfigError, match="no episodes were begun: call begin"):
        learner.act(1, 0)
    with pytest.raises(ConfigError, match="n is 4: 3 episodes are left"):
        learner.begin(4)
    learner.act(0, 0)
    with pytest.raises(DataError, match="the episode has 2 steps: it must have 3"):
        learner.end_episode([(0, 0, 0.0)] * 2)
    with pytest.raises(DataError, match="the loss at stage 2 is 2"):
        learner.end_episode([(0, 0, 0.0), (0, 0, 0.0), (0, 0, 2.0)])
    with pytest.raises(DataError, match="the state at stage 0 is 9"):
        learner.act(0, 9)
    with pytest.raises(DataError, match="stage is 3"):
        learner.act(3, 0)
    with pytest.raises(DataError, match=r"they must be \[H, S, A, d\]"):
        SimulatorFree(model.features[0, 0], SimulatorFreeConfig(1000))
    with pytest.raises(DataError, match="have norm"):
        SimulatorFree(9.0 * model.features, SimulatorFreeConfig(1000))
