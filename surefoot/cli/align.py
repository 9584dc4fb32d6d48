"""`surefoot align METHOD --model MODEL --data FILE`: learn from preferences, scores or rewards, save the model, report in a run folder."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from surefoot.cli.evaluate import number
from surefoot.cli.stages import ResumeTo
from surefoot.errors import CheckpointError, ConfigError, DivergedError, SurefootError, UnknownNameError
from surefoot.training.run import Run, check_free

BESIDE = {"select": "surefoot.cli.align_select"}
"""Words after align that are no method."""


def usage() -> str:
    """The text of `surefoot align --help`."""
    from surefoot.methods.language.registry import METHODS

    methods = "\n".join(f"  {name:<23} {method.about}" for name, method in METHODS.items())
    return (
        "usage: surefoot align METHOD --model MODEL --data DATA [options]    (surefoot align METHOD --help lists them)\n"
        "       surefoot align --resume DIR\n"
        "       surefoot align select ...                  (the most effective filter of PF-PPO, by its R^2)\n"
        "       accelerate launch -m surefoot align ...    (several processes)\n\n"
        "Align a language model of Hugging Face's format, whole or with a LoRA adapter (--lora). The result, RUN/policy, is an ordinary\n"
        "save_pretrained folder.\n\n"
        f"{methods}\n\n"
        "data (JSON lines, Parquet, a folder of them, a saved data set, OWNER/NAME on the Hugging Face Hub):\n"
        "  prompt, chosen, rejected    dpo, cdpo, ipo, slic, rdpo, rpo, reward-model; sft and dr-po learn from the chosen\n"
        "  prompt, completion, score   copg, rwr, best-of-n; sft\n"
        "  prompt, and a --reward      copg, rwr, best-of-n, inpo (or a --preference), ppo, pf-ppo, dr-po, on-policy-preferences\n\n"
        "examples:\n"
        "  surefoot align rdpo --model my-model --data prefs.jsonl --flip-rate 0.2 --lora --lr 1e-4 --out runs/rdpo\n"
        "  surefoot align copg --model my-model --data prompts.jsonl --reward my_reward.py:score\n"
        "  surefoot align --resume runs/rdpo\n"
    )


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] in BESIDE:
        with quiet():
            return int(import_module(BESIDE[argv[0]]).main(argv[1:]))
    resuming = any(word == "--resume" or word.startswith("--resume=") for word in argv)
    _check_method(argv[0], resuming)
    from surefoot.training.processes import leads, leave

    with quiet():
        try:
            return _resumed(argv) if resuming else _begun(argv)
        except SurefootError:
            if leads():
                raise
            return 2  # the process that writes says it
        finally:
            leave()


def _check_method(name: str, resuming: bool) -> None:
    from surefoot.methods.language.registry import METHODS

    if name.startswith("-") and not resuming:
        raise ConfigError(f"the first word after align must be a method ({', '.join(METHODS)}), or --resume DIR.")
    if not name.startswith("-") and name not in METHODS:
        raise UnknownNameError("method", name, {*METHODS, *BESIDE})


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and advice of transformers: what a user must know, this command says itself."""
    from surefoot.envs.classifiers import quiet as without_bars
    from surefoot.envs.classifiers import transformers_or_say

    with without_bars(transformers_or_say()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")  # what they will rename
        yield


# --- a run ------------------------------------------------------------------------------------------------------------


class Alignment:
    """One run folder and the parts that its settings stand for."""

    def __init__(self, run: Run, asked: Any, parts: Any, accelerator: Any, console: Console):
        self.run, self.asked, self.parts, self.accelerator, self.console = run, asked, parts, accelerator, console

    def train(self) -> dict[str, Any]:
        """Train to the end and save; returns the result, which is in `result.json` too."""
        from surefoot.cli.align_parts import save
        from surefoot.training.fit import fit

        asked, parts, options = self.asked, self.parts, self.asked.options
        last = fit(
            parts.learner,
            parts.source,
            parts.steps,
            run=self.run,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            progress=not options.no_progress and self.leads,
        )
        self.run.close()
        save(parts.learner, self.run.folder / "policy", merge=options.merge, writes=self.leads)
        notes = [*parts.notes, *self.run.config.get("drift", [])]
        metrics = {name: values[0] for name, values in last.items()}
        result: dict[str, Any] = {name: self.run.config[name] for name in ("method", "env", "data", "steps", "seeds", "model")}
        result |= {"wall_s": round(self.run.seconds, 1), "last": None, "best": None, "offline": None, "weighting": None}
        result |= {"warnings": notes, "metrics": metrics, "policy": str(self.run.folder / "policy"), "rows": len(parts.texts)}
        result["adapter"] = asked.adapter.lora and not options.merge
        self.run.result(result)
        return result

    @property
    def leads(self) -> bool:
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    def introduce(self) -> None:
        """One line about what is about to happen."""
        parts, options = self.parts, self.asked.options
        trained = sum(p.numel() for group in parts.learner.optimiser.param_groups for p in group["params"])
        rows = f"{len(parts.texts):,} rows of {options.data}"
        line = f"{self.asked.name} · {options.model}, {trained:,} weights to train · {rows} · {parts.steps:,} updates → {self.run.folder}"
        if self.leads:
            self.console.print(line, highlight=False, soft_wrap=True)
            for note in parts.notes:
                self.console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _begun(argv: Sequence[str]) -> int:
    """A new run; its folder is made last, so that nothing is left behind by settings or data that do not fit."""
    from surefoot.cli.align_parts import build
    from surefoot.cli.align_settings import parse
    from surefoot.training.processes import Following, accelerator_of

    asked = parse(argv[0], argv[1:])
    accelerator, console = accelerator_of(asked.options.device), Console(stderr=True)
    out = asked.options.out or Path(_of_first(f"runs/{asked.name}-{time.strftime('%Y%m%d-%H%M%S')}", accelerator))
    check_free(out)
    parts = build(asked, accelerator, console.print)
    config = {
        "method": asked.name,
        "model": asked.options.model,
        "reference": asked.options.reference,
        "reward": asked.reward.reward,
        "env": None,
        "data": asked.options.data,
        "seed": asked.options.seed,
        "steps": parts.steps,
        "seeds": 1,
        "command": shlex.join(["surefoot", "align", *argv]),
        "fingerprint": parts.texts.fingerprint,
        **asked.to_json(),
    }
    if accelerator is None:
        run = Run.create(out, config)
    else:
        accelerator.wait_for_everyone()  # all have seen that the folder is free
        if accelerator.is_main_process:
            run = Run.create(out, config)
        accelerator.wait_for_everyone()
        run = run if accelerator.is_main_process else Following.open(out)
    alignment = Alignment(run, asked, parts, accelerator, console)
    alignment.introduce()
    try:
        return _report(alignment, alignment.train())
    except (DivergedError, CheckpointError):
        raise
    except SurefootError:  # a reward that failed at once, for example
        if run.saved_step is None and alignment.leads:
            run.close()
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def _resumed(argv: Sequence[str]) -> int:
    """`align --resume DIR`, or `align METHOD --resume DIR` for the method that the run has."""
    from surefoot.cli.align_parts import build
    from surefoot.cli.align_settings import FLAGS, Asked
    from surefoot.training.processes import Following, accelerator_of

    name = None if argv[0].startswith("-") else argv[0]
    words = list(argv if name is None else argv[1:])
    told = tyro.cli(ResumeTo, args=words, prog="surefoot align", description=ResumeTo.__doc__, config=FLAGS)
    run = Run.open(told.resume)
    if "model" not in run.config:
        raise ConfigError(f"{run.folder} is no run of `surefoot align`: {run.continued_by}.")
    if name not in (None, run.config["method"]):
        raise ConfigError(f"{run.folder} is a run of {run.config['method']}, not of {name}: leave the method out.")
    asked = Asked.from_json(run.config, str(run.folder / "config.json"))
    asked = replace(asked, options=replace(asked.options, out=run.folder, no_progress=told.no_progress, json=told.json))
    accelerator, console = accelerator_of(asked.options.device), Console(stderr=True)
    done = run.finished()
    if done is not None and told.steps in (None, done["steps"]):
        return _report(Alignment(run, asked, None, accelerator, console), done)
    parts = build(asked, accelerator, console.print)
    if parts.texts.fingerprint != run.config.get("fingerprint"):
        raise CheckpointError(
            f"{asked.options.data} does not hold what it held when {run.folder} was started (its fingerprint has changed): "
            "resume with the data as they were, or start a new run."
        )
    if accelerator is not None and not accelerator.is_main_process:
        run = Following.open(run.folder)
    if told.steps is not None:
        parts = replace(parts, steps=_until(run, told.steps))
    run.configure(steps=parts.steps, drift=[f"{change}: the run went on, but not bit for bit" for change in run.drift()])
    alignment = Alignment(run, asked, parts, accelerator, console)
    alignment.introduce()
    return _report(alignment, alignment.train())


def _until(run: Run, steps: int) -> int:
    """The step to train to. Raises ConfigError if the run is beyond it."""
    run.load()
    if steps < max(1, run.saved_step or 0):
        raise ConfigError(f"{run.folder} is at step {run.saved_step or 0} already: --steps {steps} lies behind it.")
    return steps


def _of_first(value: str, accelerator: Any) -> str:
    """What the first process says, in all of them."""
    if accelerator is None:
        return value
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([value])[0])


# --- what is told -----------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> Table:
    """The last metrics, for a terminal."""
    found = Table(title=f"{result['method']}, after {result['steps']:,} updates", title_justify="left", show_header=False)
    for name, value in result["metrics"].items():
        found.add_row(name, number(value))
    return found


def _report(alignment: Alignment, result: dict[str, Any]) -> int:
    """The result as a table, what can be done with it, and JSON where it was asked for."""
    if not alignment.leads:
        return 0
    folder, options = alignment.run.folder, alignment.asked.options
    alignment.console.print(table(result))
    reward = alignment.run.config.get("reward")
    asked = f" --reward {reward}" if reward else ""
    compare = f"surefoot compare {folder} --prompts HELD_OUT{asked}"
    use = f"surefoot align ppo --reward {folder / 'policy'} ..." if result["method"] == "reward-model" else compare
    alignment.console.print(f"model   {folder / 'policy'}\nnext    {use}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps(result, indent=2))
    return 0
