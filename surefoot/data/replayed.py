"""A source that learns as it goes: it steps an environment with the method's own behaviour and samples what it has seen.

Every `updates` batches it first takes `env_steps` steps for each member, `n_envs` environments side by side; the first `warmup` steps
are uniform random actions. `terminated` and `truncated` stay apart: a time limit ends the episode, and the row keeps the true last
observation, from which a method may bootstrap.

A resume is bit for bit. Each episode has a seed of its own that derives from (seed, member, environment, episode), so an environment
in the middle of an episode is that seed and the actions since: loading a state plays them again. An environment that then shows
something else is not a function of its seed; it starts a fresh episode, and a warning says so.
"""

from __future__ import annotations

import warnings
from math import ceil, prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.log import Layout, Log
from surefoot.data.ring import Ring
from surefoot.data.spec import Continuous, Spec, box_action
from surefoot.envs.making import time_limit, training_env
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, DataError, DivergedError, EnvError

RECENT = 100  # finished episodes a member that the training return is averaged over


class Actor(Protocol):
    """What acts: a method's `behaviour` (a policy without memory; `training_env` stacks frames if there are to be any)."""

    spec: Spec
    copies: tuple[int, ...]

    def start(self, n: int) -> Any: ...

    def act(
        self, obs: Tensor, memory: Any = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Any]: ...


