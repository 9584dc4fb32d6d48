"""What the benchmarks stand on: products that are all noted, results that render, a command that parses. No timings."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import NAMES, PICTURES, main
from benchmarks.measuring import machine, write
from benchmarks.products import Products
from surefoot.claims import tables
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend


def test_products_of_an_update_are_noted_with_their_layout():
    critic = Critic(4, (8, 8), n=1)
    optimiser, x = adam(critic.parameters(), 1e-3), torch.randn(16, 4)
    with Products() as products:
        descend(critic(x).square().mean(), optimiser)
    # forward 4-8, 8-8, 8-1; backward each weight, and each input but the first
    assert len(products.calls) == 3 + 3 + 2
    assert products.flops == 2 * 16 * (3 * 8 * 8 - 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8)
    assert any(not operand.is_contiguous() for _, operands in products.calls for operand in operands)
    products.replay()()


def test_results_are_written_as_the_tables_read_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    path = write("speed", [{"method": "a", "surefoot": 123.456789012}], tmp_path / "benchmarks" / "results")
    assert json.loads(path.read_text())["rows"][0]["surefoot"] == 123.457
    assert "| method | surefoot |" in tables.benchmark_table("speed")
    assert machine().startswith("one thread of ")


def test_unknown_benchmarks_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "none"])
    shown = capsys.readouterr().err
    assert all(name in shown for name in NAMES)


def test_every_table_of_the_page_has_a_benchmark():
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()
    assert [name for name in NAMES if name not in PICTURES and f"<!-- table: benchmark {name} -->" not in page] == []
