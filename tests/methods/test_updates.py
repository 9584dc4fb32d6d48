"""What every offline method's update owes: nothing waits for the device, and each metric has one entry a member."""

import pytest
import torch

from surefoot.data.batches import Transitions
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.methods.registry import OFFLINE, learner

CONTINUOUS = Continuous((-1.0, -2.0), (1.0, 2.0))
CASES = [(name, CONTINUOUS) for name in OFFLINE if name != "prdc"] + [("bc", Discrete(3)), ("iql", Discrete(3))]
"""PRDC's search on a CPU goes through scipy; on a GPU it has a path of its own, which its own test covers."""


@pytest.mark.parametrize("copies", [(), (2,)])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_nothing_waits_for_the_device_and_metrics_are_one_a_member(name, space, copies, no_waiting):
    spec = Spec((3,), space, torch.zeros(3), torch.ones(3))
    config = learner(name).config_class
    small = {key: (8,) for key in ("hidden", "critic_hidden", "vae_hidden") if key in config.__dataclass_fields__}
    method = learner(name)(spec, config(**small), copies=copies)
    lead = (*copies, 16)
    action = torch.rand(*lead, 2) if space is CONTINUOUS else torch.randint(3, lead)
    batch = Transitions(torch.randn(*lead, 3), action, torch.randn(lead), torch.randn(*lead, 3), torch.zeros(lead))
    with no_waiting():
        for _ in range(2):  # TD3's actor learns in every second update
            metrics = method.update(batch)
    assert {tuple(value.shape) for value in metrics.values()} == {copies}
    assert not any(value.requires_grad for value in metrics.values())
