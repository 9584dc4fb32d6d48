"""`surefoot VERB …`: one module a verb, loaded only when it is asked for, so that help and errors come at once."""

from __future__ import annotations

import sys
from importlib import import_module

from surefoot.errors import SurefootError, UnknownNameError

VERBS = {
    "demo": "the whole path in four minutes: log, policies, certificate, attack, report",
    "methods": "what is implemented, and what each method learns from",
    "data": "inspect, convert, collect or make a log",
    "train": "learn a policy from a log or in an environment",
    "align": "align a language model on preferences, scores or rewards",
    "evaluate": "returns of policies, with confidence intervals",
    "compare": "policies against each other, with tests",
    "certify": "a lower bound on the return under observation attacks",
    "attack": "the return under a real attack",
    "stress": "the return over a set of physical parameters, and the worst of it",
    "diagnose": "the directions in which a policy's decisions are least stable",
    "bandit": "contextual bandits: simulate the production loop, or replay a log",
    "reproduce": "run a paper's headline claim against its baseline",
    "report": "one HTML file about one or more runs",
}


def usage() -> str:
    """The text of `surefoot --help`."""
    verbs = "\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items())
    return (
        "usage: surefoot VERB [options]    (surefoot VERB --help for the options of a verb)\n\n"
        "Learn a policy from whatever you have, and know how far you can trust it.\n\n"
        f"{verbs}\n\n  --version  print the version\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 2 misuse, 3 a claim that does not hold, 130 interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from surefoot import __version__

        print(f"surefoot {__version__}")
        return 0
    try:
        if argv[0] not in VERBS:
            raise UnknownNameError("command", argv[0], VERBS)
        return import_module(f"surefoot.cli.{argv[0]}").main(argv[1:])
    except SurefootError as error:
        print(f"surefoot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nsurefoot: {str(stop) or 'stopped.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `surefoot methods | head`
        sys.stderr.close()
        return 0
