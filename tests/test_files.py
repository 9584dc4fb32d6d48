"""Files and folders that are written whole or not at all."""

import errno
import os
import shutil

import pytest

from surefoot.errors import CheckpointError
from surefoot.files import replacing_file, replacing_folder, whole_folder


class Stopped(BaseException):
    """Stands for the moment at which a process is killed: nothing catches it, and what runs afterwards is not what is tested."""


def contents(folder):
    return sorted(p.name for p in folder.iterdir())


def write(folder, text, previous=None):
    with replacing_folder(folder, previous) as new:
        (new / "a").write_text(text)
        (new / "b").write_text(text)


def is_whole(folder):
    return folder.is_dir() and (folder / "a").read_text() == (folder / "b").read_text() != ""


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "deep" / "file.json"
    for text in ("one", "two"):
        with replacing_file(path) as new:
            new.write_text(text)
            assert new.suffix == ".json"
    assert path.read_text() == "two"
    assert contents(path.parent) == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def fails_half_way(replacing, *places):
    with replacing(*places) as new:
        (new / "a" if new.is_dir() else new).write_text("half")
        raise ZeroDivisionError


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fails_half_way(replacing_file, path)
    with pytest.raises(ZeroDivisionError):
        fails_half_way(replacing_folder, tmp_path / "folder")
    assert path.read_text() == "old"
    assert contents(tmp_path) == ["file"]


def test_a_folder_is_replaced_and_the_old_one_kept_only_where_asked(tmp_path):
    folder, previous = tmp_path / "now", tmp_path / "before"
    write(folder, "1")
    write(folder, "2")
    assert contents(tmp_path) == ["now"]
    for text in ("3", "4", "5"):
        write(folder, text, previous)
    assert (folder / "a").read_text() == "5"
    assert (previous / "a").read_text() == "4"
    assert contents(tmp_path) == ["before", "now"]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("stop_at", range(12))
def test_whenever_it_is_stopped_a_whole_folder_is_left(tmp_path, monkeypatch, keep, stop_at):
    """Every file-system call of a replacement in turn is where the process dies: the new or the old folder is whole."""
    folder, previous = tmp_path / "now", tmp_path / "before"
    write(folder, "1", previous if keep else None)
    write(folder, "2", previous if keep else None)
    real = {name: getattr(os, name) for name in ("replace", "fsync")} | {"rmtree": shutil.rmtree}
    count = 0

    def counted(name):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > stop_at:
                raise Stopped  # from here on nothing reaches the disk any more
            return real[name](*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted("replace"))
    monkeypatch.setattr(os, "fsync", counted("fsync"))
    monkeypatch.setattr(shutil, "rmtree", counted("rmtree"))
    try:
        write(folder, "3", previous if keep else None)
    except Stopped:
        pass
    else:
        assert stop_at >= 8, "the test reaches behind the end of the replacement"
    monkeypatch.undo()
    left = next(place for place in ([folder, previous] if keep else [whole_folder(folder)]) if place.exists())
    assert is_whole(left)
    assert (left / "a").read_text() in "23"
    write(folder, "4", previous if keep else None)  # and it can be replaced again
    assert (folder / "a").read_text() == "4"
    assert not keep or is_whole(previous)


def test_after_a_stop_between_the_renames_the_kept_one_survives_a_second_stop(tmp_path):
    folder, previous = tmp_path / "now", tmp_path / "before"
    write(previous, "1")
    with pytest.raises(ZeroDivisionError):
        fails_half_way(replacing_folder, folder, previous)
    assert is_whole(previous)
    write(folder, "2", previous)
    assert is_whole(previous)
    assert is_whole(folder)


def test_places_that_cannot_be_written_are_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for replacing in (replacing_file, replacing_folder):
        with pytest.raises(CheckpointError, match=r"file.*cannot be written"), replacing(tmp_path / "file" / "x"):
            pass

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for replacing in (replacing_file, replacing_folder):
        with pytest.raises(CheckpointError, match="No space left on device"), replacing(tmp_path / "x"):
            pass
    assert contents(tmp_path) == ["file"]
