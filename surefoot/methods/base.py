"""What every learner is: a config, one `update` a batch, and a state that a resume starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.spec import Spec, unit_action
from surefoot.nn.normaliser import Normaliser
from surefoot.policies.base import Policy


class Learner(ABC):
    """Base of everything that learns by `update(batch)`: counts its steps, draws from its own generator, and can be saved.

    What a subclass keeps as attributes (networks, optimisers, tensors, counters, generators) is its state.
    """

    def __init__(self, device: str = "cpu", seed: int = 0):
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.steps = 0  # updates done so far

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """One training step; detached metrics `[*copies]`, without a host sync."""

    def agreed(self, flag: bool) -> bool:
        """Whether any of the processes that train this together raises the flag (to stop); alone, the flag itself."""
        return flag

    def state_dict(self) -> dict[str, Tensor]:
        """Networks, optimisers, counters and the random state, as `{name: tensor}`."""
        state: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, nn.Module):
                state |= {f"{name}.{k}": v for k, v in value.state_dict().items()}
            elif isinstance(value, torch.optim.Optimizer):
                for i, entry in value.state_dict()["state"].items():
                    state |= {f"{name}.{i}.{k}": v for k, v in entry.items()}
            elif isinstance(value, torch.Generator):
                state[name] = value.get_state()
            elif isinstance(value, Tensor):
                state[name] = value.detach()
            elif isinstance(value, int) and not isinstance(value, bool):
                state[name] = torch.tensor(value)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; raises KeyError if a name is missing."""
        for name, value in vars(self).items():
            if isinstance(value, nn.Module):
                value.load_state_dict({k: state[f"{name}.{k}"] for k in value.state_dict()})
            elif isinstance(value, torch.optim.Optimizer):
                packed = value.state_dict()
                packed["state"] = _nested(state, f"{name}.")
                value.load_state_dict(packed)
            elif isinstance(value, torch.Generator):
                value.set_state(state[name].cpu())
            elif isinstance(value, Tensor):
                value.detach().copy_(state[name])  # of a learned tensor too
            elif isinstance(value, int) and not isinstance(value, bool):
                setattr(self, name, int(state[name]))


class Method(Learner):
    """Base of the learners for an environment, or a log of one. A subclass builds its networks in `__init__` and implements `update`.

    `copies=(F,)` trains F independent seeds as one batched computation: method code touches trailing axes only, losses
    average over the batch and are summed over copies. All randomness comes from `self.generator`.
    """

    config_class: ClassVar[type]
    policy: Policy

    def __init__(self, spec: Spec, config: Any, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(device, seed)
        self.spec, self.config, self.copies = spec, config, tuple(copies)
        self.normaliser = Normaliser(spec, device)

    @property
    def behaviour(self) -> Policy:
        """What explores while learning online (asked with greedy=False); the policy itself unless a method says otherwise."""
        return self.policy

    def prepare(self, logs: Sequence[Log]) -> None:
        """Called once before training (and again on resume) with the log of each member, or one shared log.

        For methods that search the data (PRDC) or need its statistics; the others ignore it.
        """

    def in_units(self, batch: Transitions) -> Transitions:
        """The batch with scaled observations and actions in [-1, 1], which is what the networks see."""
        action = unit_action(batch.action, self.spec.box)
        return Transitions(self.normaliser(batch.obs), action, batch.reward, self.normaliser(batch.next_obs), batch.terminated)


def _nested(state: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    """`{prefix}{i}.{key}` entries as `{i: {key: tensor}}`, an optimiser's layout."""
    nested: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            i, key = name[len(prefix) :].split(".", 1)
            nested.setdefault(int(i), {})[key] = value.clone()
    return nested
