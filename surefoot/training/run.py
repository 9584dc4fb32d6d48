"""A run: a folder with its settings, metrics, checkpoints and result.

```
config.json                         settings, command, data fingerprint, versions, machine
metrics.jsonl, tensorboard/         what training logged; one JSON object a line
checkpoint/, checkpoint.previous/   what a resume needs; one of the two is always whole
policy/, policy_best/, result.json  what came of it (written by who trains)
```
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.tensorboard import SummaryWriter

from surefoot.errors import CheckpointError
from surefoot.files import replacing_file, sync, unwritable
from surefoot.training.checkpoint import State, read_newest, write_checkpoint
from surefoot.training.provenance import machine, versions

try:
    import fcntl
except ImportError:  # not on Windows: nothing keeps two processes apart there
    fcntl = None  # type: ignore[assignment]

Metrics = Mapping[str, float | Sequence[float]]
"""Numbers by name; a fleet has a list with one entry a member."""

_held: dict[tuple[int, int], int] = {}  # locks of this process: (device, inode) of the lock file -> its descriptor


class Run:
    """A run folder that is being written; make one with `create` or `open`."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.folder, self.config = folder, config
        self.saved_step: int | None = None  # of the newest checkpoint that is known to be whole
        self._seconds, self._since = 0.0, time.monotonic()
        self._metrics: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._purge: int | None = None  # TensorBoard hides what it has from this step on

    @staticmethod
    def create(folder: str | Path, config: Mapping[str, Any]) -> Run:
        """A new run folder that holds `config` (JSON values), the versions and the machine.

        Raises CheckpointError if the folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        environment = machine() | {"threads": torch.get_num_threads()}
        run = Run(folder, {**config, "versions": versions(), "environment": environment})
        run._claim()
        run._write("config.json", run.config)
        return run

    @staticmethod
    def open(folder: str | Path) -> Run:
        """A run that exists. Raises CheckpointError if the folder is no run, or its settings cannot be read."""
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} is not a run: it holds no config.json; name the folder that `surefoot train --out` made.")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it is not a JSON object")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): start a new run, or bring a copy of it back.") from None
        return Run(folder, config)

    # --- settings and result ----------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """Change settings, in `config.json` too."""
        self.config |= changes
        self._write("config.json", self.config)

    def result(self, value: Mapping[str, Any]) -> None:
        """Write `result.json`, which says that the run is complete."""
        self._write("result.json", dict(value))

    def finished(self) -> dict[str, Any] | None:
        """What `result.json` holds; None if the run is not complete (or the file is damaged: it can be made again)."""
        try:
            found = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def drift(self) -> list[str]:
        """What differs from where the run was started, as `torch 2.13.0, now 2.14.0`: if anything does, a resume is not bit for bit."""
        now = {**versions(), **machine(), "threads": torch.get_num_threads()}
        then = {**self.config.get("versions", {}), **self.config.get("environment", {})}
        return [f"{name} {then.get(name)}, now {now.get(name)}" for name in sorted({*then, *now}) if then.get(name) != now.get(name)]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent on this run, in earlier processes too (as far as their checkpoints know)."""
        return self._seconds + time.monotonic() - self._since

    @property
    def continued_by(self) -> str:
        """How to go on with this run, for messages."""
        if "command" in self.config:
            return f"go on with `{self.resumed_by}`"
        return f"do the same again to go on (in Python with run=Run.open({str(self.folder)!r}))"

    @property
    def resumed_by(self) -> str:
        """The command that goes on with this run."""
        words = str(self.config.get("command", "")).split()
        return f"surefoot {'align' if words[1:2] == ['align'] else 'train'} --resume {self.folder}"

    # --- metrics ----------------------------------------------------------------------------------------------------

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a row to `metrics.jsonl` and to TensorBoard (there a fleet has a series a member, and their mean)."""
        path = self.folder / "metrics.jsonl"
        metrics = {k: v[0] if isinstance(v, Sequence) and len(v) == 1 else v for k, v in metrics.items()}
        try:
            if self._metrics is None:
                self._metrics = path.open("a", encoding="utf-8")
            self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise unwritable(path, error) from None
        if self._board is None:
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._purge)
        for name, value in metrics.items():
            if isinstance(value, Sequence):
                for member, own in enumerate(value):
                    self._board.add_scalar(f"{name}/member_{member}", own, step)
                self._board.add_scalar(f"{name}/mean", sum(value) / len(value), step)
            else:
                self._board.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        """Forget metrics after `step`, and what a killed process left half-written: training goes on from there."""
        self.close()
        path = self.folder / "metrics.jsonl"
        if path.exists():
            with path.open(encoding="utf-8") as old, replacing_file(path) as new, new.open("w", encoding="utf-8") as kept:
                kept.writelines(line for line in old if _step_of(line) <= step)
            self._purge = step + 1
        for stale in self.folder.glob(".*-*"):  # the temporary names of surefoot/files.py
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint: the newest becomes `checkpoint/`, the one before it `checkpoint.previous/`."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())  # the metrics of a checkpoint reach the disk before it does
        if self._board is not None:
            self._board.flush()
        write_checkpoint({"step": step, "seconds": self.seconds, "state": state}, *self._places)
        self.saved_step = step

    def load(self) -> State | None:
        """The state that was saved last, or the one before it if that one is damaged; None if nothing was saved yet.

        Whoever loads goes on writing: a damaged newest checkpoint is replaced by the one before it, so that it can never push
        the whole one out. Raises CheckpointError if no checkpoint is whole, or another process is training this run.
        """
        self._claim()
        newest, previous = self._places
        found = read_newest(newest, previous)
        if found is None:
            return None
        saved, place = found
        if place == previous:
            shutil.rmtree(newest, ignore_errors=True)
            os.replace(previous, newest)
            sync(self.folder)
        self.saved_step, self._seconds, self._since = saved["step"], saved["seconds"], time.monotonic()
        return saved["state"]

    @property
    def _places(self) -> tuple[Path, Path]:
        return self.folder / "checkpoint", self.folder / "checkpoint.previous"

    def _claim(self) -> None:
        """Keep other processes from training this run while this one does; the system lets go of it when a process ends."""
        if fcntl is None:
            return
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) in _held:
            os.close(descriptor)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise CheckpointError(f"{self.folder} is being trained by another process: wait for it, or stop it first.") from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        _held[status.st_dev, status.st_ino] = descriptor

    # --- files ------------------------------------------------------------------------------------------------------

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        with replacing_file(self.folder / name) as new:
            new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Close the metrics and event files (they open again with the next row)."""
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()
        self._metrics = self._board = None


def check_free(folder: Path) -> None:
    """Raises CheckpointError if a run cannot be created at `folder` because something is there."""
    if folder.is_dir() and any(folder.iterdir()):
        go_on = ""
        with suppress(CheckpointError):  # it is no run
            go_on = f", or go on with it ({Run.open(folder).resumed_by})"
        raise CheckpointError(f"{folder} exists and is not empty: choose another folder (--out){go_on}.")


def _step_of(line: str) -> float:
    """The step of a row of metrics; infinite for one that was cut off while it was written."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
