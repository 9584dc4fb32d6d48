"""Several processes that train one model (`accelerate launch`): what is Accelerate's, and a run folder that only one of them writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from surefoot.errors import MissingExtraError
from surefoot.training.checkpoint import State, read_newest
from surefoot.training.run import Metrics, Run


def accelerator_of(device: str) -> Any:
    """Accelerate's view of the processes that `accelerate launch` started; None where this process is alone.

    Raises MissingExtraError without the package.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtraError("accelerate", "language") from None
    return Accelerator(cpu=device == "cpu", mixed_precision="no")  # the policy casts for itself


def leads() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Take leave of the other processes, if there are any."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Following(Run):
    """A run that another process writes: this one reads its settings and checkpoints, and writes nothing."""

    @staticmethod
    def open(folder: str | Path) -> Following:
        run = Run.open(folder)
        return Following(run.folder, run.config)

    def _claim(self) -> None:
        """The process that writes keeps others away."""

    def _write(self, name: str, value: Any) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""

    def save(self, step: int, state: State) -> None:
        self.saved_step = step

    def load(self) -> State | None:
        found = read_newest(*self._places)
        if found is None:
            return None
        saved, _ = found
        self.saved_step = saved["step"]
        return saved["state"]
