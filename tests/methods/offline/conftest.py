"""What several tests of offline methods share: training steps that d3rlpy recorded, and a written-out network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.spec import Continuous

FIXTURE = Path(__file__).parents[2] / "fixtures" / "d3rlpy.npz"


class Recorded:
    """Steps of one of d3rlpy's methods (see `tests/fixtures/make_d3rlpy.py`): start from its weights, feed its batches, compare."""

    settings = {  # noqa: RUF012
        "gamma": 0.95, "tau": 0.1, "alpha": 2.5, "target_noise": 0.0, "policy_freq": 1,
        "actor_lr": 3e-3, "critic_lr": 3e-3, "hidden": (16, 16),
    }  # fmt: skip

    def __init__(self, name: str):
        stored = np.load(FIXTURE, allow_pickle=False)
        self.values = {key.removeprefix(f"{name}."): stored[key] for key in stored.files if key.startswith(f"{name}.")}
        columns = {key.removeprefix("log."): stored[key] for key in stored.files if key.startswith("log.")}
        self.rows = torch.from_numpy(columns.pop("rows"))  # [steps, B]
        self.log = Log.from_arrays(**columns, action_space=Continuous((-1.0, -1.0), (1.0, 1.0)))

    def start(self, method) -> None:
        """Give a TD3-like method d3rlpy's starting weights."""
        self._load(method.policy.net, "policy", ())
        for i in range(2):
            self._load(method.critic.net, f"critic{i}", i)
        method.target_actor.load_state_dict(method.policy.net.state_dict())
        method.target_critic.load_state_dict(method.critic.state_dict())

    def _load(self, net, prefix, index) -> None:
        with torch.no_grad():
            for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
                w[index].copy_(torch.from_numpy(self.values[f"{prefix}.weight.{i}"]))
                b[index].copy_(torch.from_numpy(self.values[f"{prefix}.bias.{i}"]))

    def compare(self, method) -> None:
        """Each step's losses to 1e-5, and the actions that the steps lead to."""
        self.start(method)
        for rows, losses in zip(self.rows, self.values["losses"], strict=True):
            t = self.log.transitions
            metrics = method.update(Transitions(*(x[rows] for x in (t.obs, t.action, t.reward, t.next_obs, t.terminated))))
            ours = [metrics[key].item() for key in ("critic_loss", "actor_loss", "regulariser")]
            assert ours == pytest.approx(losses.tolist(), abs=1e-5, rel=1e-5)
        actions = method.policy(self.log.transitions.obs).detach().numpy()
        assert actions == pytest.approx(self.values["actions"], abs=1e-4)


@pytest.fixture
def recorded() -> type[Recorded]:
    return Recorded


def forward(net, x, index=()):
    """One copy of an MLP, written out."""
    layers = list(zip(net.weights, net.biases, strict=True))
    for w, b in layers[:-1]:
        x = (x @ w[index] + b[index]).relu()
    return x @ layers[-1][0][index] + layers[-1][1][index]


@pytest.fixture(name="forward")
def _forward():
    return forward
