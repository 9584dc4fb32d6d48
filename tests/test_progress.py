"""The bar of long computations: silent at first, and never in the way of the items."""

import io

from rich.console import Console

from surefoot import progress


def terminal() -> tuple[io.StringIO, Console]:
    screen = io.StringIO()
    return screen, Console(file=screen, force_terminal=True, width=80)


def test_the_items_pass_in_order_and_quick_work_shows_nothing():
    screen, console = terminal()
    assert list(progress.watched(range(5), "episodes", console)) == [0, 1, 2, 3, 4]
    assert screen.getvalue() == ""


def test_long_work_shows_what_is_going_on(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    screen, console = terminal()
    assert list(progress.watched("abc", "episodes", console)) == ["a", "b", "c"]
    assert "episodes" in screen.getvalue() and "/3" in screen.getvalue()


def test_without_a_terminal_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    screen = io.StringIO()
    assert list(progress.watched(range(3), "episodes", Console(file=screen))) == [0, 1, 2]
    assert screen.getvalue() == ""


def test_the_bar_ends_when_the_loop_is_left(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    screen, console = terminal()
    for item in progress.watched(range(100), "episodes", console):
        if item == 2:
            break
    console.print("after")
    assert screen.getvalue().rstrip().endswith("after")
