"""The loop around `update`: what is logged and when, stopping and going on, divergence, sources of all kinds."""

import json
import os
import signal
import threading

import pytest
import torch

from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Spec
from surefoot.errors import CheckpointError, ConfigError, DivergedError
from surefoot.methods.base import Method
from surefoot.methods.offline.bc import BC, BCConfig
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.policies.families import Deterministic
from surefoot.recipes.pendulum import mixed_log
from surefoot.training.fit import fit
from surefoot.training.run import Run

LOG = mixed_log(0, good=1, random=1)
NAN = float("nan")


def td3_bc(copies=(2,), seed=0):
    method = TD3BC(LOG.spec(), TD3BCConfig(hidden=(8, 8)), copies=copies, seed=seed)
    return method, Logged(LOG, 16, copies=copies, seed=seed)


def state(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


class Stub(Method):
    """Returns what it is told at each step; the weight of its one network is the number of steps."""

    def __init__(self, metrics=None, weights=None):
        super().__init__(Spec((1,), Continuous((-1.0,), (1.0,))), None)
        self.policy = Deterministic(self.spec, (1,))
        self.script, self.weights = metrics or {}, weights or {}

    def update(self, batch):
        self.steps += 1
        with torch.no_grad():
            for p in self.policy.parameters():
                p.fill_(self.weights.get(self.steps, float(self.steps)))
        return {name: torch.tensor(values[self.steps]) for name, values in self.script.items() if self.steps in values}


class Counting:
    """A source whose only state is how many batches it has given."""

    def __init__(self, n=10**9):
        self.given, self.n = 0, n

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.n:
            raise StopIteration
        self.given += 1
        return self.given

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, saved):
        self.given = saved["given"]


class Every:
    """A callback without state."""

    def __init__(self, every, action):
        self.every, self.action = every, action

    def __call__(self, step, method, run):
        return self.action(step)


def test_it_is_the_open_loop():
    method, source = td3_bc()
    last = fit(method, source, 23, progress=False)
    by_hand, batches = td3_bc()
    metrics = {}
    for _ in range(23):
        metrics |= by_hand.update(next(batches))
    assert equal(method.state_dict(), by_hand.state_dict())
    assert last == {name: value.tolist() for name, value in metrics.items()}
    lone, source = td3_bc(copies=())
    assert all(len(value) == 1 for value in fit(lone, source, 2, progress=False).values())


def test_it_goes_on_from_where_the_method_is():
    method, source = td3_bc()
    fit(method, source, 10, progress=False)
    fit(method, source, 30, progress=False)
    whole, batches = td3_bc()
    fit(whole, batches, 30, progress=False)
    assert equal(method.state_dict(), whole.state_dict())
    fit(method, source, 30, progress=False)
    assert method.steps == 30


def test_metrics_of_a_delayed_actor_are_logged_at_every_row(tmp_path):
    method, source = td3_bc()
    run = Run.create(tmp_path / "run", {})
    fit(method, source, 10, run=run, log_every=3, progress=False)
    assert [row["step"] for row in rows(run)] == [3, 6, 9, 10]
    assert all({"critic_loss", "actor_loss", "q_mean"} <= row.keys() for row in rows(run))
    assert all(len(row["actor_loss"]) == 2 for row in rows(run))


def test_metrics_are_read_only_when_they_are_logged(monkeypatch):
    """No host sync in between: `tolist` is where a device would be waited for."""
    reads = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(1) or real(self))
    fit(Stub({"loss": dict.fromkeys(range(1, 101), 0.5)}), Counting(), 100, log_every=25, progress=False)
    assert len(reads) == 4 + 1  # four rows, and what is returned


