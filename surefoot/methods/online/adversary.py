"""Learned attackers on what a policy observes: SA-RL and PA-AD, trained by PPO's own update on the victim's negative reward.

- `sa_rl`: Zhang, Chen, Boning and Hsieh, "Robust Reinforcement Learning on State Observations with Learned Optimal Adversary" (ICLR
  2021, arXiv 2101.08452v1), Eq. 6 and Alg. 1's attacker: against a fixed victim the best attacker is the solution of an MDP whose
  action is the change of the observation. A Gaussian policy on the true observation; the victim sees s + eps hardtanh(output).
- `pa_ad`: Sun, Zheng, Liang and Huang, "Who Is the Strongest Enemy?" (ICLR 2022, arXiv 2106.05087v4), Alg. 1: a director names a
  direction u in the victim's action space, and an actor finds the change of the observation which moves the decision there. As in
  the code that the field uses, the actor is one FGSM step: with z ~ U(+-eps / 10), ascend
  L = cos(mu(s + z) - mu(s), u) + |mu(s + z) - mu(s)|_2. For discrete actions mu is the vector of scores, less its mean: softmax
  knows no more of it, and it does not saturate as probabilities do.

Units, everywhere: eps bounds the change *divided by `scale`*, `[S]` or `[F, S]`. By default that is the deviation with which the victim
scales its observations (so eps is in its normalised units, as the papers have it), and 1, the observation's own units, for a
victim that does not say how it scales. No gradient reaches the victim's parameters; with eps = 0 it sees s itself, bit for bit.

Departures: where decisions move along a line (one action dimension, two discrete actions) a cosine is +-1 and has no gradient, so that
L would follow z and not u; there the actor ascends what L stands for, the move itself along u. `norm="l2"` bounds the l2 norm instead
(the output is scaled into the ball; the FGSM step is along the gradient). Around a frame stack the attacker sees and changes the newest
frame alone. A smoothed victim's noise is drawn after the attack; PA-AD takes its gradient without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.data.rollouts import Drawing, Rollouts
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.policies.base import Memory, Policy
from surefoot.policies.deciding import decide, scaling
from surefoot.policies.families import NormalPolicy

Kind = Literal["sa_rl", "pa_ad"]
Norm = Literal["linf", "l2"]


def adversary_spec(victim: Policy, kind: Kind) -> Spec:
    """What an attacker on `victim` sees (the true observation, scaled as the victim scales it) and gives, in units of [-1, 1]."""
    if kind not in ("sa_rl", "pa_ad"):
        raise ConfigError(f"kind is {kind!r}: it must be 'sa_rl' or 'pa_ad'.")
    if kind == "pa_ad" and not victim.differentiable:
        raise PolicyError(
            f"the {type(victim).__name__} policy gives no gradient with respect to its observation, which PA-AD needs: train SA-RL."
        )
    action = victim.spec.action
    width = victim.spec.obs_dim if kind == "sa_rl" else action.n if isinstance(action, Discrete) else action.dim
    mean, std = scaling(victim) or (None, None)
    return Spec(victim.spec.obs_shape, Continuous((-1.0,) * width, (1.0,) * width), mean, std)


def adversary_ppo(victim: Policy, kind: Kind, config: PPOConfig | None = None, *, device: str = "cpu", seed: int = 0) -> PPO:
    """PPO for an attacker on `victim`; its `policy` goes into an `Adversary`. One attacker for each member of a fleet.

    It sees what the victim's scaling (which stays as it is) makes of the true observation; of a victim that does not say, what running
    statistics of its own make of it.
    """
    spec, config = adversary_spec(victim, kind), config or PPOConfig()
    return PPO(spec, replace(config, raw_obs=spec.obs_mean is not None), victim.copies, device, seed)


# --- from outputs to what is shown ------------------------------------------------------------------------------------


def in_ball(output: Tensor, norm: Norm) -> Tensor:
    """SA-RL's outputs `[..., S]` in the unit ball: hardtanh for linf, scaled back where too long for l2."""
    if norm == "linf":
        return output.clamp(-1.0, 1.0)
    return output / torch.linalg.vector_norm(output, dim=-1, keepdim=True).clamp_min(1.0)


def response(victim: Policy, flat: Tensor, memory: Memory = None) -> Tensor:
    """mu at observations `[*copies, n, S]`: actions in units of half their range, or scores less their mean."""
    mu = decide(victim, flat.unflatten(-1, victim.spec.obs_shape), memory)
    return mu - mu.mean(-1, keepdim=True) if isinstance(victim.spec.action, Discrete) else mu


