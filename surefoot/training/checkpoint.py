"""A checkpoint: a nested dict of tensors and JSON values as a folder that is whole, or known not to be.

`tensors.safetensors` holds the tensors, `state.json` everything else and where each tensor belongs, `SHA256SUMS` the checksums of
both (`sha256sum -c SHA256SUMS` checks them too). Nothing is ever unpickled. The folder is written under another name, synced and
renamed, and the one before it is kept, so that at every moment one of the two is whole, whatever stops the program.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from surefoot.errors import CheckpointError
from surefoot.files import replacing_folder

FORMAT = 1
TENSORS, TREE, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
ADVICE = ": it cannot be resumed from."
REFERENCE = "$tensor"  # {"$tensor": name} stands for a tensor in state.json

State = dict[str, Any]
"""Nested dicts and lists of tensors and JSON values."""


def write_checkpoint(state: State, folder: Path, previous: Path) -> None:
    """Write `state` as `folder`; what was there is kept as `previous`.

    Raises CheckpointError where the folder cannot be written, TypeError for a value that is neither a tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors, set())
    try:
        with replacing_folder(folder, previous) as new:
            save_file(tensors, new / TENSORS)
            (new / TREE).write_text(json.dumps({"format": FORMAT, "state": tree}) + "\n", encoding="utf-8")
            (new / SUMS).write_text(_sums(new), encoding="utf-8")
    except SafetensorError as error:  # how a full disk shows itself there
        raise CheckpointError(f"{folder} cannot be written ({error}): free some room, then resume.") from None


def read_checkpoint(folder: Path) -> State:
    """What `write_checkpoint` wrote, its tensors on the CPU. Raises CheckpointError if it is not exactly what was written."""
    try:
        if (folder / SUMS).read_text(encoding="utf-8") != _sums(folder):
            raise ValueError(f"its files do not have the checksums in {SUMS}")
        described = json.loads((folder / TREE).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ValueError(f"it is of format {described['format']}, not {FORMAT}")
        state = _unpack(described["state"], load_file(folder / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged ({error}){ADVICE}") from None
    return state


def read_newest(folder: Path, previous: Path) -> tuple[State, Path] | None:
    """The newer of the two checkpoints that is whole, and which it was; None if neither was ever written.

    Raises CheckpointError if there are checkpoints but none is whole.
    """
    damaged: list[str] = []
    for place in (folder, previous):
        if place.exists():
            try:
                return read_checkpoint(place), place
            except CheckpointError as error:
                damaged.append(str(error).removesuffix(ADVICE))
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}: start a new run, or bring a copy of it back.")
    return None


def _pack(value: Any, path: str, tensors: dict[str, Tensor], seen: set[int]) -> Any:
    """`value` as JSON; its tensors go to `tensors` under their paths."""
    if isinstance(value, Tensor):
        if path in tensors:
            raise TypeError(f"two tensors of a checkpoint are both called {path!r}: rename one.")
        tensors[path] = _own(value, seen)
        return {REFERENCE: path}
    if isinstance(value, dict):
        if REFERENCE in value or not all(isinstance(key, str) for key in value):
            raise TypeError(f"checkpoint entry {path!r} has keys {list(value)}: they must be text, and not {REFERENCE!r}.")
        return {key: _pack(entry, f"{path}/{key}" if path else key, tensors, seen) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(entry, f"{path}/{i}", tensors, seen) for i, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"checkpoint entry {path!r} is a {type(value).__name__}: only tensors and JSON values are kept.")


def _own(tensor: Tensor, seen: set[int]) -> Tensor:
    """The tensor on the CPU with memory to itself, as safetensors demands; copied only where it has not."""
    own = tensor.detach().cpu().contiguous()
    storage = own.untyped_storage()
    if storage.nbytes() != own.nbytes or storage.data_ptr() in seen:
        own = torch.clone(own, memory_format=torch.contiguous_format)
    seen.add(own.untyped_storage().data_ptr())
    return own


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value[REFERENCE]] if REFERENCE in value else {key: _unpack(entry, tensors) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    return value


def _sums(folder: Path) -> str:
    """The checksums of a checkpoint's files as `sha256sum` writes them."""
    lines = []
    for name in (TENSORS, TREE):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)