@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_a_run_that_goes_on_equals_one_that_was_not_stopped(stop, tmp_path):
    settings = {"log_every": 3, "checkpoint_every": 4, "progress": False}
    whole_run = Run.create(tmp_path / "whole", {})
    whole, source = td3_bc()
    fit(whole, source, 20, run=whole_run, **settings)

    run = Run.create(tmp_path / "run", {})
    method, source = td3_bc()
    with pytest.raises(ZeroDivisionError):
        fit(method, source, 20, run=run, callbacks=[Every(stop, lambda step: 1 / 0)], **settings)
    run.close()
    again, source = td3_bc(seed=1)  # other numbers, all of which are replaced
    run = Run.open(tmp_path / "run")
    if stop > 4:
        fit(again, source, 20, run=run, **settings)
        assert equal(again.state_dict(), whole.state_dict())
    else:  # nothing was saved: it begins again, and needs its own seed
        again, source = td3_bc()
        fit(again, source, 20, run=run, **settings)
    assert (run.folder / "metrics.jsonl").read_bytes() == (whole_run.folder / "metrics.jsonl").read_bytes()
    assert (run.folder / "checkpoint/tensors.safetensors").read_bytes() == (
        whole_run.folder / "checkpoint/tensors.safetensors"
    ).read_bytes()


def test_what_callbacks_know_is_saved_and_comes_back(tmp_path):
    class Remembers:
        every = 2

        def __init__(self):
            self.seen = []

        def __call__(self, step, method, run):
            self.seen.append(step)

        def state_dict(self):
            return {"seen": self.seen, "tensor": torch.tensor(self.seen)}

        def load_state_dict(self, saved):
            assert saved["tensor"].tolist() == saved["seen"]
            self.seen = saved["seen"]

    first, run = Remembers(), Run.create(tmp_path / "run", {})
    fit(Stub(), Counting(), 6, run=run, callbacks=[first, Every(0, None)], checkpoint_every=3, progress=False)
    assert first.seen == [2, 4, 6]
    second, method = Remembers(), Stub()
    fit(method, Counting(), 10, run=Run.open(run.folder), callbacks=[second], progress=False)
    assert second.seen == [2, 4, 6, 8, 10]
    with pytest.raises(CheckpointError, match="does not fit the Remembers"):
        fit(Stub(), Counting(), 12, run=Run.open(run.folder), callbacks=[second, Remembers()], progress=False)


