"""`surefoot align`: every method from its data to a model that transformers loads; stopped and resumed; what is misused is said."""

import json
import random
from shlex import split as words_of

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from surefoot.cli import align_settings, main
from surefoot.methods.language.registry import METHODS
from surefoot.policies.language import LanguagePolicy
from surefoot.training.run import Run
from tests.tiny_language import saved_model, tiny_policy, tiny_tokenizer

torch.set_num_threads(1)

PACE = words_of("--lr 1e-2 --log-every 1 --checkpoint-every 2 --no-progress")
SHORT = words_of("--model m --steps 5 --batch 4 --data")
DRAWN = words_of("--reward rewards.py:score --max-new-tokens 5")
RUNS = {
    "dpo": [*SHORT, "pairs.jsonl"],
    "cdpo": [*SHORT, "pairs.jsonl"],
    "ipo": [*SHORT, "pairs.jsonl", "--reference", "other"],
    "slic": [*SHORT, "pairs.jsonl", "--gradient-checkpointing"],
    "rdpo": [*SHORT, "pairs.jsonl", "--flip-rate", "0.2"],
    "rpo": [*SHORT, "pairs.jsonl", "--given", "scored.jsonl"],
    "sft": [*SHORT, "scored.jsonl"],
    "copg": [*SHORT, "scored.jsonl"],
    "rwr": [*SHORT, "scored.jsonl"],
    "best-of-n": [*SHORT, "scored.jsonl"],
    "inpo": words_of("--model m --data pairs.jsonl --rounds 2 --batch 8 --epochs 1 --eta 0.5") + DRAWN,
    "ppo": words_of("--model m --steps 6 --data pairs.jsonl --prompts 6 --epochs 2") + DRAWN,
    "pf-ppo": words_of("--model m --steps 3 --data pairs.jsonl --prompts 6") + DRAWN,
    "dr-po": words_of("--model m --steps 6 --data pairs.jsonl --prompts 6 --epochs 2") + DRAWN,
    "on-policy-preferences": [*SHORT, "pairs.jsonl", *words_of("--samples 3 --reuse 2 --margin 1"), *DRAWN],
    "reward-model": [*SHORT, "pairs.jsonl"],
}

