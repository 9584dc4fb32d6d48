"""Trains by the command line in processes that die at random moments, and resumes until the run is complete; see test_killed.py.

`python killed.py FOLDER LIVES SEED ARGUMENT…` makes FOLDER/whole without interruption, then FOLDER/killed in LIVES lives that each end
by SIGKILL at a random one of the moments below, and a last one that may finish. Lives are forked, so each costs only what it computes.
"""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # what every life needs is loaded once, before they are forked

import surefoot.cli.train  # noqa: F401
from surefoot.cli import main
from surefoot.evaluation import report
from surefoot.methods.registry import learner
from surefoot.training import checkpoint

report.report_for_runs = lambda runs, page: page  # seconds of drawing that say nothing about resuming


def life(argv: list[str], die_at: int | None, told: Path) -> tuple[int, int]:
    """One process that trains, and kills itself at moment `die_at`. Returns its wait status and the moments it lived through.

    Moments: each update of the method, each call that makes, syncs, renames or removes files, and the middle of writing tensors.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with told.open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        moments = 0

        def moment() -> None:
            nonlocal moments
            moments += 1
            if moments == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(function):
            def call(*args, **kwargs):
                moment()
                return function(*args, **kwargs)

            return call

        write = checkpoint.save_file

        def torn(tensors, path):
            write(tensors, path)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            moment()
            path.write_bytes(whole)

        os.replace, os.fsync, os.mkdir, shutil.rmtree = map(watched, (os.replace, os.fsync, os.mkdir, shutil.rmtree))
        checkpoint.save_file = torn
        method = learner(argv[1]) if argv[1] != "--resume" else learner(json.loads((Path(argv[2]) / "config.json").read_text())["method"])
        method.update = watched(method.update)
        code = main(argv)
        os.write(writer, str(moments).encode())
        os._exit(code)
    os.close(writer)
    lived = os.read(reader, 100)
    os.close(reader)
    return os.waitpid(child, 0)[1], int(lived or 0)


def run(folder: Path, lives: int, seed: int, arguments: list[str]) -> dict[str, object]:
    told, killed = folder / "told", folder / "killed"
    status, moments = life(["train", *arguments, "--out", str(folder / "whole")], None, told)
    assert status == 0, told.read_text()
    resume = ["train", "--resume", str(killed), "--no-progress"]
    rng, deaths, steps = random.Random(seed), 0, []
    for i in range(lives + 1):
        if not (killed / "config.json").exists():
            shutil.rmtree(killed, ignore_errors=True)  # killed before it was a run
            argv = ["train", *arguments, "--out", str(killed)]
        else:
            argv = resume
        status, _ = life(argv, rng.randint(1, max(1, 2 * moments // lives)) if i < lives else None, told)
        deaths += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        metrics = killed / "metrics.jsonl"
        steps.append(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
    assert status == 0, told.read_text()
    return {"moments": moments, "deaths": deaths, "rows after each life": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))
