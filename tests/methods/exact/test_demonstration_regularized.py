"""DRRL as a whole: the chain of its guarantee, the rules for lam, and that demonstrations pay only through the KL term."""

import numpy as np
import pytest

import surefoot.methods.exact.demonstration_regularized as drrl
import surefoot.methods.exact.ucbvi_ent as ucbvi_ent
from surefoot.claims.base import Context, holds
from surefoot.claims.demonstration_regularized import CLAIM
from surefoot.envs.finite import draw, play, random_linear_mdp, riverswim
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.behaviour_cloning import Demonstrations, held_out
from surefoot.methods.exact.demonstration_regularized import (
    DRRLConfig,
    learn,
    learn_from_preferences,
    learn_linear,
    penalty,
    theory_divergence,
)
from surefoot.methods.exact.lsvi_ucb_ent import LSVIUCBEntConfig
from surefoot.methods.exact.planning import optimal_plan, policy_return, trajectory_kl
from surefoot.methods.exact.preference_reward import simulated_labels
from surefoot.methods.exact.ucbvi_ent import UCBVIEntConfig
from surefoot.methods.exact.visits import Simulator, visit_counts

RIVER = riverswim()
EXPERT = optimal_plan(RIVER).policy
QUICK = UCBVIEntConfig(bonus="practical", scale=0.03)


def demonstrations(n, rng):
    return Demonstrations(visit_counts(RIVER, EXPERT, n, rng).sum(-1), np.asarray(n))


def loss(policy):
    return policy_return(RIVER, EXPERT) - policy_return(RIVER, policy)


def test_oracle_4_the_regularised_optimum_loses_at_most_lam_kl():
    uniform = np.full((10, 6, 2), 0.5)
    best, kl = policy_return(RIVER, EXPERT), trajectory_kl(RIVER, EXPERT, uniform)
    assert best == pytest.approx(0.352384, abs=5e-7) and kl == pytest.approx(6.931472, abs=5e-7)
    for lam, regularised in ((0.01, 0.297246), (0.1, 0.069951), (1.0, 0.019955)):
        value = optimal_plan(RIVER, lam, uniform).v[0, 0]
        assert value == pytest.approx(regularised, abs=5e-7) and value >= best - lam * kl
    assert best - 0.01 * kl == pytest.approx(0.283069, abs=5e-7)


def test_the_chain_of_the_guarantee():
    """With lam = eps_RL / KL the regularised optimum itself loses at most eps_RL against the expert, whatever the clone."""
    rng = np.random.default_rng(0)
    clones = rng.dirichlet(np.ones(2), (50, 10, 6))
    for eps_rl in (0.01, 0.05, 0.2):
        for clone in clones[:10]:
            lam = float(penalty(eps_rl, trajectory_kl(RIVER, EXPERT, clone)))
            assert loss(optimal_plan(RIVER, lam, clone).policy) <= eps_rl + 1e-12
    assert penalty(0.05, np.array([0.5, 0.0])).tolist() == [0.1, 0.05 / 1e-9]


def test_the_rules_order_the_penalty():
    rng = np.random.default_rng(0)
    states_actions = play(RIVER, EXPERT, 1000, rng)
    (states, actions), out = held_out(states_actions.state[:, :10], states_actions.action, 0.2, rng)
    demos, held = Demonstrations.of(states, actions, 6, 2), Demonstrations.of(*out, 6, 2)
    config = {"learner": UCBVIEntConfig(cap=1)}
    learned = {rule: learn(RIVER, demos, DRRLConfig(rule=rule, **config), held_out=held, expert=EXPERT) for rule in RULES}
    assert learned["theory"].eps_kl2 == pytest.approx(10 * 6 * 1 / 801 / 0.1) == theory_divergence(np.array(800), 10, 6, 2, 0.1)
    assert learned["oracle"].eps_kl2 == pytest.approx(trajectory_kl(RIVER, EXPERT, learned["oracle"].clone))
    assert learned["heldout"].eps_kl2 == pytest.approx(float(learned["oracle"].eps_kl2), rel=0.15)
    assert learned["theory"].lam < learned["heldout"].lam
    for one in learned.values():
        assert one.lam * one.eps_kl2 == pytest.approx(0.05)


RULES = ("theory", "heldout", "oracle")


def test_more_demonstrations_fewer_episodes_and_the_kl_term_is_why(monkeypatch):
    """The learning test: without the KL term the same budget does not certify anything; with it towards uniform play, it ends badly."""
    rng = np.random.default_rng(0)
    demos = demonstrations(np.array([3000, 3000, 10_000]), rng)
    config = DRRLConfig(rule="oracle", learner=UCBVIEntConfig(bonus="practical", scale=0.03, cap=9000))
    learned = learn(RIVER, demos, config, 0, expert=EXPERT)
    assert learned.found.certified.all() and learned.found.episodes[2] < 0.6 * learned.found.episodes[:2].min()
    assert (loss(learned.policy) < 0.01).all() and (loss(learned.policy) < loss(learned.clone)).all()
    again = learn(RIVER, demos, config, 0, expert=EXPERT)
    np.testing.assert_array_equal(again.policy, learned.policy)  # one seed, one outcome
    with monkeypatch.context() as off:
        off.setattr(drrl, "penalty", lambda eps_rl, eps_kl2: np.zeros_like(eps_kl2))
        assert not learn(RIVER, demos, config, 0, expert=EXPERT).found.certified.any()
    with monkeypatch.context() as off:
        off.setattr(drrl, "identify", lambda world, clone, *rest: ucbvi_ent.identify(world, np.full_like(clone, 0.5), *rest))
        assert (loss(learn(RIVER, demos, config, 0, expert=EXPERT).policy) > 0.1).all()


