"""Attacks: the card's listing step by step, what a budget is spent on, gradients that vanish, and what attacks do to returns."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attack_curve import attack_curve
from surefoot.evaluation.attacks import FGSM, PGD, QAttack, RandomAttack
from surefoot.evaluation.certificates import certify, gaussian_shift
from surefoot.evaluation.rollouts import play, rollout
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, Deterministic, Gaussian
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.sb3 import StableBaselines3Policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

CARTPOLE, PENDULUM = Spec((4,), Discrete(2)), Spec((3,), Continuous((-2.0,), (2.0,)))
W, C = np.array([0.6, -0.8], np.float32), 0.6


class OneStep(gym.Env):
    """The tightness example: one step at the origin, reward 1 for action 0."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action == 0), True, False, {}


gym.register("test/OneStep-v0", entry_point=OneStep, max_episode_steps=1)


def halfspace() -> Categorical:
    """Takes action 0 iff w.x <= c."""
    policy = Categorical(Spec((2,), Discrete(2)), ())
    with torch.no_grad():
        policy.net.weights[0].copy_(torch.tensor(np.stack([-W, W], 1)))
        policy.net.biases[0].copy_(torch.tensor([C, -C]))
    return policy


def lean(frames: int = 1) -> Categorical:
    """A CartPole policy set by hand: pushes the way the pole leans, averaged over the frames."""
    policy = Categorical(Spec((4 * frames,), Discrete(2)), (16,))
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        way = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(frames)
        policy.net.weights[0][:, 0], policy.net.weights[0][:, 1] = way, -way
        policy.net.weights[1][0, 1] = policy.net.weights[1][1, 0] = 1.0
    return policy


def stacked(frames: int = 3, actions: int = 2, copies: tuple[int, ...] = (), seed: int = 0) -> FrameStack:
    generator = torch.Generator().manual_seed(seed)
    policy = Categorical(Spec((4 * frames,), Discrete(actions)), (32,), copies, generator=generator)
    with torch.no_grad():
        policy.net.weights[-1].mul_(10.0)
        for bias in policy.net.biases:  # so that the decision depends on the observation
            bias.zero_()
    return FrameStack(policy, frames)


def every(budget, **options):
    """One attack of each kind and norm (those for any action space)."""
    kinds = [QAttack(budget, step=0.05, **options)]
    for norm in ("total", "l2", "linf"):
        more = {"norm": norm, "horizon": 5, **options}
        kinds += [FGSM(budget, **more), PGD(budget, steps=3, **more), RandomAttack(budget, **more)]
    return kinds


class Recorded:
    """Passes an attack's changes through and keeps them, `[T, *copies, n, ...]` float64."""

    def __init__(self, attack):
        self.attack, self.eps, self.alive = attack, [], []

    def start(self, n, policy):
        self.attack.start(n, policy)

    def __call__(self, obs, policy, memory, alive):
        seen = self.attack(obs, policy, memory, alive)
        self.eps.append(seen.double() - obs.double())
        self.alive.append(alive.clone())
        return seen


# --- the Q-attack -----------------------------------------------------------------------------------------------------


