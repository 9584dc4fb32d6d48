"""Our own reward model: Bradley and Terry's loss, where it is read, what is saved, and that flips do not mislead its robust form."""

import numpy as np
import pytest
import torch

from surefoot.data.completions import Completions, PairBatch
from surefoot.data.tokenising import tokenised
from surefoot.envs.text_rewards import ClassifierOptions, load_reward
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.pair_source import PairSource
from surefoot.methods.language.reward_model import RewardModel, RewardModelConfig, ScoringModel, bradley_terry, padding_token, texts_of
from tests.tiny_language import EOS, PAD, UNK, VOCABULARY, WORDS, saved_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A language model's folder."""
    return saved_model(tmp_path_factory.mktemp("base"))


def worth(completions: Completions) -> torch.Tensor:
    """The judge: how far the mean number of the words lies above the middle, in units of half the vocabulary."""
    means = [sum(words[:-1]) / (len(words) - 1) for words in completions.completions]
    return torch.tensor(means) / (WORDS / 2) - 1.0


def judged(n: int, flips: float = 0.0, seed: int = 0, sharpness: float = 8.0) -> PairBatch:
    """Pairs of three words after a prompt of one, labelled by Bradley and Terry's law, of which a share is then swapped."""
    rng = np.random.default_rng(seed)
    prompts = [[int(w)] for w in rng.integers(WORDS, size=n)]
    a, b = (Completions(prompts, [[*map(int, words), EOS] for words in rng.integers(WORDS, size=(n, 3))]) for _ in range(2))
    lead = sharpness * (worth(a) - worth(b)).numpy()
    first = (rng.random(n) < 0.5 + 0.5 * np.tanh(0.5 * lead)) ^ (rng.random(n) < flips)
    pick = lambda x, y: Completions(prompts, [p if f else q for p, q, f in zip(x.completions, y.completions, first, strict=True)])  # noqa: E731
    return PairBatch(pick(a, b), pick(b, a), torch.zeros(n), torch.zeros(n))


def fitted(base, flip_rate: float, flips: float, steps: int = 60) -> ScoringModel:
    """One epoch of 6,000 pairs, of which the share `flips` is swapped and `flip_rate` assumed to be."""
    model = ScoringModel.load(base)
    learner = RewardModel(model, RewardModelConfig(flip_rate=flip_rate), Tuning(lr=1e-2, warmup=0.05), steps)
    data = judged(6000, flips)
    source = PairSource(data.chosen, data.rejected, data.ref_chosen, data.ref_rejected, 100)
    for _ in range(steps):
        learner.update(next(source))
    return model


def slope(model: ScoringModel) -> float:
    """How much the learned reward grows with the judge's, on new completions: 8 is the truth."""
    fresh = judged(300, seed=9).chosen
    return float(np.polyfit(worth(fresh).numpy(), model.scores(fresh).numpy(), 1)[0])


def test_the_loss():
    winners, losers = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 0.0, 0.5])
    torch.testing.assert_close(bradley_terry(winners, losers), -(winners - losers).sigmoid().log())
    mixed = 0.7 * bradley_terry(winners, losers, 0.3) + 0.3 * bradley_terry(losers, winners, 0.3)
    torch.testing.assert_close(mixed, bradley_terry(winners, losers))  # unbiased over flips
    torch.testing.assert_close(bradley_terry(winners + 5.0, losers + 5.0, 0.2), bradley_terry(winners, losers, 0.2))


def test_it_is_trls_loss(base):
    """TRL's RewardTrainer: -logsigmoid of the difference of the two logits, averaged."""
    trl = pytest.importorskip("trl")
    source = pytest.importorskip("inspect").getsource(trl.RewardTrainer.compute_loss)
    assert "logsigmoid(rewards_chosen - rewards_rejected)" in source.replace("\n", "")
    x = torch.randn(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bradley_terry(x, 0 * x).mean(), -torch.nn.functional.logsigmoid(x).mean())


def test_it_learns_what_was_preferred_and_the_robust_form_is_not_misled(base):
    """With 30 % of the labels swapped the plain loss (the correction off) shrinks rewards to a fifth; the robust one recovers half."""
    clean, plain, robust = (slope(fitted(base, *rates)) for rates in ((0.0, 0.0), (0.0, 0.3), (0.3, 0.3)))
    assert 4.0 < clean < 12.0  # the judge's is 8
    assert plain < 0.3 * clean and robust > 0.38 * clean, (clean, plain, robust)


def test_it_agrees_with_the_judge_on_new_pairs(base):
    model, held_out = fitted(base, 0.0, 0.0), judged(400, seed=5, sharpness=1e6)
    assert (model.scores(held_out.chosen) > model.scores(held_out.rejected)).float().mean() > 0.92


@pytest.mark.parametrize("tokens", [8, 10_000])
def test_an_update_is_the_mean_over_pairs(base, tokens):
    model, batch = ScoringModel.load(base), judged(10)
    winners, losers = (model(texts_of(x)).detach() for x in (batch.chosen, batch.rejected))
    learner = RewardModel(model, RewardModelConfig(), Tuning(lr=1e-9, micro_tokens=tokens), 1)
    seen = learner.update(batch)
    assert seen["loss"].item() == pytest.approx(bradley_terry(winners, losers).mean().item(), rel=1e-4)
    assert seen["margin"].item() == pytest.approx((winners - losers).mean().item(), abs=1e-5)
    assert seen["accuracy"].item() == pytest.approx((winners > losers).float().mean().item())
    assert seen["chosen"].item() == pytest.approx(winners.mean().item(), abs=1e-5)