class Replayed:
    """Batches `[*copies, B]` from a replay buffer of the newest `capacity` steps a member, filled while iterating.

    Every member has environments and a buffer of its own. `env_steps` counts transitions a member, so it is a multiple of `n_envs`;
    env_steps / updates sets the update-to-data ratio. With a `log`, `log_share` of each batch is drawn from it. `frame_stack`,
    `noise` and `max_steps`: see `training_env`. Raises ConfigError for settings outside their range, EnvError where environment,
    actor and log do not fit each other, and while iterating DivergedError if an action is not finite, EnvError if what the
    environment shows is not.
    """

    def __init__(
        self,
        env_id: str,
        actor: Actor,
        batch_size: int,
        *,
        copies: tuple[int, ...] = (),
        capacity: int,
        warmup: int,
        env_steps: int = 1,
        updates: int = 1,
        n_envs: int = 1,
        seed: int = 0,
        device: str = "cpu",
        frame_stack: int = 1,
        noise: float = 0.0,
        max_steps: int | None = None,
        log: Log | None = None,
        log_share: float = 0.0,
    ):
        for name, value in (("batch_size", batch_size), ("capacity", capacity), ("env_steps", env_steps), ("updates", updates)):
            if value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1.")
        if n_envs < 1 or env_steps % n_envs:
            raise ConfigError(f"env_steps is {env_steps} and n_envs {n_envs}: env_steps must be a multiple of n_envs, which step together.")
        if warmup < 0 or seed < 0:
            raise ConfigError(f"warmup is {warmup} and seed {seed}: neither may be negative.")
        if capacity < warmup:
            raise ConfigError(f"the buffer's capacity is {capacity}: it must hold the {warmup} steps of the warmup.")
        self.n_logged = round(batch_size * log_share)  # rows of a batch that come from the log
        if not 0 <= self.n_logged <= batch_size or (log is None) != (self.n_logged == 0):
            raise ConfigError(f"log_share is {log_share}: give a log and a share that is at least one row of a batch, or neither.")
        if tuple(copies) != tuple(actor.copies):
            raise ConfigError(f"copies are {tuple(copies)}, but the actor's are {tuple(actor.copies)}: they must agree.")
        self.env_id, self.actor, self.batch_size, self.copies, self.device = env_id, actor, batch_size, tuple(copies), device
        self.warmup, self.env_steps, self.updates, self.n_envs, self.seed = warmup, env_steps, updates, n_envs, seed
        self.frame_stack, self.noise, self.members = frame_stack, noise, prod(self.copies)
        n = self.members * n_envs  # environment i is number i % n_envs of member i // n_envs

        limit = time_limit(env_id, max_steps)
        self.envs = [training_env(env_id, frame_stack=frame_stack, noise=noise, max_steps=max_steps) for _ in range(n)]
        self.spec = Spec.from_env(self.envs[0])
        self.layout = Layout.of(self.spec)
        _check_fits("the method", actor.spec, env_id, self.spec)
        if actor.start(1) is not None:
            raise ConfigError("the actor has a memory: give one that decides on one observation (frame_stack shows it several frames).")
        if log is not None:
            _check_fits(f"the log {log.source}", Spec(log.obs_shape, log.action), env_id, self.spec)
        self.logged = None if log is None else log.packed.to(device)

        self.ring = Ring(self.layout, ceil(capacity / n_envs), n_envs, self.members, device)
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, 1))
        self._drawn: tuple[Tensor, Tensor | None] | None = None  # row numbers of the next `updates` batches: in the ring, in the log
        self._before_drawing = self.generator.get_state()
        self._left = 0  # drawn batches that were not handed out yet

        # The step that is being taken, as packed rows; its `obs` columns always hold what the environments show now.
        self._staged = torch.zeros(self.members, n_envs, self.layout.width)
        self._rows = self._staged.numpy().reshape(n, -1)
        s, a = self.layout.obs_dim, self.layout.action_dim
        self._action, self._reward, self._terminated = self._rows[:, s : s + a], self._rows[:, s + a], self._rows[:, -1]
        self._obs, self._next_obs = (x.reshape(n, *self.spec.obs_shape) for x in (self._rows[:, :s], self._rows[:, s + a + 1 : -1]))
        self._seen = torch.from_numpy(self._obs).view(*self.copies, n_envs, *self.spec.obs_shape)

        action_space = self.envs[0].action_space
        self.steps = 0  # transitions seen by each member
        self.episodes = np.full(n, -1)  # number of each environment's running episode
        self.ages = np.zeros(n, np.int64)  # actions taken in it
        self.actions = np.zeros((n, limit, *(action_space.shape or ())), action_space.dtype)  # which they were
        self.returns = np.zeros(n)  # rewards collected in it
        self.finished = np.zeros(self.members, np.int64)  # episodes finished by each member
        self.recent = np.full((self.members, RECENT), np.nan)  # returns of the newest of them
        for i in range(n):
            self._start_episode(i)

    # --- batches ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Replayed:
        return self

    def __next__(self) -> Transitions:
        if self._left == 0:
            while self.steps < self.warmup:
                self._step(self._random_action())
            for _ in range(self.env_steps // self.n_envs):
                self._step(self._chosen_action())
            self._draw()
        assert self._drawn is not None
        seen, logged = self._drawn
        i = self.updates - self._left
        self._left -= 1
        rows = self.ring.gather(seen[i])
        if self.logged is not None and logged is not None:
            more = self.logged.index_select(0, logged[i].reshape(-1))
            rows = torch.cat([rows, more.view(self.members, self.n_logged, self.layout.width)], 1)
        return self.layout.unpack(rows.view(*self.copies, self.batch_size, self.layout.width))

    def _draw(self) -> None:
        """Row numbers of the next `updates` batches, at once."""
        self._before_drawing = self.generator.get_state()
        seen = self.ring.draw(self.updates, self.batch_size - self.n_logged, self.generator)
        logged = None
        if self.logged is not None:
            shape = (self.updates, self.members, self.n_logged)
            logged = torch.randint(len(self.logged), shape, generator=self.generator, device=self.device)
        self._drawn, self._left = (seen, logged), self.updates

    # --- environments -------------------------------------------------------------------------------------------------

    def _random_action(self) -> np.ndarray:
        n, action = len(self.envs), self.spec.action
        if isinstance(action, Continuous):
            unit = torch.rand(n, action.dim, generator=self.generator, device=self.device) * 2.0 - 1.0
            return box_action(unit, action).cpu().numpy()
        return torch.randint(action.n, (n,), generator=self.generator, device=self.device).cpu().numpy()

    def _chosen_action(self) -> np.ndarray:
        with torch.no_grad():
            action, _ = self.actor.act(self._seen.to(self.device), generator=self.generator, greedy=False)
        return action.cpu().numpy().reshape(len(self.envs), *self.actions.shape[2:])

    def _step(self, action: np.ndarray) -> None:
        """One step of all environments of all members, written to the ring."""
        if not np.isfinite(action).all():
            raise DivergedError(
                f"the policy gave an action that is not finite after {self.steps} steps in {self.env_id}: training diverged."
            )
        action = action.astype(self.actions.dtype, copy=False)
        self.actions[np.arange(len(self.envs)), self.ages] = action
        self._action[:] = action.reshape(self._action.shape)
        ends = np.zeros(len(self.envs), bool)
        for i, env in enumerate(self.envs):
            self._next_obs[i], reward, terminated, truncated, _ = env.step(action[i])
            self._reward[i], self._terminated[i], ends[i] = reward, terminated, terminated or truncated
            self.returns[i] += float(reward)
        if not np.isfinite(self._rows).all():
            raise EnvError(f"environment {self.env_id!r} gave an observation or reward that is not finite after {self.steps} steps.")
        self.ring.write(self._staged, ends.reshape(self.members, self.n_envs))
        self._obs[:] = self._next_obs
        self.ages += 1
        self.steps += self.n_envs
        for i in np.flatnonzero(ends).tolist():
            member = i // self.n_envs
            self.recent[member, self.finished[member] % RECENT] = self.returns[i]
            self.finished[member] += 1
            self._start_episode(i)

    def _start_episode(self, i: int) -> None:
        self.episodes[i] += 1
        self.ages[i], self.returns[i] = 0, 0.0
        self._reset(i)

    def _reset(self, i: int) -> None:
        """Environment i at the start of its running episode, which has a seed of its own."""
        member, slot = divmod(i, self.n_envs)
        self._obs[i], _ = self.envs[i].reset(seed=derive_seed(self.seed, 0, member, slot, int(self.episodes[i])))

    def close(self) -> None:
        for env in self.envs:
            env.close()

    # --- what it has seen ---------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, list[float]]:
        """Of each member: steps and episodes so far, and the mean return of the newest 100 finished episodes, once there are any."""
        metrics = {"train/env_steps": [float(self.steps)] * self.members, "train/episodes": self.finished.astype(float).tolist()}
        if (self.finished > 0).all():
            metrics["train/return"] = np.nanmean(self.recent, 1).tolist()
        return metrics

    def log(self, member: int = 0) -> Log:
        """A member's buffer as a log, in the order it was recorded, one environment after the other (see `Ring.recorded`)."""
        if not 0 <= member < self.members:
            raise ConfigError(f"there is no member {member}: the buffer has members 0 to {self.members - 1}.")
        if self.ring.size == 0:
            raise DataError(f"the replay buffer in {self.env_id} is empty: take a batch first.")
        rows, ends = self.ring.recorded(member)
        notes = {"recipe": f"replay buffer after {self.steps} steps in {self.env_id}", "seed": str(self.seed), "member": str(member)}
        if self.frame_stack > 1 or self.noise > 0.0:
            notes["observations"] = f"{self.frame_stack} frames, noise {self.noise}"
        source = f"replay buffer in {self.env_id}, seed {self.seed}, member {member}"
        env_id = self.env_id if self.frame_stack == 1 else None  # which shows single frames
        return Log(rows, ends, self.spec.obs_shape, self.spec.action, source, env_id, notes)

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resume needs; the buffer of a lone member is not copied, so write it out before the next batch."""
        running = {name: torch.from_numpy(getattr(self, name).copy()) for name in ("episodes", "ages", "returns", "finished", "recent")}
        return {
            **{f"ring.{name}": value for name, value in self.ring.state_dict().items()},
            **running,
            "actions": torch.from_numpy(np.concatenate([actions[:age] for actions, age in zip(self.actions, self.ages, strict=True)])),
            "steps": torch.tensor(self.steps),
            "generator": self._before_drawing if self._left else self.generator.get_state(),
            "left": torch.tensor(self._left),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.ring.load_state_dict({name.removeprefix("ring."): value for name, value in state.items() if name.startswith("ring.")})
        for name in ("episodes", "ages", "returns", "finished", "recent"):
            setattr(self, name, state[name].numpy().copy())
        for i, played in enumerate(np.split(state["actions"].numpy(), self.ages.cumsum()[:-1])):
            self.actions[i, : len(played)] = played
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"].cpu())
        self._left = int(state["left"])
        if self._left:  # in the middle of drawn batches: draw the same again
            left = self._left
            self._draw()
            self._left = left
        for i in range(len(self.envs)):
            self._replay(i)

    def _replay(self, i: int) -> None:
        """Environment i in the middle of its running episode: its seed, and the actions since."""
        self._reset(i)
        for action in self.actions[i, : self.ages[i]]:
            self._obs[i], *_ = self.envs[i].step(action)
        member, slot = divmod(i, self.n_envs)
        shown = self.layout.unpack(self.ring.newest()[member, slot]).next_obs.numpy() if self.ages[i] else self._obs[i].reshape(-1)
        if not np.array_equal(self._obs[i].reshape(-1), shown):
            warnings.warn(
                f"environment {self.env_id!r} did not come back to where it was from the same seed and actions: the run goes on with a"
                " fresh episode, and will not equal the uninterrupted one.",
                stacklevel=2,
            )
            self.ring.ends[member, self.ring.next - 1, slot] = True
            self._start_episode(i)


def _check_fits(what: str, ours: Spec, env_id: str, env: Spec) -> None:
    """Raises EnvError unless what was built for `ours` fits an environment of `env`."""
    if ours.obs_shape != env.obs_shape:
        raise EnvError(f"environment {env_id!r} shows observations of shape {env.obs_shape}, but {what} has {ours.obs_shape}.")
    if isinstance(ours.action, Continuous) and isinstance(env.action, Continuous):
        fits = ours.action.dim == env.action.dim and np.allclose((ours.action.low, ours.action.high), (env.action.low, env.action.high))
    else:
        fits = ours.action == env.action
    if not fits:
        raise EnvError(f"environment {env_id!r} takes actions {env.action}, but {what} has {ours.action}.")
