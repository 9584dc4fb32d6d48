"""Martingale evaluation: the method's oracles, exact where expectations are; brute force; training that fails without its key term."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.linalg import hadamard

import surefoot.methods.exact.martingale_evaluation as module
from surefoot.data.paths import PathBatch, Paths
from surefoot.envs.diffusions import brownian_power, call_option, decaying_square, discounted_square, irregular_times
from surefoot.errors import ConfigError, DataError, DivergedError, UnknownNameError
from surefoot.methods.exact.continuous_gtd import GTDConfig, fit_gtd
from surefoot.methods.exact.continuous_lstd import Class, equation, fit_linear
from surefoot.methods.exact.continuous_time import Criterion, Steps, complete, increments, returns_to_go, tails
from surefoot.methods.exact.martingale_diagnostics import martingale_test, relative_error
from surefoot.methods.exact.martingale_evaluation import (
    MartingaleConfig,
    ctd0_loss,
    ctd_loss,
    fit_network,
    loss_of,
    martingale_loss,
    mean_square_td_error,
)
from surefoot.methods.exact.online_ctd import OnlineCTD
from surefoot.methods.exact.value_functions import ValueNetwork


def x_tau(x, tau):
    return [x[..., 0] * tau]


def quadratic(x, tau):
    square = x[..., 0] ** 2
    return {"x^2 tau": square * tau, "tau": tau, "tau^2": tau**2, "x^2 tau^2": square * tau**2}


def from_increments(z, power):
    """Paths of unit length from standardised increments `[P, N]`, r = x^power."""
    p, n = z.shape
    x = np.concatenate([np.zeros((p, 1)), np.cumsum(z / np.sqrt(n), 1)], 1)
    t = np.broadcast_to(np.linspace(0.0, 1.0, n + 1), (p, n + 1))
    return PathBatch(t, x[..., None], x[:, :-1] ** power, np.zeros(p))


# --- oracle 1: r = x, exactly in expectation (increments with covariance exactly the identity) ----------------------------


@pytest.mark.parametrize(("n", "p", "digits"), [(10, 16, 0.136364), (100, 128, 0.014851), (1000, 1024, 0.001499)])
def test_the_minimiser_of_mstde_vanishes_with_the_mesh_and_the_others_are_right(n, p, digits):
    batch = from_increments(hadamard(p)[:, 1 : n + 1].astype(float), 1)
    dt, tau = 1.0 / n, 1.0 - np.arange(n) / n
    a, b = np.sum((tau - dt) ** 2 * dt), np.sum((1.0 - tau) * dt**2)
    theta = fit_linear(batch, x_tau, "mstde", ridge=0.0).theta[0]
    assert theta == pytest.approx(b / (a + b), rel=1e-9) and round(theta, 6) == digits
    for estimator in ("clstd0", "clstd", "lsmc"):
        assert fit_linear(batch, x_tau, estimator).theta[0] == pytest.approx(1.0, abs=1e-7)


def test_the_same_on_simulated_paths():
    batch = brownian_power(1).batch(20_000, 0.01, np.random.default_rng(0))
    for estimator, expected in (("mstde", 0.0149), ("lsmc", 1.0007), ("clstd0", 1.0005)):
        value = fit_linear(batch, x_tau, estimator)
        exact = 0.014851 if estimator == "mstde" else 1.0
        assert abs(value.theta[0] - exact) < 4.0 * value.standard_error[0]
        assert abs(value.theta[0] - expected) < 4.0 * np.sqrt(2.0) * value.standard_error[0]  # another simulation's numbers
        assert value.standard_error[0] < 0.02


# --- oracle 2: misspecified, r = x^3 --------------------------------------------------------------------------------

ANSWERS = {0.01: 1.856956, 0.1: 1.958487, 0.5: 2.053145, 0.9: 2.092662, 1.0: 2.1}


def limit(lam):
    """3 int_{s<t} lam^(t-s) (1-s) s t / int_{s<t} lam^(t-s) (1-s) s: where E sum z dM = 0."""

    def over(f):
        return integrate.dblquad(lambda s, t: lam ** (t - s) * (1.0 - s) * s * f(t), 0.0, 1.0, 0.0, lambda t: t, epsabs=1e-11)[0]

    return 3.0 * over(lambda t: t) / over(lambda t: 1.0)


def on_a_mesh(lam, n):
    """The same in exact expectation on a mesh; lam = 0 is CTD(0)."""
    t = np.arange(n) / n
    decay = np.where(t[None] >= t[:, None], lam ** np.maximum(t[None] - t[:, None], 0.0), 0.0) if lam > 0.0 else np.eye(n)
    weight = decay * ((1.0 - t) * t)[:, None]
    return 3.0 * (weight * t[None]).sum() / weight.sum()


def test_each_test_function_has_its_own_answer():
    for lam, digits in ANSWERS.items():
        assert round(limit(lam), 6) == digits
        assert on_a_mesh(lam, 2000) == pytest.approx(digits, rel=1e-3)
    assert on_a_mesh(0.0, 2000) == pytest.approx(1.5, rel=1e-3)
    nodes = np.sqrt(3.0) * np.array([-1.0, 0.0, 0.0, 0.0, 0.0, 1.0])  # moments of a normal up to the fifth
    batch = from_increments(np.array(list(itertools.product(nodes, repeat=5))), 3)
    assert fit_linear(batch, x_tau, "clstd0", ridge=0.0).theta[0] == pytest.approx(on_a_mesh(0.0, 5), rel=1e-10)
    assert fit_linear(batch, x_tau, "lsmc", ridge=0.0).theta[0] == pytest.approx(on_a_mesh(1.0, 5), rel=1e-10)
    for lam in ANSWERS:
        assert fit_linear(batch, x_tau, "clstd", lam=lam, ridge=0.0).theta[0] == pytest.approx(on_a_mesh(lam, 5), rel=1e-10)


def test_the_answers_on_simulated_paths():
    batch = brownian_power(3).batch(20_000, 0.02, np.random.default_rng(1))
    for estimator, lam, expected in (("clstd0", 0.5, 1.5), ("lsmc", 0.5, 2.1), *(("clstd", lam, x) for lam, x in ANSWERS.items())):
        value = fit_linear(batch, x_tau, estimator, lam=lam)
        bias = abs(on_a_mesh({"clstd0": 0.0, "lsmc": 1.0}.get(estimator, lam), 50) - expected)
        assert abs(value.theta[0] - expected) < 4.0 * value.standard_error[0] + bias


# --- oracle 3: by hand ----------------------------------------------------------------------------------------------

HAND = PathBatch(np.array([[0.0, 0.5, 1.0]]), np.array([[[1.0], [2.0], [0.5]]]), np.array([[1.0, 2.0]]), np.zeros(1))


def hand_values(theta=0.4):
    parameter = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    return parameter, parameter * torch.as_tensor(HAND.x[..., 0] * HAND.to_go)


def test_the_hand_path():
    arrays = Steps.of(HAND, Criterion())
    steps, reward = arrays.to(torch.float64), torch.as_tensor(HAND.reward)
    theta, v = hand_values()
    np.testing.assert_allclose(v.detach(), [[0.4, 0.4, 0.0]])
    np.testing.assert_allclose(increments(v, reward, steps).detach(), [[0.5, 0.6]])
    g = returns_to_go(HAND, arrays)
    np.testing.assert_allclose(g, [[1.5, 1.0]])
    for loss, value, direction in (
        (lambda v: mean_square_td_error(v, reward, steps), 0.61, None),
        (lambda v: martingale_loss(v, torch.as_tensor(g), steps), 0.3925, 0.85),
        (lambda v: ctd0_loss(v, reward, steps), None, 1.1),
        (lambda v: ctd_loss(v, reward, steps, 0.5), None, 0.762132),
        (lambda v: ctd_loss(v, reward, steps, 1.0), None, 0.85),
    ):
        theta, v = hand_values()
        found = loss(v)
        assert value is None or found.item() == pytest.approx(value)
        if direction is not None:
            assert -torch.autograd.grad(found, theta)[0].item() == pytest.approx(direction, abs=5e-7)
    theta, v = hand_values()  # delta / dt = 1, 1.2; its slope is (x' tau' - x tau) / dt = 0, -2
    assert torch.autograd.grad(mean_square_td_error(v, reward, steps), theta)[0].item() == pytest.approx(0.5 * 1.2 * -2.0)


@pytest.mark.parametrize(("lam", "direction"), [(None, 1.1), (0.5, 0.762132), (1.0, 0.85)])
def test_the_hand_path_on_a_stream(lam, direction):
    learner = OnlineCTD(x_tau, 1e-9, lam=lam)
    learner.theta = np.array([0.4])
    first = learner.step([1.0], 1.0, 0.5, [2.0], tau=1.0)
    last = learner.step([2.0], 2.0, 0.5, [0.5], tau=0.5, payoff=0.0)
    assert (first, last) == (pytest.approx(0.5), pytest.approx(0.6))
    assert (learner.theta[0] - 0.4) / 1e-9 == pytest.approx(direction, abs=1e-6)


# --- oracles 4, 5 and brute force, on ragged paths with steps of any lengths --------------------------------------------


def irregular(seed, rho=0.0, dim=2):
    """A few paths of different lengths, and the log they are."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, rng.integers(1, 6))
    path = np.repeat(np.arange(len(lengths)), lengths)
    t = np.concatenate([rng.normal() + np.cumsum(rng.exponential(1.0, n)) for n in lengths])
    return Paths.of(path, t, rng.normal(size=(len(t), dim)), rng.normal(size=len(t)), rng.normal(size=len(lengths)))