def listing(policy, k, true_frames, given_frames, o, c, threshold, step, mult, noise_clean, noise):
    """The card's listing for one step of one episode, written out: eps_t."""

    def q(stacks):
        return policy.inner(stacks)

    start = not true_frames
    points = len(noise)
    history = [o] * (k - 1) if start else true_frames[-(k - 1) :]
    if start:  # the first frame is repeated with its noise
        clean = (o + noise_clean[-1]).repeat(1, k)
    else:
        frames = torch.stack(history)[None] + torch.stack(noise_clean[-k:-1], 1)
        clean = torch.cat([frames.flatten(1), o + noise_clean[-1]], 1)
    q_clean = q(clean).mean(0)
    best_q, best = q_clean.max(), o

    def mean_scores(x):
        shown = x + noise
        if start:
            return q(shown.repeat(1, k)).mean(0)
        prefix = torch.cat(given_frames[-(k - 1) :]).expand(points, -1)
        return q(torch.cat([prefix, shown], 1)).mean(0)

    budget = float(c) ** 0.5
    for a in range(len(q_clean)):
        if not q_clean[a] + threshold <= q_clean.max() or a == int(q_clean.argmax()):
            continue
        x = o.clone()
        for _ in range(int(mult * budget / step)):
            x = x.detach().requires_grad_()
            scores = mean_scores(x)
            if int(scores.argmax()) == a:
                if q_clean[a] < best_q:
                    best_q, best = q_clean[a], x.detach()
                break
            (g,) = torch.autograd.grad(torch.log_softmax(scores, -1)[a], x)
            x = x.detach() + step * g / g.norm()
            if (x - o).norm() > budget:
                x = o + (x - o) * budget / (x - o).norm()
    return best - o


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_q_attack_is_the_listing_of_the_card(sigma, threshold):
    """One episode, three actions, three frames: step by step what the paper's attack does, with the same draws."""
    k, budget, samples = 3, 2.0, 5
    policy = Smoothed(stacked(k, actions=3), sigma)
    attack = QAttack(budget, threshold=threshold, step=0.03, samples=samples, seed=4)
    attack.start(1, policy)
    points = samples if sigma else 1
    draws, truth = torch.Generator().manual_seed(4), torch.Generator().manual_seed(1)
    memory, c, true_frames, given, noise_clean, changed = policy.start(1), budget**2, [], [], [], 0
    for t in range(25):
        o = 0.1 * torch.randn(1, 4, generator=truth)
        with torch.no_grad():
            seen = attack(o, policy, memory, torch.tensor([True]))
        noisy = [sigma * torch.empty(points, 4).normal_(generator=draws) if sigma else torch.zeros(1, 4)]
        noise_clean += noisy if t else k * noisy  # the first frame is repeated as it was seen
        noise = sigma * torch.empty(1, samples, 4).normal_(generator=draws)[0] if sigma and c > 0 else torch.zeros(1, 4)
        eps = listing(policy.inner, k, true_frames, given, o[0], c, threshold, 0.03, 2.0, noise_clean, noise)
        torch.testing.assert_close(seen[0] - o[0], eps, atol=1e-5, rtol=1e-4)
        changed += bool((eps != 0).any())
        c = max(0.0, c - float(eps.double().square().sum()))
        memory = policy.remember(seen, memory)
        true_frames += [o[0]] if t else k * [o[0]]
        given += [seen[0]] if t else k * [seen[0]]
    assert changed >= 3
    assert attack.spent[0] == pytest.approx((budget**2 - c) ** 0.5, abs=1e-5)


def test_q_attack_takes_the_shortest_way_and_carries_the_rest_over():
    """A linear policy: along w until w.x > c, in steps of 0.01; what is left is spent at the next steps."""
    attack = QAttack(1.0, step=0.01)
    policy = halfspace()
    attack.start(1, policy)
    with torch.no_grad():
        eps = [attack(torch.zeros(1, 2), policy, None, torch.tensor([True]))[0].double().numpy() for _ in range(4)]
    np.testing.assert_allclose(eps[0], 0.61 * W, atol=0.0101)
    np.testing.assert_allclose(eps[1], 0.61 * W, atol=0.0101)
    assert (eps[2] == 0).all()
    assert (eps[3] == 0).all()
    assert attack.spent[0] == pytest.approx(np.hypot(*(np.linalg.norm(e) for e in eps[:2])))
    assert (attack.changed, attack.steps) == (2, 4)


def test_q_attack_only_forces_clearly_worse_actions():
    policy = halfspace()  # scores 0.6 and -0.6: the other action is worse by 1.2
    for threshold, changed in ((1.19, True), (1.21, False)):
        attack = QAttack(1.0, threshold=threshold)
        attack.start(1, policy)
        with torch.no_grad():
            seen = attack(torch.zeros(1, 2), policy, None, torch.tensor([True]))
        assert bool((seen != 0).any()) == changed