REWARDS = """
def score(prompts, completions):
    return [completion.count("w1") - completion.count("w2") for completion in completions]

def prefers(prompts, first, second):
    return [float(len(a) <= len(b)) for a, b in zip(first, second)]

def raises(prompts, completions):
    raise KeyError("no such thing")

def nan(prompts, completions):
    return [float("nan")] * len(completions)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A tiny model, another of its vocabulary, and data of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    saved_model(tmp_path / "m", "gpt2")
    saved_model(tmp_path / "other", "llama", seed=1)
    rng = random.Random(0)

    def text(most):
        return " ".join(f"w{rng.randrange(20)}" for _ in range(rng.randint(1, most)))

    pairs = [{"prompt": text(5), "chosen": f" {text(4)} w1", "rejected": f" {text(4)} w2"} for _ in range(20)]
    scored = [{"prompt": p, "completion": f" {text(4)} w1", "score": rng.random()} for p in [text(5) for _ in range(8)] for _ in range(4)]
    write("pairs.jsonl", pairs)
    write("scored.jsonl", scored)
    (tmp_path / "rewards.py").write_text(REWARDS)


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["align", *arguments])
    return code, *capsys.readouterr()


def weights(run):
    return {path.name: load_file(path) for path in sorted((run / "policy").glob("*.safetensors"))}


def same(a, b):
    return a.keys() == b.keys() and all(x.keys() == b[f].keys() and all(torch.equal(x[k], b[f][k]) for k in x) for f, x in a.items())


# --- what comes of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_every_method_leaves_a_whole_run(name, tmp_path, capsys):
    code, out, err = call(capsys, name, *RUNS[name], *PACE, "--out", "run", "--json")
    assert code == 0, err
    result, config = json.loads(out), json.loads((tmp_path / "run" / "config.json").read_text())
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert (config["method"], config["model"], config["command"].split()[:3]) == (name, "m", ["surefoot", "align", name])
    assert config["fingerprint"] and result["metrics"]["loss"] == pytest.approx(result["metrics"]["loss"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == result["steps"] == config["steps"]
    if name != "reward-model":
        before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in ("m", "run/policy"))
        assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)


def test_every_method_has_a_run_here_and_a_line_in_the_help(capsys):
    assert RUNS.keys() == METHODS.keys()
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(f"\n  {name} " in out for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_flags_mean_one_thing_and_settings_survive_json(name):
    asked = align_settings.parse(name, [])
    names = [f for part in (asked.options, asked.config, *asked.groups.values()) for f in flat(vars(part))]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    kept = json.loads(json.dumps({"method": name, **asked.to_json()}))
    assert align_settings.Asked.from_json(kept, "config.json") == asked


def flat(values):
    for name, value in values.items():
        yield from flat(vars(value)) if hasattr(value, "__dataclass_fields__") else [name]


def test_an_adapter_is_saved_alone_or_worked_into_the_weights(tmp_path, capsys):
    both = [*RUNS["dpo"], *PACE, "--lora", "--lora-rank", "2"]
    assert call(capsys, "dpo", *both, "--out", "adapter")[0] == 0
    assert call(capsys, "dpo", *both, "--merge", "--out", "merged")[0] == 0
    assert (tmp_path / "adapter/policy/adapter_config.json").is_file() and not (tmp_path / "merged/policy/adapter_config.json").exists()
    tokens = torch.tensor([[1, 2, 3, 4]])
    logits = [AutoModelForCausalLM.from_pretrained(f"{run}/policy")(tokens).logits for run in ("adapter", "merged")]
    torch.testing.assert_close(*logits)
    assert not torch.allclose(logits[0], AutoModelForCausalLM.from_pretrained("m")(tokens).logits)


def test_an_adapter_can_be_aligned_further(tmp_path, capsys):
    assert call(capsys, "sft", *SHORT, "scored.jsonl", *PACE, "--lora", "--out", "first")[0] == 0
    code, _, err = call(capsys, "dpo", *words_of("--model first/policy --steps 2 --batch 4 --data pairs.jsonl --lora --out second"), *PACE)
    assert code == 0, err


def test_pairs_are_learned_and_the_reference_is_computed_once(tmp_path, capsys, monkeypatch):
    code, out, err = call(capsys, "dpo", *SHORT[:2], *words_of("--steps 30 --batch 8 --data pairs.jsonl --out run --json"), *PACE)
    assert code == 0 and json.loads(out)["metrics"]["accuracy"] == 1.0, err
    kept = list((tmp_path / "cache" / "reference").iterdir())
    monkeypatch.setattr("surefoot.methods.language.reference._computed", None)  # would raise if it were called
    assert call(capsys, "ipo", *RUNS["dpo"], *PACE, "--out", "run2")[0] == 0
    assert list((tmp_path / "cache" / "reference").iterdir()) == kept


def test_a_reward_model_scores_what_the_policy_draws(capsys):
    assert call(capsys, "reward-model", *RUNS["reward-model"], *PACE, "--out", "judge")[0] == 0
    drawn = words_of("--reward judge/policy --max-new-tokens 5")
    code, _, err = call(capsys, "copg", *SHORT, "scored.jsonl", *drawn, "--replay", "0.5", *PACE, "--out", "run")
    assert code == 0, err
    code, _, err = call(capsys, "ppo", *RUNS["ppo"][:-4], *drawn, "--critic", "judge/policy", *PACE, "--out", "run2")
    assert code == 0, err


def test_plain_prompts_are_put_through_the_chat_template(tmp_path, capsys):
    policy = tiny_policy()
    policy.tokenizer.chat_template = (
        "{% for m in messages %}{{ 'w19 ' if m.role == 'user' else '' }}{{ m.content }}{{ ' w18' }}{% endfor %}"
    )
    policy.save(tmp_path / "chat")
    arguments = words_of("--model chat --steps 2 --batch 4 --chat --data")
    code, _, err = call(capsys, "dpo", *arguments, "pairs.jsonl", *PACE, "--out", "run")
    assert code == 0, err
    write("talks.jsonl", [{"prompt": [{"role": "user", "content": "w1"}], "completion": "w2", "score": 1.0}] * 4)
    assert "leave --chat out" in call(capsys, "sft", *arguments, "talks.jsonl", "--out", "run3")[2]
    assert "no chat template" in call(capsys, "sft", *words_of("--model m --steps 2 --batch 4 --data talks.jsonl --out run3"))[2]


# --- stopped ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it, nothing more is saved."""


