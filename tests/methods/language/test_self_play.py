"""Rounds of self-play on a tiny GPT: what a batch holds, that a round is the policy's own, and that a resume is the uninterrupted run."""

import pytest
import torch

from surefoot.data.completions import micro_batches
from surefoot.envs.text_preferences import BradleyTerry
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.inpo import INPO, INPOConfig
from surefoot.methods.language.pairwise import Pairwise, PairwiseConfig
from surefoot.methods.language.self_play import Passes, SelfPlay, SelfPlaySettings
from surefoot.policies.language import LanguagePolicy, LoraOptions, Reference, completion_logprobs
from surefoot.training.fit import fit
from surefoot.training.run import Run
from tests.tiny_language import EOS, saved_model, some_prompts, tiny_policy

SMALL = {"rounds": 2, "prompts": 4, "batch": 2, "epochs": 2, "max_new_tokens": 5, "prompts_at_once": 3, "max_tokens": 40}


def words(prompts, completions):
    """A reward: how many words a completion has that its prompt lacks."""
    return [float(len(set(c.split()) - set(p.split()))) for p, c in zip(prompts, completions, strict=True)]


def first_word(prompts, first, second):
    """A preference that goes in circles: w0 before w1 before w2 … before w19 before w0, by the first word."""

    def place(text):
        return int(text.split()[0][1:]) if text.split() else 0

    def ahead(a, b):
        steps = (place(b) - place(a)) % 20
        return 0.5 if steps in (0, 10) else 0.9 if steps < 10 else 0.1

    return [ahead(a, b) for a, b in zip(first, second, strict=True)]


def play(policy, preference=first_word, **changes):
    return SelfPlay(policy, some_prompts(), preference, SelfPlaySettings(**SMALL | changes), seed=3)


def learner(policy, source, lr=5e-2):
    return INPO(policy, INPOConfig(eta=0.3, tau=0.1), Tuning(lr=lr, warmup=0.0), source.updates)


def test_a_batch_holds_what_reference_and_current_policy_think_of_it():
    policy = tiny_policy()
    source = play(policy)
    method = learner(policy, source)
    frozen = Reference(policy)
    for _ in range(source.updates_a_round):
        batch = next(source)
        assert batch.round == 1 and len(batch) == 2 and batch.chosen.prompts == batch.rejected.prompts
        torch.testing.assert_close(batch.cur_chosen, batch.ref_chosen, rtol=0.0, atol=0.0)  # pi_1 is the reference
        method.update(batch)
    batch = next(source)  # the next round's, drawn by what has been learned
    assert batch.round == 2
    whole = source.pairs
    for side, cur, ref in ((whole.chosen, whole.cur_chosen, whole.ref_chosen), (whole.rejected, whole.cur_rejected, whole.ref_rejected)):
        torch.testing.assert_close(cur, completion_logprobs(policy, side, max_tokens=40), rtol=0.0, atol=1e-5)
        torch.testing.assert_close(ref, frozen.logprobs(side, max_tokens=40), rtol=0.0, atol=1e-5)
        assert (cur - ref).abs().max() > 1e-2
    part = whole.select([2, 0])
    assert part.round == 2 and torch.equal(part.cur_rejected, whole.cur_rejected[[2, 0]])


def test_every_prompt_once_a_round_and_every_pair_once_an_epoch():
    source = play(tiny_policy(), batch=4, epochs=3)
    assert (source.updates_a_round, source.updates) == (3, 6)
    seen = list(source)
    assert len(seen) == 6 and [batch.round for batch in seen] == [1, 1, 1, 2, 2, 2]
    for batch in seen:
        assert sorted(batch.chosen.prompts) == sorted(some_prompts())
    with pytest.raises(StopIteration):
        next(source)


def test_labels_are_drawn_with_their_probability():
    policy, n = tiny_policy(), 2000
    settings = SelfPlaySettings(prompts=n, prompts_at_once=n, max_new_tokens=1, max_tokens=10**6)
    source = SelfPlay(policy, [[1]] * n, lambda p, a, b: [0.8] * len(p), settings)
    next(source)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    drawn = policy.sample([[1]] * n, 2, max_new_tokens=1, generator=torch.Generator().manual_seed(seed)).completions  # the same again
    apart = [i for i in range(n) if drawn[2 * i] != drawn[2 * i + 1]]
    firsts = sum(source.pairs.chosen.completions[i] == drawn[2 * i] for i in apart)
    assert len(apart) > n // 2 and abs(firsts / len(apart) - 0.8) < 4.0 * (0.16 / len(apart)) ** 0.5
    assert source.comparisons == n


def test_best_and_worst_of_a_reward():
    source = play(tiny_policy(), BradleyTerry(words), selection="best_worst", candidates=6)
    next(source)
    texts = [source.texts[i] for prompt in source.pairs.chosen.prompts for i in [source.prompts.index(prompt)]]
    policy = source.policy
    best, worst = (torch.tensor(words(texts, policy.decode(side))) for side in (source.pairs.chosen, source.pairs.rejected))
    assert (best >= worst).all() and (best > worst).any() and source.comparisons == 24