def test_what_ended_is_not_attacked_and_costs_nothing():
    policy = halfspace()
    attack = QAttack(1.0)
    attack.start(2, policy)
    with torch.no_grad():
        seen = attack(torch.zeros(2, 2), policy, None, torch.tensor([True, False]))
    assert (seen[0] != 0).any()
    assert (seen[1] == 0).all()
    assert attack.spent[1] == 0.0


def test_members_of_a_fleet_are_attacked_as_they_would_be_alone():
    fleet = stacked(3, copies=(2,))
    together = Recorded(QAttack(0.5))
    rollout(fleet, "CartPole-v1", 6, seed=0, max_steps=10, perturb=together)
    obs = torch.randn(2, 6, 4)
    for attack in (lambda: QAttack(0.5), lambda: FGSM(0.5, horizon=3)):
        whole = attack()
        whole.start(6, fleet)
        alive = torch.ones(2, 6, dtype=torch.bool)
        with torch.no_grad():
            seen = whole(obs, fleet, fleet.start(6), alive)
            for i in range(2):
                lone, member = attack(), fleet.member(i)
                lone.start(6, member)
                torch.testing.assert_close(seen[i], lone(obs[i], member, member.start(6), alive[i]), atol=1e-5, rtol=1e-5)
    eps = torch.stack(together.eps)
    assert (eps.square().sum((0, -1)) <= 0.25 + 1e-6).all()


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(10))
def test_without_a_budget_nothing_changes_bit_for_bit(kind):
    policy = Smoothed(stacked(3), 0.2)
    plain = list(play(policy, "CartPole-v1", 5, seed=3, max_steps=30))
    attacked = list(play(policy, "CartPole-v1", 5, seed=3, max_steps=30, perturb=every(0.0)[kind]))
    assert len(plain) == len(attacked)
    for a, b in zip(plain, attacked, strict=True):
        for name in ("alive", "obs", "action", "reward", "next_obs"):
            assert (getattr(a, name) == getattr(b, name)).all()


def test_attacks_draw_from_a_generator_of_their_own():
    """Random changes that are too small to matter leave the policy's own noise as it was."""
    policy = Smoothed(FrameStack(lean(5), 5), 0.2)
    plain = rollout(policy, "CartPole-v1", 10, seed=3, max_steps=60)
    attacked = rollout(policy, "CartPole-v1", 10, seed=3, max_steps=60, perturb=RandomAttack(1e-12, norm="l2"))
    assert (plain.lengths == attacked.lengths).all()


def test_every_wave_starts_with_a_full_budget():
    attack = FGSM(0.4, horizon=1)
    rollout(lean(), "CartPole-v1", 6, seed=0, max_steps=5, n_envs=4, perturb=attack)
    np.testing.assert_allclose(attack.spent, 0.4, rtol=1e-5)
    assert attack.spent.shape == (6,)


def test_total_budget_is_shared_equally_over_the_horizon():
    attack = Recorded(RandomAttack(2.0, horizon=16))
    policy = FrameStack(lean(5), 5)
    rollout(policy, "CartPole-v1", 4, seed=0, max_steps=20, perturb=attack)
    sizes = torch.stack(attack.eps).norm(dim=-1)
    np.testing.assert_allclose(sizes[:16].numpy(), 0.5, rtol=1e-4)
    assert (sizes[17:] < 0.01).all()  # what rounding left over


def test_linf_changes_have_full_size_in_every_coordinate():
    policy = lean()
    for attack in (RandomAttack(0.1, norm="linf"), FGSM(0.1, norm="linf")):
        attack.start(5, policy)
        with torch.no_grad():
            eps = attack(torch.ones(5, 4), policy, None, torch.ones(5, dtype=torch.bool)) - 1.0
        used = eps if isinstance(attack, RandomAttack) else eps[:, 2:]  # lean looks at the last two only
        np.testing.assert_allclose(used.abs().numpy(), 0.1, rtol=1e-4)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [FGSM, lambda b, horizon: PGD(b, horizon=horizon, steps=40)], ids=["fgsm", "pgd"])
