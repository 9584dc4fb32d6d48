"""What README and docs show works: Python blocks run on small numbers, commands parse, links lead somewhere, examples run."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from surefoot.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)


def blocks(path: Path, language: str) -> list[str]:
    return [match["body"] for match in FENCE.finditer(path.read_text(encoding="utf-8")) if match["language"] == language]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands() -> Iterator[tuple[str, str]]:
    """Every `surefoot …` line of a shell block, and in running text."""
    for path in PAGES:
        for block in blocks(path, "bash"):
            yield from ((name_of(path), line) for line in block.splitlines() if line.startswith("surefoot "))
        prose = FENCE.sub("", path.read_text(encoding="utf-8"))
        yield from ((name_of(path), line) for line in re.findall(r"`(surefoot [a-z][^`<>]*)`", prose) if not re.search(r"[A-Z]{3}", line))


def smaller(code: str) -> str:
    """The same code with few steps and episodes."""
    code = re.sub(r"\b\d+_000\b", "10", code)
    return re.sub(r"(episodes=)\d+", r"\g<1>2", code)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the pages assume: a log of one's own, a trained run, a language model, texts, a Stable-Baselines3 agent."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_log(folder: Path) -> None:
    from surefoot.data.writers import write_log
    from surefoot.recipes.pendulum import mixed_log

    write_log(mixed_log(seed=0, good=1, random=1), folder / "my_log.npz")


def own_run(folder: Path) -> None:
    from surefoot.data.spec import Discrete, Spec
    from surefoot.policies.families import Categorical
    from surefoot.policies.saving import save_policy

    run = folder / "runs" / "my-run"
    save_policy(Categorical(Spec((4,), Discrete(2)), (16,), (2,)), run / "policy")
    (run / "config.json").write_text(json.dumps({"method": "dqn", "env": "CartPole-v1", "seeds": 2}))


def own_agent(folder: Path) -> None:
    from stable_baselines3 import DQN

    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(folder / "agent.zip")


def own_payments(folder: Path) -> None:
    from surefoot.data.bandit_files import write_bandit_log
    from surefoot.envs.bandits import Payments
    from surefoot.methods.exact.adyen_bandits import simulate
    from surefoot.methods.exact.exploration import Explorer
    from surefoot.methods.exact.regression_oracles import oracle

    run = simulate(Payments.drawn(0), Explorer("igw", gamma=50.0), oracle("ridge"), generations=2, batch=400, holdout=100)
    write_bandit_log(run.log, folder / "payments.parquet")


def own_stages(folder: Path) -> None:
    """A put that is held for 20 stages, its payoff at the end."""
    import numpy as np

    from surefoot.data.log import Log
    from surefoot.data.spec import Discrete
    from surefoot.data.writers import write_log
    from surefoot.envs.robust import put_prices

    prices = put_prices(40, 20, 0.5, np.random.default_rng(0))
    last = np.arange(20) == 19
    reward = np.where(last, np.maximum(100.0 - prices[:, 1:], 0.0), 0.0).reshape(-1)
    action = np.random.default_rng(1).integers(2, size=800)
    arrays = prices[:, :-1].reshape(-1, 1), action, reward, prices[:, 1:].reshape(-1, 1), np.tile(last, 40)
    write_log(Log.from_arrays(*arrays, action_space=Discrete(2)), folder / "my_stages.npz")


def own_series(folder: Path) -> None:
    import numpy as np

    from surefoot.envs.state_space import simulate
    from surefoot.envs.state_space_models import StochasticVolatility

    returns = simulate(StochasticVolatility(0.95, 0.3, 0.7), 30)[1].flatten().numpy()
    np.savetxt(folder / "my_series.csv", returns, header="return", comments="")


def own_model(folder: Path) -> None:
    from tests.tiny_language import saved_model

    saved_model(folder / "my-model")


def own_texts(name: str, *columns: str):
    """JSON lines with these columns: words that the model knows, six prompts of four rows."""

    def make(folder: Path) -> None:
        rows = [{column: f"w{3 * i + j}" for j, column in enumerate(columns)} | {"prompt": f"w{i} w9"} for i in range(6)]
        rows = [row | ({"completion": f"w{k}", "score": float(k)} if "score" in columns else {}) for row in rows for k in range(4)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return make


NEEDS = {
    "my-model": own_model,
    "my_pairs.jsonl": own_texts("my_pairs.jsonl", "prompt", "chosen", "rejected"),
    "my_scored.jsonl": own_texts("my_scored.jsonl", "prompt", "completion", "score"),
    "my_prompts.jsonl": own_texts("my_prompts.jsonl", "prompt"),
    "my_series.csv": own_series,
    "payments.parquet": own_payments,
    "my_stages.npz": own_stages,
    "my_log.npz": own_log,
    "runs/my-run": own_run,
    "agent.zip": own_agent,
}


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name_of)
def test_python_blocks_run(path, workplace):
    code = "\n".join(blocks(path, "python"))
    for name, make in NEEDS.items():
        if name in code:
            make(workplace)
    exec(compile(smaller(code), str(path), "exec"), {"__name__": "page"})


class ParsedError(Exception):
    """The command line was understood; nothing is run."""


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_parse(page, line, workplace, monkeypatch):
    real = tyro.cli

    def parse_only(*args, **kwargs):
        real(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_only)
    argv = shlex.split(line, comments=True)[1:]
    try:
        code = main(argv)
    except ParsedError:
        return
    except SystemExit as stopped:  # how tyro ends after --help
        code = int(stopped.code or 0)
    assert code == 0 and (len(argv) == 1 or "--help" in argv), f"{page}: `{line}` was not parsed by tyro (exit code {code})"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{name_of(path)} links to {target}, which does not exist"


def test_pages_show_no_machine_paths():
    for path in PAGES:
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8")), name_of(path)


def test_every_ready_method_is_in_the_navigation():
    from surefoot.catalog import ROWS

    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [row.slug for row in ROWS if row.status == "ready" and f"methods/{row.slug}.md" not in nav] == []


@pytest.mark.parametrize(("script", "size"), [("own_data", "20"), ("open_loop", "20"), ("certify_sb3", "20")])
def test_examples_run(script, size, tmp_path):
    path = ROOT / "examples" / f"{script}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, path, size], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
