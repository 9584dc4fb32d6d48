"""Objects of a user's own code, named on the command line: `python:MODULE:NAME` or `python:FILE.py:NAME`."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from surefoot.errors import ConfigError, SurefootError


def python_object(ref: str, error: type[SurefootError] = ConfigError, example: str = "my_rewards:score") -> Any:
    """What `python:MODULE:NAME` or `python:FILE.py:NAME` names; the code of the module or file runs, as with any import.

    A module is looked for in the working directory, then among the installed packages; a file by its path. Raises `error` if the
    reference is of another form, nothing is found under it, or its code raises (the cause is kept).
    """
    where, _, name = ref.removeprefix("python:").rpartition(":")
    ref = f"python:{ref.removeprefix('python:')}"
    if not where or not name:
        raise error(f"{ref}: write python:MODULE:NAME or python:FILE.py:NAME, for example python:{example}.")
    try:
        module = _run_file(Path(where)) if where.endswith(".py") else _import(where)
    except FileNotFoundError:
        raise error(f"{ref}: there is no file {where}.") from None
    except ModuleNotFoundError as missing:
        raise error(f"{ref}: there is no module {missing.name!r} here or among the installed packages.") from None
    except Exception as raised:
        raise error(f"{ref}: its code raised {type(raised).__name__} when it was imported ({raised}).") from raised
    found = getattr(module, name, None)
    if found is None:
        raise error(f"{ref}: {'the file' if where.endswith('.py') else 'the module'} {where!r} has no {name!r}.")
    return found


def _import(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as `python -m` does
    return import_module(name)


def _run_file(path: Path) -> ModuleType:
    """The file as a module of its own, run once however often it is named."""
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"surefoot_own_code.{path.resolve()}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # it ends in .py
        module = module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