def test_gradient_attacks_find_the_worst_direction_of_a_linear_policy(make):
    attack = make(0.4, horizon=1)
    policy = halfspace()
    attack.start(3, policy)
    with torch.no_grad():
        eps = attack(torch.zeros(3, 2), policy, None, torch.ones(3, dtype=torch.bool))
    np.testing.assert_allclose(eps.numpy(), np.tile(0.4 * W, (3, 1)), atol=0.01)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("family", [Deterministic, Gaussian])
def test_continuous_actions_move_further_than_by_chance(family, norm):
    policy = family(PENDULUM, (32, 32), generator=torch.Generator().manual_seed(0))
    obs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    moved = {}
    with torch.no_grad():
        for name, attack in {
            "random": RandomAttack(0.2, norm=norm),
            "fgsm": FGSM(0.2, norm=norm),
            "pgd": PGD(0.2, norm=norm, steps=20),
        }.items():
            attack.start(64, policy)
            seen = attack(obs, policy, None, torch.ones(64, dtype=torch.bool))
            moved[name] = (policy(seen) - policy(obs)).abs().mean()
    assert moved["fgsm"] > 1.3 * moved["random"]
    assert moved["pgd"] >= 0.99 * moved["fgsm"]


def test_pgd_does_at_least_as_much_harm_as_its_start():
    policy = stacked(1)
    obs = torch.randn(40, 4)
    harms = []
    for steps in (1, 25):
        attack = PGD(0.5, norm="l2", steps=steps)
        attack.start(40, policy)
        with torch.no_grad():
            seen = attack(obs, policy, policy.start(40), torch.ones(40, dtype=torch.bool))
            chosen = policy.decide(obs, policy.start(40)).argmax(-1, keepdim=True)
            harms.append(-torch.log_softmax(policy.decide(seen, policy.start(40)), -1).gather(-1, chosen).mean())
    assert harms[1] > harms[0]


class Steps(nn.Module):
    """Two scores whose gradient is zero everywhere, though they depend on the observation."""

    def forward(self, x):
        return torch.stack([(x[:, 2] < 0).float(), (x[:, 2] >= 0).float()], -1) + 0.0 * x.sum(-1, keepdim=True)


class Hard(nn.Module):
    def forward(self, x):
        return torch.nn.functional.one_hot((x[:, 2] >= 0).long(), 2).float()


@pytest.mark.parametrize("make", [QAttack, lambda b: FGSM(b, norm="l2"), lambda b: PGD(b, norm="l2")], ids=["q", "fgsm", "pgd"])
def test_a_gradient_that_is_zero_everywhere_is_reported_and_not_shown_as_a_return(make):
    policy = ModulePolicy(Steps(), CARTPOLE, "steps")
    attack = make(0.5)
    rollout(policy, "CartPole-v1", 4, seed=0, max_steps=20, perturb=attack)
    assert attack.failed
    assert attack.gradients > 0
    curve = attack_curve(policy, "CartPole-v1", [0.0, 0.5], {"only": make}, episodes=4, max_steps=20)
    assert curve.failed.tolist() == [False, True]
    (member,) = curve.to_json()["members"]
    assert member["mean"][0] is not None
    assert member["mean"][1] is None
    assert member["vanished"] == [0.0, 1.0]
    honest = make(0.5)
    rollout(lean(), "CartPole-v1", 4, seed=0, max_steps=20, perturb=honest)
    assert not honest.failed
    assert honest.vanished == 0


