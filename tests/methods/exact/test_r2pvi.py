"""R2PVI: the card's numbers, its limits, tabular models by brute force, logs with early ends, policies that are saved and played."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.cli import main
from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete
from surefoot.envs import robust
from surefoot.envs.finite import play, random_linear_mdp, random_mdp
from surefoot.envs.robust import Tents, perturbed_toy, toy_linear_mdp
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.exact import divergences
from surefoot.methods.exact import r2pvi as module
from surefoot.methods.exact.linear_greedy import BlockFeatures, KnownRamp, policy_of
from surefoot.methods.exact.logged_features import FeaturedEpisodes, episodes_of, featured
from surefoot.methods.exact.planning import optimal_plan, policy_return
from surefoot.methods.exact.r2pvi import R2PVIConfig, clipped, ordered, r2pvi, robust_values, uncertainty
from surefoot.methods.exact.ridge import Gram
from surefoot.policies.saving import read_policy, save_policy

PHI = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]])
NEXT = np.array([1.0, 0.2, 2.0, 0.8])
KINDS = ("tv", "kl", "chi2", "none")


def toy_episodes(copies=40, n=100, seed=0):
    """Data sets of the toy as one array program, under a uniform policy."""
    world = toy_linear_mdp()
    played = play(world.mdp, np.full((3, 5, 16), 1 / 16), copies * n, np.random.default_rng(seed))
    states, actions = played.state.reshape(copies, n, 4), played.action.reshape(copies, n, 3)
    goes_on = states[..., 1:] != robust.FAILED
    return world, featured(states, actions, np.zeros(actions.shape), lambda h, s: world.features[h, s], goes_on=goes_on)


def greedy_policies(plan, features):
    """Greedy policies `[copies, H, S, A]` of a plan with copies, for a table of features `[H, S, A, d]`."""
    copies = plan.w.shape[:-2]
    shape = (*copies, *features.shape[1:])
    return np.eye(features.shape[2])[
        np.stack([plan.greedy(h, np.broadcast_to(features[h], shape)) for h in range(plan.horizon)], len(copies))
    ]


# --- estimates --------------------------------------------------------------------------------------------------------


def test_regression_by_hand():
    m = Gram.of_features(PHI, 0.1).weights(PHI)
    seen = {"v_min": None, "lam": 0.5}
    nu = {kind: robust_values(m, NEXT, R2PVIConfig(kind, **seen), 0, 2.0, 3.0) for kind in KINDS}
    np.testing.assert_allclose(nu["tv"], [0.511952, 0.575697], atol=1e-6)
    np.testing.assert_allclose(nu["kl"], [0.587290, 0.821693], atol=1e-6)
    np.testing.assert_allclose(nu["chi2"], [0.616371, 0.965185], atol=1e-6)
    np.testing.assert_allclose(nu["none"], m @ NEXT)
    at = np.minimum(NEXT, np.array([[1.0], [2.0]]))  # chi-square is attained at a = (1, 2)
    z, z2 = (m * at).sum(-1), (m * at**2).sum(-1)
    np.testing.assert_allclose(nu["chi2"], z + (z * z - z2) / 2.0, atol=1e-12)
    np.testing.assert_allclose(Gram.of_features(PHI, 0.1).diagonal, [0.761952, 0.562749], atol=1e-6)
    searched = robust_values(m, NEXT, R2PVIConfig("chi2", search=True, **seen), 0, 2.0, 3.0)
    np.testing.assert_allclose(searched, nu["chi2"], atol=1e-4)


def test_penalties_by_hand():
    gram, phi = Gram.of_features(PHI, 0.1), np.array([[[0.4, 0.6]]])
    found = [uncertainty(gram, phi, kind).item() for kind in ("sum", "quadratic", "elliptical")]
    assert found == pytest.approx([0.799259, 0.569651, 0.490751], abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_papers_penalty_is_the_larger(seed):
    rng = np.random.default_rng(seed)
    gram = Gram.of_features(rng.dirichlet(np.ones(4), 20), 0.1)
    phi = rng.dirichlet(np.ones(4), (5, 3))
    large, small = uncertainty(gram, phi, "sum"), uncertainty(gram, phi, "quadratic")
    assert (large >= small - 1e-12).all() and (small >= 0.0).all()
    assert (uncertainty(gram, phi - 0.3, "sum") >= 0.0).all()  # doubt is never negative, whatever the features


def one_hot_episodes(seed=0, n=400):
    """A small random world, its episodes from all states, and features under which regression weights are distributions."""
    rng = np.random.default_rng(seed)
    mdp = replace(random_mdp(rng, 3, 3, 2), initial=np.full(3, 1 / 3))
    played = play(mdp, np.full((3, 3, 2), 0.5), n, rng)
    table = np.eye(6).reshape(3, 2, 6)
    return mdp, played, featured(played.state[None], played.action[None], played.reward[None], lambda h, s: table[s])


EXACT = {"beta": 0.0, "ridge": 1e-9}


def test_a_price_without_end_is_plain_value_iteration_and_none_leaves_nothing():
    _, _, episodes = one_hot_episodes()
    plain = r2pvi(episodes, R2PVIConfig("none", **EXACT)).w
    for kind in ("tv", "kl", "chi2"):
        np.testing.assert_allclose(r2pvi(episodes, R2PVIConfig(kind, lam=1e4, **EXACT)).w, plain, atol=1e-3)
    world, toy = toy_episodes(3)
    np.testing.assert_allclose(
        r2pvi(toy, R2PVIConfig("tv", beta=0.0, lam=1e6), world.theta).w, r2pvi(toy, R2PVIConfig("none", beta=0.0), world.theta).w
    )
    free = r2pvi(toy, R2PVIConfig("tv", beta=0.0, lam=1e-9, v_min=0.0), world.theta)
    np.testing.assert_allclose(free.w, np.broadcast_to(world.theta, free.w.shape), atol=1e-8)  # nothing that comes is worth anything
    m = Gram.of_features(PHI, 0.1).weights(PHI)
    least = robust_values(m, NEXT, R2PVIConfig("tv", lam=1e-9, v_min=None), 0, 2.0, 3.0)
    np.testing.assert_allclose(least, 0.2 * m.sum(-1), atol=1e-8)  # V_min M 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_features_are_the_dual_of_each_cells_next_states(kind):
    """ridge -> 0: nu of a cell is the dual for its own empirical distribution, computed by brute force backwards."""
    (mdp, played, episodes), lam = one_hot_episodes(), 0.4
    plan = r2pvi(episodes, R2PVIConfig(kind, lam=lam, v_min=None, **EXACT))
    value = np.zeros(3)
    for h in (2, 1, 0):
        q = np.empty((3, 2))
        values = value[played.state[:, h + 1]]
        for s in range(3):
            for a in range(2):
                rows = (played.state[:, h] == s) & (played.action[:, h] == a)
                p = rows / rows.sum()
                least = values.min() if kind == "tv" else None
                worst = {
                    "tv": lambda p, v, least=least: divergences.penalised_tv(p, v, lam, least),
                    "kl": lambda p, v: divergences.penalised_kl(p, v, lam),
                    "chi2": lambda p, v, h=h: divergences.penalised_chi2(p, v, lam, 0.0, 3.0),
                    "none": lambda p, v: p @ v,
                }[kind](p, values)
                q[s, a] = mdp.reward[h, s, a] + (worst if h < 2 else 0.0)
        np.testing.assert_allclose(plan.w[0, h].reshape(3, 2), q, atol=1e-5)
        value = np.clip(q, 0.0, 3 - h).max(-1)


@pytest.mark.parametrize("kind", ["tv", "kl", "chi2"])
def test_values_grow_with_the_price_and_stay_below_those_without_adversary(kind):
    """With one-hot features the weights are distributions, and so it must be."""
    _, _, episodes = one_hot_episodes(1)
    learned = lambda config: r2pvi(episodes, replace(config, **EXACT)).w[0]  # noqa: E731
    found = [learned(R2PVIConfig(kind, lam=lam)) for lam in (0.05, 0.2, 0.5, 1.0, 3.0, 10.0)]
    assert (np.diff(found, axis=0) >= -1e-7).all()
    assert (found[-1] <= learned(R2PVIConfig("none")) + 1e-7).all()


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
@settings(max_examples=20, deadline=None)
def test_values_stay_within_what_can_be_earned(seed, kind):
    rng = np.random.default_rng(seed)
    world = random_linear_mdp(rng, 4, 5, 3, 3)
    played = play(world.mdp, np.full((4, 5, 3), 1 / 3), 30, rng)
    episodes = featured(played.state, played.action, played.reward, lambda h, s: world.features[h, s])
    plan = r2pvi(episodes, R2PVIConfig(kind, beta=rng.uniform(0.0, 2.0)))
    for h in range(4):
        q = plan.q(h, world.features[h])
        assert q.min() >= 0.0 and q.max() <= 4 - h


def test_with_much_data_and_no_pessimism_it_plans():
    world = random_linear_mdp(np.random.default_rng(3), 3, 5, 3, 3)
    played = play(world.mdp, np.full((3, 5, 3), 1 / 3), 40_000, np.random.default_rng(4))
    episodes = featured(played.state[None], played.action[None], played.reward[None], lambda h, s: world.features[h, s])
    policy = greedy_policies(r2pvi(episodes, R2PVIConfig("none", beta=0.0)), world.features)[0]
    assert policy_return(world.mdp, policy) == pytest.approx(optimal_plan(world.mdp).v[0, 0], abs=0.01)


def test_copies_are_apart():
    world, episodes = toy_episodes(4)
    for config in (R2PVIConfig("tv"), R2PVIConfig("kl"), R2PVIConfig("chi2"), R2PVIConfig("tv", radius=0.1), R2PVIConfig("kl", radius=0.1)):
        together = r2pvi(episodes, config, world.theta)
        arrays = {k: v[2] for k, v in vars(episodes).items() if isinstance(v, np.ndarray)}
        alone = r2pvi(FeaturedEpisodes(**arrays), config, world.theta)
        np.testing.assert_allclose(together.w[2], alone.w, atol=1e-6)


def test_the_search_of_the_official_code_agrees_where_it_does_not_get_stuck():
    world, episodes = toy_episodes(6)
    radius = np.zeros((3, 4))
    radius[0, 3] = 0.1
    exact, searched = (r2pvi(episodes, R2PVIConfig("tv", radius=radius, search=on), world.theta) for on in (False, True))
    assert (exact.w >= searched.w - 1e-4).all() and np.median(np.abs(exact.w - searched.w)) < 1e-4


# --- the clip ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_scores_are_greedy_for_q_and_worth_its_largest(seed, floor):
    rng = np.random.default_rng(seed)
    linear, config = rng.normal(rng.choice([-2.0, 1.0, 4.0]), 1.0, (6, 5)), R2PVIConfig(floor=floor)
    scores, q = ordered(linear, 2.0, config), clipped(linear, 2.0, config)
    np.testing.assert_allclose(scores.max(-1), q.max(-1), atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(q, scores.argmax(-1)[:, None], -1)[:, 0], q.max(-1))
    np.testing.assert_array_equal(scores.argsort(-1), linear.argsort(-1))
    assert floor == bool((clipped(np.array([-1.0]), 2.0, config) == 0.0).all())


def test_a_known_action_is_taken_where_it_is_better():
    known = np.array([[np.nan, np.nan, 0.5]])
    linear, config = np.array([[-3.0, -2.0, 9.0]]), R2PVIConfig()
    assert ordered(linear, 2.0, config, known).argmax() == 2
    assert ordered(linear, 2.0, config, known * 0.0).argmax() == 1  # a payoff of 0 is not better than the 0 of those learned
    np.testing.assert_array_equal(ordered(linear, 2.0, config, np.array([[0.1, 0.3, 0.2]])), [[0.1, 0.3, 0.2]])


def test_what_is_learned_does_not_depend_on_how_actions_are_numbered():
    """In the toy total variation's values at the start are all 0 after the clip: nothing but the order would decide."""
    world, episodes = toy_episodes(10)
    config = R2PVIConfig("tv", penalty="quadratic")
    plan, other = (r2pvi(x, config, world.theta) for x in (episodes, replace(episodes, next_phi=episodes.next_phi[..., ::-1, :])))
    at_start = np.broadcast_to(world.features[0], (10, 5, 16, 4))
    assert (plan.q(0, at_start)[:, 0] == 0.0).all()
    here, there = plan.greedy(0, at_start)[:, 0], 15 - other.greedy(0, at_start[..., ::-1, :])[:, 0]
    chance = world.features[0, 0, :, 3]
    np.testing.assert_allclose(chance[here], chance[there])
    np.testing.assert_array_equal(plan.value(0, at_start), plan.q(0, at_start).max(-1))


