"""Files and folders that are written whole or not at all, whatever stops the program in between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surefoot.errors import CheckpointError


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written in the block; then synced and renamed to `path`.

    Nothing is left behind if the block raises. Raises CheckpointError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # temporary files are made private
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """An empty temporary folder beside `path`, to be filled in the block; then synced and renamed to `path`.

    What was at `path` is kept as `previous`, or removed. At every moment `path` or `previous` (by default a hidden sibling) is
    a folder that was written whole: see `whole_folder`. Raises CheckpointError where it cannot be written.
    """
    kept = previous if previous is not None else _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        if path.exists():  # after a crash between the two renames below there is only `kept`, which must stay
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(path, kept)
        os.replace(temporary, path)
        sync(path.parent)
        if previous is None:
            shutil.rmtree(kept, ignore_errors=True)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def whole_folder(path: Path) -> Path:
    """`path`, or the folder that stood there before if the program was stopped while replacing it."""
    aside = _aside(path)
    return aside if not path.exists() and aside.exists() else path


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sync(path: Path) -> None:
    """Ask the disk to keep what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """The error for a path that cannot be written, as a sentence."""
    return CheckpointError(f"{path} cannot be written ({error.strerror or error}): choose another place, or free some room.")
