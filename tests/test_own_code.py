"""Objects of the user's own code by name."""

import sys

import pytest

from surefoot.errors import ConfigError, PolicyError
from surefoot.own_code import python_object


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "own_" in name:
            del sys.modules[name]


def test_a_module_and_a_file(workplace):
    text = "from dataclasses import dataclass\nruns = []\n@dataclass\nclass Score:\n    scale: float = 2.0\n"
    text += "def score(x):\n    return 2 * x\n"
    (workplace / "own_module.py").write_text(text)
    (workplace / "folder").mkdir()
    (workplace / "folder" / "own-file.py").write_text(text)
    assert python_object("python:own_module:score")(3) == 6
    assert python_object("own_module:score")(3) == 6  # as it stands behind the prefix
    assert python_object("python:folder/own-file.py:Score")().scale == 2.0
    python_object("python:folder/own-file.py:runs").append(1)
    assert python_object(f"python:{workplace}/folder/own-file.py:runs") == [1]  # run once


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("python:own_module", "python:own_module: write python:MODULE:NAME or python:FILE.py:NAME, for example python:my_rewards:score"),
        ("python::score", "write python:MODULE:NAME"),
        ("python:own_module:", "write python:MODULE:NAME"),
        ("python:own_missing:score", "there is no module 'own_missing' here or among the installed packages"),
        ("python:missing.py:score", "there is no file missing.py"),
        ("python:own_there:other", "the module 'own_there' has no 'other'"),
        ("python:own_there.py:other", "the file 'own_there.py' has no 'other'"),
        ("python:own_broken:score", r"its code raised ZeroDivisionError when it was imported \(division by zero\)"),
        ("python:own_broken.py:score", "its code raised ZeroDivisionError"),
        ("python:own_garbled.py:score", "its code raised SyntaxError"),
        ("python:own_needy.py:score", "there is no module 'own_missing'"),
    ],
)
def test_mistakes_are_named(workplace, ref, message):
    (workplace / "own_there.py").write_text("score = 1\n")
    (workplace / "own_broken.py").write_text("score = 1 / 0\n")
    (workplace / "own_garbled.py").write_text("def score(\n")
    (workplace / "own_needy.py").write_text("import own_missing\n")
    with pytest.raises(ConfigError, match=message):
        python_object(ref)
    with pytest.raises(PolicyError, match=message):  # whatever a caller's errors are
        python_object(ref, PolicyError)
