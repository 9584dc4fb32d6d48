"""A policy made of several, each the solution of one model of the world: act as if the most pessimistic plausible model were true.

Zouitine, Geist and Rachelson, "Solving robust MDPs as a sequence of static RL problems", arXiv 2410.06212v1 (the deep instance): at state s
argmax_a min_j Q_j(s, a) is approximated by the maximiser pi_j(s) of the smallest Q_j(s, pi_j(s)), among the models j that could have made
the last step. Departure: a model predicts the change of the state, not the next state itself, which is the same but easier to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.data.spec import Spec, unit_action
from surefoot.errors import PolicyError
from surefoot.nn.mlp import MLP, Critic
from surefoot.nn.normaliser import Normaliser
from surefoot.policies.base import Memory, Policy, check_member


class Dynamics(nn.Module):
    """T(s, a), the next observation, of scaled observations `[*copies, B, S]` and unit actions `[*copies, B, A]`: s plus an MLP."""

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int],
        copies: tuple[int, ...] = (),
        *,
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.net = MLP((spec.obs_dim + spec.box.dim, *hidden, spec.obs_dim), copies, generator=generator, device=device)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return s + self.net(torch.cat([s, a], -1))

    def error(self, s: Tensor, a: Tensor, next_s: Tensor) -> Tensor:
        """||T(s, a) - s'||_1, `[*copies, B]`."""
        return (self(s, a) - next_s).abs().sum(-1)


class MostPessimistic(Policy):
    """`inners` are the default policy and pi_1, ..., pi_J; pi_j comes with a value Q_j, a model T_j and a threshold rho_j.

    Model j is valid if ||T_j(s_{t-1}, a_{t-1}) - s_t||_1 <= rho_j, and all are at an episode's first step. Of the valid ones the one
    with the smallest Q_j(s_t, pi_j(s_t)) acts (the first, if several have it); if none is valid, the default policy does. The memory is the
    last observation `obs` `[n, S]` (scaled) and unit `action` `[n, A]`, and whether there was one, `started` `[n]`. rho is in the units
    of scaled observations. `hidden`: widths of the networks Q_j and T_j, which are made fresh if they are not given.
    Raises PolicyError unless the inner policies are lone, without memory, and agree in what they see and do.
    """

    thresholds: Tensor

    def __init__(
        self,
        inners: Sequence[Policy],
        hidden: Sequence[int],
        *,
        critics: Sequence[nn.Module] | None = None,
        models: Sequence[nn.Module] | None = None,
        thresholds: Sequence[float] | None = None,
    ):
        super().__init__()
        first = inners[0]
        if any(p.copies or p.start(1) is not None for p in inners):
            raise PolicyError("a pessimistic set is made of lone policies without memory: name a member of each fleet.")
        if any((p.spec.obs_shape, p.spec.box) != (first.spec.obs_shape, first.spec.box) for p in inners):
            raise PolicyError("the policies of a pessimistic set must agree in what they observe and what actions they take.")
        n, spec = len(inners) - 1, first.spec
        self.spec, self.hidden = spec, tuple(hidden)
        self.differentiable = all(p.differentiable for p in inners)
        self.inners = nn.ModuleList(inners)
        self.normaliser = Normaliser(spec)
        self.critics = nn.ModuleList(critics or [Critic(spec.obs_dim + spec.box.dim, self.hidden) for _ in range(n)])
        self.models = nn.ModuleList(models or [Dynamics(spec, self.hidden) for _ in range(n)])
        self.register_buffer("thresholds", torch.zeros(n) if thresholds is None else torch.tensor(thresholds, dtype=torch.float32))
        if not n == len(self.critics) == len(self.models) == len(self.thresholds):
            counts = f"{len(self.critics)} values, {len(self.models)} models and {len(self.thresholds)} thresholds"
            raise PolicyError(f"a pessimistic set of a default policy and {n} others has {counts}: give one of each to every other.")

    def config(self) -> dict[str, Any]:
        return {"hidden": list(self.hidden)}

    def member(self, index: int) -> Policy:
        check_member(index, ())
        return self

    def start(self, n: int) -> Memory:
        device = self.thresholds.device
        return {
            "obs": torch.zeros(n, self.spec.obs_dim, device=device),
            "action": torch.zeros(n, self.spec.box.dim, device=device),
            "started": torch.zeros(n, dtype=torch.bool, device=device),
        }

    def forward(self, obs: Tensor) -> Tensor:
        return self.decide(obs)

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        actions, chosen = self.chosen(obs, memory)
        return _of(actions, chosen)

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        return self._remembered(obs, self.decide(obs, memory))

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        actions, chosen = self.chosen(obs, memory)
        if not greedy:
            actions = torch.stack([inner.act(obs, generator=generator, greedy=False)[0] for inner in self._policies])
        action = _of(actions, chosen)
        return action, self._remembered(obs, action)

    def chosen(self, obs: Tensor, memory: Memory = None) -> tuple[Tensor, Tensor]:
        """Greedy actions of all inner policies `[1 + J, n, A]`, and which of them acts `[n]` int64 (0: the default)."""
        s = self.normaliser(self.flat(obs))  # [n, S]
        actions = torch.stack([inner(obs) for inner in self._policies])
        unit = unit_action(actions, self.spec.box)
        values = [critic(s, a).amin(-2) for critic, a in zip(self.critics, unit[1:], strict=True)]
        if not values:
            return actions, torch.zeros(len(s), dtype=torch.long, device=s.device)
        valid = self.valid(s, memory)  # [J, n]
        worst = torch.where(valid, torch.stack(values), torch.inf).argmin(0)
        return actions, torch.where(valid.any(0), worst + 1, 0)

    def valid(self, s: Tensor, memory: Memory) -> Tensor:
        """Whether each model could have made the step to `s` `[n, S]`: `[J, n]` bool."""
        if memory is None:
            return torch.ones(len(self.models), len(s), dtype=torch.bool, device=s.device)
        before, action = memory["obs"], memory["action"]
        errors = torch.stack([model(before, action).sub(s).abs().sum(-1) for model in self.models])
        return (errors <= self.thresholds.unsqueeze(-1)) | ~memory["started"]

    def _remembered(self, obs: Tensor, action: Tensor) -> Memory:
        s = self.normaliser(self.flat(obs))
        started = torch.ones(len(s), dtype=torch.bool, device=s.device)
        return {"obs": s, "action": unit_action(action, self.spec.box), "started": started}

    @property
    def _policies(self) -> list[Policy]:
        return list(self.inners)  # type: ignore[arg-type]


def _of(actions: Tensor, chosen: Tensor) -> Tensor:
    """The chosen one of `[1 + J, n, A]` in each row: `[n, A]`."""
    return actions.gather(0, chosen[None, :, None].expand(1, *actions.shape[1:]))[0]