def features(x, tau):
    return [tau, x[..., 0] * tau, np.cos(x[..., 1]) * tau**2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_increments_telescope_for_any_theta(seed, rho):
    batch = irregular(seed).batch()
    steps = Steps.of(batch, Criterion(rho))
    phi, g, _ = Class(features, None, Criterion(rho)).on(batch)
    delta = increments(phi @ np.random.default_rng(seed).normal(size=3) + g, batch.reward, steps)
    v0 = delta * 0.0
    v0[:, 0] = phi[:, 0] @ np.random.default_rng(seed).normal(size=3)
    earned = (steps.weight * steps.annuity * batch.reward).sum(-1) + np.exp(-rho * batch.t[:, -1]) * batch.payoff
    np.testing.assert_allclose((steps.weight * delta).sum(-1), earned - v0.sum(-1), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_the_gradient_of_ml_is_that_of_ctd_at_lambda_1(seed, rho):
    batch = irregular(seed).batch()
    net = ValueNetwork(2, (5,), vanishing=False, generator=torch.Generator().manual_seed(seed))
    gradients = []
    for config in (MartingaleConfig("ml", rho=rho), MartingaleConfig("ctd", lam=1.0, rho=rho)):
        loss = loss_of(net, batch, config)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.01, 0.7, 2.0]),
    st.sampled_from(["clstd0", "clstd", "lsmc", "mstde"]),
    st.booleans(),
    st.booleans(),
)
def test_equations_are_those_of_a_loop_over_paths(seed, rho, estimator, infinite, uniform):
    """The card's own loops (forward traces), one path at a time and no padding."""
    log, lam, weighting = irregular(seed), 0.3, "uniform" if uniform else "discounted"
    rho = rho + 0.1 if infinite else rho
    payoff = None if infinite else log.payoff
    log = Paths(log.t, log.x, log.reward, payoff, log.starts, log.names)
    if infinite and estimator == "lsmc":
        return  # cut returns have a test of their own
    use = (lambda x: features(x, np.ones(x.shape[:-1]))) if infinite else features
    a, b, s = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))
    for p, (i, j) in enumerate(itertools.pairwise(log.starts)):
        t, x = log.t[i:j] - log.t[i], log.x[i:j]
        phi = np.stack(use(x) if infinite else use(x, t[-1] - t), -1)
        end = np.zeros(len(t))
        if not infinite:
            phi[-1], end[-1] = 0.0, log.payoff[p]
        z = np.zeros(3)
        for k in range(len(t) - 1):
            dt = t[k + 1] - t[k]
            gamma, w = np.exp(-rho * dt), 1.0 if uniform else np.exp(-rho * t[k])
            annuity = dt if rho == 0.0 else (1.0 - gamma) / rho
            psi, c = gamma * phi[k + 1] - phi[k], gamma * end[k + 1] - end[k] + annuity * log.reward[i + k]
            before = t[k] - t[k - 1] if k else 0.0
            z = (lam * np.exp(-rho)) ** before * z + w * phi[k] * dt
            s += w * np.outer(phi[k], phi[k]) * dt
            if estimator == "lsmc":
                g = sum(np.exp(-rho * (t[m] - t[k])) * (annuity_of(rho, t[m + 1] - t[m])) * log.reward[i + m] for m in range(k, len(t) - 1))
                g += np.exp(-rho * (t[-1] - t[k])) * log.payoff[p]
                a, b = a - w * np.outer(phi[k], phi[k]) * dt, b + w * phi[k] * g * dt
            else:
                xi = {"clstd0": w * phi[k], "clstd": z, "mstde": w * psi / dt}[estimator]
                a, b = a + np.outer(xi, psi), b + xi * c
    linear = Class(use, None, Criterion(rho, infinite, weighting))
    found = [np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))]
    for _, batch in log.blocks(12):  # several blocks
        for total, part in zip(found, equation(batch, linear, estimator, lam).sums(), strict=True):
            total += part
    for mine, theirs in zip(found, (a, b, s), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-9 * (1.0 + np.abs(theirs).max()))


