"""Jobs side by side: results, errors and Ctrl-C come home, and no process stays behind."""

import io
import multiprocessing
import os
import re
import signal
import threading
import time
from functools import partial

import pytest
from rich.console import Console

from surefoot.cli.side_by_side import Stage, _Display, side_by_side
from surefoot.errors import ConfigError, SurefootError

STAGES = [Stage("first", "the first stage"), Stage("second", "the second stage")]


def works(stage, value, tell):
    for i in range(4):
        tell(stage, i / 4)
    print("not seen", file=os.sys.stderr)
    tell(stage, 1.0, f"made {value}")
    return value


def refuses(tell):
    raise ConfigError("this cannot be.")


def crashes(tell):
    return 1 / 0


def dies(tell):
    os._exit(7)


def waits(tell):
    tell("first", 0.1)
    time.sleep(60)


def run(**jobs):
    return side_by_side(jobs, STAGES, Console(stderr=True))


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    assert multiprocessing.active_children() == []


def test_results_by_name_and_a_line_a_stage(capfd):
    assert run(one=partial(works, "first", 1), two=partial(works, "second", "x")) == {"one": 1, "two": "x"}
    said = capfd.readouterr().err
    assert "the first stage: made 1" in said and "the second stage: made x" in said and "not seen" not in said


@pytest.mark.parametrize(
    ("job", "error", "sentence"),
    [(refuses, SurefootError, "this cannot be."), (crashes, RuntimeError, "ZeroDivisionError"), (dies, RuntimeError, "ended with code 7")],
)
def test_an_error_ends_the_others(job, error, sentence):
    start = time.monotonic()
    with pytest.raises(error, match=sentence):
        run(one=waits, two=job)
    assert time.monotonic() - start < 50  # not the minute that the other would have waited


def test_interrupts_end_all():
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(one=waits, two=waits)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_shows_all_stages_from_the_start():
    screen = io.StringIO()
    with _Display(STAGES, Console(file=screen, force_terminal=True, width=100)) as display:
        display.show("first", 0.5, "half [of it]")
        display.progress.refresh()
        said = screen.getvalue()
        assert "the first stage" in said and "half [of it]" in said
        assert re.search(r"·.*the second stage", said)  # not begun
        display.show("first", 1.0, "made")
    assert re.search(r"✓.*the first stage", screen.getvalue())