def test_a_variant_with_nothing_to_attack_does_not_hide_that_the_others_failed():
    policy = ModulePolicy(Steps(), CARTPOLE, "steps")
    variants = {"fails": partial(QAttack, step=0.1), "idle": partial(QAttack, step=0.1, threshold=5.0)}
    assert attack_curve(policy, "CartPole-v1", [0.0, 0.5], variants, episodes=3, max_steps=10).failed.tolist() == [False, True]
    assert not attack_curve(lean(), "CartPole-v1", [0.5], variants, episodes=3, max_steps=10).failed.any()


def test_saturated_policy_is_reported():
    policy = Deterministic(PENDULUM, (4,))
    torch.nn.init.constant_(policy.net.biases[1], 50.0)
    attack = PGD(0.1, norm="l2")
    rollout(policy, "Pendulum-v1", 2, seed=0, max_steps=5, perturb=attack)
    assert attack.failed


@pytest.mark.parametrize("make", [QAttack, lambda b: FGSM(b, norm="l2"), lambda b: PGD(b, norm="l2")], ids=["q", "fgsm", "pgd"])
def test_policies_without_a_gradient_are_refused_in_a_sentence(make):
    function = Smoothed(FunctionPolicy(lambda obs: (obs[:, 2] > 0).astype(int), CARTPOLE, "python:x"), 0.1)
    with pytest.raises(PolicyError, match="gives no gradient"):
        rollout(function, "CartPole-v1", 2, seed=0, perturb=make(0.5))
    with pytest.raises(PolicyError, match="no gradient"):
        rollout(ModulePolicy(Hard(), CARTPOLE, "hard"), "CartPole-v1", 2, seed=0, perturb=make(0.5))
    assert rollout(function, "CartPole-v1", 2, seed=0, max_steps=9, perturb=RandomAttack(0.5, norm="l2")).returns.shape == (2,)


def test_q_attack_needs_discrete_actions_and_scores():
    with pytest.raises(PolicyError, match="discrete actions"):
        rollout(Deterministic(PENDULUM, (4,)), "Pendulum-v1", 1, seed=0, perturb=QAttack(0.5))
    chooses = ModulePolicy(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), CARTPOLE, "chooses")
    with pytest.raises(PolicyError, match="needs 2 scores"):
        rollout(chooses, "CartPole-v1", 1, seed=0, perturb=QAttack(0.5))


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [("PPO", "CartPole-v1"), ("DQN", "CartPole-v1"), ("SAC", "Pendulum-v1"), ("TD3", "Pendulum-v1"), ("PPO", "Pendulum-v1")],
)
def test_stable_baselines3_policies_are_attacked(algorithm, env):
    sb3 = pytest.importorskip("stable_baselines3")
    model = getattr(sb3, algorithm)("MlpPolicy", env, seed=0, device="cpu")
    policy = Smoothed(StableBaselines3Policy(model, "sb3:x"), 0.05)
    attacks = [FGSM(0.3, norm="linf", samples=4), PGD(0.3, norm="l2", samples=4, steps=3), RandomAttack(0.3, norm="l2")]
    if env == "CartPole-v1":
        attacks.append(QAttack(0.3, samples=4))
    for attack in attacks:
        result = rollout(policy, env, 3, seed=0, max_steps=8, perturb=attack)
        assert np.isfinite(result.returns).all()
        assert not attack.failed
        assert attack.changed > 0 or isinstance(attack, QAttack)


# --- what attacks do to returns ---------------------------------------------------------------------------------------


def test_the_bound_is_tight_in_simulation():
    """The card's example: reward 1 iff w.(o + noise) <= c. The gradient is w, so eps = B w, and the return is what the certificate says."""
    policy, n = Smoothed(halfspace(), 0.5), 10_000
    clean = rollout(policy, "test/OneStep-v0", n, seed=0).returns.mean()
    attack = FGSM(0.4, horizon=1, samples=8)
    attacked = rollout(policy, "test/OneStep-v0", n, seed=1, perturb=attack).returns.mean()
    assert clean == pytest.approx(0.884930, abs=4 * np.sqrt(0.885 * 0.115 / n))
    assert attacked == pytest.approx(0.655422, abs=4 * np.sqrt(0.655 * 0.345 / n))
    certificate = certify(policy, "test/OneStep-v0", [0.4], episodes=n, seed=2, bound="clopper", r_min=0, r_max=1)
    assert certificate.lower[0] <= attacked + 0.01
    assert certificate.lower[0] >= gaussian_shift(stats.norm.cdf(1.2), 0.4, 0.5) - 0.02


