"""All settings of a training run, checked, to and from the `config.json` of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

import torch

from surefoot.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class SessionConfig:
    """What rebuilds a run; the fields are the options of `surefoot train` and mean the same."""

    method: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    env: str | None = None
    steps: int = 100_000
    seeds: int = 1
    seed: int = 0
    device: str = "cpu"
    weighting: str = "uniform"
    weighting_alpha: float = 0.1
    one_episode: bool = False
    log_share: float = 0.5
    eval_every: int = 10_000
    eval_episodes: int = 10
    episodes: int = 50
    fqe_steps: int = 10_000
    max_steps: int | None = None
    frame_stack: int = 1
    noise: float = 0.0
    checkpoint_every: int = 10_000
    log_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "eval_episodes", "episodes", "fqe_steps", "frame_stack", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1.")
        for name in ("seed", "eval_every", "noise"):
            if not (getattr(self, name) >= 0 and isfinite(getattr(self, name))):
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be finite and not negative.")
        if not 0.0 < self.log_share <= 1.0:
            raise ConfigError(f"--log-share is {self.log_share}: a share of each batch lies above 0 and is at most 1.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device is cuda, but this machine or this build of PyTorch has no CUDA device: use --device cpu.")

    @property
    def copies(self) -> tuple[int, ...]:
        return (self.seeds,) if self.seeds > 1 else ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(config: Mapping[str, Any], where: str) -> SessionConfig:
        """The settings among what `where` holds. Raises CheckpointError if some are missing or of the wrong kind."""
        known = {f.name: config[f.name] for f in fields(SessionConfig) if f.name in config}
        try:
            return SessionConfig(**known)
        except TypeError as error:
            raise CheckpointError(f"{where} does not hold the settings of `surefoot train` ({error}): it cannot be resumed.") from None