def test_a_tournament_and_what_it_drops():
    source = play(tiny_policy(), selection="tournament", candidates=8)
    batch = next(source)
    assert source.comparisons == 4 * 11 and 1 <= len(source.pairs) <= 4
    assert len(batch) == min(2, len(source.pairs))
    best, worst = (source.policy.decode(side) for side in (source.pairs.chosen, source.pairs.rejected))
    assert min(first_word([""] * len(best), best, worst)) >= 0.5


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_restored_source_gives_the_same_batches(stop):
    """In the middle of a round, at its end (the next round has still to be played), and in the second one."""

    def both(policy):
        source = play(policy)
        return source, learner(policy, source)

    source, method = both(tiny_policy())
    for _ in range(stop):
        method.update(next(source))
    state, learned = source.state_dict(), {k: v.clone() for k, v in method.state_dict().items()}
    wanted = [method.update(batch) for batch in source]
    again, method = both(tiny_policy())
    method.load_state_dict(learned)
    again.load_state_dict(state)
    found = [method.update(batch) for batch in again]
    assert len(found) == len(wanted) > 0
    assert all(float(a[name]) == float(b[name]) for a, b in zip(found, wanted, strict=True) for name in a)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path):
    weights = []
    for stops in ((8,), (3, 8)):
        run = Run.create(tmp_path / str(len(stops)), {})
        for steps in stops:  # each time from the beginning, as another process would
            policy = tiny_policy()
            source = play(policy)
            method = learner(policy, source)
            fit(method, source, steps, run=run, log_every=1, checkpoint_every=3, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(*weights)


def test_an_adapter_is_its_own_reference(tmp_path):
    policy = LanguagePolicy.load(saved_model(tmp_path / "model", "llama"), lora=LoraOptions(rank=2))
    source = play(policy, rounds=2)
    method = learner(policy, source)
    first = method.update(next(source))
    assert float(first["chosen"]) == pytest.approx(0.0, abs=1e-5)
    for batch in source:
        last = method.update(batch)
    assert batch.round == 2 and abs(float(last["chosen"])) > 1e-3
    with policy.reference():
        torch.testing.assert_close(source.pairs.ref_chosen, completion_logprobs(policy, source.pairs.chosen, max_tokens=40))


def test_other_learners_play_too():
    """Online DPO: its log-ratios are against the reference, round after round."""
    policy = tiny_policy()
    source = play(policy)
    method = Pairwise(policy, PairwiseConfig(beta=0.5), Tuning(lr=1e-2, warmup=0.0), source.updates)
    metrics = [method.update(batch) for batch in source]
    assert float(metrics[0]["margin"]) == pytest.approx(0.0, abs=1e-5) and float(metrics[-1]["margin"]) != 0.0
    assert source.metrics()["train/round"] == 2.0 and source.metrics()["train/pairs"] == 4.0


def test_processes_share_the_drawing(monkeypatch):
    """Two processes, played one after the other: each draws half of the prompts, and both end with all pairs."""
    import accelerate.utils

    class Processes:
        num_processes, process_index = 2, 0

    sent = []
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda own: sent.extend(own) or list(sent))
    found = []
    for index in range(2):
        source = play(tiny_policy())
        source.accelerator = Processes()
        source.accelerator.process_index = index
        next(source)
        found.append(source.pairs)
    assert [len(pairs) for pairs in found] == [2, 4] and [asked for _, asked in sent] == [2, 2]
    assert sorted(found[1].chosen.prompts) == sorted(some_prompts()) and source.comparisons == 4
    assert torch.equal(found[1].cur_chosen[:2], found[0].cur_chosen)


def test_passes_go_through_all_rows_before_any_comes_again():
    order = Passes(5, torch.Generator().manual_seed(0))
    rows = [row for _ in range(7) for row in order.take(3)]
    assert all(sorted(rows[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    again = Passes(5, torch.Generator().manual_seed(1))
    again.load_state_dict(order.state_dict())
    assert again.take(9) == order.take(9)


def test_completions_end_and_prompts_of_like_length_are_drawn_together():
    source = play(tiny_policy(), prompts_at_once=1)
    next(source)
    lengths = [len(p) for p in source.pairs.chosen.prompts]
    assert lengths == sorted(lengths)
    assert all(c[-1] == EOS or len(c) == 5 for c in source.pairs.chosen.completions)
    assert len(micro_batches(source.pairs.lengths, 40)) >= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds is 0: it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0 and top_p 1.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"selection": "tournament", "candidates": 6}, "candidates is 6: a tournament needs a power of two"),
        ({"selection": "best_worst", "candidates": 1}, "candidates is 1: the best and the worst"),
        ({"selection": "best_worst"}, r"best_worst picks by a reward: give one .*, or select by tournament"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        play(tiny_policy(), **changes)


def test_data_that_cannot_be():
    policy = tiny_policy()
    with pytest.raises(DataError, match="there are no prompts"):
        SelfPlay(policy, [], first_word)
    with pytest.raises(DataError, match="2 texts for 1 prompts"):
        SelfPlay(policy, [[1]], first_word, texts=["a", "b"])
    with pytest.raises(DataError, match=r"gave 2\.0 for pair 0 of 3"):
        next(play(policy, lambda p, a, b: [2.0] * len(p)))
    with pytest.raises(DataError, match="gave nan for completion 0 of"):
        next(play(policy, BradleyTerry(lambda p, c: [float("nan")] * len(c)), selection="best_worst"))
    with pytest.raises(DataError, match="round 1 left no pair of 4 prompts"):
        next(play(policy, lambda p, a, b: [0.4] * len(p), selection="tournament", candidates=4))