def test_without_a_floor_values_may_be_negative():
    world, episodes = toy_episodes(2)
    at_start = np.broadcast_to(world.features[0], (2, 5, 16, 4))
    assert r2pvi(episodes, R2PVIConfig("tv", floor=False), world.theta).q(0, at_start).min() < 0.0


# --- learning ---------------------------------------------------------------------------------------------------------


def shifted_returns(config, q=1.0):
    world, episodes = toy_episodes()
    policies = greedy_policies(r2pvi(episodes, config, world.theta), world.features)
    return np.array([policy_return(perturbed_toy(world, q), policy) for policy in policies])


def test_it_holds_up_where_the_world_has_shifted():
    gain = shifted_returns(R2PVIConfig("tv", penalty="quadratic")) - shifted_returns(R2PVIConfig("none"))
    assert gain.mean() > 0.2


def test_without_the_adversary_it_does_not(monkeypatch):
    monkeypatch.setattr(module.dv, "penalised_tv", lambda w, v, lam, v_min: (w * v).sum(-1))
    gain = shifted_returns(R2PVIConfig("tv", penalty="quadratic")) - shifted_returns(R2PVIConfig("none"))
    assert abs(gain.mean()) < 0.1


# --- logs and policies ------------------------------------------------------------------------------------------------