def annuity_of(rho, dt):
    return dt if rho == 0.0 else (1.0 - np.exp(-rho * dt)) / rho


def test_a_constant_reward_leaves_no_increments_at_the_truth():
    log = irregular(4)
    log = Paths(log.t, log.x, np.full(len(log.t), 2.5), np.zeros(len(log)), log.starts, log.names)
    batch = log.batch()
    v = torch.as_tensor(2.5 * batch.to_go).requires_grad_()
    arrays = Steps.of(batch, Criterion())
    steps, reward = arrays.to(torch.float64), torch.as_tensor(batch.reward)
    assert increments(v, reward, steps).abs().max() < 1e-12
    losses = [mean_square_td_error(v, reward, steps), martingale_loss(v, torch.as_tensor(returns_to_go(batch, arrays)), steps)]
    losses += [ctd0_loss(v, reward, steps), ctd_loss(v, reward, steps, 0.5)]
    for loss in losses:
        assert loss.abs() < 1e-12 and torch.autograd.grad(loss, v, retain_graph=True)[0].abs().max() < 1e-12
    for estimator in ("clstd0", "clstd", "lsmc", "mstde"):
        value = fit_linear(log, lambda x, tau: [tau, x[..., 0] * tau], estimator, ridge=0.0)
        np.testing.assert_allclose(value.theta, [2.5, 0.0], atol=1e-10)


