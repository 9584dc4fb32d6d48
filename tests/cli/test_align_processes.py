"""`surefoot align` in two processes: the weights that one process would have made, one writer, and a run that goes on."""

import json
import os
import socket
from multiprocessing import get_context
from shlex import split as words_of

import pytest
import torch
from safetensors.torch import load_file

import surefoot.training.processes
from surefoot.cli import main
from surefoot.training.processes import Following
from surefoot.training.run import Run
from tests.cli.test_align import PACE, RUNS, here  # noqa: F401 (a fixture: the model and data)

torch.set_num_threads(1)

MICRO = words_of("--micro-tokens 24")  # several forward passes an update


def processes(*arguments, die_at=None, spread=False):
    """Run the command in two processes that know each other by gloo, as torchrun would start them; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")  # what was imported need not be imported again
    started = [context.Process(target=_one, args=(rank, port, arguments, die_at, spread)) for rank in range(2)]
    for each in started:
        each.start()
    for each in started:
        each.join(120)
    return [each.exitcode for each in started]


def spreading(device):
    """As `accelerator_of`, with weights that are spread over the processes; of itself Accelerate does so on GPUs alone."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, DistributedType

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    return accelerator


def _one(rank, port, arguments, die_at, spread):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ.update(address | {"ACCELERATE_USE_CPU": "true"})
    if spread:
        surefoot.training.processes.accelerator_of = spreading
    if die_at is not None:
        from surefoot.methods.language.aligner import Aligner

        descend = Aligner.descend

        def dies(self, parts, loss):
            if self.steps >= die_at:
                os._exit(9)
            return descend(self, parts, loss)

        Aligner.descend = dies
    os._exit(main(["align", *arguments]))


def policy(run):
    return {k: v for file in sorted(run.glob("policy/*.safetensors")) for k, v in load_file(file).items()}


def alike(a, b):
    """Equal up to rounding, but for the bias of GPT-2's keys: its gradient is nothing but rounding, which Adam makes large."""
    assert a.keys() == b.keys()
    for name, x in a.items():
        apart = (x - b[name]).abs() - 1e-3 * x.abs()
        if name.endswith("c_attn.bias"):
            apart = torch.cat([apart.chunk(3)[0], apart.chunk(3)[2]])
        assert apart.max() < 1e-5, name


SLOW = pytest.mark.slow  # not by itself, but processes that wait for each other take long on a busy machine


@pytest.mark.parametrize("name", ["dpo", "dpo --lora", pytest.param("on-policy-preferences", marks=SLOW), pytest.param("ppo", marks=SLOW)])
def test_two_processes_learn_what_one_learns(name, tmp_path):
    method, *more = words_of(name)
    arguments = [*RUNS[method], *PACE, *MICRO, *more]
    assert processes(method, *arguments, "--out", "two") == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == json.loads((tmp_path / "two" / "result.json").read_text())["steps"]
    if method == "dpo":  # what draws completions shares the drawing, from seeds of its own: another run, as good
        assert main(["align", method, *arguments, "--out", "one"]) == 0
        alike(policy(tmp_path / "one"), policy(tmp_path / "two"))
        alone = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
        for one, two in zip(alone, rows, strict=True):
            assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["dpo", pytest.param("on-policy-preferences", marks=SLOW)])
def test_two_killed_processes_go_on_bit_for_bit(name, tmp_path):
    arguments = [*RUNS[name], *PACE, *MICRO]
    assert processes(name, *arguments, "--out", "whole") == [0, 0]
    assert processes(name, *arguments, "--out", "killed", die_at=3) == [9, 9]
    assert processes("--resume", "killed", "--no-progress") == [0, 0]
    whole, killed = policy(tmp_path / "whole"), policy(tmp_path / "killed")
    assert whole.keys() == killed.keys() and all(torch.equal(whole[k], killed[k]) for k in whole)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "dpo --lora", "on-policy-preferences", "reward-model"])
def test_weights_can_be_spread_over_processes(name, tmp_path, capfd):
    method, *more = words_of(name)
    arguments = [*RUNS[method], *PACE, *MICRO, *more]
    if method == "on-policy-preferences":  # each process draws all completions, as a lone one does
        assert main(["align", method, *arguments, "--out", "whole"]) == 0
    else:
        assert processes(method, *arguments, "--out", "whole") == [0, 0]
    assert processes(method, *arguments, "--out", "spread", spread=True) == [0, 0], capfd.readouterr().err
    alike(policy(tmp_path / "whole"), policy(tmp_path / "spread"))
    assert processes(method, *arguments, "--out", "killed", die_at=3, spread=True) == [9, 9]
    assert processes("--resume", "killed", "--no-progress", spread=True) == [0, 0], capfd.readouterr().err
    alike(policy(tmp_path / "spread"), policy(tmp_path / "killed"))


def test_what_spread_weights_do_not_serve_is_refused(tmp_path, capfd):
    assert processes("dpo", *RUNS["dpo"], "--lora", "--merge", "--out", "run", spread=True) == [2, 2]
    assert processes("ppo", *RUNS["ppo"], "--out", "run", spread=True) == [2, 2]
    told = capfd.readouterr().err
    assert "--merge needs whole weights" in told and "ppo needs policy and critic whole" in told and not (tmp_path / "run").exists()


def test_both_processes_refuse_what_does_not_fit(tmp_path, capfd):
    assert processes("rdpo", *RUNS["rdpo"], "--flip-rate", "0.5", "--out", "run") == [2, 2]
    assert capfd.readouterr().err.count("flip_rate is 0.5") == 1  # said once
    assert not (tmp_path / "run").exists()


def test_a_following_run_reads_and_writes_nothing(tmp_path):
    run = Run.create(tmp_path / "run", {"method": "dpo", "command": "surefoot align dpo"})
    run.save(3, {"x": torch.ones(2)})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    following = Following.open(tmp_path / "run")
    assert torch.equal(following.load()["x"], torch.ones(2)) and following.saved_step == 3
    following.log(4, {"loss": 1.0})
    following.rewind(0)
    following.save(5, {"x": torch.zeros(2)})
    following.configure(steps=7)
    following.result({})
    following.close()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