RESUMED = {
    "dpo": RUNS["dpo"],
    "dpo, lora": [*RUNS["dpo"], "--lora"],
    "rpo": RUNS["rpo"],
    "copg, replayed": [*SHORT, "scored.jsonl", *DRAWN, "--replay", "0.5"],
    "on-policy-preferences": RUNS["on-policy-preferences"],
    "on-policy-preferences, lora": [*RUNS["on-policy-preferences"], "--lora"],
    "inpo": RUNS["inpo"],
    "ppo": RUNS["ppo"],
    "dr-po, lora": [*RUNS["dr-po"], "--lora"],
    "reward-model": RUNS["reward-model"],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_run_goes_on_bit_for_bit(name, tmp_path, capsys, monkeypatch):
    method = name.split(",")[0]
    assert call(capsys, method, *RESUMED[name], *PACE, "--out", "whole")[0] == 0
    learner = METHODS[method].learner
    update = learner.update

    def killed(self, batch):
        if self.steps >= 3:
            raise Killed
        return update(self, batch)

    monkeypatch.setattr(learner, "update", killed)
    with pytest.raises(Killed):
        main(["align", method, *RESUMED[name], *PACE, "--out", "killed"])
    monkeypatch.setattr(learner, "update", update)
    code, out, err = call(capsys, "--resume", "killed", "--json", "--no-progress")
    assert code == 0 and json.loads(out)["warnings"] == [], err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()
    assert call(capsys, "--resume", "killed", "--json")[:2] == (0, out)  # a complete run reports again


def test_stopping_says_how_to_go_on(capsys, monkeypatch):
    learner = METHODS["dpo"].learner
    update = learner.update

    def interrupted(self, batch):
        import signal

        signal.raise_signal(signal.SIGTERM)
        return update(self, batch)

    monkeypatch.setattr(learner, "update", interrupted)
    code, _, err = call(capsys, "dpo", *RUNS["dpo"], *PACE, "--out", "run")
    assert code == 130 and "stopped after step 1; saved: go on with `surefoot align --resume run`." in err
    assert "(surefoot align --resume run)" in call(capsys, "dpo", *RUNS["dpo"], "--out", "run")[2]


def test_a_diverging_run_keeps_the_last_good_checkpoint(tmp_path, capsys, monkeypatch):
    learner = METHODS["dpo"].learner
    logprobs = learner.logprobs
    monkeypatch.setattr(learner, "logprobs", lambda self, c: logprobs(self, c) * (float("nan") if self.steps >= 4 else 1.0))
    code, _, err = call(capsys, "dpo", *RUNS["dpo"], *PACE, "--out", "run")
    assert code == 2 and "training diverged: at step 5" in err and "`surefoot align --resume run --steps 4` makes a policy of it" in err
    assert Run.open("run").load()["method"]["steps"] == 4 and not (tmp_path / "run" / "policy").exists()
    code, out, err = call(capsys, "--resume", "run", "--steps", "4", "--json", "--no-progress")
    assert code == 0 and json.loads(out)["steps"] == 4, err
    assert all(x.isfinite().all() for x in weights(tmp_path / "run")["model.safetensors"].values())
    assert "--steps 3 lies behind it" in call(capsys, "--resume", "run", "--steps", "3")[2]


def test_changed_data_are_not_resumed_with(capsys, monkeypatch):
    learner = METHODS["dpo"].learner
    update = learner.update
    monkeypatch.setattr(learner, "update", lambda self, batch: exec("raise Killed", globals()) if self.steps >= 3 else update(self, batch))
    with pytest.raises(Killed):
        main(["align", "dpo", *RUNS["dpo"], *PACE, "--out", "run"])
    write("pairs.jsonl", [{"prompt": "w1", "chosen": f"w{i}", "rejected": "w4"} for i in range(4)])
    code, _, err = call(capsys, "--resume", "run")
    assert code == 2 and "its fingerprint has changed" in err


# --- misuse -----------------------------------------------------------------------------------------------------------

PAIR = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
LONG = {**PAIR, "prompt": " ".join(["w1"] * 40)}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([PAIR, {**PAIR, "chosen": " "}], "bad.jsonl, line 2: field 'chosen' is an empty completion"),
        ([PAIR, {**PAIR, "chosen": "w3"}], "bad.jsonl, line 2: 'chosen' and 'rejected' are equal ('w3')"),
        ([PAIR, LONG], "bad.jsonl, row 1: prompt and completion have 40 + 2 tokens, more than the 32 of the context"),
        ([{"prompt": "w1", "completion": "w2", "score": 1.0}], "there is no column 'chosen'"),
        ([{"prompt": "w1"}], "there is no column 'chosen'"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(rows, says, tmp_path, capsys):
    write("bad.jsonl", rows)
    code, _, err = call(capsys, "dpo", "--model", "m", "--data", "bad.jsonl", "--batch", "1", "--out", "run")
    assert code == 2 and says in err and err.startswith("surefoot: ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_long_prompts_are_cut_only_if_asked(capsys):
    write("bad.jsonl", [PAIR, LONG])
    code, _, err = call(capsys, "dpo", *words_of("--model m --data bad.jsonl --batch 2 --truncate --out run --no-progress"))
    assert code == 0, err


def test_tokenizers_without_pad_or_end(tmp_path, capsys):
    policy = tiny_policy()
    for name, left_out in (("no-pad", {"pad_token": None}), ("no-end", {"eos_token": None, "pad_token": None})):
        LanguagePolicy(policy.model, tiny_tokenizer(**left_out)).save(tmp_path / name)
    start = words_of("--steps 1 --batch 2 --data pairs.jsonl --no-progress --model")
    assert call(capsys, "dpo", *start, "no-pad", "--out", "a")[0] == 0  # padding is masked
    code, _, err = call(capsys, "dpo", *start, "no-end", "--out", "b")
    assert code == 2 and "the tokenizer has no end token" in err and "(--eos-token)" in err and not (tmp_path / "b").exists()
    assert call(capsys, "dpo", *start, "no-end", "--eos-token", "<eos>", "--out", "b")[0] == 0


def test_other_vocabularies(tmp_path, capsys):
    policy = tiny_policy()
    policy.model.resize_token_embeddings(40)
    policy.save(tmp_path / "larger")
    code, _, err = call(capsys, "dpo", *RUNS["dpo"], "--reference", "larger", "--out", "run")
    assert code == 2 and "model and reference have different vocabularies (the model 24 tokens, the reference 40)" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "on-policy-preferences --samples 2 --batch 4 --max-new-tokens 4 --reward rewards.py:raises",
            "the reward python:rewards.py:raises raises KeyError",
        ),
        (
            "on-policy-preferences --samples 2 --batch 4 --max-new-tokens 4 --reward rewards.py:nan",
            "the reward python:rewards.py:nan gave nan for completion 0",
        ),
        ("on-policy-preferences --samples 2", "learns from rewards: name one (--reward"),
        ("on-policy-preferences --samples 2 --reward rewards.py:none", "has no 'none'"),
        ("on-policy-preferences --samples 2 --reward m", "m has no trained weights for"),
        ("copg --data prompts.jsonl", "holds prompts without scored completions: name a --reward"),
        ("copg --replay 0.5", "--replay is for completions that the policy draws"),
        ("rdpo --flip-rate 0.5", "flip_rate is 0.5: it must be at least 0 and below 0.5"),
        ("rdpo --flip-rate -0.1", "flip_rate is -0.1"),
        ("dpo --model nowhere", "nowhere is no causal language model that transformers can load"),
        ("dpo --model cache-of-nothing", "is no causal language model"),
        ("dpo --batch 100", "batch_size is 100, but the data hold only 20"),
        ("dpo --batch 0", "--batch is 0: it must be at least 1"),
        ("dpo --lr 0", "the learning rate is 0.0"),
        ("dpo --data nowhere.jsonl", "nowhere.jsonl"),
        ("dpo --data m", "m is the folder of a model, not of data"),
        ("dpo --lora --lora-targets q,k", "the model has no layers called q,k"),
        ("dpo --device cuda", "--device is cuda"),
        ("inpo --preference rewards.py:prefers --reward rewards.py:score", "--preference and --reward were both given"),
        ("inpo", "name a --preference, or a --reward"),
        ("ppo --reward tests --prompts 4", "--allow-code-execution"),
        ("dop", "unknown method 'dop': did you mean 'dpo'"),
    ],
)
def test_misuse(arguments, says, tmp_path, capsys):
    (tmp_path / "cache-of-nothing").mkdir()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w1"}\n')
    if "--device cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    name, *rest = words_of(arguments)
    data = "scored.jsonl" if name == "copg" else "pairs.jsonl"
    code, out, err = call(capsys, name, "--model", "m", "--data", data, "--out", "run", "--no-progress", *rest)
    lines = [line for line in err.splitlines() if " · " not in line]  # what is about to happen may be told before
    assert code == 2 and out == "" and says in err and len(lines) == 1 and lines[0].startswith("surefoot: "), err
    assert not (tmp_path / "run").exists()


def test_without_the_extra(capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = call(capsys, "dpo", *RUNS["dpo"], "--out", "run")
    assert (
        code == 2 and err == "surefoot: this needs the package 'transformers', which is not installed: pip install 'surefoot[language]'.\n"
    )


def test_a_run_of_another_kind_is_not_resumed(tmp_path, capsys):
    Run.create(tmp_path / "log", {"method": "bc", "command": "surefoot train bc"}).close()
    assert "is no run of `surefoot align`: go on with `surefoot train --resume log`" in call(capsys, "--resume", "log")[2]
    assert call(capsys, "dpo", *RUNS["dpo"], *PACE, "--out", "run")[0] == 0
    assert "run is a run of dpo, not of ipo" in call(capsys, "ipo", "--resume", "run")[2]
