"""`surefoot bandit simulate|replay`: the production loop of a contextual bandit where the truth is known, or along a log of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tyro

from surefoot.cli.bandit_replay import Replay, replayed
from surefoot.cli.bandit_simulate import Simulate, simulated
from surefoot.cli.evaluate import finite
from surefoot.errors import UnknownNameError

COMMANDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {"simulate": (Simulate, simulated), "replay": (Replay, replayed)}


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<9} {(options.__doc__ or '').splitlines()[0]}" for name, (options, _) in COMMANDS.items())
        print(f"usage: surefoot bandit COMMAND [options]    (surefoot bandit COMMAND --help for the options of a command)\n\n{rows}")
        return 0
    if argv[0] not in COMMANDS:
        raise UnknownNameError("bandit command", argv[0], COMMANDS)
    kind, command = COMMANDS[argv[0]]
    options: Any = tyro.cli(kind, args=argv[1:], prog=f"surefoot bandit {argv[0]}", description=kind.__doc__)
    result = command(options)
    if options.json:
        print(json.dumps(finite({"command": " ".join(["surefoot", "bandit", *argv])} | result), indent=2))
    return 0