def test_a_run_of_another_method_is_refused(tmp_path):
    run = Run.create(tmp_path / "run", {})
    method, source = td3_bc()
    fit(method, source, 3, run=run, progress=False)
    for other in (BC(LOG.spec(), BCConfig(hidden=(8, 8)), (2,)), TD3BC(LOG.spec(), TD3BCConfig(hidden=(4, 4)), (2,))):
        with pytest.raises(CheckpointError, match="does not fit"):
            fit(other, Logged(LOG, 16, copies=(2,)), 5, run=Run.open(run.folder), progress=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(number, tmp_path):
    before = signal.getsignal(number)
    run = Run.create(tmp_path / "run", {"command": "surefoot train"})
    method, source = td3_bc()
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d+; saved: go on with `surefoot train --resume .*run`") as caught:
        fit(method, source, 50, run=run, callbacks=[Every(7, lambda step: os.kill(os.getpid(), number))], progress=False)
    assert signal.getsignal(number) is before
    assert method.steps == run.saved_step in (7, 8)
    assert f"step {method.steps}" in str(caught.value)
    again, source = td3_bc()
    fit(again, source, 50, run=Run.open(run.folder), progress=False)
    whole, source = td3_bc()
    fit(whole, source, 50, progress=False)
    assert equal(again.state_dict(), whole.state_dict())


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def impatient(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass  # signals are handled between bytecodes
        pytest.fail("still here")

    run = Run.create(tmp_path / "run", {})
    with pytest.raises(KeyboardInterrupt):
        fit(Stub(), Counting(), 50, run=run, callbacks=[Every(3, impatient)], checkpoint_every=2, progress=False)
    assert run.saved_step == 2


def test_without_a_run_ctrl_c_leaves_the_method_whole():
    method, source = td3_bc()
    with pytest.raises(KeyboardInterrupt, match="call fit again"):
        fit(method, source, 50, callbacks=[Every(7, lambda step: os.kill(os.getpid(), signal.SIGINT))], progress=False)
    fit(method, source, 50, progress=False)
    whole, source = td3_bc()
    fit(whole, source, 50, progress=False)
    assert equal(method.state_dict(), whole.state_dict())


def test_it_runs_outside_the_main_thread():
    method, source = td3_bc()
    thread = threading.Thread(target=fit, args=(method, source, 5), kwargs={"progress": False})
    thread.start()
    thread.join()
    assert method.steps == 5


def test_a_metric_that_is_not_finite_stops_and_the_last_good_checkpoint_stays(tmp_path):
    run = Run.create(tmp_path / "run", {"command": "surefoot train"})
    losses = {step: [0.5, 0.5] if step < 8 else [0.5, NAN] for step in range(1, 30)}
    with pytest.raises(DivergedError) as caught:
        fit(Stub({"loss": losses}), Counting(), 30, run=run, log_every=5, checkpoint_every=3, progress=False)
    for words in ("at step 9 loss is nan (member 1)", "checkpoint keeps step 6", "--steps 6", "learning rate"):
        assert words in str(caught.value)
    assert Run.open(run.folder).load()["method"]["steps"] == 6
    assert [row["step"] for row in rows(run)] == [5]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(DivergedError, match=r"at step 6 a weight of policy is not finite.*keeps step 3"):
        fit(Stub({}, {6: float("inf")}), Counting(), 30, run=run, checkpoint_every=3, progress=False)
    with pytest.raises(DivergedError, match="nothing had been saved"):
        fit(Stub({"loss": {1: NAN}}), Counting(), 1, run=Run.create(tmp_path / "other", {}), progress=False)
    with pytest.raises(DivergedError, match="training diverged: at step 2 loss is inf; start again"):
        fit(Stub({"loss": {2: float("inf")}}), Counting(), 2, progress=False)


def test_a_log_with_huge_rewards_diverges_with_a_sentence(tmp_path):
    t = LOG.transitions
    huge = LOG.from_arrays(
        t.obs.numpy(),
        t.action.numpy(),
        t.reward.numpy() * 1e25,
        t.next_obs.numpy(),
        t.terminated.numpy(),
        LOG.ends,
        action_space=LOG.action,
    )
    method = TD3BC(huge.spec(), TD3BCConfig(hidden=(8, 8), critic_lr=1.0))
    with pytest.raises(DivergedError, match=r"critic_loss is (inf|nan)"):
        fit(method, Logged(huge, 16), 200, run=Run.create(tmp_path / "run", {}), log_every=10, progress=False)


def test_a_callback_may_say_that_it_is_enough(tmp_path):
    method, run = Stub(), Run.create(tmp_path / "run", {})
    fit(method, Counting(), 50, run=run, callbacks=[Every(4, lambda step: step == 8), Every(1, lambda step: None)], progress=False)
    assert method.steps == run.saved_step == 8


def test_what_a_source_reports_is_logged_beside_the_metrics(tmp_path):
    class Acting(Counting):
        def metrics(self):
            return {"train/return": [float(self.given)]}

    run = Run.create(tmp_path / "run", {})
    fit(Stub({"loss": {2: 1.0}}), Acting(), 4, run=run, log_every=2, progress=False)
    assert rows(run) == [{"step": 2, "loss": 1.0, "train/return": 2.0}, {"step": 4, "loss": 1.0, "train/return": 4.0}]


def test_numbers_outside_their_range_and_a_source_that_ends():
    for wrong in ({"steps": -1}, {"steps": 3, "log_every": 0}, {"steps": 3, "checkpoint_every": 0}):
        with pytest.raises(ConfigError, match="must be at least"):
            fit(Stub(), Counting(), **wrong, progress=False)
    with pytest.raises(ConfigError, match="ended after 3 steps, but 5"):
        fit(Stub(), Counting(3), 5, progress=False)
    source = Counting(5)
    fit(Stub(), source, 5, progress=False)  # no batch more than there are steps


def test_progress_is_a_line_on_stderr_where_there_is_no_terminal(capsys):
    fit(Stub({"loss": {4: 0.25}}), Counting(), 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "step 4 of 4" in err
    assert "loss 0.25" in err
    fit(Stub(), Counting(), 4, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    fit(Stub({"loss": {4: [0.25, 0.75]}}), Counting(), 4, log_every=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err
    assert "loss 0.5" in err