def test_least_squares_monte_carlo_is_numpys_least_squares():
    batch = decaying_square().batch(50, 0.1, np.random.default_rng(0))
    phi = np.stack(list(quadratic(batch.x, batch.to_go).values()), -1)[:, :-1]
    g = returns_to_go(batch, Steps.of(batch, Criterion()))
    root = np.sqrt(batch.dt)
    expected = np.linalg.lstsq((phi * root[..., None]).reshape(-1, 4), (g * root).reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(fit_linear(batch, quadratic, "lsmc", ridge=0.0).theta, expected, rtol=1e-8)


def test_tails_of_numbers_and_vectors():
    x, decay = np.random.default_rng(0).normal(size=(2, 3, 4, 5)), np.random.default_rng(1).uniform(size=(2, 3, 4))
    w = tails(x, decay)
    for k in range(5):
        np.testing.assert_allclose(tails(x[..., k], decay), w[..., k])
    np.testing.assert_allclose(w[..., 2, :], x[..., 2, :] + decay[..., 2, None] * x[..., 3, :])


# --- oracle 6: discounted, forever ----------------------------------------------------------------------------------


def test_an_infinite_horizon():
    problem = discounted_square(horizon=400.0)
    batch = problem.batch(64, 0.01, np.random.default_rng(0))
    value = fit_linear(batch, lambda x: {"x^2": x[..., 0] ** 2, "1": 1.0}, "clstd0", rho=1.0, infinite=True)
    gamma, q = np.exp(-0.01), 0.99**2
    a = (1.0 - gamma) / (1.0 - gamma * q)  # of the simulated chain itself
    chain = np.array([a, 0.02 * gamma * a / (1.0 - gamma)])
    assert (np.abs(value.theta - chain) < 4.0 * value.standard_error).all() and (value.standard_error < 0.006).all()
    assert (np.abs(value.theta - [0.3307, 0.6683]) < 4.0 * np.sqrt(2.0) * value.standard_error).all()  # another simulation's numbers
    np.testing.assert_allclose(value.theta, [1 / 3, 2 / 3], atol=0.02)
    assert relative_error(value, problem.value, batch, infinite=True) < 0.02
    assert martingale_test(batch, value, rho=1.0, infinite=True).drift.shape == (1, 5)


def test_returns_that_the_paths_end_cuts_off_are_not_used():
    batch = discounted_square(horizon=20.0).batch(200, 0.1, np.random.default_rng(0))
    forever = Criterion(1.0, True)
    whole = complete(batch, forever)
    assert whole[0].sum() == np.sum(np.exp(-batch.to_go[0, :-1]) < 1e-4) == 108
    value = fit_linear(batch, lambda x: [x[..., 0] ** 2, 1.0], "lsmc", rho=1.0, infinite=True)
    gamma = np.exp(-0.1)
    a = ((1.0 - gamma) / 1.0) / (1.0 - gamma * 0.81)
    assert (np.abs(value.theta - [a, 0.2 * gamma * a / (1.0 - gamma)]) < 4.0 * value.standard_error + 1e-3).all()
    short = discounted_square(horizon=3.0).batch(2, 0.1, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"the longest path lasts 3, but returns at rho = 1 are complete after 9\.21 only"):
        fit_linear(short, lambda x: [x[..., 0]], "lsmc", rho=1.0, infinite=True)


# --- oracle 7: the martingale property at the truth --------------------------------------------------------------------


def test_increments_at_the_truth_are_of_second_order():
    """E[delta phi(X)] by quadrature over X and the step's noise, for bounded phi: a quarter for half the step."""
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    weight = weight / weight.sum()
    x, z = (a.reshape(-1) for a in np.meshgrid(node, node, indexing="ij"))
    both = np.outer(weight, weight).reshape(-1)
    truth = decaying_square().value

    def moment(dt, phi):
        ahead = x - x * dt + np.sqrt(dt) * z
        batch = PathBatch(np.tile([0.0, dt], (len(x), 1)), np.stack([x, ahead], -1)[..., None], (x**2)[:, None], None)
        v = truth(batch.x, np.array([1.0, 1.0 - dt]))
        return (both * increments(v, batch.reward, Steps.of(batch, Criterion()))[:, 0] * phi(x)).sum()

    for phi in (np.cos, np.tanh, lambda x: np.exp(-(x**2)), lambda x: 1.0 / (1.0 + (x - 0.5) ** 2)):
        sizes = np.abs([moment(dt, phi) for dt in (0.04, 0.02, 0.01)])
        if sizes.max() > 1e-12:  # 0 by symmetry for odd phi
            np.testing.assert_allclose(np.log2(sizes[:-1] / sizes[1:]), 2.0, atol=0.1)


def test_the_diagnosis_tells_the_truth_from_the_minimiser_of_mstde():
    problem = brownian_power(1)
    fitted, judged = (problem.batch(3000, 0.02, np.random.default_rng(seed)) for seed in (0, 1))
    good, bad = (martingale_test(judged, fit_linear(fitted, x_tau, e)) for e in ("clstd0", "mstde"))
    assert good.p > 0.01 and bad.p < 1e-12
    assert good.steps.sum() == 3000 * 50 and np.abs(good.z).max() < 4.0
    assert good.variance == pytest.approx(good.quadratic_variation, rel=0.15)  # a martingale's
    assert bad.quadratic_variation < 0.5 * good.quadratic_variation  # which is all that it minimises
    assert "the value looks too" in bad.worst and "standard errors" in bad.worst
    assert martingale_test(judged, problem.value).p > 0.01


def test_the_diagnosis_of_the_truth_is_as_often_significant_as_it_says():
    problem = brownian_power(1)
    p = [martingale_test(problem.batch(200, 0.05, np.random.default_rng(seed)), problem.value, bins=3).p for seed in range(200)]
    for level in (0.1, 0.5):
        assert abs(np.mean(np.array(p) < level) - level) < 4.0 * np.sqrt(level * (1.0 - level) / 200)


# --- oracle 8: gradient TD ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["cgtd0", "cgtd2"])
@pytest.mark.parametrize("whiten", [False, True])
def test_gradient_td_reaches_the_root_of_clstd(variant, whiten):
    batch = decaying_square().batch(100, 0.1, np.random.default_rng(0))

    def two(x, tau):
        return [2.0 * x[..., 0] ** 2 * tau, 3.0 * tau]

    root = fit_linear(batch, two, "clstd0", ridge=0.0).theta
    config = GTDConfig(variant, lr=0.05 if whiten else 0.02, iterations=1000, whiten=whiten)
    found = fit_gtd(itertools.repeat(batch), two, config).theta
    np.testing.assert_allclose(found, root, atol=1e-3 * np.abs(root).max())


def test_gradient_td_on_new_paths_as_a_fleet():
    problem = decaying_square()
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    value = fit_gtd((problem.batch(64, 0.05, rngs) for _ in itertools.count()), quadratic, GTDConfig(iterations=800))
    assert value.theta.shape == (3, 4)
    assert (relative_error(value, problem.value, problem.batch(500, 0.05, np.random.default_rng(9))) < 0.15).all()
    with pytest.raises(DivergedError, match=r"the weights explode, at update .*: take a smaller lr than 5"):
        fit_gtd((problem.batch(64, 0.05, rngs) for _ in itertools.count()), quadratic, GTDConfig(lr=5.0))
    with pytest.raises(DataError, match="ended after 2 of 1500"):
        fit_gtd([problem.batch(64, 0.05, rngs)] * 2, quadratic)


# --- irregular steps ------------------------------------------------------------------------------------------------


def test_irregular_steps_change_the_answer_of_mstde_alone():
    problem = decaying_square()
    rng = np.random.default_rng(3)
    batch = problem.batch(4000, irregular_times(1.0, 40, 4000, rng), rng)
    fresh = problem.batch(1000, 0.02, rng)
    errors = {e: float(relative_error(fit_linear(batch, quadratic, e), problem.value, fresh)) for e in ("clstd0", "clstd", "lsmc", "mstde")}
    assert max(errors[e] for e in ("clstd0", "clstd", "lsmc")) < 0.1 < 0.4 < errors["mstde"]


def test_a_stream_of_irregular_steps():
    """A hundred streams side by side, each with weights of its own, whose mean is the truth up to O(lr): weights move within a path."""
    problem, rng = brownian_power(1), np.random.default_rng(5)
    learners = [OnlineCTD(x_tau, lambda n: (1.0 + n / 500.0) ** -0.67), OnlineCTD(x_tau, 2.0, lam=0.5)]
    for _ in range(100):
        t = irregular_times(1.0, 15, 1, rng)[0]
        batch = problem.batch(100, t, rng)
        for learner in learners:
            for i in range(15):
                where = {"tau": 1.0 - t[i], "payoff": 0.0 if i == 14 else None}
                learner.step(batch.x[:, i], batch.reward[:, i], t[i + 1] - t[i], batch.x[:, i + 1], **where)
    for learner in learners:
        theta = learner.value.theta[:, 0]
        assert theta.shape == (100,) and abs(theta.mean() - 1.0) < 0.12 and theta.std() < 0.4


# --- networks -------------------------------------------------------------------------------------------------------


def train(objective, iterations=250, seed=0, **rest):
    problem = decaying_square()
    rngs = [np.random.default_rng(1000 + i) for i in range(2)]
    config = MartingaleConfig(objective, iterations=iterations, lr=1e-2, **rest)
    value = fit_network((problem.batch(64, 0.1, rngs) for _ in itertools.count()), config, copies=(2,), seed=seed)
    return relative_error(value, problem.value, problem.batch(1000, 0.05, np.random.default_rng(7)))


def test_networks_learn_and_the_baseline_does_not():
    errors = {objective: train(objective) for objective in ("ml", "ctd0", "ctd", "mstde")}
    for objective in ("ml", "ctd0", "ctd"):
        assert (errors[objective] < 0.2).all() and (errors[objective] < 0.5 * errors["mstde"]).all()


def test_without_the_stopped_gradient_ctd0_is_something_else(monkeypatch):
    def leaking(v, reward, steps):
        return -(steps.weight * increments(v, reward, steps) * v[..., :-1]).sum(-1).mean(-1)

    monkeypatch.setattr(module, "ctd0_loss", leaking)
    assert (train("ctd0") > 0.3).all()


def test_a_member_of_a_fleet_learns_as_it_would_alone():
    batch = decaying_square().batch(8, 0.1, [np.random.default_rng(0), np.random.default_rng(1)])
    fleet = ValueNetwork(1, (6, 5), copies=(2,), generator=torch.Generator().manual_seed(0))
    for config in (MartingaleConfig(objective) for objective in ("ml", "ctd0", "ctd", "mstde")):
        together = torch.autograd.grad(loss_of(fleet, batch, config).sum(), list(fleet.parameters()))
        for copy in range(2):
            lone = ValueNetwork(1, (6, 5))
            with torch.no_grad():
                for mine, theirs in zip(lone.parameters(), fleet.parameters(), strict=True):
                    mine.copy_(theirs[copy])
            own = PathBatch(batch.t[copy], batch.x[copy], batch.reward[copy], batch.payoff[copy])
            apart = torch.autograd.grad(loss_of(lone, own, config), list(lone.parameters()))
            for a, b in zip(together, apart, strict=True):
                torch.testing.assert_close(a[copy], b, rtol=1e-9, atol=1e-12)


def test_a_log_in_units_of_its_own():
    """Days, millions and a state around 500: the log's statistics bring them to order one."""
    problem = decaying_square()
    rng = np.random.default_rng(0)
    t = irregular_times(1.0, 30, 400, rng)
    batch = problem.batch(400, t, rng)
    days, paths = 250.0, np.repeat(np.arange(400), 31)
    rewards = np.concatenate([batch.reward, np.zeros((400, 1))], 1).reshape(-1) * 1e6
    log = Paths.of(paths, 730_000.0 + days * t.reshape(-1), 500.0 + 20.0 * batch.x.reshape(-1), rewards, 0.0)
    value = fit_network(log, MartingaleConfig("ctd", lam=0.5 ** (1 / days), iterations=400, lr=1e-2), copies=(2,))
    x, tau = np.array([[480.0], [500.0], [520.0]]), np.full(3, 250.0)
    expected = problem.value((x - 500.0) / 20.0, 1.0) * 1e6 * days
    assert value(x, tau).shape == (2, 3)
    np.testing.assert_allclose(value(x, tau), np.tile(expected, (2, 1)), rtol=0.35)
    np.testing.assert_array_equal(value(x, 0.0), np.zeros((2, 3)))
    assert value.losses.shape == (400, 2)


def test_terminal_conditions_known_and_open():
    problem = call_option()
    rng = np.random.default_rng(0)
    batch, fresh = problem.batch(3000, 0.1, rng), problem.batch(500, 0.1, rng)
    log = Paths.of(np.repeat(np.arange(3000), 11), batch.t.reshape(-1), batch.x.reshape(-1), None, batch.payoff)
    config = MartingaleConfig("ml", rho=0.05, iterations=200, lr=1e-2)
    known, left_open = (fit_network(log, config, terminal=h) for h in (problem.payoff, None))
    np.testing.assert_allclose(known(fresh.x[:, -1], 0.0), fresh.payoff, atol=1e-12)
    assert relative_error(known, problem.value, fresh) < 0.1
    assert relative_error(left_open, problem.value, fresh) < 0.2
    with pytest.raises(DataError, match=r"path \d+ of the batch was paid 0.*the terminal condition gives"):
        fit_network(log, config, terminal=lambda x: x[..., 0])
    stream = fit_network(itertools.repeat(batch), MartingaleConfig("ml", rho=0.05, iterations=1), terminal=problem.payoff, scaled=True)
    assert stream.net.std.item() == pytest.approx(batch.x.std())


def test_a_network_forever():
    problem = discounted_square(horizon=12.0)
    rngs = [np.random.default_rng(0)]
    for objective in ("ctd0", "ml"):
        config = MartingaleConfig(objective, rho=1.0, infinite=True, iterations=150, lr=2e-2)
        value = fit_network((problem.batch(32, 0.1, rngs) for _ in itertools.count()), config, copies=(1,))
        assert relative_error(value, problem.value, problem.batch(200, 0.1, rngs[0]), infinite=True) < 0.25


# --- what is refused ------------------------------------------------------------------------------------------------


def small():
    return decaying_square().batch(20, 0.1, np.random.default_rng(0))


SINGULAR = [
    (lambda x, tau: {"a": x[..., 0] * tau, "none": 0.0 * tau}, "feature 'none' is 0 at every row"),
    (lambda x, tau: {"a": tau, "b": x[..., 0] ** 2 * tau, "twice": 2.0 * tau}, "feature 'twice' is a combination of 'a'"),
    (lambda x, tau: [tau, x[..., 0] * tau, 3.0 * tau - x[..., 0] * tau], "feature '2' is a combination of"),
]


@pytest.mark.parametrize(("use", "message"), SINGULAR, ids=[row[1] for row in SINGULAR])
@pytest.mark.parametrize("estimator", ["clstd0", "clstd", "lsmc", "mstde"])
def test_singular_features_are_named(use, message, estimator):
    with pytest.raises(DataError, match=message):
        fit_linear(small(), use, estimator)


def test_paths_that_say_nothing():
    still = PathBatch(np.tile([0.0, 1.0, 3.0], (2, 1)), np.ones((2, 3, 1)), np.ones((2, 2)), np.zeros(2))
    with pytest.raises(DataError, match="is a combination of"):
        fit_linear(still, lambda x, tau: {"tau": tau, "x tau": x[..., 0] * tau})
    # a constant, which discounting alone tells apart, where nothing is discounted to speak of
    brief = PathBatch(np.tile([0.0, 1e-9], (2, 1)), np.random.default_rng(0).normal(size=(2, 2, 1)), np.ones((2, 1)))
    with pytest.raises(DataError, match="say nothing about the coefficient of 'one'"):
        fit_linear(brief, lambda x: {"one": 1.0, "x": x[..., 0]}, rho=1e-9, infinite=True)


def test_mistakes():
    batch, forever = small(), discounted_square(horizon=2.0).batch(5, 0.1, np.random.default_rng(0))
    cases = [
        (lambda: fit_linear(batch, quadratic, "lstd"), UnknownNameError, "unknown estimator 'lstd'"),
        (lambda: fit_linear(batch, quadratic, "clstd", lam=0.0), ConfigError, "lam is 0.0"),
        (lambda: fit_linear(batch, quadratic, "clstd", lam=1.5), ConfigError, "lam is 1.5"),
        (lambda: fit_linear(batch, quadratic, rho=-1.0), ConfigError, "rho is -1.0"),
        (lambda: fit_linear(batch, quadratic, ridge=-1.0), ConfigError, "ridge is -1.0"),
        (lambda: fit_linear(batch, quadratic, weighting="none"), UnknownNameError, "unknown weighting"),
        (lambda: fit_linear(forever, lambda x: [x[..., 0]], infinite=True), ConfigError, "needs a discount rate rho above 0"),
        (lambda: fit_linear(forever, quadratic), DataError, "have no terminal payoff: give one"),
        (lambda: fit_linear(batch, lambda x, tau: [x]), ConfigError, r"feature '0' has shape \(20, 11, 1\)"),
        (lambda: fit_linear(batch, lambda x, tau: []), ConfigError, "features returned nothing"),
        (lambda: fit_linear(batch, lambda x, tau: [np.where(tau > 0.5, tau, np.nan)]), DataError, "feature '0' is nan at x = .* to go"),
        (lambda: fit_linear(batch, x_tau, base=lambda x, tau: x[..., 0]), DataError, "the terminal condition gives"),
        (lambda: fit_linear(batch, x_tau, base=lambda x, tau: x), ConfigError, "a function of the state has shape"),
        (lambda: MartingaleConfig("td"), UnknownNameError, "unknown objective 'td'"),
        (lambda: MartingaleConfig(lam=0.0), ConfigError, "lam is 0.0"),
        (lambda: MartingaleConfig(iterations=0), ConfigError, "iterations 0"),
        (lambda: MartingaleConfig(infinite=True), ConfigError, "needs a discount rate"),
        (lambda: fit_network([batch], MartingaleConfig(iterations=2)), DataError, "ended after 1 of 2"),
        (lambda: fit_network([forever], MartingaleConfig()), DataError, "no terminal payoff"),
        (
            lambda: fit_network([decaying_square().batch(2, 0.1, [np.random.default_rng(0)] * 3)], copies=(2,)),
            ConfigError,
            r"copies \(3,\)",
        ),
        (lambda: fit_network(itertools.repeat(batch), MartingaleConfig("mstde", lr=1e200)), DivergedError, "the loss became"),
        (lambda: GTDConfig("gtd"), UnknownNameError, "unknown variant"),
        (lambda: GTDConfig(lr=0.0), ConfigError, "lr is 0.0"),
        (lambda: OnlineCTD(x_tau, lam=2.0), ConfigError, "lam is 2.0"),
        (lambda: OnlineCTD(x_tau).value, ConfigError, "nothing has been learned"),
        (lambda: OnlineCTD(x_tau).step([1.0], 0.0, 0.1, [1.0]), ConfigError, "give the time to go"),
        (lambda: OnlineCTD(x_tau).step([1.0], 0.0, 0.0, [1.0], tau=1.0), ConfigError, "dt is 0.0"),
        (lambda: OnlineCTD(x_tau).step([1.0], 0.0, 0.1, [1.0], tau=0.1), ConfigError, "give the payoff with the transition"),
        (lambda: OnlineCTD(x_tau).step([1.0], 0.0, 0.1, [1.0], tau=0.5, payoff=1.0), ConfigError, "and only there"),
        (lambda: martingale_test(batch, lambda x, tau: tau, bins=0), ConfigError, "bins is 0"),
        (lambda: martingale_test(batch, lambda x, tau: tau, state=3), ConfigError, "state 3"),
        (lambda: martingale_test(batch, lambda x, tau: np.full_like(tau, np.nan)), DataError, "value is nan"),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            wrong()
    problem = fit_network(itertools.repeat(batch), MartingaleConfig(iterations=1))
    with pytest.raises(ConfigError, match="give the time to go as well"):
        problem(batch.x)
    paid = PathBatch(batch.t, batch.x, batch.reward, np.ones(20))
    with pytest.raises(DataError, match="which an infinite horizon never reaches"):
        fit_linear(paid, lambda x: [x[..., 0]], rho=1.0, infinite=True)
