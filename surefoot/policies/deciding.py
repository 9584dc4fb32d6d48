"""What attacks and diagnosis ask of any policy: its decision in units in which all actions count alike, and how it scales what it sees."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import PolicyError
from surefoot.nn.normaliser import Normaliser
from surefoot.policies.base import Memory, Policy


def decide(policy: Policy, obs: Tensor, memory: Memory) -> Tensor:
    """`policy.decide`, with continuous actions in units of half their range, so that all of them count alike: `[*copies, n, A]`.

    Raises PolicyError where it gives something else than scores or actions.
    """
    return _in_units(policy.decide(obs, memory), policy, _batch(policy, obs))


def outputs(policy: Policy, obs: Tensor, memory: Memory) -> Tensor:
    """`decide` for those who only look at outputs: a policy that names its action, and scores none, gives 1 for it and 0 for the rest."""
    output, action, batch = policy.decide(obs, memory), policy.spec.action, _batch(policy, obs)
    if isinstance(action, Continuous):
        return _in_units(output.float().reshape(*batch, 1) if output.shape == batch else output.float(), policy, batch)
    if output.shape not in (batch, (*batch, 1)):
        return _in_units(output, policy, batch)
    chosen = output.reshape(batch).long()
    if not ((output.reshape(batch) == chosen) & (chosen >= 0) & (chosen < action.n)).all():
        raise PolicyError(f"the {type(policy).__name__} policy gave an action that is not one of the integers 0 to {action.n - 1}.")
    return one_hot(chosen, action.n).float()


def _batch(policy: Policy, obs: Tensor) -> tuple[int, ...]:
    return tuple(obs.shape[: obs.dim() - len(policy.spec.obs_shape)])


def _in_units(output: Tensor, policy: Policy, batch: tuple[int, ...]) -> Tensor:
    """Scores as they are, actions in units of half their range."""
    action = policy.spec.action
    width = action.n if isinstance(action, Discrete) else action.dim
    if output.shape != (*batch, width) or not output.is_floating_point():
        raise PolicyError(
            f"the {type(policy).__name__} policy gives {tuple(output.shape)} {str(output.dtype).removeprefix('torch.')} where an attack"
            f" needs {width} {'scores' if isinstance(action, Discrete) else 'actions'} for each observation."
        )
    if isinstance(action, Discrete):
        return output
    return output / (0.5 * (output.new_tensor(action.high) - output.new_tensor(action.low)))


def scaling(policy: Policy) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation `[S]` or `[F, S]` that the policy scales its observations with; None where it does not say.

    Around a frame stack they are those of the newest frame. Raises PolicyError if the policies of a set scale differently.
    """
    inner = getattr(policy, "inner", None)
    if isinstance(inner, Policy):
        found, newest = scaling(inner), policy.spec.obs_dim
        return found and (found[0][..., -newest:], found[1][..., -newest:])
    inners = getattr(policy, "inners", None)
    if isinstance(inners, nn.ModuleList):
        first, *others = [scaling(cast(Policy, each)) for each in inners]
        if not all(_same(first, other) for other in others):
            raise PolicyError("the policies of this set scale their observations differently: give budgets in units of the observation.")
        return first
    normaliser, statistics = getattr(policy, "normaliser", None), getattr(policy, "statistics", None)
    if isinstance(normaliser, Normaliser) and normaliser.active:
        return normaliser.mean, normaliser.std
    if isinstance(statistics, tuple):  # of a VecNormalize
        return statistics[0].flatten().float(), statistics[1].flatten().float()
    return None


def _same(a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor] | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
