"""A source that learns as it goes: it steps environments with the method's own behaviour, and samples what it has seen.

Every `updates` batches it first takes `env_steps` steps for each member, `n_envs` environments side by side; the first `warmup` steps
are uniform random actions. `terminated` and `truncated` stay apart: a time limit ends the episode, and the row keeps the true last
observation, from which a method may bootstrap. A resumed source equals the uninterrupted one bit for bit (see `envs.episodes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.log import Layout, Log
from surefoot.data.ring import Ring
from surefoot.data.spec import Continuous, Spec, box_action
from surefoot.envs.episodes import Episodes
from surefoot.envs.making import Wrap, check_fits
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, DataError, DivergedError


class Actor(Protocol):
    """What acts: a method's `behaviour` (a policy without memory; `training_env` stacks frames if there are to be any)."""

    spec: Spec
    copies: tuple[int, ...]

    def start(self, n: int) -> Any: ...

    def act(
        self, obs: Tensor, memory: Any = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Any]: ...


class Collecting(Protocol):
    """Settings of a learner that collects its own steps."""

    @property
    def batch_size(self) -> int: ...
    @property
    def buffer_size(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def env_steps(self) -> int: ...
    @property
    def updates(self) -> int: ...
    @property
    def n_envs(self) -> int: ...


class Replayed:
    """Batches `[*copies, B]` from a replay buffer of the newest `capacity` steps a member, filled while iterating.

    Every member has environments and a buffer of its own. `env_steps` counts transitions a member, so it is a multiple of `n_envs`;
    env_steps / updates sets the update-to-data ratio. With a `log`, `log_share` of each batch is drawn from it. `frame_stack`,
    `noise`, `max_steps` and `wrap`: see `Episodes`. Raises ConfigError for settings outside their range, EnvError where environment,
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
        wrap: Wrap | Sequence[Wrap] | None = None,
        log: Log | None = None,
        log_share: float = 0.0,
    ):
        _check_counts(batch_size, capacity, warmup, env_steps, updates, n_envs, seed)
        self.n_logged = round(batch_size * log_share)  # rows of a batch that come from the log
        if not 0 <= self.n_logged <= batch_size or (log is None) != (self.n_logged == 0):
            raise ConfigError(f"log_share is {log_share}: give a log and a share that is at least one row of a batch, or neither.")
        self.actor, self.batch_size, self.copies, self.device, self.seed = actor, batch_size, tuple(copies), device, seed
        self.warmup, self.env_steps, self.updates, self.n_envs = warmup, env_steps, updates, n_envs
        self.env_id, self.frame_stack, self.noise, self.members = env_id, frame_stack, noise, prod(copies)
        self.running = Episodes(
            env_id, members=self.members, slots=n_envs, seed=seed, frame_stack=frame_stack, noise=noise, max_steps=max_steps, wrap=wrap
        )
        self.spec = self.running.spec
        self._check_actor()
        if log is not None:
            check_fits(f"the log {log.source}", Spec(log.obs_shape, log.action), env_id, self.spec)
        self.logged = None if log is None else log.packed.to(device)

        self.layout = Layout.of(self.spec)
        self.ring = Ring(self.layout, ceil(capacity / n_envs), n_envs, self.members, device)
        self.steps = 0  # transitions seen by each member
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, 1))
        self._drawn: tuple[Tensor, Tensor | None] | None = None  # row numbers of the next `updates` batches: in the ring, in the log
        self._before_drawing = self.generator.get_state()
        self._left = 0  # drawn batches that were not handed out yet
        self._staged = torch.zeros(self.members, n_envs, self.layout.width)  # the rows of one step, on their way to the ring
        widths = (self.layout.obs_dim, self.layout.action_dim, 1, self.layout.obs_dim)
        self._columns = np.split(self._staged.view(len(self.running), -1).numpy(), np.cumsum(widths), axis=1)

    @staticmethod
    def of(config: Collecting, env_id: str, actor: Actor, **rest: Any) -> Replayed:
        """As a learner's settings have it; `rest` are the other arguments."""
        return Replayed(
            env_id,
            actor,
            config.batch_size,
            capacity=config.buffer_size,
            warmup=config.warmup,
            env_steps=config.env_steps,
            updates=config.updates,
            n_envs=config.n_envs,
            **rest,
        )

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

    # --- environment steps --------------------------------------------------------------------------------------------

    def _random_action(self) -> np.ndarray:
        n, action = len(self.running), self.spec.action
        if isinstance(action, Continuous):
            unit = torch.rand(n, action.dim, generator=self.generator, device=self.device) * 2.0 - 1.0
            return box_action(unit, action).cpu().numpy()
        return torch.randint(action.n, (n,), generator=self.generator, device=self.device).cpu().numpy()

    def _chosen_action(self) -> np.ndarray:
        obs = torch.from_numpy(self.running.obs).to(self.device).view(*self.copies, self.n_envs, *self.spec.obs_shape)
        with torch.no_grad():
            action, _ = self.actor.act(obs, generator=self.generator, greedy=False)
        chosen = action.flatten(0, len(self.copies)).cpu().numpy()
        if not np.isfinite(chosen).all():
            raise DivergedError(f"training diverged: after {self.steps} steps in {self.env_id} the policy's action is not finite.")
        return chosen

    def _step(self, action: np.ndarray) -> None:
        """One step of all environments of all members, from `running` to the ring."""
        run, n = self.running, len(self.running)
        obs, taken, reward, next_obs, terminated = self._columns
        obs[:] = run.obs.reshape(n, -1)
        run.step(action)
        taken[:], next_obs[:] = action.reshape(n, -1), run.next_obs.reshape(n, -1)
        reward[:, 0], terminated[:, 0] = run.reward, run.terminated
        self.ring.write(self._staged, run.ended.reshape(self.members, self.n_envs))
        self.steps += self.n_envs

    def close(self) -> None:
        self.running.close()

    # --- what it has seen ---------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, list[float]]:
        """Of each member: steps and episodes so far, and the mean return of the newest 100 finished episodes, once there are any."""
        metrics = {"train/env_steps": [float(self.steps)] * self.members, "train/episodes": self.running.finished.astype(float).tolist()}
        if (self.running.finished > 0).all():
            metrics["train/return"] = self.running.recent_returns().tolist()
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
        return {
            **{f"ring.{name}": value for name, value in self.ring.state_dict().items()},
            **self.running.state_dict(),
            "steps": torch.tensor(self.steps),
            "generator": self._before_drawing if self._left else self.generator.get_state(),
            "left": torch.tensor(self._left),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; warns where an environment cannot (see `Episodes.load_state_dict`)."""
        self.ring.load_state_dict({name.removeprefix("ring."): value for name, value in state.items() if name.startswith("ring.")})
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"].cpu())
        self._left = int(state["left"])
        if self._left:  # in the middle of drawn batches: draw the same again
            left = self._left
            self._draw()
            self._left = left
        shown = self.layout.unpack(self.ring.newest()).next_obs.reshape(self.running.obs.shape).numpy()
        for i in self.running.load_state_dict(state, shown):
            self.ring.cut(*divmod(i, self.n_envs))

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check_actor(self) -> None:
        if tuple(self.actor.copies) != self.copies:
            raise ConfigError(f"copies are {self.copies}, but the actor's are {tuple(self.actor.copies)}: they must agree.")
        check_fits("the method", self.actor.spec, self.env_id, self.spec)
        if self.actor.start(1) is not None:
            raise ConfigError("the actor has a memory: give one that decides on one observation (frame_stack shows it several frames).")


def _check_counts(batch_size: int, capacity: int, warmup: int, env_steps: int, updates: int, n_envs: int, seed: int) -> None:
    """Raises ConfigError for settings outside their range."""
    for name, value in (("batch_size", batch_size), ("capacity", capacity), ("env_steps", env_steps), ("updates", updates)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: it must be at least 1.")
    if n_envs < 1 or env_steps % n_envs:
        raise ConfigError(f"env_steps is {env_steps} and n_envs {n_envs}: env_steps must be a multiple of n_envs, which step together.")
    if warmup < 0 or seed < 0:
        raise ConfigError(f"warmup is {warmup} and seed {seed}: neither may be negative.")
    if capacity < warmup:
        raise ConfigError(f"the buffer's capacity is {capacity}: it must hold the {warmup} steps of the warmup.")
