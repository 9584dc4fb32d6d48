"""RA-NLD's directions: the numbers of linear policies by hand, brute force, invariances, and what it asks of policies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import TruncatedSVD
from torch import nn

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation.diagnosing import (
    by_step,
    check_differentiable,
    cross_entropies,
    cross_entropy_gradients,
    fourier,
    gradients,
    principal,
    quotient,
    spread,
)
from surefoot.evaluation.visited import Visited
from surefoot.policies.external import FunctionPolicy, ModulePolicy
from surefoot.policies.families import Categorical, Deterministic, NormalPolicy

DOUBLE = torch.float64
W = torch.tensor([[1, 0, 2], [0, 1, -1], [0.5, -0.5, 0]], dtype=DOUBLE)
B = torch.tensor([0, 0.1, -0.2], dtype=DOUBLE)
S = torch.tensor([(0.3, 0.1, 0), (-0.3, 0.4, 0.2), (0.5, -0.2, 0.1), (0, 0.6, -0.4)], dtype=DOUBLE)
MOVE = torch.tensor([0.3, -0.1, -0.3], dtype=DOUBLE)


def linear(x):
    return x @ W.T + B


def states(obs, memory=None):
    return Visited(obs, memory, np.zeros(len(obs), np.int64), np.arange(len(obs)))


def approx(values, abs=5e-7):
    return pytest.approx(values, abs=abs)


# --- numbers of the card ----------------------------------------------------------------------------------------------


def test_a_linear_policy_by_hand():
    g = cross_entropy_gradients(linear, S)
    rows = [
        (-0.481523, 0.221220, -1.574720),
        (0.459649, -0.649937, 1.283802),
        (-0.350410, 0.059538, -1.196665),
        (0.185367, -0.334758, 0.481405),
    ]
    assert g.numpy() == approx(np.array(rows))
    assert cross_entropies(linear(S)).tolist() == approx([0.945911, 0.809216, 0.684873, 0.301189])
    found = principal(g)
    assert found.norms.tolist() == approx([1.661489, 1.510577, 1.248335, 0.614959])
    assert found.eigenvalues.tolist() == approx([6.750879, 0.228025, 0.0])
    assert found.direction.tolist() == approx([0.297980, -0.235956, 0.924950])
    assert found.explained == approx(0.967327)
    assert found.variation == approx(0.317800)
    assert found.states_90 == 3  # squared norms 2.761, 2.282, 1.558, 0.378 of 6.979: the first two carry 72 %, three 95 %


def test_temperature_by_hand():
    assert principal(cross_entropy_gradients(linear, S, 0.5)).eigenvalues[:2].tolist() == approx([19.496730, 0.369833])


def test_moved_states_by_hand():
    g, moved = cross_entropy_gradients(linear, S), cross_entropy_gradients(linear, S + MOVE)
    there = principal(moved)
    assert there.eigenvalues[:2].tolist() == approx([5.830505, 0.357326])
    assert quotient(there.direction, g) == approx(0.987752)
    assert quotient(principal(g).direction, moved) == approx(0.988100)


def test_two_actions_have_one_direction():
    w = torch.tensor([[1, 2], [-0.5, 0]], dtype=DOUBLE)
    x = torch.tensor([(0.1, 0.2), (-0.4, 0.1), (1, -0.7)], dtype=DOUBLE)

    def q(x):
        return x @ w.T

    g = cross_entropy_gradients(q, x)
    other = 1.0 - torch.exp(-cross_entropies(q(x)))
    assert other.tolist() == approx([0.365864, 0.401312, 0.475021])
    found = principal(g)
    assert found.direction.tolist() == approx([0.6, 0.8])
    assert found.eigenvalues.tolist() == approx([3.253457, 0.0])
    assert found.eigenvalues[0] == approx(float((w[0] - w[1]).square().sum() * other.square().sum()))
    assert quotient(principal(cross_entropy_gradients(q, 5.0 * x + 1.0)).direction, g) == approx(1.0)


# --- brute force and libraries ------------------------------------------------------------------------------------------


def network(d=6, actions=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, actions)).double()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gradients_are_finite_differences(temperature):
    q, x = network(), torch.randn(5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    best, h = q(x).argmax(-1), 1e-5

    def loss(x):
        return nn.functional.cross_entropy(q(x) / temperature, best, reduction="none")

    steps = h * torch.eye(6, dtype=DOUBLE)
    numeric = torch.stack([(loss(x + e) - loss(x - e)) / (2 * h) for e in steps], -1)
    torch.testing.assert_close(cross_entropy_gradients(q, x, temperature), numeric, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_sum_over_actions():
    """(1 / T) sum_a (pi_T(a) - 1[a = a*]) grad Q(a), with one backward pass an action."""
    q, x, temperature = network(), torch.randn(7, 6, dtype=DOUBLE), 0.7
    jacobian = torch.stack([torch.autograd.functional.jacobian(q, row) for row in x])  # [n, A, d]
    weight = torch.softmax(q(x) / temperature, -1) - nn.functional.one_hot(q(x).argmax(-1), 4)
    expected = torch.einsum("na,nad->nd", weight, jacobian) / temperature
    torch.testing.assert_close(cross_entropy_gradients(q, x, temperature), expected)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (12, 12)])  # d x d, the Gram matrix, either
def test_directions_equal_those_of_numpy_and_sklearn(n, d):
    g = torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(n)) * torch.linspace(1, 3, d, dtype=DOUBLE)
    found = principal(g, k=5)
    values, vectors = np.linalg.eigh(g.numpy().T @ g.numpy())
    assert found.eigenvalues == pytest.approx(values[::-1][:5])
    assert abs(found.direction @ vectors[:, -1]) == approx(1.0)
    svd = TruncatedSVD(1, algorithm="arpack", random_state=0).fit(g.numpy())
    assert abs(found.direction @ svd.components_[0]) == approx(1.0)
    assert found.direction[np.abs(found.direction).argmax()] > 0.0
    assert found.trace == pytest.approx(values.sum())


def test_nothing_of_the_size_of_an_atari_observation_squared_is_formed():
    g = torch.randn(4, 28_224, dtype=torch.float32)
    found = principal(g)
    assert found.direction.shape == (28_224,)
    assert quotient(found.direction, g, found) == approx(1.0)


# --- invariances --------------------------------------------------------------------------------------------------------

matrices = st.integers(0, 10**6).map(lambda seed: torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_the_quotient_lies_between_0_and_1_and_knows_no_scale(generator, n, d, scale):
    a, b = torch.randn(2, n, d, dtype=DOUBLE, generator=generator)
    own, other = principal(a), principal(b)
    there = quotient(other.direction, a)
    assert 0.0 <= there <= 1.0
    assert quotient(own.direction, a) == approx(1.0, abs=1e-9)
    assert quotient(principal(scale * b).direction, scale * a) == approx(there, abs=1e-9)
    assert own.explained >= 1.0 / min(n, d) - 1e-9


def test_disjoint_supports_give_0():
    a, b = torch.randn(2, 5, 4, dtype=DOUBLE)
    a, b = torch.cat([a, torch.zeros_like(a)], -1), torch.cat([torch.zeros_like(b), b], -1)
    assert quotient(principal(b).direction, a) == approx(0.0, abs=1e-12)


def test_scaling_the_input_inside_or_outside_changes_norms_alone():
    q, x = network(), torch.rand(30, 6, dtype=DOUBLE)
    inside, outside = cross_entropy_gradients(lambda x: q(x / 255.0), 255.0 * x), cross_entropy_gradients(q, x)
    torch.testing.assert_close(255.0 * inside, outside)
    a, b = principal(inside), principal(outside)
    assert a.direction == approx(b.direction)
    assert a.variation == approx(b.variation)


def test_what_all_actions_share_does_not_count():
    q, x = network(), torch.randn(9, 6, dtype=DOUBLE)
    shared = cross_entropy_gradients(lambda x: q(x) + 3.0 + x.square().sum(-1, keepdim=True).sin(), x)
    torch.testing.assert_close(shared, cross_entropy_gradients(q, x))


def test_outer_products_are_averaged_and_not_gradients():
    """Gradients of opposite sign have a direction; their mean is zero."""
    g = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    found = principal(g)
    assert found.direction.tolist() == approx([0.6, 0.8])
    assert found.eigenvalues[0] == approx(50.0)


# --- policies -----------------------------------------------------------------------------------------------------------


def test_a_policy_s_gradients_are_those_of_its_network():
    policy = Categorical(Spec((2, 3), Discrete(4)), (16,))
    obs = torch.randn(600, 2, 3)  # more than one chunk
    rows = gradients(policy, states(obs), temperature=0.5)
    assert rows.shape == (600, 1, 6)
    torch.testing.assert_close(rows[:, 0], cross_entropy_gradients(policy.net, obs.flatten(1), 0.5))
    unit = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 0.5])
    torch.testing.assert_close(gradients(policy, states(obs), temperature=0.5, unit=unit), rows * unit)


@pytest.mark.parametrize("family", [Deterministic, NormalPolicy])
def test_continuous_actions_have_a_row_each(family):
    """The direction moves the action, in half ranges, most: the first right singular vector of all the Jacobians."""
    policy = family(Spec((3,), Continuous((-1.0, 0.0), (1.0, 8.0))), (8,))
    obs = torch.randn(5, 3)
    rows = gradients(policy, states(obs))
    assert rows.shape == (5, 2, 3)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda x: policy.decide(x[None])[0], x) for x in obs])
    torch.testing.assert_close(rows, jacobian / torch.tensor([[1.0], [4.0]]), rtol=1e-4, atol=1e-6)
    found = principal(rows)
    _, _, v = torch.linalg.svd(rows.reshape(-1, 3).double())
    assert abs(found.direction @ v[0].numpy()) == approx(1.0)
    assert found.norms == approx(rows.double().flatten(1).norm(dim=-1).numpy())


def test_policies_without_gradients_are_refused():
    spec = Spec((2,), Discrete(2))
    function = FunctionPolicy(lambda x: (x[:, 0] > 0).astype(int), spec, "python:mine:act")
    with pytest.raises(PolicyError, match="gives no gradient"):
        check_differentiable(function)
    detached = ModulePolicy(Detached(), spec, "python:mine:net")
    with pytest.raises(PolicyError, match="gives no gradient"):
        gradients(detached, states(torch.randn(3, 2)))
    with pytest.raises(PolicyError, match="state 1 of 3 is not finite"):
        gradients(Categorical(spec, (4,)), states(torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [1.0, 1.0]])))
    with pytest.raises(ConfigError, match="temperature is 0"):
        gradients(Categorical(spec, (4,)), states(torch.randn(3, 2)), temperature=0.0)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


def test_a_gradient_that_is_zero_everywhere_is_said_and_not_taken_for_robustness():
    policy = Categorical(Spec((2,), Discrete(2)), ())
    with torch.no_grad():
        policy.net.weights[0].zero_()
    with pytest.raises(DataError, match="zero at all 3 states"):
        principal(gradients(policy, states(torch.randn(3, 2))))


def test_misuse():
    with pytest.raises(DataError, match="at least one state"):
        principal(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="does not go with"):
        quotient(np.ones(2), torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"\[n, A\]"):
        cross_entropies(torch.zeros(3))


# --- what is seen in them -------------------------------------------------------------------------------------------------


def test_spectra_are_spread_between_one_wave_and_one_pixel():
    rows = np.arange(16)
    wave = np.cos(2 * np.pi * 3 * rows / 16)[:, None] * np.ones(16)
    pixel = np.zeros((16, 16))
    pixel[4, 5] = 1.0
    assert fourier(pixel) == approx(np.ones((16, 16)))
    assert spread(fourier(pixel)) == approx(1.0)
    assert spread(fourier(wave)) == approx(np.log(2) / np.log(256))  # two coefficients, alike
    middle = fourier(np.ones((8, 8)))
    assert middle.argmax() == 4 * 8 + 4


def test_values_by_step():
    seen = Visited(torch.zeros(4, 1), None, np.array([0, 0, 1, 1]), np.array([0, 2, 0, 3]))
    assert by_step(np.array([1.0, 2.0, 5.0, 7.0]), seen) == pytest.approx([3.0, np.nan, 2.0, 7.0], nan_ok=True)
