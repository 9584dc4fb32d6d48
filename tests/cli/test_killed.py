"""A run that is killed again and again, in the middle of writing a checkpoint too, ends as one that was never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = {
    "td3_bc": "--data pendulum-mixed --weighting aw --seeds 2 --steps 150 --checkpoint-every 5 --eval-every 40 --max-steps 20 "
    "--batch-size 8",
    "dqn": "--env CartPole-v1 --seeds 2 --steps 150 --checkpoint-every 7 --eval-every 50 --max-steps 30 --frame-stack 2 --noise 0.05 "
    "--buffer-size 120 --warmup 40 --env-steps 6 --updates 4 --n-envs 2 --batch-size 8",
    "sac": "--env Pendulum-v1 --data pendulum-mixed --steps 60 --checkpoint-every 3 --eval-every 0 --max-steps 30 "
    "--buffer-size 60 --warmup 20 --batch-size 8",
    "ppo": "--env CartPole-v1 --seeds 2 --steps 1400 --checkpoint-every 30 --eval-every 300 --max-steps 30 --n-steps 8 --n-envs 2 "
    "--minibatch 8 --epochs 1 --anneal 1000",
}
SMALL = "--hidden 8 8 --eval-episodes 1 --episodes 2 --log-every 3"


def files(run: Path) -> dict[str, bytes]:
    """What must be equal: all that was learned, measured and logged."""
    names = ["metrics.jsonl", "policy/policy.safetensors", "policy/policy.json", "checkpoint/tensors.safetensors"]
    if (run / "policy_best").exists():
        names.append("policy_best/policy.safetensors")
    return {name: (run / name).read_bytes() for name in names}


def result(run: Path) -> dict[str, object]:
    return {name: value for name, value in json.loads((run / "result.json").read_text()).items() if name != "wall_s"}


@pytest.mark.parametrize("method", RUNS)
def test_a_killed_run_ends_as_if_it_had_not_been(method, tmp_path):
    script = Path(__file__).with_name("killed.py")
    argv = [sys.executable, script, tmp_path, "10", "1", method, *RUNS[method].split(), *SMALL.split()]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    assert about["deaths"] >= 5, about
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert files(whole) == files(killed), about
    assert result(whole) == result(killed)
    left = sorted(p.name for p in killed.iterdir() if p.name.startswith("."))
    assert left == [".lock"], "temporary files of a killed process stay behind"
