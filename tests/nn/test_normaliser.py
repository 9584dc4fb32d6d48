"""Observation scaling: shared or per member, and the identity without statistics."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Spec, stack_specs
from surefoot.nn.normaliser import Normaliser

BOX = Continuous((-1.0,), (1.0,))


def spec(mean, std) -> Spec:
    return Spec((2,), BOX, torch.tensor(mean), torch.tensor(std))


def log_of(obs: np.ndarray) -> Log:
    n = len(obs)
    return Log.from_arrays(obs, np.zeros((n, 1)), np.zeros(n), obs, np.zeros(n), action_space=BOX)


def test_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, -2.0]])
    assert Normaliser(spec([1.0, 0.0], [2.0, 4.0]))(x).tolist() == [[0.0, 0.5], [1.0, -0.5]]


def test_identity_without_statistics():
    x = torch.randn(3, 4, 2)
    assert Normaliser(Spec((2,), BOX))(x) is x


def test_members_with_statistics_of_their_own():
    one, two = spec([0.0, 0.0], [1.0, 1.0]), spec([1.0, 2.0], [2.0, 4.0])
    x = torch.randn(2, 5, 2)
    y = Normaliser(stack_specs([one, two]))(x)
    assert torch.equal(y[0], Normaliser(one)(x[0])) and torch.equal(y[1], Normaliser(two)(x[1]))


def test_the_logs_own_observations_get_unit_scale():
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((500, 2)) * [30.0, 0.02] + [1e3, -5.0]
    x = Normaliser(log_of(obs).spec())(torch.from_numpy(obs).float())
    assert x.mean(0).abs().max() < 1e-2
    torch.testing.assert_close(x.std(0), torch.tensor([1.0, 0.02 / 0.021]), rtol=0.05, atol=0.0)  # 1e-3 is added to each std


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 9))
def test_a_constant_feature_is_finite(value, n):
    obs = np.full((n, 2), value)
    x = Normaliser(log_of(obs).spec())(torch.from_numpy(obs).float())
    assert torch.isfinite(x).all() and x.abs().max() <= 1e-6 * max(abs(value), 1.0)


def test_statistics_are_in_the_state_dict():
    assert set(Normaliser(spec([1.0, 0.0], [2.0, 4.0])).state_dict()) == {"mean", "std"}