def own_log(n=200, seed=0, horizon=4) -> Log:
    """A walk on three cells that ends in the third, one-hot; action 1 moves on with probability 0.7, reward 1 on arriving."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        cell = 0
        for t in range(horizon):
            action = int(rng.integers(2))
            after = cell + int(action == 1 and rng.random() < 0.7)
            rows.append((np.eye(3)[cell], action, float(after == 2), np.eye(3)[after], after == 2, t == horizon - 1))
            cell = after
            if cell == 2:
                break
    obs, action, reward, next_obs, terminated, truncated = (np.array(column) for column in zip(*rows, strict=True))
    return Log.from_arrays(obs, action, reward, next_obs, terminated, truncated, action_space=Discrete(2))


def test_logs_with_early_ends():
    log, features = own_log(), BlockFeatures(2)
    episodes = episodes_of(log, features, 4)
    k = len(log.episode_lengths)
    assert episodes.phi.shape == (k, 4, 6) and episodes.next_phi.shape == (k, 4, 2, 6)
    np.testing.assert_array_equal(episodes.recorded.sum(1), log.episode_lengths)
    assert episodes.phi[~episodes.recorded].sum() == 0.0 and not episodes.goes_on[~episodes.recorded].any()
    ended = episodes.reward.sum(1) > 0.0
    np.testing.assert_array_equal(episodes.goes_on.sum(1), log.episode_lengths - ended)
    plan = r2pvi(episodes, R2PVIConfig("none", beta=0.0, ridge=1e-6))
    q = plan.q(0, features(0, np.eye(3)))
    # moving on pays when it works twice within the stages that are left: 1 - P(fewer than 2 successes in 4)
    assert q[0, 1] == pytest.approx(1 - 0.3**4 - 4 * 0.7 * 0.3**3, abs=0.05) and q[0, 1] > q[0, 0]


def test_a_policy_is_saved_and_acts_by_stage(tmp_path):
    log, features = own_log(), BlockFeatures(2)
    policy = policy_of(r2pvi(episodes_of(log, features, 4), R2PVIConfig("tv", lam=0.5)), features, (3,), 2)
    save_policy(policy, tmp_path / "policy")
    again = read_policy(tmp_path / "policy")
    obs, memory, other = torch.eye(3), policy.start(3), again.start(3)
    for _ in range(6):  # beyond the horizon too
        assert torch.equal(policy.decide(obs, memory), again.decide(obs, other))
        (a, memory), (b, other) = policy.act(obs, memory), again.act(obs, other)
        assert torch.equal(a, b)
    np.testing.assert_allclose(policy.decide(obs, {"stage": torch.tensor([0, 2, 3])})[1], policy._values(2, np.eye(3))[1])


def test_a_fleet_of_data_sets_is_a_fleet_of_policies():
    log, features = own_log(), BlockFeatures(2)
    one = episodes_of(log, features, 4)
    both = FeaturedEpisodes(*(np.stack([x[:100], x[100:]]) for x in (one.phi, one.reward, one.next_phi, one.goes_on, one.recorded)))
    policy = policy_of(r2pvi(both), features, (3,), 2)
    obs = torch.eye(3).expand(2, 3, 3)
    assert policy.act(obs)[0].shape == (2, 3)
    torch.testing.assert_close(policy.member(1)(torch.eye(3)), policy(obs)[1])


def put_features(h, states):
    hold = Tents(80.0, 100 / 30, 30)(states[:, 0])
    return np.stack([hold, np.zeros_like(hold)], 1)


def held_puts(n=100, seed=0):
    """Prices and stages left of puts that were held to the end, `[n, 21, 2]`."""
    prices = robust.put_prices(n, 20, 0.5, np.random.default_rng(seed))
    return np.stack([prices, np.broadcast_to(np.arange(20, -1, -1), prices.shape)], -1)


PUT = R2PVIConfig("tv", lam=2.0, beta=0.1, ridge=1.0, v_max=40.0)


def test_an_american_put_is_exercised_below_the_strike():
    """Learned from paths that were held to the end; the payoff of exercising is known."""
    payoff = KnownRamp(2, 1, 100.0)
    episodes = featured(held_puts(), np.zeros((100, 20), np.int64), np.zeros((100, 20)), put_features, known=payoff)
    assert episodes.unseen == ()  # exercising was never done, but its value is known
    plan = r2pvi(episodes, PUT, theta=np.zeros((20, 30)))
    assert "do not sum to one (they sum to 0." in plan.warnings[0]  # prices below the grid
    policy = policy_of(plan, put_features, (2,), 2, payoff)
    assert rollout(policy, "surefoot/AmericanPut-v0", 400, seed=0).returns.mean() > 1.8  # never exercising earns 0, exercising at once 1.25
    with pytest.raises(PolicyError, match="features are a Python function cannot be saved"):
        policy.config()
    with pytest.raises(PolicyError, match="known values are a Python function cannot be saved"):
        policy_of(plan, BlockFeatures(2), (2,), 2, lambda h, states: states).config()


def test_a_put_of_a_log_is_saved_and_judged_by_the_ordinary_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    states = held_puts()
    log = Log.from_arrays(
        states[:, :-1].reshape(-1, 2), np.zeros(2000, np.int64), np.zeros(2000), states[:, 1:].reshape(-1, 2),
        np.tile(np.arange(20) == 19, 100), action_space=Discrete(2),
    )  # fmt: skip
    features, payoff = BlockFeatures(2, "tents", low=60.0, width=4.0, n=26), KnownRamp(2, 1, 100.0)
    policy = policy_of(r2pvi(episodes_of(log, features, 20, known=payoff), PUT), features, (2,), 2, payoff)
    save_policy(policy, "put")
    again, obs = read_policy("put"), torch.tensor([[90.0, 20.0], [99.0, 20.0], [110.0, 20.0]])
    torch.testing.assert_close(again(obs), policy(obs))
    env = ("--env", "surefoot/AmericanPut-v0", "--episodes", "50", "--json")
    assert main(["evaluate", "put", *env]) == 0
    (row,) = json.loads(capsys.readouterr().out)["policies"]
    assert row["mean"]["value"] > 1.25
    assert main(["attack", "put", "--kind", "random", "--budgets", "0", "0.5", *env]) == 0
    assert "0.5" in capsys.readouterr().out


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "l2"}, "divergence is 'l2'"), ({"lam": 0.0}, "lam is 0"), ({"ridge": 0.0}, "ridge is 0"),
        ({"beta": -1.0}, "beta is -1"), ({"penalty": "none"}, "penalty is 'none'"), ({"r_max": 0.0}, "r_max is 0"),
        ({"v_max": -1.0}, "v_max is -1"),
        ({"divergence": "none", "radius": 0.1}, "radius is given with divergence 'none'"),
    ],
)  # fmt: skip
def test_settings_outside_their_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        R2PVIConfig(**settings)


def test_what_does_not_fit_is_named():
    world, episodes = toy_episodes(1)
    with pytest.raises(ConfigError, match=r"theta has shape \(2, 4\)"):
        r2pvi(episodes, theta=world.theta[:2])
    with pytest.raises(ConfigError, match=r"theta\[0, 0\] is not finite"):
        r2pvi(episodes, theta=world.theta * np.nan)
    with pytest.raises(ConfigError, match="radius has shape"):
        r2pvi(episodes, R2PVIConfig("tv", radius=(0.1, 0.2)), world.theta)
    reward = episodes.reward.copy()
    reward[0, 3, 1] = 2.0
    with pytest.raises(DataError, match="the reward of episode 3 at stage 1 is 2, outside"):
        r2pvi(replace(episodes, reward=reward))
    broken = episodes.phi.copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"phi\[0, 1, 2, 3\] is nan"):
        replace(episodes, phi=broken)
    with pytest.raises(DataError, match="goes_on has shape"):
        replace(episodes, goes_on=episodes.goes_on[:, :3])
    with pytest.raises(DataError, match="next_phi has shape"):
        replace(episodes, next_phi=episodes.next_phi[..., :2])


def test_features_that_break_the_model_are_warned_about(caplog):
    world, episodes = toy_episodes(1)
    assert r2pvi(episodes, theta=world.theta).warnings == ()
    negative, sums = r2pvi(replace(episodes, phi=episodes.phi - 0.1), theta=world.theta).warnings
    assert "have negative entries, down to -0.1" in negative and "do not sum to one (they sum to 0.6 .. 0.6)" in sums
    empty = episodes.phi.copy()
    empty[0, 7, 1] = 0.0
    (found,) = r2pvi(replace(episodes, phi=empty), theta=world.theta).warnings
    assert "all 0, the first in episode 7 at stage 1" in found
    log = own_log()
    lazy = replace(log, packed=log.packed.clone(), action=Discrete(3))
    with caplog.at_level(logging.WARNING, "surefoot"):
        (unseen,) = r2pvi(episodes_of(lazy, BlockFeatures(3), 4)).warnings
    assert "action 2 was never taken" in unseen and unseen in caplog.messages


def test_steps_lead_where_the_log_says():
    """Rows of an episode need not join: what was seen next is valued, what was seen is learned from."""
    log = own_log()
    rng = np.random.default_rng(1)
    scrambled = np.eye(3)[rng.integers(3, size=len(log))]
    t = log.transitions
    apart = Log.from_arrays(
        t.obs.numpy(), t.action.numpy(), t.reward.numpy(), scrambled, np.zeros(len(log)), log.ends, action_space=Discrete(2)
    )
    found = episodes_of(apart, BlockFeatures(2), 4)
    np.testing.assert_array_equal(found.phi, episodes_of(log, BlockFeatures(2), 4).phi)
    np.testing.assert_array_equal(found.next_phi[found.recorded][:, 0, :3], scrambled)


def test_logs_that_cannot_be_used_are_named():
    log, features = own_log(), BlockFeatures(2)
    with pytest.raises(DataError, match=r"episode \d+ has 4 steps, more than the horizon of 3"):
        episodes_of(log, features, 3)
    with pytest.raises(ConfigError, match="horizon is 0"):
        episodes_of(log, features, 0)
    with pytest.raises(DataError, match="is not among the 1 actions that have features"):
        episodes_of(log, BlockFeatures(1), 4)
    with pytest.raises(DataError, match="has 2 actions, but the feature map has 3"):
        episodes_of(log, BlockFeatures(3), 4)
    with pytest.raises(DataError, match=r"must give \[n, actions, features\]"):
        episodes_of(log, lambda h, s: s, 4)
    with pytest.raises(DataError, match=r"gives \(2, 6\) at stage 0, but \(2, 7\) at stage 1"):
        episodes_of(log, lambda h, s: np.ones((len(s), 2, 6 + h)), 4)
    with pytest.raises(DataError, match=r"known gave \(\d+, 3\)"):
        episodes_of(log, features, 4, known=lambda h, s: s)
    with pytest.raises(DataError, match="reward gave"):
        episodes_of(log, features, 4, reward=lambda r: r[:3])
    with pytest.raises(DataError, match="features and rewards must be finite"):
        episodes_of(log, lambda h, s: features(h, s) * np.nan, 4)
    with pytest.raises(ConfigError, match="action is 2: the 2 actions are numbered from 0"):
        KnownRamp(2, 2, 100.0)
    continuous = replace(log, action=Continuous((-1.0,), (1.0,)))
    with pytest.raises(DataError, match="continuous actions"):
        episodes_of(continuous, features, 4)
    with pytest.raises(ConfigError, match="all must be positive"):
        BlockFeatures(2, "tents", width=0.0)
    with pytest.raises(Exception, match="kind of features"):
        BlockFeatures(2, "tent")
