"""A source for on-policy methods: fresh stretches of episodes, played by the policy as it is now.

Every batch is `n_steps` steps of `n_envs` environments a member; episodes go on from one batch to the next. `terminated` and `ended` stay
apart, and `next_obs` is the true next observation where a time limit cut an episode off. A resumed source equals the uninterrupted
one bit for bit (see `envs.episodes`).
"""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.data.spec import Discrete, Spec
from surefoot.envs.episodes import Episodes
from surefoot.envs.making import check_fits
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, DivergedError


class Drawing(Protocol):
    """What plays: a policy that gives its draws as its density knows them, and the actions that they stand for."""

    spec: Spec
    copies: tuple[int, ...]

    def draw(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor: ...

    def taken(self, drawn: Tensor) -> Tensor: ...


class Rollouts:
    """Batches `[*copies, n_steps, n_envs]` of fresh steps. `frame_stack`, `noise` and `max_steps`: see `training_env`.

    Raises ConfigError for settings outside their range, EnvError where environment and actor do not fit each other, and while
    iterating DivergedError if an action is not finite, EnvError if what the environment shows is not.
    """

    def __init__(
        self,
        env_id: str,
        actor: Drawing,
        n_steps: int,
        *,
        copies: tuple[int, ...] = (),
        n_envs: int = 1,
        seed: int = 0,
        device: str = "cpu",
        frame_stack: int = 1,
        noise: float = 0.0,
        max_steps: int | None = None,
    ):
        for name, value in (("n_steps", n_steps), ("n_envs", n_envs)):
            if value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1.")
        self.actor, self.n_steps, self.n_envs, self.copies, self.device, self.env_id = actor, n_steps, n_envs, tuple(copies), device, env_id
        self.members = prod(copies)
        self.running = Episodes(
            env_id, members=self.members, slots=n_envs, seed=seed, frame_stack=frame_stack, noise=noise, max_steps=max_steps
        )
        self.spec = self.running.spec
        if tuple(actor.copies) != self.copies:
            raise ConfigError(f"copies are {self.copies}, but the actor's are {tuple(actor.copies)}: they must agree.")
        check_fits("the method", actor.spec, env_id, self.spec)
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, 1))
        self.steps = 0  # steps taken by each member
        self.last_obs = np.zeros_like(self.running.obs)  # shown after the last step, before what ended began anew

    def __iter__(self) -> Rollouts:
        return self

    def __next__(self) -> Segments:
        run, shape = self.running, (self.n_steps, len(self.running))
        obs, next_obs = (np.empty((*shape, self.spec.obs_dim), np.float32) for _ in range(2))
        reward, terminated, ended = (np.empty(shape, np.float32) for _ in range(3))
        drawn = []
        with torch.no_grad():
            for t in range(self.n_steps):
                obs[t] = run.obs.reshape(shape[1], -1)
                seen = torch.from_numpy(run.obs).to(self.device).view(*self.copies, self.n_envs, *self.spec.obs_shape)
                drawn.append(self.actor.draw(seen, self.generator))
                run.step(self._taken(drawn[-1]))
                next_obs[t] = run.next_obs.reshape(shape[1], -1)
                reward[t], terminated[t], ended[t] = run.reward, run.terminated, run.ended
        self.steps += self.n_steps * self.n_envs
        self.last_obs[:] = run.next_obs
        columns = (self._by_member(torch.from_numpy(x)) for x in (obs, reward, next_obs, terminated, ended))
        o, r, o_next, done, end = columns
        action = torch.stack(drawn, len(self.copies))  # [*copies, T, N(, A)]
        return Segments(o, action, r, o_next, done, end)

    def _taken(self, drawn: Tensor) -> np.ndarray:
        """What the environments are given, `[members * n_envs(, A)]`."""
        action = self.actor.taken(drawn).flatten(0, len(self.copies)).cpu().numpy()
        if not isinstance(self.spec.action, Discrete) and not np.isfinite(action).all():
            raise DivergedError(f"training diverged: after {self.steps} steps in {self.env_id} the policy's action is not finite.")
        return action

    def _by_member(self, x: Tensor) -> Tensor:
        """`[T, members * N, ...]` as `[*copies, T, N, ...]` on the device."""
        apart = x.view(self.n_steps, self.members, self.n_envs, *x.shape[2:]).transpose(0, 1)
        return apart.reshape(*self.copies, self.n_steps, self.n_envs, *x.shape[2:]).to(self.device)

    def close(self) -> None:
        self.running.close()

    def metrics(self) -> dict[str, list[float]]:
        """Of each member: steps and episodes so far, and the mean return of the newest 100 finished episodes, once there are any."""
        metrics = {"train/env_steps": [float(self.steps)] * self.members, "train/episodes": self.running.finished.astype(float).tolist()}
        if (self.running.finished > 0).all():
            metrics["train/return"] = self.running.recent_returns().tolist()
        return metrics

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resume needs; nothing of a batch is kept between batches."""
        return {
            **self.running.state_dict(),
            "steps": torch.tensor(self.steps),
            "last_obs": torch.from_numpy(self.last_obs.copy()),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; warns where an environment cannot (see `Episodes.load_state_dict`)."""
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"].cpu())
        self.last_obs[:] = state["last_obs"].numpy()
        self.running.load_state_dict(state, self.last_obs)
