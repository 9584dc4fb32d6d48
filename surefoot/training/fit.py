"""The training loop, `for batch in source: method.update(batch)`, with what a long run needs around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from surefoot.errors import CheckpointError, ConfigError, DivergedError
from surefoot.methods.base import Learner
from surefoot.training.interrupts import Interrupts
from surefoot.training.progress import TrainingProgress
from surefoot.training.run import Run

Row = dict[str, float | list[float]]
"""Metrics as numbers; of a fleet lists with one entry a member."""


class Callback(Protocol):
    """Called each time `every` more steps are done (0: never); training ends early once it returns True.

    If it has `state_dict` and `load_state_dict` it is part of the checkpoint.
    """

    every: int

    def __call__(self, step: int, method: Any, run: Run | None) -> bool | None: ...


def fit(
    method: Learner,
    source: Iterable[Any],
    steps: int,
    *,
    run: Run | None = None,
    callbacks: Sequence[Callback] = (),
    log_every: int = 1000,
    checkpoint_every: int = 10_000,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Train until `method.steps` reaches `steps`; returns the last value of each metric, one a member.

    What a step is the method says: an update, or for on-policy methods an environment step, many of which are one update. Metrics
    are read, and the device waited for, only every `log_every` steps and at the end; of a metric that some steps lack (a delayed
    actor's) the last value counts. With a `run` they are logged there, and `method`, `source` and callbacks are saved every
    `checkpoint_every` steps and at the end. A method that has not begun is first brought to where its run was saved, and goes on
    from there as if it had never been stopped.

    Ctrl-C and SIGTERM: the step is finished and saved, then KeyboardInterrupt says how to go on. Raises DivergedError when a
    metric or a weight is not finite (never saved; the last good checkpoint stays), CheckpointError if the run does not fit
    the method or cannot be written, ConfigError if the source ends before `steps`.
    """
    for name, number, least in (("steps", steps, 0), ("log_every", log_every, 1), ("checkpoint_every", checkpoint_every, 1)):
        if number < least:
            raise ConfigError(f"{name} is {number}: it must be at least {least}.")
    latest: dict[str, Tensor] = {}
    parts: dict[str, Any] = {"method": method, "source": source, **{f"callback_{i}": each for i, each in enumerate(callbacks)}}
    if run is not None and method.steps == 0:
        latest = _restore(run, parts)
        run.rewind(method.steps)
    try:
        with Interrupts() as interrupts, TrainingProgress(method.steps, steps, progress) as bar:
            batches = iter(source)
            while method.steps < steps:
                before, batch = method.steps, next(batches, None)
                if batch is None:
                    raise ConfigError(f"the source ended after {method.steps} steps, but {steps} were asked for: give it more.")
                latest |= method.update(batch)
                step = method.steps
                stopping = method.agreed(interrupts.asked)  # looked at once, so that what follows agrees
                if _due(log_every, before, step) or step >= steps:
                    row = numbers(latest)
                    check_metrics(row, step)
                    row |= _seen(source)
                    bar.metrics(row)
                    if run is not None:
                        run.log(step, row)
                due = [each for each in callbacks if each.every and _due(each.every, before, step)]
                saving = run is not None and (_due(checkpoint_every, before, step) or step >= steps or stopping)
                if due or saving:
                    check_metrics(numbers(latest), step)
                    check_weights(method, step)
                enough = True in [each(step, method, run) for each in due]
                if run is not None and (saving or enough):
                    run.save(step, {"latest": latest, **{name: part.state_dict() for name, part in parts.items() if _has_state(part)}})
                bar.step(step)
                if stopping:
                    raise KeyboardInterrupt(_stopped(step, run))
                if enough:
                    break
    except DivergedError as error:
        raise DivergedError(_diverged(error, run)) from None
    return {name: value if isinstance(value, list) else [value] for name, value in numbers(latest).items()}


def _due(every: int, before: int, step: int) -> bool:
    """Whether a multiple of `every` lies among the steps of the last update."""
    return step // every > before // every


def _has_state(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _restore(run: Run, parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Bring all parts to where the run was saved; returns the last metrics then (none if nothing was saved yet)."""
    state = run.load()
    if state is None:
        return {}
    for name, part in parts.items():
        if _has_state(part):
            try:
                part.load_state_dict(state[name])
                if missing := sorted(state[name].keys() ^ part.state_dict().keys()):
                    raise KeyError(missing[0])
            except (KeyError, ValueError, RuntimeError, AttributeError) as error:
                raise CheckpointError(
                    f"the checkpoint of {run.folder} does not fit the {type(part).__name__} it is given ({str(error).splitlines()[0]}): "
                    "resume with the parts and settings it was started with."
                ) from error
    return state["latest"]


def numbers(metrics: Mapping[str, Tensor]) -> Row:
    """Metrics `[*copies]` as numbers; waits for the device."""
    return {name: torch.as_tensor(value).tolist() for name, value in metrics.items()}


def _seen(source: Any) -> Row:
    """What a source that steps an environment has to say about it."""
    return source.metrics() if hasattr(source, "metrics") else {}


def check_metrics(row: Row, step: int) -> None:
    """Raises DivergedError if a number is not finite."""
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        bad = [i for i, x in enumerate(values) if not isfinite(x)]
        if bad:
            whose = f" (member {', '.join(map(str, bad))})" if isinstance(value, list) else ""
            raise DivergedError(f"training diverged: at step {step} {name} is {values[bad[0]]}{whose}.")


def check_weights(method: Learner, step: int) -> None:
    """Raises DivergedError if a parameter of one of the method's networks is not finite."""
    for name, network in vars(method).items():
        if isinstance(network, nn.Module) and not all(bool(p.isfinite().all()) for p in network.parameters()):
            raise DivergedError(f"training diverged: at step {step} a weight of {name} is not finite.")


def _diverged(error: DivergedError, run: Run | None) -> str:
    """The sentence with what is left, and what to do."""
    advice = "start again with a smaller learning rate or smaller rewards."
    if run is None:
        return f"{str(error).rstrip('.')}; {advice}"
    if run.saved_step is None:
        return f"{str(error).rstrip('.')}; nothing had been saved in {run.folder} yet: {advice}"
    use = f" (`{run.resumed_by} --steps {run.saved_step}` makes a policy of it)" if "command" in run.config else ""
    return f"{str(error).rstrip('.')}; {run.folder / 'checkpoint'} keeps step {run.saved_step}, from before{use}: {advice}"


def _stopped(step: int, run: Run | None) -> str:
    return f"stopped after step {step}; " + ("call fit again to go on." if run is None else f"saved: {run.continued_by}.")
