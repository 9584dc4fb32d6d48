"""Reference log-probabilities: computed once, found again for the same data and weights only, and never read from a damaged file."""

import copy
import math

import pytest
import torch

from surefoot.data.completions import Completions, micro_batches
from surefoot.methods.language.reference import reference_key, reference_logprobs
from surefoot.policies.language import LanguagePolicy
from tests.tiny_language import WORDS, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def policy(model):
    return LanguagePolicy(model, TOKENIZER)


@pytest.fixture
def completions():
    generator = torch.Generator().manual_seed(0)

    def ids(n):
        return torch.randint(WORDS, (n,), generator=generator).tolist()

    return Completions([ids(1 + i % 4) for i in range(9)], [ids(1 + i) for i in range(9)])


def counted(policy, monkeypatch):
    """How often the policy is asked."""
    asked = []
    own = policy.logprobs
    monkeypatch.setattr(policy, "logprobs", lambda *args: asked.append(len(args[0].tokens)) or own(*args))
    return asked


def test_numbers_are_those_of_each_row_alone(policy, completions):
    found = reference_logprobs(policy, completions, max_tokens=20)
    alone = [policy.logprobs(completions.select([i]).padded(0)) for i in range(len(completions))]
    torch.testing.assert_close(found, torch.cat(alone).detach(), atol=1e-5, rtol=0)
    assert not found.requires_grad and found.dtype == torch.float32 and found.shape == (9,)


def test_the_second_time_they_are_read(policy, completions, monkeypatch, tmp_path):
    asked = counted(policy, monkeypatch)
    first = reference_logprobs(policy, completions, max_tokens=20, cache=tmp_path / "cache")
    assert len(asked) == len(micro_batches(completions.lengths, 20))
    asked.clear()
    assert torch.equal(reference_logprobs(policy, completions, max_tokens=20, cache=tmp_path / "cache"), first)
    assert asked == [] and len(list((tmp_path / "cache").iterdir())) == 1


def test_other_data_or_weights_are_another_file(model, policy, completions):
    key = reference_key(policy, completions)
    assert key == reference_key(LanguagePolicy(model, TOKENIZER), completions)
    rows = list(range(len(completions)))
    moved = Completions(
        [[*p, c[0]] for p, c in zip(completions.prompts, completions.completions, strict=True)], [c[1:] for c in completions.completions]
    )
    other = policy.frozen_copy()
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-3
    keys = [
        reference_key(policy, completions.select(rows[::-1])),
        reference_key(policy, moved),  # the same tokens, parted elsewhere
        reference_key(other, completions),
        reference_key(LanguagePolicy(model, TOKENIZER, precision="bf16"), completions),
    ]
    other = policy.frozen_copy()
    other.model.config.layer_norm_epsilon = 1e-3
    assert len({key, *keys, reference_key(other, completions)}) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "nothing"])
def test_a_damaged_file_is_computed_again(policy, completions, tmp_path, damage):
    first = reference_logprobs(policy, completions, max_tokens=20, cache=tmp_path)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    if damage == "other":
        reference_logprobs(policy, completions.select([0]), max_tokens=20, cache=tmp_path)
        path.write_bytes(next(each for each in tmp_path.iterdir() if each != path).read_bytes())
    else:
        path.write_bytes({"cut": whole[:-5], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "nothing": b""}[damage])
    said: list[str] = []
    again = reference_logprobs(policy, completions, max_tokens=20, cache=tmp_path, say=said.append)
    assert torch.equal(again, first) and path.stat().st_size == len(whole)
    assert len(said) == 1 and "are damaged" in said[0] and str(path) in said[0]
    assert [each for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_an_adapter_that_is_off_is_no_part_of_the_reference(model, completions, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    plain = reference_logprobs(LanguagePolicy(model, TOKENIZER), completions, max_tokens=20, cache=tmp_path)
    keys = set()
    for seed in range(2):
        torch.manual_seed(seed)
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", fan_in_fan_out=True)
        adapted = LanguagePolicy(peft.get_peft_model(copy.deepcopy(model), config), TOKENIZER)
        with torch.no_grad():  # a trained adapter
            for name, p in adapted.model.named_parameters():
                if "lora_B" in name:
                    p.add_(0.1)
        with adapted.reference():
            keys.add(reference_key(adapted, completions))
            asked = counted(adapted, monkeypatch)
            assert torch.equal(reference_logprobs(adapted, completions, max_tokens=20, cache=tmp_path), plain)
            assert asked == []  # the plain model's file is that of the reference, whatever the adapter
        keys.add(reference_key(adapted, completions))
        assert not torch.allclose(reference_logprobs(adapted, completions, max_tokens=20), plain, atol=1e-3)
    assert len(keys) == 3  # without an adapter there is one reference; with it, two policies


class Process:
    """One of several processes as Accelerate would have it; `reduce` adds what the others have told."""

    def __init__(self, index, others):
        self.process_index, self.num_processes, self.others = index, 2, others
        self.is_main_process, self.device = index == 0, "cpu"

    def wait_for_everyone(self):
        pass

    def reduce(self, value, how):
        assert how == "sum"
        self.told = value
        return value + self.others if value.ndim else value * 2  # scalars: the other process has found as much


def test_processes_share_the_rows(policy, completions, tmp_path, monkeypatch):
    alone = reference_logprobs(policy, completions, max_tokens=20)
    second = Process(1, torch.zeros(9))
    reference_logprobs(policy, completions, max_tokens=20, accelerator=second)
    first = Process(0, second.told)
    asked = counted(policy, monkeypatch)
    both = reference_logprobs(policy, completions, max_tokens=20, accelerator=first, cache=tmp_path)
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)
    assert 0 < sum(asked) < len(completions) and math.isclose(float((first.told == 0).sum()), 9 - sum(asked))
    assert len(list(tmp_path.iterdir())) == 1
    reference_logprobs(policy, completions.select([0, 1]), max_tokens=20, accelerator=Process(1, torch.zeros(2)), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # the first process writes