def test_ones_own_simulator_and_log_of_arrays():
    rng = np.random.default_rng(0)
    world = Simulator(lambda h, s, a: draw(RIVER.transition[h, s, a], rng), RIVER.reward, RIVER.initial)
    played = play(RIVER, EXPERT, 8000, rng)
    kept, out = held_out(played.state[:, :10], played.action, 0.2, rng)
    demos, held = Demonstrations.of(*kept, 6, 2), Demonstrations.of(*out, 6, 2)
    learned = learn(world, demos, DRRLConfig(rule="heldout", learner=QUICK), 0, held_out=held)
    assert learned.found.certified and loss(learned.policy) <= 0.1 and learned.policy.shape == (10, 6, 2)


def test_preferences_in_place_of_rewards_need_the_kl_term():
    rng = np.random.default_rng(0)
    demos = demonstrations(np.array([1000, 1000]), rng)

    def judge(pairs):
        return simulated_labels(pairs, RIVER.reward, rng)

    learned = learn_from_preferences(RIVER, demos, judge, 1000, DRRLConfig(rule="oracle", learner=QUICK), rng, expert=EXPERT)
    assert learned.reward.shape == (2, 10, 6, 2) and learned.found.certified.all()
    assert (loss(learned.policy) <= 0.1).all()
    trusting = optimal_plan(type(RIVER)(RIVER.transition, learned.reward[0], RIVER.initial)).policy  # the reward alone, no penalty
    assert loss(trusting) > 0.1


def test_linear_worlds_with_rewards_and_with_preferences():
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 4, 10, 3, 4)
    expert = optimal_plan(world.mdp).policy
    demos = Demonstrations(visit_counts(world.mdp, expert, 500, rng).sum(-1), np.array(500))
    config = DRRLConfig(rule="oracle", linear=LSVIUCBEntConfig(episodes=2000, scale=0.003))
    best = policy_return(world.mdp, expert)
    learned = learn_linear(world.mdp, world.features, demos, config, rng, expert=expert)
    cloned = best - policy_return(world.mdp, learned.clone)
    assert best - policy_return(world.mdp, learned.policy) < min(0.1, cloned)
    theory = learn_linear(world.mdp, world.features, demos, DRRLConfig(linear=LSVIUCBEntConfig(episodes=10)), rng)
    assert theory.eps_kl2 == pytest.approx(4 * 4 / 500 / 0.1)
    judged = learn_linear(
        world.mdp,
        world.features,
        demos,
        config,
        rng,
        expert=expert,
        judge=lambda pairs: simulated_labels(pairs, world.mdp.reward, rng),
        pairs=2000,
    )
    assert judged.reward.shape == (4, 10, 3)
    assert best - policy_return(world.mdp, judged.policy) < cloned + 0.05


def test_misuse_is_one_sentence():
    rng = np.random.default_rng(0)
    demos = demonstrations(10, rng)
    for settings, message in (({"eps": 0.0}, "eps is 0"), ({"rule": "best"}, "rule is 'best'"), ({"delta": 2.0}, "delta is 2")):
        with pytest.raises(ConfigError, match=message):
            DRRLConfig(**settings)
    with pytest.raises(ConfigError, match="no trajectories were held out: give held_out"):
        learn(RIVER, demos, DRRLConfig(rule="heldout"))
    with pytest.raises(ConfigError, match="needs the expert's policy"):
        learn(RIVER, demos, DRRLConfig(rule="oracle"))
    simulator = Simulator(lambda h, s, a: s, RIVER.reward, RIVER.initial)
    with pytest.raises(ConfigError, match="choose 'heldout'"):
        learn(simulator, demos, DRRLConfig(rule="oracle"), expert=EXPERT)
    with pytest.raises(DataError, match=r"counted as \(10, 5, 2\), but the world has stages, states and actions \(10, 6, 2\)"):
        learn(RIVER, Demonstrations(demos.counts[:, :5], demos.n))


# --- the claim --------------------------------------------------------------------------------------------------------


def made_up(slope, n=3, none=40_000.0, loss=0.01):
    """Scores with this slope through 30,000 episodes at 1000 demonstrations."""
    sizes, seeds = (300, 1000, 3000, 10_000), [str(i) for i in range(n)]
    arms = {f"drrl {k}": {s: 30_000.0 * (k / 1000) ** slope * (1 + 0.01 * int(s)) for s in seeds} for k in sizes}
    losses = {f"drrl {k}": dict.fromkeys(seeds, loss) for k in sizes}
    episodes = arms | {"none": dict.fromkeys(seeds, none)}
    preferences = {"drrl 300": dict.fromkeys(seeds, 0.02)}
    return {
        "episodes": episodes,
        "loss": losses,
        "episodes, lam from held-out": arms,
        "episodes, theory bonus": episodes,
        "loss, reward from preferences": preferences,
    }


def test_the_verdict_follows_from_the_scores():
    assert holds(CLAIM.checks(made_up(-1.0)))
    rate, fewer, accurate, *_ = CLAIM.checks(made_up(-1.0))
    assert rate.value == pytest.approx(-1.0) and fewer.value == pytest.approx(0.765) and accurate.value == 1.0
    for wrong in (made_up(-0.5), made_up(0.0), made_up(-1.5), made_up(-1.0, none=30_000.0), made_up(-1.0, loss=0.2)):
        assert not holds(CLAIM.checks(wrong))
    assert not CLAIM.checks(made_up(-1.0, n=1))[0].holds  # one seed has no interval


@pytest.mark.slow
def test_the_claim_runs():
    context: Context = CLAIM.context("small", 2, 900)
    scores = CLAIM.run(context)
    assert set(scores["episodes"]) >= {"none", "drrl 300", "drrl 10000"} and holds(CLAIM.checks(scores))
