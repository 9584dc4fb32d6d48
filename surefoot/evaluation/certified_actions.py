"""How far an observation may be moved before a policy with discrete actions chooses another one: certified, along its own episodes.

At each of a number of states that the policy visits the choice of the *smoothed* policy is certified (LVM-RS, or votes): the action
with the largest mean score over N(0, sigma^2 I) on what is observed stays the same under every change of l2 norm up to the radius.
That is a different policy from `Smoothed`, which acts on a single draw of the noise and whose return has the certificate of
`surefoot.evaluation.certificates`: here many draws are averaged, and the statement is about one choice.

A policy with memory (a frame stack) is certified with respect to the newest observation, what it remembers being settled and true:
with the memory fixed its choice is a function of the newest observation alone, so the certificate is exact. At the first step of an
episode a stack shows that observation in every place, and all of them are changed together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.envs.making import time_limit
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.lvm_rs import (
    ABSTAIN,
    Certified,
    Map,
    average_certified_radius,
    certified_accuracy,
    certify_inputs,
    check_samples,
    interval_level,
    simplex_maps,
)
from surefoot.evaluation.rollouts import device_of
from surefoot.evaluation.visited import Visited, visited
from surefoot.policies.base import Policy
from surefoot.policies.deciding import outputs
from surefoot.steering.smoothed import Smoothed

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii that shares of states (or inputs) are given at, in units of sigma."""


@dataclass(frozen=True, eq=False)
class MemberActions:
    """One policy's states and what is certified at each: `certified[i]` is about `states.obs[i]`."""

    states: Visited
    certified: list[Certified]
    action: np.ndarray  # [n] what the policy does there without the noise

    @property
    def abstained(self) -> float:
        """Share of states in which nothing is certified."""
        return float(np.mean([each.label == ABSTAIN for each in self.certified]))

    @property
    def same(self) -> float:
        """Share of states in which the certified action is the one without the noise."""
        return float(np.mean([each.label == a for each, a in zip(self.certified, self.action.tolist(), strict=True)]))

    def to_json(self, member: int, radii: np.ndarray) -> dict[str, Any]:
        rows = zip(self.certified, self.action.tolist(), self.states.episode.tolist(), self.states.step.tolist(), strict=True)
        return {
            "member": member,
            "states": len(self.certified),
            "abstained": self.abstained,
            "same": self.same,
            "average_radius": average_certified_radius(self.certified),
            "radii": radii.tolist(),
            "certified": certified_accuracy(self.certified, None, radii).tolist(),
            "at": [
                {"episode": episode, "step": step, "action": each.label, "radius": each.radius, "without_noise": action}
                for each, action, episode, step in rows
            ],
        }


@dataclass(frozen=True, eq=False)
class CertifiedActions:
    """What `certify_actions` found. Each state's radius holds with confidence 1 - alpha by itself, so of all that are certified a
    share of alpha is expected to be wrong at most."""

    members: list[MemberActions]
    env_id: str
    sigma: float
    alpha: float
    samples: int
    selection: int
    maps: int  # that were chosen from; 1: votes
    episodes: int
    max_steps: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The same for JSON; `members` has one entry for a lone policy too."""
        radii = np.array(SHARES) * self.sigma
        return {
            "kind": "certified-actions",
            "env": self.env_id,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "samples": self.samples,
            "selection": self.selection,
            "maps": self.maps,
            "states": max(len(each.certified) for each in self.members),
            "episodes": self.episodes,
            "max_steps": self.max_steps,
            "seed": self.seed,
            "members": [each.to_json(i, radii) for i, each in enumerate(self.members)],
        }


def certify_actions(
    policy: Policy,
    env_id: str,
    *,
    states: int = 200,
    episodes: int = 10,
    n0: int = 500,
    n: int = 10_000,
    alpha: float = 0.05,
    maps: list[Map] | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> CertifiedActions:
    """Certify the choice of a `Smoothed` policy at `states` states of each member, evenly along `episodes` greedy episodes without noise.

    `n0` noisy copies of each state choose action and map (of `maps`; `[Map("argmax")]`: votes), `n` more certify. `progress` is called
    with the number of finished states, over all members. Raises PolicyError for a policy that is not smoothed or has continuous
    actions, ConfigError for settings outside their range, EnvError for an environment whose observations are not real numbers.
    """
    maps = simplex_maps() if maps is None else maps
    inner, sigma = check_choice(policy)
    check_samples(n0, n, alpha, interval_level(alpha, "split", maps, inner.spec.n_actions), maps)  # before an episode is played
    found: list[MemberActions] = []
    for f, seen in enumerate(visited(inner, env_id, states, episodes=episodes, seed=seed, max_steps=max_steps)):
        lone = inner.member(f) if inner.copies else inner
        done = sum(len(each.certified) for each in found)
        generator = torch.Generator(device_of(lone)).manual_seed(derive_seed(seed, 5, f))
        moved = None if progress is None else partial(_add, progress, done)
        settings: dict[str, Any] = {"n0": n0, "n": n, "alpha": alpha, "maps": maps, "generator": generator, "progress": moved}
        certified = certify_inputs(partial(scores, lone), seen.obs, sigma, given=seen.memory, **settings)
        with torch.no_grad():
            action = outputs(lone, seen.obs, seen.memory).argmax(-1).cpu().numpy()
        found.append(MemberActions(seen, certified, action))
    limit = time_limit(env_id, max_steps)
    return CertifiedActions(found, env_id, sigma, alpha, n, n0, len(maps), episodes, limit, seed)


def scores(policy: Policy, obs: Tensor, memory: Mapping[str, Tensor] | None = None) -> Tensor:
    """A score for each action `[b, A]`; 1 and 0 of a policy that only names its action."""
    return outputs(policy, obs, None if memory is None else dict(memory))


def _add(progress: Callable[[int], None], done: int, more: int) -> None:
    progress(done + more)


def check_choice(policy: Policy) -> tuple[Policy, float]:
    """The policy behind the noise, and the noise. Raises PolicyError where there is no noise, or no choice."""
    if not isinstance(policy, Smoothed):
        raise PolicyError(
            f"the choices of a {type(policy).__name__} policy have no certificate: wrap it with noise, Smoothed(policy, sigma)."
        )
    if not policy.sigma > 0.0:
        raise ConfigError(f"sigma is {policy.sigma}: a certificate needs noise with a positive standard deviation.")
    name, action = type(policy.inner).__name__, policy.spec.action
    if not isinstance(action, Discrete):
        raise PolicyError(
            f"the {name} policy has continuous actions, which change with every observation: only a choice among discrete actions can be"
            " certified."
        )
    if action.n < 2:
        raise PolicyError(f"the {name} policy has {action.n} action: there is no choice to certify.")
    return policy.inner, policy.sigma
