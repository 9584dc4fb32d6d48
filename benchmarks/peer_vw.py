"""Vowpal Wabbit's side of the bandit benchmark, run by its own interpreter: `python benchmarks/peer_vw.py`.

Reads lines `MODE ACTIONS FEATURES EXAMPLES` and answers each with the CPU seconds it took. SquareCB, `--cb_explore_adf --squarecb`, with
weights for each action (`-q ua`), fed as its users do: `decide text` and `learn text` from lines of text, `decide parsed` and
`learn parsed` from examples that were parsed in advance.
"""

from __future__ import annotations

import sys
import time
from functools import lru_cache
from typing import Any

import numpy as np
import vowpalwabbit

OPTIONS = "--cb_explore_adf --squarecb -q ua --ignore_linear u --quiet"
LINES = 1024  # of all examples that are told apart, more are repeated: a parsed line takes hundreds of kilobytes


def lines(x: np.ndarray, actions: int, label: tuple[int, float] | None = None) -> list[str]:
    """One example: the context, then a line an action; the label is the action's cost and its propensity."""
    told = [f"0:{label[1]}:{1.0 / actions} " if label is not None and label[0] == a else "" for a in range(actions)]
    return ["shared |u " + " ".join(f"{i}:{value:.5f}" for i, value in enumerate(x)), *(f"{told[a]}|a {a}" for a in range(actions))]


@lru_cache(maxsize=1)
def setting(actions: int, features: int) -> tuple[Any, dict[str, list[Any]]]:
    """A model and its examples, by kind of work."""
    rng = np.random.default_rng(0)
    model = vowpalwabbit.Workspace(OPTIONS)
    contexts = rng.standard_normal((max(4, LINES // actions), features))
    labels = [(int(rng.integers(actions)), float(rng.random() < 0.5)) for _ in contexts]
    decide = [lines(x, actions) for x in contexts]
    learn = [lines(x, actions, label) for x, label in zip(contexts, labels, strict=True)]
    parsed = {f"{name} parsed": [model.parse(example) for example in examples] for name, examples in (("decide", decide), ("learn", learn))}
    return model, {"decide text": decide, "learn text": learn} | parsed


def main() -> None:
    print(vowpalwabbit.__version__, flush=True)
    for line in sys.stdin:
        verb, kind, actions, features, examples = line.split()
        model, work = setting(int(actions), int(features))
        act = model.predict if verb == "decide" else model.learn
        given = work[f"{verb} {kind}"]
        repeated = [given[i % len(given)] for i in range(int(examples))]
        start = time.process_time()
        for example in repeated:
            act(example)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
