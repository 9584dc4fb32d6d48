"""The world of programs as files."""

import json

import pytest

from surefoot.errors import ConfigError
from surefoot.policies.language import LanguagePolicy
from surefoot.recipes.programs import make_programs

SIZES = {"prompts": 12, "held_out": 5, "scored": 20, "pairs": 9, "steps": 2}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_world_is_whole_and_a_function_of_its_seed(tmp_path):
    facts = make_programs(tmp_path / "a", 3, **SIZES)
    make_programs(tmp_path / "b", 3, **SIZES)
    assert facts["seed"] == 3 and facts["prompts"] == 12 and facts["loss a token"] > 0.0
    a = tmp_path / "a"
    for name, n in (("prompts", 12), ("held_out", 5), ("scored", 20), ("prefs", 9)):
        file = a / f"{name}.jsonl"
        assert len(rows(file)) == n and file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert (a / "model" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model" / "model.safetensors").read_bytes()
    prompts = [row["prompt"] for row in rows(a / "prompts.jsonl")]
    assert len({*prompts, *(row["prompt"] for row in rows(a / "held_out.jsonl"))}) == 17
    assert {row["prompt"] for row in rows(a / "scored.jsonl") + rows(a / "prefs.jsonl")} <= set(prompts)
    assert all(row["chosen"] != row["rejected"] for row in rows(a / "prefs.jsonl"))
    assert all(0.0 <= row["score"] <= 1.0 for row in rows(a / "scored.jsonl"))
    policy = LanguagePolicy.load(a / "model")
    longest = max(policy.tokenizer(f"{row['prompt']} {row['chosen']}")["input_ids"] for row in rows(a / "prefs.jsonl"))
    assert policy.tokenizer.unk_token_id not in longest


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        make_programs(tmp_path)
    with pytest.raises(ConfigError, match="numbers are at least 1"):
        make_programs(tmp_path / "new", prompts=0)
    assert not (tmp_path / "new").exists()