def directed(victim: Policy, flat: Tensor, z: Tensor, direction: Tensor, memory: Memory = None) -> tuple[Tensor, Tensor]:
    """PA-AD's L = cos(mu(s + z) - mu(s), u) + |mu(s + z) - mu(s)|_2 `[*copies, n]`, and its gradient in z `[*copies, n, S]`.

    With one action dimension or two discrete actions L is (mu(s + z) - mu(s)) sign(u): see the module.
    `flat` and `z` `[*copies, n, S]` in units of the observation, u = `direction` `[*copies, n, A]`.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        moved = response(victim, flat + z, memory) - response(victim, flat, memory).detach()
        u = direction.detach()
        u = u - u.mean(-1, keepdim=True) if isinstance(victim.spec.action, Discrete) else u
        if u.shape[-1] == (2 if isinstance(victim.spec.action, Discrete) else 1):
            objective = (moved * u.sign()).sum(-1)
        else:
            objective = torch.cosine_similarity(moved, u, -1, eps=1e-12) + torch.linalg.vector_norm(moved, dim=-1)
        if not objective.requires_grad:
            raise PolicyError("the policy's output has no gradient with respect to its observation: train SA-RL, which needs none.")
        (gradient,) = torch.autograd.grad(objective.sum(), z)  # in z alone: the victim's own gradients stay as they are
    return objective.detach(), gradient


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step that a gradient `[..., S]` points along; 0 where it is zero or not finite."""
    size = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    usable = (size > 0.0) & torch.isfinite(size)
    return torch.where(usable, gradient.sign() if norm == "linf" else gradient / size, 0.0)