def test_q_attack_lowers_the_return_and_its_gradient_is_what_does_it(monkeypatch):
    policy, play = lean(), {"env_id": "CartPole-v1", "episodes": 20, "seed": 1, "max_steps": 150}
    plain = rollout(policy, **play).returns
    attacked = rollout(policy, **play, perturb=QAttack(1.5, step=0.02)).returns
    by_chance = rollout(policy, **play, perturb=RandomAttack(1.5, horizon=50)).returns
    assert plain.mean() == 150
    assert attacked.mean() < 60
    assert by_chance.mean() > 140
    monkeypatch.setattr(QAttack, "direction", lambda self, gradient, counted: torch.zeros_like(gradient))
    short = play | {"max_steps": 40}
    assert (rollout(policy, **short, perturb=QAttack(1.5, step=0.02)).returns == 40).all()


def test_attacked_returns_of_a_smoothed_policy_stay_above_its_certificate():
    policy, budgets = Smoothed(FrameStack(lean(5), 5), 0.2), [0.0, 0.3, 1.2]
    certificate = certify(policy, "CartPole-v1", budgets, episodes=1000, max_steps=150, seed=5)
    variants = {"q": partial(QAttack, step=0.05, samples=6)}
    curve = attack_curve(policy, "CartPole-v1", budgets, variants, episodes=40, max_steps=150, seed=6)
    means, sem = curve.returns.mean(-1), curve.returns.std(-1, ddof=1) / np.sqrt(40)
    assert (means + 3 * sem >= certificate.lower).all()
    assert means[2] < means[0] - 10  # and the attack is a real one
    assert certificate.lower[1] > 75  # as is the certificate


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curve_takes_the_worst_variant_of_each_budget_and_member():
    fleet = stacked(1, copies=(2,))
    variants = {"off": partial(QAttack, threshold=1e6), "on": partial(QAttack, step=0.1)}
    curve = attack_curve(fleet, "CartPole-v1", [0.0, 2.0], variants, episodes=8, max_steps=30, seed=1)
    assert curve.returns.shape == (2, 2, 8)
    assert curve.means.shape == (2, 2, 2)
    assert (curve.returns.mean(-1) == curve.means.min(1)).all()
    plain = rollout(fleet, "CartPole-v1", 8, seed=1, max_steps=30).returns
    assert (curve.returns[0] == plain).all()
    assert (curve.means[1, 0] == plain.mean(-1)).all()
    saved = curve.to_json()
    assert [m["member"] for m in saved["members"]] == [0, 1]
    assert saved["members"][0]["returns"] == curve.returns[:, 0].tolist()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QAttack(-0.1), "budget is -0.1"),
        (lambda: QAttack(float("nan")), "budget is nan"),
        (lambda: QAttack(0.1, threshold=-1.0), "threshold is -1"),
        (lambda: QAttack(0.1, step=0.0), "step 0"),
        (lambda: QAttack(0.1, samples=0), "samples is 0"),
        (lambda: FGSM(0.1), "horizon"),
        (lambda: FGSM(0.1, norm="l1"), "'total', 'l2' or 'linf'"),
        (lambda: FGSM(0.1, horizon=0), "horizon 0"),
        (lambda: PGD(0.1, norm="l2", steps=0), "steps is 0"),
        (lambda: attack_curve(lean(), "CartPole-v1", [], {"q": QAttack}), "no attack budget"),
        (lambda: attack_curve(lean(), "CartPole-v1", [0.1, -2.0], {"q": QAttack}), "budget is -2"),
    ],
)
def test_misuse_is_one_sentence(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
