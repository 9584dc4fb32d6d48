"""`surefoot compare` of language models: which are compared with what, what is kept and shown, misuse in a sentence."""

import json

import pytest

from surefoot.cli import main
from surefoot.cli.compare_language import Task, chosen
from surefoot.cli.language_subjects import is_language, language_subject
from tests.tiny_language import saved_model, tiny_policy

REWARD = """
def score(prompts, completions):
    return [float(completion.split().count("w1")) for completion in completions]

def broken(prompts, completions):
    return [float("nan")] * len(completions)
"""
ASK = ["--prompts", "prompts.jsonl", "--max-new-tokens", "6", "--samples", "2"]
RUN = {
    "method": "rdpo",
    "model": "base",
    "reference": None,
    "reward": "score.py:score",
    "data": "prefs.jsonl",
    "seed": 0,
    "command": "surefoot align rdpo",
    "settings": {"Reward": {"reward": "score.py:score", "reward_label": None, "allow_code_execution": True}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models, one of them the policy of a run."""
    place = tmp_path_factory.mktemp("models")
    saved_model(place / "base", seed=0)
    saved_model(place / "other", seed=1)
    (place / "run").mkdir()
    (place / "empty").mkdir()
    saved_model(place / "run" / "policy", seed=2)
    (place / "run" / "config.json").write_text(json.dumps(RUN))
    (place / "run" / "result.json").write_text(json.dumps({"steps": 10}))
    (place / "score.py").write_text(REWARD)
    prompts = ["w1 w2", "w3", "w4 w5", "w3", "w6"]
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return place


@pytest.fixture(autouse=True)
def workplace(models, monkeypatch):
    monkeypatch.chdir(models)
    monkeypatch.setenv("COLUMNS", "200")


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["compare", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_is_compared_with_what_it_began_from(capsys, models):
    code, out, err = call(capsys, "run", *ASK, "--json", "--out", "page.html")
    assert code == 0
    found = json.loads(out)
    assert [model["name"] for model in found["models"]] == ["base", "run"] and found["base"] == found["reference"] == "base"
    assert found["prompts"] == 4 and found["samples"] == 2  # each different prompt once
    base, own = found["models"]
    assert (base["wins"], base["gain"], base["kl"]["value"]) == (None, None, 0.0)
    assert own["kl"]["value"] != 0.0 and own["kl_error"] > 0.0 and own["run"] == "run" and 0.0 <= own["wins"]["value"] <= 1.0
    assert [len(row["answers"]) for row in found["answers"]] == [2] * 4
    for answer in (answer for row in found["answers"] for answer in row["answers"]):
        assert answer["reward"] == answer["text"].split().count("w1")
    for words in ("4 prompts, 2 answers each; base base, KL to base", "kept    run/evidence/aligned.json", "page    page.html"):
        assert words in err
    assert json.loads((models / "run" / "evidence" / "aligned.json").read_text()) == found
    page = (models / "page.html").read_text()
    for words in ("Reward over KL", "Wins against", "Answers side by side", found["command"].split(" --")[0], "w4 w5"):
        assert words in page
    assert "Loading weights" not in err


def test_what_was_found_is_in_the_report_of_the_run(capsys, models):
    (models / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1.0, "eval/kl": 0.1 * i, "eval/reward": 0.2 * i}) + "\n" for i in range(1, 4))
    )
    assert call(capsys, "run", "other", *ASK)[0] == 0
    assert main(["report", "run", "--out", "report.html"]) == 0
    page = (models / "report.html").read_text()
    for words in ("Language models", "Reward over KL", "Wins against", "While training", "surefoot align rdpo", "rDPO</b> earns"):
        assert words in page
    assert "Returns" not in page and "What is missing" not in page and str(models) not in page


def test_the_same_seed_gives_the_same_numbers(capsys):
    first, second = (json.loads(call(capsys, "base", "other", *ASK, "--reward", "score.py:score", "--json")[1]) for _ in range(2))
    assert first == second
    other = json.loads(call(capsys, "base", "other", *ASK, "--reward", "score.py:score", "--json", "--seed", "5")[1])
    assert other["models"] != first["models"]


def test_an_adapter_is_compared_as_its_model(capsys, models):
    peft = pytest.importorskip("peft")
    from surefoot.policies.language import LanguagePolicy

    policy = LanguagePolicy.load("base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", fan_in_fan_out=True, init_lora_weights=False)
    LanguagePolicy(peft.get_peft_model(policy.model, config), policy.tokenizer).save(models / "adapter")
    assert is_language("adapter")
    found = json.loads(call(capsys, "adapter", *ASK, "--base", "base", "--reward", "score.py:score", "--json")[1])
    assert [model["name"] for model in found["models"]] == ["base", "adapter"] and found["models"][1]["kl"]["value"] != 0.0
    (models / "adapter" / "adapter_model.safetensors").rename(models / "adapter" / "adapter_model.bin")
    code, _, err = call(capsys, "adapter", *ASK, "--base", "base", "--reward", "score.py:score")
    assert code == 2 and "the adapter adapter holds no adapter_model.safetensors: save it with save_pretrained" in err


def test_conversations_are_asked_by_the_template(capsys, models):
    policy = tiny_policy()
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    policy.save(models / "chat")
    (models / "chats.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "w1 w2"}]}) + "\n")
    (models / "seen.py").write_text(
        "def score(prompts, completions):\n    assert prompts[0].startswith('[{'), prompts\n    return [0.0] * len(prompts)\n"
    )
    code, out, _ = call(capsys, "chat", "chat/", "--prompts", "chats.jsonl", "--max-new-tokens", "3", "--reward", "seen.py:score", "--json")
    assert code == 0 and json.loads(out)["answers"][0]["prompt"] == '[{"role": "user", "content": "w1 w2"}]'


def test_base_and_reference_by_default():
    def told(*names, **options):
        asked, base, reference = chosen(Task(**options), [language_subject(name) for name in names])
        return [each.name for each in asked], base.name, reference.name

    assert told("run") == (["base", "run"], "base", "base")
    assert told("run", "base") == (["run", "base"], "base", "base")
    assert told("other", "base") == (["other", "base"], "other", "other")
    assert told("run", base="other", reference="base") == (["other", "run"], "other", "base")
    assert language_subject("run/policy").run.name == "run" and language_subject("run").source == "run/policy"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "there is nothing to ask: name held-out prompts"),
        (["other", *ASK, "--reward", "score.py:score"], "other alone was named: a comparison needs two models, or a base"),
        (["base", "other", *ASK], "there is nothing to score answers with: name a reward"),
        (["base", "other", *ASK, "--reward", "score.py:broken"], "gave nan for completion 0 of 8"),
        (["base", "run", "--prompts", "none.jsonl"], "there is no file or folder none.jsonl"),
        (
            ["base", "run", "--prompts", "prompts.jsonl", "--max-new-tokens", "31"],
            "prompts.jsonl, row 0: the prompt has 2 tokens, which leaves",
        ),
        (["base", "run", *ASK, "--temperature", "0"], "temperature is 0.0: it must be positive"),
        (["base", "run", *ASK, "--out", "run"], "run is a folder: name a file to write"),
        (["base", "empty", *ASK, "--reward", "score.py:score"], "empty is no causal language model"),
        ([*ASK], "no model was named"),
    ],
)
def test_misuse_is_said(capsys, arguments, said):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "") and said in err


def test_models_of_another_vocabulary_are_not_compared(capsys, models):
    policy = tiny_policy()
    policy.tokenizer.add_tokens(["w99"])
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    policy.save(models / "larger")
    code, _, err = call(capsys, "base", "larger", *ASK, "--reward", "score.py:score")
    assert code == 2 and "model and reference have different vocabularies" in err


def test_a_card_is_not_for_language_models(capsys):
    assert main(["report", "run", "--card", "--out", "card.html"]) == 2
    assert "run is the run of a language model: a robustness card is about a policy's returns" in capsys.readouterr().err