@dataclass(frozen=True)
class Adversary:
    """An attacker's policy, and what its outputs do to a victim's observations. See the module for units."""

    policy: NormalPolicy
    kind: Kind
    eps: float
    scale: Tensor  # [S] or [F, S]
    norm: Norm = "linf"

    @staticmethod
    def on(victim: Policy, policy: NormalPolicy, kind: Kind, eps: float, *, scale: Tensor | None = None, norm: Norm = "linf") -> Adversary:
        """An attacker whose `scale` is by default the victim's own. Raises ConfigError for an eps that is negative or not finite."""
        if not 0.0 <= eps < float("inf"):
            raise ConfigError(f"eps is {eps}: what an attacker may change must be finite and not negative.")
        if norm not in ("linf", "l2"):
            raise ConfigError(f"norm is {norm!r}: a learned attacker's must be 'linf' or 'l2'.")
        if scale is None:
            known = scaling(victim)
            scale = torch.ones(victim.spec.obs_dim) if known is None else known[1]
        return Adversary(policy, kind, float(eps), scale.to(policy.log_std.device), norm)

    @property
    def unit(self) -> Tensor:
        """`scale` with an axis for observations, `[S]` or `[F, 1, S]`."""
        return self.scale if self.scale.dim() == 1 else self.scale.unsqueeze(-2)

    def draw(self, obs: Tensor, generator: torch.Generator | None = None, *, greedy: bool = False) -> Tensor:
        """Outputs `[*copies, n, D]` for true observations, as they are drawn (before hardtanh), or their means."""
        if greedy:
            return self.policy.distribution(self.policy.normaliser(self.policy.flat(obs))).mode()
        return self.policy.draw(obs, generator)

    def perturbed(
        self,
        victim: Policy,
        obs: Tensor,
        drawn: Tensor,
        *,
        memory: Memory = None,
        generator: torch.Generator | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """What the victim, with `memory` of the steps before, is shown for outputs `drawn`: like `obs` `[*copies, n, *obs_shape]`.

        `generator` draws PA-AD's start z. `eps`: instead of the attacker's own, as where it is raised over training.
        """
        eps = self.eps if eps is None else eps
        if eps == 0.0:
            return obs
        flat = victim.flat(obs)
        if self.kind == "sa_rl":
            change = in_ball(drawn, self.norm)
        else:
            z = torch.empty_like(flat).uniform_(-0.1 * eps, 0.1 * eps, generator=generator)
            change = steepest(directed(victim, flat, self.unit * z, drawn, memory)[1] * self.unit, self.norm)
        return (flat + self.unit * (eps * change)).reshape(obs.shape)


# --- a victim under attack, played ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """The same steps as attacker and victim saw them; episodes go on from one to the next."""

    adversary: Segments  # true observations, its own draws, reward -r
    victim: Segments | None  # what it was shown, its draws, reward r; None of a victim that does not learn


class AttackedRollouts(Rollouts):
    """Batches of fresh steps of `victim` under `adversary`, both as they are now: `Duel`s `[*copies, n_steps, n_envs]`.

    A victim that is `learning` (a policy that draws: PPO's own) explores, and its steps are given as well; its `next_obs` is what it is
    shown next, or of an episode that a time limit cut off, what it would have been shown. Its draws are those of `Rollouts` at the same
    seed, so that with eps = 0 the two agree bit for bit. Any other victim acts greedily, and may have memory or noise.
    """

    def __init__(
        self,
        env_id: str,
        victim: Policy,
        adversary: Adversary,
        n_steps: int,
        *,
        learning: bool = False,
        n_envs: int = 1,
        seed: int = 0,
        device: str = "cpu",
        max_steps: int | None = None,
    ):
        if learning and not hasattr(victim, "draw"):
            raise ConfigError(f"a {type(victim).__name__} policy does not draw its actions: only its attacker can learn.")
        actor = cast(Drawing, victim)
        super().__init__(env_id, actor, n_steps, copies=victim.copies, n_envs=n_envs, seed=seed, device=device, max_steps=max_steps)
        self.victim, self.adversary, self.learning = victim, adversary, learning
        self.attacks = torch.Generator(device).manual_seed(derive_seed(seed, 2))
        self.memory: Memory = victim.start(n_envs)

    def __iter__(self) -> Iterator[Duel]:  # type: ignore[override]
        return self

    def __next__(self) -> Duel:  # type: ignore[override]
        lead, run, outcome = len(self.copies), self.running, ("reward", "terminated", "ended")
        rows: dict[str, list[Tensor]] = {name: [] for name in ("obs", "output", "shown", "drawn", "next_obs", *outcome, "cut")}
        with torch.no_grad():
            for t in range(self.n_steps):
                obs = self._seen(run.obs)
                output = self.adversary.draw(obs, self.attacks)
                shown = self.adversary.perturbed(self.victim, obs, output, memory=self.memory, generator=self.attacks)
                drawn = self._act(shown)
                rows["obs"].append(obs.flatten(lead + 1))
                rows["output"].append(output)
                rows["shown"].append(shown.flatten(lead + 1))
                rows["drawn"].append(drawn)
                rows["next_obs"].append(self._seen(run.next_obs).flatten(lead + 1))
                for name in outcome:
                    rows[name].append(self._seen(getattr(run, name)).float())
                if self.learning:
                    cut = t == self.n_steps - 1 or bool((run.ended & ~run.terminated).any())
                    rows["cut"].append(self._shown_next(run.next_obs) if cut else rows["next_obs"][-1])
                self._forget(run.ended)
        self.steps += self.n_steps * self.n_envs
        self.last_obs[:] = run.next_obs
        r = {name: torch.stack(parts, lead) for name, parts in rows.items() if parts}
        ended = r["terminated"], r["ended"]
        attacker = Segments(r["obs"], r["output"], -r["reward"], r["next_obs"], *ended)
        if not self.learning:
            return Duel(attacker, None)
        following = torch.cat([r["shown"].narrow(lead, 1, self.n_steps - 1), r["cut"].narrow(lead, self.n_steps - 1, 1)], lead)
        next_shown = torch.where(r["ended"].bool().unsqueeze(-1), r["cut"], following)
        return Duel(attacker, Segments(r["shown"], r["drawn"], r["reward"], next_shown, *ended))

    def _seen(self, rows: Any) -> Tensor:
        """What environments gave, one row each, as `[*copies, n_envs, ...]` on the device."""
        x = torch.tensor(rows, device=self.device)
        return x.view(*self.copies, self.n_envs, *x.shape[1:])

    def _act(self, shown: Tensor) -> Tensor:
        """The victim's step in every environment; what it drew, or did."""
        if self.learning:
            drawn = self.actor.draw(shown, self.generator)
            self.running.step(self._taken(drawn))
            return drawn
        action, self.memory = self.victim.act(shown, self.memory, generator=self.generator, greedy=True)
        if not torch.isfinite(action).all():
            raise PolicyError("the policy gave an action that is not finite: did its training diverge?")
        self.running.step(action.flatten(0, len(self.copies)).cpu().numpy())
        return action

    def _shown_next(self, next_obs: Any) -> Tensor:
        """What the victim would be shown after the last step, `[*copies, n_envs, S]`: its value is bootstrapped from it."""
        obs = self._seen(next_obs)
        output = self.adversary.draw(obs, self.attacks)
        return self.adversary.perturbed(self.victim, obs, output, generator=self.attacks).flatten(len(self.copies) + 1)

    def _forget(self, ended: Any) -> None:
        """Fresh memory for the environments whose episode ended."""
        if self.memory is None or not ended.any():
            return
        fresh, gone = self.victim.start(self.n_envs), self._seen(ended)
        assert fresh is not None
        self.memory = {k: torch.where(gone.view(*gone.shape, *(1,) * (v.dim() - gone.dim())), fresh[k], v) for k, v in self.memory.items()}

    def state_dict(self) -> dict[str, Tensor]:
        memory = {f"memory.{name}": value for name, value in (self.memory or {}).items()}
        return super().state_dict() | {"attacks": self.attacks.get_state()} | memory

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.attacks.set_state(state["attacks"].cpu())
        if self.memory is not None:
            self.memory = {name: state[f"memory.{name}"].to(value.device) for name, value in self.memory.items()}