def test_it_reads_the_last_token(base):
    """The score of a text is its head on the last state, whatever is beside it in the batch."""
    model = ScoringModel.load(base)
    rows = [[1, 2, EOS], [3, EOS], [4, 5, 6, 7, EOS]]
    states = [model.model.base_model(input_ids=torch.tensor([ids]))[0][0, -1] for ids in rows]
    torch.testing.assert_close(model(rows), torch.stack([model.model.score(state)[0] for state in states]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "pad"),
    [({}, PAD), ({"pad_token": "<eos>"}, UNK), ({"pad_token": None, "unk_token": None, "bos_token": None}, VOCABULARY - 1)],
)
def test_padding_never_hides_the_end(base, changes, pad):
    """transformers takes the last token that is not padding for the last: an end token that pads would be skipped."""
    tokenizer = tiny_tokenizer(**changes)
    own = ScoringModel.load(base)
    assert padding_token(tokenizer, own.model) == pad
    model = ScoringModel(own.model, tokenizer)
    assert model.model.config.pad_token_id == pad == model.tokenizer.pad_token_id
    ended, cut = model([[1, 2, EOS]]), model([[1, 2]])
    torch.testing.assert_close(model([[1, 2, EOS], [3] * 9, [1, 2]])[[0, 2]], torch.cat([ended, cut]), atol=1e-6, rtol=1e-5)
    assert (ended - cut).abs() > 1e-6


def test_what_is_saved_is_an_ordinary_classifier_and_our_reward(base, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = fitted(base, 0.0, 0.0, steps=5)
    prompts, answers = ["w1", "w2 w3", "w4"], ["w5 w6", "w7", "w8 w9 w10"]
    texts = tokenised(model.tokenizer, prompts, answers)
    model.centre(texts)
    expected = model.scores(texts)
    assert expected.mean().item() == pytest.approx(0.0, abs=1e-6) and model.bias != 0.0
    model.save(tmp_path / "reward")
    torch.testing.assert_close(load_reward(str(tmp_path / "reward"))(prompts, answers), expected, atol=1e-6, rtol=1e-5)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    inputs = tokenizer([f"{p} {a} <eos>" for p, a in zip(prompts, answers, strict=True)], return_tensors="pt", padding=True)
    torch.testing.assert_close(theirs(**inputs).logits[:, 0].detach() - model.bias, expected, atol=1e-6, rtol=1e-5)
    again = ScoringModel.load(tmp_path / "reward")
    torch.testing.assert_close(again.scores(texts), expected, atol=1e-6, rtol=1e-5)
    text = load_reward(str(tmp_path / "reward"), ClassifierOptions(form="text"))  # without the end token: another text
    assert not torch.allclose(text(["w1 "], ["w5 w6"]), expected[:1], atol=1e-6)


def test_it_is_centred_when_it_is_finished(base):
    model, data = ScoringModel.load(base), judged(30)
    learner = RewardModel(model, RewardModelConfig(), Tuning(lr=1e-2), 1, centre_on=data.chosen)
    learner.update(data)
    learner.finish()
    assert model.scores(data.chosen).mean().item() == pytest.approx(0.0, abs=1e-6) and model.scores(data.rejected).mean().abs() > 1e-6
    plain = RewardModel(ScoringModel.load(base), RewardModelConfig(), Tuning(), 1)
    plain.finish()
    assert plain.policy.bias == 0.0


def test_a_critic_can_begin_with_it(base, tmp_path):
    from surefoot.policies.language import LanguagePolicy
    from surefoot.policies.token_values import TokenValues

    fitted(base, 0.0, 0.0, steps=1).save(tmp_path / "reward")
    assert TokenValues.load(tmp_path / "reward", LanguagePolicy.load(base)).score.weight.abs().max() > 0


def test_the_head_is_drawn_from_the_seed(base):
    state = torch.random.get_rng_state()
    heads = [ScoringModel.load(base, seed=seed).model.score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_resumed_run_equals_the_uninterrupted_one(base):
    def learner():
        data = judged(64)
        model = RewardModel(ScoringModel.load(base), RewardModelConfig(flip_rate=0.1), Tuning(lr=1e-3), 6)
        return model, PairSource(data.chosen, data.rejected, data.ref_chosen, data.ref_rejected, 16)

    whole, source = learner()
    for _ in range(3):
        whole.update(next(source))
    saved = {name: x.clone() for name, x in whole.state_dict().items()}, source.state_dict()
    again, other = learner()
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for learner_, rows in ((whole, source), (again, other)):
        for _ in range(3):
            learner_.update(next(rows))
    for a, b in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_mistakes_are_named(base, tmp_path):
    for rate in (0.5, -0.1):
        with pytest.raises(ConfigError, match=f"flip_rate is {rate}: it must be at least 0 and below 0.5"):
            RewardModelConfig(flip_rate=rate)
    with pytest.raises(PolicyError, match="nothing cannot become a reward model"):
        ScoringModel.load(tmp_path / "nothing")
    with pytest.raises(DataError, match="is centred on completions, but there are none"):
        ScoringModel.load(base).centre(Completions([], []))
